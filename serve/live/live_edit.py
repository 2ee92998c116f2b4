"""LiveEdit: one transaction's changes to the rows of live videos, for LiveRows."""

import logging
import math
import sqlite3
from collections.abc import Sequence
from enum import StrEnum

import numpy as np

from encoders.values import FrameEmbeddings
from serve.catalog.catalog import Catalog
from serve.catalog.events import prune_events
from serve.catalog.live_blocks import MOST_UTTERANCES, block_of, epoch_of, segment_position, utterance_position
from serve.catalog.reader import WORDED, search_table
from serve.catalog.rows import LiveColumns, insert_frames, insert_segment, insert_utterances, uri_bytes, words_json
from serve.catalog.text_lines import insert_text_lines
from serve.codec.records import SegmentRecord
from serve.live.edited_video import EditedVideo, listed_uri, write_video

logger = logging.getLogger(__name__)


class ChangeOutcome(StrEnum):
    """Outcome of one change. The values are labels of a metric."""

    APPLIED = "applied"
    STALE = "stale"  # the catalog has this revision of the segment, or a higher one
    DEAD = "dead"  # the segment's records were appended before its video was deleted
    FOREIGN = "foreign"  # the segment comes from other encoders
    TAKEN = "taken"  # an indexed file has the video's name
    REFUSED = "refused"  # the segment contradicts itself or the rows of its video; the log says how
    REMOVED = "removed"  # a tombstone or a deletion removed segments
    GONE = "gone"  # a tombstone or a deletion found nothing to remove


class LiveEdit:
    """Changes the rows of live videos within a transaction: any number of changes, then close()."""

    def __init__(self, catalog: Catalog, edit: sqlite3.Connection, fingerprint: str, now: float) -> None:
        self._catalog, self._edit, self._fingerprint, self._now = catalog, edit, fingerprint, now
        self._videos: dict[int, EditedVideo] = {}  # by row
        self._rows: dict[tuple[str, str], int | None] = {}  # by collection and id; None: an indexed file has the name
        self._deletion_times: dict[tuple[str, str], float] = {}  # by collection and id; -inf: never deleted
        self._just_deleted: set[tuple[str, str]] = set()  # by a change of this transaction, not by retention

    def put_segment(self, record: SegmentRecord) -> ChangeOutcome:
        """Put a segment in, or replace its older revision."""
        if record.fingerprint != self._fingerprint:
            return ChangeOutcome.FOREIGN
        if record.source_append_time < self._deletion_time(record.collection, record.video_id):
            return ChangeOutcome.DEAD
        try:
            position = _checked_position(record)
            row = self._row_for(record)
            if row is None:
                return ChangeOutcome.TAKEN
            self._check_widths(row, record)
        except ValueError as error:
            logger.warning("segment refused segment_id=%s reason=%s", record.segment.segment_id, error)
            return ChangeOutcome.REFUSED
        return self._put_at(self._video(row), position, record)

    def remove_segment(self, segment_id: str, collection: str) -> ChangeOutcome:
        segment_rows = self._edit.execute(
            "SELECT segments.id FROM segments JOIN videos ON videos.row = video_row WHERE segment_id = ?1"
            " AND added_time IS NOT NULL AND fingerprint = ?2 AND collection = ?3",
            (segment_id, self._fingerprint, collection),
        ).fetchall()
        self.remove_rows([segment_row for (segment_row,) in segment_rows])
        return ChangeOutcome.REMOVED if segment_rows else ChangeOutcome.GONE

    def delete_video(self, collection: str, video_id: str, append_time: float) -> ChangeOutcome:
        """Remove the segments made of records appended before a time, and remember the time: they stay dead."""
        at = max(append_time, self._deletion_time(collection, video_id))
        self._deletion_times[collection, video_id] = at
        self._just_deleted.add((collection, video_id))
        self._edit.execute("INSERT OR REPLACE INTO deletions VALUES (?, ?, ?)", (collection, video_id, at))
        segment_rows = self._edit.execute(
            "SELECT segments.id FROM segments JOIN videos ON videos.row = video_row WHERE state = 'READY' AND live"
            " AND collection = ? AND video_id = ? AND fingerprint = ? AND source_append_time < ?",
            (collection, video_id, self._fingerprint, at),
        ).fetchall()
        self.remove_rows([segment_row for (segment_row,) in segment_rows])
        return ChangeOutcome.REMOVED if segment_rows else ChangeOutcome.GONE

    def remove_rows(self, segment_rows: Sequence[int]) -> None:
        """Remove segments and all that belongs to them; skip segments that are gone already."""
        for segment_row in segment_rows:
            fields = self._edit.execute(
                "SELECT video_row, position, watermark_seconds FROM segments WHERE id = ?", (segment_row,)
            ).fetchone()
            if fields is not None:
                row, position, watermark = fields
                video = self._video(row)
                video.removed_watermark = max(video.removed_watermark, watermark)
                self._remove(video, segment_row, position)

    def _put_at(self, video: EditedVideo, position: int, record: SegmentRecord) -> ChangeOutcome:
        old = self._edit.execute(
            "SELECT id, revision, watermark_seconds, last FROM segments WHERE video_row = ? AND position = ?",
            (video.row, position),
        ).fetchone()
        watermark = record.watermark_seconds
        if old is not None:
            segment_row, revision, old_watermark, was_last = old
            watermark = max(watermark, old_watermark)
            if revision >= record.revision:
                is_last = was_last or (revision == record.revision and record.is_last)
                if (watermark, is_last) != (old_watermark, was_last):
                    self._edit.execute(
                        "UPDATE segments SET watermark_seconds = ?, last = ? WHERE id = ?",
                        (watermark, is_last, segment_row),
                    )
                    video.watermark_seconds = max(video.watermark_seconds, watermark)
                    video.is_touched = True
                return ChangeOutcome.STALE
            self._remove(video, segment_row, position)
        self._insert(video, position, record, watermark)
        video.watermark_seconds = max(video.watermark_seconds, watermark)
        if position >= video.last_position:
            video.last_position, video.latest = position, record
        return ChangeOutcome.APPLIED

    def _insert(self, video: EditedVideo, position: int, record: SegmentRecord, watermark: float) -> None:
        new_count = len(record.thumbnails)  # the last frames: the earlier ones belong to an earlier segment
        first = len(record.frames.pts_seconds) - new_count
        frames = FrameEmbeddings(
            epochs=np.full(new_count, record.segment.epoch, np.int32),
            pts_seconds=record.frames.pts_seconds[first:],
            vectors=record.frames.vectors[first:],
        )
        utterances = record.utterances[record.continued_count :]
        vectors = record.utterance_vectors[record.continued_count :]
        vector = record.segment.vector
        # As the rows store it: float32 vectors, frames as float64 times and float16 vectors, each text twice.
        size = (0 if vector is None else 4 * vector.size) + vectors.size * 4 + frames.vectors.size * 2 + 8 * new_count
        size += sum(map(len, record.thumbnails)) + record.line_vectors.size * 4
        size += sum(2 * len(line.text) for line in record.lines)
        size += sum(2 * len(utterance.text) + len(words_json(utterance.words)) for utterance in utterances)
        live = LiveColumns(
            revision=record.revision,
            is_final=record.is_final,
            added_time=self._now,
            source_append_time=record.source_append_time,
            recorded_time=record.recorded_time,
            watermark_seconds=watermark,
            is_last=record.is_last,
            warnings=[*map(str, record.gaps), *record.warnings],
            size_bytes=size,
        )
        segment_row = insert_segment(self._edit, video.row, position, record.segment, live)
        if new_count:
            insert_frames(self._edit, video.row, frames, record.thumbnails, segment_row)
        rows = [
            (utterance_position(position, place), utterance, vector)
            for place, (utterance, vector) in enumerate(zip(utterances, vectors, strict=True))
        ]
        insert_utterances(self._edit, video.row, rows, segment_row, self._now)
        lines = [
            (utterance_position(position, place), line, vector)
            for place, (line, vector) in enumerate(zip(record.lines, record.line_vectors, strict=True))
        ]
        insert_text_lines(self._edit, video.row, lines, segment_row, self._now)
        for kind in WORDED:
            self._edit.execute(
                f"INSERT INTO {search_table(kind)} (rowid, search_text)"
                f" SELECT id, search_text FROM {kind} WHERE segment_row = ?",
                (segment_row,),
            )
        self._count_change(
            video, position, segments=1, frames=new_count, utterances=len(utterances), text_lines=len(lines),
            size_bytes=size,
        )  # fmt: skip

    def _remove(self, video: EditedVideo, segment_row: int, position: int) -> None:
        frames, utterances, lines, size = self._edit.execute(
            "SELECT (SELECT coalesce(sum(frame_count), 0) FROM frame_blocks WHERE segment_row = segments.id),"
            " (SELECT count(*) FROM utterances WHERE segment_row = segments.id),"
            " (SELECT count(*) FROM text_lines WHERE segment_row = segments.id), size_bytes FROM segments WHERE id = ?",
            (segment_row,),
        ).fetchone()
        # FTS5 over another table's content must be told of a removal while that content is still there.
        for kind in WORDED:
            table = search_table(kind)
            self._edit.execute(
                f"INSERT INTO {table} ({table}, rowid, search_text)"
                f" SELECT 'delete', id, search_text FROM {kind} WHERE segment_row = ?",
                (segment_row,),
            )
        self._edit.execute("DELETE FROM segments WHERE id = ?", (segment_row,))
        self._count_change(
            video, position, segments=-1, frames=-frames, utterances=-utterances, text_lines=-lines, size_bytes=-size
        )

    def _count_change(
        self,
        video: EditedVideo,
        position: int,
        *,
        segments: int,
        frames: int,
        utterances: int,
        text_lines: int,
        size_bytes: int,
    ) -> None:
        """Note what a segment adds to its video; negative numbers for a segment that is removed."""
        video.is_touched = True
        video.epochs.add(epoch_of(position))
        video.blocks.add(block_of(position))
        video.segment_count += segments
        video.frame_count += frames
        video.utterance_count += utterances
        video.text_line_count += text_lines
        video.size_bytes += size_bytes

    def _deletion_time(self, collection: str, video_id: str) -> float:
        if (collection, video_id) not in self._deletion_times:
            fields = self._edit.execute(
                "SELECT append_time FROM deletions WHERE collection = ? AND video_id = ?", (collection, video_id)
            ).fetchone()
            self._deletion_times[collection, video_id] = -math.inf if fields is None else fields[0]
        return self._deletion_times[collection, video_id]

    def _row_for(self, record: SegmentRecord) -> int | None:
        """Return the row of a segment's video, inserted if necessary; None if an indexed file has the name."""
        name = (record.collection, record.video_id)
        if name not in self._rows:
            video = self._edit.execute(
                "SELECT row, live, fingerprint FROM videos WHERE state = 'READY' AND collection = ? AND video_id = ?",
                name,
            ).fetchone()
            if video is not None and video[1] and video[2] != self._fingerprint:
                # Of other encoders, whose vectors no search uses any more. If they come back, reading begins again.
                self._catalog.remove_row(self._edit, video[0])
                self._edit.execute("DELETE FROM consumed_offsets WHERE fingerprint = ?", (video[2],))
                video = None
            self._rows[name] = self._insert_video(record) if video is None else (video[0] if video[1] else None)
        return self._rows[name]

    def _insert_video(self, record: SegmentRecord) -> int:
        row = self._edit.execute(
            "INSERT INTO videos (video_id, collection, uri, content_sha256, fingerprint, state, indexed_time, live,"
            " ended) VALUES (?, ?, ?, '', ?, 'READY', ?, 1, 0)",
            (record.video_id, record.collection, uri_bytes(listed_uri(record)), self._fingerprint, self._now),
        ).lastrowid
        assert row is not None  # an INSERT always has one
        return row

    def _video(self, row: int) -> EditedVideo:
        if row not in self._videos:
            collection, video_id, watermark, last = self._edit.execute(
                "SELECT collection, video_id, watermark_seconds,"
                " (SELECT max(position) FROM segments WHERE video_row = row) FROM videos WHERE row = ?", (row,)
            ).fetchone()  # fmt: skip
            self._videos[row] = EditedVideo(
                row=row,
                name=(collection, video_id),
                watermark_seconds=-math.inf if watermark is None else watermark,
                last_position=-1 if last is None else last,
            )
        return self._videos[row]

    def _check_widths(self, row: int, record: SegmentRecord) -> None:
        """Check that a segment's vectors are as wide as those of its video.

        Raises:
            ValueError: If they are not.
        """
        for name, vectors, sql in (
            ("frames", record.frames.vectors, "SELECT width FROM frame_blocks WHERE video_row = ? LIMIT 1"),
            (
                "texts",
                record.utterance_vectors,
                "SELECT coalesce(length(vector), 0) / 4 FROM utterances WHERE video_row = ? LIMIT 1",
            ),
            (
                "lines",
                record.line_vectors,
                "SELECT coalesce(length(vector), 0) / 4 FROM text_lines WHERE video_row = ? LIMIT 1",
            ),
        ):
            stored = self._edit.execute(sql, (row,)).fetchone()
            if len(vectors) and stored is not None and stored[0] != vectors.shape[1]:
                raise ValueError(f"vectors of its {name} must be {stored[0]} wide, got {vectors.shape[1]}")

    def close(self) -> None:
        """Write what follows for the videos and the generation; nothing if no change had an effect."""
        touched = [video for video in self._videos.values() if video.is_touched]
        if not touched:
            return
        generation = self._catalog.advance_generation(self._edit, [video.row for video in touched])
        for video in touched:
            first = self._edit.execute(
                "SELECT start_seconds FROM segments WHERE video_row = ? ORDER BY position LIMIT 1", (video.row,)
            ).fetchone()
            if first is None or video.removed_watermark > -math.inf:
                start_seconds = math.inf if first is None else first[0]
                prune_events(self._edit, video.row, start_seconds, withdraws=video.name in self._just_deleted)
            if first is None:
                self._edit.execute("DELETE FROM videos WHERE row = ?", (video.row,))
                continue
            self._edit.executemany(
                "INSERT OR REPLACE INTO live_blocks VALUES (?, ?, ?)",
                ((video.row, block, generation) for block in video.blocks),
            )
            write_video(self._edit, video, self._now)


def _checked_position(record: SegmentRecord) -> int:
    """Check that a segment is consistent in itself; return its position.

    Raises:
        ValueError: If the segment contradicts itself.
    """
    segment, frames = record.segment, record.frames
    if segment.segment_id != f"{record.video_id}/{segment.epoch}/{segment.index}":
        raise ValueError(f"it is number {segment.index} of epoch {segment.epoch} of {record.video_id!r}")
    times = frames.pts_seconds
    if len(record.thumbnails) > len(times) or (np.diff(times) <= 0).any() or not np.isfinite(times).all():
        raise ValueError("its pictures are not in order, or are fewer than their thumbnails")
    if len(record.utterances) != len(record.utterance_vectors):
        raise ValueError(f"{len(record.utterances)} texts need as many vectors, got {len(record.utterance_vectors)}")
    if not 0 <= len(record.utterances) - record.continued_count < MOST_UTTERANCES:
        raise ValueError(f"of {len(record.utterances)} texts {record.continued_count} cannot be continued")
    if len(record.lines) != len(record.line_vectors) or len(record.lines) >= MOST_UTTERANCES:
        raise ValueError(f"{len(record.lines)} lines need as many vectors, got {len(record.line_vectors)}")
    return segment_position(segment.epoch, segment.index)
