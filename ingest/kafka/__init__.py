"""Kafka for the rest of the code: topics, records, and clients that write and read them.

Only this package imports kafka-python. Callers see none of its errors: a call raises BrokerUnavailable,
OffsetRegression or RecordTooLarge, and no call waits without a bound.
"""

from ingest.kafka.group import GroupConsumer
from ingest.kafka.producer import Delivery, Producer
from ingest.kafka.reader import PartitionReader, committed_offsets
from ingest.kafka.record import MAX_RECORD_BYTES, PartitionId, Record
from ingest.kafka.topics import (
    ClusterState,
    TopicOutcome,
    Topics,
    create_topics,
    describe_cluster,
    describe_topics,
    grow_topics,
)

__all__ = [
    "MAX_RECORD_BYTES",
    "ClusterState",
    "Delivery",
    "GroupConsumer",
    "PartitionId",
    "PartitionReader",
    "Producer",
    "Record",
    "TopicOutcome",
    "Topics",
    "committed_offsets",
    "create_topics",
    "describe_cluster",
    "describe_topics",
    "grow_topics",
]
