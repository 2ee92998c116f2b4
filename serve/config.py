"""Settings of the server, its index, its worker and its client; the limits of retention."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from serve.errors import SettingsError


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipConfig:
    """Clips that are cut out of videos, and the player that shows moments."""

    max_seconds: float = 3600.0  # longest clip, in seconds; a longer one is nearly the file itself
    max_bytes: int = 4 << 30  # largest clip; an hour of 9 Mbit/s
    # how `kinodex play` shows a moment: `mpv`, `vlc`, `ffplay`, `browser`, or the path of one of the first three; none:
    # the first that is there
    player: str = ""

    def __post_init__(self) -> None:
        for name in ("max_seconds", "max_bytes"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """The server: addresses, access, limits, moderation and retention."""

    listen: str = "127.0.0.1:8970"  # `HOST:PORT` to listen on, port 0 for any free port, or `unix:PATH`
    # `HOST:PORT` of HTTP: the API as JSON (Connect), pictures and the console; port 0 for any free port; none: no HTTP
    http_listen: str = "127.0.0.1:8971"
    # names by which browsers may reach HTTP, as in `search.example.com`, beside addresses and `localhost`
    http_names: tuple[str, ...] = ()
    tls_certificate: str = ""  # PEM file of the certificate chain; renewed files need no restart; none: no TLS
    tls_key: str = ""  # PEM file of the certificate's key
    tls_client_ca: str = ""  # PEM file of the authorities whose certificates clients must show (mTLS)
    tokens: str = ""  # file that `kinodex token` writes; none: DIR/tokens.json, if it is there
    # file that gets a line of JSON for each call, and each change of tokens, videos or retention by the command; none:
    # no audit log
    audit_log: str = ""
    audit_questions: bool = False  # whether lines of the audit log have the texts of questions and of reviews' notes
    allow_unprotected_network: bool = False  # whether to listen beyond this machine without TLS and authentication
    metrics_listen: str = ""  # `HOST:PORT` of Prometheus metrics over HTTP, also beyond this machine
    metrics_tls: bool = False  # whether metrics use HTTPS with tls_certificate, and tls_client_ca if it is set
    metrics_token: str = ""  # bearer token that Prometheus must send, 16 characters or more; none: anybody may read
    traces: bool = False  # OpenTelemetry spans, set up by `OTEL_` variables; needs `pip install 'kinodex[tracing]'`
    query_workers: int = 0  # questions answered at the same time; 0: one for each processor
    max_waiting_queries: int = 256  # questions that may wait; the next one is refused, with a time to try again
    max_concurrent_calls: int = 1000  # calls at the same time, with waiting calls, without watches
    max_watches: int = 10_000  # calls of WatchMoments and WatchEvents at the same time
    max_uploads: int = 64  # uploads at the same time
    max_jobs: int = 10_000  # videos that wait to be indexed
    # part of each of these limits, and of max_spool_bytes, that one caller may take: one token or client certificate
    max_caller_share: float = 0.25
    max_questions_per_second: float = 100.0  # questions of one caller a second, with bursts of five seconds' questions
    max_message_bytes: int = 16 << 20  # largest request; a picture may have 8 MiB
    max_call_seconds: float = 60.0  # time for a call without a deadline of its own; uploads are excepted
    max_upload_bytes: int = 8 << 30  # largest upload
    max_spool_bytes: int = 64 << 30  # all uploads that wait to be indexed, together
    # time without a byte, or with fewer than 1 KiB a second, after which an upload fails
    max_upload_stall_seconds: float = 60.0
    drain_seconds: float = 30.0  # time for calls under way when the server is stopped
    frame_cache_bytes: int = (
        512 << 20
    )  # memory for frames of videos that were searched lately; `mini` needs 3 MiB an hour
    policies: str = ""  # file of moderation policies; none: DIR/policies.yaml, if it is there
    # whether to publish moderation events to Kafka; of several servers with the same streams, only one should
    publish_events: bool = True
    webhook_url: str = ""  # `http:` or `https:` URL that gets every change of a moderation event as a signed POST
    webhook_secret: str = ""  # key of the webhook's signature: 16 bytes or more, or `whsec_` and base64
    # how long this server keeps its copy of live videos, by collection: `cams=7d`, `default=30d,50GiB`, `*=1d`; none:
    # as long as all servers (`kinodex retention`)
    retention: tuple[str, ...] = ()
    # how much callers may add to a collection: `talks=500h`, `default=2000videos,300h`, `*=100videos`; none: any amount
    quotas: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("query_workers", "max_waiting_queries"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        for name in (
            "max_concurrent_calls",
            "max_watches",
            "max_uploads",
            "max_jobs",
            "max_questions_per_second",
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
        if not 0 < self.max_caller_share <= 1:
            raise ValueError(f"max_caller_share must be > 0 and at most 1, got {self.max_caller_share}")
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ValueError("tls_certificate and tls_key must be set together")
        if self.tls_client_ca and not self.tls_certificate:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key")
        if self.metrics_tls and not self.tls_certificate:
            raise ValueError("metrics_tls needs tls_certificate and tls_key")
        if self.metrics_token and (len(self.metrics_token) < 16 or not self.metrics_token.isascii()):
            raise ValueError("metrics_token must be 16 ASCII characters or more")
        if bool(self.webhook_url) != bool(self.webhook_secret):
            raise ValueError("webhook_url and webhook_secret must be set together")
        parse_retention(self.retention)
        parse_quotas(self.quotas)


SubtitleUse = Literal["prefer", "add", "ignore"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SubtitleConfig:
    """Subtitles of files."""

    # what becomes of subtitles in the library's language: `prefer` (their words, and the speech model's where they have
    # none), `add` (both) or `ignore`
    use: SubtitleUse = "prefer"

    def __post_init__(self) -> None:
        if self.use not in ("prefer", "add", "ignore"):
            raise ValueError(f"use must be prefer, add or ignore, got {self.use!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexConfig:
    """The index of vectors: FAISS by default, or Milvus."""

    # Milvus that holds the vectors: `http://HOST:PORT[/DATABASE]`, `https:`, or a path `*.db` (milvus-lite); needs
    # `pip install 'kinodex[milvus]'`; none: FAISS, in this process
    milvus_uri: str = ""
    milvus_token: str = ""  # `USER:PASSWORD` or an API key of Milvus
    milvus_timeout_seconds: float = 10.0  # time for one request to Milvus, with its repetitions

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
    """The workers of live streams, `kinodex worker`."""

    group: str = ""  # Kafka consumer group whose workers share the partitions; none: PREFIX-workers
    # time without a chunk after which a stream counts as ended; a later chunk begins a new epoch
    idle_seconds: float = 60.0
    shed_seconds: float = 0.0  # age by the brokers' clock beyond which chunks are left out; 0: no limit
    # how far a chunk's `session`, in milliseconds since 1970, may lie ahead of the brokers' clock; a chunk beyond it is
    # a dead letter, as it would make all later sessions of its stream stale
    max_session_lead_seconds: float = 300.0
    # `HOST:PORT` of the worker's Prometheus metrics, with `server.metrics_tls` and `server.metrics_token`
    metrics_listen: str = ""

    def __post_init__(self) -> None:
        if self.idle_seconds <= 0:
            raise ValueError(f"idle_seconds must be > 0, got {self.idle_seconds}")
        if self.max_session_lead_seconds <= 0:
            raise ValueError(f"max_session_lead_seconds must be > 0, got {self.max_session_lead_seconds}")
        if self.shed_seconds < 0:
            raise ValueError(f"shed_seconds must be >= 0, got {self.shed_seconds}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """The connection from a client to a server."""

    token: str = ""  # bearer token that the client sends
    tls: Literal["auto", "on", "off"] = "auto"  # `on`, `off`, or `auto`: on, except for a server on this machine
    tls_ca: str = ""  # PEM file of the authorities to trust; none: the system's
    tls_certificate: str = ""  # PEM file of the certificate shown to a server that asks for one (mTLS)
    tls_key: str = ""  # PEM file of that certificate's key
    timeout_seconds: float = 60.0  # time for one call; uploads are excepted

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


# ---- retention: how long live videos are kept

EVERY_OTHER = "*"  # stands for all collections that are not named
AGE_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
SIZE_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """How long and how much of the live videos of one collection is kept."""

    age_seconds: float = math.inf  # from the append of a segment's oldest chunk to the newest append of all
    size_bytes: float = math.inf  # of all live videos of the collection together

    def __post_init__(self) -> None:
        for name in ("age_seconds", "size_bytes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """The limits of all collections."""

    limits: Mapping[str, Limit] = field(default_factory=lambda: MappingProxyType({}))  # by collection, or EVERY_OTHER

    def of(self, collection: str) -> Limit | None:
        """Return a collection's limit; None: everything is kept."""
        return self.limits.get(collection) or self.limits.get(EVERY_OTHER)

    def __bool__(self) -> bool:
        """Whether anything is ever pruned."""
        return bool(self.limits)


def parse_retention(texts: Sequence[str]) -> Retention:
    """Parse server.retention: "cams=7d", "default=30d,50GiB", "*=1d".

    Raises:
        ValueError: If a text has no limit, or repeats a collection or a kind of limit.
    """
    units = {"age_seconds": AGE_UNITS, "size_bytes": SIZE_UNITS}
    form = f"an age (s, m, h, d, w), a size ({', '.join(SIZE_UNITS)}) or both, as in cams=7d,50GiB"
    amounts = _parse_amounts("retention", texts, units, "cams=7d or cams=7d,50GiB", form)
    return Retention(limits=MappingProxyType({name: Limit(**limits) for name, limits in amounts.items()}))


# ---- quotas: how much a collection may hold

COUNT_UNITS = {"videos": 1}
LENGTH_UNITS = {"h": 3600}


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """How much one collection may hold."""

    video_count: float = math.inf
    length_seconds: float = math.inf  # of all its videos together


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """The quotas of all collections."""

    quotas: Mapping[str, Quota] = field(default_factory=lambda: MappingProxyType({}))  # by collection, or EVERY_OTHER

    def of(self, collection: str) -> Quota | None:
        """Return a collection's quota; None: it may hold any amount."""
        return self.quotas.get(collection) or self.quotas.get(EVERY_OTHER)


NO_QUOTAS = Quotas()


def parse_quotas(texts: Sequence[str]) -> Quotas:
    """Parse server.quotas: "talks=500h", "default=2000videos,300h", "*=100videos".

    Raises:
        ValueError: If a text has no quota, or repeats a collection or a kind of quota.
    """
    units = {"video_count": COUNT_UNITS, "length_seconds": LENGTH_UNITS}
    form = "a number of videos, of hours (h) or both, as in talks=2000videos,500h"
    amounts = _parse_amounts("quotas", texts, units, "talks=500h or talks=2000videos,500h", form)
    return Quotas(quotas=MappingProxyType({name: Quota(**kinds) for name, kinds in amounts.items()}))


# ---- amounts by collection

Units = Mapping[str, Mapping[str, int]]  # of each kind of amount: its units, each in the unit of the kind


def _parse_amounts(
    setting: str, texts: Sequence[str], units: Units, example: str, form: str
) -> dict[str, dict[str, float]]:
    """Return the amounts of each collection by their kinds.

    Environment variables are split at their commas, so a text without a collection adds to the collection before it.
    """
    amounts: dict[str, dict[str, float]] = {}
    collection = ""
    for text in texts:
        name, equals, listed = text.partition("=")
        if not equals:
            listed = text
        else:
            collection = name.strip()
            if collection in amounts:
                raise ValueError(f"{setting} names the collection {collection!r} twice")
            amounts[collection] = {}
        if not collection:
            raise ValueError(f"{setting} must be like {example} (* is every other), got {text!r}")
        for part in listed.split(","):
            kind, amount = _parse_amount(part, units)
            if not amount:
                raise ValueError(f"{setting} must give each collection {form}; got {part.strip()!r} in {text!r}")
            if kind in amounts[collection]:
                raise ValueError(f"{setting} of {collection} has two limits of one kind: {text!r}")
            amounts[collection][kind] = amount
    return amounts


def _parse_amount(part: str, units: Units) -> tuple[str, float]:
    """Return the kind and the amount of a text such as "7d"; an amount of 0: it is none."""
    match = AMOUNT.fullmatch(part.strip())
    for kind, factors in units.items():
        if match is not None and match[2] in factors:
            return kind, float(match[1]) * factors[match[2]]
    return "", 0.0
