"""Live videos in the catalog: segments from Kafka become rows, each exactly once, whatever comes twice or out of order.

Why the rows are right, whenever the process is killed and whatever is read again:
1. apply() is one transaction: rows, videos, and the offsets behind the records they came from.
2. Of a segment the highest revision stays. One that was there before, or an older one, changes nothing.
3. A deletion is remembered with the time at which it was appended. What was made of records appended earlier is dead,
   whether it comes before the deletion or after it.
4. What is told of a video (its length, counts, watermark, end, clock and gaps) is derived from the segments it has.
So any order of the same segments and deletions, each any number of times, ends in the same rows. Only of a tombstone it
counts when it comes: it takes away what its key holds then.

A file that was indexed here under the same name goes before: while it is there, segments of that name are left out.
"""

import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from serve.catalog.catalog import Catalog
from serve.codec.records import SegmentRecord
from serve.live.edit import STREAM_SCHEME, LiveEdit, Outcome
from serve.retention import Limit, Retention

__all__ = ["Applied", "DeletionRecord", "LiveRows", "Outcome", "SegmentKey", "Tombstone", "Watermark"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tombstone:
    """A segment is no more."""

    segment_id: str
    collection: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletionRecord:
    """A video was deleted."""

    collection: str
    video_id: str
    append_time: float  # of the record: seconds since 1970, by the broker's clock


Change = SegmentRecord | Tombstone | DeletionRecord


class SegmentKey(NamedTuple):
    """Which segment, and whose."""

    collection: str
    video_id: str
    segment_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What became of some changes."""

    outcomes: tuple[Outcome, ...]  # one for each change, in order
    dead: tuple[SegmentKey, ...]  # segments of deleted videos: left out, and to be tombstoned

    @property
    def counts(self) -> Counter[Outcome]:
        return Counter(self.outcomes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watermark:
    """How far everything of a live video is final."""

    collection: str
    video_id: str
    watermark_seconds: float  # media time
    moved_time: float  # when it last moved, seconds since 1970, by this machine's clock


class LiveRows:
    """The live videos of one encoder space, over a catalog that is open for small changes (or for writing)."""

    def __init__(self, catalog: Catalog, fingerprint: str, *, clock: Callable[[], float] = time.time) -> None:
        """Take a catalog.

        Args:
            fingerprint: EncoderSpace.fingerprint of the segments to take; others are left out.
        """
        self.catalog, self.fingerprint, self._clock = catalog, fingerprint, clock

    def offsets(self, topic: str) -> dict[int, int]:
        """Return where to go on reading a topic, by partition; a partition of which nothing was taken is not there."""
        return dict(
            self.catalog.rows(
                "SELECT partition, next_offset FROM consumed_offsets WHERE topic = ? AND fingerprint = ?",
                topic, self.fingerprint,
            )
        )  # fmt: skip

    def apply(self, changes: Sequence[Change], offsets: Mapping[tuple[str, int], int]) -> Applied:
        """Make changes, and note the offsets to go on from, by (topic, partition): all in one transaction.

        Raises:
            DataDirectoryBusy: If another process holds a transaction open for too long; nothing is changed then.
        """
        outcomes, dead = [], []
        with self.catalog.editing() as edit:
            rows = LiveEdit(self.catalog, edit, self.fingerprint, self._clock())
            for change in changes:
                match change:
                    case SegmentRecord():
                        outcome = rows.take(change)
                        if outcome is Outcome.DEAD:
                            dead.append(SegmentKey(change.collection, change.video_id, change.segment.segment_id))
                    case Tombstone():
                        outcome = rows.drop(change.segment_id, change.collection)
                    case DeletionRecord():
                        outcome = rows.forget(change.collection, change.video_id, change.append_time)
                outcomes.append(outcome)
            rows.close()
            edit.executemany(
                "INSERT OR REPLACE INTO consumed_offsets VALUES (?, ?, ?, ?)",
                ((topic, partition, self.fingerprint, at) for (topic, partition), at in offsets.items()),
            )
        return Applied(outcomes=tuple(outcomes), dead=tuple(dead))

    def delete(self, collection: str, video_id: str, at: float) -> list[str]:
        """Remove a live video and let nothing of it come back that was appended before `at`.

        A file of that name stays: Catalog.delete() removes it. Call this first, as that one removes live videos too.

        Args:
            at: The append time of the deletion's record, or now where there is none: seconds since 1970.
        Returns:
            The ids of the segments that were there, to be tombstoned.
        """
        with self.catalog.editing() as edit:
            self.catalog.remember_deletion(edit, collection, video_id, at)
            found = edit.execute(
                "SELECT row FROM videos WHERE state = 'READY' AND live AND collection = ? AND video_id = ?",
                (collection, video_id),
            ).fetchone()
            if found is None:
                return []
            ids = edit.execute("SELECT segment_id FROM segments WHERE video_row = ? ORDER BY position", found)
            gone = [segment_id for (segment_id,) in ids]
            self.catalog.remove_row(edit, found[0])
            self.catalog.count_generation(edit)
        return gone

    def prune(self, limits: Retention, now: float, max_segments: int) -> list[SegmentKey]:
        """Remove the oldest segments of live streams that are over a limit; return them, to be tombstoned.

        Whole files that came by way of Kafka have no old end, and stay.

        Args:
            now: Seconds since 1970, by the broker's clock: a segment's age counts from the append of its records.
            max_segments: The most to remove; when so many come back, there may be more.
        """
        with self.catalog.snapshot():
            victims = self._victims(limits, now, max_segments)
        if victims:
            with self.catalog.editing() as edit:
                rows = LiveEdit(self.catalog, edit, self.fingerprint, self._clock())
                rows.remove([segment_row for segment_row, _ in victims])
                rows.close()
        return [key for _, key in victims]

    def _victims(self, limits: Retention, now: float, count: int) -> list[tuple[int, SegmentKey]]:
        streams: dict[str, list[tuple[int, str, int]]] = {}
        for row, collection, video_id, size in self.catalog.rows(
            "SELECT row, collection, video_id, size_bytes FROM videos"
            " WHERE state = 'READY' AND live AND fingerprint = ? AND CAST(uri AS TEXT) LIKE ?",
            self.fingerprint, f"{STREAM_SCHEME}%",
        ):  # fmt: skip
            streams.setdefault(collection, []).append((row, video_id, size))
        found: list[tuple[int, SegmentKey]] = []
        for collection, mine in sorted(streams.items()):
            limit = limits.of(collection)
            if limit is not None:
                found += self._over(limit, collection, mine, now, count - len(found))
        return found

    def _over(
        self, limit: Limit, collection: str, streams: Iterable[tuple[int, str, int]], now: float, count: int
    ) -> list[tuple[int, SegmentKey]]:
        """Return a collection's oldest segments as far as they are over its limit."""
        streams = list(streams)
        total = sum(size for _, _, size in streams)
        found: list[tuple[int, SegmentKey]] = []
        if total <= limit.size_bytes and not any(
            now - appended > limit.age_seconds
            for row, video_id, _ in streams
            for appended, *_ in self._by_age(row, video_id, 1)
        ):  # most often
            return found
        oldest = heapq.merge(*(self._by_age(row, video_id, count) for row, video_id, _ in streams))
        for appended, segment_row, segment_id, size, video_id in oldest:
            if len(found) == count or (now - appended <= limit.age_seconds and total <= limit.size_bytes):
                break
            found.append((segment_row, SegmentKey(collection, video_id, segment_id)))
            total -= size
        return found

    def _by_age(self, row: int, video_id: str, count: int) -> list[tuple[float, int, str, int, str]]:
        """Return a stream's first segments: append time, row, id, size and the video's id."""
        return [
            (*fields, video_id)
            for fields in self.catalog.rows(
                "SELECT source_append_time, id, segment_id, size_bytes FROM segments WHERE video_row = ?"
                " ORDER BY position LIMIT ?", row, count,
            )
        ]  # fmt: skip

    def watermarks(self) -> list[Watermark]:
        """Return how far the live videos are that have not ended."""
        return [
            Watermark(collection=collection, video_id=video_id, watermark_seconds=seconds, moved_time=moved)
            for collection, video_id, seconds, moved in self.catalog.rows(
                "SELECT collection, video_id, watermark_seconds, watermark_moved_time FROM videos"
                " WHERE state = 'READY' AND live AND NOT ended AND fingerprint = ? ORDER BY collection, video_id",
                self.fingerprint,
            )
        ]
