"""Calibration on questions with known answers, with an encoder that knows only colours."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from encoders.calibration import read_calibrations
from encoders.errors import NoVisualEncoder
from serve.cli.main import cli
from serve.errors import DataDirectoryInvalid, QuestionsInvalid
from serve.evaluate.calibrate import choose_calibration
from serve.evaluate.questions import read_questions
from serve.indexing.pipeline import index
from serve.search.library import Library
from serve.settings import Settings
from serve.values import Query
from support.fakes import SilentProgress, use_fakes, write_scenes

SETTINGS = Settings(workers=2)
QUESTIONS: dict[str, Any] = {
    "videos": [
        {"file": "red.mp4", "caption": "all red", "alt": "red from end to end", "half": "train"},
        {"file": "green.mp4", "caption": "all green", "half": "report"},
        {"file": "nowhere.mp4", "caption": "all blue", "half": "train"},
    ],
    "moments": [
        {"file": "green.mp4", "query": "green", "start_seconds": 0, "end_seconds": 4, "channel": "visual"},
        {
            "file": "red.mp4",
            "query": "red",
            "start_seconds": 0,
            "end_seconds": 4,
            "channel": "visual",
            "half": "report",
        },
        {"file": "red.mp4", "query": "Paris", "start_seconds": 0, "end_seconds": 4, "channel": "speech"},
    ],
    "absent": [
        {"query": "yellow", "channel": "visual"},
        {"query": "a yellow sea", "channel": "visual", "half": "report"},
    ],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    films = [str(write_scenes(folder / f"{colour}.mp4", [(colour, 4)])) for colour in ("red", "green", "blue")]
    with pytest.MonkeyPatch.context() as patch:
        use_fakes(patch)
        list(index(films, folder / "data", SETTINGS, progress=SilentProgress()))
    return folder / "data"


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.json"
    path.write_text(json.dumps(QUESTIONS))
    return path


def test_only_questions_that_are_not_held_out_choose(
    data: Path, questions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fakes(monkeypatch)
    with Library.open(data, SETTINGS) as library:
        report = choose_calibration(library, read_questions(questions))
    assert report.fingerprint == "c0104"
    assert [(found.name, found.count) for found in report.chosen_on] == [("whole videos", 2), ("moments", 1)]
    assert [(found.name, found.count) for found in report.held_out] == [("whole videos", 1), ("moments", 1)]
    videos, moments = report.held_out
    assert videos.recall_at_1 == moments.recall_at_1 == 1
    assert videos.median_rank == 1
    names = ["one video", "libraries of all sizes", "3 videos"]
    for measured in (report.chosen_confidences, report.held_out_confidences):
        assert [found.name for found in measured] == [
            f"{kind}, {name}" for kind in ("moments", "whole videos") for name in names
        ]
    assert all(found.match_precision in (None, 1) for found in report.held_out_confidences)


def test_the_command_writes_what_the_library_then_reads(
    data: Path, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fakes(monkeypatch)
    more = tmp_path / "more.jsonl"
    more.write_text(json.dumps({"kind": "absent", "query": "a yellow car"}))
    (data / "calibration.json").write_text("{")  # of an older version, for instance: it is replaced, not read
    found = CliRunner().invoke(cli, ["calibrate", str(questions), str(more), "--data", str(data), "--json"])
    assert found.exit_code == 0, found.output
    chosen = json.loads(found.output)["calibration"]
    stored = read_calibrations(data / "calibration.json")["c0104"]
    assert stored.video_temperature == chosen["video_temperature"]
    with Library.open(data, SETTINGS) as library:
        library.search(Query(text="red", channel="visual"))
        assert library.engine.visual is not None
        assert library.engine.visual.calibration == stored
    (data / "calibration.json").write_text("{")
    with Library.open(data, SETTINGS) as library, pytest.raises(DataDirectoryInvalid, match=r"calibration\.json"):
        library.search(Query(text="red"))
    (data / "calibration.json").unlink()


def test_the_command_prints_a_table(
    data: Path, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fakes(monkeypatch)
    out = tmp_path / "mine.json"
    found = CliRunner().invoke(cli, ["calibrate", str(questions), "--data", str(data), "--out", str(out)])
    assert found.exit_code == 0, found.output
    assert "held out" in found.output
    assert "mine.json" in found.output.replace("\n", "")
    assert out.exists()
    assert not (data / "calibration.json").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"videos": [3], "moments": [], "absent": []}'])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "q.json").write_text(text)
    with pytest.raises(QuestionsInvalid, match=r"q\.json"):
        read_questions(tmp_path / "q.json")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(QuestionsInvalid, match=r"none\.json"):
        read_questions(tmp_path / "none.json")


def test_questions_about_other_videos_cannot_calibrate(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fakes(monkeypatch)
    (tmp_path / "q.json").write_text(json.dumps({**QUESTIONS, "videos": QUESTIONS["videos"][2:]}))
    with Library.open(data, SETTINGS) as library, pytest.raises(QuestionsInvalid, match="videos of this library"):
        choose_calibration(library, read_questions(tmp_path / "q.json"))


def test_a_library_without_a_visual_encoder_cannot_be_calibrated(
    tmp_path: Path, questions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fakes(monkeypatch, visual=False)
    film = str(write_scenes(tmp_path / "red.mp4", [("red", 2)]))
    list(index([film], tmp_path / "data", SETTINGS, progress=SilentProgress()))
    with Library.open(tmp_path / "data", SETTINGS) as library, pytest.raises(NoVisualEncoder):
        choose_calibration(library, read_questions(questions))
