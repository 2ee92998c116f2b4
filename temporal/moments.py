"""From similarity curves to moments: pure NumPy, O(T), no training.

The recipe: hold each frame until the next one (a curve of one value a second). Two kinds of spans may be moments. Some
are read off the curve, smoothed at two fixed scales: the spans of largest sum over the midpoint of median and peak, and
the runs over Otsu's threshold, their edges sharpened on the raw curve and snapped to shot cuts. The others are shots,
and runs of shots: what lies between the n strongest changes of the picture, for n = 1, 2, 4 and so on. Score each by
how far it is above the level of the curve and of the seconds around it, less what chance would give it; suppress
overlaps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from temporal.config import MomentConfig
from temporal.curve import FLAT, Curve, Floats, debias, epoch_runs, median, otsu, per_second
from temporal.shots import NO_CHANGES, Changes
from temporal.values import ScoredSpan, TimeSpan

__all__ = ["Curve", "debias", "find_moments", "per_second", "suppress", "tiou"]

Ints = NDArray[np.int64]

KADANE_ROUNDS = 3  # spans taken from each scale by largest sum; Otsu's runs give the others
REGION_COUNT = 24  # best spans of a region that go on; far more than survive suppression
REFINE_ROUNDS = 2  # levels and edges settle in two on the synthetic curves of benchmarks/moments.py
MIN_RING_SECONDS = 5  # on each side: the level around a one-second span is not read off two seconds
# What a score loses because a short span may be high by chance (chosen by benchmarks/ablation.py and moments.py).
NOISE_ERRORS = 2.0  # standard errors of its mean, by the jitter of the curve from second to second
SHRINK_SECONDS = 1.0  # a span this long counts half
MIN_SHOT_SECONDS = 3.0  # mean length of the shortest shots that may be moments
STAND_OUT = 4.0  # robust sigmas over the median: the highest of 3,600 seconds of noise stays under it
MAD_SIGMA = 1.4826  # standard deviations in a median absolute deviation, of what is normally distributed
FEW = 3  # moments of a curve of which nothing stands out: a weak answer is worth seeing, ten random ones not


class Scored(Protocol):
    """Anything with a span and a score."""

    @property
    def span(self) -> TimeSpan: ...

    @property
    def score(self) -> float: ...


AnyScored = TypeVar("AnyScored", bound=Scored)


def find_moments(
    pts_seconds: Floats,
    scores: NDArray[np.float32],
    *,
    epochs: NDArray[np.int32] | None = None,
    duration_seconds: float,
    changes: Changes = NO_CHANGES,
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
        changes: How the picture changes; without any, no edge is snapped, and no shot is a moment.
    Returns:
        Half-open spans inside [0, duration), each within one epoch, at most `max_moments`; none for a flat curve.
    Raises:
        ValueError: If an argument is not as described.
    Source: Kadane and Otsu as read-outs, https://arxiv.org/abs/2608.04480; contrast, https://arxiv.org/abs/2408.16219
        (TFVTG); midpoint, sharpening, shots and the score are ours (benchmarks/ablation.py).
    """
    curve = per_second(pts_seconds, scores, epochs=epochs, duration_seconds=duration_seconds)
    found: list[_Rough] = []
    for first, last in epoch_runs(curve.epochs):
        edges = np.append(curve.times[first:last], curve.ends[last - 1])
        inner = changes.within(edges[0], edges[-1])
        ranges = _epoch_ranges(curve.values[first:last].astype(np.float64), _in_cells(inner, edges), config)
        begins, finishes = _in_seconds(ranges, edges, pts_seconds, inner, config.snap_seconds)
        for begin, finish, cells in zip(begins, finishes, ranges, strict=True):
            if begin < finish:
                span = TimeSpan(start_seconds=begin, end_seconds=finish)
                found.append(_Rough(span, cells.score, cells.is_clear))
    best = suppress(found, tiou_threshold=config.tiou_threshold, containment=config.containment_share)
    clear = {(one.span, one.score) for one in found if one.is_clear}
    kept = [one for rank, one in enumerate(best) if rank < FEW or (one.span, one.score) in clear][: config.max_moments]
    moments = []
    for one in kept:
        peak_seconds, peak = _best_frame(one.span.start_seconds, one.span.end_seconds, pts_seconds, scores)
        moments.append(ScoredSpan(span=one.span, score=one.score, peak_seconds=peak_seconds, peak=peak))
    return moments


@dataclass(frozen=True, slots=True)
class _Range:
    """Cells [first, last) of one epoch that may be a moment."""

    first: int
    last: int
    score: float
    is_shot: bool  # its edges are changes of the picture
    is_clear: bool  # it stands out of the epoch


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


def _in_cells(changes: Changes, edges: Floats) -> tuple[Ints, Floats]:
    """Return the first cell after each change, ascending and distinct, and how strong the strongest of them is."""
    cells = np.searchsorted(edges[:-1] + 0.5, changes.seconds, "right")  # a cell shows what is shown in its middle
    is_inner = (cells > 0) & (cells < len(edges) - 1)
    cells, strengths = cells[is_inner], changes.strengths[is_inner].astype(np.float64)
    if not len(cells):
        return cells, strengths
    distinct, starts = np.unique(cells, return_index=True)
    return distinct, np.maximum.reduceat(strengths, starts)


def _epoch_ranges(values: Floats, changes: tuple[Ints, Floats], config: MomentConfig) -> list[_Range]:
    """Cells of one epoch that may be moments."""
    scales = [_smooth(values, sigma) for sigma in config.smoothing_seconds]
    is_high = np.zeros(len(values), dtype=np.bool_)
    for smooth in scales:
        centre = median(smooth)
        is_high |= smooth - centre > STAND_OUT * MAD_SIGMA * median(np.abs(smooth - centre))
    cells, strengths = changes
    found = []
    for begin, end in _regions(scales, config):
        inside = slice(*np.searchsorted(cells, (begin + 1, end)))
        shots = _shots(cells[inside] - begin, strengths[inside], end - begin)
        for a, b, score, is_shot in _region_ranges(values[begin:end], shots, config):
            first, last = begin + a, begin + b
            is_clear = bool(is_high[first:last].any())
            found.append(_Range(first=first, last=last, score=score, is_shot=is_shot, is_clear=is_clear))
    return found


def _shots(cells: Ints, strengths: Floats, count: int) -> Ints:
    """Cell ranges (N, 2) between the strongest change, the two strongest, the four strongest, and so on.

    So a shot is one of them whatever the encoder's scale, and so are a run of shots that look alike and a part of one.
    """
    order = np.argsort(-strengths, kind="stable")
    found = [np.empty((0, 2), np.int64)]
    taken = 1
    while taken <= min(len(cells), count / MIN_SHOT_SECONDS):
        edges = np.concatenate(([0], np.sort(cells[order[:taken]]), [count]))
        found.append(np.stack([edges[:-1], edges[1:]], axis=1))
        taken *= 2
    return np.unique(np.concatenate(found), axis=0)


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


def _region_ranges(values: Floats, shots: Ints, config: MomentConfig) -> list[tuple[int, int, float, bool]]:
    """Score what may be a moment in one region: shots, what is read off each scale, and the best of that sharpened.

    Returns:
        The best, best first: first cell, last (exclusive), score, and whether it is a shot.
    """
    read: set[tuple[int, int]] = set()
    for sigma in config.smoothing_seconds:
        smooth = _smooth(values, sigma)
        if np.ptp(smooth) < FLAT:
            continue
        rest = smooth - (median(smooth) + smooth.max()) / 2
        for _ in range(KADANE_ROUNDS):
            a, b, weight = _heaviest(rest)
            if weight <= 0:
                break
            read.add((a, b))
            rest[a:b] = -np.abs(rest).sum() - 1  # heavy enough that no later span takes it in
        read.update(_runs(smooth > otsu(smooth), int(config.bridge_seconds)))
    if not read:
        return []
    level = _Level.of(values)
    rough = np.array(sorted(read))
    sharp = rough[_best(_scores(level, rough, config))]
    for _ in range(REFINE_ROUNDS):
        sharp = _refined(values, level.sums, sharp)
    read |= set(map(tuple, sharp.tolist()))
    spans = np.concatenate([np.array(sorted(read)), shots])
    scores = _scores(level, spans, config)
    return [
        (*spans[n].tolist(), float(scores[n]), n >= len(read)) for n in _best(scores).tolist() if scores[n] > -np.inf
    ]


def _best(scores: Floats) -> Ints:
    """Return the places of the highest scores, the best first, at most REGION_COUNT."""
    return np.argsort(-scores, kind="stable")[:REGION_COUNT]


@dataclass(frozen=True, slots=True)
class _Level:
    """What spans of a region are held against."""

    sums: Floats  # running, from 0
    median: float
    jitter: float  # standard deviation of the change from second to second

    @classmethod
    def of(cls, values: Floats) -> "_Level":
        steps = np.diff(values)
        jitter = MAD_SIGMA * median(np.abs(steps - median(steps))) if len(steps) else 0.0
        return cls(np.concatenate(([0.0], np.cumsum(values))), median(values), jitter)


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


def _runs(is_high: NDArray[np.bool_], bridge: int) -> list[tuple[int, int]]:
    """Runs [a, b) of True; gaps of up to `bridge` cells do not end one."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], is_high, [False]))))
    starts, ends = edges[::2], edges[1::2]
    is_apart = starts[1:] - ends[:-1] > bridge
    first, last = np.append(True, is_apart), np.append(is_apart, True)
    return list(zip(starts[first].tolist(), ends[last].tolist(), strict=True)) if len(starts) else []


def _refined(values: Floats, sums: Floats, ranges: Ints) -> Ints:
    """Sharpen ranges (N, 2): the heaviest run nearby of the raw curve, over the midpoint of levels inside and around.

    All at once, each beside the others in a row of its own, since a curve of minutes is too short to be worth a call.
    """
    a, b = ranges.T
    reach = np.maximum(b - a, MIN_RING_SECONDS)
    low, high = np.maximum(0, a - reach), np.minimum(len(values), b + reach)
    inside = sums[b] - sums[a]
    ring_count = high - low - (b - a)
    ring_mean = (sums[high] - sums[low] - inside) / np.maximum(ring_count, 1)
    level = (inside / (b - a) + ring_mean) / 2
    cells = low[:, None] + np.arange((high - low).max())  # (N, L)
    is_near = cells < high[:, None]
    rest = np.where(is_near, values[np.minimum(cells, len(values) - 1)] - level[:, None], 0.0)
    running = np.concatenate([np.zeros((len(a), 1)), np.cumsum(rest, axis=1)], axis=1)
    weights = running[:, 1:] - np.minimum.accumulate(running[:, :-1], axis=1)
    ends = np.where(is_near, weights, -np.inf).argmax(axis=1) + 1
    is_before = np.arange(running.shape[1]) < ends[:, None]
    starts = np.where(is_before, running, np.inf).argmin(axis=1)
    found = np.stack([low + starts, low + ends], axis=1)
    return np.where(ring_count[:, None] > 0, found, ranges)


def _scores(level: _Level, ranges: Ints, config: MomentConfig) -> Floats:
    """Score cell ranges (N, 2) by how high their mean is over the median of the curve, and over the ring around them.

    The ring is as long as the range on each side, less at the ends of the curve; a range that fills the curve has none,
    and its contrast is nothing. One that is no higher than either is no moment: -inf.
    """
    a, b = ranges.T
    sums, length = level.sums, b - a
    inside = sums[b] - sums[a]
    reach = np.maximum(length, MIN_RING_SECONDS)
    low, high = np.maximum(0, a - reach), np.minimum(len(sums) - 1, b + reach)
    ring_count = high - low - length
    ring_mean = (sums[high] - sums[low] - inside) / np.maximum(ring_count, 1)
    contrast = np.where(ring_count > 0, inside / length - ring_mean, 0.0)
    height = (1 - config.ring_share) * (inside / length - level.median) + config.ring_share * contrast
    scored = (height - NOISE_ERRORS * level.jitter / np.sqrt(length)) * length / (length + SHRINK_SECONDS)
    return np.where(height > 0, scored, -np.inf)


def _in_seconds(
    ranges: Sequence[_Range], edges: Floats, pts_seconds: Floats, changes: Changes, tolerance_seconds: float
) -> tuple[list[float], list[float]]:
    """Turn cells of an epoch into media time.

    An edge of a shot is the change of picture there; another goes to the frame that begins there, then to a cut close
    by. The ends of the epoch are edges already, harder than any cut.
    """
    if not ranges:
        return [], []
    a, b = np.array([(one.first, one.last) for one in ranges]).T
    is_shot = np.array([one.is_shot for one in ranges])
    starts, ends = edges[a], edges[b]
    is_inner_start, is_inner_end = a > 0, b < len(edges) - 1
    half, whole = np.full(len(a), 0.5), np.full(len(a), 1.01)
    at_starts = np.where(is_shot, _nearest(changes.seconds, starts, whole), _nearest(pts_seconds, starts, half))
    at_ends = np.where(is_shot, _nearest(changes.seconds, ends, whole), _nearest(pts_seconds, ends, half))
    starts, ends = np.where(is_inner_start, at_starts, starts), np.where(is_inner_end, at_ends, ends)
    tolerance = np.where(is_shot, 0.0, np.minimum(tolerance_seconds, (ends - starts) / 2))
    cuts = changes.cut_seconds
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
