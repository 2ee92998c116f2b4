"""`kinodex policies`, `kinodex rescore` and `kinodex events`: the commands for moderation."""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from serve.cli.audit import audited
from serve.cli.options import json_option, library_options, load_library_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from serve.event import Event, EventFilter, EventReview
    from serve.moderation.active_policies import ActivePolicies
    from serve.search.library import Library
    from serve.values import Video, VideoStatus

EVENT_PAGE_SIZE = 1000  # events read at once from the catalog: few reads, and little memory
Collection = TypeVar("Collection", str, str | None)  # a collection; any of them: "" for a server, None for a catalog


@click.command(
    epilog="""\b
Examples:
  kinodex policies                         list the policies of the starter set
  kinodex policies --print > mine.yaml     make a copy to edit; its comments explain the format
  kinodex policies mine.yaml               check it; the first mistake is named with line and field
  kinodex rescore mine.yaml                use it, and score the library by it
"""
)
@click.argument("file", metavar="[FILE]", required=False, type=click.Path(path_type=Path))
@click.option("--print", "is_printed", is_flag=True, help="Print the file itself, if it has no mistakes.")
@json_option
@library_options
def policies(file: Path | None, is_printed: bool, as_json: bool, data: Path | None, config: Path | None) -> None:
    """Check and list moderation policies.

    Without FILE, list the starter set. The starter set selects what a person should look at: it does not replace that
    person.

    Pictures that the visual encoder cannot tell are off, and the list says why. The encoder is that of the library;
    without a library it is the built-in one.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from serve.moderation.policies import STARTER, read_policies
    from serve.moderation.visual_rules import visual_rule
    from serve.text import printable

    path = file or STARTER
    policy_set = read_policies(path)
    if is_printed:
        click.echo(path.read_bytes(), nl=False)  # the bytes of the file: YAML may be UTF-16
        return
    encoder, fingerprint = _find_visual_encoder(data, config)
    rules = [visual_rule(policy, encoder, fingerprint) for policy in policy_set.policies]
    states = [None if rule is None else "on" if rule.is_on else "off" for rule in rules]
    if as_json:
        listed = [
            {**asdict(policy), "visual_state": state, "visual_note": None if rule is None else rule.note}
            for policy, rule, state in zip(policy_set.policies, rules, states, strict=True)
        ]
        click.echo(json.dumps({**asdict(policy_set), "policies": listed}))
        return
    table = Table("id", "label", "prompts", "pictures", "says", "reads", "enter", "leave", "action", box=None)
    for policy, state in zip(policy_set.policies, states, strict=True):
        label = escape(printable(" > ".join((*policy.parents, policy.label))))
        said, written = len(policy.says) + len(policy.patterns), len(policy.reads) + len(policy.read_patterns)
        table.add_row(
            policy.policy_id, label, f"{len(policy.shows)} - {len(policy.unlike)}", state or "", str(said),
            str(written), f"{policy.enter:g}", f"{policy.leave:g}", escape(printable(policy.action)),
        )  # fmt: skip
    Console().print(table)
    click.echo()
    for policy, rule, state in zip(policy_set.policies, rules, states, strict=True):
        if rule is not None:
            click.echo(printable(f"{policy.policy_id}: pictures {state}: {rule.note}"))
    if "off" in states:
        click.echo(
            "Where pictures are off, only words open events. To turn them on, write `visual: on` in the policy, or\n"
            "index with a stronger visual encoder (visual.model)."
        )
    click.echo(f"version {policy_set.version}: {len(policy_set.policies)} policies, no mistakes")


def _count_off(policies: "ActivePolicies", library: "Library") -> int:
    """Count the policies whose pictures are off for the visual encoder of a library."""
    from serve.moderation.visual_rules import visual_rule

    space = library.catalog.space()
    if policies.policies is None or space is None:
        return 0
    rules = [visual_rule(policy, space.visual, space.visual_fingerprint) for policy in policies.policies.policies]
    return sum(rule is not None and not rule.is_on for rule in rules)


def _find_visual_encoder(data: Path | None, config: Path | None) -> tuple[str, str | None]:
    """Return name and fingerprint of the visual encoder of the library.

    Without a library it is the encoder that the settings name, else the built-in one, and the fingerprint is None.
    """
    from encoders.mini import NAME as MINI
    from serve.catalog.catalog import Catalog
    from serve.errors import DataDirectoryMissing

    directory, settings = load_library_settings(data, config)
    space = None
    try:
        with Catalog.open_reader(directory) as catalog:
            space = catalog.space()
    except DataDirectoryMissing:
        if data is not None:
            raise
    if space is not None:
        return space.visual, space.visual_fingerprint
    return MINI if settings.visual.model == "auto" else settings.visual.model, None


@click.command(
    epilog="""\b
Examples:
  kinodex policies --print > mine.yaml     start from the starter set
  kinodex rescore mine.yaml                use these policies from now on, and score all stored videos
  kinodex rescore                          score the videos added since; a server does this by itself

\b
Nothing is decoded again. A running server of the library loads the new policies by itself. Events that no
longer hold are withdrawn, and watching clients hear of it. A file with a mistake changes nothing.
"""
)
@click.argument("file", metavar="[FILE]", required=False, type=click.Path(path_type=Path))
@json_option
@library_options
def rescore(file: Path | None, as_json: bool, data: Path | None, config: Path | None) -> None:
    """Score stored videos by moderation policies.

    With FILE, first replace the policies of the library: FILE is copied to DIR/policies.yaml, which servers read too.
    """
    from serve.cli.progress import show_bar
    from serve.moderation.active_policies import ActivePolicies
    from serve.moderation.moderator import rescore_library
    from serve.moderation.policies import read_policies
    from serve.search.library import Library
    from serve.text import plural

    directory, settings = load_library_settings(data, config)
    policies = ActivePolicies.of(directory, settings.server.policies)
    if file is not None and settings.server.policies:
        raise click.UsageError(f"server.policies names {policies.path}: edit that file, and leave FILE out")
    with contextlib.closing(Library.open(directory, settings)) as library:
        if file is not None:
            read_policies(file)  # raises for a mistake, before anything changes
            part = policies.path.with_suffix(".part")
            part.write_bytes(file.read_bytes())
            os.replace(part, policies.path)
        elif not policies.path.exists():
            raise click.UsageError(
                f"the library has no policies: give FILE, or start from kinodex policies --print > {policies.path}"
            )
        policies.refresh()
        if policies.mistake is not None:
            raise policies.mistake
        with show_bar("Scoring") as on_done:
            result = rescore_library(library.engine, directory, policies, on_done)
        off_count = _count_off(policies, library)
    if as_json:
        click.echo(json.dumps(asdict(result)))
    else:
        if not result.video_count:
            click.echo("nothing to score: every video is already scored by these policies")
        scored, total = plural(result.video_count, "video"), plural(result.event_count, "event")
        changes = plural(result.change_count, "change")
        click.echo(f"{scored} scored by version {result.version}: {changes}, {total} in all")
        if off_count:
            click.echo(f"policies whose pictures are off: {off_count}; kinodex policies {policies.path} says why")
    if result.failed:
        videos = ", ".join(f"{video_id} ({reason})" for video_id, reason in result.failed.items())
        raise click.ClickException(f"not scored: {videos}; all other videos are scored")


@click.group(
    invoke_without_command=True,
    epilog="""\b
Examples:
  kinodex events                                       the events of a local library
  kinodex events --server localhost:8970 --label Fire  the events of a server
  kinodex events --server localhost:8970 --follow      and every change to them, until Ctrl-C
  kinodex events --review pending                      those that nobody has judged yet
  kinodex events --json | jq -r 'select(.confidence > 0.9) | .video_id'
  kinodex events review 617e9c5b2cbebd63c09f4868 --dismiss --note "a sunset"
""",
)
@click.option("--server", metavar="ADDR", help="Ask the library of this server; as in `kinodex moments`.")
@click.option("--follow", is_flag=True, help="Then print each change when it happens; needs --server.")
@click.option("--collection", metavar="C", help="List only this collection.")
@click.option(
    "--video",
    "videos",
    metavar="ID",
    multiple=True,
    help="List only this video; with --follow, its full ID. Repeatable.",
)
@click.option("--policy", "policy_ids", metavar="ID", multiple=True, help="List only this policy. Repeatable.")
@click.option(
    "--label", "labels", metavar="L", multiple=True, help="List only this label and the labels below it. Repeatable."
)
@click.option(
    "--min-confidence", metavar="X", type=click.FloatRange(0, 1), default=0.0, help="Least confidence, 0 to 1."
)
@click.option(
    "--review",
    "reviews",
    type=click.Choice(["pending", "approved", "dismissed"]),
    multiple=True,
    help="List only events that were judged so; pending: not judged. Repeatable.",
)
@json_option
@library_options
@click.pass_context
def events(
    ctx: click.Context,
    server: str | None,
    follow: bool,
    collection: str | None,
    videos: tuple[str, ...],
    policy_ids: tuple[str, ...],
    labels: tuple[str, ...],
    min_confidence: float,
    reviews: tuple[str, ...],
    as_json: bool,
    data: Path | None,
    config: Path | None,
) -> None:
    """List the moderation events of a library, by video and time; or review one."""
    if ctx.invoked_subcommand is not None:
        if any(value not in (None, False, (), 0.0) for name, value in ctx.params.items() if name != "debug"):
            raise click.UsageError(f"give options behind the word {ctx.invoked_subcommand}")
        return
    if follow and server is None:
        raise click.UsageError("--follow needs --server: only a server finds new events")
    if server is not None and data is not None:
        raise click.UsageError("give --data or --server, not both")
    from serve.event import EventFilter, ReviewState

    event_filter = EventFilter(
        collections=None if collection is None else (collection,),
        video_ids=videos,
        policy_ids=policy_ids,
        labels=labels,
        min_confidence=min_confidence,
        review_states=tuple(ReviewState(each.upper()) for each in reviews),
    )
    directory, settings = load_library_settings(data, config, is_local=server is None)
    if server is None:
        for event in _stored_events(directory, event_filter):
            _print_event(event, as_json)
        return
    from serve.client.client import Client

    with Client(server, settings.client) as client:
        if not follow:
            event_filter = replace(event_filter, video_ids=_full_ids(videos, collection or "", client.video))
            for event in client.events(event_filter):
                _print_event(event, as_json)
            return
        for event, _ in client.watch_events(event_filter, on_wait=_report_wait):
            _print_event(event, as_json)


@events.command()
@click.argument("event_id", metavar="ID")
@click.option("--server", metavar="ADDR", help="Review an event of this server; as in `kinodex moments`.")
@click.option("--approve", "verdicts", flag_value="APPROVED", multiple=True, help="It is what its policy looks for.")
@click.option("--dismiss", "verdicts", flag_value="DISMISSED", multiple=True, help="It is not, or needs nothing done.")
@click.option("--undo", "verdicts", flag_value="PENDING", multiple=True, help="Take a judgement back.")
@click.option("--note", metavar="TEXT", default="", help="A note for people, at most 1,000 characters.")
@json_option
@library_options
def review(
    event_id: str,
    server: str | None,
    verdicts: tuple[str, ...],
    note: str,
    as_json: bool,
    data: Path | None,
    config: Path | None,
) -> None:
    """Approve or dismiss an event.

    ID is the whole id, which `kinodex events --json` prints. Watching clients, Kafka and the webhook get the judgement
    as a change of the event. It stays when the library is scored again, as long as the event does.
    """
    if len(verdicts) != 1:
        raise click.UsageError("give one of --approve, --dismiss and --undo")
    if server is not None and data is not None:
        raise click.UsageError("give --data or --server, not both")
    from serve.event import ReviewState

    state = ReviewState(verdicts[0])
    directory, settings = load_library_settings(data, config, is_local=server is None)
    if server is not None:
        from serve.client.client import Client

        with Client(server, settings.client) as client:
            _print_event(client.review_event(event_id, state, note), as_json)
        return
    from serve.catalog.catalog import Catalog
    from serve.catalog.events import EventLog
    from serve.codec.events import review_request, write_review_request
    from serve.event import EventReview

    review_request(write_review_request(event_id, state, note))  # the same limits as a server's
    given = EventReview(state=state, note=note, review_time=time.time())
    with audited(settings.server, "kinodex events review") as subject, Catalog.open_editor(directory) as catalog:
        subject.add(name=event_id)
        event, _ = EventLog(catalog).review(event_id, given, lambda collection: subject.add(collection=collection))
    _print_event(event, as_json)


def _report_wait(error: Exception) -> None:
    click.echo(f"kinodex: {error}; waiting for the server", err=True)


def _stored_events(directory: Path, event_filter: "EventFilter") -> "Iterator[Event]":
    """Yield the events in the catalog of a local library, a page at a time."""
    from serve.catalog.catalog import Catalog
    from serve.catalog.events import EventLog, event_place
    from serve.errors import CollectionNotFound

    with Catalog.open_reader(directory) as catalog:
        (collection,) = event_filter.collections or (None,)
        if collection is not None and not catalog.has_collection(collection):
            raise CollectionNotFound(collection)
        event_filter = replace(event_filter, video_ids=_full_ids(event_filter.video_ids, collection, catalog.video))
        log, after = EventLog(catalog), None
        while page := log.page(event_filter, after, EVENT_PAGE_SIZE):
            yield from page
            after = event_place(page[-1])


def _full_ids(
    prefixes: tuple[str, ...], collection: Collection, video: "Callable[[str, Collection], Video | VideoStatus]"
) -> tuple[str, ...]:
    """Complete the ids of videos, each given by its first characters, by which `video` finds it."""
    return tuple(video(prefix, collection).video_id for prefix in prefixes)


def _print_event(event: "Event", as_json: bool) -> None:
    from serve.text import printable, time_span

    if as_json:
        click.echo(json.dumps(asdict(event)))
        return
    words = " ".join(word.text for word in event.matched_words)
    label = printable(" > ".join((*event.parents, event.label)))
    span = time_span(event.start_seconds, event.end_seconds)
    click.echo(
        f"{event.state.lower():9}  {event.confidence:4.2f}  {span:>15}  {printable(event.video_id):20}  {label}"
        + (f'  {"written " if event.channel == "text" else ""}"{printable(words)}"' if words else "")
        + (f"  ({printable(event.action)})" if event.action else "")
        + ("" if event.review is None else f"  {_describe_review(event.review)}")
    )


def _describe_review(review: "EventReview") -> str:
    from serve.text import printable

    by = f" by {printable(review.reviewer)}" if review.reviewer else ""
    return f"{review.state.lower()}{by}" + (f": {printable(review.note)}" if review.note else "")
