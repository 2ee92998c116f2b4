"""Settings of the stage: how to decode, and where bytes may come from."""

import re
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Literal

SamplingPolicy = Literal["exact", "fast", "keyframes"]
ResizePolicy = Literal["crop", "squash", "pad"]
Clock = Literal["media", "source"]
SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SaslMechanism = Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeConfig:
    """What one decode yields, and the limits that hold for it."""

    sampling: SamplingPolicy = "fast"
    input_width: int = 224  # pixels of Frame.pixels, set by the visual encoder
    input_height: int = 224
    resize: ResizePolicy = "crop"  # crop: centre; squash: whole picture, aspect lost; pad: whole picture, black bars
    thumbnail_px: int = 180  # shorter side of the JPEG kept as evidence
    decode_video: bool = True  # False: sound only, no picture is decoded
    clock: Clock = "media"  # zero: media: the first picture; source: a whole second of the container's time before it
    max_pixels: int = 8192 * 4352  # 8K and a little: the largest picture common encoders produce
    max_duration_seconds: float = 24 * 3600.0
    max_streams: int = 64
    max_memory_bytes: int = 3 << 30  # of the child process: a 10-bit 8K H.265 stream needs about 2 GiB
    max_stall_seconds: float = 60.0  # without one decoded packet, frame or read: the watchdog's patience
    max_wall_seconds: float = 6 * 3600.0  # for one input, waiting for the consumer not counted

    def __post_init__(self) -> None:
        if self.sampling not in ("exact", "fast", "keyframes"):
            raise ValueError(f"sampling must be exact, fast or keyframes, got {self.sampling!r}")
        if self.resize not in ("crop", "squash", "pad"):
            raise ValueError(f"resize must be crop, squash or pad, got {self.resize!r}")
        if self.clock not in ("media", "source"):
            raise ValueError(f"clock must be media or source, got {self.clock!r}")
        for name in (
            "input_width",
            "input_height",
            "thumbnail_px",
            "max_pixels",
            "max_duration_seconds",
            "max_streams",
            "max_memory_bytes",
            "max_stall_seconds",
            "max_wall_seconds",
        ):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishConfig:
    """How a source is cut into chunks, and what happens when it goes away."""

    realtime: bool = False  # a file comes no faster than it plays
    chunk_seconds: float = 2.0  # a chunk ends at the first keyframe after so long
    max_chunk_bytes: int = 8 << 20  # what the topic takes
    min_backoff_seconds: float = 1.0  # before connecting again; doubled each time
    max_backoff_seconds: float = 30.0
    open_timeout_seconds: float = 15.0  # for connecting and finding the streams
    read_timeout_seconds: float = 30.0  # without one packet: HLS comes in pieces of ten seconds and more
    rtsp_transport: Literal["tcp", "udp"] = "tcp"

    def __post_init__(self) -> None:
        if not 0 < self.chunk_seconds <= 10:
            raise ValueError(f"chunk_seconds must be > 0 and at most 10, got {self.chunk_seconds}")
        for name in ("max_chunk_bytes", "min_backoff_seconds", "open_timeout_seconds", "read_timeout_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        if self.max_backoff_seconds < self.min_backoff_seconds:
            raise ValueError(f"max_backoff_seconds must be >= min_backoff_seconds, got {self.max_backoff_seconds}")
        if self.rtsp_transport not in ("tcp", "udp"):
            raise ValueError(f"rtsp_transport must be tcp or udp, got {self.rtsp_transport!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    """Where bytes may come from: the URI policy."""

    schemes: tuple[str, ...] = ("http", "https", "file")
    hosts: tuple[str, ...] = ("*",)  # host names, "*.example.org", or "*" for any public host
    private_networks: tuple[str, ...] = ()  # e.g. "10.1.0.0/16": not reachable unless listed here
    file_roots: tuple[str, ...] = (".",)  # file: URIs only below these, symlinks resolved
    max_bytes: int = 64 << 30
    max_redirects: int = 5
    timeout_seconds: float = 30.0  # for connecting, and for each read
    max_fetch_seconds: float = 6 * 3600.0  # for one download: a slow server must not hold a worker for days

    def __post_init__(self) -> None:
        for name in ("max_bytes", "timeout_seconds", "max_fetch_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        if self.max_redirects < 0:
            raise ValueError(f"max_redirects must be >= 0, got {self.max_redirects}")
        for network in self.private_networks:
            try:
                ip_network(network)
            except ValueError as e:
                raise ValueError(f"private_networks must be networks such as 10.1.0.0/16, got {e}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaConfig:
    """Where the brokers are, how they know us, and how long we wait for them."""

    servers: tuple[str, ...] = ()  # "host:port" of some brokers; they tell of the others. None: no Kafka
    topic_prefix: str = "kinodex"  # the topics are kinodex.chunks, kinodex.segments, ...
    security_protocol: SecurityProtocol = "PLAINTEXT"
    sasl_mechanism: SaslMechanism = ""
    sasl_username: str = ""
    sasl_password: str = field(default="", repr=False)
    tls_ca: str = ""  # a PEM file of the authorities that brokers' certificates are signed by; "": the system's
    tls_certificate: str = ""  # PEM files by which a broker knows us; "": it does not ask
    tls_key: str = ""
    partition_count: int = 12  # of a topic that is made; no more workers than this share the streams
    replication_factor: int = -1  # of a topic that is made; -1: the broker's default
    session_timeout_seconds: float = 10.0  # a worker that is silent for so long is dead
    delivery_timeout_seconds: float = 600.0  # how long an outage may last until what is to be written is given up
    bootstrap_timeout_seconds: float = 15.0  # for the first answer of a broker, and for any other that is waited for

    def __post_init__(self) -> None:
        for server in self.servers:
            host, _, port = server.rpartition(":")
            if not host or not port.isdecimal() or not 0 < int(port) < 65536:
                raise ValueError(f"servers must be host:port, got {server!r}")
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,200}", self.topic_prefix):
            raise ValueError(f"topic_prefix must be letters, digits, '.', '_' and '-', got {self.topic_prefix!r}")
        if self.security_protocol not in ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"):
            raise ValueError(
                f"security_protocol must be PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL, got {self.security_protocol!r}"
            )
        if self.sasl_mechanism not in ("", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"):
            raise ValueError(
                f"sasl_mechanism must be PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512, got {self.sasl_mechanism!r}"
            )
        self._check_credentials()
        for name in (
            "partition_count",
            "session_timeout_seconds",
            "delivery_timeout_seconds",
            "bootstrap_timeout_seconds",
        ):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        if self.replication_factor != -1 and self.replication_factor < 1:
            raise ValueError(f"replication_factor must be >= 1, or -1, got {self.replication_factor}")

    def _check_credentials(self) -> None:
        is_sasl = self.security_protocol.startswith("SASL_")
        if is_sasl and not (self.sasl_mechanism and self.sasl_username and self.sasl_password):
            raise ValueError(
                f"sasl_mechanism, sasl_username and sasl_password must be given with {self.security_protocol}"
            )
        if not is_sasl and (self.sasl_mechanism or self.sasl_username or self.sasl_password):
            raise ValueError(
                f"sasl_* must be given with SASL_PLAINTEXT or SASL_SSL only, not with {self.security_protocol}"
            )
        if not self.is_tls and (self.tls_ca or self.tls_certificate or self.tls_key):
            raise ValueError(f"tls_* must be given with SSL or SASL_SSL only, not with {self.security_protocol}")
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ValueError("tls_certificate and tls_key must be given together")

    @property
    def is_tls(self) -> bool:
        """Whether connections are encrypted."""
        return self.security_protocol in ("SSL", "SASL_SSL")
