"""What tests of Kafka have in common: a small group's member that notes what it is told, and patience."""

import threading
import time
from collections.abc import Callable

from ingest.config import KafkaConfig
from ingest.kafka import GroupConsumer, PartitionId, Producer, Record


def config_for(servers: str, prefix: str) -> KafkaConfig:
    return KafkaConfig(
        servers=(servers,),
        topic_prefix=prefix,
        partition_count=2,
        session_timeout_seconds=3,
        bootstrap_timeout_seconds=10,
    )


def eventually(look: Callable[[], object], *, wanted: bool = True, seconds: float = 15.0) -> object:
    """Look again and again until something is there, or is not; return what was seen last."""
    end = time.monotonic() + seconds
    while bool(found := look()) != wanted and time.monotonic() < end:
        time.sleep(0.02)
    return found


def fill(producer: Producer, topic: str, count: int, *, partition: int | None = None, start: int = 0) -> None:
    sent = [producer.send(topic, b"k%d" % n, b"%d" % n, partition=partition) for n in range(start, start + count)]
    assert producer.flush(20)
    assert [one.error for one in sent] == [None] * count


class Member:
    """A consumer, and what it was told. All of it happens in the thread of the test."""

    def __init__(self, config: KafkaConfig, names: list[str], group: str = "g") -> None:
        self.events: list[tuple[str, list[PartitionId]]] = []
        self.records: list[Record] = []
        self.at_revoke: Callable[[list[PartitionId]], None] = lambda places: None
        self.thread = threading.get_ident()
        self.consumer = GroupConsumer(
            config,
            names,
            group=f"{config.topic_prefix}-{group}",
            on_assigned=lambda places: self.note("assigned", places),
            on_revoked=lambda places: self.note("revoked", places),
            on_lost=lambda places: self.note("lost", places),
        )

    def note(self, what: str, places: list[PartitionId]) -> None:
        assert threading.get_ident() == self.thread
        self.events.append((what, places))
        if what == "revoked":
            self.at_revoke(places)

    def poll(self, timeout_seconds: float = 0.1, max_records: int = 16) -> list[Record]:
        found = self.consumer.poll(timeout_seconds, max_records)
        self.records += found
        return found

    def values(self) -> list[bytes | None]:
        return [one.value for one in self.records]

    def told(self, what: str) -> list[PartitionId]:
        return [place for said, places in self.events for place in places if said == what]
