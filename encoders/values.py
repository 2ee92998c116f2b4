"""Embeddings and words: the results of the encoders. Times are media time, as in ingest.values."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameEmbeddings:
    """Embeddings of the sampled frames of one video, in order of time."""

    epochs: NDArray[np.int32]  # (F,)
    pts_seconds: NDArray[np.float64]  # (F,), strictly increasing
    vectors: NDArray[np.float32]  # (F, D), unit length

    def __post_init__(self) -> None:
        if not len(self.epochs) == len(self.pts_seconds) == len(self.vectors):
            raise ValueError(
                f"lengths differ: {len(self.epochs)} epochs, {len(self.pts_seconds)} times, {len(self.vectors)} vectors"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """One spoken word."""

    text: str  # as spoken, with its punctuation, without surrounding space
    start_seconds: float
    end_seconds: float
    probability: float  # 0..1, Whisper's own


class WordSource(StrEnum):
    """Where the words of an utterance come from."""

    SPEECH = "SPEECH"  # the speech model heard them
    TRACK = "TRACK"  # a subtitle track of the file
    SIDECAR = "SIDECAR"  # a subtitle file beside the video
    IMPORT = "IMPORT"  # a transcript that somebody imported


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance:
    """About one spoken sentence, or one subtitle."""

    epoch: int
    start_seconds: float
    end_seconds: float
    text: str
    words: tuple[Word, ...]
    language: str  # ISO 639-1, as Whisper names it
    avg_logprob: float  # mean log probability of the window that Whisper decoded it in
    no_speech_prob: float  # 0..1, of the same window
    source: WordSource = WordSource.SPEECH  # of others, `avg_logprob` and `no_speech_prob` are NaN
    speaker: int = 0  # who says it, of this video: from 1, in the order of first words; 0: not told apart
    spoken_language: str = ""  # as `language`, which is that of the text: set where the text is a translation

    def __post_init__(self) -> None:
        if not 0 <= self.start_seconds <= self.end_seconds:
            raise ValueError(f"bad time span [{self.start_seconds}, {self.end_seconds})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A rectangle in a picture, in shares of its width and height."""

    left: float  # 0..1, as all
    top: float
    right: float
    bottom: float

    def __post_init__(self) -> None:
        if not (0 <= self.left <= self.right <= 1 and 0 <= self.top <= self.bottom <= 1):
            raise ValueError(f"bad box {self.left}, {self.top}, {self.right}, {self.bottom}")

    def iou(self, other: "Box") -> float:
        """Return the area of the intersection over that of the union; 0 for boxes without area."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        if width <= 0 or height <= 0:
            return 0.0
        return width * height / (self._area + other._area - width * height)

    @property
    def _area(self) -> float:
        return (self.right - self.left) * (self.bottom - self.top)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadLine:
    """A line of text in one picture."""

    text: str
    box: Box
    confidence: float  # 0..1, the recogniser's own


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLine:
    """A line of text while it stays in the picture. The text is untrusted: anybody can hold a sign into a camera."""

    epoch: int
    start_seconds: float  # of the first picture that was read with it
    # Where it is gone: a still picture changed, or a scene ended; else between two pictures that were read, one with it
    # and one without; or the end of the video.
    end_seconds: float
    text: str
    box: Box  # where it was last
    confidence: float  # 0..1, the highest of its readings

    def __post_init__(self) -> None:
        if not 0 <= self.start_seconds <= self.end_seconds:
            raise ValueError(f"bad time span [{self.start_seconds}, {self.end_seconds})")
