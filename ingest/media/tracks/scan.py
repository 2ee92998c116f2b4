"""Finds pictures and sound in the bytes of containers whose streams may begin anywhere: MPEG-TS, MPEG-PS and FLV.

FFmpeg reads such streams, but PyAV gives only those that were there when the file was opened. This says where others
begin; FFmpeg is then opened there.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ingest.media.container import MediaFile

Kind = Literal["video", "audio"]
BLOCK_BYTES = 64 << 10  # scanned at a time; transport packets are aligned anew in each
# Bytes of a transport packet: plain, of Blu-ray and AVCHD (behind a time of 4 bytes), of DVB recorders.
TS_SIZES = (188, 192, 204)
SYNC = 0x47  # first byte of a transport packet
MIN_ALIGNED_SHARE = 0.8  # of a block's packets must begin with SYNC; bytes at random: 0.4 %
MAX_PACK_BYTES = 1 << 20  # from a packet of a program stream back to the pack header before it; packs have some KB
MAX_TABLE_BYTES = 4 << 20  # from a transport packet back to the table before it, which comes every 0.1 to 0.5 s
PES_START = re.compile(rb"\x00\x00\x01([\xbd\xc0-\xef])(..)", re.DOTALL)
PACK_START = b"\x00\x00\x01\xba"
PRIVATE = 0xBD  # AC-3, DTS and PCM, and subtitles
FLV_HEADER = b"FLV\x01\x05\x00\x00\x00\x09\x00\x00\x00\x00"  # announces both pictures and sound
FLV_KINDS: dict[int, Kind] = {8: "audio", 9: "video"}


@dataclass(frozen=True, slots=True)
class Piece:
    """The beginning of a packet of pictures or sound."""

    position: int  # of its first byte in the file
    kind: Kind
    key: int  # of its stream: PID, stream id, or codec


@dataclass(frozen=True, slots=True)
class ScannedFormat:
    """How to find packets of one container."""

    scan: Callable[[MediaFile, int, int], Iterator[Piece]]  # file, first position, end -> packets in between
    # The same -> positions at which it says that codecs change, or that streams come and go.
    find_changes: Callable[[MediaFile, int, int], Iterator[int]]
    anchor: Callable[[MediaFile, int], int]  # position of a packet -> where a demuxer can begin to read it
    header: bytes = b""  # that a demuxer needs before it
    # Whether several streams of a kind run side by side. FFmpeg numbers them by their keys; scans may begin anywhere.
    has_neighbours: bool = True


def _kind_of(stream_id: int) -> Kind | None:
    if 0xE0 <= stream_id <= 0xEF:
        return "video"
    # 0xBD is private: mostly AC-3. 0xFD: codecs younger than the standard; on optical discs VC-1.
    return "audio" if 0xC0 <= stream_id <= 0xDF or stream_id in (PRIVATE, 0xFD) else None


def _read(file: MediaFile, position: int, size: int) -> bytes:
    file.seek(position)
    parts = []
    while size > 0 and (data := file.read(size)):
        parts.append(data)
        size -= len(data)
    return b"".join(parts)


# ---- MPEG-TS


def _align(data: bytes) -> tuple[int, int]:
    """Return the size of the transport packets of a block, and where the first one begins; (0, 0) if there are none."""
    sync = np.frombuffer(data, dtype=np.uint8) == SYNC
    shares = ((sync[begin::size].mean(), size, begin) for size in TS_SIZES for begin in range(min(size, len(data))))
    best = max(shares, default=(0, 0, 0))
    return (best[1], best[2]) if best[0] >= MIN_ALIGNED_SHARE else (0, 0)


def _blocks_of_packets(file: MediaFile, begin: int, end: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield positions of blocks, and their transport packets: uint8 (P, size). Damaged parts are passed over."""
    size = 0
    while begin < end:
        data = _read(file, begin, min(BLOCK_BYTES, end - begin + max(TS_SIZES)))
        first = 0
        if not data:
            return
        if not size or np.mean(np.frombuffer(data, dtype=np.uint8)[::size] == SYNC) < MIN_ALIGNED_SHARE:
            size, first = _align(data)
        count = (len(data) - first) // size if size else 0
        if count:
            yield begin + first, np.frombuffer(data, dtype=np.uint8, count=count * size, offset=first).reshape(-1, size)
            begin += first + count * size
        else:
            begin += len(data)


def _units(file: MediaFile, begin: int, end: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield the position, the PID and the first bytes of all that begins in a transport packet: tables and packets."""
    for position, packets in _blocks_of_packets(file, begin, end):
        size = packets.shape[1]
        head = packets[:, :188]
        for row in np.flatnonzero((head[:, 0] == SYNC) & (head[:, 1] & 0x40 > 0) & (head[:, 3] & 0x10 > 0)):
            packet = head[row].tobytes()
            payload = 4 + (1 + packet[4] if packet[3] & 0x20 else 0)
            place = position + int(row) * size - (size == 192) * 4
            if begin <= place < end:
                yield place, (packet[1] & 0x1F) << 8 | packet[2], packet[payload:]


def _scan_ts(file: MediaFile, begin: int, end: int) -> Iterator[Piece]:
    for position, pid, payload in _units(file, begin, end):
        if payload[:3] == b"\x00\x00\x01" and len(payload) > 3:
            kind = _kind_of(payload[3])
            if kind is not None:
                yield Piece(position, kind, pid)


def _find_changes_ts(file: MediaFile, begin: int, end: int) -> Iterator[int]:
    tables: dict[int, bytes] = {}  # PID -> the table that lists the streams of a program
    for position, pid, payload in _units(file, begin, end):
        if payload[:2] != b"\x00\x02":
            continue
        table = payload[: 4 + int.from_bytes(payload[2:4], "big") % 4096]
        if tables.setdefault(pid, table) != table:
            tables[pid] = table
            yield position


def _anchor_ts(file: MediaFile, position: int) -> int:
    """Return the position of the program table (PID 0) before a packet."""
    begin = max(0, position - MAX_TABLE_BYTES)
    last = position
    for start, packets in _blocks_of_packets(file, begin, position):
        is_table = (packets[:, 0] == SYNC) & (packets[:, 1] & 0x1F == 0) & (packets[:, 2] == 0)
        rows = np.flatnonzero(is_table & (start + np.arange(len(packets)) * packets.shape[1] <= position))
        if len(rows):
            last = start + int(rows[-1]) * packets.shape[1]
    return last


# ---- MPEG-PS


def _scan_ps(file: MediaFile, begin: int, end: int) -> Iterator[Piece]:
    while begin < end:
        data = _read(file, begin, min(BLOCK_BYTES, end - begin) + 64)
        for match in PES_START.finditer(data):
            position, stream_id = begin + match.start(), match[1][0]
            kind = _kind_of(stream_id)
            if kind is None or match.start() >= BLOCK_BYTES or position >= end:
                continue
            length = int.from_bytes(match[2], "big")
            if _read(file, position + 6 + length, 3) != b"\x00\x00\x01":
                continue  # these bytes are something else
            key = 0x100 | stream_id
            if stream_id == PRIVATE:
                header = data[match.start() : match.start() + 64]
                payload = 9 + header[8] if len(header) > 8 else len(header)
                key = header[payload] if payload < len(header) else 0
                if 0x20 <= key < 0x40:  # subtitles
                    continue
            yield Piece(position, kind, key)
        begin += BLOCK_BYTES
        if not data:
            return


def _anchor_ps(file: MediaFile, position: int) -> int:
    """Return the position of the pack header before a packet."""
    begin = max(0, position - MAX_PACK_BYTES)
    place = _read(file, begin, position - begin).rfind(PACK_START)
    return begin + place if place >= 0 else position


# ---- FLV


def _scan_flv(file: MediaFile, begin: int, end: int) -> Iterator[Piece]:
    """Walk from tag to tag. The first position must be that of a tag, or within the header."""
    position = max(begin, len(FLV_HEADER))
    data, start = b"", position
    while position < end:
        if position + 16 > start + len(data):
            data, start = _read(file, position, BLOCK_BYTES), position
            if len(data) < 16:
                return
        tag = data[position - start :][:16]
        kind, length = FLV_KINDS.get(tag[0] & 0x1F), int.from_bytes(tag[1:4], "big")
        if kind is not None and length:
            codec = tag[11] >> 4 if kind == "audio" else tag[11] & 0x8F
            if codec == 9 or codec & 0x80:  # four letters follow
                codec = int.from_bytes(tag[12:16], "big")
            yield Piece(position, kind, codec)
        position += 15 + length


def _find_none(file: MediaFile, begin: int, end: int) -> Iterator[int]:
    return iter(())


SCANNED: dict[str, ScannedFormat] = {
    "mpegts": ScannedFormat(_scan_ts, _find_changes_ts, _anchor_ts),
    "mpeg": ScannedFormat(_scan_ps, _find_none, _anchor_ps),
    "flv": ScannedFormat(_scan_flv, _find_none, lambda file, position: position, FLV_HEADER, has_neighbours=False),
}
