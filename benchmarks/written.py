"""Fits the confidence of text in pictures (serve.search.written) to questions with known answers, and measures it.

    python -m benchmarks.written QUESTIONS [QUESTIONS ...] --data LIBRARY

The questions are about moments and about absent events, as for `kinodex eval`; benchmarks/written_questions.json has
more about writing. The samples are the screens nearest to each question of the training half. A screen is right if it
overlaps the answer, whatever channel the answer is for. The program prints the weights, and by cross-validation, and on
the other halves, how many first screens are a MATCH and right.
"""

from collections.abc import Sequence

import numpy as np

from benchmarks.answer_samples import Floats, Sample, make_samples, matrices, run
from encoders.calibration import MATCH_CONFIDENCE
from encoders.config import TextConfig
from serve.evaluate.confidence import fit_logistic
from serve.evaluate.questions import Question
from serve.evaluate.reliability import Forecast, measure_reliability
from serve.search.engine import Engine
from serve.search.intent import read_intent
from serve.search.written import INPUTS, WrittenEvidence, written_evidence_of
from serve.settings import Settings

SCREEN_COUNT = 5  # first screens of a question that count


def ask(engine: Engine, question: Question) -> list[Sample]:
    """Return the first screens that a search of the whole library finds."""
    intent = read_intent(question.text)
    assert engine.written is not None
    with engine.snapshot():
        screens = engine.written.find_screens(engine.sentences.encode([intent.written_text])[0], intent, None)
        evidence = written_evidence_of(screens, intent)
        return make_samples(engine, question, screens[:SCREEN_COUNT], evidence, INPUTS)


def fit(samples: Sequence[Sample]) -> Floats:
    """Return intercept and weights, of questions as they come: a text is seldom the answer, unless one asks for it."""
    return fit_logistic(*matrices(samples), np.ones(len(samples)))


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


if __name__ == "__main__":
    run(__doc__, Settings(text=TextConfig(model="auto")), ask, fit, report, WrittenEvidence, INPUTS)
