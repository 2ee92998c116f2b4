"""Keeps the process that indexes alive while there is work for it."""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from serve.errors import ServeError
from serve.indexing.jobs import JobQueue

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5  # how soon work is seen that wake() did not tell of
FIRST_BACKOFF_SECONDS = 1.0
LAST_BACKOFF_SECONDS = 30.0
HEALTHY_SECONDS = 60.0  # a worker that lived this long was no part of a crash loop
TERM_SECONDS = 10.0  # from SIGTERM to SIGKILL
# Idle OpenMP threads spin before they sleep, which takes the cores from the server's own answers.
ENVIRONMENT = {"GOMP_SPINCOUNT": "0"}


class Supervisor:
    """Starts the ingest worker when there are jobs, and again when it dies; never two of them."""

    def __init__(
        self,
        jobs: JobQueue,
        *,
        config: Path | None = None,
        command: Sequence[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take what is to be watched.

        Args:
            jobs: The queue, over an editor of the data directory.
            config: The settings file; None: as `load_settings` finds it.
            command: What to run instead of serve.indexing.job_worker.
        """
        directory = str(jobs.catalog.directory.absolute())
        options = ["--data", directory, *(["--config", str(config.absolute())] if config is not None else [])]
        self._command = [*(command or [sys.executable, "-P", "-m", "serve.indexing.job_worker"]), *options]
        self._jobs, self._clock = jobs, clock
        self._thread = threading.Thread(target=self._watch, name="ingest-supervisor", daemon=True)
        self._child: subprocess.Popen[bytes] | None = None
        self._stopping, self._awake = threading.Event(), threading.Event()
        self._backoff_seconds = FIRST_BACKOFF_SECONDS
        self._started_at, self._not_before = 0.0, 0.0
        self.crash_count = 0  # workers that died of themselves, for metrics

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def wake(self) -> None:
        """Say that there is a new job, so that it need not wait for the next look."""
        self._awake.set()

    def stop(self) -> None:
        """Have the worker give its jobs back and end. May be called twice."""
        self._stopping.set()
        self._awake.set()
        if self._thread.is_alive():
            self._thread.join()
        child, self._child = self._child, None
        if child is None:
            return
        child.terminate()
        try:
            child.wait(TERM_SECONDS)
        except subprocess.TimeoutExpired:
            logger.warning("ingest worker killed: it did not end in time seconds=%g", TERM_SECONDS)
            child.kill()
            child.wait()
        _close_pipe(child)

    @property
    def pid(self) -> int | None:
        """The worker's process; None: none is running."""
        child = self._child
        return None if child is None or child.poll() is not None else child.pid

    def _watch(self) -> None:
        while not self._stopping.is_set():
            try:
                self._look()
            except (ServeError, OSError) as error:  # a full disk, no more processes: it may pass
                logger.warning("ingest worker not started error=%s", error)
                self._back_off()
            self._awake.wait(POLL_SECONDS)
            self._awake.clear()

    def _look(self) -> None:
        """Start a worker if there is work and none lives."""
        if self._child is not None:
            status = self._child.poll()
            if status is None:
                return
            _close_pipe(self._child)
            self._child = None
            if status:
                logger.warning("ingest worker died status=%s", status)
                self.crash_count += 1
                self._back_off()
        if self._clock() >= self._not_before and self._jobs.has_work():
            self._child = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,  # its end tells the worker that this process is gone
                env=os.environ | ENVIRONMENT,
                start_new_session=True,  # Ctrl-C is this process's to handle
            )
            self._started_at = self._clock()
            logger.info("ingest worker started pid=%d", self._child.pid)

    def _back_off(self) -> None:
        if self._clock() - self._started_at >= HEALTHY_SECONDS:
            self._backoff_seconds = FIRST_BACKOFF_SECONDS
        self._not_before = self._clock() + self._backoff_seconds
        self._backoff_seconds = min(LAST_BACKOFF_SECONDS, 2 * self._backoff_seconds)


def _close_pipe(child: "subprocess.Popen[bytes]") -> None:
    if child.stdin is not None:
        child.stdin.close()
