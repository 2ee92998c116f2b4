"""Real handshakes with a real server, and the addresses it refuses to listen on."""

import asyncio
import datetime
import logging
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

import serve.api.tls
from serve.api.tls import RETRY_SECONDS, check_exposure, is_local, server_credentials
from serve.config import ServerConfig, host_and_port
from serve.errors import SettingsError
from support.waiting import HANG_SECONDS

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def stranger() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def leaf(ca: trustme.CA) -> trustme.LeafCert:
    return ca.issue_cert("localhost")


def write(folder: Path, leaf: trustme.LeafCert) -> ServerConfig:
    (folder / "chain.pem").write_bytes(chain(leaf))
    leaf.private_key_pem.write_to_path(str(folder / "key.pem"))
    (folder / "key.pem").chmod(0o600)
    return ServerConfig(tls_certificate=str(folder / "chain.pem"), tls_key=str(folder / "key.pem"))


def chain(leaf: trustme.LeafCert) -> bytes:
    return b"".join(blob.bytes() for blob in leaf.cert_chain_pems)


# ------------------------------------------------------------------ handshakes
@asynccontextmanager
async def serving(credentials: grpc.ServerCredentials | None) -> AsyncIterator[int]:
    server = grpc.aio.server()
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    assert credentials is not None
    port = server.add_secure_port("localhost:0", credentials)
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


async def ask(port: int, credentials: grpc.ChannelCredentials | None) -> str:
    """Ask after the server's health over a connection of its own: SERVING, or the code of the failure."""
    address = f"localhost:{port}"
    options = [("grpc.use_local_subchannel_pool", 1)]
    channel = (
        grpc.aio.insecure_channel(address, options)
        if credentials is None
        else grpc.aio.secure_channel(address, credentials, options)
    )
    async with channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=HANG_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


def trusting(ca: trustme.CA, leaf: trustme.LeafCert | None = None) -> grpc.ChannelCredentials:
    key, certificate = (leaf.private_key_pem.bytes(), chain(leaf)) if leaf else (None, None)
    return grpc.ssl_channel_credentials(ca.cert_pem.bytes(), key, certificate)


def answers(config: ServerConfig, clients: Sequence[grpc.ChannelCredentials | None]) -> list[str]:
    async def run() -> list[str]:
        async with serving(server_credentials(config)) as port:
            return [await ask(port, client) for client in clients]

    return asyncio.run(run())


def test_a_fifo_is_no_certificate(tmp_path: Path) -> None:
    path = tmp_path / "fifo.pem"
    os.mkfifo(path)
    with pytest.raises(SettingsError, match="not a regular file"):
        server_credentials(ServerConfig(tls_certificate=str(path), tls_key=str(path)))


def test_without_a_certificate_there_is_no_tls() -> None:
    assert server_credentials(ServerConfig()) is None


def test_a_client_that_trusts_the_issuer_gets_in_and_no_other(
    tmp_path: Path, ca: trustme.CA, stranger: trustme.CA, leaf: trustme.LeafCert
) -> None:
    clients = [trusting(ca), None, trusting(stranger)]
    assert answers(write(tmp_path, leaf), clients) == ["SERVING", "UNAVAILABLE", "UNAVAILABLE"]


def test_a_chain_with_an_intermediate_works(tmp_path: Path, ca: trustme.CA) -> None:
    config = write(tmp_path, ca.create_child_ca().issue_cert("localhost"))
    assert answers(config, [trusting(ca)]) == ["SERVING"]


def test_with_a_client_ca_only_its_clients_get_in(
    tmp_path: Path, ca: trustme.CA, stranger: trustme.CA, leaf: trustme.LeafCert
) -> None:
    clients_ca = trustme.CA()
    clients_ca.cert_pem.write_to_path(str(tmp_path / "clients.pem"))
    plain = write(tmp_path, leaf)
    config = ServerConfig(
        tls_certificate=plain.tls_certificate, tls_key=plain.tls_key, tls_client_ca=str(tmp_path / "clients.pem")
    )
    clients = [
        trusting(ca, clients_ca.issue_cert("laptop")),
        trusting(ca),
        trusting(ca, stranger.issue_cert("laptop")),
        None,
    ]
    assert answers(config, clients) == ["SERVING", "UNAVAILABLE", "UNAVAILABLE", "UNAVAILABLE"]


# ------------------------------------------------------------------ renewal
def test_a_renewed_certificate_is_taken_up_and_a_broken_one_is_not(
    tmp_path: Path, ca: trustme.CA, stranger: trustme.CA, leaf: trustme.LeafCert, caplog: pytest.LogCaptureFixture
) -> None:
    config = write(tmp_path, leaf)

    async def run() -> None:
        async with serving(server_credentials(config, clock=lambda: 0.0)) as port:
            assert await ask(port, trusting(ca)) == "SERVING"
            # The key is not there yet: the old pair stays, and is said to stay once.
            renewed = stranger.issue_cert("localhost")
            Path(config.tls_certificate).write_bytes(chain(renewed))
            for _ in range(2):
                assert await ask(port, trusting(ca)) == "SERVING"
            assert [record.getMessage()[:23] for record in caplog.records] == ["certificate not renewed"]
            # Now the pair is whole.
            renewed.private_key_pem.write_to_path(config.tls_key)
            assert await ask(port, trusting(stranger)) == "SERVING"
            assert await ask(port, trusting(ca)) == "UNAVAILABLE"
            # Gone for a while, as when somebody copies by hand.
            os.rename(config.tls_key, config.tls_key + ".away")
            assert await ask(port, trusting(stranger)) == "SERVING"
            os.rename(config.tls_key + ".away", config.tls_key)
            assert await ask(port, trusting(stranger)) == "SERVING"

    with caplog.at_level(logging.WARNING, logger="serve.api.tls"):
        asyncio.run(run())


def test_a_renewal_that_becomes_good_by_itself_is_taken_up_later(
    tmp_path: Path,
    ca: trustme.CA,
    leaf: trustme.LeafCert,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A certificate that is not valid yet needs no second change of the file, only time."""
    seconds, is_early = 0.0, False
    config = write(tmp_path, leaf)

    def check_pair(certificate: str, key: str) -> None:
        if is_early:
            raise SettingsError("not yet valid")

    monkeypatch.setattr(serve.api.tls, "_check_pair", check_pair)
    certificates = serve.api.tls._Certificates(config, lambda: seconds)
    assert certificates.reload() is None
    is_early = True
    write(tmp_path, ca.issue_cert("localhost"))
    for _ in range(3):
        assert certificates.reload() is None
        seconds += RETRY_SECONDS
    assert [record.getMessage()[:23] for record in caplog.records] == ["certificate not renewed"]
    seconds -= 1
    is_early = False
    assert certificates.reload() is None
    seconds += 1
    assert certificates.reload() is not None
    assert certificates.reload() is None


# ------------------------------------------------------------------ files that cannot be used
def assert_refused(config: ServerConfig, *parts: str) -> None:
    with pytest.raises(SettingsError) as caught:
        server_credentials(config)
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["chain.pem", "key.pem"])
@pytest.mark.parametrize("harm", ["missing", "a folder", "no PEM", "empty", "cut"])
def test_a_bad_file_is_named(tmp_path: Path, leaf: trustme.LeafCert, name: str, harm: str) -> None:
    config = write(tmp_path, leaf)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).unlink()
    if harm == "a folder":
        (tmp_path / name).mkdir()
    elif harm != "missing":
        (tmp_path / name).write_bytes({"no PEM": b"\x30\x82", "empty": b"", "cut": content[:200]}[harm])
    assert_refused(config, str(tmp_path / name), "tls_")


def test_a_bad_client_ca_is_named(tmp_path: Path, leaf: trustme.LeafCert) -> None:
    config = write(tmp_path, leaf)
    for content in (b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        (tmp_path / "clients.pem").write_bytes(content)
        broken = ServerConfig(
            tls_certificate=config.tls_certificate, tls_key=config.tls_key, tls_client_ca=str(tmp_path / "clients.pem")
        )
        assert_refused(broken, "server.tls_client_ca", "clients.pem")


def test_another_certificate_s_key_is_refused(tmp_path: Path, ca: trustme.CA, leaf: trustme.LeafCert) -> None:
    config = write(tmp_path, leaf)
    ca.issue_cert("localhost").private_key_pem.write_to_path(config.tls_key)
    assert_refused(config, "key.pem", "another certificate's")


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o644, 0o777], ids=oct)
def test_a_key_that_everybody_may_use_is_refused(mode: int, tmp_path: Path, leaf: trustme.LeafCert) -> None:
    config = write(tmp_path, leaf)
    Path(config.tls_key).chmod(mode)
    assert_refused(config, "everybody may use", "chmod o=")
    Path(config.tls_key).chmod(0o640)  # of a group
    assert server_credentials(config) is not None


def test_swapped_files_are_refused(tmp_path: Path, leaf: trustme.LeafCert) -> None:
    config = write(tmp_path, leaf)
    assert_refused(ServerConfig(tls_certificate=config.tls_key, tls_key=config.tls_certificate), "no PEM file with")


def test_a_certificate_out_of_its_time_is_refused(tmp_path: Path, ca: trustme.CA) -> None:
    old = ca.issue_cert("localhost", not_before=NOW - 3 * DAY, not_after=NOW - DAY)
    assert_refused(write(tmp_path, old), "chain.pem", "certificate has expired")
    early = ca.issue_cert("localhost", not_before=NOW + DAY, not_after=NOW + 3 * DAY)
    assert_refused(write(tmp_path, early), "chain.pem", "not yet valid")


def test_a_key_with_a_password_is_refused_and_nobody_is_asked_for_it(tmp_path: Path, leaf: trustme.LeafCert) -> None:
    config = write(tmp_path, leaf)
    key = serialization.load_pem_private_key(leaf.private_key_pem.bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    )
    Path(config.tls_key).write_bytes(locked)
    assert_refused(config, "key.pem has a password")


# ------------------------------------------------------------------ exposure
LOCAL = [
    "127.0.0.1:8970",
    "127.8.8.8:0",
    "127.1:0",
    "[::1]:0",
    "[::ffff:127.0.0.1]:0",
    "localhost:8970",
    "unix:/run/kinodex.sock",
    "unix:///run/kinodex.sock",
    "unix-abstract:kinodex",
]
EXPOSED = ["0.0.0.0:8970", "[::]:0", "0:80", "192.0.2.1:80", "[2001:db8::1]:80", "[::ffff:192.0.2.1]:80"]
NO_ADDRESS = [
    "",
    "8970",
    ":8970",
    "localhost",
    "localhost:",
    "localhost:http",
    "localhost:65536",
    "localhost:-1",
    "::1:8970",
    "[::1]",
    "[]:80",
    "127.0.0.1:80,0.0.0.0:80",
    "ipv4:0.0.0.0:80",
    "dns:///0.0.0.0:80",
    "vsock:3:80",
    "127.0.0.1:80\n",
    "a b:80:",
    "127.0.0.1:٨٠",
]
TLS = {"tls_certificate": "chain.pem", "tls_key": "key.pem"}
CLIENTS = {**TLS, "tls_client_ca": "clients.pem"}


@pytest.mark.parametrize("listen", LOCAL)
def test_this_machine_needs_no_protection(listen: str) -> None:
    assert is_local(listen)
    check_exposure(ServerConfig(listen=listen), has_tokens=False)


def test_an_address_comes_apart() -> None:
    assert host_and_port("localhost:8970") == ("localhost", 8970)
    assert host_and_port("[::1]:0") == ("::1", 0)


@pytest.mark.parametrize("listen", EXPOSED)
def test_the_network_does(listen: str) -> None:
    assert not is_local(listen)
    with pytest.raises(SettingsError, match="tls_certificate and tls_key"):
        check_exposure(ServerConfig(listen=listen), has_tokens=False)


@pytest.mark.parametrize("listen", NO_ADDRESS)
def test_what_is_no_address_is_refused(listen: str) -> None:
    with pytest.raises(SettingsError, match="HOST:PORT or") as caught:
        check_exposure(ServerConfig(listen=listen, allow_unprotected_network=True), has_tokens=True)
    assert "\n" not in str(caught.value)


def test_a_name_counts_as_all_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*_: object, **__: object) -> list[tuple[object, ...]]:
        return [(0, 0, 0, "", ("127.0.0.1", 80)), (0, 0, 0, "", ("192.0.2.7", 80))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert not is_local("kinodex.internal:80")


def test_a_name_that_does_not_resolve_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(SettingsError, match=r"kinodex\.internal does not resolve"):
        is_local("kinodex.internal:80")


@pytest.mark.parametrize(
    ("tls", "has_tokens", "parts"),
    [
        ({}, False, ["server.tls_certificate and tls_key", "server.tls_client_ca", "kinodex token add"]),
        ({}, True, ["plain text", "server.tls_certificate and tls_key"]),
        (TLS, False, ["anybody", "server.tls_client_ca", "kinodex token add"]),
    ],
)
def test_what_is_missing_is_said(
    tls: dict[str, str], has_tokens: bool, parts: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(SettingsError) as caught:
        check_exposure(ServerConfig(listen="0.0.0.0:8970", **tls), has_tokens)  # type: ignore[arg-type]
    for part in [*parts, "0.0.0.0:8970", "127.0.0.1", "server.allow_unprotected_network"]:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    config = ServerConfig(listen="0.0.0.0:8970", allow_unprotected_network=True, **tls)  # type: ignore[arg-type]
    check_exposure(config, has_tokens)
    assert caplog.records[-1].getMessage().startswith("listening unprotected address=0.0.0.0:8970")


@pytest.mark.parametrize(("tls", "has_tokens"), [(TLS, True), (CLIENTS, False), (CLIENTS, True)])
def test_tls_with_tokens_or_client_certificates_may_face_the_network(tls: dict[str, str], has_tokens: bool) -> None:
    check_exposure(ServerConfig(listen="0.0.0.0:8970", **tls), has_tokens)  # type: ignore[arg-type]
