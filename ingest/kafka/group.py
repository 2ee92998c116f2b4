"""Reads topics as a member of a consumer group: each partition belongs to one member.

kafka-python works in a thread of its own, and calls back in it when partitions move. GroupConsumer runs these callbacks
in the thread that calls poll() or close(), while kafka-python waits for them and continues its heartbeats. So the
caller needs no locks, and a callback may call commit_now(), committed_offset(), position() and seek().
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future as Result
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener
from kafka.errors import (
    IllegalGenerationError,
    KafkaError,
    RebalanceInProgressError,
    RetriableError,
    UnknownMemberIdError,
)
from kafka.future import Future
from kafka.structs import OffsetAndMetadata

from ingest.config import KafkaConfig
from ingest.errors import BrokerUnavailable
from ingest.kafka import repairs
from ingest.kafka.assignor import EachTopicEvenly
from ingest.kafka.connection import CLOSE_SECONDS, connect, milliseconds, to_line, translate_errors
from ingest.kafka.reader import RETRY_POLL_SECONDS, load_partitions
from ingest.kafka.record import FETCH_BYTES, PARTITION_FETCH_BYTES, PartitionId, Record, to_records

logger = logging.getLogger(__name__)

POLL_INTERVAL_SECONDS = 300.0  # a member that does not poll for this long counts as hung and loses its partitions
MAX_HEARTBEAT_SECONDS = 3.0  # pause between heartbeats, as in Kafka's own client; at most a third of the session
COMMIT_RETRY_SECONDS = 1.0  # pause before a failed commit is sent again
# Errors that end by themselves: the broker is away, or the group is being rebalanced.
TEMPORARY_ERRORS = (RetriableError, IllegalGenerationError, RebalanceInProgressError, UnknownMemberIdError)

OnPartitions = Callable[[list[PartitionId]], None]


class GroupConsumer:
    """A member of a consumer group. Only one thread may use it."""

    def __init__(
        self,
        config: KafkaConfig,
        topics: Sequence[str],
        *,
        group: str,
        on_assigned: OnPartitions,
        on_revoked: OnPartitions,
        on_lost: OnPartitions,
    ) -> None:
        """Connect. The first calls of poll() join the group and get partitions.

        Args:
            on_assigned: Called with partitions that are ours from now on, before their first record. Each begins at the
                offset that the group committed, else at its oldest record; seek() changes that.
            on_revoked: Called with partitions that soon belong to another member. commit_now() still works for them.
            on_lost: Called with partitions that belong to another member already. Nothing may be committed.
        Raises:
            BrokerUnavailable: If no broker answers in time, or a topic is missing.
        """
        self._config = config
        self._unacknowledged: dict[PartitionId, int] = {}  # offsets to commit, which the broker has not confirmed
        self._commit_failed_at: float | None = None
        self._is_closed = False
        self._consumer, net_client = connect(
            config,
            KafkaConsumer,
            group_id=group,
            enable_auto_commit=False,
            isolation_level="read_committed",  # records of an aborted transaction do not exist
            auto_offset_reset="earliest",
            # Cooperative: a rebalance does not touch a partition that stays, and decoding for it goes on.
            partition_assignment_strategy=[EachTopicEvenly],
            session_timeout_ms=milliseconds(config.session_timeout_seconds),
            heartbeat_interval_ms=milliseconds(min(MAX_HEARTBEAT_SECONDS, config.session_timeout_seconds / 3)),
            max_poll_interval_ms=milliseconds(POLL_INTERVAL_SECONDS),
            fetch_max_bytes=FETCH_BYTES,
            max_partition_fetch_bytes=PARTITION_FETCH_BYTES,
            allow_auto_create_topics=False,
        )
        self._calls = _CallThread(net_client)
        try:
            for topic in topics:
                load_partitions(net_client, config, topic)
        except BaseException:
            self.close()
            raise
        forget = self._forget_commits_after
        self._consumer.subscribe(
            list(topics), listener=_Listener(self._calls, on_assigned, forget(on_revoked), forget(on_lost))
        )

    def poll(self, timeout_seconds: float, max_records: int = 16) -> list[Record]:
        """Return the next records, in order within each partition; an empty list if none came in time.

        Runs the callbacks. Call it often, also while all partitions are paused. An outage is no error: no records come.

        Raises:
            BrokerUnavailable: If the broker does not let us read.
        """
        self._retry_commit()
        repairs.keep_unfinished_join(self._consumer)
        repairs.release_resumed_records(self._consumer)
        try:
            with translate_errors(self._config):
                return to_records(
                    self._calls.call(lambda: self._consumer.poll(milliseconds(timeout_seconds), max_records)) or {}
                )
        except BrokerUnavailable as e:
            if not isinstance(e.__cause__, TEMPORARY_ERRORS):
                raise
            time.sleep(min(timeout_seconds, RETRY_POLL_SECONDS))
            return []

    def assignment(self) -> list[PartitionId]:
        return sorted((each.topic, each.partition) for each in self._consumer.assignment())

    def pause(self, partitions: Iterable[PartitionId]) -> None:
        """Stop returning records of partitions. Partitions that are not ours are ignored."""
        self._consumer.pause(*self._select_ours(partitions))

    def resume(self, partitions: Iterable[PartitionId]) -> None:
        """Return records of partitions again. Partitions that are not ours are ignored."""
        self._consumer.resume(*self._select_ours(partitions))

    def seek(self, topic: str, partition: int, offset: int) -> None:
        """Continue at an offset of a partition that is ours."""
        self._consumer.seek(TopicPartition(topic, partition), offset)

    def committed_offset(self, topic: str, partition: int) -> int | None:
        """Ask for the offset that the group has committed; None if there is none.

        Raises:
            BrokerUnavailable: If the broker does not answer in time.
        """
        with translate_errors(self._config):
            offset = self._consumer.committed(
                TopicPartition(topic, partition), timeout_ms=milliseconds(self._config.bootstrap_timeout_seconds)
            )
        return None if offset is None or offset < 0 else int(offset)

    def position(self, topic: str, partition: int) -> int:
        """Return the offset of the next record, of a partition that is ours.

        Raises:
            BrokerUnavailable: If the broker must be asked, and does not answer in time.
        """
        with translate_errors(self._config):
            offset = self._consumer.position(
                TopicPartition(topic, partition), milliseconds(self._config.bootstrap_timeout_seconds)
            )
            if offset is None:
                raise KafkaError(f"no position in {topic}/{partition}")
        return int(offset)

    def commit(self, offsets: Mapping[PartitionId, int]) -> None:
        """Begin to commit offsets, each the next one to read. A failed commit is repeated by commit() or poll()."""
        self._unacknowledged.update(offsets)
        self._send_commit()

    def commit_now(self, offsets: Mapping[PartitionId, int], timeout_seconds: float) -> bool:
        """Commit offsets, and all that commit() began, and wait; return whether the broker confirmed."""
        wanted = self._unacknowledged | dict(offsets)
        if not wanted:
            return True
        try:
            self._consumer.commit(_to_kafka(wanted), timeout_ms=milliseconds(timeout_seconds))
        except (KafkaError, AssertionError) as e:
            logger.warning("commit failed partitions=%d reason=%s", len(wanted), to_line(e))
            return False
        self._acknowledge(wanted)
        return True

    def lag(self) -> dict[PartitionId, int]:
        """Return how many records wait in each partition, where that is known without asking the broker."""
        lags = {}
        for partition in self._consumer.assignment():
            end, position = repairs.read_end_and_position(self._consumer, partition)
            if end is not None and position is not None:
                lags[partition.topic, partition.partition] = max(0, end - position)
        return lags

    def seconds_since_fetch(self) -> float:
        """Return how long ago a broker last answered a request for records.

        Requests go out twice a second, except while all partitions are paused.
        """
        return repairs.seconds_since_fetch(self._consumer)

    def close(self, timeout_seconds: float = CLOSE_SECONDS) -> None:
        """Leave the group. Calls on_revoked with our partitions, so that they can be committed. May be called twice."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            with translate_errors(self._config):
                self._calls.call(lambda: self._consumer.close(timeout_ms=milliseconds(timeout_seconds)))
        finally:
            self._calls.end()

    def _select_ours(self, partitions: Iterable[PartitionId]) -> list[TopicPartition]:
        wanted = {TopicPartition(*partition) for partition in partitions}
        return sorted(wanted & self._consumer.assignment())

    def _send_commit(self) -> None:
        wanted = dict(self._unacknowledged)

        def finish(_: Any, answer: Any) -> None:
            if isinstance(answer, Exception):
                logger.warning("commit failed partitions=%d reason=%s", len(wanted), to_line(answer))
                self._commit_failed_at = time.monotonic()
            else:
                self._acknowledge(wanted)

        self._commit_failed_at = None
        try:
            self._consumer.commit_async(_to_kafka(wanted), callback=finish)
        except KafkaError as e:
            finish(None, e)

    def _retry_commit(self) -> None:
        failed_at = self._commit_failed_at
        if failed_at is not None and time.monotonic() > failed_at + COMMIT_RETRY_SECONDS:
            if self._unacknowledged:
                self._send_commit()
            else:
                self._commit_failed_at = None

    def _acknowledge(self, offsets: Mapping[PartitionId, int]) -> None:
        for partition, offset in offsets.items():
            if self._unacknowledged.get(partition) == offset:
                del self._unacknowledged[partition]

    def _forget_commits_after(self, callback: OnPartitions) -> OnPartitions:
        """Wrap a callback for partitions that we lose: after it, no commit of them is repeated."""

        def call(partitions: list[PartitionId], /) -> None:
            try:
                callback(partitions)
            finally:
                for partition in partitions:
                    self._unacknowledged.pop(partition, None)

        return call


@dataclass(slots=True, eq=False)
class _Callback:
    """A callback to run in the caller's thread. kafka-python's thread waits for `is_run`."""

    function: OnPartitions
    partitions: list[PartitionId]
    is_run: Future


class _CallThread:
    """Runs blocking calls of kafka-python in a thread, so that the caller's thread is free to run the callbacks."""

    def __init__(self, net_client: repairs.NetClient) -> None:
        self._net = net_client.net
        self._calls: SimpleQueue[tuple[Callable[[], Any], Result[Any]] | None] = SimpleQueue()
        self._answers: SimpleQueue[_Callback | Result[Any]] = SimpleQueue()  # to the thread that waits in call()
        threading.Thread(target=self._run, name="kafka-poll", daemon=True).start()

    def call(self, function: Callable[[], Any]) -> Any:
        """Call a function, running the callbacks that it causes.

        Returns the function's result, or raises its exception, or the first exception of a callback.
        """
        result: Result[Any] = Result()
        self._calls.put((function, result))
        failure: Exception | None = None
        while (answer := self._answers.get()) is not result:
            if not isinstance(answer, _Callback):
                continue  # the result of an earlier call that was interrupted
            try:
                answer.function(answer.partitions)
            except Exception as e:
                failure = failure or e
            finally:
                self._complete(answer.is_run)
        if failure is not None:
            raise failure
        return result.result()

    async def call_back(self, function: OnPartitions, partitions: Iterable[TopicPartition]) -> None:
        """Have the thread that waits in call() run a callback. Awaited in kafka-python's network thread."""
        is_run = Future()
        self._answers.put(_Callback(function, sorted((each.topic, each.partition) for each in partitions), is_run))
        await is_run

    def end(self) -> None:
        """End the thread once its current call returns."""
        self._calls.put(None)

    def _complete(self, is_run: Future) -> None:
        # A future resumes its awaiter in the thread that completes it; that must be kafka-python's network thread.
        self._net.call_soon_threadsafe(lambda: is_run.success(None) and None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            function, result = call
            try:
                result.set_result(function())
            except BaseException as e:
                result.set_exception(e)
            self._answers.put(result)


class _Listener(AsyncConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python has no types
    """Passes what happens to our partitions on to the callbacks."""

    def __init__(
        self, calls: _CallThread, on_assigned: OnPartitions, on_revoked: OnPartitions, on_lost: OnPartitions
    ) -> None:
        self._calls, self._on_assigned, self._on_revoked, self._on_lost = calls, on_assigned, on_revoked, on_lost

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        await self._calls.call_back(self._on_assigned, assigned)

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        await self._calls.call_back(self._on_revoked, revoked)

    async def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        await self._calls.call_back(self._on_lost, lost)


def _to_kafka(offsets: Mapping[PartitionId, int]) -> dict[TopicPartition, OffsetAndMetadata]:
    return {TopicPartition(*partition): OffsetAndMetadata(offset, "", -1) for partition, offset in offsets.items()}
