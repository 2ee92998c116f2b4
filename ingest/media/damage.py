"""Counts the packets and pictures of an input that do not decode, and remembers the parts of it that they lie in."""

from __future__ import annotations  # av's Packet is generic for type checkers only

from fractions import Fraction
from typing import Any

import av
from av.packet import Packet

from ingest.media.timeline import Epoch
from ingest.values import MAX_DAMAGED_COUNT

MERGE_SECONDS = 2  # damaged parts closer than this count as one
SHORTEST_SECONDS = Fraction(1, 25)  # of a packet without a duration; 25 fps is the commonest frame rate

Span = tuple[Fraction, Fraction]  # media time, half-open


class Damage:
    """The damage of one input. Of many damaged parts, the closest are joined until MAX_DAMAGED_COUNT are left."""

    def __init__(self) -> None:
        self.count = 0  # packets and pictures
        self._spans: list[Span] = []  # in order, more than MERGE_SECONDS apart
        self._waiting: list[tuple[Epoch, Span]] = []  # source times of epochs whose media time is not known yet

    def note(self, epoch: Epoch | None = None, start: Fraction | None = None, duration: Fraction | None = None) -> None:
        """Count a packet or picture at a source time of an epoch; without these, its place stays unknown."""
        self.count += 1
        if epoch is None or start is None:
            return
        span = (start, start + (duration or SHORTEST_SECONDS))
        if epoch.origin is not None:
            self._add(epoch, span)
        elif len(self._waiting) < MAX_DAMAGED_COUNT:
            self._waiting.append((epoch, span))

    def spans(self) -> tuple[tuple[float, float], ...]:
        """Return the damaged parts that lie after media time zero, in seconds."""
        for epoch, span in self._waiting:
            if epoch.origin is not None:
                self._add(epoch, span)
        self._waiting = []
        return tuple((float(start), float(end)) for start, end in self._spans)

    def _add(self, epoch: Epoch, source: Span) -> None:
        start, end = (epoch.to_media(time) for time in source)
        if end <= 0:
            return
        spans: list[Span] = []
        for span in sorted([*self._spans, (max(start, Fraction(0)), end)]):
            if spans and span[0] - spans[-1][1] <= MERGE_SECONDS:
                spans[-1] = (spans[-1][0], max(spans[-1][1], span[1]))
            else:
                spans.append(span)
        if len(spans) > MAX_DAMAGED_COUNT:
            at = min(range(1, len(spans)), key=lambda i: spans[i][0] - spans[i - 1][1])
            spans[at - 1 : at + 1] = [(spans[at - 1][0], spans[at][1])]
        self._spans = spans


def decode_packet(context: Any, packet: Packet[Any] | None) -> list[Any]:
    """Return the frames that a decoder yields for a packet; None: those it still holds.

    A decoder may keep the rest of a damaged packet (VP9 packs several pictures into one), and would then refuse every
    other packet. So it is emptied.
    """
    try:
        frames: list[Any] = context.decode(packet)
    except av.error.BlockingIOError:
        context.flush_buffers()
        frames = context.decode(packet)
    return frames
