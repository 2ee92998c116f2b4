"""Asks a library, here or on a server, the question of `kinodex search` or `kinodex moments`, and prints the answer.

Asking a server imports nothing heavy. The library, its encoders and Pillow are imported where they are needed.
"""

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from rich.console import Console

from ingest.config import DecodeConfig
from ingest.errors import DecodeError, SourceNotFound, SourceUnreadable
from ingest.values import Frame
from serve.cli.render import moments_json, search_json, show_moments, show_search
from serve.client.any_library import AnyLibrary, LocalLibrary
from serve.errors import FrameNotFound, ServerFailed
from serve.text import plural, printable, to_json
from serve.values import Answer, Channel, Filter, Moment, Query

if TYPE_CHECKING:
    from serve.cli.sheet import Cell

MAX_IMAGE_BYTES = 128 << 20  # of a question's picture, held in memory; photos of 200 megapixels have up to 80 MB
SENT_IMAGE_BYTES = 8 << 20  # of a picture that a server takes; a larger one is sent smaller
SENT_IMAGE_PX = 1024  # shorter side of a picture that is sent smaller; encoders see at most some 400


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionOptions:
    """A question, as the options of the command line give it."""

    text: str | None
    image: Path | None
    limit: int
    channel: Channel
    speaker: str
    collection: str | None
    sheet: Path | None
    as_json: bool
    video_ids: tuple[str, ...] = ()
    plays: bool = False  # play the best moment
    clips: Path | None = None  # folder to write each moment to
    export: Path | None = None  # file to write the moments to
    is_exact: bool = False  # the clips are encoded anew

    @property
    def name(self) -> str:
        """The question in words: its text, or the path of its picture."""
        return self.text or str(self.image)


def ask(kind: Literal["search", "moments"], question: QuestionOptions, library: AnyLibrary) -> None:
    """Ask a question, print the answer on standard output, and draw its contact sheet if --sheet is given.

    Raises:
        VideoNotFound: If the library lacks a video of --video.
        IngestError: If the picture cannot be read; or must be made smaller for a server, and does not decode.
        NoVisualEncoder: If the question is a picture, and the library has no visual encoder.
        ServerFailed: If a call to the server fails, for any of these reasons or another.
        OSError: If the sheet cannot be written.
    """
    collection = question.collection
    image = read_image(question.image) if question.image else b""
    if len(image) > SENT_IMAGE_BYTES and not isinstance(library, LocalLibrary):
        image = shrink_image(image, str(question.image))
    query = Query(
        text=question.text or "",
        image=image,
        image_name=str(question.image or "image"),
        channel=question.channel,
        speaker=question.speaker.strip(),
        limit=question.limit,
        filter=Filter(
            collections=None if collection is None else (collection,),
            video_ids=tuple(library.video(video_id, collection or "").video_id for video_id in question.video_ids),
        ),
    )
    answer = library.search(query) if kind == "search" else library.moments(query)
    doctor = "kinodex doctor" if isinstance(library, LocalLibrary) else "kinodex doctor on the server"
    for channel in answer.degraded_channels:
        click.echo(f"kinodex: {channel} search is not available: the answer is without it (see {doctor})", err=True)
    if answer.is_live_behind:
        click.echo("kinodex: the server does not reach Kafka: live videos may lack their newest part", err=True)
    _print_answer(kind, question, answer)
    if question.export is not None:
        from serve.cli.act.export import export_moments

        export_moments(library, answer.moments, question.export, question.name)
        count = plural(len(answer.moments), "moment")
        click.echo(f"kinodex: wrote {count} into {printable(str(question.export))}", err=True)
    if isinstance(library, LocalLibrary) and (question.clips is not None or question.plays):
        from serve.cli.act.answers import play_best, write_clips

        if question.clips is not None:
            write_clips(library.library, answer.moments, question.clips, is_exact=question.is_exact)
        if question.plays:
            play_best(library.library, answer.moments)
    if question.sheet is not None:
        from serve.cli.sheet import draw_sheet

        cells = _make_cells(library, answer)
        draw_sheet(question.name, cells).save(question.sheet, format="PNG")
        click.echo(f"kinodex: drew {plural(len(cells), 'answer')} into {printable(str(question.sheet))}", err=True)


def read_image(path: Path) -> bytes:
    """Read the file of a picture, without decoding it.

    Raises:
        IngestError: If the file is missing, cannot be read, is empty or is larger than MAX_IMAGE_BYTES.
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


def shrink_image(image: bytes, name: str) -> bytes:
    """Return a picture as an upright JPEG whose shorter side has SENT_IMAGE_PX; raise IngestError as indexing does."""
    from ingest.sandbox.pool import DecodePool

    with DecodePool(DecodeConfig(thumbnail_px=SENT_IMAGE_PX), workers=1) as pool:
        for item in pool.decode(io.BytesIO(image), uri=name):
            if isinstance(item, Frame):
                return item.thumbnail
    raise DecodeError(name, "no picture inside", "give a JPEG, PNG, WebP, HEIC or AVIF file")


def _print_answer(kind: Literal["search", "moments"], question: QuestionOptions, answer: Answer) -> None:
    if question.as_json:
        document = search_json if kind == "search" else moments_json
        click.echo(to_json(document(question.name, answer)))
    else:
        show = show_search if kind == "search" else show_moments
        show(Console(), question.name, answer)


def _make_cells(library: AnyLibrary, answer: Answer) -> "list[Cell]":
    from serve.cli.sheet import MAX_CELLS, Cell

    moments = [*answer.moments, *(video.moments[0] for video in answer.videos if video.moments)]
    # Cells past MAX_CELLS are plural and not drawn. They need no picture, which costs a call to the server.
    return [make_cell(library, moment) for moment in moments[:MAX_CELLS]] + [
        Cell(moment=moment, picture=None) for moment in moments[MAX_CELLS:]
    ]


def make_cell(library: AnyLibrary, moment: Moment, question: str = "") -> "Cell":
    """Make the contact sheet's cell of a moment, with the picture of its best frame if it has one.

    Args:
        question: Drawn on the picture, where the cells of a sheet answer several questions.
    """
    from serve.cli.sheet import Cell

    picture = None
    if moment.best_frame_seconds is not None:
        try:
            _, picture = library.frame(moment.video_id, moment.best_frame_seconds, moment.collection)
        except FrameNotFound:
            pass
        except ServerFailed as error:
            if error.reason != "FRAME_NOT_FOUND":
                raise
    return Cell(moment=moment, picture=picture, question=question)


def check_sheet(path: Path) -> None:
    """Check that the sheet can be written, before any work is done.

    Raises:
        click.BadParameter: If the name does not end in .png.
        OSError: If the file cannot be written.
    """
    if path.suffix.lower() != ".png":
        raise click.BadParameter(f"{str(path)!r} does not end in .png", param_hint="'--sheet'")
    existing = path.exists()
    with path.open("ab"):  # opens for writing, and leaves the content of an existing file alone
        pass
    if not existing:
        os.unlink(path)
