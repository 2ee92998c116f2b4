"""Calibration error and Brier score, beside scikit-learn's."""

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from serve.evaluate.reliability import BIN_COUNT, Forecast, measure_reliability, share_interval


def one_each(confidences: list[float], is_right: list[bool]) -> list[list[Forecast]]:
    return [[Forecast(confidence=c, is_right=r)] for c, r in zip(confidences, is_right, strict=True)]


def test_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    confidences = rng.random(300)
    is_right = rng.random(300) < confidences**2
    found = measure_reliability(one_each(confidences.tolist(), is_right.tolist()))
    assert found is not None
    accuracy, confidence = calibration_curve(is_right, confidences, n_bins=BIN_COUNT)
    assert [each.accuracy for each in found.bins] == pytest.approx(accuracy)
    assert [each.confidence for each in found.bins] == pytest.approx(confidence)
    counts = np.array([each.count for each in found.bins])
    assert found.error == pytest.approx(np.abs(accuracy - confidence) @ counts / 300)
    assert found.brier == pytest.approx(brier_score_loss(is_right, confidences))
    assert found.error_interval[0] < found.error < found.error_interval[1]
    assert found.brier_interval[0] < found.brier < found.brier_interval[1]
    assert found.chance_error < found.error / 2


def test_an_overconfident_answer_has_its_distance_as_error() -> None:
    found = measure_reliability(one_each([0.95] * 40, [True] * 10 + [False] * 30))
    assert found is not None
    assert (found.answer_count, found.right_count) == (40, 10)
    assert found.error == pytest.approx(0.7)
    assert [each.count for each in found.bins] == [0] * 9 + [40]
    assert found.bins[0].accuracy is found.bins[0].confidence is None


def test_certain_answers_stand_in_the_first_and_the_last_bin() -> None:
    found = measure_reliability(one_each([1.0, 0.0], [True, False]))
    assert found is not None
    assert (found.error, found.brier, found.chance_error) == (0, 0, 0)
    assert (found.bins[0].count, found.bins[-1].count) == (1, 1)


def test_few_true_confidences_have_an_error_by_chance() -> None:
    rng = np.random.default_rng(5)
    errors, chances = [], []
    for _ in range(50):
        confidences = rng.random(30)
        found = measure_reliability(one_each(confidences.tolist(), (rng.random(30) < confidences).tolist()))
        assert found is not None
        errors.append(found.error)
        chances.append(found.chance_error)
    assert np.mean(errors) == pytest.approx(np.mean(chances), abs=0.02)


def test_answers_of_one_question_are_sampled_together() -> None:
    alone = measure_reliability(one_each([0.8] * 40, [True, False] * 20))
    together = measure_reliability([one_each([0.8] * 10, [n % 2 == 0] * 10)[0] * 10 for n in range(4)])
    assert alone is not None
    assert together is not None
    assert (together.question_count, together.answer_count, together.error) == (4, 40, pytest.approx(alone.error))
    assert np.ptp(together.brier_interval) > 2 * np.ptp(alone.brier_interval)


def test_without_answers_there_is_no_figure() -> None:
    assert measure_reliability([[], []]) is None
    assert share_interval(0, 0) is None


@pytest.mark.parametrize(("right", "count"), [(24, 30), (0, 5), (9, 9), (1, 1)])
def test_the_interval_of_a_share_is_wilsons(right: int, count: int) -> None:
    expected = binomtest(right, count).proportion_ci(method="wilson")
    assert share_interval(right, count) == pytest.approx((expected.low, expected.high), abs=1e-6)
