"""The processes of benchmarks/live.py: a worker and a server, the streams sent to them, and the observer of answers."""

import contextlib
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import grpc
from memory import repeated
from prometheus_client.parser import text_string_to_metric_families
from sampling import ROOT, descendants
from serving_load import CALL_SECONDS, cpu_seconds, status_of, wait_until_serving

from ingest.config import KafkaConfig, PublishConfig
from ingest.kafka import Delivery, PartitionReader, Producer, Topics
from ingest.stream.chunker import cut_chunks
from ingest.values import Chunk
from kinodex.v1 import (
    library_service_pb2,
    library_service_pb2_grpc,
    moment_pb2,
    search_service_pb2,
    search_service_pb2_grpc,
    stream_pb2,
)
from serve.codec.records import chunk_bytes, video_key

sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT))
from support.broker import free_ports

COLLECTION = "live"
PAUSE_SECONDS = Fraction(
    1, 2
)  # before each repeat of a file, whose first packets may be dated before its first picture
POLL_SECONDS = 0.1  # between two questions to the server; adds half of it to the measured delays
SAMPLE_SECONDS = 1.0
READY_SECONDS = 300.0  # longest wait for a worker or a server to load its models
QUESTION = "a person speaks"  # the question that is asked repeatedly of a stream


# ------------------------------------------------------------------ media
@dataclass(frozen=True, slots=True)
class Cut:
    """A chunk as a publisher cuts it, and the part of its file that it holds, in seconds."""

    start_seconds: float
    end_seconds: float
    chunk: Chunk


def cut(path: Path, folder: Path, seconds: float) -> list[Cut]:
    """Repeat a file up to a length and cut it into chunks, once, so that sending them costs next to nothing."""
    long = folder / f"{path.stem}.mkv"
    repeated(path, long, seconds=seconds, pause_seconds=PAUSE_SECONDS)
    made = cut_chunks(
        str(long), collection=COLLECTION, stream_id="any", session=1, recorded_time=0.0, config=PublishConfig()
    )
    found = [chunk for chunk in made if not chunk.end_of_stream]
    long.unlink()
    starts = [chunk.start_time or 0.0 for chunk in found]
    return [
        Cut(*of) for of in zip(starts, starts[1:], found, strict=False)
    ]  # without the last chunk, which is cut short


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A chunk that was appended to its topic."""

    stream_id: str
    start_seconds: float  # media time of the stream
    end_seconds: float
    byte_count: int
    delivery: Delivery


class Sending(threading.Thread):
    """Sends streams in real time: each chunk when it has been played to its end."""

    def __init__(self, config: KafkaConfig, streams: dict[str, Sequence[Cut]], offsets: Sequence[float]) -> None:
        """Prepare the chunks to send.

        Args:
            offsets: When each stream begins, in seconds from now.
        """
        super().__init__(name="sending", daemon=True)
        self.config, self.sent, self.behind_seconds = config, list[Sent](), 0.0
        self._ending = threading.Event()
        self._plan = sorted(
            (
                (offset + one.end_seconds - cuts[0].start_seconds, name, number, one, cuts[0].start_seconds)
                for (name, cuts), offset in zip(streams.items(), offsets, strict=True)
                for number, one in enumerate(cuts)
            ),
            key=lambda planned: planned[:3],
        )

    def run(self) -> None:
        producer, topic = Producer(self.config), Topics(self.config.topic_prefix).chunks
        began, clock = time.monotonic(), time.time()
        following: dict[str, int] = {}
        for due, name, number, one, first in self._plan:
            if self._ending.wait(max(0.0, began + due - time.monotonic())):
                break
            self.behind_seconds = max(self.behind_seconds, time.monotonic() - began - due)
            start, end = one.start_seconds - first, one.end_seconds - first
            at = clock + due - (end - start)
            chunk = replace(one.chunk, stream_id=name, sequence=number, start_time=at)
            data = chunk_bytes(chunk)
            delivery = producer.send(topic, video_key(COLLECTION, name), data)
            self.sent.append(
                Sent(stream_id=name, start_seconds=start, end_seconds=end, byte_count=len(data), delivery=delivery)
            )
            following[name] = number + 1
        for name, number in following.items():
            end_of = Chunk(collection=COLLECTION, stream_id=name, session=1, sequence=number, end_of_stream=True)
            producer.send(topic, video_key(COLLECTION, name), chunk_bytes(end_of))
        producer.flush(CALL_SECONDS)
        producer.close()

    def stop(self) -> None:
        """End the streams."""
        self._ending.set()
        self.join()


# ------------------------------------------------------------------ processes
@dataclass(frozen=True, slots=True)
class Running:
    """A running command of kinodex that is ready."""

    process: "subprocess.Popen[bytes]"
    said: str  # its first line
    metrics: str  # address of its metrics


@contextlib.contextmanager
def running(arguments: Sequence[str], variable: str, env: dict[str, str], log: Path) -> Iterator[Running]:
    """Run a command until the block ends, and then stop it.

    Args:
        variable: The setting of where its metrics are served.
    """
    (port,) = free_ports(1)
    env = os.environ | env | {variable: f"127.0.0.1:{port}"}
    command = [str(Path(sys.executable).with_name("kinodex")), *arguments]
    with log.open("wb") as errors, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=env) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline().decode().strip()
            if not line:
                raise RuntimeError(f"`kinodex {arguments[0]}` did not start:\n{log.read_text()[-3000:]}")
            yield Running(process, line, f"http://127.0.0.1:{port}/metrics")
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:  # the process is far behind
                process.kill()


@contextlib.contextmanager
def both(config: KafkaConfig, folder: Path) -> Iterator[tuple[Running, Running]]:
    """Run a worker and a server over the topics of a prefix."""
    env = {"KINODEX_KAFKA_TOPIC_PREFIX": config.topic_prefix, "KINODEX_VISUAL_MODEL": "mini"}
    kafka = ["--kafka", ",".join(config.servers)]
    serve = ["serve", "--data", str(folder / "data"), "--listen", "127.0.0.1:0", *kafka]
    with (
        running(["worker", *kafka], "KINODEX_WORKER_METRICS_LISTEN", env, folder / "worker.log") as worker,
        running(serve, "KINODEX_SERVER_METRICS_LISTEN", env, folder / "server.log") as server,
    ):
        wait_until_serving(address_of(server), server.process)
        yield worker, server


def address_of(server: Running) -> str:
    return server.said.removeprefix("listening on ")


# ------------------------------------------------------------------ observing
@dataclass(frozen=True, slots=True)
class Published:
    """A record of the segments' topic."""

    stream_id: str
    append_seconds: float
    newest_append_seconds: float
    is_final: bool
    end_seconds: float  # end of its span
    watermark_seconds: float
    said: tuple[tuple[float, str], ...]  # the end of each text, and the text


@dataclass(frozen=True, slots=True)
class Seen:
    """How far the streams were found at a time."""

    at_seconds: float  # since 1970
    end_seconds: dict[str, float]  # by stream


@dataclass(slots=True)
class Sample:
    """The resources of the processes and their metrics at a time."""

    at_seconds: float
    cpu_seconds: dict[str, float]  # used so far, living children included
    resident_bytes: dict[str, int]
    machine: tuple[float, float]  # seconds of all cores so far: busy, and in total
    worker: dict[tuple[str, str], float]  # metric and its label -> value
    server: dict[tuple[str, str], float]


@dataclass(slots=True)
class Watching:
    """Watches the topic, the server and the processes in threads, until stopped."""

    config: KafkaConfig
    server: Running
    processes: dict[str, int]
    metrics: dict[str, str]
    asked_stream: str
    published: list[Published] = field(default_factory=list)
    listed: list[Seen] = field(default_factory=list)
    found: list[Seen] = field(default_factory=list)  # progress of asked_stream, by questions
    samples: list[Sample] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _problem: list[Exception] = field(default_factory=list)

    def __enter__(self) -> "Watching":
        for work in (self._read_topic, self._list_videos, self._ask, self._sample):
            self._threads.append(threading.Thread(target=self._run, args=(work,), daemon=True))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        if self._problem:
            raise self._problem[0]

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            self._problem.append(error)
            self._stopping.set()

    # ---- the threads

    def _read_topic(self) -> None:
        topic = Topics(self.config.topic_prefix).segments
        with PartitionReader(self.config) as reader:
            reader.assign((topic, partition, None) for partition in reader.partitions_of(topic))
            while not self._stopping.is_set():
                for record in reader.poll(0.2):
                    if record.value is not None:
                        self.published.append(published(record.append_seconds, record.value))

    def _list_videos(self) -> None:
        with grpc.insecure_channel(address_of(self.server)) as channel:
            stub = library_service_pb2_grpc.LibraryServiceStub(channel)
            request = library_service_pb2.ListVideosRequest(collection=COLLECTION, page_size=1000)
            while not self._stopping.wait(POLL_SECONDS):
                with contextlib.suppress(NotThere):
                    answer = asked(stub.ListVideos, request)
                    found = {video.video_id: video.duration.ToNanoseconds() / 1e9 for video in answer.videos}
                    self.listed.append(Seen(time.time(), found))

    def _ask(self) -> None:
        with grpc.insecure_channel(address_of(self.server)) as channel:
            stub = search_service_pb2_grpc.SearchServiceStub(channel)
            request = search_service_pb2.SearchMomentsRequest(
                query=moment_pb2.Query(text=QUESTION, channel=moment_pb2.CHANNEL_VISUAL),
                filter=moment_pb2.Filter(collections=[COLLECTION], video_ids=[self.asked_stream]),
                page_size=100,
            )
            while not self._stopping.wait(POLL_SECONDS):
                with contextlib.suppress(NotThere):
                    answer = asked(stub.SearchMoments, request)
                    ends = [moment.span.end_offset.ToNanoseconds() / 1e9 for moment in answer.moments]
                    self.found.append(Seen(time.time(), {self.asked_stream: max(ends, default=0.0)}))

    def _sample(self) -> None:
        while not self._stopping.wait(SAMPLE_SECONDS):
            mine = {name: [pid, *descendants(pid)] for name, pid in self.processes.items()}
            mine["live.py"] = [os.getpid()]  # the other processes are its children
            self.samples.append(
                Sample(
                    at_seconds=time.time(),
                    cpu_seconds={name: sum(map(cpu_seconds, pids)) for name, pids in mine.items()},
                    resident_bytes={name: sum(status_of(pid)["rss"] for pid in pids) for name, pids in mine.items()},
                    machine=machine_seconds(),
                    worker=scraped(self.metrics["worker"]),
                    server=scraped(self.metrics["server"]),
                )
            )


class NotThere(Exception):
    """Return whether the server does not know a stream, or the collection, yet."""


def asked(call: Callable[..., Any], request: Any) -> Any:
    try:
        return call(request, timeout=CALL_SECONDS)
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.NOT_FOUND:
            raise NotThere from error
        raise


def published(append_seconds: float, value: bytes) -> Published:
    segment = stream_pb2.Segment.FromString(value)
    return Published(
        stream_id=segment.video_id,
        append_seconds=append_seconds,
        newest_append_seconds=segment.newest_append_time.ToNanoseconds() / 1e9,
        is_final=segment.final,
        end_seconds=segment.span.end_offset.ToNanoseconds() / 1e9,
        watermark_seconds=segment.watermark_offset.ToNanoseconds() / 1e9,
        said=tuple((text.span.end_offset.ToNanoseconds() / 1e9, text.text) for text in segment.texts),
    )


def scraped(url: str) -> dict[tuple[str, str], float]:
    """Read metrics as Prometheus does, by name and the value of their only label. Buckets are left out."""
    with urllib.request.urlopen(url, timeout=CALL_SECONDS) as answer:
        text = answer.read().decode()
    return {
        (sample.name, "/".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_bucket")
    }


def machine_seconds() -> tuple[float, float]:
    fields = list(map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9]))
    idle = fields[3] + fields[4]  # idle, iowait
    tick = os.sysconf("SC_CLK_TCK")
    return (sum(fields) - idle) / tick, sum(fields) / tick
