"""Settings of the stage: decoding, cutting streams into chunks, the URI policy, and Kafka."""

import re
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Literal

SamplingPolicy = Literal["exact", "fast", "keyframes"]
ResizePolicy = Literal["crop", "squash", "pad"]
Clock = Literal["media", "source"]
SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SaslMechanism = Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]


# A still picture may have so many times max_pixels: 214 megapixels, as phones take up to 200. It is decoded alone,
# while the decoder of a video keeps some ten pictures.
STILL_FACTOR = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeConfig:
    """Which pictures and sound decoding yields, and the limits of one input."""

    # which picture is taken for each second: `exact` (the one shown then), `fast` (one within half a second, with as
    # little decoding as that needs) or `keyframes` (only the stream's own keyframes)
    sampling: SamplingPolicy = "fast"
    input_width: int = 224  # width of Frame.pixels, in pixels; the visual encoder sets it
    input_height: int = 224  # height of Frame.pixels, in pixels; the visual encoder sets it
    resize: ResizePolicy = "crop"  # crop: centre; squash: whole picture, aspect lost; pad: whole picture, black bars
    thumbnail_px: int = 180  # shorter side of the JPEGs kept as evidence, in pixels
    reading_px: int = 0  # longer side of Frame.reading, in pixels; 0: none is made; the text reader sets it
    read_subtitles: bool = False  # whether subtitle tracks are read; subtitles.use sets it
    decode_video: bool = True  # whether pictures are decoded; false: sound only
    # where media time begins: media: at the first picture or sound; source: at a whole second of the container's time
    # before the first picture
    clock: Clock = "media"
    # largest picture of a video, in pixels; common encoders produce up to 8K and a little. A still picture may have six
    # times as many
    max_pixels: int = 8192 * 4352
    max_duration_seconds: float = 24 * 3600.0  # longest video
    max_streams: int = 64  # most tracks in a file
    max_memory_bytes: int = 3 << 30  # memory of one decoding process; a 10-bit 8K H.265 stream needs about 2 GiB
    max_stall_seconds: float = 60.0  # time without a decoded packet, a frame or a read, after which decoding fails
    max_wall_seconds: float = 6 * 3600.0  # time to decode one input, without the time it waits for the encoders

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
        if self.reading_px < 0:
            raise ValueError(f"reading_px must be >= 0, got {self.reading_px}")

    @property
    def max_still_pixels(self) -> int:
        """The pixels of the largest still picture."""
        return STILL_FACTOR * self.max_pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishConfig:
    """How a source is cut into chunks, and how a lost source is connected again."""

    realtime: bool = False  # whether a file is published no faster than it plays
    chunk_seconds: float = 2.0  # least length of a chunk, which ends at the next keyframe; at most 10
    max_chunk_bytes: int = 8 << 20  # largest chunk; a larger one is left out, with a note
    min_backoff_seconds: float = 1.0  # pause before a lost source is opened again; doubled after each failure
    max_backoff_seconds: float = 30.0  # longest pause before a lost source is opened again
    open_timeout_seconds: float = 15.0  # time to connect to a source and find its streams
    read_timeout_seconds: float = 30.0  # time without a packet; HLS comes in pieces of ten seconds and more
    rtsp_transport: Literal["tcp", "udp"] = "tcp"  # how RTSP cameras send: `tcp` or `udp`

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

    schemes: tuple[str, ...] = ("http", "https", "file")  # allowed URI schemes
    hosts: tuple[str, ...] = ("*",)  # allowed hosts: names, `*.example.org`, or `*` for any public host
    private_networks: tuple[str, ...] = ()  # allowed private networks, such as `10.1.0.0/16`; no other is reached
    # folders below which `file:` URIs are allowed, after symlinks are resolved; none: no `file:` URI is read, except
    # below the working folder by `kinodex index` without a server; plain paths of commands need none
    file_roots: tuple[str, ...] = ()
    max_bytes: int = 64 << 30  # largest input
    max_redirects: int = 5  # most redirects of one download, each checked like the first address
    timeout_seconds: float = 30.0  # time to connect, and time for each read
    max_fetch_seconds: float = 6 * 3600.0  # time for one download, so that no slow server holds a worker for days

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

    servers: tuple[str, ...] = ()  # `HOST:PORT` of some brokers, which name the others; none: no Kafka; --kafka wins
    topic_prefix: str = "kinodex"  # first part of the topics' names: `kinodex.chunks`, `kinodex.segments` and so on
    # how brokers are reached: `PLAINTEXT`, `SSL`, `SASL_PLAINTEXT` or `SASL_SSL`
    security_protocol: SecurityProtocol = "PLAINTEXT"
    # `PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512` or `OAUTHBEARER`, with a SASL protocol
    sasl_mechanism: SaslMechanism = ""
    sasl_username: str = ""  # user name, with PLAIN and SCRAM
    sasl_password: str = field(default="", repr=False)  # password, with PLAIN and SCRAM
    sasl_password_file: str = ""  # file with that password, in the place of sasl_password; read at the start
    sasl_token_file: str = ""  # file with the token of OAUTHBEARER, read at each connection: something else renews it
    tls_ca: str = ""  # PEM file of the authorities that sign brokers' certificates; none: the system's
    tls_certificate: str = ""  # PEM file of the certificate shown to brokers that ask for one
    tls_key: str = ""  # PEM file of that certificate's key
    # partitions of the topics that `kinodex topics` makes; no more workers than this can share the streams
    partition_count: int = 12
    replication_factor: int = -1  # copies of the topics that `kinodex topics` makes; -1: the broker's default
    session_timeout_seconds: float = 10.0  # silence after which a worker counts as dead
    delivery_timeout_seconds: float = 600.0  # longest outage of the broker before unwritten records are given up
    bootstrap_timeout_seconds: float = 15.0  # time for the first answer of a broker, and for each later request

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
        if self.sasl_mechanism not in ("", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"):
            raise ValueError(
                "sasl_mechanism must be PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER,"
                f" got {self.sasl_mechanism!r}"
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
        is_sasl, password = self.security_protocol.startswith("SASL_"), self.sasl_password or self.sasl_password_file
        if self.sasl_password and self.sasl_password_file:
            raise ValueError("sasl_password or sasl_password_file must be given, not both")
        if self.sasl_mechanism == "OAUTHBEARER":
            if not self.sasl_token_file or self.sasl_username or password:
                raise ValueError("sasl_token_file, and no user name or password, must be given with OAUTHBEARER")
        elif self.sasl_token_file:
            raise ValueError("sasl_token_file must be given with OAUTHBEARER only")
        elif is_sasl and not (self.sasl_mechanism and self.sasl_username and password):
            raise ValueError(
                "sasl_mechanism, sasl_username and sasl_password or sasl_password_file must be given with"
                f" {self.security_protocol}"
            )
        if not is_sasl and (self.sasl_mechanism or self.sasl_username or password):
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
