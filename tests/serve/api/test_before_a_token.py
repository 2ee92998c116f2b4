"""Strangers at a real server with tokens: they are refused on their headers, and hold nothing that others need."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from kinodex.v1 import library_service_pb2 as library_pb2
from kinodex.v1.library_service_pb2_grpc import LibraryServiceStub
from serve.api import strangers
from serve.api.build import SERVICES
from serve.api.tokens import create_token
from support.callers import NOW, bearer
from support.fakes import use_fakes
from support.running import Running, read_refusal, running
from support.waiting import HANG_SECONDS, wait_until

pytestmark = pytest.mark.slow

NO_WORKER = ["sh", "-c", "exec cat"]
METHODS = [
    "kinodex.v1.SearchService/SearchMoments",
    "kinodex.v1.SearchService/WatchMoments",
    "kinodex.v1.LibraryService/IngestVideo",
    "kinodex.v1.LibraryService/UploadVideo",
    "kinodex.v1.ModerationService/WatchEvents",
    "kinodex.v1.ServerService/GetServerInfo",
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
]


def test_the_methods_are_of_all_services() -> None:
    assert {method.partition("/")[0] for method in METHODS} > set(SERVICES)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("strangers") / "data"
    create_token(folder / "tokens.json", "boss", collections=None, can_write=True, expire_time=None, now=NOW)
    with pytest.MonkeyPatch.context() as patch:
        use_fakes(patch)
        with running(folder, ingest_command=NO_WORKER) as started:
            yield started


@contextlib.contextmanager
def unsent(channel: grpc.Channel, method: str, metadata: Any = ()) -> Iterator[Any]:
    """A call whose headers are sent, and never a request."""
    is_over = threading.Event()

    def requests() -> Iterator[bytes]:
        is_over.wait(HANG_SECONDS)
        yield from ()

    call = channel.stream_stream(f"/{method}", lambda content: content, lambda content: content)(
        requests(), metadata=metadata, timeout=HANG_SECONDS
    )
    try:
        yield call
    finally:
        is_over.set()
        call.cancel()


@pytest.mark.parametrize("method", METHODS)
def test_a_call_without_a_token_is_refused_before_its_request_comes(server: Running, method: str) -> None:
    with grpc.insecure_channel(server.address) as channel, unsent(channel, method) as call:
        with pytest.raises(grpc.RpcError):
            next(call)
        assert read_refusal(call) == ("UNAUTHENTICATED", "UNAUTHENTICATED")


def test_an_upload_by_a_token_for_reading_is_refused_before_its_header_comes(server: Running) -> None:
    reader = bearer(server, "reader", can_write=False)
    upload = "kinodex.v1.LibraryService/UploadVideo"
    with grpc.insecure_channel(server.address) as channel, unsent(channel, upload, reader) as call:
        with pytest.raises(grpc.RpcError):
            next(call)
        assert read_refusal(call) == ("PERMISSION_DENIED", "PERMISSION_DENIED")


def test_a_health_check_without_a_token_is_small_and_in_time(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "READ_SECONDS", 0.2)
    with grpc.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
        long = health_pb2.HealthCheckRequest(service="x" * (1 << 20))
        for call in (health.Check.future(long), health.Watch(long)):
            assert call.code() is grpc.StatusCode.INVALID_ARGUMENT
        for method in ("Check", "Watch"):
            with unsent(channel, f"grpc.health.v1.Health/{method}") as call:
                assert call.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_health_watches_without_a_token_are_few_and_those_of_callers_are_not_among_them(server: Running) -> None:
    request = health_pb2.HealthCheckRequest()
    with grpc.insecure_channel(server.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch
        watches = [watch(request) for _ in range(int(strangers.MAX_WATCHES * strangers.ADDRESS_SHARE))]
        for each in watches:
            next(each)
        refused = watch(request)
        assert read_refusal(refused)[0] == "RESOURCE_EXHAUSTED"
        known = watch(request, metadata=bearer(server, "watcher"))
        assert next(known).status == health_pb2.HealthCheckResponse.SERVING
        for each in (*watches, known):
            each.cancel()

        def is_free() -> bool:
            again = watch(request)
            try:
                next(again)
            except grpc.RpcError:
                return False
            again.cancel()
            return True

        wait_until(is_free)


def test_connections_that_say_nothing_are_closed_and_leave_room_for_callers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fakes(monkeypatch)
    monkeypatch.setattr(strangers, "reserve_files", lambda: 20)
    monkeypatch.setattr(strangers, "HANDSHAKE_SECONDS", 1)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(running(tmp_path / "data", ingest_command=NO_WORKER))
        host, _, port = server.address.rpartition(":")
        silent = [stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(40)]
        for each in silent:
            each.settimeout(HANG_SECONDS)
            with contextlib.suppress(ConnectionError):
                while each.recv(4096):  # until the server hangs up; its first bytes may come before
                    pass
        with grpc.insecure_channel(server.address) as channel:
            answer = LibraryServiceStub(channel).ListVideos(
                library_pb2.ListVideosRequest(), wait_for_ready=True, timeout=HANG_SECONDS
            )
        assert answer.videos == []


def test_a_connection_without_calls_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)
    monkeypatch.setattr(strangers, "IDLE_SECONDS", 1)
    with running(tmp_path / "data", ingest_command=NO_WORKER) as server:
        host, _, port = server.address.rpartition(":")
        with socket.create_connection((host, int(port))) as idle:
            idle.settimeout(HANG_SECONDS)
            idle.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")  # the preface, and no settings
            idle.sendall(b"\0\0\0\4\1\0\0\0\0")  # the server's settings are accepted
            while idle.recv(4096):
                pass


def test_files_are_reserved_for_the_servers_own_work(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [(100, 1000), (100, 100_000), (-1, -1)]
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(strangers.resource, "RLIM_INFINITY", -1)
    monkeypatch.setattr(strangers.resource, "setrlimit", lambda which, pair: raised.append(pair))
    found = []
    for limit in limits:
        monkeypatch.setattr(strangers.resource, "getrlimit", lambda which, limit=limit: limit)
        found.append(strangers.reserve_files())
    assert found == [500, strangers.MAX_CONNECTIONS, strangers.MAX_CONNECTIONS]
    assert raised == [(1000, 1000), (strangers.MAX_CONNECTIONS + strangers.RESERVED_FILES, 100_000)]
