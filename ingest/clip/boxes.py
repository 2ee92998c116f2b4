"""Ends the tracks of an MP4 file where its clip ends, in the edit lists that FFmpeg wrote. ISO/IEC 14496-12."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from fractions import Fraction


def trim_edit_lists(moov: bytearray, seconds: Fraction) -> None:
    """End every track of a movie box at a time, in place: packets that are only decoded are not shown any more.

    Args:
        moov: The whole box, as FFmpeg's muxer writes it: each track has an edit list.
    """
    (mvhd,) = _find(moov, 0, len(moov), b"moov", b"mvhd")
    timescale = _read_number(moov, mvhd + (20 if moov[mvhd] else 12), 4)
    most = round(seconds * timescale)
    longest = 0
    for trak, size in _boxes(moov, *_inside(moov, 0)):
        if moov[trak + 4 : trak + 8] != b"trak":
            continue
        left = most
        for elst in _find(moov, trak, trak + size, b"trak", b"edts", b"elst"):
            width = 8 if moov[elst] else 4
            for number in range(_read_number(moov, elst + 4, 4)):
                place = elst + 8 + number * (2 * width + 4)
                left -= _limit_number(moov, place, width, left)
        (tkhd,) = _find(moov, trak, trak + size, b"trak", b"tkhd")
        place, width = (tkhd + 28, 8) if moov[tkhd] else (tkhd + 20, 4)
        longest = max(longest, _limit_number(moov, place, width, most - left))
    place, width = (mvhd + 24, 8) if moov[mvhd] else (mvhd + 16, 4)
    _limit_number(moov, place, width, longest)


def find_moov(head: bytes | bytearray, size: int) -> int:
    """Return the position of a file's movie box, which lies behind the media data; `head` holds the boxes' headers.

    Raises:
        ValueError: If there is none.
    """
    position = 0
    while position + 16 <= len(head):
        length = _read_number(head, position, 4)
        kind = head[position + 4 : position + 8]
        if length == 1:
            length = _read_number(head, position + 8, 8)
        position += length
        if kind == b"mdat" and length and position < size:
            return position
    raise ValueError("no media data before the movie box")


def _boxes(data: bytes | bytearray, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the position and the size of each box."""
    while begin + 8 <= end:
        size = _read_number(data, begin, 4)
        yield begin, size
        begin += max(8, size)


def _inside(data: bytes | bytearray, box: int) -> tuple[int, int]:
    """Return where the content of a box begins and ends."""
    return box + 8, box + _read_number(data, box, 4)


def _find(data: bytes | bytearray, begin: int, end: int, *path: bytes) -> Iterator[int]:
    """Yield where the content of each box lies that a path of types leads to."""
    for box, size in _boxes(data, begin, end):
        if data[box + 4 : box + 8] == path[0]:
            if len(path) == 1:
                yield box + 8
            else:
                yield from _find(data, box + 8, box + size, *path[1:])


def _read_number(data: bytes | bytearray, place: int, width: int) -> int:
    return int(struct.unpack_from(">Q" if width == 8 else ">I", data, place)[0])


def _limit_number(data: bytearray, place: int, width: int, most: int) -> int:
    """Replace a number that is too large; return what it is now."""
    number = min(_read_number(data, place, width), most)
    struct.pack_into(">Q" if width == 8 else ">I", data, place, number)
    return number
