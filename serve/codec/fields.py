"""Single fields of kinodex.v1 messages <-> Python values: text, times, spans, enums. Used by the other codec files."""

import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import get_args

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from ingest.values import MAX_TIME_SECONDS
from kinodex.v1 import moment_pb2
from serve.values import Channel, MatchedText, MatchedWord, Verdict

NANOSECONDS = 10**9  # in a second
TIMESTAMP_SECONDS = range(-62_135_596_800, 253_402_300_800)  # what protobuf allows: the years 1 to 9999
# Longest media time that is read: with it, and as much before, a time of recording stays within TIMESTAMP_SECONDS.
MAX_MEDIA_SECONDS = 100 * 365.25 * 24 * 3600
# The escapes that escape_surrogates() writes. Python reads each byte of a file name that is not UTF-8 as a surrogate.
ESCAPED_SURROGATE = re.compile(r"\\u(d[89a-f][0-9a-f]{2})")


# ------------------------------------------------------------------ text and times
def escape_surrogates(text: str) -> str:
    r"""Escape lone surrogates, which no message can carry, as in \udcff: they are a file name's bytes outside UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def unescape_surrogates(uri: str) -> str:
    r"""Undo escape_surrogates(), so that the URI names the file again. A name with a literal \udcff is misread."""
    return ESCAPED_SURROGATE.sub(lambda match: chr(int(match[1], 16)), uri)


def metadata_message(metadata: Mapping[str, str]) -> dict[str, str]:
    return {escape_surrogates(key): escape_surrogates(value) for key, value in metadata.items()}


def nanoseconds(seconds: float) -> int:
    """Round to whole nanoseconds, exactly: two float products could round the same time to different nanoseconds."""
    return round(Fraction(float(seconds)) * NANOSECONDS)


def duration_message(seconds: float) -> Duration:
    message = Duration()
    message.FromNanoseconds(nanoseconds(seconds))
    return message


def duration_value(message: Duration) -> float:
    return (message.seconds * NANOSECONDS + message.nanos) / NANOSECONDS


def media_seconds(message: Duration) -> float:
    """Read a media time, or the length of a part of media.

    Raises:
        ValueError: If it is longer than MAX_MEDIA_SECONDS.
    """
    seconds = duration_value(message)
    if abs(seconds) > MAX_MEDIA_SECONDS:
        raise ValueError(f"media must be at most 100 years long, got {seconds:g} s")
    return seconds


def duration_field(message: Message, name: str) -> float | None:
    """Read the Duration field of this name in seconds; None: it is not set."""
    return duration_value(getattr(message, name)) if message.HasField(name) else None


def timestamp_message(seconds: float | None) -> Timestamp | None:
    """Write seconds since 1970 to the microsecond; None leaves the field unset.

    Raises:
        ValueError: If it lies outside the years 1 to 9999, or is no number.
    """
    if seconds is None:
        return None
    if not TIMESTAMP_SECONDS.start <= seconds < TIMESTAMP_SECONDS.stop - 1e-6:  # NaN too; rounding may add the last
        raise ValueError(f"a time must lie in the years 1 to 9999, got {seconds:g} s since 1970")
    message = Timestamp()
    message.FromMicroseconds(round(seconds * 1_000_000))  # a float of this century is no more precise
    return message


def timestamp_value(message: Timestamp) -> float:
    return (message.seconds * NANOSECONDS + message.nanos) / NANOSECONDS


def timestamp_field(message: Message, name: str) -> float | None:
    """Read the Timestamp field of this name in seconds since 1970; None: it is not set."""
    return timestamp_value(getattr(message, name)) if message.HasField(name) else None


def recorded_seconds(message: Message, name: str, margin_seconds: float = 0.0) -> float | None:
    """Read the time of recording in the Timestamp field of this name, in seconds since 1970; None: it is not set.

    Args:
        margin_seconds: How far it may lie beyond MAX_TIME_SECONDS: the media time that was added to it.
    Raises:
        ValueError: If it lies so far from 1970 that, with media times added, it could leave what Timestamp can carry.
    """
    seconds = timestamp_field(message, name)
    if seconds is not None and abs(seconds) > MAX_TIME_SECONDS + margin_seconds:
        raise ValueError(f"{name} must lie within 1000 years of 1970, got {seconds:g} s since then")
    return seconds


# ------------------------------------------------------------------ spans and words
def span_message(start_seconds: float, end_seconds: float) -> moment_pb2.TimeSpan:
    return moment_pb2.TimeSpan(start_offset=duration_message(start_seconds), end_offset=duration_message(end_seconds))


def span_value(message: moment_pb2.TimeSpan) -> tuple[float, float]:
    """Return the start and the end in seconds; raises as media_seconds()."""
    return media_seconds(message.start_offset), media_seconds(message.end_offset)


def matched_word_messages(words: Iterable[MatchedWord]) -> list[moment_pb2.MatchedWord]:
    return [
        moment_pb2.MatchedWord(
            text=escape_surrogates(word.text), span=span_message(word.start_seconds, word.end_seconds)
        )
        for word in words
    ]


def matched_word_values(messages: Iterable[moment_pb2.MatchedWord]) -> tuple[MatchedWord, ...]:
    spans = ((message.text, *span_value(message.span)) for message in messages)
    return tuple(MatchedWord(text=text, start_seconds=start, end_seconds=end) for text, start, end in spans)


# ------------------------------------------------------------------ enums: our names are the protos' without prefix
def matched_text_message(line: MatchedText) -> moment_pb2.MatchedText:
    left, top, right, bottom = line.box
    return moment_pb2.MatchedText(
        text=line.text, box=moment_pb2.Box(left=left, top=top, right=right, bottom=bottom),
        span=span_message(line.start_seconds, line.end_seconds), confidence=line.confidence,
    )  # fmt: skip


def matched_text_value(message: moment_pb2.MatchedText) -> MatchedText:
    start, end = span_value(message.span)
    box = message.box
    return MatchedText(
        text=message.text, box=(box.left, box.top, box.right, box.bottom), start_seconds=start, end_seconds=end,
        confidence=message.confidence,
    )  # fmt: skip


def channel_message(channel: str) -> moment_pb2.Channel.ValueType:
    return moment_pb2.Channel.Value(f"CHANNEL_{channel.upper()}")


def channel_value(message: moment_pb2.Channel.ValueType) -> Channel:
    """Read a channel; an unset field means "all".

    Raises:
        ValueError: For a number that names no channel.
    """
    name = moment_pb2.Channel.Name(message).removeprefix("CHANNEL_").lower()
    return next((channel for channel in get_args(Channel) if channel == name), "all")


def verdict_message(verdict: Verdict) -> moment_pb2.Verdict.ValueType:
    return moment_pb2.Verdict.Value(f"VERDICT_{verdict}")


def verdict_value(message: moment_pb2.Verdict.ValueType) -> Verdict:
    return Verdict(moment_pb2.Verdict.Name(message).removeprefix("VERDICT_"))
