"""serve.worker.threads: results come back in the worker's thread, and a bug of any thread ends the worker."""

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import pytest

from ingest.config import SourceConfig
from ingest.errors import DecodeError, IngestError, SourceUnavailable
from ingest.kafka import Record
from ingest.values import Chunk, Decoded, DecodeSummary, Frame
from serve.codec.records import Source, video_key
from serve.encoder_set import load_for_indexing
from serve.observe.worker_metrics import WorkerMetrics
from serve.settings import Settings
from serve.worker import threads
from serve.worker.effects import ReceivedChunk
from serve.worker.threads import WorkerThreads
from serve.worker.video_flow import Step
from serve.worker.whole_file import FileWork
from support.fakes import ColourEncoder, use_fakes
from support.waiting import wait_until
from support.worker_fakes import MEDIA, FakeDelivery

RED, GREEN = (np.full((4, 4, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 255, 0)))


def frame(pts_seconds: float, pixels: Any = RED) -> Frame:
    return Frame(epoch=0, pts_seconds=pts_seconds, pixels=pixels, thumbnail=b"jpeg")


class FakePool:
    """Yields or raises what the media's bytes stand for, in place of the sandboxed decoder."""

    content: ClassVar[dict[bytes, Sequence[Decoded] | Exception]] = {}

    def __init__(self, config: object, *, workers: int) -> None: ...

    def decode(self, file: BinaryIO, *, uri: str, **_: object) -> Iterator[Decoded]:
        result = self.content[file.read()]
        if isinstance(result, Exception):
            raise result
        yield from result

    def close(self) -> None: ...


class FakeProducer:
    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes, bytes | None, int | None]] = []

    def partition_of(self, topic: str, key: bytes) -> int:
        return len(key)

    def send(self, topic: str, key: bytes, value: bytes | None, *, partition: int | None = None) -> FakeDelivery:
        self.sent.append((topic, key, value, partition))
        return FakeDelivery(topic, key, value)


@pytest.fixture
def producer() -> FakeProducer:
    return FakeProducer()


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, producer: FakeProducer) -> Iterator[WorkerThreads]:
    use_fakes(monkeypatch)
    monkeypatch.setattr(threads, "DecodePool", FakePool)
    monkeypatch.setattr(threads, "RETRY_SECONDS", (0.0, 0.0))
    monkeypatch.setattr(FakePool, "content", {})
    settings = Settings(workers=2, source=SourceConfig(file_roots=(str(tmp_path),)))
    transcriber, encoders = load_for_indexing(settings, None)
    made = WorkerThreads(settings, encoders, transcriber, producer, WorkerMetrics(), tmp_path, None)  # type: ignore[arg-type]
    yield made
    made.close()


def received(sequence: int, **changes: object) -> ReceivedChunk:
    values = {"collection": "c", "stream_id": "cam", "session": 1, "sequence": sequence, "media": b"media"}
    return ReceivedChunk(
        chunk=Chunk(**values | changes),  # type: ignore[arg-type]
        record=Record("chunks", 0, sequence, 1000.0, b"c/cam", b""),
    )


def run_until(worker: WorkerThreads, is_done: Callable[[], object]) -> None:
    """Run callbacks, as the worker's thread does, until something is so."""

    def step() -> bool:
        worker.run_callbacks()
        return bool(is_done())

    wait_until(step)


def test_a_decoded_chunk_comes_back_in_the_thread_that_runs_callbacks(worker: WorkerThreads) -> None:
    FakePool.content[b"media"] = [MEDIA, frame(0.0)]
    results: list[tuple[object, threading.Thread]] = []
    worker.decode(received(0), lambda result: results.append((result, threading.current_thread())))
    wait_until(lambda: worker.has_callbacks)
    assert (worker.in_flight_count, results) == (1, [])
    worker.run_callbacks()
    [(items, thread)] = results
    assert items == FakePool.content[b"media"]
    assert thread is threading.current_thread()
    assert (worker.in_flight_count, worker.has_callbacks) == (0, False)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "DecodeError"),
        ({"media": b"", "uri": "/etc/passwd"}, "SourceRefused"),
        ({"media": b"", "uri": "ftp://example.org/a.ts"}, "SourceRefused"),
    ],
)
def test_a_chunk_that_cannot_be_fetched_or_decoded_returns_its_error(
    worker: WorkerThreads, changes: dict[str, object], expected: str
) -> None:
    FakePool.content[b"media"] = DecodeError("chunk", "noise")
    results: list[list[Decoded] | IngestError] = []
    worker.decode(received(0, **changes), results.append)
    run_until(worker, lambda: results)
    assert [type(result).__name__ for result in results] == [expected]
    assert worker.in_flight_count == 0


def test_a_uri_whose_server_fails_is_tried_again(worker: WorkerThreads, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[str] = []

    def fail(uri: str, *_: object, **__: object) -> None:
        attempts.append(uri)
        raise SourceUnavailable(uri, "503")

    monkeypatch.setattr(threads, "open_source", fail)
    monkeypatch.setattr(threads, "check_policy", lambda *_: None)
    results: list[list[Decoded] | IngestError] = []
    worker.decode(received(0, media=b"", uri="https://example.org/a.ts"), results.append)
    run_until(worker, lambda: results)
    assert isinstance(results[0], SourceUnavailable)
    assert len(attempts) == 3


def test_pictures_come_back_encoded_in_their_order(worker: WorkerThreads) -> None:
    steps = [Step(None, frames=(frame(0.0, RED), frame(1.0, GREEN))), Step(None, frames=(frame(2.0, GREEN),))]
    done: list[int] = []
    worker.encode(steps[0], lambda: done.append(0), is_live=True)
    worker.encode(steps[1], lambda: done.append(1), is_live=False)
    assert (worker.in_flight_count, [step.is_done for step in steps]) == (1, [False, False])
    run_until(worker, lambda: len(done) == 2)
    assert worker.in_flight_count == 0
    for step, pixels in zip(steps, ([RED, GREEN], [GREEN]), strict=True):
        np.testing.assert_allclose(step.vectors, ColourEncoder().encode_frames(np.stack(pixels)))


def test_a_bug_in_another_thread_is_raised_by_run_callbacks(
    worker: WorkerThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: ColourEncoder, pixels: object) -> None:
        raise ArithmeticError("a bug in encoding")

    monkeypatch.setattr(ColourEncoder, "encode_frames", fail)
    worker.encode(Step(None, frames=(frame(0.0),)), lambda: None, is_live=True)
    wait_until(lambda: worker.has_callbacks)
    with pytest.raises(ArithmeticError, match="a bug in encoding"):
        worker.run_callbacks()
    FakePool.content[b"media"] = ArithmeticError("a bug in decoding")
    worker.decode(received(0), lambda _: None)
    wait_until(lambda: worker.has_callbacks)
    with pytest.raises(ArithmeticError, match="a bug in decoding"):
        worker.run_callbacks()


def file_work(tmp_path: Path, content: bytes) -> FileWork:
    (tmp_path / "film.mp4").write_bytes(content)
    source = Source(collection="films", video_id="", uri=(tmp_path / "film.mp4").as_uri())
    return FileWork(source, Record("sources", 0, 7, 1000.0, b"k", b""))


def test_a_file_comes_back_piece_by_piece(worker: WorkerThreads, tmp_path: Path) -> None:
    summary = DecodeSummary(
        duration_seconds=40.0, epoch_count=1, frame_count=40, error_count=0, truncated=False, zero_seconds=0.0,
        start_seconds=0.0, pictures_end_seconds=40.0,
    )  # fmt: skip
    FakePool.content[b"film"] = [MEDIA, *(frame(float(n)) for n in range(40)), summary]
    work = file_work(tmp_path, b"film")
    steps: list[Step] = []

    def take() -> None:
        for submission in work.take_submissions():
            if submission.step.frames:
                worker.encode(submission.step, lambda: None, is_live=False)
            steps.append(submission.step)
        work.resume_decoding()

    worker.decode_file(work, take)
    run_until(worker, lambda: steps and steps[-1].is_last and all(step.is_done for step in steps))
    assert work.failure is None
    assert [len(step.frames) for step in steps] == [16, 16, 8, 0]
    assert worker.in_flight_count == 0
    assert work.video_id == hashlib.sha256(b"film").hexdigest()[:16]


def test_a_file_that_fails_or_is_given_up_says_so_once(worker: WorkerThreads, tmp_path: Path) -> None:
    FakePool.content[b"noise"] = DecodeError("film", "noise")
    work, changes = file_work(tmp_path, b"noise"), []
    worker.decode_file(work, lambda: changes.append(work.failure))
    run_until(worker, lambda: changes)
    assert changes == [FakePool.content[b"noise"]]
    cancelled = file_work(tmp_path, b"noise")
    cancelled.is_cancelled = True
    worker.decode_file(cancelled, lambda: changes.append(cancelled.failure))
    worker.close()
    worker.run_callbacks()
    assert len(changes) == 1


def test_segments_go_to_the_partition_of_their_video(worker: WorkerThreads, producer: FakeProducer) -> None:
    FakePool.content[b"media"] = []
    worker.send_checkpoint(3, b"key", b"value")
    worker.send_dead_letter(b"key", b"value")
    [checkpoint, letter] = producer.sent
    assert checkpoint == ("kinodex.checkpoints", b"key", b"value", 3)
    assert letter == ("kinodex.deadletter", b"key", b"value", None)
    flow = type("Flow", (), {"collection": "films", "video_id": "v"})()
    worker.send_tombstone(flow, b"films/v/0/0")
    assert producer.sent[-1] == ("kinodex.segments", b"films/v/0/0", None, len(video_key("films", "v")))
