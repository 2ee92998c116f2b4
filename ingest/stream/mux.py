"""Gives packets complete times, and muxes them into small files: MPEG-TS, WebM, Matroska, or ASF and NUT if need be."""

from __future__ import annotations  # av's Packet is generic for type checkers only

import io
from dataclasses import dataclass
from fractions import Fraction

import av
from av.audio.stream import AudioStream
from av.bitstream import BitStreamFilterContext
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from ingest.errors import DecodeError

# Codecs that MPEG-TS carries well. It keeps times to 1/90000 s; Matroska rounds them to a millisecond.
TS_VIDEO = frozenset({"h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4"})
TS_AUDIO = frozenset({"aac", "aac_latm", "mp2", "mp3", "ac3", "eac3"})
WEBM = frozenset({"vp8", "vp9", "av1", "opus", "vorbis"})
# These filters repeat the container's headers before every keyframe. For H.264 and H.265 with start codes, FFmpeg's
# muxer does so itself.
TS_FILTERS = {
    "h264": "h264_mp4toannexb,dump_extra",
    "hevc": "hevc_mp4toannexb,dump_extra",
    "mpeg1video": "dump_extra",
    "mpeg2video": "dump_extra",
    "mpeg4": "mpeg4_unpack_bframes,dump_extra",
}
MAX_UNDATED_COUNT = 64  # packets at the beginning that wait for times: H.264 reorders at most 16 pictures
EARLY_SECONDS = Fraction(1, 2)  # a first packet without decoding time gets one this long before its picture
TS_HZ = 90_000
TS_NULL_PACKET = b"\x47\x1f\xff\x10".ljust(188, b"\xff")  # padding that demuxers skip
# Sample rates of AAC by the index in its ADTS header, and the length of one of its blocks.
ADTS_RATES_HZ = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8000, 7350)
AAC_BLOCK_SAMPLES = 1024
MIN_TS_PACKETS = 20  # of a file: FFmpeg does not recognise MPEG-TS by ten


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TimedPacket:
    """A packet with complete times, in seconds of the source."""

    packet: Packet[Stream]
    pts: Fraction
    dts: Fraction
    duration: Fraction
    is_video: bool
    is_key: bool
    arrived: float  # wall clock, seconds since 1970


class PacketTimes:
    """Completes the times of one stream's packets: presentation time, decoding time and duration.

    RTSP servers give the first pictures no times where pictures are reordered. Such pictures wait for the first ones
    with times, and are dated back from these.
    """

    def __init__(self, stream: Stream, shift_seconds: int, uri: str) -> None:
        self._shift, self._uri = shift_seconds, uri
        self._reorders = isinstance(stream, VideoStream) and stream.codec_context.reorder_depth > 0
        rate = (stream.average_rate or stream.guessed_rate) if isinstance(stream, VideoStream) else None
        self._duration = 1 / rate if rate else Fraction(1, 25)  # of a packet without one
        # FFmpeg invents the times of raw AAC, and errs once the sample rate changes.
        self._is_raw_aac = stream.container is not None and stream.container.format.name == "aac"
        self._depth = stream.codec_context.reorder_depth if isinstance(stream, VideoStream) else 0
        self._next: Fraction | None = None  # decoding time after the last packet
        self._dts: Fraction | None = None
        self._waiting: list[tuple[Packet[Stream], float]] = []  # the first packets without times, and a few with times

    def complete(self, packet: Packet[Stream], *, is_video: bool, arrived: float) -> list[TimedPacket]:
        """Return the packets whose times are known now, in the order in which they came.

        Raises:
            DecodeError: If the codec reorders pictures, and MAX_UNDATED_COUNT packets have no times.
        """
        is_undated = packet.pts is None and packet.dts is None
        if self._waiting or (is_undated and self._reorders and self._next is None):
            self._waiting.append((packet, arrived))
            if len(self._dated()) <= self._depth and len(self._waiting) < MAX_UNDATED_COUNT:
                return []
            return self.finish(is_video=is_video)
        return [self._complete(packet, is_video=is_video, arrived=arrived)]

    def finish(self, *, is_video: bool) -> list[TimedPacket]:
        """Date the packets that wait, and return them.

        Raises:
            DecodeError: If none of them has a time.
        """
        waiting, dated = self._waiting, self._dated()
        if not waiting:
            return []
        if not dated:
            raise DecodeError(
                self._uri, "its pictures have no times", "put it into a container that has, such as MP4 or MPEG-TS"
            )
        base = waiting[0][0].time_base
        undated = [packet for packet, _ in waiting if packet.pts is None and packet.dts is None]
        step = undated[0].duration or round(self._duration / base)
        for place, packet in enumerate(reversed(undated), 1):  # the pictures that follow are shown later
            packet.pts = max(min(dated) - place * step, -round(self._shift / base))
        self._waiting = []
        return [self._complete(packet, is_video=is_video, arrived=arrived) for packet, arrived in waiting]

    def _dated(self) -> list[int]:
        """Return the times of the waiting packets that have one."""
        return [packet.pts for packet, _ in self._waiting if packet.pts is not None]

    def _complete(self, packet: Packet[Stream], *, is_video: bool, arrived: float) -> TimedPacket:
        base = packet.time_base
        duration = packet.duration * base if packet.duration else self._duration
        pts = packet.pts * base + self._shift if packet.pts is not None else None
        dts = packet.dts * base + self._shift if packet.dts is not None else None
        if self._is_raw_aac:
            pts = dts = None
            duration = _adts_seconds(packet) or duration
        if dts is None:
            reorder = self._depth * duration if pts is None else Fraction(0)
            dts = self._invent_dts(pts)
            pts = dts + reorder if pts is None else pts
        if pts is None:
            pts = dts
        self._dts, self._next = dts, dts + duration
        return TimedPacket(
            packet=packet,
            pts=max(pts, dts),
            dts=dts,
            duration=duration,
            is_video=is_video,
            is_key=packet.is_keyframe,
            arrived=arrived,
        )

    def _invent_dts(self, pts: Fraction | None) -> Fraction:
        if pts is not None and not self._reorders:
            return pts
        if pts is not None:  # early enough for all pictures that are shown before
            return min(pts, self._dts + Fraction(1, TS_HZ)) if self._dts is not None else pts - EARLY_SECONDS
        return self._next if self._next is not None else Fraction(self._shift)


def _adts_seconds(packet: Packet[Stream]) -> Fraction | None:
    """Return how long a frame of raw AAC lasts, by its own header."""
    head = bytes(memoryview(packet)[:7])
    index = head[2] >> 2 & 15 if len(head) == 7 else len(ADTS_RATES_HZ)
    if index >= len(ADTS_RATES_HZ):
        return None
    return Fraction(AAC_BLOCK_SAMPLES * ((head[6] & 3) + 1), ADTS_RATES_HZ[index])


def _accepts(format: str, streams: list[Stream]) -> bool:
    with av.open(io.BytesIO(), "w", format=format) as target:
        try:
            for stream in streams:
                target.add_stream_from_template(stream, opaque=True)
        except ValueError:
            return False
    return True


class Muxer:
    """Muxes packets of one or two streams into small files of one container format."""

    def __init__(self, video: VideoStream | None, audio: AudioStream | None, *, uri: str, is_turned: bool) -> None:
        self._streams: list[Stream] = [s for s in (video, audio) if s is not None]
        self._uri = uri
        codecs = {s.codec_context.codec.canonical_name for s in self._streams}
        kind = "video" if video is not None else "audio"
        if codecs <= TS_VIDEO | TS_AUDIO and not is_turned:
            self._format, self.media_type = "mpegts", "video/mp2t"
        elif codecs <= WEBM:
            self._format, self.media_type = "webm", f"{kind}/webm"
        elif _accepts("matroska", self._streams):
            self._format, self.media_type = "matroska", f"{kind}/x-matroska"
        elif _accepts("asf", self._streams) and any(codec.startswith("wm") for codec in codecs):
            self._format, self.media_type = "asf", f"{kind}/x-ms-asf"
        else:  # VP6 and other rare codecs
            self._format, self.media_type = "nut", f"{kind}/x-nut"
        self._filters: dict[int, BitStreamFilterContext] = {}
        if video is not None and self._format == "mpegts":
            codec = video.codec_context.codec.canonical_name
            extra = video.codec_context.extradata or b""
            has_start_codes = extra[:3] == b"\0\0\1" or extra[:4] == b"\0\0\0\1"
            if codec not in ("h264", "hevc") or (extra and not has_start_codes):
                self._filters[video.index] = BitStreamFilterContext(TS_FILTERS[codec], video)

    def filter(self, packet: Packet[Stream]) -> list[Packet[Stream]]:
        """Convert a packet for the container: into one or several, or into none if it is broken."""
        bitstream_filter = self._filters.get(packet.stream.index)
        if bitstream_filter is None:
            return [packet]
        stream, base = packet.stream, packet.time_base
        try:
            parts = bitstream_filter.filter(packet)
        except av.error.FFmpegError as error:
            if isinstance(error, MemoryError):
                raise
            bitstream_filter.flush()
            return []
        for part in parts:
            part.stream, part.time_base = stream, base
        return parts

    def mux(self, items: list[TimedPacket]) -> bytes:
        """Mux packets into one file. The packets keep their times and can be muxed again.

        Raises:
            DecodeError: If the container does not accept them.
        """
        file = io.BytesIO()
        options = {"avoid_negative_ts": "disabled"} | ({"mpegts_copyts": "1"} if self._format == "mpegts" else {})
        last: dict[int, int] = {}
        try:
            with av.open(file, "w", format=self._format, options=options) as target:
                streams = {s.index: target.add_stream_from_template(s, opaque=True) for s in self._streams}
                for item in items:
                    packet, source = item.packet, item.packet.stream
                    base = Fraction(1, TS_HZ)
                    dts = round(item.dts / base)
                    dts = max(dts, last.get(source.index, dts - 1) + 1)  # FFmpeg requires them to grow
                    last[source.index] = dts
                    packet.stream, packet.time_base = streams[source.index], base
                    packet.pts, packet.dts = max(dts, round(item.pts / base)), dts
                    packet.duration = round(item.duration / base)
                    target.mux(packet)
                    packet.stream = source
        except (av.error.FFmpegError, ValueError) as error:
            if isinstance(error, MemoryError):
                raise
            names = " and ".join(s.codec_context.codec.canonical_name for s in self._streams)
            raise DecodeError(self._uri, f"{names} cannot be put into {self._format} ({error})") from error
        media = file.getvalue()
        if self._format == "mpegts":
            media += TS_NULL_PACKET * (MIN_TS_PACKETS - len(media) // len(TS_NULL_PACKET))
        return media
