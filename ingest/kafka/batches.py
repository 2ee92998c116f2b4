"""Reads batches of records so that an unreadable batch is a value, and not an error that stops its partition.

kafka-python raises an error for a batch with a wrong checksum, an unknown codec or a torn record. It raises it at each
poll anew, and never gets past it.
"""

from typing import Any

from kafka.consumer import fetcher
from kafka.record import MemoryRecords, default_records
from kafka.record.default_records import DefaultRecord, DefaultRecordBatch

from ingest.kafka.compression import unpack_gzip, unpack_lz4, unpack_snappy, unpack_zstd
from ingest.kafka.repairs import batch_bytes

LEGACY_MAGIC = 1  # the newest format of batches before Kafka 0.11
MAX_OFFSETS = 1 << 20  # of a batch; a damaged header that names more is not believed
MAX_REASON_CHARS = 200  # of a codec's error text


class UnreadableBatch(bytes):
    """A whole batch as the broker has it: the value of the one record that stands for it, at its last offset."""

    first_offset: int
    reason: str

    @classmethod
    def of(cls, data: bytes, first_offset: int, reason: str) -> "UnreadableBatch":
        batch = cls(data)
        batch.first_offset, batch.reason = first_offset, reason
        return batch


def repair_batches() -> None:
    """Let every consumer of kafka-python read batches in this way."""
    default_records.gzip_decode = unpack_gzip
    default_records.lz4_decode = unpack_lz4
    default_records.snappy_decode = unpack_snappy
    default_records.zstd_decode = unpack_zstd
    fetcher.MemoryRecords = _Batches


class _Batches(MemoryRecords):  # type: ignore[misc]  # kafka-python has no types
    """The batches of one answer of the broker."""

    __slots__ = ()

    def next_batch(self) -> Any:
        batch = super().next_batch()
        return batch if batch is None or batch.magic <= LEGACY_MAGIC else _Batch(batch)


class _Batch:
    """A batch whose iteration never fails, with the attributes that kafka-python's fetcher asks for."""

    def __init__(self, batch: DefaultRecordBatch) -> None:
        self._batch, self._data = batch, batch_bytes(batch)
        self._is_intact = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        return next(self._batch)  # of a control batch

    def validate_crc(self) -> bool:
        """Return True: a wrong checksum makes the records unreadable, and is no error."""
        self._is_intact = self._batch.validate_crc()
        return True

    def __iter__(self) -> Any:
        try:
            if not self._is_intact:
                raise ValueError("its checksum is wrong")
            return iter(list(self._batch))
        except Exception as error:  # each codec has its own errors
            batch = self._batch
            if not 0 <= batch.last_offset_delta < MAX_OFFSETS:
                raise
            text = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            reason = " ".join(text.split())[:MAX_REASON_CHARS]
            value = UnreadableBatch.of(bytes(self._data), batch.base_offset, reason)
            times = batch.max_timestamp, batch.timestamp_type
            return iter([DefaultRecord(len(value), batch.last_offset, *times, None, value, [])])
