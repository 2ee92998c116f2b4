"""Moments: finds the spans of similarity curves that answer a query. Pure NumPy, O(T), no training.

The recipe:

1. Hold each frame until the next one, for a curve of one value a second.
2. Collect candidates from the curve, smoothed at two fixed scales: the spans with the largest sum over the midpoint of
   median and peak, and the runs over Otsu's threshold. Sharpen their edges on the raw curve and snap them to cuts.
3. Collect shots and runs of shots: the spans between the n strongest changes of the picture, for n = 1, 2, 4, ...
4. Score each candidate by its height over the level of the curve and over the seconds around it, minus the height that
   chance explains.
5. Suppress overlaps.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from temporal.config import MomentConfig
from temporal.moments.curve import Curve, Floats, Ints, debias, epoch_runs, median, per_second
from temporal.moments.ranges import MAD_SIGMA, Bools, ScoredRanges, Stretch, score_ranges, smooth_curve
from temporal.moments.shots import NO_CHANGES, Changes
from temporal.values import ScoredSpan, TimeSpan

__all__ = ["Curve", "Scores", "debias", "find_all_moments", "find_moments", "per_second", "suppress", "tiou"]

STANDING_SECONDS = 2.0  # a picture stands if the next comes later than with one picture a second
MIN_PEAK_SIGMAS = 4.0  # robust sigmas over the median; the highest of 3,600 seconds of noise stays below
UNCLEAR_COUNT = 3  # moments of a curve without a clear peak: a few weak answers help, ten random ones do not


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scores:
    """The similarity of each frame of one video to a query; find_moments() describes the fields."""

    pts_seconds: Floats
    scores: NDArray[np.float32]
    epochs: NDArray[np.int32] | None
    duration_seconds: float
    changes: Changes


def find_moments(
    pts_seconds: Floats,
    scores: NDArray[np.float32],
    *,
    epochs: NDArray[np.int32] | None = None,
    duration_seconds: float,
    changes: Changes = NO_CHANGES,
    config: MomentConfig,
) -> list[ScoredSpan]:
    """Find the spans of one video that stand out from their surroundings, best first.

    A moment longer than twice `locality_seconds` is returned in pieces. A query that fits the whole video equally gives
    nothing, or the small parts that stand out: contrast cannot judge a constant.

    Args:
        pts_seconds: float64 (F,), strictly increasing, >= 0.
        scores: float32 (F,), the de-biased similarity of each frame to the query; higher is closer.
        epochs: int32 (F,), never falling; None: all one epoch.
        duration_seconds: Media time at which the video ends, not before the last frame.
        changes: Changes of the picture; without any, no edge is snapped and no shot is a candidate.
    Returns:
        Half-open spans inside [0, duration), each within one epoch, at most `max_moments`; none for a flat curve.
    Raises:
        ValueError: If an argument is not as described.
    Source: Kadane and Otsu to read spans off a curve, https://arxiv.org/abs/2608.04480; contrast, https://arxiv.org/abs/2408.16219
        (TFVTG); midpoint, sharpening, shots and the score are ours (benchmarks/ablation.py).
    """
    video = Scores(
        pts_seconds=pts_seconds, scores=scores, epochs=epochs, duration_seconds=duration_seconds, changes=changes
    )
    return find_all_moments([video], config)[0]


def find_all_moments(videos: Sequence[Scores], config: MomentConfig) -> list[list[ScoredSpan]]:
    """Find the moments of several videos at once. Same result as find_moments() for each, in less time."""
    epochs = [epoch for number, video in enumerate(videos) for epoch in _epochs_of(number, video, config)]
    candidates: list[list[_Spans]] = [[] for _ in videos]
    if epochs:
        ranges = score_ranges([stretch for epoch in epochs for stretch in epoch.stretches()], config)
        first = 0
        for epoch in epochs:
            last = first + len(epoch.regions)
            candidates[epoch.number].append(epoch.spans(ranges.of(first, last), first, config))
            first = last
    return [_select(spans, video, config) if spans else [] for spans, video in zip(candidates, videos, strict=True)]


class _Spans(NamedTuple):
    """Candidates in media time, (N,) each, without their best frames."""

    starts: Floats  # seconds
    ends: Floats
    scores: Floats
    is_clear: Bools  # True for a candidate that stands out from its epoch


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _EpochCurve:
    """One epoch of one video."""

    number: int  # index of the video
    pts_seconds: Floats  # of all frames of the video
    values: Floats  # (T,), one a second
    edges: Floats  # (T + 1,), media time of the start of each cell, and of the end of the last
    changes: Changes  # inside the epoch
    is_high: Bools  # (T,), True where the curve stands out
    regions: list[tuple[int, int]]  # ranges of cells to search

    def stretches(self) -> Iterator[Stretch]:
        cells, strengths = _in_cells(self.changes, self.edges)
        for begin, end in self.regions:
            inside = slice(*np.searchsorted(cells, (begin + 1, end)))
            yield Stretch(
                values=self.values[begin:end], change_cells=cells[inside] - begin, change_strengths=strengths[inside]
            )

    def spans(self, ranges: ScoredRanges, first_stretch: int, config: MomentConfig) -> _Spans:
        """Turn ranges of the stretches of this epoch into media time."""
        begins = np.array([begin for begin, _ in self.regions])[ranges.ranges.stretch - first_stretch]
        a, b = begins + ranges.ranges.first, begins + ranges.ranges.last
        starts, ends = self._with_standing(*self._in_seconds(a, b, ranges.is_shot, config.snap_seconds))
        high_count = np.concatenate(([0], np.cumsum(self.is_high)))
        is_span = starts < ends
        is_clear = high_count[b] > high_count[a]
        return _Spans(starts[is_span], ends[is_span], ranges.scores[is_span], is_clear[is_span])

    def _in_seconds(self, a: Ints, b: Ints, is_shot: Bools, tolerance_seconds: float) -> tuple[Floats, Floats]:
        """Turn cells [a, b) into media time.

        The edge of a shot moves to its change of picture. Any other edge moves to the frame that begins there, and then
        to a cut nearby. The ends of the epoch stay.
        """
        cells = np.concatenate([a, b])  # starts, then ends
        is_shot, is_inner = np.tile(is_shot, 2), (cells > 0) & (cells < len(self.edges) - 1)
        at, changes = self.edges[cells], self.changes
        of_shots = _snap(changes.seconds, at, np.full(len(at), 1.01))
        of_others = _snap(self.pts_seconds, at, np.full(len(at), 0.5))
        at = np.where(is_inner, np.where(is_shot, of_shots, of_others), at)
        lengths = at[len(a) :] - at[: len(a)]
        tolerance = np.where(is_shot, 0.0, np.minimum(tolerance_seconds, np.tile(lengths, 2) / 2))
        at = np.where(is_inner, _snap(changes.cut_seconds, at, tolerance), at)
        return at[: len(a)], at[len(a) :]

    def _with_standing(self, starts: Floats, ends: Floats) -> tuple[Floats, Floats]:
        """Let spans last as long as a picture stands that fills half of them or more.

        Where ranges are searched only around peaks, they end before a picture that stands for an hour does.
        """
        inside = slice(*np.searchsorted(self.pts_seconds, (self.edges[0], self.edges[-1])))
        frames = self.pts_seconds[inside]
        until = np.append(frames[1:], self.edges[-1])
        if not len(frames) or (until - frames).max() <= STANDING_SECONDS:
            return starts, ends
        first = np.maximum(np.searchsorted(frames, starts, "right") - 1, 0)
        last = np.maximum(np.searchsorted(frames, ends, "left") - 1, 0)
        half = (ends - starts) / 2
        fills_first = np.minimum(ends, until[first]) - starts >= half
        fills_last = ends - np.maximum(starts, frames[last]) >= half
        far_starts = np.where(fills_first & (starts - frames[first] > STANDING_SECONDS), frames[first], starts)
        far_ends = np.where(fills_last & (until[last] - ends > STANDING_SECONDS), until[last], ends)
        return far_starts, far_ends


def _epochs_of(number: int, video: Scores, config: MomentConfig) -> Iterator[_EpochCurve]:
    """Yield the epochs of a video.

    Raises:
        ValueError: If the frames do not fit the description in find_moments().
    """
    curve = per_second(video.pts_seconds, video.scores, epochs=video.epochs, duration_seconds=video.duration_seconds)
    for first, last in epoch_runs(curve.epochs):
        values = curve.values[first:last].astype(np.float64)
        edges = np.append(curve.times[first:last], curve.ends[last - 1])
        scales = [smooth_curve(values, sigma) for sigma in config.smoothing_seconds]
        is_high = np.zeros(len(values), dtype=np.bool_)
        for smooth in scales:
            centre = median(smooth)
            is_high |= smooth - centre > MIN_PEAK_SIGMAS * MAD_SIGMA * median(np.abs(smooth - centre))
        yield _EpochCurve(
            number=number, pts_seconds=video.pts_seconds, values=values, edges=edges,
            changes=video.changes.within(edges[0], edges[-1]), is_high=is_high, regions=_regions(scales, config),
        )  # fmt: skip


def _select(spans: Sequence[_Spans], video: Scores, config: MomentConfig) -> list[ScoredSpan]:
    """Suppress overlaps, drop unclear candidates, and find the best frame of each remaining span."""
    starts, ends, scores, is_clear = (np.concatenate(parts) for parts in zip(*spans, strict=True))
    best = suppress(starts, ends, scores, tiou_threshold=config.tiou_threshold, containment=config.containment_share)
    moments = []
    for n in [n for rank, n in enumerate(best) if rank < UNCLEAR_COUNT or is_clear[n]][: config.max_moments]:
        span = TimeSpan(start_seconds=float(starts[n]), end_seconds=float(ends[n]))
        peak_seconds, peak = _best_frame(span.start_seconds, span.end_seconds, video.pts_seconds, video.scores)
        moments.append(ScoredSpan(span=span, score=float(scores[n]), peak_seconds=peak_seconds, peak=peak))
    return moments


def tiou(a: TimeSpan, b: TimeSpan) -> float:
    """Return the temporal intersection over union, 0..1; 0 where both spans are empty."""
    shared = max(0.0, min(a.end_seconds, b.end_seconds) - max(a.start_seconds, b.start_seconds))
    union = a.length_seconds + b.length_seconds - shared
    return shared / union if union > 0 else 0.0


def suppress(starts: Floats, ends: Floats, scores: Floats, *, tiou_threshold: float, containment: float) -> list[int]:
    """Keep one of the spans that show the same moment; return the indices of the kept spans, best first.

    Two spans show the same moment if they overlap by `tiou_threshold` or more, or if one lies inside the other. The
    better span stays. Exception: a span that fills less than `tiou_threshold` of the span around it replaces that span
    if it has at least `containment` of its score, because short moments are the hardest to find. (A smaller span of
    nearly equal length gets no such preference: that would shave the edges off every moment.)

    Args:
        starts: float64 (N,), seconds.
        ends: float64 (N,), seconds.
        scores: float64 (N,); higher is better.
        tiou_threshold: 0..1.
        containment: 0..1.
    """
    order, count = np.lexsort((ends, starts, -scores)), len(scores)
    is_same, is_small_part = _compare(starts[order], ends[order], tiou_threshold)
    ordered: list[float] = scores[order].tolist()
    kept: dict[int, float] = {}  # rank -> best score of the spans that it replaced, so that small steps do not add up
    for rank, score in enumerate(ordered):
        rivals = [rival for rival in kept if is_same[rank * count + rival]]
        if all(is_small_part[rank * count + rival] and score >= containment * kept[rival] for rival in rivals):
            kept[rank] = max([score, *(kept.pop(rival) for rival in rivals)])
    indices: list[int] = order[sorted(kept)].tolist()
    return indices


def _compare(starts: Floats, ends: Floats, tiou_threshold: float) -> tuple[bytes, bytes]:
    """Compare each span with each other: do they show the same moment, and is the first a small part of the second?

    Returns:
        Two (N, N) tables as bytes, because the caller reads a few cells at a time.
    """
    lengths = ends - starts
    shared = np.maximum(0.0, np.minimum(ends[:, None], ends) - np.maximum(starts[:, None], starts))
    unions = lengths[:, None] + lengths - shared
    overlaps = np.divide(shared, unions, out=np.zeros_like(shared), where=unions > 0)
    is_inside = (starts <= starts[:, None]) & (ends[:, None] <= ends) & (lengths[:, None] < lengths)
    is_same = (shared > 0) & ((overlaps >= tiou_threshold) | is_inside | is_inside.T)
    return is_same.tobytes(), (is_inside & (overlaps < tiou_threshold)).tobytes()


def _in_cells(changes: Changes, edges: Floats) -> tuple[Ints, Floats]:
    """Return the first cell after each change, ascending and distinct, and the strongest change of each cell."""
    # A cell has the frame that is shown in its middle.
    cells = np.searchsorted(edges[:-1] + 0.5, changes.seconds, "right")
    is_inner = (cells > 0) & (cells < len(edges) - 1)
    cells, strengths = cells[is_inner], changes.strengths[is_inner].astype(np.float64)
    if not len(cells):
        return cells, strengths
    distinct, starts = np.unique(cells, return_index=True)
    return distinct, np.maximum.reduceat(strengths, starts)


def _regions(scales: Sequence[Floats], config: MomentConfig) -> list[tuple[int, int]]:
    """Return the ranges of cells to search: the whole epoch, or the surroundings of the highest peaks of a long one.

    So the result around a peak does not depend on the length of the stream.
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


def _snap(times: Floats, at: Floats, tolerance: Floats) -> Floats:
    """Return the nearest of ascending times for each of `at` if it is within the tolerance, else `at` itself."""
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
    """Return time and score of the best frame that begins in [start, end), else of the frame shown throughout."""
    first, last = (int(at) for at in np.searchsorted(pts_seconds, (start, end), "left"))
    if first == last:
        return start, float(scores[first - 1])
    best = first + int(np.argmax(scores[first:last]))
    return float(pts_seconds[best]), float(scores[best])
