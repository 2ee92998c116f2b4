"""Reads files of questions with known answers, for `kinodex calibrate` and `kinodex eval`.

A file is one JSON object of three lists, or JSON lines that each have a "kind"; the help of the two commands shows
them. Of a whole video, a row may have several texts: "caption", "alt" and "query". A moment has "start_seconds" and
"end_seconds", or several right spans as "spans".

"file" names a video by its id, or by the last part of its URI. "channel" says which channel can find the answer: visual
(the default), speech, text, or mixed, which needs several. "half" names the part of the questions that a row belongs
to: "train" (the default) is for tuning, and questions of any other name only measure. "kind" says what sort of thing a
question is about; in JSON lines, where "kind" names the list, it is "thing".
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from serve.errors import QuestionsInvalid
from serve.values import Video, VideoStatus
from temporal.values import TimeSpan

CHANNELS = ("visual", "speech", "text", "mixed")
TRAINING_HALF = "train"  # the questions by which settings may be chosen
LISTS = {"video": "videos", "moment": "moments", "absent": "absent"}  # the kind of a JSON line -> its list
THINGS = ("people", "action", "sport", "animal", "object", "scene", "text", "animation", "speech")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question and its known answer."""

    text: str
    file: str | None  # of the right video; None: no video answers the question
    spans: tuple[TimeSpan, ...]  # the right moments, in any order; empty: the answer is a whole video, or there is none
    channel: str  # one of CHANNELS
    half: str  # the name of a part of the questions, such as "train" or "report"
    thing: str | None  # one of THINGS, what the question is about; None: the file does not say

    @property
    def is_held_out(self) -> bool:
        """Whether the question only measures, and no setting may be chosen by it."""
        return self.half != TRAINING_HALF


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """The questions of one or several files."""

    source: str  # paths of the files, for messages
    videos: tuple[Question, ...]
    moments: tuple[Question, ...]
    absent: tuple[Question, ...]

    def of(self, half: str | None) -> "Questions":
        """Return the questions of one half; None: all of them.

        Raises:
            QuestionsInvalid: If no question is of this half.
        """
        if half is None:
            return self
        groups = {
            name: tuple(question for question in getattr(self, name) if question.half == half)
            for name in LISTS.values()
        }
        if not any(groups.values()):
            halves = sorted({question.half for name in LISTS.values() for question in getattr(self, name)})
            raise QuestionsInvalid(self.source, f"no question is of half {half!r}: there are {', '.join(halves)}")
        return Questions(source=self.source, **groups)


def names_of(video: Video | VideoStatus) -> set[str]:
    """Return the names by which a file may mean a video: its id, and the last part of its URI."""
    return {video.video_id, PurePosixPath(video.uri).name}


def read_all_questions(paths: Sequence[Path]) -> Questions:
    """Read several files of questions as one.

    Raises:
        QuestionsInvalid: If a file cannot be read, has another format, or holds no question.
    """
    files = [read_questions(path) for path in paths]
    return Questions(
        source=", ".join(each.source for each in files),
        videos=tuple(question for each in files for question in each.videos),
        moments=tuple(question for each in files for question in each.moments),
        absent=tuple(question for each in files for question in each.absent),
    )


def read_questions(path: Path) -> Questions:
    """Read a file of questions.

    Raises:
        QuestionsInvalid: If it cannot be read, has another format, or holds no question.
    """
    questions: dict[str, list[Question]] = {name: [] for name in LISTS.values()}
    try:
        for kind, row, where in _read_rows(path.read_text(encoding="utf-8"), path):
            try:
                questions[kind].extend(_make_questions(kind, row))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                reason = f"no {error}" if isinstance(error, KeyError) else str(error)
                raise QuestionsInvalid(str(path), f"{where}: {reason}") from error
    except OSError as error:
        raise QuestionsInvalid(str(path), error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise QuestionsInvalid(str(path), "not UTF-8 text") from error
    if not any(questions.values()):
        raise QuestionsInvalid(str(path), "it holds no question")
    return Questions(source=str(path), **{kind: tuple(group) for kind, group in questions.items()})


def _read_rows(text: str, path: Path) -> Iterator[tuple[str, Any, str]]:
    """Yield each row: the list it belongs to, its JSON value, and its place in the file, for messages."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        whole = None
    if isinstance(whole, dict) and "kind" not in whole:
        for name in LISTS.values():
            rows = whole.get(name, [])
            if not isinstance(rows, list):
                raise QuestionsInvalid(str(path), f'"{name}" is not a list')
            for number, row in enumerate(rows, 1):
                yield name, row, f"{name}, row {number}"
        return
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield *_parse_row(line, number, path), f"line {number}"


def _parse_row(line: str, number: int, path: Path) -> tuple[str, Any]:
    try:
        row = json.loads(line)
        return LISTS[row["kind"]], {**row, "kind": row.get("thing")}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise QuestionsInvalid(
            str(path), f'line {number} is not {{"kind": "video|moment|absent", "query": …, "file": …}}'
        ) from error


def _make_questions(kind: str, row: Mapping[str, Any]) -> Iterator[Question]:
    """Yield the questions of one row: one for each text that a row of "videos" may have, otherwise one."""
    channel, half, thing = row.get("channel", "visual"), row.get("half", TRAINING_HALF), row.get("kind")
    if channel not in CHANNELS:
        raise ValueError(f"channel must be one of {', '.join(CHANNELS)}, got {channel!r}")
    if not isinstance(half, str) or not half.strip():
        raise ValueError(f"half must be a text, got {half!r}")
    if thing is not None and thing not in THINGS:
        raise ValueError(f"the kind of thing must be one of {', '.join(THINGS)}, got {thing!r}")
    file = None if kind == "absent" else row["file"]
    if file is not None and not isinstance(file, str):
        raise ValueError(f"file must be a text, got {file!r}")
    spans = _parse_spans(row) if kind == "moments" else ()
    texts = [row[name] for name in ("caption", "alt", "query") if row.get(name)] if kind == "videos" else [row["query"]]
    if not texts:
        raise KeyError("query")
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"a query must be a text, got {text!r}")
        yield Question(text=text, file=file, spans=spans, channel=channel, half=half, thing=thing)


def _parse_spans(row: Mapping[str, Any]) -> tuple[TimeSpan, ...]:
    """Read the right spans of a moment: those of "spans", or its only one."""
    if "spans" in row and "start_seconds" in row:
        raise ValueError("give spans, or start_seconds and end_seconds, not both")
    parts = row.get("spans", [row])
    if not isinstance(parts, list) or not parts:
        raise ValueError(f"spans must be a list of start_seconds and end_seconds, got {parts!r}")
    spans = []
    for part in parts:
        start, end = float(part["start_seconds"]), float(part["end_seconds"])
        if not 0 <= start < end < math.inf:
            raise ValueError(f"must be 0 <= start_seconds < end_seconds, got {start:g} and {end:g}")
        spans.append(TimeSpan(start_seconds=start, end_seconds=end))
    return tuple(spans)
