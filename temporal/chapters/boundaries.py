"""Finds where a video becomes about something else: change points of its pictures and sentences.

Kernel change-point detection: the parts whose vectors scatter least about their means, each further part at a price.
Harchaoui and Cappé, "Retrospective multiple change-point estimation with kernels", SSP 2007; with a price for each part
as in Arlot, Celisse and Harchaoui, "A kernel multiple change-point algorithm via model selection", JMLR 2019. The
kernel is linear, the vectors are weighted by the seconds they last, and dynamic programming finds the exact minimum
over the candidates: the changes of the picture and the pauses of the speech.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoders.values import FrameEmbeddings, Utterance
from temporal.config import ChapterConfig
from temporal.values import TimeSpan

MAX_CANDIDATES = 1024  # time and memory grow with their square; in two hours, one for each 7 s
BLOCK_PIECES = 4096  # pieces whose vectors are summed at a time, which bounds the memory
MARGIN_SECONDS = 1.0  # so near to the end of an utterance, a time is not inside it: the times of words are not exact
EDGE_SECONDS = 0.5  # a picture or silence that lasts long ends shortly before the next picture or word

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TimedVectors:
    """The vectors of one kind of a video, each with the time for which it holds."""

    starts: Floats  # (N,), ascending
    ends: Floats  # (N,), at most the next start
    vectors: NDArray[np.float32]  # (N, D), unit length


def timed_pictures(frames: FrameEmbeddings, span: TimeSpan) -> TimedVectors:
    """Return the pictures of a video, each until the next one; the first from the start of the video."""
    if not len(frames.pts_seconds):
        return TimedVectors(starts=np.empty(0), ends=np.empty(0), vectors=frames.vectors)
    changes = _edges(frames.pts_seconds[:-1], frames.pts_seconds[1:])
    starts = np.concatenate([[span.start_seconds], changes])
    ends = np.concatenate([changes, [span.end_seconds]])
    return TimedVectors(starts=starts, ends=np.maximum(starts, ends), vectors=frames.vectors)


def timed_sentences(utterances: Sequence[Utterance], vectors: NDArray[np.float32]) -> TimedVectors:
    """Return the sentences of a video; of two that overlap, the later begins where the earlier ends."""
    ends = np.maximum.accumulate(np.array([each.end_seconds for each in utterances], np.float64))
    starts = np.array([each.start_seconds for each in utterances], np.float64)
    starts[1:] = np.maximum(starts[1:], ends[:-1])
    return TimedVectors(starts=starts, ends=np.maximum(starts, ends), vectors=vectors)


def find_parts(pictures: TimedVectors, speech: TimedVectors, span: TimeSpan, config: ChapterConfig) -> Floats:
    """Return the edges of the parts of a video: (P + 1,), from its start to its end, with P >= 1."""
    least = config.least_seconds(span.length_seconds)
    seconds, is_inside = _candidates(pictures, speech, span)
    if len(seconds) < 3 or span.length_seconds < 2 * least:
        return np.array([span.start_seconds, span.end_seconds])
    costs = _scatter(pictures, seconds)
    if len(speech.starts):
        # A mean of few sentences fits them by chance, about as well as if one of them were free: each part pays for it.
        sentence_seconds = float(np.mean(speech.ends - speech.starts))
        covered = _covered(speech, seconds)
        costs += config.speech_weight * (_scatter(speech, seconds) + sentence_seconds * (covered > 0))
    price = config.price(span.length_seconds)
    prices = np.where(is_inside, price * config.interruption_factor, price)
    return seconds[_cheapest_parts(costs, prices, seconds, least, config.max_seconds)]


def _edges(earlier: Floats, later: Floats) -> Floats:
    return np.maximum((earlier + later) / 2, later - EDGE_SECONDS)


def _candidates(pictures: TimedVectors, speech: TimedVectors, span: TimeSpan) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the times at which a part may begin, and the end, (C,), and which lie inside an utterance, (C,)."""
    changes = 1 - np.einsum("nd,nd->n", pictures.vectors[:-1], pictures.vectors[1:], dtype=np.float64)
    earlier_ends = np.concatenate([[span.start_seconds], speech.ends])[: len(speech.starts)]
    pauses = speech.starts - earlier_ends
    seconds = np.concatenate([pictures.starts[1:], _edges(earlier_ends, speech.starts)])
    strengths = np.concatenate([changes, np.minimum(pauses, 1.0)])
    within = (seconds > span.start_seconds) & (seconds < span.end_seconds)
    seconds, indexes = np.unique(seconds[within], return_index=True)
    strengths, is_inside = strengths[within][indexes], _is_inside(seconds, speech)
    if len(seconds) > MAX_CANDIDATES:
        # Each stretch of time keeps the strongest change, if possible outside speech.
        stretches = np.floor((seconds - span.start_seconds) / span.length_seconds * MAX_CANDIDATES)
        order = np.lexsort((is_inside - strengths, stretches))
        _, firsts = np.unique(stretches[order], return_index=True)
        seconds, is_inside = seconds[order[firsts]], is_inside[order[firsts]]
    return (
        np.concatenate([[span.start_seconds], seconds, [span.end_seconds]]),
        np.concatenate([[False], is_inside, [False]]),
    )


def _is_inside(seconds: Floats, speech: TimedVectors) -> NDArray[np.bool_]:
    if not len(speech.starts):
        return np.zeros(len(seconds), np.bool_)
    before = np.maximum(np.searchsorted(speech.starts, seconds, "left") - 1, 0)  # the last that begins earlier
    starts, ends = speech.starts[before] + MARGIN_SECONDS, speech.ends[before] - MARGIN_SECONDS
    inside: NDArray[np.bool_] = (starts < seconds) & (seconds < ends)
    return inside


def _scatter(track: TimedVectors, seconds: Floats) -> Floats:
    """Return the squared distances of a track's vectors from their mean, summed over the time between two candidates.

    Args:
        seconds: (C,), ascending.
    Returns:
        (C, C), for the part from each candidate to each later one; the rest has no meaning.
    """
    sums, _ = integrals(track, seconds)
    squares = np.einsum("cd,cd->c", sums, sums)
    lengths = np.maximum(_covered(track, seconds), 1e-9)
    distances = np.maximum(squares[None, :] + squares[:, None] - 2 * (sums @ sums.T), 0)
    scatter: Floats = np.maximum(lengths - distances / lengths, 0)
    return scatter


def _covered(track: TimedVectors, seconds: Floats) -> Floats:
    """Return how many seconds a track covers between each two candidates: (C, C), as in _scatter()."""
    _, covered = integrals(track, seconds)
    between: Floats = covered[None, :] - covered[:, None]
    return between


def integrals(track: TimedVectors, seconds: Floats) -> tuple[Floats, Floats]:
    """Return the sum of a track's vectors, (C, D), and of the seconds it covers, (C,), until each of some times."""
    sums, covered = np.zeros((len(seconds), track.vectors.shape[1])), np.zeros(len(seconds))
    carry, carried = np.zeros(track.vectors.shape[1]), 0.0
    for first in range(0, len(track.starts), BLOCK_PIECES):
        block = slice(first, first + BLOCK_PIECES)
        starts, ends = track.starts[block], track.ends[block]
        lengths = ends - starts
        running = np.cumsum(track.vectors[block] * lengths[:, None], axis=0, dtype=np.float64)
        running_lengths = np.cumsum(lengths)
        here = seconds >= starts[0]
        last = np.searchsorted(starts, seconds[here], "right") - 1
        rest = np.maximum(ends[last] - seconds[here], 0)  # of the last piece, after the time
        sums[here] = carry + running[last] - track.vectors[block][last] * rest[:, None]
        covered[here] = carried + running_lengths[last] - rest
        carry, carried = carry + running[-1], carried + running_lengths[-1]
    return sums, covered


def _cheapest_parts(
    costs: Floats, prices: Floats, seconds: Floats, least_seconds: float, most_seconds: float
) -> NDArray[np.int64]:
    """Return the indexes of the candidates, first and last included, that part a video at the least cost and price.

    A part is longer than `most_seconds` only where it cannot be shorter.
    """
    count = len(seconds)
    best, previous = np.full(count, math.inf), np.zeros(count, np.int64)
    best[0] = 0.0
    for end in range(1, count):
        allowed = int(np.searchsorted(seconds, seconds[end] - least_seconds + 1e-6, "right"))
        if allowed:
            first = int(np.searchsorted(seconds, seconds[end] - most_seconds - 1e-6))
            reached = np.flatnonzero(np.isfinite(best[:allowed]))
            if not len(reached):
                continue
            first = min(first, int(reached[-1]))
            totals = best[first:allowed] + costs[first:allowed, end] + prices[first:allowed]
            previous[end] = first + int(np.argmin(totals))
            best[end] = totals.min()
    chosen = [count - 1]
    while chosen[-1]:
        chosen.append(int(previous[chosen[-1]]))
    return np.array(chosen[::-1])
