"""Converts timestamps to media time, and finds the breaks at which a new epoch begins.

In a file the container's timeline is the truth: a gap of any length stays a gap. An epoch begins only where time steps
back, or jumps further than the file can last. In a stream, a gap of GAP_SECONDS opens an epoch too.
"""

from dataclasses import dataclass
from fractions import Fraction
from math import floor

from ingest.config import Clock

BACKWARD_SECONDS = 1  # a smaller step backward is jitter or reordering, not a new epoch
GAP_SECONDS = 10  # a longer silence of every stream opens a new epoch of a live stream
# Longest gap in a file that declares no duration: what follows is of another recording, or damaged. Players (ffplay)
# take the same hour for the bound between a picture that stands and a break.
MAX_GAP_SECONDS = 3600
END_SLACK_SECONDS = 2  # a packet may begin this much behind the declared duration, for rounding
MAX_PACKET_SECONDS = 60  # longest plausible packet: a slide lasts up to a minute; more is a broken table
# With clock "source", media time begins this long before the first picture, so that earlier sound is kept; a chunk is
# at most 10 s long.
LEAD_SECONDS = 16


@dataclass(slots=True, kw_only=True, eq=False)
class Epoch:
    """A stretch of unbroken timestamps. Source times are the container's times, in exact seconds."""

    index: int
    base: Fraction  # media time at which the epoch begins
    origin: Fraction | None  # the source time at `base`; None until the first picture or sound is known
    clock: Clock
    first_packet: Fraction | None = None  # source time of the first packet of pictures of a file
    first_picture: Fraction | None = None  # source time of the first picture that decodes
    first_sound: Fraction | None = None  # source time of the first sound that decodes
    start: Fraction  # lowest source time seen
    end: Fraction  # highest source time at which anything seen ends
    limit: Fraction | None = None  # media time at which the next epoch begins; None while this is the last
    before: "Epoch | None" = None  # the epoch that it follows
    _shift: Fraction = Fraction(0)  # from source time to media time, computed once: exact arithmetic is slow
    _shift_origin: Fraction | None = None  # the origin that it was computed for

    @property
    def first(self) -> Fraction | None:
        """The source time of the first picture, or of the first sound if there is no picture."""
        return self.first_picture if self.first_picture is not None else self.first_sound

    def set_origin(self, source: Fraction) -> None:
        """Fix media time, given the source time at which the input begins."""
        self.origin = source if self.clock == "media" else Fraction(floor(source) - LEAD_SECONDS)

    def settle(self) -> None:
        """Fix the media time of a file by what is known so far of its first picture and its first sound.

        A first picture that is damaged, or lacks its keyframe, counts: a player begins there, and shows nothing.
        """
        if self.origin is None:
            first = (self.first_packet, self.first_picture, self.first_sound)
            self.set_origin(min((time for time in first if time is not None), default=self.start))

    def to_media(self, source: Fraction) -> Fraction:
        """Convert a source time to media time; below `base` for times before the first picture."""
        assert self.origin is not None
        if self._shift_origin is not self.origin:
            self._shift, self._shift_origin = self.base - self.origin, self.origin
        return source + self._shift if self._shift else source


@dataclass(slots=True)
class _Position:
    """How far one stream of the input has come."""

    epoch: Epoch
    last: Fraction | None = None  # highest decoding time of this stream in this epoch
    duration: Fraction = Fraction(0)  # of its last packet with a plausible duration

    def is_behind(self, dts: Fraction | None, shown: Fraction) -> bool:
        """Whether a packet lies before where it could."""
        if dts is not None and self.last is not None:
            return dts < self.last and dts < self.last - BACKWARD_SECONDS  # a subtraction costs more than a comparison
        # Reordered pictures arrive late, but none lies before the first.
        return shown < self.epoch.start and shown < self.epoch.start - BACKWARD_SECONDS


class Timeline:
    """The epochs of one input. Each of its streams reaches a break by itself; the first one opens the epoch.

    Args:
        clock: Zero of media time: "media": the first picture or sound; "source": a whole second of source time,
            LEAD_SECONDS before the first picture. With "source", chunks decoded separately sample at the same times.
        keeps_gaps: Whether the input is a whole file. False: a stream, or a piece of one.
        declared_end: Source time at which a file ends, by its header; None: it does not say.
    """

    def __init__(self, clock: Clock, *, keeps_gaps: bool, declared_end: Fraction | None = None) -> None:
        self._clock, self._keeps_gaps = clock, keeps_gaps
        self._declared_end = declared_end
        self.current: Epoch | None = None
        self.first: Epoch | None = None  # the epoch of media time zero
        self._positions: dict[int, _Position] = {}

    def is_jump(self, stream: int, *, dts: Fraction | None, pts: Fraction | None) -> bool:
        """Whether a packet lies elsewhere than where its stream and the others have come: behind a gap, or before."""
        position = self._positions.get(stream)
        epoch = position.epoch if position is not None else self.current
        shown = pts if pts is not None else dts
        if epoch is None or shown is None:
            return False
        latest = shown if dts is None or dts is shown else max(shown, dts)
        if latest > epoch.end and latest > epoch.end + GAP_SECONDS:
            return True
        return position.is_behind(dts, shown) if position is not None else shown < epoch.start - GAP_SECONDS

    def last_of(self, stream: int) -> Fraction | None:
        """Return the highest decoding time of a stream in its epoch; None if it has none."""
        position = self._positions.get(stream)
        return position.last if position is not None else None

    def go_on(self, before: int, stream: int) -> None:
        """Let a new stream go on where another ended, unless a new epoch has begun since."""
        position = self._positions.get(before)
        if position is not None and position.epoch is self.current:
            self._positions[stream] = position

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
        elif position.is_behind(dts, shown) or not self._is_ahead(shown, position.epoch):
            epoch = self._join(shown, leaving=position.epoch)
        else:
            epoch = position.epoch
        if position is None or position.epoch is not epoch:
            position = self._positions[stream] = _Position(epoch)
        if dts is not None:
            position.last = dts if position.last is None else max(position.last, dts)
        # Most packets have the duration of the one before, as the same object, which spares comparisons.
        if (
            duration is not None
            and duration is not position.duration
            and duration > 0
            and self._is_plausible(shown, duration, epoch)
        ):
            position.duration = duration
        epoch.start = min(epoch.start, shown)
        epoch.end = max(epoch.end, self._end_of_packet(shown, position.duration, epoch))
        return epoch

    def _is_ahead(self, shown: Fraction, epoch: Epoch) -> bool:
        """Whether a time can follow in an epoch, perhaps behind a gap."""
        if shown <= epoch.end or shown <= epoch.end + GAP_SECONDS:
            return True
        if not self._keeps_gaps or epoch is not self.current or self._goes_back(shown, epoch):
            return False
        end = self._end_of(epoch)
        if end is None or end < epoch.end:  # a header that the file has proved wrong already
            return shown <= epoch.end + MAX_GAP_SECONDS
        return shown <= end + END_SLACK_SECONDS

    def _goes_back(self, shown: Fraction, epoch: Epoch) -> bool:
        """Whether a time goes on where the epoch before would be now: the times between were wrong."""
        before = epoch.before
        return (
            before is not None
            and before.origin is not None
            and abs(before.to_media(shown) - epoch.to_media(epoch.end)) <= GAP_SECONDS
        )

    def _end_of(self, epoch: Epoch) -> Fraction | None:
        """Return the source time at which the declared duration ends; None if none is declared."""
        if self._declared_end is None or epoch.index == 0:
            return self._declared_end
        return self._declared_end - epoch.base + epoch.start

    def _end_of_packet(self, shown: Fraction, duration: Fraction, epoch: Epoch) -> Fraction:
        """Return the source time at which a packet ends.

        Containers that store decoding times put a gap into the duration of a reordered picture that is shown after it:
        so a long one lasts at most until the file ends.
        """
        is_long = duration.numerator > duration.denominator
        end = self._end_of(epoch) if self._keeps_gaps and is_long else None
        return shown + duration if end is None else max(shown, min(shown + duration, end))

    def _is_plausible(self, shown: Fraction, duration: Fraction, epoch: Epoch) -> bool:
        if duration <= MAX_PACKET_SECONDS:
            return True
        end = self._end_of(epoch) if self._keeps_gaps else None
        return end is not None and shown + duration <= end + END_SLACK_SECONDS

    def _join(self, shown: Fraction, leaving: Epoch | None = None) -> Epoch:
        """Return the newest epoch if the time fits it, else open one."""
        current = self.current
        if (
            current is not None
            and current is not leaving
            and self._earliest(current, leaving) <= shown
            and self._is_ahead(shown, current)
        ):
            return current
        if current is not None and self._keeps_gaps:
            current.settle()
        if current is None or current.origin is None:  # without a picture yet, an epoch is replaced
            index, base, origin = 0, Fraction(0), None
        else:
            index, base, origin = current.index + 1, current.to_media(current.end), shown
            current.limit = base
        self.current = Epoch(
            index=index,
            base=base,
            origin=origin,
            clock=self._clock,
            start=shown,
            end=shown,
            before=current if index else None,
        )
        if current is not None and current.before is not None:
            current.before.before = None  # else the last of many epochs would hold them all
        if index == 0:
            self.first = self.current
        return self.current

    def _earliest(self, epoch: Epoch, leaving: Epoch | None) -> Fraction:
        """Return the earliest time at which a stream may join an epoch that another stream has opened.

        In a file, a stream that comes from the epoch before is at most GAP_SECONDS behind; else it is in a later one.
        A stream that begins may be stored anywhere.
        """
        if not self._keeps_gaps:
            return epoch.start - GAP_SECONDS
        return epoch.start - MAX_GAP_SECONDS if leaving is None else epoch.end - GAP_SECONDS
