"""Samples one picture for each second of media time (a tick): chooses packets to decode, and pictures to keep.

A Planner looks at packets before they are decoded, one or two seconds ahead, and drops those that no tick needs. A
Selector chooses among the decoded pictures. Only the Selector decides, so a wrong plan (missing timestamps, wrong
flags) costs time but never yields a wrong picture.
"""

from __future__ import annotations  # av's Packet is generic for type checkers only

from collections import deque
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ingest.config import SamplingPolicy

HALF = Fraction(1, 2)  # seconds; `fast` and `keyframes` take a picture this close to its tick
MAX_PENDING_COUNT = 4096  # packets that the planner holds back; two seconds at 60 fps are 120


def tick_of(pts: Fraction) -> int:
    """Return the tick whose half-open window [tick - 1/2, tick + 1/2) contains a media time."""
    return (2 * pts.numerator + pts.denominator) // (2 * pts.denominator)  # floor(pts + 1/2), in a tenth of its time


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPacket:
    """A packet to decode."""

    packet: Packet[VideoStream]
    pts: Fraction  # media time
    restart: bool  # packets before it were dropped: empty the decoder first
    needed: bool  # its picture may be selected; False: it is only a reference of others
    tick: int | None = None  # the tick that its picture is chosen for


@dataclass(frozen=True, slots=True)
class _Pending:
    packet: Packet[VideoStream]
    pts: Fraction
    is_key: bool


@dataclass(frozen=True, slots=True)
class SelectedPicture:
    """A picture, its media time, and the tick that it represents."""

    frame: VideoFrame
    pts: Fraction
    tick: int


class Planner:
    """Chooses the packets to decode within one epoch. Packets come in decoding order.

    Args:
        tick: The first tick to plan for.
        after: Media time of the last planned packet; targets lie after it.
        is_broken: Whether earlier packets were dropped, so that decoding must begin at a keyframe.
    """

    def __init__(self, policy: SamplingPolicy, *, tick: int, after: Fraction, is_broken: bool) -> None:
        self.policy = policy
        self.targets: dict[int, Fraction] = {}  # tick -> media time of the picture chosen for it
        self._tick, self._after, self._is_broken = tick, after, is_broken
        self._pending: deque[_Pending] = deque()

    def push(
        self, packet: Packet[VideoStream], *, pts: Fraction, horizon: Fraction, is_key: bool
    ) -> list[PlannedPacket]:
        """Take one packet; return those that are certain to be decoded now: no later one is shown before `horizon`."""
        if self.policy == "keyframes":
            return self._push_keyframe(packet, pts, is_key)
        if self._is_broken and not is_key and not self._pending:
            return []  # its references are missing
        self._pending.append(_Pending(packet, pts, is_key))
        if len(self._pending) > MAX_PENDING_COUNT:
            horizon = max(entry.pts for entry in self._pending)
        planned: list[PlannedPacket] = []
        if self.policy == "fast" and is_key and tick_of(pts) == self._tick:
            planned += self._decide(self._tick, horizon)
        while self._pending and self._is_certain(horizon):
            planned += self._decide(self._tick, horizon)
        return planned

    def finish(self, end: Fraction) -> list[PlannedPacket]:
        """Return the remaining packets to decode, for an epoch that ends at a media time."""
        planned: list[PlannedPacket] = []
        while self._pending and self._tick < end:
            planned += self._decide(self._tick, end)
        return planned

    def _is_certain(self, horizon: Fraction) -> bool:
        """Whether all candidates for the next tick have come."""
        if self.policy == "exact":  # a picture at the tick itself is still shown at it
            return horizon > self._tick
        return tick_of(horizon) > self._tick

    def _push_keyframe(self, packet: Packet[VideoStream], pts: Fraction, is_key: bool) -> list[PlannedPacket]:
        if not is_key or tick_of(pts) < self._tick or pts <= self._after:
            self._is_broken = True
            return []
        planned = PlannedPacket(packet=packet, pts=pts, restart=self._is_broken, needed=True, tick=tick_of(pts))
        self._tick, self._after, self._is_broken = tick_of(pts) + 1, pts, False
        self.targets = {tick_of(pts): pts}
        return [planned]

    def _decide(self, tick: int, horizon: Fraction) -> list[PlannedPacket]:
        """Choose the picture of one tick among the pending packets; move on to the next tick that can have one."""
        target = self._find_target(tick)
        if target is None:  # packets to come may be shown before the pending ones, but not before the horizon
            nearest = min([horizon, *(entry.pts for entry in self._pending if entry.pts > tick)])
            self._tick = max(tick + 1, ceil(nearest) if self.policy == "exact" else tick_of(nearest))
            return []
        entries = list(self._pending)
        wanted = entries[target]
        keys = [i for i in range(target + 1) if entries[i].is_key and entries[i].pts <= wanted.pts]
        begin = keys[-1] if keys else 0
        self._is_broken |= begin > 0
        planned: list[PlannedPacket] = []
        for i in range(begin, target + 1):
            entry = entries[i]
            # With `exact`, a picture shown after this tick may be the one of the next tick.
            needed = i == target or (self.policy == "exact" and entry.pts > wanted.pts)
            planned.append(
                PlannedPacket(
                    packet=entry.packet,
                    pts=entry.pts,
                    restart=self._is_broken,
                    needed=needed,
                    tick=tick if i == target else None,
                )
            )
            self._is_broken = False
        self._pending = deque(entries[target + 1 :])
        self.targets = {t: pts for t, pts in self.targets.items() if t >= tick - 2} | {tick: wanted.pts}
        self._tick, self._after = tick + 1, wanted.pts
        return planned

    def _find_target(self, tick: int) -> int | None:
        """Return the index of the pending packet to show for a tick."""
        entries = self._pending
        if self.policy == "exact":  # the picture shown at the tick is the latest one not after it
            shown = [(entry.pts, i) for i, entry in enumerate(entries) if self._after < entry.pts <= tick]
            return max(shown)[1] if shown else None
        near = [i for i, entry in enumerate(entries) if tick_of(entry.pts) == tick]
        keys = [i for i in near if entries[i].is_key]
        return keys[0] if keys else near[0] if near else None


class Selector:
    """Selects one decoded picture for each tick. Pictures come in order of time, over all epochs.

    A picture is returned once its tick is known to lie before the video's end.

    Args:
        keeps_first: Whether the first picture is one of them even if it is shown at no tick, as a whole video has one.
    """

    def __init__(self, policy: SamplingPolicy, *, keeps_first: bool) -> None:
        self._policy = policy
        self._lacks_first = keeps_first  # whether the first picture of the video is still to be selected
        self._tick = 0  # the next tick without a picture
        self._held: SelectedPicture | None = None

    @property
    def tick(self) -> int:
        return self._tick

    def offer(self, frame: VideoFrame, pts: Fraction, targets: dict[int, Fraction] | None) -> SelectedPicture | None:
        """Take a picture at a media time; return the picture that is certain to be selected now, if any.

        `targets` is the planner's choice by tick. None without a planner: then `fast` takes the first picture of a
        tick, but a keyframe rather than another.
        """
        selected = self._release(pts if targets is not None or self._policy == "exact" else Fraction(tick_of(pts)))
        if self._policy == "exact":  # hold the picture that is shown until the next one comes
            at = tick_of(pts) if self._lacks_first and self._held is None else ceil(pts)
            self._held = SelectedPicture(frame, pts, max(self._tick, at))
            return selected
        tick = tick_of(pts)
        held = self._held
        is_better = not targets and held is not None and tick == held.tick and frame.key_frame > held.frame.key_frame
        if (tick < self._tick and not is_better) or (targets and pts < targets.get(tick, pts)):
            return selected
        if self._policy == "keyframes" and not frame.key_frame and self._tick > 0:
            return selected  # the first picture need not be a keyframe: an edit list can begin anywhere
        self._tick = tick + 1
        self._held = SelectedPicture(frame, pts, tick)
        return selected

    def finish(self, end: Fraction) -> SelectedPicture | None:
        """Return the picture still held when an epoch ends at a media time."""
        selected = self._release(end)
        if selected is None and self._held is not None and self._lacks_first:
            selected, self._tick = self._held, self._held.tick + 1  # a single picture without a duration
        self._held = None
        return selected

    def _release(self, now: Fraction) -> SelectedPicture | None:
        """Return the held picture if its tick has passed."""
        held = self._held
        if held is None or held.tick >= now:
            return None
        self._held, self._lacks_first = None, False
        if self._policy == "exact":
            self._tick = ceil(now)
        return held
