"""What a catalog answers to a reader."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from encoders.values import FrameEmbeddings, Utterance
from serve.catalog.connection import OpenCatalog
from serve.catalog.rows import (
    FRAME_FIELDS,
    UTTERANCE_FIELDS,
    VIDEO_FIELDS,
    StoredFrames,
    StoredTraits,
    array_of,
    frames_of,
    traits_of,
    uri_bytes,
    utterance_of,
    vectors_of,
    video_of,
)
from serve.catalog.spelling import normalise
from serve.errors import VideoAmbiguous, VideoNotFound
from serve.values import Video
from temporal.values import Segment, TimeSpan

Kind = Literal["segments", "utterances"]

DEFAULT_COLLECTION = "default"
SHORTEST_PREFIX = 4  # characters of an abbreviated video id, as in git: shorter ones are typing slips


@dataclass(frozen=True, slots=True, kw_only=True)
class UtteranceRow:
    """One utterance, and where it is."""

    row: int  # of its video
    position: int  # as locate() tells it
    utterance: Utterance  # without its words
    vector: NDArray[np.float32]  # (D,), unit length; zeros without one
    words: str  # for serve.catalog.rows.words_of(), which takes longer than all else: most are not asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class WordMatch:
    """One utterance that holds a searched term."""

    row: int  # of its video
    position: int  # as locate() tells it
    score: float  # BM25; higher is closer


@dataclass(frozen=True, slots=True, kw_only=True)
class RowState:
    """What tells one state of a video's rows from another."""

    indexed_time: float  # seconds since 1970
    is_live: bool
    version: int  # as Video.version


class CatalogReader(OpenCatalog):
    """The reading half of serve.catalog.catalog.Catalog, which says what holds for all its methods."""

    def version(self, row: int) -> int:
        """Return Video.version as it is now."""
        with self._reading(row):
            found = self.select("SELECT iif(live, changed_generation, 0) FROM videos WHERE row = ?", row)
        return int(found[0][0])

    def changed_videos(self, since: int) -> list[Video]:
        """Return the videos that are new or changed after a generation, ordered by URI; see changed_rows()."""
        return [
            video_of(fields)
            for fields in self.select(
                f"SELECT {VIDEO_FIELDS} FROM videos INDEXED BY videos_changed WHERE state = 'READY'"
                " AND changed_generation > ? ORDER BY uri, video_id, row", since
            )
        ]  # fmt: skip

    def videos(self, *, collection: str | None = None, video_ids: Sequence[str] = ()) -> list[Video]:
        """Return the videos of one collection or of all, only those named if any is, ordered by URI."""
        return [
            video_of(fields)
            for fields in self.select(
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
            for fields in self.select(
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
            self.select(
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
        return require_single(self.videos_named(video_id, None if collection is None else (collection,)), video_id)

    def videos_named(self, video_id: str, collections: Sequence[str] | None) -> list[Video]:
        """Return the READY videos of this id, or else those whose id begins so; None: in any collection."""
        for condition in ("video_id = ?1", f"substr(video_id, 1, length(?1)) = ?1 AND length(?1) >= {SHORTEST_PREFIX}"):
            found = self.select(
                f"SELECT {VIDEO_FIELDS} FROM videos WHERE state = 'READY' AND {condition}"
                " AND (?2 IS NULL OR collection IN (SELECT value FROM json_each(?2))) ORDER BY uri, video_id, row",
                video_id,
                None if collections is None else json.dumps(list(collections)),
            )
            if found:
                break
        return [video_of(fields) for fields in found]

    def ready_count(self, fingerprint: str) -> int:
        """Return how many videos made in one encoder space there are."""
        return int(
            self.select("SELECT count(*) FROM videos WHERE state = 'READY' AND fingerprint = ?", fingerprint)[0][0]
        )

    def changed_rows(self, fingerprint: str, since: int = -1) -> dict[int, RowState]:
        """Return the rows of the videos made in one encoder space that are new or changed after a generation.

        Those that are gone are not told: who knows some rows has missed one if ready_count() is less than its own with
        these.
        """
        found = self.select(
            "SELECT row, indexed_time, live, changed_generation FROM videos INDEXED BY videos_changed"
            " WHERE state = 'READY' AND fingerprint = ? AND changed_generation > ?", fingerprint, since
        )  # fmt: skip
        return {
            row: RowState(indexed_time=at, is_live=bool(live), version=generation if live else 0)
            for row, at, live, generation in found
        }

    def frames(self, row: int) -> FrameEmbeddings:
        """Return all frames of a video; vectors float32 (F, D), unit length within float16's precision.

        Raises:
            VideoNotFound: If the video is gone, as in all methods that take a row.
        """
        stored = self.stored_frames(row)
        width = stored.vectors[0].shape[1] if stored.vectors else 0
        return FrameEmbeddings(
            epochs=stored.epochs,
            pts_seconds=stored.pts_seconds,
            vectors=np.concatenate([np.empty((0, width), np.float16), *stored.vectors]).astype(np.float32),
        )

    def stored_frames(self, row: int) -> StoredFrames:
        """Return all frames of a video as they lie there."""
        with self._reading(row) as is_live:
            blocks = self.select(
                f"SELECT {FRAME_FIELDS} FROM segments JOIN frame_blocks ON segment_row = segments.id"
                " WHERE segments.video_row = ? ORDER BY position", row
            ) if is_live else self.select(
                f"SELECT {FRAME_FIELDS} FROM frame_blocks WHERE video_row = ? ORDER BY id", row
            )  # fmt: skip
        return frames_of(blocks, self.directory)

    def traits(self, row: int) -> StoredTraits | None:
        """Return what no question changes in a file; None where nobody worked it out, or of a live video."""
        with self._reading(row):
            found = self.select("SELECT change_strengths, captions, generic FROM video_traits WHERE video_row = ?", row)
        return traits_of(found[0], self.directory) if found else None

    def thumbnail(self, row: int, at_seconds: float) -> tuple[float, bytes] | None:
        """Return the frame nearest to a time: its pts_seconds and JPEG. None where the video has no pictures."""
        near = "SELECT pts_seconds, jpeg FROM thumbnails WHERE video_row = ? AND pts_seconds"
        with self._reading(row):
            found = self.select(f"{near} <= ? ORDER BY pts_seconds DESC LIMIT 1", row, at_seconds)
            found += self.select(f"{near} > ? ORDER BY pts_seconds LIMIT 1", row, at_seconds)
        if not found:
            return None
        pts_seconds, jpeg = min(found, key=lambda frame: abs(frame[0] - at_seconds))
        return float(pts_seconds), bytes(jpeg)

    def utterances(self, row: int, *, with_words: bool = True) -> list[Utterance]:
        """Return the utterances of a video, in order of time; without their words where those are not needed."""
        words = "words" if with_words else "NULL"
        with self._reading(row):
            found = self.select(
                f"SELECT {words}, {UTTERANCE_FIELDS} FROM utterances WHERE video_row = ? ORDER BY position", row
            )
        return [utterance_of(tuple(fields), words) for words, *fields in found]

    def utterances_at(self, places: Sequence[tuple[int, int]]) -> list[UtteranceRow]:
        """Return the utterances at places that locate() tells, by video's row and position; none may be gone."""
        found = self.select(
            f"SELECT video_row, position, vector, words, {UTTERANCE_FIELDS} FROM json_each(?) AS place"
            " JOIN utterances ON video_row = place.value ->> 0 AND position = place.value ->> 1"
            " ORDER BY video_row, position", json.dumps([list(place) for place in places])
        )  # fmt: skip
        return self._spoken(found)

    def utterances_beside(self, row: int, position: int) -> tuple[UtteranceRow | None, UtteranceRow | None]:
        """Return the utterances of a video before and after one."""
        fields = f"SELECT video_row, position, vector, words, {UTTERANCE_FIELDS} FROM utterances WHERE video_row = ?"
        before = self.select(f"{fields} AND position < ? ORDER BY position DESC LIMIT 1", row, position)
        after = self.select(f"{fields} AND position > ? ORDER BY position LIMIT 1", row, position)
        return next(iter(self._spoken(before)), None), next(iter(self._spoken(after)), None)

    def _spoken(self, found: Sequence[tuple[Any, ...]]) -> list[UtteranceRow]:
        vectors = vectors_of([fields[2] for fields in found], self.directory)
        return [
            UtteranceRow(row=row, position=position, vector=vector, utterance=utterance_of(tuple(fields)), words=words)
            for vector, (row, position, _, words, *fields) in zip(vectors, found, strict=True)
        ]

    def utterance_vectors(self, row: int) -> NDArray[np.float32]:
        """Return float32 (U, D), in the order of utterances(); D is 0 where no sentence encoder was at work."""
        with self._reading(row):
            found = self.select("SELECT vector FROM utterances WHERE video_row = ? ORDER BY position", row)
        return vectors_of([vector for (vector,) in found], self.directory)

    def segments(self, row: int) -> list[Segment]:
        """Return the segments of a video, in order of time."""
        with self._reading(row):
            found = self.select(
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
            found = self.select(
                f"SELECT id, vector FROM {kind} WHERE video_row = ? AND vector IS NOT NULL ORDER BY position", row
            )
        return np.array([key for key, _ in found], np.int64), vectors_of([each for _, each in found], self.directory)

    def vectors_by_id(self, kind: Kind, ids: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return those of some ids that have a vector, ascending, and the vectors, float32 (N, D)."""
        found = self.select(
            f"SELECT id, vector FROM {kind} WHERE id IN (SELECT value FROM json_each(?)) AND vector IS NOT NULL"
            " ORDER BY id", json.dumps([int(key) for key in ids])
        )  # fmt: skip
        return np.array([key for key, _ in found], np.int64), vectors_of([each for _, each in found], self.directory)

    def locate(self, kind: Kind, ids: Sequence[int]) -> list[tuple[int, int]]:
        """Return the video's row and the position in that video of each id of row_ids().

        Positions are in order of time. A file's are places in utterances() or segments(), a live video's have gaps.

        Raises:
            VideoNotFound: If one is gone. Inside one snapshot() with VectorIndex.refresh() none is.
        """
        found = {
            key: (row, position)
            for key, row, position in self.select(
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
        found = self.select(
            "SELECT video_row, position, score FROM (SELECT rowid AS id, bm25(utterance_search) AS score"
            " FROM utterance_search WHERE utterance_search MATCH ?1 AND (?2 IS NULL OR rowid IN"
            " (SELECT id FROM utterances WHERE video_row IN (SELECT value FROM json_each(?2))))"
            " ORDER BY score, rowid LIMIT ?3) JOIN utterances USING (id) ORDER BY score, id",
            query,
            None if rows is None else json.dumps([int(row) for row in rows]),
            limit,
        )
        return [WordMatch(row=row, position=position, score=-rank) for row, position, rank in found]

    def document_frequencies(
        self, terms: Sequence[str], rows: Sequence[int] | None = None
    ) -> tuple[dict[str, int], int]:
        """Return how many utterances hold each word or phrase, and how many there are: of some videos, None: of all."""
        among = None if rows is None else json.dumps([int(row) for row in rows])
        counted = "SELECT count(*) FROM utterance_search"
        with self.snapshot():
            ((total,),) = self.select(
                "SELECT coalesce(sum(utterance_count), 0) FROM videos WHERE state = 'READY'"
                " AND (?1 IS NULL OR row IN (SELECT value FROM json_each(?1)))",
                among,
            )
            holding = {}
            for term in terms:
                query = _phrase(term)
                if not query:
                    found = [(0,)]
                elif among is None:
                    found = self.select(f"{counted} WHERE utterance_search MATCH ?", query)
                else:
                    found = self.select(
                        f"{counted} JOIN utterances ON utterances.id = utterance_search.rowid"
                        " WHERE utterance_search MATCH ? AND video_row IN (SELECT value FROM json_each(?))",
                        query,
                        among,
                    )
                holding[term] = int(found[0][0])
        return holding, int(total)

    @contextmanager
    def _reading(self, row: int) -> Iterator[bool]:
        """Make sure that a video is there, and say whether it is live."""
        with self.snapshot():
            found = self.select("SELECT live, state FROM videos WHERE row = ?", row)
            if not found or (found[0][1] != "READY" and row not in self._begun):
                raise VideoNotFound(f"in row {row} any more")
            yield bool(found[0][0])


def require_single(found: Sequence[Video], video_id: str) -> Video:
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
