"""Cuts packets into chunks that decode alone. Packets are remuxed, never transcoded.

A chunk begins with a keyframe. In an open group of pictures, pictures that follow the keyframe are shown before it, and
refer to pictures of the chunk before: that chunk ends with a copy of the keyframe and with these leading pictures. Each
chunk begins with a little sound of the chunk before, for decoders and resamplers to start from; readers that join
chunks drop it. Times continue from chunk to chunk as in the source.
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

MAX_CHUNK_SECONDS = 10  # longest chunk that other programs expect; one group of pictures may be longer
SLACK_SECONDS = Fraction(1, 20)  # tolerance for keyframe intervals, which are rounded
PRIMING_SECONDS = Fraction(1, 10)  # of sound before a chunk: Opus needs 80 ms
PRIMING_PACKETS = 3  # at least, before a chunk: MP3 refers to the two packets before
PACKET_BYTES = 200  # most that MPEG-TS adds to a packet, beside 4 bytes for each 184


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkMedia:
    """The media of one chunk. Seconds are media time of the connection, without gaps at breaks of the timestamps."""

    media: bytes
    media_type: str
    start_seconds: float  # of the first picture, or of the first sound without pictures
    end_seconds: float
    arrived: float  # wall clock at which that picture or sound came, in seconds since 1970


class _OpenChunk:
    """The chunk that is being filled. It begins with `priming`, sound of the chunk before."""

    def __init__(self, priming: list[TimedPacket]) -> None:
        self.items: list[TimedPacket] = []
        self.cut: int | None = None  # index of the keyframe that ends it; leading pictures may follow
        self.first_key: TimedPacket | None = None
        self.inner_key: int | None = None  # index of the last keyframe, unless that is the first
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
        """Its length from its first picture, or from its first sound if it has no picture."""
        return self._end - self._start

    @property
    def is_empty(self) -> bool:
        return len(self.items) == self._priming_count

    def is_leading(self, item: TimedPacket) -> bool:
        """Whether a picture is shown before the keyframe that it follows."""
        key = self.items[self.cut] if self.cut is not None else self.first_key
        return key is not None and item.pts < key.pts


class ChunkCutter:
    """Cuts the packets of one connection into chunks.

    Args:
        is_turned: Whether the container rotates or mirrors the pictures, which MPEG-TS cannot express.
        shift_seconds: Whole seconds to add to all times, so that none is below zero.
        notes: Called with one line about each omission or oddity.
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
        self._times = {s.index: PacketTimes(s, shift_seconds, uri) for s in (video, audio) if s is not None}
        self._timeline = Timeline("media", keeps_gaps=False)
        self._epoch: Epoch | None = None
        self._open = _OpenChunk([])
        self._lost_count = 0  # pictures left out since the last kept one
        self._has_noted_length = False
        self.dropped_count = 0  # chunks left out, or without their pictures, for their size

    def push(self, packet: Packet[Stream]) -> Iterator[ChunkMedia]:
        """Take the next packet of one of the streams; yield the chunks that are complete now."""
        times, is_video = self._times[packet.stream.index], packet.stream is self._video
        for part in self._muxer.filter(packet):
            for item in times.complete(part, is_video=is_video, arrived=self._now()):
                yield from self._push(item)

    def finish(self) -> Iterator[ChunkMedia]:
        """Take the packets that still wait for times; yield the open chunk, if it holds anything."""
        if self._video is not None:
            for item in self._times[self._video.index].finish(is_video=True):
                yield from self._push(item)
        yield from self._finish_open()

    def _push(self, item: TimedPacket) -> Iterator[ChunkMedia]:
        epoch = self._timeline.place(
            item.packet.stream.index,
            dts=item.dts if item.packet.dts is not None else None,
            pts=item.pts,
            duration=item.duration,
        )
        if epoch is not self._epoch:
            if self._epoch is not None and epoch is not self._timeline.current:
                return  # a late packet of an epoch that is over
            yield from self._finish_open()
            if self._epoch is not None:
                self._notes("the source's times jump: a new epoch begins with the next keyframe")
            self._epoch, self._open = epoch, _OpenChunk([])
        yield from self._push_video(item) if item.is_video else self._push_audio(item)

    def _finish_open(self) -> Iterator[ChunkMedia]:
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
            return  # the pictures that it refers to are missing
        if self._lost_count:
            self._notes(f"{self._lost_count} pictures before a keyframe are left out")
            self._lost_count = 0
        is_cut = open_.first_key is not None and item.is_key and open_.cut is None
        open_.add(item)
        if is_cut and open_.seconds >= Fraction(self._config.chunk_seconds) - SLACK_SECONDS:
            open_.cut = len(open_.items) - 1
            if item.dts >= item.pts:  # no leading pictures follow
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
        """End or thin out an open chunk that grows too large or too long."""
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
        epoch = self._epoch
        assert epoch is not None
        first = next((item for item in items if item.is_video), items[0])
        if epoch.origin is None:
            epoch.set_origin(first.pts)
        media = self._muxer.mux(items)
        if len(media) > self._config.max_chunk_bytes:
            self.dropped_count += 1
            self._notes(f"a chunk of {len(media)} bytes is left out (max_chunk_bytes; {self.dropped_count} so far)")
            return
        yield ChunkMedia(
            media=media,
            media_type=self._muxer.media_type,
            start_seconds=float(epoch.to_media(first.pts)),
            end_seconds=float(max(epoch.to_media(item.pts + item.duration) for item in items)),
            arrived=first.arrived,
        )


def _priming(items: list[TimedPacket]) -> list[TimedPacket]:
    """Return the last packets of sound, for the beginning of the next chunk."""
    sound = [item for item in items if not item.is_video]
    count = min(len(sound), PRIMING_PACKETS)
    while count < len(sound) and sound[-1].pts - sound[-count].pts < PRIMING_SECONDS:
        count += 1
    return sound[len(sound) - count :]
