"""Downloads from a real HTTP server on 127.0.0.1. Other hosts are faked at getaddrinfo, the DNS seam."""

import gzip
import hashlib
import socket
import ssl
import subprocess
import threading
import time
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ingest.config import SourceConfig
from ingest.errors import (
    IngestError,
    LimitExceeded,
    SourceNotFound,
    SourceRefused,
    SourceUnavailable,
    SourceUnreadable,
)
from ingest.source.source import SourceFile, open_source
from support.marks import first_quick
from support.waiting import HANG_SECONDS

CONTENT = bytes(range(256)) * 4096  # 1 MiB: several reads
LOOPBACK = ("127.0.0.0/8",)
PATIENCE_SECONDS = 0.3  # timeout of the client under test, when the server is slow on purpose


class Handler(BaseHTTPRequestHandler):
    """Answers a request by its path; `/to/URL` redirects to URL."""

    protocol_version = "HTTP/1.1"
    server: "Server"

    def do_GET(self) -> None:
        self.server.requests.append((self.path, dict(self.headers)))
        if self.path.startswith("/to/"):
            self.answer(302, b"", {"Location": self.path.removeprefix("/to/")})
        else:
            getattr(self, self.path.partition("?")[0].strip("/").replace(".", "_"), self.missing)()

    def log_message(self, *_: object) -> None:
        """Write no log."""

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def drip(self, line: bytes) -> None:
        """Send a few bytes repeatedly, each well within the client's timeout, until the client hangs up."""
        try:
            while not self.server.hung_up.wait(PATIENCE_SECONDS / 10):
                self.wfile.write(line)
        except OSError:
            self.server.hung_up.set()
        self.close_connection = True

    def gzipped(self) -> None:
        self.answer(200, gzip.compress(CONTENT), {"Content-Encoding": "gzip"})

    def gzipped_cut(self) -> None:
        body = gzip.compress(CONTENT)[:-9]
        self.answer(200, body, {"Content-Encoding": "gzip"})

    def encoded_twice(self) -> None:
        self.send_response(200)
        self.send_header("Content-Encoding", "deflate")
        self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        self.wfile.write(gzip.compress(zlib.compress(CONTENT)))
        self.close_connection = True

    def packed(self) -> None:
        self.answer(200, CONTENT, {"Content-Encoding": "compress"})

    def transferred(self) -> None:
        self.answer(200, gzip.compress(CONTENT), {"Transfer-Encoding": "gzip, chunked"})

    def missing(self) -> None:
        self.answer(404, b"no such page")

    def v_mp4(self) -> None:
        self.answer(200, CONTENT)

    def empty(self) -> None:
        self.answer(200, b"")

    def chunked(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for at in range(0, len(CONTENT), 100_000):
            part = CONTENT[at : at + 100_000]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        self.wfile.write(b"0\r\n\r\n")

    def chunked_cut(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"ffff\r\n" + CONTENT[:1000])
        self.close_connection = True

    def until_close(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(CONTENT)
        self.close_connection = True

    def cut(self) -> None:
        self.answer(200, CONTENT[:-1], {"Content-Length": str(len(CONTENT))})
        self.close_connection = True

    def loop(self) -> None:
        self.answer(302, b"", {"Location": "/loop"})

    def relative(self) -> None:
        self.answer(307, b"", {"Location": "v.mp4"})

    def nowhere(self) -> None:
        self.answer(302, b"")

    def garbage(self) -> None:
        self.wfile.write(b"220 mail.example.org ESMTP\r\n")
        self.close_connection = True

    def silent(self) -> None:
        self.server.hung_up.wait(HANG_SECONDS)
        self.close_connection = True

    def hang(self) -> None:
        self.answer(200, CONTENT[:1000], {"Content-Length": str(len(CONTENT))})
        self.silent()

    def drip_body(self) -> None:
        self.answer(200, b"", {"Content-Length": str(len(CONTENT))})
        self.drip(b"x")

    def drip_headers(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        self.drip(b"X: y\r\n")

    def steady(self) -> None:
        """Send without end, as fast as a slow line."""
        self.send_response(200)
        self.end_headers()
        self.drip(b"x" * 4096)

    def locked(self) -> None:
        self.answer(401, b"")

    def gone(self) -> None:
        self.answer(410, b"")

    def teapot(self) -> None:
        self.answer(418, b"")

    def broken(self) -> None:
        self.answer(503, b"")


class Server(ThreadingHTTPServer):
    """A server that records its requests."""

    daemon_threads = True

    def __init__(self, host: str = "127.0.0.1", context: ssl.SSLContext | None = None) -> None:
        super().__init__((host, 0), Handler)
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.hung_up = threading.Event()
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_side=True)

    def handle_error(self, *_: object) -> None:
        """Ignore clients that hang up: the tests intend it."""

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.server_port}/{path}"

    def __enter__(self) -> "Server":
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.hung_up.set()
        self.shutdown()
        self.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


def download(url: str, spool: Path, **settings: Any) -> SourceFile:
    with open_source(url, SourceConfig(**{"private_networks": LOOPBACK, **settings}), spool=spool) as it:
        assert it.file.read() == CONTENT
        assert it.size_bytes == len(CONTENT)
        assert it.content_sha256 == hashlib.sha256(CONTENT).hexdigest()
        assert not list(spool.iterdir())  # the file has no name, so that not even a kill leaves it
    assert it.file.closed
    return it


def fail_to_download(url: str, spool: Path, error: type[IngestError], **settings: Any) -> IngestError:
    """Check that a download fails with one line, shows no secrets, and leaves no file."""
    with pytest.raises(error) as caught:
        download(url, spool, **settings)
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value) + caught.value.uri
    assert not list(spool.iterdir())
    return caught.value


def patch_dns(monkeypatch: pytest.MonkeyPatch, **hosts: list[str]) -> list[str]:
    """Fake DNS: each look-up of a host (dots written as _) gets its next answer. Returns the list of look-ups."""
    genuine, looked_up = socket.getaddrinfo, []

    def getaddrinfo(host: str, port: int, **kwargs: Any) -> list[Any]:
        looked_up.append(host)
        answers = hosts.get(host.rstrip(".").replace(".", "_"))
        if answers is None:
            return genuine(host, port, **kwargs)
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        return [entry for address in answer.split() for entry in genuine(address, port, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return looked_up


@pytest.mark.parametrize("path", ["v.mp4", "chunked", "until_close", "gzipped", "encoded_twice"])
def test_fetches_a_url_into_a_file_without_a_name(path: str, server: Server, tmp_path: Path) -> None:
    assert download(server.url(path), tmp_path).uri == server.url(path)
    assert server.requests[0][1]["Host"] == f"127.0.0.1:{server.server_port}"
    assert server.requests[0][1]["Accept-Encoding"] == "identity"


def test_reports_progress_with_the_announced_size(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    config = SourceConfig(private_networks=LOOPBACK)
    spool = tmp_path / "made" / "when needed"
    with open_source(server.url("v.mp4"), config, spool=spool, progress=lambda *at: seen.append(at)):
        pass
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert len(seen) > 1


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("gzipped_cut", "cut short within its gzip encoding"),
        ("packed", "the server sends the content encoding 'compress'"),
        ("transferred", "the server sends the transfer encoding 'gzip, chunked', which was not asked for"),
    ],
)
def test_names_an_encoding_that_is_broken_or_unknown(path: str, reason: str, server: Server, tmp_path: Path) -> None:
    assert fail_to_download(server.url(path), tmp_path, SourceUnavailable).reason == reason


def test_limits_the_decoded_bytes(server: Server, tmp_path: Path) -> None:
    error = fail_to_download(server.url("gzipped"), tmp_path, LimitExceeded, max_bytes=len(CONTENT) - 1)
    assert isinstance(error, LimitExceeded)
    assert error.limit == "max_bytes"


def test_removes_the_download_when_its_user_fails(server: Server, tmp_path: Path) -> None:
    config = SourceConfig(private_networks=LOOPBACK)
    with pytest.raises(KeyError), open_source(server.url("v.mp4"), config, spool=tmp_path) as it:
        raise KeyError
    assert it.file.closed
    assert not list(tmp_path.iterdir())


def test_refuses_private_addresses_unless_listed(server: Server, tmp_path: Path) -> None:
    error = fail_to_download(server.url("v.mp4"), tmp_path, SourceRefused, private_networks=())
    assert "is not public" in error.reason
    assert "private_networks" in error.remedy
    assert not server.requests


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "127.1", "[::ffff:127.0.0.1]", "①②⑦.0.0.1", "127。0。0。1"])
def test_refuses_private_addresses_in_disguise(host: str, server: Server, tmp_path: Path) -> None:
    fail_to_download(server.url("v.mp4", host), tmp_path, SourceRefused, private_networks=())
    assert not server.requests


def test_refuses_a_host_with_one_private_address_among_public_ones(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch_dns(monkeypatch, mixed_test=["127.0.0.1 10.0.0.5"])
    error = fail_to_download(server.url("v.mp4", "mixed.test"), tmp_path, SourceRefused)
    assert error.reason == "the host mixed.test does not exist, or its address is not public"
    assert not server.requests


def test_connects_to_the_address_that_was_checked(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up = patch_dns(monkeypatch, rebinding_test=["127.0.0.1", "127.0.0.2"])
    download(server.url("v.mp4", "rebinding.test"), tmp_path, private_networks=("127.0.0.1/32",))
    assert looked_up == ["rebinding.test"]
    assert server.requests[0][1]["Host"] == f"rebinding.test:{server.server_port}"


def test_tries_the_next_address_when_one_does_not_answer(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch_dns(monkeypatch, two_test=["127.0.0.9 127.0.0.1"])
    download(server.url("v.mp4", "two.test"), tmp_path)


def test_follows_redirects_and_keeps_the_first_url(server: Server, tmp_path: Path) -> None:
    url = server.url("to/" + server.url("to//relative"))  # to a whole URL, then to a path, then to a name
    assert download(url, tmp_path).uri == url
    assert [path for path, _ in server.requests][1:] == ["/to//relative", "/relative", "/v.mp4"]


@pytest.mark.parametrize(
    "location",
    ["http://127.0.0.2:{port}/v.mp4", "http://169.254.169.254/latest/meta-data", "http://[::1]:{port}/", "//10.0.0.5/"],
)
def test_checks_the_address_again_on_a_redirect(
    location: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected: list[str] = []
    genuine = socket.socket.connect

    def connect(self: socket.socket, to: tuple[str, int]) -> None:
        connected.append(to[0])
        genuine(self, to)

    monkeypatch.setattr(socket.socket, "connect", connect)
    url = server.url("to/" + location.format(port=server.server_port))
    error = fail_to_download(url, tmp_path, SourceRefused, private_networks=("127.0.0.1/32",))
    assert "is not public" in error.reason
    assert connected == ["127.0.0.1"]


@pytest.mark.parametrize("location", ["file:///etc/hosts", "ftp://x/", "data:,x", "gopher://127.0.0.1/", "http://[x/"])
def test_refuses_redirects_to_other_schemes(location: str, server: Server, tmp_path: Path) -> None:
    expected = SourceUnavailable if location.endswith("[x/") else SourceRefused
    fail_to_download(server.url("to/" + location), tmp_path, expected)


def test_checks_the_host_again_on_a_redirect(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patch_dns(monkeypatch, a_cdn_test=["127.0.0.1"], cdn_test=["127.0.0.1"])
    allowed = {"hosts": ("127.0.0.1", "*.CDN.test")}
    download(server.url("to/" + server.url("v.mp4", "a.cdn.test.")), tmp_path, **allowed)
    for host in ("cdn.test", "other.test", "xcdn.test"):
        error = fail_to_download(server.url("to/" + server.url("v.mp4", host)), tmp_path, SourceRefused, **allowed)
        assert error.reason == f"the host {host} is not allowed"


def test_ends_a_redirect_loop(server: Server, tmp_path: Path) -> None:
    error = fail_to_download(server.url("loop"), tmp_path, LimitExceeded, max_redirects=3)
    assert isinstance(error, LimitExceeded)
    assert error.limit == "max_redirects"
    assert len(server.requests) == 4
    fail_to_download(server.url("nowhere"), tmp_path, SourceUnavailable)


@pytest.mark.parametrize("path", ["v.mp4", "chunked", "until_close", "gzipped", "encoded_twice"])
def test_names_the_limit_a_large_download_passes(path: str, server: Server, tmp_path: Path) -> None:
    error = fail_to_download(server.url(path), tmp_path, LimitExceeded, max_bytes=len(CONTENT) - 1)
    assert isinstance(error, LimitExceeded)
    assert error.limit == "max_bytes"
    download(server.url(path), tmp_path, max_bytes=len(CONTENT))


def test_reads_nothing_of_a_download_announced_as_too_large(server: Server, tmp_path: Path) -> None:
    seen: list[int] = []
    config = SourceConfig(private_networks=LOOPBACK, max_bytes=len(CONTENT) - 1)
    with (
        pytest.raises(LimitExceeded),
        open_source(server.url("v.mp4"), config, spool=tmp_path, progress=lambda done, _: seen.append(done)),
    ):
        pass
    assert not seen


@pytest.mark.parametrize("path", ["cut", "chunked_cut", "garbage"])
def test_reports_a_body_that_breaks_off(path: str, server: Server, tmp_path: Path) -> None:
    fail_to_download(server.url(path), tmp_path, SourceUnavailable)


@pytest.mark.parametrize("path", first_quick(["drip_body", "silent", "hang", "drip_headers"]))
def test_gives_up_on_a_server_that_hangs_or_drips(path: str, server: Server, tmp_path: Path) -> None:
    started = time.monotonic()
    error = fail_to_download(server.url(path), tmp_path, SourceUnavailable, timeout_seconds=PATIENCE_SECONDS)
    assert "too slow" in error.reason
    assert time.monotonic() - started < HANG_SECONDS  # the server would go on for ever


def test_gives_up_on_a_download_without_end(server: Server, tmp_path: Path) -> None:
    error = fail_to_download(server.url("steady"), tmp_path, LimitExceeded, max_fetch_seconds=PATIENCE_SECONDS)
    assert isinstance(error, LimitExceeded)
    assert error.limit == "max_fetch_seconds"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("missing", SourceNotFound),
        ("gone", SourceNotFound),
        ("locked", SourceUnreadable),
        ("empty", SourceUnreadable),
        ("teapot", SourceUnavailable),
        ("broken", SourceUnavailable),
    ],
)
def test_says_how_the_server_answered(path: str, expected: type[IngestError], server: Server, tmp_path: Path) -> None:
    error = fail_to_download(server.url(path), tmp_path, expected)
    statuses = {"missing": "404", "gone": "410", "locked": "401", "empty": "empty", "teapot": "418", "broken": "503"}
    assert statuses[path] in error.reason


def test_reports_unreachable_hosts(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_to_download("http://127.0.0.1:1/v.mp4", tmp_path, SourceUnavailable)

    def fail(*_: object, **__: object) -> list[Any]:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert "cannot be looked up" in fail_to_download("http://nowhere.test/", tmp_path, SourceUnavailable).reason


def test_a_name_that_is_not_there_reads_like_one_that_leads_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch_dns(monkeypatch, host_test=["10.0.0.5"])
    inside = fail_to_download("http://host.test/", tmp_path, SourceRefused, private_networks=())

    def unknown(*_: object, **__: object) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    nowhere = fail_to_download("http://host.test/", tmp_path, SourceRefused, private_networks=())
    assert str(inside) == str(nowhere)


def test_addresses_that_do_not_answer_share_the_time_to_connect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch_dns(monkeypatch, dead_test=[" ".join(f"127.0.0.{n}" for n in range(2, 22))])
    waits: list[float] = []

    def connect(self: socket.socket, to: tuple[str, int]) -> None:
        waits.append(self.gettimeout() or 0.0)
        time.sleep(waits[-1])
        raise TimeoutError

    monkeypatch.setattr(socket.socket, "connect", connect)
    error = fail_to_download("http://dead.test/v.mp4", tmp_path, SourceUnavailable, timeout_seconds=PATIENCE_SECONDS)
    assert "too slow" in error.reason
    assert sum(waits) <= PATIENCE_SECONDS


@pytest.mark.slow
@pytest.mark.parametrize("slow", ["looking up", "connecting", "answering"])
def test_the_longest_fetch_includes_looking_up_and_connecting(
    slow: str, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: dict[str, Any] = {"max_fetch_seconds": PATIENCE_SECONDS, "timeout_seconds": HANG_SECONDS}
    is_over = threading.Event()
    genuine = socket.getaddrinfo

    def look_up(*given: Any, **named: Any) -> Any:
        if slow == "looking up":
            is_over.wait(HANG_SECONDS)
        return genuine(*given, **named)

    def connect(self: socket.socket, to: tuple[str, int]) -> None:
        is_over.wait(self.gettimeout())
        raise TimeoutError

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    if slow == "connecting":
        monkeypatch.setattr(socket.socket, "connect", connect)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v.mp4"
        error = fail_to_download(url, tmp_path, LimitExceeded, **limits)
    is_over.set()
    assert isinstance(error, LimitExceeded)
    assert error.limit == "max_fetch_seconds"


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http:///v.mp4",
        "http:v.mp4",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:0/",
        "http://127.0.0.1:x/",
        "http://[::1/",
        "http://a..b/",
        "http://" + "a" * 64 + ".test/",
        "http://a b/",
        "http://a/\r\nX-Injected: 1",
        "http://user:hunter2/x@a/",
        "http://%31%32%37.0.0.1/",
    ],
)
def test_refuses_urls_that_are_not_valid(url: str, tmp_path: Path) -> None:
    fail_to_download(url, tmp_path, SourceRefused)


def test_percent_encodes_unencoded_urls(server: Server, tmp_path: Path) -> None:
    fail_to_download(server.url("my vidéo.mp4?q=a b&c=%20"), tmp_path, SourceNotFound)
    assert server.requests[0][0] == "/my%20vid%C3%A9o.mp4?q=a%20b&c=%20"


def test_sends_credentials_to_their_host_only_and_never_shows_them(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch_dns(monkeypatch, other_test=["127.0.0.1"])
    secret = "me:hunter2@127.0.0.1"
    opened = download(server.url("to//v.mp4?v=1&token=hunter2#hunter2", secret), tmp_path)
    assert opened.uri == server.url("to//v.mp4?v=1&token=REDACTED")
    assert [headers.get("Authorization") for _, headers in server.requests] == ["Basic bWU6aHVudGVyMg=="] * 2
    download(server.url("to/" + server.url("v.mp4", "other.test"), secret), tmp_path)
    assert "Authorization" not in server.requests[-1][1]
    for path in ("missing", "broken", "cut", "loop", "to/file:///etc/hosts"):
        fail_to_download(server.url(f"{path}?sig=hunter2", secret), tmp_path, IngestError)


def test_ignores_proxies_of_the_environment(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    download(server.url("v.mp4"), tmp_path)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for video.test, with its key in the same file."""
    path = tmp_path_factory.mktemp("tls") / "video.test.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=video.test"]
    extensions = ["-addext", "subjectAltName=DNS:video.test", "-keyout", str(path), "-out", str(path) + ".crt"]
    try:
        subprocess.run([*command, *extensions], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as e:
        pytest.skip(f"the openssl command made no certificate: {e}")
    with path.open("a") as key:
        key.write(Path(str(path) + ".crt").read_text())
    return path


@pytest.fixture
def tls_server(certificate: Path) -> Iterator[Server]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with Server(context=context) as running:
        yield running


@pytest.mark.slow
def test_verifies_certificates_by_the_name_of_the_host(
    tls_server: Server, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch_dns(monkeypatch, video_test=["127.0.0.1"], other_test=["127.0.0.1"])
    url = tls_server.url("v.mp4", "video.test").replace("http:", "https:")
    assert "certificate" in fail_to_download(url, tmp_path, SourceUnavailable).reason
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    download(url, tmp_path)
    misnamed = url.replace("video.test", "other.test")
    assert "certificate" in fail_to_download(misnamed, tmp_path, SourceUnavailable).reason
    assert len(tls_server.requests) == 1


def test_refuses_a_redirect_from_https_down_to_http(
    tls_server: Server, server: Server, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch_dns(monkeypatch, video_test=["127.0.0.1"])
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    url = tls_server.url("to/" + server.url("v.mp4"), "video.test").replace("http:", "https:", 1)
    assert "down to http" in fail_to_download(url, tmp_path, SourceRefused).reason
    assert not server.requests
