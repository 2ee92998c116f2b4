"""HttpServer: uvicorn on server.http_listen, in the process and on the event loop of the gRPC server."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from serve.api.server import Server
from serve.api.strangers import split_connections
from serve.api.tls import check_exposure
from serve.api.workers import Workers
from serve.clips.maker import ClipMaker
from serve.config import ServerConfig, host_and_port
from serve.console.app import make_application
from serve.console.connections import HttpConnection
from serve.errors import SettingsError
from serve.observe.certificate import ServedCertificate

BACKLOG = 512  # connections that the system holds until they are accepted
IDLE_SECONDS = 60  # without a request, until a connection is closed
HANDSHAKE_SECONDS = 10.0  # for TLS, as over gRPC
CLIP_THREADS = 1  # clips that are made at once: each may keep a core busy
MAX_WAITING_CLIPS = 32
CLIP_SHARE = 0.25  # of the waiting clips, those of one caller at most
START_SECONDS = 0.01  # between two looks whether uvicorn has started


def open_http(server: Server) -> "HttpServer | None":
    """Bind the HTTP address of a server; None: it has none.

    Raises:
        SettingsError: If it would listen unprotected, or cannot listen there.
    """
    config = server.config
    if not config.http_listen:
        return None
    check_exposure(config, has_tokens=server.interceptor.tokens is not None, setting="http_listen")
    bound = bind(config.http_listen)
    maker = ClipMaker(server.reader, server.directory, server.settings, workers=CLIP_THREADS)
    clip_workers = Workers(
        "clips", CLIP_THREADS, MAX_WAITING_CLIPS, lambda count: None, limit="clips that wait", share=CLIP_SHARE
    )

    def close() -> None:
        clip_workers.close()
        maker.close()

    try:
        app = make_application(server, maker, clip_workers)
        return HttpServer(config, bound, app, split_connections(config)[1], close)
    except BaseException:
        bound.close()
        raise


def bind(listen: str) -> socket.socket:
    """Return a socket that is bound to HOST:PORT.

    Raises:
        SettingsError: If it cannot be bound.
    """
    host, port = host_and_port(listen)
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        # With its protocol: asyncio turns off Nagle's algorithm, 40 ms an answer, only where it is known.
        bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            bound.listen(BACKLOG)  # now: a second server would only notice the first one that listens
        except BaseException:
            bound.close()
            raise
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(
            f"cannot listen on {listen} for HTTP: {reason}: set server.http_listen to another address, or to nothing"
        ) from error
    bound.setblocking(False)
    return bound


class HttpServer:
    """A bound HTTP server. start() makes it answer, stop() ends it."""

    def __init__(
        self,
        config: ServerConfig,
        bound: socket.socket,
        app: Any,
        connection_count: int,
        close: Callable[[], None],
    ) -> None:
        """Take a bound socket; `close` is called once no call runs any more."""
        self._close = close
        self._socket = bound
        host, _ = host_and_port(config.http_listen)
        name = f"[{host}]" if ":" in host else host
        self.url = f"{'https' if config.tls_certificate else 'http'}://{name}:{bound.getsockname()[1]}"
        connection = type("HttpConnection", (HttpConnection,), {"max_connection_count": connection_count})
        self._uvicorn = _Uvicorn(
            uvicorn.Config(
                app,
                lifespan="off",
                ws="none",
                http=connection,
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=IDLE_SECONDS,
            ),
            ServedCertificate(config, "HTTP") if config.tls_certificate else None,
        )
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._running = asyncio.create_task(self._uvicorn.serve(sockets=[self._socket]), name="http")
        while not self._uvicorn.started and not self._running.done():
            await asyncio.sleep(START_SECONDS)
        if self._running.done():
            self._running.result()

    async def stop(self, drain_seconds: float) -> None:
        """Accept no more connections, give running calls `drain_seconds` to end, then end them."""
        self._uvicorn.config.timeout_graceful_shutdown = max(1, round(drain_seconds))
        self._uvicorn.should_exit = True
        if self._running is None:
            self._socket.close()
        else:
            await asyncio.wait((self._running,))
        await asyncio.to_thread(self._close)


class _Uvicorn(uvicorn.Server):
    """uvicorn's server, which leaves the listening and the signals to us."""

    def __init__(self, config: uvicorn.Config, certificate: ServedCertificate | None) -> None:
        super().__init__(config)
        self._certificate = certificate

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen. uvicorn itself would allow a TLS handshake a minute, and keep a renewed certificate out."""
        config, loop = self.config, asyncio.get_running_loop()

        def connect() -> asyncio.Protocol:
            make: Any = config.http_protocol_class
            protocol: asyncio.Protocol = make(config=config, server_state=self.server_state, app_state={})
            return protocol

        context = None if self._certificate is None else renewed_context(self._certificate)
        handshake = None if context is None else HANDSHAKE_SECONDS
        self.servers = [
            await loop.create_server(
                connect, sock=each, ssl=context, ssl_handshake_timeout=handshake, backlog=config.backlog
            )
            for each in sockets or ()
        ]
        self.started = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the process: run_server() ends both servers."""
        yield


def renewed_context(certificate: ServedCertificate) -> ssl.SSLContext:
    """Return a TLS context whose connections get the certificate as it is then."""
    context = certificate.context()

    def renew(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        connection.context = certificate.context()

    context.sni_callback = renew  # called for each handshake
    return context
