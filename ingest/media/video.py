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
from ingest.errors import LimitExceeded
from ingest.media.container import is_shown_in_order
from ingest.media.damage import Damage, decode_packet
from ingest.media.history import MAX_HISTORY_COUNT, PacketHistory
from ingest.media.last_picture import LastPicture
from ingest.media.sampler import PlannedPacket, Planner, Selector, tick_of
from ingest.media.still.png import PROFILED_CODECS, hide_profile
from ingest.media.timeline import Epoch

# Codecs whose decoders in FFmpeg restart at a keyframe reliably. All others are decoded from end to end.
PLANNED_CODECS = frozenset(
    {"h263", "h264", "hevc", "vvc", "mpeg1video", "mpeg2video", "mpeg4", "msmpeg4v3", "flv1"}
    | {"vc1", "wmv1", "wmv2", "wmv3", "vp6", "vp6f", "vp8", "vp9", "av1", "theora"}
)
# Codecs of which FFmpeg may skip unreferenced pictures without changing the others. Not HEVC: with temporal layers, a
# picture marked as unreferenced may be a reference of a higher layer.
DROPPABLE_CODECS = frozenset({"h264", "mpeg1video", "mpeg2video", "mpeg4", "vp8"})


class _PictureMissing(Exception):
    """A planned picture did not come out of the decoder.

    Attributes:
        pts: Its media time; None if the reason is not damage, but a packet that is wrongly marked as a keyframe.
    """

    def __init__(self, pts: Fraction | None) -> None:
        self.pts = pts


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A sampled picture, as decoded."""

    epoch: Epoch
    pts: Fraction  # media time
    frame: VideoFrame


class VideoTrack:
    """Decodes the packets that the sampling policy needs.

    If a planned picture does not come, it decodes all packets since the last good keyframe, and all to come until a
    keyframe decodes: a damaged video yields whatever is left of it, and one without damage costs nothing.

    Args:
        keeps_first: As for Selector.
        check: Called with each decoded frame before anything else; may raise.
    """

    def __init__(
        self,
        stream: VideoStream,
        policy: SamplingPolicy,
        damage: Damage,
        *,
        keeps_first: bool,
        check: Callable[[VideoFrame], None],
    ) -> None:
        self._policy, self._damage, self._check = policy, damage, check
        self._use(stream)
        self._selector = Selector(policy, keeps_first=keeps_first)
        self._planner: Planner | None = None
        self._history = PacketHistory()
        self._targets: deque[tuple[int, Fraction]] = deque()  # ticks and media times of planned pictures still to come
        self._last_fed: Packet[VideoStream] | None = None
        self._is_recovering = False
        self._missing_pts = Fraction(0)  # media time of the missing picture that began the recovery
        self._epoch: Epoch | None = None
        self._last_picture = LastPicture()
        self._last_source: Fraction | None = None  # of the last decoded frame, for one without a timestamp
        self._last_media = Fraction(-1)
        self._waiting: list[tuple[VideoFrame, Fraction]] = []  # decoded frames that wait for media time
        self._fed: deque[int] = deque()  # AVI: decoding times of packets whose pictures are not decoded yet
        self._awaited: Fraction | None = None  # source time of the keyframe that must decode next
        self._has_error = False  # whether anything since the last restart was damaged
        self._damaged: set[Fraction] = set()  # source times of damage that is counted, and may be decoded again
        self._has_keyframes = False
        self._must_restart = False  # whether the epoch must begin at a keyframe
        self.frame_count = 0  # decoded frames

    def _use(self, stream: VideoStream) -> None:
        self._stream, self._context = stream, stream.codec_context
        self._base = stream.time_base  # PyAV computes it at each access
        codec = self._context.codec
        self._may_have_profile = codec.canonical_name in PROFILED_CODECS
        self._is_intra_only = codec.intra_only
        self.is_shown_in_order = is_shown_in_order(stream)
        self.lacks_pts = stream.container.format.name == "avi" and not self.is_shown_in_order
        self._is_planned = not self.lacks_pts and (codec.intra_only or codec.canonical_name in PLANNED_CODECS)
        self._is_droppable = codec.canonical_name in DROPPABLE_CODECS

    def follow(self, stream: VideoStream) -> Iterator[Picture]:
        """Go on with another stream; yield the pictures of the one before that are certain now."""
        if self._epoch is not None:
            end = self._last_picture.least_end
            yield from self._empty(self._epoch, end if end is not None else self._epoch.end)
        self._planner, self._history = None, PacketHistory()
        self._is_recovering = self._must_restart = self._has_keyframes = False
        self._damaged.clear()
        self._use(stream)

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
            self._leave_epoch()
        self._epoch = epoch
        if pts is not None:
            self._last_picture.note(pts, duration)
        if epoch.origin is not None:
            yield from self._take_waiting(epoch)
        if not self._is_planned:
            yield from self._decode(packet, epoch)
        elif pts is None:
            yield from self._stop_planning(packet, epoch)
        else:
            yield from self._plan(packet, epoch, pts=pts, dts=dts)

    def finish(self) -> Iterator[Picture]:
        """Yield the rest of the current epoch."""
        epoch = self._epoch
        if epoch is None:
            return
        if epoch.clock == "media" and self._last_picture.least_end is not None:
            epoch.end = max(epoch.end, self._last_picture.least_end)
        yield from self._empty(epoch, self._source_end(epoch))
        if epoch.clock == "media":
            epoch.settle()
        if epoch.origin is not None:
            yield from self._take_waiting(epoch)
            selected = self._selector.finish(epoch.to_media(self._source_end(epoch)))
            if selected is not None:
                yield Picture(epoch=epoch, pts=selected.pts, frame=selected.frame)

    def _empty(self, epoch: Epoch, end: Fraction) -> Iterator[Picture]:
        """Decode what is planned up to a source time, and take all pictures out of the decoder."""
        if self._planner is not None:
            yield from self._decode_planned(self._planner.finish(epoch.to_media(end)), epoch)
        try:
            yield from self._drain(epoch)
        except _PictureMissing as missing:
            yield from self._recover(missing.pts, epoch)
            yield from self._drain(epoch)

    def _source_end(self, epoch: Epoch) -> Fraction:
        """Return the source time until which the last picture is shown.

        In a whole video, that is its end. In a chunk, it is the time of the next chunk's first picture; the sound may
        end a little later.
        """
        end = self._last_picture.end if epoch.clock == "source" else None
        return end if end is not None else epoch.end

    def _leave_epoch(self) -> None:
        self._planner, self._last_picture, self._history = None, LastPicture(), PacketHistory()
        self._is_recovering, self._must_restart = False, self._has_keyframes
        self._damaged.clear()
        self._context.flush_buffers()

    def _stop_planning(self, packet: Packet[VideoStream], epoch: Epoch) -> Iterator[Picture]:
        """Decode all packets from now on, since timestamps are missing."""
        if self._planner is not None:
            yield from self._decode_planned(self._planner.finish(epoch.to_media(epoch.end)), epoch)
        self._planner, self._is_planned, self._history = None, False, PacketHistory()
        self._targets.clear()
        self._context.skip_frame = "DEFAULT"
        yield from self._decode(packet, epoch)

    def _plan(
        self, packet: Packet[VideoStream], epoch: Epoch, *, pts: Fraction, dts: Fraction | None
    ) -> Iterator[Picture]:
        """Decode the packets that are certain to be needed now."""
        is_key = packet.is_keyframe or self._is_intra_only
        is_candidate = is_key or self._policy != "keyframes"
        if is_key or (is_candidate and (len(self._history) or not self._must_restart)):
            self._history.push(packet, is_key)
        self._has_keyframes |= is_key
        # The first picture is wanted in any case.
        if epoch.origin is None or not self.frame_count or (self._is_recovering and is_candidate):
            yield from self._decode(packet, epoch)
            return
        if self._is_recovering:
            return
        if self._planner is None:
            tick = self._selector.tick
            self._planner = Planner(
                self._policy,
                tick=max(tick, ceil(self._last_media)) if self._policy == "exact" else tick,
                after=self._last_media,
                is_broken=self._must_restart,
            )
            self._must_restart = False
        shown = epoch.to_media(pts)
        horizon = epoch.to_media(dts) if dts is not None else shown - 1
        planned = self._planner.push(packet, pts=shown, horizon=horizon, is_key=is_key)
        yield from self._decode_planned(planned, epoch)

    def _decode_planned(self, planned: list[PlannedPacket], epoch: Epoch) -> Iterator[Picture]:
        try:
            for step in planned:
                if step.restart and not self._is_intra_only:
                    yield from self._drain(epoch)
                    self._await(step.packet)
                if self._is_droppable:
                    self._context.skip_frame = "DEFAULT" if step.needed else "NONREF"
                if step.tick is not None:
                    self._targets.append((step.tick, max(epoch.base, step.pts)))
                self._last_fed = step.packet
                yield from self._decode(step.packet, epoch)
        except _PictureMissing as missing:
            yield from self._recover(missing.pts, epoch)

    def _await(self, packet: Packet[VideoStream]) -> None:
        """Expect the picture of a keyframe to be the next from the decoder, which is empty."""
        self._awaited, self._has_error = self._time_of_packet(packet), False

    def _drain(self, epoch: Epoch) -> Iterator[Picture]:
        """Take all pictures out of the decoder, and prepare it for a keyframe."""
        yield from self._decode(None, epoch)
        self._context.flush_buffers()
        is_mark_wrong = self._awaited is not None and not self._has_error
        self._awaited = None
        if is_mark_wrong and self._is_planned and not self._is_recovering:
            raise _PictureMissing(None)
        self._check_targets(None)

    def _recover(self, missing: Fraction | None, epoch: Epoch) -> Iterator[Picture]:
        """Decode the recent packets once more, none left out, and those to come until a keyframe decodes.

        Args:
            missing: Media time of the missing picture; None if a keyframe mark is wrong, so that no other is trusted.
        """
        self._is_recovering, self._is_planned = True, missing is not None
        self._missing_pts = missing if missing is not None else Fraction(0)
        self._planner, self._awaited = None, None
        self._targets.clear()
        self._context.skip_frame = "DEFAULT"
        if self._history.is_whole:
            packets = self._history.packets()
            self._context.flush_buffers()
            if packets and self._history.begins_with_key and not self._is_intra_only:
                self._await(packets[0])
            if self._policy != "exact":
                self._last_media = Fraction(-1)  # a picture that was passed over may be the best now
        else:  # decoding goes on where it is
            packets = self._history.packets(after=self._last_fed)
        for packet in packets:
            yield from self._decode(packet, epoch)
        if not self._is_planned:
            self._history = PacketHistory()

    def _check_targets(self, pts: Fraction | None) -> None:
        """Raise _PictureMissing if a planned picture has not come, but one of a later media time has.

        Args:
            pts: Media time of the newest picture; None if no picture is left in the decoder.
        """
        while self._targets and (pts is None or self._targets[0][1] < pts):
            tick, target = self._targets.popleft()
            if self._policy == "exact":
                has_come = self._last_media >= target
            else:
                has_come = self._selector.tick > tick or (pts is not None and tick_of(pts) == tick)
            if not has_come:
                raise _PictureMissing(target)

    def _decode(self, packet: Packet[VideoStream] | None, epoch: Epoch) -> Iterator[Picture]:
        try:
            if packet is not None and self._may_have_profile:
                hide_profile(self._context, packet)
            frames = decode_packet(self._context, packet)
        except av.error.FFmpegError as error:
            if isinstance(error, MemoryError):
                raise
            if not isinstance(error, EOFError):
                self._note_damage(epoch, self._time_of_packet(packet))
            return
        if self.lacks_pts and packet is not None and packet.dts is not None:
            self._fed.append(packet.dts)
            if len(self._fed) > self._context.reorder_depth + len(frames):
                self._fed.popleft()  # its packet yielded no picture
        for frame in frames:
            yield from self._take(frame, epoch)

    def _note_damage(self, epoch: Epoch, source: Fraction | None) -> None:
        """Count a damaged packet or picture, but once only if it is decoded twice."""
        self._has_error = True
        if source is None:
            self._damage.note()
        elif source not in self._damaged:
            if len(self._damaged) >= MAX_HISTORY_COUNT:
                self._damaged.clear()
            self._damaged.add(source)
            self._damage.note(epoch, source, self._last_picture.duration)

    def _take(self, frame: VideoFrame, epoch: Epoch) -> Iterator[Picture]:
        source = self._time_of(frame, epoch)
        try:
            self._check(frame)
        except LimitExceeded:
            if not self.frame_count:
                raise
            self._note_damage(epoch, source)  # after good pictures, a damaged header is likelier than a huge picture
            return
        if self._awaited is not None:
            if source < self._awaited:
                return  # a leading picture, whose references were dropped
            is_mark_wrong = source != self._awaited or not frame.key_frame
            missing = epoch.to_media(self._awaited) if self._has_error else None
            self._awaited = None
            if is_mark_wrong and self._is_planned and not self._is_recovering:
                raise _PictureMissing(missing)
        if frame.is_corrupt:
            self._note_damage(epoch, source)
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
        self._check_targets(pts)
        if frame.key_frame or self._is_intra_only:
            self._note_good_key(frame, pts)
        if pts <= self._last_media:
            return
        self._last_media = pts
        targets = self._planner.targets if self._planner is not None else None
        selected = self._selector.offer(frame, pts, targets)
        if selected is not None:
            yield Picture(epoch=epoch, pts=selected.pts, frame=selected.frame)

    def _note_good_key(self, frame: VideoFrame, pts: Fraction) -> None:
        if self._history.begin_at(frame.pts) and pts > self._missing_pts:
            self._is_recovering = False

    def _time_of_packet(self, packet: Packet[VideoStream] | None) -> Fraction | None:
        base = self._base
        return packet.pts * base if packet is not None and packet.pts is not None and base is not None else None

    def _time_of(self, frame: VideoFrame, epoch: Epoch) -> Fraction:
        """Return the frame's source time; without a timestamp, one frame interval after the last frame."""
        base = self._base
        ticks = frame.pts if frame.pts is not None else frame.dts
        if self.lacks_pts:  # pictures come in order of time, so they take the decoding times in order
            ticks = self._fed.popleft() if self._fed else None
        if ticks is not None and base is not None:
            self._last_source = Fraction(ticks * base.numerator, base.denominator)  # faster than a product of the two
            return self._last_source
        rate = self._stream.average_rate or self._stream.guessed_rate or Fraction(25)  # a common rate, if none is known
        self._last_source = self._last_source + 1 / rate if self._last_source is not None else Fraction(0)
        epoch.end = max(epoch.end, self._last_source + 1 / rate)
        return self._last_source
