"""Reads the subtitle tracks of a container, before its pictures and sound are decoded."""

from __future__ import annotations  # av's Packet is generic for type checkers only

import re
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import cast

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition, Stream
from av.subtitles.stream import SubtitleStream
from av.subtitles.subtitle import AssSubtitle

from ingest.config import DecodeConfig
from ingest.media.container import MediaFile, open_container
from ingest.subtitles.collector import Collector
from ingest.subtitles.encoding import find_encoding
from ingest.subtitles.limits import MAX_COUNT, MAX_FILE_BYTES
from ingest.values import SubtitleKind, SubtitleTrack

CAPTIONS = ("cc_dec", "eia_608")  # FFmpeg's names of the decoder of captions in a track of their own
BINARY = ("mov_text",)  # codecs whose packets are not text only
ASS_FIELDS = 8  # of a line as FFmpeg's decoders give it, before its text
TITLES: tuple[tuple[SubtitleKind, re.Pattern[str]], ...] = (
    ("commentary", re.compile("comment|kommentar", re.IGNORECASE)),
    ("forced", re.compile("forced|forcé|erzwungen|signs|foreign", re.IGNORECASE)),
    ("impaired", re.compile(r"\bsdh\b|\bcc\b|hearing|hörgesch", re.IGNORECASE)),
)


@dataclass(slots=True)
class _Packets:
    """The packets of one track."""

    found: list[tuple[Fraction, Fraction | None, bytes]] = field(default_factory=list)  # start, length, data
    size_bytes: int = 0
    is_cut: bool = False

    def add(self, packet: Packet[Stream]) -> None:
        base = packet.stream.time_base
        if packet.pts is None or base is None:
            return
        self.size_bytes += packet.size
        if len(self.found) >= MAX_COUNT or self.size_bytes > MAX_FILE_BYTES:
            self.is_cut = True
            return
        length = packet.duration * base if packet.duration else None
        self.found.append((packet.pts * base, length, bytes(packet)))


class SubtitleTracks:
    """The subtitle tracks of one input.

    Reading costs a pass over the file, whose packets of pictures and sound are not decoded. Only files with a track of
    text pay for it.
    """

    def __init__(self, container: InputContainer, file: MediaFile, uri: str, config: DecodeConfig) -> None:
        self._uri, self._config = uri, config
        self._streams = [s for s in container.streams if _is_subtitle(s)] if config.read_subtitles else []
        self._packets: dict[int, _Packets] = {s.index: _Packets() for s in self._streams if _is_text(s)}
        if self._packets and file.seekable():
            self._read(file.view())

    def _read(self, file: MediaFile) -> None:
        with open_container(file, self._uri, self._config) as container:
            for stream in container.streams:
                if stream.index not in self._packets:
                    stream.discard = Discard.all
            try:
                for packet in container.demux([s for s in container.streams if s.index in self._packets]):
                    if packet.size:
                        self._packets[packet.stream.index].add(packet)
            except (av.error.FFmpegError, IndexError) as error:  # IndexError: a stream appeared
                if isinstance(error, MemoryError):
                    raise

    def decode(self, origin: Fraction) -> list[SubtitleTrack]:
        """Return the tracks in the order of the file.

        Args:
            origin: The container's time at media time zero.
        """
        return [self._decode_track(cast(SubtitleStream, stream), origin) for stream in self._streams]

    def _decode_track(self, stream: SubtitleStream, origin: Fraction) -> SubtitleTrack:
        codec = stream.codec_context.codec.canonical_name if stream.codec_context else "unknown"
        track = SubtitleTrack(
            name=f"track {stream.index}",
            codec=codec,
            language=stream.language,
            kind=_kind_of(stream),
            is_default=bool(stream.disposition & Disposition.default),
            is_text=stream.index in self._packets,
        )
        if not track.is_text:
            return track
        packets, collector = self._packets[stream.index], Collector()
        encoding = "utf_8" if codec in BINARY else _encoding_of(packets)
        for start, length, data in packets.found:
            end = None if length is None else float(start + length - origin)
            recoded = data if _is_utf8(data) else data.decode(encoding, "replace").encode()
            for text in _decode(stream, data if codec in BINARY else recoded):
                collector.add(float(start - origin), end, text)
        return replace(
            track, subtitles=collector.finish(), refused_count=collector.refused_count,
            is_cut=packets.is_cut or collector.is_cut,
        )  # fmt: skip


def _is_subtitle(stream: Stream) -> bool:
    """Whether a stream holds subtitles. FFmpeg's decoder of captions gives a text when it is over: its time is lost."""
    return stream.type == "subtitle" and not (stream.codec_context and stream.codec_context.name in CAPTIONS)


def _is_text(stream: Stream) -> bool:
    return bool(stream.codec_context) and stream.codec_context.codec.text_sub


def _kind_of(stream: Stream) -> SubtitleKind:
    flags, title = stream.disposition, stream.metadata.get("title", "") or stream.metadata.get("handler_name", "")
    named = next((kind for kind, pattern in TITLES if pattern.search(title)), None)
    if flags & (Disposition.comment | Disposition.descriptions) or named == "commentary":
        return "commentary"
    if flags & Disposition.forced or named == "forced":
        return "forced"
    return "impaired" if flags & Disposition.hearing_impaired or named == "impaired" else "full"


def _encoding_of(packets: _Packets) -> str:
    """Return the encoding of the packets of a track. Containers ask for UTF-8, and old programs wrote others."""
    odd = b"\n".join(data for _, _, data in packets.found if not _is_utf8(data))
    return (find_encoding(odd, None) if odd else None) or "utf_8"


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _decode(stream: SubtitleStream, data: bytes) -> list[str]:
    """Return the texts of a packet, as ASS has them."""
    try:
        decoded = stream.codec_context.decode2(Packet(data))
    except av.error.FFmpegError as error:
        if isinstance(error, MemoryError):
            raise
        return []
    lines = [one.ass.decode(errors="replace") for one in decoded or () if isinstance(one, AssSubtitle)]
    return [line.split(",", ASS_FIELDS)[-1] for line in lines if line.count(",") >= ASS_FIELDS]
