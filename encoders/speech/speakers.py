"""tell_apart(): which utterances of a video one speaker says, by the vectors of their voices."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Mean cosine of two groups of utterances from which on they are of one speaker. On the training half of made dialogues,
# 0.64 to 0.66 confuse fewest: `python -m benchmarks.speakers --half train --scan`.
SAME_VOICE = 0.65
CLEAR_SECONDS = 1.6  # shortest utterance that may found a speaker: the voice encoder was trained on that length
MAX_AT_ONCE = 2_000  # utterances grouped together: time and memory grow with the square; 32 MB


def tell_apart(voices: NDArray[np.float32], seconds: Sequence[float], *, same_voice: float = SAME_VOICE) -> list[int]:
    """Return the speaker of each utterance: from 1, in the order of first words; 0: it has no voice.

    Args:
        voices: float32 (U, D), unit length or 0, in order of time.
        seconds: The length of each utterance.
        same_voice: As SAME_VOICE.
    Source: agglomerative clustering with average linkage, by scipy; each utterance then goes to the nearest mean.
    """
    lengths = np.asarray(seconds, np.float64)
    has_voice = np.asarray(voices.any(axis=1), np.bool_)
    clear = np.flatnonzero(has_voice & (lengths >= CLEAR_SECONDS))
    if not len(clear):
        clear = np.flatnonzero(has_voice)
    if not len(clear):
        return [0] * len(voices)
    means = _group_all(voices[clear], lengths[clear], same_voice)
    nearest = np.argmax(voices @ means.T, axis=1)
    numbers: dict[int, int] = {}
    return [
        numbers.setdefault(int(group), len(numbers) + 1) if own else 0
        for group, own in zip(nearest.tolist(), has_voice.tolist(), strict=True)
    ]


def _group_all(voices: NDArray[np.float32], lengths: NDArray[np.float64], same_voice: float) -> NDArray[np.float32]:
    """Return the mean voices of the speakers, float32 (S, D), unit length; at least one."""
    blocks = [
        _group(voices[begin : begin + MAX_AT_ONCE], lengths[begin : begin + MAX_AT_ONCE], same_voice)
        for begin in range(0, len(voices), MAX_AT_ONCE)
    ]
    means, _ = blocks[0]
    if len(blocks) > 1:
        means = np.concatenate([means for means, _ in blocks])
        means, _ = _group(means, np.concatenate([weights for _, weights in blocks]), same_voice)
    return means


def _group(
    voices: NDArray[np.float32], lengths: NDArray[np.float64], same_voice: float
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Group voices; return the mean of each group, at unit length, and its seconds."""
    from scipy.cluster.hierarchy import fcluster, linkage

    if len(voices) == 1:
        return voices, lengths
    tree = linkage(voices.astype(np.float64), method="average", metric="cosine")
    groups = fcluster(tree, 1.0 - same_voice, criterion="distance") - 1
    sums = np.zeros((groups.max() + 1, voices.shape[1]), np.float64)
    np.add.at(sums, groups, voices * lengths[:, None])
    seconds = np.asarray(np.bincount(groups, weights=lengths), np.float64)
    return (sums / np.linalg.norm(sums, axis=1, keepdims=True)).astype(np.float32), seconds
