"""serve.indexing.supervisor: when it starts a worker, how it waits after crashes, how it ends one. No encoder runs."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from serve.catalog.catalog import Catalog
from serve.indexing.job import NewJob
from serve.indexing.jobs import JobQueue
from serve.indexing.supervisor import HEALTHY_SECONDS, Supervisor
from support.waiting import HANG_SECONDS

CRASH = [sys.executable, "-c", "raise SystemExit(3)"]
END = [sys.executable, "-c", "pass"]
WAIT_FOR_PARENT = [sys.executable, "-c", "import sys; sys.stdin.read()"]


class Clock:
    """Seconds that only a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[JobQueue]:
    Catalog.open_writer(tmp_path / "data").close()
    with Catalog.open_editor(tmp_path / "data") as catalog:
        yield JobQueue(catalog)


def submit(jobs: JobQueue) -> None:
    jobs.submit(NewJob(collection="default", video_id="a", uri="file:///a.mp4", display_uri="file:///a.mp4"))


def child_of(supervisor: Supervisor) -> "subprocess.Popen[bytes]":
    assert supervisor._child is not None
    return supervisor._child


def test_starts_no_worker_without_a_job(jobs: JobQueue) -> None:
    supervisor = Supervisor(jobs, command=WAIT_FOR_PARENT)
    supervisor.check_worker()
    assert supervisor.pid is None
    supervisor.stop()


def test_starts_one_worker_and_names_the_data_directory_and_the_settings(jobs: JobQueue, tmp_path: Path) -> None:
    submit(jobs)
    config = tmp_path / "settings.toml"
    supervisor = Supervisor(jobs, command=WAIT_FOR_PARENT, config=config)
    supervisor.check_worker()
    child = child_of(supervisor)
    supervisor.check_worker()
    assert child_of(supervisor) is child
    assert supervisor.pid == child.pid
    assert child.args == [*WAIT_FOR_PARENT, "--data", str(tmp_path / "data"), "--config", str(config)]
    supervisor.stop()
    assert child.poll() is not None
    assert supervisor.pid is None


def test_a_worker_ends_with_the_pipe_to_its_parent(jobs: JobQueue) -> None:
    submit(jobs)
    supervisor = Supervisor(jobs, command=WAIT_FOR_PARENT)
    supervisor.check_worker()
    child = child_of(supervisor)
    assert child.stdin is not None
    child.stdin.close()
    assert child.wait(HANG_SECONDS) == 0
    supervisor.stop()


def test_a_worker_that_keeps_dying_is_started_less_and_less_often(
    jobs: JobQueue, caplog: pytest.LogCaptureFixture
) -> None:
    clock, starts = Clock(), []
    supervisor = Supervisor(jobs, command=CRASH, clock=clock)
    submit(jobs)
    while len(starts) < 8:
        supervisor.check_worker()
        if supervisor._child is not None:
            starts.append(clock.now)
            supervisor._child.wait()
        else:
            clock.now += 0.5
    assert np.diff(starts).tolist() == [1, 2, 4, 8, 16, 30, 30]
    assert "status=3" in caplog.text
    assert supervisor.crash_count == 7
    supervisor.stop()


def test_a_worker_that_lived_long_begins_the_waits_anew(jobs: JobQueue) -> None:
    clock = Clock()
    supervisor = Supervisor(jobs, command=CRASH, clock=clock)
    submit(jobs)
    for lived_seconds, waits_seconds in [(0.0, 1.0), (0.0, 2.0), (HEALTHY_SECONDS, 1.0), (0.0, 2.0)]:
        supervisor.check_worker()
        child_of(supervisor).wait()
        clock.now += lived_seconds
        supervisor.check_worker()
        assert supervisor.pid is None, "it waits"
        clock.now += waits_seconds
    supervisor.stop()


def test_a_worker_that_ended_well_is_followed_at_once(jobs: JobQueue) -> None:
    supervisor = Supervisor(jobs, command=END, clock=Clock())
    submit(jobs)
    supervisor.check_worker()
    first = child_of(supervisor)
    assert first.wait() == 0
    supervisor.check_worker()
    assert child_of(supervisor) is not first
    assert supervisor.crash_count == 0
    supervisor.stop()


def test_a_program_that_cannot_be_started_is_tried_less_and_less_often(jobs: JobQueue, tmp_path: Path) -> None:
    clock, tries = Clock(), []
    supervisor = Supervisor(jobs, command=[str(tmp_path / "missing")], clock=clock)
    submit(jobs)
    while len(tries) < 4:
        try:
            supervisor.check_worker()
        except OSError:
            tries.append(clock.now)
            supervisor._back_off()  # as the thread does
        clock.now += 0.5
    assert np.diff(tries).tolist() == [1, 2, 4]
    supervisor.stop()


def test_a_failure_long_after_the_last_one_waits_as_briefly_as_the_first(jobs: JobQueue, tmp_path: Path) -> None:
    clock = Clock()
    supervisor = Supervisor(jobs, command=[str(tmp_path / "missing")], clock=clock)
    submit(jobs)
    for _ in range(3):
        with pytest.raises(OSError, match="missing"):
            supervisor.check_worker()
        supervisor._back_off()  # as the thread does
        clock.now += 1.0
        with pytest.raises(OSError, match="missing"):
            supervisor.check_worker()
        clock.now += HEALTHY_SECONDS
    supervisor.stop()
