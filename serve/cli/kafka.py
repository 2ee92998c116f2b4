"""`kinodex publish`, `kinodex worker` and `kinodex topics`: live streams over Kafka."""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from serve.cli.failures import debug_option
from serve.cli.options import Function, config_option, json_option

if TYPE_CHECKING:
    from serve.settings import Settings


def kafka_options(command: Function) -> Function:
    """Add the options of every command that works on Kafka."""
    for option in (
        debug_option,
        config_option("$KINODEX_CONFIG"),
        click.option(
            "--kafka", "servers", metavar="SERVERS", help="HOST:PORT,... of the brokers.  [default: kafka.servers]"
        ),
    ):
        command = option(command)
    return command


def load(servers: str | None, config: Path | None) -> "Settings":
    """Read the settings, with the brokers that the command names."""
    from serve.settings import load_settings, with_kafka_servers

    settings = with_kafka_servers(load_settings(None, config), servers)
    if not settings.kafka.servers:
        raise click.UsageError("which Kafka? give --kafka HOST:PORT, or set kafka.servers")
    return settings


@click.command(
    epilog="""\b
Examples:
  kinodex publish rtsp://camera.local/stream --stream front-door
  kinodex publish lecture.mp4 --stream lecture --realtime
  kinodex publish https://example.org/live.m3u8 --stream news --collection tv
  kinodex publish https://example.org/talk.mp4 --whole --stream talk

\b
The media is cut at keyframes and never transcoded. A network source that fails is tried again for ever.
Exit status: 0 the source has ended, or it was stopped; 1 it could not be published."""
)
@click.argument("source", metavar="SOURCE")
@click.option("--stream", "stream_id", metavar="ID", required=True, help="What the stream, and its video, is called.")
@click.option("--collection", metavar="C", default="default", show_default=True, help="Put it there.")
@click.option("--realtime", is_flag=True, help="Send a file as slowly as it plays.")
@click.option("--whole", is_flag=True, help="Send only where the file is: a worker fetches and indexes it.")
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
    """Send a live stream, or a file as if it were one, to the workers.

    SOURCE is anything that FFmpeg opens: a file, RTSP, HLS, UDP. With --json, one object a line for each chunk.
    """
    if whole and realtime:
        raise click.UsageError("--whole and --realtime exclude each other")
    settings = load(servers, config)
    from serve.worker import publisher as publishing

    if whole:
        publishing.publish_whole(settings, source, collection=collection, video_id=stream_id)
        return
    sys.exit(
        publishing.publish(
            settings, source, collection=collection, stream_id=stream_id, realtime=realtime, as_json=as_json
        )
    )


@click.command(
    epilog="""\b
Examples:
  kinodex worker --kafka broker:9092
  KINODEX_WORKER_METRICS_LISTEN=127.0.0.1:9100 kinodex worker --kafka broker:9092

\b
Run as many as you like: they share the partitions. One that is killed loses nothing; another goes on.
Exit status: 0 after SIGTERM or Ctrl-C; 1 it could not start, or the broker was away for too long."""
)
@kafka_options
def worker(servers: str | None, config: Path | None) -> None:
    """Turn what is published into segments: decode, encode, transcribe.

    Prints a line when it is ready; logs go to standard error.
    """
    settings = load(servers, config)
    from serve.observe.logs import log_to_stderr
    from serve.worker.worker import run_worker

    log_to_stderr()

    def announce(line: str) -> None:
        click.echo(line)
        sys.stdout.flush()  # whoever started us may be waiting for this line in a pipe

    run_worker(settings, announce)


@click.command(
    epilog="""\b
Examples:
  kinodex topics --kafka broker:9092
  KINODEX_KAFKA_PARTITION_COUNT=48 kinodex topics --kafka broker:9092"""
)
@json_option
@kafka_options
@click.pass_context
def topics(ctx: click.Context, as_json: bool, servers: str | None, config: Path | None) -> None:
    """Create the Kafka topics that are missing, and say which are not as they should be."""
    settings = load(servers, config)
    from ingest.kafka import create_topics
    from serve.text import to_json

    outcomes = create_topics(settings.kafka)
    width = max(len(outcome.name) for outcome in outcomes)
    for outcome in outcomes:
        if as_json:
            click.echo(to_json(dataclasses.asdict(outcome)))
            continue
        click.echo(f"{outcome.name:<{width}}  {outcome.state}  {'; '.join(outcome.differences)}".rstrip())
    ctx.exit(1 if any(outcome.state == "differs" for outcome in outcomes) else 0)
