"""Quotas: a collection takes no more videos and hours than it may have, however many calls come at once."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serve.catalog.catalog import Catalog
from serve.config import parse_quotas
from serve.errors import QuotaExceeded, RequestIdReused
from serve.indexing.job import JobState, NewJob, RequestKey
from serve.indexing.jobs import JobQueue
from support.sample_catalog import MEDIA, new_video

HOUR = 3600.0
Open = Callable[..., JobQueue]


@pytest.fixture
def open_queue(catalog: Catalog, tmp_path: Path) -> Iterator[Open]:
    with Catalog.open_editor(tmp_path) as editor:
        yield lambda *texts: JobQueue(editor, parse_quotas(texts))


def put_long(catalog: Catalog, video_id: str, hours: float, collection: str = "talks") -> None:
    row = catalog.begin(new_video(video_id, collection=collection))
    catalog.finish(row, media=MEDIA, duration_seconds=hours * HOUR, warnings=())


def new_job(video_id: str, collection: str = "talks", spool_name: str | None = None) -> NewJob:
    uri = f"https://example.org/{video_id}.mp4"
    return NewJob(collection=collection, video_id=video_id, uri=uri, display_uri=uri, spool_name=spool_name)


def test_a_collection_takes_as_many_videos_as_its_quota_says(catalog: Catalog, open_queue: Open) -> None:
    queue = open_queue("talks=3videos")
    put_long(catalog, "v1", 1)
    put_long(catalog, "other", 1, "films")
    queue.submit(new_job("v2"))
    queue.submit(new_job("v3"))
    with pytest.raises(QuotaExceeded, match=r"collection talks is full: it has 3 of 3 videos \(server.quotas\)"):
        queue.submit(new_job("v4"))
    queue.submit(new_job("v4", "films"))
    for again in ("v1", "v2"):  # a new version of a video, and a repeated call
        queue.submit(new_job(again))
    queue.delete("v1", "talks")
    queue.submit(new_job("v4"))


def test_a_failed_job_leaves_its_place_to_another(open_queue: Open) -> None:
    queue = open_queue("talks=1videos")
    queue.submit(new_job("v1"))
    job = queue.claim()
    assert job is not None
    queue.fail(job.job_id, "DECODE_ERROR", "damaged")
    queue.submit(new_job("v2"))


def test_a_collection_takes_videos_until_its_hours_are_used(catalog: Catalog, open_queue: Open) -> None:
    queue = open_queue("*=10h")
    put_long(catalog, "v1", 9.5)
    queue.submit(new_job("v2"))
    put_long(catalog, "v3", 1)
    with pytest.raises(QuotaExceeded, match=r"it has 10.5 of 10 hours"):
        queue.submit(new_job("v4"))
    queue.submit(new_job("v1"))  # which has 1 hour without its old version


def test_jobs_that_wait_fail_once_the_hours_are_used(catalog: Catalog, open_queue: Open) -> None:
    queue = open_queue("talks=10h")
    for name in ("v1", "v2", "v3"):
        queue.submit(new_job(name, spool_name=spooled(queue, name)))
    queue.submit(new_job("v4", "films"))
    put_long(catalog, "long", 10)
    job = queue.claim()
    assert job is not None
    assert job.video_id == "v4"
    states = {job.video_id: (job.state, job.failure_reason) for job in queue.jobs(collections=["talks"])}
    assert states == dict.fromkeys(("v1", "v2", "v3"), (JobState.FAILED, "QUOTA_EXCEEDED"))
    assert list(queue.spool_folder.iterdir()) == []


def spooled(queue: JobQueue, name: str) -> str:
    queue.spool_folder.mkdir(exist_ok=True)
    (queue.spool_folder / f"{name}-1").write_bytes(b"bytes")
    return f"{name}-1"


def test_a_refused_upload_leaves_no_file(open_queue: Open) -> None:
    queue = open_queue("talks=1videos")
    key = RequestKey(principal="ann", request_id="1", method="UploadVideo", digest="d")
    queue.submit(new_job("v1"), key)
    with pytest.raises(QuotaExceeded):
        queue.submit(new_job("v2", spool_name=spooled(queue, "v2")))
    other = RequestKey(principal="ann", request_id="1", method="UploadVideo", digest="e")
    with pytest.raises(RequestIdReused):
        queue.submit(new_job("v2", spool_name=spooled(queue, "v2")), other)
    assert list(queue.spool_folder.iterdir()) == []


def test_calls_at_once_do_not_take_more_than_there_is(open_queue: Open) -> None:
    queue = open_queue("talks=5videos")
    refused = []

    def submit(number: int) -> None:
        try:
            queue.submit(new_job(f"v{number}"))
        except QuotaExceeded as error:
            refused.append(error)

    threads = [threading.Thread(target=submit, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(queue.jobs()) == 5
    assert len(refused) == 7
