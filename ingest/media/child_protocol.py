"""Messages between the pool and its child processes: a JSON header and raw bytes, never pickle.

The child has seen untrusted bytes, so what it sends is checked like any other input.
"""

import json
import math
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ingest.config import DecodeConfig
from ingest.values import SAMPLE_RATE_HZ, AudioBlock, Decoded, DecodeSummary, Frame, MediaInfo

LENGTHS = struct.Struct(">II")  # bytes of the header, bytes of the payload
MAX_HEADER_BYTES = 64 << 10  # the longest, MediaInfo, has under 1 KiB
MAX_REASON_CHARS = 4000  # of an error
MAX_THUMBNAIL_BYTES = 16 << 20  # JPEG of a picture whose shorter side is a whole 4K picture's
MAX_BLOCK_SECONDS = 30  # of sound in one message; the decoder sends 5


class Malformed(Exception):
    """A message that no sane child sends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message. `kind` is ready, beat, info, frame, audio, summary, error or request."""

    kind: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    payload: bytes = b""


def pack(message: Message) -> bytes:
    """Return the message as bytes."""
    header = json.dumps({"kind": message.kind, **message.fields}, allow_nan=False).encode()
    return LENGTHS.pack(len(header), len(message.payload)) + header + message.payload


def receive(connection: socket.socket, *, max_payload_bytes: int, deadline: float | None = None) -> Message:
    """Read one message.

    Args:
        deadline: time.monotonic() by which it must be whole; None: wait for ever.
    Raises:
        EOFError: The other side is gone.
        TimeoutError: The deadline passed.
        Malformed: It is no message.
    """
    head = _read(connection, LENGTHS.size, deadline)
    return _body(connection, head, max_payload_bytes, deadline)


def receive_request(connection: socket.socket) -> tuple[Message, int]:
    """Read one request and the file descriptor that comes with its first byte."""
    head, descriptors, _, _ = socket.recv_fds(connection, LENGTHS.size, 1)
    if not head:
        raise EOFError
    if len(descriptors) != 1:
        raise Malformed("a request without a file")
    head += _read(connection, LENGTHS.size - len(head), None)
    return _body(connection, head, 0, None), descriptors[0]


def _body(connection: socket.socket, head: bytes, max_payload_bytes: int, deadline: float | None) -> Message:
    header_length, payload_length = LENGTHS.unpack(head)
    if header_length > MAX_HEADER_BYTES or payload_length > max_payload_bytes:
        raise Malformed(f"a message of {header_length} + {payload_length} bytes")
    try:
        fields = json.loads(_read(connection, header_length, deadline))
        kind = fields.pop("kind")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Malformed("a header that is no JSON object with a kind") from error
    return Message(kind=str(kind), fields=fields, payload=_read(connection, payload_length, deadline))


def _read(connection: socket.socket, count: int, deadline: float | None) -> bytes:
    parts = bytearray(count)
    view, filled = memoryview(parts), 0
    while filled < count:
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            connection.settimeout(left)
        got = connection.recv_into(view[filled:])
        if got == 0:
            raise EOFError
        filled += got
    return bytes(parts)


def encode(item: Decoded) -> Message:
    """Return what was decoded as a message."""
    if isinstance(item, Frame):
        fields = {"epoch": item.epoch, "pts_seconds": item.pts_seconds}
        return Message(kind="frame", fields=fields, payload=item.pixels.tobytes() + item.thumbnail)
    if isinstance(item, AudioBlock):
        fields = {"epoch": item.epoch, "start_seconds": item.start_seconds}
        return Message(kind="audio", fields=fields, payload=item.samples.astype("<f4").tobytes())
    return Message(kind="info" if isinstance(item, MediaInfo) else "summary", fields=asdict(item))


def max_payload_bytes(config: DecodeConfig) -> int:
    """Return the largest payload a child may send."""
    pixels = config.input_width * config.input_height * 3
    return max(pixels + MAX_THUMBNAIL_BYTES, MAX_BLOCK_SECONDS * SAMPLE_RATE_HZ * 4)


def decode(message: Message, config: DecodeConfig) -> Decoded:
    """Check a message and return what it carries.

    Raises:
        Malformed: It does not hold what its kind must.
    """
    try:
        if message.kind == "frame":
            return _frame(message, config)
        if message.kind == "audio":
            return _audio(message)
        if message.kind == "info":
            return _info(message.fields)
        if message.kind == "summary":
            return _summary(message.fields)
    except (KeyError, TypeError, ValueError) as error:
        raise Malformed(f"a {message.kind} message with {error}") from error
    raise Malformed("a message of unknown kind")


def _frame(message: Message, config: DecodeConfig) -> Frame:
    shape = (config.input_height, config.input_width, 3)
    size = math.prod(shape)
    thumbnail = message.payload[size:]
    if not thumbnail.startswith(b"\xff\xd8"):
        raise ValueError("a thumbnail that is no JPEG")
    pixels = np.frombuffer(message.payload[:size], dtype=np.uint8).reshape(shape).copy()  # writable, as torch wants it
    fields = message.fields
    return Frame(
        epoch=_count(fields["epoch"]),
        pts_seconds=_seconds(fields["pts_seconds"]),
        pixels=pixels,
        thumbnail=thumbnail,
    )


def _audio(message: Message) -> AudioBlock:
    samples = np.frombuffer(message.payload, dtype="<f4").astype(np.float32)
    if not len(samples) or not np.all(np.abs(samples) <= 1.0):
        raise ValueError("samples outside -1..1")
    return AudioBlock(
        epoch=_count(message.fields["epoch"]),
        start_seconds=_seconds(message.fields["start_seconds"]),
        samples=samples,
    )


def _info(fields: Mapping[str, Any]) -> MediaInfo:
    return MediaInfo(
        container=str(fields["container"]),
        duration_seconds=_optional(_seconds, fields["duration_seconds"]),
        video_codec=_optional(str, fields["video_codec"]),
        audio_codec=_optional(str, fields["audio_codec"]),
        width=_optional(_count, fields["width"]),
        height=_optional(_count, fields["height"]),
        rotation_degrees=_count(fields["rotation_degrees"]) % 360,
        frame_rate_fps=_optional(_seconds, fields["frame_rate_fps"]),
    )


def _summary(fields: Mapping[str, Any]) -> DecodeSummary:
    return DecodeSummary(
        duration_seconds=_seconds(fields["duration_seconds"]),
        epoch_count=_count(fields["epoch_count"]),
        frame_count=_count(fields["frame_count"]),
        error_count=_count(fields["error_count"]),
        truncated=fields["truncated"] is True,
        zero_seconds=_source_seconds(fields["zero_seconds"]),
        start_seconds=_source_seconds(fields["start_seconds"]),
        pictures_end_seconds=_seconds(fields["pictures_end_seconds"]),
    )


def _optional(check: Any, value: Any) -> Any:
    return None if value is None else check(value)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 31:
        raise ValueError(f"{value!r} for a count")
    return value


def _seconds(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value < 1e12:
        raise ValueError(f"{value!r} for a number")
    return float(value)


def _source_seconds(value: Any) -> float:
    if type(value) not in (int, float):
        raise ValueError(f"{value!r} for a number")
    return math.copysign(_seconds(abs(value)), value)
