"""What is indexed: one SQLite file in a data directory, written by one process and read by any number.

How a video comes in, and why a kill at any point is harmless:
1. begin() makes a PROCESSING row. No reader sees it.
2. add_*() append to it, each in a transaction of its own: neither memory nor the write-ahead log grows with the video.
3. finish() makes it READY, takes the older version away and counts the generation up, in one transaction.
A writer that dies before 3 leaves a PROCESSING row, which the next writer removes.
"""

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from encoders.values import FrameEmbeddings, Utterance, Word
from ingest.values import MediaInfo
from serve.database import WriterLock, connect_reader, connect_writer, readable_failures
from serve.errors import DataDirectoryInvalid, VideoNotFound
from serve.lexical import normalise
from serve.values import EncoderSpace, Video
from temporal.values import Segment, TimeSpan

Kind = Literal["segments", "utterances"]

SHORTEST_PREFIX = 4  # characters of an abbreviated video id, as in git: shorter ones are typing slips


@dataclass(frozen=True, slots=True, kw_only=True)
class NewVideo:
    """What is known of a video before its first frame."""

    video_id: str
    collection: str
    uri: str
    content_sha256: str
    fingerprint: str  # EncoderSpace.fingerprint of the encoders at work


@dataclass(frozen=True, slots=True, kw_only=True)
class WordMatch:
    """One utterance that holds a searched term."""

    row: int  # of its video
    position: int  # in Catalog.utterances(row)
    score: float  # BM25; higher is closer


class Catalog:
    """One data directory's catalog, open for reading or for writing.

    Safe to share between threads, which then take turns. Every method answers from one state of the catalog; inside
    snapshot() several calls do. All raise DataDirectoryInvalid when the file is damaged or the disk fails or is full.
    """

    def __init__(self, directory: Path, connection: sqlite3.Connection, lock: WriterLock | None) -> None:
        """Take an open connection. Callers use open_reader() or open_writer()."""
        self.directory = directory
        self._connection = connection
        self._writer_lock = lock
        self._turn = threading.RLock()
        self._begun: set[int] = set()  # rows this writer is writing

    @classmethod
    def open_reader(cls, directory: Path) -> Self:
        """Open for reading, whether or not somebody writes.

        Raises:
            DataDirectoryMissing: If nothing was ever indexed there.
            DataDirectoryInvalid: If the catalog is damaged, or newer than this program.
        """
        return cls(directory, connect_reader(directory), None)

    @classmethod
    def open_writer(cls, directory: Path) -> Self:
        """Open for writing, making what is missing, and remove what a dead writer left half-written.

        Raises:
            DataDirectoryBusy: If another process, or another Catalog of this one, writes there.
            DataDirectoryInvalid: If the catalog is damaged, newer than this program, or may not be written.
        """
        with readable_failures(directory):
            directory.mkdir(parents=True, exist_ok=True)
            lock = WriterLock(directory)
        try:
            catalog = cls(directory, connect_writer(directory), lock)
            with catalog._writing() as write:
                write.execute("DELETE FROM videos WHERE state = 'PROCESSING'")
        except BaseException:
            lock.release()
            raise
        return catalog

    def close(self) -> None:
        with self._turn:
            self._connection.close()
            if self._writer_lock is not None:
                self._writer_lock.release()
                self._writer_lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Let all reads in the block see one state of the catalog. Keep it short: the log cannot shrink meanwhile."""
        with self._turn, readable_failures(self.directory):
            if self._connection.in_transaction:  # a snapshot in a snapshot is the outer one
                yield
                return
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                self._connection.rollback()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._turn, readable_failures(self.directory):
            if self._writer_lock is None:
                raise ValueError("this catalog is open for reading only, or closed")
            if self._connection.in_transaction:
                raise ValueError("a snapshot is for reading; write outside it")
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.commit()
            except BaseException:
                if self._connection.in_transaction:  # a full disk may have ended it already
                    self._connection.rollback()
                raise

    def _select(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        with self._turn, readable_failures(self.directory):
            return self._connection.execute(sql, parameters).fetchall()

    # ---- the encoder space and other things said once

    def identity(self) -> str:
        """Return the name this catalog got when it was made: 32 hex digits, never those of another."""
        return str(self._meta("identity"))

    def generation(self) -> int:
        """Return a number that grows with every finish() and delete()."""
        return int(self._meta("generation") or 0)

    def space(self) -> EncoderSpace | None:
        """Return the encoders the rows are made with; None before the first set_space()."""
        text = self._meta("space")
        return None if text is None else EncoderSpace(**json.loads(text))

    def set_space(self, space: EncoderSpace) -> None:
        with self._writing() as write:
            write.execute("INSERT OR REPLACE INTO meta VALUES ('space', ?)", (json.dumps(asdict(space)),))

    def _meta(self, key: str) -> str | None:
        found = self._select("SELECT value FROM meta WHERE key = ?", key)
        return found[0][0] if found else None

    # ---- writing

    def begin(self, video: NewVideo) -> int:
        """Make an invisible video and return its row."""
        with self._writing() as write:
            row = write.execute(
                "INSERT INTO videos (video_id, collection, uri, content_sha256, fingerprint, state)"
                " VALUES (?, ?, ?, ?, ?, 'PROCESSING')",
                (video.video_id, video.collection, _uri_bytes(video.uri), video.content_sha256, video.fingerprint),
            ).lastrowid
            assert row is not None  # an INSERT always has one
            self._begun.add(row)
        return row

    def add_frames(self, row: int, embeddings: FrameEmbeddings, thumbnails: Sequence[bytes]) -> None:
        """Append frames, later than those before. Vectors are kept as float16.

        Args:
            row: From begin().
            embeddings: F frames; D may be 0, and is the same in all calls.
            thumbnails: F JPEGs.
        """
        times, vectors = embeddings.pts_seconds, embeddings.vectors
        if len(thumbnails) != len(times):
            raise ValueError(f"{len(times)} frames need as many thumbnails, got {len(thumbnails)}")
        if vectors.ndim != 2:
            raise ValueError(f"vectors must be (F, D), got {vectors.shape}")
        if not len(times):
            return
        with self._writing() as write:
            self._require_begun(row)
            last = write.execute(
                "SELECT width FROM frame_blocks WHERE video_row = ? ORDER BY id DESC LIMIT 1", (row,)
            ).fetchone()
            if last is not None and last[0] != vectors.shape[1]:
                raise ValueError(f"vectors must be {last[0]} wide as those before, got {vectors.shape[1]}")
            write.execute(
                "INSERT INTO frame_blocks (video_row, frame_count, width, epochs, pts_seconds, vectors)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (row, len(times), vectors.shape[1], embeddings.epochs.astype("<i4").tobytes(),
                 times.astype("<f8").tobytes(), vectors.astype("<f2").tobytes()),
            )  # fmt: skip
            write.executemany(
                "INSERT INTO thumbnails (video_row, pts_seconds, jpeg) VALUES (?, ?, ?)",
                ((row, float(at), jpeg) for at, jpeg in zip(times, thumbnails, strict=True)),
            )

    def add_utterances(self, row: int, utterances: Sequence[Utterance], vectors: NDArray[np.float32]) -> None:
        """Append utterances, later than those before.

        Args:
            row: From begin().
            utterances: U of them.
            vectors: float32 (U, D), unit length; D is 0 without a sentence encoder.
        """
        if vectors.ndim != 2 or len(vectors) != len(utterances):
            raise ValueError(f"vectors must be ({len(utterances)}, D), got {vectors.shape}")
        with self._writing() as write:
            first = self._next_position("utterances", row)
            write.executemany(
                "INSERT INTO utterances (video_row, position, epoch, start_seconds, end_seconds, text, search_text,"
                " words, language, avg_logprob, no_speech_prob, vector) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    (row, first + n, said.epoch, said.start_seconds, said.end_seconds, said.text,
                     normalise(said.text), _words_json(said.words), said.language, said.avg_logprob,
                     said.no_speech_prob, _vector_bytes(vector))
                    for n, (said, vector) in enumerate(zip(utterances, vectors, strict=True))
                ),
            )  # fmt: skip

    def add_segments(self, row: int, segments: Sequence[Segment]) -> None:
        """Append segments, later than those before."""
        with self._writing() as write:
            first = self._next_position("segments", row)
            write.executemany(
                "INSERT INTO segments (video_row, position, segment_id, epoch, segment_index, start_seconds,"
                " end_seconds, vector) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    (row, first + n, segment.segment_id, segment.epoch, segment.index, segment.span.start_seconds,
                     segment.span.end_seconds, None if segment.vector is None else _vector_bytes(segment.vector))
                    for n, segment in enumerate(segments)
                ),
            )  # fmt: skip

    def finish(self, row: int, *, media: MediaInfo, duration_seconds: float, warnings: Sequence[str]) -> None:
        """Make the video visible and take away an older one of the same collection and id, in one transaction."""
        with self._writing() as write:
            self._require_begun(row)
            older = write.execute(
                "SELECT old.row FROM videos AS old JOIN videos AS new USING (collection, video_id)"
                " WHERE new.row = ? AND old.state = 'READY'", (row,)
            ).fetchone()  # fmt: skip
            if older is not None:
                self._remove_ready(write, older[0])
            write.execute(
                "UPDATE videos SET state = 'READY', media = ?, duration_seconds = ?, warnings = ?, indexed_time = ?,"
                " frame_count = (SELECT coalesce(sum(frame_count), 0) FROM frame_blocks WHERE video_row = row),"
                " segment_count = (SELECT count(*) FROM segments WHERE video_row = row),"
                " utterance_count = (SELECT count(*) FROM utterances WHERE video_row = row) WHERE row = ?",
                (json.dumps(asdict(media)), duration_seconds, json.dumps(list(warnings)), time.time(), row),
            )
            write.execute(
                "INSERT INTO utterance_search (rowid, search_text)"
                " SELECT id, search_text FROM utterances WHERE video_row = ?", (row,)
            )  # fmt: skip
            self._count_generation(write)
        self._begun.discard(row)

    def abandon(self, row: int) -> None:
        """Remove a video that was begun and will not be finished."""
        with self._writing() as write:
            self._require_begun(row)
            write.execute("DELETE FROM videos WHERE row = ?", (row,))
        self._begun.discard(row)

    def delete(self, video_id: str, collection: str | None = None) -> None:
        """Remove a video. The id is taken whole: an abbreviation could reach another video than the one meant.

        Raises:
            VideoNotFound: If there is none of this id, or one in several collections and none is named.
        """
        with self._writing() as write:
            found = [video for video in self.videos(collection=collection) if video.video_id == video_id]
            self._remove_ready(write, _only(found, video_id).row)
            self._count_generation(write)

    def _remove_ready(self, write: sqlite3.Connection, row: int) -> None:
        # FTS5 over another table's content is told what to forget while that content is still there.
        write.execute(
            "INSERT INTO utterance_search (utterance_search, rowid, search_text)"
            " SELECT 'delete', id, search_text FROM utterances WHERE video_row = ?", (row,)
        )  # fmt: skip
        write.execute("DELETE FROM videos WHERE row = ?", (row,))

    def _count_generation(self, write: sqlite3.Connection) -> None:
        write.execute("UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE key = 'generation'")

    def _next_position(self, kind: Kind, row: int) -> int:
        self._require_begun(row)
        return int(self._select(f"SELECT coalesce(max(position) + 1, 0) FROM {kind} WHERE video_row = ?", row)[0][0])

    def _require_begun(self, row: int) -> None:
        if row not in self._begun:
            raise ValueError(f"row {row} was not begun by this writer, or is finished")

    # ---- reading

    def videos(self, *, collection: str | None = None, video_ids: Sequence[str] = ()) -> list[Video]:
        """Return the videos of one collection or of all, only those named if any is, ordered by URI."""
        return [
            _video(fields)
            for fields in self._select(
                f"SELECT {_VIDEO_FIELDS} FROM videos WHERE state = 'READY' AND (?1 IS NULL OR collection = ?1)"
                " AND (?2 = '[]' OR video_id IN (SELECT value FROM json_each(?2))) ORDER BY uri, video_id, row",
                collection,
                json.dumps(list(video_ids)),
            )
        ]

    def video(self, video_id: str, collection: str | None = None) -> Video:
        """Return the video of this id, or the only one whose id begins so.

        Raises:
            VideoNotFound: If there is none, or more than one.
        """
        found = self.videos(collection=collection, video_ids=(video_id,))
        if not found and len(video_id) >= SHORTEST_PREFIX:
            found = [video for video in self.videos(collection=collection) if video.video_id.startswith(video_id)]
        return _only(found, video_id)

    def ready_rows(self, fingerprint: str) -> dict[int, float]:
        """Return the rows of the videos made in one encoder space, each with its indexed_time: what an index holds."""
        found = self._select(
            "SELECT row, indexed_time FROM videos WHERE state = 'READY' AND fingerprint = ?", fingerprint
        )
        return {row: at for row, at in found}  # noqa: C416 - its rows are tuples of anything

    def frames(self, row: int) -> FrameEmbeddings:
        """Return all frames of a video; vectors float32 (F, D), unit length within float16's precision.

        Raises:
            VideoNotFound: If the video is gone, as in all methods that take a row.
        """
        with self._reading(row):
            blocks = self._select(
                "SELECT frame_count, width, epochs, pts_seconds, vectors FROM frame_blocks WHERE video_row = ?"
                " ORDER BY id", row
            )  # fmt: skip
        if not blocks:
            return FrameEmbeddings(
                epochs=np.empty(0, np.int32), pts_seconds=np.empty(0), vectors=np.empty((0, 0), np.float32)
            )
        width, size = blocks[0][1], sum(block[0] for block in blocks)
        return FrameEmbeddings(
            epochs=_array(b"".join(block[2] for block in blocks), "<i4", size, self.directory).astype(np.int32),
            pts_seconds=_array(b"".join(block[3] for block in blocks), "<f8", size, self.directory),
            vectors=_array(b"".join(block[4] for block in blocks), "<f2", size * width, self.directory)
            .astype(np.float32)
            .reshape(size, width),
        )

    def thumbnail(self, row: int, at_seconds: float) -> tuple[float, bytes] | None:
        """Return the frame nearest to a time: its pts_seconds and JPEG. None where the video has no pictures."""
        near = "SELECT pts_seconds, jpeg FROM thumbnails WHERE video_row = ? AND pts_seconds"
        with self._reading(row):
            found = self._select(f"{near} <= ? ORDER BY pts_seconds DESC LIMIT 1", row, at_seconds)
            found += self._select(f"{near} > ? ORDER BY pts_seconds LIMIT 1", row, at_seconds)
        if not found:
            return None
        pts_seconds, jpeg = min(found, key=lambda frame: abs(frame[0] - at_seconds))
        return float(pts_seconds), bytes(jpeg)

    def utterances(self, row: int) -> list[Utterance]:
        """Return the utterances of a video, in order of time."""
        with self._reading(row):
            found = self._select(
                "SELECT epoch, start_seconds, end_seconds, text, words, language, avg_logprob, no_speech_prob"
                " FROM utterances WHERE video_row = ? ORDER BY position", row
            )  # fmt: skip
        return [
            Utterance(
                epoch=epoch, start_seconds=start, end_seconds=end, text=text, words=_words(words), language=language,
                avg_logprob=np.nan if logprob is None else logprob,
                no_speech_prob=np.nan if silence is None else silence,
            )
            for epoch, start, end, text, words, language, logprob, silence in found
        ]  # fmt: skip

    def utterance_vectors(self, row: int) -> NDArray[np.float32]:
        """Return float32 (U, D), in the order of utterances(); D is 0 where no sentence encoder was at work."""
        with self._reading(row):
            found = self._select("SELECT vector FROM utterances WHERE video_row = ? ORDER BY position", row)
        width = max((len(vector or b"") for (vector,) in found), default=0) // 4
        whole = b"".join(vector or bytes(4 * width) for (vector,) in found)
        return _array(whole, "<f4", len(found) * width, self.directory).reshape(len(found), width)

    def segments(self, row: int) -> list[Segment]:
        """Return the segments of a video, in order of time."""
        with self._reading(row):
            found = self._select(
                "SELECT segment_id, epoch, segment_index, start_seconds, end_seconds, vector"
                " FROM segments WHERE video_row = ? ORDER BY position", row
            )  # fmt: skip
        return [
            Segment(
                segment_id=segment_id, epoch=epoch, index=index, span=TimeSpan(start_seconds=start, end_seconds=end),
                vector=None if vector is None else _array(vector, "<f4", len(vector) // 4, self.directory),
            )
            for segment_id, epoch, index, start, end, vector in found
        ]  # fmt: skip

    def row_ids(self, kind: Kind, row: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the ids int64 (N,), unique over all videos, and unit vectors float32 (N, D) of a video's segments or
        utterances, in order of time. Those without a vector are left out."""
        with self._reading(row):
            found = self._select(
                f"SELECT id, vector FROM {kind} WHERE video_row = ? AND vector IS NOT NULL ORDER BY position", row
            )
        width = len(found[0][1]) // 4 if found else 0
        vectors = _array(b"".join(vector for _, vector in found), "<f4", len(found) * width, self.directory)
        return np.array([key for key, _ in found], np.int64), vectors.reshape(len(found), width)

    def locate(self, kind: Kind, ids: Sequence[int]) -> list[tuple[int, int]]:
        """Return the video's row and the position in that video of each id of row_ids().

        Raises:
            VideoNotFound: If one is gone. Inside one snapshot() with VectorIndex.refresh() none is.
        """
        found = {
            key: (row, position)
            for key, row, position in self._select(
                f"SELECT {kind}.id, video_row, position FROM {kind} JOIN videos ON videos.row = video_row"
                f" WHERE state = 'READY' AND {kind}.id IN (SELECT value FROM json_each(?))",
                json.dumps([int(key) for key in ids]),
            )
        }
        for key in ids:
            if key not in found:
                raise VideoNotFound(f"with {kind} id {key} any more")
        return [found[key] for key in ids]

    def match_words(self, terms: Sequence[str], *, limit: int, rows: Sequence[int] | None = None) -> list[WordMatch]:
        """Return the utterances that hold any of the terms, best first.

        Args:
            terms: Words or phrases as people write them; all of it is words, nothing is syntax.
            limit: The most to return.
            rows: Only in these videos; None: in all.
        Source: BM25 as FTS5 computes it, over all READY videos whatever `rows` says.
        """
        query = " OR ".join(filter(None, map(_phrase, terms)))
        if not query:
            return []
        found = self._select(
            "SELECT video_row, position, bm25(utterance_search) FROM utterance_search"
            " JOIN utterances ON utterances.id = utterance_search.rowid WHERE utterance_search MATCH ?1"
            " AND (?2 IS NULL OR video_row IN (SELECT value FROM json_each(?2)))"
            " ORDER BY bm25(utterance_search), utterances.id LIMIT ?3",
            query,
            None if rows is None else json.dumps([int(row) for row in rows]),
            limit,
        )
        return [WordMatch(row=row, position=position, score=-rank) for row, position, rank in found]

    def document_frequency(self, term: str) -> tuple[int, int]:
        """Return how many utterances hold a word or phrase, and how many there are."""
        query = _phrase(term)
        with self.snapshot():
            ((total,),) = self._select("SELECT coalesce(sum(utterance_count), 0) FROM videos WHERE state = 'READY'")
            if not query:
                return 0, int(total)
            ((holding,),) = self._select("SELECT count(*) FROM utterance_search WHERE utterance_search MATCH ?", query)
        return int(holding), int(total)

    @contextmanager
    def _reading(self, row: int) -> Iterator[None]:
        with self.snapshot():
            if row not in self._begun and not self._select(
                "SELECT 1 FROM videos WHERE row = ? AND state = 'READY'", row
            ):
                raise VideoNotFound(f"in row {row} any more")
            yield


_VIDEO_FIELDS = (
    "row, video_id, collection, uri, content_sha256, media, duration_seconds, frame_count, segment_count,"
    " utterance_count, warnings, indexed_time"
)


def _video(fields: tuple[Any, ...]) -> Video:
    row, video_id, collection, uri, sha256, media, duration, frames, segments, utterances, warnings, at = fields
    return Video(
        row=row, video_id=video_id, collection=collection, uri=uri.decode(errors="surrogateescape"),
        content_sha256=sha256, media=MediaInfo(**json.loads(media)), duration_seconds=duration, frame_count=frames,
        segment_count=segments, utterance_count=utterances, warnings=tuple(json.loads(warnings)), indexed_time=at,
    )  # fmt: skip


def _only(found: list[Video], video_id: str) -> Video:
    if len(found) > 1:
        collections = sorted({video.collection for video in found})
        which = f"{len(found)} videos begin so" if len(collections) == 1 else f"found in {', '.join(collections)}"
        raise VideoNotFound(f"{video_id} alone ({which})")
    if not found:
        raise VideoNotFound(video_id)
    return found[0]


def _uri_bytes(uri: str) -> bytes:
    return uri.encode(errors="surrogateescape")


def _phrase(term: str) -> str:
    words = normalise(term).replace('"', "")
    return f'"{words}"' if words else ""


def _words_json(words: Sequence[Word]) -> str:
    return json.dumps([[word.text, word.start_seconds, word.end_seconds, word.probability] for word in words])


def _words(text: str) -> tuple[Word, ...]:
    return tuple(
        Word(text=word, start_seconds=start, end_seconds=end, probability=probability)
        for word, start, end, probability in json.loads(text)
    )


def _vector_bytes(vector: NDArray[np.float32]) -> bytes | None:
    return vector.astype("<f4").tobytes() if vector.size else None


def _array(data: bytes, dtype: str, size: int, directory: Path) -> NDArray[Any]:
    """Return a writable array of `size` numbers; DataDirectoryInvalid where the blob is not as long as its row says."""
    if len(data) != size * np.dtype(dtype).itemsize:
        raise DataDirectoryInvalid(str(directory), f"an array of {size} {dtype} has {len(data)} bytes")
    return np.frombuffer(bytearray(data), dtype)
