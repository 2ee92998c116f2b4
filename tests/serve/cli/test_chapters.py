"""The command `kinodex chapters`: its formats, and what it says of videos with few chapters."""

import json
import sys
import types
from collections.abc import Sequence

import pytest
from click.testing import CliRunner, Result

from serve.cli.main import cli
from serve.text import DASH
from support.sample_answers import FakeLibrary, chapter
from temporal.values import Chapter, Highlight, Outline, TimeSpan

THREE = (chapter(0.0, 62.4, "the sea & <b>"), chapter(62.4, 80.0), chapter(80.0, 3723.9, "mountain"))

TWO = (
    Highlight(span=TimeSpan(start_seconds=3.0, end_seconds=9.5), best_frame_seconds=4.0, transcript="the\nsea"),
    Highlight(span=TimeSpan(start_seconds=70.0, end_seconds=80.0), best_frame_seconds=None, transcript=""),
)


def kinodex(monkeypatch: pytest.MonkeyPatch, chapters: Sequence[Chapter], *arguments: str) -> Result:
    class Library(FakeLibrary):
        parts = Outline(chapters=tuple(chapters), highlights=TWO)

    module = types.ModuleType("serve.search.library")
    module.Library = Library  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "serve.search.library", module)
    return CliRunner().invoke(cli, ["chapters", *arguments])


@pytest.mark.parametrize(
    ("wanted", "output"),
    [
        ("text", f"[0:00{DASH}1:03] the sea & <b>\n[1:02{DASH}1:20]\n[1:20{DASH}1:02:04] mountain\n"),
        ("youtube", f"0:00 the sea & <b>\n1:02 1:02{DASH}1:20\n1:20 mountain\n"),
        (
            "vtt",
            "WEBVTT\n\n00:00:00.000 --> 00:01:02.400\nthe sea &amp; &lt;b&gt;\n\n"
            f"00:01:02.400 --> 00:01:20.000\n1:02{DASH}1:20\n\n00:01:20.000 --> 01:02:03.900\nmountain\n",
        ),
    ],
)
def test_chapters_are_written_in_each_format(monkeypatch: pytest.MonkeyPatch, wanted: str, output: str) -> None:
    done = kinodex(monkeypatch, THREE, "3fa9", "--format", wanted)
    assert (done.exit_code, done.stdout, done.stderr) == (0, output, "")


def test_json_has_the_times_and_the_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    [first, *_] = (found := json.loads(kinodex(monkeypatch, THREE, "3fa9", "--format", "json").stdout))["chapters"]
    assert (found["video_id"], len(found["chapters"])) == ("3fa9c0ffee123456", 3)
    assert first == {"start_seconds": 0.0, "end_seconds": 62.4, "title": "the sea & <b>", "best_frame_seconds": 1.235}


@pytest.mark.parametrize(
    ("chapters", "problem"),
    [
        (THREE[:1], "it has 1 chapter, and needs 3"),
        (THREE[:2], "it has 2 chapters, and needs 3"),
        ((chapter(60, 90), *THREE[1:]), "the first must begin at 0:00, and this one begins at 1:00"),
    ],
)
def test_youtube_is_told_of_chapters_that_it_would_not_show(
    monkeypatch: pytest.MonkeyPatch, chapters: Sequence[Chapter], problem: str
) -> None:
    done = kinodex(monkeypatch, chapters, "3fa9", "--format", "youtube")
    assert done.stderr == f"kinodex: YouTube shows no chapters of a talk [part 1].mp4: {problem}\n"
    assert (done.exit_code, len(done.stdout.splitlines())) == (0, len(chapters))


def test_a_title_cannot_write_to_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    done = kinodex(monkeypatch, [chapter(0, 20, "a\x1b[31m\nb")], "3fa9")
    assert done.stdout.count("\n") == 1
    assert "\x1b" not in done.stdout


def test_an_unknown_video_is_one_error_line(monkeypatch: pytest.MonkeyPatch) -> None:
    done = kinodex(monkeypatch, THREE, "99")
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("kinodex: error: ")


def test_highlights_come_after_the_chapters(monkeypatch: pytest.MonkeyPatch) -> None:
    done = kinodex(monkeypatch, THREE[2:], "3fa9", "--highlights", "2")
    assert done.stdout == (f"[1:20{DASH}1:02:04] mountain\n\nHighlights\n[0:03{DASH}0:10] the sea\n[1:10{DASH}1:20]\n")
    [only] = json.loads(kinodex(monkeypatch, THREE, "3fa9", "--highlights", "1", "--format", "json").stdout)[
        "highlights"
    ]
    assert only == {"start_seconds": 3.0, "end_seconds": 9.5, "best_frame_seconds": 4.0, "transcript": "the\nsea"}


@pytest.mark.parametrize("arguments", [["--format", "vtt", "--highlights", "3"], ["--highlights", "101"]])
def test_highlights_that_cannot_be_given_are_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    done = kinodex(monkeypatch, THREE, "3fa9", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--highlights" in done.stderr
