"""A server with more calls than it takes says so, and a chatty connection is not hung up on."""

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_status import rpc_status

from kinodex.v1 import library_service_pb2 as library_pb2
from kinodex.v1 import moment_pb2
from kinodex.v1 import search_service_pb2 as search_pb2
from kinodex.v1.library_service_pb2_grpc import LibraryServiceStub
from kinodex.v1.search_service_pb2_grpc import SearchServiceStub
from serve.api import build
from serve.api.build import build_server, run_server
from serve.api.server import Server
from serve.client.channel import _retry_policy
from serve.config import ServerConfig
from serve.settings import Settings
from support.fakes import use_fakes
from support.running import Running, read_refusal, running
from support.waiting import HANG_SECONDS

pytestmark = pytest.mark.slow

NO_WORKER = ["sh", "-c", "exec cat"]
SETTINGS, PING, GOAWAY = 4, 6, 7  # kinds of frames of HTTP/2
CALL_COUNT = 1500  # at once on one connection: more than gRPC itself takes without a word


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        use_fakes(patch)
        with running(tmp_path_factory.mktemp("overload") / "data", ingest_command=NO_WORKER) as started:
            yield started


def test_calls_at_once_on_one_connection_are_served_or_refused_with_the_limit(server: Running) -> None:
    async def ask(stub: LibraryServiceStub) -> str:
        try:
            await stub.ListVideos(library_pb2.ListVideosRequest(), timeout=HANG_SECONDS)  # type: ignore[misc]
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name} {read_refusal(error)[1]}"  # type: ignore[arg-type]
        return "OK"

    async def ask_all() -> Counter[str]:
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = LibraryServiceStub(channel)
            return Counter(await asyncio.gather(*(ask(stub) for _ in range(CALL_COUNT))))

    outcomes = asyncio.run(ask_all())
    assert outcomes.keys() <= {"OK", "RESOURCE_EXHAUSTED OVERLOADED"}
    assert outcomes.total() == CALL_COUNT


def test_a_refusal_names_the_limit_and_when_to_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)
    with (
        running(tmp_path / "data", max_concurrent_calls=1, ingest_command=NO_WORKER) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        go_on, engine = threading.Event(), server.server.loaded.require().engine
        begun, rank = threading.Event(), engine.rank_videos
        monkeypatch.setattr(
            engine, "rank_videos", lambda *given: (begun.set(), go_on.wait(HANG_SECONDS), rank(*given))[2]
        )
        stub, request = SearchServiceStub(channel), search_pb2.SearchVideosRequest(query=moment_pb2.Query(text="red"))
        taken = stub.SearchVideos.future(request)
        assert begun.wait(HANG_SECONDS)
        with pytest.raises(grpc.RpcError) as caught:
            stub.SearchVideos(request)
        go_on.set()
        assert taken.result(HANG_SECONDS).videos == []
    status = rpc_status.from_call(caught.value)  # type: ignore[arg-type]
    assert status is not None
    info, retry = ErrorInfo(), RetryInfo()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(retry)
    assert (info.metadata["limit"], info.metadata["what"]) == ("max_concurrent_calls", "calls")
    assert retry.retry_delay.ToTimedelta().total_seconds() > 0


def test_a_client_that_pings_often_is_not_hung_up_on(server: Running) -> None:
    """gRPC's own clients ping often while they read a long answer; gRPC's default takes the third for an attack."""
    host, _, port = server.address.rpartition(":")
    ping, settings, acknowledge = frame(PING, b"12345678"), frame(SETTINGS), frame(SETTINGS, flags=1)
    with socket.create_connection((host, int(port))) as connection, connection.makefile("rb") as reader:
        connection.settimeout(HANG_SECONDS)
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings + acknowledge)
        answered_count = 0
        for _ in range(20):
            connection.sendall(ping)
            kind = None
            while kind != PING:
                head = reader.read(9)
                assert head, "the server hung up"
                kind = head[3]
                assert kind != GOAWAY, reader.read(int.from_bytes(head[:3], "big"))
                reader.read(int.from_bytes(head[:3], "big"))
            answered_count += 1
        assert answered_count == 20


def frame(kind: int, content: bytes = b"", flags: int = 0) -> bytes:
    """Write a frame of HTTP/2 that concerns the whole connection."""
    return len(content).to_bytes(3, "big") + bytes([kind, flags]) + bytes(4) + content


def test_a_server_whose_address_cannot_be_announced_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)
    built: list[Server] = []

    def build_and_note(*given: Any, **named: Any) -> Server:
        built.append(build_server(*given, **named))
        return built[-1]

    monkeypatch.setattr(build, "build_server", build_and_note)

    def announce(address: str) -> None:
        raise BrokenPipeError("nobody reads the pipe")

    async def run() -> None:
        settings = Settings(server=ServerConfig(listen="127.0.0.1:0"))
        with pytest.raises(BrokenPipeError):
            await run_server(tmp_path / "data", settings, None, announce, ingest_command=NO_WORKER)

    asyncio.run(asyncio.wait_for(run(), HANG_SECONDS))
    assert built[0].is_stopping


def test_our_client_repeats_calls_of_every_service() -> None:
    services = {name["service"].rpartition(".")[2] for name in _retry_policy()["name"]}
    assert services == {"SearchService", "LibraryService", "ModerationService", "ServerService"}
