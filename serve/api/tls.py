"""The rule for listening unprotected, and the server's TLS certificates, which are reloaded when they are renewed."""

import contextlib
import ipaddress
import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NoReturn

import grpc

from serve.config import ServerConfig, host_and_port
from serve.errors import SettingsError
from serve.files import is_open_to_all, read_regular_file

RETRY_SECONDS = 10.0  # between two tries to load an unusable renewal, each of which costs a handshake
MAX_PEM_BYTES = 16 << 20  # of a file of certificates: those of all public authorities are 300 KB
HANDSHAKE_TURN_COUNT = 4  # of each side; TLS 1.2 and 1.3 take two
LOCAL_SCHEMES = ("unix:", "unix-abstract:")

logger = logging.getLogger(__name__)


# ------------------------------------------------------------------ the address
def check_exposure(
    config: ServerConfig, has_tokens: bool, setting: Literal["listen", "http_listen"] = "listen"
) -> None:
    """Refuse an address that other machines can reach, unless there is TLS and callers must authenticate.

    Raises:
        SettingsError: If TLS or authentication is missing, or the setting is not an address.
    """
    address = getattr(config, setting)
    if is_local(address):
        return
    missing = []
    if not config.tls_certificate:
        missing.append(
            ("tokens would travel in plain text" if has_tokens else "there is no TLS", "tls_certificate and tls_key")
        )
    if not has_tokens and not config.tls_client_ca:
        missing.append(("anybody could call", "tls_client_ca, or run `kinodex token add`"))
    if not missing:
        return
    problem = " and ".join(problem for problem, _ in missing)
    if config.allow_unprotected_network:
        logger.warning("listening unprotected address=%s reason=%s", address, problem)
        return
    remedy = "; ".join(f"set server.{remedy}" for _, remedy in missing)
    raise SettingsError(
        f"server.{setting} {address} can be reached from other machines, and {problem}: {remedy}; "
        "or listen on 127.0.0.1; or, in a network you trust, set server.allow_unprotected_network"
    )


def is_local(listen: str) -> bool:
    """Whether only this machine can reach an address: a loopback address or a unix: socket.

    Raises:
        SettingsError: If it is not an address, or its host cannot be resolved.
    """
    if listen.startswith(LOCAL_SCHEMES):
        return True
    host, port = host_and_port(listen)
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise SettingsError(f"cannot listen on {listen}: {host} does not resolve: check the name") from error
    return all(_is_loopback_address(str(address[0])) for *_, address in addresses)


def _is_loopback_address(text: str) -> bool:
    address = ipaddress.ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


# ------------------------------------------------------------------ the certificates
def server_credentials(
    config: ServerConfig, clock: Callable[[], float] = time.monotonic
) -> grpc.ServerCredentials | None:
    """Make the credentials of a server from the settings' PEM files; None: no TLS.

    The next connection uses renewed files. If they are unusable, this is logged and the old certificate stays in use.

    Raises:
        SettingsError: If a file is missing or is not PEM, the key belongs to another certificate, or no client
            would accept the certificate today.
    """
    if not config.tls_certificate:
        return None
    certificates = _Certificates(config, clock)
    return grpc.dynamic_ssl_server_credentials(
        certificates.first,
        certificates.reload,  # type: ignore[arg-type]  # the stubs lack None, which means no change
        require_client_authentication=bool(config.tls_client_ca),
    )


class _Certificates:
    """The certificate files as they were when they were last usable."""

    def __init__(self, config: ServerConfig, clock: Callable[[], float]) -> None:
        self._config, self._clock = config, clock
        self._lock = threading.Lock()
        self._stamp = _file_stamps(config)
        self._retry_time: float | None = None  # when to load a failed renewal again
        self.first = _load(config)

    def reload(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the new configuration if the files changed, else None. gRPC calls this for each new connection."""
        with self._lock:
            stamp = _file_stamps(self._config)
            if stamp == self._stamp and (self._retry_time is None or self._clock() < self._retry_time):
                return None
            is_new, self._stamp = stamp != self._stamp, stamp
            try:
                configuration = _load(self._config)
            except SettingsError as error:
                self._retry_time = self._clock() + RETRY_SECONDS
                if is_new:
                    logger.error("certificate not renewed, the old one stays reason=%s", error)
                return None
            self._retry_time = None
            logger.warning("certificate renewed file=%s", self._config.tls_certificate)
            return configuration


def _file_stamps(config: ServerConfig) -> list[tuple[int, int, int] | None]:
    """Return what changes with each file: modification time, size and inode; None for a missing file."""

    def stamp(path: str) -> tuple[int, int, int] | None:
        try:
            status = os.stat(path)
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

    return [stamp(path) for path in (config.tls_certificate, config.tls_key, config.tls_client_ca) if path]


def _load(config: ServerConfig) -> grpc.ServerCertificateConfiguration:
    stamp = _file_stamps(config)
    chain = _read_pem("tls_certificate", config.tls_certificate, "CERTIFICATE")
    key = _read_pem("tls_key", config.tls_key, "PRIVATE KEY")
    if is_open_to_all(config.tls_key):
        raise SettingsError(f"everybody may use server.tls_key {config.tls_key}: run `chmod o= {config.tls_key}`")
    roots = _read_pem("tls_client_ca", config.tls_client_ca, "CERTIFICATE") if config.tls_client_ca else None
    _check_pair(config.tls_certificate, config.tls_key)
    if config.tls_client_ca:
        _client_context("tls_client_ca", config.tls_client_ca)
    if _file_stamps(config) != stamp:  # the checked files might not be those that were read
        raise SettingsError(f"server.tls_certificate {config.tls_certificate} is being replaced right now: try again")
    return grpc.ssl_server_certificate_configuration([(key, chain)], root_certificates=roots)


def _read_pem(setting: str, path: str, label: str) -> bytes:
    try:
        content, _ = read_regular_file(Path(path), MAX_PEM_BYTES)
    except OSError as error:
        raise SettingsError(f"cannot read server.{setting} {path}: {error.strerror or error}") from error
    if f"{label}-----".encode() not in content:
        raise SettingsError(f"server.{setting} {path} is no PEM file with a {label}")
    return content


def _check_pair(certificate: str, key: str) -> None:
    """Do a TLS handshake in memory, with a client that trusts this certificate: a failure concerns every client."""

    def no_password() -> NoReturn:
        raise SettingsError(f"server.tls_key {key} has a password, which gRPC cannot ask for: remove the password")

    pair = f"server.tls_certificate {certificate} with server.tls_key {key}"
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        server.load_cert_chain(certificate, key, password=no_password)
    except OSError as error:  # ssl.SSLError is one
        reason = getattr(error, "reason", None) or "a file is damaged or gone"
        if reason == "KEY_VALUES_MISMATCH":
            reason = "the key is another certificate's"
        raise SettingsError(f"cannot use {pair}: {reason}") from error
    client = _client_context("tls_certificate", certificate)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # trust the certificate itself, without its issuer
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = (client.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, server_side=True))
    try:
        _shake_hands(*sides)
    except ssl.SSLCertVerificationError as error:
        raise SettingsError(
            f"no client would accept server.tls_certificate {certificate}: {error.verify_message}"
        ) from error
    except ssl.SSLError as error:
        raise SettingsError(f"cannot use server.tls_certificate {certificate}: {error.reason or error}") from error


def _shake_hands(client: ssl.SSLObject, server: ssl.SSLObject) -> None:
    for side in (client, server) * HANDSHAKE_TURN_COUNT:
        with contextlib.suppress(ssl.SSLWantReadError):  # it waits for the other side
            side.do_handshake()


def _client_context(setting: str, path: str) -> ssl.SSLContext:
    """Return a client's TLS context that trusts the certificates of a file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(path)
    except OSError as error:  # ssl.SSLError is one
        raise SettingsError(f"cannot read server.{setting} {path}: damaged PEM") from error
    return context
