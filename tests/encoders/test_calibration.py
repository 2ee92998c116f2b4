"""How similarities are read: thresholds, and the file that keeps them by encoder."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from encoders.calibration import GENERIC, Scale, calibration_from, read_calibrations, write_calibration


def test_confidence_meets_its_thresholds() -> None:
    scale = Scale(no_match_below=1.0, match_above=2.0)
    assert scale.confidence(1.0) == pytest.approx(0.3)
    assert scale.confidence(1.5) == pytest.approx(0.5)
    assert scale.confidence(2.0) == pytest.approx(0.7)


@pytest.mark.parametrize("z", [-1e9, 1e9])
def test_confidence_never_overflows(z: float) -> None:
    assert 0 <= Scale(no_match_below=1.0, match_above=2.0).confidence(z) <= 1


def test_a_file_keeps_the_calibrations_of_other_encoders(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    assert read_calibrations(path) == {}
    write_calibration(path, "aa", GENERIC)
    other = replace(GENERIC, templates=("{}",), video=Scale(no_match_below=0.5, match_above=3.0))
    write_calibration(path, "bb", other)
    assert read_calibrations(path) == {"aa": GENERIC, "bb": other}


@pytest.mark.parametrize(
    "change",
    [
        {"templates": []},
        {"templates": ["no place for the question"]},
        {"bank_share": 1.5},
        {"video_temperature": 0},
        {"video": {"no_match_below": 2, "match_above": 1}},
        {"video": {"no_match_below": 2}},
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
