"""How a client reaches a server: its address, TLS, retries, and what a failed call says."""

import ipaddress
import json
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from kinodex.v1 import library_service_pb2, search_service_pb2
from serve.config import ClientConfig
from serve.errors import ServerFailed, SettingsError
from serve.text import printable

ADDRESS = re.compile(
    r"(?:(?P<scheme>grpcs?)://)?(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(?P<port>[0-9]{1,5})/?", re.ASCII
)
# Goes into a header: anything else is a slip, such as a line end that was copied along.
TOKEN = re.compile(r"[!-~]*", re.ASCII)
# Three seconds in all: a server that restarts is waited for, a wrong address is soon known. Five is gRPC's own most.
ATTEMPT_COUNT, FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS, BACKOFF_GROWTH = 5, 0.2, 5.0, 2.0
MAX_ANSWER_BYTES = 64 << 20  # the transcript of a day is 10 MiB
RETRY_BUFFER_BYTES = 16 << 20  # a request must be kept to be sent again: a picture of 8 MiB with room
# A server that vanishes in the middle of an upload is noticed. More often, and servers take it for an attack.
KEEPALIVE_SECONDS, KEEPALIVE_ANSWER_SECONDS = 330, 20
MAX_REASON_CHARS = 500  # of gRPC's own, which can list every address it tried


# ------------------------------------------------------------------ where the server is
@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a server is, and whether to speak TLS."""

    text: str  # for people: HOST:PORT or unix:PATH
    is_local: bool  # on this machine
    has_tls: bool


def read_address(text: str, config: ClientConfig) -> Address:
    """Read HOST:PORT, grpc://HOST:PORT (plain), grpcs://HOST:PORT (TLS) or unix:PATH (plain).

    Raises:
        SettingsError: If it is none of these, contradicts client.tls, or would send a token in plain text to
            another machine.
    """
    if text.startswith("unix:") and len(text) > len("unix:"):
        return Address(text=text, is_local=True, has_tls=False)
    match = ADDRESS.fullmatch(text)
    if match is None or not 0 < int(match["port"]) <= 65535:
        raise SettingsError(
            f"{text!r} is no address of a server: give HOST:PORT, grpc://HOST:PORT or grpcs://HOST:PORT"
        )
    wanted = {"grpc": "off", "grpcs": "on", None: config.tls}[match["scheme"]]
    if "auto" not in (wanted, config.tls) and wanted != config.tls:
        raise SettingsError(f"{text} contradicts the setting client.tls = {config.tls!r}: change one of them")
    is_local = _is_loopback(match["host"])
    has_tls = wanted == "on" or (wanted == "auto" and not is_local)
    if config.token and not has_tls and not is_local:
        raise SettingsError(f"a token is not sent to {text} without TLS: use grpcs://, or a server on this machine")
    return Address(text=f"{match['host']}:{match['port']}", is_local=is_local, has_tls=has_tls)


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:  # a name
        return False


def open_channel(address: Address, config: ClientConfig) -> grpc.Channel:
    """Make the channel; nothing is sent yet.

    Raises:
        SettingsError: If a certificate's file cannot be read, or the token cannot be sent.
    """
    if not TOKEN.fullmatch(config.token):
        raise SettingsError("the setting client.token must be printable ASCII without spaces")
    options: list[tuple[str, Any]] = [
        ("grpc.service_config", json.dumps({"methodConfig": [_retries()]})),
        ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
        ("grpc.per_rpc_retry_buffer_size", RETRY_BUFFER_BYTES),
        ("grpc.initial_reconnect_backoff_ms", int(FIRST_BACKOFF_SECONDS * 1000)),  # as fast as the retries
        ("grpc.max_reconnect_backoff_ms", int(MAX_BACKOFF_SECONDS * 1000)),
        ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_ANSWER_SECONDS * 1000),
        ("grpc.enable_http_proxy", int(not address.is_local)),
    ]
    # With a scheme, gRPC cannot take a host's name for one of its own schemes.
    target = address.text if address.text.startswith("unix:") else f"dns:///{address.text}"
    if not address.has_tls:
        return grpc.insecure_channel(target, options)
    credentials = grpc.ssl_channel_credentials(
        _pem("tls_ca", config.tls_ca) or _system_certificates(),
        _pem("tls_key", config.tls_key),
        _pem("tls_certificate", config.tls_certificate),
    )
    return grpc.secure_channel(target, credentials, options)


def _retries() -> dict[str, Any]:
    """Tell gRPC to repeat every call but an upload, whose bytes it would have to keep."""
    services = [
        *search_service_pb2.DESCRIPTOR.services_by_name.values(),
        *library_service_pb2.DESCRIPTOR.services_by_name.values(),
    ]
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
    """Give the certificates this machine trusts; None, which is gRPC's own, where OpenSSL knows of none."""
    file = ssl.get_default_verify_paths().cafile
    return Path(file).read_bytes() if file else None


# ------------------------------------------------------------------ what went wrong
def failure(error: grpc.RpcError, address: Address, timeout_seconds: float | None) -> ServerFailed:
    """Say in one line why a call failed."""
    code, details = error.code(), printable(error.details() or "")[:MAX_REASON_CHARS]
    reason, told, retry_after_seconds = _told(error)
    if told and code is not grpc.StatusCode.INTERNAL:
        message = told
    elif code is grpc.StatusCode.UNAVAILABLE:
        message = f"cannot reach the server at {address.text}: {_unreachable(details)}"
    elif code is grpc.StatusCode.DEADLINE_EXCEEDED and timeout_seconds is not None:
        message = f"the server at {address.text} did not answer in {timeout_seconds:g} s: see client.timeout_seconds"
    elif code is grpc.StatusCode.UNIMPLEMENTED:
        message = f"the server at {address.text} is no kinodex server, or is older than this program: {details}"
    else:
        message = f"the server at {address.text} failed: {code.name}: {details or 'no reason given'}"
    return ServerFailed(message, code.name, reason, retry_after_seconds)


def _told(error: grpc.RpcError) -> tuple[str, str, float | None]:
    """Return ErrorInfo.reason, what the server says to people, and when to come back; empty where it says nothing."""
    # Here, because only a failure needs them.
    from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
    from grpc_status import rpc_status

    try:
        status = rpc_status.from_call(error)  # type: ignore[arg-type]  # a failed call's error is the call
    except ValueError:  # details that contradict the status come from no server of ours
        status = None
    reason, told = "", "" if status is None else status.message
    retry_after_seconds = None
    for detail in () if status is None else status.details:
        info, request, retry = ErrorInfo(), BadRequest(), RetryInfo()
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(request):
            wrong: Sequence[BadRequest.FieldViolation] = request.field_violations
            told = "; ".join(f"{each.field}: {each.description}" for each in wrong)
        elif detail.Unpack(retry):
            retry_after_seconds = max(0.0, retry.retry_delay.ToTimedelta().total_seconds())
    return reason, printable(told), retry_after_seconds


def _unreachable(details: str) -> str:
    """Name the usual causes in words; gRPC's own are long, and say least first."""
    causes = {
        "Connection refused": "nothing listens there",
        "CERTIFICATE_VERIFY_FAILED": "its certificate is not trusted (see client.tls_ca)",
        "WRONG_VERSION_NUMBER": "it does not speak TLS (see client.tls)",
        "CERTIFICATE_REQUIRED": "it asks for our certificate (see client.tls_certificate)",
        "DNS resolution failed": "no such host",
    }
    return next((words for sign, words in causes.items() if sign in details), details or "no reason given")
