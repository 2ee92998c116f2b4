"""Hostile HTTP: damaged, endless, huge and slow requests, and clients that read nothing. The server answers on."""

import contextlib
import gzip
import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
import trustme

from serve.api import strangers
from serve.api.tokens import create_token
from serve.config import ServerConfig
from serve.console import connections
from serve.console.http_server import bind, open_http
from serve.errors import SettingsError
from support.callers import NOW, bearer
from support.fakes import use_fakes
from support.running import Running, running
from support.waiting import HANG_SECONDS, wait_until

pytestmark = pytest.mark.slow

NO_WORKER = ["sh", "-c", "exec cat"]
SEARCH = "/kinodex.v1.SearchService/SearchMoments"
JSON = {"content-type": "application/json"}


@contextlib.contextmanager
def connected(server: Running) -> Iterator[socket.socket]:
    host, port = urlsplit(server.url).hostname, urlsplit(server.url).port
    with socket.create_connection((host, port), timeout=HANG_SECONDS) as opened:  # type: ignore[arg-type]
        yield opened


def read_all(opened: socket.socket) -> bytes:
    content = b""
    with contextlib.suppress(ConnectionError):
        while block := opened.recv(65536):
            content += block
    return content


def is_answering(server: Running) -> bool:
    return httpx2.get(f"{server.url}/healthz", timeout=HANG_SECONDS).status_code == 200


HEAD = b"POST " + SEARCH.encode() + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",  # no Host
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET http://evil.example/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * (1 << 20) + b"\r\n\r\n",
        b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n{}",
        HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",  # request smuggling
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    ],
    ids=lambda sent: repr(sent[:40]),
)
def test_what_is_no_request_is_refused(server: Running, sent: bytes) -> None:
    with connected(server) as opened:
        with contextlib.suppress(OSError):  # the server has hung up already
            opened.sendall(sent)
            opened.shutdown(socket.SHUT_WR)
        answer = read_all(opened)
    assert answer == b"" or answer.split(b" ")[1] in (b"400", b"403", b"404", b"405"), answer[:200]
    assert is_answering(server)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"null", 400),
        (b"[]", 400),
        (b'"text"', 400),
        (b"\xff\xfe", 400),
        (b"[" * 100_000, 400),
        (b'{"query":' * 100_000, 400),
        (b'{"query":{"text":"\\ud800"}}', 400),
        (b'{"query":{"text":"a"},"query":{"text":"b"}}', 400),
        (b'{"pageSize":1e999}', 400),
        (b'{"pageSize":"9999999999999"}', 400),
        (b'{"query":{"image":"not base64!"}}', 400),
        (b'{"query":{"imageWeight":"NaN","text":"a"}}', 400),
        (b'{"no":1}', 400),
        (json.dumps({"query": {"text": "x" * 200_000}}).encode(), 400),
        (b" " * (17 << 20), 429),  # server.max_message_bytes
    ],
    ids=lambda value: repr(value[:24]) if isinstance(value, bytes) else None,
)
def test_damaged_json_is_a_bad_request(server: Running, body: bytes, status: int) -> None:
    answer = httpx2.post(server.url + SEARCH, content=body, headers=JSON, timeout=HANG_SECONDS)
    assert (answer.status_code, set(answer.json()) >= {"code", "message"}) == (status, True)


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"content-type": "text/plain"}, b"{}", 415),  # what a page of another site can send unasked
        ({"content-type": "application/x-www-form-urlencoded"}, b"{}", 415),
        ({"content-type": "application/grpc"}, b"", 415),
        ({"content-type": "application/proto"}, b"\xff", 400),
        ({**JSON, "content-encoding": "gzip"}, b"no gzip", 400),
        ({**JSON, "content-encoding": "gzip"}, gzip.compress(b" " * (64 << 20), mtime=0), 429),  # 64 KB that are 64 MiB
        ({**JSON, "content-encoding": "zip"}, b"{}", 501),
        ({**JSON, "connect-timeout-ms": "soon"}, b"{}", 400),
        ({**JSON, "connect-timeout-ms": "0"}, b'{"query":{"text":"a"}}', 504),
        ({**JSON, "x-request-id": "a\tb"}, b"{}", 400),
        ({**JSON, "user-agent": b"\xff\xfe".decode("latin-1")}, b"{}", 400),
    ],
    ids=lambda value: str(value)[:60],
)
def test_damaged_headers_are_a_bad_request(server: Running, headers: Any, body: bytes, status: int) -> None:
    opened = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=HANG_SECONDS)
    opened.request("POST", SEARCH, body, headers)
    answer = opened.getresponse()
    assert answer.status == status, answer.read()
    opened.close()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", SEARCH, 405),
        ("POST", "/kinodex.v1.SearchService/Nothing", 404),
        ("POST", "/kinodex.v1.NoService/Nothing", 404),
        ("DELETE", "/", 405),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", 404),
        ("GET", "/..%2f..%2fapp.py", 404),
        ("GET", "//etc/passwd", 404),
        ("OPTIONS", SEARCH, 405),
    ],
)
def test_what_is_not_there_is_not_found(server: Running, method: str, path: str, status: int) -> None:
    opened = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=HANG_SECONDS)
    opened.request(method, path)
    answer = opened.getresponse()
    assert answer.status == status
    assert answer.getheader("access-control-allow-origin") is None
    opened.close()


def test_a_page_of_another_site_gets_nothing(server: Running) -> None:
    for headers in ({"origin": "https://evil.example"}, {"host": "evil.example"}, {"sec-fetch-site": "cross-site"}):
        answer = httpx2.post(server.url + SEARCH, json={"query": {"text": "red"}}, headers=headers)
        assert (answer.status_code, "moments" in answer.text) == (403, False)


# ------------------------------------------------------------------ slow clients, and many
def test_slow_headers_and_slow_requests_end(own_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.5)
    with running(own_data, http_listen="127.0.0.1:0", max_call_seconds=1.0) as server:
        with connected(server) as silent, connected(server) as slow, connected(server) as late:
            slow.sendall(b"GET / HTTP/1.1\r\nX: ")
            late.sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
            assert read_all(silent) == b""
            assert read_all(slow) == b""
            assert b" 504 " in read_all(late)  # and then the connection ends: the rest does not come
        assert server.server.interceptor.shares["calls"].count == 0
        assert is_answering(server)


def test_connections_beyond_the_limit_are_closed(own_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)
    monkeypatch.setattr(strangers, "reserve_files", lambda: 20)  # of these, HTTP has 4
    with running(own_data, http_listen="127.0.0.1:0") as server, contextlib.ExitStack() as stack:
        held = [stack.enter_context(connected(server)) for _ in range(4)]
        with connected(server) as fifth:
            assert read_all(fifth) == b""
        held[0].close()
        wait_until(lambda: len(server.server.http._uvicorn.server_state.connections) < 4)  # type: ignore[union-attr]
        assert is_answering(server)


def test_a_stranger_sends_no_body(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)
    data = tmp_path / "data"
    create_token(data / "tokens.json", "boss", collections=None, can_write=True, expire_time=None, now=NOW)
    with running(data, ingest_command=NO_WORKER, http_listen="127.0.0.1:0", max_concurrent_calls=4) as server:
        [(name, value)] = bearer(server, "caller")
        with connected(server) as opened:
            opened.sendall(HEAD + b"Content-Length: 10000000\r\n\r\n")  # and no byte of it
            assert opened.recv(12) == b"HTTP/1.1 401"
        token = f"{name}: {value}\r\n".encode()
        with connected(server) as first, connected(server) as second:
            first.sendall(HEAD + token + b"Content-Length: 10\r\n\r\n")  # holds the caller's only place of four
            wait_until(lambda: server.server.interceptor.shares["calls"].count == 1)
            second.sendall(HEAD + token + b"Content-Length: 10\r\n\r\n")
            assert second.recv(12) == b"HTTP/1.1 429"
        wait_until(lambda: server.server.interceptor.shares["calls"].count == 0)


def test_running_calls_end_with_the_server(own_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)
    with running(own_data, http_listen="127.0.0.1:0", drain_seconds=1.0) as server:
        url = server.url
        with connected(server) as idle, connected(server) as watching:
            stream = b"\x00\x00\x00\x00\x02{}"
            watching.sendall(
                b"POST /kinodex.v1.ModerationService/WatchEvents HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                b"Content-Type: application/connect+json\r\nContent-Length: 7\r\n\r\n" + stream
            )
            wait_until(lambda: server.server.interceptor.shares["watches"].count == 1)
            server.call(server.server.stop())
            assert read_all(idle) == b""
            assert b"unavailable" in read_all(watching)
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(url)


# ------------------------------------------------------------------ the address, and TLS
def test_an_address_for_other_machines_needs_tls_and_tokens(own_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)
    with running(own_data) as server:
        server.server.config = ServerConfig(http_listen="0.0.0.0:0")
        with pytest.raises(SettingsError, match=r"server\.http_listen 0\.0\.0\.0:0 can be reached"):
            open_http(server.server)


@pytest.mark.parametrize("listen", ["127.0.0.1", "nowhere.invalid:1", "127.0.0.1:99999", "unix:/tmp/x"])
def test_what_is_no_address_is_said(listen: str) -> None:
    with pytest.raises(SettingsError):
        bind(listen)


def test_an_address_in_use_is_said(server: Running) -> None:
    with pytest.raises(SettingsError, match=r"in use: set server\.http_listen"):
        bind(urlsplit(server.url).netloc)


def test_tls_is_that_of_grpc_and_follows_renewals(
    own_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fakes(monkeypatch)
    ca, clients = trustme.CA(), trustme.CA()

    def issue() -> None:
        leaf = ca.issue_cert("localhost")
        (tmp_path / "chain.pem").write_bytes(b"".join(each.bytes() for each in leaf.cert_chain_pems))
        leaf.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
        (tmp_path / "key.pem").chmod(0o600)

    issue()
    clients.cert_pem.write_to_path(str(tmp_path / "clients.pem"))
    files = {name: str(tmp_path / f"{file}.pem") for name, file in
             (("tls_certificate", "chain"), ("tls_key", "key"), ("tls_client_ca", "clients"))}  # fmt: skip
    trusting = ssl.create_default_context()
    ca.configure_trust(trusting)
    with running(own_data, listen="localhost:0", http_listen="localhost:0", **files) as server:
        port = urlsplit(server.url).port
        with contextlib.suppress(ssl.SSLError, ConnectionError):  # with TLS 1.3, the client learns it when it reads
            assert fetch_over_tls(port, trusting) is None, "a client without a certificate"
        clients.issue_cert("laptop").configure_cert(trusting)
        first = fetch_over_tls(port, trusting)
        issue()
        assert len({None, first, fetch_over_tls(port, trusting)}) == 3
        [names] = {each.app_state["certificate_names"] for each in held_connections(server, port, trusting)}
        assert names == (b"laptop",)


@contextlib.contextmanager
def over_tls(port: int | None, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    plain = socket.create_connection(("localhost", port or 0), timeout=HANG_SECONDS)
    with plain, context.wrap_socket(plain, server_hostname="localhost") as opened:
        yield opened


def fetch_over_tls(port: int | None, context: ssl.SSLContext) -> bytes | None:
    """Ask for the health; return the server's certificate, or None without an answer."""
    with over_tls(port, context) as opened:
        opened.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return opened.getpeercert(binary_form=True) if opened.recv(12) == b"HTTP/1.1 200" else None


def held_connections(server: Running, port: int | None, context: ssl.SSLContext) -> list[Any]:
    with over_tls(port, context):
        found: set[Any] = server.server.http._uvicorn.server_state.connections  # type: ignore[union-attr]
        wait_until(lambda: len(found) > 0)
        return list(found)
