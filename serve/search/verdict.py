"""Verdicts: turns the confidence of an answer into MATCH, WEAK or NO_MATCH."""

from encoders.calibration import MATCH_CONFIDENCE, WEAK_CONFIDENCE
from serve.values import Verdict


def verdict_of(confidence: float) -> Verdict:
    """Return the verdict on a confidence 0..1."""
    if confidence >= MATCH_CONFIDENCE:
        return Verdict.MATCH
    return Verdict.WEAK if confidence >= WEAK_CONFIDENCE else Verdict.NO_MATCH
