"""Brings a server's catalog up to what Kafka holds of live videos, in a thread beside the calls.

Why nothing is lost or taken twice, whenever the process is killed:
1. The reader begins where the catalog says: the offsets are rows of it.
2. Each batch of records becomes one transaction: rows, videos, and the offsets behind them.
3. What was read and not committed is read again.
Every replica reads everything, so there is no consumer group. A lost data directory begins at the beginning.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from ingest.errors import BrokerUnavailable, OffsetRegression
from ingest.kafka import PartitionId, Record
from serve.codec.records import SegmentRecord, read_deletion, read_segment, segment_key
from serve.errors import DataDirectoryBusy, DataDirectoryInvalid, RecordInvalid
from serve.live.deletions import Tombstones, reaches
from serve.live.rows import Applied, Change, DeletionRecord, LiveRows, Outcome, SegmentKey, Tombstone
from serve.observe.metrics import LiveMetrics
from serve.retention import Retention

logger = logging.getLogger(__name__)

# A transaction's length: DeleteVideo, the queue and the process that indexes wait for it, and questions share the
# processor with it.
WORK_SECONDS = 0.2
MOST_RECORDS = 512  # of a transaction, however fast they are
BATCH_BYTES = 16 << 20  # of the records of a transaction
POLL_SECONDS = 0.2  # how long a look at Kafka waits for a record; a stop waits as long
MEASURE_SECONDS = 1.0  # between two measurements
PRUNE_SECONDS = 5.0  # between two looks for what was kept long enough
# Pruning is in no hurry: its transactions are shorter, and it rests so many times as long as it works.
PRUNE_WORK_SECONDS = 0.1
PRUNE_REST = 2.0
FIRST_BACKOFF_SECONDS = 0.5
LAST_BACKOFF_SECONDS = 10.0
MOST_REASONS = 100  # why records are none: each is logged once


class Reader(Protocol):
    """All partitions of the two topics, new ones included, from given offsets on."""

    def poll(self, timeout_seconds: float) -> Sequence[Record]:
        """Return the records that follow, in order within a partition; none: there was none in time."""

    def ends(self) -> Mapping[PartitionId, int]:
        """Ask for the offset behind the last record of each partition."""

    def positions(self) -> Mapping[PartitionId, int]:
        """Return the offset of the next record of each partition."""


class Pace:
    """How much one transaction takes, so that it is about so many seconds long."""

    def __init__(self, seconds: float, most: int = MOST_RECORDS) -> None:
        self.seconds, self.most, self.count = seconds, most, 8

    def took(self, count: int, seconds: float) -> None:
        """Learn from a transaction."""
        if count:
            wanted = int(self.seconds * count / max(seconds, 1e-6))
            self.count = max(1, min(self.most, 2 * self.count, wanted))


class Materialiser:
    """The thread. start() begins it, stop() ends it; `on_end` is told of what ended it otherwise."""

    def __init__(
        self,
        rows: LiveRows,
        open_reader: Callable[[Mapping[PartitionId, int]], AbstractContextManager[Reader]],
        tombstones: Tombstones,
        *,
        segments_topic: str,
        deletions_topic: str,
        retention: Retention,
        metrics: LiveMetrics,
        on_change: Callable[[], None],
        on_caught_up: Callable[[], object],
        on_end: Callable[[Exception], object],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Take what is to be brought together.

        Args:
            rows: The catalog's side.
            open_reader: Connects to Kafka, to read on from these offsets, else from the beginning.
            on_change: Makes answers see what was committed.
            on_caught_up: Told once, when everything was read that was there when the thread began.
        """
        self.rows, self.open_reader, self.tombstones = rows, open_reader, tombstones
        self.segments_topic, self.deletions_topic = segments_topic, deletions_topic
        self.retention, self.metrics, self.clock = retention, metrics, clock
        self.on_change, self.on_caught_up, self.on_end = on_change, on_caught_up, on_end
        self.is_caught_up = False
        self.newest_chunks: dict[tuple[str, str], float] = {}  # live video -> when the newest chunk found was appended
        self.goal: Mapping[PartitionId, int] | None = None  # what is_caught_up waits for
        self.pace, self.prune_pace = Pace(WORK_SECONDS), Pace(PRUNE_WORK_SECONDS)
        self.trouble = ""  # what is wrong now, so that it is logged once
        self.reasons: set[str] = set()
        self.measured_at = self.prune_at = 0.0  # by the monotonic clock: when that was done, and when it is to be done
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.run, name="materialiser", daemon=True)

    def start(self) -> None:
        """Begin."""
        self.thread.start()

    def stop(self) -> None:
        """End, after the transaction under way. May be called twice."""
        self.stopping.set()
        if self.thread.is_alive():
            self.thread.join()

    # ---- the thread

    def run(self) -> None:
        """Connect and read, again and again, until stop() or what no patience mends."""
        backoff_seconds = FIRST_BACKOFF_SECONDS
        try:
            while not self.stopping.is_set():
                try:
                    self.prune()  # also while Kafka is away
                    with self.open_reader(self.offsets()) as reader:
                        self.goal = self.goal or reader.ends()
                        self.recovered()
                        backoff_seconds = FIRST_BACKOFF_SECONDS
                        self.follow(reader)
                except (BrokerUnavailable, DataDirectoryBusy, DataDirectoryInvalid) as error:
                    self.in_trouble(error)  # the broker comes back; a full disk may be emptied
                    self.stopping.wait(backoff_seconds)
                    backoff_seconds = min(LAST_BACKOFF_SECONDS, 2 * backoff_seconds)
        except OffsetRegression as error:
            logger.error(
                "live videos: reading ended, as a topic is not the one that this data directory was fed from: name that"
                " one (kafka.servers, kafka.topic_prefix), or begin with a new data directory reason=%s",
                error,
            )
            self.on_end(error)
        except Exception as error:  # a bug: the server must not go on and fall behind
            logger.exception("live videos: reading ended")
            self.on_end(error)
        finally:
            self.metrics.is_broker_up.set(0)

    def follow(self, reader: Reader) -> None:
        """Take over what comes, prune what was kept long enough, pass tombstones on."""
        while not self.stopping.is_set():
            records = reader.poll(POLL_SECONDS)
            for batch in self.batches(records):
                if self.stopping.is_set():
                    return
                self.take(batch)
            if not self.is_caught_up and self.goal is not None and reaches(reader.positions(), self.goal):
                self.is_caught_up = True
                logger.info("live videos are up to date")
                self.on_caught_up()
            self.keep_house(reader)

    def offsets(self) -> dict[PartitionId, int]:
        return {
            (topic, partition): offset
            for topic in (self.segments_topic, self.deletions_topic)
            for partition, offset in self.rows.offsets(topic).items()
        }

    def batches(self, records: Sequence[Record]) -> Iterator[Sequence[Record]]:
        """Cut what was read into transactions, each as large as the last ones say that it may be."""
        start = 0
        while start < len(records):
            end, size_bytes = start, 0
            while end < len(records) and end - start < self.pace.count and (end == start or size_bytes < BATCH_BYTES):
                size_bytes += len(records[end].value or b"")
                end += 1
            yield records[start:end]
            start = end

    def take(self, batch: Sequence[Record]) -> None:
        """Commit what a batch of records changes, with the offsets behind them."""
        started = time.perf_counter()
        found = [(record, change) for record in batch if (change := self.read(record)) is not None]
        changes = [change for _, change in found]
        applied = self.rows.apply(changes, {(one.topic, one.partition): one.offset + 1 for one in batch})
        for (record, change), outcome in zip(found, applied.outcomes, strict=True):
            self.metrics.records.labels(record.topic, outcome.value).inc()
            self.note_dead(change, outcome)
        seconds = time.perf_counter() - started
        self.pace.took(len(batch), seconds)
        self.metrics.batch_seconds.observe(seconds)
        if self.is_caught_up and changes:
            self.on_change()
            self.tell_latency(changes, applied)

    def note_dead(self, change: Change, outcome: Outcome) -> None:
        """Have a dead segment tombstoned, unless its key comes again."""
        if isinstance(change, Tombstone):
            self.tombstones.met([segment_key(change.collection, change.segment_id)])
        elif isinstance(change, SegmentRecord):
            self.tombstones.met([change.key])
            if outcome is Outcome.DEAD:
                self.tombstones.add([SegmentKey(change.collection, change.video_id, change.segment.segment_id)])

    def read(self, record: Record) -> Change | None:
        """Read what a record says; None: nothing for us, which is counted, and logged once for each reason."""
        try:
            if record.topic == self.deletions_topic:
                if record.value is None:  # nobody sends it, and it would say nothing
                    raise RecordInvalid("a deletion without a value")
                collection, video_id = read_deletion(record.value)
                return DeletionRecord(collection=collection, video_id=video_id, append_time=record.append_seconds)
            if record.value is None:
                collection, _, segment_id = record.key.decode().partition("/")
                return Tombstone(segment_id=segment_id, collection=collection)
            segment = read_segment(record.value)
        except (RecordInvalid, UnicodeDecodeError) as error:
            self.metrics.records.labels(record.topic, "invalid").inc()
            self.tell_once(f"record skipped topic={record.topic} reason={error}", record)
            return None
        if segment.fingerprint != self.rows.fingerprint:
            self.tell_once(
                f"segments skipped: they are of the encoders {segment.fingerprint}, and this library is of"
                f" {self.rows.fingerprint}: give workers and servers the same models",
                record,
            )
        return segment

    def tell_once(self, what: str, record: Record) -> None:
        if what not in self.reasons and len(self.reasons) < MOST_REASONS:
            self.reasons.add(what)
            logger.warning("%s (first at partition=%d offset=%d)", what, record.partition, record.offset)

    def tell_latency(self, changes: Sequence[Change], applied: Applied) -> None:
        """Measure from the newest chunk of each segment to its being found, which is now. A revision that is not final
        counts if it brings a newer chunk: with words alone it would measure the transcription."""
        now = self.clock()
        for change, outcome in zip(changes, applied.outcomes, strict=True):
            if isinstance(change, SegmentRecord) and outcome is Outcome.APPLIED:
                video, newest = (change.collection, change.video_id), change.newest_append_time
                is_newer = newest > self.newest_chunks.get(video, 0.0)
                if is_newer:
                    self.newest_chunks[video] = newest
                if change.is_last:
                    self.newest_chunks.pop(video, None)
                if change.is_final or is_newer:
                    histogram = self.metrics.searchable_seconds.labels("true" if change.is_final else "false")
                    histogram.observe(max(0.0, now - newest))

    # ---- now and then

    def keep_house(self, reader: Reader) -> None:
        """Prune, measure, and pass on the tombstones whose time has come."""
        self.prune()
        if time.monotonic() - self.measured_at < MEASURE_SECONDS:
            return
        self.measured_at = time.monotonic()
        ends, positions = reader.ends(), reader.positions()
        for (topic, partition), end in ends.items():
            lag = max(0, end - positions.get((topic, partition), 0))
            self.metrics.lag.labels(topic, partition).set(lag)
        if self.is_caught_up:
            self.metrics.tombstones.inc(self.tombstones.pass_on(positions, ends))
        self.measure()

    def prune(self) -> None:
        """Take away a few segments that were kept long enough; the next ones when this is called again."""
        started = time.monotonic()
        if not (self.retention and self.is_caught_up) or started < self.prune_at:
            return
        pruned = self.rows.prune(self.retention, self.clock(), self.prune_pace.count)
        is_all = len(pruned) < self.prune_pace.count
        if pruned:
            seconds = time.monotonic() - started
            self.prune_pace.took(len(pruned), seconds)
            self.metrics.prune_seconds.observe(seconds)
            self.metrics.pruned.inc(len(pruned))
            self.tombstones.add(pruned)
            self.on_change()
        now = time.monotonic()
        self.prune_at = now + (PRUNE_SECONDS if is_all else PRUNE_REST * (now - started))

    def measure(self) -> None:
        """Tell the metrics of the streams."""
        marks = self.rows.watermarks()
        self.metrics.videos.set(len(marks))
        oldest = min((mark.moved_time for mark in marks), default=None)
        self.metrics.watermark_age_seconds.set(0.0 if oldest is None else max(0.0, self.clock() - oldest))

    # ---- trouble

    def in_trouble(self, error: Exception) -> None:
        """Log what is wrong, once until it is over. Answers go on from what is there."""
        self.metrics.is_broker_up.set(0)
        if self.trouble != str(error):
            self.trouble = str(error)
            logger.error("live videos wait, answers go on reason=%s", error)

    def recovered(self) -> None:
        self.metrics.is_broker_up.set(1)
        if self.trouble:
            self.trouble = ""
            logger.info("live videos go on")
