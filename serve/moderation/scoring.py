"""FrameScorer: how surely each frame shows what policies describe. Standing queries use the same confidence.

A frame is compared with prompts and with a bank of captions of anything at all (encoders.caption_bank): a frame that is
near to every text is then not near to the prompts. Captions of what only looks alike stand beside the bank with a
weight of their own. All prompts are compared in one matrix product a batch of frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# The margin of a frame is log(p / (1 - p)) of a softmax over the prompts, the lookalikes, and the mean of the captions
# of anything. Its inputs are similarities in standard deviations of the bank's, over this temperature. (Zero-shot
# classification as in https://arxiv.org/abs/2103.00020.) Of 0.4 to 1.3 it is the temperature that best separates the
# frames of the training half's moments from all other frames of the development videos: area under the curve 0.893,
# and 0.874 without a softmax.
TEMPERATURE = 0.7
# A frame with these margins has a confidence of one half where 1 in 100 of those other frames reaches it, and of 0.86
# where 1 in 1,000 does.
MARGIN_MIDDLE = 1.5
MARGIN_WIDTH = 0.7
MAX_LOGIT = 60.0  # beyond it a logistic does not change, and exp() would overflow
MIN_SPREAD = 1e-6  # least standard deviation of the bank's similarities, against division by zero


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompts:
    """The prompts of one policy: unit vectors, float32 (P, D) and (U, D)."""

    shown: NDArray[np.float32]  # a frame near to any of them shows it; empty: it cannot be seen
    unlike: NDArray[np.float32]  # a frame near to these only looks alike


class FrameScorer:
    """Compares frames with the prompts of N policies at once."""

    def __init__(self, prompts: Sequence[Prompts], bank: NDArray[np.float32]) -> None:
        """Take the prompts of N policies, and captions of anything: float32 (K, D), unit length."""
        self._count, self._bank = len(prompts), bank
        self._visible = np.array([n for n, each in enumerate(prompts) if len(each.shown)], np.int64)
        self._with_unlike = np.array([n for n in self._visible if len(prompts[n].unlike)], np.int64)
        shown = [prompts[n].shown for n in self._visible]
        unlike = [prompts[n].unlike for n in self._with_unlike]
        empty = np.empty((0, bank.shape[1]), np.float32)
        self._vectors = np.concatenate([empty, *shown, *unlike])
        self._shown_count = sum(map(len, shown))
        self._shown_starts = _starts_of(shown)
        self._unlike_starts = _starts_of(unlike)

    def confidences(self, frames: NDArray[np.float32]) -> Floats:
        """Return float64 (F, N), 0..1, for frames (F, D); 0 for policies without prompts."""
        confidences = np.zeros((len(frames), self._count))
        if not (len(frames) and len(self._visible)):
            return confidences
        scores, generic = compare(frames, self._vectors, self._bank)
        shown = np.maximum.reduceat(scores[:, : self._shown_count], self._shown_starts, axis=1)
        rivals = np.repeat(generic[:, None], self._count, axis=1)
        if len(self._with_unlike):
            unlike = np.maximum.reduceat(scores[:, self._shown_count :], self._unlike_starts, axis=1)
            rivals[:, self._with_unlike] = np.logaddexp(rivals[:, self._with_unlike], unlike)
        confidences[:, self._visible] = confidences_of(shown - rivals[:, self._visible])
        return confidences


def compare(
    frames: NDArray[np.float32], prompts: NDArray[np.float32], bank: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Compare frames (F, D) with prompts (P, D) and with the bank (K, D).

    Returns:
        Scores of the prompts, float32 (F, P), and of captions of anything, (F,). Their difference is the margin.
    """
    similarities = frames @ bank.T  # (F, K)
    mean = similarities.mean(axis=1, keepdims=True)
    unit = TEMPERATURE * np.maximum(similarities.std(axis=1, keepdims=True), MIN_SPREAD)
    generic = np.log(np.exp((similarities - mean) / unit).mean(axis=1))
    return (frames @ prompts.T - mean) / unit, generic


def confidences_of(margins: NDArray[np.float32]) -> Floats:
    """Return float64, 0..1, for margins of any shape."""
    logits = np.clip((margins - MARGIN_MIDDLE) / MARGIN_WIDTH, -MAX_LOGIT, MAX_LOGIT).astype(np.float64)
    return np.asarray(1 / (1 + np.exp(-logits)))


def _starts_of(parts: Sequence[NDArray[np.float32]]) -> NDArray[np.int64]:
    return np.cumsum([0, *map(len, parts)], dtype=np.int64)[:-1]
