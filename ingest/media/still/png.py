"""Makes PNG safe and readable: compressed text that unpacks without bounds, rows without end, damaged EXIF data, and
pictures with a colour profile.
"""

from __future__ import annotations  # av's Packet is generic for type checkers only

import bisect
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from av.packet import Packet
from av.video.codeccontext import VideoCodecContext

from ingest.errors import DecodeError
from ingest.media.container import MAX_CHUNK_COUNT, MediaFile

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_EXIF_BYTES = 1 << 20  # of EXIF data that is read; photos have some 30 KB
EXIF_HEADER = b"Exif\0\0"  # belongs before EXIF data in JPEG only
UNKNOWN_CHUNK = b"exIf"  # a name that decoders skip: lower case for ancillary and private
# Chunks that FFmpeg unpacks into memory without a bound: 4 MB of them become 4 GB. No picture needs them; Pillow reads
# the colour profile, within a bound.
UNBOUNDED = frozenset({b"zTXt", b"iTXt", b"iCCP"})
PROFILED_CODECS = frozenset({"png", "apng"})  # whose decoders give side data a name
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # colour type of the header -> samples of a pixel
# Bytes that the data of a picture may have beyond its rows. FFmpeg unpacks them all: these take a tenth of a second.
MAX_EXCESS_BYTES = 128 << 20
MAX_DEFLATE_RATIO = 1032  # bytes that a byte of deflated data can become
MAX_PNG_CHUNKS = 200_000  # of a file; large pictures have one for each 8 KB, and reading their names takes a second
PIECE_BYTES = 64 << 10  # of data that is read at once
UNPACKED_BYTES = 1 << 20  # that are unpacked at once


@dataclass(frozen=True, slots=True, kw_only=True)
class PngChunk:
    """A chunk of a PNG file: where its length stands, its name, and the length of its content."""

    position: int
    kind: bytes
    length: int


def read_chunks(file: MediaFile) -> Iterator[PngChunk]:
    """Yield the chunks of a PNG file, up to its end or the first that is none; the file allows seeking."""
    file.seek(0)
    if file.read(len(SIGNATURE)) != SIGNATURE:
        return
    position = len(SIGNATURE)
    while True:
        file.seek(position)
        head = file.read(8)
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if len(head) < 8 or not kind.isalpha():
            return
        yield PngChunk(position=position, kind=kind, length=length)
        if kind == b"IEND":
            return
        position += 12 + length


class _PatchedFile(MediaFile):
    """A file some of whose bytes are others."""

    def __init__(self, file: MediaFile, patches: Sequence[tuple[int, bytes]]) -> None:
        """Take the file, and the position and the content of each patch; they do not overlap."""
        super().__init__(file._file, file._on_read)
        earlier = file._patches if isinstance(file, _PatchedFile) else []
        self._patches: list[tuple[int, bytes]] = sorted([*earlier, *patches])
        self._longest = max((len(patch) for _, patch in self._patches), default=0)

    def read(self, size: int) -> bytes:
        position = self.tell()
        data = bytearray(super().read(size))
        stop = position + len(data)
        first = bisect.bisect_left(self._patches, (position - self._longest, b""))
        for offset, patch in self._patches[first : bisect.bisect_left(self._patches, (stop, b""))]:
            begin, end = max(position, offset), min(stop, offset + len(patch))
            if begin < end:
                data[begin - position : end - position] = patch[begin - offset : end - offset]
        return bytes(data)


def _hidden_name(kind: bytes) -> bytes:
    """Return the name of a chunk that no decoder knows: its second letter in lower case, for private."""
    return kind[:1] + kind[1:2].lower() + kind[2:]


# ------------------------------------------------------------------ bombs
def defuse(file: MediaFile, uri: str) -> MediaFile:
    """Return a PNG file without the chunks that decoders unpack without a bound; other files as they are.

    Raises:
        DecodeError: If the data of its pictures unpack to over MAX_EXCESS_BYTES more than their rows, or if it has
            more than MAX_PNG_CHUNKS.
    """
    if not file.seekable():
        return file
    patches, pictures, header = list[tuple[int, bytes]](), list[_Picture](), b""
    for number, chunk in enumerate(read_chunks(file)):
        if number >= MAX_PNG_CHUNKS:
            raise DecodeError(uri, f"a PNG of more than {MAX_PNG_CHUNKS:,} chunks")
        if chunk.kind in UNBOUNDED:
            patches.append((chunk.position + 4, _hidden_name(chunk.kind)))
        elif chunk.kind == b"IHDR":
            header = file.read(13)
            pictures.append(_Picture.of(header, header[:8]))
        elif chunk.kind == b"fcTL" and pictures:  # the next picture of an animation, of a size of its own
            pictures.append(_Picture.of(header, file.read(12)[4:]))
        elif chunk.kind in (b"IDAT", b"fdAT") and pictures:
            pictures[-1].data.append(chunk)
    for picture in pictures:
        picture.check(file, uri)
    return _PatchedFile(file, patches) if patches else file


@dataclass(frozen=True, slots=True, kw_only=True)
class _Picture:
    """The rows of one picture in a PNG file, in bytes, and the chunks of its data."""

    row_bytes: int
    data: list[PngChunk]

    @classmethod
    def of(cls, header: bytes, size: bytes) -> _Picture:
        """Read the file's header, and the width and height of a picture in it, which may be cut off."""
        width, height = int.from_bytes(size[:4], "big"), int.from_bytes(size[4:8], "big")
        depth, colour, interlace = header[8:9], header[9:10], header[12:13]
        bits = int.from_bytes(depth, "big") * CHANNELS.get(int.from_bytes(colour, "big"), 4)
        whole = height * (1 + (width * bits + 7) // 8)
        return cls(row_bytes=whole * (2 if interlace == b"\1" else 1), data=[])  # rows of seven passes, rounded up

    def check(self, file: MediaFile, uri: str) -> None:
        """Unpack the data, if they can be too large, until they are."""
        most = self.row_bytes + MAX_EXCESS_BYTES
        if sum(chunk.length for chunk in self.data) * MAX_DEFLATE_RATIO <= most:
            return
        inflater, count = zlib.decompressobj(), 0
        for piece in self._pieces(file):
            while piece:
                try:
                    count += len(inflater.decompress(piece, UNPACKED_BYTES))
                except zlib.error:
                    return  # decoders stop here too
                if count > most:
                    raise DecodeError(uri, f"a PNG whose data unpack to over {most >> 20} MiB, its rows to less")
                piece = inflater.unconsumed_tail
            if inflater.eof:
                return

    def _pieces(self, file: MediaFile) -> Iterator[bytes]:
        for chunk in self.data:
            begin = chunk.position + (12 if chunk.kind == b"fdAT" else 8)  # after a sequence number
            end = chunk.position + 8 + chunk.length
            for position in range(begin, end, PIECE_BYTES):
                file.seek(position)
                yield file.read(min(PIECE_BYTES, end - position))


# ------------------------------------------------------------------ colour profiles
def hide_profile(context: VideoCodecContext, packet: Packet[Any]) -> None:
    """Rename the colour profile and the compressed texts of a PNG picture, so that its decoder skips them.

    The frame's side data would have a profile with a name, which PyAV 18.1 frees twice: the process dies. No other
    decoder of FFmpeg gives side data a name.
    """
    if context.codec.canonical_name not in PROFILED_CODECS:
        return
    extradata = context.extradata or b""  # the chunks before the first picture of an APNG
    hidden = _hide_chunks(extradata)
    if hidden != extradata:
        context.extradata = hidden
    data = bytes(packet)
    hidden = _hide_chunks(data)
    if hidden != data:
        packet.update(hidden)


def _hide_chunks(data: bytes) -> bytes:
    """Rename the chunks in UNBOUNDED of a packet, which may begin with a file's signature."""
    position, changed = len(SIGNATURE) if data.startswith(SIGNATURE) else 0, bytearray(data)
    while len(kind := data[position + 4 : position + 8]) == 4:
        if kind in UNBOUNDED:
            changed[position + 4 : position + 8] = _hidden_name(kind)
        position += 12 + int.from_bytes(data[position : position + 4], "big")
    return bytes(changed)


# ------------------------------------------------------------------ EXIF data
def repair_exif(file: MediaFile) -> Iterator[MediaFile]:
    """Yield a PNG file with its EXIF data as FFmpeg may accept it, then with none. Without EXIF data, yield nothing."""
    if not file.seekable():
        return
    for number, chunk in enumerate(read_chunks(file)):
        if number >= MAX_CHUNK_COUNT:
            return
        if chunk.kind == b"eXIf":
            exif = file.read(min(chunk.length, MAX_EXIF_BYTES))
            if exif.startswith(EXIF_HEADER):
                start = chunk.position + 8
                yield _PatchedFile(file, [(start, exif[len(EXIF_HEADER) :] + bytes(len(EXIF_HEADER)))])
            yield _PatchedFile(file, [(chunk.position + 4, UNKNOWN_CHUNK)])
            return
