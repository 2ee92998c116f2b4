"""The queue: what is asked twice is done once, and a job and its video never contradict each other."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serve.catalog.catalog import Catalog
from serve.errors import RequestIdReused, VideoAmbiguous, VideoNotFound
from serve.indexing.job import Job, JobState, NewJob, RequestKey
from serve.indexing.jobs import FAILED_SECONDS, MAX_ATTEMPTS, REQUEST_SECONDS, JobQueue
from serve.values import VideoState
from support.sample_catalog import MEDIA, new_video, put, utterance

DAY = 24 * 3600.0
ASKED = RequestKey(principal="ann", request_id="1", method="IngestVideo", digest="d")


class Clock:
    """A clock that a test turns."""

    now = 1.8e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def writing(catalog: Catalog, clock: Clock) -> JobQueue:
    """The queue as the worker has it."""
    return JobQueue(catalog, clock=clock)


@pytest.fixture
def queue(catalog: Catalog, tmp_path: Path, clock: Clock) -> Iterator[JobQueue]:
    """The queue as a server has it, beside the worker."""
    with Catalog.open_editor(tmp_path) as editor:
        yield JobQueue(editor, clock=clock)


def new_job(video_id: str, *, collection: str = "default", uri: str = "", spool_name: str | None = None) -> NewJob:
    uri = uri or f"https://user:secret@example.org/{video_id}.mp4"
    return NewJob(
        collection=collection, video_id=video_id, uri=uri, display_uri=uri.replace("user:secret@", ""),
        spool_name=spool_name, metadata={"camera": "7"}, recorded_time=1.7e9,
    )  # fmt: skip


def the_job(queue: JobQueue, video_id: str, collection: str = "default") -> Job:
    found = queue.job(collection, video_id)
    assert found is not None
    return found


def spooled(queue: JobQueue, content: str, salt: str = "1") -> str:
    queue.spool_folder.mkdir(exist_ok=True)
    (queue.spool_folder / f"{content}-{salt}").write_bytes(b"bytes")
    return f"{content}-{salt}"


def index(queue: JobQueue, job: Job, *said: str) -> bool:
    """Do what the worker does with a job."""
    catalog = queue.catalog
    row = catalog.begin(replace(new_video(job.video_id), uri=job.display_uri, collection=job.collection))
    for text in said:
        catalog.add_utterances(row, [utterance(text)], np.ones((1, 8), np.float32))
    return catalog.finish(row, media=MEDIA, duration_seconds=5.0, warnings=(), job_id=job.job_id)


# ---- submitting


def test_a_job_tells_of_its_video(queue: JobQueue, clock: Clock) -> None:
    assert queue.submit(new_job("abc")) == ("default", "abc")
    job = the_job(queue, "abc")
    assert queue.fetched_uri(job) == "https://user:secret@example.org/abc.mp4"
    assert job.display_uri == "https://example.org/abc.mp4"
    assert (job.state, job.attempt_count, job.created_time) == (JobState.QUEUED, 0, clock.now)
    status = job.status()
    assert (status.state, status.uri) == (VideoState.PROCESSING, "https://example.org/abc.mp4")
    assert (status.metadata, status.recorded_time) == ({"camera": "7"}, 1.7e9)
    assert queue.counts() == {JobState.QUEUED: 1, JobState.RUNNING: 0, JobState.FAILED: 0}


def secret_files(queue: JobQueue) -> list[Path]:
    return sorted(queue.catalog.directory.glob("fetch-uris/*"))


def test_a_secret_is_beside_the_catalog_until_its_job_ends(queue: JobQueue, writing: JobQueue) -> None:
    directory = queue.catalog.directory
    for name in ("done", "failed", "cancelled", "deleted", "replaced"):
        queue.submit(new_job(name))
    queue.submit(new_job("plain", uri="https://example.org/plain.mp4"))
    assert len(secret_files(queue)) == 5
    assert {path.stat().st_mode & 0o777 for path in secret_files(queue)} == {0o600}
    assert (directory / "fetch-uris").stat().st_mode & 0o777 == 0o700
    for path in directory.glob("catalog.sqlite*"):
        assert b"secret" not in path.read_bytes()
    with Catalog.open_editor(directory) as editor:  # as after a restart
        done, failed = JobQueue(editor).claim(), JobQueue(editor).claim()
        assert done is not None
        assert failed is not None
        assert JobQueue(editor).fetched_uri(done) == "https://user:secret@example.org/done.mp4"
        assert "secret" not in repr(done)
    assert index(writing, done)
    writing.remove_secrets()
    assert len(secret_files(queue)) == 4
    writing.fail(failed.job_id, "DECODE_ERROR", "no media")
    queue.cancel("default", "cancelled")
    queue.delete("deleted")
    queue.submit(new_job("replaced", uri="https://example.org/other.mp4"))
    assert secret_files(queue) == []
    plain = the_job(queue, "plain")
    assert queue.fetched_uri(plain) == "https://example.org/plain.mp4"
    assert "secret" not in repr(new_job("abc"))


def test_a_secret_whose_job_was_not_committed_is_removed(
    queue: JobQueue, writing: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.submit(new_job("abc"))
    with monkeypatch.context() as patched:
        patched.setattr(queue, "_remember", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            queue.submit(new_job("other"))
    assert len(secret_files(queue)) == 2
    writing.remove_secrets()
    assert [path.read_text() for path in secret_files(queue)] == ["https://user:secret@example.org/abc.mp4"]


def test_a_plain_path_is_no_job() -> None:
    for uri in ("/etc/passwd", "films/a.mp4", "", "name:of-a-file", "C:\\films"):
        with pytest.raises(ValueError, match="taken for a path"):
            NewJob(collection="c", video_id="v", uri=uri, display_uri=uri)
    for uri in ("file:///a.mp4", "HTTPS://example.org/a", "s3://bucket/a"):
        NewJob(collection="c", video_id="v", uri=uri, display_uri=uri)
    NewJob(collection="c", video_id="v", uri="upload:a.mp4", display_uri="upload:a.mp4", spool_name="ab-1")


def test_asking_twice_is_one_job_and_asking_for_something_else_another(queue: JobQueue, writing: JobQueue) -> None:
    queue.submit(new_job("abc"))
    first = the_job(queue, "abc")
    queue.submit(new_job("abc"))
    assert the_job(queue, "abc") == first
    assert writing.claim() is not None
    queue.submit(new_job("abc"))
    assert the_job(queue, "abc").job_id == first.job_id  # RUNNING: still the same
    queue.submit(new_job("abc", uri="https://example.org/other.mp4"))
    second = the_job(queue, "abc")
    assert second.job_id > first.job_id
    assert second.state is JobState.QUEUED
    assert not index(writing, first)  # what was running is not wanted any more
    queue.submit(new_job("abc", collection="zoo"))
    assert len(queue.jobs()) == 2


def test_a_failed_job_is_tried_again(queue: JobQueue, writing: JobQueue) -> None:
    queue.submit(new_job("abc"))
    job = writing.claim()
    assert job is not None
    assert writing.fail(job.job_id, "DECODE_ERROR", "no media")
    failed = the_job(queue, "abc")
    assert (failed.state, failed.failure_reason, failed.failure_message) == ("FAILED", "DECODE_ERROR", "no media")
    assert failed.status().state is VideoState.FAILED
    assert queue.fetched_uri(failed) == failed.display_uri  # its credentials are needed no more
    assert not writing.fail(job.job_id, "AGAIN", "")
    queue.submit(new_job("abc"))
    assert the_job(queue, "abc").state is JobState.QUEUED
    assert the_job(queue, "abc").attempt_count == 0


def test_a_repeated_request_gets_the_first_answer(queue: JobQueue, writing: JobQueue, clock: Clock) -> None:
    assert queue.answer(ASKED) is None
    queue.submit(new_job("abc"), ASKED)
    job = writing.claim()
    assert job is not None
    assert index(writing, job)
    assert queue.submit(new_job("xyz"), ASKED) == queue.answer(ASKED) == ("default", "abc")
    assert queue.jobs() == []  # it is READY, and nothing is done again
    for other in (replace(ASKED, digest="e"), replace(ASKED, method="DeleteVideo")):
        with pytest.raises(RequestIdReused):
            queue.submit(new_job("xyz"), other)
        with pytest.raises(RequestIdReused):
            queue.answer(other)
    queue.submit(new_job("xyz"), replace(ASKED, principal="bob", digest="e"))  # ids are each caller's own
    clock.now += REQUEST_SECONDS + 1
    assert queue.answer(ASKED) is None
    queue.submit(new_job("new"), ASKED)
    assert queue.answer(ASKED) == ("default", "new")


def test_an_upload_keeps_one_file_and_only_while_its_job_lives(queue: JobQueue, writing: JobQueue) -> None:
    def files() -> set[str]:
        return {path.name for path in queue.spool_folder.iterdir()}

    queue.submit(new_job("abc", uri="upload:a.mp4", spool_name=spooled(queue, "aa")))
    queue.submit(new_job("abc", uri="upload:a.mp4", spool_name=spooled(queue, "aa", "2")))  # the same bytes
    assert files() == queue.spool_names() == {"aa-1"}
    queue.submit(new_job("abc", uri="upload:a.mp4", spool_name=spooled(queue, "bb")))  # the same name, other bytes
    assert files() == queue.spool_names() == {"bb-1"}
    assert queue.cancel("default", "abc")
    assert files() == set()
    queue.submit(new_job("abc", uri="upload:a.mp4", spool_name=spooled(queue, "cc")))
    queue.delete("abc")
    queue.submit(new_job("abc", uri="upload:a.mp4", spool_name=spooled(queue, "dd")))
    job = writing.claim()
    assert job is not None
    writing.fail(job.job_id, "X", "")
    assert files() == queue.spool_names() == set()


def test_lists_jobs_in_pages(queue: JobQueue) -> None:
    for video_id, collection, uri in (("b", "x", "https://1"), ("a", "y", "https://1"), ("c", "x", "https://0")):
        queue.submit(new_job(video_id, collection=collection, uri=uri))
    whole = [job.video_id for job in queue.jobs()]
    assert whole == ["c", "b", "a"]
    assert [job.video_id for job in queue.jobs(collections=["x"])] == ["c", "b"]
    assert [job.video_id for job in queue.jobs(collections=[])] == []
    assert [job.collection for job in queue.jobs(video_id="a")] == ["y"]
    paged, after = [], None
    while page := queue.jobs(after=after, limit=1):
        after = (page[0].display_uri, page[0].collection, page[0].video_id)
        paged.append(page[0].video_id)
    assert paged == whole


# ---- doing


def test_the_oldest_comes_first_and_what_was_tried_before_runs_alone(queue: JobQueue, writing: JobQueue) -> None:
    for video_id in ("one", "two", "six"):
        queue.submit(new_job(video_id))
    claimed = [writing.claim(), writing.claim(is_alone=False)]
    assert [job and (job.video_id, job.attempt_count) for job in claimed] == [("one", 1), ("two", 1)]
    writing.requeue_running()
    assert writing.claim(is_alone=False) is None  # it may be what killed the process
    again = writing.claim()
    assert again is not None
    assert (again.video_id, again.attempt_count, again.state) == ("one", 2, JobState.RUNNING)
    assert [job.state for job in queue.jobs()] == ["RUNNING", "QUEUED", "QUEUED"]


def test_finishing_makes_the_video_ready_and_ends_the_job(queue: JobQueue, writing: JobQueue, reader: Catalog) -> None:
    put(writing.catalog, "abc")
    queue.submit(new_job("abc"))
    job = writing.claim()
    assert job is not None
    generation = reader.generation()
    assert index(writing, job, "hello there")
    assert queue.job("default", "abc") is None
    assert reader.video("abc").utterance_count == 1
    assert reader.generation() == generation + 1
    assert not index(writing, job, "a second time")
    assert reader.video("abc").utterance_count == 1
    assert reader.generation() == generation + 1


@pytest.mark.parametrize("ending", ["cancel", "delete", "requeue", "replace"])
def test_what_is_not_wanted_any_more_does_not_become_visible(
    queue: JobQueue, writing: JobQueue, reader: Catalog, ending: str
) -> None:
    queue.submit(new_job("abc"))
    job = writing.claim()
    assert job is not None
    assert writing.set_progress({job.job_id: 0.5}) == set()
    assert the_job(queue, "abc").progress == 0.5
    endings: dict[str, Callable[[], object]] = {
        "cancel": lambda: queue.cancel("default", "abc"),
        "delete": lambda: queue.delete("abc"),
        "requeue": writing.requeue_running,
        "replace": lambda: queue.submit(new_job("abc", uri="https://other")),
    }
    endings[ending]()
    assert writing.set_progress({job.job_id: 0.6}) == {job.job_id}
    assert not index(writing, job, "hello there")
    assert reader.videos() == []
    assert reader.generation() == 0
    assert reader.match_words(["hello"], limit=1) == []
    assert writing.catalog.select("SELECT count(*) FROM videos") == [(0,)]


def test_bytes_that_are_there_take_what_is_said_of_them_now(
    queue: JobQueue, writing: JobQueue, reader: Catalog
) -> None:
    row, generation = put(writing.catalog, "abc"), reader.generation()
    queue.submit(new_job("abc"))
    job = writing.claim()
    assert job is not None

    def keep() -> bool:
        return writing.catalog.finish_unchanged(
            row, uri=job.display_uri, metadata=job.metadata, recorded_time=job.recorded_time, job_id=job.job_id
        )

    assert keep()
    assert reader.video("abc").metadata == {"camera": "7"}
    assert reader.video("abc").recorded_time == 1.7e9
    assert reader.video("abc").uri == job.display_uri
    assert reader.generation() == generation + 1  # what filters have remembered is old
    assert queue.jobs() == []
    assert not keep()


def test_a_job_that_the_worker_dies_on_fails_in_the_end(queue: JobQueue, writing: JobQueue) -> None:
    queue.submit(new_job("abc", uri="upload:a.mp4", spool_name=spooled(queue, "aa")))
    for attempt in range(1, MAX_ATTEMPTS + 1):
        job = writing.claim()
        assert job is not None
        assert job.attempt_count == attempt
        writing.requeue_running()
    failed = the_job(queue, "abc")
    assert (failed.state, failed.failure_reason) == (JobState.FAILED, "WORKER_CRASHED")
    assert "upload:a.mp4" in failed.failure_message
    assert list(queue.spool_folder.iterdir()) == []
    assert not queue.has_work()


def test_a_stop_does_not_count_as_an_attempt(queue: JobQueue, writing: JobQueue) -> None:
    queue.submit(new_job("abc"))
    for _ in range(MAX_ATTEMPTS + 1):
        assert writing.claim() is not None
        assert queue.has_work()
        queue.release_running()
    assert the_job(queue, "abc").attempt_count == 0
    assert the_job(queue, "abc").state is JobState.QUEUED


def test_when_nothing_can_be_indexed_all_jobs_say_so(queue: JobQueue, writing: JobQueue) -> None:
    for video_id in ("one", "two"):
        queue.submit(new_job(video_id))
    writing.claim()
    assert writing.fail_all("WEIGHTS_NOT_FOUND", "no weights for x") == 2
    assert {job.failure_reason for job in queue.jobs()} == {"WEIGHTS_NOT_FOUND"}
    assert writing.claim() is None


def test_failures_are_forgotten_after_a_week(queue: JobQueue, writing: JobQueue, clock: Clock) -> None:
    for video_id in ("old", "new"):
        queue.submit(new_job(video_id))
        job = writing.claim()
        assert job is not None
        writing.fail(job.job_id, "X", "")
        clock.now += FAILED_SECONDS - DAY
    clock.now += 2 * DAY - FAILED_SECONDS
    queue.submit(new_job("any"))
    assert {job.video_id for job in queue.jobs()} == {"new", "any"}


# ---- deleting


def test_deleting_takes_the_video_and_its_job(queue: JobQueue, writing: JobQueue, reader: Catalog) -> None:
    put(writing.catalog, "both")
    put(writing.catalog, "ready")
    queue.submit(new_job("both"))
    queue.submit(new_job("waits"))
    for video_id in ("both", "ready", "waits"):
        queue.delete(video_id, "default")
        with pytest.raises(VideoNotFound):
            queue.delete(video_id, "default")
    assert (reader.videos(), queue.jobs()) == ([], [])


def test_deleting_what_several_collections_have_needs_the_collection(queue: JobQueue, writing: JobQueue) -> None:
    put(writing.catalog, "abc", collection="a")
    queue.submit(new_job("abc", collection="b"))
    with pytest.raises(VideoAmbiguous, match="a, b"):
        queue.delete("abc")
    queue.delete("abc", "a")
    queue.delete("abc")
    assert queue.jobs() == []


def test_a_repeated_delete_is_no_error(queue: JobQueue, writing: JobQueue) -> None:
    request = RequestKey(principal="ann", request_id="2", method="DeleteVideo", digest="abc")
    put(writing.catalog, "abc")
    queue.delete("abc", request=request)
    queue.delete("abc", request=request)
    assert queue.answer(request) == ("default", "abc")
    with pytest.raises(VideoNotFound):
        queue.delete("abc", request=replace(request, request_id="3"))
    put(writing.catalog, "abc")
    queue.delete("abc", request=request)  # of the past: what came since stays
    assert len(writing.catalog.videos()) == 1
    with pytest.raises(RequestIdReused):
        queue.delete("xyz", request=replace(request, digest="xyz"))
