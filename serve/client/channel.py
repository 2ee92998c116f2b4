"""The gRPC channel of a client: the server's address, TLS, retries, and the message of a failed call."""

import ipaddress
import json
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from kinodex.v1 import library_service_pb2, moderation_service_pb2, search_service_pb2, server_service_pb2
from serve.config import ClientConfig
from serve.errors import ServerFailed, SettingsError
from serve.text import printable

ADDRESS = re.compile(
    r"(?:(?P<scheme>grpcs?)://)?(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(?P<port>[0-9]{1,5})/?", re.ASCII
)
# A token goes into a header. Other characters are a mistake, such as a copied line end.
TOKEN = re.compile(r"[!-~]*", re.ASCII)
# About three seconds in all: long enough for a restart, short enough to report a wrong address. gRPC allows five
# attempts at most.
ATTEMPT_COUNT, FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS, BACKOFF_GROWTH = 5, 0.2, 5.0, 2.0
MAX_ANSWER_BYTES = 64 << 20  # of one response; the transcript of a day has 10 MiB
RETRY_BUFFER_BYTES = 16 << 20  # of a request that gRPC keeps to repeat it: twice the largest picture
# Pings notice a server that vanishes during an upload. Servers take more frequent pings for an attack.
KEEPALIVE_SECONDS, KEEPALIVE_ANSWER_SECONDS = 330, 20
MAX_REASON_CHARS = 500  # of gRPC's own message, which can list every address it tried


# ------------------------------------------------------------------ the server's address
@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A server's address, and whether to speak TLS."""

    text: str  # for people: HOST:PORT or unix:PATH
    is_local: bool  # on this machine
    has_tls: bool


def read_address(text: str, config: ClientConfig) -> Address:
    """Read HOST:PORT, grpc://HOST:PORT (plain), grpcs://HOST:PORT (TLS) or unix:PATH (plain).

    Raises:
        SettingsError: If the text is none of these or contradicts client.tls, or if a token would go to another
            machine in plain text.
    """
    if text.startswith("unix:") and len(text) > len("unix:"):
        return Address(text=text, is_local=True, has_tls=False)
    match = ADDRESS.fullmatch(text)
    if match is None or not 0 < int(match["port"]) <= 65535:
        raise SettingsError(
            f"{text!r} is not the address of a server: give HOST:PORT, grpc://HOST:PORT or grpcs://HOST:PORT"
        )
    wanted = {"grpc": "off", "grpcs": "on", None: config.tls}[match["scheme"]]
    if "auto" not in (wanted, config.tls) and wanted != config.tls:
        raise SettingsError(f"{text} contradicts the setting client.tls = {config.tls!r}: change one of them")
    is_local = _is_loopback_host(match["host"])
    has_tls = wanted == "on" or (wanted == "auto" and not is_local)
    if config.token and not has_tls and not is_local:
        raise SettingsError(f"a token is not sent to {text} without TLS: use grpcs://, or a server on this machine")
    return Address(text=f"{match['host']}:{match['port']}", is_local=is_local, has_tls=has_tls)


def _is_loopback_host(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:  # a name
        return False


def open_channel(address: Address, config: ClientConfig) -> grpc.Channel:
    """Make the channel; it sends nothing yet.

    Raises:
        SettingsError: If a certificate's file cannot be read, or the token cannot be sent.
    """
    if not TOKEN.fullmatch(config.token):
        raise SettingsError("the setting client.token must be printable ASCII without spaces")
    options: list[tuple[str, Any]] = [
        ("grpc.service_config", json.dumps({"methodConfig": [_retry_policy()]})),
        ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
        ("grpc.per_rpc_retry_buffer_size", RETRY_BUFFER_BYTES),
        ("grpc.initial_reconnect_backoff_ms", int(FIRST_BACKOFF_SECONDS * 1000)),  # as for retries
        ("grpc.max_reconnect_backoff_ms", int(MAX_BACKOFF_SECONDS * 1000)),
        ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_ANSWER_SECONDS * 1000),
        ("grpc.enable_http_proxy", int(not address.is_local)),
    ]
    # Without a scheme, gRPC could take a host's name for one of its own schemes.
    target = address.text if address.text.startswith("unix:") else f"dns:///{address.text}"
    if not address.has_tls:
        return grpc.insecure_channel(target, options)
    credentials = grpc.ssl_channel_credentials(
        _pem("tls_ca", config.tls_ca) or _system_certificates(),
        _pem("tls_key", config.tls_key),
        _pem("tls_certificate", config.tls_certificate),
    )
    return grpc.secure_channel(target, credentials, options)


def _retry_policy() -> dict[str, Any]:
    """Return gRPC's method config that repeats every call but an upload, whose bytes gRPC would have to keep."""
    modules = (search_service_pb2, library_service_pb2, moderation_service_pb2, server_service_pb2)
    services = [service for module in modules for service in module.DESCRIPTOR.services_by_name.values()]
    names = [
        {"service": service.full_name, "method": method.name}
        for service in services
        for method in service.methods
        if not method.client_streaming
    ]
    return {
        "name": names,
        "retryPolicy": {
            "maxAttempts": ATTEMPT_COUNT,
            "initialBackoff": f"{FIRST_BACKOFF_SECONDS}s",
            "maxBackoff": f"{MAX_BACKOFF_SECONDS}s",
            "backoffMultiplier": BACKOFF_GROWTH,
            "retryableStatusCodes": ["UNAVAILABLE"],
        },
    }


def _pem(setting: str, file: str) -> bytes | None:
    if not file:
        return None
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise SettingsError(f"cannot read client.{setting} {file}: {error.strerror or error}") from error


def _system_certificates() -> bytes | None:
    """Return the certificates that this machine trusts; None, for gRPC's own, if OpenSSL knows no such file."""
    file = ssl.get_default_verify_paths().cafile
    return Path(file).read_bytes() if file else None


# ------------------------------------------------------------------ failed calls
def failure(error: grpc.RpcError, address: Address, timeout_seconds: float | None) -> ServerFailed:
    """Make the exception for a failed call; its message is one line."""
    code, details = error.code(), printable(error.details() or "")[:MAX_REASON_CHARS]
    reason, server_message, retry_after_seconds = _read_status(error)
    if server_message and code is not grpc.StatusCode.INTERNAL:
        message = server_message
    elif code is grpc.StatusCode.UNAVAILABLE:
        message = f"cannot reach the server at {address.text}: {_unreachable(details)}"
    elif code is grpc.StatusCode.DEADLINE_EXCEEDED and timeout_seconds is not None:
        message = f"the server at {address.text} did not answer in {timeout_seconds:g} s: see client.timeout_seconds"
    elif code is grpc.StatusCode.UNIMPLEMENTED:
        message = f"the server at {address.text} is not a kinodex server, or is older than this program: {details}"
    else:
        message = f"the server at {address.text} failed: {code.name}: {details or 'no reason given'}"
    return ServerFailed(message, code.name, reason, retry_after_seconds)


def _read_status(error: grpc.RpcError) -> tuple[str, str, float | None]:
    """Return ErrorInfo.reason, the server's message and RetryInfo's seconds; empty or None where they are missing."""
    # Imported here, as only failures need them.
    from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
    from grpc_status import rpc_status

    try:
        status = rpc_status.from_call(error)  # type: ignore[arg-type]  # a failed call's error is the call
    except ValueError:  # the details contradict the status: not a kinodex server
        status = None
    reason, message = "", "" if status is None else status.message
    retry_after_seconds = None
    for detail in () if status is None else status.details:
        info, request, retry = ErrorInfo(), BadRequest(), RetryInfo()
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(request):
            violations: Sequence[BadRequest.FieldViolation] = request.field_violations
            message = "; ".join(f"{each.field}: {each.description}" for each in violations)
        elif detail.Unpack(retry):
            retry_after_seconds = max(0.0, retry.retry_delay.ToTimedelta().total_seconds())
    return reason, printable(message), retry_after_seconds


def _unreachable(details: str) -> str:
    """Describe the usual causes; gRPC's own messages are long, with the cause at the end."""
    causes = {
        "Connection refused": "nothing listens there",
        "CERTIFICATE_VERIFY_FAILED": "its certificate is not trusted (see client.tls_ca)",
        "WRONG_VERSION_NUMBER": "it does not speak TLS (see client.tls)",
        "CERTIFICATE_REQUIRED": "it asks for our certificate (see client.tls_certificate)",
        "DNS resolution failed": "no such host",
    }
    return next((words for pattern, words in causes.items() if pattern in details), details or "no reason given")
