"""What is read from a topic."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PartitionId = tuple[str, int]  # topic, partition

MAX_RECORD_BYTES = 9 << 20  # a chunk of 8 MiB and what is said of it

# A broker sends at least one whole record, however large, so these only bound what is ahead of the reader: of each
# broker one answer of FETCH_BYTES, and of each partition what an answer had of it.
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


def to_records(found: "Mapping[Any, Sequence[Any]]") -> list[Record]:
    """Return what a poll of kafka-python found, in order within a partition."""
    return [
        Record(one.topic, one.partition, one.offset, one.timestamp / 1000, one.key or b"", one.value)
        for records in found.values()
        for one in records
    ]
