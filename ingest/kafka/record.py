"""A record read from a topic, and how large records and fetches may be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ingest.kafka.batches import UnreadableBatch

PartitionId = tuple[str, int]  # topic, number of the partition

LOG_APPEND_TIME = 1  # the number of this kind of timestamp in Kafka's records
MAX_RECORD_BYTES = 9 << 20  # a chunk of at most 8 MiB, its key and its description

# How many bytes a consumer holds ahead of its reader: one answer of FETCH_BYTES from each broker, of which each
# partition has PARTITION_FETCH_BYTES. A broker sends at least one whole record, however large.
FETCH_BYTES = 16 << 20
PARTITION_FETCH_BYTES = 2 << 20


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a topic. The broker gave it its offset and its time."""

    topic: str
    partition: int
    offset: int
    append_seconds: float  # since 1970
    key: bytes
    value: bytes | None = field(repr=False)  # None: a tombstone
    is_broker_time: bool = True  # whether append_seconds is the broker's clock (LogAppendTime), not the sender's
    # Why a batch of records cannot be read. Then this record stands for all of them: `value` is the batch as Kafka has
    # it, `offset` its last, `first_offset` its first one.
    unreadable: str = ""
    first_offset: int = -1


def to_records(batches: "Mapping[Any, Sequence[Any]]") -> list[Record]:
    """Convert what a poll of kafka-python returned, in order within each partition."""
    return [
        Record(
            record.topic,
            record.partition,
            record.offset,
            record.timestamp / 1000,
            record.key or b"",
            record.value,
            record.timestamp_type == LOG_APPEND_TIME,
            *((record.value.reason, record.value.first_offset) if isinstance(record.value, UnreadableBatch) else ()),
        )
        for batch in batches.values()
        for record in batch
    ]
