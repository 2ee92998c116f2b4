"""`kinodex eval --predictions` as scripts use it: figures, tables, and errors in one line."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from serve.cli.main import cli


def evaluate(predictions: Path, truth: Path, *options: str) -> Result:
    return CliRunner().invoke(cli, ["eval", "--predictions", str(predictions), "--truth", str(truth), *options])


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def predicted(qid: int, *windows: list[float]) -> dict[str, object]:
    return {"qid": qid, "pred_relevant_windows": windows}


def true(qid: int, *windows: list[float]) -> dict[str, object]:
    return {"qid": qid, "relevant_windows": windows}


@pytest.mark.slow
def test_prints_the_published_figures(shared: Path) -> None:
    folder = shared / "eval" / "qvhighlights"
    result = evaluate(folder / "sample_val_preds.jsonl", folder / "highlight_val_release.jsonl", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    published = json.loads((folder / "sample_val_preds_metrics.json").read_text())["brief"]
    moments = {name: value for name, value in published.items() if name.startswith("MR-")}
    assert {name: found[name] for name in moments} == moments
    assert found["MR-full-n"] == 1550


def test_measures_lengths_and_absence(tmp_path: Path) -> None:
    truth = lines(tmp_path / "t.jsonl", true(1, [0, 5]), true(2, [10, 50]), true(3), true(4), "")
    given = lines(tmp_path / "p.jsonl", predicted(1, [0, 5, 0.9], [7, 9, 0.1]), predicted(3, [1, 2, 0.5]))
    result = evaluate(given, truth, "--json")
    found = json.loads(result.stdout)
    assert [found[f"MR-{part}-n"] for part in ("full", "long", "short")] == [2, 1, 1]
    assert [found[f"MR-{part}-R1@0.7"] for part in ("full", "long", "short")] == [50, 0, 100]
    assert [found[f"absent-{name}"] for name in ("precision", "recall", "F1", "n")] == [50, 50, 50, 2]
    table = evaluate(given, truth).stdout.splitlines()
    assert [line.split()[:2] for line in table[:4]] == [
        ["moments", "queries"], ["full", "2"], ["long", "1"], ["short", "1"],
    ]  # fmt: skip
    assert table[-1] == "2 absent: rejection precision 50.00, recall 50.00, F1 50.00"


@pytest.mark.parametrize(
    ("given", "truth", "message"),
    [
        ([predicted(2, [0, 1])], [true(1, [0, 1])], "qid 2 is not in"),
        ([predicted(1, [0, 1]), predicted(1, [0, 1])], [true(1, [0, 1])], "line 2: qid 1 occurs twice"),
        ([predicted(1, [3, 1])], [true(1, [0, 1])], "line 1: a window of qid 1"),
        ([predicted(1, [0, float("nan")])], [true(1, [0, 1])], "line 1: a window of qid 1"),
        (["{"], [true(1, [0, 1])], "line 1 is not"),
        (["[" * 100_000], [true(1, [0, 1])], "line 1 is not"),
        (["7"], [true(1, [0, 1])], "line 1 is not"),
        ([predicted(1, [0])], [true(1, [0, 1])], "line 1 is not"),
        ([], [true(1, [0, 1])], "the file is empty"),
        ([predicted(1, [0, 1])], [true(1)], "no query has a relevant window"),
    ],
)
def test_files_that_cannot_be_measured_give_one_error_line(
    given: list[object], truth: list[object], message: str, tmp_path: Path
) -> None:
    result = evaluate(lines(tmp_path / "p.jsonl", *given), lines(tmp_path / "t.jsonl", *truth))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("kinodex: error: cannot use ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    noise = tmp_path / "noise.jsonl"
    noise.write_bytes(b"\xff\xfe\x00")
    good = lines(tmp_path / "t.jsonl", true(1, [0, 1]))
    assert "noise.jsonl: not UTF-8" in evaluate(noise, good).stderr
    assert "gone.jsonl: No such file" in evaluate(tmp_path / "gone.jsonl", good).stderr
    assert "Is a directory" in evaluate(tmp_path, good).stderr
