"""The questions of `questions.json`: ours, about the development videos, beside those of ../shared/videos/queries.json.

A row of "moments" has one span, or several right ones in "spans". "kind" says what a question asks for. A video's half
is the one that queries.json gives it, since questions of one video must not stand in both.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from serve.evaluate.questions import THINGS, read_questions

PATH = Path(__file__).with_name("questions.json")
QUESTIONS = json.loads(PATH.read_text(encoding="utf-8"))
VIDEOS, MOMENTS, ABSENT = (QUESTIONS[name] for name in ("videos", "moments", "absent"))
SEEN_KINDS = set(THINGS) - {"speech"}
SPAN_KEYS = {"start_seconds", "end_seconds"}
CUT_SECONDS = {"simpl__video.webm": 13.9}  # files that end before the duration of their header


def spans_of(moment: dict[str, Any]) -> list[dict[str, float]]:
    return moment["spans"] if "spans" in moment else [{name: moment[name] for name in SPAN_KEYS}]


@pytest.fixture(scope="module")
def given(shared: Path) -> dict[str, Any]:
    return json.loads((shared / "videos" / "queries.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def test_kinodex_reads_them() -> None:
    read = read_questions(PATH)
    assert (len(read.videos), len(read.moments), len(read.absent)) == (len(VIDEOS), len(MOMENTS), len(ABSENT))
    assert sum(len(question.spans) for question in read.moments) == sum(len(spans_of(row)) for row in MOMENTS)


def test_every_row_has_the_fields_of_its_list() -> None:
    for row in VIDEOS:
        assert row.keys() == {"file", "query", "half"}, row
    for row in MOMENTS:
        assert row.keys() - SPAN_KEYS - {"spans"} == {"file", "query", "channel", "kind", "half"}, row
        assert ("spans" in row) != (row.keys() >= SPAN_KEYS), row
    for row in ABSENT:
        assert row.keys() == {"query", "channel", "kind", "half"}, row
    for row in VIDEOS + MOMENTS + ABSENT:
        assert row["half"] in {"train", "report"}, row


def test_the_kind_says_the_channel() -> None:
    for row in MOMENTS + ABSENT:
        assert row["kind"] in THINGS, row
        assert row["channel"] == ("speech" if row["kind"] == "speech" else "visual"), row


def test_spans_are_in_order_and_apart() -> None:
    for row in MOMENTS:
        spans = spans_of(row)
        assert len(spans) > 1 or "spans" not in row, row
        last = -1.0
        for span in spans:
            assert span.keys() == SPAN_KEYS, row
            assert 0 <= span["start_seconds"] < span["end_seconds"], row
            assert span["start_seconds"] > last, row
            last = span["end_seconds"]


def test_no_question_comes_twice() -> None:
    counts = Counter(row["query"].casefold() for row in VIDEOS + MOMENTS + ABSENT)
    assert [query for query, count in counts.items() if count > 1] == []


def test_there_are_enough_of_each_kind_and_half() -> None:
    seen = Counter(row["kind"] for row in MOMENTS if row["channel"] == "visual")
    assert min(seen[kind] for kind in SEEN_KINDS) >= 10, seen
    halves = Counter((row["channel"], row["half"]) for row in MOMENTS)
    assert min(halves.values()) >= 25, halves
    absent = Counter((row["channel"], row["half"]) for row in ABSENT)
    assert sum(absent.values()) >= 50
    assert min(absent.values()) >= 7, absent


def test_halves_are_those_of_the_videos(given: dict[str, Any]) -> None:
    halves = {video["file"]: video["half"] for video in given["videos"]}
    assert [row for row in VIDEOS + MOMENTS if row["half"] != halves[row["file"]]] == []


def test_spans_lie_inside_their_videos(given: dict[str, Any]) -> None:
    durations = {video["file"]: video["duration_seconds"] for video in given["videos"]} | CUT_SECONDS
    for row in MOMENTS:
        duration = durations[row["file"]]
        if duration is not None:  # unknown for files without one in their header
            assert spans_of(row)[-1]["end_seconds"] <= duration + 0.2, row


def test_no_question_is_one_of_those_given(given: dict[str, Any]) -> None:
    taken = {row["query"].casefold() for row in given["moments"] + given["absent"]}
    taken |= {row[name].casefold() for row in given["videos"] for name in ("caption", "alt")}
    assert [row["query"] for row in VIDEOS + MOMENTS + ABSENT if row["query"].casefold() in taken] == []
