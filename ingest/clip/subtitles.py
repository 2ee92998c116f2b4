"""Writes the text subtitles of a clip as MP4 has them (3GPP timed text, in FFmpeg mov_text)."""

from __future__ import annotations  # av's Packet is generic for type checkers only

from fractions import Fraction
from typing import cast

import av
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream
from av.subtitles.stream import SubtitleStream
from av.subtitles.subtitle import AssSubtitle, SubtitleSet

from ingest.clip.source import MediaPacket

# Subtitles of text. Others are pictures (DVD, Blu-ray, DVB), which MP4 does not hold.
TEXT_CODECS = frozenset({"subrip", "ass", "ssa", "webvtt", "mov_text", "text"})
MILLISECOND = Fraction(1, 1000)
DEFAULT_SECONDS = Fraction(3)  # of a line without a duration
MAX_LINE_CHARS = 2000  # of one subtitle; more is no line to read
# What FFmpeg's encoder wants to know of fonts and colours; players use their own.
HEADER = b"""[Script Info]
ScriptType: v4.00+
PlayResX: 384
PlayResY: 288

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, Underline, \
StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding
Style: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,1

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""


def has_text(stream: SubtitleStream) -> bool:
    """Whether a track of subtitles can go into a clip."""
    return stream.codec_context.codec.canonical_name in TEXT_CODECS


class LineTrack:
    """One track of subtitles of a clip. Lines that begin before it are cut."""

    def __init__(self, target: OutputContainer, stream: SubtitleStream, start: Fraction, end: Fraction) -> None:
        self._target, self._start, self._end = target, start, end
        self._decoder = stream.codec_context
        self._out = target.add_stream("mov_text")
        self._encoder = self._out.codec_context
        self._encoder.subtitle_header = HEADER
        self._encoder.time_base = self._out.time_base = MILLISECOND
        self._shown_until = 0  # milliseconds: timed text cannot overlap

    @property
    def stream(self) -> Stream:
        """The track in the clip."""
        return cast(Stream, self._out)

    def feed(self, each: MediaPacket) -> None:
        """Take the track's next packet in the order of the file."""
        begin, end = each.pts, each.pts + (each.duration or DEFAULT_SECONDS)
        if end <= self._start or begin >= self._end:
            return
        try:
            decoded = self._decoder.decode2(each.packet)
        except av.error.FFmpegError as error:
            if isinstance(error, MemoryError):
                raise
            return
        lines = [_text_of(rect) for rect in decoded or () if isinstance(rect, AssSubtitle)]
        text = "\n".join(line for line in lines if line)[:MAX_LINE_CHARS]
        first = max(self._shown_until, round((max(begin, self._start) - self._start) * 1000))
        last = round((min(end, self._end) - self._start) * 1000)
        if text and first < last:
            self._write(text, first, last)

    def _write(self, text: str, first: int, last: int) -> None:
        line = f"0,0,Default,,0,0,0,,{_escape(text)}".encode()
        packet = self._encoder.encode_subtitle(SubtitleSet.create(line, 0, last - first, first))
        packet.stream, packet.time_base = self._out, MILLISECOND
        packet.pts = packet.dts = first
        packet.duration = last - first
        self._target.mux(cast("Packet[Stream]", packet))
        self._shown_until = last


def _text_of(rect: AssSubtitle) -> str:
    return rect.dialogue.decode("utf-8", "replace").strip()


def _escape(text: str) -> str:
    """Write text as a line of an ASS event: breaks as \\N, and no braces, which would begin commands."""
    return text.replace("{", "(").replace("}", ")").replace("\r", "").replace("\n", "\\N")
