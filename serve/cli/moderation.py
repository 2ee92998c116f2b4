"""`kinodex policies`, `kinodex rescore` and `kinodex events`: what to look for, and what was found."""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from serve.cli.failures import debug_option
from serve.cli.options import json_option, library_options, load

if TYPE_CHECKING:
    from collections.abc import Callable

    from serve.event import Event, EventFilter
    from serve.values import Video, VideoStatus

Collection = TypeVar("Collection", str, str | None)  # where any will do: "" of a server, None of a catalog


@click.command(
    epilog="""\b
Examples:
  kinodex policies                         what the starter set looks and listens for
  kinodex policies --print > mine.yaml     a copy to change; the format is explained in it
  kinodex policies mine.yaml               is it right? the first mistake comes with line and field
  kinodex rescore mine.yaml                let it hold, and score the library by it
"""
)
@click.argument("file", metavar="[FILE]", required=False, type=click.Path(path_type=Path))
@click.option("--print", "is_printed", is_flag=True, help="Print the file as it is, if it is right.")
@json_option
@debug_option
def policies(file: Path | None, is_printed: bool, as_json: bool) -> None:
    """Check a file of moderation policies; without one, show the starter set.

    The starter set is a screen and not a judge: what it finds is to be looked at by a person.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from serve.moderation.policies import STARTER, read_policies
    from serve.text import printable

    path = file or STARTER
    found = read_policies(path)
    if is_printed:
        click.echo(path.read_bytes(), nl=False)  # as it is: YAML may be UTF-16
        return
    if as_json:
        click.echo(json.dumps(asdict(found)))
        return
    table = Table("id", "label", "prompts", "terms", "enter", "leave", "action", box=None)
    for one in found.policies:
        label = escape(printable(" > ".join((*one.parents, one.label))))
        terms = len(one.says) + len(one.patterns)
        table.add_row(
            one.policy_id, label, f"{len(one.shows)} - {len(one.unlike)}", str(terms), f"{one.enter:g}",
            f"{one.leave:g}", escape(printable(one.action)),
        )  # fmt: skip
    Console().print(table)
    click.echo(f"version {found.version}: {len(found.policies)} policies, no mistakes")


@click.command(
    epilog="""\b
Examples:
  kinodex policies --print > mine.yaml     begin with the starter set
  kinodex rescore mine.yaml                these hold from now on; every stored video is scored by them
  kinodex rescore                          score what came in since, where no server does

\b
Nothing is decoded again. A server of the library takes the new policies over by itself. Events that hold
no longer are withdrawn, and who watches is told. A file with a mistake changes nothing.
"""
)
@click.argument("file", metavar="[FILE]", required=False, type=click.Path(path_type=Path))
@json_option
@library_options
def rescore(file: Path | None, as_json: bool, data: Path | None, config: Path | None) -> None:
    """Score the stored videos by the moderation policies; with FILE, let its policies hold first.

    FILE is copied to DIR/policies.yaml, which is where servers look, too.
    """
    from serve.api.warming import prepare
    from serve.catalog.sqlite import CATALOG_NAME
    from serve.cli.progress import show_bar
    from serve.moderation.moderator import rescore_library
    from serve.moderation.policies import read_policies
    from serve.moderation.policy_file import ActivePolicies
    from serve.search.library import Library
    from serve.text import plural

    directory, settings = load(data, config)
    held = ActivePolicies.of(directory, settings.server.policies)
    place = held.path
    if file is not None and settings.server.policies:
        raise click.UsageError(f"server.policies names {place}: change that file, and give none here")
    if (directory / CATALOG_NAME).exists():
        prepare(directory)  # an older catalog has no place for events
    with contextlib.closing(Library.open(directory, settings)) as library:
        if file is not None:
            read_policies(file)
            part = place.with_suffix(".part")
            part.write_bytes(file.read_bytes())
            os.replace(part, place)
        elif not place.exists():
            raise click.UsageError(f"no policies hold here: name a file of them (kinodex policies --print > {place})")
        held.refresh()
        if held.mistake is not None:
            raise held.mistake
        with show_bar("Scoring") as on_done:
            found = rescore_library(library.engine, directory, held, on_done)
    if as_json:
        click.echo(json.dumps(asdict(found)))
        _fail_if(found.failed)
        return
    if not found.video_count:
        click.echo("nothing was left to score: a server of this library was faster, or these policies held already")
    scored, total = plural(found.video_count, "video"), plural(found.event_count, "event")
    click.echo(f"{scored} scored by version {found.version}: {plural(found.change_count, 'change')}, {total} in all")
    _fail_if(found.failed)


def _fail_if(failed: dict[str, str]) -> None:
    """End with the videos that could not be scored, if there are any."""
    if failed:
        named = ", ".join(f"{video_id} ({reason})" for video_id, reason in failed.items())
        raise click.ClickException(f"not scored: {named}; the others are")


@click.command(
    epilog="""\b
Examples:
  kinodex events                                       what was found in the library here
  kinodex events --server localhost:8970 --label Fire  what a server knows
  kinodex events --server localhost:8970 --follow      and what it finds, as it does; Ctrl-C ends it
  kinodex events --json | jq -r 'select(.confidence > 0.9) | .video_id'
"""
)
@click.option("--server", metavar="ADDR", help="Ask the library of this server; as in `kinodex moments`.")
@click.option("--follow", is_flag=True, help="Go on with every change as it comes; needs --server.")
@click.option("--collection", metavar="C", help="Of this collection only.")
@click.option(
    "--video", "videos", metavar="ID", multiple=True, help="Of this video, again for more; with --follow, its whole id."
)
@click.option("--policy", "policy_ids", metavar="ID", multiple=True, help="Of this policy only; again for more.")
@click.option("--label", "labels", metavar="L", multiple=True, help="Of this label, or a kind of it; again for more.")
@click.option("--min-confidence", type=click.FloatRange(0, 1), default=0.0, help="Surer than this only: 0 to 1.")
@json_option
@library_options
def events(
    server: str | None,
    follow: bool,
    collection: str | None,
    videos: tuple[str, ...],
    policy_ids: tuple[str, ...],
    labels: tuple[str, ...],
    min_confidence: float,
    as_json: bool,
    data: Path | None,
    config: Path | None,
) -> None:
    """List the moderation events of a library, by video and time."""
    if follow and server is None:
        raise click.UsageError("--follow needs --server: without one, nothing new is found")
    if server is not None and data is not None:
        raise click.UsageError("give --data or --server, not both")
    from serve.event import EventFilter

    wanted = EventFilter(
        collections=None if collection is None else (collection,),
        video_ids=videos,
        policy_ids=policy_ids,
        labels=labels,
        min_confidence=min_confidence,
    )
    directory, settings = load(data, config, is_local=server is None)
    if server is None:
        for event in _stored(directory, wanted):
            _show(event, as_json)
        return
    from serve.client.client import Client

    with Client(server, settings.client) as client:
        if not follow:
            for event in client.events(replace(wanted, video_ids=_whole(videos, collection or "", client.video))):
                _show(event, as_json)
            return
        for event, _ in client.watch_events(wanted, on_wait=_waits):
            _show(event, as_json)


def _waits(failed: Exception) -> None:
    click.echo(f"kinodex: {failed}; waiting for it", err=True)


def _stored(directory: Path, wanted: "EventFilter") -> "Iterator[Event]":
    from serve.catalog.catalog import Catalog
    from serve.catalog.events import EventLog, event_place
    from serve.errors import CollectionNotFound

    with Catalog.open_reader(directory) as catalog:
        (collection,) = wanted.collections or (None,)
        if collection is not None and not catalog.has_collection(collection):
            raise CollectionNotFound(collection)
        wanted = replace(wanted, video_ids=_whole(wanted.video_ids, collection, catalog.video))
        log, after = EventLog(catalog), None
        while page := log.page(wanted, after, 1000):
            yield from page
            after = event_place(page[-1])


def _whole(
    names: tuple[str, ...], collection: Collection, video: "Callable[[str, Collection], Video | VideoStatus]"
) -> tuple[str, ...]:
    """Return the ids of videos that are named by them or by the beginnings of them; raises for those that are not."""
    return tuple(video(name, collection).video_id for name in names)


def _show(event: "Event", as_json: bool) -> None:
    from serve.text import printable, time_span

    if as_json:
        click.echo(json.dumps(asdict(event)))
        return
    words = " ".join(word.text for word in event.matched_words)
    label = printable(" > ".join((*event.parents, event.label)))
    span = time_span(event.start_seconds, event.end_seconds)
    click.echo(
        f"{event.state.lower():9}  {event.confidence:4.2f}  {span:>15}  {printable(event.video_id):20}  {label}"
        + (f'  "{printable(words)}"' if words else "")
        + (f"  ({printable(event.action)})" if event.action else "")
    )
