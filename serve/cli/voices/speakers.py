"""The command `kinodex speakers`: who speaks in a video, and the names of speakers."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from serve.cli.audit import audited
from serve.cli.failures import UNDECODABLE
from serve.cli.options import json_option, library_options, load_library_settings

if TYPE_CHECKING:
    from serve.values import Speaker

MAX_NAME_CHARS = 100  # as the API


class NamedSpeaker(click.ParamType[tuple[int, str]]):
    """N=NAME on the command line."""

    name = "speaker"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, str]:
        if isinstance(value, tuple):
            return value
        number, equals, name = str(value).partition("=")
        if not equals or not number.strip().isdecimal():
            self.fail(f"{value!r} is not N=NAME, as in 2=Ana", param, ctx)
        name = " ".join(name.split())
        if len(name) > MAX_NAME_CHARS or not name.isprintable() or UNDECODABLE.intersection(name):
            self.fail(f"a name has at most {MAX_NAME_CHARS} printable characters", param, ctx)
        return int(number), name


@click.command(
    epilog="""\b
Examples:
  kinodex speakers 3fa9
  kinodex speakers 3fa9 --name 2=Ana --name 3=
  kinodex moments "Paris" --video 3fa9 --speaker Ana"""
)
@click.argument("video_id", metavar="ID")
@click.option(
    "--name",
    "names",
    metavar="N=NAME",
    type=NamedSpeaker(),
    multiple=True,
    help="Name a speaker; without NAME, take the name away. Repeatable.",
)
@click.option("--server", metavar="ADDR", help="Ask a server: HOST:PORT, grpc://HOST:PORT or grpcs://HOST:PORT.")
@json_option
@library_options
def speakers(
    video_id: str,
    names: tuple[tuple[int, str], ...],
    server: str | None,
    as_json: bool,
    data: Path | None,
    config: Path | None,
) -> None:
    """List the speakers of a video, and name them.

    Speakers are numbered in the order of their first words. A number counts within one video: nobody is recognised in
    another. The first characters of the ID are enough. With --json, one object for each speaker, on a line of its own.
    """
    if server is not None and data is not None:
        raise click.UsageError("give --data or --server, not both")
    from serve.text import to_json

    if server is not None:
        listed = _on_server(video_id, names, server, data, config)
    else:
        listed = _in_library(video_id, names, data, config)
    if not listed:
        click.echo(
            "kinodex: its speakers are not told apart: set speech.speakers = true, and run kinodex reindex", err=True
        )
    if as_json:
        for speaker in listed:
            click.echo(to_json(_speaker_json(speaker)))
    elif listed:
        _show_speakers(listed)


def _on_server(
    video_id: str, names: Sequence[tuple[int, str]], server: str, data: Path | None, config: Path | None
) -> "list[Speaker]":
    from serve.client.client import Client

    _, settings = load_library_settings(data, config, is_local=False)
    with Client(server, settings.client) as client:
        for number, name in names:
            client.name_speaker(video_id, number, name)
        return client.speakers(video_id)


def _in_library(
    video_id: str, names: Sequence[tuple[int, str]], data: Path | None, config: Path | None
) -> "list[Speaker]":
    from serve.catalog.catalog import Catalog
    from serve.catalog.speech.speakers import read_speakers

    directory, settings = load_library_settings(data, config)
    if not names:
        with contextlib.closing(Catalog.open_reader(directory)) as reader:
            return read_speakers(reader, reader.video(video_id).row)
    with (
        contextlib.closing(Catalog.open_editor(directory)) as catalog,
        audited(settings.server, "kinodex speakers") as subject,
    ):
        video = catalog.video(video_id)
        subject.add(collection=video.collection, name=video.video_id)
        for number, name in names:
            catalog.name_speaker(video, number, name)
        return read_speakers(catalog, video.row)


def _speaker_json(speaker: "Speaker") -> dict[str, object]:
    from serve.cli.render import TIME_DIGITS

    return {
        "number": speaker.number,
        "name": speaker.name or None,
        "utterances": speaker.utterance_count,
        "speech_seconds": round(speaker.speech_seconds, TIME_DIGITS),
        "start_seconds": round(speaker.start_seconds, TIME_DIGITS),
    }


def _show_speakers(listed: "Sequence[Speaker]") -> None:
    from rich.console import Console
    from rich.table import Table

    from serve.text import clock, printable

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("SPEAKER", "NAME", "FROM", "SPEAKS", "UTTERANCES"):
        table.add_column(column, justify="left" if column == "NAME" else "right")
    for speaker in listed:
        table.add_row(
            str(speaker.number),
            printable(speaker.name),
            clock(speaker.start_seconds),
            clock(round(speaker.speech_seconds)),
            str(speaker.utterance_count),
        )
    Console().print(table)
