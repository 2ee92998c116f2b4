"""Embeddings and words: the results of the encoders. Times are media time, as in ingest.values."""

from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance:
    """About one spoken sentence."""

    epoch: int
    start_seconds: float
    end_seconds: float
    text: str
    words: tuple[Word, ...]
    language: str  # ISO 639-1, as Whisper names it
    avg_logprob: float  # mean log probability of the window that Whisper decoded it in
    no_speech_prob: float  # 0..1, of the same window

    def __post_init__(self) -> None:
        if not 0 <= self.start_seconds <= self.end_seconds:
            raise ValueError(f"bad time span [{self.start_seconds}, {self.end_seconds})")
