"""Measures the delay of moderation events: from the append of a chunk to the event on its topic.

    python benchmarks/events.py [--streams 1 4 16] [--seconds S] [--out FILE.md]

Sends real videos in real time to a worker and a server with real encoders, over an Apache Kafka of its own, as
benchmarks/live.py does. The server has policies that real videos meet all the time, in pictures and in speech. For each
event that opens, time is measured from one of two points: the append of the chunk with the picture that made the event
last long enough, or the end of the words that triggered it. All processes share the machine.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from live import FILES, SEED, SPREAD_SECONDS, STREAM, TAIL_SECONDS, VIDEOS, WARM_UP_SECONDS, table
from live_run import Cut, Sending, Sent, both, cut
from sampling import ROOT, command, machine
from serving import commit

from ingest.config import KafkaConfig
from ingest.kafka import PartitionReader, Topics, create_topics
from kinodex.v1 import moment_pb2, stream_pb2
from serve.codec.fields import duration_value

sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT))
from support.broker import Broker

POLICIES = """
version: benchmark
policies:
  - {id: screen, label: Screen, shows: [text on a screen], enter: 0.5, leave: 0.4, cooldown_seconds: 5}
  - {id: person, label: Person, shows: [a person, a man talking], enter: 0.5, leave: 0.4, cooldown_seconds: 5}
  - {id: street, label: Street, shows: [a street, cars on a road], enter: 0.5, leave: 0.4, cooldown_seconds: 5}
  - {id: talk, label: Talk, says: [and, the, of, to, is], cooldown_seconds: 0}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """The result for a number of streams."""

    stream_count: int
    seen: Sequence[float]  # delay of each event, in seconds
    said: Sequence[float]
    twice_count: int  # changes that occur more than once on the topic


def measured(media: Sequence[Sequence[Cut]], count: int, seconds: float, config: KafkaConfig, folder: Path) -> Told:
    """Send a number of streams, and measure when their events arrive on the topic."""
    rng = random.Random(SEED)
    streams = {STREAM.format(n): media[n % len(media)][(n // len(media)) * 5 :] for n in range(count)}
    create_topics(config)
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "policies.yaml").write_text(POLICIES)
    with both(config, folder):
        sending = Sending(config, streams, [rng.uniform(0, min(SPREAD_SECONDS, count)) for _ in streams])
        sending.start()
        time.sleep(WARM_UP_SECONDS)
        begin = time.time()
        time.sleep(seconds)
        end = time.time()
        time.sleep(TAIL_SECONDS)
        sending.stop()
        found = events(config)
    chunks = [one for one in sending.sent if one.delivery.append_seconds is not None]
    seen, said = [], []
    for event, told_seconds in found:
        if event.state != stream_pb2.Event.STATE_OPENED:
            continue
        appended = append_of(chunks, event)
        if appended is not None and begin <= appended < end:
            (seen if event.channel == moment_pb2.CHANNEL_VISUAL else said).append(told_seconds - appended)
    changes = [(event.event_id, event.revision) for event, _ in found]
    return Told(stream_count=count, seen=seen, said=said, twice_count=len(changes) - len(set(changes)))


def events(config: KafkaConfig) -> list[tuple[stream_pb2.Event, float]]:
    """Return the events on the topic, each with the time of its append."""
    topic = Topics(config.topic_prefix).events
    with PartitionReader(config) as reader:
        return [
            (stream_pb2.Event.FromString(record.value or b""), record.append_seconds)
            for partition in reader.partitions_of(topic)
            for record in reader.read_to_end(topic, partition)
        ]


def append_of(chunks: Sequence[Sent], event: stream_pb2.Event) -> float | None:
    """Return the append time of the first chunk from which an event can be known."""
    at = duration_value(event.span.end_offset)
    for one in chunks:
        if one.stream_id == event.video_id and one.start_seconds <= at < one.end_seconds:
            return one.delivery.append_seconds
    return None


def report(found: Sequence[Told], seconds: float, load_before: float) -> str:
    rows = []
    for one in found:
        row = [str(one.stream_count)]
        for values in (one.seen, one.said):
            row += [str(len(values)), *(f"{np.quantile(values, q):.2f}" if values else "-" for q in (0.5, 0.95))]
        rows.append([*row, str(one.twice_count)])
    head = ["streams", "seen", "p50", "p95", "said", "p50", "p95", "told twice"]
    return "\n".join(
        [
            "# From a chunk to a moderation event",
            "",
            f"`{command()}`, {date.today()}, {machine()}; commit {commit()}.",
            f"Load average before it began: {load_before:.1f}. One worker, one server, models mini and Whisper",
            f"tiny.en; {WARM_UP_SECONDS:.0f} s to warm up, {seconds:.0f} s measured.",
            "",
            "Seconds from the append of the chunk by which an event could be known (it has lasted for its two seconds,",
            "or its words have ended) until the broker appended the event. What is said is heard once its words are",
            "final.",
            "",
            *table(head, rows),
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--seconds", type=float, default=60.0, help="measured seconds for each number of streams")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "events.md")
    args = parser.parse_args()
    if not VIDEOS.is_dir():
        sys.exit(f"events.py sends real videos, and there are none in {VIDEOS}")
    load_before, found = os.getloadavg()[0], list[Told]()
    # The next part of the file is that of benchmarks/policies.py.
    after = "".join(args.out.read_text(encoding="utf-8").partition("\n# ")[1:]) if args.out.exists() else ""
    with tempfile.TemporaryDirectory(prefix="kinodex-events-") as name:
        broker = Broker(Path(name) / "kafka")
        broker.start()
        try:
            length = WARM_UP_SECONDS + args.seconds + TAIL_SECONDS + 15.0  # 15: some streams start slowly
            media = [cut(VIDEOS / file, Path(name), length * 4 / 3) for file in FILES]
            for count in args.streams:
                config = KafkaConfig(
                    servers=(broker.servers,), topic_prefix=f"events-{count}", partition_count=8, replication_factor=1
                )
                found.append(measured(media, count, args.seconds, config, Path(name) / f"{count}"))
                text = report(found, args.seconds, load_before)
                args.out.write_text(text + after, encoding="utf-8")
                print(text, flush=True)
        finally:
            broker.kill()


if __name__ == "__main__":
    main()
