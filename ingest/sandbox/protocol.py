"""Messages between DecodePool and its child processes: a JSON header and raw bytes, never pickle.

A child that has decoded untrusted bytes is itself untrusted, so each of its messages is checked.
"""

import json
import math
import socket
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, astuple, dataclass, field, fields
from itertools import pairwise
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from ingest.config import DecodeConfig
from ingest.subtitles.limits import MAX_COUNT, MAX_TEXT_CHARS
from ingest.values import (
    SAMPLE_RATE_HZ,
    AudioBlock,
    Clip,
    Decoded,
    DecodeSummary,
    Frame,
    MediaInfo,
    SoundTrack,
    Subtitle,
    SubtitleKind,
    SubtitleTrack,
)

LENGTHS = struct.Struct(">II")  # length of the header and of the payload, in bytes
CHECK_SECONDS = 0.1  # between two calls of `check` while a message is awaited
MAX_HEADER_BYTES = 64 << 10  # the longest header, of MediaInfo, is under 1 KiB
MAX_REASON_CHARS = 4000  # of an error message
MAX_THUMBNAIL_BYTES = 16 << 20  # a JPEG as large as a whole 4K picture; what is heard of a sound track fits too
MAX_LANGUAGE_CHARS = 40  # of a track's language: "zh-Hant-TW", "English"
MAX_NAME_CHARS = 1000  # of a track's name or codec, and of the reason why it is not read
# Of SubtitleTrack; its subtitles are the payload.
SUBTITLE_FIELDS = tuple(each.name for each in fields(SubtitleTrack) if each.name != "subtitles")
PIECE_BYTES = 1 << 20  # of one piece of a clip, at most
MAX_CLIP_BYTES = 1 << 40  # no clip is larger: a piece does not lie behind it
MAX_NOTE_CHARS = 100  # of the name of a track that a clip lacks
MAX_BLOCK_SECONDS = 30  # of sound in one message; the decoder sends 5 s


JOINERS = dict.fromkeys(map(ord, "\u200c\u200d"))  # in words of Persian and of Indian scripts


class MalformedMessage(Exception):
    """A message that breaks the protocol."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message.

    `kind` is request or chosen to a child. From it, it is ready, beat, track, choose, info, subtitles, frame, audio,
    summary, piece, clip or error.
    """

    kind: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    payload: bytes = b""


def serialize(message: Message) -> bytes:
    header = json.dumps({"kind": message.kind, **message.fields}, allow_nan=False).encode()
    return LENGTHS.pack(len(header), len(message.payload)) + header + message.payload


def receive(
    connection: socket.socket,
    *,
    max_payload_bytes: int,
    deadline: float | None = None,
    check: Callable[[], None] = lambda: None,
) -> Message:
    """Read one message.

    Args:
        deadline: time.monotonic() by which it must be complete; None: wait for ever, without calls of `check`.
        check: Called every CHECK_SECONDS of waiting; what it raises ends the waiting.
    Raises:
        EOFError: If the other process has closed the connection.
        TimeoutError: If the deadline passed.
        MalformedMessage: If the bytes are no message.
    """
    head = _receive_exactly(connection, LENGTHS.size, deadline, check)
    return _receive_body(connection, head, max_payload_bytes, deadline, check)


def receive_request(connection: socket.socket) -> tuple[Message, int]:
    """Read one request, and the file descriptor sent with its first byte."""
    head, descriptors, _, _ = socket.recv_fds(connection, LENGTHS.size, 1)
    if not head:
        raise EOFError
    if len(descriptors) != 1:
        raise MalformedMessage("a request without a file")
    head += _receive_exactly(connection, LENGTHS.size - len(head), None, lambda: None)
    return _receive_body(connection, head, 0, None, lambda: None), descriptors[0]


def _receive_body(
    connection: socket.socket, head: bytes, max_payload_bytes: int, deadline: float | None, check: Callable[[], None]
) -> Message:
    header_length, payload_length = LENGTHS.unpack(head)
    if header_length > MAX_HEADER_BYTES or payload_length > max_payload_bytes:
        raise MalformedMessage(f"a message of {header_length} + {payload_length} bytes")
    try:
        fields = json.loads(_receive_exactly(connection, header_length, deadline, check))
        kind = fields.pop("kind")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise MalformedMessage("a header that is no JSON object with a kind") from error
    return Message(kind=str(kind), fields=fields, payload=_receive_exactly(connection, payload_length, deadline, check))


def _receive_exactly(connection: socket.socket, count: int, deadline: float | None, check: Callable[[], None]) -> bytes:
    parts = bytearray(count)
    view, filled = memoryview(parts), 0
    while filled < count:
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            connection.settimeout(min(left, CHECK_SECONDS))
        try:
            received = connection.recv_into(view[filled:])
        except TimeoutError:
            check()
            continue
        if received == 0:
            raise EOFError
        filled += received
    return bytes(parts)


def to_message(item: Decoded | SoundTrack) -> Message:
    if isinstance(item, Frame):
        reading = item.reading
        size = [] if reading is None else list(reading.shape[:2])
        fields = {"epoch": item.epoch, "pts_seconds": item.pts_seconds, "reading": size}
        payload = item.pixels.tobytes() + (b"" if reading is None else reading.tobytes()) + item.thumbnail
        return Message(kind="frame", fields=fields, payload=payload)
    if isinstance(item, AudioBlock):
        fields = {"epoch": item.epoch, "start_seconds": item.start_seconds}
        return Message(kind="audio", fields=fields, payload=item.samples.astype("<f4").tobytes())
    if isinstance(item, SoundTrack):
        facts = {"index": item.index, "language": item.language, "rank": item.rank}
        return Message(kind="track", fields=facts, payload=item.samples.astype("<f4").tobytes())
    if isinstance(item, SubtitleTrack):
        facts = {name: getattr(item, name) for name in SUBTITLE_FIELDS}
        listed = json.dumps([astuple(one) for one in item.subtitles])
        return Message(kind="subtitles", fields={"facts": facts}, payload=listed.encode())
    return Message(kind="info" if isinstance(item, MediaInfo) else "summary", fields=asdict(item))


def to_piece_message(position: int, data: bytes) -> Message:
    return Message(kind="piece", fields={"position": position}, payload=data)


def to_clip_message(clip: Clip) -> Message:
    return Message(kind="clip", fields=asdict(clip))


def to_piece_or_clip(message: Message) -> tuple[int, bytes] | Clip:
    """Check a message and return the position and the bytes of a piece of a clip, or what the clip is at its end.

    Raises:
        MalformedMessage: If its fields do not fit its kind.
    """
    fields = message.fields
    try:
        if message.kind == "piece":
            return _to_position(fields["position"]), message.payload
        if message.kind == "clip":
            video, sounds = fields["video"], tuple(fields["sounds"])
            if video not in (None, "copied", "encoded") or not set(sounds) <= {"copied", "encoded"}:
                raise ValueError(f"tracks {video!r} and {sounds!r}")
            return Clip(
                start_seconds=_to_seconds(fields["start_seconds"]),
                end_seconds=_to_seconds(fields["end_seconds"]),
                video=video,
                sounds=sounds,
                subtitle_count=_to_count(fields["subtitle_count"]),
                left_out=tuple(str(name)[:MAX_NOTE_CHARS] for name in fields["left_out"]),
                size_bytes=_to_position(fields["size_bytes"]),
            )
    except (KeyError, TypeError, ValueError) as error:
        raise MalformedMessage(f"a {message.kind} message with {error}") from error
    raise MalformedMessage("a message of unknown kind")


def max_payload_bytes(config: DecodeConfig) -> int:
    """Return the largest payload that a child may send."""
    pixels = config.input_width * config.input_height * 3
    pixels += config.reading_px**2 * 3
    return max(pixels + MAX_THUMBNAIL_BYTES, MAX_BLOCK_SECONDS * SAMPLE_RATE_HZ * 4)


def from_message(message: Message, config: DecodeConfig) -> Decoded | SoundTrack:
    """Check a message and return its item.

    Raises:
        MalformedMessage: If its fields or its payload do not fit its kind.
    """
    try:
        if message.kind == "frame":
            return _to_frame(message, config)
        if message.kind == "audio":
            return _to_audio(message)
        if message.kind == "track":
            return _to_track(message)
        if message.kind == "subtitles":
            return _to_subtitles(message)
        if message.kind == "info":
            return _to_info(message.fields)
        if message.kind == "summary":
            return _to_summary(message.fields)
    except (KeyError, TypeError, ValueError, StopIteration, RecursionError) as error:
        raise MalformedMessage(f"a {message.kind} message with {error}") from error
    raise MalformedMessage("a message of unknown kind")


def _to_frame(message: Message, config: DecodeConfig) -> Frame:
    shape = (config.input_height, config.input_width, 3)
    size = math.prod(shape)
    sides = [_to_count(side) for side in message.fields["reading"]]
    reading_size = math.prod(sides) * 3 if sides else 0
    if sides and (len(sides) != 2 or not all(0 < side <= config.reading_px for side in sides)):
        raise ValueError(f"a picture to read of size {sides}")
    thumbnail = message.payload[size + reading_size :]
    if not thumbnail.startswith(b"\xff\xd8"):
        raise ValueError("a thumbnail that is no JPEG")
    pixels = np.frombuffer(message.payload[:size], dtype=np.uint8).reshape(shape).copy()  # writable, for torch
    fields = message.fields
    return Frame(
        epoch=_to_count(fields["epoch"]),
        pts_seconds=_to_seconds(fields["pts_seconds"]),
        pixels=pixels,
        thumbnail=thumbnail,
        reading=np.frombuffer(message.payload[size : size + reading_size], np.uint8).reshape(*sides, 3)
        if sides
        else None,
    )


def _to_audio(message: Message) -> AudioBlock:
    samples = _to_samples(message.payload)
    if not len(samples):
        raise ValueError("no samples")
    return AudioBlock(
        epoch=_to_count(message.fields["epoch"]),
        start_seconds=_to_seconds(message.fields["start_seconds"]),
        samples=samples,
    )


def _to_track(message: Message) -> SoundTrack:
    return SoundTrack(
        index=_to_count(message.fields["index"]),
        language=_to_language(message.fields["language"]),
        rank=_to_count(message.fields["rank"]),
        samples=_to_samples(message.payload),
    )


def _to_subtitles(message: Message) -> SubtitleTrack:
    listed = json.loads(message.payload)
    if not isinstance(listed, list) or len(listed) > MAX_COUNT:
        raise ValueError("a list of subtitles that is none, or too long")
    subtitles = tuple(
        Subtitle(_to_seconds(start), _to_seconds(end), _to_text(text, MAX_TEXT_CHARS)) for start, end, text in listed
    )
    if any(before.start_seconds > after.start_seconds for before, after in pairwise(subtitles)):
        raise ValueError("subtitles out of order")
    facts = message.fields["facts"]
    kind: SubtitleKind = next(kind for kind in get_args(SubtitleKind) if kind == facts["kind"])
    return SubtitleTrack(
        name=_to_text(facts["name"], MAX_NAME_CHARS),
        codec=_to_text(facts["codec"], MAX_NAME_CHARS),
        language=_to_language(facts["language"]),
        kind=kind,
        is_default=facts["is_default"] is True,
        is_text=facts["is_text"] is True,
        subtitles=subtitles,
        refused_count=_to_count(facts["refused_count"]),
        is_cut=facts["is_cut"] is True,
        problem=_to_text(facts["problem"], MAX_NAME_CHARS),
    )


def _to_text(value: Any, most: int) -> str:
    if type(value) is not str or len(value) > most or not value.translate(JOINERS).isprintable():
        raise ValueError("a text that is too long, or not printable")
    return value


def _to_samples(payload: bytes) -> NDArray[np.float32]:
    samples = np.frombuffer(payload, dtype="<f4").astype(np.float32)
    if not np.all(np.abs(samples) <= 1.0):
        raise ValueError("samples outside -1..1")
    return samples


def _to_info(fields: Mapping[str, Any]) -> MediaInfo:
    return MediaInfo(
        container=str(fields["container"]),
        duration_seconds=_optional(_to_seconds, fields["duration_seconds"]),
        video_codec=_optional(str, fields["video_codec"]),
        audio_codec=_optional(str, fields["audio_codec"]),
        width=_optional(_to_count, fields["width"]),
        height=_optional(_to_count, fields["height"]),
        rotation_degrees=_to_count(fields["rotation_degrees"]) % 360,
        frame_rate_fps=_optional(_to_seconds, fields["frame_rate_fps"]),
        audio_language=_to_language(fields["audio_language"]),
    )


def _to_summary(fields: Mapping[str, Any]) -> DecodeSummary:
    return DecodeSummary(
        duration_seconds=_to_seconds(fields["duration_seconds"]),
        epoch_count=_to_count(fields["epoch_count"]),
        frame_count=_to_count(fields["frame_count"]),
        error_count=_to_count(fields["error_count"]),
        truncated=fields["truncated"] is True,
        zero_seconds=_to_source_seconds(fields["zero_seconds"]),
        start_seconds=_to_source_seconds(fields["start_seconds"]),
        pictures_end_seconds=_to_seconds(fields["pictures_end_seconds"]),
        damaged=tuple((_to_seconds(start), _to_seconds(end)) for start, end in fields["damaged"]),
        unfollowed_count=_to_count(fields["unfollowed_count"]),
        mended_count=_to_count(fields["mended_count"]),
        undecodable_kinds=_to_kinds(fields["undecodable_kinds"]),
        partly_decodable_kinds=_to_kinds(fields["partly_decodable_kinds"]),
    )


def _to_kinds(names: Any) -> tuple[str, ...]:
    return tuple(kind for kind in ("video", "audio") if kind in tuple(names))


def _to_language(value: Any) -> str | None:
    return None if value is None else str(value)[:MAX_LANGUAGE_CHARS]


def _optional(convert: Any, value: Any) -> Any:
    return None if value is None else convert(value)


def _to_count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 31:
        raise ValueError(f"{value!r} for a count")
    return value


def _to_position(value: Any) -> int:
    if type(value) is not int or not 0 <= value < MAX_CLIP_BYTES:
        raise ValueError(f"{value!r} for a position")
    return value


def _to_seconds(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value < 1e12:
        raise ValueError(f"{value!r} for a number")
    return float(value)


def _to_source_seconds(value: Any) -> float:
    if type(value) not in (int, float):
        raise ValueError(f"{value!r} for a number")
    return math.copysign(_to_seconds(abs(value)), value)
