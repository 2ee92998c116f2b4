"""Jobs of one caller that take for ever, and what others notice of them: nothing."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ingest.config import SourceConfig
from ingest.sandbox.pool import DecodePool
from ingest.values import DecodeSummary
from serve.catalog.catalog import Catalog
from serve.indexing import job_worker
from serve.indexing.job import NewJob
from serve.indexing.job_worker import JobWorker
from serve.indexing.jobs import JobQueue
from serve.indexing.pipeline import index
from serve.indexing.run import IndexRun
from serve.indexing.work import DecodeEvent, Input, Opened, VideoWork
from serve.settings import Settings
from support.fakes import SilentProgress, use_fakes, write_scenes
from support.waiting import HANG_SECONDS, wait_until

pytestmark = pytest.mark.slow

BUSY_SECONDS = 20.0  # how long the long film goes on at most; without fairness, the short one waits for its end


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)


@pytest.fixture
def dripping() -> Iterator[str]:
    """The address of a server that sends its videos at some 2 KB a second."""
    is_over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            try:
                while not is_over.wait(0.1):
                    self.wfile.write(bytes(200))
            except OSError:
                pass

        def log_message(self, *_: object) -> None:
            """Write no log."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    is_over.set()
    server.shutdown()
    server.server_close()
    thread.join()


def test_slow_downloads_of_one_caller_delay_nobody_else(
    tmp_path: Path, dripping: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_worker, "IDLE_EXIT_SECONDS", 0.3)
    monkeypatch.setattr(job_worker, "RELEASE_SECONDS", 0.1)
    source = SourceConfig(file_roots=("/",), private_networks=("127.0.0.0/8",))
    film = write_scenes(tmp_path / "film.mp4", [("red", 3)])
    Catalog.open_writer(tmp_path / "data").close()
    with Catalog.open_editor(tmp_path / "data") as catalog:
        jobs = JobQueue(catalog)

        def submit(caller: str, video_id: str, uri: str) -> None:
            jobs.submit(NewJob(collection="default", video_id=video_id, uri=uri, display_uri=uri, caller=caller))

        for number in range(4):
            submit("ann", f"slow{number}", f"{dripping}/{number}.mp4")
        worker = JobWorker(tmp_path / "data", Settings(workers=2, source=source))
        working = threading.Thread(target=worker.work_until_idle)
        working.start()
        try:
            wait_until(lambda: [job.state for job in jobs.jobs()].count("RUNNING") == 2)
            submit("bob", "quick", film.as_uri())
            wait_until(lambda: [video.video_id for video in catalog.videos()] == ["quick"])
            assert [job.state for job in jobs.jobs()] == ["RUNNING", "RUNNING", "QUEUED", "QUEUED"]
        finally:
            for job in jobs.jobs():
                jobs.cancel(job.collection, job.video_id)
            working.join(HANG_SECONDS)


def test_a_short_spoken_film_does_not_wait_for_the_end_of_a_long_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The long film has no speech, so the short one's only window never gets company, and the queue is never empty."""
    monkeypatch.setattr("serve.indexing.run.PATIENCE_SECONDS", 0.2)
    short = write_scenes(tmp_path / "short.mp4", [("red", 3)], tones=[(440, 1.0)])
    long = write_scenes(tmp_path / "long.mp4", [("blue", 5)])
    runs: list[IndexRun] = []
    is_short_done = threading.Event()
    over = VideoWork(input=Input(uri="over", collection="default"), uri="over", name="over", is_over=True)
    decode_work, decode = IndexRun._decode, DecodePool.decode

    def note_run(run: IndexRun, *given: Any) -> None:
        runs.append(run)
        decode_work(run, *given)

    def decode_slowly(pool: DecodePool, *given: Any, uri: str, **named: Any) -> Iterator[Any]:
        for decoded in decode(pool, *given, uri=uri, **named):
            if isinstance(decoded, DecodeSummary) and uri.endswith("long.mp4"):
                end = time.monotonic() + BUSY_SECONDS
                while not is_short_done.wait(0.05) and time.monotonic() < end:
                    runs[0]._events.put(DecodeEvent(over, Opened()))  # the encoding thread is never idle
            yield decoded

    monkeypatch.setattr(IndexRun, "_decode", note_run)
    monkeypatch.setattr(DecodePool, "decode", decode_slowly)
    names = []
    paths = [str(long), str(short)]
    for outcome in index(paths, tmp_path / "data", Settings(workers=2), progress=SilentProgress()):
        names.append(Path(outcome.uri).name)
        is_short_done.set()
    assert names == ["short.mp4", "long.mp4"]
