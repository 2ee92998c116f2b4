"""Catalog: the SQLite file of a data directory, written by one process and read by any number of processes.

How a video is added, and why a kill at any point is harmless:
1. begin() inserts a PROCESSING row. No reader sees it.
2. add_*() append to it, each in its own transaction: neither memory nor the write-ahead log grows with the video.
3. finish() makes it READY, deletes the older version, which answers until then, and advances the generation, in one
   transaction.
A writer that dies before 3 leaves a PROCESSING row, which the next writer deletes.

Editors make small changes beside the writer: they delete videos and edit the job queue (serve.indexing.jobs). A video
that is indexed for a job becomes READY in the transaction that ends the job, so a crash never separates the two.
"""

import json
import math
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from encoders.values import FrameEmbeddings, Utterance
from ingest.values import MediaInfo
from serve.catalog.places import Entry, is_ready, renew, replace_version, take_place
from serve.catalog.reader import WORDED, CatalogReader, Kind, WordMatch, search_table
from serve.catalog.rows import (
    StoredTraits,
    caption_scores_json,
    insert_frames,
    insert_segment,
    insert_utterances,
    metadata_json,
    uri_bytes,
)
from serve.catalog.speech.speakers import hand_over_names, name_speaker
from serve.catalog.sqlite import WriterLock, connect_editor, connect_writer, translate_failures
from serve.errors import SpeakerNotFound, VideoAmbiguous, VideoNotFound
from serve.files import make_library_private, make_private_folder
from serve.values import EncoderSpace, Video
from temporal.values import Segment

__all__ = ["Catalog", "Kind", "NewVideo", "WordMatch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewVideo:
    """A video before its first frame."""

    video_id: str
    collection: str
    uri: str
    content_sha256: str
    fingerprint: str  # EncoderSpace.fingerprint of the encoders that index it
    metadata: Mapping[str, str] = field(default_factory=dict)
    recorded_time: float | None = None  # seconds since 1970; None: not known


class Catalog(CatalogReader):
    """The catalog of one data directory, open for reading, for writing, or for small changes beside a writer.

    Threads may share it; a writer's threads take turns. Every method answers from one state of the catalog, and so do
    several calls inside snapshot(). All raise DataDirectoryInvalid if the file is damaged or the disk fails or is full.
    """

    _writer_lock: WriterLock | None = None  # of a writer
    _is_editable: bool = False  # of a writer or an editor

    @classmethod
    def open_writer(cls, directory: Path) -> Self:
        """Open for writing. Make a missing directory or catalog, and delete videos that a dead writer left unfinished.

        Raises:
            DataDirectoryBusy: If another process, or another Catalog of this process, writes there.
            DataDirectoryInvalid: If the catalog is damaged, newer than this program, or may not be written.
            DataDirectoryOutdated: If the catalog is too old to be migrated.
        """
        with translate_failures(directory):
            make_private_folder(directory)
            lock = WriterLock(directory)
            make_library_private(directory)
        try:
            catalog = cls(directory, connect_writer(directory))
            catalog._writer_lock, catalog._is_editable = lock, True
            with catalog.writing() as write:
                write.execute("DELETE FROM videos WHERE state = 'PROCESSING'")
        except BaseException:
            lock.release()
            raise
        return catalog

    @classmethod
    def open_editor(cls, directory: Path) -> Self:
        """Open for deleting videos and for serve.indexing.jobs, beside a writer or without one.

        Raises:
            DataDirectoryMissing: If nothing was ever indexed there.
            DataDirectoryInvalid: If the catalog is damaged, or of another version than this program's.
        """
        catalog = cls(directory, connect_editor(directory))
        catalog._is_editable = True
        return catalog

    def close(self) -> None:
        with self._lock:
            super().close()
            self._is_editable = False
            if self._writer_lock is not None:
                self._writer_lock.release()
                self._writer_lock = None

    def set_space(self, space: EncoderSpace) -> None:
        with self.writing() as write:
            self.write_space(write, space)

    def begin(self, video: NewVideo) -> int:
        """Insert a PROCESSING video, which no reader sees, and return its row."""
        with self.writing() as write:
            row = write.execute(
                "INSERT INTO videos (video_id, collection, uri, content_sha256, fingerprint, metadata, recorded_time,"
                " state) VALUES (?, ?, ?, ?, ?, ?, ?, 'PROCESSING')",
                (video.video_id, video.collection, uri_bytes(video.uri), video.content_sha256, video.fingerprint,
                 metadata_json(video.metadata), video.recorded_time),
            ).lastrowid  # fmt: skip
            assert row is not None  # every INSERT has a lastrowid
            self._begun.add(row)
        return row

    def add_frames(self, row: int, embeddings: FrameEmbeddings, thumbnails: Sequence[bytes]) -> None:
        """Append frames, later than the frames before. Vectors are stored as float16.

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
        with self.writing() as write:
            self._require_begun(row)
            last = write.execute(
                "SELECT width FROM frame_blocks WHERE video_row = ? ORDER BY id DESC LIMIT 1", (row,)
            ).fetchone()
            if last is not None and last[0] != vectors.shape[1]:
                raise ValueError(f"vectors must be {last[0]} wide like the frames before, got {vectors.shape[1]}")
            insert_frames(write, row, embeddings, thumbnails)

    def add_utterances(self, row: int, utterances: Sequence[Utterance], vectors: NDArray[np.float32]) -> None:
        """Append utterances, later than the utterances before.

        Args:
            row: From begin().
            utterances: U utterances.
            vectors: float32 (U, D), unit length; D is 0 without a sentence encoder.
        """
        if vectors.ndim != 2 or len(vectors) != len(utterances):
            raise ValueError(f"vectors must be ({len(utterances)}, D), got {vectors.shape}")
        with self.writing() as write:
            first = self.next_position("utterances", row)
            insert_utterances(write, row, zip(count(first), utterances, vectors, strict=False))

    def add_segments(self, row: int, segments: Sequence[Segment]) -> None:
        """Append segments, later than the segments before."""
        with self.writing() as write:
            first = self.next_position("segments", row)
            for position, segment in enumerate(segments, start=first):
                insert_segment(write, row, position, segment)

    def add_traits(self, row: int, traits: StoredTraits) -> None:
        """Store the traits of all frames, once, after the last frame."""
        with self.writing() as write:
            self._require_begun(row)
            write.execute(
                "INSERT INTO video_traits (video_row, change_strengths, captions, generic) VALUES (?, ?, ?, ?)",
                (
                    row,
                    traits.change_strengths.astype("<f4").tobytes(),
                    traits.captions,
                    caption_scores_json(traits.caption_scores),
                ),
            )

    def copy_rows(self, tables: Sequence[str], old_row: int, row: int) -> None:
        """Copy the rows of some tables from a READY video to one that was begun."""
        with self.writing() as write:
            self._require_begun(row)
            for table in tables:
                found = write.execute("SELECT name FROM pragma_table_info(?)", (table,))
                columns = ", ".join(name for (name,) in found if name not in ("id", "video_row", "segment_row"))
                write.execute(
                    f"INSERT INTO {table} (video_row, {columns})"
                    f" SELECT ?, {columns} FROM {table} WHERE video_row = ? ORDER BY rowid",
                    (row, old_row),
                )

    def finish(
        self,
        row: int,
        *,
        media: MediaInfo,
        duration_seconds: float,
        warnings: Sequence[str],
        job_id: int | None = None,
        entry: Entry | None = None,
    ) -> bool:
        """Make the video visible and end its job, in one transaction.

        An older video of its collection and id is deleted; the new one takes its metadata and recorded time where it
        has none. The place of its URI becomes its place.

        Args:
            entry: The id that it takes; None: that of begin().
        Returns:
            Whether it is visible. False: the job is not RUNNING any more, or the video to be replaced was deleted
            meanwhile; then the new one is deleted, too.
        """
        with self.writing() as write:
            self._require_begun(row)
            is_wanted = job_id is None or self._end_job(write, job_id)
            if entry is not None and entry.replaces is not None:
                is_wanted = is_wanted and is_ready(write, entry.replaces)
            if is_wanted:
                if entry is not None:
                    write.execute("UPDATE videos SET video_id = ? WHERE row = ?", (entry.video_id, row))
                self._make_ready(write, row, media, duration_seconds, warnings)
            else:
                write.execute("DELETE FROM videos WHERE row = ?", (row,))
        self._begun.discard(row)
        return is_wanted

    def _end_job(self, edit: sqlite3.Connection, job_id: int) -> bool:
        return edit.execute("DELETE FROM jobs WHERE id = ? AND state = 'RUNNING'", (job_id,)).rowcount > 0

    def _make_ready(
        self, write: sqlite3.Connection, row: int, media: MediaInfo, duration_seconds: float, warnings: Sequence[str]
    ) -> None:
        older = write.execute(
            "SELECT old.row FROM videos AS old JOIN videos AS new USING (collection, video_id)"
            " WHERE new.row = ? AND old.state = 'READY'", (row,)
        ).fetchone()  # fmt: skip
        if older is not None:
            replace_version(write, older[0], row)
            hand_over_names(write, older[0], row)
            self.remove_row(write, older[0])
        write.execute(
            "UPDATE videos SET state = 'READY', media = ?, duration_seconds = ?, warnings = ?, indexed_time = ?,"
            " frame_count = (SELECT coalesce(sum(frame_count), 0) FROM frame_blocks WHERE video_row = row),"
            " segment_count = (SELECT count(*) FROM segments WHERE video_row = row),"
            " utterance_count = (SELECT count(*) FROM utterances WHERE video_row = row),"
            " text_line_count = (SELECT count(*) FROM text_lines WHERE video_row = row) WHERE row = ?",
            (json.dumps(asdict(media)), duration_seconds, json.dumps(list(warnings)), time.time(), row),
        )
        take_place(write, row)
        self.make_searchable(write, row)
        self.advance_generation(write, [row])

    def finish_unchanged(
        self, row: int, *, uri: str, metadata: Mapping[str, str], recorded_time: float | None, job_id: int
    ) -> bool:
        """End a job whose bytes a READY video has already.

        That video gets the job's metadata and recorded time, if the job has any, and the place of the job's URI.

        Returns:
            Whether the job was RUNNING; else nothing changes.
        """
        with self.writing() as write:
            if not self._end_job(write, job_id):
                return False
            if renew(write, row, uri, metadata, recorded_time):
                self.advance_generation(write, [row])  # filters read metadata and recorded time
            return True

    def abandon(self, row: int) -> None:
        """Delete a video that was begun and will not be finished."""
        with self.writing() as write:
            self._require_begun(row)
            write.execute("DELETE FROM videos WHERE row = ?", (row,))
        self._begun.discard(row)

    def name_speaker(self, video: Video, number: int, name: str) -> None:
        """Give a speaker of a video a name; an empty one takes the name away.

        Raises:
            SpeakerNotFound: If the video has no such speaker.
        """
        with self.editing() as edit:
            if not name_speaker(edit, video.row, number, name):
                raise SpeakerNotFound(video.video_id, number)
            self.advance_generation(edit)  # answers to questions for a name change

    def delete(self, video_id: str, collection: str | None = None) -> None:
        """Delete a video. Its id must be whole: an abbreviation could name another video than the caller means.

        Raises:
            VideoNotFound: If no video has this id.
            VideoAmbiguous: If several collections have a video of this id and none is named.
        """
        with self.editing() as edit:
            self.remove(edit, video_id, collection)

    def remove(self, edit: sqlite3.Connection, video_id: str, collection: str | None) -> str:
        """Delete a video and its job, as part of a transaction; return its collection. See delete()."""
        owners = edit.execute(
            "SELECT collection FROM videos WHERE state = 'READY' AND video_id = ?1 AND (?2 IS NULL OR collection = ?2)"
            " UNION SELECT collection FROM jobs WHERE video_id = ?1 AND (?2 IS NULL OR collection = ?2) ORDER BY 1",
            (video_id, collection),
        ).fetchall()
        if not owners:
            raise VideoNotFound(video_id)
        if len(owners) > 1:
            raise VideoAmbiguous(video_id, [name for (name,) in owners])
        ((owner,),) = owners
        edit.execute("DELETE FROM jobs WHERE collection = ? AND video_id = ?", (owner, video_id))
        ready = edit.execute(
            "SELECT row, live FROM videos WHERE state = 'READY' AND collection = ? AND video_id = ?", (owner, video_id)
        ).fetchone()
        if ready is not None:
            row, is_live = ready
            if is_live:
                self.remember_deletion(edit, owner, video_id, time.time())
            self.remove_row(edit, row)
            self.advance_generation(edit)
        return str(owner)

    def remember_deletion(self, edit: sqlite3.Connection, collection: str, video_id: str, at: float) -> None:
        """Bar a live video's records from coming back: those in the catalog, and those appended before `at`.

        See serve.live.live_rows.
        """
        (newest,) = edit.execute(
            "SELECT max(source_append_time) FROM videos JOIN segments ON video_row = row"
            " WHERE state = 'READY' AND live AND collection = ? AND video_id = ?", (collection, video_id)
        ).fetchone()  # fmt: skip
        edit.execute(
            "INSERT INTO deletions VALUES (?1, ?2, ?3)"
            " ON CONFLICT DO UPDATE SET append_time = max(append_time, excluded.append_time)",
            (collection, video_id, at if newest is None else max(at, math.nextafter(newest, math.inf))),
        )

    def make_searchable(self, write: sqlite3.Connection, row: int) -> None:
        for kind in WORDED:
            write.execute(
                f"INSERT INTO {search_table(kind)} (rowid, search_text)"
                f" SELECT id, search_text FROM {kind} WHERE video_row = ?",
                (row,),
            )

    def remove_row(self, write: sqlite3.Connection, row: int) -> None:
        # FTS5 with external content needs the text of the rows that it deletes, so it goes first.
        for kind in WORDED:
            table = search_table(kind)
            write.execute(
                f"INSERT INTO {table} ({table}, rowid, search_text)"
                f" SELECT 'delete', id, search_text FROM {kind} WHERE video_row = ?", (row,)
            )  # fmt: skip
        write.execute("DELETE FROM videos WHERE row = ?", (row,))

    def write_space(self, write: sqlite3.Connection, space: EncoderSpace) -> None:
        write.execute("INSERT OR REPLACE INTO meta VALUES ('space', ?)", (json.dumps(asdict(space)),))

    def advance_generation(self, write: sqlite3.Connection, rows: Iterable[int] = ()) -> int:
        """Add 1 to the generation as part of a transaction, store it on the changed videos, and return it."""
        write.execute("UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE key = 'generation'")
        generation = self.generation()
        write.executemany("UPDATE videos SET changed_generation = ? WHERE row = ?", ((generation, row) for row in rows))
        return generation

    def next_position(self, kind: Kind, row: int) -> int:
        """Return the position after the last row of a kind of a video that was begun."""
        self._require_begun(row)
        return int(self.select(f"SELECT coalesce(max(position) + 1, 0) FROM {kind} WHERE video_row = ?", row)[0][0])

    def _require_begun(self, row: int) -> None:
        if row not in self._begun:
            raise ValueError(f"row {row} was not begun by this writer, or is finished")

    @contextmanager
    def attach(self, path: Path) -> Iterator[None]:
        """Attach another catalog as the schema `fresh`, to be read."""
        with self._lock, translate_failures(self.directory):
            self._connection.execute("ATTACH ? AS fresh", (f"{path.absolute().as_uri()}?mode=ro",))
            try:
                yield
            finally:
                self._connection.execute("DETACH fresh")

    def find_indexed(self, collection: str, video_id: str, content_sha256: str, fingerprint: str) -> int | None:
        """Return the row of the READY video of the same bytes in this encoder space; None: there is none."""
        rows = self.select(
            "SELECT row FROM videos WHERE state = 'READY' AND collection = ? AND video_id = ? AND content_sha256 = ?"
            " AND fingerprint = ?", collection, video_id, content_sha256, fingerprint
        )  # fmt: skip
        return rows[0][0] if rows else None

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Open a transaction that only the holder of the writer's lock may make."""
        with self._lock:
            if self._writer_lock is None and self._is_editable:
                raise ValueError("this catalog is open for small changes only")
            with self.editing() as write:
                yield write

    @contextmanager
    def editing(self) -> Iterator[sqlite3.Connection]:
        """Open a transaction: all changes of the block happen, or none. Waits for transactions of other processes."""
        with self._lock, translate_failures(self.directory):
            if not self._is_editable:
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
