"""Timestamps to media time: where epochs begin, and what time a timestamp is (design §3)."""

from dataclasses import dataclass
from fractions import Fraction
from math import floor

from ingest.config import Clock

BACKWARD_SECONDS = 1  # a smaller step back is jitter or reordering, not a new epoch
GAP_SECONDS = 10  # a longer silence of every stream opens a new epoch
MAX_PACKET_SECONDS = 60  # a slide may declare this long; more is a broken table, not a picture that stands
# Of media time before the first picture, on the source's clock: sound that comes before it belongs to the stream and is
# kept. A chunk is at most 10 s long.
LEAD_SECONDS = 16


@dataclass(slots=True, kw_only=True, eq=False)
class Epoch:
    """A stretch of unbroken timestamps. Source times are the container's, in exact seconds."""

    index: int
    base: Fraction  # media time at which the epoch begins
    origin: Fraction | None  # the source time that is `base`; None until the first picture is known
    clock: Clock
    first: Fraction | None = None  # the source time of the first picture
    start: Fraction  # lowest source time seen
    end: Fraction  # source time at which everything seen so far ends
    limit: Fraction | None = None  # media time at which the next epoch begins, once there is one

    def begin_with(self, source: Fraction) -> None:
        """Set the zero of media time by the source time of what comes first."""
        self.first = source
        self.origin = source if self.clock == "media" else Fraction(floor(source) - LEAD_SECONDS)

    def media(self, source: Fraction) -> Fraction:
        """Return the media time of a source time; below `base` for what comes before the first picture."""
        assert self.origin is not None
        return self.base + source - self.origin


@dataclass(slots=True)
class _Position:
    epoch: Epoch
    last: Fraction | None = None  # the highest decoding time of this stream in this epoch
    duration: Fraction = Fraction(0)  # of its last packet that said one to be believed

    def is_break(self, dts: Fraction | None, shown: Fraction) -> bool:
        """Whether a packet cannot follow in this epoch."""
        if shown > self.epoch.end + GAP_SECONDS:
            return True
        if dts is not None and self.last is not None:
            return dts < self.last - BACKWARD_SECONDS
        return shown < self.epoch.start - BACKWARD_SECONDS  # reordered pictures come late, none before the first


class Timeline:
    """The epochs of one input. Each stream meets a break by itself; the first to meet it opens the epoch.

    Args:
        clock: Where media time zero is: at the first picture ("media"), or a whole second of the source's own time
            LEAD_SECONDS before it ("source"), so that pieces decoded apart have their ticks at the same times.
    """

    def __init__(self, clock: Clock = "media") -> None:
        self._clock = clock
        self.current: Epoch | None = None
        self.first: Epoch | None = None  # the one that media time zero lies in
        self._positions: dict[int, _Position] = {}

    def place(
        self, stream: int, *, dts: Fraction | None, pts: Fraction | None, duration: Fraction | None
    ) -> Epoch | None:
        """Return the epoch of the next packet of a stream; None while nothing has a timestamp.

        Decoding times are compared with decoding times, so reordered pictures are no step backward.
        """
        position = self._positions.get(stream)
        shown = pts if pts is not None else dts
        if shown is None:
            return position.epoch if position else self.current
        if position is None:
            epoch = self._join(shown)
        elif position.is_break(dts, shown):
            epoch = self._join(shown, leaving=position.epoch)
        else:
            epoch = position.epoch
        if position is None or position.epoch is not epoch:
            position = self._positions[stream] = _Position(epoch)
        if dts is not None:
            position.last = dts if position.last is None else max(position.last, dts)
        if duration is not None and 0 < duration <= MAX_PACKET_SECONDS:
            position.duration = duration
        epoch.start = min(epoch.start, shown)
        epoch.end = max(epoch.end, shown + position.duration)
        return epoch

    def _join(self, shown: Fraction, leaving: Epoch | None = None) -> Epoch:
        """Return the newest epoch when the time fits it, else open one."""
        current = self.current
        if (
            current is not None
            and current is not leaving
            and current.start - GAP_SECONDS <= shown <= current.end + GAP_SECONDS
        ):
            return current
        if current is None or current.origin is None:  # no picture yet: what came before does not count
            index, base, origin = 0, Fraction(0), None
        else:
            index, base, origin = current.index + 1, current.media(current.end), shown
            current.limit = base
        self.current = Epoch(index=index, base=base, origin=origin, clock=self._clock, start=shown, end=shown)
        if index == 0:
            self.first = self.current
        return self.current
