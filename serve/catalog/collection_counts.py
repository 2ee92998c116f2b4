"""Counts what each collection of a catalog holds."""

import json
from collections.abc import Sequence

from serve.catalog.catalog import Catalog
from serve.catalog.reader import DEFAULT_COLLECTION
from serve.overview import CollectionSummary

# Jumps from name to name in the index, past all videos of a collection.
NEXT_NAMES = """
    WITH RECURSIVE names (name) AS (
        SELECT min(collection) FROM videos WHERE state = 'READY' AND collection > ?1
        UNION ALL
        SELECT (SELECT min(collection) FROM videos WHERE state = 'READY' AND collection > name)
        FROM names WHERE name IS NOT NULL LIMIT ?2)
    SELECT name FROM names WHERE name IS NOT NULL
    UNION SELECT * FROM (SELECT DISTINCT collection FROM jobs WHERE collection > ?1 ORDER BY collection LIMIT ?2)
    ORDER BY 1 LIMIT ?2"""
# CROSS JOIN: SQLite reads the rows of the named collections only, so that the time does not tell what others hold.
VIDEO_COUNTS = """
    SELECT value, count(*), sum(live AND NOT ended), sum(duration_seconds), sum(size_bytes)
    FROM json_each(?) CROSS JOIN videos ON collection = value AND state = 'READY' GROUP BY value"""
JOB_COUNTS = """
    SELECT value, sum(state != 'FAILED'), sum(state = 'FAILED')
    FROM json_each(?) CROSS JOIN jobs ON collection = value GROUP BY value"""


def count_collections(
    catalog: Catalog, collections: Sequence[str] | None, *, after: str, limit: int
) -> list[CollectionSummary]:
    """Return the first collections behind a name, by name, with what they hold.

    Args:
        collections: Only these, whether or not they hold anything; None: all, and the default collection.
        after: Only collections behind this name; empty: from the first on.
    """
    with catalog.snapshot():
        if collections is None:
            names = {name for (name,) in catalog.select(NEXT_NAMES, after, limit)} | {DEFAULT_COLLECTION}
        else:
            names = set(collections)
        chosen = sorted(name for name in names if name > after)[:limit]
        wanted = json.dumps(chosen)
        videos = {name: counts for name, *counts in catalog.select(VIDEO_COUNTS, wanted)}
        jobs = {name: counts for name, *counts in catalog.select(JOB_COUNTS, wanted)}
    summaries = []
    for name in chosen:
        video_count, live_count, duration_seconds, size_bytes = videos.get(name, (0, 0, 0.0, 0))
        processing_count, failed_count = jobs.get(name, (0, 0))
        summaries.append(
            CollectionSummary(
                collection=name,
                video_count=video_count,
                live_count=live_count,
                processing_count=processing_count,
                failed_count=failed_count,
                duration_seconds=duration_seconds,
                live_size_bytes=size_bytes,
            )
        )
    return summaries
