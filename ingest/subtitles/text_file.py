"""Reads subtitle files: SubRip, WebVTT, ASS and SSA with pysubs2, and LRC.

Before pysubs2 reads a file, its lines are bounded in number and length, and what pysubs2 would take for text is taken
away: comments, styles and identifiers of WebVTT. Lines whose times it would refuse with the whole file are counted.
"""

import re
import warnings
from collections.abc import Callable, Iterator
from functools import partial

from pysubs2 import SSAFile

from ingest.subtitles.collector import Collector
from ingest.subtitles.encoding import decode_text
from ingest.subtitles.limits import MAX_COUNT, MAX_FILE_BYTES, MAX_LINE_CHARS, MAX_LINES, OPEN_SECONDS
from ingest.values import SubtitleKind, SubtitleTrack

_CUE = re.compile(r"\s*-?\d[\d:.,\s]*-->")  # the beginning of a line of times of SubRip or WebVTT
_NEGATIVE = re.compile(r"-\s*\d+:\d")  # a time below zero, whose sign pysubs2 passes over
_INNER_TIME = re.compile(r"<[\d:.]+>")  # WebVTT's times within a line, which pysubs2 would take for the next subtitle
_STAMPS = {
    "srt": re.compile(r"\d{1,2}:\d{1,2}:\d{1,2}[.,]\d{1,3}"),
    "vtt": re.compile(r"(?:\d{1,4}:)?\d{2}:\d{2}\.\d{2,3}"),
}
_NEVER = {"srt": "00:00:01,000 --> 00:00:00,000", "vtt": "00:00:01.000 --> 00:00:00.000"}  # refused, and so counted
_EVENT_TIME = r"\s*-?\d{1,2}:\d{1,2}:\d{1,2}[.,]\d{1,3}\s*,"
_EVENT = re.compile(rf"Dialogue:[^,]*,{_EVENT_TIME}{_EVENT_TIME}")
_LRC_TIME = re.compile(r"\[(\d{1,3}):(\d{1,2})(?:[.:](\d{1,3}))?\]")
_LRC_OFFSET = re.compile(r"^\[offset:\s*([+-]?\d{1,7})\s*\]", re.IGNORECASE | re.MULTILINE)
_LRC_WORD = re.compile(r"<\d{1,3}:\d{1,2}(?:[.:]\d{1,3})?>")
_NUMBER = "\n\n1\n"  # pysubs2 takes a number at the end of a text for that of the next subtitle, and drops it


def read_subtitle_file(
    read: Callable[[int], bytes], *, suffix: str, name: str, language: str | None, kind: SubtitleKind
) -> SubtitleTrack:
    """Read a subtitle file.

    Args:
        read: Reads at most so many bytes; none at the end.
        suffix: "srt", "vtt", "ass", "ssa" or "lrc".
        language: ISO 639-1, as the file's name says; None: it does not say.
    """
    data = b""
    while len(data) <= MAX_FILE_BYTES and (part := read(MAX_FILE_BYTES + 1 - len(data))):
        data += part
    collector = Collector(is_cut=len(data) > MAX_FILE_BYTES)
    text = decode_text(data[:MAX_FILE_BYTES], language)
    if text is not None:
        _READERS[suffix](text.replace("\r\n", "\n").replace("\r", "\n"), collector)
    subtitles, problem = collector.finish(), ""
    if not subtitles:
        problem = "all its times are wrong" if collector.refused_count else "it has no subtitles"
    return SubtitleTrack(
        name=name, codec=suffix, language=language, kind=kind, subtitles=subtitles,
        refused_count=collector.refused_count, is_cut=collector.is_cut,
        problem=problem if text is not None else "it is no text in a known encoding",
    )  # fmt: skip


def _read_cues(text: str, collector: Collector, format_: str) -> None:
    """Read SubRip or WebVTT."""
    parts = []
    for count, (times, lines) in enumerate(_cues(text, format_)):
        if count >= MAX_COUNT:
            collector.is_cut = True
            break
        is_right = len(_STAMPS[format_].findall(times)) == 2 and not _NEGATIVE.search(times)
        parts += [times if is_right else _NEVER[format_], *lines]
        if format_ == "vtt":
            parts.append(_NUMBER)
    _collect("\n".join([*parts, _NUMBER]) if format_ == "srt" else "\n".join(parts), collector, format_)


def _cues(text: str, format_: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each line of times, and the lines of text behind it. A text of SubRip may have empty lines."""
    times, lines, is_text = "", list[str](), False
    for line in (line[:MAX_LINE_CHARS] for line in text.split("\n")):
        if _CUE.match(line):
            if times:
                yield times, lines
            times, lines, is_text = line, [], True
        elif format_ == "vtt" and not line.strip():
            is_text = False  # identifiers, comments and styles may follow
        elif is_text and len(lines) < MAX_LINES:
            lines.append(_INNER_TIME.sub("", line))
    if times:
        yield times, lines


def _read_events(text: str, collector: Collector, format_: str) -> None:
    """Read ASS or SSA. Styles do not matter, and comments are not shown."""
    events = [line.strip() for line in text.split("\n") if line.lstrip().startswith("Dialogue:")]
    right = [line[: 2 * MAX_LINE_CHARS] for line in events if _EVENT.match(line)]
    collector.refused_count += len(events) - len(right)
    collector.is_cut |= len(right) > MAX_COUNT
    _collect("\n".join(right[:MAX_COUNT]), collector, format_)


def _collect(text: str, collector: Collector, format_: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about fields of styles and margins
        for event in SSAFile.from_string(text, format_, keep_html_tags=True):
            if event.is_comment:
                continue
            collector.add(event.start / 1000, event.end / 1000, event.text)


def _read_lyrics(text: str, collector: Collector) -> None:
    """Read LRC: a line has one or more times at which it begins; an empty line ends the line before."""
    offset = _LRC_OFFSET.search(text)
    earlier_seconds = int(offset[1]) / 1000 if offset else 0.0  # a positive offset shows lines sooner
    starts = list[tuple[float, str]]()
    for line in (line[:MAX_LINE_CHARS] for line in text.split("\n")):
        end = 0
        times = list[float]()
        while match := _LRC_TIME.match(line, end):
            fraction = float(f"0.{match[3]}") if match[3] else 0.0
            times.append(int(match[1]) * 60 + int(match[2]) + fraction - earlier_seconds)
            end = match.end()
        starts += [(seconds, _LRC_WORD.sub("", line[end:]).replace("\\", "/")) for seconds in times]
        if len(starts) > MAX_COUNT:
            collector.is_cut = True
            break
    starts.sort(key=lambda start: start[0])
    for place, (seconds, words) in enumerate(starts):
        following = next((other for other, _ in starts[place + 1 : place + 10] if other > seconds), None)
        end_seconds = None if following is None else min(following, seconds + OPEN_SECONDS)
        collector.add(seconds, end_seconds, words)


_READERS: dict[str, Callable[[str, Collector], None]] = {
    "srt": partial(_read_cues, format_="srt"),
    "vtt": partial(_read_cues, format_="vtt"),
    "ass": partial(_read_events, format_="ass"),
    "ssa": partial(_read_events, format_="ssa"),
    "lrc": _read_lyrics,
}
SUFFIXES = tuple(_READERS)
