"""What becomes of live videos' rows in one transaction: segments taken, dropped and forgotten, then what follows."""

import json
import logging
import math
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum

import numpy as np

from encoders.values import FrameEmbeddings
from serve.catalog.catalog import Catalog
from serve.catalog.events import prune_events
from serve.catalog.live_blocks import (
    MOST_UTTERANCES,
    block_of,
    epoch_of,
    epoch_range,
    segment_position,
    utterance_position,
)
from serve.catalog.rows import (
    LiveColumns,
    insert_frames,
    insert_segment,
    insert_utterances,
    metadata_json,
    uri_bytes,
    words_json,
)
from serve.codec.records import SegmentRecord

logger = logging.getLogger(__name__)

STREAM_SCHEME = "stream:"  # of the URI of what has none: a live stream
GAP_WARNING_COUNT = 10  # gaps that are named among a video's warnings: the last ones


class Outcome(StrEnum):
    """What became of one change."""

    APPLIED = "applied"
    STALE = "stale"  # this revision, or a higher one, is there
    DEAD = "dead"  # made of what was appended before its video was deleted
    FOREIGN = "foreign"  # of other encoders
    TAKEN = "taken"  # a file that was indexed here has the video's name
    REFUSED = "refused"  # it contradicts itself, or what is there; the log says how
    REMOVED = "removed"  # a tombstone or a deletion took something away
    GONE = "gone"  # a tombstone or a deletion of what is not there


@dataclass(slots=True, kw_only=True)
class _Video:
    """A live video that the transaction touches."""

    row: int
    name: tuple[str, str]  # collection and id
    watermark_seconds: float  # the highest that is told; -inf: none yet
    last_position: int  # of its segments; -1: none yet
    latest: SegmentRecord | None = None  # taken here, and not before the last one: what it says of the video counts
    removed_watermark: float = -math.inf  # the highest that went with a segment that is not replaced
    is_touched: bool = False
    epochs: set[int] = field(default_factory=set)  # in which segments came or went
    blocks: set[int] = field(default_factory=set)
    frame_count: int = 0  # more than before, as the next three
    segment_count: int = 0
    utterance_count: int = 0
    size_bytes: int = 0


class LiveEdit:
    """Changes to live videos' rows as part of a transaction: any number of calls, then close()."""

    def __init__(self, catalog: Catalog, edit: sqlite3.Connection, fingerprint: str, now: float) -> None:
        self.catalog, self.edit, self.fingerprint, self.now = catalog, edit, fingerprint, now
        self.videos: dict[int, _Video] = {}  # by row
        self.rows: dict[tuple[str, str], int | None] = {}  # by collection and id; None: a file's
        self.deleted: dict[tuple[str, str], float] = {}  # by collection and id: when, or -inf
        self.forgotten: set[tuple[str, str]] = set()  # in this transaction, and not just kept long enough

    # ---- what may come

    def take(self, record: SegmentRecord) -> Outcome:
        """Put a segment in, unless it is there already or is not to be there."""
        if record.fingerprint != self.fingerprint:
            return Outcome.FOREIGN
        if record.source_append_time < self._deleted_at(record.collection, record.video_id):
            return Outcome.DEAD
        try:
            position = _checked(record)
            row = self._row_for(record)
            if row is None:
                return Outcome.TAKEN
            self._check_widths(row, record)
        except ValueError as error:
            logger.warning("segment refused segment_id=%s reason=%s", record.segment.segment_id, error)
            return Outcome.REFUSED
        return self._put(self._video(row), position, record)

    def drop(self, segment_id: str, collection: str) -> Outcome:
        """Take a segment out."""
        found = self.edit.execute(
            "SELECT segments.id FROM segments JOIN videos ON videos.row = video_row WHERE segment_id = ?1"
            " AND added_time IS NOT NULL AND fingerprint = ?2 AND collection = ?3",
            (segment_id, self.fingerprint, collection),
        ).fetchall()
        self.remove([segment_row for (segment_row,) in found])
        return Outcome.REMOVED if found else Outcome.GONE

    def forget(self, collection: str, video_id: str, append_time: float) -> Outcome:
        """Take out what was made of records appended before a time, and remember that it is not to come back."""
        at = max(append_time, self._deleted_at(collection, video_id))
        self.deleted[collection, video_id] = at
        self.forgotten.add((collection, video_id))
        self.edit.execute("INSERT OR REPLACE INTO deletions VALUES (?, ?, ?)", (collection, video_id, at))
        found = self.edit.execute(
            "SELECT segments.id FROM segments JOIN videos ON videos.row = video_row WHERE state = 'READY' AND live"
            " AND collection = ? AND video_id = ? AND fingerprint = ? AND source_append_time < ?",
            (collection, video_id, self.fingerprint, at),
        ).fetchall()
        self.remove([segment_row for (segment_row,) in found])
        return Outcome.REMOVED if found else Outcome.GONE

    def remove(self, segment_rows: Sequence[int]) -> None:
        """Take segments out, and all that hangs on them; those that are gone are passed over."""
        for segment_row in segment_rows:
            found = self.edit.execute(
                "SELECT video_row, position, watermark_seconds FROM segments WHERE id = ?", (segment_row,)
            ).fetchone()
            if found is not None:
                row, position, watermark = found
                video = self._video(row)
                video.removed_watermark = max(video.removed_watermark, watermark)
                self._remove(video, segment_row, position)

    # ---- segments

    def _put(self, video: _Video, position: int, record: SegmentRecord) -> Outcome:
        old = self.edit.execute(
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
                    self.edit.execute(
                        "UPDATE segments SET watermark_seconds = ?, last = ? WHERE id = ?",
                        (watermark, is_last, segment_row),
                    )
                    video.watermark_seconds = max(video.watermark_seconds, watermark)
                    video.is_touched = True
                return Outcome.STALE
            self._remove(video, segment_row, position)
        self._insert(video, position, record, watermark)
        video.watermark_seconds = max(video.watermark_seconds, watermark)
        if position >= video.last_position:
            video.last_position, video.latest = position, record
        return Outcome.APPLIED

    def _insert(self, video: _Video, position: int, record: SegmentRecord, watermark: float) -> None:
        new_count = len(record.thumbnails)  # frames that no earlier segment holds: the last ones
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
        size += sum(map(len, record.thumbnails))
        size += sum(2 * len(utterance.text) + len(words_json(utterance.words)) for utterance in utterances)
        live = LiveColumns(
            revision=record.revision,
            is_final=record.is_final,
            added_time=self.now,
            source_append_time=record.source_append_time,
            recorded_time=record.recorded_time,
            watermark_seconds=watermark,
            is_last=record.is_last,
            gaps=[str(gap) for gap in record.gaps],
            size_bytes=size,
        )
        segment_row = insert_segment(self.edit, video.row, position, record.segment, live)
        if new_count:
            insert_frames(self.edit, video.row, frames, record.thumbnails, segment_row)
        rows = [
            (utterance_position(position, place), utterance, vector)
            for place, (utterance, vector) in enumerate(zip(utterances, vectors, strict=True))
        ]
        insert_utterances(self.edit, video.row, rows, segment_row, self.now)
        self._search_table("rowid, search_text", "id, search_text", segment_row)
        self._changed(video, position, 1, new_count, len(utterances), size)

    def _remove(self, video: _Video, segment_row: int, position: int) -> None:
        frames, said, size = self.edit.execute(
            "SELECT (SELECT coalesce(sum(frame_count), 0) FROM frame_blocks WHERE segment_row = segments.id),"
            " (SELECT count(*) FROM utterances WHERE segment_row = segments.id), size_bytes FROM segments WHERE id = ?",
            (segment_row,),
        ).fetchone()
        # FTS5 over another table's content is told what to forget while that content is still there.
        self._search_table("utterance_search, rowid, search_text", "'delete', id, search_text", segment_row)
        self.edit.execute("DELETE FROM segments WHERE id = ?", (segment_row,))
        self._changed(video, position, -1, -frames, -said, -size)

    def _search_table(self, columns: str, values: str, segment_row: int) -> None:
        self.edit.execute(
            f"INSERT INTO utterance_search ({columns}) SELECT {values} FROM utterances WHERE segment_row = ?",
            (segment_row,),
        )

    def _changed(self, video: _Video, position: int, segments: int, frames: int, utterances: int, size: int) -> None:
        video.is_touched = True
        video.epochs.add(epoch_of(position))
        video.blocks.add(block_of(position))
        video.segment_count += segments
        video.frame_count += frames
        video.utterance_count += utterances
        video.size_bytes += size

    # ---- videos

    def _deleted_at(self, collection: str, video_id: str) -> float:
        if (collection, video_id) not in self.deleted:
            found = self.edit.execute(
                "SELECT append_time FROM deletions WHERE collection = ? AND video_id = ?", (collection, video_id)
            ).fetchone()
            self.deleted[collection, video_id] = -math.inf if found is None else found[0]
        return self.deleted[collection, video_id]

    def _row_for(self, record: SegmentRecord) -> int | None:
        """Return the row of a segment's video, which is made if it is not there; None: a file has its name."""
        name = (record.collection, record.video_id)
        if name not in self.rows:
            found = self.edit.execute(
                "SELECT row, live, fingerprint FROM videos WHERE state = 'READY' AND collection = ? AND video_id = ?",
                name,
            ).fetchone()
            if found is not None and found[1] and found[2] != self.fingerprint:
                # Of other encoders: nothing asks for it any more. Who goes back to them begins at the beginning.
                self.catalog.remove_row(self.edit, found[0])
                self.edit.execute("DELETE FROM consumed_offsets WHERE fingerprint = ?", (found[2],))
                found = None
            self.rows[name] = self._begin(record) if found is None else (found[0] if found[1] else None)
        return self.rows[name]

    def _begin(self, record: SegmentRecord) -> int:
        row = self.edit.execute(
            "INSERT INTO videos (video_id, collection, uri, content_sha256, fingerprint, state, indexed_time, live,"
            " ended) VALUES (?, ?, ?, '', ?, 'READY', ?, 1, 0)",
            (record.video_id, record.collection, uri_bytes(uri_of(record)), self.fingerprint, self.now),
        ).lastrowid
        assert row is not None  # an INSERT always has one
        return row

    def _video(self, row: int) -> _Video:
        if row not in self.videos:
            collection, video_id, watermark, last = self.edit.execute(
                "SELECT collection, video_id, watermark_seconds,"
                " (SELECT max(position) FROM segments WHERE video_row = row) FROM videos WHERE row = ?", (row,)
            ).fetchone()  # fmt: skip
            self.videos[row] = _Video(
                row=row,
                name=(collection, video_id),
                watermark_seconds=-math.inf if watermark is None else watermark,
                last_position=-1 if last is None else last,
            )
        return self.videos[row]

    def _check_widths(self, row: int, record: SegmentRecord) -> None:
        """Refuse vectors that cannot stand beside those that are there."""
        for name, vectors, sql in (
            ("frames", record.frames.vectors, "SELECT width FROM frame_blocks WHERE video_row = ? LIMIT 1"),
            (
                "texts",
                record.utterance_vectors,
                "SELECT coalesce(length(vector), 0) / 4 FROM utterances WHERE video_row = ? LIMIT 1",
            ),
        ):
            there = self.edit.execute(sql, (row,)).fetchone()
            if len(vectors) and there is not None and there[0] != vectors.shape[1]:
                raise ValueError(f"vectors of its {name} must be {there[0]} wide, got {vectors.shape[1]}")

    # ---- the end

    def close(self) -> None:
        """Write what follows from the changes, and count the generation up if there were any."""
        touched = [video for video in self.videos.values() if video.is_touched]
        if not touched:
            return
        generation = self.catalog.count_generation(self.edit, [video.row for video in touched])
        for video in touched:
            first = self.edit.execute(
                "SELECT start_seconds FROM segments WHERE video_row = ? ORDER BY position LIMIT 1", (video.row,)
            ).fetchone()
            if first is None or video.removed_watermark > -math.inf:
                begins = math.inf if first is None else first[0]
                prune_events(self.edit, video.row, begins, is_told=video.name in self.forgotten)
            if first is None:
                self.edit.execute("DELETE FROM videos WHERE row = ?", (video.row,))
                continue
            self.edit.executemany(
                "INSERT OR REPLACE INTO live_blocks VALUES (?, ?, ?)",
                ((video.row, block, generation) for block in video.blocks),
            )
            self._derive(video)
            if video.latest is not None:
                self._describe(video, video.latest)

    def _derive(self, video: _Video) -> None:
        """Write what the segments say of their video, all but uri, media and metadata."""
        old_watermark, anchors = self.edit.execute(
            "SELECT watermark_seconds, anchors FROM videos WHERE row = ?", (video.row,)
        ).fetchone()
        watermark = video.watermark_seconds
        if video.removed_watermark >= watermark:
            (watermark,) = self.edit.execute(
                "SELECT max(watermark_seconds) FROM segments WHERE video_row = ?", (video.row,)
            ).fetchone()
        anchors = self._anchors(video, json.loads(anchors))
        newest = self.edit.execute(
            "SELECT end_seconds, last, epoch FROM segments WHERE video_row = ? ORDER BY position DESC LIMIT 2",
            (video.row,),
        ).fetchall()  # the last one is cut short where the one before it may end later, as far as is known
        self.edit.execute(
            "UPDATE videos SET frame_count = frame_count + ?, segment_count = segment_count + ?,"
            " utterance_count = utterance_count + ?, size_bytes = size_bytes + ?, duration_seconds = ?, ended = ?,"
            " watermark_seconds = ?, watermark_moved_time = iif(?, ?, watermark_moved_time), anchors = ?,"
            " recorded_time = ?, warnings = ? WHERE row = ?",
            (video.frame_count, video.segment_count, video.utterance_count, video.size_bytes,
             max(end for end, _, _ in newest), newest[0][1], watermark, watermark != old_watermark, self.now,
             json.dumps(anchors), anchors[0][2] - anchors[0][1] if anchors else None,
             json.dumps(self._warnings(video.row, epoch_count=newest[0][2] + 1)), video.row),
        )  # fmt: skip

    def _anchors(self, video: _Video, known: Sequence[Sequence[float]]) -> list[list[float]]:
        """Return [epoch, media seconds, seconds since 1970] for each epoch with a clock: of the first of it that is
        there, as the latest segment that knows the time would have it."""
        anchors = {int(epoch): [epoch, *rest] for epoch, *rest in known}
        for epoch in video.epochs:
            places = (video.row, *epoch_range(epoch))
            latest = self.edit.execute(
                "SELECT start_seconds, recorded_time FROM segments INDEXED BY segments_recorded WHERE video_row = ?"
                " AND position BETWEEN ? AND ? AND recorded_time IS NOT NULL ORDER BY position DESC LIMIT 1", places
            ).fetchone()  # fmt: skip
            if latest is None:
                anchors.pop(epoch, None)
                continue
            (start,) = self.edit.execute(
                "SELECT start_seconds FROM segments WHERE video_row = ? AND position BETWEEN ? AND ?"
                " ORDER BY position LIMIT 1", places
            ).fetchone()  # fmt: skip
            anchors[epoch] = [epoch, start, latest[1] - (latest[0] - start)]
        return [anchors[epoch] for epoch in sorted(anchors)]

    def _warnings(self, row: int, *, epoch_count: int) -> list[str]:
        """Tell people what is missing, the last of it by name, and how often the clock jumped."""
        last = self.edit.execute(
            "SELECT gaps FROM segments INDEXED BY segments_gaps WHERE video_row = ? AND gaps != '[]'"
            " ORDER BY position DESC LIMIT ?", (row, GAP_WARNING_COUNT)
        ).fetchall()  # fmt: skip
        gaps = [gap for (texts,) in reversed(last) for gap in json.loads(texts)]
        if len(last) == GAP_WARNING_COUNT:
            gaps = gaps[-GAP_WARNING_COUNT:]
            gaps.insert(0, f"only the last {GAP_WARNING_COUNT} gaps are named here")
        if epoch_count > 1:
            gaps.append(f"its timestamps began anew {epoch_count - 1} times")
        return gaps

    def _describe(self, video: _Video, record: SegmentRecord) -> None:
        """Write what the newest segment says of its video."""
        self.edit.execute(
            "UPDATE videos SET uri = ?, media = ?, metadata = ? WHERE row = ?",
            (uri_bytes(uri_of(record)), json.dumps(asdict(record.media)), metadata_json(record.metadata), video.row),
        )


def uri_of(record: SegmentRecord) -> str:
    """Return what a segment's video is listed by: where it comes from, or which stream it is."""
    return record.uri or f"{STREAM_SCHEME}{record.collection}/{record.video_id}"


def _checked(record: SegmentRecord) -> int:
    """Return a segment's position.

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
    return segment_position(segment.epoch, segment.index)
