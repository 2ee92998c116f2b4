"""Which packets to decode, and which pictures to keep, for one picture a second of media time.

A Planner looks at packets before they are decoded, one or two seconds ahead, and drops what no tick needs.
A Selector looks at the pictures that come out. Only the Selector decides what is kept, so a planner that is
off (no timestamps, flags that lie) costs time and never a wrong picture.
"""

from __future__ import annotations  # av's Packet is generic for type checkers only

from collections import deque
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ingest.config import SamplingPolicy

HALF = Fraction(1, 2)  # of a tick: `fast` and `keyframes` take a picture this close to it
MAX_PENDING_COUNT = 4096  # packets held back to look ahead; at 60 fps two seconds are 120


def tick_of(pts: Fraction) -> int:
    """Return the tick whose half-open window [tick - 1/2, tick + 1/2) holds a media time."""
    return floor(pts + HALF)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One packet to decode, with its media time."""

    packet: Packet[VideoStream]
    pts: Fraction
    restart: bool  # packets before it were dropped: empty the decoder first
    needed: bool  # the picture itself may be wanted, not only as a reference of another


@dataclass(frozen=True, slots=True)
class _Pending:
    packet: Packet[VideoStream]
    pts: Fraction
    is_key: bool


@dataclass(frozen=True, slots=True)
class Kept:
    """A picture with its media time and the tick it stands for."""

    frame: VideoFrame
    pts: Fraction
    tick: int


class Planner:
    """Choose the packets to decode within one epoch. Packets come in decoding order.

    Args:
        tick: The first tick to plan for.
        after: Media time of the last packet sent; a target lies beyond it.
        is_broken: Packets were dropped before, so that decoding can only begin at a keyframe.
    """

    def __init__(self, policy: SamplingPolicy, *, tick: int, after: Fraction, is_broken: bool) -> None:
        self.policy = policy
        self.targets: dict[int, Fraction] = {}  # tick -> media time of the picture chosen for it
        self._tick, self._after, self._is_broken = tick, after, is_broken
        self._pending: deque[_Pending] = deque()

    def push(self, packet: Packet[VideoStream], *, pts: Fraction, horizon: Fraction, is_key: bool) -> list[Step]:
        """Take one packet, return the steps now certain.

        Args:
            horizon: No later packet is shown before this media time.
        """
        if self.policy == "keyframes":
            return self._push_keyframe(packet, pts, is_key)
        if self._is_broken and not is_key and not self._pending:
            return []  # nothing before it to decode it from
        self._pending.append(_Pending(packet, pts, is_key))
        if len(self._pending) > MAX_PENDING_COUNT:
            horizon = max(entry.pts for entry in self._pending)
        steps: list[Step] = []
        if self.policy == "fast" and is_key and tick_of(pts) == self._tick:
            steps += self._decide(self._tick, horizon)
        while self._pending and self._is_certain(horizon):
            steps += self._decide(self._tick, horizon)
        return steps

    def finish(self, end: Fraction) -> list[Step]:
        """Return the steps left when no packet follows, and the epoch ends at a media time."""
        steps: list[Step] = []
        while self._pending and self._tick < end:
            steps += self._decide(self._tick, end)
        return steps

    def _is_certain(self, horizon: Fraction) -> bool:
        """Whether every packet that the next tick could take has been seen."""
        if self.policy == "exact":  # a picture at the tick itself is still shown at it
            return horizon > self._tick
        return horizon >= self._tick + HALF

    def _push_keyframe(self, packet: Packet[VideoStream], pts: Fraction, is_key: bool) -> list[Step]:
        if not is_key or tick_of(pts) < self._tick or pts <= self._after:
            self._is_broken = True
            return []
        step = Step(packet=packet, pts=pts, restart=self._is_broken, needed=True)
        self._tick, self._after, self._is_broken = tick_of(pts) + 1, pts, False
        self.targets = {tick_of(pts): pts}
        return [step]

    def _decide(self, tick: int, horizon: Fraction) -> list[Step]:
        """Choose the picture of one tick among the pending; go on to the next tick that can have one."""
        target = self._target(tick)
        if target is None:  # what is still to come may be shown before what is pending, from the horizon on
            nearest = min(horizon, *(entry.pts for entry in self._pending))
            self._tick = max(tick + 1, ceil(nearest) if self.policy == "exact" else tick_of(nearest))
            return []
        entries = list(self._pending)
        wanted = entries[target]
        keys = [i for i in range(target + 1) if entries[i].is_key and entries[i].pts <= wanted.pts]
        begin = keys[-1] if keys else 0
        self._is_broken |= begin > 0
        steps: list[Step] = []
        for i in range(begin, target + 1):
            entry = entries[i]
            # `exact` may find that what is shown after this tick stands until the next.
            needed = i == target or (self.policy == "exact" and entry.pts > wanted.pts)
            steps.append(Step(packet=entry.packet, pts=entry.pts, restart=self._is_broken, needed=needed))
            self._is_broken = False
        self._pending = deque(entries[target + 1 :])
        self.targets = {t: pts for t, pts in self.targets.items() if t >= tick - 2} | {tick: wanted.pts}
        self._tick, self._after = tick + 1, wanted.pts
        return steps

    def _target(self, tick: int) -> int | None:
        entries = self._pending
        if self.policy == "exact":  # the picture shown at the tick: the latest not after it
            shown = [(entry.pts, i) for i, entry in enumerate(entries) if self._after < entry.pts <= tick]
            return max(shown)[1] if shown else None
        near = [i for i, entry in enumerate(entries) if tick_of(entry.pts) == tick]
        keys = [i for i in near if entries[i].is_key]
        return keys[0] if keys else near[0] if near else None


class Selector:
    """Keep one decoded picture a tick. Pictures come in order of time, over all epochs.

    A picture is given out once the tick it stands for is known to lie before the video's end.
    """

    def __init__(self, policy: SamplingPolicy) -> None:
        self._policy = policy
        self._tick = 0  # the next tick without a picture
        self._held: Kept | None = None

    @property
    def tick(self) -> int:
        return self._tick

    def offer(self, frame: VideoFrame, pts: Fraction, targets: dict[int, Fraction] | None) -> Kept | None:
        """Take one picture at a media time; return the one that is now certain to be kept, if any.

        Args:
            targets: The planner's choice by tick; None where nothing is planned.
        """
        kept = self._release(pts)
        if self._policy == "exact":  # held: what is shown until the next comes
            self._held = Kept(frame, pts, max(self._tick, ceil(pts)))
            return kept
        tick = tick_of(pts)
        if tick < self._tick or (targets and pts < targets.get(tick, pts)):
            return kept
        if self._policy == "keyframes" and not frame.key_frame and self._tick > 0:
            return kept  # the first picture is kept even so: an edit list may begin between keyframes
        self._tick = tick + 1
        self._held = Kept(frame, pts, tick)
        return kept

    def finish(self, end: Fraction) -> Kept | None:
        """Return the picture still held when an epoch ends at a media time."""
        kept = self._release(end)
        if kept is None and self._held is not None and self._held.tick == 0:
            kept, self._tick = self._held, 1  # a lone picture without a duration
        self._held = None
        return kept

    def _release(self, now: Fraction) -> Kept | None:
        """Return the held picture once its tick is past."""
        held = self._held
        if held is None or held.tick >= now:
            return None
        self._held = None
        if self._policy == "exact":
            self._tick = ceil(now)
        return held
