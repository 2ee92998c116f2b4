"""The outermost layer of HTTP: refuses requests that a foreign web page made, and sets the headers of all responses.

A browser lets any page send requests to any address, also to a server on loopback that asks for no token. Three headers
tell such requests apart, and no page can change them: Host (a page whose name was made to point to this address, "DNS
rebinding", names itself there), Origin and Sec-Fetch-Site.
"""

import ipaddress
from collections.abc import Collection
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse

OWN_NAMES = frozenset({"localhost"})  # addresses need no name: nobody can make them point elsewhere
HTTP_VERSIONS = ("1.0", "1.1")  # h11 takes any digits
SAFE_METHODS = ("GET", "HEAD")
HEADERS = {
    "cache-control": "no-cache",  # pages and scripts are asked for again, and are those of the present server
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class Guard:
    """Wraps an ASGI application."""

    def __init__(self, app: Any, names: Collection[str]) -> None:
        """Wrap an application; `names` are those of server.http_names, by which browsers may reach it."""
        self.app, self.names = app, OWN_NAMES | {name.lower() for name in names}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        # Headers are ASCII. Others are of no use to us, and not everybody behind us decodes them.
        scope["headers"] = [(name, value) for name, value in scope["headers"] if value.isascii()]
        headers = Headers(scope=scope)

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                response = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    response.setdefault(name, value)
                if message["status"] == 401:
                    response.setdefault("www-authenticate", "Bearer")
            await send(message)

        problem = self.problem(scope["method"], headers)
        if scope["http_version"] not in HTTP_VERSIONS:
            await PlainTextResponse("unknown version of HTTP\n", status_code=400)(scope, receive, send_with_headers)
        elif problem:
            await PlainTextResponse(f"{problem}\n", status_code=403)(scope, receive, send_with_headers)
        else:
            await self.app(scope, receive, send_with_headers)

    def problem(self, method: str, headers: Headers) -> str:
        """Return why a request is refused; empty: it is not."""
        host = headers.get("host", "")
        if not is_address(host) and host_name(host) not in self.names:
            return "this server is not known by that name: add it to server.http_names"
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return "requests of other sites' pages are refused"
        site = headers.get("sec-fetch-site", "none")
        # A link on another site to a page of ours, which a person followed, is no request of that site's page.
        is_followed_link = (
            method in SAFE_METHODS
            and headers.get("sec-fetch-mode") == "navigate"
            and headers.get("sec-fetch-dest") == "document"
        )
        if site not in ("none", "same-origin") and not is_followed_link:
            return "requests of other sites' pages are refused"
        return ""


def host_name(host: str) -> str:
    """Return the name or the address in a Host header, without the port and brackets; empty if it is malformed."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def is_address(host: str) -> bool:
    """Whether a Host header names an IP address."""
    try:
        ipaddress.ip_address(host_name(host))
    except ValueError:
        return False
    return True
