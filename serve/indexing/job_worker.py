"""JobWorker: the process that indexes for a server, `python -m serve.indexing.job_worker --data DIR [--config FILE]`.

It takes jobs from the catalog's queue, holds the writer's lock only while there are jobs, and keeps the encoders loaded
in between. serve.indexing.supervisor starts it. It ends after a minute without a job, on SIGTERM, and when its parent
ends: its standard input is a pipe that only the parent holds. It may be killed at any moment: the next worker goes on.
"""

import argparse
import contextlib
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from encoders.errors import EncoderError
from encoders.speech.whisper import Transcriber
from encoders.writing.reader import load_reader
from serve.catalog.catalog import Catalog
from serve.config import parse_quotas
from serve.encoder_set import Encoders, load_for_indexing
from serve.errors import DataDirectoryBusy, DiskFull, EncoderSpaceMismatch, ServeError, name_of
from serve.indexing import uploads
from serve.indexing.job import Job
from serve.indexing.jobs import JobQueue
from serve.indexing.pipeline import claim_space, save_indexes
from serve.indexing.run import IndexRun
from serve.indexing.uploads import Spool
from serve.indexing.work import Input, Result
from serve.observe.logs import log_to_stderr
from serve.search.traits import caption_bank_of
from serve.settings import Settings, load_settings
from serve.values import IndexProgress

logger = logging.getLogger("serve.indexing.job_worker")  # also when it runs as __main__

NICENESS = 10  # questions are answered first
POLL_SECONDS = 0.2  # the longest that a new job waits to be seen
BUSY_SECONDS = 1.0  # between two attempts at the writer's lock while another process has it
# Without a job until the writer's lock is released for `kinodex index`: longer than between two submitted in a row.
RELEASE_SECONDS = 2.0
IDLE_EXIT_SECONDS = 60.0  # without a job until the process ends, which frees the memory of its encoders
# Jobs at a time beyond the setting `workers`, for callers who have fewer than `workers` running: a caller whose slow
# downloads and long films occupy every worker delays nobody else.
RESERVED_COUNT = 2
STOP_SECONDS = 3.0  # bounds giving the jobs back on SIGTERM; after that the next worker does it


class LoggedProgress(IndexProgress):
    """Progress of an indexing run that only logs notes: callers read the progress of jobs in the catalog."""

    def note(self, line: str) -> None:
        logger.info("%s", line)


class JobWorker:
    """Indexes the videos of one data directory's jobs."""

    def __init__(self, directory: Path, settings: Settings) -> None:
        self.directory, self.settings = directory, settings
        self.transcriber: Transcriber | None = None
        self.encoders: Encoders | None = None  # None: not loaded yet
        self.has_indexed = False  # since the start: then the index files are out of date
        self.run: IndexRun | None = None  # set while all RUNNING jobs belong to this process
        self.spool = Spool(
            directory / uploads.FOLDER_NAME,
            max_upload_bytes=settings.server.max_upload_bytes,
            max_spool_bytes=settings.server.max_spool_bytes,
        )

    def work_until_idle(self) -> None:
        """Index jobs as they come, until none came for IDLE_EXIT_SECONDS.

        Raises:
            DataDirectoryMissing: If there is no catalog.
            DataDirectoryInvalid: If it is damaged, or the disk is full.
        """
        with Catalog.open_editor(self.directory) as catalog:
            jobs, idle_since = JobQueue(catalog), time.monotonic()
            while time.monotonic() - idle_since < IDLE_EXIT_SECONDS:
                if not jobs.has_work():
                    time.sleep(POLL_SECONDS)
                    continue
                try:
                    self.work_until_released()
                except DataDirectoryBusy:  # the jobs wait, as `kinodex index` may take hours
                    time.sleep(BUSY_SECONDS)
                idle_since = time.monotonic()
        self.save_indexes()

    def work_until_released(self) -> None:
        """Hold the writer's lock and index jobs, until none came for RELEASE_SECONDS.

        Raises:
            DataDirectoryBusy: If another process writes there.
        """
        with Catalog.open_writer(self.directory) as catalog:
            jobs = JobQueue(catalog, parse_quotas(self.settings.server.quotas))
            jobs.requeue_running()
            self.spool.clean(jobs.spool_names)
            jobs.remove_secrets()
            try:
                encoders = self.load_encoders(catalog)
            except (EncoderError, EncoderSpaceMismatch) as error:
                # Only the log has the reason: it names folders of this machine, which callers need not know.
                count = jobs.fail_all(name_of(error), "the server cannot load its encoders: its log says why")
                logger.error("nothing can be indexed jobs=%d error=%s", count, error)
                return
            run = IndexRun(
                catalog, encoders, self.transcriber, self.directory, self.settings, LoggedProgress(),
                report=jobs.set_progress, captions=caption_bank_of(self.directory, encoders.visual),
            )  # fmt: skip
            self.run = run
            try:
                inputs = claim_jobs(jobs, run, max_caller_count=self.settings.workers)
                with contextlib.closing(run.index(inputs, extra_count=RESERVED_COUNT)) as results:
                    for result in results:
                        self.record_result(jobs, result)
            except DiskFull:  # not the jobs' fault: the attempts do not count
                with contextlib.suppress(DiskFull):
                    jobs.release_running()
                raise
            finally:
                self.run = None

    def load_encoders(self, catalog: Catalog) -> Encoders:
        """Return the encoders of the library as it is now; load them unless they are loaded."""
        stored = catalog.space()
        if self.encoders is None or (stored is not None and stored != self.encoders.space):
            load_reader(self.settings.text)  # here, so that it fails with the other encoders
            self.transcriber, self.encoders = load_for_indexing(self.settings, stored)
            logger.info("encoders loaded space=%s note=%s", self.encoders.space, self.encoders.note)
        claim_space(catalog, self.directory, self.encoders)
        return self.encoders

    def record_result(self, jobs: JobQueue, result: Result) -> None:
        """Log the end of a job, and note a failure. A job that succeeded or was cancelled is gone already."""
        job_id = result.input.job_id
        assert job_id is not None
        if result.error is not None:
            assert result.outcome is not None
            message = result.outcome.error or str(result.error)
            logger.warning("job failed uri=%s reason=%s", result.input.stored_uri, name_of(result.error))
            jobs.fail(job_id, name_of(result.error), message)
        elif result.outcome is not None:
            logger.info("job done uri=%s status=%s", result.input.stored_uri, result.outcome.status)
            if result.outcome.status == "indexed" and result.outcome.warnings:
                warnings = "; ".join(result.outcome.warnings)
                logger.warning("file has faults uri=%s warnings=%s", result.input.stored_uri, warnings)
            self.has_indexed |= result.outcome.status == "indexed"
        jobs.remove_secrets()
        if Path(result.input.uri).parent == jobs.spool_folder:
            uploads.remove(jobs.spool_folder, Path(result.input.uri).name)

    def release(self) -> None:
        """Give the running jobs back, from another thread, before this process ends."""
        if self.run is not None:
            self.run.stopping.set()  # no further job is begun
            with Catalog.open_editor(self.directory) as catalog:
                JobQueue(catalog).release_running()

    def save_indexes(self) -> None:
        """Save the index files, unless another process writes: that one saves them."""
        if self.has_indexed and self.encoders is not None:
            with contextlib.suppress(DataDirectoryBusy), Catalog.open_writer(self.directory) as catalog:
                save_indexes(catalog, self.directory, self.encoders.space.fingerprint, self.settings)


def claim_jobs(jobs: JobQueue, run: IndexRun, *, max_caller_count: int) -> Iterator[Input]:
    """Claim and yield jobs as they come, until all are done and none came for RELEASE_SECONDS.

    At most `max_caller_count` jobs of one caller run at the same time.
    """
    idle_since = time.monotonic()
    while not run.stopping.is_set():
        was_idle = run.is_idle
        job = jobs.claim(is_alone=was_idle, max_caller_count=max_caller_count)
        if job is not None:
            yield input_of_job(job, jobs)
            while job.attempt_count > 1 and not run.is_idle and not run.stopping.is_set():
                run.stopping.wait(POLL_SECONDS)  # it may have killed the last worker: it runs alone
        if job is not None or not was_idle:
            idle_since = time.monotonic()
        elif time.monotonic() - idle_since >= RELEASE_SECONDS:
            return
        if job is None:
            run.stopping.wait(POLL_SECONDS)


def input_of_job(job: Job, jobs: JobQueue) -> Input:
    """Return the input of a job. Its URI is opened under the URI policy: NewJob refuses plain paths."""
    return Input(
        uri=_uri_of(job, jobs),
        stored_uri=job.display_uri,
        collection=job.collection,
        video_id=job.video_id,
        metadata=job.metadata,
        recorded_time=job.recorded_time,
        job_id=job.job_id,
        may_grow=job.spool_name is None,
    )


def _uri_of(job: Job, jobs: JobQueue) -> str:
    if job.spool_name is not None:
        return str(uploads.path_of(jobs.spool_folder, job.spool_name))
    # Without its secrets, the URI is most likely refused by its server; the job fails then with that reason.
    return jobs.fetched_uri(job) or job.display_uri


def exit_on_request(release: Callable[[], None]) -> None:
    """Wait in a thread for SIGTERM or the end of the parent; then call `release` and end this process."""
    signalled, wakeup = socket.socketpair()
    wakeup.setblocking(False)
    # Python runs signal handlers in the main thread, which may be inside an encoder for minutes; the wakeup socket is
    # read at once.
    signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda *_: None)
    parent = sys.stdin.fileno()

    def watch() -> None:
        with wakeup:
            while True:
                ready, _, _ = select.select([signalled, parent], [], [])
                if signalled in ready or not os.read(parent, 4096):
                    break
        threading.Timer(STOP_SECONDS, os._exit, (0,)).start()
        with contextlib.suppress(Exception):  # the next worker finds the jobs RUNNING, and gives them back
            release()
        os._exit(0)  # the decoding children end with it

    threading.Thread(target=watch, name="exit-on-request", daemon=True).start()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the worker; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m serve.indexing.job_worker", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="Where the library is.")
    parser.add_argument("--config", type=Path, metavar="FILE", help="Settings in TOML.")
    options = parser.parse_args(arguments)
    log_to_stderr()
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    try:
        worker = JobWorker(options.data, load_settings(options.data, options.config))
        exit_on_request(worker.release)
        worker.work_until_idle()
    except ServeError as error:
        logger.error("job worker ends error=%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
