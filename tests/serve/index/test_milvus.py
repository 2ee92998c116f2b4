"""The index in Milvus: the same answers as FAISS, whatever happens to the collection. $MILVUS_URI names a server to
use; otherwise milvus-lite runs in this process."""

import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve.catalog.catalog import Catalog, Kind
from serve.client.client import Client
from serve.config import IndexConfig, Limit, Retention
from serve.errors import IndexUnavailable, ServerFailed, SettingsError
from serve.index import open_index
from serve.index.faiss_index import VectorIndex
from serve.index.milvus_index import MilvusIndex
from serve.indexing import pipeline
from serve.live.live_rows import LiveRows
from serve.search.library import Library
from serve.settings import Settings
from serve.values import Query
from support.fakes import SilentProgress, use_fakes, write_scenes
from support.marks import is_required
from support.random_streams import Streams, check_index
from support.running import running
from support.sample_catalog import FINGERPRINT, MEDIA, SPACE, WIDTH, new_video, put_vectors, segment
from support.sample_live import STARTED, live_segment
from support.sample_vectors import QUERIES, check_equal, fill, random_vectors
from support.waiting import HANG_SECONDS, wait_until

pytestmark = pytest.mark.slow  # milvus-lite takes its time

Opened = Callable[..., MilvusIndex]


@pytest.fixture(scope="session")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where Milvus is. Tests share it: their catalogs, and so their collections, have names of their own."""
    if os.environ.get("MILVUS_URI"):
        yield os.environ["MILVUS_URI"]
        return
    try:
        import pymilvus  # noqa: F401
        from milvus_lite.adapter.grpc.server import start_server_in_thread
    except ImportError as error:
        reason = f"{error.name} is not installed: pip install -e '.[milvus]'"
        if is_required("milvus"):
            pytest.fail(reason)
        pytest.skip(reason)
    server, database, port = start_server_in_thread(str(tmp_path_factory.mktemp("milvus")), host="127.0.0.1", port=0)
    yield f"http://127.0.0.1:{port}"
    server.stop(grace=0).wait()
    database.close()


@pytest.fixture
def opened(uri: str) -> Iterator[Opened]:
    """Makes indexes, and closes them after the test."""
    made: list[MilvusIndex] = []

    def open_one(
        kind: Kind = "segments",
        fingerprint: str = FINGERPRINT,
        at: str = uri,
        seconds: float = HANG_SECONDS,
        **sizes: int,
    ) -> MilvusIndex:
        made.append(MilvusIndex(kind, fingerprint, IndexConfig(milvus_uri=at, milvus_timeout_seconds=seconds), **sizes))
        return made[-1]

    yield open_one
    for index in made:
        index.close()


def check_like_faiss(index: MilvusIndex, catalog: Catalog, rows: list[int] | None = None, k: int = 12) -> None:
    """Compare answers with those of FAISS, and of brute force."""
    index.refresh(catalog)
    check_equal(index, catalog, k=k, rows=rows)
    faiss = VectorIndex(catalog.directory, index.kind, index.fingerprint)
    faiss.refresh(catalog)
    (ids, scores), (their_ids, their_scores) = (each.search(QUERIES, k, rows=rows) for each in (index, faiss))
    assert np.array_equal(ids, their_ids)
    assert np.allclose(scores, their_scores, atol=5e-4)  # as in check_equal()


def client_of(index: MilvusIndex) -> Any:
    assert index._connection._client is not None
    return index._connection._client


# ---- the same as FAISS


@pytest.mark.parametrize("videos", [1, 30])
def test_finds_what_faiss_finds(catalog: Catalog, opened: Opened, videos: int) -> None:
    rows, index = fill(catalog, videos), opened()
    check_like_faiss(index, catalog)
    assert len(index) == 10 * videos
    check_like_faiss(index, catalog, k=500)
    for chosen in (rows[:1], rows[1:], rows[::3], [], [999], [*rows, 999]):
        check_like_faiss(index, catalog, rows=chosen)


def test_an_empty_library_answers_that_there_is_nothing(catalog: Catalog, opened: Opened) -> None:
    index = opened()
    index.refresh(catalog)
    ids, scores = index.search(QUERIES, 3)
    assert (ids == -1).all()
    assert np.isneginf(scores).all()
    assert len(index) == 0


def test_many_videos_and_ids_are_named_in_several_expressions(catalog: Catalog, opened: Opened) -> None:
    rows, index = fill(catalog, 20), opened(filter_count=3)
    for chosen in (rows[:11], rows[2:], rows[8:], [np.int64(row) for row in rows[:5]]):
        check_like_faiss(index, catalog, rows=chosen)
    for n in range(7):
        catalog.delete(f"video{n}")
    check_like_faiss(index, catalog, rows=rows[:11])
    assert len(index) == 130


def test_many_rows_are_added_in_several_upserts(catalog: Catalog, opened: Opened) -> None:
    fill(catalog, 3)
    check_like_faiss(opened(upsert_bytes=7 * 4 * WIDTH), catalog)


@pytest.mark.parametrize("steps", [12, 60])
def test_follows_the_catalog_through_new_replaced_and_deleted_videos(
    catalog: Catalog, opened: Opened, steps: int
) -> None:
    index, choice = opened(), np.random.default_rng(7)
    for step in range(steps):
        video = f"video{choice.integers(12)}"
        if catalog.videos(video_ids=[video]) and choice.random() < 0.4:
            catalog.delete(video)
        else:
            put_vectors(catalog, video, random_vectors(int(choice.integers(1, 30)), step))
        if step % 3 == 0:  # several changes at once
            check_like_faiss(index, catalog)
    check_like_faiss(opened(), catalog)


@pytest.mark.parametrize("seed", range(3))
def test_follows_live_videos_through_everything(catalog: Catalog, opened: Opened, seed: int) -> None:
    choice, live = random.Random(seed), LiveRows(catalog, FINGERPRINT)
    streams = Streams(live, choice)
    indexes: dict[Kind, MilvusIndex] = {"segments": opened(), "utterances": opened("utterances")}
    for step in range(20):
        for _ in range(choice.choice([1, 1, 4])):
            streams.step()
        if step == 10:
            indexes["segments"] = opened()  # begins with the rows of the collection
        for kind, index in indexes.items():
            index.refresh(catalog)
            check_index(index, catalog, kind)


def test_a_live_video_grows_and_is_pruned(catalog: Catalog, opened: Opened) -> None:
    live, index = LiveRows(catalog, FINGERPRINT), opened()
    for first in range(0, 90, 30):
        live.apply([live_segment(n) for n in range(first, first + 30)], {})
        check_like_faiss(index, catalog)
    live.prune(Retention(limits={"*": Limit(age_seconds=200)}), STARTED + 8 * 90, 100)
    check_like_faiss(index, catalog)
    assert 0 < len(index) < 40
    check_like_faiss(opened(), catalog)


def test_holds_only_rows_of_its_encoders_and_drops_those_of_former_encoders(catalog: Catalog, opened: Opened) -> None:
    fill(catalog, 2)
    former = opened()
    former.refresh(catalog)
    catalog.set_space(SPACE)  # the library moves to other encoders
    put_vectors(catalog, "moved", random_vectors(4, 50), fingerprint=SPACE.fingerprint)
    index = opened("segments", SPACE.fingerprint)
    index.refresh(catalog)
    assert len(index) == 4
    assert not client_of(index).has_collection(former._name)
    put_vectors(catalog, "late", random_vectors(3, 51))
    check_like_faiss(former, catalog)  # an index of the former encoders creates its collection again
    assert client_of(index).has_collection(index._name)


def test_catalogs_have_collections_of_their_own(catalog: Catalog, opened: Opened, tmp_path: Path) -> None:
    fill(catalog, 3)
    index = opened()
    check_like_faiss(index, catalog)
    with Catalog.open_writer(tmp_path / "other") as other:
        put_vectors(other, "video0", random_vectors(10, 77))
        check_like_faiss(index, other)
    check_like_faiss(index, catalog)


def test_refuses_queries_of_another_width(catalog: Catalog, opened: Opened) -> None:
    fill(catalog, 1)
    index = opened()
    index.refresh(catalog)
    for vectors, k in ((np.zeros((1, 3), np.float32), 1), (QUERIES[0], 1), (QUERIES, 0), (QUERIES, 20_000)):
        with pytest.raises(ValueError, match=r"vectors must be|k must be"):
            index.search(vectors, k)


# ---- rows that are in the collection already


def test_the_next_process_adds_no_row_again(catalog: Catalog, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(catalog, 5)
    LiveRows(catalog, FINGERPRINT).apply([live_segment(n) for n in range(20)], {})
    opened().refresh(catalog)
    added: list[int] = []
    honest = MilvusIndex._upsert
    monkeypatch.setattr(
        MilvusIndex, "_upsert", lambda self, *args: added.append(len(args[2].ids)) or honest(self, *args)
    )
    again = opened()
    check_like_faiss(again, catalog)
    assert added == []
    put_vectors(catalog, "another", random_vectors(4, 88))
    check_like_faiss(again, catalog)
    assert added == [4]


def delete_some(client: Any, name: str) -> None:
    client.delete(name, filter="id < 8 or id > 60")


def add_rows_of_unknown_videos(client: Any, name: str) -> None:
    rows = [{"id": 500 + n, "video": n, "stamp": 1.0, "vector": QUERIES[0]} for n in range(6)]
    client.upsert(name, [*rows, {"id": 600, "video": 999, "stamp": 2.0, "vector": QUERIES[0]}])


def drop(client: Any, name: str) -> None:
    client.drop_collection(name)


def replace_by_another(client: Any, name: str) -> None:
    client.drop_collection(name)
    client.create_collection(name, dimension=3)


def change_the_width(client: Any, name: str) -> None:
    client.drop_collection(name)
    narrow = MilvusIndex("segments", FINGERPRINT, IndexConfig(milvus_uri="http://127.0.0.1:1"))
    narrow._name = name
    with Catalog.open_writer(Path("other")) as catalog:
        narrow._create(client, catalog, 3)


@pytest.mark.parametrize(
    "tamper", [delete_some, add_rows_of_unknown_videos, drop, replace_by_another, change_the_width]
)
def test_the_next_process_repairs_a_collection_that_was_tampered_with(
    catalog: Catalog, opened: Opened, tamper: Callable[[Any, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(catalog.directory)
    fill(catalog, 5)
    LiveRows(catalog, FINGERPRINT).apply([live_segment(n) for n in range(20)], {})
    index = opened()
    index.refresh(catalog)
    tamper(client_of(index), index._name)
    again = opened()
    check_like_faiss(again, catalog)
    rows = client_of(again).query(again._name, filter="video < 900", output_fields=["count(*)"])
    assert rows[0]["count(*)"] == 70


def test_a_collection_that_is_dropped_under_a_running_server_is_created_again(catalog: Catalog, opened: Opened) -> None:
    fill(catalog, 5)
    index = opened()
    index.refresh(catalog)
    client_of(index).drop_collection(index._name)
    check_equal(index, catalog)  # without a refresh: the catalog has not changed
    client_of(index).drop_collection(index._name)
    catalog.delete("video1")
    check_like_faiss(index, catalog)


def test_a_restored_catalog_decides_which_rows_are_right(catalog: Catalog, opened: Opened, tmp_path: Path) -> None:
    put_vectors(catalog, "old", random_vectors(10, 1))
    catalog.close()
    copy = (tmp_path / "catalog.sqlite").read_bytes()
    with Catalog.open_writer(tmp_path) as future:
        fill(future, 5)
        LiveRows(future, FINGERPRINT).apply([live_segment(n) for n in range(30)], {})
        opened().refresh(future)
    (tmp_path / "catalog.sqlite").write_bytes(copy)
    with Catalog.open_writer(tmp_path) as past:
        index = opened()
        check_like_faiss(index, past)
        put_vectors(past, "other", random_vectors(12, 2))  # with ids that other rows had
        LiveRows(past, FINGERPRINT).apply([live_segment(n, epoch=1, epoch_start=500.0) for n in range(20)], {})
        check_like_faiss(index, past)
        check_like_faiss(opened(), past)


# ---- several processes


def test_processes_of_two_states_do_not_disturb_each_other(catalog: Catalog, reader: Catalog, opened: Opened) -> None:
    live = LiveRows(catalog, FINGERPRINT)
    fill(catalog, 5)
    live.apply([live_segment(n) for n in range(10)], {})
    begun = catalog.begin(new_video("later"))
    older, newer = opened(), opened()
    with reader.snapshot():
        reader.generation()  # the snapshot is from here on
        catalog.delete("video1")
        live.apply([live_segment(n) for n in range(10, 30)], {})
        put_vectors(catalog, "new", QUERIES)  # nearer than anything
        catalog.add_segments(begun, [segment("later", n, vector) for n, vector in enumerate(-QUERIES)])
        catalog.finish(begun, media=MEDIA, duration_seconds=60.0, warnings=())
        check_like_faiss(newer, catalog)
        older.refresh(reader)  # adds video1 again, and keeps rows that it does not know
        ids, _ = older.search(QUERIES, 12)
        reader.locate("segments", ids.ravel().tolist())  # none is of the newer state
        check_equal(newer, catalog)
    check_like_faiss(older, reader)
    check_like_faiss(newer, catalog)
    check_like_faiss(opened(), catalog)


@pytest.mark.parametrize("is_first", [True, False])
def test_the_next_refresh_completes_one_that_failed_half_way(catalog: Catalog, opened: Opened, is_first: bool) -> None:
    index = opened(upsert_bytes=7 * 4 * WIDTH)
    fill(catalog, 1)
    if not is_first:
        index.refresh(catalog)
    fill(catalog, 3, first=1)
    LiveRows(catalog, FINGERPRINT).apply([live_segment(n) for n in range(20)], {})
    broken = break_after(2)
    with pytest.raises(IndexUnavailable):
        index.refresh(catalog)
    broken.undo()
    catalog.delete("video2")  # its rows were to be added
    LiveRows(catalog, FINGERPRINT).apply([live_segment(n) for n in range(20, 25)], {})
    check_like_faiss(index, catalog)
    check_like_faiss(opened(), catalog)


def break_after(count: int) -> pytest.MonkeyPatch:
    """Let Milvus go away after some more upserts."""
    from pymilvus import MilvusClient, MilvusException

    patch, honest, calls = pytest.MonkeyPatch(), MilvusClient.upsert, iter(range(count))

    def upsert(self: Any, *args: Any, **more: Any) -> Any:
        if next(calls, None) is None:
            raise MilvusException(message="gone")
        return honest(self, *args, **more)

    patch.setattr(MilvusClient, "upsert", upsert)
    return patch


# ---- without Milvus


def test_a_server_that_is_away_is_logged_once_and_used_again_when_it_is_back(
    catalog: Catalog, opened: Opened, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from milvus_lite.adapter.grpc.server import start_server_in_thread

    fill(catalog, 3)
    data = str(tmp_path / "milvus")
    server, database, port = start_server_in_thread(data, host="127.0.0.1", port=0)
    index = opened(at=f"http://127.0.0.1:{port}", seconds=5.0)
    check_like_faiss(index, catalog)
    server.stop(grace=0).wait()
    database.close()
    put_vectors(catalog, "new", random_vectors(5, 9))
    for ask in (lambda: index.refresh(catalog), lambda: index.search(QUERIES, 3), lambda: index.refresh(catalog)):
        with pytest.raises(IndexUnavailable):
            ask()
    assert caplog.text.count("milvus does not answer") == 1
    server, database, _ = start_server_in_thread(data, host="127.0.0.1", port=port)
    wait_until(lambda: is_refreshed(index, catalog))  # gRPC takes a second to look again
    check_like_faiss(index, catalog)
    index.close()
    server.stop(grace=0).wait()
    database.close()
    with pytest.raises(IndexUnavailable):
        opened(at=f"http://127.0.0.1:{port}", seconds=0.5).refresh(catalog)


def is_refreshed(index: MilvusIndex, catalog: Catalog) -> bool:
    with suppress(IndexUnavailable):
        index.refresh(catalog)
        return True
    return False


def test_without_the_package_the_setting_is_an_error_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(SettingsError, match=r"^index.milvus_uri needs the package pymilvus: pip install 'kinodex"):
        open_index(tmp_path, "segments", FINGERPRINT, IndexConfig(milvus_uri="http://localhost:19530"))
    with pytest.raises(SettingsError, match="there is no folder"):
        open_index(tmp_path, "segments", FINGERPRINT, IndexConfig(milvus_uri=str(tmp_path / "no" / "vectors.db")))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"milvus_uri": "localhost:19530"}, "milvus_uri must be http"),
        ({"milvus_uri": "/tmp/milvus"}, "milvus_uri must be http"),
        ({"milvus_uri": "http://root:secret@localhost:19530"}, "must not hold a password"),
        ({"milvus_timeout_seconds": 0.0}, "milvus_timeout_seconds must be > 0"),
    ],
)
def test_invalid_settings_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IndexConfig(**config)


# ---- a library


def test_a_library_answers_the_same_with_either_index(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fakes(monkeypatch)
    films = tmp_path / "films"
    films.mkdir()
    write_scenes(films / "paris.mp4", [("blue", 10), ("red", 8), ("blue", 10)], tones=[(440, 3.0), (1320, 20.0)])
    write_scenes(films / "london.mp4", [("green", 20)], tones=[(880, 12.0)])
    faiss = Settings(workers=2)
    milvus = replace(faiss, index=IndexConfig(milvus_uri=str(tmp_path / "vectors.db")))
    list(pipeline.index([str(films)], tmp_path / "data", milvus, progress=SilentProgress()))
    assert not (tmp_path / "data" / "index").exists()  # rows in Milvus are not saved in files too
    said = []
    for settings in (faiss, milvus):
        with Library.open(tmp_path / "data", settings) as library:
            queries = [Query(text=text, limit=5) for text in ("red", "green", "Paris is lovely", "a foggy London")]
            said.append([ask(query) for query in queries for ask in (library.moments, library.search)])
    assert said[0] == said[1]
    assert said[0][0].moments[0].uri.endswith("paris.mp4")


def test_a_server_follows_the_library_and_outlives_milvus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from milvus_lite.adapter.grpc.server import start_server_in_thread

    use_fakes(monkeypatch)
    start = partial(start_server_in_thread, str(tmp_path / "milvus"), host="127.0.0.1")
    milvus, database, port = start(port=0)
    index = IndexConfig(milvus_uri=f"http://127.0.0.1:{port}", milvus_timeout_seconds=8.0)
    settings, data, query = Settings(workers=2, index=index), tmp_path / "data", Query(text="red")
    film = write_scenes(tmp_path / "film.mp4", [("red", 6)], tones=[(440, 2.0)])
    with running(data, settings) as server, Client(server.address) as client:
        assert client.search(query).videos == ()
        [outcome] = pipeline.index([str(film)], data, settings, progress=SilentProgress())
        assert outcome.video_id is not None
        assert [video.video_id for video in client.search(query).videos] == [outcome.video_id]
        milvus.stop(grace=0).wait()
        database.close()
        with pytest.raises(ServerFailed) as caught:
            client.search(Query(text="green"))
        assert (caught.value.code, caught.value.reason) == ("UNAVAILABLE", "INDEX_UNAVAILABLE")
        client.delete(outcome.video_id)  # needs no index
        milvus, database, _ = start(port=port)
        wait_until(lambda: answers(client, query))
        assert client.search(query).videos == ()
    milvus.stop(grace=0).wait()
    database.close()


def answers(client: Client, query: Query) -> bool:
    with suppress(ServerFailed):
        client.search(query)
        return True
    return False
