"""A process of its own for the catalog's tests: it writes, holds the lock, fills the disk, or is killed half-way.

Run as `python catalog_child.py JOB DIRECTORY`.
"""

import itertools
import os
import resource
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from serve.catalog.catalog import Catalog
from serve.catalog.swap import replace_videos
from serve.errors import DataDirectoryInvalid, DataDirectoryMissing
from serve.indexing.job import NewJob
from serve.indexing.jobs import JobQueue
from support.sample_catalog import check, frames, new_video, put_version


def write(directory: Path) -> None:
    """Replace videos for ever; print the name and the version of each finished video."""
    with Catalog.open_writer(directory) as catalog:
        known = {video.video_id: int(video.duration_seconds) for video in catalog.videos()}
        print("ready", flush=True)
        for version in itertools.count(max(known.values(), default=0) + 1):
            put_version(catalog, f"video{version % 3}", version)
            print(f"video{version % 3} {version}", flush=True)


def hold(directory: Path) -> None:
    """Hold the lock until killed."""
    with Catalog.open_writer(directory):
        print("ready", flush=True)
        signal.pause()


def long_video(directory: Path) -> None:
    """Write twelve hours of frames; say by how many MiB the process grew after the first six, and the largest log."""
    wal = directory / "catalog.sqlite-wal"
    largest_wal_bytes, settled_kibibytes = 0, 0
    with Catalog.open_writer(directory) as catalog:
        row = catalog.begin(new_video("long"))
        for first in range(0, 12 * 3600, 64):
            catalog.add_frames(row, frames(64, first=first, width=512), [os.urandom(2000)] * 64)
            largest_wal_bytes = max(largest_wal_bytes, wal.stat().st_size)
            if first == 6 * 3600 // 64 * 64:
                settled_kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - settled_kibibytes
    print(grown >> 10, largest_wal_bytes >> 20)


def fill_disk(directory: Path) -> None:
    """Write until the file may not grow; say why it ended."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    try:
        write(directory)
    except DataDirectoryInvalid as error:
        print(f"invalid: {error.reason}", flush=True)


def unprivileged(directory: Path) -> None:
    """Read, and try to write, as a user who may not write there; read again at each line of standard input."""
    if os.geteuid() == 0:
        os.setuid(65534)
    try:
        Catalog.open_writer(directory)
    except DataDirectoryInvalid as error:
        print(error.reason)
    with Catalog.open_reader(directory) as catalog:
        print(check(catalog), flush=True)
        for _ in sys.stdin:
            print(check(catalog), flush=True)


def sweep(directory: Path) -> None:
    """For every SQL statement of making, replacing and deleting: die right before it, and check what is left."""

    def make(target: Path) -> None:
        with Catalog.open_writer(target) as catalog:
            put_version(catalog, "video0", 1)

    def replace_and_delete(target: Path) -> None:
        with Catalog.open_writer(target) as catalog:
            put_version(catalog, "video0", 3)
            catalog.delete("video1")

    base, other = directory / "base", directory / "other"
    with Catalog.open_writer(base) as catalog:
        put_version(catalog, "video0", 1)
        put_version(catalog, "video1", 2)
    with Catalog.open_writer(other) as catalog:
        put_version(catalog, "video0", 6)
        put_version(catalog, "video2", 7)  # not in the base: as if it was deleted there meanwhile

    def replace_all(target: Path) -> None:
        with Catalog.open_writer(target) as catalog:
            replace_videos(catalog, other)

    with Catalog.open_writer(directory / "waiting") as catalog:
        put_version(catalog, "video0", 1)
        uri = "https://example.org/video1.mp4"
        JobQueue(catalog).submit(NewJob(collection="default", video_id="video1", uri=uri, display_uri=uri))

    def do_job(target: Path) -> None:
        with Catalog.open_writer(target) as catalog:
            jobs = JobQueue(catalog)
            jobs.requeue_running()
            job = jobs.claim()
            assert job is not None
            put_version(catalog, job.video_id, 2, job.job_id)

    nothing: dict[str, int] = {}
    before = {"video0": 1, "video1": 2}
    jobs: list[tuple[Callable[[Path], None], Path | None, list[dict[str, int]]]] = [
        (make, None, [nothing, {"video0": 1}]),
        (replace_and_delete, base, [before, {"video0": 3, "video1": 2}, {"video0": 3}]),
        (replace_all, base, [before, {"video0": 6}]),
        (do_job, directory / "waiting", [{"video0": 1}, before]),
    ]
    for job, start, states in jobs:
        seen = []
        for statement in itertools.count(1):
            target = directory / f"{job.__name__}-{statement}"
            if start is not None:
                shutil.copytree(start, target)
            died = die_before(statement, lambda job=job, target=target: job(target))  # type: ignore[misc]
            try:
                with Catalog.open_reader(target) as catalog:
                    versions = check(catalog)
            except DataDirectoryMissing:
                versions = nothing
            assert versions in states, (job.__name__, statement, versions)
            if job is do_job:  # its video is there or its job is, never both and never neither
                with Catalog.open_editor(target) as catalog:
                    assert JobQueue(catalog).has_work() == ("video1" not in versions), statement
            if not seen or seen[-1] != versions:
                seen.append(versions)
            with Catalog.open_writer(target) as catalog:
                assert check(catalog) == versions
                put_version(catalog, "video9", 9)
            with sqlite3.connect(target / "catalog.sqlite") as connection:
                left = connection.execute("SELECT count(*) FROM videos WHERE state = 'PROCESSING'").fetchone()
                orphans = connection.execute(
                    "SELECT count(*) FROM utterances WHERE video_row NOT IN (SELECT row FROM videos)"
                ).fetchone()
                assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
                connection.execute("INSERT INTO utterance_search (utterance_search) VALUES ('integrity-check')")
            connection.close()
            assert (left, orphans) == ((0,), (0,))
            if job is do_job and "video1" not in versions:
                do_job(target)
                with Catalog.open_editor(target) as catalog:
                    assert check(catalog) == {**before, "video9": 9}
                    assert JobQueue(catalog).jobs() == []
            shutil.rmtree(target)
            if not died:
                break
        assert seen == states, (job.__name__, seen)
        print(job.__name__, statement)


def die_before(statement: int, job: Callable[[], None]) -> bool:
    """Run a job in a fork that kills itself before its nth SQL statement; return whether it came to that."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
        return os.WIFSIGNALED(status)
    count = 0
    connect = sqlite3.connect

    def trace(_: str) -> None:
        nonlocal count
        count += 1
        if count == statement:
            os.kill(os.getpid(), signal.SIGKILL)

    def traced(*arguments: object, **options: object) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **options)  # type: ignore[call-overload]
        connection.set_trace_callback(trace)
        return connection

    sqlite3.connect = traced  # type: ignore[assignment]
    code = 1
    try:
        job()
        code = 0
    finally:
        os._exit(code)


if __name__ == "__main__":
    JOBS: list[Callable[[Path], None]] = [write, hold, long_video, fill_disk, unprivileged, sweep]
    next(job for job in JOBS if job.__name__ == sys.argv[1])(Path(sys.argv[2]))
