"""The figures of `kinodex eval --queries`, computed from replies made by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from serve.cli.eval_tables import query_table
from serve.evaluate.figures import query_figures
from serve.evaluate.queries import JudgedAnswer, Measurement, Reply
from serve.evaluate.questions import Question
from serve.text import DASH
from serve.values import Moment, Verdict
from temporal.metrics import Localised
from temporal.values import TimeSpan

MOMENT = Moment(
    video_id="a",
    uri="/films/a.mp4",
    start_seconds=3,
    end_seconds=5,
    score=1.0,
    confidence=0.9,
    verdict=Verdict.MATCH,
    visual_score=0.3,
    speech_score=None,
    transcript="",
    matched_words=(),
    best_frame_seconds=4.0,
)
QUESTION = Question(
    text="a dog",
    file="a.mp4",
    spans=(TimeSpan(start_seconds=4, end_seconds=6),),
    channel="visual",
    half="train",
    thing="animal",
)
ABSENT = replace(QUESTION, text="a volcano", file=None, spans=(), thing=None)


def answer(confidence: float, *, is_right: bool = False, is_right_video: bool = False) -> JudgedAnswer:
    verdict = Verdict.MATCH if confidence >= 0.7 else Verdict.WEAK if confidence >= 0.3 else Verdict.NO_MATCH
    moment = replace(MOMENT, confidence=confidence, verdict=verdict)
    return JudgedAnswer(answer=moment, is_right_video=is_right_video or is_right, is_right=is_right)


def reply(question: Question, *answers: JudgedAnswer) -> Reply:
    spans = None
    if question.spans:
        spans = Localised(predicted=np.array([(3.0, 5.0)] * len(answers)).reshape(-1, 2), truth=np.array([(4.0, 6.0)]))
    return Reply(question=question, seconds=0.1, answers=answers, everywhere=spans, inside=spans)


def figures_of(moments: list[Reply], absent: list[Reply]) -> dict[str, Any]:
    return query_figures(
        Measurement(videos=(), moments=tuple(moments), absent=tuple(absent), missing={}, degraded_channels=())
    )


def test_counts_verdicts_and_right_answers() -> None:
    figures = figures_of(
        [
            reply(QUESTION, answer(0.9, is_right=True), answer(0.8)),
            reply(QUESTION, answer(0.8, is_right_video=True), answer(0.7, is_right=True)),
            reply(QUESTION, answer(0.4, is_right=True)),
            reply(QUESTION),
        ],
        [reply(ABSENT, answer(0.75)), reply(ABSENT, answer(0.2), answer(0.5)), reply(ABSENT)],
    )
    verdicts = figures["verdicts"]["visual"]
    assert (verdicts["present"], verdicts["absent"]) == (4, 3)
    first = verdicts["first"]
    assert [first[name] for name in ("n", "match", "right-video", "right", "precision")] == [5, 3, 2, 1, 33.33]
    assert first["precision-interval"][0] < 33.33 < first["precision-interval"][1]
    assert [verdicts["all"][name] for name in ("n", "match", "right", "precision")] == [8, 5, 2, 40]
    assert verdicts["right-first"] == {"MATCH": 1, "WEAK": 1, "NO_MATCH": 0}
    assert verdicts["absent-best"] == {"MATCH": 1, "WEAK": 1, "NO_MATCH": 1}


def test_calibration_counts_present_and_absent_questions_together() -> None:
    figures = figures_of(
        [reply(QUESTION, answer(0.95, is_right=True), answer(0.05)), reply(QUESTION, answer(0.95, is_right=True))],
        [reply(ABSENT, answer(0.95)), reply(ABSENT, answer(0.95))],
    )
    first = figures["reliability"]["visual"]["first"]
    assert (first["n"], first["right"], first["ECE"]) == (4, 2, 0.45)
    assert first["Brier"] == pytest.approx((2 * 0.05**2 + 2 * 0.95**2) / 4, abs=1e-4)
    assert first["bins"][9] == {"from": 0.9, "to": 1.0, "n": 4, "confidence": 0.95, "accuracy": 0.5}
    every = figures["reliability"]["visual"]["all"]
    assert (every["n"], every["questions"], every["bins"][0]["n"]) == (5, 4, 1)


def test_lists_the_wrong_answers_that_are_surest() -> None:
    spoken = replace(QUESTION, text="when is Paris mentioned?", channel="speech", half="report")
    figures = figures_of(
        [
            reply(QUESTION, answer(0.6)),
            reply(QUESTION, answer(1.0, is_right=True)),
            reply(spoken, answer(0.9, is_right_video=True)),
        ],
        [reply(ABSENT, answer(0.8))],
    )
    assert [wrong["query"] for wrong in figures["wrong"]] == ["when is Paris mentioned?", "a volcano", "a dog"]
    assert figures["wrong"][0]["answer"] == {
        "video_id": "a",
        "uri": "/films/a.mp4",
        "start_seconds": 3,
        "end_seconds": 5,
        "confidence": 0.9,
        "verdict": "MATCH",
        "is-right-video": True,
    }
    assert figures["wrong"][0]["right"] == {"file": "a.mp4", "spans": [{"start_seconds": 4, "end_seconds": 6}]}
    assert figures["wrong"][1]["right"] is None
    assert list(figures["halves"]) == ["report", "train"]
    assert figures["halves"]["report"]["verdicts"]["speech"]["first"]["match"] == 1


def test_the_table_says_what_is_wrong_and_what_is_right() -> None:
    figures = figures_of([], [reply(ABSENT, answer(0.8), answer(0.1))])
    table = query_table(figures)
    assert f"   80% MATCH     a volcano\n{'':18}answered a.mp4 0:03{DASH}0:05; nothing in the library is right" in table
    assert "MOMENTS" not in table  # nothing was asked about them
    [row] = [line.split() for line in table.splitlines() if line.startswith("train") and len(line.split()) == 5]
    assert row == ["train", "1", "1", "0", "0"]  # of one absent event, one has a MATCH
