"""Metrics over HTTP and HTTPS: who may read them, and connections that never finish."""

import logging
import os
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme
from prometheus_client import CollectorRegistry, Counter

from serve.config import ServerConfig
from serve.errors import SettingsError
from serve.observe import metrics_endpoint
from serve.observe.metrics_endpoint import serve_metrics
from support.waiting import HANG_SECONDS, wait_until

TOKEN = "a token of some length"


@pytest.fixture(autouse=True)
def polling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_endpoint, "POLL_SECONDS", 0.02)


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


def issue(ca: trustme.CA, folder: Path, name: str = "localhost") -> dict[str, str]:
    leaf = ca.issue_cert(name)
    leaf.cert_chain_pems[0].write_to_path(str(folder / "chain.pem"))
    leaf.private_key_pem.write_to_path(str(folder / "key.pem"))
    (folder / "key.pem").chmod(0o600)
    return {"tls_certificate": str(folder / "chain.pem"), "tls_key": str(folder / "key.pem")}


@contextmanager
def served(listen: str = "localhost:0", **config: object) -> Iterator[str]:
    registry = CollectorRegistry()
    Counter("kinodex_calls", "Calls.", registry=registry).inc()
    address, close = serve_metrics(registry, listen, ServerConfig(**config))  # type: ignore[arg-type]
    try:
        yield address
    finally:
        close()


def scrape(address: str, *, trust: trustme.CA | None = None, token: str = "", client: Path | None = None) -> str:
    context = ssl.create_default_context()
    if trust is not None:
        trust.configure_trust(context)
    if client is not None:
        context.load_cert_chain(client / "chain.pem", client / "key.pem")
    request = urllib.request.Request(address, headers={"Authorization": f"Bearer {token}"} if token else {})
    with urllib.request.urlopen(request, timeout=HANG_SECONDS, context=context) as answer:
        return str(answer.read().decode())


def test_metrics_are_read_over_http_by_default() -> None:
    with served() as address:
        assert address.startswith("http://localhost:")
        assert "kinodex_calls_total 1.0" in scrape(address)


def test_metrics_are_read_over_https(ca: trustme.CA, tmp_path: Path) -> None:
    with served(metrics_tls=True, **issue(ca, tmp_path)) as address:
        assert address.startswith("https://localhost:")
        assert "kinodex_calls_total 1.0" in scrape(address, trust=ca)
        with pytest.raises(urllib.error.URLError, match="certificate verify failed"):
            scrape(address)
        with pytest.raises((OSError, urllib.error.URLError)):
            scrape(address.replace("https:", "http:"))


def test_a_renewed_certificate_needs_no_restart_and_a_damaged_one_changes_nothing(
    ca: trustme.CA, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = trustme.CA()
    with served(metrics_tls=True, **issue(ca, tmp_path)) as address:
        scrape(address, trust=ca)
        issue(other, tmp_path)
        assert "kinodex_calls_total 1.0" in scrape(address, trust=other)
        (tmp_path / "key.pem").write_text("damaged")
        with caplog.at_level(logging.ERROR):
            assert "kinodex_calls_total 1.0" in scrape(address, trust=other)
        assert "certificate of metrics not renewed" in caplog.text


def test_clients_show_a_certificate_where_the_server_wants_one(ca: trustme.CA, tmp_path: Path) -> None:
    (tmp_path / "client").mkdir()
    issue(ca, tmp_path / "client", "prometheus")
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with served(metrics_tls=True, tls_client_ca=str(tmp_path / "ca.pem"), **issue(ca, tmp_path)) as address:
        assert "kinodex_calls_total 1.0" in scrape(address, trust=ca, client=tmp_path / "client")
        with pytest.raises((OSError, urllib.error.URLError)):
            scrape(address, trust=ca)


@pytest.mark.parametrize("token", ["", "another", f"{TOKEN}x", TOKEN[:-1]])
def test_metrics_with_a_token_are_refused_without_it(token: str) -> None:
    with served(metrics_token=TOKEN) as address:
        assert "kinodex_calls_total 1.0" in scrape(address, token=TOKEN)
        with pytest.raises(urllib.error.HTTPError) as caught:
            scrape(address, token=token)
        with caught.value as refused:
            assert refused.code == 401
            assert b"kinodex_calls" not in refused.read()


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"metrics_tls": True}, "metrics_tls needs tls_certificate"),
        ({"metrics_token": "short"}, "metrics_token must be 16"),
        ({"metrics_token": "ä" * 16}, "metrics_token must be 16"),
    ],
)
def test_settings_that_protect_nothing_are_refused(config: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        ServerConfig(**config)  # type: ignore[arg-type]


def test_an_unusable_certificate_is_refused_at_the_start(ca: trustme.CA, tmp_path: Path) -> None:
    files = issue(ca, tmp_path)
    (tmp_path / "chain.pem").write_text("damaged")
    with pytest.raises(SettingsError, match="for metrics"):
        serve_metrics(CollectorRegistry(), "localhost:0", ServerConfig(metrics_tls=True, **files))  # type: ignore[arg-type]


# ------------------------------------------------------------------ connections that never finish
def connect(address: str) -> socket.socket:
    place = urlsplit(address)
    return socket.create_connection((place.hostname, place.port), HANG_SECONDS)


def is_ended(connection: socket.socket) -> bool:
    connection.settimeout(HANG_SECONDS)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_endpoint, "CONNECTION_SECONDS", 0.3)


@pytest.mark.slow
@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("is_tls", [False, True])
def test_a_silent_connection_is_ended_and_keeps_nobody_waiting(ca: trustme.CA, tmp_path: Path, is_tls: bool) -> None:
    files = issue(ca, tmp_path) if is_tls else {}
    with served(metrics_tls=is_tls, **files) as address, connect(address) as silent:
        assert "kinodex_calls_total 1.0" in scrape(address, trust=ca)
        assert is_ended(silent)


@pytest.mark.slow
@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("is_tls", [False, True])
def test_a_byte_now_and_then_does_not_keep_a_connection(ca: trustme.CA, tmp_path: Path, is_tls: bool) -> None:
    files = issue(ca, tmp_path) if is_tls else {}
    with served(metrics_tls=is_tls, **files) as address, connect(address) as slow:
        connection = slow
        if is_tls:
            context = ssl.create_default_context()
            ca.configure_trust(context)
            connection = context.wrap_socket(slow, server_hostname="localhost")
        with connection:
            wait_until(lambda: not can_send(connection, b"G"))


def can_send(connection: socket.socket, content: bytes) -> bool:
    try:
        connection.sendall(content)
    except OSError:  # ssl.SSLError is one
        return False
    return True


def test_connections_beyond_the_limit_are_closed_at_once() -> None:
    before = descriptors()
    with served() as address, ExitStack() as stack:
        held = [stack.enter_context(connect(address)) for _ in range(metrics_endpoint.MAX_CONNECTION_COUNT)]
        assert is_ended(stack.enter_context(connect(address)))
        for each in held:
            each.close()
        wait_until(lambda: "kinodex_calls_total 1.0" in try_scrape(address))
    wait_until(lambda: descriptors() <= before)


def try_scrape(address: str) -> str:
    try:
        return scrape(address)
    except OSError:
        return ""
