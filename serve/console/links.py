"""Signed links to pictures and media, for <img> and <video>, which can send no token.

A caller with a token has its links signed: POST /links {"paths": ["/media/VIDEO"]}. A link opens its path alone, for
LINK_SECONDS, and no more than the token of its signer opens then: a revoked token ends its links too. The token is not
in it. A server without tokens needs no links, and leaves the paths as they are.
"""

import json
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from kinodex.v1 import library_service_pb2
from serve.api.pages import PageSigner
from serve.api.tokens import LinkedToken, token_id_of
from serve.console.calls import EXCHANGE, CallFailed, Calls
from serve.console.replies import error_reply, failure_reply
from serve.errors import PageTokenInvalid

LINK_SECONDS = 3600.0  # a film is seldom watched longer; a page signs anew before that
LINKED_PATHS = ("/frames/", "/strips/", "/media/", "/clips/")
MAX_PATHS = 200  # of one request: the pictures of a page
MAX_BODY_BYTES = 256 << 10  # of one request
METHOD = "kinodex.http/SignLinks"


class Links:
    """Signs links and checks them."""

    def __init__(self, signer: PageSigner, clock: Callable[[], float] = time.time) -> None:
        self._signer, self._clock = signer, clock

    def sign(self, path: str, token_id: str) -> str:
        """Return a path with its query, signed for a token."""
        payload = {"token": token_id, "expires": int(self._clock() + LINK_SECONDS)}
        link = self._signer.sign(payload, binding=_binding(path))
        return f"{path}{'&' if urlsplit(path).query else '?'}link={link}"

    def token_of(self, path: str, link: str) -> LinkedToken:
        """Return the token that a link was signed for; an empty one if it is not of this path, or has expired."""
        try:
            payload = self._signer.verify(link, binding=_binding(path))
        except PageTokenInvalid:
            return LinkedToken("")
        return LinkedToken(str(payload["token"]) if self._clock() < payload["expires"] else "")


def _binding(path: str) -> bytes:
    """Return what a link is bound to: the path as the server reads it. The query chooses a part of that."""
    return b"link\n" + unquote(urlsplit(path).path).encode("utf-8", "surrogatepass")


class LinkRoutes:
    """The page that signs links."""

    def __init__(self, calls: Calls, links: Links) -> None:
        self.calls, self.links = calls, links

    def routes(self) -> list[Route]:
        return [Route("/links", self.sign, methods=["POST"])]

    async def sign(self, request: Request) -> Response:
        exchange = EXCHANGE.get()

        async def behaviour(message: Any, context: Any) -> Response:
            paths = await read_paths(request)
            if paths is None:
                return error_reply("invalid_argument", f'send JSON: {{"paths": [...]}}, at most {MAX_PATHS} paths')
            for path in paths:
                if not path.startswith(LINKED_PATHS) or "#" in path:
                    return error_reply("invalid_argument", f"a path must begin with one of {', '.join(LINKED_PATHS)}")
            token_id = token_id_of(exchange.metadata.get("authorization", ""))
            signed = [self.links.sign(path, token_id) if token_id else path for path in paths]
            return JSONResponse({"links": signed, "seconds": LINK_SECONDS}, headers={"cache-control": "no-store"})

        try:
            reply: Response = await self.calls.run(METHOD, behaviour, library_service_pb2.GetVideoRequest(), exchange)
        except CallFailed as failed:
            return failure_reply(failed)
        return reply


async def read_paths(request: Request) -> list[str] | None:
    """Return the paths of a request; None if it is no such request."""
    body = b""
    async for block in request.stream():
        body += block
        if len(body) > MAX_BODY_BYTES:
            return None
    try:
        paths = json.loads(body)["paths"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    is_usable = isinstance(paths, list) and len(paths) <= MAX_PATHS and all(isinstance(path, str) for path in paths)
    return paths if is_usable else None
