"""`kinodex worker`: chunks and whole files from Kafka to segments on Kafka.

One thread polls, keeps the state of all streams and publishes; it never waits for decoding or encoding (serve.desk), so
it never misses a poll.
"""

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from encoders.whisper import Transcriber
from ingest.kafka import GroupConsumer, PartitionReader, Producer, Topics
from serve.desk import Desk
from serve.encoders import Encoders
from serve.partitions import ChunkPartition, Partition, SourcePartition, latest_checkpoints
from serve.settings import Settings
from serve.worker_metrics import WorkerMetrics

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.05  # how soon a result is seen while nothing comes from the broker
COMMIT_SECONDS = 1.0  # between two commits of a partition: what a crash makes anew beyond the open windows
TIDY_SECONDS = 1.0  # between two looks at what is idle, and at the metrics
REVOKE_SECONDS = 10.0  # for committing what is safe when partitions are taken away; the group waits for it
PARTS_IN_FLIGHT = 4  # chunks taken and not yet encoded, for each decoding thread: more would only wait


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
        self.partitions: dict[tuple[str, int], Partition] = {}
        self.is_paused = False
        self.group = settings.worker.group or f"{settings.kafka.topic_prefix}-workers"
        self._stopping = threading.Event()
        self._committed_at = self._tidied_at = 0.0
        self.producer = Producer(settings.kafka)
        self.reader = PartitionReader(settings.kafka)
        self.consumer = GroupConsumer(
            settings.kafka,
            [self.topics.chunks, self.topics.sources],
            group=self.group,
            on_assigned=self._on_assigned,
            on_revoked=self._on_revoked,
            on_lost=self._on_lost,
        )
        self.desk = Desk(settings, encoders, transcriber, self.producer, metrics, spool)

    # ---- the worker's thread

    def run(self) -> None:
        """Work until stop() is called, then commit what is finished.

        Raises:
            BrokerUnavailable: If what was published could not be delivered for delivery_timeout_seconds.
        """
        try:
            while not self._stopping.is_set():
                self.step()
            self._leave()
        finally:
            self._close()

    def stop(self) -> None:
        """Have run() come to its end; from any thread or signal handler."""
        self._stopping.set()

    def step(self) -> None:
        """Take what the broker has and what the other threads have done."""
        self.desk.make_calls()
        for record in self.consumer.poll(POLL_SECONDS if self.desk.calls.empty() else 0.0):
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

    def _hold_back(self) -> None:
        """Take no more records than can be worked on; the broker keeps them meanwhile."""
        most = PARTS_IN_FLIGHT * self.settings.workers
        is_full = self.desk.in_flight_count >= most or (self.is_paused and self.desk.in_flight_count > most // 2)
        if is_full == self.is_paused:
            return
        self.is_paused = is_full
        change = self.consumer.pause if is_full else self.consumer.resume
        change(list(self.partitions))

    def _tidy(self) -> None:
        lag = self.consumer.lag()
        ages, stream_count = [0.0], 0
        for place, partition in self.partitions.items():
            self.metrics.lag.labels(place[0], str(place[1])).set(lag.get(place, 0))
            if not isinstance(partition, ChunkPartition):
                continue
            if not self.is_paused and self.consumer.is_at_end(*place):
                partition.close_idle()
            live = [stream.flow for stream in partition.streams.values() if not stream.is_over]
            stream_count += len(live)
            ages += [flow.end_seconds - flow.windows.watermark_seconds for flow in live]
        self.metrics.streams.set(stream_count)
        self.metrics.watermark_age_seconds.set(max(ages))
        self.metrics.in_flight.set(self.desk.in_flight_count)
        self.metrics.is_paused.set(self.is_paused)

    def _leave(self) -> None:
        """Commit what is finished, and leave the group, so that others go on at once."""
        self._commit_now(list(self.partitions))
        logger.info("worker stops partitions=%d", len(self.partitions))

    def _close(self) -> None:
        for partition in self.partitions.values():
            partition.is_over = True
        self.consumer.close()  # first, so that others may go on
        self.desk.close()
        self.producer.close()
        self.reader.close()

    # ---- partitions come and go; called within poll()

    def _on_assigned(self, places: Sequence[tuple[str, int]]) -> None:
        for topic, number in places:
            committed = self.consumer.committed(topic, number)
            position = self.consumer.position(topic, number)
            if topic == self.topics.sources:
                self.partitions[topic, number] = SourcePartition(self.desk, topic, number, position)
                continue
            known = latest_checkpoints(self.reader.read_to_end(self.topics.checkpoints, number), topic)
            partition = ChunkPartition(self.desk, topic, number, position, known)
            needed = partition.resume_offset
            if needed is not None and (committed is None or needed < committed):
                self.consumer.seek(topic, number, needed)
            self.partitions[topic, number] = partition
        logger.info("partitions assigned count=%d all=%d", len(places), len(self.partitions))
        if self.is_paused:
            self.consumer.pause(places)

    def _on_revoked(self, places: Sequence[tuple[str, int]]) -> None:
        self._commit_now(places)
        self._on_lost(places)

    def _on_lost(self, places: Sequence[tuple[str, int]]) -> None:
        for place in places:
            partition = self.partitions.pop(place, None)
            if partition is not None:
                partition.is_over = True
                self.metrics.lag.remove(place[0], str(place[1]))
        logger.info("partitions given up count=%d left=%d", len(places), len(self.partitions))

    def _commit_now(self, places: Sequence[tuple[str, int]]) -> None:
        """Commit what is safe within a bound; what is not is made anew by whoever comes next."""
        wanted = [self.partitions[place] for place in places if place in self.partitions]
        deadline = time.monotonic() + REVOKE_SECONDS
        for may_begin in (False, True):  # end the commit under way, then make a last one
            for partition in wanted:
                partition.step_commit(may_begin=may_begin)
            while any(partition.is_committing for partition in wanted) and time.monotonic() < deadline:
                self.producer.flush(max(0.0, deadline - time.monotonic()))
                for partition in wanted:
                    partition.step_commit(may_begin=False)
        offsets = {(one.topic, one.number): one.committed for one in wanted if one.committed >= 0}
        if offsets:
            self.consumer.commit_now(offsets, max(1.0, deadline - time.monotonic()))
