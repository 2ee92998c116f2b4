"""Publishes segments to a real broker as workers do."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from ingest.config import KafkaConfig
from ingest.kafka import PartitionReader, Producer, Record, Topics, create_topics
from serve.codec.records import SegmentRecord, segment_bytes, video_key
from serve.settings import Settings
from support.waiting import HANG_SECONDS


class Worker:
    """Stands in for the workers: publishes the records of a test."""

    def __init__(self, servers: str, prefix: str, *, partition_count: int = 3) -> None:
        self.config = KafkaConfig(
            servers=(servers,), topic_prefix=prefix, partition_count=partition_count, bootstrap_timeout_seconds=60.0
        )
        create_topics(replace(self.config, bootstrap_timeout_seconds=HANG_SECONDS))
        self.topics = Topics(prefix)
        self.settings = Settings(workers=2, kafka=self.config)
        self.producer = Producer(self.config)

    def publish(self, records: Sequence[SegmentRecord]) -> None:
        for record in records:
            partition = self.producer.partition_of(self.topics.segments, video_key(record.collection, record.video_id))
            self.producer.send(self.topics.segments, record.key, segment_bytes(record), partition=partition)
        assert self.producer.flush(HANG_SECONDS)

    def read_topic(self, topic: str) -> list[Record]:
        """Return all records of a topic, by partition."""
        with PartitionReader(self.config) as reader:
            return [
                record for partition in reader.partitions_of(topic) for record in reader.read_to_end(topic, partition)
            ]

    def tombstones(self) -> set[str]:
        """Return the keys of segments that compaction will remove."""
        latest = {record.key.decode(): record.value for record in self.read_topic(self.topics.segments)}
        return {key for key, value in latest.items() if value is None}


def now() -> float:
    return time.time()


@pytest.fixture
def worker(kafka: str, topic_prefix: str) -> Iterator[Worker]:
    made = Worker(kafka, topic_prefix)
    yield made
    made.producer.close(5)
