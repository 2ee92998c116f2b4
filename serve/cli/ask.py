"""What `search` and `moments` do: ask a library here or on a server, print the answer, draw the sheet.

Nothing heavy is imported to ask a server: the library with its encoders, and Pillow, only where they are needed.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from rich.console import Console

from ingest.errors import DecodeError, SourceNotFound, SourceUnreadable
from serve.cli.render import moments_json, search_json, show_moments, show_search
from serve.client.any_library import AnyLibrary, LocalLibrary
from serve.errors import FrameNotFound, ServerFailed
from serve.text import plural, to_json
from serve.values import Answer, Channel, Filter, Moment, Query

if TYPE_CHECKING:
    from serve.cli.sheet import Cell

MAX_IMAGE_BYTES = 64 << 20  # above any camera's picture; it is kept in memory


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


def ask(kind: Literal["search", "moments"], question: Question, asked: AnyLibrary) -> None:
    """Answer one question on standard output, and into the contact sheet if one is wanted.

    Raises:
        VideoNotFound: If a video that is to be looked in is not there.
        IngestError: If the picture cannot be read.
        NoVisualEncoder: If a picture is asked about, and nothing here can see.
        ServerFailed: If it is a server that is asked, for these and all else.
        OSError: If the sheet cannot be written.
    """
    collection = question.collection
    query = Query(
        text=question.text or "",
        image=read_image(question.image) if question.image else b"",
        image_name=str(question.image or "image"),
        channel=question.channel,
        limit=question.limit,
        filter=Filter(
            collections=None if collection is None else (collection,),
            video_ids=tuple(asked.video(video_id, collection or "").video_id for video_id in question.video_ids),
        ),
    )
    answer = asked.search(query) if kind == "search" else asked.moments(query)
    doctor = "kinodex doctor" if isinstance(asked, LocalLibrary) else "kinodex doctor on the server"
    for channel in answer.degraded_channels:
        click.echo(f"kinodex: {channel} search is not available: the answer is without it (see {doctor})", err=True)
    _print(kind, question, answer)
    if question.sheet is not None:
        from serve.cli.sheet import draw_sheet

        cells = _cells(asked, answer)
        draw_sheet(question.name, cells).save(question.sheet, format="PNG")
        click.echo(f"kinodex: drew {plural(len(cells), 'answer')} into {question.sheet}", err=True)


def read_image(path: Path) -> bytes:
    """Read the file of a picture; whether it is one is for those to say who decode it.

    Raises:
        IngestError: If it is not there, cannot be read, is empty or above 64 MiB.
    """
    name = str(path)
    try:
        with path.open("rb") as file:
            image = file.read(MAX_IMAGE_BYTES + 1)
    except FileNotFoundError as error:
        raise SourceNotFound(name, "no such file", "check the path") from error
    except OSError as error:
        raise SourceUnreadable(name, f"cannot be read, {error.strerror or error}") from error
    if not image:
        raise SourceUnreadable(name, "the file is empty")
    if len(image) > MAX_IMAGE_BYTES:
        raise DecodeError(name, f"larger than {MAX_IMAGE_BYTES >> 20} MiB", "give a smaller picture")
    return image


def _print(kind: Literal["search", "moments"], question: Question, answer: Answer) -> None:
    if question.as_json:
        document = search_json if kind == "search" else moments_json
        click.echo(to_json(document(question.name, answer)))
    else:
        show = show_search if kind == "search" else show_moments
        show(Console(), question.name, answer)


def _cells(asked: AnyLibrary, answer: Answer) -> "list[Cell]":
    from serve.cli.sheet import MAX_CELLS, Cell

    best = [video.moments[0] for video in answer.videos if video.moments]
    found = [*answer.moments, *best]
    # Those that are only counted need no picture: of a server, each is a call.
    return [cell(asked, moment) for moment in found[:MAX_CELLS]] + [
        Cell(moment=moment, picture=None) for moment in found[MAX_CELLS:]
    ]


def cell(asked: AnyLibrary, moment: Moment) -> "Cell":
    """Make a moment's cell of the contact sheet, with its picture where there is one."""
    from serve.cli.sheet import Cell

    picture = None
    if moment.best_frame_seconds is not None:
        try:
            _, picture = asked.frame(moment.video_id, moment.best_frame_seconds, moment.collection)
        except FrameNotFound:
            pass
        except ServerFailed as error:
            if error.reason != "FRAME_NOT_FOUND":
                raise
    return Cell(moment=moment, picture=picture)


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
