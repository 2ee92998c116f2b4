"""Reads files of questions with known answers, for `kinodex calibrate` and `kinodex eval`.

A file is one JSON object of three lists, or JSON lines that each have a "kind"; the help of the two commands shows
them. Of a whole video, a row may have several texts: "caption", "alt" and "query".

"file" names a video by its id, or by the last part of its URI. "channel" says which channel can find the answer: visual
(the default), speech, or mixed, which needs both. "half" may be "train" (the default), for tuning, or "report".
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from serve.errors import QuestionsInvalid
from serve.values import Video, VideoStatus
from temporal.values import TimeSpan

Half = Literal["train", "report"]
CHANNELS = ("visual", "speech", "mixed")
HALVES = ("train", "report")
KINDS = {"video": "videos", "moment": "moments", "absent": "absent"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question and its known answer."""

    text: str
    file: str | None  # of the right video; None: no video answers the question
    span: TimeSpan | None  # of the right moment; None: the answer is a whole video, or there is none
    channel: str  # one of CHANNELS
    half: str  # one of HALVES

    @property
    def is_held_out(self) -> bool:
        """Whether the question only measures, and no setting may be chosen by it."""
        return self.half == "report"


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """The questions of one file."""

    source: str  # path of the file, for messages
    videos: tuple[Question, ...]
    moments: tuple[Question, ...]
    absent: tuple[Question, ...]

    def of(self, half: Half | None) -> "Questions":
        """Return the questions of one half; None: all of them."""
        return Questions(
            source=self.source,
            videos=tuple(question for question in self.videos if half in (None, question.half)),
            moments=tuple(question for question in self.moments if half in (None, question.half)),
            absent=tuple(question for question in self.absent if half in (None, question.half)),
        )


def names_of(video: Video | VideoStatus) -> set[str]:
    """Return the names by which a file may mean a video: its id, and the last part of its URI."""
    return {video.video_id, PurePosixPath(video.uri).name}


def read_questions(path: Path) -> Questions:
    """Read a file of questions.

    Raises:
        QuestionsInvalid: If it cannot be read, has another format, or holds no question.
    """
    questions: dict[str, list[Question]] = {name: [] for name in KINDS.values()}
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
        for name in KINDS.values():
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
        return KINDS[row["kind"]], row
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise QuestionsInvalid(
            str(path), f'line {number} is not {{"kind": "video|moment|absent", "query": …, "file": …}}'
        ) from error


def _make_questions(kind: str, row: Mapping[str, Any]) -> Iterator[Question]:
    """Yield the questions of one row: one for each text that a row of "videos" may have, otherwise one."""
    channel, half = row.get("channel", "visual"), row.get("half", "train")
    for value, choices, name in ((channel, CHANNELS, "channel"), (half, HALVES, "half")):
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    file = None if kind == "absent" else row["file"]
    if file is not None and not isinstance(file, str):
        raise ValueError(f"file must be a text, got {file!r}")
    span = None
    if kind == "moments":
        start, end = float(row["start_seconds"]), float(row["end_seconds"])
        if not 0 <= start < end < math.inf:
            raise ValueError(f"must be 0 <= start_seconds < end_seconds, got {start:g} and {end:g}")
        span = TimeSpan(start_seconds=start, end_seconds=end)
    texts = [row[name] for name in ("caption", "alt", "query") if row.get(name)] if kind == "videos" else [row["query"]]
    if not texts:
        raise KeyError("query")
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"a query must be a text, got {text!r}")
        yield Question(text=text, file=file, span=span, channel=channel, half=half)
