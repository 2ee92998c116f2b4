"""Packets to chunks that decode alone: remuxed, never transcoded.

A chunk begins with a keyframe. Where pictures that come after a keyframe are shown before it (an open group of
pictures), they need what was before: the chunk before ends with them, and with the keyframe once more. In front of a
chunk stands a little sound of the chunk before, from which decoders and resamplers start; whoever joins the chunks
drops it. All times go on from chunk to chunk as the source has them.
"""

from __future__ import annotations  # av's Packet is generic for type checkers only

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
from av.audio.stream import AudioStream
from av.bitstream import BitStreamFilterContext
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from ingest.config import PublishConfig
from ingest.errors import DecodeError
from ingest.timeline import Epoch, Timeline

# What MPEG-TS carries well. It keeps times to 1/90000 s, where Matroska rounds them to a millisecond.
TS_VIDEO = frozenset({"h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4"})
TS_AUDIO = frozenset({"aac", "aac_latm", "mp2", "mp3", "ac3", "eac3"})
WEBM = frozenset({"vp8", "vp9", "av1", "opus", "vorbis"})
# Headers that stand once in the container go in front of every keyframe. H.264 and H.265 without start codes only; with
# them FFmpeg's muxer does it.
TS_FILTERS = {
    "h264": "h264_mp4toannexb,dump_extra",
    "hevc": "hevc_mp4toannexb,dump_extra",
    "mpeg1video": "dump_extra",
    "mpeg2video": "dump_extra",
    "mpeg4": "mpeg4_unpack_bframes,dump_extra",
}
MAX_CHUNK_SECONDS = 10  # what other programs expect of a chunk; a group of pictures may be longer
SLACK_SECONDS = Fraction(1, 20)  # keyframes two seconds apart are so but for rounding
PRIMING_SECONDS = Fraction(1, 10)  # of sound in front of a chunk: Opus wants 80 ms
PRIMING_PACKETS = 3  # at least: MP3 refers to two packets before
EARLY_SECONDS = Fraction(1, 2)  # the decoding time of a first packet without one lies so far before its picture
TS_HZ = 90_000
TS_NOTHING = b"\x47\x1f\xff\x10".ljust(188, b"\xff")  # a packet that means nothing
MIN_TS_PACKETS = 20  # of a file: FFmpeg does not know MPEG-TS by ten
PACKET_BYTES = 200  # what MPEG-TS adds to a packet at most, and 4 bytes to each 184


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One chunk's media. Seconds are media time of the connection, gapless over breaks of the timestamps."""

    media: bytes
    media_type: str
    start_seconds: float  # of its first picture, or of its first sound without one
    end_seconds: float
    arrived: float  # wall clock at which its first packet that counts came


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Timed:
    packet: Packet[Stream]
    pts: Fraction
    dts: Fraction
    duration: Fraction
    is_video: bool
    is_key: bool
    arrived: float


class _Open:
    """The chunk that is being filled.

    Args:
        priming: Sound of before.
    """

    def __init__(self, priming: list[_Timed]) -> None:
        self.items: list[_Timed] = []
        self.cut: int | None = None  # where the keyframe is at which it ends; its leading pictures may be to come
        self.first_key: _Timed | None = None
        self.inner_key: int | None = None  # the last keyframe but its first one
        self.bytes_muxed = 0
        self._start = self._end = Fraction(0)
        for item in priming:
            self.add(item)
        self._priming_count = len(priming)

    def add(self, item: _Timed) -> None:
        if item.is_video and self.first_key is None:
            self.first_key, self._start, self._end = item, item.pts, item.pts
        elif item.is_video and item.is_key:
            self.inner_key = len(self.items)
        if not self.items and not item.is_video:
            self._start = self._end = item.pts
        if item.is_video or self.first_key is None:
            self._end = max(self._end, item.pts)
        self.items.append(item)
        self.bytes_muxed += item.packet.size * 188 // 184 + PACKET_BYTES

    @property
    def seconds(self) -> Fraction:
        """How long it is: from its first picture, or from its first sound where it has none."""
        return self._end - self._start

    @property
    def is_empty(self) -> bool:
        return len(self.items) == self._priming_count

    def is_leading(self, item: _Timed) -> bool:
        """Whether a picture is shown before the keyframe that it comes after."""
        key = self.items[self.cut] if self.cut is not None else self.first_key
        return key is not None and item.pts < key.pts


class Cutter:
    """Cut the packets of one connection into chunks.

    Args:
        is_turned: The container says to turn the pictures, which MPEG-TS cannot.
        shift_seconds: Whole seconds to add to all times, so that none is below zero.
        notes: Called with one line on what is left out or unusual.
        now: The wall clock.
    """

    def __init__(
        self,
        video: VideoStream | None,
        audio: AudioStream | None,
        *,
        uri: str,
        config: PublishConfig,
        is_turned: bool,
        shift_seconds: int,
        notes: Callable[[str], None],
        now: Callable[[], float],
    ) -> None:
        self._config, self._notes, self._now = config, notes, now
        self._video = video
        self._muxer = Muxer(video, audio, uri=uri, is_turned=is_turned)
        self._stamps = {s.index: _Stamps(s, shift_seconds, uri) for s in (video, audio) if s is not None}
        self._timeline = Timeline()
        self._epoch: Epoch | None = None
        self._open = _Open([])
        self._lost_count = 0  # pictures since the last one that decodes
        self._has_noted_length = False
        self.dropped_count = 0  # chunks whose pictures were too many bytes

    def push(self, packet: Packet[Stream]) -> Iterator[Piece]:
        """Take the next packet of one of the streams; give the chunks that are now whole."""
        stamps = self._stamps[packet.stream.index]
        for part in self._muxer.filtered(packet):
            item = stamps.timed(part, is_video=packet.stream is self._video, arrived=self._now())
            stamped = packet.dts is not None
            epoch = self._timeline.place(
                packet.stream.index, dts=item.dts if stamped else None, pts=item.pts, duration=item.duration
            )
            if epoch is not self._epoch:
                if self._epoch is not None and epoch is not self._timeline.current:
                    continue  # it comes late, its epoch is over
                yield from self.finish()
                if self._epoch is not None:
                    self._notes("the source's times jump: a new epoch begins with the next keyframe")
                self._epoch, self._open = epoch, _Open([])
            yield from self._push_video(item) if item.is_video else self._push_audio(item)

    def finish(self) -> Iterator[Piece]:
        """Give what is left."""
        if not self._open.is_empty:
            yield from self._close(self._open.items)
        self._open = _Open([])

    def _push_video(self, item: _Timed) -> Iterator[Piece]:
        open_ = self._open
        if open_.cut is not None and not open_.is_leading(item):
            yield from self._split(open_.cut)
            open_ = self._open
        if open_.first_key is None and not item.is_key:
            self._lost_count += 1
            return
        if open_.cut is None and open_.is_leading(item):
            return  # what it refers to is not there
        if self._lost_count:
            self._notes(f"{self._lost_count} pictures before a keyframe are left out")
            self._lost_count = 0
        is_cut = open_.first_key is not None and item.is_key and open_.cut is None
        open_.add(item)
        if is_cut and open_.seconds >= Fraction(self._config.chunk_seconds) - SLACK_SECONDS:
            open_.cut = len(open_.items) - 1
            if item.dts >= item.pts:  # what comes later is shown later
                yield from self._split(open_.cut)
        yield from self._limit()

    def _push_audio(self, item: _Timed) -> Iterator[Piece]:
        self._open.add(item)
        if self._open.first_key is None:
            longest = MAX_CHUNK_SECONDS if self._video is not None else self._config.chunk_seconds
            if self._open.seconds >= longest or self._open.bytes_muxed > self._config.max_chunk_bytes:
                items = self._open.items
                yield from self._close(items)
                self._open = _Open(_priming(items))
            return
        yield from self._limit()

    def _limit(self) -> Iterator[Piece]:
        """Keep an open chunk with pictures from growing too large or too long."""
        is_large = self._open.bytes_muxed > self._config.max_chunk_bytes
        if not is_large and self._open.seconds <= MAX_CHUNK_SECONDS:
            return
        if self._open.inner_key is not None:
            yield from self._split(self._open.inner_key)
        elif is_large:
            self.dropped_count += 1
            self._notes(
                f"the pictures of a chunk are left out: from keyframe to keyframe over {self._config.max_chunk_bytes}"
                f" bytes (max_chunk_bytes; {self.dropped_count} so far)"
            )
            sound = _Open([])
            for item in self._open.items:
                if not item.is_video:
                    sound.add(item)
            self._open = sound
        elif not self._has_noted_length:
            self._has_noted_length = True
            self._notes(f"keyframes over {MAX_CHUNK_SECONDS} s apart make chunks as long: set a shorter interval")

    def _split(self, index: int) -> Iterator[Piece]:
        """End the open chunk at a keyframe inside it."""
        items = self._open.items
        key = items[index]
        leading = [item for item in items[index + 1 :] if item.is_video and item.pts < key.pts]
        first = items[:index] + ([key, *leading] if leading else [])
        rest = _Open(_priming(items[:index]))
        for item in items[index:]:
            if item not in leading:
                rest.add(item)
        self._open = rest
        yield from self._close(first)

    def _close(self, items: list[_Timed]) -> Iterator[Piece]:
        """Mux one chunk."""
        epoch = self._epoch
        assert epoch is not None
        first = next((item for item in items if item.is_video), items[0])
        if epoch.origin is None:
            epoch.begin_with(first.pts)
        media = self._muxer.mux(items)
        if len(media) > self._config.max_chunk_bytes:
            self.dropped_count += 1
            self._notes(f"a chunk of {len(media)} bytes is left out (max_chunk_bytes; {self.dropped_count} so far)")
            return
        yield Piece(
            media=media,
            media_type=self._muxer.media_type,
            start_seconds=float(epoch.media(first.pts)),
            end_seconds=float(max(epoch.media(item.pts + item.duration) for item in items)),
            arrived=first.arrived,
        )


def _priming(items: list[_Timed]) -> list[_Timed]:
    """Return the last few packets of sound."""
    sound = [item for item in items if not item.is_video]
    count = min(len(sound), PRIMING_PACKETS)
    while count < len(sound) and sound[-1].pts - sound[-count].pts < PRIMING_SECONDS:
        count += 1
    return sound[len(sound) - count :]


class _Stamps:
    """Give each packet of one stream both its times, in seconds."""

    def __init__(self, stream: Stream, shift_seconds: int, uri: str) -> None:
        self._shift, self._uri = shift_seconds, uri
        self._reorders = isinstance(stream, VideoStream) and stream.codec_context.reorder_depth > 0
        rate = (stream.average_rate or stream.guessed_rate) if isinstance(stream, VideoStream) else None
        self._duration = 1 / rate if rate else Fraction(1, 25)  # of a packet that does not say
        self._next: Fraction | None = None  # decoding time after the last packet
        self._dts: Fraction | None = None

    def timed(self, packet: Packet[Stream], *, is_video: bool, arrived: float) -> _Timed:
        """Return the packet with its times.

        Raises:
            DecodeError: It has none, and none can be made up.
        """
        base = packet.time_base
        duration = packet.duration * base if packet.duration else self._duration
        pts = packet.pts * base + self._shift if packet.pts is not None else None
        dts = packet.dts * base + self._shift if packet.dts is not None else None
        if dts is None:
            dts = self._made_up(pts)
        if pts is None:
            pts = dts
        self._dts, self._next = dts, dts + duration
        return _Timed(
            packet=packet,
            pts=max(pts, dts),
            dts=dts,
            duration=duration,
            is_video=is_video,
            is_key=packet.is_keyframe,
            arrived=arrived,
        )

    def _made_up(self, pts: Fraction | None) -> Fraction:
        if pts is not None and not self._reorders:
            return pts
        if pts is not None:  # early enough for every picture that is to come before
            return min(pts, self._dts + Fraction(1, TS_HZ)) if self._dts is not None else pts - EARLY_SECONDS
        if self._reorders:
            raise DecodeError(
                self._uri, "its pictures have no times", "put it into a container that has, such as MP4 or MPEG-TS"
            )
        return self._next if self._next is not None else Fraction(self._shift)


def _takes(format: str, streams: list[Stream]) -> bool:
    with av.open(io.BytesIO(), "w", format=format) as target:
        try:
            for stream in streams:
                target.add_stream_from_template(stream, opaque=True)
        except ValueError:
            return False
    return True


class Muxer:
    """Write packets of two streams as small files of one container.

    Raises:
        DecodeError: A codec has no place in any of them.
    """

    def __init__(self, video: VideoStream | None, audio: AudioStream | None, *, uri: str, is_turned: bool) -> None:
        self._streams: list[Stream] = [s for s in (video, audio) if s is not None]
        self._uri = uri
        codecs = {s.codec_context.codec.canonical_name for s in self._streams}
        kind = "video" if video is not None else "audio"
        if codecs <= TS_VIDEO | TS_AUDIO and not is_turned:
            self._format, self.media_type = "mpegts", "video/mp2t"
        elif codecs <= WEBM:
            self._format, self.media_type = "webm", f"{kind}/webm"
        elif _takes("matroska", self._streams):
            self._format, self.media_type = "matroska", f"{kind}/x-matroska"
        elif _takes("asf", self._streams) and any(codec.startswith("wm") for codec in codecs):
            self._format, self.media_type = "asf", f"{kind}/x-ms-asf"
        else:  # VP6 and other rare ones
            self._format, self.media_type = "nut", f"{kind}/x-nut"
        self._filters: dict[int, BitStreamFilterContext] = {}
        if video is not None and self._format == "mpegts":
            codec = video.codec_context.codec.canonical_name
            extra = video.codec_context.extradata or b""
            has_start_codes = extra[:3] == b"\0\0\1" or extra[:4] == b"\0\0\0\1"
            if codec not in ("h264", "hevc") or (extra and not has_start_codes):
                self._filters[video.index] = BitStreamFilterContext(TS_FILTERS[codec], video)

    def filtered(self, packet: Packet[Stream]) -> list[Packet[Stream]]:
        """Return the packet as the container wants it; several, or none where it is broken."""
        wanted = self._filters.get(packet.stream.index)
        if wanted is None:
            return [packet]
        stream, base = packet.stream, packet.time_base
        try:
            found = wanted.filter(packet)
        except av.error.FFmpegError as error:
            if isinstance(error, MemoryError):
                raise
            wanted.flush()
            return []
        for part in found:
            part.stream, part.time_base = stream, base
        return found

    def mux(self, items: list[_Timed]) -> bytes:
        """Return packets as one file. They keep their times, and can be written again."""
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
                    dts = max(dts, last.get(source.index, dts - 1) + 1)  # a muxer wants them to grow
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
            media += TS_NOTHING * (MIN_TS_PACKETS - len(media) // len(TS_NOTHING))
        return media
