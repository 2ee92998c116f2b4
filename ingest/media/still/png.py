"""Repairs PNG: files with damaged EXIF data, of which FFmpeg decodes nothing, and pictures with a colour profile."""

from __future__ import annotations  # av's Packet is generic for type checkers only

from collections.abc import Iterator
from typing import Any

from av.packet import Packet
from av.video.codeccontext import VideoCodecContext

from ingest.media.container import MAX_CHUNK_COUNT, MediaFile

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_EXIF_BYTES = 1 << 20  # of EXIF data that is read; photos have some 30 KB
EXIF_HEADER = b"Exif\0\0"  # belongs before EXIF data in JPEG only
UNKNOWN_CHUNK = b"exIf"  # a name that decoders skip: lower case for ancillary and private
PROFILE, UNKNOWN_PROFILE = b"iCCP", b"icCP"
PROFILED_CODECS = frozenset({"png", "apng"})  # whose decoders give side data a name


def hide_profile(context: VideoCodecContext, packet: Packet[Any]) -> None:
    """Rename the colour profile of a PNG picture, so that its decoder skips it; others stay as they are.

    The frame's side data would have a profile with a name, which PyAV 18.1 frees twice: the process dies. No other
    decoder of FFmpeg gives side data a name.
    """
    if context.codec.canonical_name not in PROFILED_CODECS:
        return
    extradata = context.extradata or b""  # the chunks before the first picture of an APNG
    if PROFILE in extradata:
        context.extradata = extradata.replace(PROFILE, UNKNOWN_PROFILE)
    data = bytes(packet)
    at = data.find(PROFILE, 0, data.find(b"IDAT"))
    if at >= 0:
        packet.update(data[:at] + UNKNOWN_PROFILE + data[at + len(PROFILE) :])


class _PatchedFile(MediaFile):
    """A file some of whose bytes are others."""

    def __init__(self, file: MediaFile, offset: int, patch: bytes) -> None:
        super().__init__(file._file, file._on_read)
        self._offset, self._patch = offset, patch

    def read(self, size: int) -> bytes:
        position = self.tell()
        data = bytearray(super().read(size))
        begin, end = max(position, self._offset), min(position + len(data), self._offset + len(self._patch))
        if begin < end:
            data[begin - position : end - position] = self._patch[begin - self._offset : end - self._offset]
        return bytes(data)


def repair_exif(file: MediaFile) -> Iterator[MediaFile]:
    """Yield a PNG file with its EXIF data as FFmpeg may accept it, then with none. Without EXIF data, yield nothing."""
    if not file.seekable():
        return
    file.seek(0)
    if file.read(len(SIGNATURE)) != SIGNATURE:
        return
    position = len(SIGNATURE)
    for _ in range(MAX_CHUNK_COUNT):
        file.seek(position)
        head = file.read(8)
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if len(head) < 8 or kind == b"IEND":
            return
        if kind == b"eXIf":
            exif = file.read(min(length, MAX_EXIF_BYTES))
            if exif.startswith(EXIF_HEADER):
                yield _PatchedFile(file, position + 8, exif[len(EXIF_HEADER) :] + bytes(len(EXIF_HEADER)))
            yield _PatchedFile(file, position + 4, UNKNOWN_CHUNK)
            return
        position += 12 + length
