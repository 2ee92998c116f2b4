"""What a catalog answers to a reader."""

import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from encoders.values import FrameEmbeddings, Utterance, Word
from serve.columns import VIDEO_FIELDS, array_of, uri_bytes, video_of, words_of
from serve.database import connect_reader, readable_failures, unwatched_state
from serve.errors import VideoAmbiguous, VideoNotFound
from serve.lexical import normalise
from serve.values import EncoderSpace, Video
from temporal.values import Segment, TimeSpan

Kind = Literal["segments", "utterances"]

DEFAULT_COLLECTION = "default"
SHORTEST_PREFIX = 4  # characters of an abbreviated video id, as in git: shorter ones are typing slips


@dataclass(frozen=True, slots=True, kw_only=True)
class WordMatch:
    """One utterance that holds a searched term."""

    row: int  # of its video
    position: int  # in Catalog.utterances(row)
    score: float  # BM25; higher is closer


class _ThreadState(threading.local):
    """What each thread that reads has for itself."""

    connection: sqlite3.Connection | None = None
    unwatched_state: tuple[int, int] | None = None  # on read-only media


class CatalogReader:
    """The reading half of serve.catalog.Catalog, which says what holds for all its methods.

    A reader gives each thread a connection of its own, so that threads read at the same time; a writer has one
    connection, at which they take turns.
    """

    def __init__(self, directory: Path, connection: sqlite3.Connection | None = None) -> None:
        """Take a writer's connection, or None to read. Callers use open_reader() or open_writer()."""
        self.directory = directory
        self._shared_connection = connection
        self._turn: AbstractContextManager[object] = nullcontext() if connection is None else threading.RLock()
        self._mine = _ThreadState()
        self._opened: list[sqlite3.Connection] = []
        self._is_closed = False
        self._begun: set[int] = set()  # rows this writer is writing

    @classmethod
    def open_reader(cls, directory: Path) -> Self:
        """Open for reading, whether or not somebody writes.

        Raises:
            DataDirectoryMissing: If nothing was ever indexed there.
            DataDirectoryInvalid: If the catalog is damaged, or newer than this program.
        """
        catalog = cls(directory)
        catalog._connect()
        return catalog

    def close(self) -> None:
        """Let go of the file. No thread may still be reading."""
        with self._turn:
            self._is_closed = True
            opened, self._opened = self._opened, []
            for connection in [*opened, *([self._shared_connection] if self._shared_connection else [])]:
                connection.close()

    def _connect(self) -> sqlite3.Connection:
        if self._is_closed:
            raise sqlite3.ProgrammingError("this catalog is closed")
        connection = connect_reader(self.directory)
        self._opened.append(connection)
        with readable_failures(self.directory):
            self._mine.connection, self._mine.unwatched_state = connection, unwatched_state(self.directory)
        return connection

    @property
    def _connection(self) -> sqlite3.Connection:
        return self._shared_connection or self._mine.connection or self._connect()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Let all reads in the block see one state of the catalog. Keep it short: the log cannot shrink meanwhile."""
        with self._turn:
            if self._connection.in_transaction:  # a snapshot in a snapshot is the outer one
                yield
                return
            with readable_failures(self.directory):
                self._notice_changes()
                self._connection.execute("BEGIN")
            try:
                yield
            finally:
                self._connection.rollback()

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

    def _meta(self, key: str) -> str | None:
        found = self._select("SELECT value FROM meta WHERE key = ?", key)
        return found[0][0] if found else None

    def videos(self, *, collection: str | None = None, video_ids: Sequence[str] = ()) -> list[Video]:
        """Return the videos of one collection or of all, only those named if any is, ordered by URI."""
        return [
            video_of(fields)
            for fields in self._select(
                f"SELECT {VIDEO_FIELDS} FROM videos WHERE state = 'READY' AND (?1 IS NULL OR collection = ?1)"
                " AND (?2 = '[]' OR video_id IN (SELECT value FROM json_each(?2))) ORDER BY uri, video_id, row",
                collection,
                json.dumps(list(video_ids)),
            )
        ]

    def page_of_videos(
        self, *, collections: Sequence[str] | None, after: tuple[str, str, str] | None, limit: int
    ) -> list[Video]:
        """Return READY videos that no job is about, ordered by (uri, collection, video_id).

        Args:
            collections: Only of these; None: of all.
            after: Only those behind this place in the order; None: from the first.
            limit: The most to return.
        """
        uri, *names = after or (None, None, None)
        return [
            video_of(fields)
            for fields in self._select(
                f"SELECT {VIDEO_FIELDS} FROM videos WHERE state = 'READY'"
                " AND (?1 IS NULL OR collection IN (SELECT value FROM json_each(?1)))"
                " AND (?2 IS NULL OR (uri, collection, video_id) > (?2, ?3, ?4))"
                " AND NOT EXISTS (SELECT 1 FROM jobs"
                " WHERE jobs.collection = videos.collection AND jobs.video_id = videos.video_id)"
                " ORDER BY uri, collection, video_id LIMIT ?5",
                None if collections is None else json.dumps(list(collections)),
                None if uri is None else uri_bytes(uri), *names, limit,
            )
        ]  # fmt: skip

    def has_collection(self, collection: str) -> bool:
        """Whether any video is in a collection, or on its way into it; the default one is there from the beginning."""
        return collection == DEFAULT_COLLECTION or bool(
            self._select(
                "SELECT 1 FROM videos WHERE collection = ?1 AND state = 'READY'"
                " UNION ALL SELECT 1 FROM jobs WHERE collection = ?1 LIMIT 1",
                collection,
            )
        )

    def video(self, video_id: str, collection: str | None = None) -> Video:
        """Return the video of this id, or the only one whose id begins so.

        Raises:
            VideoNotFound: If there is none.
            VideoAmbiguous: If there are several.
        """
        return only(self.videos_named(video_id, None if collection is None else (collection,)), video_id)

    def videos_named(self, video_id: str, collections: Sequence[str] | None) -> list[Video]:
        """Return the READY videos of this id, or else those whose id begins so; None: in any collection."""
        for condition in ("video_id = ?1", f"substr(video_id, 1, length(?1)) = ?1 AND length(?1) >= {SHORTEST_PREFIX}"):
            found = self._select(
                f"SELECT {VIDEO_FIELDS} FROM videos WHERE state = 'READY' AND {condition}"
                " AND (?2 IS NULL OR collection IN (SELECT value FROM json_each(?2))) ORDER BY uri, video_id, row",
                video_id,
                None if collections is None else json.dumps(list(collections)),
            )
            if found:
                break
        return [video_of(fields) for fields in found]

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
            epochs=array_of(b"".join(block[2] for block in blocks), "<i4", size, self.directory).astype(np.int32),
            pts_seconds=array_of(b"".join(block[3] for block in blocks), "<f8", size, self.directory),
            vectors=array_of(b"".join(block[4] for block in blocks), "<f2", size * width, self.directory)
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

    def utterances(self, row: int, *, with_words: bool = True) -> list[Utterance]:
        """Return the utterances of a video, in order of time; without their words where those are not needed."""
        words = "words" if with_words else "'[]'"
        with self._reading(row):
            found = self._select(
                f"SELECT epoch, start_seconds, end_seconds, text, {words}, language, avg_logprob, no_speech_prob"
                " FROM utterances WHERE video_row = ? ORDER BY position", row
            )  # fmt: skip
        return [
            Utterance(
                epoch=epoch, start_seconds=start, end_seconds=end, text=text, words=words_of(words), language=language,
                avg_logprob=np.nan if logprob is None else logprob,
                no_speech_prob=np.nan if silence is None else silence,
            )
            for epoch, start, end, text, words, language, logprob, silence in found
        ]  # fmt: skip

    def words(self, row: int, first: int, last: int) -> tuple[Word, ...]:
        """Return the words of some neighbouring utterances of a video, positions inclusive."""
        found = self._select(
            "SELECT words FROM utterances WHERE video_row = ? AND position BETWEEN ? AND ? ORDER BY position",
            row, first, last,
        )  # fmt: skip
        return tuple(word for (words,) in found for word in words_of(words))

    def utterance_vectors(self, row: int) -> NDArray[np.float32]:
        """Return float32 (U, D), in the order of utterances(); D is 0 where no sentence encoder was at work."""
        with self._reading(row):
            found = self._select("SELECT vector FROM utterances WHERE video_row = ? ORDER BY position", row)
        width = max((len(vector or b"") for (vector,) in found), default=0) // 4
        whole = b"".join(vector or bytes(4 * width) for (vector,) in found)
        return array_of(whole, "<f4", len(found) * width, self.directory).reshape(len(found), width)

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
                vector=None if vector is None else array_of(vector, "<f4", len(vector) // 4, self.directory),
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
        vectors = array_of(b"".join(vector for _, vector in found), "<f4", len(found) * width, self.directory)
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
            "SELECT video_row, position, score FROM (SELECT rowid AS id, bm25(utterance_search) AS score"
            " FROM utterance_search WHERE utterance_search MATCH ?1 AND (?2 IS NULL OR rowid IN"
            " (SELECT id FROM utterances WHERE video_row IN (SELECT value FROM json_each(?2))))"
            " ORDER BY score, rowid LIMIT ?3) JOIN utterances USING (id) ORDER BY score, id",
            query,
            None if rows is None else json.dumps([int(row) for row in rows]),
            limit,
        )
        return [WordMatch(row=row, position=position, score=-rank) for row, position, rank in found]

    def document_frequency(self, term: str, rows: Sequence[int] | None = None) -> tuple[int, int]:
        """Return how many utterances hold a word or phrase, and how many there are: of some videos, or None: of all."""
        query, among = _phrase(term), None if rows is None else json.dumps([int(row) for row in rows])
        with self.snapshot():
            ((total,),) = self._select(
                "SELECT coalesce(sum(utterance_count), 0) FROM videos WHERE state = 'READY'"
                " AND (?1 IS NULL OR row IN (SELECT value FROM json_each(?1)))",
                among,
            )
            if not query:
                return 0, int(total)
            counted = "SELECT count(*) FROM utterance_search"
            if among is None:
                ((holding,),) = self._select(f"{counted} WHERE utterance_search MATCH ?", query)
            else:
                ((holding,),) = self._select(
                    f"{counted} JOIN utterances ON utterances.id = utterance_search.rowid"
                    " WHERE utterance_search MATCH ? AND video_row IN (SELECT value FROM json_each(?))",
                    query,
                    among,
                )
        return int(holding), int(total)

    @contextmanager
    def _reading(self, row: int) -> Iterator[None]:
        with self.snapshot():
            if row not in self._begun and not self._select(
                "SELECT 1 FROM videos WHERE row = ? AND state = 'READY'", row
            ):
                raise VideoNotFound(f"in row {row} any more")
            yield

    def _select(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        with self._turn, readable_failures(self.directory):
            if not self._connection.in_transaction:
                self._notice_changes()
            return self._connection.execute(sql, parameters).fetchall()

    def _notice_changes(self) -> None:
        """Open a catalog on read-only media again when somebody else, who may write there, has written."""
        before = self._mine.unwatched_state
        if before is not None and unwatched_state(self.directory) != before and self._mine.connection is not None:
            self._opened.remove(self._mine.connection)
            self._mine.connection.close()
            self._connect()


def only(found: Sequence[Video], video_id: str) -> Video:
    """Return the one video that was found.

    Raises:
        VideoNotFound: If there is none.
        VideoAmbiguous: If there are several.
    """
    if not found:
        raise VideoNotFound(video_id)
    if len(found) > 1:
        raise VideoAmbiguous(video_id, sorted({video.collection for video in found}))
    return found[0]


def _phrase(term: str) -> str:
    words = normalise(term).replace('"', "")
    return f'"{words}"' if words else ""
