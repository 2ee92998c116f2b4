"""Pooling the similarities of a video's frames into one score, whole or block by block."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from serve.catalog.rows import Generic
from temporal.moments.shots import Changes

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """What some frames bring to a softmax mean: several of these make the mean over all their frames."""

    peak: Floats  # (K,), or () of one score: the highest similarity
    weight: Floats  # as peak: the sum of exp((similarity - peak) / temperature)
    weighted: Floats  # as peak: the sum of the similarities so weighed


@dataclass(slots=True, kw_only=True)
class Traits:
    """What no question changes in the frames of a video, or of a block of it: a few numbers, dear to compute."""

    changes: Changes | None = None  # None: not looked for yet
    pools: dict[float, Pool] = field(default_factory=dict)  # of a block, by temperature: of the bank's captions
    generic: Generic = field(default_factory=dict)  # of the bank's captions


def pool(similarities: Floats, temperature: float) -> Pool:
    """Pool frames (F,) or (F, K), one at least."""
    peak = similarities.max(axis=0)
    weights = np.exp((similarities - peak) / temperature)
    return Pool(peak=peak, weight=weights.sum(axis=0), weighted=(weights * similarities).sum(axis=0))


def softmax_mean_of_pools(pools: Sequence[Pool], temperature: float) -> Floats:
    """Return the softmax mean over the frames of all pools, () or (K,)."""
    if len(pools) == 1:
        return np.asarray(pools[0].weighted / pools[0].weight)
    peaks = np.stack([one.peak for one in pools])
    scale = np.exp((peaks - peaks.max(axis=0)) / temperature)
    weighted = (scale * np.stack([one.weighted for one in pools])).sum(axis=0)
    return np.asarray(weighted / (scale * np.stack([one.weight for one in pools])).sum(axis=0))


def softmax_mean(similarities: Floats, temperature: float) -> Floats:
    """Pool frames (F,) or (F, K) into one score (or K): their mean, weighted by softmax.

    Source: query-scoring, https://github.com/m-bain/clip-hitchhiker.
    """
    return softmax_mean_of_pools([pool(similarities, temperature)], temperature)
