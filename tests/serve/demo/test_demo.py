"""The demo's library with the real encoders: its questions are answered as `make demo` shows."""

import json
from pathlib import Path

import pytest

from serve.demo.__main__ import HERE
from serve.indexing.pipeline import index
from serve.search.library import Library
from serve.settings import Settings
from serve.values import Query, Verdict
from support.fakes import SilentProgress

pytestmark = pytest.mark.slow
KNOWN = json.loads((HERE / "questions.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    data = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")  # the built-in encoders, wherever this runs
        outcomes = list(index([str(HERE / "videos")], data, Settings(), progress=SilentProgress()))
        assert {outcome.status for outcome in outcomes} == {"indexed"}
        opened = Library.open(data, Settings())
        assert opened.encoders.space.visual == "mini"
    return opened


def is_answered(library: Library, question: dict[str, object]) -> bool:
    """Whether the first answer is of the right video and overlaps the right seconds."""
    best = library.moments(Query(text=str(question["query"]), limit=1)).moments[0]
    return (
        Path(best.uri).name == question["file"]
        and best.start_seconds < float(str(question["end_seconds"]))
        and best.end_seconds > float(str(question["start_seconds"]))
    )


@pytest.mark.parametrize(
    "question", [q for q in KNOWN["moments"] if q["channel"] == "speech"], ids=lambda q: q["query"]
)
def test_a_spoken_question_is_answered_with_the_right_second(library: Library, question: dict[str, object]) -> None:
    assert is_answered(library, question)


def test_most_visual_questions_are_answered(library: Library) -> None:
    asked = [question for question in KNOWN["moments"] if question["channel"] == "visual"]
    answered = [question["query"] for question in asked if is_answered(library, question)]
    assert len(answered) >= len(asked) * 2 / 3, f"only {answered}"


@pytest.mark.parametrize("question", KNOWN["absent"], ids=lambda q: q["query"])
def test_an_absent_event_is_no_match(library: Library, question: dict[str, object]) -> None:
    best = library.moments(Query(text=str(question["query"]), limit=1)).moments[0]
    assert best.verdict is not Verdict.MATCH
