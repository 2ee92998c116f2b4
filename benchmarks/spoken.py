"""Fits the confidence of spoken answers (serve.search.spoken) to questions with known answers, and measures it.

    python -m benchmarks.spoken QUESTIONS [QUESTIONS ...] --data LIBRARY

The questions are about moments and about absent events, of sights and of words, as for `kinodex eval`. The samples are
the passages nearest to each question of the training half. The program prints the weights, and by cross-validation, and
on the other halves, how many first passages are a MATCH and right.
"""

import argparse
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoders.calibration import MATCH_CONFIDENCE, logistic
from serve.evaluate.confidence import FOLD_COUNT, fit_logistic
from serve.evaluate.questions import TRAINING_HALF, Question, read_all_questions
from serve.evaluate.reliability import Forecast, measure_reliability
from serve.search.engine import Engine
from serve.search.intent import read_intent
from serve.search.library import Library
from serve.search.speech import Passage, terms_of
from serve.search.spoken import INPUTS, spoken_evidence_of

PASSAGE_COUNT = 10  # first passages of a question that count
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One passage as the answer to one question."""

    question: Question
    rank: int  # among the question's passages, from 0
    inputs: tuple[float, ...]
    is_right: bool

    @property
    def fold(self) -> int:
        """Equal for all questions about one video."""
        return zlib.crc32((self.question.file or self.question.text).encode()) % FOLD_COUNT


def ask(engine: Engine, question: Question) -> list[Sample]:
    """Return the first passages that a search of the whole library finds."""
    intent = read_intent(question.text)
    with engine.snapshot():
        words = engine.speech.find_words(terms_of(intent), None)
        vector = engine.speech.encode_question(question.text, intent)
        passages = sorted(engine.speech.find_passages(vector, words, None, intent), key=lambda each: -each.score)
        names = {row: Path(video.uri).name for row, video in engine.videos.items()}

    def is_right(passage: Passage) -> bool:
        span = passage.span
        return names[passage.row] == question.file and any(
            span.start_seconds < right.end_seconds and right.start_seconds < span.end_seconds
            for right in question.spans
        )

    evidence = spoken_evidence_of(passages, intent)
    return [
        Sample(
            question=question,
            rank=rank,
            inputs=tuple(getattr(each, name) for name in INPUTS),
            is_right=is_right(passage),
        )
        for rank, (passage, each) in enumerate(zip(passages[:PASSAGE_COUNT], evidence, strict=False))
    ]


def fit(samples: Sequence[Sample]) -> Floats:
    """Return intercept and weights. Questions of words and of sights together weigh the same, though these are more."""
    is_spoken = np.array([sample.question.channel == "speech" for sample in samples])
    weights = np.where(is_spoken, (~is_spoken).sum() / max(is_spoken.sum(), 1), 1.0)
    inputs, is_right = np.array([each.inputs for each in samples]), np.array([each.is_right for each in samples])
    return fit_logistic(inputs, is_right, weights)


def confidence(weights: Floats, sample: Sample) -> float:
    return logistic(float(weights[0] + weights[1:] @ np.array(sample.inputs)))


def report(name: str, samples: Sequence[Sample], confidences: Sequence[float]) -> None:
    """Print a line for the questions of each channel."""
    for channel in ("speech", "visual"):
        chosen = [
            (each.rank, Forecast(confidence=value, is_right=each.is_right))
            for each, value in zip(samples, confidences, strict=True)
            if each.question.channel == channel
        ]
        first = [forecast for rank, forecast in chosen if rank == 0]
        measured = measure_reliability([[forecast] for forecast in first])
        matches = [forecast for forecast in first if forecast.confidence >= MATCH_CONFIDENCE]
        lower = [forecast for rank, forecast in chosen if rank and forecast.confidence >= MATCH_CONFIDENCE]
        if measured is not None:
            print(
                f"{name}, {channel}: of {len(first)} first passages {sum(each.is_right for each in first)} are right; "
                f"MATCHes right {sum(each.is_right for each in matches)} of {len(matches)}, "
                f"of lower passages {sum(each.is_right for each in lower)} of {len(lower)}; ECE {measured.error:.3f}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, required=True, help="folder of the library")
    args = parser.parse_args()
    questions = read_all_questions(args.questions)
    asked: dict[bool, list[Sample]] = {True: [], False: []}
    with Library.open(args.data) as library:
        files = {Path(video.uri).name for video in library.videos()}
        for question in (*questions.moments, *questions.absent):
            if question.file is None or question.file in files:
                asked[question.half == TRAINING_HALF] += ask(library.engine, question)
    train, held_out = asked[True], asked[False]
    weights = fit(train)
    print(f"INTERCEPT = {weights[0]:.4f}")
    print(f"WEIGHTS = SpokenEvidence({', '.join(f'{n}={w:.4f}' for n, w in zip(INPUTS, weights[1:], strict=True))})")
    by_fold = [fit([each for each in train if each.fold != fold]) for fold in range(FOLD_COUNT)]
    report("cross-validation", train, [confidence(by_fold[each.fold], each) for each in train])
    report("train", train, [confidence(weights, each) for each in train])
    report("held out", held_out, [confidence(weights, each) for each in held_out])


if __name__ == "__main__":
    main()
