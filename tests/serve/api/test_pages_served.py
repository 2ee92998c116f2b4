"""Pages of answers from a real server, while videos come and go and the server itself does."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

from encoders.values import FrameEmbeddings
from kinodex.v1 import library_service_pb2 as library_pb2
from kinodex.v1 import moment_pb2
from kinodex.v1 import search_service_pb2 as search_pb2
from kinodex.v1.library_service_pb2_grpc import LibraryServiceStub
from kinodex.v1.search_service_pb2_grpc import SearchServiceStub
from serve.api.pages import ExpiringCache
from serve.catalog.catalog import Catalog, NewVideo
from support.fakes import ColourEncoder, use_fakes
from support.running import Running, running
from support.sample_catalog import MEDIA, put
from support.waiting import HANG_SECONDS
from temporal.config import WindowConfig
from temporal.fusion.fusion import MeanPooling
from temporal.window import cut_video

pytestmark = pytest.mark.slow

NO_WORKER = ["sh", "-c", "exec cat"]  # jobs stay as they are
METHODS = ["SearchMoments", "SearchVideos"]
FILMS = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu"]


# ------------------------------------------------------------------ the server
class Shelf:
    """A server, and a collection of its own for each test."""

    def __init__(self, directory: Path, started: Running, channel: grpc.Channel) -> None:
        self.directory, self.running, self.channel = directory, started, channel
        self.search, self.library = SearchServiceStub(channel), LibraryServiceStub(channel)

    def fill(self, collection: str, names: Sequence[str], colours: Sequence[str] = ("red", "blue", "red")) -> None:
        """Index films in which the colours come one after the other; each film is a little longer than the last."""
        with Catalog.open_writer(self.directory) as catalog:
            for n, name in enumerate(names):
                put_film(catalog, collection, name, [(colour, 6 + n) for colour in colours])

    def delete(self, collection: str, name: str) -> None:
        self.library.DeleteVideo(
            library_pb2.DeleteVideoRequest(video_id=name, collection=collection), timeout=HANG_SECONDS
        )

    def page(self, method: str, collection: str, size: int = 0, token: str = "", text: str = "red") -> Any:
        request = getattr(search_pb2, f"{method}Request")(
            query=moment_pb2.Query(text=text, channel=moment_pb2.CHANNEL_VISUAL),
            filter=moment_pb2.Filter(collections=[collection]),
            page_size=size,
            page_token=token,
        )
        return getattr(self.search, method)(request, timeout=HANG_SECONDS)

    def listed(self, collection: str, size: int = 0, token: str = "") -> Any:
        request = library_pb2.ListVideosRequest(collection=collection, page_size=size, page_token=token)
        return self.library.ListVideos(request, timeout=HANG_SECONDS)


def put_film(catalog: Catalog, collection: str, name: str, scenes: Sequence[tuple[str, int]]) -> None:
    space = catalog.space()
    assert space is not None
    colours = [colour for colour, seconds in scenes for _ in range(seconds)]
    embeddings = FrameEmbeddings(
        epochs=np.zeros(len(colours), np.int32),
        pts_seconds=np.arange(len(colours), dtype=np.float64),
        vectors=ColourEncoder().encode_texts(colours),
    )
    new = NewVideo(
        video_id=name,
        collection=collection,
        uri=f"file:///{collection}/{name}.mp4",
        content_sha256="00" * 32,
        fingerprint=space.fingerprint,
    )
    row, duration = catalog.begin(new), float(len(colours))
    catalog.add_frames(row, embeddings, [b"jpeg"] * len(colours))
    cut = cut_video(
        name, embeddings, [], np.zeros((0, 3), np.float32),
        duration_seconds=duration, config=WindowConfig(), pooling=MeanPooling(),
    )  # fmt: skip
    catalog.add_segments(row, [one.segment for one in cut])
    catalog.finish(row, media=MEDIA, duration_seconds=duration, warnings=())


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shelf")


@pytest.fixture(scope="module")
def shelf(directory: Path) -> Iterator[Shelf]:
    with pytest.MonkeyPatch.context() as patch:
        use_fakes(patch)
        with (
            running(directory, ingest_command=NO_WORKER) as started,
            grpc.insecure_channel(started.address) as channel,
        ):
            opened = Shelf(directory, started, channel)
            opened.fill("still", FILMS)
            yield opened


def places(answer: Any) -> list[Any]:
    return list(answer.moments if hasattr(answer, "moments") else answer.videos)


def follow(first: Any, next_page: Callable[[str], Any]) -> list[Any]:
    """Return what this page and all that follow it hold."""
    found, answer = places(first), first
    while answer.next_page_token:
        answer = next_page(answer.next_page_token)
        found += places(answer)
    return found


def reason(send: Callable[..., Any], *given: Any) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        send(*given)
    status, info = rpc_status.from_call(caught.value), ErrorInfo()
    assert status is not None
    status.details[0].Unpack(info)
    return caught.value.code().name, info.reason


EXPIRED = ("FAILED_PRECONDITION", "PAGE_TOKEN_EXPIRED")


# ------------------------------------------------------------------ small pages are the large one
@pytest.mark.parametrize("sizes", [[1], [2], [3], [3, 1, 2], [1, 100]], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_small_pages_together_are_the_large_one(method: str, sizes: list[int], shelf: Shelf) -> None:
    whole = places(shelf.page(method, "still", 100))
    assert {one.video_id for one in whole} == set(FILMS)
    assert len(whole) == (2 * len(FILMS) if method == "SearchMoments" else len(FILMS))
    coming = iter(sizes[1:] + [sizes[-1]] * 100)
    first = shelf.page(method, "still", sizes[0])
    assert len(places(first)) == sizes[0]
    assert follow(first, lambda token: shelf.page(method, "still", next(coming), token)) == whole


@pytest.mark.parametrize("method", METHODS)
def test_a_page_may_be_asked_for_again(method: str, shelf: Shelf) -> None:
    token = shelf.page(method, "still", 2).next_page_token
    again = [shelf.page(method, "still", 3, token) for _ in range(2)]
    assert places(again[0]) == places(again[1])
    assert again[0].next_page_token == again[1].next_page_token != token


@pytest.mark.parametrize("method", METHODS)
def test_without_another_page_there_is_no_token(method: str, shelf: Shelf) -> None:
    count = len(places(shelf.page(method, "still", 100)))
    for size in (0, count, 100, 1000):  # 0 is 10, of which there are fewer videos and more moments
        answer = shelf.page(method, "still", size)
        assert bool(answer.next_page_token) == (len(places(answer)) < count)


def test_small_pages_of_a_list_are_the_large_one(shelf: Shelf) -> None:
    whole = places(shelf.listed("still", 100))
    assert [one.video_id for one in whole] == FILMS
    for size in (1, 2, 3):
        assert follow(shelf.listed("still", size), partial(shelf.listed, "still", size)) == whole


# ------------------------------------------------------------------ while videos come and go
@pytest.mark.parametrize("method", METHODS)
def test_pages_stay_those_of_the_first_one(method: str, shelf: Shelf) -> None:
    collection = f"moving-{method}"
    shelf.fill(collection, FILMS)
    whole = places(shelf.page(method, collection, 100))
    first = shelf.page(method, collection, 2)
    shown, waiting = whole[:2], whole[2:]
    assert places(first) == shown
    gone = shown[0].video_id, waiting[0].video_id, waiting[-1].video_id
    shelf.delete(collection, gone[0])  # it was shown
    shelf.fill(collection, ["new"], ["red"])  # it would come first
    expected, answer = [one for one in waiting if one.video_id != gone[0]], first
    for step, size in enumerate((1, 3, 2, *[2] * 20)):
        if step < 2:
            shelf.delete(collection, gone[1 + step])
            expected = [one for one in expected if one.video_id != gone[1 + step]]
        answer = shelf.page(method, collection, size, answer.next_page_token)
        assert places(answer) == expected[:size]
        expected = expected[size:]
        if not answer.next_page_token:
            break
    assert expected == []
    fresh = {one.video_id for one in places(shelf.page(method, collection, 100))}
    assert fresh == {*FILMS, "new"} - set(gone)


@pytest.mark.parametrize("method", METHODS)
def test_a_film_that_was_replaced_is_not_mixed_with_the_old_one(method: str, shelf: Shelf) -> None:
    collection = f"replaced-{method}"
    shelf.fill(collection, FILMS)
    first = shelf.page(method, collection, 1)
    shelf.fill(collection, FILMS, ["green", "red"])
    rest = follow(
        shelf.page(method, collection, 5, first.next_page_token), lambda token: shelf.page(method, collection, 5, token)
    )
    assert rest == []
    assert {one.video_id for one in places(shelf.page(method, collection, 100))} == set(FILMS)


@pytest.mark.parametrize("method", METHODS)
def test_when_nothing_is_left_the_last_page_is_empty(method: str, shelf: Shelf) -> None:
    collection = f"emptied-{method}"
    shelf.fill(collection, FILMS[:3])
    token = shelf.page(method, collection, 1).next_page_token
    for name in FILMS[:3]:
        shelf.delete(collection, name)
    answer = shelf.page(method, collection, 1, token)
    assert (places(answer), answer.next_page_token) == ([], "")


# ------------------------------------------------------------------ what is forgotten
@pytest.mark.parametrize("method", METHODS)
def test_an_answer_that_nobody_went_on_with_is_forgotten(
    method: str, directory: Path, shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fakes(monkeypatch)
    monkeypatch.setattr("serve.api.services.search.ExpiringCache", partial(ExpiringCache, max_count=2))
    own = shutil.copytree(directory, tmp_path / "own")  # a data directory has one server
    with running(own, ingest_command=NO_WORKER) as started, grpc.insecure_channel(started.address) as channel:
        other = Shelf(own, started, channel)
        one, two = (other.page(method, "still", 1, text=text).next_page_token for text in ("red", "green"))
        assert other.page(method, "still", 1).next_page_token == one  # the same answer is kept once
        assert places(other.page(method, "still", 1, one))  # it is young again
        three = other.page(method, "still", 1, text="blue").next_page_token
        assert reason(other.page, method, "still", 1, two, "green") == EXPIRED
        for text, token in (("red", one), ("blue", three)):
            assert places(other.page(method, "still", 1, token, text))


def test_after_a_restart_lists_go_on_and_answers_begin_anew(
    shelf: Shelf, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fakes(monkeypatch)
    asked = {method: shelf.page(method, "still", 2).next_page_token for method in METHODS}
    listed = shelf.listed("still", 2)
    own = shutil.copytree(directory, tmp_path / "own")  # a data directory has one server
    with running(own, ingest_command=NO_WORKER) as started, grpc.insecure_channel(started.address) as channel:
        restarted = Shelf(own, started, channel)
        for method, token in asked.items():
            assert reason(restarted.page, method, "still", 2, token) == EXPIRED
        rest = follow(restarted.listed("still", 2, listed.next_page_token), partial(restarted.listed, "still", 2))
        assert [one.video_id for one in [*listed.videos, *rest]] == FILMS


# ------------------------------------------------------------------ strange names
def test_a_list_misses_no_uri_whatever_its_bytes_are(shelf: Shelf) -> None:
    """A folder's name that is no UTF-8 comes behind all others in the catalog, and before many in Python."""
    uris = ["/films/z/1.mp4", "/films/\ufffd/1.mp4", "/films/\N{GRINNING FACE}/1.mp4", "/films/\udcff/1.mp4"]
    with Catalog.open_writer(shelf.directory) as catalog:
        for n, uri in enumerate(uris):
            put(catalog, f"strange{n}", collection="strange", uri=uri)
    for size in (1, 2, 3, 4):
        found = follow(shelf.listed("strange", size), partial(shelf.listed, "strange", size))
        assert [one.video_id for one in found] == [f"strange{n}" for n in range(len(uris))]


def test_a_list_of_long_uris_has_pages(shelf: Shelf) -> None:
    with Catalog.open_writer(shelf.directory) as catalog:
        for name in FILMS[:3]:
            put(catalog, name, collection="long", uri=f"https://example.org/{name}/{8000 * 'x'}")
    whole = follow(shelf.listed("long", 1), partial(shelf.listed, "long", 1))
    assert [one.video_id for one in whole] == FILMS[:3]
