"""A real server in this process, on a free loopback port, with exact encoders."""

import asyncio
import sys
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
from grpc_status import rpc_status

from serve.api.build import build_server
from serve.api.server import Server
from serve.client.client import Client
from serve.config import ServerConfig
from serve.console.http_server import HttpServer, open_http
from serve.errors import ServerFailed
from serve.settings import Settings
from support.waiting import HANG_SECONDS

INGEST_CHILD = [sys.executable, str(Path(__file__).with_name("ingest_child.py"))]


@dataclass
class Running:
    """A running server, and its event loop."""

    server: Server
    loop: asyncio.AbstractEventLoop
    address: str

    @property
    def url(self) -> str:
        """The address of HTTP."""
        assert isinstance(self.server.http, HttpServer)
        return self.server.http.url

    def call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(HANG_SECONDS)


@contextmanager
def running(
    directory: Path,
    settings: Settings | None = None,
    *,
    warm: bool = True,
    ingest_command: Sequence[str] = INGEST_CHILD,
    **config: Any,
) -> Iterator[Running]:
    """Run a server until the block ends; further keywords are settings of ServerConfig. HTTP is off without one."""
    settings = settings or Settings(workers=2)
    config = {"listen": "127.0.0.1:0", "http_listen": "", "drain_seconds": 5.0, "query_workers": 4, **config}
    settings = replace(settings, server=ServerConfig(**config))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="server")
    thread.start()

    async def start() -> Server:
        server = build_server(directory, settings, ingest_command=ingest_command)
        server.http = open_http(server)
        await server.start()
        if warm:
            await server.warm_up()
        return server

    try:
        server = asyncio.run_coroutine_threadsafe(start(), loop).result(HANG_SECONDS)
        try:
            yield Running(server=server, loop=loop, address=f"127.0.0.1:{server.port}")
        finally:
            asyncio.run_coroutine_threadsafe(server.stop(), loop).result(HANG_SECONDS)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(HANG_SECONDS)
        loop.close()


def metrics_of(server: Running) -> dict[str, float]:
    with urllib.request.urlopen(server.server.metrics_address) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def is_ready(client: Client) -> bool:
    try:
        list(client.videos())
    except ServerFailed:
        return False
    return True


def read_refusal(error: grpc.RpcError) -> tuple[str, str]:
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert status is not None
    info = next(one for one in status.details if one.type_url.endswith("ErrorInfo"))
    from google.rpc import error_details_pb2

    found = error_details_pb2.ErrorInfo()
    info.Unpack(found)
    return error.code().name, found.reason  # type: ignore[attr-defined]
