"""Settings of the server and of its client."""

import re
from dataclasses import dataclass
from typing import Literal

from serve.errors import SettingsError
from serve.retention import read_retention


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """How `kinodex serve` listens, whom it lets in, and how much it takes on."""

    listen: str = "127.0.0.1:8970"  # HOST:PORT; port 0 is any free one
    tls_certificate: str = ""  # PEM file, the chain; empty: no TLS
    tls_key: str = ""  # PEM file
    tls_client_ca: str = ""  # PEM file: clients must show a certificate of these (mTLS)
    tokens: str = ""  # the file that `kinodex token` writes; empty: DIR/tokens.json if it is there
    allow_unprotected_network: bool = False  # listen beyond this machine without TLS and authentication
    metrics_listen: str = ""  # HOST:PORT of Prometheus metrics over HTTP; empty: none
    traces: bool = False  # OpenTelemetry, set up by the OTEL_ variables; needs the extra "tracing"
    query_workers: int = 0  # questions answered at the same time; 0: one a processor
    max_waiting_queries: int = 256  # beyond them a question is refused at once, with the time to come back
    max_concurrent_calls: int = 1000  # of all kinds but those that watch, waiting ones included
    max_watches: int = 10_000  # calls of WatchMoments and WatchEvents at the same time
    max_message_bytes: int = 16 << 20  # of one request: a picture of 8 MiB with room
    max_call_seconds: float = 60.0  # of a call that brings no deadline of its own, uploads excepted
    max_upload_bytes: int = 8 << 30  # of one file
    max_spool_bytes: int = 64 << 30  # of all uploads that wait to be indexed
    max_upload_stall_seconds: float = 60.0  # without a byte
    drain_seconds: float = 30.0  # for calls under way when the server is told to stop
    frame_cache_bytes: int = 512 << 20  # vectors of the videos asked about lately, kept in memory
    policies: str = ""  # the file of moderation policies; empty: DIR/policies.yaml if it is there
    publish_events: bool = True  # to Kafka; of several servers that score the same streams, only one should
    webhook_url: str = ""  # http: or https: that every change of an event is posted to; empty: none
    webhook_secret: str = ""  # which signs what is posted; at least 16 bytes, or whsec_ and base64
    retention: tuple[str, ...] = ()  # of live videos: "cams=7d", "default=30d,50GiB", "*=1d"; none: all is kept

    def __post_init__(self) -> None:
        for name in ("query_workers", "max_waiting_queries"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        for name in (
            "max_concurrent_calls",
            "max_watches",
            "max_message_bytes",
            "max_call_seconds",
            "max_upload_bytes",
            "max_spool_bytes",
            "max_upload_stall_seconds",
            "drain_seconds",
            "frame_cache_bytes",
        ):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ValueError("tls_certificate and tls_key must be set together")
        if self.tls_client_ca and not self.tls_certificate:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key")
        if bool(self.webhook_url) != bool(self.webhook_secret):
            raise ValueError("webhook_url and webhook_secret must be set together")
        read_retention(self.retention)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexConfig:
    """Where the nearest vectors are looked for."""

    milvus_uri: str = ""  # http://HOST:PORT[/DATABASE], https:, or a path *.db (milvus-lite); empty: FAISS, here
    milvus_token: str = ""  # USER:PASSWORD, or an API key
    milvus_timeout_seconds: float = 10.0  # of one request to Milvus, attempts to reach it again included

    def __post_init__(self) -> None:
        if self.milvus_uri and not self.milvus_uri.startswith(("http://", "https://")):
            if not self.milvus_uri.endswith(".db"):
                raise ValueError(
                    "milvus_uri must be http://HOST:PORT, https://HOST:PORT or a path that ends with .db,"
                    f" got {self.milvus_uri!r}"
                )
        elif "@" in self.milvus_uri:
            raise ValueError("milvus_uri must not hold a password: set milvus_token")
        if self.milvus_timeout_seconds <= 0:
            raise ValueError(f"milvus_timeout_seconds must be > 0, got {self.milvus_timeout_seconds}")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """How `kinodex worker` works."""

    group: str = ""  # the Kafka consumer group that shares the partitions; empty: PREFIX-workers
    idle_seconds: float = 60.0  # without a chunk until a stream counts as ended; what comes then begins a new epoch
    shed_seconds: float = 0.0  # chunks that are older are left out, and counted; 0: none is
    metrics_listen: str = ""  # HOST:PORT of Prometheus metrics over HTTP; empty: none

    def __post_init__(self) -> None:
        if self.idle_seconds <= 0:
            raise ValueError(f"idle_seconds must be > 0, got {self.idle_seconds}")
        if self.shed_seconds < 0:
            raise ValueError(f"shed_seconds must be >= 0, got {self.shed_seconds}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """How a server is reached."""

    token: str = ""  # the bearer token
    tls: Literal["auto", "on", "off"] = "auto"  # auto: on, but for a server on this machine
    tls_ca: str = ""  # PEM file: trust these instead of the system's certificates
    tls_certificate: str = ""  # PEM file: who we are, where the server asks (mTLS)
    tls_key: str = ""  # PEM file
    timeout_seconds: float = 60.0  # of one call, uploads excepted

    def __post_init__(self) -> None:
        if self.tls not in ("auto", "on", "off"):
            raise ValueError(f"tls must be auto, on or off, got {self.tls!r}")
        if self.timeout_seconds <= 0:
            raise ValueError(f"timeout_seconds must be > 0, got {self.timeout_seconds}")
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ValueError("tls_certificate and tls_key must be set together")


# HOST:PORT, [IPV6]:PORT. Nothing else: gRPC knows more spellings, and one that we misread might listen anywhere.
ADDRESS = re.compile(r"(?:\[(?P<ipv6>[^\[\]]+)\]|(?P<host>[^\[\]:/,]+)):(?P<port>[0-9]{1,5})")

LARGEST_PORT = 65535


def host_and_port(listen: str) -> tuple[str, int]:
    """Take HOST:PORT or [IPV6]:PORT apart; the brackets are gone then.

    Raises:
        SettingsError: If it is neither.
    """
    match = ADDRESS.fullmatch(listen)
    if match is None or int(match["port"]) > LARGEST_PORT:
        raise SettingsError(f"an address to listen on must be HOST:PORT or [IPV6]:PORT, got {listen!r}")
    return match["ipv6"] or match["host"], int(match["port"])
