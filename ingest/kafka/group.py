"""Reads topics together with the other members of a group: each partition is one member's.

kafka-python does its work in a thread of its own, callbacks of a rebalance included. Here these run in the thread that
calls poll() or close(), while kafka-python waits for them and goes on with its heartbeats: so whoever uses a
GroupConsumer needs no locks, and may call commit_now(), committed(), position() and seek() from a callback.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future as Answer
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Protocol

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
from ingest.kafka.connection import connect, milliseconds, one_line, translated
from ingest.kafka.reader import PASSING_SECONDS, partitions_of
from ingest.kafka.record import FETCH_BYTES, PARTITION_FETCH_BYTES, PartitionId, Record, to_records
from ingest.kafka.sharing import EachTopicEvenly

logger = logging.getLogger(__name__)

POLL_INTERVAL_SECONDS = 300.0  # who does not poll for so long has hung, and loses its partitions
MAX_HEARTBEAT_SECONDS = 3.0
# What passes by itself: the broker is away, or the group is being divided anew.
PASSING = (RetriableError, IllegalGenerationError, RebalanceInProgressError, UnknownMemberIdError)
COMMIT_RETRY_SECONDS = 1.0
CLOSE_SECONDS = 10.0


class OnPartitions(Protocol):
    """What is called with partitions."""

    def __call__(self, places: list[PartitionId], /) -> None: ...


class GroupConsumer:
    """A member of a group. Of one thread."""

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
        """Connect. The partitions come with the first calls of poll().

        Args:
            on_assigned: Called with partitions that are ours from now on, before the first record of them. They begin
                at what was committed, else at the oldest record; seek() changes that.
            on_revoked: Called with partitions that are another's soon. They may still be committed, by commit_now().
            on_lost: Called with partitions that were another's before we learnt of it. Nothing may be committed.

        Raises:
            BrokerUnavailable: If no broker answers in time, or has one of the topics.
        """
        self._config = config
        self._uncommitted: dict[PartitionId, int] = {}  # asked for, and not acknowledged yet
        self._commit_failed_at: float | None = None
        self._is_closed = False
        self._consumer = connect(
            config,
            KafkaConsumer,
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            # A partition that stays is not touched by a rebalance: decoding for it goes on.
            partition_assignment_strategy=[EachTopicEvenly],
            session_timeout_ms=milliseconds(config.session_timeout_seconds),
            heartbeat_interval_ms=milliseconds(min(MAX_HEARTBEAT_SECONDS, config.session_timeout_seconds / 3)),
            max_poll_interval_ms=milliseconds(POLL_INTERVAL_SECONDS),
            fetch_max_bytes=FETCH_BYTES,
            max_partition_fetch_bytes=PARTITION_FETCH_BYTES,
            allow_auto_create_topics=False,
        )
        self._turn = _Turn(self._consumer)
        try:
            for topic in topics:
                partitions_of(self._consumer, config, topic)
        except BaseException:
            self.close()
            raise
        self._consumer.subscribe(
            list(topics),
            listener=_Listener(self._turn, on_assigned, self._forgetting(on_revoked), self._forgetting(on_lost)),
        )

    # ---- records

    def poll(self, timeout_seconds: float, max_records: int = 16) -> list[Record]:
        """Return the records that follow, in order within a partition; none: there was none in time.

        Callbacks run in here. To be called often, also while all is paused. An outage is no error: nothing comes.

        Raises:
            BrokerUnavailable: If the broker does not let us read.
        """
        self._retry_commit()
        self._keep_join()
        self._let_resumed_come()
        try:
            with translated(self._config):
                return to_records(
                    self._turn.call(lambda: self._consumer.poll(milliseconds(timeout_seconds), max_records)) or {}
                )
        except BrokerUnavailable as e:
            if not isinstance(e.__cause__, PASSING):
                raise
            time.sleep(min(timeout_seconds, PASSING_SECONDS))
            return []

    def assignment(self) -> list[PartitionId]:
        """Return the partitions that are ours."""
        return sorted((place.topic, place.partition) for place in self._consumer.assignment())

    def pause(self, places: Iterable[PartitionId]) -> None:
        """Let no records come from partitions."""
        self._consumer.pause(*self._ours(places))

    def resume(self, places: Iterable[PartitionId]) -> None:
        """Let records come again."""
        self._consumer.resume(*self._ours(places))

    def seek(self, topic: str, partition: int, offset: int) -> None:
        """Read on from an offset, of a partition that is ours."""
        self._consumer.seek(TopicPartition(topic, partition), offset)

    # ---- offsets

    def committed_offset(self, topic: str, partition: int) -> int | None:
        """Ask for what the group has committed; None: nothing.

        Raises:
            BrokerUnavailable: If the broker does not say in time.
        """
        with translated(self._config):
            found = self._consumer.committed(
                TopicPartition(topic, partition), timeout_ms=milliseconds(self._config.bootstrap_timeout_seconds)
            )
        return None if found is None or found < 0 else int(found)

    def position(self, topic: str, partition: int) -> int:
        """Return the offset of the next record, of a partition that is ours.

        Raises:
            BrokerUnavailable: If it must be asked for, and the broker does not say in time.
        """
        with translated(self._config):
            found = self._consumer.position(
                TopicPartition(topic, partition), milliseconds(self._config.bootstrap_timeout_seconds)
            )
            if found is None:
                raise KafkaError(f"no position in {topic}/{partition}")
        return int(found)

    def commit(self, offsets: Mapping[PartitionId, int]) -> None:
        """Begin to commit the offsets behind what is done with. What fails goes with the next one, or with poll()."""
        self._uncommitted.update(offsets)
        self._send_commit()

    def commit_now(self, offsets: Mapping[PartitionId, int], timeout_seconds: float) -> bool:
        """Commit offsets, and whatever was asked for before, and wait for it; whether it was done."""
        wanted = self._uncommitted | dict(offsets)
        if not wanted:
            return True
        try:
            self._consumer.commit(_as_kafka(wanted), timeout_ms=milliseconds(timeout_seconds))
        except (KafkaError, AssertionError) as e:
            logger.warning("commit failed partitions=%d reason=%s", len(wanted), one_line(e))
            return False
        self._acknowledge(wanted)
        return True

    def lag(self) -> dict[PartitionId, int]:
        """Return how many records wait in each partition, as far as is known without asking."""
        found = {}
        for place in self._consumer.assignment():
            end, position = self._known(place)
            if end is not None and position is not None:
                found[place.topic, place.partition] = max(0, end - position)
        return found

    def is_at_end(self, topic: str, partition: int) -> bool:
        """Whether all was read that was there when the broker last told of the partition."""
        return self.lag().get((topic, partition)) == 0

    def seconds_since_fetch(self) -> float:
        """How long ago a broker last answered when it was asked for records: twice a second, unless all is paused."""
        sensor = self._consumer._fetcher._sensors.fetch_latency
        return time.monotonic() - float(sensor._last_record_time) / 1000

    def close(self, timeout_seconds: float = CLOSE_SECONDS) -> None:
        """Leave the group. on_revoked is called for what is ours, so that it may be committed. May be called twice."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            with translated(self._config):
                self._turn.call(lambda: self._consumer.close(timeout_ms=milliseconds(timeout_seconds)))
        finally:
            self._turn.end()

    # ---- inside

    def _ours(self, places: Iterable[PartitionId]) -> list[TopicPartition]:
        wanted = {TopicPartition(*place) for place in places}
        return sorted(wanted & self._consumer.assignment())

    def _known(self, place: TopicPartition) -> tuple[int | None, int | None]:
        """What is known of the end and the position of a partition, without a question to the broker."""
        state = self._consumer._subscription.assignment.get(place)
        if state is None:
            return None, None
        return state.highwater, None if state.position is None else state.position.offset

    def _keep_join(self) -> None:
        """Have a join that the last poll was too short for ended by the next one.

        kafka-python 3.0.12 throws the answer away if it comes between two polls, and joins again, which all members
        must then do; or, where new metadata had caused it, does not join again and stays without heartbeats.
        """
        coordinator = self._consumer._coordinator
        task = coordinator._join_task
        if task is None or not coordinator.rejoining:
            return
        coordinator.request_rejoin()
        if not isinstance(task, _Join):
            coordinator._join_task = _Join(task)

    def _let_resumed_come(self) -> None:
        """Free the place that records of a partition need that was paused and resumed.

        kafka-python 3.0.12 puts what it has of a paused partition aside, and takes it up again only while it has no
        other partition's records in hand, which it takes all for that are used up. The partition would stay silent.
        """
        fetcher = self._consumer._fetcher
        if not fetcher._next_partition_records:
            fetcher._next_partition_records = None

    def _send_commit(self) -> None:
        wanted = dict(self._uncommitted)

        def done(_: Any, answer: Any) -> None:
            if isinstance(answer, Exception):
                logger.warning("commit failed partitions=%d reason=%s", len(wanted), one_line(answer))
                self._commit_failed_at = time.monotonic()
            else:
                self._acknowledge(wanted)

        self._commit_failed_at = None
        try:
            self._consumer.commit_async(_as_kafka(wanted), callback=done)
        except KafkaError as e:
            done(None, e)

    def _retry_commit(self) -> None:
        failed_at = self._commit_failed_at
        if failed_at is not None and time.monotonic() > failed_at + COMMIT_RETRY_SECONDS:
            if self._uncommitted:
                self._send_commit()
            else:
                self._commit_failed_at = None

    def _acknowledge(self, offsets: Mapping[PartitionId, int]) -> None:
        for place, offset in offsets.items():
            if self._uncommitted.get(place) == offset:
                del self._uncommitted[place]

    def _forgetting(self, callback: OnPartitions) -> OnPartitions:
        """Have nothing of partitions committed that are not ours any more."""

        def call(places: list[PartitionId], /) -> None:
            try:
                callback(places)
            finally:
                for place in places:
                    self._uncommitted.pop(place, None)

        return call


class _Join:
    """A join under way, which is not over until a poll has taken its answer."""

    is_done = False

    def __init__(self, task: Any) -> None:
        self.add_callback, self.add_errback = task.add_callback, task.add_errback


@dataclass(slots=True, eq=False)
class _Callback:
    """What kafka-python's thread waits for."""

    function: OnPartitions
    places: list[PartitionId]
    done: Future


class _Turn:
    """Lets a thread of our own wait for kafka-python, so that the caller's is free for the callbacks."""

    def __init__(self, consumer: KafkaConsumer) -> None:
        self._consumer = consumer
        self._wanted: SimpleQueue[tuple[Callable[[], Any], Answer[Any]] | None] = SimpleQueue()
        self._told: SimpleQueue[_Callback | Answer[Any]] = SimpleQueue()
        threading.Thread(target=self._run, name="kafka-poll", daemon=True).start()

    def call(self, function: Callable[[], Any]) -> Any:
        """Call a function that may call back; return what it returns, or raise what it or a callback raises."""
        answer: Answer[Any] = Answer()
        self._wanted.put((function, answer))
        failure: Exception | None = None
        while (told := self._told.get()) is not answer:
            if not isinstance(told, _Callback):
                continue  # of a call that was interrupted
            try:
                told.function(told.places)
            except Exception as e:
                failure = failure or e
            finally:
                self._resume(told.done)
        if failure is not None:
            raise failure
        return answer.result()

    async def call_back(self, function: OnPartitions, partitions: Iterable[TopicPartition]) -> None:
        """Have a callback run by the thread that waits in call(). To be awaited in kafka-python's thread."""
        done = Future()
        places = sorted((place.topic, place.partition) for place in partitions)
        self._told.put(_Callback(function, places, done))
        await done

    def end(self) -> None:
        """End the thread, after what it is at."""
        self._wanted.put(None)

    def _resume(self, done: Future) -> None:
        # A future wakes who awaits it in the thread that completes it, and that must be kafka-python's.
        self._consumer._net.call_soon_threadsafe(lambda: done.success(None) and None)

    def _run(self) -> None:
        while (wanted := self._wanted.get()) is not None:
            function, answer = wanted
            try:
                answer.set_result(function())
            except BaseException as e:
                answer.set_exception(e)
            self._told.put(answer)


class _Listener(AsyncConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python has no types
    """Passes on what kafka-python tells of a rebalance."""

    def __init__(self, turn: _Turn, on_assigned: OnPartitions, on_revoked: OnPartitions, on_lost: OnPartitions) -> None:
        self._turn, self._on_assigned, self._on_revoked, self._on_lost = turn, on_assigned, on_revoked, on_lost

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        await self._turn.call_back(self._on_assigned, assigned)

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        await self._turn.call_back(self._on_revoked, revoked)

    async def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        await self._turn.call_back(self._on_lost, lost)


def _as_kafka(offsets: Mapping[PartitionId, int]) -> dict[TopicPartition, OffsetAndMetadata]:
    return {TopicPartition(*place): OffsetAndMetadata(offset, "", -1) for place, offset in offsets.items()}
