"""Reads given partitions from given offsets, without a group and without commits."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import LogTruncationError, OffsetOutOfRangeError, RetriableError, UnknownTopicOrPartitionError

from ingest.config import KafkaConfig
from ingest.errors import BrokerUnavailable, OffsetRegression
from ingest.kafka.connection import connect, milliseconds, topic_missing, translate_errors
from ingest.kafka.record import FETCH_BYTES, PARTITION_FETCH_BYTES, PartitionId, Record, to_records
from ingest.kafka.repairs import NetClient

POLL_SECONDS = 0.5  # one wait for records in read_to_end()
RETRY_POLL_SECONDS = 0.1  # pause after a poll that failed: the next may fail at once


class PartitionReader:
    """Reads partitions. Only one thread may use it."""

    def __init__(self, config: KafkaConfig) -> None:
        """Connect.

        Raises:
            BrokerUnavailable: If no broker answers in time.
        """
        self._config = config
        self._timeout_ms = milliseconds(config.bootstrap_timeout_seconds)
        self._consumer, self._net_client = connect(
            config,
            KafkaConsumer,
            group_id=None,
            enable_auto_commit=False,
            isolation_level="read_committed",  # records of an aborted transaction do not exist
            auto_offset_reset="none",  # _recover_positions() decides what a missing offset means
            fetch_max_bytes=FETCH_BYTES,
            max_partition_fetch_bytes=PARTITION_FETCH_BYTES,
            allow_auto_create_topics=False,
        )

    def __enter__(self) -> "PartitionReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def assign(self, wanted: Iterable[tuple[str, int, int | None]]) -> None:
        """Read these partitions from now on, instead of all others.

        Args:
            wanted: Topic, partition, and the offset to begin at. None, or a deleted offset, means the oldest record.
        Raises:
            OffsetRegression: If an offset lies beyond the partition's end.
            BrokerUnavailable: If the broker does not report where partitions begin and end.
        """
        offsets = {(topic, partition): offset for topic, partition, offset in wanted}
        beginnings, ends = self.beginning_offsets(offsets), self.end_offsets(offsets)
        self._consumer.assign([TopicPartition(*partition) for partition in offsets])
        for partition, offset in offsets.items():
            self._seek(partition, offset, beginnings[partition], ends[partition])

    def poll(self, timeout_seconds: float, max_records: int = 512) -> list[Record]:
        """Return the next records, in order within each partition; an empty list if none came in time.

        An outage is no error: no records come until it is over.

        Raises:
            OffsetRegression: If a partition ends before the records that were read of it.
            BrokerUnavailable: If the broker does not let us read.
        """
        try:
            with translate_errors(self._config):
                return to_records(self._consumer.poll(milliseconds(timeout_seconds), max_records))
        except BrokerUnavailable as e:
            if isinstance(e.__cause__, OffsetOutOfRangeError | LogTruncationError):
                self._recover_positions()
            elif isinstance(e.__cause__, RetriableError):
                time.sleep(min(timeout_seconds, RETRY_POLL_SECONDS))
            else:
                raise
            return []

    def positions(self) -> dict[PartitionId, int]:
        """Return the offset of the next record of each assigned partition."""
        return {(each.topic, each.partition): self._position(each) for each in self._consumer.assignment()}

    def end_offsets(self, partitions: Iterable[PartitionId]) -> dict[PartitionId, int]:
        """Ask for the offset after the last record of each partition.

        Raises:
            BrokerUnavailable: If the broker does not answer in time, or has no such partition.
        """
        return self._ask_offsets(self._consumer.end_offsets, partitions)

    def beginning_offsets(self, partitions: Iterable[PartitionId]) -> dict[PartitionId, int]:
        """Ask for the offset of the oldest record of each partition.

        Raises:
            BrokerUnavailable: If the broker does not answer in time, or has no such partition.
        """
        return self._ask_offsets(self._consumer.beginning_offsets, partitions)

    def partitions_of(self, topic: str) -> list[int]:
        """Ask for the partitions of a topic.

        Raises:
            BrokerUnavailable: If the broker does not answer in time, or has no such topic.
        """
        return load_partitions(self._net_client, self._config, topic)

    def topic_id(self, topic: str) -> str:
        """Ask for the id that the brokers gave a topic when it was made; "" if they give no ids (before Kafka 2.8).

        Raises:
            BrokerUnavailable: If the broker does not answer in time, or has no such topic.
        """
        self.partitions_of(topic)
        topic_id = self._net_client.cluster.topic_id(topic)
        return "" if topic_id is None else str(topic_id)

    def read_to_end(
        self, topic: str, partition: int, *, since_seconds: float | None = None, since_offset: int | None = None
    ) -> Iterator[Record]:
        """Yield the records that a partition holds now, oldest first. Replaces the assigned partitions.

        Args:
            since_seconds: Append time of the oldest record to yield, since 1970; None: all.
            since_offset: The offset of the oldest record to yield, if since_seconds is None; None: all.
        Raises:
            BrokerUnavailable: If no record comes for bootstrap_timeout_seconds.
        """
        partition_id = (topic, partition)
        end = self.end_offsets([partition_id])[partition_id]
        start = since_offset if since_seconds is None else self._offset_at(partition_id, since_seconds, end)
        self.assign([(topic, partition, start)])
        deadline = time.monotonic() + self._config.bootstrap_timeout_seconds
        while (position := self.positions()[partition_id]) < end:
            records = self.poll(POLL_SECONDS)
            yield from (record for record in records if record.offset < end)
            if self.positions()[partition_id] > position:
                deadline = time.monotonic() + self._config.bootstrap_timeout_seconds
            elif time.monotonic() > deadline:
                reason = f"no records of {topic}/{partition} come from offset {position} on"
                raise BrokerUnavailable(self._config.servers, reason)

    def _offset_at(self, partition: PartitionId, seconds: float, end: int) -> int:
        """Ask for the offset of the first record appended at a time or later; `end` if there is none."""
        place = TopicPartition(*partition)
        with translate_errors(self._config):
            found = self._consumer.offsets_for_times({place: milliseconds(seconds)}, self._timeout_ms)[place]
        return end if found is None else min(end, int(found.offset))

    def close(self) -> None:
        self._consumer.close(timeout_ms=self._timeout_ms)

    def _ask_offsets(
        self, question: Callable[[list[TopicPartition], int], Any], partitions: Iterable[PartitionId]
    ) -> dict[PartitionId, int]:
        wanted = [TopicPartition(*partition) for partition in partitions]
        try:
            with translate_errors(self._config):
                offsets = question(wanted, self._timeout_ms)
        except BrokerUnavailable:  # for a missing partition, kafka-python only reports that time ran out
            for topic, partition in wanted:
                if partition not in self.partitions_of(topic):
                    raise topic_missing(self._config, f"{topic} with a partition {partition}") from None
            raise
        return {(each.topic, each.partition): offset for each, offset in offsets.items()}

    def _position(self, partition: TopicPartition) -> int:
        with translate_errors(self._config):
            offset = self._consumer.position(partition, self._timeout_ms)
        if offset is None:
            raise BrokerUnavailable(self._config.servers, f"no position in {partition.topic}/{partition.partition}")
        return int(offset)

    def _recover_positions(self) -> None:
        """Move positions whose records were deleted to the oldest record; raise for those beyond the end."""
        positions = self.positions()
        beginnings, ends = self.beginning_offsets(positions), self.end_offsets(positions)
        for partition, position in positions.items():
            self._seek(partition, position, beginnings[partition], ends[partition])

    def _seek(self, partition: PartitionId, offset: int | None, beginning: int, end: int) -> None:
        if offset is not None and offset > end:
            raise OffsetRegression(*partition, offset, end)
        self._consumer.seek(TopicPartition(*partition), max(beginning, offset or 0))


def load_partitions(net_client: NetClient, config: KafkaConfig, topic: str) -> list[int]:
    """Ask for the partitions of a topic.

    KafkaConsumer.partitions_for_topic() waits for its answer without a bound
    (https://github.com/dpkp/kafka-python/issues/1322).

    Raises:
        BrokerUnavailable: If the broker does not answer in time, or has no such topic.
    """
    cluster, manager = net_client.cluster, net_client.manager
    timeout_ms = milliseconds(config.bootstrap_timeout_seconds)
    with translate_errors(config), suppress(UnknownTopicOrPartitionError):
        cluster.add_topic(topic)
        for _ in range(2):  # the first answer may belong to a request made before the topic was added
            net_client.net.run(manager.wait_for, cluster.request_update(), timeout_ms)
            if partitions := cluster.partitions_for_topic(topic):
                return sorted(partitions)
    raise topic_missing(config, topic)


def committed_offsets(
    config: KafkaConfig, group: str, partitions: Iterable[PartitionId]
) -> dict[PartitionId, int | None]:
    """Ask for the offsets that a group has committed, without joining it; None where there is none.

    Raises:
        BrokerUnavailable: If the broker does not answer in time.
    """
    consumer, _ = connect(config, KafkaConsumer, group_id=group, enable_auto_commit=False)
    timeout_ms = milliseconds(config.bootstrap_timeout_seconds)
    try:
        with translate_errors(config):
            offsets = {
                partition: consumer.committed(TopicPartition(*partition), timeout_ms=timeout_ms)
                for partition in partitions
            }
    finally:
        consumer.close(autocommit=False, timeout_ms=timeout_ms)
    return {partition: None if offset is None or offset < 0 else int(offset) for partition, offset in offsets.items()}
