"""Kills workers and servers and restarts the broker while streams come; the result must be the same as undisturbed.

    make chaos                                 ten worker kills, takes some minutes
    python tests/chaos/chaos.py --short        the form that CI runs
    python tests/chaos/chaos.py --seed 7       repeats the disturbances of a seed

Real videos are cut into chunks once. The calm run sends them through one worker and one server, undisturbed. The wild
run, on other topics, duplicates and reorders chunks; two workers and a server are killed with -9 and started again. Its
topics are compressed, each in another way. The clocks of its server and of one worker are days wrong, and its server
keeps live videos for a week. A publisher with a clock ahead and an aborted transaction send chunks between the others.
Partitions are added while chunks come, and the chunks that no worker needs any more expire, twice.
Both runs get the same two chunks of noise, and one stream whose timestamps restart. The script compares the catalogs of
the two servers: segments, pictures, words, vectors, gaps, moderation events. It also checks that the dead letters are
the noise, that each change of an event is on its topic once and in order, and that no record waits.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition  # noqa: E402
from kafka.admin import ConfigResource, ConfigResourceType  # noqa: E402

from ingest.config import KafkaConfig, PublishConfig  # noqa: E402
from ingest.kafka import PartitionReader, Producer, Topics, create_topics  # noqa: E402
from ingest.stream.chunker import cut_chunks  # noqa: E402
from ingest.values import Chunk  # noqa: E402
from kinodex.v1 import stream_pb2  # noqa: E402
from serve.catalog.catalog import Catalog  # noqa: E402
from serve.catalog.events import EventLog  # noqa: E402
from serve.codec.records import chunk_bytes, video_key  # noqa: E402
from serve.settings import Settings  # noqa: E402
from serve.worker.growth import grow  # noqa: E402
from support.broker import Broker  # noqa: E402

VIDEOS = ROOT.parent / "shared" / "videos" / "files"
# Name of a stream -> its files. With more than one, the timestamps restart at the next file.
STREAMS = {
    "emu": ("Emu__test_video.mp4",),
    "minicpm": ("MiniCPM-o__demo_video.mp4",),
    "simpl": ("simpl__video.webm",),
    "medical": ("SALMONN__medical_example_clip.mp4",),
    "voices": ("shaka-player__ChID_voices_6ch_256kbps_ddp.mp4",),
    "reset": ("wcag__spacetime.flv", "Video-LLaVA__sample_demo_5.mp4"),
}
SHORT_STREAMS = ("minicpm", "reset", "medical")
PARTITIONS, GROWN_PARTITIONS = 6, 13
COMPRESSION = {"chunks": "zstd", "segments": "snappy", "checkpoints": "lz4", "deletions": "gzip"}  # of the wild run
WRONG_CLOCK_SECONDS = 8 * 86400.0
# Runs kinodex with a clock that is wrong by the first argument, in seconds.
WRONG_CLOCK = """
import runpy, sys, time
right, seconds = time.time, float(sys.argv.pop(1))
time.time = lambda: right() + seconds
runpy.run_module("kinodex", run_name="__main__", alter_sys=True)
"""
SETTINGS = {
    "KINODEX_KAFKA_SESSION_TIMEOUT_SECONDS": "6",
    "KINODEX_VISUAL_MODEL": "mini",
    "OMP_NUM_THREADS": "1",
}
# Policies that match the videos. No frame is near a threshold: rounding in other batches must not decide.
POLICIES = """
version: chaos
policies:
  - {id: screen, label: Screen, shows: [text on a screen], enter: 0.7, leave: 0.3, cooldown_seconds: 0}
  - {id: laptop, label: Laptop, shows: [a laptop], enter: 0.5, leave: 0.3, min_seconds: 1, cooldown_seconds: 5}
  - {id: study, label: Study, says: [study, image text pairs, "/play(?:s|ing)/"], cooldown_seconds: 3}
  - {id: space, label: Space, says: [universe, space time, spacetime, sunscreen], cooldown_seconds: 10}
"""
CONFIDENCE_TOLERANCE = 0.03  # of an event's confidence, when vectors differ by VECTOR_TOLERANCE
REORDER_COUNT = 3  # a chunk moves by at most this many places
REORDER_SECONDS = 6.0  # and is late by at most this; ingest.stream.chunk_order gives up after ten seconds
DUPLICATE_SHARE = 0.1
STRAY_SEQUENCE = 999  # of the chunk from the future: no stream has as many
RESTART_SECONDS = 1.0  # pause before a killed process is started again
PATIENCE_SECONDS = 420  # bound of waiting until no record waits, after the last disturbance
VECTOR_TOLERANCE = 4e-3  # of float16 unit vectors, which were encoded in bf16 in other batches
NUMBER_TOLERANCE = 1e-4  # of times in seconds and words' probabilities, which depend on rounding in batches


@dataclass(frozen=True)
class Plan:
    """The disturbances of the wild run."""

    streams: Sequence[str]
    send_seconds: float
    worker_kill_count: int
    broker_restart_count: int
    server_kill_count: int


FULL = Plan(tuple(STREAMS), 150.0, 10, 2, 2)
SHORT = Plan(SHORT_STREAMS, 45.0, 3, 1, 1)


# ------------------------------------------------------------------ the streams
def cut_streams(names: Sequence[str]) -> dict[str, list[Chunk]]:
    """Cut the videos into chunks, and replace two of all chunks by noise."""
    streams: dict[str, list[Chunk]] = {}
    for name in names:
        stream: list[Chunk] = []
        for file in STREAMS[name]:
            config = PublishConfig(chunk_seconds=2.0)
            for chunk in cut_chunks(str(VIDEOS / file), collection="chaos", stream_id=name, session=1, config=config):
                if not chunk.end_of_stream:
                    stream.append(replace(chunk, sequence=len(stream)))
        stream.append(Chunk(collection="chaos", stream_id=name, session=1, sequence=len(stream), end_of_stream=True))
        streams[name] = stream
    rng = random.Random(0)
    for name in list(streams)[:2]:
        at = len(streams[name]) // 2
        streams[name][at] = replace(streams[name][at], media=rng.randbytes(5000))
    return streams


def shuffle_chunks(streams: dict[str, list[Chunk]], send_seconds: float, rng: random.Random) -> list[Chunk]:
    """Return the chunks in the order of sending: streams interleaved, some chunks twice, some out of order."""
    placed = []
    for stream in streams.values():
        most = min(REORDER_COUNT / len(stream), REORDER_SECONDS / send_seconds)
        for n, chunk in enumerate(stream):
            at = n / len(stream) + rng.uniform(0, most)
            placed.append((at, chunk))
            if rng.random() < DUPLICATE_SHARE:
                placed.append((at + rng.uniform(0, 5) / len(stream), chunk))
    return [chunk for _, chunk in sorted(placed, key=lambda one: one[0])]


def interleave(streams: dict[str, list[Chunk]]) -> list[Chunk]:
    placed = [(n / len(stream), chunk) for stream in streams.values() for n, chunk in enumerate(stream)]
    return [chunk for _, chunk in sorted(placed, key=lambda one: one[0])]


# ------------------------------------------------------------------ processes
@dataclass
class Process:
    """A running kinodex command, which can be killed and started again."""

    arguments: Sequence[str]
    log: Path
    clock_seconds: float = 0.0  # by which its clock is wrong
    child: subprocess.Popen[bytes] | None = None
    kill_count: int = 0

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(
                [sys.executable, "-P", *self._program(), *self.arguments],
                cwd=ROOT, env=os.environ | SETTINGS, stdout=log, stderr=log,
            )  # fmt: skip

    def _program(self) -> list[str]:
        return ["-c", WRONG_CLOCK, str(self.clock_seconds)] if self.clock_seconds else ["-m", "kinodex"]

    def kill(self) -> None:
        assert self.child is not None
        self.child.kill()
        self.child.wait()
        self.kill_count += 1

    def stop(self) -> int:
        assert self.child is not None
        self.child.send_signal(signal.SIGTERM)
        return self.child.wait(300)


@dataclass
class Run:
    """Workers and a server on the topics of one prefix; a wild run has compressed topics and wrong clocks."""

    broker: Broker
    prefix: str
    folder: Path
    worker_count: int
    is_wild: bool = False
    workers: list[Process] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self.config = KafkaConfig(
            servers=(self.broker.servers,), topic_prefix=self.prefix, partition_count=PARTITIONS, replication_factor=1
        )
        self.topics = Topics(self.prefix)
        self.data = self.folder / "data"
        self.data.mkdir()
        (self.data / "policies.yaml").write_text(POLICIES)
        kafka = ["--kafka", self.broker.servers]
        self.workers = [Process(["worker", *kafka], self.folder / f"worker{n}.log") for n in range(self.worker_count)]
        arguments = ["serve", "--data", str(self.data), "--listen", "127.0.0.1:0", *kafka]
        self.server = Process(arguments, self.folder / "server.log")
        os.environ["KINODEX_KAFKA_TOPIC_PREFIX"] = self.prefix
        os.environ["KINODEX_SERVER_RETENTION"] = "*=7d" if self.is_wild else ""
        create_topics(self.config)
        if self.is_wild:
            self._compress_topics()
            self.server.clock_seconds, self.workers[-1].clock_seconds = WRONG_CLOCK_SECONDS, -WRONG_CLOCK_SECONDS

    def _compress_topics(self) -> None:
        with KafkaAdminClient(bootstrap_servers=[self.broker.servers]) as admin:
            for kind, codec in COMPRESSION.items():
                name = f"{self.prefix}.{kind}"
                configs = self.topics.configs()[name] | {"compression.type": codec}
                admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, configs=configs)])

    def send_strays(self, name: str) -> None:
        """Send chunks of a stream that must not count: of a session in the future, and of an aborted transaction."""
        future = Chunk(
            collection="chaos", stream_id=name, session=round((time.time() + WRONG_CLOCK_SECONDS) * 1000),
            sequence=STRAY_SEQUENCE, media=b"stray",
        )  # fmt: skip
        producer = Producer(self.config)
        producer.send(self.topics.chunks, video_key("chaos", name), chunk_bytes(future))
        assert producer.flush(300)
        producer.close()
        client = KafkaProducer(bootstrap_servers=[self.broker.servers], transactional_id=f"{self.prefix}-publisher")
        client.init_transactions()
        client.begin_transaction()
        aborted = Chunk(collection="chaos", stream_id=name, session=2, sequence=0, media=b"aborted")
        client.send(self.topics.chunks, key=video_key("chaos", name), value=chunk_bytes(aborted))
        client.flush(300)
        client.abort_transaction()
        client.close()

    @contextmanager
    def start_all(self) -> Iterator[None]:
        processes = [*self.workers, self.server]
        for process in processes:
            process.start()
        try:
            yield
        finally:
            for process in processes:
                if process.child is not None and process.child.poll() is None:
                    process.stop()

    def send(self, records: Sequence[Chunk], seconds: float) -> None:
        """Append chunks, spread over some seconds."""
        producer = Producer(self.config)
        begin = time.monotonic()
        for n, chunk in enumerate(records):
            time.sleep(max(0.0, begin + seconds * n / len(records) - time.monotonic()))
            producer.send(self.topics.chunks, video_key(chunk.collection, chunk.stream_id), chunk_bytes(chunk))
        assert producer.flush(300), "the broker did not accept the chunks"
        producer.close()

    def wait(self) -> None:
        """Wait until the workers have committed all records and the server has read all segments."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        waiting = "?"
        while time.monotonic() < deadline:
            self.check_alive()
            waiting = self.describe_lag()
            if not waiting:
                return
            time.sleep(1.0)
        raise SystemExit(f"records still wait after {PATIENCE_SECONDS} s: {waiting}")

    def check_alive(self) -> None:
        for process in [*self.workers, self.server]:
            if process.child is not None and process.child.poll() not in (None, -signal.SIGKILL):
                raise SystemExit(
                    f"{process.arguments[0]} ended by itself, see {process.log}:\n{process.log.read_text()[-3000:]}"
                )

    def describe_lag(self) -> str:
        """List the records and events that wait; empty if there are none."""
        waiting = []
        try:
            consumer = KafkaConsumer(
                bootstrap_servers=[self.broker.servers], group_id=f"{self.prefix}-workers", enable_auto_commit=False
            )
            try:
                partitions = self.partitions_of(consumer, self.topics.chunks)
                for partition, end in consumer.end_offsets(partitions).items():
                    if (lag := end - (consumer.committed(partition) or 0)) > 0:
                        waiting.append(f"{self.topics.chunks}[{partition.partition}] lag {lag}")
                read_offsets = self.read_offsets()
                partitions = self.partitions_of(consumer, self.topics.segments)
                for partition, end in consumer.end_offsets(partitions).items():
                    if (lag := end - read_offsets.get((self.topics.segments, partition.partition), 0)) > 0:
                        waiting.append(f"{self.topics.segments}[{partition.partition}] lag {lag}")
            finally:
                consumer.close()
            waiting += self.list_pending_events()
        except Exception as error:  # the broker may be down at this moment
            return f"{type(error).__name__}: {error}"
        return ", ".join(waiting)

    def partitions_of(self, consumer: KafkaConsumer, topic: str) -> list[TopicPartition]:
        return [TopicPartition(topic, n) for n in consumer.partitions_for_topic(topic)]

    def grow(self) -> None:
        """Add partitions to the topics of the work, as `kinodex topics --grow` does."""
        grow(Settings(kafka=self.config), GROWN_PARTITIONS, lambda line: print(line, file=sys.stderr))

    def expire(self) -> int:
        """Delete the chunks before the committed offsets; return how many partitions lost some."""
        consumer = KafkaConsumer(
            bootstrap_servers=[self.broker.servers], group_id=f"{self.prefix}-workers", enable_auto_commit=False
        )
        try:
            places = self.partitions_of(consumer, self.topics.chunks)
            committed = {place: offset for place in places if (offset := consumer.committed(place))}
        finally:
            consumer.close()
        with KafkaAdminClient(bootstrap_servers=[self.broker.servers]) as admin:
            if committed:
                admin.delete_records(committed)
        return len(committed)

    def read_offsets(self) -> dict[tuple[str, int], int]:
        """Return how far the server has read each partition."""
        if not (self.data / "catalog.sqlite").exists():
            return {}
        with Catalog.open_editor(self.data) as catalog:
            rows = catalog.select("SELECT topic, partition, next_offset FROM consumed_offsets")
        return {(topic, partition): offset for topic, partition, offset in rows}

    def list_pending_events(self) -> list[str]:
        """List videos that are not scored to their end, and changes of events that are not delivered to Kafka."""
        with Catalog.open_editor(self.data) as catalog:
            waiting = [
                f"events of {name}"
                for (name,) in catalog.select(
                    "SELECT video_id FROM videos LEFT JOIN screenings ON video_row = row"
                    " WHERE NOT coalesce(json_extract(screenings.state, '$.is_over'), 0)"
                )
            ]
            log = EventLog(catalog)
            delivered, last = log.delivery_of("kafka")[0], log.last_sequence()
        return waiting + ([f"{last - delivered} changes of events"] if delivered < last else [])

    def read_events(self) -> list[stream_pb2.Event]:
        """Return the topic of events, in order within each partition."""
        reader, events = PartitionReader(self.config), []
        for partition in reader.partitions_of(self.topics.events):
            records = reader.read_to_end(self.topics.events, partition)
            events += [stream_pb2.Event.FromString(record.value) for record in records]
        reader.close()
        return events

    def read_dead_letters(self) -> set[tuple[str, int]]:
        """Return stream and sequence of all dead letters, without duplicates."""
        reader, letters = PartitionReader(self.config), set()
        for partition in reader.partitions_of(self.topics.deadletter):
            for record in reader.read_to_end(self.topics.deadletter, partition):
                letter = stream_pb2.DeadLetter.FromString(record.value)
                chunk = stream_pb2.Chunk.FromString(letter.value)
                letters.add((chunk.stream_id, chunk.sequence))
        reader.close()
        return letters


# ------------------------------------------------------------------ disturbances
def disturb(run: Run, plan: Plan, rng: random.Random, say: Callable[[str], None]) -> None:
    """Kill and restart processes at random moments, from the first chunk to a little after the last."""
    moments = [(rng.uniform(8, plan.send_seconds + 10), "worker") for _ in range(plan.worker_kill_count)]
    moments += [(rng.uniform(15, plan.send_seconds), "broker") for _ in range(plan.broker_restart_count)]
    moments += [(rng.uniform(15, plan.send_seconds), "server") for _ in range(plan.server_kill_count)]
    moments.append((0.3 * plan.send_seconds, "grow"))
    moments += [(share * plan.send_seconds, "expire") for share in (0.6, 0.9)]
    begin = time.monotonic()
    for at, target in sorted(moments):
        time.sleep(max(0.0, begin + at - time.monotonic()))
        if target == "grow":
            say(f"partitions grow from {PARTITIONS} to {GROWN_PARTITIONS}")
            run.grow()
            continue
        if target == "expire":
            say(f"chunks expire in {run.expire()} partitions")
            continue
        if target == "broker":
            say("broker restarts")
            run.broker.kill() if rng.random() < 0.5 else run.broker.stop()
            time.sleep(RESTART_SECONDS)
            run.broker.start()
            continue
        process = run.server if target == "server" else rng.choice(run.workers)
        say(f"kill -9 {target} {process.child.pid if process.child else ''}")
        process.kill()
        time.sleep(RESTART_SECONDS)
        process.start()


# ------------------------------------------------------------------ the catalogs
def read_catalog(data: Path) -> dict[str, dict[str, object]]:
    """Return the contents of a catalog: video -> name of the content -> value."""
    with Catalog.open_reader(data) as catalog:
        return {
            video.video_id: {
                "segments": [
                    (one.segment_id, one.span.start_seconds, one.span.end_seconds, one.vector)
                    for one in catalog.segments(video.row)
                ],
                "frames": (catalog.frames(video.row).epochs, catalog.frames(video.row).pts_seconds),
                "vectors": catalog.frames(video.row).vectors,
                "utterances": [
                    (said.epoch, said.text, said.start_seconds, said.end_seconds, said.words)
                    for said in catalog.utterances(video.row)
                ],
                "utterance_vectors": catalog.utterance_vectors(video.row),
                "events": [
                    (
                        one.event_id,
                        one.policy_id,
                        one.state,
                        one.epoch,
                        one.start_seconds,
                        one.end_seconds,
                        one.revision,
                        [word.text for word in one.matched_words],
                    )
                    for one in EventLog(catalog).events_of(video.row)
                ],
                "confidences": np.array([one.confidence for one in EventLog(catalog).events_of(video.row)]),
                "said": (video.warnings, video.is_ended, video.watermark_seconds, video.duration_seconds),
            }
            for video in catalog.videos()
        }


def compare_catalogs(expected: dict[str, dict[str, object]], actual: dict[str, dict[str, object]]) -> list[str]:
    """Describe the differences; empty if there are none."""
    problems = [f"video {name} only in one catalog" for name in expected.keys() ^ actual.keys()]
    for name in expected.keys() & actual.keys():
        for key, value in expected[name].items():
            try:
                tolerance = CONFIDENCE_TOLERANCE if key == "confidences" else VECTOR_TOLERANCE
                assert_same(value, actual[name][key], tolerance)
            except AssertionError as error:
                problems.append(f"{name}.{key}: {str(error).strip()[:600]}")
    return problems


def check_events(name: str, events: list[stream_pb2.Event], catalog: dict[str, dict[str, object]]) -> list[str]:
    """Describe changes of events that are on the topic twice, out of order, or missing; empty if there are none."""
    revisions: dict[str, list[int]] = {}
    for event in events:
        revisions.setdefault(event.event_id, []).append(event.revision)
    last = {event[0]: event[6] for video in catalog.values() for event in video["events"]}  # type: ignore[attr-defined]
    problems = [
        f"{name}: event {event_id} has the revisions {numbers}"
        for event_id, numbers in revisions.items()
        if numbers != [*range(len(numbers))]
    ]
    problems += [
        f"{name}: event {event_id} is incomplete"
        for event_id in last
        if len(revisions.get(event_id, [])) != last[event_id] + 1
    ]
    return problems + [f"{name}: event {event_id} belongs to no video" for event_id in revisions.keys() - last.keys()]


def assert_same(one: object, other: object, tolerance: float = VECTOR_TOLERANCE) -> None:
    if isinstance(one, np.ndarray):
        assert isinstance(other, np.ndarray)
        np.testing.assert_allclose(one, other, atol=tolerance)
    elif isinstance(one, float):
        np.testing.assert_allclose(one, other, atol=NUMBER_TOLERANCE)
    elif isinstance(one, list | tuple):
        assert isinstance(other, list | tuple)
        assert len(one) == len(other), f"{len(one)} and {len(other)} items:\n{one}\n{other}"
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    elif hasattr(one, "__slots__"):
        for name in one.__slots__:
            assert_same(getattr(one, name), getattr(other, name))
    else:
        assert one == other, f"{one!r} and {other!r}"


# ------------------------------------------------------------------ the run
def compare_runs(plan: Plan, seed: int, folder: Path, broker: Broker, say: Callable[[str], None]) -> dict[str, object]:
    """Make the calm and the wild run, and compare them; return the report.

    Raises:
        SystemExit: If they differ.
    """
    streams, rng = cut_streams(plan.streams), random.Random(seed)
    say(f"{len(streams)} streams, {sum(map(len, streams.values()))} chunks, seed {seed}")
    calm = Run(broker, "calm", folder / "calm", worker_count=1)
    begin = time.monotonic()
    with calm.start_all():
        calm.send(interleave(streams), 0.0)
        calm.wait()
    calm_seconds = time.monotonic() - begin
    expected = read_catalog(calm.data)
    say(f"undisturbed in {calm_seconds:.0f} s: {describe(expected)}")
    wild = Run(broker, "wild", folder / "wild", worker_count=2, is_wild=True)
    begin = time.monotonic()
    with wild.start_all():
        thread = threading.Thread(target=disturb, args=(wild, plan, rng, say))
        wild.send_strays(plan.streams[0])
        thread.start()
        wild.send(shuffle_chunks(streams, plan.send_seconds, random.Random(seed + 1)), plan.send_seconds)
        thread.join()
        say("all chunks are sent, the disturbances are over")
        wild.wait()
    actual = read_catalog(wild.data)
    say(f"disturbed in {time.monotonic() - begin:.0f} s: {describe(actual)}")
    problems = compare_catalogs(expected, actual)
    problems += check_events("calm", calm.read_events(), expected) + check_events("wild", wild.read_events(), actual)
    noise = {(name, len(streams[name]) // 2) for name in list(streams)[:2]}
    letters_by_run = {"calm": calm.read_dead_letters(), "wild": wild.read_dead_letters()}
    for name, letters in letters_by_run.items():
        bad = noise | ({(plan.streams[0], STRAY_SEQUENCE)} if name == "wild" else set())
        if letters != bad:
            problems.append(f"{name}: dead letters {sorted(letters)}, sent noise {sorted(bad)}")
    if problems:
        raise SystemExit("the runs differ:\n" + "\n".join(problems))
    return {
        "seed": seed,
        "streams": len(streams),
        "chunks": sum(map(len, streams.values())),
        "worker_kills": plan.worker_kill_count,
        "broker_restarts": plan.broker_restart_count,
        "server_kills": plan.server_kill_count,
        "segments": sum(len(video["segments"]) for video in actual.values()),  # type: ignore[arg-type]
        "utterances": sum(len(video["utterances"]) for video in actual.values()),  # type: ignore[arg-type]
        "events": sum(len(video["events"]) for video in actual.values()),  # type: ignore[arg-type]
        "dead_letters": len(noise),
        "calm_seconds": round(calm_seconds),
        "wild_seconds": round(time.monotonic() - begin),
    }


def describe(catalog: dict[str, dict[str, object]]) -> str:
    counts = {
        key: sum(len(video[key]) for video in catalog.values())
        for key in ("segments", "utterances", "vectors", "events")
    }  # type: ignore[arg-type]
    return (
        f"{len(catalog)} videos, {counts['segments']} segments, {counts['vectors']} pictures,"
        f" {counts['utterances']} utterances, {counts['events']} events"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--short", action="store_true", help="Fewer streams and kills, as in CI.")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="Keep logs and catalogs in this folder.")
    given = parser.parse_args()
    if not VIDEOS.is_dir():
        print(f"the development videos are missing: {VIDEOS}", file=sys.stderr)
        return 1
    begin = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - begin:6.1f} s  {line}", file=sys.stderr, flush=True)

    with ExitStack() as stack:
        folder = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kinodex-chaos-")))
        folder.mkdir(parents=True, exist_ok=True)
        broker = Broker(folder / "broker")
        broker.start()
        stack.callback(broker.kill)
        report = compare_runs(SHORT if given.short else FULL, given.seed, folder, broker, say)
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
