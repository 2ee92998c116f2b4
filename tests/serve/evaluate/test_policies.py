"""Moderation policies measured on labelled clips."""

import json
import wave
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from serve.cli.main import cli
from serve.errors import ClipsInvalid
from serve.evaluate.policies import Counts, count_matches, read_clips
from serve.indexing.pipeline import index
from serve.settings import Settings
from support.fakes import SilentProgress, use_fakes, write_scenes
from temporal.values import TimeSpan

SETTINGS = Settings(workers=1)
POLICIES: list[dict[str, Any]] = [
    {"id": "red", "label": "Red", "parents": ["Warm"], "shows": ["red"], "min_seconds": 1, "cooldown_seconds": 0,
     "collections": ["elsewhere"]},
    {"id": "green", "label": "Green", "shows": ["green"], "min_seconds": 1},
    {"id": "paris", "label": "Paris", "says": ["paris"]},
]  # fmt: skip
CLIPS = [
    {"file": "one.mp4", "label": "Red", "start_seconds": 2, "end_seconds": 5},
    {"file": "one.mp4", "label": "green", "start_seconds": 5},
    {"file": "two.mp4", "label": "Warm", "start_seconds": 7, "end_seconds": 9},  # and it is not there
    {"file": "two.mp4", "label": "paris", "start_seconds": 1, "end_seconds": 3},
    {"file": "three.mp4"},
    {"file": "sound.wav"},  # no pictures
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    films = [
        write_scenes(folder / "one.mp4", [("blue", 2), ("red", 3), ("green", 4)]),
        write_scenes(folder / "two.mp4", [("blue", 9)], tones=[(440, 1.0)]),
        write_scenes(folder / "three.mp4", [("red", 4), ("blue", 4)]),
        folder / "sound.wav",
    ]
    with wave.open(str(films[-1]), "wb") as sound:
        sound.setparams((1, 2, 16_000, 0, "NONE", ""))
        sound.writeframes(bytes(2 * 16_000 * 3))
    with pytest.MonkeyPatch.context() as patch:
        use_fakes(patch)
        list(index([str(film) for film in films], folder / "data", SETTINGS, progress=SilentProgress()))
    return folder / "data"


def run(data: Path, folder: Path, *options: str, clips: object = None) -> tuple[int, str, str]:
    (folder / "policies.yaml").write_text(json.dumps({"version": "1", "policies": POLICIES}))
    (folder / "clips.jsonl").write_text("\n".join(map(json.dumps, CLIPS if clips is None else clips)))  # type: ignore[arg-type]
    given = ["--policies", str(folder / "policies.yaml"), "--clips", str(folder / "clips.jsonl"), "--data", str(data)]
    result = CliRunner().invoke(cli, ["eval", *given, *options])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.slow
def test_events_are_counted_by_label(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)
    code, out, _ = run(data, tmp_path, "--json", "--plots", str(tmp_path / "plots"))
    assert code == 0
    red, green, paris, warm = json.loads(out)

    assert {key: red[key] for key in ("spans", "events", "precision", "recall")} == {
        "spans": 1, "events": 2, "precision": 0.5, "recall": 1,
    }  # fmt: skip
    assert (warm["policy_id"], warm["label"], warm["enter"], warm["suggested"]) == (None, "Warm", None, None)
    assert (warm["spans"], warm["events"], warm["precision"], warm["recall"]) == (2, 2, 0.5, 0.5)
    assert warm["F1"] == pytest.approx(0.5)
    assert (green["spans"], green["events"], green["precision"], green["recall"]) == (1, 1, 1, 1)
    assert green["suggested"] is None  # none is better than those in force
    assert (paris["precision"], paris["recall"], paris["suggested"]) == (1, 1, None)
    with Image.open(tmp_path / "plots" / "policies.png") as picture:
        assert picture.width > 500


@pytest.mark.slow
def test_a_table_is_printed(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)
    code, out, _ = run(data, tmp_path)
    rows = [line.split() for line in out.splitlines()]
    assert code == 0
    assert rows[0] == ["spans", "events", "precision", "recall", "F1", "enter", "leave"]
    assert rows[1] == ["red", "1", "2", "50", "100", "67", "0.7", "0.5"]
    assert rows[-1] == ["all", "of", "Warm", "2", "2", "50", "50", "50", "-", "-"]
    assert "better on these clips" not in out


def test_better_thresholds_are_suggested(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)
    for name in ("enter", "leave"):
        monkeypatch.setitem(POLICIES[1], name, 0)  # anything is green
    _, out, _ = run(data, tmp_path)
    rows = [line.split() for line in out.splitlines()]
    assert rows[2][:3] == ["green", "1", "3"]
    assert rows[3][:4] == ["better", "on", "these", "clips"]
    assert rows[3][8:] == ["100", "0.55", "0.275"]  # many do: those in the middle
    assert "try them on other clips before you use them" in out


def test_an_event_in_a_span_of_a_parent_label_is_ignored(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fakes(monkeypatch)
    clips = [
        {"file": "one.mp4", "label": "Warm", "start_seconds": 2, "end_seconds": 5},
        {"file": "three.mp4", "label": "red"},
    ]
    _, out, _ = run(data, tmp_path, "--json", clips=clips)
    red, *_, warm = json.loads(out)
    assert (red["spans"], red["events"], red["precision"], red["recall"]) == (1, 1, 1, 1)
    assert (warm["spans"], warm["events"], warm["F1"]) == (2, 2, 1)


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        ([], "the file holds no clip"),
        ([{"file": "one.mp4", "label": "Rad"}], "Rad is not the id, label or parent of a policy"),
        ([{"file": "none.mp4", "label": "Red"}], "none.mp4 is not in the library"),
        ([{"file": "one.mp4"}, {"label": "Red"}], "line 2: file and label must be texts"),
        ([{"file": "one.mp4", "lable": "Red"}], "line 1: must be an object of end_seconds, file"),
        ([{"file": "one.mp4", "start_seconds": 4, "end_seconds": 4}], "0 <= start_seconds < end_seconds, got 4 to 4"),
        ([{"file": "one.mp4", "start_seconds": "4"}], "must be numbers"),
    ],
)
def test_bad_clips_are_refused(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clips: object, message: str
) -> None:
    use_fakes(monkeypatch)
    code, _, error = run(data, tmp_path, clips=clips)
    assert code == 1
    assert message in error


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "clips").write_bytes(b"\xff\xfe")
    with pytest.raises(ClipsInvalid, match="cannot use clips"):
        read_clips(tmp_path / "clips")
    (tmp_path / "clips").write_text("{")
    with pytest.raises(ClipsInvalid, match="line 1: not JSON"):
        read_clips(tmp_path / "clips")


@pytest.mark.parametrize(
    "options", [["--policies", "x"], ["--clips", "x"], ["--policies", "x", "--clips", "y", "--queries", "z"]]
)
def test_options_that_do_not_go_together(options: list[str]) -> None:
    assert CliRunner().invoke(cli, ["eval", *options]).exit_code == 2


def test_events_and_spans_match_if_they_overlap() -> None:
    def span(start: float, end: float) -> TimeSpan:
        return TimeSpan(start_seconds=start, end_seconds=end)

    assert count_matches([span(0, 5), span(10, 12)], [span(4, 6), span(4, 5), span(12, 13)]) == Counts(
        span_count=2, found_count=1, event_count=3, right_count=2
    )
