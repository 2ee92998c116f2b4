"""Settings of the stage: decoding, cutting streams into chunks, the URI policy, and Kafka."""

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
    """Which pictures and sound decoding yields, and the limits of one input."""

    sampling: SamplingPolicy = "fast"
    input_width: int = 224  # width of Frame.pixels in pixels; the visual encoder determines it
    input_height: int = 224
    resize: ResizePolicy = "crop"  # crop: the centre; squash: all of it, distorted; pad: all of it, with black bars
    thumbnail_px: int = 180  # shorter side of the stored JPEG, in pixels
    decode_video: bool = True  # False: decode sound only
    clock: Clock = "media"  # where media time is zero: the first picture, or a whole second of source time before it
    max_pixels: int = 8192 * 4352  # 8K and a margin: the largest picture of common encoders
    max_duration_seconds: float = 24 * 3600.0
    max_streams: int = 64
    max_memory_bytes: int = 3 << 30  # of the child process: a 10-bit 8K H.265 stream needs about 2 GiB
    max_stall_seconds: float = 60.0  # without a read, packet or frame; then the watchdog ends the child process
    max_wall_seconds: float = 6 * 3600.0  # for one input; time in which the consumer is busy does not count

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
    """How a source is cut into chunks, and how a lost source is connected again."""

    realtime: bool = False  # publish a file no faster than it plays
    chunk_seconds: float = 2.0  # a chunk ends at the first keyframe after this time
    max_chunk_bytes: int = 8 << 20  # largest chunk that the topic accepts; larger ones are dropped
    min_backoff_seconds: float = 1.0  # first pause before connecting again; each further pause is twice as long
    max_backoff_seconds: float = 30.0  # longest such pause
    open_timeout_seconds: float = 15.0  # bound of connecting and finding the streams
    read_timeout_seconds: float = 30.0  # longest time without a packet; HLS segments last ten seconds and more
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
    """The URI policy: which sources may be read, and how much of them."""

    schemes: tuple[str, ...] = ("http", "https", "file")
    hosts: tuple[str, ...] = ("*",)  # host names, "*.example.org", or "*" for any public host
    private_networks: tuple[str, ...] = ()  # private networks that may be reached, such as "10.1.0.0/16"
    file_roots: tuple[str, ...] = (".",)  # folders that file: URIs must lie in, after symlinks are resolved
    max_bytes: int = 64 << 30  # largest source
    max_redirects: int = 5
    timeout_seconds: float = 30.0  # bound of connecting, and of each read
    max_fetch_seconds: float = 6 * 3600.0  # bound of one download, so that a slow server cannot hold a worker for days

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
    """Kafka: brokers, credentials, topics and timeouts."""

    servers: tuple[str, ...] = ()  # "host:port" of some brokers, which name all others; empty: no Kafka
    topic_prefix: str = "kinodex"  # the topics are kinodex.chunks, kinodex.segments, ...
    security_protocol: SecurityProtocol = "PLAINTEXT"
    sasl_mechanism: SaslMechanism = ""
    sasl_username: str = ""
    sasl_password: str = field(default="", repr=False)
    tls_ca: str = ""  # PEM file of the authorities that sign brokers' certificates; "": those of the system
    tls_certificate: str = ""  # PEM file of our certificate; "": the broker asks for none
    tls_key: str = ""  # PEM file of its private key
    partition_count: int = 12  # of a topic when it is created; at most this many workers share the streams
    replication_factor: int = -1  # of a topic when it is created; -1: the broker's default
    session_timeout_seconds: float = 10.0  # a worker without heartbeats for this long counts as dead
    delivery_timeout_seconds: float = 600.0  # longest outage before unwritten records are given up
    bootstrap_timeout_seconds: float = 15.0  # bound of waiting for any answer of a broker

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
