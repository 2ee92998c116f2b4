"""Questions with pictures that take minutes: text is answered beside them, and they end with their callers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from kinodex.v1 import moment_pb2
from kinodex.v1 import search_service_pb2 as search
from kinodex.v1.search_service_pb2_grpc import SearchServiceStub
from serve.indexing.pipeline import index
from serve.search import library
from serve.settings import Settings
from support.fakes import SilentProgress, use_fakes, write_scenes
from support.photos import draw_quarters, encode_picture, encode_scans
from support.running import Running, read_refusal, running
from support.waiting import HANG_SECONDS, wait_until

pytestmark = pytest.mark.slow

QUERY_WORKERS = 2
SLOW = search.SearchMomentsRequest(query=moment_pb2.Query(image=encode_scans(4096, 4096, 100_000)))


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    use_fakes(monkeypatch)
    film = write_scenes(tmp_path / "film.mp4", [("red", 4)])
    list(index([str(film)], tmp_path / "data", Settings(workers=1), progress=SilentProgress()))
    with running(tmp_path / "data", query_workers=QUERY_WORKERS, drain_seconds=0.1) as started:
        yield started


@pytest.fixture
def stub(server: Running) -> Iterator[SearchServiceStub]:
    with grpc.insecure_channel(server.address) as channel:
        yield SearchServiceStub(channel)


def children(server: Running) -> set[int]:
    loaded = server.server.loaded.library
    assert loaded is not None
    return {child._process.pid for child in loaded._decode_pool._children if child.is_alive()}


def ask_slowly(stub: SearchServiceStub, count: int) -> list[Any]:
    return [stub.SearchMoments.future(SLOW, timeout=HANG_SECONDS) for _ in range(count)]


def test_text_is_answered_beside_more_pictures_than_threads(server: Running, stub: SearchServiceStub) -> None:
    calls = ask_slowly(stub, QUERY_WORKERS + 4)
    wait_until(lambda: len(children(server)) == library.PICTURE_WORKERS)
    text = search.SearchMomentsRequest(query=moment_pb2.Query(text="red"))
    for _ in range(3):
        assert stub.SearchMoments(text, timeout=HANG_SECONDS).moments
    assert not any(call.done() for call in calls)
    for call in calls:
        call.cancel()


def test_a_caller_who_leaves_stops_the_work(
    server: Running, stub: SearchServiceStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "PICTURE_CPU_SECONDS", 10_000.0)
    monkeypatch.setattr(library, "PICTURE_SECONDS", 10_000.0)
    calls = ask_slowly(stub, library.PICTURE_WORKERS + 1)
    wait_until(lambda: len(children(server)) == library.PICTURE_WORKERS)
    busy = children(server)
    for call in calls:
        call.cancel()
    wait_until(lambda: not busy & children(server))
    photo = moment_pb2.Query(image=encode_picture(draw_quarters(), "PNG"))
    assert stub.SearchMoments(search.SearchMomentsRequest(query=photo), timeout=HANG_SECONDS).moments


def test_a_picture_of_minutes_is_refused_and_the_next_one_answered(
    stub: SearchServiceStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "PICTURE_CPU_SECONDS", 1.0)
    with pytest.raises(grpc.RpcError) as caught:
        stub.SearchMoments(SLOW, timeout=HANG_SECONDS)
    assert read_refusal(caught.value) == ("INVALID_ARGUMENT", "REQUEST_INVALID")
    assert "not decoded within 1 seconds of processor time" in caught.value.details()


def test_the_pictures_of_questions_share_their_child_processes(server: Running, stub: SearchServiceStub) -> None:
    used = set()
    for format in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "AVIF"):
        photo = moment_pb2.Query(image=encode_picture(draw_quarters(), format))
        assert stub.SearchMoments(search.SearchMomentsRequest(query=photo), timeout=HANG_SECONDS).moments
        used |= children(server)
    assert len(used) == 1
