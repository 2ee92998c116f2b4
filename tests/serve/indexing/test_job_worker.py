"""The process that indexes for a server: a real child, a real queue, exact encoders."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from encoders.errors import WeightsNotFound
from ingest.config import DecodeConfig, SourceConfig
from ingest.errors import DecodeError, DecoderCrashed, LimitExceeded, SourceNotFound
from serve.catalog.catalog import Catalog
from serve.errors import DiskFull, EncoderSpaceMismatch, VideoNotFound, name_of
from serve.indexing import job_worker
from serve.indexing.job import Job, JobState, NewJob
from serve.indexing.job_worker import JobWorker
from serve.indexing.jobs import MAX_ATTEMPTS, JobQueue
from serve.indexing.pipeline import index
from serve.indexing.supervisor import Supervisor
from serve.indexing.uploads import Spool
from serve.settings import Settings
from support import SUPPORT
from support.fakes import ColourEncoder, SilentProgress, use_fakes, write_scenes
from support.waiting import HANG_SECONDS, wait_until

pytestmark = pytest.mark.slow

CHILD = SUPPORT / "ingest_child.py"
SETTINGS = Settings(workers=2, decode=DecodeConfig(sampling="exact"), source=SourceConfig(file_roots=("/",)))


@pytest.fixture(autouse=True)
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)
    monkeypatch.setattr(job_worker, "IDLE_EXIT_SECONDS", 0.3)
    monkeypatch.setattr(job_worker, "RELEASE_SECONDS", 0.1)
    monkeypatch.setattr(job_worker, "POLL_SECONDS", 0.02)
    monkeypatch.setattr("serve.indexing.run.IDLE_SECONDS", 0.05)
    monkeypatch.setattr("serve.indexing.run.REPORT_SECONDS", 0.05)
    monkeypatch.setenv("KINODEX_SOURCE_FILE_ROOTS", "/")  # of the children
    monkeypatch.setenv("KINODEX_DECODE_SAMPLING", "exact")
    monkeypatch.setenv("KINODEX_WORKERS", "2")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    Catalog.open_writer(tmp_path / "data").close()
    return tmp_path / "data"


@pytest.fixture
def jobs(data: Path) -> Iterator[JobQueue]:
    with Catalog.open_editor(data) as catalog:
        yield JobQueue(catalog)


def submit(jobs: JobQueue, path: Path, video_id: str = "", **said: object) -> None:
    uri = path.absolute().as_uri()
    new = NewJob(collection="default", video_id=video_id or path.stem, uri=uri, display_uri=uri, **said)  # type: ignore[arg-type]
    jobs.submit(new)


def spool(jobs: JobQueue, path: Path) -> str:
    """Upload a file; return its name in the spool."""
    with Spool(jobs.spool_folder, max_upload_bytes=1 << 30, max_spool_bytes=1 << 30).receive(path.name) as upload:
        upload.write(path.read_bytes())
        name = upload.finish().name
        uri = f"upload:{path.name}"
        jobs.submit(NewJob(collection="default", video_id=path.stem, uri=uri, display_uri=uri, spool_name=name))
    return name


def work(data: Path) -> None:
    JobWorker(data, SETTINGS).work_until_idle()


def the_job(jobs: JobQueue, video_id: str) -> Job:
    found = jobs.job("default", video_id)
    assert found is not None
    return found


def content(data: Path) -> list[object]:
    """Everything a library knows, comparable between two of them."""
    with Catalog.open_reader(data) as catalog:
        return [
            (
                video.video_id, video.uri, video.metadata, video.frame_count, video.duration_seconds,
                catalog.frames(video.row).vectors.tobytes(), catalog.utterances(video.row),
                [(s.segment_id, s.span) for s in catalog.segments(video.row)],
            )
            for video in catalog.videos()
        ]  # fmt: skip


# ---- in this process


def test_does_jobs_until_none_come(jobs: JobQueue, data: Path, tmp_path: Path) -> None:
    film = write_scenes(tmp_path / "a.mp4", [("red", 3)], tones=[(440, 1.0)])
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"this is no video " * 50)
    submit(jobs, film, "named", metadata={"camera": "7"}, recorded_time=1.7e9)
    submit(jobs, broken)
    submit(jobs, tmp_path / "missing.mp4")
    work(data)
    with Catalog.open_reader(data) as catalog:
        (video,) = catalog.videos()
        assert (video.video_id, video.uri, video.utterance_count) == ("named", film.as_uri(), 1)
        assert (video.metadata, video.recorded_time) == ({"camera": "7"}, 1.7e9)
        assert [one.segment_id for one in catalog.segments(video.row)] == ["named/0/0"]
    assert {job.video_id: (job.state, job.failure_reason) for job in jobs.jobs()} == {
        "broken": (JobState.FAILED, "DECODE_ERROR"),
        "missing": (JobState.FAILED, "SOURCE_NOT_FOUND"),
    }
    assert broken.as_uri() in the_job(jobs, "broken").failure_message
    assert list((data / "index").iterdir())  # saved, so that the next question need not
    Catalog.open_writer(data).close()  # the lock is given back


def test_the_log_has_a_line_for_a_file_with_warnings(
    jobs: JobQueue, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    submit(jobs, write_scenes(tmp_path / "whole.mp4", [("red", 3)], tones=[(440, 1.0)]))
    silent = write_scenes(tmp_path / "silent.mp4", [("red", 3)], tones=[(0, 1.0)])
    submit(jobs, silent)
    work(data)
    lines = [record.getMessage() for record in caplog.records if "faults" in record.getMessage()]
    assert lines == [f"file has faults uri={silent.as_uri()} warnings=its sound is silent"]


def test_the_same_bytes_again_are_not_indexed_again_and_other_bytes_replace(
    jobs: JobQueue, data: Path, tmp_path: Path
) -> None:
    film = write_scenes(tmp_path / "a.mp4", [("red", 3)])
    submit(jobs, film)
    work(data)
    with Catalog.open_reader(data) as catalog:
        first = catalog.video("a", "default")
    submit(jobs, film, metadata={"new": "words"})
    work(data)
    with Catalog.open_reader(data) as catalog:
        kept = catalog.video("a", "default")
    assert (kept.row, kept.metadata, jobs.jobs()) == (first.row, {"new": "words"}, [])
    write_scenes(film, [("green", 4)])
    submit(jobs, film)
    work(data)
    with Catalog.open_reader(data) as catalog:
        (second,) = catalog.videos()
    assert second.row > first.row
    assert second.frame_count == 4


def test_an_upload_is_indexed_under_its_name_and_its_bytes_are_let_go(
    jobs: JobQueue, data: Path, tmp_path: Path
) -> None:
    spool(jobs, write_scenes(tmp_path / "a.mp4", [("red", 3)]))
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"this is no video " * 50)
    spool(jobs, broken)
    (jobs.spool_folder / f"{'0' * 64}-orphan").write_bytes(b"of a killed server")
    work(data)
    with Catalog.open_reader(data) as catalog:
        assert [video.uri for video in catalog.videos()] == ["upload:a.mp4"]
    message = the_job(jobs, "broken").failure_message
    assert "upload:broken.mp4" in message
    assert str(data) not in message
    assert list(jobs.spool_folder.iterdir()) == []


def test_a_full_disk_is_not_the_fault_of_jobs(
    jobs: JobQueue, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(jobs, write_scenes(tmp_path / "a.mp4", [("red", 3)]))

    def fail(*_: object) -> None:
        raise DiskFull(str(data))

    with monkeypatch.context() as patched:
        patched.setattr(Catalog, "add_frames", fail)
        for _ in range(MAX_ATTEMPTS + 1):
            with pytest.raises(DiskFull):
                JobWorker(data, SETTINGS).work_until_released()
    (job,) = jobs.jobs()
    assert (job.state, job.attempt_count) == (JobState.QUEUED, 0)
    work(data)
    assert jobs.jobs() == []


def test_a_failure_tells_no_secrets(jobs: JobQueue, data: Path) -> None:
    jobs.submit(
        NewJob(
            collection="default", video_id="a", uri="http://ann:secret@127.0.0.1:9/a.mp4?token=hidden",
            display_uri="http://127.0.0.1:9/a.mp4?token=REDACTED",
        )
    )  # fmt: skip
    work(data)
    failed = the_job(jobs, "a")
    assert failed.failure_reason == "SOURCE_REFUSED"
    assert not {"secret", "hidden"} & set(failed.failure_message.replace("=", " ").replace(":", " ").split())


def test_a_job_cancelled_while_it_runs_leaves_nothing(
    jobs: JobQueue, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded_counts = slow_encoder(monkeypatch, seconds=1.0)
    submit(jobs, write_scenes(tmp_path / "long.mp4", [("red", 600)]))
    submit(jobs, write_scenes(tmp_path / "short.mp4", [("green", 3)]))
    seen: list[float] = []

    def cancel_when_under_way() -> bool:
        job = jobs.job("default", "long")
        seen.extend([job.progress] if job is not None else [])
        return job is not None and 0 < job.progress < 1 and jobs.cancel("default", "long")

    in_thread(lambda: wait_until(cancel_when_under_way), lambda: work(data))
    assert sum(encoded_counts) < 600
    assert jobs.jobs() == []
    with Catalog.open_reader(data) as catalog:
        assert [video.video_id for video in catalog.videos()] == ["short"]
        assert catalog.select("SELECT count(*) FROM videos") == [(1,)]
    assert max(seen) > 0


def test_a_job_cancelled_while_its_bytes_come_ends_soon(jobs: JobQueue, data: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        is_asked, is_over = threading.Event(), threading.Event()

        def drip() -> None:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
                is_asked.set()
                while not is_over.wait(0.02):
                    connection.sendall(bytes(2000))

        def cancel() -> None:
            assert is_asked.wait(HANG_SECONDS)
            assert jobs.cancel("default", "a")

        uri = f"http://127.0.0.1:{server.getsockname()[1]}/a.mp4"
        jobs.submit(NewJob(collection="default", video_id="a", uri=uri, display_uri=uri))
        settings = replace(SETTINGS, source=SourceConfig(private_networks=("127.0.0.0/8",)))
        begun = time.monotonic()
        with ThreadPoolExecutor(2) as pool:
            others = [pool.submit(drip), pool.submit(cancel)]
            JobWorker(data, settings).work_until_idle()
            took = time.monotonic() - begun
            is_over.set()
            for other in others:
                other.result()
    assert took < HANG_SECONDS  # the bytes would come for longer
    assert jobs.jobs() == []
    with Catalog.open_reader(data) as catalog:
        assert catalog.select("SELECT count(*) FROM videos") == [(0,)]


def test_jobs_fail_without_encoders_and_later_jobs_are_tried(
    jobs: JobQueue, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = write_scenes(tmp_path / "a.mp4", [("red", 3)])
    submit(jobs, film, "one")
    submit(jobs, film, "two")
    with monkeypatch.context() as patched:

        def fail(*_: object) -> None:
            raise WeightsNotFound("some-model", "not cached")

        patched.setattr("serve.indexing.job_worker.load_for_indexing", fail)
        work(data)
    assert {job.failure_reason for job in jobs.jobs()} == {"WEIGHTS_NOT_FOUND"}
    submit(jobs, film, "one")
    work(data)
    assert [job.video_id for job in jobs.jobs()] == ["two"]
    monkeypatch.setattr("support.fakes.WordSumEncoder.fingerprint", "another")
    submit(jobs, film, "three")
    work(data)
    assert the_job(jobs, "three").failure_reason == "ENCODER_SPACE_MISMATCH"


def test_waits_for_another_writer(jobs: JobQueue, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submit(jobs, write_scenes(tmp_path / "a.mp4", [("red", 3)]))
    other = write_scenes(tmp_path / "b.mp4", [("green", 3)])
    outcomes = index([str(other)], data, SETTINGS, progress=SilentProgress())
    worker, attempts, open_writer = JobWorker(data, SETTINGS), [], Catalog.open_writer

    def note_attempt(directory: Path) -> Catalog:
        attempts.append(directory)
        return open_writer(directory)

    def index_the_other() -> None:
        assert the_job(jobs, "a").state is JobState.QUEUED
        wait_until(lambda: len(attempts) > 1)
        assert the_job(jobs, "a").state is JobState.QUEUED
        assert [outcome.status for outcome in outcomes] == []

    assert next(outcomes).status == "indexed"
    monkeypatch.setattr(Catalog, "open_writer", note_attempt)
    in_thread(index_the_other, worker.work_until_idle)
    with Catalog.open_reader(data) as catalog:
        assert [Path(video.uri).name for video in catalog.videos()] == ["b.mp4", "a.mp4"]  # a path before a URI


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (DecodeError("a", "b"), "DECODE_ERROR"),
        (DecoderCrashed("a", "b"), "DECODER_CRASHED"),
        (LimitExceeded("a", "b", "c"), "LIMIT_EXCEEDED"),
        (SourceNotFound("a", "b"), "SOURCE_NOT_FOUND"),
        (EncoderSpaceMismatch("a", "b", "c"), "ENCODER_SPACE_MISMATCH"),
    ],
)
def test_names_errors_for_programs(error: Exception, reason: str) -> None:
    assert name_of(error) == reason


@pytest.mark.slow
def test_the_last_request_for_each_video_wins(
    jobs: JobQueue, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_encoder(monkeypatch, seconds=0.05)
    films = [write_scenes(tmp_path / f"{n}.mp4", [("red", 20 + n)], salt=n) for n in range(3)]
    draw = np.random.default_rng(7)
    last: dict[str, Path | None] = {}

    def ask() -> None:
        for _ in range(60):
            video_id, film = f"video{draw.integers(4)}", films[draw.integers(3)]
            if draw.random() < 0.6:
                submit(jobs, film, video_id)
                last[video_id] = film
            else:
                with contextlib.suppress(VideoNotFound):
                    jobs.delete(video_id)
                last[video_id] = None
            time.sleep(float(draw.uniform(0, 0.1)))

    monkeypatch.setattr(job_worker, "IDLE_EXIT_SECONDS", 2.0)
    in_thread(ask, lambda: work(data))
    work(data)
    assert jobs.jobs() == []
    with Catalog.open_reader(data) as catalog:
        found = {video.video_id: video.uri for video in catalog.videos()}
        assert catalog.select("SELECT count(*) FROM videos") == [(len(found),)]
    assert found == {video_id: film.as_uri() for video_id, film in last.items() if film is not None}


# ---- a process of its own


def start(data: Path, **environment: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, CHILD, "--data", data], stdin=subprocess.PIPE, env=os.environ | environment
    )


@pytest.mark.slow
def test_ends_when_its_parent_does_and_gives_its_jobs_back(jobs: JobQueue, data: Path, tmp_path: Path) -> None:
    submit(jobs, write_scenes(tmp_path / "a.mp4", [("red", 120)]))
    process = start(data, TEST_SLOW_SECONDS="1000")
    wait_until(lambda: the_job(jobs, "a").state is JobState.RUNNING and decoders_of(process.pid))
    decoders = decoders_of(process.pid)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(HANG_SECONDS) == 0
    wait_until(lambda: not any(map(is_alive, decoders)))
    assert (the_job(jobs, "a").state, the_job(jobs, "a").attempt_count) == (JobState.QUEUED, 0)


@pytest.mark.slow
def test_sigterm_ends_it_even_inside_an_encoder(jobs: JobQueue, data: Path, tmp_path: Path) -> None:
    submit(jobs, write_scenes(tmp_path / "a.mp4", [("red", 3)]))
    is_encoding = tmp_path / "is-encoding"
    with start(data, TEST_SLOW_SECONDS="1000", TEST_ENCODING_FILE=str(is_encoding)) as process:
        wait_until(is_encoding.exists)
        assert the_job(jobs, "a").state is JobState.RUNNING
        process.send_signal(signal.SIGTERM)
        assert process.wait(HANG_SECONDS) == 0
    assert (the_job(jobs, "a").state, the_job(jobs, "a").attempt_count) == (JobState.QUEUED, 0)


@pytest.mark.slow
def test_killed_at_any_moment_and_started_again_equals_an_undisturbed_run(
    jobs: JobQueue, data: Path, tmp_path: Path
) -> None:
    films = [
        write_scenes(tmp_path / f"film{n}.mp4", [("yellow", 10 + n), ("red", 5)], tones=[(880, 3.0)], salt=n)
        for n in range(5)
    ]
    Catalog.open_writer(tmp_path / "undisturbed").close()
    with Catalog.open_editor(tmp_path / "undisturbed") as catalog:
        for film in films:
            submit(JobQueue(catalog), film)
        work(tmp_path / "undisturbed")
        assert JobQueue(catalog).jobs() == []
    for film in films:
        submit(jobs, film)
    moments = np.random.default_rng(20261123)
    kills = 0
    while jobs.has_work():
        with start(data, TEST_SLOW_SECONDS="0.2", TEST_IDLE_EXIT_SECONDS="0.5") as process:
            wait_until(lambda: any(job.state is JobState.RUNNING for job in jobs.jobs()) or not jobs.has_work())
            # Each start claims anew, and three deaths are the video's fault: later starts are left alone longer.
            time.sleep(float(moments.uniform(0, 0.4 + kills)))
            kills += process.poll() is None
            process.kill()
        with Catalog.open_reader(data) as catalog:
            for video in catalog.videos():
                assert len(catalog.frames(video.row).pts_seconds) == video.frame_count > 0
        for job in jobs.jobs():
            with jobs.catalog.editing() as edit:  # here nobody is to blame
                edit.execute("UPDATE jobs SET attempt_count = 1 WHERE attempt_count > 1")
            assert job.state is not JobState.FAILED
    assert kills > 1
    assert content(data) == content(tmp_path / "undisturbed")
    work(data)
    with Catalog.open_reader(data) as catalog:
        assert catalog.select("SELECT count(*) FROM videos") == [(len(films),)]


@pytest.mark.slow
def test_a_video_that_kills_the_worker_fails_and_takes_no_other_with_it(
    jobs: JobQueue, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_FATAL_COLOUR", "blue")
    monkeypatch.setenv("TEST_IDLE_EXIT_SECONDS", "0.5")
    for n, colour in enumerate(("red", "blue", "green")):
        submit(jobs, write_scenes(tmp_path / f"{colour}.mp4", [(colour, 3)], salt=n))
    supervisor = Supervisor(jobs, command=[sys.executable, str(CHILD)], first_backoff_seconds=0.05)
    supervisor.start()
    try:
        wait_until(lambda: not jobs.has_work())
    finally:
        supervisor.stop()
        supervisor.stop()
    assert [(job.video_id, job.failure_reason) for job in jobs.jobs()] == [("blue", "WORKER_CRASHED")]
    with Catalog.open_reader(data) as catalog:
        assert {video.video_id for video in catalog.videos()} == {"red", "green"}
    assert supervisor.crash_count == 3
    assert supervisor.pid is None


@pytest.mark.slow
def test_the_supervisor_starts_a_worker_when_there_is_work_and_stops_it(
    jobs: JobQueue, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, has_work = [], JobQueue.has_work
    monkeypatch.setattr(JobQueue, "has_work", lambda jobs: looks.append(jobs) or has_work(jobs))
    supervisor = Supervisor(jobs, command=[sys.executable, str(CHILD)])
    supervisor.start()
    try:
        wait_until(lambda: len(looks) > 1)
        assert supervisor.pid is None
        submit(jobs, write_scenes(tmp_path / "a.mp4", [("red", 3)]))
        supervisor.wake()
        wait_until(lambda: not jobs.has_work())
        pid = supervisor.pid
        assert pid is not None
    finally:
        start = time.monotonic()
        supervisor.stop()
    assert time.monotonic() - start < HANG_SECONDS
    assert not is_alive(pid)
    assert supervisor.crash_count == 0


def in_thread(other: Callable[[], None], here: Callable[[], None]) -> None:
    """Do two things at once."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(other)
        here()
        future.result()


def slow_encoder(monkeypatch: pytest.MonkeyPatch, *, seconds: float) -> list[int]:
    """Make each batch of frames take so long; return a list that grows by the count of frames of each batch."""
    encode, counts = ColourEncoder.encode_frames, []

    def encode_slowly(self: ColourEncoder, pixels: np.ndarray) -> np.ndarray:
        time.sleep(seconds)
        counts.append(len(pixels))
        return encode(self, pixels)

    monkeypatch.setattr(ColourEncoder, "encode_frames", encode_slowly)
    return counts


def decoders_of(parent: int) -> list[int]:
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()[1:]]
    return [int(pid) for pid, ppid, command in rows if int(ppid) == parent and "ingest.sandbox.child" in command]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False
