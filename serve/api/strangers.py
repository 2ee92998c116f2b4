"""What strangers may take before a token is known: connections, and health checks, which need no token.

reserve_files() and channel_options() bound the number of connections, their handshakes and their idle time. OpenCalls
bounds health checks without a token in number, size and time. gRPC cannot refuse a message before all of it has
arrived, unless it is larger than server.max_message_bytes. So the number of such messages at a time bounds the memory
that strangers can fill, and the time bounds for how long.
"""

import asyncio
import logging
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from serve.api.shares import Shares
from serve.config import ServerConfig
from serve.errors import RequestInvalid

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 10_000  # at the same time; each takes a file and some 50 KB
HTTP_SHARE = 0.2  # of the connections, if the server has HTTP
RESERVED_FILES = 512  # of the process's limit, kept for the catalog, uploads, decoding children, Kafka and metrics
RESERVED_SHARE = 0.5  # of a low limit: connections may take the rest
HANDSHAKE_SECONDS = 10  # for TLS and the first bytes of HTTP/2; gRPC's own default is 120
IDLE_SECONDS = 300  # without a call, until a connection is closed; clients connect again by themselves
KEEPALIVE_SECONDS, KEEPALIVE_ANSWER_SECONDS = 60, 20  # a connection whose other end has vanished ends within these
MAX_CALLS = (
    10_000  # of one connection at the same time; gRPC refuses further ones, also those that were cancelled just now
)
# Calls of all connections that this process has not looked at yet. gRPC cancels calls beyond its own default of 1,000
# at random, and all above the second limit, without a word on why.
MAX_PENDING_CALLS = 10_000

MAX_CHECKS, MAX_WATCHES = 32, 128  # Health.Check and Health.Watch of all strangers at the same time
ADDRESS_SHARE = 0.25  # of these, for one network address
READ_SECONDS = 3.0  # time for the request to arrive, which usually comes with the headers
MAX_REQUEST_BYTES = 512  # of the request, which is the name of a service


def channel_options(config: ServerConfig, max_connections: int) -> list[tuple[str, Any]]:
    """Return gRPC's options of a server."""
    return [
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.so_reuseport", 0),  # a second server on the port fails, instead of taking every other call
        ("grpc.max_allowed_incoming_connections", max_connections),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS * 1000),
        ("grpc.http2.settings_timeout", HANDSHAKE_SECONDS * 1000),
        ("grpc.max_connection_idle_ms", IDLE_SECONDS * 1000),
        ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_ANSWER_SECONDS * 1000),
        ("grpc.keepalive_permit_without_calls", 1),
        # Pings of clients cost next to nothing. gRPC would hang up on the third within seconds (GOAWAY,
        # too_many_pings), and its own clients send as many while they read a long answer.
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.max_concurrent_streams", MAX_CALLS),
        ("grpc.server.max_pending_requests", MAX_PENDING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING_CALLS),
    ]


def reserve_files() -> int:
    """Raise the process's limit of open files as far as it may be; return how many connections fit into it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + RESERVED_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return MAX_CONNECTIONS
    count = max(soft - RESERVED_FILES, int(soft * RESERVED_SHARE))
    logger.warning("few open files are allowed files=%d connections=%d", soft, count)
    return count


def split_connections(config: ServerConfig) -> tuple[int, int]:
    """Return how many connections gRPC may have, and how many HTTP."""
    count = reserve_files()
    http_count = int(count * HTTP_SHARE) if config.http_listen else 0
    return count - http_count, http_count


class OpenCalls:
    """Admits and reads the health checks of strangers. Lives on the server's event loop."""

    def __init__(self) -> None:
        self._checks = Shares("health checks without a token", f"{MAX_CHECKS} at once", MAX_CHECKS, ADDRESS_SHARE)
        self._watches = Shares("health watches without a token", f"{MAX_WATCHES} at once", MAX_WATCHES, ADDRESS_SHARE)

    @contextmanager
    def admit(self, peer: str, *, is_watch: bool) -> Iterator[None]:
        """Hold a place for one call.

        Raises:
            Overloaded: If too many calls of this address, or of all strangers, are running.
        """
        with (self._watches if is_watch else self._checks).hold(address_of(peer)):
            yield

    async def read(self, context: Any) -> health_pb2.HealthCheckRequest:
        """Read the request.

        Raises:
            RequestInvalid: If it does not arrive in time, is too long, or is no message of this method.
        """
        try:
            async with asyncio.timeout(READ_SECONDS):
                content = await context.read()
        except TimeoutError as error:
            raise RequestInvalid([("request", f"must arrive within {READ_SECONDS:g} s")]) from error
        if not isinstance(content, bytes) or len(content) > MAX_REQUEST_BYTES:  # not bytes: the end of the stream
            raise RequestInvalid([("service", f"must be at most {MAX_REQUEST_BYTES} bytes")])
        try:
            return health_pb2.HealthCheckRequest.FromString(content)
        except DecodeError as error:
            raise RequestInvalid([("request", "is not a message of this method")]) from error


def address_of(peer: str) -> str:
    """Return the network address of gRPC's "ipv4:ADDRESS:PORT" or "ipv6:[ADDRESS]:PORT"; that of "unix:" is one."""
    return peer.rpartition(":")[0] if peer.startswith("ip") else "unix"
