"""Fits the confidence of spoken answers (serve.search.spoken) to questions with known answers, and measures it.

    python -m benchmarks.spoken QUESTIONS [QUESTIONS ...] --data LIBRARY

The questions are about moments and about absent events, of sights and of words, as for `kinodex eval`. The samples are
the passages nearest to each question of the training half. The program prints the weights, and by cross-validation, and
on the other halves, how many first passages are a MATCH and right.
"""

from collections.abc import Sequence

import numpy as np

from benchmarks.answer_samples import Floats, Sample, make_samples, matrices, run
from encoders.calibration import MATCH_CONFIDENCE
from serve.evaluate.confidence import fit_logistic
from serve.evaluate.questions import Question
from serve.evaluate.reliability import Forecast, measure_reliability
from serve.search.engine import Engine
from serve.search.intent import read_intent
from serve.search.speech import terms_of
from serve.search.spoken import INPUTS, SpokenEvidence, spoken_evidence_of

PASSAGE_COUNT = 10  # first passages of a question that count


def ask(engine: Engine, question: Question) -> list[Sample]:
    """Return the first passages that a search of the whole library finds."""
    intent = read_intent(question.text)
    with engine.snapshot():
        words = engine.speech.find_words(terms_of(intent), None)
        vector = engine.speech.encode_question(question.text, intent)
        passages = sorted(engine.speech.find_passages(vector, words, None, intent), key=lambda each: -each.score)
        evidence = spoken_evidence_of(passages, intent)
        return make_samples(engine, question, passages[:PASSAGE_COUNT], evidence, INPUTS)


def fit(samples: Sequence[Sample]) -> Floats:
    """Return intercept and weights. Questions of words and of sights together weigh the same, though these are more."""
    is_spoken = np.array([sample.question.channel == "speech" for sample in samples])
    weights = np.where(is_spoken, (~is_spoken).sum() / max(is_spoken.sum(), 1), 1.0)
    return fit_logistic(*matrices(samples), weights)


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


if __name__ == "__main__":
    run(__doc__, None, ask, fit, report, SpokenEvidence, INPUTS)
