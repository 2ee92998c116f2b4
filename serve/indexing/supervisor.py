"""Supervisor: keeps a job worker process (serve.indexing.job_worker) alive while a server has jobs."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from serve.background import Background, Backoff
from serve.errors import ServeError
from serve.indexing.jobs import JobQueue

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5  # the longest that a job waits to be seen where nobody called wake()
FIRST_BACKOFF_SECONDS = 1.0  # after the first crash; doubles with each
LAST_BACKOFF_SECONDS = 30.0  # bounds the waits in a crash loop
HEALTHY_SECONDS = 60.0  # without a crash or another failure for this long, the waits begin again
TERM_SECONDS = 10.0  # from SIGTERM to SIGKILL; the worker itself gives its jobs back within 3 s
# Idle OpenMP threads spin before they sleep, which takes the cores from the server's own answers.
ENVIRONMENT = {"GOMP_SPINCOUNT": "0"}


class Supervisor:
    """Starts a job worker when there are jobs, and another when it dies; one at a time."""

    def __init__(
        self,
        jobs: JobQueue,
        *,
        config: Path | None = None,
        command: Sequence[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
        first_backoff_seconds: float = FIRST_BACKOFF_SECONDS,
    ) -> None:
        """Prepare; start() begins to watch the queue.

        Args:
            jobs: The queue, over an editor of the data directory.
            config: The settings file; None: as `load_settings` finds it.
            command: The program to run; None: serve.indexing.job_worker.
        """
        directory = str(jobs.catalog.directory.absolute())
        options = ["--data", directory, *(["--config", str(config.absolute())] if config is not None else [])]
        self._command = [*(command or [sys.executable, "-P", "-m", "serve.indexing.job_worker"]), *options]
        self._jobs, self._clock = jobs, clock
        self._background = Background(
            "job supervisor",
            self.check_worker,
            pause_seconds=POLL_SECONDS,
            expected=(ServeError, OSError),  # a full disk, too many processes: they may pass
            on_error=lambda _: self._back_off(),
        )
        self._backoff = Backoff(first_backoff_seconds, LAST_BACKOFF_SECONDS)
        self._child: subprocess.Popen[bytes] | None = None
        self._not_before = 0.0  # by the clock: no child is started earlier
        self.crash_count = 0  # workers that ended with an exit status other than 0; for metrics

    def start(self) -> None:
        """Start to watch the queue, in a thread."""
        self._background.start()

    def wake(self) -> None:
        """Look at the queue now, as there is a new job."""
        self._background.wake()

    def stop(self) -> None:
        """Stop the worker, which gives its jobs back first. May be called twice."""
        self._background.stop()
        child, self._child = self._child, None
        if child is None:
            return
        child.terminate()
        try:
            child.wait(TERM_SECONDS)
        except subprocess.TimeoutExpired:
            logger.warning("job worker killed: it did not end in time seconds=%g", TERM_SECONDS)
            child.kill()
            child.wait()
        _close_pipe(child)

    @property
    def pid(self) -> int | None:
        """The worker's process id; None: no worker runs."""
        child = self._child
        return None if child is None or child.poll() is not None else child.pid

    def check_worker(self) -> None:
        """Start a worker if there are jobs and none runs. Called by the thread.

        Raises:
            ServeError: If the queue cannot be read.
            OSError: If the process cannot be started.
        """
        if self._child is not None:
            status = self._child.poll()
            if status is None:
                return
            _close_pipe(self._child)
            self._child = None
            if status:
                logger.warning("job worker died status=%s", status)
                self.crash_count += 1
                self._back_off()
        if self._clock() >= self._not_before and self._jobs.has_work():
            self._child = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,  # the worker ends at its end: when this process does
                env=os.environ | ENVIRONMENT,
                start_new_session=True,  # Ctrl-C is for this process alone
            )
            logger.info("job worker started pid=%d", self._child.pid)

    def _back_off(self) -> None:
        if self._clock() - self._not_before >= HEALTHY_SECONDS:
            self._backoff.reset()
        self._not_before = self._clock() + self._backoff.next_seconds()


def _close_pipe(child: "subprocess.Popen[bytes]") -> None:
    if child.stdin is not None:
        child.stdin.close()
