"""When something begins and ends, told while it goes on: two thresholds, a shortest length, a pause after the end.

Reading a whole curve (temporal.moments.moments) is better, and has to wait for its end; whoever is to be told at once
cannot.
All is decided by media time, frame by frame: the same frames give the same changes, however they are cut into batches
and whenever they come.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from temporal.values import ChangeKind

Floats = NDArray[np.float64]

# Under the lower threshold for so long, and it is over: a blink, or one bad frame, is not. (Field practice: leave below
# it for some frames, at one a second.)
LEAVE_SECONDS = 2.0
UPDATE_SECONDS = 10.0  # between two changes of what goes on: who watches sees that it does, and is not flooded

IDLE, RISING, OPEN = 0, 1, 2  # phases of a track


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Something about one track."""

    track: int
    kind: ChangeKind
    start_seconds: float
    end_seconds: float  # so far, until it is closed
    peak: float  # highest confidence so far
    peak_seconds: float  # the time of its frame


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rules:
    """What each of N tracks goes by: float64 (N,) each."""

    enter: Floats  # confidence from which it begins
    leave: Floats  # and under which it ends; at most `enter`
    min_seconds: Floats  # shorter ones are nothing
    cooldown_seconds: Floats  # after one ends, before the next may begin

    def __post_init__(self) -> None:
        shapes = {each.shape for each in (self.enter, self.leave, self.min_seconds, self.cooldown_seconds)}
        if len(shapes) != 1 or self.enter.ndim != 1:
            raise ValueError(f"rules must all be (N,), got {shapes}")
        if (self.leave > self.enter).any():
            raise ValueError("leave must be at most enter")
        if (self.min_seconds < 0).any() or (self.cooldown_seconds < 0).any():
            raise ValueError("min_seconds and cooldown_seconds must be >= 0")


class Hysteresis:
    """N tracks over the frames of one video. Between two epochs, and at the end, call finish()."""

    _STATE = ("phase", "start", "below_since", "ready_at", "told_at", "peak", "peak_at")

    def __init__(self, rules: Rules) -> None:
        count = len(rules.enter)
        self.rules = rules
        self.phase = np.zeros(count, np.int8)
        self.start = np.zeros(count)  # of what rises or is open, as the next
        self.below_since = np.full(count, np.inf)  # under `leave` from here on
        self.ready_at = np.zeros(count)  # when the next may begin
        self.told_at = np.zeros(count)  # of what is open: when a change was last given
        self.peak = np.zeros(count)
        self.peak_at = np.zeros(count)

    def step(self, seconds: float, confidence: Floats) -> list[Change]:
        """Take the next frame.

        Args:
            seconds: Its time, later than the one before.
            confidence: (N,), 0..1.
        """
        rules = self.rules
        if not (self.phase.any() or (confidence >= rules.enter).any()):  # most frames of most videos
            return []
        changes = self._opened(seconds)  # what rose until now lasted until now
        is_begun = self.phase != IDLE
        is_over = is_begun & (confidence < rules.leave)
        self.below_since = np.where(is_over, np.minimum(self.below_since, seconds), np.inf)
        changes += self._closed(is_over & (seconds - self.below_since >= LEAVE_SECONDS))
        is_higher = is_begun & ~is_over & (confidence > self.peak)
        begins = ~is_begun & (confidence >= rules.enter) & (seconds >= self.ready_at)
        self.phase[begins] = RISING
        self.start[begins] = seconds
        self.peak[begins | is_higher] = confidence[begins | is_higher]
        self.peak_at[begins | is_higher] = seconds
        changes += self._opened(seconds)
        due = np.flatnonzero((self.phase == OPEN) & (seconds - self.told_at >= UPDATE_SECONDS))
        self.told_at[due] = seconds
        return changes + [self._change(track, ChangeKind.UPDATED, seconds) for track in due.tolist()]

    def finish(self, seconds: float) -> list[Change]:
        """End all that goes on, as the video or an epoch of it ends here."""
        changes = self._opened(seconds)
        self.below_since = np.minimum(self.below_since, seconds)
        return changes + self._closed(self.phase != IDLE)

    def _opened(self, seconds: float) -> list[Change]:
        """Open what has lasted long enough by now."""
        if not (self.phase == RISING).any():
            return []
        lasted = np.minimum(self.below_since, seconds) - self.start
        found = np.flatnonzero((self.phase == RISING) & (lasted >= self.rules.min_seconds))
        self.phase[found] = OPEN
        self.told_at[found] = seconds
        return [self._change(track, ChangeKind.OPENED, seconds) for track in found.tolist()]

    def _closed(self, is_over: NDArray[np.bool_]) -> list[Change]:
        """End these: what was open is told, what only rose is nothing."""
        was_open = np.flatnonzero(is_over & (self.phase == OPEN))
        changes = [self._change(track, ChangeKind.CLOSED, self.below_since[track]) for track in was_open.tolist()]
        self.ready_at[was_open] = self.below_since[was_open] + self.rules.cooldown_seconds[was_open]
        self.phase[is_over] = IDLE
        self.below_since[is_over] = np.inf
        return changes

    def _change(self, track: int, kind: ChangeKind, seconds: float) -> Change:
        return Change(
            track=track,
            kind=kind,
            start_seconds=float(self.start[track]),
            end_seconds=float(min(self.below_since[track], seconds)),
            peak=float(self.peak[track]),
            peak_seconds=float(self.peak_at[track]),
        )

    # ---- tracks that come

    def reset(self, track: int) -> None:
        """Let a track begin, whatever went on in it."""
        self.phase[track], self.below_since[track], self.ready_at[track] = IDLE, np.inf, 0.0

    def grown(self, rules: Rules) -> Self:
        """Return the same with more tracks, which begin."""
        made = type(self)(rules)
        for name in self._STATE:
            getattr(made, name)[: len(self.phase)] = getattr(self, name)
        return made

    # ---- kept between two runs

    def state(self, track: int) -> list[float]:
        """Return all that a track remembers, as finite numbers; None of it is for people."""
        found = [float(getattr(self, name)[track]) for name in self._STATE]
        return [-1.0 if value == np.inf else value for value in found]

    @classmethod
    def restored(cls, rules: Rules, states: Mapping[int, Sequence[Any]]) -> Self:
        """Go on from what state() gave, by track; the others begin.

        Raises:
            ValueError: If a state is none.
        """
        made = cls(rules)
        for track, values in states.items():
            for name, value in zip(cls._STATE, values, strict=True):
                getattr(made, name)[track] = np.inf if name == "below_since" and value < 0 else value
        return made
