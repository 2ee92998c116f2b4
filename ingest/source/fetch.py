"""Downloads one http(s) URL into a file, and checks each host and address, also of redirects, against the URI policy.

Proxies of the environment are not used: a proxy looks up the name itself, and could connect to another address than the
one that was checked.
"""

import base64
import hashlib
import http.client
import io
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import BinaryIO, cast
from urllib.parse import quote, unquote, urljoin, urlsplit

from ingest.config import SourceConfig
from ingest.errors import LimitExceeded, SourceNotFound, SourceRefused, SourceUnavailable, SourceUnreadable
from ingest.source.addresses import Endpoint, is_allowed, resolve
from ingest.source.content_encoding import decode_blocks, parse_encodings
from ingest.source.redaction import redact_uri

Progress = Callable[[int, int | None], None]  # called with the bytes so far, and with all bytes if that is known

READ_BYTES = 1 << 18  # of one read: few calls, but several progress reports a second on a slow line
MIN_BYTES_PER_SECOND = 1024  # slower downloads fail, or a drip feed could hold a worker; telephone audio is faster
_EAI_NODATA = getattr(socket, "EAI_NODATA", socket.EAI_NONAME)  # the name exists, without an address
_REDIRECTS = (301, 302, 303, 307, 308)
_PORTS = {"http": 80, "https": 443}
_SAFE_IN_TARGET = "/%:@!$&'()*+,;=~?-._[]|"  # characters that stay as they are; all others are percent-encoded
_HOST = re.compile(r"[a-z0-9._-]+", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Url:
    """A valid http(s) URL, split into the parts of a request."""

    scheme: str
    host: str  # lower case, IDNA, without brackets
    port: int
    target: str  # path and query, percent-encoded
    authorization: str | None  # the Authorization header for its user:password

    @property
    def authority(self) -> str:
        """The Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def text(self) -> str:
        """The URL without credentials."""
        return f"{self.scheme}://{self.authority}{self.target}"


def has_control_characters(uri: str) -> bool:
    """Whether a URI has characters that urlsplit drops silently: the checked URI would differ from the given one."""
    return any(ord(character) < 0x20 or ord(character) == 0x7F for character in uri)


def download(url: str, config: SourceConfig, *, into: BinaryIO, progress: Progress | None = None) -> str:
    """Append the bytes of a URL to a file, without any content encoding; return their SHA-256 in hex.

    Args:
        url: http or https. A user:password is sent as Basic authorization, to this host only.
        progress: Called after each read.
    Raises:
        SourceRefused: If the policy forbids the scheme, host or address, here or after a redirect; if an encoded body
            unpacks to far more than it is.
        SourceNotFound: If the server answers 404 or 410.
        SourceUnreadable: If it answers 401 or 403.
        SourceUnavailable: If the server cannot be reached, fails, hangs, sends less than it announced, or uses a
            content encoding that is unknown or damaged.
        LimitExceeded: If it exceeds max_bytes, max_redirects or max_fetch_seconds.
    """
    name = redact_uri(url)
    deadline = time.monotonic() + config.max_fetch_seconds
    try:
        return _follow_redirects(url, name, config, deadline, into, progress)
    except TimeoutError as e:
        if time.monotonic() >= deadline:
            raise _too_long(name, config) from e
        reason = f"no answer, or too slow a one, within {config.timeout_seconds:g} s"
        raise SourceUnavailable(name, reason, "try later, or raise timeout_seconds") from e
    except ssl.SSLCertVerificationError as e:
        raise SourceUnavailable(name, f"the certificate is not valid, {e.verify_message}") from e
    except http.client.HTTPException as e:
        reason = f"the server's answer breaks off or is not HTTP ({type(e).__name__})"
        raise SourceUnavailable(name, reason, "try later") from e
    except OSError as e:
        raise SourceUnavailable(name, f"the connection failed, {e.strerror or e}", "try later") from e


def _too_long(name: str, config: SourceConfig) -> LimitExceeded:
    return LimitExceeded(name, "max_fetch_seconds", f"not fetched within {config.max_fetch_seconds:g} s")


def _follow_redirects(
    url: str, name: str, config: SourceConfig, deadline: float, into: BinaryIO, progress: Progress | None
) -> str:
    target = parse_url(url, name)
    for _ in range(config.max_redirects + 1):
        check_host(target, name, config)
        with _request(target, name, config, deadline) as response:
            if response.status not in _REDIRECTS:
                _check_status(response, target, name)
                return _receive_body(response, name, config, into, progress)
            location = response.headers.get("Location")
        if location is None:
            raise SourceUnavailable(name, f"{target.host} redirects without saying where to")
        # http.client decodes headers as Latin-1; servers write UTF-8
        location = location.encode("latin-1", "replace").decode("utf-8", "replace")
        target = _resolve_redirect(target, location, name)
    raise LimitExceeded(name, "max_redirects", f"more than {config.max_redirects} redirects")


def parse_url(url: str, name: str) -> Url:
    """Split an http(s) URL. Messages call it `name`, which has no secrets.

    Raises:
        SourceRefused: If it is not a valid http(s) URL.
    """
    try:
        if has_control_characters(url):
            raise ValueError("control characters")
        parts = urlsplit(url)
        host, scheme = parts.hostname or "", parts.scheme
        if ":" not in host:  # otherwise an IPv6 address, which resolve() accepts
            host = host.encode("idna").decode("ascii").lower()
            if not _HOST.fullmatch(host):
                raise ValueError("no host")
        port = _PORTS[scheme] if parts.port is None else parts.port
        if port == 0:
            raise ValueError("port 0")
        target = quote(parts.path or "/", safe=_SAFE_IN_TARGET)
        if parts.query:
            target += "?" + quote(parts.query, safe=_SAFE_IN_TARGET)
    except (ValueError, KeyError):
        # `from None`: the cause's text can contain a password
        raise SourceRefused(name, "not a valid http or https URL", "check its spelling") from None
    authorization = None
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = "Basic " + base64.b64encode(pair.encode()).decode("ascii")
    return Url(scheme=scheme, host=host, port=port, target=target, authorization=authorization)


def _resolve_redirect(origin: Url, location: str, name: str) -> Url:
    try:
        absolute = urljoin(origin.text, location)
        scheme = urlsplit(absolute).scheme
    except ValueError:
        raise SourceUnavailable(name, f"{origin.host} redirects to an invalid URL") from None
    if scheme not in _PORTS:
        raise SourceRefused(name, f"{origin.host} redirects to the scheme {scheme}:, which is not followed")
    if origin.scheme == "https" and scheme == "http":
        raise SourceRefused(
            name, f"{origin.host} redirects from https down to http", "use the http URL if you trust it"
        )
    target = parse_url(absolute, name)
    same = (target.scheme, target.host, target.port) == (origin.scheme, origin.host, origin.port)
    if same and target.authorization is None:  # another host does not get the password
        return replace(target, authorization=origin.authorization)
    return target


def check_host(url: Url, name: str, config: SourceConfig) -> None:
    """Check a URL's scheme and host against the URI policy.

    Raises:
        SourceRefused: If the policy does not allow one of them.
    """
    if url.scheme not in config.schemes:
        raise SourceRefused(name, f"the scheme {url.scheme}: is not allowed", "list it in schemes")
    host = url.host.rstrip(".")
    for pattern in config.hosts:
        wanted = pattern.lower().rstrip(".")
        if wanted in ("*", host) or (wanted.startswith("*.") and host.endswith(wanted[1:])):
            return
    raise SourceRefused(name, f"the host {host} is not allowed", "list it in hosts")


def _resolve_allowed(url: Url, name: str, config: SourceConfig, seconds: float) -> list[Endpoint]:
    """Return the addresses of a URL's host, all of them allowed.

    Raises:
        SourceRefused: If one is not allowed, or there is no such host. The two read the same, so that nobody learns
            which names an internal DNS has, and where they lead.
        SourceUnavailable: If the name cannot be looked up now.
        TimeoutError: If looking it up takes longer than `seconds`.
    """
    found: list[Endpoint] = []
    failures: list[OSError] = []

    def look_up() -> None:
        try:
            found.extend(resolve(url.host, url.port))
        except OSError as error:
            failures.append(error)

    thread = threading.Thread(target=look_up, name="resolve", daemon=True)  # the system's resolver has no time limit
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"looking up {url.host}")
    if failures and getattr(failures[0], "errno", None) not in (socket.EAI_NONAME, _EAI_NODATA):
        raise SourceUnavailable(name, f"the host {url.host} cannot be looked up now", "try later") from failures[0]
    # One forbidden address among several is an attack or a mistake.
    if not found or not all(is_allowed(endpoint.address, config.private_networks) for endpoint in found):
        reason = f"the host {url.host} does not exist, or its address is not public"
        raise SourceRefused(name, reason, "check its spelling, or list its network in private_networks")
    return found


def _connect_checked(url: Url, name: str, config: SourceConfig, deadline: float) -> socket.socket:
    """Connect to an address that was checked, so that a second DNS answer cannot lead elsewhere.

    Looking up the name, and trying all addresses, take timeout_seconds at most.
    """
    started = time.monotonic()
    last = min(deadline, started + config.timeout_seconds)
    endpoints = _resolve_allowed(url, name, config, last - started)
    failure: OSError = TimeoutError(f"connecting to {url.host}")
    for number, endpoint in enumerate(endpoints):
        remaining_seconds = last - time.monotonic()
        if remaining_seconds <= 0:
            break
        connection = socket.socket(endpoint.family, socket.SOCK_STREAM)
        try:
            connection.settimeout(remaining_seconds / (len(endpoints) - number))
            connection.connect(endpoint.socket_address)
            if url.scheme == "https":
                return ssl.create_default_context().wrap_socket(connection, server_hostname=url.host.rstrip("."))
            return connection
        except OSError as e:
            connection.close()
            failure = e
    raise failure


@contextmanager
def _request(url: Url, name: str, config: SourceConfig, deadline: float) -> Iterator[http.client.HTTPResponse]:
    with _connect_checked(url, name, config, deadline) as connection:
        lines = [
            f"GET {url.target} HTTP/1.1",
            f"Host: {url.authority}",
            "User-Agent: kinodex",
            "Accept: */*",
            "Accept-Encoding: identity",  # media gain nothing; servers that encode nevertheless are understood
            "Connection: close",
        ]
        if url.authorization is not None:
            lines.append(f"Authorization: {url.authorization}")
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("ascii"))
        reader = _SpeedCheckingReader(connection, name, config, deadline)
        # HTTPResponse uses only makefile() of its socket
        response = http.client.HTTPResponse(cast(socket.socket, reader), method="GET")
        try:
            response.begin()
            yield response
        finally:
            response.close()


class _SpeedCheckingReader(io.RawIOBase):
    """Reads from a socket, and fails if the server sends too slowly although each read is in time.

    Headers, chunk sizes and trailers pass through it like the body.
    """

    def __init__(self, connection: socket.socket, name: str, config: SourceConfig, deadline: float) -> None:
        self._connection, self._name, self._config = connection, name, config
        self._deadline = deadline  # as time.monotonic()
        self._waited_seconds, self._received_bytes = 0.0, 0

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self, READ_BYTES)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        started = time.monotonic()
        remaining_seconds = self._deadline - started
        if remaining_seconds <= 0:
            raise _too_long(self._name, self._config)
        self._connection.settimeout(min(self._config.timeout_seconds, remaining_seconds))
        count = self._connection.recv_into(buffer)
        self._waited_seconds += time.monotonic() - started  # counts only waiting for the server: our disk may be slow
        self._received_bytes += count
        if self._waited_seconds >= self._config.timeout_seconds:
            if self._received_bytes < MIN_BYTES_PER_SECOND * self._waited_seconds:
                raise TimeoutError(f"under {MIN_BYTES_PER_SECOND} bytes a second")
            self._waited_seconds, self._received_bytes = 0.0, 0
        return count


def _check_status(response: http.client.HTTPResponse, url: Url, name: str) -> None:
    if response.status == 200:
        return
    reason = f"{url.host} answers {response.status}"
    if response.status in (404, 410):
        raise SourceNotFound(name, reason, "check the URL")
    if response.status in (401, 403):
        raise SourceUnreadable(name, reason, "the URL needs other rights or a password")
    raise SourceUnavailable(name, reason, "try later" if response.status >= 500 else "")


def _receive_body(
    response: http.client.HTTPResponse, name: str, config: SourceConfig, into: BinaryIO, progress: Progress | None
) -> str:
    transfer = response.headers.get("Transfer-Encoding", "chunked")
    if transfer.strip().lower() != "chunked":  # http.client would take the encoded bytes for the body
        raise SourceUnavailable(name, f"the server sends the transfer encoding {transfer!r}, which was not asked for")
    encodings = parse_encodings(",".join(response.headers.get_all("Content-Encoding", ())), name)
    digest, size_bytes = hashlib.sha256(), 0
    for block in decode_blocks(_read_blocks(response, name, config, progress), encodings, name):
        size_bytes += len(block)
        if size_bytes > config.max_bytes:
            raise LimitExceeded(name, "max_bytes", f"more than {config.max_bytes} bytes")
        digest.update(block)
        _append(into, block, name)
    return digest.hexdigest()


def _read_blocks(
    response: http.client.HTTPResponse, name: str, config: SourceConfig, progress: Progress | None
) -> Iterator[bytes]:
    """Yield the body's bytes as they come."""
    announced_bytes = response.length  # None: the body is chunked, or ends with the connection
    if announced_bytes is not None and announced_bytes > config.max_bytes:
        raise LimitExceeded(name, "max_bytes", f"{announced_bytes} bytes, over {config.max_bytes}")
    received_bytes = 0
    while block := response.read1(READ_BYTES):
        received_bytes += len(block)
        yield block
        if progress is not None:
            progress(received_bytes, announced_bytes)
    if announced_bytes is not None and received_bytes < announced_bytes:
        reason = f"cut short after {received_bytes} of {announced_bytes} bytes"
        raise SourceUnavailable(name, reason, "try later")


def _append(into: BinaryIO, block: bytes, name: str) -> None:
    rest = memoryview(block)
    try:
        while rest:
            rest = rest[into.write(rest) :]  # an unbuffered file may write only a part
    except OSError as e:
        reason = f"cannot store the download, {e.strerror}"
        raise SourceUnavailable(name, reason, "make room in the folder of downloads") from e
