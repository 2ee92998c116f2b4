"""Shared by tests of Kafka: a group member that notes its callbacks."""

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from ingest.config import KafkaConfig
from ingest.errors import BrokerUnavailable
from ingest.kafka import GroupConsumer, PartitionId, Producer, Record
from support.waiting import HANG_SECONDS, wait_until

Client = TypeVar("Client")


def config_for(servers: str, prefix: str) -> KafkaConfig:
    return KafkaConfig(
        servers=(servers,),
        topic_prefix=prefix,
        partition_count=2,
        session_timeout_seconds=30,
        bootstrap_timeout_seconds=HANG_SECONDS,
    )


def connect(make: Callable[[], Client]) -> Client:
    """Make a client whose configuration waits for too short a time for a slow machine: try until it is connected."""

    def try_once() -> list[Client]:
        with suppress(BrokerUnavailable):
            return [make()]
        return []

    return wait_until(try_once)[0]


def fill(producer: Producer, topic: str, count: int, *, partition: int | None = None, start: int = 0) -> None:
    sent = [producer.send(topic, b"k%d" % n, b"%d" % n, partition=partition) for n in range(start, start + count)]
    assert producer.flush(HANG_SECONDS)
    assert [delivery.error for delivery in sent] == [None] * count


class Member:
    """A consumer, its records and its callbacks, all in the test's thread."""

    def __init__(self, config: KafkaConfig, names: list[str], group: str = "g") -> None:
        self.events: list[tuple[str, list[PartitionId]]] = []  # name of the callback, its partitions
        self.records: list[Record] = []
        self.at_revoke: Callable[[list[PartitionId]], None] = lambda partitions: None
        self.thread = threading.get_ident()
        self.consumer = GroupConsumer(
            config,
            names,
            group=f"{config.topic_prefix}-{group}",
            on_assigned=lambda partitions: self.note("assigned", partitions),
            on_revoked=lambda partitions: self.note("revoked", partitions),
            on_lost=lambda partitions: self.note("lost", partitions),
        )

    def note(self, event: str, partitions: list[PartitionId]) -> None:
        assert threading.get_ident() == self.thread
        self.events.append((event, partitions))
        if event == "revoked":
            self.at_revoke(partitions)

    def poll(self, timeout_seconds: float = 0.1, max_records: int = 16) -> list[Record]:
        records = self.consumer.poll(timeout_seconds, max_records)
        self.records += records
        return records

    def values(self) -> list[bytes | None]:
        return [record.value for record in self.records]

    def partitions_of(self, event: str) -> list[PartitionId]:
        """Return the partitions that callbacks of one name got."""
        return [partition for name, partitions in self.events for partition in partitions if name == event]
