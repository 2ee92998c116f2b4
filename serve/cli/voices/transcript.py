"""The command `kinodex transcript`: prints the words of a video, and imports corrected ones."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from serve.cli.audit import audited
from serve.cli.options import library_options, load_library_settings, local_library

if TYPE_CHECKING:
    from encoders.values import Utterance
    from serve.cli.transcripts import TranscriptFormat

DEFAULT_COMMAND = "show"


class TranscriptGroup(click.Group):
    """A group in which `transcript ID` is `transcript show ID`: scripts depend on it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [DEFAULT_COMMAND, *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=TranscriptGroup,
    epilog="""\b
Examples:
  kinodex transcript 3fa9
  kinodex transcript 3fa9 --format srt > holiday.srt
  kinodex transcript import 3fa9 holiday.srt""",
)
def transcript() -> None:
    """Print the transcript of a video (transcript ID), or import a corrected one."""


@transcript.command(DEFAULT_COMMAND)
@click.argument("video_id", metavar="ID")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "srt", "vtt", "json"]),
    default="text",
    show_default=True,
    help="text: a line for each utterance; srt and vtt: subtitles; json: with the times of each word.",
)
@library_options
def show_transcript(video_id: str, format_: "TranscriptFormat", data: Path | None, config: Path | None) -> None:
    """Print the transcript of a video.

    The first characters of its ID are enough. A line on standard error says where the words come from.
    """
    from serve.cli.transcripts import write_transcript
    from serve.text import title

    with local_library(data, config) as library:
        video = library.video(video_id)
        utterances, speakers = library.transcript(video), library.speakers(video)
        name = library.subtitles(video)
    if not utterances:
        click.echo(f"kinodex: {title(video.uri)} has no speech", err=True)
    elif origin := describe_sources(utterances, name):
        click.echo(f"kinodex: {origin}", err=True)
    click.echo(write_transcript(video, utterances, format_, speakers).encode("utf-8", "backslashreplace"), nl=False)


@transcript.command(
    "import",
    epilog="""\b
Examples:
  kinodex transcript 3fa9 --format srt > talk.srt     correct talk.srt in an editor, then
  kinodex transcript import 3fa9 talk.srt""",
)
@click.argument("video_id", metavar="ID")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--collection", metavar="C", help="The video's collection, where several have such an ID.")
@library_options
def import_words(video_id: str, file: Path, collection: str | None, data: Path | None, config: Path | None) -> None:
    """Replace the words of a video by those of a subtitle file.

    FILE is SubRip, WebVTT, ASS, SSA or LRC. The words stay when the video is indexed again, and go when it is deleted.
    """
    directory, settings = load_library_settings(data, config)
    from serve.indexing import corrections
    from serve.text import plural, title

    with audited(settings.server, "kinodex transcript import") as subject:
        subject.add(collection=collection or "", name=video_id)
        video, track = corrections.import_transcript(directory, settings, video_id, file, collection=collection)
    click.echo(f"{video.video_id}  {title(video.uri)}  {plural(video.utterance_count, 'utterance')} from {track.name}")
    if track.refused_count or track.is_cut:
        rest = f"{plural(track.refused_count, 'line')} with wrong times"
        click.echo(f"kinodex: left out: {'the rest, as the file is too long' if track.is_cut else rest}", err=True)


def describe_sources(utterances: "Sequence[Utterance]", name: str) -> str:
    """Say where the words of a video come from; empty: the speech model heard all of them."""
    from encoders.values import WordSource
    from serve.text import plural

    counts = Counter(one.source for one in utterances)
    heard = counts.pop(WordSource.SPEECH, 0)
    if not counts:
        return ""
    kinds = {WordSource.TRACK: "subtitle track", WordSource.SIDECAR: "subtitle file", WordSource.IMPORT: "import"}
    parts = [
        f"{plural(count, 'utterance')} from the {kinds[source]} {name}".rstrip() for source, count in counts.items()
    ]
    return ", ".join([*parts, *([f"{heard} heard by the speech model"] if heard else [])])
