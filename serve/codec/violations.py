"""Violations: checks of a request's fields that collect every mistake, so that the caller learns of all at once."""

import math
import unicodedata
from collections.abc import Sequence

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from ingest.values import MAX_TIME_SECONDS
from kinodex.v1 import moment_pb2
from serve.codec.fields import NANOSECONDS, TIMESTAMP_SECONDS, channel_value, duration_value, timestamp_value
from serve.errors import RequestInvalid
from serve.values import Channel

# Mistakes reported for one request. gRPC sends errors in a header, and many peers take headers of 8 KiB at most.
MAX_VIOLATION_COUNT = 20
MAX_DURATION_SECONDS = 315_576_000_000  # what protobuf allows: 10,000 years


class Violations:
    """The mistakes in one request. A path names a field, such as "filter.metadata[0].key"."""

    def __init__(self) -> None:
        self.problems: list[tuple[str, str]] = []  # (path, problem)

    def add(self, path: str, problem: str) -> None:
        self.problems.append((path, problem))

    def check(self) -> None:
        """Raise RequestInvalid if there is any mistake."""
        if self.problems:
            raise RequestInvalid(self.problems[:MAX_VIOLATION_COUNT])

    def require_text(self, path: str, text: str, max_chars: int) -> None:
        if not text:
            self.add(path, "is required")
        self.check_length(path, text, max_chars)

    def check_length(self, path: str, text: str, max_chars: int) -> None:
        if len(text) > max_chars:
            self.add(path, f"must be at most {max_chars:,} characters, got {len(text):,}")

    def read_names(self, path: str, names: Sequence[str], max_count: int, max_chars: int) -> tuple[str, ...]:
        """Read a list of names, none of them empty; () if there are too many."""
        if len(names) > max_count:
            self.add(path, f"must have at most {max_count:,} entries, got {len(names):,}")
            return ()
        for index, name in enumerate(names):
            self.require_text(f"{path}[{index}]", name, max_chars)
        return tuple(names)

    def check_share(self, path: str, share: float) -> None:
        if not 0 <= share <= 1:  # NaN too
            self.add(path, f"must be 0 to 1, got {share:g}")

    def read_channel(self, path: str, channel: moment_pb2.Channel.ValueType) -> Channel:
        try:
            return channel_value(channel)
        except ValueError:
            self.add(path, f"must be a Channel, got {channel}")
            return "all"

    def read_page_size(self, page_size: int, default: int, max_count: int) -> int:
        """Read the size of a page: 0 means `default`, and a size above `max_count` means `max_count`."""
        if page_size < 0:
            self.add("page_size", f"must not be negative, got {page_size}")
        return min(page_size or default, max_count)

    def read_count(self, path: str, count: int, default: int, max_count: int) -> int:
        """Read how much to send: 0 means `default`."""
        if not 0 <= count <= max_count:
            self.add(path, f"must be 0 to {max_count:,}, got {count}")
        return count or default

    def read_duration(self, path: str, message: Duration) -> float:
        """Read a duration of 0 s or more; NaN after a mistake."""
        seconds, nanos = message.seconds, message.nanos
        if abs(seconds) > MAX_DURATION_SECONDS or abs(nanos) >= NANOSECONDS or seconds * nanos < 0:
            self.add(path, f"is not a valid Duration: seconds {seconds}, nanos {nanos}")
            return math.nan
        if seconds < 0 or nanos < 0:
            self.add(path, f"must not be negative, got {duration_value(message):g} s")
            return math.nan
        return duration_value(message)

    def read_timestamp(self, path: str, message: Timestamp) -> float:
        """Read a time in seconds since 1970; NaN after a mistake."""
        if message.seconds not in TIMESTAMP_SECONDS or not 0 <= message.nanos < NANOSECONDS:
            self.add(path, f"is not a valid Timestamp: seconds {message.seconds}, nanos {message.nanos}")
            return math.nan
        return timestamp_value(message)

    def read_recorded_time(self, path: str, message: Timestamp) -> float:
        """Read the time at which media was recorded, in seconds since 1970; NaN after a mistake."""
        seconds = self.read_timestamp(path, message)
        if abs(seconds) > MAX_TIME_SECONDS:
            self.add(path, f"must lie within 1000 years of 1970, got {seconds:g} s since then")
            return math.nan
        return seconds

    def check_order(self, path: str, start: float, end: float) -> None:
        if end < start:
            self.add(path, "must not be below the start of its range")


def has_controls(text: str) -> bool:
    """Whether a text has control characters."""
    return any(unicodedata.category(char) == "Cc" for char in text)
