"""Similarity curves: turns sampled frames at uneven times into one value a second, with the bias removed."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FLAT_RANGE = 1e-6  # a curve with a smaller range is constant, up to float32 rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One value for each second (cell): that of the frame shown in its middle. Cells never cross epochs."""

    times: Floats  # (T,) start of each cell: one second apart, from the first frame of its epoch
    ends: Floats  # (T,) end of each cell: the next cell, or the end of the epoch (then 0.5 to 1.5 seconds long)
    values: NDArray[np.float32]  # (T,)
    epochs: NDArray[np.int32]  # (T,)


def debias(similarities: NDArray[np.float32], bank_similarities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Remove the parts of a similarity curve that do not depend on the query.

    Some frames are close to every text (hubs), so subtract the mean similarity of each frame to a bank of generic
    captions. A level that the whole video shares says nothing about the time, so subtract the median.

    Args:
        similarities: float32 (T,), of the query and each frame.
        bank_similarities: float32 (T, K), of K generic captions and each frame; one column with their mean is enough.
    Returns:
        float32 (T,), around 0 where the video does not show the query.
    Raises:
        ValueError: If the shapes do not fit, or K is 0.
    Source: hubness, QB-Norm, https://arxiv.org/abs/2112.12777; the plain mean in place of its softmax is ours.
    """
    if bank_similarities.ndim != 2 or bank_similarities.shape[:1] != similarities.shape:
        raise ValueError(f"bank_similarities must be (T, K) beside {similarities.shape}, got {bank_similarities.shape}")
    if bank_similarities.shape[1] == 0:
        raise ValueError("bank_similarities must have one caption or more, got none")
    if not len(similarities):
        return np.empty(0, dtype=np.float32)
    specific = similarities - bank_similarities.mean(axis=1)
    centred: NDArray[np.float32] = (specific - np.median(specific)).astype(np.float32)
    return centred


def per_second(
    pts_seconds: Floats,
    values: NDArray[np.float32],
    *,
    epochs: NDArray[np.int32] | None = None,
    duration_seconds: float,
) -> Curve:
    """Resample frames on a grid of one second. A frame is shown until the next frame, the last one until the end.

    Args:
        pts_seconds: float64 (F,), strictly increasing, >= 0.
        values: float32 (F,), finite.
        epochs: int32 (F,), never falling; None: all one epoch.
        duration_seconds: Media time at which the video ends, not before the last frame.
    Raises:
        ValueError: If one of these does not hold.
    """
    epochs = np.zeros(len(pts_seconds), dtype=np.int32) if epochs is None else epochs
    _check(pts_seconds, values, epochs, duration_seconds)
    times, ends, shown = [np.empty(0)], [np.empty(0)], [np.empty(0, dtype=np.int64)]
    for first, last in epoch_runs(epochs):
        start = float(pts_seconds[first])
        end = float(pts_seconds[last]) if last < len(pts_seconds) else duration_seconds
        if end <= start:
            continue  # the last frame is shown for no time
        edges = start + np.arange(max(1, round(end - start)) + 1, dtype=np.float64)
        edges[-1] = end
        middles = (edges[:-1] + edges[1:]) / 2
        times.append(edges[:-1])
        ends.append(edges[1:])
        shown.append(np.searchsorted(pts_seconds[:last], middles, "right") - 1)
    frame = np.concatenate(shown)
    return Curve(
        times=np.concatenate(times),
        ends=np.concatenate(ends),
        values=values[frame].astype(np.float32),
        epochs=epochs[frame].astype(np.int32),
    )


def epoch_runs(epochs: NDArray[np.int32]) -> list[tuple[int, int]]:
    """Return the first row and the row after the last of each epoch."""
    if not len(epochs):
        return []
    firsts = [0, *(np.flatnonzero(np.diff(epochs)) + 1).tolist()]
    return list(zip(firsts, [*firsts[1:], len(epochs)], strict=True))


def _check(
    pts_seconds: Floats, values: NDArray[np.float32], epochs: NDArray[np.int32], duration_seconds: float
) -> None:
    if not pts_seconds.shape == values.shape == epochs.shape or pts_seconds.ndim != 1:
        shapes = f"{pts_seconds.shape}, {values.shape} and {epochs.shape}"
        raise ValueError(f"times, values and epochs must all be (F,), got {shapes}")
    if not (math.isfinite(duration_seconds) and duration_seconds >= 0):
        raise ValueError(f"duration_seconds must be a finite number >= 0, got {duration_seconds}")
    if not (np.isfinite(values).all() and np.isfinite(pts_seconds).all()):
        raise ValueError("times and values must be finite numbers, got NaN or infinity")
    if (np.diff(pts_seconds) <= 0).any() or (np.diff(epochs) < 0).any():
        raise ValueError("times must be strictly increasing and epochs never fall, got them out of order")
    if len(pts_seconds) and not 0 <= pts_seconds[0] <= pts_seconds[-1] <= duration_seconds:
        raise ValueError(f"times must be in [0, {duration_seconds}], got {pts_seconds[0]} to {pts_seconds[-1]}")


def median(values: Floats) -> float:
    """Return the median of one value or more, without NaN. np.median takes five times as long on curves of minutes."""
    middle = len(values) // 2
    if len(values) % 2:
        return float(np.partition(values, middle)[middle])
    ordered = np.partition(values, (middle - 1, middle))
    return float((ordered[middle - 1] + ordered[middle]) / 2)


def otsu(values: Floats) -> float:
    """Return the threshold that splits values into two groups with the largest variance between them (Otsu)."""
    return float(otsu_of(np.sort(values)[None], np.array([len(values)]))[0])


def otsu_of(ordered: Floats, counts: Ints) -> Floats:
    """Return otsu() of the first `counts` values of each sorted row (R, T), padded with infinity: (R,).

    The threshold of fewer than two values is infinity.
    """
    if ordered.shape[1] < 2:
        return np.full(len(ordered), np.inf)
    low_count = np.arange(1, ordered.shape[1])
    high_count = counts[:, None] - low_count  # (R, T - 1)
    sums = np.cumsum(np.where(np.isfinite(ordered), ordered, 0.0), axis=1)
    distance = sums[:, :-1] / low_count - (sums[:, -1:] - sums[:, :-1]) / np.maximum(high_count, 1)
    split = np.where(high_count > 0, low_count * high_count * distance**2, -np.inf).argmax(axis=1)
    at = np.arange(len(ordered))
    thresholds: Floats = (ordered[at, split] + ordered[at, split + 1]) / 2
    return thresholds
