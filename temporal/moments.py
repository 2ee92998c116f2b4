"""From similarity curves to moments: pure NumPy, O(T), no training.

The recipe: hold each frame until the next one (a curve of one value a second); smooth at two fixed scales; take the
spans of largest sum over the midpoint of median and peak, and the runs over Otsu's threshold; sharpen their edges on
the raw curve; score each by its contrast to the seconds around it; snap its edges to shot cuts; suppress overlaps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from encoders.values import FrameEmbeddings
from temporal.config import MomentConfig
from temporal.curve import Curve, Floats, debias, epoch_runs, per_second
from temporal.values import ScoredSpan, TimeSpan

__all__ = ["Curve", "debias", "find_moments", "per_second", "shot_cuts", "suppress", "tiou"]

Ints = NDArray[np.int64]

FLAT = 1e-6  # similarity: a curve that moves less is constant but for float32 rounding
KADANE_ROUNDS = 3  # spans taken from each scale by largest sum; Otsu's runs give the others
REGION_COUNT = 24  # best spans of a region that go on; far more than survive suppression
REFINE_ROUNDS = 2  # levels and edges settle in two on the synthetic curves of benchmarks/moments.py
MIN_RING_SECONDS = 5  # on each side: the level around a one-second span is not read off two seconds
SHRINK_SECONDS = 4.0  # a span this long counts half its contrast: one second may be chance (tuned: benchmarks)
STAND_OUT = 4.0  # robust sigmas over the median: the highest of 3,600 seconds of noise stays under it
FEW = 3  # moments of a curve of which nothing stands out: a weak answer is worth seeing, ten random ones not
CUT_CONTRAST = 3.0  # cuts change the picture this many times more than what is no cut, or there are none
MIN_CUT_CHANGE = 0.15  # 1 - cosine: neighbouring seconds of one shot change less


class Scored(Protocol):
    """Anything with a span and a score."""

    @property
    def span(self) -> TimeSpan: ...

    @property
    def score(self) -> float: ...


AnyScored = TypeVar("AnyScored", bound=Scored)


def shot_cuts(embeddings: FrameEmbeddings) -> Floats:
    """Times at which the picture changes: float64, ascending, strictly between two frames of one epoch.

    Otsu's threshold on the change from frame to frame (1 - cosine), so it needs no level of its own for each encoder.
    """
    same_epoch = embeddings.epochs[1:] == embeddings.epochs[:-1]
    if not same_epoch.any() or embeddings.vectors.shape[1] == 0:
        return np.empty(0)
    before, after = embeddings.vectors[:-1][same_epoch], embeddings.vectors[1:][same_epoch]
    change = 1.0 - np.einsum("fd,fd->f", before, after, dtype=np.float64)
    is_cut = change >= MIN_CUT_CHANGE
    if np.ptp(change) > FLAT:
        is_high = change > _otsu(change)
        if change[is_high].mean() < CUT_CONTRAST * change[~is_high].mean():
            return np.empty(0)
        is_cut &= is_high
    earlier = embeddings.pts_seconds[:-1][same_epoch][is_cut]
    later = embeddings.pts_seconds[1:][same_epoch][is_cut]
    # A frame held for long was shown until just before the next: the cut is within a second of that one.
    middles: Floats = np.maximum((earlier + later) / 2, later - 0.5)
    return middles


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

    A moment longer than twice `locality_seconds` comes in pieces, and a query that fits the whole video alike comes
    to nothing, or to the little that stands out of it: contrast has no opinion on what never changes.

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
    Source: Kadane and Otsu as read-outs, https://arxiv.org/abs/2608.04480; contrast, https://arxiv.org/abs/2408.16219
        (TFVTG); midpoint, refining and shrinking are ours (benchmarks/moments.py).
    """
    curve = per_second(pts_seconds, scores, epochs=epochs, duration_seconds=duration_seconds)
    cuts = np.empty(0) if cut_seconds is None else np.asarray(cut_seconds, dtype=np.float64)
    found: list[_Rough] = []
    for first, last in epoch_runs(curve.epochs):
        start, end = curve.times[first], curve.ends[last - 1]
        inner_cuts = cuts[(cuts > start) & (cuts < end)]
        edges = np.append(curve.times[first:last], end)
        ranges = _epoch_ranges(curve.values[first:last].astype(np.float64), config)
        begins, finishes = _snap(edges, ranges, pts_seconds, inner_cuts, config.snap_seconds)
        for begin, finish, (_, _, score, stands_out) in zip(begins, finishes, ranges, strict=True):
            found.append(_Rough(TimeSpan(start_seconds=begin, end_seconds=finish), score, stands_out))
    best = suppress(found, tiou_threshold=config.tiou_threshold, containment=config.containment_share)
    clear = {(one.span, one.score) for one in found if one.is_clear}
    kept = [one for rank, one in enumerate(best) if rank < FEW or (one.span, one.score) in clear][: config.max_moments]
    moments = []
    for one in kept:
        peak_seconds, peak = _best_frame(one.span.start_seconds, one.span.end_seconds, pts_seconds, scores)
        moments.append(ScoredSpan(span=one.span, score=one.score, peak_seconds=peak_seconds, peak=peak))
    return moments


@dataclass(frozen=True, slots=True)
class _Rough:
    """A span whose best frame is not looked for yet."""

    span: TimeSpan
    score: float
    is_clear: bool


def tiou(a: TimeSpan, b: TimeSpan) -> float:
    """Temporal intersection over union, 0..1; 0 where both are empty."""
    shared = max(0.0, min(a.end_seconds, b.end_seconds) - max(a.start_seconds, b.start_seconds))
    union = a.length_seconds + b.length_seconds - shared
    return shared / union if union > 0 else 0.0


def suppress(spans: Sequence[AnyScored], *, tiou_threshold: float, containment: float) -> list[AnyScored]:
    """Keep one of the spans that show the same moment, best first.

    Two show the same moment if they overlap by `tiou_threshold` or more, or if one lies inside the other. Then the
    better stays. But one that fills less than `tiou_threshold` of the span around it also stays, in place of that, if
    it has `containment` of its score: short moments are what every system finds worst. (Of two nearly equal spans the
    smaller has no such right: that would shave the edges off every moment.)
    """
    kept: list[tuple[AnyScored, float]] = []  # with the best score each stands for, lest small steps add up
    for candidate in sorted(spans, key=lambda s: (-s.score, s.span.start_seconds, s.span.end_seconds)):
        rivals = [pair for pair in kept if _same_moment(pair[0].span, candidate.span, tiou_threshold)]
        if all(
            _inside(candidate.span, k.span)
            and tiou(candidate.span, k.span) < tiou_threshold
            and candidate.score >= containment * bar
            for k, bar in rivals
        ):
            bar = max([candidate.score, *(bar for _, bar in rivals)])
            kept = [pair for pair in kept if pair not in rivals] + [(candidate, bar)]
    return sorted((k for k, _ in kept), key=lambda s: (-s.score, s.span.start_seconds, s.span.end_seconds))


def _inside(inner: TimeSpan, outer: TimeSpan) -> bool:
    is_within = outer.start_seconds <= inner.start_seconds and inner.end_seconds <= outer.end_seconds
    return is_within and inner.length_seconds < outer.length_seconds


def _same_moment(a: TimeSpan, b: TimeSpan, tiou_threshold: float) -> bool:
    if a.end_seconds <= b.start_seconds or b.end_seconds <= a.start_seconds:
        return False  # most pairs, and cheap to say
    return tiou(a, b) >= tiou_threshold or _inside(a, b) or _inside(b, a)


def _epoch_ranges(values: Floats, config: MomentConfig) -> list[tuple[int, int, float, bool]]:
    """Cell ranges [a, b) of one epoch that may be moments, with score, and whether each stands out of the epoch."""
    scales = [_smooth(values, sigma) for sigma in config.smoothing_seconds]
    is_high = np.zeros(len(values), dtype=np.bool_)
    for smooth in scales:
        centre = np.median(smooth)
        is_high |= smooth - centre > STAND_OUT * 1.4826 * np.median(np.abs(smooth - centre))
    return [
        (begin + a, begin + b, score, bool(is_high[begin + a : begin + b].any()))
        for begin, end in _regions(scales, config)
        for a, b, score in _region_ranges(values[begin:end], config)
    ]


def _regions(scales: Sequence[Floats], config: MomentConfig) -> list[tuple[int, int]]:
    """Where to look: the whole epoch, or in a long one the surroundings of its highest peaks.

    So what is found around a peak does not depend on how long the stream goes on.
    """
    count, reach = len(scales[0]), math.ceil(config.locality_seconds)
    if count <= 2 * reach:
        return [(0, count)]
    seeds: list[int] = []
    for smooth in scales:
        peaks = np.array([start + np.argmax(smooth[start : start + reach]) for start in range(0, count, reach)])
        for peak in peaks[np.argsort(-smooth[peaks], kind="stable")][: config.max_moments].tolist():
            if all(abs(peak - seed) > reach / 2 for seed in seeds):
                seeds.append(peak)
    return [(max(0, seed - reach), min(count, seed + reach + 1)) for seed in seeds]


def _region_ranges(values: Floats, config: MomentConfig) -> list[tuple[int, int, float]]:
    """Scored cell ranges of one region: rough ones from each scale, and the best of them sharpened."""
    ranges: set[tuple[int, int]] = set()
    scales = [_smooth(values, sigma) for sigma in config.smoothing_seconds]
    for smooth in scales:
        if np.ptp(smooth) < FLAT:
            continue
        rest = smooth - (np.median(smooth) + smooth.max()) / 2
        for _ in range(KADANE_ROUNDS):
            a, b, weight = _heaviest(rest)
            if weight <= 0:
                break
            ranges.add((a, b))
            rest[a:b] = -np.abs(rest).sum() - 1  # heavy enough that no later span takes it in
        ranges.update(_runs(smooth > _otsu(smooth), int(config.bridge_seconds)))
    if not ranges:
        return []
    sums = np.concatenate(([0.0], np.cumsum(values)))
    rough = np.array(sorted(ranges))
    order = np.argsort(-_scores(values, scales[0], sums, rough, config), kind="stable")
    rough = rough[order[:REGION_COUNT]]
    known: dict[tuple[int, int], tuple[int, int]] = {}
    sharp = {_refine(values, sums, a, b, known) for a, b in rough.tolist()}
    both = np.array(sorted(sharp.union((a, b) for a, b in rough.tolist())))
    scored = _scores(values, scales[0], sums, both, config)
    return [(*both[at].tolist(), float(scored[at])) for at in np.argsort(-scored, kind="stable")[:REGION_COUNT]]


def _smooth(values: Floats, sigma: float) -> Floats:
    """Gaussian with sigma in cells (seconds); at the ends, the weights that are left are renormalised."""
    kernel, weights = _kernel(sigma, len(values))
    reach = len(kernel) // 2
    smooth: Floats = np.convolve(values, kernel)[reach : reach + len(values)] / weights
    return smooth


@lru_cache(maxsize=256)
def _kernel(sigma: float, length: int) -> tuple[Floats, Floats]:
    """Return the Gaussian, and what of it lies inside a curve of `length` cells at each of them."""
    reach = math.ceil(3 * sigma)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return kernel, np.convolve(np.ones(length), kernel)[reach : reach + length]


def _heaviest(values: Floats) -> tuple[int, int, float]:
    """Kadane's run [a, b) of largest sum, and that sum, by running sums: O(T) without a Python loop."""
    sums = np.empty(len(values) + 1)
    sums[0] = 0.0
    values.cumsum(out=sums[1:])
    b = int((sums[1:] - np.minimum.accumulate(sums[:-1])).argmax()) + 1
    a = int(sums[:b].argmin())
    return a, b, float(sums[b] - sums[a])


def _otsu(values: Floats) -> float:
    """The threshold that splits two or more values into two groups with the largest variance between them."""
    ordered = np.sort(values)
    low_count = np.arange(1, len(ordered))
    high_count = len(ordered) - low_count
    sums = np.cumsum(ordered)
    distance = sums[:-1] / low_count - (sums[-1] - sums[:-1]) / high_count
    split = int(np.argmax(low_count * high_count * distance**2))
    return float((ordered[split] + ordered[split + 1]) / 2)


def _runs(is_high: NDArray[np.bool_], bridge: int) -> list[tuple[int, int]]:
    """Runs [a, b) of True; gaps of up to `bridge` cells do not end one."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], is_high, [False]))))
    starts, ends = edges[::2], edges[1::2]
    is_apart = starts[1:] - ends[:-1] > bridge
    first, last = np.append(True, is_apart), np.append(is_apart, True)
    return list(zip(starts[first].tolist(), ends[last].tolist(), strict=True)) if len(starts) else []


def _refine(
    values: Floats, sums: Floats, a: int, b: int, known: dict[tuple[int, int], tuple[int, int]]
) -> tuple[int, int]:
    """Sharpen [a, b): the heaviest run nearby of the raw curve, over the midpoint of the levels inside and around.

    Args:
        known: What one round makes of a range, for this curve; grows.
    """
    for _ in range(REFINE_ROUNDS):
        if (a, b) not in known:
            known[a, b] = _refined(values, sums, a, b)
        if known[a, b] == (a, b):
            break
        a, b = known[a, b]
    return a, b


def _refined(values: Floats, sums: Floats, a: int, b: int) -> tuple[int, int]:
    reach = max(b - a, MIN_RING_SECONDS)
    low, high = max(0, a - reach), min(len(values), b + reach)
    if high - low == b - a:
        return a, b
    inside = float(sums[b]) - float(sums[a])
    ring = float(sums[high]) - float(sums[low]) - inside
    level = (inside / (b - a) + ring / (high - low - (b - a))) / 2
    x, y, _ = _heaviest(values[low:high] - level)
    return low + x, low + y


def _scores(values: Floats, smooth: Floats, sums: Floats, ranges: Ints, config: MomentConfig) -> Floats:
    """Score cell ranges (N, 2): mean inside minus mean of the ring around, and a small share of the peak.

    The ring is as long as the range on each side, less at the ends of the curve. A range that fills the curve has no
    ring and no contrast: it scores its peak's share alone, so that anything that does stand out goes before it.
    """
    a, b = ranges.T
    length = b - a
    reach = np.maximum(length, MIN_RING_SECONDS)
    low, high = np.maximum(0, a - reach), np.minimum(len(values), b + reach)
    inside = sums[b] - sums[a]
    ring_count = high - low - length
    ring_mean = (sums[high] - sums[low] - inside) / np.maximum(ring_count, 1)
    contrast = np.where(ring_count > 0, inside / length - ring_mean, 0.0)
    peaks = np.array([smooth[x:y].max() for x, y in ranges.tolist()]) - np.median(values)
    scored: Floats = contrast * length / (length + SHRINK_SECONDS) + config.peak_share * peaks
    return scored


def _snap(
    edges: Floats,
    ranges: Sequence[tuple[int, int, float, bool]],
    pts_seconds: Floats,
    cuts: Floats,
    tolerance_seconds: float,
) -> tuple[list[float], list[float]]:
    """Turn cells [a, b) of an epoch into media time: to the frame that begins there, then to a cut close by.

    The ends of the epoch are edges already, harder than any cut.
    """
    if not ranges:
        return [], []
    a, b = np.array([one[:2] for one in ranges]).T
    starts, ends = edges[a], edges[b]
    is_inner_start, is_inner_end = a > 0, b < len(edges) - 1
    half = np.full(len(a), 0.5)
    starts = np.where(is_inner_start, _nearest(pts_seconds, starts, half), starts)
    ends = np.where(is_inner_end, _nearest(pts_seconds, ends, half), ends)
    tolerance = np.minimum(tolerance_seconds, (ends - starts) / 2)
    starts, ends = (
        np.where(is_inner_start, _nearest(cuts, starts, tolerance), starts),
        np.where(is_inner_end, _nearest(cuts, ends, tolerance), ends),
    )
    return starts.tolist(), ends.tolist()


def _nearest(times: Floats, at: Floats, tolerance: Floats) -> Floats:
    """Of ascending times the one nearest to each of `at`, if it is nearer than the tolerance; else `at` itself."""
    if not len(times):
        return at
    low = np.searchsorted(times, at - tolerance, "right")
    high = np.searchsorted(times, at + tolerance, "left")
    after = np.searchsorted(times, at, "left")
    before = np.clip(after - 1, low, np.maximum(high - 1, low))
    after = np.clip(after, low, np.maximum(high - 1, low))
    last = len(times) - 1
    earlier, later = times[np.minimum(before, last)], times[np.minimum(after, last)]
    near = np.where(np.abs(earlier - at) <= np.abs(later - at), earlier, later)
    return np.where(low < high, near, at)


def _best_frame(start: float, end: float, pts_seconds: Floats, scores: NDArray[np.float32]) -> tuple[float, float]:
    """Time and score of the best frame that begins in [start, end), or else of the one shown through it."""
    first, last = (int(at) for at in np.searchsorted(pts_seconds, (start, end), "left"))
    if first == last:
        return start, float(scores[first - 1])
    best = first + int(np.argmax(scores[first:last]))
    return float(pts_seconds[best]), float(scores[best])
