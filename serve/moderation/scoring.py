"""FrameScorer: how surely each frame shows what policies describe. Standing queries use the same confidence.

A live picture is judged as search judges a moment (serve.search.evidence): by how many standard deviations a text is
nearer to it than captions of anything are, weighed by the encoder's calibration. A picture as the question is judged by
its cosine with the live picture. All texts are compared in one matrix product a batch of frames.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoders.calibration import LOGIT, Regression, Scale
from serve.search.evidence import MAX_VIDEO_COUNT, MAX_Z

Floats = NDArray[np.float64]

# A live picture counts as a video of this single picture in the largest library that was calibrated, without an
# advantage over the best other video (no margin and no lead): a camera shows as many different things as a library
# does, and nobody knows what it shows later. On the development videos (benchmarks/policies.py) such a confidence is a
# frequency.
VIDEO_COUNT = MAX_VIDEO_COUNT
UNREACHABLE_CONFIDENCE = 2.0  # above 1: threshold of a policy or query that looks at no picture
MAX_LOGIT = 60.0  # beyond it a logistic does not change, and exp() would overflow
MIN_SPREAD = 1e-6  # least standard deviation of the bank's similarities, against division by zero


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompts:
    """The prompts of one policy: unit vectors, float32 (P, D) and (U, D)."""

    shown: NDArray[np.float32]  # a frame near to any of them shows it; empty: it cannot be seen
    unlike: NDArray[np.float32]  # a frame that shows any of these more surely only looks alike


class FrameScorer:
    """Compares frames with the prompts of N policies at once."""

    def __init__(self, prompts: Sequence[Prompts], bank: NDArray[np.float32], by: Regression) -> None:
        """Take the prompts of N policies, captions of anything, float32 (K, D), unit length, and the calibration."""
        self._count, self._bank, self._by = len(prompts), bank, by
        self._visible = np.array([n for n, each in enumerate(prompts) if len(each.shown)], np.int64)
        self._with_unlike = np.array([n for n in self._visible if len(prompts[n].unlike)], np.int64)
        shown = [prompts[n].shown for n in self._visible]
        unlike = [prompts[n].unlike for n in self._with_unlike]
        empty = np.empty((0, bank.shape[1]), np.float32)
        self._vectors = np.concatenate([empty, *shown, *unlike])
        self._generality = generality_of(self._vectors, bank)
        self._shown_count = sum(map(len, shown))
        self._shown_starts = _starts_of(shown)
        self._unlike_starts = _starts_of(unlike)

    def confidences(self, frames: NDArray[np.float32]) -> Floats:
        """Return float64 (F, N), 0..1, for frames (F, D).

        0 for policies without prompts, and for frames that show a look-alike more surely.
        """
        confidences = np.zeros((len(frames), self._count))
        if not (len(frames) and len(self._visible)):
            return confidences
        each = text_confidences(frames, self._vectors, self._generality, self._bank, self._by)
        shown = np.maximum.reduceat(each[:, : self._shown_count], self._shown_starts, axis=1)
        confidences[:, self._visible] = shown
        if len(self._with_unlike):
            unlike = np.maximum.reduceat(each[:, self._shown_count :], self._unlike_starts, axis=1)
            rivalled = confidences[:, self._with_unlike]
            confidences[:, self._with_unlike] = np.where(unlike > rivalled, 0.0, rivalled)
        return confidences


def text_confidences(
    frames: NDArray[np.float32],
    texts: NDArray[np.float32],
    generality: NDArray[np.float32],
    bank: NDArray[np.float32],
    by: Regression,
) -> Floats:
    """Return float64 (F, P), 0..1: how surely each frame (F, D) shows each text (P, D).

    Args:
        generality: Of each text, (P,): see generality_of(). It does not change from frame to frame.
        bank: Captions of anything, (K, D).
        by: The calibration of moments.
    """
    generic = frames @ bank.T  # (F, K)
    spread = np.maximum(generic.std(axis=1, keepdims=True), MIN_SPREAD)
    z = np.clip((frames @ texts.T - generic.mean(axis=1, keepdims=True)) / spread, -MAX_Z, MAX_Z)
    weights = by.weights
    plain = by.intercept + weights.generality * generality + weights.log_videos * math.log(VIDEO_COUNT)
    return _logistic(plain + (weights.own + weights.video) * z)


def generality_of(texts: NDArray[np.float32], bank: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the generality (encoders.calibration.Evidence) of each text (P, D): float32 (P,)."""
    return np.asarray(texts @ bank.mean(axis=0))


def picture_confidences(cosines: NDArray[np.float32], by: Scale) -> Floats:
    """Return float64, 0..1, for cosines of frames and pictures as questions, of any shape."""
    return _logistic(LOGIT * (2 * (cosines - by.no_match_below) / (by.match_above - by.no_match_below) - 1))


def _logistic(logits: NDArray[np.floating]) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -MAX_LOGIT, MAX_LOGIT).astype(np.float64))))


def _starts_of(parts: Sequence[NDArray[np.float32]]) -> NDArray[np.int64]:
    return np.cumsum([0, *map(len, parts)], dtype=np.int64)[:-1]
