"""From similarity curves to moments: pure NumPy, O(T), no training.

The recipe: hold each frame until the next one (a curve of one value a second). Two kinds of spans may be moments. Some
are read off the curve, smoothed at two fixed scales: the spans of largest sum over the midpoint of median and peak, and
the runs over Otsu's threshold, their edges sharpened on the raw curve and snapped to shot cuts. The others are shots,
and runs of shots: what lies between the n strongest changes of the picture, for n = 1, 2, 4 and so on. Score each by
how far it is above the level of the curve and of the seconds around it, less what chance would give it; suppress
overlaps.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from temporal.config import MomentConfig
from temporal.moments.curve import Curve, Floats, Ints, debias, epoch_runs, median, per_second
from temporal.moments.ranges import MAD_SIGMA, Bools, ScoredRanges, Stretch, scored_ranges, smoothed
from temporal.moments.shots import NO_CHANGES, Changes
from temporal.values import ScoredSpan, TimeSpan

__all__ = ["Curve", "Scores", "debias", "find_all_moments", "find_moments", "per_second", "suppress", "tiou"]

STAND_OUT = 4.0  # robust sigmas over the median: the highest of 3,600 seconds of noise stays under it
FEW = 3  # moments of a curve of which nothing stands out: a weak answer is worth seeing, ten random ones not


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scores:
    """How near each frame of one video is to a query; find_moments() says what holds for each of these."""

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
    video = Scores(
        pts_seconds=pts_seconds, scores=scores, epochs=epochs, duration_seconds=duration_seconds, changes=changes
    )
    return find_all_moments([video], config)[0]


def find_all_moments(videos: Sequence[Scores], config: MomentConfig) -> list[list[ScoredSpan]]:
    """Find the moments of several videos, those of each as find_moments() does, in less time than one by one."""
    epochs = [epoch for number, video in enumerate(videos) for epoch in _epochs_of(number, video, config)]
    found: list[list[_Spans]] = [[] for _ in videos]
    if epochs:
        ranges = scored_ranges([stretch for epoch in epochs for stretch in epoch.stretches()], config)
        first = 0
        for epoch in epochs:
            last = first + len(epoch.regions)
            found[epoch.number].append(epoch.spans(ranges.of(first, last), first, config))
            first = last
    return [_kept(spans, video, config) if spans else [] for spans, video in zip(found, videos, strict=True)]


class _Spans(NamedTuple):
    """What may be a moment, (N,) all. The best frames are not looked for yet."""

    starts: Floats  # media time
    ends: Floats
    scores: Floats
    is_clear: Bools  # it stands out of its epoch


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Epoch:
    """One epoch of one video."""

    number: int  # of the video
    pts_seconds: Floats  # of the video's frames
    values: Floats  # (T,), one a second
    edges: Floats  # (T + 1,), media time where each second begins, and the last one ends
    changes: Changes  # inside it
    is_high: Bools  # (T,)
    regions: list[tuple[int, int]]  # where to look, in cells

    def stretches(self) -> Iterator[Stretch]:
        cells, strengths = _in_cells(self.changes, self.edges)
        for begin, end in self.regions:
            inside = slice(*np.searchsorted(cells, (begin + 1, end)))
            yield Stretch(
                values=self.values[begin:end], change_cells=cells[inside] - begin, change_strengths=strengths[inside]
            )

    def spans(self, found: ScoredRanges, first_stretch: int, config: MomentConfig) -> _Spans:
        """Turn ranges of its stretches into media time."""
        begins = np.array([begin for begin, _ in self.regions])[found.ranges.stretch - first_stretch]
        a, b = begins + found.ranges.first, begins + found.ranges.last
        starts, ends = self._in_seconds(a, b, found.is_shot, config.snap_seconds)
        high_count = np.concatenate(([0], np.cumsum(self.is_high)))
        is_span = starts < ends
        is_clear = high_count[b] > high_count[a]
        return _Spans(starts[is_span], ends[is_span], found.scores[is_span], is_clear[is_span])

    def _in_seconds(self, a: Ints, b: Ints, is_shot: Bools, tolerance_seconds: float) -> tuple[Floats, Floats]:
        """Turn cells [a, b) into media time.

        An edge of a shot is the change of picture there; another goes to the frame that begins there, then to a cut
        close by. The ends of the epoch are edges already, harder than any cut.
        """
        cells = np.concatenate([a, b])  # those of the starts, then those of the ends
        is_shot, is_inner = np.tile(is_shot, 2), (cells > 0) & (cells < len(self.edges) - 1)
        at, changes = self.edges[cells], self.changes
        of_shots = _nearest(changes.seconds, at, np.full(len(at), 1.01))
        of_others = _nearest(self.pts_seconds, at, np.full(len(at), 0.5))
        at = np.where(is_inner, np.where(is_shot, of_shots, of_others), at)
        lengths = at[len(a) :] - at[: len(a)]
        tolerance = np.where(is_shot, 0.0, np.minimum(tolerance_seconds, np.tile(lengths, 2) / 2))
        at = np.where(is_inner, _nearest(changes.cut_seconds, at, tolerance), at)
        return at[: len(a)], at[len(a) :]


def _epochs_of(number: int, video: Scores, config: MomentConfig) -> Iterator[_Epoch]:
    """Yield the epochs of a video.

    Raises:
        ValueError: If its frames are not as find_moments() describes them.
    """
    curve = per_second(video.pts_seconds, video.scores, epochs=video.epochs, duration_seconds=video.duration_seconds)
    for first, last in epoch_runs(curve.epochs):
        values = curve.values[first:last].astype(np.float64)
        edges = np.append(curve.times[first:last], curve.ends[last - 1])
        scales = [smoothed(values, sigma) for sigma in config.smoothing_seconds]
        is_high = np.zeros(len(values), dtype=np.bool_)
        for smooth in scales:
            centre = median(smooth)
            is_high |= smooth - centre > STAND_OUT * MAD_SIGMA * median(np.abs(smooth - centre))
        yield _Epoch(
            number=number, pts_seconds=video.pts_seconds, values=values, edges=edges,
            changes=video.changes.within(edges[0], edges[-1]), is_high=is_high, regions=_regions(scales, config),
        )  # fmt: skip


def _kept(found: Sequence[_Spans], video: Scores, config: MomentConfig) -> list[ScoredSpan]:
    """Leave out what shows the same as a better span, and what does not stand out, and find the best frame of each."""
    starts, ends, scores, is_clear = (np.concatenate(parts) for parts in zip(*found, strict=True))
    best = suppress(starts, ends, scores, tiou_threshold=config.tiou_threshold, containment=config.containment_share)
    moments = []
    for one in [one for rank, one in enumerate(best) if rank < FEW or is_clear[one]][: config.max_moments]:
        span = TimeSpan(start_seconds=float(starts[one]), end_seconds=float(ends[one]))
        peak_seconds, peak = _best_frame(span.start_seconds, span.end_seconds, video.pts_seconds, video.scores)
        moments.append(ScoredSpan(span=span, score=float(scores[one]), peak_seconds=peak_seconds, peak=peak))
    return moments


def tiou(a: TimeSpan, b: TimeSpan) -> float:
    """Temporal intersection over union, 0..1; 0 where both are empty."""
    shared = max(0.0, min(a.end_seconds, b.end_seconds) - max(a.start_seconds, b.start_seconds))
    union = a.length_seconds + b.length_seconds - shared
    return shared / union if union > 0 else 0.0


def suppress(starts: Floats, ends: Floats, scores: Floats, *, tiou_threshold: float, containment: float) -> list[int]:
    """Keep one of the spans that show the same moment; return the places of those kept, the best first.

    Two show the same moment if they overlap by `tiou_threshold` or more, or if one lies inside the other. Then the
    better stays. But one that fills less than `tiou_threshold` of the span around it also stays, in place of that, if
    it has `containment` of its score: short moments are what every system finds worst. (Of two nearly equal spans the
    smaller has no such right: that would shave the edges off every moment.)

    Args:
        starts: float64 (N,), seconds, and so `ends`.
        scores: float64 (N,); higher is better.
    """
    order, count = np.lexsort((ends, starts, -scores)), len(scores)
    is_same, is_small_part = _compared(starts[order], ends[order], tiou_threshold)
    ordered: list[float] = scores[order].tolist()
    kept: dict[int, float] = {}  # ranks, with the best score each stands for, lest small steps add up
    for rank, score in enumerate(ordered):
        rivals = [rival for rival in kept if is_same[rank * count + rival]]
        if all(is_small_part[rank * count + rival] and score >= containment * kept[rival] for rival in rivals):
            kept[rank] = max([score, *(kept.pop(rival) for rival in rivals)])
    places: list[int] = order[sorted(kept)].tolist()
    return places


def _compared(starts: Floats, ends: Floats, tiou_threshold: float) -> tuple[bytes, bytes]:
    """Say of each span and each other whether they show the same moment, and whether it is a small part of the other:
    (N, N) both, as bytes, since a few at a time are looked at."""
    lengths = ends - starts
    shared = np.maximum(0.0, np.minimum(ends[:, None], ends) - np.maximum(starts[:, None], starts))
    unions = lengths[:, None] + lengths - shared
    overlaps = np.divide(shared, unions, out=np.zeros_like(shared), where=unions > 0)
    is_inside = (starts <= starts[:, None]) & (ends[:, None] <= ends) & (lengths[:, None] < lengths)
    is_same = (shared > 0) & ((overlaps >= tiou_threshold) | is_inside | is_inside.T)
    return is_same.tobytes(), (is_inside & (overlaps < tiou_threshold)).tobytes()


def _in_cells(changes: Changes, edges: Floats) -> tuple[Ints, Floats]:
    """Return the first cell after each change, ascending and distinct, and how strong the strongest of them is."""
    cells = np.searchsorted(edges[:-1] + 0.5, changes.seconds, "right")  # a cell shows what is shown in its middle
    is_inner = (cells > 0) & (cells < len(edges) - 1)
    cells, strengths = cells[is_inner], changes.strengths[is_inner].astype(np.float64)
    if not len(cells):
        return cells, strengths
    distinct, starts = np.unique(cells, return_index=True)
    return distinct, np.maximum.reduceat(strengths, starts)


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
