"""Fits the confidence of text in pictures (serve.search.written) to questions with known answers, and measures it.

    python -m benchmarks.written QUESTIONS [QUESTIONS ...] --data LIBRARY

The questions are about moments and about absent events, as for `kinodex eval`; benchmarks/written_questions.json has
more about writing. The samples are the screens nearest to each question of the training half. A screen is right if it
overlaps the answer, whatever channel the answer is for. The program prints the weights, and by cross-validation, and on
the other halves, how many first screens are a MATCH and right.
"""

import argparse
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoders.calibration import MATCH_CONFIDENCE, logistic
from encoders.config import TextConfig
from serve.evaluate.confidence import FOLD_COUNT, fit_logistic
from serve.evaluate.questions import TRAINING_HALF, Question, read_all_questions
from serve.evaluate.reliability import Forecast, measure_reliability
from serve.search.engine import Engine
from serve.search.intent import read_intent
from serve.search.library import Library
from serve.search.written import INPUTS, Screen, written_evidence_of
from serve.settings import Settings

SCREEN_COUNT = 5  # first screens of a question that count
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One screen as the answer to one question."""

    question: Question
    rank: int  # among the question's screens, from 0
    inputs: tuple[float, ...]
    is_right: bool

    @property
    def fold(self) -> int:
        """Equal for all questions about one video."""
        return zlib.crc32((self.question.file or self.question.text).encode()) % FOLD_COUNT


def ask(engine: Engine, question: Question) -> list[Sample]:
    """Return the first screens that a search of the whole library finds."""
    intent = read_intent(question.text)
    assert engine.written is not None
    with engine.snapshot():
        screens = engine.written.find_screens(engine.sentences.encode([intent.written_text])[0], intent, None)
        names = {row: Path(video.uri).name for row, video in engine.videos.items()}

    def is_right(screen: Screen) -> bool:
        span = screen.span
        return names[screen.row] == question.file and any(
            span.start_seconds < right.end_seconds and right.start_seconds < span.end_seconds
            for right in question.spans
        )

    evidence = written_evidence_of(screens, intent)
    return [
        Sample(
            question=question,
            rank=rank,
            inputs=tuple(getattr(each, name) for name in INPUTS),
            is_right=is_right(screen),
        )
        for rank, (screen, each) in enumerate(zip(screens[:SCREEN_COUNT], evidence, strict=False))
    ]


def fit(samples: Sequence[Sample]) -> Floats:
    """Return intercept and weights, of questions as they come: a text is seldom the answer, unless one asks for it."""
    inputs, is_right = np.array([each.inputs for each in samples]), np.array([each.is_right for each in samples])
    return fit_logistic(inputs, is_right, np.ones(len(samples)))


def confidence(weights: Floats, sample: Sample) -> float:
    return logistic(float(weights[0] + weights[1:] @ np.array(sample.inputs)))


def report(name: str, samples: Sequence[Sample], confidences: Sequence[float]) -> None:
    """Print a line for the questions about writing, and one for the others."""
    for is_text in (True, False):
        chosen = [
            Forecast(confidence=value, is_right=each.is_right)
            for each, value in zip(samples, confidences, strict=True)
            if (each.question.thing == "text") == is_text and each.rank == 0
        ]
        measured = measure_reliability([[forecast] for forecast in chosen])
        matches = [forecast for forecast in chosen if forecast.confidence >= MATCH_CONFIDENCE]
        if measured is not None:
            print(
                f"{name}, {'writing' if is_text else 'others'}: of {len(chosen)} first screens"
                f" {sum(each.is_right for each in chosen)} are right; MATCHes right"
                f" {sum(each.is_right for each in matches)} of {len(matches)}; ECE {measured.error:.3f}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, required=True, help="folder of the library")
    args = parser.parse_args()
    questions = read_all_questions(args.questions)
    asked: dict[bool, list[Sample]] = {True: [], False: []}
    with Library.open(args.data, Settings(text=TextConfig(model="auto"))) as library:
        files = {Path(video.uri).name for video in library.videos()}
        for question in (*questions.moments, *questions.absent):
            if question.file is None or question.file in files:
                asked[question.half == TRAINING_HALF] += ask(library.engine, question)
    train, held_out = asked[True], asked[False]
    weights = fit(train)
    print(f"INTERCEPT = {weights[0]:.4f}")
    print(f"WEIGHTS = WrittenEvidence({', '.join(f'{n}={w:.4f}' for n, w in zip(INPUTS, weights[1:], strict=True))})")
    by_fold = [fit([each for each in train if each.fold != fold]) for fold in range(FOLD_COUNT)]
    report("cross-validation", train, [confidence(by_fold[each.fold], each) for each in train])
    report("train", train, [confidence(weights, each) for each in train])
    report("held out", held_out, [confidence(weights, each) for each in held_out])


if __name__ == "__main__":
    main()
