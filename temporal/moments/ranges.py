"""Which seconds of similarity curves may be moments, in many stretches of curves at once.

A stretch is some minutes long, too short to be worth a call of NumPy for each step of the recipe
(temporal.moments.moments). So
the stretches of all curves lie in the rows of one matrix, and their ranges in one table, in which those of a stretch
follow each other.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from temporal.config import MomentConfig
from temporal.moments.curve import FLAT, Floats, Ints, otsu_of

Bools = NDArray[np.bool_]

KADANE_ROUNDS = 3  # ranges taken from each scale by largest sum; Otsu's runs give the others
RANGE_COUNT = 24  # best ranges of a stretch that go on; far more than survive suppression
REFINE_ROUNDS = 2  # levels and edges settle in two on the synthetic curves of benchmarks/moments.py
MIN_RING_SECONDS = 5  # on each side: the level around a one-second range is not read off two seconds
# What a score loses because a short range may be high by chance (chosen by benchmarks/ablation.py and moments.py).
NOISE_ERRORS = 2.0  # standard errors of its mean, by the jitter of the curve from second to second
SHRINK_SECONDS = 1.0  # a range this long counts half
MIN_SHOT_SECONDS = 3.0  # mean length of the shortest shots that may be moments
MAD_SIGMA = 1.4826  # standard deviations in a median absolute deviation, of what is normally distributed
WINDOW_SECONDS = (32, 128)  # ranges are sharpened beside those whose surroundings are at most so long; or the longest


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stretch:
    """A part of a curve within one epoch, one value a second."""

    values: Floats  # (T,), 1 or more
    change_cells: Ints  # (C,), ascending and distinct, in 1..T - 1: the first cells after changes of the picture
    change_strengths: Floats  # (C,)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ranges:
    """Cells [first, last) of stretches, (N,) each; those of a stretch follow each other."""

    stretch: Ints
    first: Ints
    last: Ints

    def __len__(self) -> int:
        return len(self.stretch)

    def chosen(self, places: Ints | Bools | slice) -> "Ranges":
        return Ranges(stretch=self.stretch[places], first=self.first[places], last=self.last[places])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoredRanges:
    """What may be a moment, the best of each stretch first, (N,) all."""

    ranges: Ranges
    scores: Floats
    is_shot: Bools  # its edges are changes of the picture

    def of(self, first: int, last: int) -> "ScoredRanges":
        """Return those of stretches [first, last)."""
        some = slice(*np.searchsorted(self.ranges.stretch, (first, last)))
        return ScoredRanges(ranges=self.ranges.chosen(some), scores=self.scores[some], is_shot=self.is_shot[some])


def scored_ranges(stretches: Sequence[Stretch], config: MomentConfig) -> ScoredRanges:
    """Score what may be a moment: shots, what is read off each scale, and the best of that sharpened."""
    rows = Rows.of([one.values for one in stretches])
    read = distinct(rows, [each for sigma in config.smoothing_seconds for each in read_off(rows, sigma, config)])
    sharp = read.chosen(best(read, rows.scores(read, config)))
    for _ in range(REFINE_ROUNDS):
        sharp = distinct(rows, [refined(rows, sharp)])
    read = distinct(rows, [read, sharp])
    shots = shots_in(stretches)
    shots = shots.chosen(np.isin(shots.stretch, read.stretch))  # a stretch off which nothing is read has no moment
    both = joined([read, shots])
    scores = rows.scores(both, config)
    chosen = best(both, scores)
    chosen = chosen[scores[chosen] > -np.inf]
    return ScoredRanges(ranges=both.chosen(chosen), scores=scores[chosen], is_shot=chosen >= len(read))


@dataclass(frozen=True, eq=False)
class Rows:
    """The values of R stretches in the rows of a matrix, 0 behind their ends."""

    values: Floats  # (R, T)
    counts: Ints  # (R,): cells of each

    @classmethod
    def of(cls, parts: Sequence[Floats]) -> "Rows":
        counts = np.array([len(part) for part in parts], np.int64)
        values = np.zeros((len(parts), int(counts.max(initial=1))))
        for row, part in zip(values, parts, strict=True):
            row[: len(part)] = part
        return cls(values, counts)

    @cached_property
    def is_cell(self) -> Bools:
        """(R, T), False behind the ends."""
        cells: Bools = np.arange(self.values.shape[1]) < self.counts[:, None]
        return cells

    @cached_property
    def sums(self) -> Floats:
        """Running, from 0: (R, T + 1)."""
        return running(self.values)

    @cached_property
    def medians(self) -> Floats:
        """(R,)."""
        return medians_of(self.ordered(self.values), self.counts)

    @cached_property
    def jitter(self) -> Floats:
        """(R,): standard deviation of the change from second to second."""
        steps, counts = np.diff(self.values, axis=1), self.counts - 1
        if not steps.shape[1]:
            return np.zeros(len(counts))
        is_step = np.arange(steps.shape[1]) < counts[:, None]
        middles = medians_of(np.sort(np.where(is_step, steps, np.inf), axis=1), counts)
        away = np.where(is_step, np.abs(steps - middles[:, None]), np.inf)
        return np.where(counts > 0, MAD_SIGMA * medians_of(np.sort(away, axis=1), counts), 0.0)

    def ordered(self, values: Floats) -> Floats:
        """Sort each row of (R, T), with infinity for what is behind the ends."""
        return np.sort(np.where(self.is_cell, values, np.inf), axis=1)

    def scores(self, ranges: Ranges, config: MomentConfig) -> Floats:
        """Score ranges by how high their mean is over the median of the stretch, and over the ring around them.

        The ring is as long as the range on each side, less at the ends of the stretch; a range that fills it has none,
        and its contrast is nothing. One that is no higher than either is no moment: -inf.
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
        """Return where the surroundings of ranges begin and end, how many cells are around, and their mean."""
        row, a, b = ranges.stretch, ranges.first, ranges.last
        reach = np.maximum(b - a, MIN_RING_SECONDS)
        low, high = np.maximum(0, a - reach), np.minimum(self.counts[row], b + reach)
        count = high - low - (b - a)
        around = self.sums[row, high] - self.sums[row, low] - inside
        return low, high, count, around / np.maximum(count, 1)


def read_off(rows: Rows, sigma: float, config: MomentConfig) -> list[Ranges]:
    """Read ranges off the curves at one scale: those of largest sum over the midpoint of median and peak, and the runs
    over Otsu's threshold."""
    smooth = np.zeros_like(rows.values)
    for row, count in enumerate(rows.counts.tolist()):
        smooth[row, :count] = smoothed(rows.values[row, :count], sigma)
    ordered = rows.ordered(smooth)
    lowest, highest = ordered[:, 0], ordered[np.arange(len(ordered)), rows.counts - 1]
    is_moving = highest - lowest >= FLAT
    middles = (medians_of(ordered, rows.counts) + highest) / 2
    rest = np.where(rows.is_cell, smooth - middles[:, None], 0.0)
    found, is_left = [], is_moving
    for _ in range(KADANE_ROUNDS):
        a, b, weights = heaviest(rest)
        is_left = is_left & (weights > 0)
        found.append(Ranges(stretch=np.arange(len(rest)), first=a, last=b).chosen(is_left))
        cells = np.arange(rest.shape[1])
        is_taken = (cells >= a[:, None]) & (cells < b[:, None])
        # Heavy enough that no later range takes it in.
        rest = np.where(is_taken, -np.abs(rest).sum(axis=1, keepdims=True) - 1, rest)
    is_high = (smooth > otsu_of(ordered, rows.counts)[:, None]) & rows.is_cell & is_moving[:, None]
    return [*found, runs(is_high, int(config.bridge_seconds))]


def smoothed(values: Floats, sigma: float) -> Floats:
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


def running(values: Floats) -> Floats:
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


def heaviest(values: Floats) -> tuple[Ints, Ints, Floats]:
    """Return of each row Kadane's run [a, b) of largest sum, and that sum, by running sums."""
    sums = running(values)
    at = np.arange(len(values))
    lowest = np.minimum.accumulate(sums[:, :-1], axis=1)  # of the sums up to each cell
    b = (sums[:, 1:] - lowest).argmax(axis=1) + 1
    a = (sums == lowest[at, b - 1, None]).argmax(axis=1)  # the first of them
    return a, b, sums[at, b] - sums[at, a]


def runs(is_high: Bools, bridge: int) -> Ranges:
    """Return the runs of True in the rows; gaps of up to `bridge` cells do not end one."""
    count, width = is_high.shape
    apart = np.zeros((count, width + 1), np.int8)  # a cell that is not high between two rows
    apart[:, :width] = is_high
    edges = np.flatnonzero(np.diff(apart.ravel(), prepend=np.int8(0)))
    stretch, first = np.divmod(edges[::2], width + 1)
    last = edges[1::2] % (width + 1)
    is_apart = (stretch[1:] != stretch[:-1]) | (first[1:] - last[:-1] > bridge)
    begins, finishes = np.append(True, is_apart)[: len(first)], np.append(is_apart, True)[: len(first)]
    return Ranges(stretch=stretch[begins], first=first[begins], last=last[finishes])


def joined(parts: Sequence[Ranges]) -> Ranges:
    return Ranges(
        stretch=np.concatenate([part.stretch for part in parts]),
        first=np.concatenate([part.first for part in parts]),
        last=np.concatenate([part.last for part in parts]),
    )


def distinct(rows: Rows, parts: Sequence[Ranges]) -> Ranges:
    """Return each range once, in order of stretch and time."""
    every, base = joined(parts), rows.values.shape[1] + 1
    codes = np.unique((every.stretch * base + every.first) * base + every.last)
    stretch, inside = np.divmod(codes, base * base)
    first, last = np.divmod(inside, base)
    return Ranges(stretch=stretch, first=first, last=last)


def best(ranges: Ranges, scores: Floats) -> Ints:
    """Return the places of the highest scores, at most RANGE_COUNT of each stretch: stretch by stretch, the best first;
    of equal ones that which comes first."""
    order = np.lexsort((-scores, ranges.stretch))
    sorted_rows = ranges.stretch[order]
    rank = np.arange(len(order)) - np.searchsorted(sorted_rows, sorted_rows, "left")
    return order[rank < RANGE_COUNT]


def refined(rows: Rows, ranges: Ranges) -> Ranges:
    """Sharpen ranges: the heaviest run nearby of the raw curve, over the midpoint of levels inside and around."""
    inside = rows.sums[ranges.stretch, ranges.last] - rows.sums[ranges.stretch, ranges.first]
    low, high, ring_count, ring_mean = rows.rings(ranges, inside)
    level = (inside / (ranges.last - ranges.first) + ring_mean) / 2
    first, last = ranges.first.copy(), ranges.last.copy()
    size = np.searchsorted(WINDOW_SECONDS, high - low)
    for number in range(len(WINDOW_SECONDS) + 1):
        some = np.flatnonzero((size == number) & (ring_count > 0))
        if not len(some):
            continue
        counts = (high - low)[some]
        cells = np.arange(counts.max())  # (L,)
        begins = (ranges.stretch * rows.values.shape[1] + low)[some]  # in all rows, one after the other
        near = rows.values.take(begins[:, None] + cells, mode="clip")  # (N, L)
        near -= level[some, None]
        near *= cells < counts[:, None]  # what lies behind the surroundings adds nothing
        starts, ends, _ = heaviest(near)
        first[some], last[some] = low[some] + starts, low[some] + ends
    return Ranges(stretch=ranges.stretch, first=first, last=last)


def shots_in(stretches: Sequence[Stretch]) -> Ranges:
    """Return the ranges between the strongest change, the two strongest, the four strongest, and so on.

    So a shot is one of them whatever the encoder's scale, and so are a run of shots that look alike and a part of one.
    """
    cells, ranks, owners, most = [], [], [], []
    for number, one in enumerate(stretches):
        count, length = len(one.change_cells), len(one.values)
        place = np.empty(count, np.int64)
        place[np.argsort(-one.change_strengths, kind="stable")] = np.arange(count)
        cells.append(np.concatenate([[0], one.change_cells, [length]]))
        ranks.append(np.concatenate([[-1], place, [-1]]))
        owners.append(np.full(count + 2, number))
        most.append(min(count, length / MIN_SHOT_SECONDS))
    cell, rank, owner = np.concatenate(cells), np.concatenate(ranks), np.concatenate(owners)
    limits = np.array(most)
    found, taken = [Ranges(stretch=owner[:0], first=owner[:0], last=owner[:0])], 1
    while taken <= limits.max():
        edges = np.flatnonzero((rank < taken) & (taken <= limits[owner]))
        a, b = edges[:-1], edges[1:]
        is_old = np.maximum(rank[a], rank[b]) < taken // 2  # both edges are of the round before, and so is the range
        is_next = (owner[a] == owner[b]) & ~is_old
        a, b = a[is_next], b[is_next]
        found.append(Ranges(stretch=owner[a], first=cell[a], last=cell[b]))
        taken *= 2
    every = joined(found)
    return every.chosen(np.argsort(every.stretch, kind="stable"))
