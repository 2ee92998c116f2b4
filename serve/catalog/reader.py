"""CatalogReader: the queries of a catalog. Catalog adds the changes."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from encoders.values import FrameEmbeddings, Utterance
from serve.catalog.connection import OpenCatalog
from serve.catalog.rows import (
    FRAME_FIELDS,
    TIME_FIELDS,
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
from serve.catalog.speech.stemming import ENGLISH
from serve.catalog.spelling import search_words
from serve.errors import VideoAmbiguous, VideoNotFound
from serve.values import Video
from temporal.values import Segment, TimeSpan

Kind = Literal["segments", "utterances", "text_lines"]  # tables whose rows have vectors
WordedKind = Literal["utterances", "text_lines"]
WORDED: tuple[WordedKind, ...] = ("utterances", "text_lines")  # tables whose words are looked for

DEFAULT_COLLECTION = "default"
NEAR_SECONDS = 0.5  # one picture a second is kept: half a second before it, it is as near as the one before
SHORTEST_PREFIX = 4  # least characters of an abbreviated video id, as in git; fewer are taken for typing slips


@dataclass(frozen=True, slots=True, kw_only=True)
class UtteranceRow:
    """An utterance, its vector and its place in the catalog."""

    row: int  # of its video
    position: int  # as in locate()
    utterance: Utterance  # without its words
    vector: NDArray[np.float32]  # (D,), unit length; zeros without a sentence encoder
    words: str  # JSON for serve.catalog.rows.words_of(), which takes longest to read and is seldom needed


@dataclass(frozen=True, slots=True, kw_only=True)
class WordMatch:
    """An utterance or a line of text that holds a searched term."""

    row: int  # of its video
    position: int  # as in locate()
    score: float  # BM25; higher is closer


@dataclass(frozen=True, slots=True, kw_only=True)
class RowState:
    """Identifies one state of a video's rows."""

    indexed_time: float  # seconds since 1970
    is_live: bool
    version: int  # as Video.version


class CatalogReader(OpenCatalog):
    """The reading half of serve.catalog.catalog.Catalog, whose docstring applies to all methods here."""

    def versions(self, rows: Iterable[int]) -> dict[int, int]:
        """Return the current Video.version of each of these rows whose video is there."""
        return dict(
            self.select(
                "SELECT row, iif(live, changed_generation, 0) FROM videos"
                " WHERE state = 'READY' AND row IN (SELECT value FROM json_each(?))", json.dumps(list(rows))
            )
        )  # fmt: skip

    def changed_videos(self, since: int) -> list[Video]:
        """Return the videos that are new or changed after a generation, ordered by URI; see changed_rows()."""
        return self._select_videos("changed_generation > ? ORDER BY uri, video_id, row", since, index="videos_changed")

    def videos(self, *, collection: str | None = None, video_ids: Sequence[str] = ()) -> list[Video]:
        """Return the videos of one collection or of all, ordered by URI; only those of `video_ids` if it has any."""
        return self._select_videos(
            "(?1 IS NULL OR collection = ?1) AND (?2 = '[]' OR video_id IN (SELECT value FROM json_each(?2)))"
            " ORDER BY uri, video_id, row", collection, json.dumps(list(video_ids))
        )  # fmt: skip

    def page_of_videos(
        self, *, collections: Sequence[str] | None, after: tuple[str, str, str] | None, limit: int
    ) -> list[Video]:
        """Return READY videos without a job of some collections (None: of all), ordered by (uri, collection, video_id).

        Only videos behind the place `after` in that order; None: from the first on.
        """
        uri, *names = after or (None, None, None)
        return self._select_videos(
            "(?1 IS NULL OR collection IN (SELECT value FROM json_each(?1)))"
            " AND (?2 IS NULL OR (uri, collection, video_id) > (?2, ?3, ?4)) AND NOT EXISTS (SELECT 1 FROM jobs"
            " WHERE jobs.collection = videos.collection AND jobs.video_id = videos.video_id)"
            " ORDER BY uri, collection, video_id LIMIT ?5",
            None if collections is None else json.dumps(list(collections)),
            None if uri is None else uri_bytes(uri), *names, limit,
        )  # fmt: skip

    def video_in(self, row: int) -> Video | None:
        """Return the READY video of a row; None: it was deleted, or its new version has another row."""
        return next(iter(self._select_videos("row = ?", row)), None)

    def has_collection(self, collection: str) -> bool:
        """Whether a collection has a video or a job. The default collection always exists."""
        return collection == DEFAULT_COLLECTION or bool(
            self.select(
                "SELECT 1 FROM videos WHERE collection = ?1 AND state = 'READY'"
                " UNION ALL SELECT 1 FROM jobs WHERE collection = ?1 LIMIT 1",
                collection,
            )
        )

    def video(self, video_id: str, collection: str | None = None) -> Video:
        """Return the video of an id, or the only video whose id begins with it.

        Raises:
            VideoNotFound: If there is no such video.
            VideoAmbiguous: If there are several.
        """
        return require_single(self.videos_named(video_id, None if collection is None else (collection,)), video_id)

    def videos_named(self, video_id: str, collections: Sequence[str] | None, *, is_whole: bool = False) -> list[Video]:
        """Return the READY videos of an id, else those whose ids begin with it, in some collections; None: in all.

        No row of another collection is looked at, so that the time does not tell what is there.

        Args:
            is_whole: Only videos of exactly this id.
        """
        within = "" if collections is None else " AND collection IN (SELECT value FROM json_each(?2))"
        given = (video_id,) if collections is None else (video_id, json.dumps(list(collections)))
        conditions = [
            "video_id = ?1",
            f"substr(video_id, 1, length(?1)) = ?1 AND length(?1) >= {SHORTEST_PREFIX}",
        ]
        for condition in conditions[: 1 if is_whole else 2]:
            videos = self._select_videos(
                f"{condition}{within} ORDER BY uri, video_id, row", *given, index="videos_ready"
            )
            if videos:
                break
        return videos

    def _select_videos(self, condition: str, *parameters: object, index: str = "") -> list[Video]:
        """Return the READY videos of a condition, which may be followed by ORDER BY; `index` forces an index."""
        source = f"videos INDEXED BY {index}" if index else "videos"
        rows = self.select(f"SELECT {VIDEO_FIELDS} FROM {source} WHERE state = 'READY' AND {condition}", *parameters)
        space = self.space() if rows else None
        searched = None if space is None else space.fingerprint
        return [video_of(fields, searched) for fields in rows]

    def video_count(self) -> int:
        """Return the number of READY videos."""
        return int(self.select("SELECT count(*) FROM videos WHERE state = 'READY'")[0][0])

    def ready_count(self, fingerprint: str) -> int:
        """Return the number of READY videos of an encoder space."""
        return int(
            self.select("SELECT count(*) FROM videos WHERE state = 'READY' AND fingerprint = ?", fingerprint)[0][0]
        )

    def changed_rows(self, fingerprint: str, since: int = -1) -> dict[int, RowState]:
        """Return the READY videos of an encoder space that are new or changed after a generation, by row.

        Deleted videos are not listed. A caller that holds rows detects a deletion by comparing ready_count() with its
        own number of rows, these included.
        """
        rows = self.select(
            "SELECT row, indexed_time, live, changed_generation FROM videos INDEXED BY videos_changed"
            " WHERE state = 'READY' AND fingerprint = ? AND changed_generation > ?", fingerprint, since
        )  # fmt: skip
        return {
            row: RowState(indexed_time=at, is_live=bool(live), version=generation if live else 0)
            for row, at, live, generation in rows
        }

    def frames(self, row: int, *, since_seconds: float = 0.0) -> FrameEmbeddings:
        """Return all frames of a video; vectors float32 (F, D), unit length within float16's precision.

        Args:
            since_seconds: Of a live video, only those of segments that end later.
        Raises:
            VideoNotFound: If the video is deleted, as in all methods that take a row.
        """
        stored = self.stored_frames(row, since_seconds=since_seconds)
        width = stored.vectors[0].shape[1] if stored.vectors else 0
        return FrameEmbeddings(
            epochs=stored.epochs,
            pts_seconds=stored.pts_seconds,
            vectors=np.concatenate([np.empty((0, width), np.float16), *stored.vectors]).astype(np.float32),
        )

    def stored_frames(self, row: int, *, since_seconds: float = 0.0) -> StoredFrames:
        """Return the frames of a video as the catalog stores them; `since_seconds` as in frames()."""
        with self._snapshot_of(row) as is_live:
            blocks = self.select(
                f"SELECT {FRAME_FIELDS} FROM segments JOIN frame_blocks ON segment_row = segments.id"
                " WHERE segments.video_row = ? AND segments.end_seconds > ? ORDER BY position", row, since_seconds
            ) if is_live else self.select(
                f"SELECT {FRAME_FIELDS} FROM frame_blocks WHERE video_row = ? ORDER BY id", row
            )  # fmt: skip
        return frames_of(blocks, self.directory)

    def frame_times(self, row: int) -> list[tuple[Any, ...]]:
        """Return TIME_FIELDS of all frames of a file, in order of time."""
        with self._snapshot_of(row):
            return self.select(f"SELECT {TIME_FIELDS} FROM frame_blocks WHERE video_row = ? ORDER BY id", row)

    def traits(self, row: int) -> StoredTraits | None:
        """Return the traits of a file; None: they were not worked out, or the video is live."""
        with self._snapshot_of(row):
            rows = self.select("SELECT change_strengths, captions, generic FROM video_traits WHERE video_row = ?", row)
        return traits_of(rows[0], self.directory) if rows else None

    def thumbnail(self, row: int, at_seconds: float) -> tuple[float, bytes] | None:
        """Return the frame of a time: its pts_seconds and JPEG. None: the video has no pictures.

        That is the one shown then, or the one that begins within NEAR_SECONDS if it is nearer; before the first frame,
        the first.
        """
        near = "SELECT pts_seconds, jpeg FROM thumbnails WHERE video_row = ? AND pts_seconds"
        with self._snapshot_of(row):
            frames = self.select(f"{near} <= ? ORDER BY pts_seconds DESC LIMIT 1", row, at_seconds)
            frames += self.select(f"{near} > ? ORDER BY pts_seconds LIMIT 1", row, at_seconds)
        if not frames:
            return None
        near_frames = [frame for frame in frames if frame[0] <= at_seconds + NEAR_SECONDS] or frames
        pts_seconds, jpeg = min(near_frames, key=lambda frame: abs(frame[0] - at_seconds))
        return float(pts_seconds), bytes(jpeg)

    def utterances(self, row: int, *, with_words: bool = True, since_seconds: float = 0.0) -> list[Utterance]:
        """Return the utterances of a video that end at a time or later, in order, with or without their words."""
        words = "words" if with_words else "NULL"
        with self._snapshot_of(row):
            rows = self.select(
                f"SELECT {words}, {UTTERANCE_FIELDS} FROM utterances WHERE video_row = ? AND end_seconds >= ?"
                " ORDER BY position", row, since_seconds
            )  # fmt: skip
        return [utterance_of(tuple(fields), words) for words, *fields in rows]

    def utterances_at(self, places: Sequence[tuple[int, int]]) -> list[UtteranceRow]:
        """Return the utterances at places of locate(), ordered by video row and position. None may be deleted."""
        rows = self.select(
            f"SELECT video_row, position, vector, words, {UTTERANCE_FIELDS} FROM json_each(?) AS place"
            " JOIN utterances ON video_row = place.value ->> 0 AND position = place.value ->> 1"
            " ORDER BY video_row, position", json.dumps([list(place) for place in places])
        )  # fmt: skip
        return self._utterance_rows(rows)

    def utterances_around(
        self, places: Sequence[tuple[int, int]], count: int
    ) -> list[tuple[list[UtteranceRow], list[UtteranceRow]]]:
        """Return up to `count` utterances before each place of locate(), and as many after it, in order of time."""
        near = "SELECT near.id FROM utterances AS near WHERE near.video_row = place.value ->> 0 AND near.position"
        rows = self.select(
            f"SELECT key, video_row, position, vector, words, {UTTERANCE_FIELDS}"
            " FROM json_each(?1) AS place CROSS JOIN utterances ON"
            f" utterances.id IN ({near} < place.value ->> 1 ORDER BY near.position DESC LIMIT ?2)"
            f" OR utterances.id IN ({near} > place.value ->> 1 ORDER BY near.position LIMIT ?2)"
            " ORDER BY key, position", json.dumps([list(place) for place in places]), count
        )  # fmt: skip
        found: list[tuple[list[UtteranceRow], list[UtteranceRow]]] = [([], []) for _ in places]
        for (n, *_), utterance in zip(rows, self._utterance_rows([fields[1:] for fields in rows]), strict=True):
            found[n][utterance.position > places[n][1]].append(utterance)
        return found

    def _utterance_rows(self, rows: Sequence[tuple[Any, ...]]) -> list[UtteranceRow]:
        vectors = vectors_of([fields[2] for fields in rows], self.directory)
        return [
            UtteranceRow(row=row, position=position, vector=vector, utterance=utterance_of(tuple(fields)), words=words)
            for vector, (row, position, _, words, *fields) in zip(vectors, rows, strict=True)
        ]

    def utterance_vectors(self, row: int, *, since_seconds: float = 0.0) -> NDArray[np.float32]:
        """Return float32 (U, D), in the order of utterances(); D is 0 without a sentence encoder."""
        with self._snapshot_of(row):
            rows = self.select(
                "SELECT vector FROM utterances WHERE video_row = ? AND end_seconds >= ? ORDER BY position",
                row, since_seconds,
            )  # fmt: skip
        return vectors_of([vector for (vector,) in rows], self.directory)

    def segments(self, row: int) -> list[Segment]:
        """Return the segments of a video, in order of time."""
        with self._snapshot_of(row):
            rows = self.select(
                "SELECT segment_id, epoch, segment_index, start_seconds, end_seconds, vector"
                " FROM segments WHERE video_row = ? ORDER BY position", row
            )  # fmt: skip
        return [
            Segment(
                segment_id=segment_id, epoch=epoch, index=index, span=TimeSpan(start_seconds=start, end_seconds=end),
                vector=None if vector is None else array_of(vector, "<f4", len(vector) // 4, self.directory),
            )
            for segment_id, epoch, index, start, end, vector in rows
        ]  # fmt: skip

    def row_ids(self, kind: Kind, row: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return ids, int64 (N,), unique over all videos, and unit vectors, float32 (N, D), of a video's segments or
        utterances that have a vector, in order of time."""
        with self._snapshot_of(row):
            rows = self.select(
                f"SELECT id, vector FROM {kind} WHERE video_row = ? AND vector IS NOT NULL ORDER BY position", row
            )
        return np.array([key for key, _ in rows], np.int64), vectors_of([vector for _, vector in rows], self.directory)

    def vectors_by_id(self, kind: Kind, ids: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the given ids that have a vector, ascending, and their vectors, float32 (N, D)."""
        rows = self.select(
            f"SELECT id, vector FROM {kind} WHERE id IN (SELECT value FROM json_each(?)) AND vector IS NOT NULL"
            " ORDER BY id", json.dumps([int(key) for key in ids])
        )  # fmt: skip
        return np.array([key for key, _ in rows], np.int64), vectors_of([vector for _, vector in rows], self.directory)

    def locate(self, kind: Kind, ids: Sequence[int]) -> list[tuple[int, int]]:
        """Return the video's row and the position in that video of each id of row_ids().

        Positions are in order of time. A file's are indexes into utterances() or segments(), a live video's have gaps.

        Raises:
            VideoNotFound: If a row is deleted. Inside one snapshot() with VectorIndex.refresh() none is.
        """
        places = {
            key: (row, position)
            for key, row, position in self.select(
                f"SELECT {kind}.id, video_row, position FROM {kind} JOIN videos ON videos.row = video_row"
                f" WHERE state = 'READY' AND {kind}.id IN (SELECT value FROM json_each(?))",
                json.dumps([int(key) for key in ids]),
            )
        }
        for key in ids:
            if key not in places:
                raise VideoNotFound(f"with {kind} id {key} any more")
        return [places[key] for key in ids]

    def match_words(
        self, terms: Sequence[str], *, limit: int, rows: Sequence[int] | None = None, kind: WordedKind = "utterances"
    ) -> list[WordMatch]:
        """Return the utterances, or the lines of text, that hold any of the terms, best first.

        Args:
            terms: Words or phrases as people write them; no character is syntax.
            limit: The most rows to return.
            rows: Only of these videos; None: of all.
        Source: BM25 as FTS5 computes it, over all READY videos whatever `rows` says.
        """
        query = _match_query(terms, self._languages_of(kind))
        if not query:
            return []
        table = search_table(kind)
        matches = self.select(
            f"SELECT video_row, position, score FROM (SELECT rowid AS id, bm25({table}) AS score"
            f" FROM {table} WHERE {table} MATCH ?1 AND (?2 IS NULL OR rowid IN"
            f" (SELECT id FROM {kind} WHERE video_row IN (SELECT value FROM json_each(?2))))"
            f" ORDER BY score, rowid LIMIT ?3) JOIN {kind} USING (id) ORDER BY score, id",
            query,
            None if rows is None else json.dumps([int(row) for row in rows]),
            limit,
        )
        return [WordMatch(row=row, position=position, score=-rank) for row, position, rank in matches]

    def document_frequencies(
        self, terms: Sequence[str], rows: Sequence[int] | None = None, kind: WordedKind = "utterances"
    ) -> tuple[dict[str, int], int]:
        """Return the count of utterances, or lines, of some videos (None: all) with each word or phrase, and of all."""
        among = None if rows is None else json.dumps([int(row) for row in rows])
        table = search_table(kind)
        count = f"SELECT count(*) FROM {table}"
        with self.snapshot():
            languages = self._languages_of(kind)
            ((total,),) = self.select(
                f"SELECT coalesce(sum({kind.removesuffix('s')}_count), 0) FROM videos WHERE state = 'READY'"
                " AND (?1 IS NULL OR row IN (SELECT value FROM json_each(?1)))",
                among,
            )
            holding = {}
            for term in terms:
                query = _match_query([term], languages)
                if not query:
                    counts = [(0,)]
                elif among is None:
                    counts = self.select(f"{count} WHERE {table} MATCH ?", query)
                else:
                    counts = self.select(
                        f"{count} JOIN {kind} ON {kind}.id = {table}.rowid"
                        f" WHERE {table} MATCH ? AND video_row IN (SELECT value FROM json_each(?))",
                        query,
                        among,
                    )
                holding[term] = int(counts[0][0])
        return holding, int(total)

    def languages(self) -> list[str]:
        """Return the languages of the utterances, ISO 639-1."""
        rows = self.select(  # jumps from one language to the next in the index
            "WITH RECURSIVE found (language) AS (SELECT min(language) FROM utterances UNION ALL"
            " SELECT (SELECT min(language) FROM utterances WHERE language > found.language) FROM found"
            " WHERE found.language IS NOT NULL) SELECT language FROM found WHERE language IS NOT NULL"
        )
        return [language for (language,) in rows]

    def _languages_of(self, kind: WordedKind) -> list[str]:
        """Return the languages whose spellings are looked for. Nobody knows the language of a line of text."""
        return [ENGLISH] if kind == "text_lines" else [*dict.fromkeys([ENGLISH, *self.languages()])]

    @contextmanager
    def _snapshot_of(self, row: int) -> Iterator[bool]:
        """Open a snapshot in which a video exists; yield whether it is live."""
        with self.snapshot():
            rows = self.select("SELECT live, state FROM videos WHERE row = ?", row)
            if not rows or (rows[0][1] != "READY" and row not in self._begun):
                raise VideoNotFound(f"in row {row} any more")
            yield bool(rows[0][0])


def require_single(videos: Sequence[Video], video_id: str) -> Video:
    """Return the only video of a list.

    Raises:
        VideoNotFound: If the list is empty.
        VideoAmbiguous: If it has several videos.
    """
    if not videos:
        raise VideoNotFound(video_id)
    if len(videos) > 1:
        raise VideoAmbiguous(video_id, sorted({video.collection for video in videos}))
    return videos[0]


def search_table(kind: WordedKind) -> str:
    """Return the table that finds the words of a kind of row."""
    return f"{kind.removesuffix('s')}_search"


def _match_query(terms: Sequence[str], languages: Sequence[str]) -> str:
    """Return what FTS5 looks for: any of some terms, as each of some languages spells it; empty: nothing."""
    spelled = (search_words(term, language).replace('"', "") for term in terms for language in languages)
    return " OR ".join(dict.fromkeys(f'"{words}"' for words in spelled if words))
