"""Questions whose answers are known: what `kinodex calibrate` chooses by, and `kinodex eval` measures with.

A JSON object of three lists, or JSON lines, each with its "kind":

    {"videos":  [{"file": "a.mp4", "caption": "a dog in the snow", "alt": "winter walk with a dog"}],
     "moments": [{"file": "a.mp4", "query": "the dog jumps", "start_seconds": 3, "end_seconds": 5,
                  "channel": "visual"}],
     "absent":  [{"query": "a volcano", "channel": "visual"}]}

    {"kind": "video", "file": "a.mp4", "query": "a dog in the snow"}
    {"kind": "moment", "file": "a.mp4", "query": "the dog jumps", "start_seconds": 3, "end_seconds": 5}
    {"kind": "absent", "query": "a volcano", "channel": "visual"}

A file is the last part of a video's URI, or its id. The channel is what the answer is found by: visual (the default),
speech, or mixed, if it takes both. Any of them may have a half: "train", to tune on, or "report".
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
    """What is asked, and what answers it."""

    text: str
    file: str | None  # None: nothing answers it
    span: TimeSpan | None  # None: the whole video
    channel: str  # one of CHANNELS
    half: str  # one of HALVES

    @property
    def is_held_out(self) -> bool:
        """Whether it may choose nothing."""
        return self.half == "report"


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """What a file asks."""

    source: str  # the file, for people
    videos: tuple[Question, ...]
    moments: tuple[Question, ...]
    absent: tuple[Question, ...]

    def of(self, half: Half | None) -> "Questions":
        """Return those of one half; None: all."""
        return Questions(
            source=self.source,
            videos=tuple(one for one in self.videos if half in (None, one.half)),
            moments=tuple(one for one in self.moments if half in (None, one.half)),
            absent=tuple(one for one in self.absent if half in (None, one.half)),
        )


def names_of(video: Video | VideoStatus) -> set[str]:
    """Return what a file may call a video: its id, or the last part of its URI."""
    return {video.video_id, PurePosixPath(video.uri).name}


def read_questions(path: Path) -> Questions:
    """Read a file of questions.

    Raises:
        QuestionsInvalid: If it cannot be read, is of another format, or asks nothing.
    """
    found: dict[str, list[Question]] = {name: [] for name in KINDS.values()}
    try:
        for kind, row, where in _rows(path.read_text(encoding="utf-8"), path):
            try:
                found[kind].extend(_questions(kind, row))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                reason = f"no {error}" if isinstance(error, KeyError) else str(error)
                raise QuestionsInvalid(str(path), f"{where}: {reason}") from error
    except OSError as error:
        raise QuestionsInvalid(str(path), error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise QuestionsInvalid(str(path), "not UTF-8 text") from error
    if not any(found.values()):
        raise QuestionsInvalid(str(path), "it asks nothing")
    return Questions(
        source=str(path), videos=tuple(found["videos"]), moments=tuple(found["moments"]), absent=tuple(found["absent"])
    )


def _rows(text: str, path: Path) -> Iterator[tuple[str, Any, str]]:
    """Yield each row with the list it belongs to and its place, for people."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        whole = None
    if isinstance(whole, dict) and "kind" not in whole:
        for name in KINDS.values():
            rows = whole.get(name, [])
            if not isinstance(rows, list):
                raise QuestionsInvalid(str(path), f'"{name}" is no list')
            for number, row in enumerate(rows, 1):
                yield name, row, f"{name}, row {number}"
        return
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield *_line(line, number, path), f"line {number}"


def _line(line: str, number: int, path: Path) -> tuple[str, Any]:
    try:
        row = json.loads(line)
        return KINDS[row["kind"]], row
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise QuestionsInvalid(
            str(path), f'line {number} is not {{"kind": "video|moment|absent", "query": …, "file": …}}'
        ) from error


def _questions(kind: str, row: Mapping[str, Any]) -> Iterator[Question]:
    channel, half = row.get("channel", "visual"), row.get("half", "train")
    for value, known, name in ((channel, CHANNELS, "channel"), (half, HALVES, "half")):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    file = None if kind == "absent" else row["file"]
    if file is not None and not isinstance(file, str):
        raise ValueError(f"file must be a text, got {file!r}")
    span = None
    if kind == "moments":
        start, end = float(row["start_seconds"]), float(row["end_seconds"])
        if not 0 <= start < end < math.inf:
            raise ValueError(f"it must be 0 <= start_seconds < end_seconds, got {start:g} and {end:g}")
        span = TimeSpan(start_seconds=start, end_seconds=end)
    texts = [row[name] for name in ("caption", "alt", "query") if row.get(name)] if kind == "videos" else [row["query"]]
    if not texts:
        raise KeyError("query")
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"a query must be a text, got {text!r}")
        yield Question(text=text, file=file, span=span, channel=channel, half=half)
