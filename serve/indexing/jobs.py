"""JobQueue: the videos that wait to be indexed, and the requests that were answered, in tables of the catalog.

The server adds and removes jobs, a job worker does them. A job and its video never contradict each other:
1. submit() makes a QUEUED job, and stores the request in the same transaction.
2. claim() makes it RUNNING. Only the holder of the writer's lock calls it. So RUNNING jobs that this process did not
   claim belong to a process that died, and requeue_running() makes them QUEUED again.
3. Catalog.finish(job_id=...) makes the video READY and removes the job, in one transaction; or fail() makes it FAILED.
A job that was cancelled, deleted or replaced after step 2 is not RUNNING any more: step 3 then finds no job to end, and
its video does not become visible.
"""

import json
import sqlite3
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from serve.catalog.catalog import Catalog
from serve.catalog.fetch_uris import load_uri, remove_unnamed, store_uri
from serve.catalog.rows import metadata_json, uri_bytes, uri_of
from serve.config import NO_QUOTAS, Quotas
from serve.errors import Overloaded, QuotaExceeded, RequestIdReused, WorkerCrashed, name_of
from serve.indexing import uploads
from serve.indexing.job import Job, JobState, NewJob, QueueLimits, RequestKey
from serve.indexing.quotas import Room
from serve.indexing.turns import Turns

MAX_ATTEMPTS = 3  # a job during which the worker died this often is taken for the reason, and fails
REQUEST_SECONDS = 24 * 3600.0  # how long a repeated request gets the first answer
FAILED_SECONDS = 7 * 24 * 3600.0  # how long a FAILED job stays readable
FULL_RETRY_SECONDS = 30.0  # when to come back to a full queue: about the time until a short video is indexed
WAITING = "videos that wait to be indexed"
JOB_FIELDS = (
    "id, collection, video_id, uri_name, spool_name, display_uri, metadata, recorded_time, state, progress,"
    " failure_reason, failure_message, attempt_count, created_time, changed_time, caller"
)


class JobQueue:
    """The jobs of one catalog. Reading works with any Catalog, changes need an editor or a writer."""

    def __init__(self, catalog: Catalog, quotas: Quotas = NO_QUOTAS, *, clock: Callable[[], float] = time.time) -> None:
        self.catalog, self.room, self._clock = catalog, Room(catalog, quotas), clock
        self.spool_folder = catalog.directory / uploads.FOLDER_NAME
        self._turns = Turns()

    # ---- for the server

    def submit(
        self, new: NewJob, request: RequestKey | None = None, limits: QueueLimits | None = None
    ) -> tuple[str, str]:
        """Queue a video; return its (collection, video_id), or for a repeated request the first answer.

        A QUEUED or RUNNING job for the same bytes stays as it is. Any other job for the video is replaced. The queue
        owns an upload's file from here on, and removes it if no job needs it.

        Raises:
            RequestIdReused: If another request had the same id.
            QuotaExceeded: If the collection has no room for it.
            Overloaded: If the queue is full, by the limits.
        """
        try:
            with self.catalog.editing() as edit:
                answer = self._answer(edit, request)
                old = None
                if answer is None:
                    answer = (new.collection, new.video_id)
                    old = self.job(*answer)
                    if old is None or not self._is_underway(old, new):
                        self.room.require(*answer)
                        edit.execute("DELETE FROM jobs WHERE collection = ? AND video_id = ?", answer)
                        self.check_room(new.caller, limits)
                        self._insert(edit, new)
                        remove_unnamed(self.catalog.directory, edit)
                    self._remember(edit, request, answer)
                now = self.job(*answer)
                self._forget_old(edit)
        except (RequestIdReused, QuotaExceeded, Overloaded):
            uploads.remove(self.spool_folder, new.spool_name)
            raise
        for name in {job_spool for job_spool in (new.spool_name, old and old.spool_name) if job_spool}:
            if now is None or now.spool_name != name:
                uploads.remove(self.spool_folder, name)
        return answer

    def check_room(self, caller: str, limits: QueueLimits | None) -> None:
        """Refuse one more job if too many wait already.

        Raises:
            Overloaded: If the queue, or the caller's share of it, is full.
        """
        if limits is None:
            return
        [(total_count, caller_count)] = self.catalog.select(
            "SELECT count(*), coalesce(sum(caller = ?), 0) FROM jobs WHERE state IN ('QUEUED', 'RUNNING')", caller
        )
        if caller and caller_count >= limits.caller_count:
            raise Overloaded(WAITING, FULL_RETRY_SECONDS, "max_caller_share")
        if total_count >= limits.total_count:
            raise Overloaded(WAITING, FULL_RETRY_SECONDS, "max_jobs")

    def waiting_bytes(self, caller: str) -> int:
        """Return the size of a caller's uploads that wait to be indexed."""
        [(size_bytes,)] = self.catalog.select(
            "SELECT coalesce(sum(size_bytes), 0) FROM jobs WHERE state IN ('QUEUED', 'RUNNING') AND caller = ?", caller
        )
        return int(size_bytes)

    def delete(self, video_id: str, collection: str | None = None, request: RequestKey | None = None) -> None:
        """Remove a video and the job to index it, in one transaction. A repeated request is no error.

        Raises:
            VideoNotFound: If there is neither a video nor a job.
            VideoAmbiguous: If several collections have one, and no collection is named.
            RequestIdReused: If another request had the same id.
        """
        with self.catalog.editing() as edit:
            if self._answer(edit, request) is not None:
                return
            spooled = edit.execute(
                "SELECT spool_name FROM jobs WHERE video_id = ?1 AND (?2 IS NULL OR collection = ?2)",
                (video_id, collection),
            ).fetchall()
            owner = self.catalog.remove(edit, video_id, collection)
            remove_unnamed(self.catalog.directory, edit)
            self._remember(edit, request, (owner, video_id))
        for (name,) in spooled:  # remove() takes no more than one job
            uploads.remove(self.spool_folder, name)

    def cancel(self, collection: str, video_id: str, request: RequestKey | None = None) -> bool:
        """Remove a job, but not the video; return whether there was a job. A repeated request gets the same answer."""
        with self.catalog.editing() as edit:
            old = self.job(collection, video_id)
            edit.execute("DELETE FROM jobs WHERE collection = ? AND video_id = ?", (collection, video_id))
            remove_unnamed(self.catalog.directory, edit)
            if self._answer(edit, request) is None:
                self._remember(edit, request, (collection, video_id))
        if old is not None:
            uploads.remove(self.spool_folder, old.spool_name)
        return old is not None

    def answer(self, request: RequestKey) -> tuple[str, str] | None:
        """Return the (collection, video_id) that answered the same request before; None: the request is new.

        Raises:
            RequestIdReused: If another request had the same id.
        """
        return self._check_answer(
            request,
            self.catalog.select(
                "SELECT method, digest, collection, video_id FROM requests"
                " WHERE principal = ? AND request_id = ? AND created_time > ?",
                request.principal, request.request_id, self._clock() - REQUEST_SECONDS,
            ),
        )  # fmt: skip

    def job(self, collection: str, video_id: str) -> Job | None:
        """Return the job of a video; None: there is none."""
        rows = self.catalog.select(
            f"SELECT {JOB_FIELDS} FROM jobs WHERE collection = ? AND video_id = ?", collection, video_id
        )
        return job_of(rows[0]) if rows else None

    def jobs(
        self,
        *,
        collections: Collection[str] | None = None,
        video_id: str | None = None,
        after: tuple[str, str, str] | None = None,
        limit: int = -1,
    ) -> list[Job]:
        """Return jobs, ordered by (display_uri, collection, video_id).

        Args:
            collections: Only jobs of these collections; None: of all.
            video_id: Only jobs for a video of this id.
            after: Only jobs after this place in the order, which is the last job of the page before.
            limit: The largest number of jobs to return; negative: no limit.
        """
        uri, *names = after or (None, None, None)
        return [
            job_of(row)
            for row in self.catalog.select(
                f"SELECT {JOB_FIELDS} FROM jobs WHERE (?1 IS NULL OR collection IN (SELECT value FROM json_each(?1)))"
                " AND (?2 IS NULL OR video_id = ?2)"
                " AND (?3 IS NULL OR (display_uri, collection, video_id) > (?3, ?4, ?5))"
                " ORDER BY display_uri, collection, video_id LIMIT ?6",
                None if collections is None else json.dumps(sorted(collections)),
                video_id, None if uri is None else uri_bytes(uri), *names, limit,
            )
        ]  # fmt: skip

    def fetched_uri(self, job: Job) -> str | None:
        """Return the URI that a job fetches, with its secrets; None: it is gone, as the job has ended."""
        return job.display_uri if job.uri_name is None else load_uri(self.catalog.directory, job.uri_name)

    def counts(self) -> dict[JobState, int]:
        counts = dict.fromkeys(JobState, 0)
        counts.update((JobState(state), count) for state, count in
                     self.catalog.select("SELECT state, count(*) FROM jobs GROUP BY state"))  # fmt: skip
        return counts

    def has_work(self) -> bool:
        """Whether a job waits, runs, or was left RUNNING by a process that died."""
        return bool(self.catalog.select("SELECT 1 FROM jobs WHERE state IN ('QUEUED', 'RUNNING') LIMIT 1"))

    def spool_names(self) -> set[str]:
        """Return the names of the upload files that jobs need."""
        return {
            name
            for (name,) in self.catalog.select(
                "SELECT spool_name FROM jobs WHERE spool_name IS NOT NULL AND state != 'FAILED'"
            )
        }

    # ---- for the holder of the writer's lock

    def claim(self, *, is_alone: bool = True, max_caller_count: int | None = None) -> Job | None:
        """Make the next QUEUED job RUNNING, count the attempt, and return the job; None: no job is to begin now.

        Callers take turns, each with its oldest job: see Turns. A job that was tried before may have killed the
        process: it waits until no other job runs (`is_alone`), so that it cannot harm another. A job whose
        collection has no more hours by now fails.

        Args:
            max_caller_count: Most jobs of one caller that run at the same time; None: no limit.
        """
        if self._turns.next(self.catalog, max_caller_count) is None:  # the usual case, which needs no write transaction
            return None
        ended: list[str | None] = []
        try:
            with self.catalog.editing() as edit:
                while (job_id := self._turns.next(self.catalog, max_caller_count)) is not None:
                    job = self._job_by_id(job_id)
                    if job.attempt_count and not is_alone:
                        return None
                    try:
                        self.room.require_length(job.collection, job.video_id)
                    except QuotaExceeded as error:
                        ended += self._fail(edit, "id = ?", (job_id,), name_of(error), str(error))
                        continue
                    edit.execute(
                        "UPDATE jobs SET state = 'RUNNING', progress = 0, attempt_count = attempt_count + 1,"
                        " changed_time = ? WHERE id = ?", (self._clock(), job_id)
                    )  # fmt: skip
                    self._turns.take(job.caller)
                    return self._job_by_id(job_id)
                return None
        finally:
            self._remove_spooled(ended)

    def _job_by_id(self, job_id: int) -> Job:
        return job_of(self.catalog.select(f"SELECT {JOB_FIELDS} FROM jobs WHERE id = ?", job_id)[0])

    def set_progress(self, shares: Mapping[int, float]) -> set[int]:
        """Store the progress of jobs, 0 to 1 by job id; return the ids of the jobs that are not RUNNING any more."""
        noted = dict(
            self.catalog.select(
                "SELECT id, progress FROM jobs WHERE state = 'RUNNING' AND id IN (SELECT value FROM json_each(?))",
                json.dumps(list(shares)),
            )
        )
        changed = [(share, job_id) for job_id, share in shares.items() if noted.get(job_id, share) != share]
        if changed:  # so that a long download does not write to the disk every moment
            with self.catalog.editing() as edit:
                edit.executemany("UPDATE jobs SET progress = ? WHERE id = ? AND state = 'RUNNING'", changed)
        return shares.keys() - noted.keys()

    def fail(self, job_id: int, reason: str, message: str) -> bool:
        """Make a RUNNING job FAILED; return whether it was RUNNING."""
        with self.catalog.editing() as edit:
            self._forget_old(edit)
            spool_names = self._fail(edit, "id = ? AND state = 'RUNNING'", (job_id,), reason, message)
        self._remove_spooled(spool_names)
        return bool(spool_names)

    def fail_all(self, reason: str, message: str) -> int:
        """Make every job FAILED, as this process cannot index at all; return the number of jobs."""
        with self.catalog.editing() as edit:
            spool_names = self._fail(edit, "state IN ('QUEUED', 'RUNNING')", (), reason, message)
        self._remove_spooled(spool_names)
        return len(spool_names)

    def requeue_running(self) -> None:
        """Make RUNNING jobs of a process that died QUEUED again, or FAILED after MAX_ATTEMPTS."""
        with self.catalog.editing() as edit:
            self._forget_old(edit)
            ended: list[str | None] = []
            for row in self.catalog.select(
                f"SELECT {JOB_FIELDS} FROM jobs WHERE state = 'RUNNING' AND attempt_count >= ?", MAX_ATTEMPTS
            ):
                job = job_of(row)
                error = WorkerCrashed(job.display_uri, job.attempt_count)
                ended += self._fail(edit, "id = ?", (job.job_id,), "WORKER_CRASHED", str(error))
            edit.execute(
                "UPDATE jobs SET state = 'QUEUED', progress = 0, changed_time = ? WHERE state = 'RUNNING'",
                (self._clock(),),
            )
        self._remove_spooled(ended)

    def remove_secrets(self) -> None:
        """Remove the URIs with secrets of jobs that have ended: Catalog.finish() removes only their rows."""
        with self.catalog.editing() as edit:
            remove_unnamed(self.catalog.directory, edit)

    def release_running(self) -> None:
        """Make RUNNING jobs QUEUED again without counting the attempt, as their process stops on request."""
        with self.catalog.editing() as edit:
            edit.execute(
                "UPDATE jobs SET state = 'QUEUED', progress = 0, attempt_count = attempt_count - 1, changed_time = ?"
                " WHERE state = 'RUNNING'",
                (self._clock(),),
            )

    # ---- parts of a transaction

    def _is_underway(self, old: Job, new: NewJob) -> bool:
        """Whether a QUEUED or RUNNING job already indexes the bytes of a new job."""
        if old.state is JobState.FAILED:
            return False
        if old.spool_name is not None and new.spool_name is not None:
            return uploads.has_same_content(old.spool_name, new.spool_name)
        return old.spool_name is None and new.spool_name is None and self.fetched_uri(old) == new.uri

    def _insert(self, edit: sqlite3.Connection, new: NewJob) -> None:
        now = self._clock()
        has_secrets = new.uri != new.display_uri
        edit.execute(
            "INSERT INTO jobs (collection, video_id, uri_name, spool_name, display_uri, metadata, recorded_time, state,"
            " created_time, changed_time, caller, size_bytes) VALUES (?, ?, ?, ?, ?, ?, ?, 'QUEUED', ?, ?, ?, ?)",
            (new.collection, new.video_id, store_uri(self.catalog.directory, new.uri) if has_secrets else None,
             new.spool_name, uri_bytes(new.display_uri), metadata_json(new.metadata), new.recorded_time, now, now,
             new.caller, new.size_bytes),
        )  # fmt: skip

    def _fail(
        self, edit: sqlite3.Connection, where: str, which: tuple[object, ...], reason: str, message: str
    ) -> list[str | None]:
        """Make jobs FAILED and return their spool names. The URIs with secrets that they fetched are removed."""
        changed = edit.execute(
            "UPDATE jobs SET state = 'FAILED', uri_name = NULL, failure_reason = ?, failure_message = ?,"
            f" changed_time = ? WHERE {where} RETURNING spool_name",
            (reason, message, self._clock(), *which),
        )
        spool_names = [name for (name,) in changed.fetchall()]
        remove_unnamed(self.catalog.directory, edit)
        return spool_names

    def _remove_spooled(self, names: Sequence[str | None]) -> None:
        for name in names:
            uploads.remove(self.spool_folder, name)

    def _answer(self, edit: sqlite3.Connection, request: RequestKey | None) -> tuple[str, str] | None:
        if request is None:
            return None
        edit.execute("DELETE FROM requests WHERE created_time <= ?", (self._clock() - REQUEST_SECONDS,))
        return self.answer(request)

    def _check_answer(self, request: RequestKey, rows: list[tuple[Any, ...]]) -> tuple[str, str] | None:
        if not rows:
            return None
        method, digest, collection, video_id = rows[0]
        if (method, digest) != (request.method, request.digest):
            raise RequestIdReused(request.request_id)
        return collection, video_id

    def _remember(self, edit: sqlite3.Connection, request: RequestKey | None, answer: tuple[str, str]) -> None:
        if request is not None:
            edit.execute(
                "INSERT INTO requests (principal, request_id, method, digest, collection, video_id, created_time)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (request.principal, request.request_id, request.method, request.digest, *answer, self._clock()),
            )

    def _forget_old(self, edit: sqlite3.Connection) -> None:
        edit.execute("DELETE FROM jobs WHERE state = 'FAILED' AND changed_time <= ?", (self._clock() - FAILED_SECONDS,))


def job_of(row: tuple[Any, ...]) -> Job:
    """Return the job of a row of JOB_FIELDS."""
    (job_id, collection, video_id, uri_name, spool_name, display_uri, metadata, recorded_time, state, progress, reason,
     message, attempt_count, created_time, changed_time, caller) = row  # fmt: skip
    return Job(
        job_id=job_id, collection=collection, video_id=video_id, uri_name=uri_name, spool_name=spool_name,
        display_uri=uri_of(display_uri), metadata=json.loads(metadata), recorded_time=recorded_time,
        state=JobState(state), progress=progress, failure_reason=reason, failure_message=message,
        attempt_count=attempt_count, created_time=created_time, changed_time=changed_time,
        caller=caller,
    )  # fmt: skip
