"""Checks of a request's fields. All that is wrong is collected, so that the caller is told at once."""

import math
import unicodedata
from collections.abc import Sequence

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from kinodex.v1 import moment_pb2
from serve.codec.fields import NANOSECONDS, channel_value, duration_value, timestamp_value
from serve.errors import RequestInvalid
from serve.values import Channel

# Told of one request: gRPC sends errors in a header, and 8 KiB of it is all that many peers take.
MAX_VIOLATION_COUNT = 20
# What protobuf allows: 10,000 years, and the years 1 to 9999.
MAX_DURATION_SECONDS = 315_576_000_000
TIMESTAMP_SECONDS = range(-62_135_596_800, 253_402_300_800)


class Violations:
    """What is wrong with one request. A path names a field, such as "filter.metadata[0].key"."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str]] = []

    def add(self, path: str, problem: str) -> None:
        self.found.append((path, problem))

    def check(self) -> None:
        """Raise RequestInvalid if anything is wrong."""
        if self.found:
            raise RequestInvalid(self.found[:MAX_VIOLATION_COUNT])

    def required(self, path: str, text: str, most_chars: int) -> None:
        if not text:
            self.add(path, "is required")
        self.bounded(path, text, most_chars)

    def bounded(self, path: str, text: str, most_chars: int) -> None:
        if len(text) > most_chars:
            self.add(path, f"must be at most {most_chars:,} characters, got {len(text):,}")

    def names(self, path: str, names: Sequence[str], most_count: int, most_chars: int) -> tuple[str, ...]:
        if len(names) > most_count:
            self.add(path, f"must have at most {most_count:,} entries, got {len(names):,}")
            return ()
        for index, name in enumerate(names):
            self.required(f"{path}[{index}]", name, most_chars)
        return tuple(names)

    def share(self, path: str, share: float) -> None:
        if not 0 <= share <= 1:  # NaN too
            self.add(path, f"must be 0 to 1, got {share:g}")

    def channel(self, path: str, channel: moment_pb2.Channel.ValueType) -> Channel:
        try:
            return channel_value(channel)
        except ValueError:
            self.add(path, f"must be a Channel, got {channel}")
            return "all"

    def page_size(self, asked: int, default: int, most: int) -> int:
        """Read a page's size: 0 is the default, above the most is the most."""
        if asked < 0:
            self.add("page_size", f"must not be negative, got {asked}")
        return min(asked or default, most)

    def duration(self, path: str, message: Duration) -> float:
        """Read a duration that is not negative; NaN where it is wrong."""
        seconds, nanos = message.seconds, message.nanos
        if abs(seconds) > MAX_DURATION_SECONDS or abs(nanos) >= NANOSECONDS or seconds * nanos < 0:
            self.add(path, f"is no Duration: seconds {seconds}, nanos {nanos}")
            return math.nan
        if seconds < 0 or nanos < 0:
            self.add(path, f"must not be negative, got {duration_value(message):g} s")
            return math.nan
        return duration_value(message)

    def timestamp(self, path: str, message: Timestamp) -> float:
        """Read a time in seconds since 1970; NaN where it is wrong."""
        if message.seconds not in TIMESTAMP_SECONDS or not 0 <= message.nanos < NANOSECONDS:
            self.add(path, f"is no Timestamp: seconds {message.seconds}, nanos {message.nanos}")
            return math.nan
        return timestamp_value(message)

    def in_order(self, path: str, start: float, end: float) -> None:
        if end < start:
            self.add(path, "must not be below the start of its range")


def has_controls(text: str) -> bool:
    return any(unicodedata.category(char) == "Cc" for char in text)
