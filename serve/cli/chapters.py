"""The command `kinodex chapters`: the chapters of a video as text, JSON, WebVTT, or lines for YouTube."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from serve.cli.options import library_options, local_library

if TYPE_CHECKING:
    from serve.values import Video
    from temporal.values import Chapter

ChapterFormat = Literal["text", "json", "vtt", "youtube"]

YOUTUBE_LEAST = 3  # chapters: https://support.google.com/youtube/answer/9884579


@click.command(
    epilog="""\b
Examples:
  kinodex chapters 3fa9
  kinodex chapters 3fa9 --format vtt > talk.chapters.vtt"""
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
@library_options
def chapters(video_id: str, format_: ChapterFormat, data: Path | None, config: Path | None) -> None:
    """Print the chapters of a video.

    A chapter begins where pictures, words and pauses change together. Its title is made of the words that it says more
    than the other chapters. Where nothing is said, its time is its title. The first characters of the ID are enough.
    """
    from serve.text import title

    with local_library(data, config) as library:
        video = library.video(video_id)
        found = library.chapters(video)
    if format_ == "youtube" and (problem := youtube_problem(found)):
        click.echo(f"kinodex: YouTube shows no chapters of {title(video.uri)}: {problem}", err=True)
    click.echo(write_chapters(video, found, format_).encode("utf-8", "backslashreplace"), nl=False)


def write_chapters(video: "Video", chapters: Sequence["Chapter"], format_: ChapterFormat) -> str:
    """Write chapters in a format. The times of YouTube's are rounded down to seconds."""
    from serve.cli.transcripts import Cue, to_vtt
    from serve.text import clock, time_span, to_json

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
        spans = [time_span(each.span.start_seconds, each.span.end_seconds) for each in chapters]
        lines = zip(spans, map(_said_title, chapters), strict=True)
        return "".join(f"[{span}] {said}".rstrip() + "\n" for span, said in lines)

    writers: dict[str, Callable[[], str]] = {
        "text": text,
        "json": lambda: to_json(_chapters_json(video, chapters)).decode() + "\n",
        "vtt": vtt,
        "youtube": lambda: "".join(f"{clock(each.span.start_seconds)} {chapter_title(each)}\n" for each in chapters),
    }
    return writers[format_]()


def chapter_title(chapter: "Chapter") -> str:
    """Return the title that players show: if nothing is said, the time."""
    from serve.text import time_span

    return _said_title(chapter) or time_span(chapter.span.start_seconds, chapter.span.end_seconds)


def youtube_problem(chapters: Sequence["Chapter"]) -> str | None:
    """Return why YouTube shows none of these chapters, for people; None: it shows them."""
    from serve.text import clock, plural

    if chapters[0].span.start_seconds >= 1:
        return f"the first must begin at 0:00, and this one begins at {clock(chapters[0].span.start_seconds)}"
    if len(chapters) < YOUTUBE_LEAST:
        return f"it has {plural(len(chapters), 'chapter')}, and needs {YOUTUBE_LEAST}"
    return None


def _said_title(chapter: "Chapter") -> str:
    from serve.text import printable

    return printable(chapter.title)


def _chapters_json(video: "Video", chapters: Sequence["Chapter"]) -> dict[str, Any]:
    from serve.cli.render import TIME_DIGITS

    return {
        "video_id": video.video_id,
        "uri": video.uri,
        "chapters": [
            {
                "start_seconds": round(each.span.start_seconds, TIME_DIGITS),
                "end_seconds": round(each.span.end_seconds, TIME_DIGITS),
                "title": each.title,
                "best_frame_seconds": None
                if each.best_frame_seconds is None
                else round(each.best_frame_seconds, TIME_DIGITS),
            }
            for each in chapters
        ],
    }
