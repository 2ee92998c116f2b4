"""Hysteresis: finds the start and end of events in live confidences: two thresholds, a least length, a cooldown.

temporal.moments reads a whole curve, which is better but must wait for its end. Moderation and standing queries cannot
wait. All decisions depend on media time, frame by frame. So the same frames give the same changes, whatever the batches
and the time of arrival.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from temporal.values import ChangeKind

Floats = NDArray[np.float64]

# An event ends after this long below the lower threshold, so that one bad frame does not end it. (Field practice: some
# frames, at one a second.)
LEAVE_SECONDS = 2.0
UPDATE_SECONDS = 10.0  # between two updates of an open event: a watcher sees that it lasts, and is not flooded

IDLE, RISING, OPEN = 0, 1, 2  # phases of a track


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change of one track."""

    track: int
    kind: ChangeKind
    start_seconds: float
    end_seconds: float  # the end so far, until the track closes
    peak: float  # highest confidence so far
    peak_seconds: float  # the time of its frame


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rules:
    """The thresholds of N tracks: float64 (N,) each."""

    enter: Floats  # confidence at which an event begins
    leave: Floats  # confidence below which it ends; at most `enter`
    min_seconds: Floats  # a shorter event is dropped
    cooldown_seconds: Floats  # from the end of an event until the next may begin

    def __post_init__(self) -> None:
        shapes = {each.shape for each in (self.enter, self.leave, self.min_seconds, self.cooldown_seconds)}
        if len(shapes) != 1 or self.enter.ndim != 1:
            raise ValueError(f"rules must all be (N,), got {shapes}")
        if (self.leave > self.enter).any():
            raise ValueError("leave must be at most enter")
        if (self.min_seconds < 0).any() or (self.cooldown_seconds < 0).any():
            raise ValueError("min_seconds and cooldown_seconds must be >= 0")


class Hysteresis:
    """N tracks over the frames of one video. Call finish() between two epochs and at the end."""

    _STATE = ("phase", "start", "below_since", "ready_at", "changed_at", "peak", "peak_at")

    def __init__(self, rules: Rules) -> None:
        count = len(rules.enter)
        self.rules = rules
        self.phase = np.zeros(count, np.int8)
        self.start = np.zeros(count)  # of the rising or open event
        self.below_since = np.full(count, np.inf)  # time since which the confidence is below `leave`
        self.ready_at = np.zeros(count)  # earliest start of the next event
        self.changed_at = np.zeros(count)  # time of the last change of the open event
        self.peak = np.zeros(count)
        self.peak_at = np.zeros(count)

    def step(self, seconds: float, confidence: Floats) -> list[Change]:
        """Add the next frame, later than the frame before, with confidences (N,), 0..1; return its changes."""
        rules = self.rules
        if not (self.phase.any() or (confidence >= rules.enter).any()):  # most frames of most videos
            return []
        changes = self._open_tracks(seconds)  # a rising event lasts at least until this frame
        is_begun = self.phase != IDLE
        is_over = is_begun & (confidence < rules.leave)
        self.below_since = np.where(is_over, np.minimum(self.below_since, seconds), np.inf)
        changes += self._close_tracks(is_over & (seconds - self.below_since >= LEAVE_SECONDS))
        is_higher = is_begun & ~is_over & (confidence > self.peak)
        begins = ~is_begun & (confidence >= rules.enter) & (seconds >= self.ready_at)
        self.phase[begins] = RISING
        self.start[begins] = seconds
        self.peak[begins | is_higher] = confidence[begins | is_higher]
        self.peak_at[begins | is_higher] = seconds
        changes += self._open_tracks(seconds)
        due = np.flatnonzero((self.phase == OPEN) & (seconds - self.changed_at >= UPDATE_SECONDS))
        self.changed_at[due] = seconds
        return changes + [self._change(track, ChangeKind.UPDATED, seconds) for track in due.tolist()]

    def finish(self, seconds: float) -> list[Change]:
        """End all events, at the end of the video or of an epoch."""
        changes = self._open_tracks(seconds)
        self.below_since = np.minimum(self.below_since, seconds)
        return changes + self._close_tracks(self.phase != IDLE)

    def _open_tracks(self, seconds: float) -> list[Change]:
        """Open the rising tracks that have lasted long enough."""
        if not (self.phase == RISING).any():
            return []
        lasted = np.minimum(self.below_since, seconds) - self.start
        tracks = np.flatnonzero((self.phase == RISING) & (lasted >= self.rules.min_seconds))
        self.phase[tracks] = OPEN
        self.changed_at[tracks] = seconds
        return [self._change(track, ChangeKind.OPENED, seconds) for track in tracks.tolist()]

    def _close_tracks(self, is_over: NDArray[np.bool_]) -> list[Change]:
        """End tracks. Only open tracks give a change; a track that was still rising is dropped."""
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

    def reset(self, track: int) -> None:
        """Set a track back to its initial state."""
        self.phase[track], self.below_since[track], self.ready_at[track] = IDLE, np.inf, 0.0

    def grow(self, rules: Rules) -> Self:
        """Return a copy with more tracks; the new tracks are in their initial state."""
        copy = type(self)(rules)
        for name in self._STATE:
            getattr(copy, name)[: len(self.phase)] = getattr(self, name)
        return copy

    def state(self, track: int) -> list[float]:
        """Return the state of a track as finite numbers, for restore()."""
        values = [float(getattr(self, name)[track]) for name in self._STATE]
        return [-1.0 if value == np.inf else value for value in values]

    @classmethod
    def restore(cls, rules: Rules, states: Mapping[int, Sequence[Any]]) -> Self:
        """Make tracks from the results of state(), by track; other tracks are in their initial state.

        Raises:
            ValueError: If a state is not a result of state().
        """
        tracks = cls(rules)
        for track, values in states.items():
            for name, value in zip(cls._STATE, values, strict=True):
                getattr(tracks, name)[track] = np.inf if name == "below_since" and value < 0 else value
        return tracks
