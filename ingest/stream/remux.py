"""Packets to chunks that decode alone: remuxed, never transcoded.

A chunk begins with a keyframe. Where pictures that come after a keyframe are shown before it (an open group of
pictures), they need what was before: the chunk before ends with them, and with the keyframe once more. In front of a
chunk stands a little sound of the chunk before, from which decoders and resamplers start; whoever joins the chunks
drops it. All times go on from chunk to chunk as the source has them.
"""

from __future__ import annotations  # av's Packet is generic for type checkers only

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

from av.audio.stream import AudioStream
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from ingest.config import PublishConfig
from ingest.media.timeline import Epoch, Timeline
from ingest.stream.mux import Muxer, PacketTimes, TimedPacket

MAX_CHUNK_SECONDS = 10  # what other programs expect of a chunk; a group of pictures may be longer
SLACK_SECONDS = Fraction(1, 20)  # keyframes two seconds apart are so but for rounding
PRIMING_SECONDS = Fraction(1, 10)  # of sound in front of a chunk: Opus wants 80 ms
PRIMING_PACKETS = 3  # at least: MP3 refers to two packets before
PACKET_BYTES = 200  # what MPEG-TS adds to a packet at most, and 4 bytes to each 184


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkMedia:
    """One chunk's media. Seconds are media time of the connection, gapless over breaks of the timestamps."""

    media: bytes
    media_type: str
    start_seconds: float  # of its first picture, or of its first sound without one
    end_seconds: float
    arrived: float  # wall clock at which its first packet that counts came


class _OpenChunk:
    """The chunk that is being filled.

    Args:
        priming: Sound of before.
    """

    def __init__(self, priming: list[TimedPacket]) -> None:
        self.items: list[TimedPacket] = []
        self.cut: int | None = None  # where the keyframe is at which it ends; its leading pictures may be to come
        self.first_key: TimedPacket | None = None
        self.inner_key: int | None = None  # the last keyframe but its first one
        self.bytes_muxed = 0
        self._start = self._end = Fraction(0)
        for item in priming:
            self.add(item)
        self._priming_count = len(priming)

    def add(self, item: TimedPacket) -> None:
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

    def is_leading(self, item: TimedPacket) -> bool:
        """Whether a picture is shown before the keyframe that it comes after."""
        key = self.items[self.cut] if self.cut is not None else self.first_key
        return key is not None and item.pts < key.pts


class ChunkCutter:
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
        self._stamps = {s.index: PacketTimes(s, shift_seconds, uri) for s in (video, audio) if s is not None}
        self._timeline = Timeline()
        self._epoch: Epoch | None = None
        self._open = _OpenChunk([])
        self._lost_count = 0  # pictures since the last one that decodes
        self._has_noted_length = False
        self.dropped_count = 0  # chunks whose pictures were too many bytes

    def push(self, packet: Packet[Stream]) -> Iterator[ChunkMedia]:
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
                self._epoch, self._open = epoch, _OpenChunk([])
            yield from self._push_video(item) if item.is_video else self._push_audio(item)

    def finish(self) -> Iterator[ChunkMedia]:
        """Give what is left."""
        if not self._open.is_empty:
            yield from self._close(self._open.items)
        self._open = _OpenChunk([])

    def _push_video(self, item: TimedPacket) -> Iterator[ChunkMedia]:
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

    def _push_audio(self, item: TimedPacket) -> Iterator[ChunkMedia]:
        self._open.add(item)
        if self._open.first_key is None:
            longest = MAX_CHUNK_SECONDS if self._video is not None else self._config.chunk_seconds
            if self._open.seconds >= longest or self._open.bytes_muxed > self._config.max_chunk_bytes:
                items = self._open.items
                yield from self._close(items)
                self._open = _OpenChunk(_priming(items))
            return
        yield from self._limit()

    def _limit(self) -> Iterator[ChunkMedia]:
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
            sound = _OpenChunk([])
            for item in self._open.items:
                if not item.is_video:
                    sound.add(item)
            self._open = sound
        elif not self._has_noted_length:
            self._has_noted_length = True
            self._notes(f"keyframes over {MAX_CHUNK_SECONDS} s apart make chunks as long: set a shorter interval")

    def _split(self, index: int) -> Iterator[ChunkMedia]:
        """End the open chunk at a keyframe inside it."""
        items = self._open.items
        key = items[index]
        leading = [item for item in items[index + 1 :] if item.is_video and item.pts < key.pts]
        first = items[:index] + ([key, *leading] if leading else [])
        rest = _OpenChunk(_priming(items[:index]))
        for item in items[index:]:
            if item not in leading:
                rest.add(item)
        self._open = rest
        yield from self._close(first)

    def _close(self, items: list[TimedPacket]) -> Iterator[ChunkMedia]:
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
        yield ChunkMedia(
            media=media,
            media_type=self._muxer.media_type,
            start_seconds=float(epoch.media(first.pts)),
            end_seconds=float(max(epoch.media(item.pts + item.duration) for item in items)),
            arrived=first.arrived,
        )


def _priming(items: list[TimedPacket]) -> list[TimedPacket]:
    """Return the last few packets of sound."""
    sound = [item for item in items if not item.is_video]
    count = min(len(sound), PRIMING_PACKETS)
    while count < len(sound) and sound[-1].pts - sound[-count].pts < PRIMING_SECONDS:
        count += 1
    return sound[len(sound) - count :]
