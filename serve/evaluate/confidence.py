"""Fits confidences to questions with known answers, for `kinodex calibrate`.

How often an answer is right depends on the library too: a film alone has no rival, and of fifty some film is near to
anything. So each question is asked of many libraries: random choices of the videos, from one to all. In half of them
the right video is missing, and the question is one about something absent. The answers to all of them, each with its
evidence (serve.search.evidence) and whether it is right, are the samples of a logistic regression. An answer is right
if it overlaps a right span of the right video.
"""

import itertools
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.calibration import MATCH_CONFIDENCE, WEAK_CONFIDENCE, Evidence, Regression, Scale, logit
from serve.evaluate.questions import Question
from serve.search.evidence import VisualQuery, WeighedVideo, evidence_of
from serve.search.intent import read_intent
from serve.search.visual import JUDGED_COUNT, VisualChannel
from serve.values import Video
from temporal.values import ScoredSpan

Floats = NDArray[np.float64]
Kind = Literal["video", "moment"]

LIBRARY_SIZES = (1, 2, 4, 8, 16)  # videos of the libraries that are asked, beside all videos
TRIAL_COUNT = 6  # random libraries of each size for one question, with the right video and without it
ANSWER_COUNT = 10  # first answers that count: those that a person sees
# Strength of the Gaussian prior that pulls standardised weights to 0, where each question counts 1. With less, fewer
# than 0.8 of the answers called MATCH are right in cross-validation: the fit trusts 150 questions too much.
RIDGE = 2.0
NEWTON_STEPS = 50  # far more than a convex problem of eight numbers takes
FOLD_COUNT = 5  # of the cross-validation
BIN_COUNT = 10  # of confidences, for the calibration error
MIN_PICTURES = 4  # frames of a span from which a picture is taken: its quarter and its half are apart
INPUTS = tuple(each.name for each in fields(Evidence))


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedQuestion:
    """A question, and what each video says for itself."""

    question: Question
    generality: float  # see encoders.calibration.Evidence
    videos: tuple[WeighedVideo, ...]  # best first
    right: int | None  # row of the right video; None: no video answers


class Sample(NamedTuple):
    """One answer of one library."""

    evidence: Evidence
    is_right: bool
    weight: float  # those of one question add up to 1: its answers in many libraries are no new questions
    fold: int  # 0..FOLD_COUNT - 1; equal for all questions about one video
    size: int  # videos of the library


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceOutcome:
    """How well confidences are frequencies."""

    name: str
    count: int  # answers
    calibration_error: float  # mean distance of confidence and frequency, over bins of equal width
    match: float  # share of the answers called MATCH
    match_precision: float | None  # share of those that are right; None without a MATCH


def ask_questions(
    channel: VisualChannel, questions: Sequence[Question], videos: Sequence[Video], rows: dict[str, int]
) -> list[AskedQuestion]:
    """Weigh every video for every question. `rows` are those of the videos by file name."""
    asked = []
    for question in questions:
        vector = channel.encode_text(read_intent(question.text).text)
        asked.append(
            AskedQuestion(
                question=question,
                generality=channel.generality(vector),
                videos=tuple(channel.weigh_videos(VisualQuery.of_text(vector), videos)),
                right=None if question.file is None else rows[question.file],
            )
        )
    return asked


def draw_samples(asked: Sequence[AskedQuestion], kind: Kind, *, seed: int = 0) -> list[Sample]:
    """Ask each question of random libraries, with the right video and without it."""
    random = np.random.default_rng(seed)
    samples: list[Sample] = []
    for each in asked:
        sides = (True, False) if each.right is not None else (False,)
        settings = list(itertools.product((*LIBRARY_SIZES, len(each.videos)), sides, range(TRIAL_COUNT)))
        for size, has_right, _ in settings:
            samples += _ask_library(each, _draw_library(each, size, has_right, random), kind, 1 / len(settings))
    return samples


def _draw_library(
    asked: AskedQuestion, size: int, has_right: bool, random: np.random.Generator
) -> tuple[WeighedVideo, ...]:
    others = [n for n, each in enumerate(asked.videos) if each.video.row != asked.right]
    chosen = set(random.permutation(others)[: size - has_right].tolist())
    return tuple(
        each for n, each in enumerate(asked.videos) if n in chosen or (has_right and each.video.row == asked.right)
    )


def _ask_library(asked: AskedQuestion, library: Sequence[WeighedVideo], kind: Kind, weight: float) -> Iterator[Sample]:
    """Yield the first answers of a library, by their scores. They share a weight."""
    best = library[:JUDGED_COUNT]
    answers: list[tuple[float, Evidence, bool]] = []
    for video, (whole, parts) in zip(best, evidence_of(best, asked.generality, len(library)), strict=True):
        is_right_video = video.video.row == asked.right
        if kind == "video":
            answers.append((video.score, whole, is_right_video))
            continue
        for moment, score, evidence in zip(video.moments, video.moment_scores, parts, strict=True):
            is_right = is_right_video and _is_right(moment, asked.question)
            answers.append((score, evidence, is_right))
    answers.sort(key=lambda answer: -answer[0])
    name = asked.question.file or asked.question.text
    for _, evidence, is_right in answers[:ANSWER_COUNT]:
        yield Sample(
            evidence=evidence,
            is_right=is_right,
            weight=weight / min(len(answers), ANSWER_COUNT),
            fold=zlib.crc32(name.encode()) % FOLD_COUNT,
            size=len(library),
        )


def _is_right(moment: ScoredSpan, question: Question) -> bool:
    """Whether a moment of the right video overlaps a right span; of a question about a whole video, any moment does."""
    span = moment.span
    return not question.spans or any(
        span.start_seconds < right.end_seconds and span.end_seconds > right.start_seconds for right in question.spans
    )


def fit_samples(samples: Sequence[Sample]) -> Regression:
    """Fit a regression to samples."""
    inputs = np.array([[getattr(sample.evidence, name) for name in INPUTS] for sample in samples])
    is_right = np.array([sample.is_right for sample in samples])
    weights = fit_logistic(inputs, is_right, np.array([sample.weight for sample in samples]))
    rounded = [round(float(weight), 4) for weight in weights]
    return Regression(intercept=rounded[0], weights=Evidence(**dict(zip(INPUTS, rounded[1:], strict=True))))


def fit_logistic(inputs: Floats, is_right: NDArray[np.bool_], sample_weights: Floats) -> Floats:
    """Return intercept and weights, (1 + N,), of a ridge logistic regression on inputs (S, N).

    Newton's method on standardised inputs (iteratively reweighted least squares; C. Bishop, Pattern Recognition and
    Machine Learning, 4.3.3).
    """
    mean, spread = inputs.mean(axis=0), np.maximum(inputs.std(axis=0), 1e-9)
    design = np.concatenate([np.ones((len(inputs), 1)), (inputs - mean) / spread], axis=1)
    ridge = np.diag([1e-6, *np.full(inputs.shape[1], RIDGE)])
    found = np.zeros(design.shape[1])
    for _ in range(NEWTON_STEPS):
        chance = 1 / (1 + np.exp(-np.clip(design @ found, -30, 30)))
        slope = design.T @ (sample_weights * (is_right - chance)) - ridge @ found
        curvature = (design * (sample_weights * chance * (1 - chance))[:, None]).T @ design + ridge
        step = np.linalg.solve(curvature, slope)
        found += step
        if np.abs(step).max() < 1e-8:
            break
    weights = found[1:] / spread
    return np.concatenate([[found[0] - weights @ mean], weights])


def cross_validate(samples: Sequence[Sample]) -> list[float]:
    """Return the confidence of each sample, by a regression that was fitted to questions about other videos."""
    fitted = [fit_samples([sample for sample in samples if sample.fold != fold]) for fold in range(FOLD_COUNT)]
    return [fitted[sample.fold].confidence(sample.evidence) for sample in samples]


def measure_confidences(name: str, samples: Sequence[Sample], confidences: Sequence[float]) -> ConfidenceOutcome:
    """Measure confidences against what is right."""
    values, is_right = np.array(confidences), np.array([sample.is_right for sample in samples])
    bins = np.minimum((values * BIN_COUNT).astype(np.int64), BIN_COUNT - 1)
    distances = [
        (bins == each).mean() * abs(values[bins == each].mean() - is_right[bins == each].mean()) for each in set(bins)
    ]
    is_match = values >= MATCH_CONFIDENCE
    return ConfidenceOutcome(
        name=name,
        count=len(samples),
        calibration_error=float(sum(distances)),
        match=float(is_match.mean()),
        match_precision=float(is_right[is_match].mean()) if is_match.any() else None,
    )


def fit_pictures(
    frames: Sequence[tuple[str, Floats, NDArray[np.float32]]], questions: Sequence[Question]
) -> Scale | None:
    """Fit the scale of pictures as questions; None if no right span is long enough, or there is no other video.

    A frame from the first quarter of a right span is the question. Right is the best frame of the second half of the
    span; wrong is the best frame of each other video, as far as it is among the first answers.

    Args:
        frames: Of each video the file name, the times, (F,), and the vectors, (F, D).
        questions: About whole videos and moments.
    """
    by_name = {name: (times, vectors) for name, times, vectors in frames}
    cosines, is_right, weights = [], [], []
    for question in questions:
        times, vectors = by_name[question.file or ""]
        for start, end in {(span.start_seconds, span.end_seconds) for span in question.spans} or {(0.0, np.inf)}:
            inside = vectors[(times >= start) & (times < end)]
            if len(inside) < MIN_PICTURES or len(frames) == 1:
                continue
            picture = inside[len(inside) // 4]
            wrong = sorted(
                (float((other @ picture).max()) for name, (_, other) in by_name.items() if name != question.file),
                reverse=True,
            )[:ANSWER_COUNT]
            cosines += [float((inside[len(inside) // 2 :] @ picture).max()), *wrong]
            is_right += [True, *[False] * len(wrong)]
            weights += [1.0, *[1 / len(wrong)] * len(wrong)]
    if not cosines:
        return None
    fitted = fit_logistic(np.array(cosines)[:, None], np.array(is_right), np.array(weights))
    intercept, weight = fitted.tolist()
    return Scale(
        no_match_below=round((logit(WEAK_CONFIDENCE) - intercept) / weight, 3),
        match_above=round((logit(MATCH_CONFIDENCE) - intercept) / weight, 3),
    )
