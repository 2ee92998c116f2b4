"""Copies the packets of one track into a clip, without decoding them."""

from __future__ import annotations  # av's Packet is generic for type checkers only

from fractions import Fraction
from math import ceil

from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from ingest.clip.plan import ClipPlan
from ingest.clip.source import MediaPacket, lacks_pts

# Codecs that MP4 holds and its players know. MPEG-4 part 2 of an AVI may be packed in a way that MP4 has not.
COPIED_VIDEO = frozenset({"h264", "hevc", "av1", "vp9", "mpeg4"})
COPIED_AUDIO = frozenset({"aac", "mp3", "opus", "ac3", "eac3", "flac", "alac"})
LEAST_HZ = 90_000  # of the ticks that a track counts time in, so that rounding is nowhere heard or seen
MOST_HZ = 10_000_000  # MP4 counts in 32 bits
# Sound packets that begin this long before the clip go with it, unheard: decoders need some to get into step.
PREROLL_SECONDS = Fraction(1, 10)
MAX_UNDATED_COUNT = 32  # first packets that wait for a decoding time: codecs reorder at most 16 pictures
HEVC_TAG = "hvc1"  # Apple's players take no other


def can_copy(stream: Stream) -> bool:
    """Whether an MP4 file holds the packets of a track as they are."""
    name = stream.codec_context.codec.canonical_name
    if isinstance(stream, VideoStream):
        is_packed = name == "mpeg4" and stream.container.format.name == "avi"
        return name in COPIED_VIDEO and not is_packed and not lacks_pts(stream)
    return name in COPIED_AUDIO


class CopiedTrack:
    """One track of a clip, whose packets are those of the source.

    Packets before the start have negative times; the container's edit list hides them.
    """

    def __init__(self, target: OutputContainer, stream: Stream, start: Fraction, end: Fraction, plan: ClipPlan) -> None:
        self._target, self._start, self._end = target, start, end
        self.is_video = isinstance(stream, VideoStream)
        # Of the plan's track alone: the others begin wherever the clip does.
        self._key, self._cover = (plan.key, plan.cover) if self.is_video else (None, None)
        self._has_begun = self._key is None
        base = stream.time_base or Fraction(1, LEAST_HZ)
        factor = max(1, ceil(LEAST_HZ / base.denominator)) if base.denominator < MOST_HZ else 1
        self._base = Fraction(1, base.denominator * factor)
        self._out = target.add_stream_from_template(stream, opaque=True)
        self._out.time_base = self._base
        if stream.codec_context.codec.canonical_name == "hevc":
            self._out.codec_context.codec_tag = HEVC_TAG
        self._rounding = base
        self._next: Fraction | None = None  # time of the next packet of sound, if nothing is missing
        self._block = Fraction(0)  # length of a packet of sound; 0: they vary
        if isinstance(stream, AudioStream) and stream.codec_context.sample_rate:
            self._block = Fraction(stream.codec_context.frame_size, stream.codec_context.sample_rate)
        self._waiting: list[MediaPacket] = []
        self._last_dts: int | None = None
        self._held: Packet[Stream] | None = None  # the last packet, whose duration depends on what follows
        self._shown_until = start
        self.is_done = False

    @property
    def stream(self) -> Stream:
        """The track in the clip."""
        return self._out

    def feed(self, each: MediaPacket) -> None:
        """Take the track's next packet in the order of the file."""
        if self.is_video:
            self._has_begun |= each.packet.is_keyframe and each.pts == self._key
            is_wanted = self._has_begun
        else:
            is_wanted = self._start - PREROLL_SECONDS < each.pts + each.duration and each.pts < self._end
        position = each.dts if each.dts is not None else each.pts
        self.is_done = self._has_begun and position >= self._end
        if not is_wanted or self.is_done:
            return
        self._waiting.append(each)
        if each.dts is not None or len(self._waiting) >= MAX_UNDATED_COUNT:
            self._release()

    def finish(self, until: Fraction) -> None:
        """Write what still waits; the last picture is shown until a media time."""
        self._release()
        if self._held is None:
            return
        if self.is_video and self._shown_until < until:
            self._held.duration = max(self._held.duration or 0, self._to_ticks(until) - (self._held.pts or 0))
        self._target.mux(self._held)

    def _release(self) -> None:
        waiting, self._waiting = self._waiting, []
        for each, dts in zip(waiting, self._decoding_times(waiting), strict=True):
            self._write(each, dts)

    def _decoding_times(self, waiting: list[MediaPacket]) -> list[Fraction]:
        """Return decoding times of packets of which at most the last one has its own."""
        ordered = sorted(each.pts for each in waiting)
        delay = max((late - each.pts for late, each in zip(ordered, waiting, strict=True)), default=Fraction(0))
        times = [time - delay for time in ordered]
        if waiting and (known := waiting[-1].dts) is not None:
            # Not later than the last one's: those before it are decoded before it.
            surplus = max(Fraction(0), times[-1] - known)
            times = [time - surplus for time in times[:-1]] + [known]
        return times

    def _write(self, each: MediaPacket, dts: Fraction) -> None:
        # The packet that is shown at the start begins there: else, players would show nothing until the next one.
        shown = self._start if each.pts == self._cover else each.pts
        if not self.is_video:
            shown = dts = self._follow(shown)
        ticks = self._to_ticks(dts)
        if self._last_dts is not None:
            ticks = max(ticks, self._last_dts + 1)  # FFmpeg requires them to grow
        self._last_dts = ticks
        packet = each.packet
        packet.stream, packet.time_base = self._out, self._base
        packet.dts, packet.pts = ticks, max(ticks, self._to_ticks(shown))
        packet.duration = max(0, round((each.pts + each.duration - shown) / self._base))
        self._shown_until = max(self._shown_until, shown + packet.duration * self._base)
        if self._held is not None:
            self._target.mux(self._held)
        self._held = packet

    def _follow(self, shown: Fraction) -> Fraction:
        """Return the time of a packet of sound, without the rounding of a container that counts milliseconds."""
        if self._next is not None and abs(shown - self._next) <= self._rounding:
            shown = self._next
        self._next = shown + self._block if self._block else None
        return shown

    def _to_ticks(self, media: Fraction) -> int:
        return round((media - self._start) / self._base)
