"""What a query looks for, as vectors and words."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve.search.intent import Intent, read_intent
from serve.search.ranking import Candidate
from serve.values import Query
from temporal.values import TimeSpan


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a query looks for, as vectors and words."""

    intent: Intent
    visual: NDArray[np.float32] | None  # None: not asked for, or nothing here can see
    speech: NDArray[np.float32] | None  # None: not asked for
    terms: Sequence[str] = ()
    excluded_visual: NDArray[np.float32] | None = None
    excluded_speech: NDArray[np.float32] | None = None
    excluded_terms: Sequence[str] = ()
    example: tuple[int, TimeSpan] | None = None  # video row and span of a "more like this" question


def intent_of(query: Query) -> Intent:
    """Read what a question is about; without words, a picture is seen, an example seen and heard."""
    if query.text.strip():
        return read_intent(query.text, query.channel)
    if query.like is None or query.channel == "visual":
        return Intent(text="", speech_text="", phrases=(), visual_weight=1.0, speech_weight=0.0)
    if query.channel == "speech":
        return Intent(text="", speech_text="", phrases=(), visual_weight=0.0, speech_weight=1.0)
    return Intent(text="", speech_text="", phrases=(), visual_weight=0.5, speech_weight=0.5)


def mixed(parts: Sequence[tuple[float, NDArray[np.float32] | None]]) -> NDArray[np.float32] | None:
    """Return float32 (D,), unit: between vectors, by weight; None where there is none."""
    there = [(weight, vector) for weight, vector in parts if vector is not None and weight > 0]
    if not there:
        return None
    if len(there) == 1:
        return there[0][1]
    total = np.sum([weight * vector for weight, vector in there], axis=0)
    return np.asarray(total / np.linalg.norm(total), np.float32)


def is_example(candidate: Candidate, target: Target) -> bool:
    """Whether a candidate is the very moment that others like it are looked for."""
    if target.example is None:
        return False
    row, span = target.example
    own = candidate.span
    return candidate.video.row == row and own.start_seconds < span.end_seconds and own.end_seconds > span.start_seconds
