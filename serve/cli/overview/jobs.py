"""`kinodex jobs`: the videos that a server has to index, and `kinodex streams --server`."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from serve.cli.options import json_option, library_options, load_library_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from serve.overview import JobStatus, StreamStatus

PAGE_SIZE = 1_000  # jobs that are read at once

server_option = click.option("--server", metavar="ADDR", help="Ask this server; as in `kinodex moments`.")


@click.group()
def jobs() -> None:
    """List and cancel the jobs of a server: videos that wait or are being indexed, or that failed."""


@jobs.command("list")
@server_option
@click.option("--collection", metavar="C", help="List only this collection.")
@click.option("--own", is_flag=True, help="List only what the caller's own token asked for; needs --server.")
@json_option
@library_options
def list_all(
    server: str | None, collection: str | None, own: bool, as_json: bool, data: Path | None, config: Path | None
) -> None:
    """List the jobs, the oldest first.

    Jobs that failed stay for seven days. With --json, one object for each job, on a line of its own.
    """
    from serve.text import printable, to_json

    if own and server is None:
        raise click.UsageError("--own needs --server: a library has no callers")
    if server is not None and data is not None:
        raise click.UsageError("give --data or --server, not both")
    job = None
    for job in _read_jobs(server, collection, own, data, config):
        if as_json:
            click.echo(to_json(asdict(job)))
            continue
        said = f"{job.failure_reason}: {job.failure_message}" if job.failure_reason else f"{100 * job.progress:.0f} %"
        parts = (job.video_id, job.collection, job.uri, said if job.state != "QUEUED" else "")
        click.echo("  ".join((f"{job.state.lower():7}", *(printable(part) for part in parts if part))))
    if job is None:
        click.echo("no job waits, runs, or failed within seven days", err=True)


@jobs.command()
@click.argument("video_id", metavar="ID")
@click.option("--server", metavar="ADDR", required=True, help="The server; as in `kinodex moments`.")
@click.option("--collection", metavar="C", default="", help="The video's collection, where several have the ID.")
@library_options
def cancel(video_id: str, server: str, collection: str, data: Path | None, config: Path | None) -> None:
    """End the job of a video, or forget one that failed.

    ID is the whole id. A version of the video that answers already stays.
    """
    if data is not None:
        raise click.UsageError("give --server only: it has the jobs")
    from serve.client.client import Client
    from serve.text import printable

    _, settings = load_library_settings(data, config, is_local=False)
    with Client(server, settings.client) as client:
        client.cancel_job(video_id, collection)
    click.echo(f"cancelled  {printable(video_id)}")


def _read_jobs(
    server: str | None, collection: str | None, own: bool, data: Path | None, config: Path | None
) -> "Iterator[JobStatus]":
    directory, settings = load_library_settings(data, config, is_local=server is None)
    if server is not None:
        from serve.client.client import Client

        with Client(server, settings.client) as client:
            yield from client.jobs(collection or "", own=own)
        return
    from serve.catalog.catalog import Catalog
    from serve.indexing.job_list import list_jobs

    with Catalog.open_reader(directory) as catalog:
        after, only = 0, None if collection is None else (collection,)
        while page := list_jobs(catalog, only, caller="", own=False, after=after, limit=PAGE_SIZE):
            yield from (job for _, job in page)
            after = page[-1][0]


def print_server_streams(server: str, as_json: bool, config: Path | None) -> None:
    """Print the live streams that a server knows, with those that have ended."""
    from serve.client.client import Client
    from serve.text import to_json

    _, settings = load_library_settings(None, config, is_local=False)
    with Client(server, settings.client) as client:
        stream = None
        for stream in client.streams(include_ended=True):
            click.echo(to_json(asdict(stream)) if as_json else _describe_stream(stream))
    if stream is None:
        click.echo("the server has no live stream", err=True)


def _describe_stream(stream: "StreamStatus") -> str:
    from serve.text import clock, printable

    name = printable(f"{stream.collection}/{stream.stream_id}")
    final = stream.end_seconds if stream.watermark_seconds is None else stream.watermark_seconds
    parts = [
        name,
        f"{'ended' if stream.is_ended else 'live':5}",
        f"final to {clock(final)} of {clock(stream.end_seconds)}",
    ]
    if stream.lag_seconds is not None:
        parts.append(f"lag {clock(stream.lag_seconds)}")
    if stream.updated_time is not None:
        parts.append(f"read {clock(max(0.0, time.time() - stream.updated_time))} ago")
    if stream.last_error:
        parts.append(f"last error: {printable(stream.last_error)}")
    return "  ".join(parts)
