"""LiveRows: segments from Kafka become rows of the catalog, each exactly once, in any order and however often read.

Why the rows are right, whenever the process is killed and whatever is read again:
1. apply() is one transaction: rows, videos, and the offsets after the records they came from.
2. The highest revision of a segment stays. The same revision or an older one changes nothing.
3. A deletion is remembered with the time at which it was appended. Segments made of records appended earlier are dead,
   whether they come before the deletion or after it.
4. Everything about a video (its length, counts, watermark, end, clock and gaps) is derived from the segments it has.
So the same segments and deletions end in the same rows, in any order and each any number of times. Tombstones are the
exception: order matters, since a tombstone removes whatever its key holds when it arrives.

A file indexed here takes precedence: while it is there, live segments of the same name are left out.
"""

import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from serve.catalog.catalog import Catalog
from serve.codec.records import SegmentRecord
from serve.config import Limit, Retention
from serve.live.edited_video import STREAM_SCHEME
from serve.live.live_edit import ChangeOutcome, LiveEdit

__all__ = ["Applied", "ChangeOutcome", "DeletionRecord", "Excess", "LiveRows", "SegmentKey", "Tombstone", "Watermark"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tombstone:
    """A change: a segment was removed."""

    segment_id: str
    collection: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletionRecord:
    """A change: a video was deleted."""

    collection: str
    video_id: str
    append_time: float  # of the record: seconds since 1970, by the broker's clock


Change = SegmentRecord | Tombstone | DeletionRecord


class SegmentKey(NamedTuple):
    """Names a segment and its video."""

    collection: str
    video_id: str
    segment_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Excess:
    """A segment that retention removed, and why."""

    segment: SegmentKey
    size_bytes: int
    reason: str  # "age over 3600 s", "size over 1024 bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """The outcomes of one call of apply()."""

    outcomes: tuple[ChangeOutcome, ...]  # one for each change, in order
    dead: tuple[SegmentKey, ...]  # segments of deleted videos: left out, and to be removed from Kafka

    @property
    def counts(self) -> Counter[ChangeOutcome]:
        return Counter(self.outcomes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watermark:
    """The media time before which everything of a live video is final."""

    collection: str
    video_id: str
    watermark_seconds: float  # media time
    moved_time: float  # when it last moved, seconds since 1970, by this machine's clock


class LiveRows:
    """The live videos of one encoder space in a catalog opened as editor or writer."""

    def __init__(self, catalog: Catalog, fingerprint: str, *, clock: Callable[[], float] = time.time) -> None:
        """Use an open catalog, for the segments of one encoder space; others are left out."""
        self.catalog, self.fingerprint, self._clock = catalog, fingerprint, clock

    def offsets(self, topic: str) -> dict[int, int]:
        """Return the offsets to read a topic from, by partition; partitions never read are left out."""
        return dict(
            self.catalog.select(
                "SELECT partition, next_offset FROM consumed_offsets WHERE topic = ? AND fingerprint = ?",
                topic, self.fingerprint,
            )
        )  # fmt: skip

    def topic_ids(self) -> dict[str, str]:
        """Return the brokers' ids of the topics that the offsets belong to, by topic."""
        return dict(
            self.catalog.select("SELECT topic, topic_id FROM consumed_topics WHERE fingerprint = ?", self.fingerprint)
        )

    def note_topics(self, topic_ids: Mapping[str, str]) -> None:
        """Store the brokers' ids of topics, by topic."""
        if topic_ids.items() <= self.topic_ids().items():
            return
        with self.catalog.editing() as edit:
            edit.executemany(
                "INSERT OR REPLACE INTO consumed_topics VALUES (?, ?, ?)",
                ((topic, self.fingerprint, topic_id) for topic, topic_id in topic_ids.items()),
            )

    def forget_topic(self, topic: str, *, has_segments: bool) -> int:
        """Forget the offsets and the id of a topic, so that it is read anew; return how many videos were removed.

        Files that were indexed here stay, and so does what is known of deletions.

        Args:
            has_segments: Whether the topic is that of the segments: then the live videos made of it are removed.
        """
        videos = self.catalog.select(
            "SELECT row FROM videos WHERE state = 'READY' AND live AND fingerprint = ?", self.fingerprint
        ) if has_segments else []  # fmt: skip
        for (row,) in videos:  # a transaction each: others need not wait for long. After a crash it begins again.
            with self.catalog.editing() as edit:
                self.catalog.remove_row(edit, row)
                self.catalog.advance_generation(edit)
        with self.catalog.editing() as edit:
            for table in ("consumed_offsets", "consumed_topics"):
                edit.execute(f"DELETE FROM {table} WHERE topic = ? AND fingerprint = ?", (topic, self.fingerprint))
        return len(videos)

    def apply(self, changes: Sequence[Change], offsets: Mapping[tuple[str, int], int]) -> Applied:
        """Apply changes and store the offsets to read from next, by (topic, partition), in one transaction.

        Raises:
            DataDirectoryBusy: If another process holds a transaction open for too long; nothing is changed then.
        """
        outcomes, dead = [], []
        with self.catalog.editing() as edit:
            live = LiveEdit(self.catalog, edit, self.fingerprint, self._clock())
            for change in changes:
                match change:
                    case SegmentRecord():
                        outcome = live.put_segment(change)
                        if outcome is ChangeOutcome.DEAD:
                            dead.append(SegmentKey(change.collection, change.video_id, change.segment.segment_id))
                    case Tombstone():
                        outcome = live.remove_segment(change.segment_id, change.collection)
                    case DeletionRecord():
                        outcome = live.delete_video(change.collection, change.video_id, change.append_time)
                outcomes.append(outcome)
            live.close()
            edit.executemany(
                "INSERT OR REPLACE INTO consumed_offsets VALUES (?, ?, ?, ?)",
                ((topic, partition, self.fingerprint, at) for (topic, partition), at in offsets.items()),
            )
        return Applied(outcomes=tuple(outcomes), dead=tuple(dead))

    def delete(self, collection: str, video_id: str, at: float) -> list[str]:
        """Remove a live video. Segments of records appended before `at` stay dead.

        An indexed file of that name stays: Catalog.delete() removes it. Call this method first, because
        Catalog.delete() removes live videos too.

        Args:
            at: The append time of the deletion's record, or now without one: seconds since 1970.
        Returns:
            The ids of the removed segments, for tombstones.
        """
        with self.catalog.editing() as edit:
            self.catalog.remember_deletion(edit, collection, video_id, at)
            video = edit.execute(
                "SELECT row FROM videos WHERE state = 'READY' AND live AND collection = ? AND video_id = ?",
                (collection, video_id),
            ).fetchone()
            if video is None:
                return []
            rows = edit.execute("SELECT segment_id FROM segments WHERE video_row = ? ORDER BY position", video)
            segment_ids = [segment_id for (segment_id,) in rows]
            self.catalog.remove_row(edit, video[0])
            self.catalog.advance_generation(edit)
        return segment_ids

    def prune(self, limits: Retention, now: float, max_segments: int) -> list[Excess]:
        """Remove the oldest segments of live streams over a retention limit; return them.

        Whole files that came through Kafka stay: their segments do not age.

        Args:
            now: Seconds since 1970, by the broker's clock: a segment's age begins at the append of its records.
            max_segments: How many to remove at most; if that many are returned, more may be left.
        """
        with self.catalog.snapshot():
            oldest = self._find_excess(limits, now, max_segments)
        if oldest:
            with self.catalog.editing() as edit:
                live = LiveEdit(self.catalog, edit, self.fingerprint, self._clock())
                live.remove_rows([segment_row for segment_row, _ in oldest])
                live.close()
        return [one for _, one in oldest]

    def _find_excess(self, limits: Retention, now: float, count: int) -> list[tuple[int, Excess]]:
        streams: dict[str, list[tuple[int, str, int]]] = {}
        for row, collection, video_id, size in self.catalog.select(
            "SELECT row, collection, video_id, size_bytes FROM videos"
            " WHERE state = 'READY' AND live AND fingerprint = ? AND CAST(uri AS TEXT) LIKE ?",
            self.fingerprint, f"{STREAM_SCHEME}%",
        ):  # fmt: skip
            streams.setdefault(collection, []).append((row, video_id, size))
        excess: list[tuple[int, Excess]] = []
        for collection, members in sorted(streams.items()):
            limit = limits.of(collection)
            if limit is not None:
                excess += self._find_excess_of(limit, collection, members, now, count - len(excess))
        return excess

    def _find_excess_of(
        self, limit: Limit, collection: str, streams: Iterable[tuple[int, str, int]], now: float, count: int
    ) -> list[tuple[int, Excess]]:
        """Return the oldest segments of a collection that are over its limit, with their rows."""
        streams = list(streams)
        total = sum(size for _, _, size in streams)
        excess: list[tuple[int, Excess]] = []
        if total <= limit.size_bytes and not any(
            now - appended > limit.age_seconds
            for row, video_id, _ in streams
            for appended, *_ in self._oldest_segments(row, video_id, 1)
        ):  # the usual case, answered without reading all segments
            return excess
        oldest = heapq.merge(*(self._oldest_segments(row, video_id, count) for row, video_id, _ in streams))
        for appended, segment_row, segment_id, size, video_id in oldest:
            is_old = now - appended > limit.age_seconds
            if len(excess) == count or not (is_old or total > limit.size_bytes):
                break
            reason = f"age over {limit.age_seconds:.0f} s" if is_old else f"size over {limit.size_bytes:.0f} bytes"
            segment = SegmentKey(collection, video_id, segment_id)
            excess.append((segment_row, Excess(segment=segment, size_bytes=size, reason=reason)))
            total -= size
        return excess

    def _oldest_segments(self, row: int, video_id: str, count: int) -> list[tuple[float, int, str, int, str]]:
        """Return the first segments of a stream: append time, row, id, size and the video's id."""
        return [
            (*fields, video_id)
            for fields in self.catalog.select(
                "SELECT source_append_time, id, segment_id, size_bytes FROM segments WHERE video_row = ?"
                " ORDER BY position LIMIT ?", row, count,
            )
        ]  # fmt: skip

    def watermarks(self) -> list[Watermark]:
        """Return the watermarks of the live videos that have not ended."""
        return [
            Watermark(collection=collection, video_id=video_id, watermark_seconds=seconds, moved_time=moved)
            for collection, video_id, seconds, moved in self.catalog.select(
                "SELECT collection, video_id, watermark_seconds, watermark_moved_time FROM videos"
                " WHERE state = 'READY' AND live AND NOT ended AND fingerprint = ? ORDER BY collection, video_id",
                self.fingerprint,
            )
        ]
