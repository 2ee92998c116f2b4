"""One caller at a real server takes its share of everything, and leaves the rest to the others."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from kinodex.v1 import library_service_pb2 as library_pb2
from kinodex.v1 import moment_pb2
from kinodex.v1 import search_service_pb2 as search_pb2
from kinodex.v1.library_service_pb2_grpc import LibraryServiceStub
from kinodex.v1.search_service_pb2_grpc import SearchServiceStub
from serve.api.interceptor import current_caller
from serve.api.pages import ExpiringCache
from serve.api.tokens import create_token
from serve.indexing.pipeline import index
from serve.settings import Settings
from support.callers import NOW, bearer
from support.fakes import SilentProgress, use_fakes, write_scenes
from support.running import Running, read_refusal, running
from support.waiting import HANG_SECONDS, wait_until

pytestmark = pytest.mark.slow

NO_WORKER = ["sh", "-c", "exec cat"]


class Caller:
    """A caller with a token of its own."""

    def __init__(self, server: Running, channel: grpc.Channel, name: str) -> None:
        self.search, self.library = SearchServiceStub(channel), LibraryServiceStub(channel)
        self.options: dict[str, Any] = {"metadata": bearer(server, name), "timeout": HANG_SECONDS}

    def ask(self, text: str, **fields: Any) -> Any:
        request = search_pb2.SearchVideosRequest(query=moment_pb2.Query(text=text), **fields)
        return self.search.SearchVideos.future(request, **self.options)

    def ingest(self, number: int) -> Any:
        request = library_pb2.IngestVideoRequest(uri=f"https://example.org/{number}.mp4")
        return self.library.IngestVideo.future(request, **self.options)

    def upload(self, blocks: Iterator[bytes], name: str = "film.mp4") -> Any:
        def messages() -> Iterator[library_pb2.UploadVideoRequest]:
            yield library_pb2.UploadVideoRequest(header=library_pb2.UploadHeader(filename=name))
            for block in blocks:
                yield library_pb2.UploadVideoRequest(data=block)

        return self.library.UploadVideo.future(messages(), **self.options)


@contextmanager
def house(data: Path, **config: Any) -> Iterator[tuple[Running, Caller, Caller]]:
    """A server with two callers."""
    create_token(data / "tokens.json", "boss", collections=None, can_write=True, expire_time=None, now=NOW)
    with (
        running(data, ingest_command=NO_WORKER, **config) as server,
        grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as channel,
    ):
        yield server, Caller(server, channel, "ann"), Caller(server, channel, "bob")


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)


def refusal(call: Any) -> tuple[str, str]:
    """Return the reason and the limit of a refused call; waits for its end."""
    assert isinstance(call.exception(HANG_SECONDS), grpc.RpcError)
    code, reason = read_refusal(call)
    assert code == "RESOURCE_EXHAUSTED"
    return reason, call.details().partition("(")[2].partition(")")[0]


def test_a_callers_questions_wait_behind_each_other_and_not_before_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with house(tmp_path, query_workers=1, max_waiting_queries=8) as (server, ann, bob):
        go_on, order = threading.Event(), list[str]()
        workers, engine = server.server.search_service.workers, server.server.loaded.require().engine
        rank = engine.rank_videos

        def note_and_rank(*given: Any) -> Any:
            order.append(current_caller())
            go_on.wait(HANG_SECONDS)
            return rank(*given)

        monkeypatch.setattr(engine, "rank_videos", note_and_rank)
        asked = []
        for number in range(3):
            asked.append(ann.ask(f"red {number}"))
            wait_until(lambda: workers.call_count == len(asked))
        assert refusal(ann.ask("red again")) == ("OVERLOADED", "max_caller_share")
        asked.append(bob.ask("blue"))
        wait_until(lambda: workers.call_count == len(asked))
        go_on.set()
        for each in asked:
            each.result(HANG_SECONDS)
        assert order == ["ann", "ann", "bob", "ann"]


def test_a_caller_asks_so_many_questions_a_second(tmp_path: Path) -> None:
    with house(tmp_path, max_questions_per_second=0.1) as (_, ann, bob):
        ann.ask("red").result(HANG_SECONDS)
        assert refusal(ann.ask("red")) == ("OVERLOADED", "max_questions_per_second")
        bob.ask("red").result(HANG_SECONDS)


def test_a_caller_holds_its_share_of_the_uploads(tmp_path: Path) -> None:
    with house(tmp_path, max_uploads=8) as (server, ann, bob):
        is_over = threading.Event()

        def endless() -> Iterator[bytes]:
            while not is_over.wait(0.02):
                yield bytes(1000)

        held = [ann.upload(endless()) for _ in range(2)]
        wait_until(lambda: server.server.interceptor.shares["uploads"].count == 2)
        assert refusal(ann.upload(iter([b"x"]))) == ("OVERLOADED", "max_caller_share")
        assert bob.upload(iter([b"x"])).result(HANG_SECONDS).video.uri == "upload:film.mp4"
        for call in held:
            call.cancel()
        is_over.set()


def test_an_upload_that_drips_fails(tmp_path: Path) -> None:
    with house(tmp_path, max_upload_stall_seconds=0.5) as (server, ann, _):
        is_over = threading.Event()

        def drip() -> Iterator[bytes]:
            while not is_over.wait(0.05):
                yield b"x"

        call = ann.upload(drip())
        assert isinstance(call.exception(HANG_SECONDS), grpc.RpcError)
        is_over.set()
        assert read_refusal(call) == ("DEADLINE_EXCEEDED", "UPLOAD_STALLED")
        wait_until(lambda: server.server.library_service.spool.used_bytes() == 0)


def test_a_caller_queues_its_share_of_the_videos(tmp_path: Path) -> None:
    with house(tmp_path, max_jobs=8) as (server, ann, bob):
        for number in range(2):
            ann.ingest(number).result(HANG_SECONDS)
        assert refusal(ann.ingest(2)) == ("OVERLOADED", "max_caller_share")
        assert refusal(ann.upload(iter([b"x"]))) == ("OVERLOADED", "max_caller_share")
        ann.ingest(1).result(HANG_SECONDS)  # it waits already
        for number in range(10, 12):
            bob.ingest(number).result(HANG_SECONDS)
        assert server.server.library_service.spool.used_bytes() == 0


def test_a_full_queue_takes_no_more(tmp_path: Path) -> None:
    with house(tmp_path, max_jobs=1) as (_, ann, bob):
        ann.ingest(1).result(HANG_SECONDS)
        assert refusal(bob.ingest(2)) == ("OVERLOADED", "max_jobs")


def test_a_caller_fills_its_share_of_the_spool(tmp_path: Path) -> None:
    with house(tmp_path, max_spool_bytes=40_000) as (server, ann, bob):
        ann.upload(iter([bytes(6000)]), "a.mp4").result(HANG_SECONDS)
        assert refusal(ann.upload(iter([bytes(3000), bytes(3000)]), "b.mp4")) == ("SPOOL_FULL", "max_caller_share")
        bob.upload(iter([bytes(9000)]), "c.mp4").result(HANG_SECONDS)
        ann.upload(iter([bytes(3000)]), "d.mp4").result(HANG_SECONDS)  # the refused upload has returned its bytes
        assert server.server.library_service.spool.used_bytes() == 18_000


def test_page_tokens_of_one_caller_never_push_out_anothers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.api.services.search.ExpiringCache", partial(ExpiringCache, max_count=2))
    films = [write_scenes(tmp_path / f"{n}.mp4", [("red", 3 + n), ("blue", 2)]) for n in range(2)]
    list(index([str(film) for film in films], tmp_path / "data", Settings(workers=2), progress=SilentProgress()))
    with house(tmp_path / "data") as (_, ann, bob):
        first = bob.ask("red", page_size=1).result(HANG_SECONDS)
        same = ann.ask("red", page_size=1).result(HANG_SECONDS)  # the same answer, and a token of her own
        for text in ("blue", "green", "yellow"):
            assert ann.ask(text, page_size=1).result(HANG_SECONDS).next_page_token
        assert len(bob.ask("red", page_size=1, page_token=first.next_page_token).result(HANG_SECONDS).videos) == 1
        gone = ann.ask("red", page_size=1, page_token=same.next_page_token)
        assert gone.exception(HANG_SECONDS) is not None
        assert read_refusal(gone) == ("FAILED_PRECONDITION", "PAGE_TOKEN_EXPIRED")


def test_calls_of_one_caller_leave_room_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with house(tmp_path, max_concurrent_calls=4, query_workers=4) as (server, ann, bob):
        go_on, begun, engine = threading.Event(), threading.Event(), server.server.loaded.require().engine
        rank = engine.rank_videos
        monkeypatch.setattr(
            engine, "rank_videos", lambda *given: (begun.set(), go_on.wait(HANG_SECONDS), rank(*given))[2]
        )
        taken = ann.ask("red")
        assert begun.wait(HANG_SECONDS)
        assert refusal(ann.ask("blue")) == ("OVERLOADED", "max_caller_share")
        bob.ingest(1).result(HANG_SECONDS)
        go_on.set()
        taken.result(HANG_SECONDS)
