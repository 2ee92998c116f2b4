"""Pools the similarities of a video's frames into one score, whole or block by block; Traits keeps what it computes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve.catalog.rows import CaptionScores
from temporal.moments.shots import Changes

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The share of some frames in a softmax mean. The pools of all parts of a video give the mean over its frames."""

    peak: Floats  # (K,), or () of one score: the highest similarity
    weight: Floats  # as peak: the sum of exp((similarity - peak) / temperature)
    weighted: Floats  # as peak: the sum of the similarities, each times its exp()


@dataclass(slots=True, kw_only=True)
class Traits:
    """Figures of a video's frames, or of a block of frames. They depend on no question and take long to compute."""

    changes: Changes | None = None  # None: not computed yet
    pool: Pool | None = None  # of a block: scores of the captions; None: not computed yet
    caption_scores: CaptionScores | None = None  # of a video; None: not computed yet


def pool(similarities: Floats, temperature: float) -> Pool:
    """Pool the similarities of frames, (F,) or (F, K); F is at least 1."""
    peak = similarities.max(axis=0)
    weights = np.exp((similarities - peak) / temperature)
    return Pool(peak=peak, weight=weights.sum(axis=0), weighted=(weights * similarities).sum(axis=0))


def softmax_mean_of_pools(pools: Sequence[Pool], temperature: float) -> Floats:
    """Return the softmax mean over the frames of all pools, () or (K,)."""
    if len(pools) == 1:
        return np.asarray(pools[0].weighted / pools[0].weight)
    peaks = np.stack([each.peak for each in pools])
    scale = np.exp((peaks - peaks.max(axis=0)) / temperature)
    weighted = (scale * np.stack([each.weighted for each in pools])).sum(axis=0)
    return np.asarray(weighted / (scale * np.stack([each.weight for each in pools])).sum(axis=0))


def softmax_mean(similarities: Floats, temperature: float) -> Floats:
    """Return the mean of the similarities of frames, (F,) or (F, K), weighted by their softmax: () or (K,).

    Source: query-scoring, https://github.com/m-bain/clip-hitchhiker.
    """
    return softmax_mean_of_pools([pool(similarities, temperature)], temperature)
