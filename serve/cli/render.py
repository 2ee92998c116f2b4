"""Renders answers, videos and outcomes: JSON for programs, coloured tables on a terminal, aligned lines in a pipe."""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from serve.catalog.places import place_of
from serve.text import DASH, clock, plural, printable, time_span, title
from serve.values import Answer, IndexOutcome, Moment, Verdict, Video, VideoAnswer

if TYPE_CHECKING:
    from serve.evaluate.calibrate import CalibrationReport

TIME_DIGITS = 3  # milliseconds: finer than any frame or word time we have
NANOSECOND_DIGITS = 9
SCORE_DIGITS = 4  # finer than the noise of a half-precision embedding
SNIPPET_CHARS = 160  # longest excerpt of a transcript: about two table lines on a wide terminal
SHORT_ID_CHARS = 8  # printed of an id that is a hash: of 10,000 videos, two share them once in 86 libraries
_HASH = re.compile("[0-9a-f]{16,}")
VERDICT_STYLES = {Verdict.MATCH: "bold green", Verdict.WEAK: "yellow", Verdict.NO_MATCH: "dim"}


# ------------------------------------------------------------------ JSON


def _round_number(value: float | None, digits: int) -> float | None:
    # + 0.0 turns -0.0 into 0.0: a protobuf message, which leaves zeros out, cannot hold -0.0.
    return round(float(value), digits) + 0.0 if value is not None and math.isfinite(value) else None


def _round_seconds(value: float | None) -> float | None:
    # Rounded to nanoseconds first, as a server sends times: so local and remote answers are the same bytes.
    return _round_number(_round_number(value, NANOSECOND_DIGITS), TIME_DIGITS)


def moment_json(moment: Moment) -> dict[str, Any]:
    """Return a moment as `search --json` and `moments --json` print it."""
    return {
        "video_id": moment.video_id,
        "uri": moment.uri,
        "start_seconds": _round_seconds(moment.start_seconds),
        "end_seconds": _round_seconds(moment.end_seconds),
        "score": _round_number(moment.score, SCORE_DIGITS),
        "confidence": _round_number(moment.confidence, SCORE_DIGITS),
        "verdict": str(moment.verdict),
        "visual_score": _round_number(moment.visual_score, SCORE_DIGITS),
        "speech_score": _round_number(moment.speech_score, SCORE_DIGITS),
        "text_score": _round_number(moment.text_score, SCORE_DIGITS),
        "matched_text": [
            {
                "text": line.text,
                "box": [_round_number(edge, SCORE_DIGITS) for edge in line.box],
                "start_seconds": _round_seconds(line.start_seconds),
                "end_seconds": _round_seconds(line.end_seconds),
                "confidence": _round_number(line.confidence, SCORE_DIGITS),
            }
            for line in moment.matched_text
        ],
        "transcript": moment.transcript,
        "best_frame_seconds": _round_seconds(moment.best_frame_seconds),
        "recorded_time": None if moment.recorded_time is None else _utc_time(moment.recorded_time),
        "final": moment.final,
    }


def moments_json(query: str, answer: Answer) -> dict[str, Any]:
    """Return the object that `moments --json` prints."""
    return {"query": query, "moments": [moment_json(moment) for moment in answer.moments]}


def search_json(query: str, answer: Answer) -> dict[str, Any]:
    """Return the object that `search --json` prints."""
    return {"query": query, "results": [_video_answer_json(video) for video in answer.videos]}


def _video_answer_json(video: VideoAnswer) -> dict[str, Any]:
    return {
        "video_id": video.video_id,
        "uri": video.uri,
        "score": _round_number(video.score, SCORE_DIGITS),
        "confidence": _round_number(video.confidence, SCORE_DIGITS),
        "verdict": str(video.verdict),
        "moments": [moment_json(moment) for moment in video.moments],
    }


def outcome_json(outcome: IndexOutcome) -> dict[str, Any]:
    """Return an object that `index --json` prints."""
    return {
        "video_id": outcome.video_id,
        "uri": outcome.uri,
        "status": outcome.status,
        "duration_seconds": _round_seconds(outcome.duration_seconds),
        "frames": outcome.frames,
        "segments": outcome.segments,
        "utterances": outcome.utterances,
        "error": outcome.error,
        "warnings": list(outcome.warnings),
    }


def video_json(video: Video) -> dict[str, Any]:
    """Return an object that `list --json` and `show --json` print."""
    media = video.media
    return {
        "video_id": video.video_id,
        "uri": video.uri,
        "collection": video.collection,
        "duration_seconds": _round_seconds(video.duration_seconds),
        "frames": video.frame_count,
        "segments": video.segment_count,
        "utterances": video.utterance_count,
        "indexed_time": _utc_time(video.indexed_time),
        "state": "READY" if video.is_searchable else "OUTDATED",
        "warnings": list(video.warnings),
        "content_sha256": video.content_sha256,
        "container": media.container,
        "video_codec": media.video_codec,
        "audio_codec": media.audio_codec,
        "width": media.width,
        "height": media.height,
        "frame_rate_fps": _round_number(media.frame_rate_fps, TIME_DIGITS),
        "live": video.is_growing,
        "watermark_seconds": _round_seconds(video.watermark_seconds) if video.is_growing else None,
    }


def _utc_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


# ------------------------------------------------------------------ transcripts
def word_pattern(words: Sequence[str]) -> re.Pattern[str] | None:
    """Return a pattern that finds any of the words or phrases, whole and in any case; None without words."""
    choices = sorted({re.escape(word.strip()) for word in words if word.strip()}, key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(choices)})(?!\w)", re.IGNORECASE) if choices else None


def snippet(transcript: str, matched_words: Sequence[str], limit: int = SNIPPET_CHARS) -> Text:
    """Cut a transcript to `limit` characters around the first matched word. Matched words are bold."""
    text, pattern = printable(transcript), word_pattern(matched_words)
    if len(text) > limit:
        first = pattern.search(text) if pattern else None
        # A third of the excerpt comes before the word, for context.
        start = max(0, min(first.start() - limit // 3 if first else 0, len(text) - limit))
        if start:
            start = text.find(" ", start) + 1 or start
        cut = text[start : start + limit]
        if start + limit < len(text):
            cut = (cut.rsplit(" ", 1)[0] if " " in cut else cut) + " …"
        text = ("… " if start else "") + cut
    styled = Text(text)
    if pattern:
        styled.highlight_regex(pattern, "bold")
    return styled


def _snippet_of(moment: Moment) -> Text:
    """Return why a moment matched: the words spoken in it, and the lines of text in its picture."""
    said = snippet(moment.transcript, [word.text for word in moment.matched_words])
    if not moment.matched_text:
        return said
    shown = Text("on screen: ", style="dim") + Text(written_excerpt(moment), style="bold")
    return Text("\n").join([shown, said]) if said else shown


def written_excerpt(moment: Moment, limit: int = SNIPPET_CHARS) -> str:
    """Return the matched lines of text in the picture, cut to about `limit` characters."""
    text = " / ".join(printable(line.text) for line in moment.matched_text)
    return text if len(text) <= limit else text[:limit].rsplit(" ", 1)[0] + " …"


# ------------------------------------------------------------------ tables and lines
@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """An answer or a video, as a row of a table."""

    key: tuple[Text, ...]  # short cells, each with a column of its own
    heading: tuple[Text, ...]  # description; on a terminal joined in the last column
    body: Text  # on a terminal below the heading, in a pipe at the end of the line


def _print_rows(console: Console, headers: Sequence[str], rows: Sequence[_Row]) -> None:
    """Print rows: a table on a terminal, otherwise an aligned line for each row, without colour or header.

    `headers` are those of the key columns and of the last column.
    """
    if not console.is_terminal:
        _print_lines(console, rows)
        return
    if not rows:
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for header in headers:
        # The last column takes the remaining width, so that every row fits on 80 columns.
        last = header is headers[-1]
        table.add_column(header, no_wrap=not last, overflow="fold", ratio=1 if last else None)
    for row in rows:
        lines = [Text("  ").join(row.heading), row.body]
        table.add_row(*row.key, Text("\n").join(line for line in lines if line.plain))
    console.print(table)


def _print_lines(console: Console, rows: Sequence[_Row]) -> None:
    cells = [(*row.key, *row.heading, row.body) for row in rows]
    widths = [max(cell.cell_len for cell in column) for column in zip(*cells, strict=True)]
    for line in cells:
        padded = (cell.plain + " " * (width - cell.cell_len) for cell, width in zip(line, widths, strict=True))
        print_line(console, "  ".join(padded).rstrip())


def print_line(console: Console, line: str, style: str = "") -> None:
    """Print a line: never wrapped in a pipe, never read as markup."""
    console.print(Text(line, style=style), soft_wrap=not console.is_terminal)


def _verdict_text(verdict: Verdict, confidence: float) -> Text:
    return Text(f"{verdict:<8} {confidence:4.0%}", style=VERDICT_STYLES[verdict])


def score_text(score: float | None) -> str:
    return DASH if score is None else f"{score:.2f}"


def _print_headline(console: Console, query: str, verdicts: Sequence[Verdict]) -> None:
    if not verdicts:
        print_line(console, f"nothing found for {printable(query)!r}")
    elif all(verdict is Verdict.NO_MATCH for verdict in verdicts):
        print_line(console, "no confident answer; the nearest:", style="yellow")


def _answer_row(verdict: Verdict, key: tuple[Text, ...], heading: tuple[Text, ...], body: Text) -> _Row:
    """Make the row of an answer, dimmed if it is no match."""
    if verdict is Verdict.NO_MATCH:
        for cell in (*key, *heading, body):
            cell.stylize("dim")
    return _Row(key=key, heading=heading, body=body)


def short_id(video_id: str) -> str:
    """Return what of an id is enough to type: the beginning of a hash, and all of an id that a caller chose."""
    return video_id[:SHORT_ID_CHARS] if _HASH.fullmatch(video_id) else printable(video_id)


def show_place(uri: str) -> str:
    """Return where a video is, for people: a path, from the current folder if it lies below that, or an address."""
    place = place_of(uri)
    if place is None or not place.startswith("/"):
        return printable(uri)
    try:
        relative = os.path.relpath(place)
    except OSError:  # there is no current folder
        return printable(place)
    return printable(place if relative.startswith("..") else relative)


def _local_time(seconds: float | None) -> str:
    """Write a time of day in the local zone: 2026-03-01 14:05:09 CET; a dash for none."""
    if seconds is None:
        return DASH
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def show_search(console: Console, query: str, answer: Answer) -> None:
    """Print the videos of an answer, each with its best moment."""
    _print_headline(console, query, [video.verdict for video in answer.videos])
    rows = []
    for video in answer.videos:
        best = video.moments[0] if video.moments else None
        span = time_span(best.start_seconds, best.end_seconds) if best else DASH
        key = (_verdict_text(video.verdict, video.confidence), Text(span, style="cyan"))
        heading = (
            Text(show_place(video.uri), style="bold"),
            Text(f"score {score_text(video.score)}", style="dim"),
            Text(short_id(video.video_id), style="dim"),
        )
        rows.append(_answer_row(video.verdict, key, heading, _snippet_of(best) if best else Text()))
    _print_rows(console, ["verdict", "best moment", "video and words"], rows)


def show_moments(console: Console, query: str, answer: Answer) -> None:
    """Print the moments of an answer."""
    _print_headline(console, query, [moment.verdict for moment in answer.moments])
    rows = []
    # Every line of a pipe has the same cells, so that they can be aligned.
    has_times = any(moment.recorded_time is not None for moment in answer.moments)
    has_text = any(moment.text_score is not None for moment in answer.moments)
    for moment in answer.moments:
        span = time_span(moment.start_seconds, moment.end_seconds) + ("" if moment.final else " (live)")
        key = (Text(span, style="cyan"), _verdict_text(moment.verdict, moment.confidence))
        heading = (
            Text(show_place(moment.uri), style="bold"),
            Text(short_id(moment.video_id), style="cyan"),
            *([Text(_local_time(moment.recorded_time))] if has_times else []),
            Text(f"visual {score_text(moment.visual_score)}", style="dim"),
            Text(f"speech {score_text(moment.speech_score)}", style="dim"),
            *([Text(f"text {score_text(moment.text_score)}", style="dim")] if has_text else []),
        )
        rows.append(_answer_row(moment.verdict, key, heading, _snippet_of(moment)))
    _print_rows(console, ["time", "verdict", "video and words"], rows)


def show_videos(console: Console, videos: Sequence[Video]) -> None:
    """Print the videos of a library. A "!" marks those with warnings, which show_video() prints."""
    rows = [
        _Row(
            key=(Text(printable(video.video_id), style="cyan"), Text(f"{clock(video.duration_seconds):>7}")),
            heading=(
                Text(title(video.uri) + _mark_of(video), style="bold"),
                Text(plural(video.frame_count, "frame"), style="dim"),
                Text(plural(video.utterance_count, "utterance"), style="dim"),
                Text(printable(video.collection), style="dim"),
                Text(_utc_time(video.indexed_time), style="dim"),
            ),
            body=Text(f"! {plural(len(video.warnings), 'warning')}" if video.warnings else "", style="yellow"),
        )
        for video in videos
    ]
    _print_rows(console, ["id", " length", "video"], rows)


def _mark_of(video: Video) -> str:
    if not video.is_searchable:
        return " (outdated)"
    return " (live)" if video.is_growing else ""


def show_video(console: Console, video: Video) -> None:
    """Print all facts about a video, each on a line, and so each of its warnings."""
    facts = video_json(video)
    facts["duration_seconds"] = f"{facts['duration_seconds']} ({clock(video.duration_seconds)})"
    lines: list[tuple[str, str]] = []
    for key, value in facts.items():
        values = (value or [None]) if isinstance(value, list) else [value]
        lines += [("" if n else key, _fact_text(each)) for n, each in enumerate(values)]
    if not console.is_terminal:
        width = max(map(len, facts))
        for key, text in lines:
            print_line(console, f"{key:<{width}}  {text}")
        return
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    for key, text in lines:
        grid.add_row(key, Text(text))
    console.print(grid)


def _fact_text(value: Any) -> str:
    return DASH if value is None else printable(str(value))


# ------------------------------------------------------------------ calibration
def show_calibration(console: Console, report: "CalibrationReport", path: Path) -> None:
    """Print the figures, the chosen calibration, and the path of its file."""
    for heading, outcomes in (("chosen on", report.chosen_on), ("held out", report.held_out)):
        if not outcomes:
            continue
        table = Table(heading, "questions", "recall@1", "@5", "@10", "median rank", box=None)
        for outcome in outcomes:
            shares = [f"{share:.2f}" for share in (outcome.recall_at_1, outcome.recall_at_5, outcome.recall_at_10)]
            table.add_row(outcome.name, str(outcome.count), *shares, f"{outcome.median_rank:.0f}")
        console.print(table)
    fits = (("cross-validated", report.chosen_confidences), ("held out", report.held_out_confidences))
    for heading, measured in fits:
        if not measured:
            continue
        table = Table(heading, "answers", "calibration error", "MATCH", "right of these", box=None)
        for each in measured:
            precision = DASH if each.match_precision is None else f"{each.match_precision:.0%}"
            table.add_row(each.name, str(each.count), f"{each.calibration_error:.3f}", f"{each.match:.1%}", precision)
        console.print(table)
    chosen = report.calibration
    sentences = ", ".join(repr(template) for template in chosen.templates)
    console.print(
        f"{report.encoder}: questions put as {sentences}; {chosen.bank_share:g} of generic similarity removed; "
        f"temperature {chosen.video_temperature:g} for videos, {chosen.moment_temperature:g} for moments.",
        highlight=False,
    )
    console.print(f"Written to {path}", highlight=False)
