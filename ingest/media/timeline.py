"""Converts timestamps to media time, and finds the breaks at which a new epoch begins."""

from dataclasses import dataclass
from fractions import Fraction
from math import floor

from ingest.config import Clock

BACKWARD_SECONDS = 1  # a smaller step backward is jitter or reordering, not a new epoch
GAP_SECONDS = 10  # a longer silence of every stream opens a new epoch
MAX_PACKET_SECONDS = 60  # longest plausible packet: a slide lasts up to a minute; more is a broken table
# With clock "source", media time begins this long before the first picture, so that earlier sound is kept; a chunk is
# at most 10 s long.
LEAD_SECONDS = 16


@dataclass(slots=True, kw_only=True, eq=False)
class Epoch:
    """A stretch of unbroken timestamps. Source times are the container's times, in exact seconds."""

    index: int
    base: Fraction  # media time at which the epoch begins
    origin: Fraction | None  # the source time at `base`; None until the first picture is known
    clock: Clock
    first: Fraction | None = None  # the source time of the first picture
    start: Fraction  # lowest source time seen
    end: Fraction  # highest source time at which anything seen ends
    limit: Fraction | None = None  # media time at which the next epoch begins; None while this is the last

    def set_origin(self, source: Fraction) -> None:
        """Fix media time, given the source time of the first picture, or of the first sound."""
        self.first = source
        self.origin = source if self.clock == "media" else Fraction(floor(source) - LEAD_SECONDS)

    def to_media(self, source: Fraction) -> Fraction:
        """Convert a source time to media time; below `base` for times before the first picture."""
        assert self.origin is not None
        return self.base + source - self.origin


@dataclass(slots=True)
class _Position:
    """How far one stream of the input has come."""

    epoch: Epoch
    last: Fraction | None = None  # highest decoding time of this stream in this epoch
    duration: Fraction = Fraction(0)  # of its last packet with a plausible duration

    def is_break(self, dts: Fraction | None, shown: Fraction) -> bool:
        """Whether a packet belongs to another epoch."""
        if shown > self.epoch.end + GAP_SECONDS:
            return True
        if dts is not None and self.last is not None:
            return dts < self.last - BACKWARD_SECONDS
        # Reordered pictures arrive late, but none lies before the first.
        return shown < self.epoch.start - BACKWARD_SECONDS


class Timeline:
    """The epochs of one input. Each of its streams reaches a break by itself; the first one opens the epoch.

    Args:
        clock: Zero of media time: "media": the first picture; "source": a whole second of source time, LEAD_SECONDS
            before it. With "source", chunks decoded separately sample at the same times.
    """

    def __init__(self, clock: Clock = "media") -> None:
        self._clock = clock
        self.current: Epoch | None = None
        self.first: Epoch | None = None  # the epoch of media time zero
        self._positions: dict[int, _Position] = {}

    def place(
        self, stream: int, *, dts: Fraction | None, pts: Fraction | None, duration: Fraction | None
    ) -> Epoch | None:
        """Return the epoch of a stream's next packet; None while no packet had a timestamp.

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
        """Return the newest epoch if the time fits it, else open one."""
        current = self.current
        if (
            current is not None
            and current is not leaving
            and current.start - GAP_SECONDS <= shown <= current.end + GAP_SECONDS
        ):
            return current
        if current is None or current.origin is None:  # without a picture yet, an epoch is replaced
            index, base, origin = 0, Fraction(0), None
        else:
            index, base, origin = current.index + 1, current.to_media(current.end), shown
            current.limit = base
        self.current = Epoch(index=index, base=base, origin=origin, clock=self._clock, start=shown, end=shown)
        if index == 0:
            self.first = self.current
        return self.current
