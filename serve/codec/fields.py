"""Single fields of kinodex.v1 messages <-> Python: text, times, enums."""

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import get_args

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from kinodex.v1 import moment_pb2
from serve.values import Channel, Verdict

NANOSECONDS = 10**9  # of a second
# What `sendable` makes of a surrogate, which is what Python makes of a file name's byte that is no UTF-8.
ESCAPED_SURROGATE = re.compile(r"\\u(d[89a-f][0-9a-f]{2})")


# ------------------------------------------------------------------ text and times
def sendable(text: str) -> str:
    r"""Write what no message can carry, the bytes of a file name that is no UTF-8, as escapes such as \udcff."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def as_named(uri: str) -> str:
    r"""Undo `sendable`, so that the file's name is its own bytes again. A name that holds a real \udcff is misread."""
    return ESCAPED_SURROGATE.sub(lambda found: chr(int(found[1], 16)), uri)


def nanoseconds(seconds: float) -> int:
    """Round to whole nanoseconds, exactly: by way of a float product, two roundings could disagree by one."""
    return round(Fraction(float(seconds)) * NANOSECONDS)


def duration_message(seconds: float) -> Duration:
    message = Duration()
    message.FromNanoseconds(nanoseconds(seconds))
    return message


def duration_value(message: Duration) -> float:
    return (message.seconds * NANOSECONDS + message.nanos) / NANOSECONDS


def timestamp_message(seconds: float | None) -> Timestamp | None:
    """Write seconds since 1970; None stays unset."""
    if seconds is None:
        return None
    message = Timestamp()
    message.FromMicroseconds(round(seconds * 1_000_000))  # a float has no more digits for a time of this century
    return message


def timestamp_value(message: Timestamp) -> float:
    return (message.seconds * NANOSECONDS + message.nanos) / NANOSECONDS


def span_message(start_seconds: float, end_seconds: float) -> moment_pb2.TimeSpan:
    return moment_pb2.TimeSpan(start_offset=duration_message(start_seconds), end_offset=duration_message(end_seconds))


def metadata_message(metadata: Mapping[str, str]) -> dict[str, str]:
    return {sendable(key): sendable(value) for key, value in metadata.items()}


# ------------------------------------------------------------------ enums: ours are the protos', without the prefix
def channel_message(channel: str) -> moment_pb2.Channel.ValueType:
    return moment_pb2.Channel.Value(f"CHANNEL_{channel.upper()}")


def channel_value(message: moment_pb2.Channel.ValueType) -> Channel:
    """Read a channel; unset is all.

    Raises:
        ValueError: For a number that names none.
    """
    name = moment_pb2.Channel.Name(message).removeprefix("CHANNEL_").lower()
    return next((channel for channel in get_args(Channel) if channel == name), "all")


def verdict_message(verdict: Verdict) -> moment_pb2.Verdict.ValueType:
    return moment_pb2.Verdict.Value(f"VERDICT_{verdict}")


def verdict_value(message: moment_pb2.Verdict.ValueType) -> Verdict:
    return Verdict(moment_pb2.Verdict.Name(message).removeprefix("VERDICT_"))
