"""Confidences fitted to planted answers."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from encoders.calibration import Evidence
from serve.evaluate.confidence import (
    TRIAL_COUNT,
    AskedQuestion,
    Sample,
    cross_validate,
    draw_samples,
    fit_logistic,
    fit_pictures,
    fit_samples,
    measure_confidences,
)
from serve.evaluate.questions import Question
from serve.search.evidence import WeighedVideo
from support.sample_answers import video
from temporal.values import ScoredSpan, TimeSpan

NOTHING = Evidence(own=0, video=0, margin=0, lead=0, generality=0, log_frames=0, log_videos=0, is_alone=0)


def question(file: str | None, *spans: tuple[float, float]) -> Question:
    return Question(
        text="a cup", file=file, spans=tuple(TimeSpan(start_seconds=a, end_seconds=b) for a, b in spans),
        channel="visual", half="train", thing=None,
    )  # fmt: skip


def weighed(row: int, score: float) -> WeighedVideo:
    """A video whose moments are 0..5 and 10..15 s."""
    moments = tuple(
        ScoredSpan(span=TimeSpan(start_seconds=at, end_seconds=at + 5), score=-at / 100, peak_seconds=at, peak=0.1)
        for at in (0.0, 10.0)
    )
    return WeighedVideo(
        video=video(row=row), score=score, moment_score=score, frame_count=20, z=score, moments=moments,
        own=(score, 0.0), pictures=np.zeros((2, 4), np.float32), likeness=(0.0, 0.0),
    )  # fmt: skip


def sample(own: float, is_right: bool, **changes: Any) -> Sample:
    values = {"weight": 1.0, "fold": 0, "size": 1, **changes}
    return Sample(evidence=replace(NOTHING, own=own), is_right=is_right, **values)


def test_a_fit_finds_the_frequencies_that_were_planted() -> None:
    random = np.random.default_rng(0)
    inputs = random.normal(size=(20_000, 2)) * [1, 5] + [3, 0]
    chance = 1 / (1 + np.exp(-(-4 + 1.5 * inputs[:, 0] + 0.2 * inputs[:, 1])))
    fitted = fit_logistic(inputs, random.random(20_000) < chance, np.ones(20_000))
    assert fitted == pytest.approx([-4, 1.5, 0.2], abs=0.2)


def test_a_fit_to_separable_samples_is_finite() -> None:
    fitted = fit_samples([sample(1.0, True), sample(-1.0, False)])
    assert 0.5 < fitted.confidence(replace(NOTHING, own=1.0)) < 0.9
    assert fitted.weights.video == 0


def test_a_question_is_asked_with_its_video_and_without_it() -> None:
    asked = AskedQuestion(
        question=question("a.mp4", (11, 14)), generality=0.1, videos=(weighed(1, 3.0), weighed(2, 1.0)), right=1
    )
    samples = draw_samples([asked], "moment")
    alone = [each for each in samples if each.size == 1 and each.evidence.own == 3.0]
    assert len(alone) == TRIAL_COUNT
    assert all(each.evidence.is_alone == 1 and not each.is_right for each in alone)  # overlaps no right span
    right = [each for each in samples if each.is_right]
    assert {each.evidence.video for each in right} == {3.0}
    assert {each.evidence.margin for each in right} == {0.0, 2.0}
    assert {each.evidence.own for each in right} == {0.0}
    assert sum(each.weight for each in samples) == pytest.approx(1)


def test_any_moment_of_the_right_video_answers_a_question_about_it() -> None:
    asked = AskedQuestion(question=question("a.mp4"), generality=0.1, videos=(weighed(1, 3.0),), right=1)
    assert all(each.is_right for each in draw_samples([asked], "moment"))
    assert all(each.is_right for each in draw_samples([asked], "video"))


def test_nothing_answers_an_absent_question() -> None:
    asked = AskedQuestion(
        question=question(None), generality=0.1, videos=(weighed(1, 3.0), weighed(2, 1.0)), right=None
    )
    assert not any(each.is_right for each in draw_samples([asked], "video"))


def test_cross_validation_judges_no_video_by_a_fit_that_knew_it() -> None:
    samples = [sample(1.0, True, fold=0), sample(1.0, False, fold=1), sample(1.0, False, fold=1)]
    confidences = cross_validate(samples)
    assert confidences[0] < 0.1
    assert confidences[1] == confidences[2] > 0.9


def test_reliability_is_the_distance_of_confidence_and_frequency() -> None:
    samples = [sample(0, is_right) for is_right in (True, True, True, False, False, False)]
    measured = measure_confidences("some", samples, [0.95, 0.95, 0.95, 0.95, 0.05, 0.05])
    assert measured.calibration_error == pytest.approx(4 / 6 * 0.2 + 2 / 6 * 0.05)
    assert (measured.count, measured.match, measured.match_precision) == (6, pytest.approx(4 / 6), 0.75)
    assert measure_confidences("none", samples, [0.1] * 6).match_precision is None


def test_the_scale_of_pictures_lies_between_other_videos_and_the_same_one() -> None:
    random = np.random.default_rng(0)
    frames = []
    for n in range(8):
        vectors = random.normal(size=(8, 64)) * 0.1 + random.normal(size=64)
        frames.append(
            (f"{n}.mp4", np.arange(8.0), (vectors / np.linalg.norm(vectors, axis=1)[:, None]).astype(np.float32))
        )
    scale = fit_pictures(frames, [question(f"{n}.mp4", (0, 8)) for n in range(8)])
    assert scale is not None
    assert 0.2 < scale.no_match_below < scale.match_above < 1


def test_no_scale_of_pictures_is_fitted_to_spans_of_a_frame_or_two() -> None:
    frames = [(f"{n}.mp4", np.arange(2.0), np.eye(2, dtype=np.float32)) for n in range(2)]
    assert fit_pictures(frames, [question("0.mp4")]) is None
