"""Tells a jump of a file's timestamps from a damaged timestamp, by the packet that follows."""

from __future__ import annotations  # av's Packet is generic for type checkers only

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import NamedTuple

from av.packet import Packet
from av.stream import Stream

from ingest.media.timeline import BACKWARD_SECONDS, GAP_SECONDS, Timeline


class DatedPacket(NamedTuple):
    """A packet and its source times in exact seconds, which are computed once: exact arithmetic is slow.

    A tuple, as there is one for each packet of a file, and making a frozen dataclass takes five times as long.
    """

    packet: Packet[Stream]
    stream: int  # number of its stream
    base: Fraction  # seconds of one tick of its stream
    pts: Fraction | None
    dts: Fraction | None
    duration: Fraction | None
    before: int | None = None  # number of the stream whose times its stream goes on with

    @property
    def decoded(self) -> Fraction | None:
        return self.dts if self.dts is not None else self.pts


class JumpFilter:
    """Holds a packet that jumps until the next one of its stream.

    If that one is back where the stream was, the first one's time is damaged: it gets a time between its neighbours.
    Else the jump is real.
    """

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._held: dict[int, DatedPacket] = {}  # number of a stream -> the packet that jumps
        self.mended_count = 0  # packets whose times were damaged

    def filter(self, packets: Iterable[DatedPacket]) -> Iterator[DatedPacket]:
        """Yield all packets. The caller places each one on the timeline before it takes the next."""
        for timed in packets:
            index = timed.stream
            held = self._held.pop(index, None)
            jumps = self._timeline.is_jump(index, dts=timed.dts, pts=timed.pts)
            if held is not None:
                yield self._mend(held, timed) if not jumps and _is_apart(held, timed) else held
                jumps = self._timeline.is_jump(index, dts=timed.dts, pts=timed.pts)
            if jumps:
                self._held[index] = timed
            else:
                yield timed
        yield from self._held.values()

    def _mend(self, held: DatedPacket, following: DatedPacket) -> DatedPacket:
        packet, after = held.packet, following.decoded
        if after is None:
            return held
        self.mended_count += 1
        before = self._timeline.last_of(held.stream)
        if before is None:  # it is the first
            before = after - 2 * (following.duration or 0)
        between = (min(before, after) + after) / 2
        packet.dts = packet.pts = round(between / held.base)
        return DatedPacket(
            packet=packet, stream=held.stream, base=held.base, pts=between, dts=between, duration=following.duration
        )


def _is_apart(held: DatedPacket, following: DatedPacket) -> bool:
    """Whether two consecutive packets of a stream lie too far from one another for one to follow the other."""
    times = (held.pts, held.dts), (following.pts, following.dts)
    for before, after in zip(*times, strict=True):
        if before is not None and after is not None:
            step = after - before
            if step < -BACKWARD_SECONDS or step > GAP_SECONDS:
                return True
    return False
