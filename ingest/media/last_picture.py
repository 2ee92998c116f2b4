"""Tells how long the last picture of an epoch, and of an input, is shown."""

from fractions import Fraction

from ingest.media.sampler import HALF
from ingest.media.timeline import MAX_PACKET_SECONDS, Epoch


class LastPicture:
    """Tracks the last two pictures of an epoch by time, and how long the last one is shown."""

    def __init__(self) -> None:
        self._before: Fraction | None = None
        self._last: Fraction | None = None
        self.duration = Fraction(0)

    def note(self, pts: Fraction, duration: Fraction | None) -> None:
        if duration is not None and duration is not self.duration and duration <= MAX_PACKET_SECONDS:
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


class PicturesEnd:
    """Tracks the time at which the pictures of an input end."""

    def __init__(self) -> None:
        self._index, self._end = 0, Fraction(-1 << 62)  # number of an epoch, and source time of its last picture's end

    def note(self, epoch: Epoch, pts: Fraction, duration: Fraction | None) -> None:
        """Take a packet of pictures and its source times."""
        shown_until = pts + duration if duration is not None else pts
        is_newer = epoch.index > self._index
        if (is_newer or (shown_until > self._end and epoch.index == self._index)) and pts <= epoch.end:
            shown_until = min(shown_until, epoch.end)
            self._index, self._end = epoch.index, shown_until if is_newer else max(self._end, shown_until)

    def to_media(self, current: Epoch | None) -> float:
        """Return the media time, in seconds, in the current epoch; zero if its media time is unknown."""
        if current is None or current.origin is None:
            return 0.0
        return max(0.0, float(current.to_media(self._end) if self._index == current.index else current.base))
