"""What benchmarks/spoken.py and written.py share: answers of one channel to questions with known answers, as samples of
a logistic regression."""

import argparse
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoders.calibration import logistic
from serve.evaluate.confidence import FOLD_COUNT
from serve.evaluate.questions import TRAINING_HALF, Question, read_all_questions
from serve.search.engine import Engine
from serve.search.library import Library
from serve.settings import Settings

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One answer to one question."""

    question: Question
    rank: int  # among the question's answers, from 0
    inputs: tuple[float, ...]
    is_right: bool

    @property
    def fold(self) -> int:
        """Equal for all questions about one video."""
        return zlib.crc32((self.question.file or self.question.text).encode()) % FOLD_COUNT


def make_samples(
    engine: Engine, question: Question, answers: Sequence[Any], evidence: Sequence[Any], inputs: Sequence[str]
) -> list[Sample]:
    """Return a sample for each answer, best first: right is what overlaps a right span of the right video.

    Args:
        answers: Have the `row` of their video and a `span`.
        evidence: For each answer; more may follow.
        inputs: The names of the evidence.
    """
    names = {row: Path(video.uri).name for row, video in engine.videos.items()}

    def is_right(row: int, start_seconds: float, end_seconds: float) -> bool:
        return names[row] == question.file and any(
            start_seconds < right.end_seconds and right.start_seconds < end_seconds for right in question.spans
        )

    return [
        Sample(
            question=question,
            rank=rank,
            inputs=tuple(getattr(each, name) for name in inputs),
            is_right=is_right(answer.row, answer.span.start_seconds, answer.span.end_seconds),
        )
        for rank, (answer, each) in enumerate(zip(answers, evidence, strict=False))
    ]


def matrices(samples: Sequence[Sample]) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the inputs (S, N) of the samples, and whether each is right (S,)."""
    return np.array([each.inputs for each in samples]), np.array([each.is_right for each in samples])


def run(
    description: str | None,
    settings: Settings | None,
    ask: Callable[[Engine, Question], list[Sample]],
    fit: Callable[[Sequence[Sample]], Floats],
    report: Callable[[str, Sequence[Sample], Sequence[float]], None],
    evidence: type,
    inputs: Sequence[str],
) -> None:
    """Read the command line, ask the questions, fit the weights of `evidence`, print and measure them.

    Args:
        settings: Of the library; None: its own.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, required=True, help="folder of the library")
    args = parser.parse_args()
    questions = read_all_questions(args.questions)
    asked: dict[bool, list[Sample]] = {True: [], False: []}
    with Library.open(args.data, settings) as library:
        files = {Path(video.uri).name for video in library.videos()}
        for question in (*questions.moments, *questions.absent):
            if question.file is None or question.file in files:
                asked[question.half == TRAINING_HALF] += ask(library.engine, question)
    train, held_out = asked[True], asked[False]
    weights = fit(train)
    print(f"INTERCEPT = {weights[0]:.4f}")
    named = ", ".join(f"{name}={weight:.4f}" for name, weight in zip(inputs, weights[1:], strict=True))
    print(f"WEIGHTS = {evidence.__name__}({named})")
    by_fold = [fit([each for each in train if each.fold != fold]) for fold in range(FOLD_COUNT)]
    report("cross-validation", train, [confidence(by_fold[each.fold], each) for each in train])
    report("train", train, [confidence(weights, each) for each in train])
    report("held out", held_out, [confidence(weights, each) for each in held_out])


def confidence(weights: Floats, sample: Sample) -> float:
    """Return the confidence 0..1 of a sample by an intercept and weights."""
    return logistic(float(weights[0] + weights[1:] @ np.array(sample.inputs)))
