"""Batches that cannot be read are values, and batches of every codec are read, without a broker."""

import zlib
from collections.abc import Sequence
from typing import Any

import pytest
from kafka import TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from ingest.kafka import batches as reading
from ingest.kafka import compression
from ingest.kafka.batches import UnreadableBatch
from ingest.kafka.compression import unpack_snappy

CODECS = {"gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
PLACE = TopicPartition("t", 0)


def batch(offset: int, values: Sequence[bytes], codec: int = 0) -> bytes:
    builder = DefaultRecordBatchBuilder(
        magic=2, compression_type=codec, is_transactional=False, producer_id=-1, producer_epoch=-1, base_sequence=-1,
        batch_size=16 << 20,
    )  # fmt: skip
    for place, value in enumerate(values):
        assert builder.append(place, 1000, b"key", value, []) is not None
    data = bytearray(builder.build())
    data[:8] = offset.to_bytes(8, "big")  # as the broker does
    return bytes(data)


def read(*parts: bytes, offset: int = 0) -> list[Any]:
    """Read batches as kafka-python's consumer does."""
    reading.repair_batches()
    from kafka.consumer import fetcher

    records = fetcher.MemoryRecords(b"".join(parts))
    return list(Fetcher.PartitionRecords(offset, PLACE, records).take(1000))


def with_sum(data: bytes) -> bytes:
    """Return a batch with the checksum that its bytes have now."""
    from kafka.record.util import calc_crc32c

    return data[:17] + calc_crc32c(memoryview(data)[21:]).to_bytes(4, "big") + data[21:]


def test_an_unreadable_batch_stands_between_its_neighbours() -> None:
    torn = bytearray(batch(2, [b"c", b"d", b"e"]))
    torn[-3] ^= 1  # the checksum is wrong
    found = read(batch(0, [b"a", b"b"]), bytes(torn), batch(5, [b"f"]))
    assert [(one.offset, one.value) for one in found] == [
        (0, b"a"), (1, b"b"), (4, bytes(torn)), (5, b"f"),
    ]  # fmt: skip
    assert [type(one.value) for one in found] == [bytes, bytes, UnreadableBatch, bytes]
    assert (found[2].value.first_offset, found[2].value.reason) == (2, "its checksum is wrong")


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_reads_every_codec_and_gets_past_noise_in_it(codec: int) -> None:
    whole = batch(0, [b"a" * 100, b"b" * 100], codec)
    assert len(whole) < 200
    noise = with_sum(whole[:61] + bytes(byte ^ 0xA5 for byte in whole[61:]))
    torn = with_sum(whole[:61] + whole[61:-8])
    torn = torn[:8] + (len(torn) - 12).to_bytes(4, "big") + torn[12:]
    found = read(whole, noise, torn, batch(2, [b"c"], codec))
    assert [one.value for one in found[:2]] == [b"a" * 100, b"b" * 100]
    assert [type(one.value) for one in found[2:]] == [UnreadableBatch, UnreadableBatch, bytes]


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_a_batch_that_unpacks_to_too_much_is_unreadable(codec: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "MAX_UNPACKED_BYTES", 2 << 20)
    found = read(batch(0, [bytes(900_000)], codec), batch(1, [bytes(900_000)] * 3, codec), batch(4, [b"c"]))
    assert [one.offset for one in found] == [0, 3, 4]
    assert found[1].value.reason == "it unpacks to over 2 MiB"


def test_a_codec_of_the_future_and_a_middle_of_a_batch() -> None:
    unknown = with_sum(batch(0, [b"a", b"b"])[:22] + b"\x05" + batch(0, [b"a", b"b"])[23:])
    found = read(unknown, batch(2, [b"c", b"d"]), offset=1)
    assert [(one.offset, type(one.value)) for one in found] == [(1, UnreadableBatch), (2, bytes), (3, bytes)]
    assert "Unrecognized compression type: 5" in found[0].value.reason
    assert [one.offset for one in read(batch(2, [b"c", b"d"]), offset=3)] == [3]


def test_a_header_that_names_a_million_records_is_an_error() -> None:
    damaged = bytearray(batch(0, [b"a"]))
    damaged[23:27] = (1 << 30).to_bytes(4, "big")
    assert DefaultRecordBatch(damaged).last_offset_delta == 1 << 30
    with pytest.raises(Exception, match="checksum is wrong"):
        read(bytes(damaged))


def test_snappy_never_allocates_what_a_block_announces() -> None:
    with pytest.raises(ValueError, match="over 128 MiB"):
        unpack_snappy(b"\xff\xff\xff\xff\x0f" + zlib.compress(b"x"))
    with pytest.raises(ValueError, match="torn"):
        unpack_snappy(b"\xff\xff\xff\xff\xff\xff")
