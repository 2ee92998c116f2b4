"""The records of the Kafka topics: their values, and their bytes, which are messages of kinodex.v1.

Workers, servers and `kinodex publish` use them. Each `x_bytes` has its `read_x`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from google.protobuf.message import DecodeError as NotAMessage
from numpy.typing import NDArray

from encoders.values import FrameEmbeddings, TextLine, Utterance
from ingest.values import Chunk, MediaInfo
from kinodex.v1 import stream_pb2
from serve.codec.fields import (
    MAX_MEDIA_SECONDS,
    duration_message,
    escape_surrogates,
    media_seconds,
    metadata_message,
    recorded_seconds,
    span_message,
    span_value,
    timestamp_field,
    timestamp_message,
    timestamp_value,
)
from serve.codec.utterances import fill_utterance, fill_written, read_utterance, read_written
from serve.errors import RecordInvalid
from serve.text import plural
from serve.video_warnings import MISSING_CHUNKS
from temporal.values import Segment, TimeSpan


# ------------------------------------------------------------------ values
@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A whole file to index: a record of kinodex.sources."""

    collection: str
    video_id: str  # empty: the first digits of the content's SHA-256
    uri: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    recorded_time: float | None = None  # seconds since 1970


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Successive chunks of a stream that are missing, or that did not decode."""

    at_seconds: float  # media time
    first_sequence: int
    chunk_count: int
    reason: str  # MISSING, or the reason of the dead letter

    def __str__(self) -> str:
        chunks = plural(self.chunk_count, "chunk") + (" is" if self.chunk_count == 1 else " are")
        return MISSING_CHUNKS.text.format(chunks=chunks, at_seconds=self.at_seconds, reason=self.reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRecord:
    """A segment, with the frames and words of its span: a record of kinodex.segments."""

    segment: Segment
    collection: str
    video_id: str
    revision: int
    is_final: bool
    frames: FrameEmbeddings  # of the whole span
    thumbnails: tuple[bytes, ...]  # JPEGs of the last of `frames`, which no earlier segment holds
    utterances: tuple[Utterance, ...]  # those that overlap the span
    utterance_vectors: NDArray[np.float32]  # (U, D); D is 0 without a sentence encoder
    continued_count: int  # how many of the first `utterances` earlier segments hold too
    lines: tuple[TextLine, ...] = ()  # of text in the pictures, cut to the part of the span that no earlier segment has
    line_vectors: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))  # (L, D), likewise
    fingerprint: str  # EncoderSpace.fingerprint
    watermark_seconds: float
    source_append_time: float  # of the oldest record that it was made of, seconds since 1970 by the broker's clock
    newest_append_time: float  # of the newest one, likewise
    recorded_time: float | None = None  # start of the span by the wall clock, seconds since 1970
    gaps: tuple[Gap, ...] = ()
    uri: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    media: MediaInfo
    is_last: bool = False
    warnings: tuple[str, ...] = ()  # of a whole file, in its last segment once that is final

    @property
    def key(self) -> bytes:
        return segment_key(self.collection, self.segment.segment_id)


def segment_key(collection: str, segment_id: str) -> bytes:
    """Return the key of a segment's record. It names the collection: two may have a video of the same id."""
    return f"{collection}/{segment_id}".encode()


def video_key(collection: str, video_id: str) -> bytes:
    """Return the key of a stream's chunks, which also decides the partition of its segments."""
    return f"{collection}/{video_id}".encode()


@contextmanager
def _reading(record: str) -> Iterator[None]:
    """Raise RecordInvalid for bytes that are not such a record."""
    try:
        yield
    except (NotAMessage, ValueError) as error:
        raise RecordInvalid(f"not {record}: {error}") from error


# ------------------------------------------------------------------ chunks and sources
def chunk_bytes(chunk: Chunk) -> bytes:
    message = stream_pb2.Chunk(
        collection=chunk.collection,
        stream_id=chunk.stream_id,
        session=chunk.session,
        sequence=chunk.sequence,
        media_type=chunk.media_type,
        start_time=timestamp_message(chunk.start_time),
        end_of_stream=chunk.end_of_stream,
    )
    if chunk.uri:
        message.uri = chunk.uri
    elif chunk.media:
        message.media = chunk.media
    return message.SerializeToString()


def read_chunk(data: bytes) -> Chunk:
    """Read a record of kinodex.chunks.

    Raises:
        RecordInvalid: If the bytes are not such a record.
    """
    with _reading("a chunk"):
        message = stream_pb2.Chunk.FromString(data)
        return Chunk(
            collection=message.collection,
            stream_id=message.stream_id,
            session=message.session,
            sequence=message.sequence,
            media=message.media,
            uri=message.uri,
            media_type=message.media_type,
            start_time=timestamp_field(message, "start_time"),
            end_of_stream=message.end_of_stream,
        )


def source_bytes(source: Source) -> bytes:
    return stream_pb2.Source(
        collection=source.collection,
        video_id=source.video_id,
        uri=escape_surrogates(source.uri),
        metadata=metadata_message(source.metadata),
        start_time=timestamp_message(source.recorded_time),
    ).SerializeToString()


def read_source(data: bytes) -> Source:
    """Read a record of kinodex.sources.

    Raises:
        RecordInvalid: If the bytes are not such a record.
    """
    with _reading("a source"):
        message = stream_pb2.Source.FromString(data)
        recorded_time = recorded_seconds(message, "start_time")
        for name in ("collection", "uri"):
            if not getattr(message, name):
                raise ValueError(f"{name} is required")
        if "/" in message.collection + message.video_id:
            raise ValueError('collection and video_id must not have a "/"')
    return Source(
        collection=message.collection,
        video_id=message.video_id,
        uri=message.uri,
        metadata=dict(message.metadata),
        recorded_time=recorded_time,
    )


# ------------------------------------------------------------------ segments
def segment_bytes(record: SegmentRecord) -> bytes:
    segment, span = record.segment, record.segment.span
    return stream_pb2.Segment(
        segment_id=segment.segment_id,
        collection=record.collection,
        video_id=record.video_id,
        epoch=segment.epoch,
        index=segment.index,
        span=span_message(span.start_seconds, span.end_seconds),
        start_time=timestamp_message(record.recorded_time),
        embedding=b"" if segment.vector is None else _half_bytes(segment.vector),
        frames=_frame_messages(record.frames, record.thumbnails),
        texts=[
            fill_utterance(
                stream_pb2.SpokenText(
                    embedding=_half_bytes(vector),
                    continued=n < record.continued_count,
                    avg_logprob=utterance.avg_logprob,
                    no_speech_prob=utterance.no_speech_prob,
                ),
                utterance,
            )
            for n, (utterance, vector) in enumerate(zip(record.utterances, record.utterance_vectors, strict=True))
        ],
        fingerprint=record.fingerprint,
        revision=record.revision,
        final=record.is_final,
        watermark_offset=duration_message(record.watermark_seconds),
        source_append_time=timestamp_message(record.source_append_time),
        newest_append_time=timestamp_message(record.newest_append_time),
        gaps=[gap_message(gap) for gap in record.gaps],
        uri=escape_surrogates(record.uri),
        metadata=metadata_message(record.metadata),
        media=media_message(record.media),
        last=record.is_last,
        warnings=map(escape_surrogates, record.warnings),
        written=[
            fill_written(stream_pb2.WrittenText(embedding=_half_bytes(vector)), line)
            for line, vector in zip(record.lines, record.line_vectors, strict=True)
        ],
    ).SerializeToString()


def read_segment(data: bytes) -> SegmentRecord:
    """Read a record of kinodex.segments.

    Raises:
        RecordInvalid: If the bytes are not such a record.
    """
    with _reading("a segment"):
        return _segment_record(stream_pb2.Segment.FromString(data))


def _segment_record(message: stream_pb2.Segment) -> SegmentRecord:
    for name in ("segment_id", "collection", "video_id", "fingerprint"):
        if not getattr(message, name):
            raise ValueError(f"{name} is required")
    start, end = span_value(message.span)
    return SegmentRecord(
        segment=Segment(
            segment_id=message.segment_id,
            epoch=message.epoch,
            index=message.index,
            span=TimeSpan(start_seconds=start, end_seconds=end),
            vector=_read_half(message.embedding) if message.embedding else None,
        ),
        collection=message.collection,
        video_id=message.video_id,
        revision=message.revision,
        is_final=message.final,
        frames=FrameEmbeddings(
            epochs=np.full(len(message.frames), message.epoch, np.int32),
            pts_seconds=np.array([media_seconds(frame.offset) for frame in message.frames], np.float64),
            vectors=_read_vectors([frame.embedding for frame in message.frames]),
        ),
        thumbnails=tuple(frame.thumbnail for frame in message.frames if frame.thumbnail),
        utterances=tuple(
            read_utterance(text, epoch=message.epoch, avg_logprob=text.avg_logprob, no_speech_prob=text.no_speech_prob)
            for text in message.texts
        ),
        utterance_vectors=_read_vectors([text.embedding for text in message.texts]),
        continued_count=sum(text.continued for text in message.texts),
        fingerprint=message.fingerprint,
        watermark_seconds=media_seconds(message.watermark_offset),
        source_append_time=timestamp_value(message.source_append_time),
        newest_append_time=timestamp_value(message.newest_append_time),
        recorded_time=recorded_seconds(message, "start_time", MAX_MEDIA_SECONDS),
        gaps=tuple(gap_value(gap) for gap in message.gaps),
        uri=message.uri,
        metadata=dict(message.metadata),
        media=media_value(message.media),
        is_last=message.last,
        warnings=tuple(message.warnings),
        lines=tuple(read_written(line, epoch=message.epoch) for line in message.written),
        line_vectors=_read_vectors([line.embedding for line in message.written]),
    )


def _frame_messages(frames: FrameEmbeddings, thumbnails: Sequence[bytes]) -> list[stream_pb2.FrameEmbedding]:
    old_count = len(frames.pts_seconds) - len(thumbnails)
    return [
        stream_pb2.FrameEmbedding(
            offset=duration_message(float(at)),
            embedding=_half_bytes(vector),
            thumbnail=thumbnails[n - old_count] if n >= old_count else b"",
        )
        for n, (at, vector) in enumerate(zip(frames.pts_seconds, frames.vectors, strict=True))
    ]


def _half_bytes(vector: NDArray[np.float32]) -> bytes:
    """Write a vector as float16, little-endian."""
    return vector.astype("<f2").tobytes()


def _read_half(data: bytes) -> NDArray[np.float32]:
    return np.frombuffer(data, "<f2").astype(np.float32)


def _read_vectors(rows: Sequence[bytes]) -> NDArray[np.float32]:
    """Read vectors of one width: float32 (N, D)."""
    width = len(rows[0]) // 2 if rows else 0
    return _read_half(b"".join(rows)).reshape(len(rows), width)


# ------------------------------------------------------------------ parts of segments
def gap_message(gap: Gap) -> stream_pb2.Gap:
    return stream_pb2.Gap(
        offset=duration_message(gap.at_seconds),
        first_sequence=gap.first_sequence,
        chunk_count=gap.chunk_count,
        reason=gap.reason,
    )


def gap_value(message: stream_pb2.Gap) -> Gap:
    return Gap(
        at_seconds=media_seconds(message.offset),
        first_sequence=message.first_sequence,
        chunk_count=message.chunk_count,
        reason=message.reason,
    )


def media_message(media: MediaInfo) -> stream_pb2.Media:
    return stream_pb2.Media(
        container=media.container,
        video_codec=media.video_codec or "",
        audio_codec=media.audio_codec or "",
        width=media.width or 0,
        height=media.height or 0,
        rotation_degrees=media.rotation_degrees,
        frame_rate_fps=media.frame_rate_fps or 0.0,
    )


def media_value(message: stream_pb2.Media) -> MediaInfo:
    return MediaInfo(
        container=message.container,
        duration_seconds=None,
        video_codec=message.video_codec or None,
        audio_codec=message.audio_codec or None,
        width=message.width or None,
        height=message.height or None,
        rotation_degrees=message.rotation_degrees,
        frame_rate_fps=message.frame_rate_fps or None,
    )


# ------------------------------------------------------------------ deletions
def deletion_bytes(collection: str, video_id: str) -> bytes:
    return stream_pb2.Deletion(collection=collection, video_id=video_id).SerializeToString()


def read_deletion(data: bytes) -> tuple[str, str]:
    """Read a record of kinodex.deletions: the collection and the id of the video.

    Raises:
        RecordInvalid: If the bytes are not such a record.
    """
    with _reading("a deletion"):
        message = stream_pb2.Deletion.FromString(data)
    return message.collection, message.video_id
