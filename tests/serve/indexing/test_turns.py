"""Whose job is indexed next."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from serve.catalog.catalog import Catalog
from serve.indexing.job import JobState, NewJob
from serve.indexing.jobs import JobQueue


@pytest.fixture
def queue(catalog: Catalog, tmp_path: Path) -> Iterator[JobQueue]:
    with Catalog.open_editor(tmp_path) as editor:
        yield JobQueue(editor)


def submit(queue: JobQueue, caller: str, *names: str) -> None:
    for name in names:
        uri = f"https://example.org/{name}.mp4"
        queue.submit(
            NewJob(collection="default", video_id=name, uri=uri, display_uri=uri, caller=caller, size_bytes=10)
        )


def claimed(queue: JobQueue, count: int, **limits: int) -> list[str]:
    jobs = [queue.claim(**limits) for _ in range(count)]  # type: ignore[arg-type]
    return ["" if job is None else job.video_id for job in jobs]


def test_the_caller_with_the_fewest_running_jobs_is_next(queue: JobQueue) -> None:
    submit(queue, "ann", "a1", "a2", "a3", "a4")
    submit(queue, "bob", "b1")
    submit(queue, "cay", "c1", "c2")
    assert claimed(queue, 7) == ["a1", "b1", "c1", "a2", "c2", "a3", "a4"]


def test_callers_take_turns_when_nothing_runs(queue: JobQueue) -> None:
    submit(queue, "ann", "a1", "a2", "a3")
    submit(queue, "bob", "b1", "b2")
    order = []
    for _ in range(5):
        [name] = claimed(queue, 1)
        order.append(name)
        queue.cancel("default", name)
    assert order == ["a1", "b1", "a2", "b2", "a3"]


def test_a_caller_runs_so_many_jobs_and_others_begin(queue: JobQueue) -> None:
    submit(queue, "ann", "a1", "a2", "a3")
    assert claimed(queue, 3, max_caller_count=2) == ["a1", "a2", ""]
    submit(queue, "bob", "b1")
    assert claimed(queue, 2, max_caller_count=2) == ["b1", ""]
    queue.cancel("default", "a1")
    assert claimed(queue, 1, max_caller_count=2) == ["a3"]


def test_a_queue_knows_whose_bytes_wait(queue: JobQueue) -> None:
    submit(queue, "ann", "a1", "a2")
    submit(queue, "bob", "b1")
    assert [queue.waiting_bytes(caller) for caller in ("ann", "bob", "")] == [20, 10, 0]
    job = queue.claim()
    assert job is not None
    queue.fail(job.job_id, "DECODE_ERROR", "no video")
    assert queue.waiting_bytes("ann") == 10
    assert queue.counts()[JobState.FAILED] == 1
