"""Windows, segments and the spans that answer a query."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeSpan:
    """A half-open interval of media time."""

    start_seconds: float
    end_seconds: float

    def __post_init__(self) -> None:
        if not 0 <= self.start_seconds <= self.end_seconds:
            raise ValueError(f"bad time span [{self.start_seconds}, {self.end_seconds})")

    @property
    def length_seconds(self) -> float:
        return self.end_seconds - self.start_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A window after fusion."""

    segment_id: str  # "video_id/epoch/index"
    epoch: int
    index: int
    span: TimeSpan
    vector: NDArray[np.float32] | None  # (D,), unit length; None where no picture was seen


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredSpan:
    """A span of one similarity curve that stands out of its surroundings."""

    span: TimeSpan
    score: float  # height over the level of its surroundings, less what chance gives; higher is closer
    peak_seconds: float  # time of the best frame inside
    peak: float  # the curve's value there, unsmoothed


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowTokens:
    """What fusion reads of one window. Times are seconds from its start; below 0 is before it."""

    frames: NDArray[np.float32]  # (F, D), unit vectors
    frame_seconds: NDArray[np.float32]  # (F,), when each is first shown
    utterances: NDArray[np.float32]  # (U, E), unit vectors of sentences
    utterance_seconds: NDArray[np.float32]  # (U,), the middle of each

    def __post_init__(self) -> None:
        for vectors, seconds in ((self.frames, self.frame_seconds), (self.utterances, self.utterance_seconds)):
            if vectors.ndim != 2 or seconds.shape != vectors.shape[:1]:
                raise ValueError(f"vectors (N, D) and times (N,) do not fit: {vectors.shape} and {seconds.shape}")


class ChangeKind(StrEnum):
    """What happened to something that is watched while it goes on."""

    OPENED = "OPENED"
    UPDATED = "UPDATED"
    CLOSED = "CLOSED"


class Pooling(Protocol):
    """What makes one vector of each window."""

    @property
    def name(self) -> str: ...

    def load(self, frame_size: int, utterance_size: int) -> None:
        """Read what it needs, so that what is wrong is found before work begins.

        Args:
            frame_size: D of the visual encoder; 0 without one.
            utterance_size: E of the sentence encoder.

        Raises:
            WeightsNotFound: If its file is gone.
            WeightsInvalid: If it is damaged, or was trained for vectors of other sizes.
        """

    def vectors(self, windows: Sequence[WindowTokens]) -> list[NDArray[np.float32] | None]:
        """Return float32 (D,), unit, of each window; None where no picture was seen."""
