"""Acts on the moments of an answer: cuts each out as a file, or plays the best."""

from pathlib import Path

import click

from ingest.errors import IngestError
from ingest.values import Cut
from serve.cli.act.clip import describe_clip, write_clip
from serve.cli.act.play import play_video
from serve.clips.maker import ClipMaker
from serve.errors import ServeError
from serve.search.library import Library
from serve.text import clock, printable, title
from serve.values import Moment

MAX_STEM_CHARS = 60  # of a video's name within the name of a clip's file


def write_clips(library: Library, moments: tuple[Moment, ...], folder: Path, *, is_exact: bool) -> None:
    """Write each moment as a clip into a folder, the best as 01; a moment that has none is named, and the rest go on.

    Raises:
        click.ClickException: If some were not written.
        OSError: If the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    failed_count = 0
    with ClipMaker(library.catalog, library.directory, library.settings) as maker:
        for number, moment in enumerate(moments, 1):
            out = folder / clip_name(number, moment)
            wanted = Cut(start_seconds=moment.start_seconds, end_seconds=moment.end_seconds, is_exact=is_exact)
            try:
                made = write_clip(maker, library.catalog.video(moment.video_id, moment.collection), wanted, out)
            except (IngestError, ServeError, ValueError) as error:
                failed_count += 1
                click.echo(f"kinodex: no clip of {title(moment.uri)}: {printable(str(error))}", err=True)
            else:
                click.echo(f"kinodex: {describe_clip(made, out)}", err=True)
    if failed_count:
        raise click.ClickException(f"{failed_count} of {len(moments)} clips were not written")


def clip_name(number: int, moment: Moment) -> str:
    """Return the name of a clip's file: 01-holiday-1.05.mp4 of what begins at 1:05."""
    stem = Path(title(moment.uri)).stem[:MAX_STEM_CHARS]
    safe = "".join(letter if letter.isalnum() or letter in "-_ " else "_" for letter in stem).strip() or "video"
    return f"{number:02}-{safe}-{clock(moment.start_seconds).replace(':', '.')}.mp4"


def play_best(library: Library, moments: tuple[Moment, ...]) -> None:
    """Play the best moment.

    Raises:
        click.ClickException: If there is none, or no player.
    """
    if not moments:
        raise click.ClickException("there is no moment to play")
    best = moments[0]
    video = library.catalog.video(best.video_id, best.collection)
    play_video(video, best.start_seconds, library.settings.clip.player)
