"""Values of the stage: time spans, segments, scored spans, and the input of fusion."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from encoders.values import FrameEmbeddings, Utterance


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
    vector: NDArray[np.float32] | None  # (D,), unit length; None for a window without pictures


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredSpan:
    """A span of one similarity curve that stands out from its surroundings."""

    span: TimeSpan
    score: float  # height over the level of its surroundings, minus the height by chance; higher is closer
    peak_seconds: float  # time of the best frame inside
    peak: float  # unsmoothed value of the curve at the peak


@dataclass(frozen=True, slots=True, kw_only=True)
class Chapter:
    """A part of a video that is about one thing."""

    span: TimeSpan
    title: str  # words said in it, as they were said; empty if nothing is said
    best_frame_seconds: float | None  # time of the frame that shows it best; None: it has no pictures


@dataclass(frozen=True, slots=True, kw_only=True)
class Highlight:
    """One of the moments that together tell most of a video."""

    span: TimeSpan
    best_frame_seconds: float | None  # as in Chapter
    transcript: str  # words spoken in it; may be empty


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """The chapters and the highlights of a video, each in order of time."""

    chapters: tuple[Chapter, ...]  # without gaps; at least one
    highlights: tuple[Highlight, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VideoContent:
    """What is seen and said in a video, as vectors and words."""

    frames: FrameEmbeddings  # D is 0 without a visual encoder
    utterances: Sequence[Utterance]  # in order of time
    sentences: NDArray[np.float32]  # (U, E), unit length: their vectors; E is 0 without a sentence encoder
    span: TimeSpan

    def __post_init__(self) -> None:
        if len(self.utterances) != len(self.sentences):
            raise ValueError(f"{len(self.utterances)} utterances do not fit {len(self.sentences)} vectors")


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowTokens:
    """The input of fusion for one window. Times are seconds from its start; negative times are before it."""

    frames: NDArray[np.float32]  # (F, D), unit vectors
    frame_seconds: NDArray[np.float32]  # (F,), time at which each frame is first shown
    utterances: NDArray[np.float32]  # (U, E), unit vectors of sentences
    utterance_seconds: NDArray[np.float32]  # (U,), middle of each utterance

    def __post_init__(self) -> None:
        for vectors, seconds in ((self.frames, self.frame_seconds), (self.utterances, self.utterance_seconds)):
            if vectors.ndim != 2 or seconds.shape != vectors.shape[:1]:
                raise ValueError(f"vectors (N, D) and times (N,) do not fit: {vectors.shape} and {seconds.shape}")


class ChangeKind(StrEnum):
    """The kind of a change to a track (see temporal.hysteresis)."""

    OPENED = "OPENED"
    UPDATED = "UPDATED"
    CLOSED = "CLOSED"


class Pooling(Protocol):
    """Makes one vector of each window."""

    @property
    def name(self) -> str: ...

    def load(self, frame_size: int, utterance_size: int) -> None:
        """Load the weights, so that faults show before the work begins.

        Args:
            frame_size: D of the visual encoder; 0 without one.
            utterance_size: E of the sentence encoder.
        Raises:
            WeightsNotFound: If the file is missing.
            WeightsInvalid: If it is damaged, or was trained for vectors of other sizes.
        """

    def vectors(self, windows: Sequence[WindowTokens]) -> list[NDArray[np.float32] | None]:
        """Return float32 (D,), unit length, for each window; None for a window without pictures."""
