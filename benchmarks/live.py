"""Measures how soon a live stream is found: from the append of a chunk to its moment in an answer.

    python benchmarks/live.py [--streams 1 4 16] [--ramp N] [--seconds S] [--out FILE.md]

Starts an Apache Kafka of its own (Java 17; the first time Maven fetches it). For each number of streams it starts a new
worker and a new server with real encoders. Real videos are remuxed end to end and cut into chunks beforehand. They are
sent in real time: each chunk at the time when it has been played. The streams go on a little after the measured part,
so that its end can become final. After the given numbers of streams, others are tried between the most that kept up and
the fewest that did not. Kafka, the sender and the observer share the machine with worker and server.
"""

import argparse
import math
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TypeVar

import numpy as np
from live_run import Cut, Published, Sample, Seen, Sending, Sent, Watching, both, cut
from sampling import ROOT, command, machine
from serving import commit

from ingest.config import KafkaConfig
from ingest.kafka import create_topics
from serve.text import plural

sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT))
from support.broker import Broker

VIDEOS = ROOT.parent / "shared" / "videos" / "files"
FILES = (  # each stream takes the next: common codecs, sizes and keyframe distances, most with speech
    "Emu__test_video.mp4",
    "Video-LLaVA__sample_demo_5.mp4",
    "VideoLLaMA2__00003491.mp4",
    "PySceneDetect__issue-195-aspect-ratio.mp4",
    "MiniCPM-o__demo_video.mp4",
    "SALMONN__medical_example_clip.mp4",
    "supervision__walking.mp4",
    "dom-examples__video.mp4",
)
WARM_UP_SECONDS = 25.0  # for joining the group, the first batches, and the first whole window of 16 s
TAIL_SECONDS = 45.0  # for the measured part to become final: a window, and up to 30 s of speech transcribed together
SPREAD_SECONDS = 4.0  # starts of the streams are spread over it, so that they do not send in step
BEHIND_SECONDS = 2.0  # most delay of the last third of chunks over the first third; above it, the streams are too many
MEDIA_TOLERANCE_SECONDS = 0.3  # pictures, sound and chunks do not end at the same time
STREAM = "stream-{:03}"
SEED = 5
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Delays:
    """Delays from the append of each measured chunk, in seconds. Infinite: not seen until the end of watching."""

    to_segment: list[float]  # until its pictures are in a segment on Kafka
    to_found: list[float]  # until the server answers with it, for all streams: by ListVideos
    to_words: list[float]  # until each utterance that ends in it is on Kafka
    to_final: list[float]  # until all of it is final on Kafka
    one_listed: list[float]  # for a single stream: by ListVideos
    one_asked: list[float]  # for the same stream: by SearchMoments


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """The result for a number of streams."""

    stream_count: int
    chunk_seconds: float  # median
    megabits: float  # megabits a second of all streams
    delays: Delays
    behind_seconds: float  # delay of the last third of to_found over the first third
    sending_behind_seconds: float  # most delay of a chunk behind its time of sending
    cores: Mapping[str, float]  # in use
    machine_cores: float  # in use by all processes of the machine
    peak_bytes: Mapping[str, int]
    worker: Mapping[str, float]  # from its metrics
    searchable_seconds: float  # mean of the server's histogram, for segments that are not final

    @property
    def keeps_up(self) -> bool:
        return self.behind_seconds <= BEHIND_SECONDS and not math.isinf(max(self.delays.to_found))


# ------------------------------------------------------------------ a number of streams
def measured(
    media: Sequence[Sequence[Cut]],
    count: int,
    seconds: float,
    config: KafkaConfig,
    folder: Path,
    others: Mapping[str, int],
) -> Level:
    rng = random.Random(SEED)
    streams = {}
    for n in range(count):
        mine = media[n % len(media)]
        # Streams of the same file start at different places in it.
        begin = (
            0 if n < len(media) else rng.randrange(sum(one.start_seconds < mine[-1].end_seconds / 4 for one in mine))
        )
        streams[STREAM.format(n)] = mine[begin:]
    create_topics(config)
    with both(config, folder) as (worker, server):
        processes = {"worker": worker.process.pid, "server": server.process.pid, **others}
        metrics = {"worker": worker.metrics, "server": server.metrics}
        sending = Sending(config, streams, [rng.uniform(0, min(SPREAD_SECONDS, count)) for _ in streams])
        with Watching(config, server, processes, metrics, asked_stream=STREAM.format(0)) as watching:
            sending.start()
            time.sleep(WARM_UP_SECONDS)
            begin_seconds = time.time()
            time.sleep(seconds)
            end_seconds = time.time()
            time.sleep(TAIL_SECONDS)
        sending.stop()
    return level_of(count, sending, watching, begin_seconds, end_seconds)


def level_of(count: int, sending: Sending, watching: Watching, begin: float, end: float) -> Level:
    appended = [one for one in sending.sent if one.delivery.append_seconds is not None]
    chunks = [one for one in appended if begin <= at(one) < end]
    delays = delays_of(chunks, appended, watching)
    samples = [one for one in watching.samples if begin <= one.at_seconds < end]
    opening, closing = samples[0], samples[-1]
    wall = closing.at_seconds - opening.at_seconds
    third = max(1, len(chunks) // 3)
    until = max(one.at_seconds for one in watching.listed)
    found = [min(delay, until - at(one)) for one, delay in zip(chunks, delays.to_found, strict=True)]
    return Level(
        stream_count=count,
        chunk_seconds=float(np.median([one.end_seconds - one.start_seconds for one in chunks])),
        megabits=sum(one.byte_count for one in chunks) * 8 / 1e6 / (end - begin),
        delays=delays,
        behind_seconds=float(np.median(found[-third:]) - np.median(found[:third])),
        sending_behind_seconds=sending.behind_seconds,
        cores={name: (closing.cpu_seconds[name] - used) / wall for name, used in opening.cpu_seconds.items()},
        machine_cores=(closing.machine[0] - opening.machine[0]) / wall,
        peak_bytes={name: max(one.resident_bytes[name] for one in samples) for name in opening.resident_bytes},
        worker=worker_of(samples),
        searchable_seconds=mean_of(opening.server, closing.server, "kinodex_chunk_to_searchable_seconds", "false"),
    )


def at(sent: Sent) -> float:
    return sent.delivery.append_seconds or 0.0


def delays_of(chunks: Sequence[Sent], appended: Sequence[Sent], watching: Watching) -> Delays:
    by_stream: dict[str, list[Published]] = {}
    for one in watching.published:
        by_stream.setdefault(one.stream_id, []).append(one)
    to_segment, to_found, to_final, one_listed, one_asked = [], [], [], [], []
    for chunk in chunks:
        mine, stream = by_stream.get(chunk.stream_id, []), chunk.stream_id
        # The times of records are the broker's, in milliseconds.
        covering = first(one for one in mine if one.newest_append_seconds >= at(chunk) - 0.0005)
        to_segment.append(covering.append_seconds - at(chunk) if covering else math.inf)
        listed = seen(watching.listed, stream, covering.end_seconds - 0.001) - at(chunk) if covering else math.inf
        to_found.append(listed)
        end = chunk.end_seconds - MEDIA_TOLERANCE_SECONDS
        final = first(one for one in mine if one.watermark_seconds >= end)
        to_final.append(final.append_seconds - at(chunk) if final else math.inf)
        if stream == watching.asked_stream and covering:
            one_listed.append(listed)
            one_asked.append(seen(watching.found, stream, covering.end_seconds - 0.001) - at(chunk))
    return Delays(
        to_segment=to_segment,
        to_found=to_found,
        to_words=list(words_of(chunks, by_stream)),
        to_final=to_final,
        one_listed=one_listed,
        one_asked=one_asked,
    )


def seen(looks: Iterable[Seen], stream: str, end_seconds: float) -> float:
    """Return when a stream was first found up to a media time, in seconds since 1970."""
    look = first(one for one in looks if one.end_seconds.get(stream, 0.0) >= end_seconds)
    return look.at_seconds if look else math.inf


def words_of(chunks: Sequence[Sent], by_stream: Mapping[str, Sequence[Published]]) -> Iterator[float]:
    """Yield for each utterance the delay from the append of the chunk in which it ends to the first segment with it."""
    for stream, records in by_stream.items():
        mine = [one for one in chunks if one.stream_id == stream]
        told = set[tuple[float, str]]()
        for record in records:
            for end, text in record.said:
                if (end, text) in told:
                    continue
                told.add((end, text))
                chunk = first(one for one in mine if one.start_seconds < end <= one.end_seconds)
                if chunk is not None:
                    yield record.append_seconds - at(chunk)


def first(items: Iterable[Item]) -> Item | None:
    return next(iter(items), None)


# ------------------------------------------------------------------ metrics
def mean_of(
    before: Mapping[tuple[str, str], float], after: Mapping[tuple[str, str], float], name: str, label: str = ""
) -> float:
    """Return the mean of a histogram between two readings; nan without values."""
    total, count = (after.get((f"{name}{end}", label), 0.0) - before.get((f"{name}{end}", label), 0.0)
                    for end in ("_sum", "_count"))  # fmt: skip
    return total / count if count else math.nan


def worker_of(samples: Sequence[Sample]) -> dict[str, float]:
    """Return the figures of the worker's metrics between two readings."""
    before, after = samples[0].worker, samples[-1].worker

    def values(name: str) -> list[float]:
        return [sum(value for (one, _), value in sample.worker.items() if one == name) for sample in samples]

    found = {}
    for stage in ("decode", "encode", "transcribe"):
        found[f"{stage} s"] = mean_of(before, after, "kinodex_worker_stage_seconds", stage)
    for stage in ("encode", "transcribe"):
        found[f"{stage} fill"] = mean_of(before, after, "kinodex_worker_batch_fill", stage)
    flying, lag = values("kinodex_worker_in_flight"), values("kinodex_worker_lag")
    found["in flight"], found["most in flight"] = float(np.mean(flying)), max(flying)
    found["paused"] = float(np.mean(values("kinodex_worker_paused")))
    found["lag"], found["most lag"] = float(np.mean(lag)), max(lag)
    return found


# ------------------------------------------------------------------ the report
def quantile(values: Sequence[float], share: float) -> str:
    """Format a quantile by nearest rank: an infinite delay counts only as late."""
    if not values:
        return "none"
    found = sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
    return "never" if math.isinf(found) else f"{found:.2f}"


def both_of(values: Sequence[float]) -> list[str]:
    """Format p50 and p95."""
    return [quantile(values, 0.5), quantile(values, 0.95)]


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    return [f"| {' | '.join(map(str, row))} |" for row in (head, ["---"] * len(head), *rows)]


def report(levels: Sequence[Level], seconds: float, load_before: float) -> str:
    kept = [level.stream_count for level in levels if level.keeps_up]
    lost = [level.stream_count for level in levels if not level.keeps_up]
    said = f"It kept up with {plural(max(kept), 'stream')}" if kept else "It kept up with none"
    said += f", and not with {min(lost)}." if lost else "; more were not tried."
    lines = f"""# From a chunk to a findable moment

`{command()}`, {date.today()}, {machine()}; commit {commit()}.
Load average before it began: {load_before:.1f}. One worker, one server, models mini and Whisper tiny.en. Each number of
streams: {WARM_UP_SECONDS:.0f} s to warm up, {seconds:.0f} s measured, {TAIL_SECONDS:.0f} s more, to become final.

**{said}**
Keeping up: every chunk was found, and the last third of them at most {BEHIND_SECONDS:g} s later (median) than the
first. Beyond, streams fall behind ever more: what they wait there depends on how long one looks.

Seconds from the append of a chunk (when its last picture has been played) until its pictures are in a segment on Kafka;
until the server's answers cover them; from the append of the chunk in which an utterance ends until that is in a
segment; until all of the chunk is final, for which its windows of 16 s must be over. *Later*: the last third than the
first.
""".splitlines()
    head = ["streams", "chunks", "chunk s", "Mbit/s", "segment p50", "p95", "found p50", "p95", "utterances", "p50"]
    rows = [
        [
            level.stream_count, len(level.delays.to_found), f"{level.chunk_seconds:.1f}", f"{level.megabits:.1f}",
            *both_of(level.delays.to_segment), *both_of(level.delays.to_found), len(level.delays.to_words),
            *both_of(level.delays.to_words), *both_of(level.delays.to_final), f"{level.behind_seconds:+.1f}",
            "yes" if level.keeps_up else "**no**",
        ]
        for level in levels
    ]  # fmt: skip
    lines += ["", *table([*head, "p95", "final p50", "p95", "later", "keeps up"], rows), ""]
    return "\n".join([*lines, *cost_lines(levels), *agreement_lines(levels), ""])


def cost_lines(levels: Sequence[Level]) -> list[str]:
    names = list(levels[0].cores)
    rows = [
        [
            level.stream_count, *(f"{level.cores[name]:.2f}" for name in names), f"{level.machine_cores:.2f}",
            *(f"{level.peak_bytes[name] / 2**20:.0f}" for name in names), f"{level.sending_behind_seconds:.2f}",
        ]
        for level in levels
    ]  # fmt: skip
    told = [[level.stream_count, *(f"{value:.2f}" for value in level.worker.values())] for level in levels]
    return [
        "Cores in use, *machine*: by what is not ours too; the most resident MiB, children counted whole; how late the",
        "latest chunk was sent.",
        "",
        *table(["streams", *names, "machine", *(f"{name} MiB" for name in names), "sent late s"], rows),
        "",
        "The worker's metrics: mean seconds of a chunk's decoding and of a batch; how full batches are; chunks in",
        "flight; the share of looks at which it took no more records; records that wait.",
        "",
        *table(["streams", *levels[0].worker], told),
        "",
    ]


def agreement_lines(levels: Sequence[Level]) -> list[str]:
    rows = [
        [
            level.stream_count, *both_of(level.delays.one_listed), *both_of(level.delays.one_asked),
            f"{np.mean(level.delays.to_found):.2f}", f"{level.searchable_seconds:.2f}",
        ]
        for level in levels
    ]  # fmt: skip
    head = ["streams", "listed p50", "p95", "asked p50", "p95", "listed mean", "histogram mean"]
    return [
        "Three ways to see when chunks are found. Of the first stream: its length by ListVideos, which the table above",
        "is of, and the latest moment that SearchMoments answers with, both asked ten times a second. Of all: the mean",
        "of that, and of the server's own kinodex_chunk_to_searchable_seconds.",
        "",
        *table(head, rows),
    ]


# ------------------------------------------------------------------ the numbers of streams
def next_count(levels: Sequence[Level]) -> int | None:
    """Return the next number of streams to try: more until they are too many, then between. None: known well enough."""
    kept = max((level.stream_count for level in levels if level.keeps_up), default=0)
    lost = min((level.stream_count for level in levels if not level.keeps_up), default=None)
    if lost is None:
        return kept + max(1, kept // 2)
    return (kept + lost) // 2 if lost - kept > max(1, kept // 8) else None


def levels_of(args: argparse.Namespace, broker: Broker, folder: Path) -> Iterator[Level]:
    """Measure the given numbers of streams, then others."""
    assert broker.pid is not None
    seconds = WARM_UP_SECONDS + args.seconds + TAIL_SECONDS + 15.0  # 15: some streams start slowly
    files = FILES if max(args.streams) > 1 or args.ramp else FILES[:1]
    media = [cut(VIDEOS / file, folder, seconds * 4 / 3) for file in files]
    wanted, done = list(args.streams), list[Level]()
    while wanted or len(done) < len(args.streams) + args.ramp:
        count = wanted.pop(0) if wanted else next_count(done)
        if count is None:
            return
        print(f"{plural(count, 'stream')}: {WARM_UP_SECONDS + args.seconds + TAIL_SECONDS:.0f} s", file=sys.stderr)
        mine = folder / f"{count}"
        mine.mkdir()
        config = KafkaConfig(
            servers=(broker.servers,), topic_prefix=f"live-{count}", partition_count=8, replication_factor=1
        )
        done.append(measured(media, count, args.seconds, config, mine, {"kafka": broker.pid}))
        yield done[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--ramp", type=int, default=5, metavar="N", help="most further numbers of streams to try")
    parser.add_argument("--seconds", type=float, default=60.0, help="measured seconds for each number of streams")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "live.md")
    args = parser.parse_args()
    if not VIDEOS.is_dir():
        sys.exit(f"live.py sends real videos, and there are none in {VIDEOS}")
    load_before, levels = os.getloadavg()[0], list[Level]()
    with tempfile.TemporaryDirectory(prefix="kinodex-live-") as name:
        broker = Broker(Path(name) / "kafka")
        broker.start()
        try:
            for level in levels_of(args, broker, Path(name)):
                levels = sorted([*levels, level], key=lambda one: one.stream_count)
                text = report(levels, args.seconds, load_before)
                args.out.parent.mkdir(parents=True, exist_ok=True)
                args.out.write_text(text)  # after each number, so that the report stays if the next number fails
                print(text, flush=True)
        finally:
            broker.kill()


if __name__ == "__main__":
    main()
