"""`kinodex doctor --server`: the state of a running server."""

import time
from dataclasses import asdict
from pathlib import Path

import click

from serve.cli.options import load_library_settings
from serve.overview import CheckResult, ServerInfo


def show_server(server: str, as_json: bool, config: Path | None) -> list[CheckResult]:
    """Print the state of a server, and return its checks."""
    from serve.cli.doctor import show_results
    from serve.client.client import Client
    from serve.text import to_json

    _, settings = load_library_settings(None, config, is_local=False)
    with Client(server, settings.client) as client:
        info = client.server_info()
    if as_json:
        click.echo(to_json(asdict(info)))
    else:
        show_results([*_describe(info), *info.checks], as_json=False)
    return list(info.checks)


def _describe(info: ServerInfo) -> list[CheckResult]:
    """Return lines of what is no check: version, encoders, index and queues."""
    from serve.text import clock, plural

    rows = ", ".join(f"{count} {kind}" for kind, count in sorted(info.index_rows.items()))
    queues = (
        f"{plural(info.queued_job_count, 'job')} waiting, {info.running_job_count} running,"
        f" {info.failed_job_count} failed; {plural(info.waiting_question_count, 'question')} waiting;"
        f" {plural(info.call_count, 'call')} in progress; {info.spool_bytes / 1e6:.1f} MB of uploads"
    )
    for sink, count in sorted(info.pending_events.items()):
        queues += f"; {plural(count, 'event change')} not delivered to {sink}"
    encoders = ", ".join(f"{each.kind} {each.name}" for each in info.encoders)
    running = clock(max(0.0, time.time() - info.started_time))
    return [
        CheckResult(name=name, state="ok", detail=detail)
        for name, detail in (
            ("server", f"kinodex {info.version}, running for {running}"),
            ("encoders", f"{encoders} ({info.fingerprint})"),
            ("index", f"{plural(info.video_count, 'video')}; vectors: {rows}"),
            ("queues", queues),
        )
    ]
