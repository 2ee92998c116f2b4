"""Reads partitions that it is told of, from where it is told: no group, nothing is committed."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import LogTruncationError, OffsetOutOfRangeError, RetriableError, UnknownTopicOrPartitionError

from ingest.config import KafkaConfig
from ingest.errors import BrokerUnavailable, OffsetRegression
from ingest.kafka.connection import connect, milliseconds, no_topic, translated
from ingest.kafka.record import FETCH_BYTES, PARTITION_FETCH_BYTES, PartitionId, Record, to_records

POLL_SECONDS = 0.5
PASSING_SECONDS = 0.1  # before kafka-python is asked again, which may fail at once


class PartitionReader:
    """Reads partitions. Of one thread."""

    def __init__(self, config: KafkaConfig) -> None:
        """Connect.

        Raises:
            BrokerUnavailable: If no broker answers in time.
        """
        self._config = config
        self._timeout_ms = milliseconds(config.bootstrap_timeout_seconds)
        self._consumer = connect(
            config,
            KafkaConsumer,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",  # we look why an offset is not there
            fetch_max_bytes=FETCH_BYTES,
            max_partition_fetch_bytes=PARTITION_FETCH_BYTES,
            allow_auto_create_topics=False,
        )

    def __enter__(self) -> "PartitionReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def assign(self, wanted: Iterable[tuple[str, int, int | None]]) -> None:
        """Read these partitions from now on, and no others.

        Args:
            wanted: Topic, partition, and the offset to begin at; None, or one that is gone: the oldest there is.

        Raises:
            OffsetRegression: If an offset lies beyond the partition's end.
            BrokerUnavailable: If the broker does not say where partitions begin and end.
        """
        offsets = {(topic, partition): offset for topic, partition, offset in wanted}
        beginnings, ends = self.beginning_offsets(offsets), self.end_offsets(offsets)
        self._consumer.assign([TopicPartition(*place) for place in offsets])
        for place, offset in offsets.items():
            self._seek(place, offset, beginnings[place], ends[place])

    def poll(self, timeout_seconds: float, max_records: int = 512) -> list[Record]:
        """Return the records that follow, in order within a partition; none: there was none in time.

        An outage is no error here: nothing comes until it is over.

        Raises:
            OffsetRegression: If a partition has become shorter than what was read of it.
            BrokerUnavailable: If the broker does not let us read.
        """
        try:
            with translated(self._config):
                return to_records(self._consumer.poll(milliseconds(timeout_seconds), max_records))
        except BrokerUnavailable as e:
            if isinstance(e.__cause__, OffsetOutOfRangeError | LogTruncationError):
                self._find_again()
            elif isinstance(e.__cause__, RetriableError):
                time.sleep(min(timeout_seconds, PASSING_SECONDS))
            else:
                raise
            return []

    def positions(self) -> dict[PartitionId, int]:
        """Return the offset of the next record of each partition assigned."""
        return {(place.topic, place.partition): self._position(place) for place in self._consumer.assignment()}

    def end_offsets(self, places: Iterable[PartitionId]) -> dict[PartitionId, int]:
        """Ask for the offset behind the last record of each partition.

        Raises:
            BrokerUnavailable: If the broker does not say in time, or has no such partition.
        """
        return self._asked(self._consumer.end_offsets, places)

    def beginning_offsets(self, places: Iterable[PartitionId]) -> dict[PartitionId, int]:
        """Ask for the offset of the oldest record of each partition.

        Raises:
            BrokerUnavailable: If the broker does not say in time, or has no such partition.
        """
        return self._asked(self._consumer.beginning_offsets, places)

    def partitions_of(self, topic: str) -> list[int]:
        """Ask for the partitions of a topic.

        Raises:
            BrokerUnavailable: If the broker does not say in time, or has no such topic.
        """
        return partitions_of(self._consumer, self._config, topic)

    def read_to_end(self, topic: str, partition: int) -> Iterator[Record]:
        """Yield what a partition holds now, oldest first. Takes the place of what was assigned.

        Raises:
            BrokerUnavailable: If the broker falls silent.
        """
        place = (topic, partition)
        end = self.end_offsets([place])[place]
        self.assign([(topic, partition, None)])
        patience = time.monotonic() + self._config.bootstrap_timeout_seconds
        while (position := self.positions()[place]) < end:
            records = self.poll(POLL_SECONDS)
            yield from (record for record in records if record.offset < end)
            if self.positions()[place] > position:
                patience = time.monotonic() + self._config.bootstrap_timeout_seconds
            elif time.monotonic() > patience:
                raise BrokerUnavailable(self._config.servers, f"{topic}/{partition} is not read on from {position}")

    def close(self) -> None:
        """Leave."""
        self._consumer.close(timeout_ms=self._timeout_ms)

    def _asked(
        self, question: Callable[[list[TopicPartition], int], Any], places: Iterable[PartitionId]
    ) -> dict[PartitionId, int]:
        wanted = [TopicPartition(*place) for place in places]
        try:
            with translated(self._config):
                found = question(wanted, self._timeout_ms)
        except BrokerUnavailable:  # of a partition that is not there, kafka-python says only that time ran out
            for topic, partition in wanted:
                if partition not in self.partitions_of(topic):
                    raise no_topic(self._config, f"{topic} with a partition {partition}") from None
            raise
        return {(place.topic, place.partition): offset for place, offset in found.items()}

    def _position(self, place: TopicPartition) -> int:
        with translated(self._config):
            found = self._consumer.position(place, self._timeout_ms)
        if found is None:
            raise BrokerUnavailable(self._config.servers, f"no position in {place.topic}/{place.partition}")
        return int(found)

    def _find_again(self) -> None:
        """Find out which positions are not there, and go on where that loses nothing."""
        positions = self.positions()
        beginnings, ends = self.beginning_offsets(positions), self.end_offsets(positions)
        for place, position in positions.items():
            self._seek(place, position, beginnings[place], ends[place])

    def _seek(self, place: PartitionId, offset: int | None, beginning: int, end: int) -> None:
        if offset is not None and offset > end:
            raise OffsetRegression(*place, offset, end)
        self._consumer.seek(TopicPartition(*place), max(beginning, offset or 0))


def partitions_of(consumer: KafkaConsumer, config: KafkaConfig, topic: str) -> list[int]:
    """Ask for the partitions of a topic. kafka-python's own question waits for its answer without a bound.

    Raises:
        BrokerUnavailable: If the broker does not say in time, or has no such topic.
    """
    cluster, timeout_ms = consumer._cluster, milliseconds(config.bootstrap_timeout_seconds)
    with translated(config), suppress(UnknownTopicOrPartitionError):
        cluster.add_topic(topic)
        for _ in range(2):  # the first answer may be to what was asked before
            consumer._net.run(consumer._manager.wait_for, cluster.request_update(), timeout_ms)
            if found := cluster.partitions_for_topic(topic):
                return sorted(found)
    raise no_topic(config, topic)
