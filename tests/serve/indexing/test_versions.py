"""One place has one video: files that were changed, moved, copied or exchanged, and indexed again."""

import http.server
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from ingest.config import DecodeConfig, SourceConfig
from ingest.source.source import video_id_of
from serve.catalog.catalog import Catalog
from serve.catalog.entries import video_at
from serve.indexing import job_worker
from serve.indexing.job import NewJob
from serve.indexing.job_worker import JobWorker
from serve.indexing.jobs import JobQueue
from serve.indexing.library_writer import LibraryWriter
from serve.indexing.pipeline import delete, index
from serve.indexing.run import IndexRun
from serve.indexing.work import VideoWork
from serve.search.library import Library
from serve.settings import Settings
from serve.values import IndexOutcome, Query, Video
from serve.video_warnings import BEING_WRITTEN
from support import SUPPORT
from support.fakes import COLOURS, ColourEncoder, SilentProgress, use_fakes, write_scenes
from support.sample_catalog import PLACES_VERSION, turn_back
from support.waiting import wait_until

pytestmark = pytest.mark.slow

ENCODER = ColourEncoder()
SOURCE = SourceConfig(file_roots=("/",), private_networks=("127.0.0.0/8",))
SETTINGS = Settings(workers=2, decode=DecodeConfig(sampling="exact"), source=SOURCE)


@pytest.fixture(autouse=True)
def exact_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def film(path: Path, colour: str, seconds: int = 3) -> Path:
    """Write a film of one colour; its bytes depend on colour and length alone."""
    return write_scenes(path, [(colour, seconds)])


def run(data: Path, *inputs: Path | str, collection: str = "default") -> list[IndexOutcome]:
    """Index inputs one after the other, in their order."""
    settings = Settings(workers=1, decode=SETTINGS.decode, source=SETTINGS.source)
    return list(index([str(each) for each in inputs], data, settings, collection=collection, progress=SilentProgress()))


def videos(data: Path) -> dict[str, Video]:
    """Return the videos by the names of their files; each file is listed once."""
    with Catalog.open_reader(data) as catalog:
        listed = catalog.videos()
    by_name = {Path(video.uri).name: video for video in listed}
    assert len(by_name) == len(listed)
    return by_name


def colours(data: Path) -> dict[str, str]:
    """Return what each video that answers may name shows, by the name of its file."""
    shown = {}
    with Library.open(data, SETTINGS) as library:
        answering = {video.video_id for video in library.search(Query(text="red")).videos}
        for video in library.videos():
            assert video.video_id in answering
            likeness = library.catalog.frames(video.row).vectors[0] @ ENCODER.encode_texts(list(COLOURS)).T
            shown[Path(video.uri).name] = list(COLOURS)[int(likeness.argmax())]
    assert len(shown) == len(answering)
    return shown


def ids(data: Path) -> dict[str, str]:
    return {name: video.video_id for name, video in videos(data).items()}


def test_a_changed_file_is_the_new_version_of_its_video(data: Path, tmp_path: Path) -> None:
    talk = film(tmp_path / "talk.mp4", "red")
    (first,) = run(data, talk)
    film(talk, "green", 5)
    (second,) = run(data, talk)
    assert (second.status, second.is_new_version, second.video_id) == ("indexed", True, first.video_id)
    video = videos(data)["talk.mp4"]
    assert (video.frame_count, video.content_sha256[:16] != video.video_id) == (5, True)
    assert colours(data) == {"talk.mp4": "green"}
    with Catalog.open_reader(data) as catalog:
        assert [one.segment_id for one in catalog.segments(video.row)] == [f"{video.video_id}/0/0"]
        assert catalog.select("SELECT count(*) FROM videos") == [(1,)]
        assert catalog.select("SELECT DISTINCT video_row FROM frame_blocks") == [(video.row,)]
    assert [outcome.status for outcome in run(data, talk)] == ["unchanged"]
    film(talk, "red")  # back again
    assert [outcome.video_id for outcome in run(data, talk)] == [first.video_id]
    assert colours(data) == {"talk.mp4": "red"}


def test_a_new_version_keeps_metadata_and_time_of_recording(data: Path, tmp_path: Path) -> None:
    talk = film(tmp_path / "talk.mp4", "red")
    run(data, talk)
    with Catalog.open_editor(data) as catalog, catalog.editing() as edit:
        edit.execute('UPDATE videos SET metadata = \'{"camera": "7"}\', recorded_time = 5.0')
    film(talk, "green")
    run(data, talk)
    video = videos(data)["talk.mp4"]
    assert (video.metadata, video.recorded_time) == ({"camera": "7"}, 5.0)


def test_the_old_version_answers_until_the_new_one_is_complete(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = film(tmp_path / "talk.mp4", "red")
    run(data, talk)
    film(talk, "green")
    seen: list[dict[str, str]] = []
    finish = Catalog.finish

    def look_and_finish(catalog: Catalog, row: int, **rest: object) -> bool:
        seen.append(colours(data))
        return finish(catalog, row, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Catalog, "finish", look_and_finish)
    run(data, talk)
    assert seen == [{"talk.mp4": "red"}]
    assert colours(data) == {"talk.mp4": "green"}


def test_a_new_version_that_does_not_decode_leaves_the_old_one(data: Path, tmp_path: Path) -> None:
    talk = film(tmp_path / "talk.mp4", "red")
    run(data, talk)
    talk.write_bytes(b"this is no video " * 50)
    assert [outcome.status for outcome in run(data, talk)] == ["failed"]
    assert colours(data) == {"talk.mp4": "red"}


def test_a_moved_file_keeps_its_id_and_is_listed_where_it_is(data: Path, tmp_path: Path) -> None:
    film(tmp_path / "old.mp4", "red")
    run(data, tmp_path / "old.mp4")
    before = ids(data)["old.mp4"]
    (tmp_path / "old.mp4").rename(tmp_path / "new.mp4")
    assert [outcome.status for outcome in run(data, tmp_path / "new.mp4")] == ["unchanged"]
    assert ids(data) == {"new.mp4": before}
    film(tmp_path / "old.mp4", "green")  # another file where it was
    run(data, tmp_path / "old.mp4")
    assert colours(data) == {"new.mp4": "red", "old.mp4": "green"}
    assert ids(data)["new.mp4"] == before


@pytest.mark.parametrize("order", [("talk.mp4", "talk-old.mp4"), ("talk-old.mp4", "talk.mp4")])
def test_a_file_that_is_kept_under_another_name_and_replaced(
    data: Path, tmp_path: Path, order: tuple[str, str]
) -> None:
    talk = film(tmp_path / "talk.mp4", "red")
    run(data, talk)
    talk.rename(tmp_path / "talk-old.mp4")
    film(talk, "green")
    run(data, *(tmp_path / name for name in order))
    assert colours(data) == {"talk.mp4": "green", "talk-old.mp4": "red"}
    assert len(set(ids(data).values())) == 2
    run(data, tmp_path)
    assert colours(data) == {"talk.mp4": "green", "talk-old.mp4": "red"}


def test_same_bytes_at_two_places_stay_at_one_when_the_other_changes(data: Path, tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        film(tmp_path / name, "red")
    run(data, tmp_path)
    assert list(ids(data)) == ["a.mp4"]
    film(tmp_path / "a.mp4", "green")
    run(data, tmp_path / "a.mp4")  # b.mp4 is not looked at
    assert colours(data) == {"a.mp4": "green", "b.mp4": "red"}
    film(tmp_path / "b.mp4", "blue")
    run(data, tmp_path / "b.mp4")
    assert colours(data) == {"a.mp4": "green", "b.mp4": "blue"}


def test_a_copy_that_is_gone_does_not_keep_the_old_version(data: Path, tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        film(tmp_path / name, "red")
    run(data, tmp_path)
    (tmp_path / "b.mp4").unlink()
    film(tmp_path / "a.mp4", "green")
    run(data, tmp_path / "a.mp4")
    assert colours(data) == {"a.mp4": "green"}


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
def test_two_paths_of_one_file_change_together(data: Path, tmp_path: Path, link: Callable[[Path, Path], None]) -> None:
    real = film(tmp_path / "real.mp4", "red")
    link(tmp_path / "link.mp4", real)
    run(data, tmp_path / "link.mp4", real)
    with real.open("r+b") as file:  # the same file, other bytes
        new = film(tmp_path / "new.mp4", "green").read_bytes()
        file.write(new)
        file.truncate(len(new))
    (tmp_path / "new.mp4").unlink()
    run(data, real)
    assert list(colours(data).values()) == ["green"]
    run(data, tmp_path / "link.mp4")
    assert list(colours(data).values()) == ["green"]


def test_a_link_that_leads_elsewhere_leaves_its_old_target(data: Path, tmp_path: Path) -> None:
    film(tmp_path / "1.mp4", "red")
    latest = tmp_path / "latest.mp4"
    latest.symlink_to(tmp_path / "1.mp4")
    run(data, latest, tmp_path / "1.mp4")
    film(tmp_path / "2.mp4", "green")
    latest.unlink()
    latest.symlink_to(tmp_path / "2.mp4")
    run(data, latest)
    assert colours(data) == {"1.mp4": "red", "latest.mp4": "green"}


def test_two_files_that_were_exchanged_keep_their_videos(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film(tmp_path / "a.mp4", "red"), film(tmp_path / "b.mp4", "green")
    run(data, tmp_path)
    before = ids(data)
    (tmp_path / "a.mp4").rename(tmp_path / "c")
    (tmp_path / "b.mp4").rename(tmp_path / "a.mp4")
    (tmp_path / "c").rename(tmp_path / "b.mp4")
    assert [outcome.status for outcome in run(data, tmp_path)] == ["unchanged", "unchanged"]
    assert colours(data) == {"a.mp4": "green", "b.mp4": "red"}
    assert ids(data) == {"a.mp4": before["b.mp4"], "b.mp4": before["a.mp4"]}


@pytest.mark.parametrize("names", [("a", "b", "c"), ("c", "b", "a"), ("b", "a", "c")])
def test_files_that_rotate(data: Path, tmp_path: Path, names: tuple[str, ...]) -> None:
    film(tmp_path / "a.mp4", "red"), film(tmp_path / "b.mp4", "green")
    run(data, tmp_path)
    (tmp_path / "b.mp4").rename(tmp_path / "c.mp4")
    (tmp_path / "a.mp4").rename(tmp_path / "b.mp4")
    film(tmp_path / "a.mp4", "blue")
    run(data, *(tmp_path / f"{name}.mp4" for name in names))
    assert colours(data) == {"a.mp4": "blue", "b.mp4": "red", "c.mp4": "green"}


def test_a_file_that_becomes_a_copy_of_another_is_that_video(data: Path, tmp_path: Path) -> None:
    a, b = film(tmp_path / "a.mp4", "red"), film(tmp_path / "b.mp4", "green")
    run(data, a, b)
    a.write_bytes(b.read_bytes())
    assert [outcome.status for outcome in run(data, a)] == ["unchanged"]
    assert list(colours(data).values()) == ["green"]
    for path in (a, b):
        film(path, "blue")
    run(data, a, b)
    assert list(colours(data).values()) == ["blue"]


def test_a_place_has_one_video_however_it_is_spelled(data: Path, tmp_path: Path) -> None:
    talk = film(tmp_path / "a talk.mp4", "red")
    (first,) = run(data, talk.as_uri())
    assert "%20" in talk.as_uri()
    assert [outcome.status for outcome in run(data, talk)] == ["unchanged"]
    film(talk, "green")
    (second,) = run(data, f"{talk.parent}/./{talk.name}")
    assert second.video_id == first.video_id
    film(talk, "blue")
    (third,) = run(data, talk.as_uri())
    assert third.video_id == first.video_id
    with Catalog.open_reader(data) as catalog:
        assert [video.uri for video in catalog.videos()] == [talk.as_uri()]


def test_a_url_is_a_place_unless_a_secret_in_it_may_lead_elsewhere(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "site"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/talk.mp4"
        outcomes = []
        for colour, query in (("red", ""), ("green", ""), ("blue", "?token=b"), ("yellow", "?token=y")):
            film(folder / "talk.mp4", colour)
            outcomes += run(data, url + query)
        server.shutdown()
    assert [outcome.status for outcome in outcomes] == ["indexed"] * 4
    assert [outcome.is_new_version for outcome in outcomes] == [False, True, False, False]
    assert outcomes[0].video_id == outcomes[1].video_id
    with Catalog.open_reader(data) as catalog:
        assert [video.uri for video in catalog.videos()] == [url, f"{url}?token=REDACTED", f"{url}?token=REDACTED"]


def test_collections_are_apart(data: Path, tmp_path: Path) -> None:
    talk = film(tmp_path / "talk.mp4", "red")
    for collection in ("one", "two"):
        run(data, talk, collection=collection)
    film(talk, "green")
    run(data, talk, collection="two")
    with Library.open(data, SETTINGS) as library:
        found = {video.collection: video.content_sha256 for video in library.videos()}
    assert len(set(found.values())) == 2


def test_bytes_that_a_changed_file_had_before_are_a_video_of_their_own(data: Path, tmp_path: Path) -> None:
    talk = film(tmp_path / "talk.mp4", "red")
    (first,) = run(data, talk)
    film(talk, "green")
    run(data, talk)
    (backup,) = run(data, film(tmp_path / "backup.mp4", "red"))
    assert backup.status == "indexed"
    assert backup.video_id not in (None, first.video_id)
    assert colours(data) == {"talk.mp4": "green", "backup.mp4": "red"}


def test_a_video_that_is_deleted_while_its_new_version_is_indexed_stays_away(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = film(tmp_path / "talk.mp4", "red")
    (first,) = run(data, talk)
    assert first.video_id is not None
    film(talk, "green")
    finish = IndexRun._finish

    def delete_and_finish(run: IndexRun, *rest: object) -> IndexOutcome | None:
        delete(data, [str(first.video_id)])
        return finish(run, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(IndexRun, "_finish", delete_and_finish)
        (outcome,) = run(data, talk)
    assert outcome.status == "failed"
    assert "deleted while" in (outcome.error or "")
    with Catalog.open_reader(data) as catalog:
        assert catalog.select("SELECT count(*) FROM videos") == [(0,)]
    assert [outcome.status for outcome in run(data, talk)] == ["indexed"]


def test_both_versions_that_an_older_program_left_become_one(data: Path, tmp_path: Path) -> None:
    talk = film(tmp_path / "talk.mp4", "red")
    run(data, talk)
    older = film(tmp_path / "older.mp4", "green")
    run(data, older)
    older.unlink()
    with closing(sqlite3.connect(data / "catalog.sqlite")) as connection, connection:
        connection.execute("UPDATE videos SET uri = ?", (str(talk).encode(),))
        turn_back(connection, PLACES_VERSION - 1)
    with Catalog.open_reader(data) as catalog:
        assert len(catalog.videos()) == 2
    assert [outcome.status for outcome in run(data, talk)] == ["unchanged"]
    assert colours(data) == {"talk.mp4": "red"}


def test_an_upload_is_not_changed_by_a_file_that_has_its_bytes(data: Path, tmp_path: Path) -> None:
    talk = film(tmp_path / "talk.mp4", "red")
    run(data, talk)
    with Catalog.open_editor(data) as catalog, catalog.editing() as edit:
        edit.execute("UPDATE videos SET uri = ?", (b"upload:clip.mp4",))
        edit.execute("DELETE FROM places")
    assert [outcome.status for outcome in run(data, talk)] == ["unchanged"]
    film(talk, "green")
    run(data, talk)
    assert colours(data) == {"upload:clip.mp4": "red", "talk.mp4": "green"}


# ---- files that are being written


def test_a_file_that_is_written_while_it_is_decoded_has_a_warning_until_it_is_indexed_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = film(tmp_path / "talk.mp4", "red")
    find = LibraryWriter.find

    def write_and_find(writer: LibraryWriter, work: VideoWork) -> int | None:
        with talk.open("ab") as more:
            more.write(b"more")
        return find(writer, work)

    with monkeypatch.context() as patched:
        patched.setattr(LibraryWriter, "find", write_and_find)
        (first,) = run(data, talk)
    assert (first.status, first.warnings) == ("indexed", (BEING_WRITTEN.text,))
    assert videos(data)["talk.mp4"].warnings == (BEING_WRITTEN.text,)
    (second,) = run(data, talk)
    assert (second.status, second.warnings, second.video_id) == ("indexed", (), first.video_id)


def test_a_file_that_does_not_decode_while_it_is_written_says_so(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = tmp_path / "talk.mp4"
    talk.write_bytes(b"this is no video " * 50)
    monkeypatch.setattr("ingest.source.source.REST_SECONDS", 3600.0)
    monkeypatch.setattr("ingest.source.source.GROWING_SECONDS", 0.0)
    (outcome,) = run(data, talk)
    assert outcome.status == "failed"
    assert "still being written: index it again when it is complete" in (outcome.error or "")


# ---- a server's jobs


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_worker, "IDLE_EXIT_SECONDS", 0.3)
    monkeypatch.setattr(job_worker, "RELEASE_SECONDS", 0.1)
    monkeypatch.setattr("serve.indexing.run.IDLE_SECONDS", 0.05)


def submit(data: Path, path: Path, video_id: str, **said: object) -> None:
    with Catalog.open_editor(data) as catalog:
        new = NewJob(collection="default", video_id=video_id, uri=path.as_uri(), display_uri=path.as_uri(), **said)  # type: ignore[arg-type]
        JobQueue(catalog).submit(new)
    JobWorker(data, SETTINGS).work_until_idle()


@pytest.mark.usefixtures("short_patience")
def test_a_job_makes_the_new_version_of_the_video_at_its_uri(data: Path, tmp_path: Path) -> None:
    talk = film(tmp_path / "talk.mp4", "red")
    (first,) = run(data, talk)
    with Catalog.open_reader(data) as catalog:
        found = video_at(catalog, "default", talk.as_uri())  # as the server chooses the id
        assert found is not None
        assert video_at(catalog, "other", talk.as_uri()) is None
        assert video_at(catalog, "default", "https://example.org/talk.mp4") is None
    assert found.video_id == first.video_id
    submit(data, talk, found.video_id, metadata={"camera": "7"}, recorded_time=5.0)
    submit(data, talk, found.video_id)  # says nothing of it
    assert (videos(data)["talk.mp4"].metadata, videos(data)["talk.mp4"].recorded_time) == ({"camera": "7"}, 5.0)
    film(talk, "green")
    submit(data, talk, found.video_id)
    (video,) = videos(data).values()
    assert (video.metadata, video.recorded_time) == ({"camera": "7"}, 5.0)
    assert colours(data) == {"talk.mp4": "green"}
    film(talk, "blue")
    assert [outcome.video_id for outcome in run(data, talk)] == [first.video_id]


@pytest.mark.usefixtures("short_patience")
def test_videos_that_the_caller_names_are_apart_also_at_one_place(data: Path, tmp_path: Path) -> None:
    Catalog.open_writer(data).close()
    latest = tmp_path / "latest.mp4"
    for day, colour in (("monday", "red"), ("tuesday", "green")):
        submit(data, film(latest, colour), day)
    with Catalog.open_reader(data) as catalog:
        assert [video.video_id for video in catalog.videos()] == ["monday", "tuesday"]
    film(latest, "blue")
    (outcome,) = run(data, latest)  # the latest video of this place gets the new version
    assert outcome.video_id == "tuesday"
    with Catalog.open_reader(data) as catalog:
        assert [video.video_id for video in catalog.videos()] == ["tuesday", "monday"]


@pytest.mark.usefixtures("short_patience")
def test_a_named_video_moves_to_the_uri_that_it_is_sent_with(data: Path, tmp_path: Path) -> None:
    Catalog.open_writer(data).close()
    submit(data, film(tmp_path / "a.mp4", "red"), "named")
    submit(data, film(tmp_path / "b.mp4", "red"), "named")
    assert ids(data) == {"b.mp4": "named"}
    submit(data, film(tmp_path / "c.mp4", "green"), "named")
    assert colours(data) == {"c.mp4": "green"}


# ---- a process that is killed


def test_killed_while_a_new_version_is_indexed_the_old_one_answers(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    (first,) = run(data, film(folder / "talk.mp4", "red"))
    film(folder / "talk.mp4", "green", 300)
    with subprocess.Popen([sys.executable, SUPPORT / "index_child.py", folder, data]) as process:
        with Catalog.open_reader(data) as catalog:
            wait_until(lambda: catalog.select("SELECT count(*) FROM videos") == [(2,)])
        process.kill()
    assert colours(data) == {"talk.mp4": "red"}
    assert [(outcome.status, outcome.video_id) for outcome in run(data, folder)] == [("indexed", first.video_id)]
    assert colours(data) == {"talk.mp4": "green"}


def test_the_default_id_is_the_start_of_the_hash(data: Path, tmp_path: Path) -> None:
    (outcome,) = run(data, film(tmp_path / "a.mp4", "red"))
    assert outcome.video_id == video_id_of(videos(data)["a.mp4"].content_sha256)
    assert not outcome.is_new_version
    assert os.listdir(data)
