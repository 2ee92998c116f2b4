"""Lists the jobs of a catalog in the order in which they came, as their callers see them."""

import json
from collections.abc import Sequence

from serve.catalog.catalog import Catalog
from serve.indexing.job import Job
from serve.indexing.jobs import JOB_FIELDS, job_of
from serve.overview import JobStatus


def list_jobs(
    catalog: Catalog, collections: Sequence[str] | None, *, caller: str, own: bool, after: int, limit: int
) -> list[tuple[int, JobStatus]]:
    """Return the first jobs behind a job id, the oldest first, each with its id.

    Args:
        collections: Only of these; None: of all.
        caller: Who asks; empty: nobody is known.
        own: Whether to leave out the jobs of other callers.
        after: Only jobs of higher ids; 0: from the first on.
    """
    # CROSS JOIN: SQLite reads the rows of the named collections only, so that the time does not tell what others have.
    named = "" if collections is None else "(SELECT value AS name FROM json_each(?2)) CROSS JOIN "
    condition = "true" if collections is None else "collection = name"
    rows = catalog.select(
        f"SELECT {JOB_FIELDS} FROM {named}jobs WHERE {condition} AND id > ?1 AND (NOT ?3 OR caller = ?4)"
        " ORDER BY id LIMIT ?5",
        after, json.dumps(collections), own, caller, limit,
    )  # fmt: skip
    return [(job.job_id, job_status(job, caller)) for job in map(job_of, rows)]


def job_status(job: Job, caller: str) -> JobStatus:
    """Return a job as a caller sees it."""
    return JobStatus(
        video_id=job.video_id,
        collection=job.collection,
        uri=job.display_uri,
        state=job.state.value,
        progress=job.progress,
        failure_reason=job.failure_reason,
        failure_message=job.failure_message,
        attempt_count=job.attempt_count,
        created_time=job.created_time,
        changed_time=job.changed_time,
        is_own=job.caller == caller,
    )
