"""`kinodex publish`, `worker`, `topics` and `retention`: the commands for live streams over Kafka."""

import dataclasses
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from serve.cli.audit import audited
from serve.cli.failures import debug_option
from serve.cli.options import Function, config_option, json_option

if TYPE_CHECKING:
    from serve.settings import Settings


def kafka_options(command: Function) -> Function:
    """Add the options of every command for Kafka."""
    for option in (
        debug_option,
        config_option("$KINODEX_CONFIG"),
        click.option(
            "--kafka", "servers", metavar="SERVERS", help="Kafka's brokers, HOST:PORT,...  [default: kafka.servers]"
        ),
    ):
        command = option(command)
    return command


def load_kafka_settings(servers: str | None, config: Path | None) -> "Settings":
    """Read the settings, with the brokers of --kafka."""
    from serve.settings import load_settings, with_kafka_servers

    settings = with_kafka_servers(load_settings(None, config), servers)
    if not settings.kafka.servers:
        raise click.UsageError("no Kafka broker: give --kafka HOST:PORT, or set kafka.servers")
    return settings


@click.command(
    epilog="""\b
Examples:
  kinodex publish rtsp://camera.local/stream --stream front-door
  kinodex publish lecture.mp4 --stream lecture --realtime
  kinodex publish https://example.org/live.m3u8 --stream news --collection tv
  kinodex publish https://example.org/talk.mp4 --whole --stream talk
  kinodex publish /srv/films/talk.mp4 --whole --stream talk

\b
The media is cut at keyframes and never transcoded. A live source that fails is opened again, without a limit; an HLS
playlist with an end is the end. With --whole, workers read a path below their source.file_roots.
Exit status: 0 the source ended, or the command was stopped; 1 the source could not be published."""
)
@click.argument("source", metavar="SOURCE")
@click.option("--stream", "stream_id", metavar="ID", required=True, help="Name of the stream, and ID of its video.")
@click.option("--collection", metavar="C", default="default", show_default=True, help="Collection for the video.")
@click.option("--realtime", is_flag=True, help="Send a file no faster than it plays.")
@click.option("--whole", is_flag=True, help="Send only the file's address: a worker fetches and indexes it.")
@json_option
@kafka_options
def publish(
    source: str,
    stream_id: str,
    collection: str,
    realtime: bool,
    whole: bool,
    as_json: bool,
    servers: str | None,
    config: Path | None,
) -> None:
    """Send a stream or a file to the workers.

    SOURCE is anything that FFmpeg opens: a file, RTSP, RTMP, HLS, UDP. With --json, one object for each chunk, on a
    line of its own.
    """
    if whole and realtime:
        raise click.UsageError("give --whole or --realtime, not both")
    settings = load_kafka_settings(servers, config)
    from serve.worker.publisher import publish_file, publish_stream

    if whole:
        publish_file(settings, source, collection=collection, video_id=stream_id)
    else:
        publish_stream(settings, source, collection=collection, stream_id=stream_id, realtime=realtime, as_json=as_json)


@click.command(
    epilog="""\b
Examples:
  kinodex worker --kafka broker:9092
  KINODEX_WORKER_METRICS_LISTEN=127.0.0.1:9100 kinodex worker --kafka broker:9092

\b
Run any number of workers: they share the streams. If a worker is killed, the others take over, and nothing is lost.
Exit status: 0 after SIGTERM or Ctrl-C; 1 it could not start, or Kafka was unreachable for too long."""
)
@kafka_options
def worker(servers: str | None, config: Path | None) -> None:
    """Decode, encode and transcribe streams.

    Reads what `kinodex publish` sends, and publishes the segments that servers read. Prints a line when it is ready.
    Logs go to standard error.
    """
    settings = load_kafka_settings(servers, config)
    from serve.observe.logs import log_to_stderr
    from serve.worker.worker import run_worker

    log_to_stderr()

    def announce(line: str) -> None:
        click.echo(line)
        sys.stdout.flush()  # a parent process may wait for this line in a pipe

    run_worker(settings, announce)


@click.command(
    epilog="""\b
Examples:
  kinodex topics --kafka broker:9092
  KINODEX_KAFKA_PARTITION_COUNT=48 kinodex topics --kafka broker:9092
  kinodex topics --grow 48 --kafka broker:9092"""
)
@click.option(
    "--grow", "partition_count", type=click.IntRange(min=1), metavar="N", help="Let the work have N partitions."
)
@json_option
@kafka_options
@click.pass_context
def topics(
    ctx: click.Context, partition_count: int | None, as_json: bool, servers: str | None, config: Path | None
) -> None:
    """Create the Kafka topics, and check them.

    Missing topics are created. Topics with other settings than expected are listed, and stay as they are. --grow adds
    partitions to the topics of chunks, sources and checkpoints, so that more workers can share new streams. Do it while
    workers run: it waits until they have begun every stream, or changes nothing.
    Exit status: 0 all topics are right; 1 a topic differs, or cannot grow now.
    """
    settings = load_kafka_settings(servers, config)
    from ingest.kafka import create_topics
    from serve.text import to_json
    from serve.worker.growth import grow

    if partition_count is None:
        outcomes = create_topics(settings.kafka)
    else:
        try:
            outcomes = grow(settings, partition_count, partial(click.echo, err=True))
        except ValueError as error:
            raise click.UsageError(str(error)) from error
        click.echo(
            "Streams that run go on where they began: what arrives in another partition is passed on. New streams use"
            f" all partitions within a minute. Set kafka.partition_count to {partition_count}.",
            err=True,
        )
    width = max(len(outcome.name) for outcome in outcomes)
    for outcome in outcomes:
        if as_json:
            click.echo(to_json(dataclasses.asdict(outcome)))
            continue
        click.echo(f"{outcome.name:<{width}}  {outcome.state}  {'; '.join(outcome.differences)}".rstrip())
    ctx.exit(1 if any(outcome.state == "differs" for outcome in outcomes) else 0)


@click.command(
    epilog="""\b
Examples:
  kinodex retention --kafka broker:9092
  kinodex retention cams=7d default=30d,50GiB --kafka broker:9092
  kinodex retention --forever --kafka broker:9092

\b
Ages have the unit s, m, h, d or w, and are counted by the brokers' clock. Sizes are KiB to TiB, for all live
videos of a collection together. * stands for every collection that is not named. A server can remove its own
copy earlier: server.retention."""
)
@click.argument("limits", metavar="[COLLECTION=LIMIT]...", nargs=-1)
@click.option("--forever", is_flag=True, help="Keep everything.")
@json_option
@kafka_options
def retention(limits: tuple[str, ...], forever: bool, as_json: bool, servers: str | None, config: Path | None) -> None:
    """Show or set how long all servers and Kafka keep live videos.

    New limits replace all earlier ones. Every server removes what is over them, here and in Kafka, for good.
    """
    if limits and forever:
        raise click.UsageError("give limits or --forever, not both")
    settings = load_kafka_settings(servers, config)
    from serve.config import parse_retention
    from serve.live.cluster_retention import load_limits, store_limits
    from serve.text import to_json

    try:
        parse_retention(limits)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if limits or forever:
        with audited(settings.server, "kinodex retention") as subject:
            for limit in limits or ("--forever",):
                subject.add(name=limit)
            store_limits(settings.kafka, limits)
    else:
        limits = load_limits(settings.kafka)
    if as_json:
        click.echo(to_json({"limits": list(limits)}))
    else:
        click.echo("\n".join(limits) or "everything is kept")
