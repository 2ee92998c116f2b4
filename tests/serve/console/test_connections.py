"""One HTTP connection: clients that are slow, read nothing, or send more than was asked for."""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest

from serve.config import ServerConfig
from serve.console import connections
from serve.console.connections import certificate_names
from serve.console.http_server import HttpServer, bind
from support.waiting import HANG_SECONDS, wait_until

GET = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
LARGE = b"x" * (8 << 20)  # more than the buffers of both sides


async def answer_at_length(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": LARGE})


async def answer_never(scope: Any, receive: Any, send: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def exchange(app: Any, sent: Callable[[socket.socket], None]) -> bytes:
    """Send something to a server on a connection; return all that came, if the server ended the connection."""

    def connect(url: str) -> bytes:
        address = urlsplit(url)
        with socket.create_connection((address.hostname or "", address.port or 0), timeout=HANG_SECONDS) as opened:
            received = b""
            with contextlib.suppress(ConnectionError):
                sent(opened)
                while block := opened.recv(1 << 16):
                    received += block
            return received

    async def run() -> bytes:
        config = ServerConfig(http_listen="127.0.0.1:0")
        server = HttpServer(config, bind(config.http_listen), app, connection_count=10, close=lambda: None)
        await server.start()
        try:
            return await asyncio.to_thread(connect, server.url)
        finally:
            await server.stop(1.0)

    return asyncio.run(run())


@pytest.mark.slow
@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nX: "])
def test_a_client_that_sends_no_whole_request_is_cut_off(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.2)
    assert exchange(answer_at_length, lambda opened: opened.sendall(sent)) == b""


@pytest.mark.slow
def test_a_client_that_reads_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "STALL_SECONDS", 0.2)
    ended = []

    class Noting(connections.HttpConnection):
        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            ended.append(self)

    monkeypatch.setattr("serve.console.http_server.HttpConnection", Noting)

    def wait(opened: socket.socket) -> None:
        opened.sendall(GET)
        wait_until(lambda: bool(ended))  # and read nothing

    assert len(exchange(answer_at_length, wait)) < len(LARGE)


@pytest.mark.slow
def test_a_client_that_does_not_wait_for_answers_is_cut_off() -> None:
    def send(opened: socket.socket) -> None:
        while True:
            opened.sendall(GET)

    assert exchange(answer_never, send) == b""


@pytest.mark.parametrize(
    ("certificate", "names"),
    [
        (None, ()),
        ({}, ()),
        ({"subject": ((("commonName", "laptop"),),)}, (b"laptop",)),
        ({"subject": ((("commonName", "x"),),), "subjectAltName": (("DNS", "a"), ("URI", "b"))}, (b"a", b"b")),
    ],
)
def test_a_certificate_has_the_names_that_grpc_takes(certificate: Any, names: tuple[bytes, ...]) -> None:
    assert certificate_names(certificate) == names
