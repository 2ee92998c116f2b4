"""Workers under test: in a thread of the test, or in a process that may be killed, over the topics of one test."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from ingest.config import KafkaConfig, PublishConfig, SourceConfig
from ingest.kafka import Delivery, PartitionReader, Producer, Record, Topics, create_topics
from ingest.stream.chunker import cut_chunks
from ingest.values import Chunk
from kinodex.v1 import stream_pb2
from serve.codec.records import SegmentRecord, chunk_bytes, read_segment, video_key
from serve.config import WorkerConfig
from serve.encoder_set import load_for_indexing
from serve.observe.worker_metrics import WorkerMetrics
from serve.settings import Settings
from serve.worker.worker import Worker
from support.waiting import HANG_SECONDS, wait_until

CHILD = Path(__file__).with_name("worker_child.py")


def cut(path: Path, stream_id: str, *, collection: str = "cams", session: int = 1) -> list[Chunk]:
    """Cut a file into the chunks of a stream, the end included."""
    config = PublishConfig(chunk_seconds=2.0)
    return list(cut_chunks(str(path), collection=collection, stream_id=stream_id, session=session, config=config))


class Topic:
    """The topics of one test and their records."""

    def __init__(self, servers: str, prefix: str, *, partition_count: int = 2, **kafka: Any) -> None:
        self.config = KafkaConfig(
            servers=(servers,),
            topic_prefix=prefix,
            partition_count=partition_count,
            **{"session_timeout_seconds": 30.0, "bootstrap_timeout_seconds": 60.0, **kafka},
        )
        create_topics(replace(self.config, bootstrap_timeout_seconds=HANG_SECONDS))
        self.names = Topics(prefix)
        self.producer = Producer(self.config)

    def close(self) -> None:
        self.producer.close(1.0)

    # ---- in

    def send(self, found: Sequence[Chunk], *, key: bytes | None = None, partition: int | None = None) -> list[Delivery]:
        """Append chunks in this order."""
        return self.send_raw(
            [(key or video_key(chunk.collection, chunk.stream_id), chunk_bytes(chunk)) for chunk in found],
            partition=partition,
        )

    def send_raw(
        self, found: Sequence[tuple[bytes, bytes | None]], *, topic: str = "", partition: int | None = None
    ) -> list[Delivery]:
        sent = [self.producer.send(topic or self.names.chunks, *one, partition=partition) for one in found]
        assert self.producer.flush(HANG_SECONDS)
        assert [one.error for one in sent] == [None] * len(sent)
        return sent

    # ---- out

    def records_of(self, topic: str) -> list[Record]:
        """Return all records of a topic, by partition."""
        with PartitionReader(self.config) as reader:
            return [
                record for partition in reader.partitions_of(topic) for record in reader.read_to_end(topic, partition)
            ]

    def revisions(self) -> list[SegmentRecord]:
        """Return all published segments of every revision, by partition."""
        return [read_segment(record.value) for record in self.records_of(self.names.segments) if record.value]

    def segments(self, *stream_ids: str) -> dict[str, SegmentRecord]:
        """Return the highest revision of each segment, as a consumer keeps it."""
        found: dict[str, SegmentRecord] = {}
        for record in self.records_of(self.names.segments):
            name = record.key.decode()
            if record.value is None:
                found.pop(name, None)
                continue
            segment = read_segment(record.value)
            if name not in found or found[name].revision < segment.revision:
                found[name] = segment
        return {name: one for name, one in sorted(found.items()) if not stream_ids or one.video_id in stream_ids}

    def is_ended(self, *stream_ids: str) -> bool:
        """Whether the last segment of each stream is there."""
        return {one.video_id for one in self.segments().values() if one.is_last} >= set(stream_ids)

    def dead_letters(self) -> list[stream_pb2.DeadLetter]:
        return [stream_pb2.DeadLetter.FromString(one.value or b"") for one in self.records_of(self.names.deadletter)]

    def lag(self) -> int:
        """Return the count of records of chunks and sources that the group has not committed."""
        consumer = KafkaConsumer(
            bootstrap_servers=list(self.config.servers), group_id=f"{self.config.topic_prefix}-workers",
            enable_auto_commit=False,
        )  # fmt: skip
        try:
            places = [
                TopicPartition(topic, n)
                for topic in (self.names.chunks, self.names.sources)
                for n in range(self.config.partition_count)
            ]
            ends = consumer.end_offsets(places)
            return sum(end - (consumer.committed(place) or 0) for place, end in ends.items())
        finally:
            consumer.close()

    # ---- workers

    def settings(self, **worker: Any) -> Settings:
        return Settings(
            workers=2,
            kafka=self.config,
            worker=WorkerConfig(**worker),
            source=SourceConfig(file_roots=("/",), private_networks=("127.0.0.0/8",)),
        )


@dataclass
class Threaded:
    """A worker in a thread of this process."""

    worker: Worker
    metrics: WorkerMetrics
    thread: threading.Thread = field(init=False)
    failure: BaseException | None = None

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run, name="worker")
        self.thread.start()

    def _run(self) -> None:
        try:
            self.worker.run()
        except BaseException as error:
            self.failure = error

    def check(self) -> None:
        if self.failure is not None:
            raise self.failure

    def wait_until(self, look: Callable[[], object]) -> None:
        """Wait for an effect of the worker; raise the worker's error if it fails."""
        wait_until(lambda: self.check() or look())

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    def count(self, outcome: str) -> float:
        return self.value("kinodex_worker_records_total", outcome=outcome)

    def stop(self) -> None:
        self.worker.stop()
        self.thread.join(HANG_SECONDS)
        assert not self.thread.is_alive()
        self.check()


@contextlib.contextmanager
def worker_in_thread(topic: Topic, folder: Path, settings: Settings | None = None, **worker: Any) -> Iterator[Threaded]:
    """Run a worker until the block ends; keywords are WorkerConfig's."""
    settings = settings or topic.settings(**worker)
    transcriber, encoders = load_for_indexing(settings, None)
    metrics = WorkerMetrics()
    made = Threaded(Worker(settings, encoders, transcriber, metrics, folder / "spool"), metrics)
    try:
        yield made
    finally:
        made.stop()


class Child:
    """A worker in a process of its own."""

    def __init__(
        self, topic: Topic, folder: Path, *, slow_seconds: float = 0.0, servers: str = "", **variables: str
    ) -> None:
        self.log = folder / f"worker-{time.monotonic_ns()}.log"
        environ = os.environ | {
            "KINODEX_KAFKA_TOPIC_PREFIX": topic.config.topic_prefix,
            "KINODEX_KAFKA_SESSION_TIMEOUT_SECONDS": str(topic.config.session_timeout_seconds),
            "KINODEX_KAFKA_BOOTSTRAP_TIMEOUT_SECONDS": str(topic.config.bootstrap_timeout_seconds),
            "KINODEX_WORKERS": "1",
            "OMP_NUM_THREADS": "1",
            "TEST_SLOW_SECONDS": str(slow_seconds),
            **variables,
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(CHILD), "worker", "--kafka", servers or topic.config.servers[0]],
                env=environ, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip

    def wait_until_ready(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline().startswith("working "), self.log_text()

    def log_text(self) -> str:
        return self.log.read_text()

    def terminate(self) -> int:
        """Stop it and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(HANG_SECONDS)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()


def comparable(record: SegmentRecord) -> dict[str, object]:
    """Return the parts of a segment that do not depend on how the work was interrupted."""
    return {
        "id": record.segment.segment_id,
        "span": (round(record.segment.span.start_seconds, 3), round(record.segment.span.end_seconds, 3)),
        "revision": record.revision,
        "final": (record.is_final, record.is_last),
        "frames": [round(float(at), 3) for at in record.frames.pts_seconds],
        "vectors": record.frames.vectors.round(2).tolist(),
        "thumbnails": len(record.thumbnails),
        "texts": [(said.text, round(said.start_seconds, 2)) for said in record.utterances],
        "continued": record.continued_count,
        "gaps": [replace(gap, at_seconds=round(gap.at_seconds, 3)) for gap in record.gaps],
    }


def comparable_finals(found: dict[str, SegmentRecord]) -> list[dict[str, object]]:
    """Check that all segments are final, and return the parts of them to compare."""
    assert [name for name, one in found.items() if not one.is_final] == []
    return [comparable(one) for one in found.values()]
