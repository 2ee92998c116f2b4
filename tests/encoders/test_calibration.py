"""How similarities are read: thresholds, and the file that keeps them by encoder."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from encoders.calibration import (
    GENERIC,
    Evidence,
    Regression,
    Scale,
    calibration_from,
    logistic,
    logit,
    read_calibrations,
    weigh_own,
    write_calibration,
)


def test_confidence_meets_its_thresholds() -> None:
    scale = Scale(no_match_below=1.0, match_above=2.0)
    assert scale.confidence(1.0) == pytest.approx(0.3)
    assert scale.confidence(1.5) == pytest.approx(0.5)
    assert scale.confidence(2.0) == pytest.approx(0.7)


def test_a_regression_weighs_each_input() -> None:
    weights = Evidence(own=1, video=2, margin=4, lead=128, generality=8, log_frames=16, log_videos=32, is_alone=64)
    evidence = Evidence(
        own=0.1, video=0.1, margin=-0.1, lead=0.01, generality=0.1, log_frames=0.1, log_videos=-0.1, is_alone=0.0
    )
    expected = -1 + 0.1 + 0.2 - 0.4 + 1.28 + 0.8 + 1.6 - 3.2
    assert Regression(intercept=-1, weights=weights).confidence(evidence) == pytest.approx(logistic(expected))


def test_a_guess_weighs_only_the_own_frames() -> None:
    evidence = Evidence(own=3, video=9, margin=9, lead=9, generality=1, log_frames=9, log_videos=9, is_alone=1)
    assert weigh_own(half_at=3, slope=2).confidence(evidence) == pytest.approx(0.5)


@pytest.mark.parametrize("confidence", [1e-6, 0.3, 0.5, 0.99])
def test_logit_is_the_inverse_of_logistic(confidence: float) -> None:
    assert logistic(logit(confidence)) == pytest.approx(confidence)


@pytest.mark.parametrize("confidence", [0, 1])
def test_logit_is_finite(confidence: float) -> None:
    assert abs(logit(confidence)) < 21


@pytest.mark.parametrize("z", [-1e9, 1e9])
def test_confidence_never_overflows(z: float) -> None:
    assert 0 <= Scale(no_match_below=1.0, match_above=2.0).confidence(z) <= 1


def test_a_file_keeps_the_calibrations_of_other_encoders(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    assert read_calibrations(path) == {}
    write_calibration(path, "aa", GENERIC)
    other = replace(GENERIC, templates=("{}",), picture=Scale(no_match_below=0.5, match_above=0.9))
    write_calibration(path, "bb", other)
    assert read_calibrations(path) == {"aa": GENERIC, "bb": other}


@pytest.mark.parametrize(
    "change",
    [
        {"templates": []},
        {"templates": ["no place for the question"]},
        {"bank_share": 1.5},
        {"video_temperature": 0},
        {"picture": {"no_match_below": 2, "match_above": 1}},
        {"picture": {"no_match_below": 2}},
        {"video": {"no_match_below": 1, "match_above": 2}},  # of an older version
        {"moment": {"intercept": 0, "weights": {"own": 1}}},
        {"moment": {"intercept": "low", "weights": asdict(GENERIC.moment.weights)}},
        {"extra": 1},
    ],
)
def test_a_wrong_value_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"calibration|template|must be"):
        calibration_from({**asdict(GENERIC), **change})


@pytest.mark.parametrize("text", ["", "{", "[]", '{"aa": 3}'])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="calibration"):
        read_calibrations(path)


def test_the_file_is_plain_json(tmp_path: Path) -> None:
    write_calibration(tmp_path / "calibration.json", "aa", GENERIC)
    assert json.loads((tmp_path / "calibration.json").read_text())["aa"]["bank_share"] == GENERIC.bank_share
