"""Unpacks batches of records in every codec of Kafka, up to a bound.

kafka-python unpacks without a bound: a batch of some kilobytes can hold gigabytes of zeros. Each function here raises a
ValueError for more than MAX_UNPACKED_BYTES, and its codec's own error for bytes that are no such batch.
"""

import gzip
import io
from typing import Protocol

import lz4.frame
import snappy
import zstandard

# Of one batch, unpacked. A batch holds at least one record of MAX_RECORD_BYTES; producers that batch records send
# some megabytes at a time.
MAX_UNPACKED_BYTES = 128 << 20
PIECE_BYTES = 1 << 20  # of one read
XERIAL_MARK, XERIAL_HEADER_BYTES = b"\x82SNAPPY\x00", 16  # how Java's snappy streams begin; blocks follow the header


class _Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...


def unpack_gzip(data: bytes) -> bytes:
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
        return _read_all(stream)


def unpack_lz4(data: bytes) -> bytes:
    with lz4.frame.LZ4FrameFile(io.BytesIO(data)) as stream:
        return _read_all(stream)


def unpack_zstd(data: bytes) -> bytes:
    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True) as stream:
        return _read_all(stream)


def unpack_snappy(data: bytes) -> bytes:
    """Unpack one block, or the blocks of a stream as Java's snappy writes it."""
    if not data.startswith(XERIAL_MARK):
        _check_size(_snappy_size(data))
        return bytes(snappy.decompress(data))
    unpacked, place = io.BytesIO(), XERIAL_HEADER_BYTES
    while place < len(data):
        end = place + 4 + int.from_bytes(data[place : place + 4], "big")
        block = data[place + 4 : end]
        _check_size(unpacked.tell() + _snappy_size(block))
        unpacked.write(snappy.decompress(block))
        place = end
    return unpacked.getvalue()


def _read_all(stream: _Stream) -> bytes:
    unpacked = io.BytesIO()
    while piece := stream.read(PIECE_BYTES):
        unpacked.write(piece)
        _check_size(unpacked.tell())
    return unpacked.getvalue()


def _check_size(byte_count: int) -> None:
    if byte_count > MAX_UNPACKED_BYTES:
        raise ValueError(f"it unpacks to over {MAX_UNPACKED_BYTES >> 20} MiB")


def _snappy_size(block: bytes) -> int:
    """Return the size that a block announces: a number in groups of seven bits, the lowest first."""
    size = 0
    for place, byte in enumerate(block[:5]):
        size |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return size
    raise ValueError("a block of snappy is torn")
