"""Measures whether confidence is a frequency: of answers with 0.9, nine in ten should be right.

The expected calibration error is the mean distance of confidence and accuracy over BIN_COUNT bins of equal width,
weighed by their counts: Naeini, Cooper and Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian
Binning", 2015; Guo et al., "On Calibration of Modern Neural Networks", 2017. The Brier score is the mean squared
distance of confidence and outcome: Brier, "Verification of Forecasts Expressed in Terms of Probability", 1950.

Few answers have an error by chance, even if every confidence is true. `chance_error` says how much: the mean error of
outcomes that are drawn with the confidences (Bröcker and Smith, "Increasing the Reliability of Reliability Diagrams",
2007). Intervals of errors are percentiles of bootstrap samples of the questions (Efron, 1979).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BIN_COUNT = 10
SAMPLE_COUNT = 2000  # bootstrap samples; the ends of an interval then move by less than its own hundredth
INTERVAL = (0.025, 0.975)  # quantiles of the bootstrap samples between which an interval lies: 95 %
Z = 1.959964  # standard deviations on both sides of the mean that hold 95 % of a normal distribution
SEED = 0  # of the samples, so that a run repeats exactly

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """The confidence of one answer, and whether it is right."""

    confidence: float  # 0..1
    is_right: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityBin:
    """The answers of one range of confidence: [start, end), and the last one up to 1."""

    start: float
    end: float
    count: int
    confidence: float | None  # mean of the answers; None: the bin is empty
    accuracy: float | None  # share of right answers; None: the bin is empty


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """How far confidence is from frequency. All values but counts are in [0, 1]."""

    question_count: int  # questions with an answer
    answer_count: int
    right_count: int
    error: float  # expected calibration error
    error_interval: Interval
    chance_error: float  # expected calibration error that as few answers have if every confidence is true
    brier: float
    brier_interval: Interval
    bins: tuple[ReliabilityBin, ...]


def measure_reliability(questions: Sequence[Sequence[Forecast]]) -> Reliability | None:
    """Measure the answers of Q questions. Questions without an answer are left out; None: none has an answer."""
    answered = [answers for answers in questions if answers]
    if not answered:
        return None
    confidences = np.array([each.confidence for answers in answered for each in answers])
    is_right = np.array([each.is_right for answers in answered for each in answers], np.float64)
    of_question = np.repeat(np.arange(len(answered)), [len(answers) for answers in answered])
    bins = np.minimum((confidences * BIN_COUNT).astype(np.int64), BIN_COUNT - 1)
    # Sums of each question and bin (Q, BIN_COUNT), of which every sample of questions is a weighted sum.
    counts, confident, right = (
        _sum_by_bin(values, of_question, bins, len(answered)) for values in (np.ones(len(bins)), confidences, is_right)
    )
    squares = np.bincount(of_question, (confidences - is_right) ** 2, len(answered))
    rng = np.random.default_rng(SEED)
    weights = rng.multinomial(len(answered), np.full(len(answered), 1 / len(answered)), SAMPLE_COUNT)
    errors = _calibration_error(weights @ counts, weights @ confident, weights @ right)
    briers = (weights @ squares) / (weights @ counts).sum(axis=1)
    return Reliability(
        question_count=len(answered),
        answer_count=len(bins),
        right_count=int(is_right.sum()),
        error=float(_calibration_error(*(each.sum(axis=0)[None] for each in (counts, confident, right)))[0]),
        error_interval=_interval(errors),
        chance_error=_chance_error(confidences, bins, rng),
        brier=float(squares.sum() / len(bins)),
        brier_interval=_interval(briers),
        bins=tuple(_make_bin(n, confidences[bins == n], is_right[bins == n]) for n in range(BIN_COUNT)),
    )


def share_interval(right_count: int, count: int) -> Interval | None:
    """Return the 95 % interval of a share of independent answers; None without answers.

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927. Unlike a bootstrap, it
    is no single point where all answers are right, or none.
    """
    if not count:
        return None
    share = right_count / count
    middle = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    reach = Z * math.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2)) / (1 + Z**2 / count)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def _sum_by_bin(
    values: NDArray[np.float64], of_question: NDArray[np.int64], bins: NDArray[np.int64], question_count: int
) -> NDArray[np.float64]:
    sums = np.bincount(of_question * BIN_COUNT + bins, values, question_count * BIN_COUNT)
    return np.asarray(sums, np.float64).reshape(question_count, BIN_COUNT)


def _calibration_error(
    counts: NDArray[np.float64], confident: NDArray[np.float64], right: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the expected calibration error of S samples, from sums over each bin (S, BIN_COUNT)."""
    errors: NDArray[np.float64] = np.abs(right - confident).sum(axis=1) / counts.sum(axis=1)
    return errors


def _chance_error(confidences: NDArray[np.float64], bins: NDArray[np.int64], rng: np.random.Generator) -> float:
    errors = np.zeros(SAMPLE_COUNT)
    for n in range(BIN_COUNT):
        inside = confidences[bins == n]
        drawn = rng.random((SAMPLE_COUNT, len(inside))) < inside
        errors += np.abs((drawn - inside).sum(axis=1))
    return float(errors.mean() / len(confidences))


def _interval(samples: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(samples, INTERVAL)
    return float(low), float(high)


def _make_bin(n: int, confidences: NDArray[np.float64], is_right: NDArray[np.float64]) -> ReliabilityBin:
    has_answers = len(confidences) > 0
    return ReliabilityBin(
        start=n / BIN_COUNT,
        end=(n + 1) / BIN_COUNT,
        count=len(confidences),
        confidence=float(confidences.mean()) if has_answers else None,
        accuracy=float(is_right.mean()) if has_answers else None,
    )
