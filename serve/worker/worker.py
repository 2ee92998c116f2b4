"""`kinodex worker`: chunks and whole files from Kafka to segments on Kafka.

One thread polls, keeps the state of all streams and publishes; it never waits for decoding or encoding
(serve.worker.threads), so
it never misses a poll.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from encoders.speech.whisper import Transcriber
from ingest.errors import BrokerUnavailable
from ingest.kafka import GroupConsumer, PartitionId, PartitionReader, Producer, Record, Topics
from serve.encoder_set import Encoders
from serve.observe.worker_metrics import WorkerMetrics
from serve.settings import Settings
from serve.worker.partitions import ChunkPartition, Partition, SourcePartition
from serve.worker.stream import latest_checkpoints
from serve.worker.threads import Desk

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.05  # how soon a result is seen while nothing comes from the broker
COMMIT_SECONDS = 1.0  # between two commits of a partition: what a crash makes anew beyond the open windows
TIDY_SECONDS = 1.0  # between two looks at what is idle, and at the metrics
REVOKE_SECONDS = 10.0  # for committing what is safe when partitions are taken away; the group waits for it
LEAVE_SECONDS = 5.0  # for that and all else that wants the broker when the worker ends: who stops it may not wait
GOODBYE_SECONDS = 1.0  # of them or beyond, for each last word to a broker that may be away
PARTS_IN_FLIGHT = 8  # chunks taken and not yet encoded, for each decoding thread: with fewer, batches are small
SPEECH_BATCHES = 4  # of windows of speech that wait for their words: 2 MB a window
SILENT_SECONDS = 3.0  # without an answer to a fetch, which comes twice a second, the broker is away


class Worker:
    """One member of the group of workers."""

    def __init__(
        self,
        settings: Settings,
        encoders: Encoders,
        transcriber: Transcriber | None,
        metrics: WorkerMetrics,
        spool: Path,
    ) -> None:
        """Connect.

        Raises:
            BrokerUnavailable: If no broker answers.
        """
        self.settings, self.metrics = settings, metrics
        self.topics = Topics(settings.kafka.topic_prefix)
        self.partitions: dict[PartitionId, Partition] = {}
        self.is_full = False  # no chunks are taken for now
        self._paused: set[PartitionId] = set()
        self._unopened: dict[PartitionId, float] = {}  # partitions that cannot be begun yet -> when they were assigned
        self._started: dict[
            PartitionId, int
        ] = {}  # partitions begun since the last records came -> from which offset on
        self._unread_at = 0.0  # when chunks could not be read last, because the broker was away or all was full
        self.group = settings.worker.group or f"{settings.kafka.topic_prefix}-workers"
        self._stopping = threading.Event()
        self._leave_by: float | None = None  # by when all is said to the broker, once the worker is to end
        self._committed_at = self._tidied_at = 0.0
        with contextlib.ExitStack() as stack:  # of what is to be closed, the last first
            self.producer = Producer(settings.kafka)
            stack.callback(lambda: self.producer.close(self._leave_seconds()))
            self.reader = PartitionReader(settings.kafka)
            stack.callback(self.reader.close)
            self._check_topics()
            self.desk = Desk(settings, encoders, transcriber, self.producer, metrics, spool)
            stack.callback(self.desk.close)
            stack.callback(lambda: self._give_up(list(self.partitions)))  # whatever it was that ended the work
            self.consumer = GroupConsumer(
                settings.kafka,
                [self.topics.chunks, self.topics.sources],
                group=self.group,
                on_assigned=self._on_assigned,
                on_revoked=self._on_revoked,
                on_lost=self._on_lost,
            )
            stack.callback(lambda: self.consumer.close(self._leave_seconds()))  # first, so that others may go on
            self._closing = stack.pop_all()

    def _check_topics(self) -> None:
        """Find out at once what would be found out in the middle of the work."""
        for topic in (self.topics.segments, self.topics.deadletter):
            self.reader.partitions_of(topic)
        for topic in (self.topics.chunks, self.topics.sources):
            number = self.reader.partitions_of(topic)[-1]
            self.reader.end_offsets([(self.topics.checkpoints, number)])  # each partition has one beside it

    # ---- the worker's thread

    def run(self) -> None:
        """Work until stop() is called, then commit what is finished.

        Raises:
            BrokerUnavailable: If what was published could not be delivered for delivery_timeout_seconds.
        """
        with self._closing:
            try:
                while not self._stopping.is_set():
                    self.step()
            finally:
                self._leave_by = time.monotonic() + LEAVE_SECONDS
            logger.info("worker stops partitions=%d", len(self.partitions))

    def stop(self) -> None:
        """Have run() come to its end; from any thread or signal handler."""
        self._stopping.set()

    def step(self) -> None:
        """Take what the broker has and what the other threads have done."""
        self.desk.make_calls()
        for record in self._poll():
            partition = self.partitions.get((record.topic, record.partition))
            if partition is not None:
                partition.take(record)
        self.desk.make_calls()
        self._hold_back()
        now = time.monotonic()
        may_begin = now - self._committed_at >= COMMIT_SECONDS
        if may_begin:
            self._committed_at = now
        offsets = {
            place: position
            for place, partition in self.partitions.items()
            if (position := partition.step_commit(may_begin=may_begin)) is not None
        }
        if offsets:
            self.consumer.commit(offsets)
        if now - self._tidied_at >= TIDY_SECONDS:
            self._tidied_at = now
            self._tidy()

    def _poll(self) -> list[Record]:
        """Return the records that follow. Of a partition that was begun just now none is returned, and none is lost:
        what came may be from before, in the middle, or of the time when we did not know that it is ours."""
        records = self.consumer.poll(POLL_SECONDS if self.desk.calls.empty() else 0.0)
        started, self._started = self._started, {}
        for (topic, number), offset in started.items():
            self.consumer.seek(topic, number, offset)
        return [record for record in records if (record.topic, record.partition) not in started]

    def _hold_back(self) -> None:
        """Take no more records than can be worked on; the broker keeps them meanwhile."""
        count = self.desk.in_flight_count + sum(partition.held_count for partition in self.partitions.values())
        most = PARTS_IN_FLIGHT * self.settings.workers
        most_speech = SPEECH_BATCHES * self.settings.speech.batch_count
        if self.is_full:  # once full, half empty before more is taken
            most, most_speech = most // 2 + 1, most_speech // 2 + 1
        self.is_full = count >= most or self.desk.speech_count >= most_speech
        self._pause(
            {
                place
                for place, partition in self.partitions.items()
                if partition.is_full or (self.is_full and isinstance(partition, ChunkPartition))
            }
            | self._unopened.keys()
        )

    def _pause(self, places: set[PartitionId]) -> None:
        """Take records from all partitions but these."""
        before, self._paused = self._paused, places
        if places - before:
            self.consumer.pause(places - before)
        if before - places:
            self.consumer.resume(before - places)

    def _tidy(self) -> None:
        for place in list(self._unopened):
            self._open(place)
        if self.is_full or self.consumer.seconds_since_fetch() > SILENT_SECONDS:
            self._unread_at = time.monotonic()
        lag = self.consumer.lag()
        ages, stream_count = [0.0], 0
        for place, partition in self.partitions.items():
            self.metrics.lag.labels(place[0], str(place[1])).set(lag.get(place, 0))
            if not isinstance(partition, ChunkPartition):
                continue
            if lag.get(place) == 0 and place not in self._paused:
                partition.close_idle(self._unread_at)
            live = [stream.flow for stream in partition.streams.values() if not stream.is_over]
            stream_count += len(live)
            ages += [flow.end_seconds - flow.windows.watermark_seconds for flow in live]
        self.metrics.streams.set(stream_count)
        self.metrics.watermark_age_seconds.set(max(ages))
        self.metrics.in_flight.set(self.desk.in_flight_count)
        self.metrics.is_paused.set(self.is_full)

    def _leave_seconds(self) -> float:
        """How long a last word to the broker may take."""
        return max(GOODBYE_SECONDS, (self._leave_by or 0.0) - time.monotonic())

    # ---- partitions come and go; called within poll()

    def _on_assigned(self, places: Sequence[PartitionId]) -> None:
        self._give_up([place for place in places if place in self.partitions])  # it would have to be revoked first
        for place in places:
            self._unopened[place] = time.monotonic()
            self._open(place)
        logger.info("partitions assigned count=%d all=%d", len(places), len(self.partitions))

    def _open(self, place: PartitionId) -> None:
        """Go on with a partition where it was left; later, if the broker does not say where that is."""
        topic, number = place
        try:
            start = self.consumer.committed_offset(topic, number)
            if start is None:
                start = self.reader.beginning_offsets([place])[place]
            partition: Partition
            if topic == self.topics.sources:
                partition = SourcePartition(self.desk, topic, number, start)
            else:
                known = latest_checkpoints(self.reader.read_to_end(self.topics.checkpoints, number), topic)
                partition = chunks = ChunkPartition(self.desk, topic, number, start, *known)
                needed = chunks.resume_offset
                start = start if needed is None else min(start, needed)
        except BrokerUnavailable as error:
            if time.monotonic() - self._unopened[place] > self.settings.kafka.delivery_timeout_seconds:
                raise
            logger.warning("partition waits topic=%s partition=%d reason=%s", topic, number, error.reason)
            self._pause(self._paused | {place})
            return
        self.partitions[place] = partition
        self._started[place] = start
        del self._unopened[place]

    def _on_revoked(self, places: Sequence[PartitionId]) -> None:
        try:
            self._commit_now(places)
        finally:
            self._give_up(places)

    def _on_lost(self, places: Sequence[PartitionId]) -> None:
        self._give_up(places)

    def _give_up(self, places: Sequence[PartitionId]) -> None:
        for place in places:
            self._unopened.pop(place, None)
            self._started.pop(place, None)
            self._paused.discard(place)
            partition = self.partitions.pop(place, None)
            if partition is not None:
                partition.give_up()
                self.metrics.lag.remove(place[0], str(place[1]))
        logger.info("partitions given up count=%d left=%d", len(places), len(self.partitions))

    def _commit_now(self, places: Sequence[tuple[str, int]]) -> None:
        """Commit what is safe within a bound; what is not is made anew by whoever comes next."""
        wanted = [self.partitions[place] for place in places if place in self.partitions]
        deadline = time.monotonic() + REVOKE_SECONDS if self._leave_by is None else self._leave_by
        for may_begin in (False, True):  # end the commit under way, then make a last one
            for partition in wanted:
                partition.step_commit(may_begin=may_begin)
            while any(partition.is_committing for partition in wanted) and time.monotonic() < deadline:
                self.producer.flush(max(0.0, deadline - time.monotonic()))
                for partition in wanted:
                    partition.step_commit(may_begin=False)
        offsets = {(one.topic, one.number): one.committed for one in wanted if one.committed >= 0}
        if offsets:
            self.consumer.commit_now(offsets, max(GOODBYE_SECONDS, deadline - time.monotonic()))
