"""kinodex worker against a real broker: from chunks to segments, whatever happens on the way."""

import logging
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from kafka import KafkaAdminClient
from numpy.typing import NDArray

from ingest.config import DecodeConfig
from ingest.errors import BrokerUnavailable
from ingest.kafka import PartitionReader, Record, create_topics
from kinodex.v1 import stream_pb2
from serve.catalog.catalog import Catalog
from serve.codec.records import Source, chunk_bytes, source_bytes, video_key
from serve.indexing.pipeline import index
from serve.settings import Settings
from serve.worker import stream, threads
from serve.worker.partitions import ChunkPartition
from serve.worker.stream import latest_checkpoints
from serve.worker.worker import PARTS_IN_FLIGHT
from support.fakes import TONES_HZ, ColourEncoder, SilentProgress, use_fakes, write_scenes
from support.media import Track, encode_media, times
from support.waiting import HANG_SECONDS, wait_until
from support.worker_runs import Topic, comparable, comparable_finals, cut, worker_in_thread
from temporal.config import FusionConfig, WindowConfig
from temporal.fusion.fusion import save_checkpoint
from temporal.fusion.model import FusionTransformer

pytestmark = [pytest.mark.kafka, pytest.mark.slow]
SCENES = [("red", 7), ("green", 9), ("blue", 8)]
NOISE = random.Random(0).randbytes(5000)
TONES = [(440, 3.0), (880, 12.0), (1320, 20.0)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    use_fakes(monkeypatch)
    caplog.set_level(logging.CRITICAL, "kafka")
    monkeypatch.setattr(stream, "MAX_WAITING_SECONDS", 3.0)


@pytest.fixture
def topic(kafka: str, topic_prefix: str) -> Iterator[Topic]:
    made = Topic(kafka, topic_prefix)
    yield made
    made.close()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How many seconds encoding a batch takes, to be changed."""
    seconds, encode = [0.0], ColourEncoder.encode_frames

    def encode_slowly(self: ColourEncoder, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        time.sleep(seconds[0])
        return encode(self, pixels)

    monkeypatch.setattr(ColourEncoder, "encode_frames", encode_slowly)
    return seconds


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 s of three colours, with three sentences."""
    return write_scenes(tmp_path_factory.mktemp("film") / "film.mp4", SCENES, tones=TONES)


@pytest.fixture(params=["mean", "fusion"])
def window(request: pytest.FixtureRequest, tmp_path: Path) -> WindowConfig:
    """How windows become segments: by the mean, or by a checkpoint as training writes it."""
    if request.param == "mean":
        return WindowConfig()
    torch.manual_seed(0)
    model = FusionTransformer(FusionConfig(frame_size=4, utterance_size=256, width=32, head_count=4))
    torch.nn.init.normal_(model.output.weight, std=0.3)
    save_checkpoint(model, tmp_path / "fusion.safetensors")
    return WindowConfig(fusion=str(tmp_path / "fusion.safetensors"))


def test_a_stream_becomes_what_index_makes_of_its_file(
    topic: Topic, film: Path, tmp_path: Path, window: WindowConfig
) -> None:
    settings = Settings(workers=1, window=window)
    list(index([str(film)], tmp_path / "data", settings, progress=SilentProgress()))
    topic.send(cut(film, "cam"))
    with worker_in_thread(topic, tmp_path, replace(topic.settings(), window=window)) as worker:
        worker.wait_until(lambda: topic.is_ended("cam"))
        worker.wait_until(lambda: topic.lag() == 0)
        found = topic.segments()
        assert list(found) == [f"cams/cam/0/{n}" for n in range(3)]
        with Catalog.open_reader(tmp_path / "data") as catalog:
            [video] = catalog.videos()
            expected, frames = catalog.segments(video.row), catalog.frames(video.row)
            utterances = catalog.utterances(video.row)
        assert len(expected) == 3
        for one, other in zip(found.values(), expected, strict=True):
            assert one.is_final
            assert one.segment.span.start_seconds == pytest.approx(other.span.start_seconds, abs=0.01)
            assert one.segment.span.end_seconds == pytest.approx(other.span.end_seconds, abs=0.1)
        # A file's last picture stands for the second that begins at its end; of a stream more may come.
        np.testing.assert_allclose(found["cams/cam/0/0"].segment.vector, expected[0].vector, atol=2e-3)
        mean = frames.vectors[:16].mean(axis=0)
        assert (expected[0].vector @ mean / np.linalg.norm(mean) > 0.999) == (not window.fusion)
        seen = {
            at: vector
            for one in found.values()
            for at, vector in zip(one.frames.pts_seconds, one.frames.vectors, strict=True)
        }
        np.testing.assert_allclose(sorted(seen), frames.pts_seconds[:-1], atol=1e-3)
        np.testing.assert_allclose([seen[at] for at in sorted(seen)], frames.vectors[:-1], atol=2e-3)
        assert sum(len(one.thumbnails) for one in found.values()) == len(seen)
        said = {(text.text, round(text.start_seconds)) for one in found.values() for text in one.utterances}
        assert said == {(text.text, round(text.start_seconds)) for text in utterances}
        assert len(said) == 3
        revisions = [one for one in topic.revisions() if one.segment.segment_id == "cam/0/0"]
        assert not revisions[0].is_final
        assert [one.revision for one in revisions] == sorted({one.revision for one in revisions})
        assert worker.count("taken") == 13
        assert worker.value("kinodex_worker_segments_total", finality="final") == 3
        assert topic.dead_letters() == []


# ------------------------------------------------------------------ chunks that are not as they should be
def test_unusable_chunks_become_dead_letters_and_the_stream_continues(topic: Topic, film: Path, tmp_path: Path) -> None:
    mine = cut(film, "cam")
    mine[4] = replace(mine[4], media=NOISE)
    mine[5] = replace(mine[5], media=b"", uri="ftp://example.org/chunk.ts")
    mine[6] = replace(mine[6], media=b"", uri="/etc/passwd")
    del mine[8]
    key = video_key("cams", "cam")
    bad = [(key, b"\xff\xff no protobuf"), (key, None), (key, b""), (b"another", chunk_bytes(mine[0]))]
    topic.send(mine[:6])
    topic.send_raw(bad, partition=topic.producer.partition_of(topic.names.chunks, key))
    topic.send(mine[6:])
    with worker_in_thread(topic, tmp_path) as worker:
        worker.wait_until(lambda: topic.is_ended("cam") and topic.lag() == 0)
        letters = {one.record_offset: one for one in topic.dead_letters()}
        assert {offset: one.reason for offset, one in sorted(letters.items())} == {
            4: "DECODE_ERROR", 5: "SOURCE_REFUSED", 6: "RECORD_INVALID", 8: "RECORD_INVALID",
            9: "RECORD_INVALID", 10: "SOURCE_REFUSED",
        }  # fmt: skip
        assert letters[4].value == chunk_bytes(mine[4])
        assert (letters[4].topic, letters[4].key) == (topic.names.chunks, key)
        assert "chunk 4" in letters[4].message
        assert letters[6].value == bad[0][1]
        assert letters[4].append_time.seconds > 0
        found = topic.segments()
        assert [name for name, one in found.items() if not one.is_final] == []
        gaps = [(gap.first_sequence, gap.chunk_count, gap.reason) for one in found.values() for gap in one.gaps]
        assert gaps == [(4, 1, "DECODE_ERROR"), (5, 2, "SOURCE_REFUSED"), (8, 1, "MISSING")]
        seen = {round(float(at)) for one in found.values() for at in one.frames.pts_seconds}
        assert seen == set(range(24)) - set(range(8, 14)) - {16, 17}
        assert worker.count("DECODE_ERROR") == 1
        assert worker.count("SOURCE_REFUSED") == 2
        assert worker.count("RECORD_INVALID") == 3  # the null value lets sessions begin anew; this one goes on


def test_duplicates_late_chunks_and_old_sessions_change_nothing(topic: Topic, film: Path, tmp_path: Path) -> None:
    calm, messy = cut(film, "calm"), cut(film, "messy", session=7)
    topic.send(calm)
    topic.send([messy[n] for n in (1, 0, 0, 3, 2, 1)])
    topic.send(cut(film, "messy", session=6)[:3])  # a publisher that was thought to be dead
    topic.send([messy[n] for n in (6, 5, 4, *range(7, len(messy)), 4)])
    with worker_in_thread(topic, tmp_path) as worker:
        worker.wait_until(lambda: topic.is_ended("calm", "messy"))
        expected, found = comparable_finals(topic.segments("calm")), comparable_finals(topic.segments("messy"))
        assert found == [one | {"id": str(one["id"]).replace("calm", "messy")} for one in expected]
        worker.wait_until(lambda: topic.lag() == 0)
        assert (worker.count("duplicate"), worker.count("stale")) == (3, 3)
        assert [one.reason for one in topic.dead_letters()] == ["SESSION_STALE"] * 3
        assert worker.count("taken") == len(calm) + len(messy)


def test_a_stream_that_falls_silent_is_ended_and_may_come_back(topic: Topic, film: Path, tmp_path: Path) -> None:
    mine = cut(film, "cam")
    topic.send(mine[:3])
    with worker_in_thread(topic, tmp_path, idle_seconds=5.0) as worker:
        worker.wait_until(lambda: topic.is_ended("cam") and topic.lag() == 0)
        first = topic.segments()
        assert list(first) == ["cams/cam/0/0"]
        worker.wait_until(lambda: worker.value("kinodex_worker_streams") == 0)
        [partition] = [
            one for one in worker.worker.partitions.values() if isinstance(one, ChunkPartition) and one._ended
        ]
        assert (partition._streams, partition._sent, len(partition._ended)) == ({}, {}, 1)
        topic.send([mine[2], *mine[3:5]])
        worker.wait_until(lambda: len(topic.segments()) == 2 and topic.lag() == 0)
        second = topic.segments()["cams/cam/1/0"]
        assert second.is_final
        assert second.segment.span.start_seconds == pytest.approx(6.0, abs=0.1)
        assert len(second.frames.pts_seconds) == 4
        assert worker.count("duplicate") == 1
        worker.wait_until(lambda: partition._streams == {})
    with worker_in_thread(topic, tmp_path) as worker:
        topic.send([mine[4], mine[-1]])
        worker.wait_until(lambda: worker.count("duplicate") == 1 and topic.lag() == 0)
    assert comparable_finals(topic.segments()) == [comparable(first["cams/cam/0/0"]), comparable(second)]


def test_a_stream_that_is_stuck_holds_no_other(
    topic: Topic, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "MAX_WAITING_SECONDS", HANG_SECONDS)
    streams = {name: cut(film, name) for name in ("a", "b", "stuck")}
    topic.send([streams[name][0] for name in streams], partition=0)
    topic.send([chunk for pair in zip(streams["a"][1:], streams["b"][1:], strict=True) for chunk in pair], partition=0)
    topic.send(streams["stuck"][2:6], partition=0)
    with worker_in_thread(topic, tmp_path) as worker:
        worker.wait_until(lambda: topic.is_ended("a", "b"))
        assert topic.lag() > 20
        monkeypatch.setattr(stream, "MAX_WAITING_SECONDS", 3.0)
        worker.wait_until(lambda: [gap for one in topic.segments("stuck").values() for gap in one.gaps])
        topic.send([streams["stuck"][1], *streams["stuck"][6:]], partition=0)
        worker.wait_until(lambda: topic.is_ended("stuck") and topic.lag() == 0)
        assert worker.count("duplicate") == 1
        [gap] = [gap for one in topic.segments("stuck").values() for gap in one.gaps]
        assert (gap.first_sequence, gap.chunk_count, gap.reason) == (1, 1, "MISSING")


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and where it is served."""
    folder = tmp_path / "web"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_chunks_may_hold_a_uri_in_place_of_media(
    topic: Topic, film: Path, tmp_path: Path, web: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "RETRY_SECONDS", (0.1, 0.1))
    folder, address = web
    mine = cut(film, "cam")
    for n, chunk in enumerate(mine[:-1]):
        (folder / f"{n}.ts").write_bytes(chunk.media)
        uri = f"{address}/{n}.ts" if n % 2 else (folder / f"{n}.ts").as_uri()
        mine[n] = replace(chunk, media=b"", uri=uri)
    (folder / "4.ts").unlink()
    (folder / "7.ts").unlink()
    topic.send(cut(film, "calm"))
    topic.send(mine)
    with worker_in_thread(topic, tmp_path) as worker:
        worker.wait_until(lambda: topic.is_ended("cam", "calm") and topic.lag() == 0)
    gaps = [(gap.first_sequence, gap.reason) for one in topic.segments("cam").values() for gap in one.gaps]
    assert gaps == [(4, "SOURCE_NOT_FOUND"), (7, "SOURCE_NOT_FOUND")]
    assert len(topic.dead_letters()) == 2
    calm, found = topic.segments("calm"), topic.segments("cam")
    assert len(calm) == len(found)
    assert next(said.text for one in found.values() for said in one.utterances) == TONES_HZ[440]


@contextmanager
def dripping() -> Iterator[tuple[str, threading.Event]]:
    """Serve a file that arrives byte by byte and never ends; yield its address, and whether a download has begun."""

    class Drip(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            with suppress(OSError):
                is_downloading.set()
                while not is_over.wait(0.1):
                    self.wfile.write(b"x")

        def log_message(self, *_: object) -> None: ...

    is_downloading, is_over = threading.Event(), threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), Drip) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", is_downloading
        is_over.set()
        server.shutdown()
        thread.join()


# ------------------------------------------------------------------ whole files
def send_source(topic: Topic, source: Source) -> None:
    topic.send_raw([(video_key(source.collection, source.video_id), source_bytes(source))], topic=topic.names.sources)


def test_a_whole_file_is_what_index_makes_of_it(topic: Topic, film: Path, tmp_path: Path) -> None:
    [outcome] = index([str(film)], tmp_path / "data", Settings(workers=1), progress=SilentProgress())
    metadata = {"camera": "north"}
    send_source(topic, Source(collection="films", video_id="", uri=film.as_uri(), metadata=metadata, recorded_time=1e9))
    send_source(topic, Source(collection="films", video_id="named", uri=film.as_uri()))
    send_source(topic, Source(collection="films", video_id="no-uri", uri=str(film)))
    send_source(topic, Source(collection="films", video_id="gone", uri=(tmp_path / "gone.mp4").as_uri()))
    topic.send_raw([(b"k", b"\xff"), (b"k", None)], topic=topic.names.sources)
    with worker_in_thread(topic, tmp_path) as worker:
        assert outcome.video_id is not None
        worker.wait_until(lambda: topic.is_ended(outcome.video_id, "named") and topic.lag() == 0)
        assert worker.count("taken") == 4
    found = topic.segments(outcome.video_id)
    with Catalog.open_reader(tmp_path / "data") as catalog:
        [video] = catalog.videos()
        expected, frames = catalog.segments(video.row), catalog.frames(video.row)
        texts = [said.text for said in catalog.utterances(video.row)]
    for one, other in zip(found.values(), expected, strict=True):
        assert one.segment.segment_id == other.segment_id
        assert one.segment.span == other.span
        np.testing.assert_allclose(one.segment.vector, other.vector, atol=2e-3)
        assert (one.uri, one.metadata) == (film.as_uri(), metadata)
        assert one.recorded_time == pytest.approx(1e9 + one.segment.span.start_seconds)
    assert sum(len(one.thumbnails) for one in found.values()) == len(frames.pts_seconds)
    assert [said.text for one in found.values() for said in one.utterances[one.continued_count :]] == texts
    named = comparable_finals(topic.segments("named"))
    assert named == [
        one | {"id": str(one["id"]).replace(outcome.video_id, "named")} for one in comparable_finals(found)
    ]
    assert sorted(one.reason for one in topic.dead_letters()) == [
        "RECORD_INVALID", "RECORD_INVALID", "SOURCE_NOT_FOUND", "SOURCE_REFUSED"
    ]  # fmt: skip


def test_a_whole_file_has_the_warnings_of_index_in_its_last_segment(topic: Topic, tmp_path: Path) -> None:
    recording = encode_media(format="mpegts", video=Track(times=times(240), options={"bf": "0"}))
    (tmp_path / "joined.ts").write_bytes(2 * recording)
    silent = write_scenes(tmp_path / "silent.mp4", SCENES, tones=[(0, 0.0)])
    paths = [silent, tmp_path / "joined.ts"]
    outcomes = list(index([str(path) for path in paths], tmp_path / "data", Settings(), progress=SilentProgress()))
    warnings = {Path(outcome.uri).stem: outcome.warnings for outcome in outcomes}
    assert list(map(len, warnings.values())) == [1, 1]
    for path in paths:
        send_source(topic, Source(collection="films", video_id=path.stem, uri=path.as_uri()))
    with worker_in_thread(topic, tmp_path) as worker:
        worker.wait_until(lambda: topic.is_ended(*warnings) and topic.lag() == 0)
    for name in warnings:
        *others, last = topic.segments(name).values()
        assert (last.is_last, last.warnings) == (True, warnings[name])
        assert {one.warnings for one in others} == {()}


def test_a_file_that_fails_half_way_leaves_nothing(topic: Topic, film: Path, tmp_path: Path) -> None:
    long = write_scenes(tmp_path / "long.mp4", [("red", 130)])
    send_source(topic, Source(collection="films", video_id="long", uri=long.as_uri()))
    send_source(topic, Source(collection="films", video_id="short", uri=film.as_uri()))
    settings = replace(topic.settings(), decode=DecodeConfig(max_duration_seconds=120.0))
    with worker_in_thread(topic, tmp_path, settings) as worker:
        worker.wait_until(lambda: topic.is_ended("short") and topic.lag() == 0)
        assert topic.segments("long") == {}
        assert any(one.video_id == "long" for one in topic.revisions())
        [letter] = topic.dead_letters()
        assert letter.reason == "LIMIT_EXCEEDED"


def test_a_worker_stops_in_the_middle_of_a_file_and_of_a_download(
    topic: Topic, film: Path, tmp_path: Path, slow: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "MAX_CHUNK_FETCH_SECONDS", 2 * HANG_SECONDS)
    slow[0] = 0.5
    long = write_scenes(tmp_path / "long.mp4", [("red", 400)])
    send_source(topic, Source(collection="films", video_id="long", uri=long.as_uri()))
    with worker_in_thread(topic, tmp_path) as worker:
        worker.wait_until(lambda: len(topic.segments("long")) > 1)
    assert not topic.is_ended("long")
    with dripping() as (address, is_downloading):
        topic.send([replace(cut(film, "cam")[0], media=b"", uri=f"{address}/a.ts")])
        with worker_in_thread(topic, tmp_path) as worker:
            worker.wait_until(lambda: worker.count("taken") == 2 and is_downloading.is_set())
    assert topic.lag() == 2


# ------------------------------------------------------------------ too much
def test_more_than_can_be_worked_on_waits_in_kafka(
    topic: Topic, film: Path, tmp_path: Path, slow: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = {name: cut(film, name) for name in ("calm", *"abcd")}
    topic.send(mine["calm"])
    with worker_in_thread(topic, tmp_path) as worker:
        worker.wait_until(lambda: topic.is_ended("calm") and topic.lag() == 0)
    topic.send([chunk for name in "abcd" for chunk in mine[name]])
    slow[0] = 0.1
    settings = topic.settings()
    with worker_in_thread(topic, tmp_path, replace(settings, visual=replace(settings.visual, batch_count=2))) as worker:
        seen: set[tuple[bool, int]] = set()

        def is_done() -> bool:
            seen.add((worker.worker.is_full, worker.worker.threads.in_flight_count))
            return worker.count("taken") == 4 * len(mine["a"])

        worker.wait_until(is_done)
        assert {is_full for is_full, _ in seen} == {True, False}
        assert max(count for _, count in seen) <= PARTS_IN_FLIGHT * 2 + 16
        worker.wait_until(lambda: topic.is_ended(*"abcd") and topic.lag() == 0)
        assert worker.worker.threads.in_flight_count == worker.worker.threads.speech_count == 0
    expected = comparable_finals(topic.segments("calm"))
    for name in "abcd":
        found = comparable_finals(topic.segments(name))
        assert found == [one | {"id": str(one["id"]).replace("calm", name)} for one in expected]


@pytest.fixture
def shed_before_now(monkeypatch: pytest.MonkeyPatch) -> Callable[[], float]:
    """Stop the worker's clock: with the shed_seconds returned, exactly the chunks appended before now are old."""

    def stop_clock() -> float:
        stopped_at = time.time() + HANG_SECONDS
        monkeypatch.setattr(threads.WorkerThreads, "broker_seconds", lambda self: stopped_at)
        return HANG_SECONDS

    return stop_clock


def test_old_chunks_are_shed_if_configured(
    topic: Topic, film: Path, tmp_path: Path, shed_before_now: Callable[[], float]
) -> None:
    mine = cut(film, "cam")
    topic.send(mine[:4])
    with worker_in_thread(topic, tmp_path, shed_seconds=shed_before_now()) as worker:
        topic.send(mine[4:])
        worker.wait_until(lambda: topic.is_ended("cam") and topic.lag() == 0)
        assert worker.count("shed") == 4
    gaps = [(gap.first_sequence, gap.chunk_count, gap.reason) for one in topic.segments().values() for gap in one.gaps]
    assert gaps == [(0, 4, "SHED")]
    assert topic.dead_letters() == []


# ------------------------------------------------------------------ hostile chunks
def test_hostile_chunks_harm_their_own_stream_only(topic: Topic, film: Path, tmp_path: Path) -> None:
    mine = {name: cut(film, name) for name in ("good", "lies", "long", "large", "jumps", "late")}
    lying = film.read_bytes()
    at = lying.index(b"mvhd") + 4
    lying = lying[: at + 16] + b"\x7f\xff\xff\xff" + lying[at + 20 :]  # says that it lasts for 24 days
    mine["lies"][2] = replace(mine["lies"][2], media=lying)
    minute = write_scenes(tmp_path / "minute.mp4", [("red", 60)]).read_bytes()
    mine["long"] = [replace(mine["long"][0], media=minute), replace(mine["long"][-1], sequence=1)]
    padding = b"\x47\x1f\xff\x10" + b"\xff" * 184  # packets of MPEG-TS that are there to be skipped
    mine["large"][3] = replace(mine["large"][3], media=mine["large"][3].media + padding * 43_000)
    mine["jumps"] = [*mine["jumps"][:2], replace(mine["jumps"][-1], sequence=(1 << 62)), mine["jumps"][2]]
    mine["late"] = [
        *mine["late"][:2],
        replace(mine["late"][-1], session=(1 << 63) - 2, sequence=(1 << 63) - 2),
        mine["late"][-1],
    ]
    for found in mine.values():
        topic.send(found)
    record = stream_pb2.Chunk.FromString(chunk_bytes(mine["good"][0]))
    bad = []
    for changes in (
        {"collection": ""}, {"stream_id": ""}, {"stream_id": "a/b"}, {"stream_id": "a\nb"}, {"media": b""},
        {"session": -1}, {"sequence": -1}, {"sequence": (1 << 63) - 1}, {"session": (1 << 63) - 1},
    ):  # fmt: skip
        other = stream_pb2.Chunk()
        other.CopyFrom(record)
        for name, value in changes.items():
            setattr(other, name, value)
        bad.append((video_key(other.collection, other.stream_id), other.SerializeToString()))
    for seconds in (1 << 62, -(1 << 62)):
        other.CopyFrom(record)
        other.start_time.seconds = seconds
        bad.append((video_key("cams", "good"), other.SerializeToString()))
    bad.append((b"x", random.Random(1).randbytes((9 << 20) - 1000)))
    topic.send_raw(bad)
    with worker_in_thread(topic, tmp_path, max_session_lead_seconds=math.inf) as worker:
        worker.wait_until(lambda: topic.is_ended("good", "lies", "long", "large", "jumps", "late"))
        worker.wait_until(lambda: topic.lag() == 0)
        assert worker.count("RECORD_INVALID") == len(bad)
    assert Counter(one.reason for one in topic.dead_letters()) == {"RECORD_INVALID": len(bad), "SESSION_STALE": 1}
    [huge] = [one for one in topic.dead_letters() if one.key == b"x"]
    assert huge.value == b""
    assert "too large" in huge.message
    expected = comparable_finals(topic.segments("good"))
    for name in ("large",):
        found = comparable_finals(topic.segments(name))
        assert found == [one | {"id": str(one["id"]).replace("good", name)} for one in expected]
    [gap] = [gap for one in topic.segments("jumps").values() for gap in one.gaps]
    assert (gap.first_sequence, gap.chunk_count) == (3, (1 << 62) - 3)
    assert max(one.segment.span.end_seconds for one in topic.segments("long").values()) == pytest.approx(60.0, abs=0.5)


# ------------------------------------------------------------------ what goes wrong within
def test_a_bug_ends_the_worker_and_another_goes_on(
    topic: Topic, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: ColourEncoder, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        raise ArithmeticError("a bug")

    topic.send(cut(film, "cam"))
    with monkeypatch.context() as patch:
        patch.setattr(ColourEncoder, "encode_frames", fail)
        with pytest.raises(ArithmeticError, match="a bug"), worker_in_thread(topic, tmp_path) as worker:
            worker.thread.join(HANG_SECONDS)
    assert topic.lag() == 13
    with worker_in_thread(topic, tmp_path) as worker:
        worker.wait_until(lambda: topic.is_ended("cam") and topic.lag() == 0)


def test_a_partition_that_cannot_be_begun_is_begun_later(
    topic: Topic, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic.send(cut(film, "cam"))
    refusals = [BrokerUnavailable((), "not now")] * 3
    read = PartitionReader.read_to_end

    def read_perhaps(self: PartitionReader, name: str, partition: int) -> Iterator[Record]:
        if refusals and threading.current_thread().name == "worker":
            raise refusals.pop()
        return read(self, name, partition)

    monkeypatch.setattr(PartitionReader, "read_to_end", read_perhaps)
    with worker_in_thread(topic, tmp_path) as worker:
        worker.wait_until(lambda: topic.is_ended("cam") and topic.lag() == 0)
    assert refusals == []
    assert list(topic.segments()) == [f"cams/cam/0/{n}" for n in range(3)]


def test_a_topic_that_was_made_anew_is_read_from_its_beginning(topic: Topic, film: Path, tmp_path: Path) -> None:
    topic.send(cut(film, "cam"))
    with worker_in_thread(topic, tmp_path) as worker:
        worker.wait_until(lambda: topic.is_ended("cam") and topic.lag() == 0)
    with KafkaAdminClient(bootstrap_servers=list(topic.config.servers)) as admin:
        admin.delete_topics([topic.names.chunks])
        wait_until(lambda: any(one.state == "created" for one in create_topics(topic.config)))
    first = comparable_finals(topic.segments())
    with worker_in_thread(topic, tmp_path) as worker:
        topic.send(cut(film, "cam", session=2))
        worker.wait_until(lambda: len(topic.segments()) == 6 and topic.lag() == 0)
    assert comparable_finals(topic.segments())[:3] == first


def test_chunks_that_another_worker_took_are_not_shed(
    topic: Topic, film: Path, tmp_path: Path, shed_before_now: Callable[[], float]
) -> None:
    mine = cut(film, "cam")
    topic.send(mine[:7])
    with worker_in_thread(topic, tmp_path, shed_seconds=HANG_SECONDS) as worker:
        worker.wait_until(lambda: worker.count("taken") == 7 and "cams/cam/0/0" in topic.segments())
        worker.wait_until(lambda: topic.records_of(topic.names.checkpoints))
    with worker_in_thread(topic, tmp_path, shed_seconds=shed_before_now()) as worker:
        topic.send(mine[7:])
        worker.wait_until(lambda: topic.is_ended("cam") and topic.lag() == 0)
        assert worker.count("shed") == 0
    assert [gap for one in topic.segments().values() for gap in one.gaps] == []


def test_the_furthest_of_two_checkpoints_counts() -> None:
    def record(offset: int, topic: str, session: int, sequence: int) -> Record:
        message = stream_pb2.Checkpoint(topic=topic, session=session, next_sequence=sequence)
        return Record("t", 0, offset, 100.0 + offset, b"key", message.SerializeToString())

    records = [
        record(0, "chunks", 1, 5),
        record(1, "chunks", 2, 3),
        record(2, "chunks", 1, 9),
        record(3, "other", 3, 0),
    ]
    found, append_seconds = latest_checkpoints(records, "chunks")
    assert (found[b"key"].session, found[b"key"].next_sequence, append_seconds) == (2, 3, 102.0)
    assert latest_checkpoints([*records, Record("t", 0, 4, 104.0, b"key", None)], "chunks") == ({}, 102.0)
