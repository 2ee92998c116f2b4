"""Materialiser: a server's thread that brings the catalog up to what Kafka holds of live videos.

Why nothing is lost or applied twice, whenever the process is killed:
1. The reader begins at the offsets that the catalog holds.
2. Each batch of records becomes one transaction: rows, videos, and the offsets after them.
3. Records that were read and not committed are read again.
Every replica reads everything, so there is no consumer group. A new data directory reads from the beginning. So does an
old one whose topic was deleted and made anew: what came from Kafka is rebuilt, and indexed files stay.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NoReturn, Protocol

from ingest.errors import BrokerUnavailable, OffsetRegression, TopicReplaced
from ingest.kafka import PartitionId, Record, Topics
from serve.background import Background, Backoff, Stopped
from serve.codec.dead_letters import BATCH_UNREADABLE, dead_letter
from serve.codec.records import SegmentRecord, read_deletion, read_segment, segment_key
from serve.config import Retention
from serve.errors import DataDirectoryBusy, DataDirectoryInvalid, RecordInvalid
from serve.live.batch_size import BatchSize
from serve.live.broker_clock import BrokerClock
from serve.live.cluster_retention import RETENTION_KEY, read_retention
from serve.live.live_rows import Applied, Change, ChangeOutcome, DeletionRecord, LiveRows, SegmentKey, Tombstone
from serve.live.pruner import Pruner
from serve.live.tombstones import PendingTombstones, has_read_to
from serve.observe.metrics import LiveMetrics

logger = logging.getLogger(__name__)

# How long a transaction should take: DeleteVideo, the job queue and the indexing process wait for it, and searches
# share the processor with it.
TRANSACTION_SECONDS = 0.2
MAX_BATCH_BYTES = 16 << 20  # of the records of a transaction
POLL_SECONDS = 0.2  # how long a poll waits for records; stop() waits as long
MEASURE_SECONDS = 1.0  # between two measurements
FIRST_BACKOFF_SECONDS = 0.5  # before the second attempt to connect
LAST_BACKOFF_SECONDS = 10.0  # the longest wait between two attempts
STEADY_SECONDS = 5.0  # a reader that lives this long without a record counts as one that works
MAX_LOGGED_REASONS = 100  # why records are skipped: each reason is logged once, up to this many


class Reader(Protocol):
    """Reads the topics of segments, deletions and settings, new partitions included, from given offsets."""

    def poll(self, timeout_seconds: float) -> Sequence[Record]:
        """Return the next records, in order within a partition; none if none came in time."""

    def ends(self) -> Mapping[PartitionId, int]:
        """Ask for the offset after the last record of each partition."""

    def positions(self) -> Mapping[PartitionId, int]:
        """Return the offset of the next record of each partition."""


class Materialiser:
    """The thread: start() begins it, stop() ends it. `on_end` gets the error if anything else ends it."""

    def __init__(
        self,
        rows: LiveRows,
        open_reader: Callable[[Mapping[PartitionId, int]], AbstractContextManager[Reader]],
        tombstones: PendingTombstones,
        *,
        send_dead_letter: Callable[[bytes, bytes], None],
        pruner: Pruner,
        broker_clock: BrokerClock,
        topics: Topics,
        metrics: LiveMetrics,
        on_change: Callable[[], None],
        on_caught_up: Callable[[], object],
        on_away: Callable[[], object],
        on_end: Callable[[Exception], object],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Prepare the thread; start() connects.

        Args:
            rows: The live videos of the catalog.
            open_reader: Connects to Kafka and reads from these offsets; partitions without one from their beginning.
            send_dead_letter: Begins to send a dead letter: key and value.
            on_change: Makes what was committed visible to searches.
            on_caught_up: Called when everything was read that Kafka held when the thread began, or when a topic was
                found to be made anew.
            on_away: Called after each attempt that ends because Kafka is away.
        """
        self._rows, self._open_reader, self._tombstones = rows, open_reader, tombstones
        self._send_dead_letter = send_dead_letter
        self._pruner, self._broker_clock, self._topics = pruner, broker_clock, topics
        self._metrics, self._clock = metrics, clock
        self._on_change, self._on_caught_up, self._on_end = on_change, on_caught_up, on_end
        self._is_caught_up = False
        self._is_connected = False
        self._newest_chunks: dict[tuple[str, str], float] = {}  # live video -> append time of its newest visible chunk
        self._goal: Mapping[PartitionId, int] | None = None  # the offsets to read up to before _is_caught_up
        self._batch_size = BatchSize(TRANSACTION_SECONDS)
        # Offsets to read the settings from: none at the start of the process, which reads all of them.
        self._settings_offsets: dict[PartitionId, int] = {}
        self._logged_reasons: set[str] = set()
        self._measured_at = 0.0  # monotonic seconds
        self._thread = Background(
            "live feed",
            self._connect_and_follow,
            pause_seconds=0.0,
            expected=(BrokerUnavailable, DataDirectoryBusy, DataDirectoryInvalid),
            on_error=lambda error: on_away() if isinstance(error, BrokerUnavailable) else None,
            backoff=Backoff(FIRST_BACKOFF_SECONDS, LAST_BACKOFF_SECONDS),
        )

    @property
    def is_behind(self) -> bool:
        """Whether the catalog may lack what Kafka holds: it was not read to its end yet, or Kafka is away."""
        return not (self._is_caught_up and self._is_connected)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the transaction under way. May be called twice."""
        self._thread.stop()

    def _connect_and_follow(self) -> None:
        """Connect and read until stop(). Searches answer from what is committed while Kafka is away.

        Raises:
            BrokerUnavailable, DataDirectoryBusy, DataDirectoryInvalid: Worth another attempt: the broker comes back, a
                full disk may be emptied.
            Stopped: After any other error, which is logged and passed to on_end.
        """
        try:
            with self._open_reader(self._offsets()) as reader:
                self._goal = self._goal or reader.ends()
                self._note_connection(is_connected=True)
                self._follow(reader)
        except (BrokerUnavailable, DataDirectoryBusy, DataDirectoryInvalid):
            raise
        except (TopicReplaced, OffsetRegression) as error:
            self._forget_topic(error.topic, str(error))
        except Exception as error:  # a bug: the server must not continue and fall behind
            logger.exception("live feed ended")
            self._end(error)
        finally:
            self._note_connection(is_connected=False)

    def _forget_topic(self, topic: str, reason: str) -> None:
        """Let go of what came from a topic that is not the one that was read before; the next reader reads it anew."""
        count = self._rows.forget_topic(topic, has_segments=topic == self._topics.segments)
        if topic == self._topics.segments:
            self._tombstones.clear()
        if topic == self._topics.settings:
            self._settings_offsets, self._pruner.cluster = {}, Retention()
        self._is_caught_up, self._goal = False, None
        logger.warning(
            "topic is read anew, and the videos that came from it are removed until then topic=%s videos=%d reason=%s",
            topic, count, reason,
        )  # fmt: skip
        self._on_change()

    def _note_connection(self, *, is_connected: bool) -> None:
        self._is_connected = is_connected
        self._metrics.is_broker_up.set(is_connected)

    def _end(self, error: Exception) -> NoReturn:
        self._on_end(error)
        raise Stopped from error

    def _follow(self, reader: Reader) -> None:
        """Apply records as they come; prune and send tombstones between them."""
        connected_at = time.monotonic()
        while not self._thread.is_stopping:
            records = self._take_settings(reader.poll(POLL_SECONDS))
            for batch in self._batches(records):
                if self._thread.is_stopping:
                    return
                self._apply(batch)
            # Being connected is no success yet: a reader that fails at its first record must back off.
            if (records or time.monotonic() - connected_at >= STEADY_SECONDS) and self._thread.note_success():
                logger.info("live feed continues")
            if not self._is_caught_up and self._goal is not None and has_read_to(self._goal, reader.positions()):
                self._is_caught_up = True
                logger.info("live feed is up to date")
                self._on_caught_up()
            self._tidy(reader)

    def _offsets(self) -> dict[PartitionId, int]:
        return self._settings_offsets | {
            (topic, partition): offset
            for topic in (self._topics.segments, self._topics.deletions)
            for partition, offset in self._rows.offsets(topic).items()
        }

    def _take_settings(self, records: Sequence[Record]) -> list[Record]:
        """Note the time of records, and put the cluster's settings among them into force; return the others."""
        others = []
        for record in records:
            self._broker_clock.note(record)
            if record.topic != self._topics.settings:
                others.append(record)
                continue
            self._settings_offsets[record.topic, record.partition] = record.offset + 1
            if record.unreadable:
                self._refuse_batch(record)
            if record.key == RETENTION_KEY:
                self._pruner.cluster = read_retention(record)
        return others

    def _batches(self, records: Sequence[Record]) -> Iterator[Sequence[Record]]:
        """Cut records into transactions, as large as the duration of the last transactions allows."""
        start = 0
        while start < len(records):
            end, size_bytes, max_count = start, 0, self._batch_size.count
            while end < len(records) and end - start < max_count and (end == start or size_bytes < MAX_BATCH_BYTES):
                size_bytes += len(records[end].value or b"")
                end += 1
            yield records[start:end]
            start = end

    def _apply(self, batch: Sequence[Record]) -> None:
        """Commit the changes of a batch of records, with the offsets after them."""
        started = time.perf_counter()
        read = [(record, change) for record in batch if (change := self._read(record)) is not None]
        changes = [change for _, change in read]
        applied = self._rows.apply(changes, {(one.topic, one.partition): one.offset + 1 for one in batch})
        for (record, change), outcome in zip(read, applied.outcomes, strict=True):
            self._metrics.records.labels(record.topic, outcome.value).inc()
            self._update_tombstones(record, change, outcome)
        seconds = time.perf_counter() - started
        self._batch_size.adapt(len(batch), seconds)
        self._metrics.batch_seconds.observe(seconds)
        if self._is_caught_up and changes:
            self._on_change()
            self._observe_latency(changes, applied)

    def _update_tombstones(self, record: Record, change: Change, outcome: ChangeOutcome) -> None:
        """Plan a tombstone for a dead segment; cancel the one of a key that has a newer record."""
        if isinstance(change, Tombstone):
            self._tombstones.note_read(segment_key(change.collection, change.segment_id), record, is_live=False)
        elif isinstance(change, SegmentRecord):
            self._tombstones.note_read(change.key, record, is_live=outcome is not ChangeOutcome.DEAD)
            if outcome is ChangeOutcome.DEAD:
                self._tombstones.add([SegmentKey(change.collection, change.video_id, change.segment.segment_id)])

    def _read(self, record: Record) -> Change | None:
        """Return the change that a record holds; None for an unusable record, which is counted and logged."""
        if record.unreadable:
            self._refuse_batch(record)
            return None
        try:
            if record.topic == self._topics.deletions:
                if record.value is None:  # never sent by us, and without meaning
                    raise RecordInvalid("a deletion without a value")
                collection, video_id = read_deletion(record.value)
                return DeletionRecord(collection=collection, video_id=video_id, append_time=record.append_seconds)
            if record.value is None:
                collection, _, segment_id = record.key.decode().partition("/")
                return Tombstone(segment_id=segment_id, collection=collection)
            segment = read_segment(record.value)
        except (RecordInvalid, UnicodeDecodeError) as error:
            self._metrics.records.labels(record.topic, "invalid").inc()
            self._log_once(f"record skipped topic={record.topic} reason={error}", record)
            return None
        if segment.fingerprint != self._rows.fingerprint:
            self._log_once(
                f"segments skipped: they are of the encoders {segment.fingerprint}, and this library is of"
                f" {self._rows.fingerprint}: give workers and servers the same models",
                record,
            )
        return segment

    def _refuse_batch(self, record: Record) -> None:
        """Log and count a batch of records that cannot be unpacked, and send it to the dead letters."""
        self._metrics.records.labels(record.topic, "unreadable").inc()
        message = f"offsets {record.first_offset} to {record.offset}: {record.unreadable}"
        logger.warning("batch skipped topic=%s partition=%d %s", record.topic, record.partition, message)
        self._send_dead_letter(*dead_letter(record, BATCH_UNREADABLE, message))

    def _log_once(self, reason: str, record: Record) -> None:
        if reason not in self._logged_reasons and len(self._logged_reasons) < MAX_LOGGED_REASONS:
            self._logged_reasons.add(reason)
            logger.warning("%s (first at partition=%d offset=%d)", reason, record.partition, record.offset)

    def _observe_latency(self, changes: Sequence[Change], applied: Applied) -> None:
        """Measure the time from the append of each segment's newest chunk until now, when searches find the segment.

        A revision that is not final counts only if it brings a newer chunk. With words alone it would measure the
        transcription.
        """
        now = self._clock()
        for change, outcome in zip(changes, applied.outcomes, strict=True):
            if isinstance(change, SegmentRecord) and outcome is ChangeOutcome.APPLIED:
                video, newest = (change.collection, change.video_id), change.newest_append_time
                is_newer = newest > self._newest_chunks.get(video, 0.0)
                if is_newer:
                    self._newest_chunks[video] = newest
                if change.is_last:
                    self._newest_chunks.pop(video, None)
                if change.is_final or is_newer:
                    histogram = self._metrics.searchable_seconds.labels("true" if change.is_final else "false")
                    histogram.observe(max(0.0, now - newest))

    def _tidy(self, reader: Reader) -> None:
        """Prune, measure, and send the tombstones that are due."""
        if self._is_caught_up:
            self._pruner.step()
        if time.monotonic() - self._measured_at < MEASURE_SECONDS:
            return
        self._measured_at = time.monotonic()
        ends, positions = reader.ends(), reader.positions()
        for (topic, partition), end in ends.items():
            lag = max(0, end - positions.get((topic, partition), 0))
            self._metrics.lag.labels(topic, partition).set(lag)
        if self._is_caught_up:
            self._metrics.tombstones.inc(self._tombstones.send_due(positions, ends))
        self._measure()

    def _measure(self) -> None:
        """Update the metrics of the streams."""
        marks = self._rows.watermarks()
        self._metrics.videos.set(len(marks))
        oldest = min((mark.moved_time for mark in marks), default=None)
        self._metrics.watermark_age_seconds.set(0.0 if oldest is None else max(0.0, self._clock() - oldest))
