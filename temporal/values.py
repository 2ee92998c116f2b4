"""Windows, segments and the spans that answer a query."""

from dataclasses import dataclass

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
class Window:
    """Frames and utterances of a fixed span, before fusion. Never crosses an epoch."""

    epoch: int
    index: int  # within its epoch
    span: TimeSpan
    frames: slice  # into the video's FrameEmbeddings
    utterances: slice  # into the video's utterances


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
    score: float  # ring contrast plus a small share of the peak; higher is closer
    peak_seconds: float  # time of the best frame inside
    peak: float  # the curve's value there, unsmoothed
