"""Questions about text in pictures: red pictures have a sign, green ones two lines."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from encoders.config import TextConfig
from encoders.values import Box, ReadLine, TextLine
from serve.codec.messages import moment_message, moment_value
from serve.indexing.pipeline import delete, index
from serve.search.intent import read_intent
from serve.search.library import Library
from serve.search.written import Screen, judge_screens, written_evidence_of
from serve.settings import Settings
from serve.values import MatchedText, Query
from support.fakes import SilentProgress, use_fakes, write_scenes
from temporal.values import TimeSpan

SETTINGS = Settings(workers=2, text=TextConfig(model="auto"))
BOX = Box(left=0.1, top=0.2, right=0.5, bottom=0.3)


class SignReader:
    def open_video(self) -> "SignReader":
        return self

    def read(self, pixels: NDArray[np.uint8]) -> Sequence[ReadLine]:
        colour = int(pixels[pixels.shape[0] // 2, pixels.shape[1] // 2].argmax())
        lines = [["No entry for lorries"], ["Fresh fish", "every Tuesday"], []][colour]
        below = replace(BOX, top=0.6, bottom=0.7)
        return [ReadLine(text=text, box=box, confidence=0.9) for text, box in zip(lines, (BOX, below), strict=False)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    films = folder / "films"
    films.mkdir()
    write_scenes(films / "street.mp4", [("blue", 10), ("red", 8), ("blue", 10)])
    write_scenes(films / "market.mp4", [("green", 20), ("blue", 6)])
    with pytest.MonkeyPatch.context() as patch:
        use_fakes(patch)
        patch.setattr("serve.indexing.run.load_reader", lambda config: SignReader())
        list(index([str(films)], folder / "data", SETTINGS, progress=SilentProgress()))
    return folder / "data"


@pytest.fixture
def library(data: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Library]:
    use_fakes(monkeypatch)
    with Library.open(data, SETTINGS) as opened:
        yield opened


@pytest.mark.parametrize(
    ("question", "film", "start", "line"),
    [
        ("the sign that says no entry for lorries", "street.mp4", 10.0, "No entry for lorries"),
        ('"fresh fish"', "market.mp4", 0.0, "Fresh fish"),
    ],
)
def test_a_question_finds_what_is_written(library: Library, question: str, film: str, start: float, line: str) -> None:
    for channel in ("text", "all"):
        best = library.moments(Query(text=question, channel=channel)).moments[0]  # type: ignore[arg-type]
        assert Path(best.uri).name == film
        assert best.start_seconds == start
        assert best.text_score is not None
        assert best.text_score > 0.5
        assert line in [each.text for each in best.matched_text]
        assert best.matched_text[0].box == (0.1, 0.2, 0.5, 0.3)
        assert moment_value(moment_message(best)).matched_text == best.matched_text


def test_words_of_one_question_may_stand_in_several_lines(library: Library) -> None:
    best = library.moments(Query(text="fish on Tuesdays", channel="text")).moments[0]
    assert [each.text for each in best.matched_text] == ["Fresh fish", "every Tuesday"]
    assert (best.matched_text[1].start_seconds, best.matched_text[1].end_seconds) == (0.0, 20.0)


def test_the_other_channels_find_no_text(library: Library) -> None:
    for channel in ("visual", "speech"):
        answer = library.moments(Query(text="the sign that says no entry for lorries", channel=channel))  # type: ignore[arg-type]
        assert all(moment.text_score is None and not moment.matched_text for moment in answer.moments)


def test_a_word_that_is_excluded_is_not_found(library: Library) -> None:
    answer = library.moments(Query(text="entry for lorries", exclude_text="lorries", channel="text"))
    assert all("lorries" not in line.text for moment in answer.moments for line in moment.matched_text)


def test_the_setting_none_searches_no_text_and_says_so(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)
    with Library.open(data, replace(SETTINGS, text=TextConfig(model="none"))) as library:
        answer = library.moments(Query(text="no entry", channel="text"))
        assert (answer.moments, answer.degraded_channels) == ((), ("text",))
        assert "text" not in library.moments(Query(text="no entry")).degraded_channels


def test_a_deleted_video_is_not_found_by_its_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)
    monkeypatch.setattr("serve.indexing.run.load_reader", lambda config: SignReader())
    film = write_scenes(tmp_path / "a.mp4", [("red", 8)])
    list(index([str(film)], tmp_path / "data", SETTINGS, progress=SilentProgress()))
    with Library.open(tmp_path / "data", SETTINGS) as library:
        [moment] = library.moments(Query(text="no entry", channel="text")).moments
        delete(tmp_path / "data", [moment.video_id])
        assert library.moments(Query(text="no entry", channel="text")).moments == ()


def screen(cosine: float, coverage: float) -> Screen:
    line = MatchedText(text="a line", box=(0, 0, 1, 1), start_seconds=1.0, end_seconds=4.0, confidence=0.9)
    own = TextLine(epoch=0, start_seconds=1.0, end_seconds=4.0, text=line.text, box=BOX, confidence=0.9)
    return Screen(
        row=1, line=own, span=TimeSpan(start_seconds=1.0, end_seconds=4.0), cosine=cosine, coverage=coverage,
        matched=(line,),
    )  # fmt: skip


def test_the_evidence_of_each_screen() -> None:
    asks, sight = read_intent("the slide that says closing date"), read_intent("a boy in a red jacket")
    [near] = written_evidence_of([screen(0.8, 1.0)], asks)
    assert (near.cosine, near.coverage, near.asks_for_text) == (0.8, 1.0, 1.0)
    assert written_evidence_of([screen(0.8, 1.0)], sight)[0].asks_for_text == 0.0
    assert judge_screens([], sight) == []


def test_every_word_of_a_question_for_writing_is_a_match_and_a_near_line_is_none() -> None:
    asks, sight = read_intent("the slide that says closing date"), read_intent("a boy in a red jacket")
    sure, _ = judge_screens([screen(0.8, 1.0), screen(0.2, 0.0)], asks)
    unsure, _ = judge_screens([screen(0.35, 0.0), screen(0.33, 0.0)], sight)
    assert sure >= 0.7
    assert unsure < 0.2
