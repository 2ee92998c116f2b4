"""`kinodex streams` and `kinodex dead-letters`: what workers do with the records on Kafka."""

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from serve.cli.audit import audited
from serve.cli.kafka import kafka_options, load_kafka_settings
from serve.cli.options import json_option
from serve.cli.overview.jobs import print_server_streams

if TYPE_CHECKING:
    from serve.codec.dead_letters import DeadLetter


@click.command(
    epilog="""\b
Examples:
  kinodex streams --kafka broker:9092
  kinodex streams --json | jq -r 'select(.last_error? != "") | .stream'
  kinodex streams --server localhost:8970     how old what the server answers from is

\b
Each stream has its state, its lag, how far it is final, when its worker last stored its state, and its newest dead
letter. The lag counts records of the stream's partition, from the first one that it still needs. A stream that no
worker has begun is not listed, and its records count as waiting in their partition."""
)
@click.option("--server", metavar="ADDR", help="List what this server has of them instead; as in `kinodex moments`.")
@json_option
@kafka_options
def streams(server: str | None, as_json: bool, servers: str | None, config: Path | None) -> None:
    """List the streams on Kafka: state, lag, watermark, last error.

    With --json, one object for each stream, and for each partition with a lag, on a line of its own.
    """
    if server is not None:
        if servers is not None:
            raise click.UsageError("give --kafka or --server, not both")
        print_server_streams(server, as_json, config)
        return
    settings = load_kafka_settings(servers, config)
    from serve.text import clock, plural, printable, to_json
    from serve.worker.stream_states import load_overview

    overview = load_overview(settings)
    if as_json:
        for fields in (*map(dataclasses.asdict, overview.streams), *map(dataclasses.asdict, overview.partitions)):
            click.echo(to_json(fields))
        return
    width = max((len(printable(state.stream)) for state in overview.streams), default=0)
    for state in overview.streams:
        final = "unknown" if state.watermark_seconds is None else clock(state.watermark_seconds)
        age = clock(max(0.0, time.time() - state.updated_seconds))
        line = (
            f"{printable(state.stream):<{width}}  {state.state:<5}  lag {state.lag}  final to {final} of"
            f" {clock(state.taken_seconds)}  stored {age} ago"
        )
        click.echo(line + (f"  last error: {printable(state.last_error)}" if state.last_error else ""))
    for lag in overview.partitions:
        click.echo(f"{lag.topic}/{lag.partition}: {plural(lag.lag, 'record')} that no worker has finished")
    if not overview.streams:
        click.echo("no worker has begun a stream", err=True)


@click.group("dead-letters")
def dead_letters() -> None:
    """List, show and retry the records that workers could not use."""


@dead_letters.command("list")
@click.option("--reason", metavar="REASON", help="Only letters of this reason, such as SOURCE_REFUSED.")
@json_option
@kafka_options
def list_letters(reason: str | None, as_json: bool, servers: str | None, config: Path | None) -> None:
    """List the dead letters, the oldest record first.

    Letters that were sent again are left out. With --json, one object for each letter, on a line of its own.
    """
    from serve.text import printable, to_json

    for letter in _load(servers, config, (), reason):
        if as_json:
            click.echo(to_json(_to_json(letter)))
            continue
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(letter.append_seconds))
        line = f"{letter.letter_id}  {at}  {letter.stream}  {letter.reason}  {letter.message}"
        click.echo(printable(line))


@dead_letters.command("show")
@click.argument("letter_id", metavar="ID")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", help="Write the media of a chunk, else the whole record."
)
@json_option
@kafka_options
def show_letter(letter_id: str, out: Path | None, as_json: bool, servers: str | None, config: Path | None) -> None:
    """Show one dead letter: ID is its "topic/partition/offset"."""
    from serve.text import printable, to_json

    [letter] = _load(servers, config, (letter_id,), None)
    fields = _to_json(letter)
    if as_json:
        click.echo(to_json(fields))
    else:
        width = max(map(len, fields))
        for name, value in fields.items():
            click.echo(f"{name:<{width}}  {printable(str(value))}")
    if out is not None:
        out.write_bytes(_content(letter))


@dead_letters.command(
    "retry",
    epilog="""\b
Examples:
  kinodex dead-letters retry --reason SOURCE_REFUSED      after the workers' source.file_roots were corrected
  kinodex dead-letters retry kinodex.sources/3/17

\b
A whole file is indexed as if it were sent for the first time. A chunk of a stream that has gone on is dropped: its gap
stays. A record that cannot be used is a new dead letter.""",
)
@click.argument("letter_ids", metavar="[ID]...", nargs=-1)
@click.option("--reason", metavar="REASON", help="All letters of this reason.")
@json_option
@kafka_options
@click.pass_context
def retry_letters(
    ctx: click.Context,
    letter_ids: tuple[str, ...],
    reason: str | None,
    as_json: bool,
    servers: str | None,
    config: Path | None,
) -> None:
    """Send the records of dead letters to the workers again.

    Exit status: 0 all were sent; 1 some cannot be sent again.
    """
    if not letter_ids and reason is None:
        raise click.UsageError("give IDs, or --reason")
    letters = _load(servers, config, letter_ids, reason)
    settings = load_kafka_settings(servers, config)
    from serve.text import printable, to_json
    from serve.worker.dead_letters import check_retry, retry_dead_letters

    problems = {letter.letter_id: check_retry(letter, settings.kafka) for letter in letters}
    with audited(settings.server, "kinodex dead-letters retry") as subject:
        wanted = [letter for letter in letters if not problems[letter.letter_id]]
        for letter in wanted:
            subject.add(name=letter.letter_id)
        retry_dead_letters(settings.kafka, wanted)
    for letter_id, problem in problems.items():
        if as_json:
            click.echo(to_json({"id": letter_id, "sent": not problem, "problem": problem}))
        else:
            click.echo(printable(f"{letter_id}  {problem or 'sent'}"))
    ctx.exit(1 if any(problems.values()) else 0)


def _load(
    servers: str | None, config: Path | None, letter_ids: tuple[str, ...], reason: str | None
) -> "list[DeadLetter]":
    settings = load_kafka_settings(servers, config)
    from serve.worker.dead_letters import load_dead_letters, select

    try:
        return select(load_dead_letters(settings.kafka), letter_ids, reason)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _to_json(letter: "DeadLetter") -> dict[str, Any]:
    """Return what is shown of a letter; no media, and no secrets of its URI."""
    from ingest.source.source import display_uri
    from serve.worker.dead_letters import media_uri

    uri = media_uri(letter)
    return {
        "id": letter.letter_id,
        "stream": letter.stream,
        "uri": display_uri(uri) if uri else "",
        "append_time": letter.append_seconds,
        "byte_count": len(letter.value),
        "reason": letter.reason,
        "message": letter.message,
    }


def _content(letter: "DeadLetter") -> bytes:
    from serve.worker.dead_letters import media_of

    return media_of(letter) or letter.value
