"""Kafka for the rest of the code: topics, records, and clients that write and read them.

Only this package imports kafka-python. Callers see none of its errors: a call raises BrokerUnavailable,
OffsetRegression or RecordTooLarge, and no call waits without a bound.
"""

from ingest.kafka.group import GroupConsumer
from ingest.kafka.producer import Delivery, Producer
from ingest.kafka.reader import PartitionReader
from ingest.kafka.record import MAX_RECORD_BYTES, PartitionId, Record
from ingest.kafka.topics import TopicOutcome, Topics, create_topics, describe_topics

__all__ = [
    "MAX_RECORD_BYTES",
    "Delivery",
    "GroupConsumer",
    "PartitionId",
    "PartitionReader",
    "Producer",
    "Record",
    "TopicOutcome",
    "Topics",
    "create_topics",
    "describe_topics",
]
