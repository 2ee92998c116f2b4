"""Files of questions with known answers: both formats, and invalid files."""

import json
from pathlib import Path
from typing import Any

import pytest

from serve.errors import QuestionsInvalid
from serve.evaluate.questions import Question, Questions, read_all_questions, read_questions
from temporal.values import TimeSpan

MOMENT = {"file": "a.mp4", "query": "it jumps", "start_seconds": 1, "end_seconds": 2.5}


def question(text: str, **values: Any) -> Question:
    given = {"file": None, "spans": (), "channel": "visual", "half": "train", "thing": None}
    return Question(text=text, **{**given, **values})


def read(path: Path, text: str) -> Questions:
    path.write_text(text)
    return read_questions(path)


def test_reads_an_object_of_lists(tmp_path: Path) -> None:
    found = read(
        tmp_path / "q.json",
        json.dumps(
            {
                "videos": [{"file": "a.mp4", "caption": "a dog", "alt": "winter", "half": "report"}],
                "moments": [{**MOMENT, "channel": "speech"}],
                "absent": [{"query": "a volcano"}],
                "notes": "what else is there is not ours",
            },
            indent=1,
        ),
    )
    assert found.videos == (
        question("a dog", file="a.mp4", half="report"),
        question("winter", file="a.mp4", half="report"),
    )
    span = TimeSpan(start_seconds=1, end_seconds=2.5)
    assert found.moments == (question("it jumps", file="a.mp4", channel="speech", spans=(span,)),)
    assert found.absent == (question("a volcano"),)
    assert found.of("report").videos == found.videos
    assert found.of("report").absent == ()
    assert found.of(None) == found
    assert [one.is_held_out for one in found.videos + found.absent] == [True, True, False]


def test_reads_json_lines(tmp_path: Path) -> None:
    lines = [
        {"kind": "video", "file": "a.mp4", "query": "a dog"},
        {"kind": "moment", **MOMENT, "channel": "mixed"},
        {"kind": "absent", "query": "a volcano", "channel": "speech"},
    ]
    found = read(tmp_path / "q.jsonl", "\n\n".join(map(json.dumps, lines)))
    assert [one.text for one in found.videos] == ["a dog"]
    assert [one.channel for one in found.moments + found.absent] == ["mixed", "speech"]


def test_one_line_is_json_lines_too(tmp_path: Path) -> None:
    assert read(tmp_path / "q.jsonl", '{"kind": "absent", "query": "a volcano"}\n').absent == (question("a volcano"),)


def test_a_moment_may_have_several_right_spans_and_a_kind(tmp_path: Path) -> None:
    spans = [{"start_seconds": 1, "end_seconds": 2}, {"start_seconds": 7, "end_seconds": 9}]
    row = {"file": "a.mp4", "query": "it jumps", "spans": spans, "half": "spring"}
    found = read(tmp_path / "q.json", json.dumps({"moments": [{**row, "kind": "animal"}]}))
    jumps = tuple(TimeSpan(**span) for span in spans)
    expected = question("it jumps", file="a.mp4", spans=jumps, half="spring", thing="animal")
    assert found.moments == (expected,)
    assert found.moments[0].is_held_out
    assert read(tmp_path / "q.jsonl", json.dumps({"kind": "moment", **row, "thing": "animal"})).moments == (expected,)


def test_several_files_are_read_as_one(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"kind": "absent", "query": "a volcano"}')
    (tmp_path / "b.jsonl").write_text(json.dumps({"kind": "moment", **MOMENT, "half": "spring"}))
    found = read_all_questions([tmp_path / "a.jsonl", tmp_path / "b.jsonl"])
    assert (len(found.videos), len(found.moments), len(found.absent)) == (0, 1, 1)
    assert found.source == f"{tmp_path / 'a.jsonl'}, {tmp_path / 'b.jsonl'}"
    with pytest.raises(QuestionsInvalid, match="no question is of half 'report': there are spring, train"):
        found.of("report")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it holds no question"),
        ("{}", "it holds no question"),
        ("[]", "line 1 is not"),
        ("{", "line 1 is not"),
        ("[" * 100_000, "line 1 is not"),
        ('{"kind": "film", "query": "x"}', "line 1 is not"),
        ('{"videos": 3}', '"videos" is not a list'),
        ('{"videos": [3]}', "videos, row 1: "),
        ('{"videos": [{"file": "a"}]}', "videos, row 1: no 'query'"),
        ('{"videos": [{"caption": "a"}]}', "videos, row 1: no 'file'"),
        ('{"kind": "video", "file": 7, "query": "x"}', "line 1: file must be a text"),
        ('{"kind": "absent"}', "line 1: no 'query'"),
        ('{"kind": "absent", "query": " "}', "line 1: a query must be a text"),
        ('{"kind": "absent", "query": ["x"]}', "line 1: a query must be a text"),
        ('{"kind": "absent", "query": "x", "channel": "smell"}', "channel must be one of visual, speech, text, mixed"),
        ('{"kind": "absent", "query": "x", "half": []}', "half must be a text"),
        ('{"kind": "absent", "query": "x", "half": " "}', "half must be a text"),
        ('{"kind": "absent", "query": "x", "thing": "dog"}', "the kind of thing must be one of people, action, sport"),
        ('{"absent": [{"query": "x", "kind": ["people"]}]}', "the kind of thing must be one of people, action, sport"),
        (json.dumps({"moments": [{**MOMENT, "spans": []}]}), "give spans, or start_seconds and end_seconds, not both"),
        ('{"moments": [{"file": "a", "query": "x", "spans": []}]}', "spans must be a list of start_seconds and"),
        ('{"moments": [{"file": "a", "query": "x", "spans": [{"start_seconds": 3}]}]}', "row 1: no 'end_seconds'"),
        (json.dumps({"kind": "moment", **MOMENT, "end_seconds": 1}), "0 <= start_seconds < end_seconds"),
        (json.dumps({"kind": "moment", **MOMENT, "end_seconds": None}), "line 1: "),
        (json.dumps({"kind": "moment", **MOMENT, "end_seconds": float("inf")}), "0 <= start_seconds < end_seconds"),
    ],
)
def test_an_invalid_file_of_questions_is_named_with_the_reason(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(QuestionsInvalid) as caught:
        read(tmp_path / "q.json", text)
    assert str(caught.value).startswith(f"cannot use questions {tmp_path / 'q.json'}: ")
    assert message in str(caught.value)


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(QuestionsInvalid, match="No such file"):
        read_questions(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes(b'{"kind": "absent", "query": "\xe9"}')
    with pytest.raises(QuestionsInvalid, match="not UTF-8"):
        read_questions(tmp_path / "latin.json")
