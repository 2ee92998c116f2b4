"""From similarity curves to moments: pure NumPy, O(T), no training.

The recipe: hold each frame until the next one (a curve of one value a second), smooth at fixed scales, take the spans
of largest sum over the midpoint of median and peak and the runs over Otsu's threshold, sharpen their edges on the raw
curve, score each by its contrast to the seconds around it, snap the edges to shot cuts, and suppress what overlaps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoders.values import FrameEmbeddings
from temporal.config import MomentConfig
from temporal.values import ScoredSpan, TimeSpan

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One value a second: what is shown in the middle of that second. Cells are half-open and never cross epochs."""

    times: Floats  # (T,) where each cell begins: one second apart, from the start of its epoch
    ends: Floats  # (T,) where it ends: the next cell, or the end of its epoch
    values: NDArray[np.float32]  # (T,)
    epochs: NDArray[np.int32]  # (T,)


def debias(similarities: NDArray[np.float32], bank_similarities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Take out of a similarity curve what has nothing to do with the query.

    Some frames are near to every text (hubs): subtract each frame's mean similarity to a bank of generic captions. What
    the whole video shares says nothing about when: subtract the median.

    Args:
        similarities: float32 (T,), of the query and each frame.
        bank_similarities: float32 (T, K), of K generic captions; one column with their mean does the same.
    Returns:
        float32 (T,), around 0 where the query is not seen.
    Source: hubness, QB-Norm https://arxiv.org/abs/2112.12777; one mean instead of its softmax is ours.
    """
    if bank_similarities.shape[:1] != similarities.shape or bank_similarities.ndim != 2:
        raise ValueError(
            f"bank_similarities must be (T, K) beside {similarities.shape}, got {bank_similarities.shape}"
        )
    if not len(similarities):
        return similarities.astype(np.float32)
    specific = similarities - bank_similarities.mean(axis=1)
    return (specific - np.median(specific)).astype(np.float32)


def shot_cuts(embeddings: FrameEmbeddings) -> Floats:
    """Times at which the picture changes: float64, ascending, within epochs."""
    vectors = embeddings.vectors
    if len(vectors) < 2 or vectors.shape[1] == 0:
        return np.empty(0)
    change = 1.0 - np.einsum("fd,fd->f", vectors[:-1], vectors[1:], dtype=np.float64)
    same_epoch = embeddings.epochs[1:] == embeddings.epochs[:-1]
    middle = float(np.median(change))
    spread = 1.4826 * float(np.median(np.abs(change - middle)))
    is_cut = same_epoch & (change > max(CUT_FLOOR, middle + 3 * spread))
    before, after = embeddings.pts_seconds[:-1], embeddings.pts_seconds[1:]
    # A frame held long was still shown just before the next: the cut is within a second of that one.
    return np.asarray(np.maximum((before + after) / 2, after - 0.5)[is_cut], dtype=np.float64)


CUT_FLOOR = 0.15  # 1 - cosine


def per_second(
    pts_seconds: Floats,
    values: NDArray[np.float32],
    *,
    epochs: NDArray[np.int32] | None = None,
    duration_seconds: float,
) -> Curve:
    """Spread sampled frames over a regular grid: a frame is shown until the next one, the last until the end.

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
    firsts = np.flatnonzero(np.diff(epochs, prepend=epochs[:1] - 1))
    lasts = np.append(firsts[1:], len(epochs))
    times, ends, shown = [np.empty(0)], [np.empty(0)], [np.empty(0, dtype=np.int64)]
    for first, last in zip(firsts, lasts, strict=True):
        start = float(pts_seconds[first])
        end = float(pts_seconds[last]) if last < len(pts_seconds) else duration_seconds
        if end <= start:
            continue  # a last frame that is shown for no time
        count = max(1, round(end - start))  # the last cell takes the rest: 0.5 to 1.5 seconds
        edges = start + np.arange(count + 1, dtype=np.float64)
        edges[-1] = end
        middles = (edges[:-1] + edges[1:]) / 2
        times.append(edges[:-1])
        ends.append(edges[1:])
        shown.append(np.clip(np.searchsorted(pts_seconds, middles, "right") - 1, first, last - 1))
    frame = np.concatenate(shown)
    return Curve(
        times=np.concatenate(times),
        ends=np.concatenate(ends),
        values=values[frame].astype(np.float32),
        epochs=epochs[frame].astype(np.int32),
    )


def find_moments(
    pts_seconds: Floats,
    scores: NDArray[np.float32],
    *,
    epochs: NDArray[np.int32] | None = None,
    duration_seconds: float,
    cut_seconds: Floats | None = None,
    config: MomentConfig,
) -> list[ScoredSpan]:
    """Find the spans of one video that stand out of their surroundings, best first.

    Args:
        pts_seconds: float64 (F,), strictly increasing, >= 0.
        scores: float32 (F,), the de-biased similarity of each frame to the query; higher is closer.
        epochs: int32 (F,), never falling; None: all one epoch.
        duration_seconds: Media time at which the video ends, not before the last frame.
        cut_seconds: float64, ascending, where the picture changes; None: no edge is snapped.
    Returns:
        Half-open spans inside [0, duration), each within one epoch, at most `max_moments`; none for a flat curve.
    Raises:
        ValueError: If an argument is not as described.
    """
    curve = per_second(pts_seconds, scores, epochs=epochs, duration_seconds=duration_seconds)
    cuts = np.empty(0) if cut_seconds is None else np.asarray(cut_seconds, dtype=np.float64)
    found: list[ScoredSpan] = []
    firsts = np.flatnonzero(np.diff(curve.epochs, prepend=curve.epochs[:1] - 1))
    for first, last in zip(firsts, np.append(firsts[1:], len(curve.epochs)), strict=True):
        values = curve.values[first:last].astype(np.float64)
        for begin, end in _regions(values, config):
            for a, b, score in _candidates(values[begin:end], config):
                cells = slice(int(first + begin + a), int(first + begin + b))
                found.append(_span(curve, cells, score, pts_seconds, scores, cuts, config))
    return suppress(found, tiou_threshold=config.tiou_threshold, containment=config.containment_share)[
        : config.max_moments
    ]


def tiou(a: TimeSpan, b: TimeSpan) -> float:
    """Temporal intersection over union, 0..1; 0 where both are empty."""
    shared = min(a.end_seconds, b.end_seconds) - max(a.start_seconds, b.start_seconds)
    union = a.length_seconds + b.length_seconds - max(shared, 0.0)
    return max(shared, 0.0) / union if union > 0 else 0.0


def suppress(spans: Sequence[ScoredSpan], *, tiou_threshold: float, containment: float) -> list[ScoredSpan]:
    """Keep the best of spans that show the same moment, best first.

    Of two that overlap by at least `tiou_threshold`, or of which one lies inside the other, the better stays; but the
    inner one stays if it has `containment` of the outer one's score, because people want the tighter span.
    """
    kept: list[ScoredSpan] = []
    for span in sorted(spans, key=lambda s: (-s.score, s.span.start_seconds, s.span.end_seconds)):
        rivals = [k for k in kept if _same_moment(k.span, span.span, tiou_threshold)]
        if not rivals:
            kept.append(span)
        elif all(_inside(span.span, k.span) and span.score >= containment * k.score for k in rivals):
            kept = [k for k in kept if k not in rivals] + [span]
    return sorted(kept, key=lambda s: (-s.score, s.span.start_seconds))


def _inside(inner: TimeSpan, outer: TimeSpan) -> bool:
    return (
        outer.start_seconds <= inner.start_seconds
        and inner.end_seconds <= outer.end_seconds
        and inner.length_seconds < outer.length_seconds
    )


def _same_moment(a: TimeSpan, b: TimeSpan, tiou_threshold: float) -> bool:
    return tiou(a, b) >= tiou_threshold or _inside(a, b) or _inside(b, a)


def _check(
    pts_seconds: Floats, values: NDArray[np.float32], epochs: NDArray[np.int32], duration_seconds: float
) -> None:
    if not pts_seconds.shape == values.shape == epochs.shape or pts_seconds.ndim != 1:
        raise ValueError(
            f"times, values and epochs must be one (F,), got {pts_seconds.shape} {values.shape} {epochs.shape}"
        )
    if not (math.isfinite(duration_seconds) and duration_seconds >= 0):
        raise ValueError(f"duration_seconds must be a finite number >= 0, got {duration_seconds}")
    if not len(pts_seconds):
        return
    if not (np.isfinite(values).all() and np.isfinite(pts_seconds).all()):
        raise ValueError("times and values must be finite numbers")
    if (np.diff(pts_seconds) <= 0).any() or (np.diff(epochs) < 0).any():
        raise ValueError("times must be strictly increasing, and epochs never fall")
    if pts_seconds[0] < 0 or pts_seconds[-1] > duration_seconds:
        raise ValueError(
            f"times must be in [0, {duration_seconds}], got {pts_seconds[0]} to {pts_seconds[-1]}"
        )


def _smooth(values: Floats, sigma: float) -> Floats:
    """Gaussian with sigma in cells (seconds); at the ends the weights that are left are renormalised."""
    reach = math.ceil(3 * sigma)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    inner = slice(reach, reach + len(values))
    return np.convolve(values, kernel)[inner] / np.convolve(np.ones_like(values), kernel)[inner]


def _regions(values: Floats, config: MomentConfig) -> list[tuple[int, int]]:
    """Where to look: the whole epoch, or in a long one the surroundings of its highest peaks.

    So what is found around a peak does not depend on how long the stream goes on.
    """
    reach = math.ceil(config.locality_seconds)
    if len(values) <= 2 * reach:
        return [(0, len(values))]
    seeds: list[int] = []
    for sigma in config.smoothing_seconds:
        height = _smooth(values, sigma)
        block_count = math.ceil(len(height) / reach)
        padded = np.full(block_count * reach, -np.inf)
        padded[: len(height)] = height
        blocks = padded.reshape(block_count, reach)
        peaks = blocks.argmax(axis=1) + np.arange(block_count) * reach
        best = peaks[np.argsort(-height[peaks], kind="stable")][: config.max_moments]
        seeds += [int(peak) for peak in best if all(abs(peak - seed) > reach / 2 for seed in seeds)]
    return [(max(0, seed - reach), min(len(values), seed + reach + 1)) for seed in seeds]


def _heaviest(values: Floats) -> tuple[int, int, float]:
    """Kadane's maximum-sum run [a, b) and its sum, by running sums: O(T) without a Python loop."""
    sums = np.concatenate(([0.0], np.cumsum(values)))
    lowest = np.minimum.accumulate(sums[:-1])
    b = int(np.argmax(sums[1:] - lowest)) + 1
    a = int(np.argmin(sums[:b]))
    return a, b, float(sums[b] - sums[a])


def _otsu(values: Floats) -> float:
    """The threshold that splits values into two groups with the largest variance between them."""
    ordered = np.sort(values)
    n = len(ordered)
    low = np.arange(1, n)
    sums = np.cumsum(ordered)
    low_mean = sums[:-1] / low
    high_mean = (sums[-1] - sums[:-1]) / (n - low)
    at = int(np.argmax(low * (n - low) * (high_mean - low_mean) ** 2))
    return float((ordered[at] + ordered[at + 1]) / 2)


def _runs(is_high: NDArray[np.bool_], bridge: int) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate(([False], is_high, [False]))))
    starts, ends = edges[::2], edges[1::2]
    if not len(starts):
        return []
    apart = starts[1:] - ends[:-1] > bridge
    return list(
        zip(starts[np.append(True, apart)].tolist(), ends[np.append(apart, True)].tolist(), strict=True)
    )


def _candidates(values: Floats, config: MomentConfig) -> list[tuple[int, int, float]]:
    """Scored cell ranges of one region."""
    if np.ptp(values) < FLAT:
        return []
    ranges: set[tuple[int, int]] = set()
    for sigma in config.smoothing_seconds:
        smooth = _smooth(values, sigma)
        if np.ptp(smooth) < FLAT:
            continue
        above = smooth - (np.median(smooth) + smooth.max()) / 2
        for _ in range(KADANE_ROUNDS):
            a, b, weight = _heaviest(above)
            if weight <= 0:
                break
            ranges.add((a, b))
            above[a:b] = -np.inf if False else -1e9
        ranges.update(_runs(smooth > _otsu(smooth), int(config.bridge_seconds)))
    sums = np.concatenate(([0.0], np.cumsum(values)))
    refined = {_refine(values, sums, a, b) for a, b in ranges} | ranges
    return [(a, b, _score(values, sums, a, b, config)) for a, b in sorted(refined)]


FLAT = 1e-6  # similarity: float32 noise
KADANE_ROUNDS = 3


def _ring(sums: Floats, a: int, b: int) -> tuple[float, int]:
    """Sum and count of the cells around [a, b): as many on each side as are inside, at least 5."""
    reach = max(b - a, 5)
    lo, hi = max(0, a - reach), min(len(sums) - 1, b + reach)
    return float(sums[a] - sums[lo] + sums[hi] - sums[b]), (a - lo) + (hi - b)


def _refine(values: Floats, sums: Floats, a: int, b: int) -> tuple[int, int]:
    """Kadane on the raw curve near [a, b), over the midpoint of the levels inside and around it."""
    for _ in range(2):
        ring_sum, ring_count = _ring(sums, a, b)
        if ring_count == 0:
            break
        level = ((sums[b] - sums[a]) / (b - a) + ring_sum / ring_count) / 2
        reach = max(b - a, 5)
        lo, hi = max(0, a - reach), min(len(values), b + reach)
        x, y, _ = _heaviest(values[lo:hi] - level)
        if (lo + x, lo + y) == (a, b):
            break
        a, b = lo + x, lo + y
    return a, b


def _score(values: Floats, sums: Floats, a: int, b: int, config: MomentConfig) -> float:
    ring_sum, ring_count = _ring(sums, a, b)
    inside = (sums[b] - sums[a]) / (b - a)
    contrast = inside - ring_sum / ring_count if ring_count else 0.0
    shrink = (b - a) / (b - a + SHRINK)
    peak = values[a:b].max() - np.median(values)
    return float(contrast * shrink + config.peak_share * peak)


SHRINK = 3.0


def _span(
    curve: Curve,
    cells: slice,
    score: float,
    pts_seconds: Floats,
    scores: NDArray[np.float32],
    cuts: Floats,
    config: MomentConfig,
) -> ScoredSpan:
    """Turn cells into media time: edges on frames or cuts, and the best frame inside."""
    start, end = float(curve.times[cells.start]), float(curve.ends[cells.stop - 1])
    tolerance = min(config.snap_seconds, (end - start) / 2)
    snapped = _nearest(cuts, start, tolerance), _nearest(cuts, end, tolerance)
    if snapped[0] < snapped[1]:
        start, end = snapped
    first, last = np.searchsorted(pts_seconds, (start, end), "left")
    if first == last:
        first, last = first - 1, first
    best = int(first + np.argmax(scores[first:last]))
    return ScoredSpan(
        span=TimeSpan(start_seconds=start, end_seconds=end),
        score=score,
        peak_seconds=max(start, float(pts_seconds[best])),
        peak=float(scores[best]),
    )


def _nearest(cuts: Floats, at: float, tolerance: float) -> float:
    """The cut nearer to `at` than the tolerance, or `at`."""
    near = cuts[
        np.searchsorted(cuts, at - tolerance, "right") : np.searchsorted(cuts, at + tolerance, "left")
    ]
    return float(near[np.argmin(np.abs(near - at))]) if len(near) else at
