"""IngestError
├── SourceError            the source cannot be read
│   ├── SourceNotFound     no such file or page
│   ├── SourceUnreadable   it exists but may not be read
│   ├── SourceRefused      the URI policy forbids it
│   └── SourceUnavailable  the server or the network failed: a retry may work
├── DecodeError            the bytes are not media that decodes: skip the input
│   ├── DecoderCrashed     the child process died while decoding it
│   └── DecoderTimeout     the watchdog ended the child process
├── SpanOutside            a clip is asked for where the media has nothing
├── LimitExceeded          the input exceeds a setting, which the error names
├── BrokerUnavailable      no Kafka broker answers, or none accepts us: retry later
├── OffsetRegression       a partition ends before records that were read of it: read the topic anew
├── TopicReplaced          a topic was deleted and made anew: read it anew
└── RecordTooLarge         a record is larger than its topic accepts
"""

from collections.abc import Sequence


class IngestError(Exception):
    """One input cannot be ingested; other inputs are not affected.

    Attributes:
        uri: The input's name, as the caller gave it.
        reason: The problem, without the input's name.
        remedy: How to solve it; may be empty.
    """

    def __init__(self, uri: str, reason: str, remedy: str = "") -> None:
        super().__init__(f"{reason}: {uri}" + (f" ({remedy})" if remedy else ""))
        self.uri, self.reason, self.remedy = uri, reason, remedy


class SourceError(IngestError):
    """The source cannot be read."""


class SourceNotFound(SourceError):
    """No such file or page."""


class SourceUnreadable(SourceError):
    """The source exists but may not be read."""


class SourceRefused(SourceError):
    """The URI policy forbids this source."""


class SourceUnavailable(SourceError):
    """The server or the network failed; a retry may work."""


class DecodeError(IngestError):
    """The bytes are not media that decodes."""


class DecoderCrashed(DecodeError):
    """The child process died while decoding."""


class DecoderTimeout(DecodeError):
    """The watchdog ended the child process."""


class SpanOutside(IngestError):
    """A clip is asked for where the media has neither picture nor sound."""


class LimitExceeded(IngestError):
    """The input exceeds a limit of DecodeConfig or SourceConfig, or a clip one of ClipConfig.

    Attributes:
        limit: The setting's name.
    """

    def __init__(self, uri: str, limit: str, reason: str) -> None:
        super().__init__(uri, reason, f"the limit is the setting {limit}")
        self.limit = limit


class BrokerUnavailable(IngestError):
    """No Kafka broker answers, or none accepts us. A retry may work.

    Attributes:
        servers: The brokers that were tried.
    """

    def __init__(
        self,
        servers: Sequence[str],
        reason: str,
        remedy: str = "see the settings kafka.servers and kafka.security_protocol",
    ) -> None:
        super().__init__(",".join(servers), f"Kafka is not available: {reason}", remedy)
        self.servers = tuple(servers)


class TopicReplaced(IngestError):
    """A topic was deleted and made anew since it was read: its offsets count other records.

    Attributes:
        topic: The topic.
    """

    def __init__(self, topic: str) -> None:
        super().__init__(topic, "the topic was deleted and made anew")
        self.topic = topic


class OffsetRegression(IngestError):
    """A partition ends before records that were read of it: the topic was recreated, or has lost records.

    Attributes:
        topic: The topic.
        wanted: The next offset to read.
        end: The offset after the last record.
    """

    def __init__(self, topic: str, partition: int, wanted: int, end: int) -> None:
        super().__init__(
            f"{topic}/{partition}",
            f"offset {wanted} lies beyond the end {end}",
            "if the topic was recreated, everything derived from it must be rebuilt",
        )
        self.topic, self.partition, self.wanted, self.end = topic, partition, wanted, end


class RecordTooLarge(IngestError):
    """A record is larger than its topic accepts."""
