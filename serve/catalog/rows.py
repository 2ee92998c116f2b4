"""Rows of the catalog and the values they hold: URIs and arrays as bytes, other structures as JSON.

The reader, the writer and the edits of live videos (serve.live.live_edit) share these conversions and INSERTs.
"""

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoders.values import FrameEmbeddings, Utterance, Word, WordSource
from ingest.values import MediaInfo
from serve.catalog.spelling import search_words
from serve.errors import DataDirectoryInvalid
from serve.values import Video, WallClockAnchor
from temporal.values import Segment

CaptionScores = tuple[float, float]  # mean and spread of the captions' scores on a video
VIDEO_FIELDS = (
    "row, video_id, collection, uri, content_sha256, media, duration_seconds, frame_count, segment_count,"
    " utterance_count, warnings, indexed_time, metadata, recorded_time, live, ended, watermark_seconds, anchors,"
    " changed_generation, fingerprint, text_line_count"
)

TIME_FIELDS = "frame_count, width, epochs, pts_seconds"  # of frame_blocks
FRAME_FIELDS = f"{TIME_FIELDS}, vectors"
UTTERANCE_FIELDS = (
    "epoch, start_seconds, end_seconds, text, language, avg_logprob, no_speech_prob, source, speaker, spoken_language"
)


def video_of(fields: tuple[Any, ...], searched: str | None) -> Video:
    """Return the video of a row of VIDEO_FIELDS; `searched` is the fingerprint of the library's encoder space."""
    (row, video_id, collection, uri, sha256, media, duration, frames, segments, utterances, warnings, at,
     metadata, recorded, live, ended, watermark, anchors, generation, fingerprint, text_lines) = fields  # fmt: skip
    return Video(
        row=row, video_id=video_id, collection=collection, uri=uri_of(uri),
        content_sha256=sha256, media=MediaInfo(**json.loads(media)), duration_seconds=duration, frame_count=frames,
        segment_count=segments, utterance_count=utterances, warnings=tuple(json.loads(warnings)), indexed_time=at,
        metadata=json.loads(metadata), recorded_time=recorded, is_live=bool(live), is_ended=bool(ended),
        watermark_seconds=watermark, version=generation if live else 0,
        text_line_count=text_lines,
        is_searchable=fingerprint == searched if searched else bool(fingerprint),
        anchors=tuple(WallClockAnchor(media_seconds=media_at, unix_time=at) for _, media_at, at in json.loads(anchors)),
    )  # fmt: skip


def uri_bytes(uri: str) -> bytes:
    return uri.encode(errors="surrogateescape")


def uri_of(data: bytes) -> str:
    return data.decode(errors="surrogateescape")


def metadata_json(metadata: Mapping[str, str]) -> str:
    return json.dumps(dict(metadata), sort_keys=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveColumns:
    """Columns of `segments` that matter for live videos; the defaults are a file's."""

    revision: int = 0
    is_final: bool = True
    added_time: float | None = None  # seconds since 1970
    source_append_time: float | None = None  # of the oldest record it was made of, seconds since 1970
    recorded_time: float | None = None  # of the start of its span, seconds since 1970
    watermark_seconds: float | None = None
    is_last: bool = False
    warnings: Sequence[str] = ()  # stored in the column `gaps`
    size_bytes: int = 0


FILE_COLUMNS = LiveColumns()


def insert_segment(
    write: sqlite3.Connection, video_row: int, position: int, segment: Segment, live: LiveColumns = FILE_COLUMNS
) -> int:
    """Insert a segment; return its id."""
    segment_row = write.execute(
        "INSERT INTO segments (video_row, position, segment_id, epoch, segment_index, start_seconds, end_seconds,"
        " vector, revision, final, added_time, source_append_time, recorded_time, watermark_seconds, last, gaps,"
        " size_bytes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (video_row, position, segment.segment_id, segment.epoch, segment.index, segment.span.start_seconds,
         segment.span.end_seconds, None if segment.vector is None else vector_bytes(segment.vector), live.revision,
         live.is_final, live.added_time, live.source_append_time, live.recorded_time, live.watermark_seconds,
         live.is_last, json.dumps(list(live.warnings)), live.size_bytes),
    ).lastrowid  # fmt: skip
    assert segment_row is not None  # every INSERT has a lastrowid
    return segment_row


def insert_frames(
    write: sqlite3.Connection,
    video_row: int,
    frames: FrameEmbeddings,
    thumbnails: Sequence[bytes],
    segment_row: int | None = None,
) -> None:
    """Insert a block of at least one frame, vectors as float16, and the JPEG thumbnail of each frame.

    `segment_row` is the segment of a live video that introduces them.
    """
    times, vectors = frames.pts_seconds, frames.vectors
    write.execute(
        "INSERT INTO frame_blocks (video_row, segment_row, frame_count, width, epochs, pts_seconds, vectors)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (video_row, segment_row, len(times), vectors.shape[1], frames.epochs.astype("<i4").tobytes(),
         times.astype("<f8").tobytes(), vectors.astype("<f2").tobytes()),
    )  # fmt: skip
    write.executemany(
        "INSERT INTO thumbnails (video_row, segment_row, pts_seconds, jpeg) VALUES (?, ?, ?, ?)",
        ((video_row, segment_row, float(at), jpeg) for at, jpeg in zip(times, thumbnails, strict=True)),
    )


def insert_utterances(
    write: sqlite3.Connection,
    video_row: int,
    utterances: Iterable[tuple[int, Utterance, NDArray[np.float32]]],
    segment_row: int | None = None,
    added_time: float | None = None,
) -> None:
    """Insert utterances.

    Args:
        utterances: Position, utterance and unit vector, float32 (D,), D = 0 without a sentence encoder.
        segment_row: The segment of a live video that introduces them.
        added_time: When the row of a live video is added, seconds since 1970.
    """
    write.executemany(
        "INSERT INTO utterances (video_row, segment_row, position, epoch, start_seconds, end_seconds, text,"
        " search_text, words, language, avg_logprob, no_speech_prob, source, speaker, spoken_language, vector,"
        " added_time) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            (video_row, segment_row, position, utterance.epoch, utterance.start_seconds, utterance.end_seconds,
             utterance.text, search_words(utterance.text, utterance.language), words_json(utterance.words),
             utterance.language, utterance.avg_logprob, utterance.no_speech_prob, utterance.source, utterance.speaker,
             utterance.spoken_language, vector_bytes(vector), added_time)
            for position, utterance, vector in utterances
        ),
    )  # fmt: skip


def words_json(words: Sequence[Word]) -> str:
    return json.dumps([[word.text, word.start_seconds, word.end_seconds, word.probability] for word in words])


def words_of(text: str) -> tuple[Word, ...]:
    return tuple(
        Word(text=word, start_seconds=start, end_seconds=end, probability=probability)
        for word, start, end, probability in json.loads(text)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFrames:
    """The frames of a video as the catalog stores them; see encoders.values.FrameEmbeddings."""

    epochs: NDArray[np.int32]  # (F,)
    pts_seconds: NDArray[np.float64]  # (F,)
    vectors: Sequence[NDArray[np.float16]]  # (f, D) each, F together


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTraits:
    """Numbers of a file that no question changes; see serve.search.traits."""

    change_strengths: NDArray[np.float32]  # (N,): temporal.moments.shots.change_strengths()
    captions: str  # serve.search.traits.CaptionBank.key; "": the file has no pictures
    caption_scores: CaptionScores | None  # None: the file has no pictures


def frames_of(blocks: Sequence[tuple[Any, ...]], directory: Path) -> StoredFrames:
    """Return the frames of rows of FRAME_FIELDS, in order of time."""
    size = sum(block[0] for block in blocks)
    return StoredFrames(
        epochs=array_of(b"".join(block[2] for block in blocks), "<i4", size, directory),
        pts_seconds=array_of(b"".join(block[3] for block in blocks), "<f8", size, directory),
        vectors=[
            array_of(vectors, "<f2", count * width, directory).reshape(count, width)
            for count, width, _, _, vectors in blocks
        ],
    )


def frame_times_of(
    blocks: Sequence[tuple[Any, ...]], directory: Path
) -> tuple[int, NDArray[np.int32], NDArray[np.float64]]:
    """Return the width of the vectors, the epochs and the times of rows of TIME_FIELDS, in order of time."""
    size = sum(block[0] for block in blocks)
    return (
        max((block[1] for block in blocks), default=0),
        array_of(b"".join(block[2] for block in blocks), "<i4", size, directory),
        array_of(b"".join(block[3] for block in blocks), "<f8", size, directory),
    )


def caption_scores_json(scores: CaptionScores | None) -> str:
    return json.dumps(scores or ())


def traits_of(fields: tuple[Any, ...], directory: Path) -> StoredTraits:
    strengths, captions, scores = fields
    return StoredTraits(
        change_strengths=array_of(strengths, "<f4", len(strengths) // 4, directory), captions=captions,
        caption_scores=tuple(json.loads(scores)) or None,
    )  # fmt: skip


def utterance_of(fields: tuple[Any, ...], words: str | None = None) -> Utterance:
    epoch, start, end, text, language, logprob, silence, source, speaker, spoken_language = fields
    return Utterance(
        epoch=epoch, start_seconds=start, end_seconds=end, text=text, words=() if words is None else words_of(words),
        language=language, avg_logprob=np.nan if logprob is None else logprob,
        no_speech_prob=np.nan if silence is None else silence, source=WordSource(source), speaker=speaker,
        spoken_language=spoken_language,
    )  # fmt: skip


def vectors_of(vectors: Sequence[bytes | None], directory: Path) -> NDArray[np.float32]:
    """Return vectors of one width, float32 (N, D); zeros for None."""
    width = max((len(vector or b"") for vector in vectors), default=0) // 4
    whole = b"".join(vector or bytes(4 * width) for vector in vectors)
    return array_of(whole, "<f4", len(vectors) * width, directory).reshape(len(vectors), width)


def vector_bytes(vector: NDArray[np.float32]) -> bytes | None:
    return vector.astype("<f4").tobytes() if vector.size else None


def array_of(data: bytes, dtype: str, size: int, directory: Path) -> NDArray[Any]:
    """Return an array of `size` numbers.

    Raises:
        DataDirectoryInvalid: If the blob is not as long as its row says.
    """
    if len(data) != size * np.dtype(dtype).itemsize:
        raise DataDirectoryInvalid(str(directory), f"an array of {size} {dtype} has {len(data)} bytes")
    return np.frombuffer(data, dtype)
