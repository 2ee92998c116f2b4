"""Tells how long the last picture of an epoch is shown."""

from fractions import Fraction

from ingest.media.sampler import HALF
from ingest.media.timeline import MAX_PACKET_SECONDS


class LastPicture:
    """Tracks the last two pictures of an epoch by time, and how long the last one is shown."""

    def __init__(self) -> None:
        self._before: Fraction | None = None
        self._last: Fraction | None = None
        self.duration = Fraction(0)

    def note(self, pts: Fraction, duration: Fraction | None) -> None:
        if duration is not None and duration <= MAX_PACKET_SECONDS:
            self.duration = duration
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
        return self._last + (max(gap, self.duration) if gap > HALF or not self.duration else self.duration)

    @property
    def least_end(self) -> Fraction | None:
        """Source time until which the last picture is shown at least.

        If packets have no durations: for as long as the picture before it, but at most for a second.
        """
        if self._last is None:
            return None
        gap = self._last - self._before if self._before is not None else Fraction(1)
        return self._last + (self.duration or min(gap, Fraction(1)))
