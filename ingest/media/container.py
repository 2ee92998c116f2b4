"""Opens untrusted bytes as media."""

from __future__ import annotations  # av's Packet is generic for type checkers only

import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, BinaryIO, NoReturn

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from ingest.config import DecodeConfig
from ingest.errors import DecodeError, LimitExceeded

# The allowed demuxers: none that opens other files or addresses (hls, dash, concat, sdp, image2, vobsub, lavfi,
# devices), and none that takes plain text for a video. Still pictures are allowed: queries may have one.
DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,live_flv,asf,asf_o,ogg,gif,apng,png_pipe,jpeg_pipe,webp_pipe,bmp_pipe,tiff_pipe,nut,mxf,"
    "gxf,dv,rm,ivf,h261,h263,h264,hevc,vvc,av1,obu,evc,m4v,vc1,vc1test,cavsvideo,dirac,mjpeg,yuv4mpegpipe,dhav,"
    "wtv,swf,roq,smk,bink,flic,webp,mp3,aac,loas,wav,w64,aiff,au,caf,flac,amr,amrnb,amrwb,ac3,eac3,ac4,dts,dtshd,"
    "truehd,mlp,ape,tta,tak,wv,mpc,mpc8,oma,qcp,gsm,voc,iff,xwma,shn,sbc,opus"
)
READ_BYTES = 128 << 10  # of one read of the file; containers that seek much would waste larger ones
# FFmpeg's muxer wrote this for "unknown" in Matroska files without a duration: 2^32 - 1 ms.
UNKNOWN_DURATION_SECONDS = 4_294_967.0
MOV = "mov,mp4,m4a,3gp,3g2,mj2"  # FFmpeg's name of the demuxer for MP4 and HEIF
# Demuxers that read the duration from a header; others guess it from sizes or timestamps.
WITH_DURATION = (MOV, "matroska,webm", "avi", "flv", "asf", "wav", "nut", "mxf")
MISSING_SECONDS = 2.0  # data may end this much before the header's duration, for rounding
MISSING_SHARE = 0.05  # or this share of the duration before it, if that is longer
MAX_BOX_COUNT = 10_000  # at the top level of an MP4; fragmented recordings of a day have more, with moov first
MAX_CHUNK_COUNT = 10_000  # of a PNG, before its animation or its EXIF data; large pictures have one for each 8 KB
RIFF_SLACK_BYTES = 4096  # a file may be this much shorter than its header announces, for rounding
FAIRPLAY_TAG = "drms"  # of sound that Apple's stores sold, which FFmpeg takes for AAC
NOT_MEDIA = "not a media file"
# Files that people take for media: their first bytes without spaces in lower case, what they are, and what to do. For
# manifests of DASH, FFmpeg needs libxml2, which PyAV's wheels lack.
_TEXTS = (
    (b"#extm3u", "a playlist (HLS)", "kinodex publish takes it as a stream; or name the files in it"),
    (
        b"<mpd",
        "a manifest (DASH)",
        "kinodex publish takes it if PyAV has FFmpeg's dash; or name the files in it",
    ),
    (b"<smoothstreamingmedia", "a manifest (Smooth Streaming)", "name the files in it"),
    (b"<smil", "a playlist", "name the files in it"),
    (b"<asx", "a playlist", "name the files in it"),
    (b"[playlist]", "a playlist", "name the files in it"),
    (b"[reference]", "a playlist", "name the files in it"),
    (b"<!doctypehtml", "a web page", "name the address of the video itself"),
    (b"<html", "a web page", "name the address of the video itself"),
    (b"\x1f\x8b", "compressed (gzip)", "unpack it first"),
    (b"pk\3\4", "an archive (ZIP)", "unpack it first"),
)
_MARKUP = re.compile(rb"<\?.*?\?>|<!--.*?-->", re.DOTALL)  # XML's declarations and comments, which precede its content
TEXT_BYTES = 4096  # of a text, to tell what it is; comments may come first


class MediaFile:
    """A file as FFmpeg sees it: read and seek, but no name. Calls `on_read` at each read, for the watchdog.

    Several of one file that allows seeking do not disturb each other: each has its own position.

    Args:
        begin: Where in the file it begins.
        header: Bytes that it has before these.
    """

    def __init__(self, file: BinaryIO, on_read: Callable[[], None], *, begin: int = 0, header: bytes = b"") -> None:
        self._file, self._on_read, self._header = file, on_read, header
        self.offset = begin - len(header)  # of the file's positions before its own
        self._position = 0

    def view(self, begin: int = 0, header: bytes = b"") -> MediaFile:
        """Return another one of the same file, which must allow seeking."""
        return MediaFile(self._file, self._on_read, begin=begin, header=header)

    def read(self, size: int) -> bytes:
        self._on_read()
        if not self._file.seekable():
            return self._file.read(size)
        if self._position < len(self._header):
            data = self._header[self._position :][:size]
        else:
            self._file.seek(self._position + self.offset)
            data = self._file.read(size)
        self._position += len(data)
        return data

    def seekable(self) -> bool:
        return self._file.seekable()

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence == 2:
            offset += self._file.seek(0, 2) - self.offset
        elif whence == 1:
            offset += self._position
        if offset < 0:
            raise ValueError(f"seek to {offset}")
        self._position = offset
        return offset

    def tell(self) -> int:
        return self._position


def open_container(file: MediaFile, uri: str, config: DecodeConfig, format: str | None = None) -> InputContainer:
    """Open media so that it can read nothing but its own bytes.

    Args:
        format: FFmpeg's name of its demuxer, where it is known.

    Raises:
        DecodeError: If it is not media, or its header is damaged.
        LimitExceeded: If it has more streams than max_streams.
    """
    try:
        container = _open(file, format)
    except av.error.FFmpegError as error:
        if isinstance(error, MemoryError):
            raise
        # FFmpeg does not recognise a JPEG with something behind it, such as the film of a motion photo.
        if not _is_jpeg(file):
            raise DecodeError(uri, *explain_unreadable(file)) from error
        container = _open(file, "jpeg_pipe")
    # FFmpeg looks for the mark of an animation in the first 2 KB only, and a colour profile before it may be longer.
    if container.format.name == "png_pipe" and is_animated_png(file):
        container.close()
        container = _open(file, "apng")
    if len(container.streams) > config.max_streams:
        count = len(container.streams)
        container.close()
        raise LimitExceeded(uri, "max_streams", f"{count} streams, at most {config.max_streams} are read")
    return container


def _open(file: MediaFile, format: str | None) -> InputContainer:
    """Open media in a format; None: FFmpeg finds it out."""
    if file.seekable():
        file.seek(0)
    return av.open(
        file,
        mode="r",
        format=format,
        container_options={"format_whitelist": DEMUXERS, "protocol_whitelist": "none"},
        io_open=_refuse_to_open,
        buffer_size=READ_BYTES,
        metadata_errors="replace",
    )


def is_animated_png(file: MediaFile) -> bool:
    """Whether a PNG file is an animation: its chunk "acTL" comes before those of the first picture."""
    if not file.seekable():
        return False
    position = 8  # behind the signature
    for _ in range(MAX_CHUNK_COUNT):
        file.seek(position)
        head = file.read(8)
        if len(head) < 8 or head[4:] in (b"IDAT", b"IEND"):
            return False
        if head[4:] == b"acTL":
            return True
        position += 12 + int.from_bytes(head[:4], "big")
    return False


def _is_jpeg(file: MediaFile) -> bool:
    if not file.seekable():
        return False
    file.seek(0)
    return file.read(3) == b"\xff\xd8\xff"


def _refuse_to_open(url: str, flags: int, options: dict[str, Any]) -> NoReturn:
    raise PermissionError(f"media may open no other file, asked for {url!r}")


def explain_unreadable(file: MediaFile) -> tuple[str, str]:
    """Say why FFmpeg could not open a file, and what to do, which may be empty."""
    if not file.seekable():
        return NOT_MEDIA, ""
    file.seek(0)
    head = file.read(TEXT_BYTES)
    if not head:
        return "empty file", ""
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return _explain_mp4(file), ""
    text = b"".join(_MARKUP.sub(b"", head.removeprefix(b"\xef\xbb\xbf")).split()).lower()
    for beginning, kind, remedy in _TEXTS:
        if text.startswith(beginning):
            return f"{NOT_MEDIA} but {kind}", remedy
    return NOT_MEDIA, ""


def _explain_mp4(file: MediaFile) -> str:
    if b"moov" in read_boxes(file):
        return "the mp4's moov box is damaged"
    return "no moov box: the mp4 was never finished"


def read_boxes(file: MediaFile) -> Iterator[bytes]:
    """Yield the types of the boxes at the top level of an MP4 or HEIF file."""
    position, size = 0, file.seek(0, 2)
    for _ in range(MAX_BOX_COUNT):
        if position + 8 > size:
            return
        file.seek(position)
        head = file.read(16)  # 32-bit size, type, and a 64-bit size if the first is 1
        yield head[4:8]
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length < 8:
            return
        position += length


def read_duration(container: InputContainer) -> float | None:
    """Return the duration that the header states; None if it states none or an impossible one."""
    seconds = container.duration / 1e6 if container.duration is not None else 0.0
    return seconds if 0 < seconds < UNKNOWN_DURATION_SECONDS else None


def read_end(container: InputContainer) -> Fraction | None:
    """Return the container's time at which it ends by its header, in seconds; None if the header does not say."""
    seconds = read_duration(container)
    if seconds is None or container.format.name not in WITH_DURATION:
        return None
    return Fraction(seconds) + Fraction(max(0, container.start_time or 0), 1_000_000)


def is_encrypted(packet: Packet[Stream]) -> bool:
    """Whether a packet is of a track that only its seller's player can read; decoding it would give noise."""
    try:
        tag = packet.stream.codec_context.codec_tag
    except UnicodeDecodeError:  # PyAV takes it for ASCII, and it may be any four bytes
        tag = ""
    return tag == FAIRPLAY_TAG or packet.has_sidedata("encryption_info")


def is_truncated(container: InputContainer, file: MediaFile, end: Fraction | None) -> bool:
    """Whether the bytes end before the end that the header announces.

    Args:
        end: The container's time at which they end; None: it is not known, or the times jump.
    """
    if _is_truncated_riff(container, file):
        return True
    declared = read_duration(container)
    if declared is None or end is None or container.format.name not in WITH_DURATION:
        return False
    start = (container.start_time or 0) / 1e6
    missing = declared - max(float(end) - start, float(end))  # Matroska counts from zero
    return missing > max(MISSING_SECONDS, MISSING_SHARE * declared)


def _is_truncated_riff(container: InputContainer, file: MediaFile) -> bool:
    """Whether a RIFF file (AVI, WAV) is shorter than its header says; FFmpeg corrects the duration silently."""
    if container.format.name not in ("avi", "wav") or not file.seekable():
        return False
    file.seek(0)
    head, size = file.read(8), file.seek(0, 2)
    announced = int.from_bytes(head[4:8], "little")
    return head[:4] == b"RIFF" and 0 < announced < 0xFFFFFFFF and size < announced + 8 - RIFF_SLACK_BYTES


def is_heif_item(stream: Stream) -> bool:
    """Whether FFmpeg made a stream of a HEIF picture: it has one packet, and no duration as tracks have."""
    return stream.container.format.name == MOV and stream.frames == 1 and stream.duration is None


def refuse_tiles(container: InputContainer, uri: str) -> None:
    """Refuse a HEIF picture in tiles, each of which FFmpeg takes for a video. `still.heif` reads whole files.

    Raises:
        DecodeError: If the container holds such a picture, and no track.
    """
    streams = container.streams.video
    if any(s.disposition & Disposition.dependent for s in streams) and all(map(is_heif_item, streams)):
        raise DecodeError(uri, "a HEIF picture in tiles, which is read from a whole file only", "index the file")


def is_shown_in_order(stream: VideoStream) -> bool:
    """Whether the pictures of an AVI are shown in the order in which they are stored.

    AVI stores no presentation times, and FFmpeg's guesses are wrong; then, the decoding times are right.
    """
    return stream.container.format.name == "avi" and stream.codec_context.reorder_depth == 0
