"""The process that indexes for a server: `python -m serve.indexing.job_worker --data DIR [--config FILE]`.

It takes jobs from the catalog's queue, holds the writer's lock only while there are any, and keeps the encoders loaded
in between. It is started by serve.indexing.supervisor, ends when nothing was to do for a while, and at once when its
parent ends
(its standard input is a pipe that nobody else holds) or on SIGTERM. Killed at any point, the next one goes on.
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
from serve.catalog.catalog import Catalog
from serve.encoder_set import Encoders, load_for_indexing
from serve.errors import DataDirectoryBusy, EncoderSpaceMismatch, ServeError, name_of
from serve.indexing import uploads
from serve.indexing.jobs import Job, JobQueue
from serve.indexing.pipeline import claim_space, save_indexes
from serve.indexing.run import Run
from serve.indexing.uploads import Spool
from serve.indexing.work import Input, Result
from serve.observe.logs import log_to_stderr
from serve.search.traits import captions_of
from serve.settings import Settings, load_settings

logger = logging.getLogger("serve.indexing.job_worker")  # also when it runs as __main__

NICENESS = 10  # answering questions comes first
POLL_SECONDS = 0.2  # how soon a new job is seen
BUSY_SECONDS = 1.0  # between two attempts at the writer's lock while another process has it
RELEASE_SECONDS = 2.0  # without a job until `kinodex index` may have the lock: longer than between two of a batch
IDLE_EXIT_SECONDS = 60.0  # without a job until the encoders' memory is given back
STOP_SECONDS = 3.0  # for giving the jobs back when told to stop; the next worker does it otherwise


class Silence:
    """Watches an indexing run for nobody: what callers see of a job is in the catalog."""

    def expect(self, count: int) -> None: ...

    def note(self, line: str) -> None:
        logger.info("%s", line)

    def start(self, uri: str) -> None: ...

    def advance(self, uri: str, media_seconds: float, duration_seconds: float | None) -> None: ...

    def finish(self, uri: str) -> None: ...


class Worker:
    """Does the jobs of one data directory, one worker at a time."""

    def __init__(self, directory: Path, settings: Settings) -> None:
        self.directory, self.settings = directory, settings
        self.transcriber: Transcriber | None = None
        self.encoders: Encoders | None = None  # None: not loaded yet
        self.has_indexed = False
        self.run: Run | None = None  # under way, so that all RUNNING jobs are ours
        self.spool = Spool(
            directory / uploads.FOLDER_NAME,
            max_upload_bytes=settings.server.max_upload_bytes,
            max_spool_bytes=settings.server.max_spool_bytes,
        )

    def work_until_idle(self) -> None:
        """Do jobs as they come, until none came for IDLE_EXIT_SECONDS.

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
                    self.work()
                except DataDirectoryBusy:  # the jobs wait, as `kinodex index` may take hours
                    time.sleep(BUSY_SECONDS)
                idle_since = time.monotonic()
        self.save()

    def work(self) -> None:
        """Do jobs until none came for RELEASE_SECONDS.

        Raises:
            DataDirectoryBusy: If another process writes there.
        """
        with Catalog.open_writer(self.directory) as catalog:
            jobs = JobQueue(catalog)
            jobs.requeue_running()
            self.spool.clean(jobs.spool_names)
            try:
                encoders = self.load(catalog)
            except (EncoderError, EncoderSpaceMismatch) as error:
                # What is wrong is in the log: it names folders of this machine, which is no caller's business.
                count = jobs.fail_all(name_of(error), "the server cannot load its encoders: its log says why")
                logger.error("nothing can be indexed jobs=%d error=%s", count, error)
                return
            run = Run(
                catalog, encoders, self.transcriber, self.directory, self.settings, Silence(), report=jobs.set_progress,
                captions=captions_of(self.directory, encoders.visual),
            )  # fmt: skip
            self.run = run
            try:
                with contextlib.closing(run.over(wanted(jobs, run))) as results:
                    for result in results:
                        self.settle(jobs, result)
            finally:
                self.run = None

    def load(self, catalog: Catalog) -> Encoders:
        """Return the encoders that belong to the library as it is now, loading them if they are others."""
        stored = catalog.space()
        if self.encoders is None or (stored is not None and stored != self.encoders.space):
            self.transcriber, self.encoders = load_for_indexing(self.settings, stored)
            logger.info("encoders loaded space=%s note=%s", self.encoders.space, self.encoders.visual_note)
        claim_space(catalog, self.directory, self.encoders)
        return self.encoders

    def settle(self, jobs: JobQueue, result: Result) -> None:
        """Note what became of a job. One that succeeded was ended with its video, one that was cancelled before."""
        job_id = result.input.job_id
        assert job_id is not None
        if result.error is not None:
            assert result.outcome is not None
            message = result.outcome.error or str(result.error)
            logger.warning("job failed uri=%s reason=%s", result.input.stored_uri, name_of(result.error))
            jobs.fail(job_id, name_of(result.error), message)
        elif result.outcome is not None:
            logger.info("job done uri=%s status=%s", result.input.stored_uri, result.outcome.status)
            self.has_indexed |= result.outcome.status == "indexed"
        if Path(result.input.uri).parent == jobs.spool_folder:
            uploads.remove(jobs.spool_folder, Path(result.input.uri).name)

    def release(self) -> None:
        """Give the running jobs back, from another thread: this process is about to end."""
        if self.run is not None:
            self.run.stopping.set()  # no further one is begun
            with Catalog.open_editor(self.directory) as catalog:
                JobQueue(catalog).release_running()

    def save(self) -> None:
        """Bring the index files up to the catalog, unless another process is about to."""
        if self.has_indexed and self.encoders is not None:
            with contextlib.suppress(DataDirectoryBusy), Catalog.open_writer(self.directory) as catalog:
                save_indexes(catalog, self.directory, self.encoders.space.fingerprint, self.settings)


def wanted(jobs: JobQueue, run: Run) -> Iterator[Input]:
    """Yield jobs as they come, until none came for RELEASE_SECONDS and all are dealt with."""
    idle_since = time.monotonic()
    while not run.stopping.is_set():
        was_idle = run.is_idle
        job = jobs.claim(is_alone=was_idle)
        if job is not None:
            yield input_of(job, jobs)
            while job.attempt_count > 1 and not run.is_idle and not run.stopping.is_set():
                run.stopping.wait(POLL_SECONDS)  # it may be what killed the last worker: it takes no other with it
        if job is not None or not was_idle:
            idle_since = time.monotonic()
        elif time.monotonic() - idle_since >= RELEASE_SECONDS:
            return
        if job is None:
            run.stopping.wait(POLL_SECONDS)


def input_of(job: Job, jobs: JobQueue) -> Input:
    """Return what indexes a job's video. A URI is opened under the URI policy, as NewJob sees to it that it is one."""
    return Input(
        uri=job.uri if job.spool_name is None else str(uploads.path_of(jobs.spool_folder, job.spool_name)),
        stored_uri=job.display_uri,
        collection=job.collection,
        video_id=job.video_id,
        metadata=job.metadata,
        recorded_time=job.recorded_time,
        job_id=job.job_id,
    )


def end_when_told(release: Callable[[], None]) -> None:
    """Watch for the parent's end and for SIGTERM, in a thread, and then release what is held and end this process."""
    signalled, wakeup = socket.socketpair()
    wakeup.setblocking(False)
    # Python's own handlers wait for the main thread, which may be inside an encoder for minutes; this does not.
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
        with contextlib.suppress(Exception):  # the next worker finds them RUNNING, and does the same
            release()
        os._exit(0)  # the decoding children go with it

    threading.Thread(target=watch, name="end-when-told", daemon=True).start()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the worker; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m serve.indexing.job_worker", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="Where the library is.")
    parser.add_argument("--config", type=Path, metavar="FILE", help="Settings in TOML.")
    given = parser.parse_args(arguments)
    log_to_stderr()
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    try:
        worker = Worker(given.data, load_settings(given.data, given.config))
        end_when_told(worker.release)
        worker.work_until_idle()
    except ServeError as error:
        logger.error("ingest worker ends error=%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
