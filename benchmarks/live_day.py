"""Measures whether each hour of a live day costs the same: memory, and CPU time for a chunk, of a camera for 24 hours.

    python benchmarks/live_day.py [--hours N] [--retention TEXT] [--out FILE.md] [--ratios FILE]

No media is decoded. Vectors of pictures, JPEGs of 8 kB and utterances are synthetic: a chunk of 4 s at a time, as fast
as they are consumed. The worker's part (temporal.window.WindowCutter) cuts them into segments. The server's part
(serve.live.live_rows.LiveRows and the engine) stores and indexes the segments and, with retention, prunes them. All
runs in one process, with a question every hour.
"""

import argparse
import gc
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from ratio import Ratio, add_ratios_option, write_ratios
from sampling import command, machine
from serving import commit
from serving_data import MEDIA, SEED, unit
from serving_load import status_of

from encoders.config import VisualConfig
from encoders.values import Utterance, Word
from serve import encoder_set
from serve.catalog.catalog import Catalog
from serve.codec.records import SegmentRecord
from serve.config import Retention, parse_retention
from serve.indexing import pipeline
from serve.live.live_rows import LiveRows
from serve.search.library import Library
from serve.settings import Settings
from serve.values import Query
from temporal.config import WindowConfig
from temporal.fusion.fusion import MeanPooling
from temporal.window import CutSegment, EncodedFrame, EncodedUtterance, WindowCutter

CHUNK_SECONDS, APPLIED_CHUNKS = 4, 8  # seconds of a chunk; chunks that a server applies at once
UTTERANCE_SECONDS, THUMBNAIL_BYTES = 10, 8_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Hour:
    """The cost of an hour of the camera."""

    number: int
    resident_bytes: int
    held: int  # pictures and utterances that the worker holds
    segment_count: int  # segments in the catalog
    cpu_ms: float  # CPU milliseconds for a chunk, worker and server together
    question_ms: float


class Camera:
    """The pictures and speech of a camera. Pictures are a random walk on the unit sphere, shot by shot."""

    def __init__(self, width: int, spoken_width: int) -> None:
        self.rng = np.random.default_rng((SEED, 10))
        self.shown, self.width, self.spoken_width = self.vector(width), width, spoken_width

    def vector(self, width: int) -> NDArray[np.float32]:
        return unit(self.rng.standard_normal(width).astype(np.float32))

    def frames(self, start: int) -> list[EncodedFrame]:
        found = []
        for second in range(start, start + CHUNK_SECONDS):
            self.shown = unit(self.shown + (1.0 if self.rng.random() < 0.05 else 0.1) * self.vector(self.width))
            jpeg = self.rng.bytes(THUMBNAIL_BYTES)
            found.append(EncodedFrame(pts_seconds=float(second), vector=self.shown, thumbnail=jpeg))
        return found

    def said(self, start: int) -> list[EncodedUtterance]:
        if start % UTTERANCE_SECONDS >= CHUNK_SECONDS:
            return []
        words = tuple(
            Word(text=f"word{n}", start_seconds=start + n / 4, end_seconds=start + n / 4 + 0.2, probability=0.9)
            for n in self.rng.integers(0, 8, 6).tolist()
        )
        words = tuple(sorted(words, key=lambda word: word.start_seconds))
        utterance = Utterance(
            epoch=0, start_seconds=float(start), end_seconds=start + 3.0, text=" ".join(word.text for word in words),
            words=words, language="en", avg_logprob=-0.3, no_speech_prob=0.1,
        )  # fmt: skip
        return [EncodedUtterance(utterance=utterance, vector=self.vector(self.spoken_width))]


def record_of(live: CutSegment, windows: WindowCutter, fingerprint: str, started: float) -> SegmentRecord:
    """Make the record of a segment that a server receives, as serve.worker.video_flow does."""
    span, vectors = live.segment.span, [one.vector for one in live.spoken]
    return SegmentRecord(
        segment=live.segment, collection="default", video_id="camera", revision=live.revision, is_final=live.is_final,
        frames=live.frames, thumbnails=live.thumbnails, utterances=tuple(one.utterance for one in live.spoken),
        utterance_vectors=np.stack(vectors) if vectors else np.zeros((0, 0), np.float32),
        continued_count=live.continued_count, fingerprint=fingerprint,
        watermark_seconds=max(windows.watermark_seconds, span.end_seconds if live.is_final else 0.0),
        source_append_time=started + span.start_seconds, newest_append_time=started + span.end_seconds,
        recorded_time=started + span.start_seconds, gaps=(), uri="", media=replace(MEDIA, container="live"),
        is_last=live.is_last,
    )  # fmt: skip


def run(directory: Path, hours: int, kept: Retention) -> list[Hour]:
    settings = replace(Settings(), visual=VisualConfig(model="mini"))
    with Catalog.open_writer(directory) as catalog:
        _, encoders = encoder_set.load_for_indexing(settings, catalog.space())
        pipeline.claim_space(catalog, directory, encoders)
    fingerprint, found = encoders.space.fingerprint, []
    assert encoders.visual is not None
    width = encoders.visual.encode_texts(["a"]).shape[1]
    camera = Camera(width, encoders.sentence.encode(["a"]).shape[1])
    windows, started = WindowCutter("camera", WindowConfig(), MeanPooling()), time.time() - 3600 * hours
    with Library.open(directory, settings) as library, Catalog.open_editor(directory) as editor:
        rows, records = LiveRows(editor, fingerprint), list[SegmentRecord]()
        for hour in range(1, hours + 1):
            before = time.process_time()
            for at in range(3600 * (hour - 1), 3600 * hour, CHUNK_SECONDS):
                end = float(at + CHUNK_SECONDS)
                windows.add_frames(0, camera.frames(at), start_seconds=0.0, end_seconds=end, whole_seconds=end)
                windows.add_utterances(camera.said(at))
                heard = (0, max(0.0, end - 8))  # words are transcribed 8 s after they are spoken
                records += [record_of(one, windows, fingerprint, started) for one in windows.segments(heard)]
                if at // CHUNK_SECONDS % APPLIED_CHUNKS == APPLIED_CHUNKS - 1:
                    rows.apply(records, {})
                    rows.prune(kept, started + end, 1000)
                    records.clear()
                    library.engine.refresh()
            spent = time.process_time() - before
            asked = time.thread_time()
            library.moments(Query(text=f"a red car {hour}", limit=10))
            asked = time.thread_time() - asked
            gc.collect()
            ((count,),) = editor.select("SELECT count(*) FROM segments")
            held = sum(len(epoch.frames) + len(epoch.spoken) for epoch in windows._epochs)
            found.append(
                Hour(number=hour, resident_bytes=status_of(os.getpid())["rss"], held=held, segment_count=int(count),
                     cpu_ms=1000 * spent / (3600 / CHUNK_SECONDS), question_ms=1000 * asked)
            )  # fmt: skip
            print(found[-1], flush=True)
    return found


def report(found: Sequence[Hour], retention: str) -> str:
    return "\n".join(
        [
            "# A live day", "",
            f"`{command()}`, {date.today()}, {machine()}; commit {commit()}; retention {retention}.", "",
            "| hour | resident MiB | held by the worker | segments in the catalog | CPU ms a chunk | question, ms |",
            "| --- | --- | --- | --- | --- | --- |",
            *(
                f"| {one.number} | {one.resident_bytes / 2**20:.0f} | {one.held} | {one.segment_count:,} |"
                f" {one.cpu_ms:.1f} | {one.question_ms:.0f} |"
                for one in found
            ),
            "",
        ]
    )  # fmt: skip


def ratios_of(found: Sequence[Hour]) -> list[Ratio]:
    first, last = found[min(7, len(found) - 1)], found[-1]  # from the eighth hour on, old rows are pruned
    return [
        Ratio(
            name=f"live day: memory after {last.number} hours", ours=last.resident_bytes / 2**20,
            reference=first.resident_bytes / 2**20, unit="MiB", against=f"after {first.number} hours", target="<= 1.1",
            bounded_by="Vectors of what is kept, and SQLite's and the allocator's caches.",
        ),
        Ratio(
            name=f"live day: a chunk in hour {last.number}", ours=last.cpu_ms, reference=first.cpu_ms, unit="CPU ms",
            against=f"in hour {first.number}", target="<= 1.1",
            bounded_by="Storing the chunk's revisions of its segments; nothing is read that did not change.",
        ),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=int, default=24)
    parser.add_argument("--quick", action="store_true", help="half a day")
    parser.add_argument("--retention", default="default=6h", help="as server.retention; '': no pruning")
    parser.add_argument("--out", type=Path, metavar="FILE.md")
    add_ratios_option(parser)
    args = parser.parse_args()
    kept = parse_retention([args.retention] if args.retention else [])
    with tempfile.TemporaryDirectory() as folder:
        found = run(Path(folder), 12 if args.quick else args.hours, kept)
    text = report(found, args.retention or "none")
    print(text)
    write_ratios(args.ratios, ratios_of(found))
    if args.out is not None:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
