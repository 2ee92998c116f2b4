"""Streams through workers that are killed, brokers that restart, servers that die; the end is as if nothing had been.

    make chaos                                 ten worker kills, some minutes
    python tests/chaos/chaos.py --short        what CI runs
    python tests/chaos/chaos.py --seed 7       the same disturbances again

Real videos are cut into chunks once. First they go through one worker and one server undisturbed. Then, under other
topics: duplicated, out of order, two workers and a server on two cores, all of them killed with -9 and started again.
Both runs get the same two chunks of noise, and one stream whose timestamps begin anew. Compared is what the two servers
hold: segments, pictures, words, vectors, gaps, moderation events; and that the dead letters are the noise, that each
change of an event is on its topic once and in order, and that nothing waits any more.
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

from kafka import KafkaConsumer, TopicPartition  # noqa: E402

from ingest.config import KafkaConfig, PublishConfig  # noqa: E402
from ingest.kafka import PartitionReader, Producer, Topics, create_topics  # noqa: E402
from ingest.stream.chunker import cut_chunks  # noqa: E402
from ingest.values import Chunk  # noqa: E402
from kinodex.v1 import stream_pb2  # noqa: E402
from serve.catalog.catalog import Catalog  # noqa: E402
from serve.catalog.events import EventLog  # noqa: E402
from serve.codec.records import chunk_bytes, video_key  # noqa: E402
from support.broker import Broker  # noqa: E402

VIDEOS = ROOT.parent / "shared" / "videos" / "files"
# Name of the stream: the files it is made of. More than one: the timestamps begin anew where the next begins.
STREAMS = {
    "emu": ("Emu__test_video.mp4",),
    "minicpm": ("MiniCPM-o__demo_video.mp4",),
    "simpl": ("simpl__video.webm",),
    "medical": ("SALMONN__medical_example_clip.mp4",),
    "voices": ("shaka-player__ChID_voices_6ch_256kbps_ddp.mp4",),
    "reset": ("wcag__spacetime.flv", "Video-LLaVA__sample_demo_5.mp4"),
}
SHORT_STREAMS = ("minicpm", "reset", "medical")
PARTITIONS = 6
SETTINGS = {
    "KINODEX_KAFKA_SESSION_TIMEOUT_SECONDS": "6",
    "KINODEX_VISUAL_MODEL": "mini",
    "OMP_NUM_THREADS": "1",
}
# What is seen and said in them; no frame is near a threshold, as rounding in other batches must not decide.
POLICIES = """
version: chaos
policies:
  - {id: screen, label: Screen, shows: [text on a screen], enter: 0.7, leave: 0.3, cooldown_seconds: 0}
  - {id: laptop, label: Laptop, shows: [a laptop], enter: 0.5, leave: 0.3, min_seconds: 1, cooldown_seconds: 5}
  - {id: study, label: Study, says: [study, image text pairs, "/play(?:s|ing)/"], cooldown_seconds: 3}
  - {id: space, label: Space, says: [universe, space time, spacetime, sunscreen], cooldown_seconds: 10}
"""
CONFIDENCE_TOLERANCE = 0.03  # of what is seen, where vectors differ by as much as they may
REORDER_PLACES = 3  # a chunk may be from its own,
REORDER_SECONDS = 6.0  # and so late; after ingest.stream.chunk_order's ten it would rightly count as missing
DUPLICATE_SHARE = 0.1
RESTART_SECONDS = 1.0  # until what was killed is started again
PATIENCE_SECONDS = 420  # for everything to come to rest after the last disturbance
VECTOR_TOLERANCE = 4e-3  # of float16 unit vectors that were encoded in other batches, in bf16
NUMBER_TOLERANCE = 1e-4  # of times in seconds, and of words' probabilities, which rounding in other batches moves


@dataclass(frozen=True)
class Plan:
    """How much is disturbed."""

    streams: Sequence[str]
    send_seconds: float
    worker_kill_count: int
    broker_restart_count: int
    server_kill_count: int


FULL = Plan(tuple(STREAMS), 150.0, 10, 2, 2)
SHORT = Plan(SHORT_STREAMS, 45.0, 3, 1, 1)


# ------------------------------------------------------------------ the streams
def cut(names: Sequence[str]) -> dict[str, list[Chunk]]:
    """Cut the videos into chunks; two of all are noise."""
    found: dict[str, list[Chunk]] = {}
    for name in names:
        mine: list[Chunk] = []
        for file in STREAMS[name]:
            config = PublishConfig(chunk_seconds=2.0)
            for chunk in cut_chunks(str(VIDEOS / file), collection="chaos", stream_id=name, session=1, config=config):
                if not chunk.end_of_stream:
                    mine.append(replace(chunk, sequence=len(mine)))
        mine.append(Chunk(collection="chaos", stream_id=name, session=1, sequence=len(mine), end_of_stream=True))
        found[name] = mine
    rng = random.Random(0)
    for name in list(found)[:2]:
        at = len(found[name]) // 2
        found[name][at] = replace(found[name][at], media=rng.randbytes(5000))
    return found


def disturbed(streams: dict[str, list[Chunk]], send_seconds: float, rng: random.Random) -> list[Chunk]:
    """Return the chunks as they are sent: streams beside each other, some chunks twice, some out of order."""
    placed = []
    for mine in streams.values():
        most = min(REORDER_PLACES / len(mine), REORDER_SECONDS / send_seconds)
        for n, chunk in enumerate(mine):
            at = n / len(mine) + rng.uniform(0, most)
            placed.append((at, chunk))
            if rng.random() < DUPLICATE_SHARE:
                placed.append((at + rng.uniform(0, 5) / len(mine), chunk))
    return [chunk for _, chunk in sorted(placed, key=lambda one: one[0])]


def in_order(streams: dict[str, list[Chunk]]) -> list[Chunk]:
    placed = [(n / len(mine), chunk) for mine in streams.values() for n, chunk in enumerate(mine)]
    return [chunk for _, chunk in sorted(placed, key=lambda one: one[0])]


# ------------------------------------------------------------------ processes
@dataclass
class Process:
    """One of our commands, killed and started again."""

    arguments: Sequence[str]
    log: Path
    child: subprocess.Popen[bytes] | None = None
    kill_count: int = 0

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(
                [sys.executable, "-P", "-m", "kinodex", *self.arguments],
                cwd=ROOT, env=os.environ | SETTINGS, stdout=log, stderr=log,
            )  # fmt: skip

    def kill(self) -> None:
        assert self.child is not None
        self.child.kill()
        self.child.wait()
        self.kill_count += 1

    def stop(self) -> int:
        assert self.child is not None
        self.child.send_signal(signal.SIGTERM)
        return self.child.wait(60)


@dataclass
class Run:
    """Workers and a server over the topics of one prefix."""

    broker: Broker
    prefix: str
    folder: Path
    worker_count: int
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
        create_topics(self.config)

    @contextmanager
    def running(self) -> Iterator[None]:
        processes = [*self.workers, self.server]
        for process in processes:
            process.start()
        try:
            yield
        finally:
            for process in processes:
                if process.child is not None and process.child.poll() is None:
                    process.stop()

    def send(self, records: Sequence[Chunk], seconds: float) -> list[int]:
        """Append chunks, spread over some seconds; return how many records came to each partition."""
        producer = Producer(self.config)
        begin = time.monotonic()
        for n, chunk in enumerate(records):
            time.sleep(max(0.0, begin + seconds * n / len(records) - time.monotonic()))
            producer.send(self.topics.chunks, video_key(chunk.collection, chunk.stream_id), chunk_bytes(chunk))
        assert producer.flush(120), "the broker did not take the chunks"
        producer.close()
        return []

    def wait(self) -> None:
        """Wait until the workers have committed everything and the server has taken everything over."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        waiting = "?"
        while time.monotonic() < deadline:
            self.check_alive()
            waiting = self.lag()
            if not waiting:
                return
            time.sleep(1.0)
        raise SystemExit(f"not at rest after {PATIENCE_SECONDS} s: {waiting}")

    def check_alive(self) -> None:
        for process in [*self.workers, self.server]:
            if process.child is not None and process.child.poll() not in (None, -signal.SIGKILL):
                raise SystemExit(
                    f"{process.arguments[0]} ended by itself, see {process.log}:\n{process.log.read_text()[-3000:]}"
                )

    def lag(self) -> str:
        """Say what is still on its way; empty: nothing."""
        waiting = []
        try:
            consumer = KafkaConsumer(
                bootstrap_servers=[self.broker.servers], group_id=f"{self.prefix}-workers", enable_auto_commit=False
            )
            try:
                for topic in (self.topics.chunks,):
                    places = [TopicPartition(topic, n) for n in range(PARTITIONS)]
                    for place, end in consumer.end_offsets(places).items():
                        if (lag := end - (consumer.committed(place) or 0)) > 0:
                            waiting.append(f"{topic}[{place.partition}] lag {lag}")
                taken = self.taken_offsets()
                places = [TopicPartition(self.topics.segments, n) for n in range(PARTITIONS)]
                for place, end in consumer.end_offsets(places).items():
                    if (lag := end - taken.get((self.topics.segments, place.partition), 0)) > 0:
                        waiting.append(f"{self.topics.segments}[{place.partition}] lag {lag}")
            finally:
                consumer.close()
            waiting += self.events_on_their_way()
        except Exception as error:  # the broker may be down at this moment
            return f"{type(error).__name__}: {error}"
        return ", ".join(waiting)

    def taken_offsets(self) -> dict[tuple[str, int], int]:
        if not (self.data / "catalog.sqlite").exists():
            return {}
        with Catalog.open_editor(self.data) as catalog:
            rows = catalog.select("SELECT topic, partition, next_offset FROM consumed_offsets")
        return {(topic, partition): offset for topic, partition, offset in rows}

    def events_on_their_way(self) -> list[str]:
        """Say which videos are not scored to their end, and whether Kafka was not told of all events."""
        with Catalog.open_editor(self.data) as catalog:
            waiting = [
                f"events of {name}"
                for (name,) in catalog.select(
                    "SELECT video_id FROM videos LEFT JOIN screenings ON video_row = row"
                    " WHERE NOT coalesce(json_extract(screenings.state, '$.is_over'), 0)"
                )
            ]
            log = EventLog(catalog)
            told, last = log.delivery_of("kafka")[0], log.last_sequence()
        return waiting + ([f"{last - told} changes of events"] if told < last else [])

    def told_events(self) -> list[stream_pb2.Event]:
        """Return what is on the topic of events, in order within a partition."""
        reader, found = PartitionReader(self.config), []
        for partition in reader.partitions_of(self.topics.events):
            records = reader.read_to_end(self.topics.events, partition)
            found += [stream_pb2.Event.FromString(record.value) for record in records]
        reader.close()
        return found

    def dead_letters(self) -> set[tuple[str, int]]:
        """Return stream and sequence of every dead letter, those sent twice once."""
        reader, found = PartitionReader(self.config), set()
        for partition in reader.partitions_of(self.topics.deadletter):
            for record in reader.read_to_end(self.topics.deadletter, partition):
                letter = stream_pb2.DeadLetter.FromString(record.value)
                chunk = stream_pb2.Chunk.FromString(letter.value)
                found.add((chunk.stream_id, chunk.sequence))
        reader.close()
        return found


# ------------------------------------------------------------------ disturbances
def disturb(run: Run, plan: Plan, rng: random.Random, say: Callable[[str], None]) -> None:
    """Kill and restart, at random moments while chunks come and a little beyond."""
    moments = [(rng.uniform(8, plan.send_seconds + 10), "worker") for _ in range(plan.worker_kill_count)]
    moments += [(rng.uniform(15, plan.send_seconds), "broker") for _ in range(plan.broker_restart_count)]
    moments += [(rng.uniform(15, plan.send_seconds), "server") for _ in range(plan.server_kill_count)]
    begin = time.monotonic()
    for at, what in sorted(moments):
        time.sleep(max(0.0, begin + at - time.monotonic()))
        if what == "broker":
            say("broker restarts")
            run.broker.kill() if rng.random() < 0.5 else run.broker.stop()
            time.sleep(RESTART_SECONDS)
            run.broker.start()
            continue
        process = run.server if what == "server" else rng.choice(run.workers)
        say(f"kill -9 {what} {process.child.pid if process.child else ''}")
        process.kill()
        time.sleep(RESTART_SECONDS)
        process.start()


# ------------------------------------------------------------------ what the servers hold
def held(data: Path) -> dict[str, dict[str, object]]:
    """Return all that a catalog holds of the streams."""
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


def differences(expected: dict[str, dict[str, object]], found: dict[str, dict[str, object]]) -> list[str]:
    """Name what differs; empty: nothing."""
    told = [f"video {name} only in one" for name in expected.keys() ^ found.keys()]
    for name in expected.keys() & found.keys():
        for key, one in expected[name].items():
            try:
                tolerance = CONFIDENCE_TOLERANCE if key == "confidences" else VECTOR_TOLERANCE
                same(one, found[name][key], tolerance)
            except AssertionError as error:
                told.append(f"{name}.{key}: {str(error).strip()[:600]}")
    return told


def disorder(name: str, told: list[stream_pb2.Event], expected: dict[str, dict[str, object]]) -> list[str]:
    """Name changes of events that are on the topic twice, or not in order, or are not there; empty: none is."""
    revisions: dict[str, list[int]] = {}
    for event in told:
        revisions.setdefault(event.event_id, []).append(event.revision)
    last = {one[0]: one[6] for video in expected.values() for one in video["events"]}  # type: ignore[attr-defined]
    found = [f"{name}: event {one} came as {came}" for one, came in revisions.items() if came != [*range(len(came))]]
    found += [f"{name}: event {one} is not there to its end" for one in last if len(revisions[one]) != last[one] + 1]
    return found + [f"{name}: event {one} is of no video" for one in revisions.keys() - last.keys()]


def same(one: object, other: object, tolerance: float = VECTOR_TOLERANCE) -> None:
    if isinstance(one, np.ndarray):
        assert isinstance(other, np.ndarray)
        np.testing.assert_allclose(one, other, atol=tolerance)
    elif isinstance(one, float):
        np.testing.assert_allclose(one, other, atol=NUMBER_TOLERANCE)
    elif isinstance(one, list | tuple):
        assert isinstance(other, list | tuple)
        assert len(one) == len(other), f"{len(one)} and {len(other)} of them:\n{one}\n{other}"
        for a, b in zip(one, other, strict=True):
            same(a, b)
    elif hasattr(one, "__slots__"):
        for name in one.__slots__:
            same(getattr(one, name), getattr(other, name))
    else:
        assert one == other, f"{one!r} and {other!r}"


# ------------------------------------------------------------------ the run
def chaos(plan: Plan, seed: int, folder: Path, broker: Broker, say: Callable[[str], None]) -> dict[str, object]:
    """Run both, compare; return what is to be told.

    Raises:
        SystemExit: If something is not as it should be.
    """
    streams, rng = cut(plan.streams), random.Random(seed)
    say(f"{len(streams)} streams, {sum(map(len, streams.values()))} chunks, seed {seed}")
    calm = Run(broker, "calm", folder / "calm", worker_count=1)
    begin = time.monotonic()
    with calm.running():
        calm.send(in_order(streams), 0.0)
        calm.wait()
    calm_seconds = time.monotonic() - begin
    expected = held(calm.data)
    say(f"undisturbed in {calm_seconds:.0f} s: {describe(expected)}")
    wild = Run(broker, "wild", folder / "wild", worker_count=2)
    begin = time.monotonic()
    with wild.running():
        thread = threading.Thread(target=disturb, args=(wild, plan, rng, say))
        thread.start()
        wild.send(disturbed(streams, plan.send_seconds, random.Random(seed + 1)), plan.send_seconds)
        thread.join()
        say("everything is sent, nothing is disturbed any more")
        wild.wait()
    found = held(wild.data)
    say(f"disturbed in {time.monotonic() - begin:.0f} s: {describe(found)}")
    problems = differences(expected, found)
    problems += disorder("calm", calm.told_events(), expected) + disorder("wild", wild.told_events(), found)
    poisoned = {(name, len(streams[name]) // 2) for name in list(streams)[:2]}
    letters = {"calm": calm.dead_letters(), "wild": wild.dead_letters()}
    problems += [
        f"{name}: dead letters {sorted(who)}, sent noise {sorted(poisoned)}"
        for name, who in letters.items()
        if who != poisoned
    ]
    if problems:
        raise SystemExit("not as undisturbed:\n" + "\n".join(problems))
    return {
        "seed": seed,
        "streams": len(streams),
        "chunks": sum(map(len, streams.values())),
        "worker_kills": plan.worker_kill_count,
        "broker_restarts": plan.broker_restart_count,
        "server_kills": plan.server_kill_count,
        "segments": sum(len(one["segments"]) for one in found.values()),  # type: ignore[arg-type]
        "utterances": sum(len(one["utterances"]) for one in found.values()),  # type: ignore[arg-type]
        "events": sum(len(one["events"]) for one in found.values()),  # type: ignore[arg-type]
        "dead_letters": len(poisoned),
        "calm_seconds": round(calm_seconds),
        "wild_seconds": round(time.monotonic() - begin),
    }


def describe(what: dict[str, dict[str, object]]) -> str:
    counts = {
        key: sum(len(one[key]) for one in what.values()) for key in ("segments", "utterances", "vectors", "events")
    }  # type: ignore[arg-type]
    return (
        f"{len(what)} videos, {counts['segments']} segments, {counts['vectors']} pictures,"
        f" {counts['utterances']} utterances, {counts['events']} events"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--short", action="store_true", help="Fewer streams and kills: what CI runs.")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="Leave logs and catalogs there.")
    given = parser.parse_args()
    if not VIDEOS.is_dir():
        print(f"the development videos are not there: {VIDEOS}", file=sys.stderr)
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
        report = chaos(SHORT if given.short else FULL, given.seed, folder, broker, say)
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
