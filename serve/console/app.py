"""The HTTP application: the calls of the API, pictures, and the console's pages, behind the guard."""

import asyncio
from pathlib import Path
from typing import Any

from connectrpc.code import Code
from connectrpc.errors import ConnectError
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from serve.api.server import Server
from serve.api.workers import Workers
from serve.clips.maker import ClipMaker
from serve.console.calls import EXCHANGE, Calls, Exchange
from serve.console.guard import Guard
from serve.console.links import LinkRoutes, Links
from serve.console.media import MediaRoutes
from serve.console.pictures import PictureRoutes

PAGES = ("/", "/video/{video_id}", "/library", "/live", "/events", "/about")  # as in static/app.js
STATIC = Path(__file__).with_name("static")


def make_application(server: Server, maker: ClipMaker, clip_workers: Workers) -> Any:
    """Return the ASGI application of a server, which gives out files and clips with these."""
    links = Links(server.library_service.signer)
    calls = Calls(server.interceptor, server.servicers)
    media = MediaRoutes(calls, server.library_service, links, maker, clip_workers)
    connect = _RefuseGrpc(calls.application(server.config.max_message_bytes))

    async def page(request: Request) -> Response:
        return FileResponse(STATIC / "index.html")

    async def health(request: Request) -> Response:
        is_ready = server.loaded.library is not None and not server.is_stopping
        return PlainTextResponse("ready\n" if is_ready else "not ready\n", status_code=200 if is_ready else 503)

    routes = [
        *(Mount(f"/{service.full_name}", app=connect) for service in server.servicers),
        Route("/healthz", health, methods=["GET"]),
        *LinkRoutes(calls, links).routes(),
        *PictureRoutes(calls, server.library_service, links).routes(),
        *media.routes(),
        Mount("/console", app=StaticFiles(directory=STATIC)),
        *(Route(path, page, methods=["GET"]) for path in PAGES),
    ]
    return Guard(_Exchanges(Starlette(routes=routes), server.config.max_call_seconds), server.config.http_names)


class _Exchanges:
    """Makes the Exchange of each request, and ends it."""

    def __init__(self, app: Any, max_request_seconds: float) -> None:
        """Wrap an application; a call's request has `max_request_seconds` to arrive."""
        self.app, self.max_request_seconds = app, max_request_seconds

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        exchange = Exchange(
            metadata=dict(Headers(scope=scope)),
            peer=peer_of(scope["client"]),
            certificate_names=scope["state"]["certificate_names"],
        )
        EXCHANGE.set(exchange)
        deadline = asyncio.get_running_loop().time() + self.max_request_seconds

        async def receive_in_time() -> Any:
            """Receive a part of the request.

            Raises:
                ConnectError: If the request of an admitted call does not arrive in time. Later, the call itself has a
                    deadline, and an upload a pace of its own.
            """
            if not exchange.is_arriving:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    return await receive()
            except TimeoutError:
                raise ConnectError(Code.DEADLINE_EXCEEDED, "the request did not arrive in time") from None

        with exchange.place:
            await self.app(scope, receive_in_time, send)


class _RefuseGrpc:
    """Refuses gRPC, which needs HTTP/2 and has an address of its own. gRPC-Web is no gRPC."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        content_type = Headers(scope=scope).get("content-type", "").partition(";")[0].strip().lower()
        if content_type == "application/grpc" or content_type.startswith("application/grpc+"):
            text = "gRPC has an address of its own (server.listen); here are Connect and gRPC-Web\n"
            await PlainTextResponse(text, status_code=415)(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def peer_of(client: tuple[str, int] | None) -> str:
    """Return a peer as gRPC writes it: ipv4:ADDRESS:PORT, or ipv6:[ADDRESS]:PORT."""
    host, port = client or ("", 0)
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"
