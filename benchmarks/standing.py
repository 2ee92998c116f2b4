"""Measures what standing queries cost: 10,000 of them on four live streams.

    python -m benchmarks.standing LIB [--seconds 120]

LIB is a data directory with videos. Their pictures become four streams of a picture a second. Each second all four
streams get their next picture, the engine is refreshed, and the standing queries are matched. The queries are the
vectors of arbitrary captions with noise, so that some of them open moments. The reference is the bare matrix product of
the same pictures and queries in NumPy, a call for each batch. The table goes to benchmarks/results/standing.md.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoders.values import FrameEmbeddings
from ingest.values import MediaInfo
from serve.catalog.catalog import Catalog
from serve.codec.records import SegmentRecord
from serve.live.live_rows import LiveRows
from serve.moderation.standing import StandingQuery, Watcher
from serve.search.engine import Engine
from serve.search.evidence import VisualQuery
from serve.search.library import Library
from serve.search.target import Target
from serve.settings import load_settings
from serve.values import MomentChange, Query, Thresholds
from temporal.values import Segment, TimeSpan

RESULTS = Path(__file__).parent / "results" / "standing.md"
STREAMS = ("a", "b", "c", "d")
COUNTS = (0, 1, 100, 1_000, 10_000)
STRIDE, LENGTH = 8, 16  # seconds from segment to segment; length of a segment
THRESHOLDS = Thresholds(enter=0.1, leave=0.07)  # low, so that as many moments open as queries are there
NOISE = 0.6  # length of the noise in a query's vector, beside the caption's vector of length 1
MEDIA = MediaInfo(
    container="mpegts", duration_seconds=None, video_codec="h264", audio_codec=None, width=640, height=360,
    rotation_degrees=0, frame_rate_fps=25.0,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The cost of a number of queries."""

    count: int
    follow_ms: float  # mean for a frame: all the work of the standing queries
    follow_p99_ms: float  # 99th percentile for a second of all four streams
    product_ms: float  # for a frame: the bare matrix product
    change_count: int  # changes delivered


def segment(name: str, index: int, vectors: NDArray[np.float32], fingerprint: str, width: int) -> SegmentRecord:
    """Make the segment with the newest picture of a stream, as a worker publishes it."""
    start, end = STRIDE * index, len(vectors)
    mine = vectors[start:end]
    mean = mine.mean(axis=0)
    return SegmentRecord(
        segment=Segment(
            segment_id=f"{name}/0/{index}", epoch=0, index=index,
            span=TimeSpan(start_seconds=float(start), end_seconds=float(end)), vector=mean / np.linalg.norm(mean),
        ),
        collection="default", video_id=name, revision=len(mine), is_final=False,
        frames=FrameEmbeddings(
            epochs=np.zeros(len(mine), np.int32), pts_seconds=np.arange(start, end, dtype=np.float64), vectors=mine
        ),
        thumbnails=(b"",) * (len(mine) - (STRIDE if index else 0)) if len(mine) > (STRIDE if index else 0) else (),
        utterances=(), utterance_vectors=np.zeros((0, width), np.float32), continued_count=0, fingerprint=fingerprint,
        watermark_seconds=float(start), source_append_time=float(start), newest_append_time=float(end),
        recorded_time=None, media=MEDIA,
    )  # fmt: skip


def queries(engine: Engine, count: int, changes: list[MomentChange]) -> list[StandingQuery]:
    """Make standing queries for pictures."""
    assert engine.visual is not None
    bank, rng = engine.visual.bank, np.random.default_rng(1)
    made = []
    for n in range(count):
        noise = rng.standard_normal(bank.shape[1])
        vector = bank[n % len(bank)] + NOISE * noise / np.linalg.norm(noise)
        seen = VisualQuery.of_text((vector / np.linalg.norm(vector)).astype(np.float32))
        target = Target(visual=seen, speech=None)
        made.append(StandingQuery(query=Query(text="x"), target=target, thresholds=THRESHOLDS, deliver=changes.append))
    return made


def measured(folder: Path, source: Library, count: int, seconds: int) -> Row:
    """Run four streams for some seconds of media, as fast as possible."""
    with Catalog.open_writer(folder) as writer:
        space = source.catalog.space()
        assert space is not None
        writer.set_space(space)
    vectors = pictures(source)
    told: list[MomentChange] = []
    catalog = Catalog.open_reader(folder)
    with Library(folder, source.settings, catalog) as library, Catalog.open_editor(folder) as editor:
        library.encoders = source.encoders
        engine, rows = library.engine, LiveRows(editor, source.engine.fingerprint)
        watcher = Watcher(engine)
        watcher.follow()
        for one in queries(engine, count, told):
            watcher.add(one)
        width, took = source.engine.sentences.encode(["x"]).shape[1], []
        for second in range(1, seconds + 1):
            index = max(0, (second - 1) // STRIDE - (1 if second > STRIDE else 0))
            seen = [(name, vectors[n][:second]) for n, name in enumerate(STREAMS)]
            rows.apply([segment(name, index, so_far, engine.fingerprint, width) for name, so_far in seen], {})
            engine.refresh()
            started = time.perf_counter()
            watcher.follow()
            took.append(time.perf_counter() - started)
        prompts = watcher.texts
    started = time.perf_counter()
    for second in range(seconds):
        for n in range(len(STREAMS)):
            vectors[n][second : second + 1] @ prompts.T
    product = time.perf_counter() - started
    frame_count = seconds * len(STREAMS)
    return Row(
        count=count,
        follow_ms=1000 * sum(took) / frame_count,
        follow_p99_ms=1000 * float(np.quantile(took, 0.99)),
        product_ms=1000 * product / frame_count,
        change_count=len(told),
    )


def pictures(library: Library) -> list[NDArray[np.float32]]:
    """Return the vectors of all pictures, distributed over the streams."""
    found = [library.catalog.frames(video.row).vectors for video in library.videos() if video.frame_count]
    return [np.ascontiguousarray(part) for part in np.array_split(np.concatenate(found), len(STREAMS))]


def table(rows: Sequence[Row], seconds: int) -> str:
    lines = [
        "| standing queries | added, a frame | a second of 4 streams, p99 | bare product, a frame | ratio | told |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        ratio = f"{row.follow_ms / row.product_ms:.1f}" if row.count else ""
        product = f"{row.product_ms:.3f} ms" if row.count else ""
        lines.append(
            f"| {row.count:,} | {row.follow_ms:.3f} ms | {row.follow_p99_ms:.1f} ms | {product} | {ratio} |"
            f" {row.change_count:,} |"
        )
    machine = f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}, {time.strftime('%Y-%m-%d')}"
    return "\n".join(
        [
            "# Standing queries",
            "",
            f"`python -m benchmarks.standing LIB`: {len(STREAMS)} streams, {seconds} s each; {machine}.",
            "",
            *lines,
            "",
            "Added is all that standing queries do with a frame: reading it, the product, the confidences,",
            "thresholds, telling. Its decoding and encoding are the worker's.",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", type=Path)
    parser.add_argument("--seconds", type=int, default=120)
    given = parser.parse_args()
    rows = []
    with Library.open(given.library, load_settings(given.library)) as source:
        source.engine.refresh()
        for count in COUNTS:
            with tempfile.TemporaryDirectory() as folder:
                rows.append(measured(Path(folder) / "data", source, count, given.seconds))
            print(json.dumps({"queries": rows[-1].count, "follow_ms": rows[-1].follow_ms}), flush=True)
    RESULTS.write_text(table(rows, given.seconds), encoding="utf-8")
    print(RESULTS.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
