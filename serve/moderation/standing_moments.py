"""Moments of standing queries: how surely a new utterance or screen answers a query, and the moment it makes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from encoders.values import Utterance
from serve.catalog.spelling import matches_term
from serve.catalog.text_lines import TextLineRow
from serve.event import event_id
from serve.search.ranking import combine_confidences
from serve.search.speech import Passage
from serve.search.spoken import judge_passages
from serve.search.target import Target
from serve.search.verdict import verdict_of
from serve.search.written import Screen, judge_screens, make_screen, terms_of_text
from serve.values import MatchedText, MatchedWord, Moment, Video
from temporal.values import TimeSpan


def judge_utterance(utterance: Utterance, vector: NDArray[np.float32], cosine: float, target: Target) -> float:
    """Return how surely an utterance answers a query, 0..1, as a search judges the only passage that it finds.

    An utterance has no lead, because nobody knows what is said later. Each term of the query counts the same, because
    nobody knows how rare it is.

    Args:
        utterance: It has a text.
        vector: Of the utterance, (D,), unit length.
        cosine: Of the utterance and the query.
        target: It asks for something that is said.
    """
    assert target.intent is not None
    terms = tuple(term for term in target.terms if matches_term(utterance.text, term, utterance.language))
    passage = Passage(
        row=0, positions=(0,), text=utterance.text, cosine=cosine, words=(), terms=terms, vector=vector,
        span=TimeSpan(start_seconds=utterance.start_seconds, end_seconds=utterance.end_seconds),
        coverage=len(terms) / max(1, len(target.terms)),
    )  # fmt: skip
    [confidence] = judge_passages([passage], target.intent)
    return combine_confidences(0.0, confidence, target.intent)


def judge_line(nearest: TextLineRow, rows: Sequence[TextLineRow], target: Target) -> tuple[float, Screen]:
    """Return how surely the screen of a new line answers a query, 0..1, and the screen; see judge_utterance().

    Args:
        nearest: The line.
        rows: All new lines of its video.
        target: It asks for text in pictures.
    """
    assert target.intent is not None
    assert target.written is not None
    screen = make_screen(nearest, rows, target.written, dict.fromkeys(terms_of_text(target.intent), 1.0))
    [confidence] = judge_screens([screen], target.intent)
    return combine_confidences(0.0, 0.0, target.intent, confidence), screen


def moment_of(
    video: Video,
    start_seconds: float,
    end_seconds: float,
    confidence: float,
    *,
    best_frame_seconds: float | None = None,
    transcript: str = "",
    words: tuple[MatchedWord, ...] = (),
    matched_text: tuple[MatchedText, ...] = (),
    is_written: bool = False,
) -> Moment:
    """Make a moment of a standing query: a visual one if it has a best frame, else a spoken or a written one."""
    is_seen = best_frame_seconds is not None
    return Moment(
        video_id=video.video_id,
        uri=video.uri,
        start_seconds=start_seconds,
        end_seconds=end_seconds,
        score=confidence,
        confidence=confidence,
        verdict=verdict_of(confidence),
        visual_score=confidence if is_seen else None,
        speech_score=None if is_seen or is_written else confidence,
        text_score=confidence if is_written else None,
        matched_text=matched_text,
        transcript=transcript,
        matched_words=words,
        best_frame_seconds=best_frame_seconds,
        final=video.is_final_until(end_seconds),
        collection=video.collection,
        recorded_time=video.recorded_at(start_seconds),
    )


def moment_id(moment: Moment, epoch: int, channel: str) -> str:
    """Return the id that all changes of one moment of a query share."""
    return event_id("", moment.collection, moment.video_id, epoch, channel, moment.start_seconds)
