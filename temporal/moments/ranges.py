"""Candidate ranges of seconds in similarity curves, for many stretches of curves at once (temporal.moments.moments).

A stretch is some minutes long, too short to be worth a call of NumPy for each step. So the stretches of all curves are
the rows of one matrix, and their ranges are one table, ordered by stretch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from temporal.config import MomentConfig
from temporal.moments.curve import FLAT_RANGE, Floats, Ints, otsu_of

Bools = NDArray[np.bool_]

KADANE_ROUNDS = 3  # ranges of largest sum from each scale; Otsu's runs give the others
RANGE_COUNT = 24  # best ranges of a stretch that are kept; far more than survive suppression
REFINE_ROUNDS = 2  # levels and edges settle in two rounds on the planted curves of benchmarks/moments.py
MIN_RING_SECONDS = 5  # on each side; two seconds are too few for the level around a one-second range
# Corrections of a score, as a short range may be high by chance (chosen with benchmarks/ablation.py and moments.py).
NOISE_ERRORS = 2.0  # standard errors of the mean to subtract, from the jitter of the curve between seconds
SHRINK_SECONDS = 1.0  # a range of this length counts half
MIN_SHOT_SECONDS = 3.0  # mean length of the shortest shots that may be moments
MAD_SIGMA = 1.4826  # standard deviations in a median absolute deviation of a normal distribution
WINDOW_SECONDS = (32, 128)  # ranges with surroundings up to these lengths are sharpened together; longer ones apart


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stretch:
    """A part of a curve inside one epoch, one value a second."""

    values: Floats  # (T,), 1 or more
    change_cells: Ints  # (C,), the first cells after changes of the picture: ascending, distinct, 1..T - 1
    change_strengths: Floats  # (C,)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ranges:
    """Ranges of cells [first, last), (N,) each, grouped by stretch."""

    stretch: Ints
    first: Ints
    last: Ints

    def __len__(self) -> int:
        return len(self.stretch)

    def select(self, places: Ints | Bools | slice) -> "Ranges":
        return Ranges(stretch=self.stretch[places], first=self.first[places], last=self.last[places])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoredRanges:
    """Candidates, (N,) each, grouped by stretch, best first in each."""

    ranges: Ranges
    scores: Floats
    is_shot: Bools  # True where the edges are changes of the picture

    def of(self, first: int, last: int) -> "ScoredRanges":
        """Return the ranges of stretches [first, last)."""
        part = slice(*np.searchsorted(self.ranges.stretch, (first, last)))
        return ScoredRanges(ranges=self.ranges.select(part), scores=self.scores[part], is_shot=self.is_shot[part])


def score_ranges(stretches: Sequence[Stretch], config: MomentConfig) -> ScoredRanges:
    """Score the candidates: shots, the ranges read from each scale, and the best of those, sharpened."""
    rows = Rows.of([stretch.values for stretch in stretches])
    read = unique_ranges(rows, [part for s in config.smoothing_seconds for part in read_ranges(rows, s, config)])
    sharp = read.select(best_ranges(read, rows.scores(read, config)))
    for _ in range(REFINE_ROUNDS):
        sharp = unique_ranges(rows, [sharpen(rows, sharp)])
    read = unique_ranges(rows, [read, sharp])
    shots = shot_ranges(stretches)
    shots = shots.select(np.isin(shots.stretch, read.stretch))  # a stretch without read ranges has no moment
    both = concatenate_ranges([read, shots])
    scores = rows.scores(both, config)
    chosen = best_ranges(both, scores)
    chosen = chosen[scores[chosen] > -np.inf]
    return ScoredRanges(ranges=both.select(chosen), scores=scores[chosen], is_shot=chosen >= len(read))


@dataclass(frozen=True, eq=False)
class Rows:
    """The values of R stretches as the rows of a matrix, padded with 0."""

    values: Floats  # (R, T)
    counts: Ints  # (R,): number of cells of each stretch

    @classmethod
    def of(cls, parts: Sequence[Floats]) -> "Rows":
        counts = np.array([len(part) for part in parts], np.int64)
        values = np.zeros((len(parts), int(counts.max(initial=1))))
        for row, part in zip(values, parts, strict=True):
            row[: len(part)] = part
        return cls(values, counts)

    @cached_property
    def is_cell(self) -> Bools:
        """(R, T), False in the padding."""
        cells: Bools = np.arange(self.values.shape[1]) < self.counts[:, None]
        return cells

    @cached_property
    def sums(self) -> Floats:
        """Running sums from 0: (R, T + 1)."""
        return running_sums(self.values)

    @cached_property
    def medians(self) -> Floats:
        """Median of each stretch: (R,)."""
        return medians_of(self.sort(self.values), self.counts)

    @cached_property
    def jitter(self) -> Floats:
        """Robust standard deviation of the change from second to second: (R,)."""
        steps, counts = np.diff(self.values, axis=1), self.counts - 1
        if not steps.shape[1]:
            return np.zeros(len(counts))
        is_step = np.arange(steps.shape[1]) < counts[:, None]
        middles = medians_of(np.sort(np.where(is_step, steps, np.inf), axis=1), counts)
        away = np.where(is_step, np.abs(steps - middles[:, None]), np.inf)
        return np.where(counts > 0, MAD_SIGMA * medians_of(np.sort(away, axis=1), counts), 0.0)

    def sort(self, values: Floats) -> Floats:
        """Sort each row of (R, T), with infinity in the padding."""
        return np.sort(np.where(self.is_cell, values, np.inf), axis=1)

    def scores(self, ranges: Ranges, config: MomentConfig) -> Floats:
        """Score ranges by the height of their mean over the median of the stretch, and over the ring around them.

        The ring has the length of the range on each side, less at the ends of the stretch. A range that fills the
        stretch has no ring, and its contrast is 0. A range without height has the score -inf.
        """
        row, a, b = ranges.stretch, ranges.first, ranges.last
        length = b - a
        inside = self.sums[row, b] - self.sums[row, a]
        _, _, ring_count, ring_mean = self.rings(ranges, inside)
        contrast = np.where(ring_count > 0, inside / length - ring_mean, 0.0)
        height = (1 - config.ring_share) * (inside / length - self.medians[row]) + config.ring_share * contrast
        chance = NOISE_ERRORS * self.jitter[row] / np.sqrt(length)
        return np.where(height > 0, (height - chance) * length / (length + SHRINK_SECONDS), -np.inf)

    def rings(self, ranges: Ranges, inside: Floats) -> tuple[Ints, Ints, Ints, Floats]:
        """Return start and end of the surroundings of ranges, and the count and mean of the cells in the ring."""
        row, a, b = ranges.stretch, ranges.first, ranges.last
        reach = np.maximum(b - a, MIN_RING_SECONDS)
        low, high = np.maximum(0, a - reach), np.minimum(self.counts[row], b + reach)
        count = high - low - (b - a)
        around = self.sums[row, high] - self.sums[row, low] - inside
        return low, high, count, around / np.maximum(count, 1)


def read_ranges(rows: Rows, sigma: float, config: MomentConfig) -> list[Ranges]:
    """Read ranges from the curves at one scale: those of largest sum over the midpoint of median and peak, and the
    runs over Otsu's threshold."""
    smooth = np.zeros_like(rows.values)
    for row, count in enumerate(rows.counts.tolist()):
        smooth[row, :count] = smooth_curve(rows.values[row, :count], sigma)
    ordered = rows.sort(smooth)
    lowest, highest = ordered[:, 0], ordered[np.arange(len(ordered)), rows.counts - 1]
    is_moving = highest - lowest >= FLAT_RANGE
    middles = (medians_of(ordered, rows.counts) + highest) / 2
    rest = np.where(rows.is_cell, smooth - middles[:, None], 0.0)
    ranges, is_left = [], is_moving
    for _ in range(KADANE_ROUNDS):
        a, b, weights = heaviest_runs(rest)
        is_left = is_left & (weights > 0)
        ranges.append(Ranges(stretch=np.arange(len(rest)), first=a, last=b).select(is_left))
        cells = np.arange(rest.shape[1])
        is_taken = (cells >= a[:, None]) & (cells < b[:, None])
        # So low that no later range includes these cells.
        rest = np.where(is_taken, -np.abs(rest).sum(axis=1, keepdims=True) - 1, rest)
    is_high = (smooth > otsu_of(ordered, rows.counts)[:, None]) & rows.is_cell & is_moving[:, None]
    return [*ranges, find_runs(is_high, int(config.bridge_seconds))]


def smooth_curve(values: Floats, sigma: float) -> Floats:
    """Smooth with a Gaussian of sigma cells (seconds); the weights are renormalised at the ends."""
    kernel, weights = _kernel(sigma, len(values))
    reach = len(kernel) // 2
    smooth: Floats = np.convolve(values, kernel)[reach : reach + len(values)] / weights
    return smooth


@lru_cache(maxsize=256)
def _kernel(sigma: float, length: int) -> tuple[Floats, Floats]:
    """Return the Gaussian, and its weight inside a curve of `length` cells at each cell."""
    reach = math.ceil(3 * sigma)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return kernel, np.convolve(np.ones(length), kernel)[reach : reach + length]


def running_sums(values: Floats) -> Floats:
    """Return the running sums of the rows of (R, T), from 0: (R, T + 1)."""
    sums = np.zeros((len(values), values.shape[1] + 1))
    np.cumsum(values, axis=1, out=sums[:, 1:])
    return sums


def medians_of(ordered: Floats, counts: Ints) -> Floats:
    """Return the medians of the first `counts` values of each sorted row."""
    at = np.arange(len(ordered))
    middle = np.maximum(counts, 1) // 2
    upper, lower = ordered[at, middle], ordered[at, np.maximum(middle - 1, 0)]
    medians: Floats = np.where(counts % 2 == 1, upper, (lower + upper) / 2)
    return medians


def heaviest_runs(values: Floats) -> tuple[Ints, Ints, Floats]:
    """Return the run [a, b) of largest sum (Kadane) of each row, and its sum."""
    sums = running_sums(values)
    at = np.arange(len(values))
    lowest = np.minimum.accumulate(sums[:, :-1], axis=1)  # lowest sum before each cell
    b = (sums[:, 1:] - lowest).argmax(axis=1) + 1
    a = (sums == lowest[at, b - 1, None]).argmax(axis=1)  # the first such cell
    return a, b, sums[at, b] - sums[at, a]


def find_runs(is_high: Bools, bridge: int) -> Ranges:
    """Return the runs of True in the rows; a gap of up to `bridge` cells does not end a run."""
    count, width = is_high.shape
    apart = np.zeros((count, width + 1), np.int8)  # with one False cell between two rows
    apart[:, :width] = is_high
    edges = np.flatnonzero(np.diff(apart.ravel(), prepend=np.int8(0)))
    stretch, first = np.divmod(edges[::2], width + 1)
    last = edges[1::2] % (width + 1)
    is_apart = (stretch[1:] != stretch[:-1]) | (first[1:] - last[:-1] > bridge)
    begins, finishes = np.append(True, is_apart)[: len(first)], np.append(is_apart, True)[: len(first)]
    return Ranges(stretch=stretch[begins], first=first[begins], last=last[finishes])


def concatenate_ranges(parts: Sequence[Ranges]) -> Ranges:
    return Ranges(
        stretch=np.concatenate([part.stretch for part in parts]),
        first=np.concatenate([part.first for part in parts]),
        last=np.concatenate([part.last for part in parts]),
    )


def unique_ranges(rows: Rows, parts: Sequence[Ranges]) -> Ranges:
    """Return each range once, in order of stretch and time."""
    every, base = concatenate_ranges(parts), rows.values.shape[1] + 1
    codes = np.unique((every.stretch * base + every.first) * base + every.last)
    stretch, inside = np.divmod(codes, base * base)
    first, last = np.divmod(inside, base)
    return Ranges(stretch=stretch, first=first, last=last)


def best_ranges(ranges: Ranges, scores: Floats) -> Ints:
    """Return the indices of the highest scores, at most RANGE_COUNT for each stretch, best first; ties keep their
    order."""
    order = np.lexsort((-scores, ranges.stretch))
    sorted_rows = ranges.stretch[order]
    rank = np.arange(len(order)) - np.searchsorted(sorted_rows, sorted_rows, "left")
    return order[rank < RANGE_COUNT]


def sharpen(rows: Rows, ranges: Ranges) -> Ranges:
    """Replace ranges by the heaviest run of the raw curve nearby, over the midpoint of the levels inside and around."""
    inside = rows.sums[ranges.stretch, ranges.last] - rows.sums[ranges.stretch, ranges.first]
    low, high, ring_count, ring_mean = rows.rings(ranges, inside)
    level = (inside / (ranges.last - ranges.first) + ring_mean) / 2
    first, last = ranges.first.copy(), ranges.last.copy()
    size = np.searchsorted(WINDOW_SECONDS, high - low)
    for number in range(len(WINDOW_SECONDS) + 1):
        group = np.flatnonzero((size == number) & (ring_count > 0))
        if not len(group):
            continue
        counts = (high - low)[group]
        cells = np.arange(counts.max())  # (L,)
        begins = (ranges.stretch * rows.values.shape[1] + low)[group]  # index in the flattened rows
        near = rows.values.take(begins[:, None] + cells, mode="clip")  # (N, L)
        near -= level[group, None]
        near *= cells < counts[:, None]  # cells beyond the surroundings add nothing
        starts, ends, _ = heaviest_runs(near)
        first[group], last[group] = low[group] + starts, low[group] + ends
    return Ranges(stretch=ranges.stretch, first=first, last=last)


def shot_ranges(stretches: Sequence[Stretch]) -> Ranges:
    """Return the ranges between the strongest change, the two strongest, the four strongest changes, and so on.

    So the ranges contain each shot, runs of similar shots, and parts of shots, whatever the scale of the encoder.
    """
    cells, ranks, owners, most = [], [], [], []
    for number, stretch in enumerate(stretches):
        count, length = len(stretch.change_cells), len(stretch.values)
        order = np.empty(count, np.int64)
        order[np.argsort(-stretch.change_strengths, kind="stable")] = np.arange(count)
        cells.append(np.concatenate([[0], stretch.change_cells, [length]]))
        ranks.append(np.concatenate([[-1], order, [-1]]))
        owners.append(np.full(count + 2, number))
        most.append(min(count, length / MIN_SHOT_SECONDS))
    cell, rank, owner = np.concatenate(cells), np.concatenate(ranks), np.concatenate(owners)
    limits = np.array(most)
    ranges, taken = [Ranges(stretch=owner[:0], first=owner[:0], last=owner[:0])], 1
    while taken <= limits.max():
        edges = np.flatnonzero((rank < taken) & (taken <= limits[owner]))
        a, b = edges[:-1], edges[1:]
        is_old = np.maximum(rank[a], rank[b]) < taken // 2  # both edges, and so the range, are from the round before
        is_next = (owner[a] == owner[b]) & ~is_old
        a, b = a[is_next], b[is_next]
        ranges.append(Ranges(stretch=owner[a], first=cell[a], last=cell[b]))
        taken *= 2
    every = concatenate_ranges(ranges)
    return every.select(np.argsort(every.stretch, kind="stable"))
