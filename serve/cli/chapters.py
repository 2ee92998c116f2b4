"""The command `kinodex chapters`: chapters as text, JSON, WebVTT or lines for YouTube, and highlights."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from serve.cli.options import library_options, local_library

if TYPE_CHECKING:
    from serve.values import Video
    from temporal.values import Chapter, Highlight, Outline

ChapterFormat = Literal["text", "json", "vtt", "youtube"]

MAX_HIGHLIGHTS = 100  # as the API
YOUTUBE_LEAST = 3  # chapters: https://support.google.com/youtube/answer/9884579


@click.command(
    epilog="""\b
Examples:
  kinodex chapters 3fa9
  kinodex chapters 3fa9 --format vtt > talk.chapters.vtt
  kinodex chapters 3fa9 --highlights 10"""
)
@click.argument("video_id", metavar="ID")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "json", "vtt", "youtube"]),
    default="text",
    show_default=True,
    help="text: a line for each chapter; vtt: a chapters track; youtube: lines for a description.",
)
@click.option(
    "--highlights",
    "highlight_count",
    metavar="N",
    type=click.IntRange(0, MAX_HIGHLIGHTS),
    default=0,
    help="Also print the N moments that together tell most of the video (text and json).",
)
@library_options
def chapters(
    video_id: str, format_: ChapterFormat, highlight_count: int, data: Path | None, config: Path | None
) -> None:
    """Print the chapters of a video.

    A chapter begins where pictures, words and pauses change together. Its title is made of the words that it says more
    than the other chapters. Where nothing is said, its time is its title. The first characters of the ID are enough, or
    the name of the file.
    """
    from serve.cli.act.places import find_video
    from serve.text import title

    if highlight_count and format_ in ("vtt", "youtube"):
        raise click.UsageError(f"--highlights cannot be written as {format_}; use --format text or json")
    with local_library(data, config) as library:
        video = find_video(library, video_id)
        outline = library.outline(video, highlight_count)
    if format_ == "youtube" and (problem := youtube_problem(outline.chapters)):
        click.echo(f"kinodex: YouTube shows no chapters of {title(video.uri)}: {problem}", err=True)
    click.echo(write_outline(video, outline, format_).encode("utf-8", "backslashreplace"), nl=False)


def write_outline(video: "Video", outline: "Outline", format_: ChapterFormat) -> str:
    """Write chapters in a format, with highlights as text or JSON. YouTube's times are rounded down to seconds."""
    from serve.cli.transcripts import Cue, to_vtt
    from serve.text import clock, printable, time_span, to_json

    chapters = outline.chapters

    def vtt() -> str:
        return to_vtt(
            [
                Cue(
                    start_seconds=each.span.start_seconds,
                    end_seconds=each.span.end_seconds,
                    lines=(chapter_title(each),),
                )
                for each in chapters
            ]
        )

    def text() -> str:
        lines = [(each.span, printable(each.title)) for each in chapters]
        highlights = [(each.span, printable(each.transcript)) for each in outline.highlights]
        listed = [
            "".join(
                f"[{time_span(span.start_seconds, span.end_seconds)}] {said}".rstrip() + "\n" for span, said in some
            )
            for some in (lines, highlights)
        ]
        return "\nHighlights\n".join(listed) if highlights else listed[0]

    writers: dict[str, Callable[[], str]] = {
        "text": text,
        "json": lambda: to_json(_outline_json(video, outline)).decode() + "\n",
        "vtt": vtt,
        "youtube": lambda: "".join(f"{clock(each.span.start_seconds)} {chapter_title(each)}\n" for each in chapters),
    }
    return writers[format_]()


def chapter_title(chapter: "Chapter") -> str:
    """Return the title that players show: if nothing is said, the time."""
    from serve.text import printable, time_span

    return printable(chapter.title) or time_span(chapter.span.start_seconds, chapter.span.end_seconds)


def youtube_problem(chapters: Sequence["Chapter"]) -> str | None:
    """Return why YouTube shows none of these chapters, for people; None: it shows them."""
    from serve.text import clock, plural

    if chapters[0].span.start_seconds >= 1:
        return f"the first must begin at 0:00, and this one begins at {clock(chapters[0].span.start_seconds)}"
    if len(chapters) < YOUTUBE_LEAST:
        return f"it has {plural(len(chapters), 'chapter')}, and needs {YOUTUBE_LEAST}"
    return None


def _outline_json(video: "Video", outline: "Outline") -> dict[str, Any]:
    return {
        "video_id": video.video_id,
        "uri": video.uri,
        "chapters": [{**_place_json(each), "title": each.title} for each in outline.chapters],
        "highlights": [{**_place_json(each), "transcript": each.transcript} for each in outline.highlights],
    }


def _place_json(part: "Chapter | Highlight") -> dict[str, Any]:
    from serve.cli.render import TIME_DIGITS

    best = part.best_frame_seconds
    return {
        "start_seconds": round(part.span.start_seconds, TIME_DIGITS),
        "end_seconds": round(part.span.end_seconds, TIME_DIGITS),
        "best_frame_seconds": None if best is None else round(best, TIME_DIGITS),
    }
