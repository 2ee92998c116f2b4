"""Kafka, as the rest of the code sees it: topics, records, and who writes and reads them.

Only this package imports kafka-python. Its errors end here: what comes out is BrokerUnavailable, OffsetRegression or
RecordTooLarge, and nothing waits without a bound.
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
