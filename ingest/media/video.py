"""Decodes one video track and yields its sampled pictures."""

from __future__ import annotations  # av's Packet is generic for type checkers only

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

import av
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ingest.config import SamplingPolicy
from ingest.media.damage import Damage
from ingest.media.sampler import HALF, PlannedPacket, Planner, Selector
from ingest.media.timeline import MAX_PACKET_SECONDS, Epoch

# Codecs whose decoders in FFmpeg restart at a keyframe reliably. All others are decoded from end to end.
PLANNED_CODECS = frozenset(
    {"h263", "h264", "hevc", "vvc", "mpeg1video", "mpeg2video", "mpeg4", "msmpeg4v3", "flv1"}
    | {"vc1", "wmv1", "wmv2", "wmv3", "vp6", "vp6f", "vp8", "vp9", "av1", "theora"}
)
# Codecs of which FFmpeg may skip unreferenced pictures without changing the others. Not HEVC: with temporal layers, a
# picture marked as unreferenced may be a reference of a higher layer.
DROPPABLE_CODECS = frozenset({"h264", "mpeg1video", "mpeg2video", "mpeg4", "vp8"})


class WrongKeyframe(Exception):
    """A packet marked as a keyframe did not decode alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A sampled picture, as decoded."""

    epoch: Epoch
    pts: Fraction  # media time
    frame: VideoFrame


class _LastShown:
    """Tracks the last two pictures of an epoch by time, and how long the last one is shown."""

    def __init__(self) -> None:
        self._before: Fraction | None = None
        self._last: Fraction | None = None
        self._duration = Fraction(0)

    def note(self, pts: Fraction, duration: Fraction | None) -> None:
        if duration is not None and duration <= MAX_PACKET_SECONDS:
            self._duration = duration
        if self._last is None or pts > self._last:
            self._before, self._last = self._last, pts
        elif self._before is None or self._before < pts < self._last:
            self._before = pts

    @property
    def end(self) -> Fraction | None:
        """Source time at which the last picture ends; None if packets have no times.

        MPEG-TS gives a frame rate, but not how long a picture is shown. So a single picture counts as shown for a
        second, and the last picture for the gap before it if that is long; else its tick would have no picture.
        """
        if self._last is None:
            return None
        gap = self._last - self._before if self._before is not None else Fraction(1)
        return self._last + (max(gap, self._duration) if gap > HALF or not self._duration else self._duration)

    @property
    def least_end(self) -> Fraction | None:
        """Source time until which the last picture is shown at least: for a second if packets have no durations."""
        return self._last + (self._duration or 1) if self._last is not None else None


class VideoTrack:
    """Decodes the packets that the sampling policy needs.

    Args:
        trusts_keyframes: Whether packets before a keyframe may be dropped.
        keeps_first: As for Selector.
        check: Called with each decoded frame before anything else; may raise.
    """

    def __init__(
        self,
        stream: VideoStream,
        policy: SamplingPolicy,
        damage: Damage,
        *,
        trusts_keyframes: bool,
        keeps_first: bool,
        check: Callable[[VideoFrame], None],
    ) -> None:
        self._stream, self._policy, self._damage, self._check = stream, policy, damage, check
        self._context = stream.codec_context
        codec = self._context.codec
        self._is_intra_only = codec.intra_only
        # AVI stores only the decoding order; with reordered pictures, FFmpeg's presentation times are wrong.
        self.lacks_pts = stream.container.format.name == "avi" and self._context.reorder_depth > 0
        self._is_planned = (
            trusts_keyframes and not self.lacks_pts and (codec.intra_only or codec.canonical_name in PLANNED_CODECS)
        )
        self._is_droppable = codec.canonical_name in DROPPABLE_CODECS
        self._selector = Selector(policy, keeps_first=keeps_first)
        self._planner: Planner | None = None
        self._epoch: Epoch | None = None
        self._last_shown = _LastShown()
        self._last_source: Fraction | None = None  # of the last decoded frame, for one without a timestamp
        self._last_media = Fraction(-1)
        self._waiting: list[tuple[VideoFrame, Fraction]] = []  # decoded frames that wait for media time
        self._fed: deque[int] = deque()  # AVI: decoding times of packets whose pictures are not decoded yet
        self._awaited: Fraction | None = None  # source time of the keyframe that must decode next
        self._errors_at_restart = 0
        self._has_keyframes = False
        self.frame_count = 0  # decoded frames
        self._error_count = 0

    def feed(
        self,
        packet: Packet[VideoStream],
        epoch: Epoch,
        *,
        pts: Fraction | None,
        dts: Fraction | None,
        duration: Fraction | None,
    ) -> Iterator[Picture]:
        """Take one packet of an epoch, in decoding order; yield the pictures that are certain now.

        The caller computes the packet's source times once: exact arithmetic is slow. In a file, it holds packets back
        once the first picture of an epoch without an origin is known, until it has set the origin.
        """
        if self._epoch is not None and epoch is not self._epoch:
            yield from self.finish()
            self._planner, self._last_shown = None, _LastShown()
            self._context.flush_buffers()
        self._epoch = epoch
        if pts is not None:
            self._last_shown.note(pts, duration)
        is_key = packet.is_keyframe or self._is_intra_only
        if epoch.origin is None:
            yield from self._decode(packet, epoch)
            return
        yield from self._take_waiting(epoch)
        if not self._is_planned or not self.frame_count:  # the first picture is wanted in any case
            yield from self._decode(packet, epoch)
            return
        if pts is None:
            yield from self._stop_planning(packet, epoch)
            return
        if self._planner is None:
            tick = self._selector.tick
            self._planner = Planner(
                self._policy,
                tick=max(tick, ceil(self._last_media)) if self._policy == "exact" else tick,
                after=self._last_media,
                is_broken=self._has_keyframes and epoch.index > 0,
            )
        self._has_keyframes |= is_key
        shown = epoch.to_media(pts)
        horizon = epoch.to_media(dts) if dts is not None else shown - 1
        for planned in self._planner.push(packet, pts=shown, horizon=horizon, is_key=is_key):
            yield from self._decode_planned(planned, epoch)

    def finish(self) -> Iterator[Picture]:
        """Yield the rest of the current epoch."""
        epoch = self._epoch
        if epoch is None:
            return
        if epoch.clock == "media" and self._last_shown.least_end is not None:
            epoch.end = max(epoch.end, self._last_shown.least_end)
        if self._planner is not None:
            for planned in self._planner.finish(self._end(epoch)):
                yield from self._decode_planned(planned, epoch)
        yield from self._drain(epoch)
        if epoch.clock == "media":
            epoch.settle()
        if epoch.origin is not None:
            yield from self._take_waiting(epoch)
            selected = self._selector.finish(self._end(epoch))
            if selected is not None:
                yield Picture(epoch=epoch, pts=selected.pts, frame=selected.frame)

    def _end(self, epoch: Epoch) -> Fraction:
        """Return the media time until which the last picture is shown.

        In a whole video, that is its end. In a chunk, it is the time of the next chunk's first picture; the sound may
        end a little later.
        """
        end = self._last_shown.end if epoch.clock == "source" else None
        return epoch.to_media(end if end is not None else epoch.end)

    def _stop_planning(self, packet: Packet[VideoStream], epoch: Epoch) -> Iterator[Picture]:
        """Decode all packets from now on, since timestamps are missing."""
        if self._planner is not None:
            for planned in self._planner.finish(epoch.to_media(epoch.end)):
                yield from self._decode_planned(planned, epoch)
        self._planner, self._is_planned = None, False
        self._context.skip_frame = "DEFAULT"
        yield from self._decode(packet, epoch)

    def _decode_planned(self, planned: PlannedPacket, epoch: Epoch) -> Iterator[Picture]:
        if planned.restart and not self._is_intra_only:
            yield from self._drain(epoch)
            base = self._stream.time_base
            assert planned.packet.pts is not None
            assert base is not None
            self._awaited, self._errors_at_restart = planned.packet.pts * base, self._error_count
        if self._is_droppable:
            # After an error, `exact` falls back to the picture before a damaged one.
            is_needed = planned.needed or (self._policy == "exact" and self._error_count > 0)
            self._context.skip_frame = "DEFAULT" if is_needed else "NONREF"
        yield from self._decode(planned.packet, epoch)

    def _drain(self, epoch: Epoch) -> Iterator[Picture]:
        """Take all pictures out of the decoder, and prepare it for a keyframe."""
        yield from self._decode(None, epoch)
        self._context.flush_buffers()
        if self._awaited is not None and self._error_count == self._errors_at_restart:
            raise WrongKeyframe
        self._awaited = None

    def _decode(self, packet: Packet[VideoStream] | None, epoch: Epoch) -> Iterator[Picture]:
        try:
            frames = self._context.decode(packet)
        except av.error.FFmpegError as error:
            if isinstance(error, MemoryError):
                raise
            if not isinstance(error, EOFError):
                self._note_damage(epoch, packet)
            return
        if self.lacks_pts and packet is not None and packet.dts is not None:
            self._fed.append(packet.dts)
            if len(self._fed) > self._context.reorder_depth + len(frames):
                self._fed.popleft()  # its packet yielded no picture
        for frame in frames:
            yield from self._take(frame, epoch)

    def _note_damage(self, epoch: Epoch, packet: Packet[VideoStream] | None) -> None:
        self._error_count += 1
        base = self._stream.time_base
        if packet is None or packet.pts is None or base is None:
            self._damage.note()
        else:
            self._damage.note(epoch, packet.pts * base, packet.duration * base if packet.duration else None)

    def _take(self, frame: VideoFrame, epoch: Epoch) -> Iterator[Picture]:
        self._check(frame)
        source = self._time_of(frame, epoch)
        if self._awaited is not None:
            if source < self._awaited:
                return  # a leading picture, whose references were dropped
            if source != self._awaited or not frame.key_frame:
                raise WrongKeyframe
            self._awaited = None
        if frame.is_corrupt:
            self._error_count += 1
            self._damage.note(epoch, source)
            return
        self.frame_count += 1
        if epoch.first_picture is None:
            epoch.first_picture = source
        if epoch.origin is None and epoch.clock == "source":
            epoch.set_origin(source)
        if epoch.origin is None:
            self._waiting.append((frame, source))
        else:
            yield from self._offer(frame, source, epoch)

    def _take_waiting(self, epoch: Epoch) -> Iterator[Picture]:
        waiting, self._waiting = self._waiting, []
        for frame, source in waiting:
            yield from self._offer(frame, source, epoch)

    def _offer(self, frame: VideoFrame, source: Fraction, epoch: Epoch) -> Iterator[Picture]:
        pts = max(epoch.base, epoch.to_media(source))
        if pts <= self._last_media:
            return
        self._last_media = pts
        targets = self._planner.targets if self._planner is not None else None
        selected = self._selector.offer(frame, pts, targets)
        if selected is not None:
            yield Picture(epoch=epoch, pts=selected.pts, frame=selected.frame)

    def _time_of(self, frame: VideoFrame, epoch: Epoch) -> Fraction:
        """Return the frame's source time; without a timestamp, one frame interval after the last frame."""
        base = self._stream.time_base
        ticks = frame.pts if frame.pts is not None else frame.dts
        if self.lacks_pts:  # pictures come in order of time, so they take the decoding times in order
            ticks = self._fed.popleft() if self._fed else None
        if ticks is not None and base is not None:
            self._last_source = ticks * base
            return self._last_source
        rate = self._stream.average_rate or self._stream.guessed_rate or Fraction(25)  # a common rate, if none is known
        self._last_source = self._last_source + 1 / rate if self._last_source is not None else Fraction(0)
        epoch.end = max(epoch.end, self._last_source + 1 / rate)
        return self._last_source
