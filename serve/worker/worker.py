"""Worker and run_worker: `kinodex worker`, which turns chunks and whole files on Kafka into segments on Kafka.

One thread polls, owns the state of all streams and publishes. It never waits for decoding or encoding
(serve.worker.threads), so it never misses a poll.
"""

import contextlib
import logging
import math
import signal
import tempfile
import threading
import time
import types
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from encoders.speech.whisper import Transcriber
from encoders.writing.reader import load_reader
from ingest.errors import BrokerUnavailable
from ingest.kafka import GroupConsumer, PartitionId, PartitionReader, Producer, Record, Topics
from serve.encoder_set import Encoders, load_for_indexing
from serve.observe.metrics_endpoint import serve_metrics
from serve.observe.worker_metrics import WorkerMetrics
from serve.settings import Settings
from serve.worker.lost_chunks import ChunkLog
from serve.worker.partitions import ChunkPartition, Partition, SourcePartition
from serve.worker.picture_text import PictureText
from serve.worker.stream import StreamConfig, latest_checkpoints
from serve.worker.takeover import Takeover
from serve.worker.threads import WorkerThreads

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.05  # how long a poll waits for records: bounds how late a result is taken
COMMIT_SECONDS = 1.0  # between two commits of a partition: a crash repeats this much work, besides the open windows
TIDY_SECONDS = 1.0  # between two checks for idle streams, and two updates of the metrics
REVOKE_SECONDS = 10.0  # for the last commit of partitions that are taken away: the whole group waits for it
LEAVE_SECONDS = 5.0  # for the last commit and all other calls to the broker when the worker stops
FINAL_CALL_SECONDS = 1.0  # least time for each call to the broker while stopping, even past LEAVE_SECONDS
PARTS_IN_FLIGHT = 8  # chunks taken and not encoded yet, for each decoding thread: with fewer, batches are small
SPEECH_BATCHES = 4  # batches of speech windows that wait for transcription: 2 MB a window
MISSED_LOG_SECONDS = 60.0  # between two log lines about missing partitions of the topic of checkpoints
SILENT_SECONDS = 3.0  # fetches are answered twice a second: without an answer for this long, the broker is away


class Worker:
    """A member of the consumer group of workers."""

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
            EncoderError: If the reader of text cannot be loaded.
        """
        self.settings, self.metrics = settings, metrics
        self.topics = Topics(settings.kafka.topic_prefix)
        self.group = settings.worker_group
        self.partitions: dict[PartitionId, Partition] = {}
        self.is_full = False  # no chunks are taken for now
        reader = load_reader(settings.text)
        open_text = None if reader is None else partial(PictureText, reader, encoders.sentence.encode)
        self._streams = StreamConfig(
            transcriber=transcriber,
            open_text=open_text,
            window=settings.window,
            pooling=encoders.pooling,
            sampling=settings.decode.sampling,
            fingerprint=encoders.space.fingerprint,
            idle_seconds=settings.worker.idle_seconds,
            shed_seconds=settings.worker.shed_seconds,
            max_session_lead_seconds=settings.worker.max_session_lead_seconds,
        )
        self._paused: set[PartitionId] = set()
        self._unopened: dict[PartitionId, float] = {}  # assigned partitions that cannot be opened yet -> when assigned
        self._opened: dict[PartitionId, int] = {}  # partitions opened since the last poll -> the offset to read from
        self._checkpoints_missed_at = -math.inf  # when it was last logged that the topic of checkpoints is too small
        self._unread_at = 0.0  # when chunks were last unreadable: the broker was away, or the worker was full
        self._stopping = threading.Event()
        self._leave_by: float | None = None  # while the worker stops: when its calls to the broker must be over
        self._committed_at = self._tidied_at = 0.0
        with contextlib.ExitStack() as stack:  # closes in reverse order
            self.producer = Producer(settings.kafka)
            stack.callback(lambda: self.producer.close(self._leave_seconds()))
            self.reader = PartitionReader(settings.kafka)
            stack.callback(self.reader.close)
            self._check_topics()
            self.threads = WorkerThreads(settings, encoders, transcriber, self.producer, metrics, spool, open_text)
            stack.callback(self.threads.close)
            self._takeover = Takeover(settings, self.reader, self.producer, self.threads)
            self.threads.ask_time(settings.kafka.bootstrap_timeout_seconds)
            stack.callback(lambda: self._give_up(list(self.partitions)))  # also after an error
            self.consumer = GroupConsumer(
                settings.kafka,
                [self.topics.chunks, self.topics.sources],
                group=self.group,
                on_assigned=self._on_assigned,
                on_revoked=self._on_revoked,
                on_lost=self._on_lost,
            )
            stack.callback(lambda: self.consumer.close(self._leave_seconds()))  # first, so other workers can continue
            self._closing = stack.pop_all()

    def _check_topics(self) -> None:
        """Fail at the start, and not in the middle of the work, if a topic is missing."""
        for topic in (self.topics.segments, self.topics.deadletter, self.topics.checkpoints):
            self.reader.partitions_of(topic)

    # ---- the worker's thread

    def run(self) -> None:
        """Work until stop() is called, then commit finished work.

        Raises:
            BrokerUnavailable: If a published record could not be delivered for delivery_timeout_seconds.
        """
        with self._closing:
            try:
                while not self._stopping.is_set():
                    self.step()
            finally:
                self._leave_by = time.monotonic() + LEAVE_SECONDS
            logger.info("worker stops partitions=%d", len(self.partitions))

    def stop(self) -> None:
        """Make run() return; may be called from any thread or signal handler."""
        self._stopping.set()

    def step(self) -> None:
        """Take new records from the broker and results from the other threads; commit and tidy when it is time."""
        self.threads.run_callbacks()
        for record in self._poll():
            partition = self.partitions.get((record.topic, record.partition))
            if partition is not None:
                partition.take(record)
        self.threads.run_callbacks()
        self._hold_back()
        now = time.monotonic()
        may_begin = now - self._committed_at >= COMMIT_SECONDS
        if may_begin:
            self._committed_at = now
        offsets = {
            partition_id: position
            for partition_id, partition in self.partitions.items()
            if (position := partition.step_commit(may_begin=may_begin)) is not None
        }
        if offsets:
            self.consumer.commit(offsets)
        if now - self._tidied_at >= TIDY_SECONDS:
            self._tidied_at = now
            self._tidy()

    def _poll(self) -> list[Record]:
        """Return the next records. Skip those of partitions opened since the last poll, and seek there instead.

        Such records may be older than the assignment or lie past the offset to read from. The seek reads them again.
        """
        records = self.consumer.poll(0.0 if self.threads.has_callbacks else POLL_SECONDS)
        opened, self._opened = self._opened, {}
        for (topic, number), offset in opened.items():
            self.consumer.seek(topic, number, offset)
        return [record for record in records if (record.topic, record.partition) not in opened]

    def _hold_back(self) -> None:
        """Pause partitions while the worker has as much work as it may hold; Kafka keeps the records meanwhile."""
        count = self.threads.in_flight_count + sum(partition.held_count for partition in self.partitions.values())
        most = PARTS_IN_FLIGHT * self.settings.workers
        most_speech = SPEECH_BATCHES * self.settings.speech.batch_count
        if self.is_full:  # resume only when half empty
            most, most_speech = most // 2 + 1, most_speech // 2 + 1
        self.is_full = count >= most or self.threads.speech_count >= most_speech
        self._pause(
            {
                partition_id
                for partition_id, partition in self.partitions.items()
                if partition.is_full or (self.is_full and isinstance(partition, ChunkPartition))
            }
            | self._unopened.keys()
        )

    def _pause(self, partition_ids: set[PartitionId]) -> None:
        """Pause these partitions and resume all others."""
        before, self._paused = self._paused, partition_ids
        if partition_ids - before:
            self.consumer.pause(partition_ids - before)
        if before - partition_ids:
            self.consumer.resume(before - partition_ids)

    def _tidy(self) -> None:
        """Open partitions that could not be opened before, end idle streams, and update the metrics."""
        for partition_id in list(self._unopened):
            self._open(partition_id)
        if self.is_full or self.consumer.seconds_since_fetch() > SILENT_SECONDS:
            self._unread_at = time.monotonic()
        lag = self.consumer.lag()
        ages, stream_count = [0.0], 0
        for partition_id, partition in self.partitions.items():
            self.metrics.lag.labels(partition_id[0], str(partition_id[1])).set(lag.get(partition_id, 0))
            if not isinstance(partition, ChunkPartition):
                continue
            if lag.get(partition_id) == 0 and partition_id not in self._paused:
                partition.close_idle(self._unread_at)
            live = [stream.flow for stream in partition.open_streams()]
            stream_count += len(live)
            ages += [flow.end_seconds - flow.cutter.watermark_seconds for flow in live]
        self.metrics.streams.set(stream_count)
        self.metrics.watermark_age_seconds.set(max(ages))
        self.metrics.in_flight.set(self.threads.in_flight_count)
        self.metrics.is_paused.set(self.is_full)

    def _leave_seconds(self) -> float:
        """Return how long a call to the broker may take while the worker stops."""
        return max(FINAL_CALL_SECONDS, (self._leave_by or 0.0) - time.monotonic())

    # ---- assignment of partitions; the consumer calls these within poll()

    def _on_assigned(self, partition_ids: Sequence[PartitionId]) -> None:
        # Normally none: a partition is revoked before it is assigned again.
        self._give_up([partition_id for partition_id in partition_ids if partition_id in self.partitions])
        for partition_id in partition_ids:
            self._unopened[partition_id] = time.monotonic()
            self._open(partition_id)
        logger.info("partitions assigned count=%d all=%d", len(partition_ids), len(self.partitions))

    def _open(self, partition_id: PartitionId) -> None:
        """Continue a partition where it was left. If the broker does not say where, try again later."""
        topic, number = partition_id
        try:
            if topic == self.topics.chunks and number not in self.reader.partitions_of(self.topics.checkpoints):
                self._await_checkpoints(partition_id)
                return
            log = ChunkLog(
                topic_id=self.reader.topic_id(topic),
                beginning=self.reader.beginning_offsets([partition_id])[partition_id],
                end=self.reader.end_offsets([partition_id])[partition_id],
            )
            committed = self.consumer.committed_offset(topic, number)
            # The records before it expired, or the offset is that of a topic that was deleted.
            is_valid = committed is not None and log.beginning <= committed <= log.end
            start = committed if committed is not None and is_valid else log.beginning
            partition: Partition
            if topic == self.topics.sources:
                partition = SourcePartition(self.threads, topic, number, start)
            else:
                latest = latest_checkpoints(self.reader.read_to_end(self.topics.checkpoints, number), topic)
                checkpoints = self._takeover.end_lost(number, *latest, log)
                partition = chunks = ChunkPartition(
                    self.threads, topic, number, start, checkpoints, latest[1], config=self._streams,
                    topic_id=log.topic_id, find_home=partial(self._takeover.find_home, number),
                )  # fmt: skip
                needed = chunks.resume_offset
                start = start if needed is None else min(start, needed)
            partition.committed = start if committed is None else committed
        except BrokerUnavailable as error:
            if time.monotonic() - self._unopened[partition_id] > self.settings.kafka.delivery_timeout_seconds:
                raise
            logger.warning("partition waits topic=%s partition=%d reason=%s", topic, number, error.reason)
            self._pause(self._paused | {partition_id})
            return
        self.partitions[partition_id] = partition
        self._opened[partition_id] = start
        del self._unopened[partition_id]

    def _await_checkpoints(self, partition_id: PartitionId) -> None:
        """Leave a partition in Kafka while the topic of checkpoints has no partition of its number."""
        self._pause(self._paused | {partition_id})
        now = time.monotonic()
        if now - self._checkpoints_missed_at >= MISSED_LOG_SECONDS:
            self._checkpoints_missed_at = now
            topic, number = partition_id
            logger.error(
                "partition waits topic=%s partition=%d reason=%s has fewer partitions: run `kinodex topics --grow %d`",
                topic, number, self.topics.checkpoints, len(self.reader.partitions_of(topic)),
            )  # fmt: skip

    def _on_revoked(self, partition_ids: Sequence[PartitionId]) -> None:
        try:
            self._commit_now(partition_ids)
        finally:
            self._give_up(partition_ids)

    def _on_lost(self, partition_ids: Sequence[PartitionId]) -> None:
        self._give_up(partition_ids)

    def _give_up(self, partition_ids: Sequence[PartitionId]) -> None:
        for partition_id in partition_ids:
            self._unopened.pop(partition_id, None)
            self._opened.pop(partition_id, None)
            self._paused.discard(partition_id)
            partition = self.partitions.pop(partition_id, None)
            if partition is not None:
                partition.give_up()
                self.metrics.lag.remove(partition_id[0], str(partition_id[1]))
        logger.info("partitions given up count=%d left=%d", len(partition_ids), len(self.partitions))

    def _commit_now(self, partition_ids: Sequence[PartitionId]) -> None:
        """Commit finished work within a time limit; the next worker of the partitions repeats the rest."""
        partitions = [
            self.partitions[partition_id] for partition_id in partition_ids if partition_id in self.partitions
        ]
        deadline = time.monotonic() + REVOKE_SECONDS if self._leave_by is None else self._leave_by
        for may_begin in (False, True):  # finish the commit under way, then make a last one
            for partition in partitions:
                partition.step_commit(may_begin=may_begin)
            while any(partition.is_committing for partition in partitions) and time.monotonic() < deadline:
                self.producer.flush(max(0.0, deadline - time.monotonic()))
                for partition in partitions:
                    partition.step_commit(may_begin=False)
        offsets = {(partition.topic, partition.number): partition.committed for partition in partitions}
        if offsets:
            self.consumer.commit_now(offsets, max(FINAL_CALL_SECONDS, deadline - time.monotonic()))


def run_worker(settings: Settings, announce: Callable[[str], None]) -> None:
    """Run a worker until SIGTERM or SIGINT; pass `announce` a line when it is ready.

    Raises:
        BrokerUnavailable: If no broker answers, or a record could not be delivered for kafka.delivery_timeout_seconds.
        EncoderError: If an encoder's weights cannot be loaded.
    """
    metrics = WorkerMetrics()
    transcriber, encoders = load_for_indexing(settings, None)
    logger.info("encoders loaded space=%s note=%s", encoders.space, encoders.note)
    with tempfile.TemporaryDirectory(prefix="kinodex-worker-") as spool:
        worker = Worker(settings, encoders, transcriber, metrics, Path(spool))

        def stop(number: int, frame: types.FrameType | None) -> None:
            worker.stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        with contextlib.ExitStack() as stack:
            if settings.worker.metrics_listen:
                _, close = serve_metrics(metrics.registry, settings.worker.metrics_listen, settings.server)
                stack.callback(close)
            announce(f"working group={worker.group} fingerprint={encoders.space.fingerprint}")
            worker.run()
