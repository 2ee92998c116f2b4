"""`kinodex list --collections`: the collections of a library, and what they hold."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from serve.cli.options import load_library_settings

if TYPE_CHECKING:
    from serve.overview import CollectionSummary

PAGE_SIZE = 1_000  # collections that are read at once


def list_collections(data: Path | None, config: Path | None, as_json: bool) -> None:
    """Print the collections of a library by name, with the values of --data and --config."""
    from serve.catalog.catalog import Catalog
    from serve.catalog.collection_counts import count_collections
    from serve.text import to_json

    directory, _ = load_library_settings(data, config)
    with Catalog.open_reader(directory) as catalog:
        after = ""
        while page := count_collections(catalog, None, after=after, limit=PAGE_SIZE):
            for summary in page:
                click.echo(to_json(asdict(summary)) if as_json else _describe(summary))
            after = page[-1].collection


def _describe(summary: "CollectionSummary") -> str:
    from serve.text import clock, plural, printable

    parts = [plural(summary.video_count, "video"), clock(summary.duration_seconds)]
    if summary.live_count:
        parts.append(f"{summary.live_count} live")
    if summary.live_size_bytes:
        parts.append(f"{summary.live_size_bytes >> 20} MiB of live streams")
    if summary.processing_count:
        parts.append(f"{summary.processing_count} being indexed")
    if summary.failed_count:
        parts.append(f"{summary.failed_count} failed")
    return f"{printable(summary.collection)}  {', '.join(parts)}"
