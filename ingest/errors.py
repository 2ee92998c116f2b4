"""IngestError
├── SourceError            the bytes cannot be had
│   ├── SourceNotFound     no such file or page
│   ├── SourceUnreadable   it is there, and may not be read
│   ├── SourceRefused      the URI policy forbids it
│   └── SourceUnavailable  the other end failed; a later try may work
├── DecodeError            the bytes are not media that decodes
│   ├── DecoderCrashed     the child process died on them
│   └── DecoderTimeout     the watchdog ended the child process
├── LimitExceeded          over a setting; names it
├── BrokerUnavailable      no Kafka broker, or none that lets us in: try again later
├── OffsetRegression       a topic is shorter than what was read of it: stop
└── RecordTooLarge         no topic takes a record of this size
"""

from collections.abc import Sequence


class IngestError(Exception):
    """One input cannot be ingested. The others can.

    Attributes:
        uri: The input, as the caller named it.
        reason: What is wrong, without the input's name.
        remedy: What to do about it; may be empty.
    """

    def __init__(self, uri: str, reason: str, remedy: str = "") -> None:
        super().__init__(f"{reason}: {uri}" + (f" ({remedy})" if remedy else ""))
        self.uri, self.reason, self.remedy = uri, reason, remedy


class SourceError(IngestError):
    """The bytes cannot be had."""


class SourceNotFound(SourceError):
    """No such file or page."""


class SourceUnreadable(SourceError):
    """The source is there, and may not be read."""


class SourceRefused(SourceError):
    """The URI policy forbids this source."""


class SourceUnavailable(SourceError):
    """The other end failed; a later try may work."""


class DecodeError(IngestError):
    """The bytes are not media that decodes."""


class DecoderCrashed(DecodeError):
    """The child process died while decoding."""


class DecoderTimeout(DecodeError):
    """The watchdog ended the child process."""


class LimitExceeded(IngestError):
    """A limit of DecodeConfig or SourceConfig was passed.

    Attributes:
        limit: The setting's name.
    """

    def __init__(self, uri: str, limit: str, reason: str) -> None:
        super().__init__(uri, reason, f"the limit is the setting {limit}")
        self.limit = limit


class BrokerUnavailable(IngestError):
    """No Kafka broker answers, or none that does lets us in. A later try may work.

    Attributes:
        servers: The brokers that were asked.
    """

    def __init__(
        self,
        servers: Sequence[str],
        reason: str,
        remedy: str = "see the settings kafka.servers and kafka.security_protocol",
    ) -> None:
        super().__init__(",".join(servers), f"Kafka is not available: {reason}", remedy)
        self.servers = tuple(servers)


class OffsetRegression(IngestError):
    """A partition ends before what was read of it: the topic was made anew, or has lost records.

    Attributes:
        wanted: The offset to be read next.
        end: The offset behind the last record.
    """

    def __init__(self, topic: str, partition: int, wanted: int, end: int) -> None:
        super().__init__(
            f"{topic}/{partition}",
            f"offset {wanted} lies beyond the end {end}",
            "was the topic made anew? What was made of it must be made anew too",
        )
        self.topic, self.partition, self.wanted, self.end = topic, partition, wanted, end


class RecordTooLarge(IngestError):
    """No topic takes a record of this size."""
