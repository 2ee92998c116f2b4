"""What `search` and `moments` do: ask the library, print the answer, draw the sheet."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from rich.console import Console

from serve.phrases import counted
from serve.render import moments_json, search_json, show_moments, show_search, to_json
from serve.settings import Settings
from serve.sheet import Cell, draw_sheet
from serve.values import Answer, Channel, Moment, Query

if TYPE_CHECKING:
    from serve.library import Library


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question as the command line put it."""

    text: str | None
    image: Path | None
    limit: int
    channel: Channel
    collection: str | None
    sheet: Path | None
    as_json: bool
    video_ids: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What was asked, in words: the text, or the picture's path."""
        return self.text or str(self.image)


def ask(kind: Literal["search", "moments"], question: Question, directory: Path, settings: Settings) -> None:
    """Answer one question on standard output, and into the contact sheet if one is wanted.

    Raises:
        DataDirectoryMissing: If nothing was indexed there.
        VideoNotFound: If a video that is to be looked in is not there.
        IngestError: If the picture cannot be read.
        NoVisualEncoder: If a picture is asked about, and nothing here can see.
        OSError: If the sheet cannot be written.
    """
    from serve.library import Library  # here, so that a bad --sheet is refused before the slow import

    with contextlib.closing(Library.open(directory, settings)) as library:
        query = Query(
            text=question.text or "",
            image=library.load_image(question.image) if question.image else None,
            channel=question.channel,
            limit=question.limit,
            collection=question.collection,
            video_ids=tuple(library.video(video_id).video_id for video_id in question.video_ids),
        )
        answer = library.search(query) if kind == "search" else library.moments(query)
        for channel in answer.degraded_channels:
            click.echo(
                f"kinodex: {channel} search is not available: the answer is without it (see kinodex doctor)",
                err=True,
            )
        _print(kind, question, answer)
        if question.sheet is not None:
            cells = _cells(library, answer)
            draw_sheet(question.name, cells).save(question.sheet, format="PNG")
            click.echo(f"kinodex: drew {counted(len(cells), 'answer')} into {question.sheet}", err=True)


def _print(kind: Literal["search", "moments"], question: Question, answer: Answer) -> None:
    if question.as_json:
        document = search_json if kind == "search" else moments_json
        click.echo(to_json(document(question.name, answer)))
    else:
        show = show_search if kind == "search" else show_moments
        show(Console(), question.name, answer)


def _cells(library: "Library", answer: Answer) -> list[Cell]:
    best = [video.moments[0] for video in answer.videos if video.moments]
    return [cell(library, moment) for moment in (*answer.moments, *best)]


def cell(library: "Library", moment: Moment) -> Cell:
    picture = None
    if moment.best_frame_seconds is not None:
        picture = library.thumbnail(library.video(moment.video_id), moment.best_frame_seconds)
    return Cell(moment=moment, picture=picture[1] if picture else None)


def check_sheet(path: Path) -> None:
    """Make sure that the sheet can be written, before any work is done.

    Raises:
        click.BadParameter: If it is not named as a PNG file.
        OSError: If it cannot be written there.
    """
    if path.suffix.lower() != ".png":
        raise click.BadParameter(f"{str(path)!r} does not end in .png", param_hint="'--sheet'")
    existing = path.exists()
    with path.open("ab"):  # opens for writing without harm to what is there
        pass
    if not existing:
        os.unlink(path)
