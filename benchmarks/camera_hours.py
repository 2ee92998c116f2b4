"""Measures a new question over many hours of cameras where their frame vectors do not fit into the frame cache.

    python benchmarks/camera_hours.py [--cameras N] [--hours N] [--share X] [--quick] [--ratios FILE]

No media is decoded: the vectors of pictures are synthetic, a random walk shot by shot, and stored as a server stores
live segments. One library answers with a cache of --share of the vectors, another with a cache of all; the questions
alternate, and each is new. The first ones, which fill the caches, are not counted.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from ratio import Ratio, add_ratios_option, write_ratios
from serving_data import MEDIA, SEED, unit

from encoders.config import VisualConfig
from encoders.values import FrameEmbeddings
from serve import encoder_set
from serve.catalog.catalog import Catalog
from serve.codec.records import SegmentRecord
from serve.indexing import pipeline
from serve.live.live_rows import LiveRows
from serve.search.library import Library
from serve.settings import Settings
from serve.values import Query
from temporal.values import Segment, TimeSpan

STRIDE, BATCH_COUNT = 8, 512  # seconds from segment to segment; segments that are stored at once
WARM_COUNT, QUESTION_COUNT = 3, 7


def records(camera: str, hours: int, width: int, fingerprint: str) -> Iterator[SegmentRecord]:
    """Yield the final segments of one camera, with a picture a second."""
    rng = np.random.default_rng((SEED, 11, *camera.encode()))
    shown = unit(rng.standard_normal(width).astype(np.float32))
    started = time.time() - 3600 * hours
    count = 3600 * hours // STRIDE
    for index in range(count):
        start, vectors = float(STRIDE * index), []
        for _ in range(STRIDE):
            step = unit(rng.standard_normal(width).astype(np.float32))
            shown = unit(shown + (1.0 if rng.random() < 0.05 else 0.1) * step)
            vectors.append(shown)
        end, is_last = start + STRIDE, index == count - 1
        frames = FrameEmbeddings(
            epochs=np.zeros(STRIDE, np.int32), pts_seconds=start + np.arange(STRIDE, dtype=float),
            vectors=np.stack(vectors),
        )  # fmt: skip
        segment = Segment(
            segment_id=f"{camera}/0/{index}", epoch=0, index=index,
            span=TimeSpan(start_seconds=start, end_seconds=end), vector=unit(frames.vectors.sum(axis=0)),
        )  # fmt: skip
        yield SegmentRecord(
            segment=segment, collection="default", video_id=camera, revision=1, is_final=True, frames=frames,
            thumbnails=(b"",) * STRIDE, utterances=(), utterance_vectors=np.zeros((0, 0), np.float32),
            continued_count=0, fingerprint=fingerprint, watermark_seconds=end, source_append_time=started + start,
            newest_append_time=started + end, recorded_time=started + start, gaps=(), uri="",
            media=replace(MEDIA, container="live"), is_last=is_last,
        )  # fmt: skip


def store(directory: Path, cameras: int, hours: int) -> int:
    """Store the cameras; return the bytes of their frame vectors."""
    settings = replace(Settings(), visual=VisualConfig(model="mini"))
    with Catalog.open_writer(directory) as catalog:
        _, encoders = encoder_set.load_for_indexing(settings, catalog.space())
        pipeline.claim_space(catalog, directory, encoders)
    assert encoders.visual is not None
    width = encoders.visual.encode_texts(["a"]).shape[1]
    with Catalog.open_editor(directory) as editor:
        rows, batch = LiveRows(editor, encoders.space.fingerprint), list[SegmentRecord]()
        for number in range(cameras):
            for record in records(f"camera{number}", hours, width, encoders.space.fingerprint):
                batch.append(record)
                if len(batch) == BATCH_COUNT:
                    rows.apply(batch, {})
                    batch.clear()
        rows.apply(batch, {})
    return cameras * hours * 3600 * width * 2


def ask(library: Library, number: int) -> float:
    began = time.perf_counter()
    library.moments(Query(text=f"a red car with number {number}", limit=10))
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cameras", type=int, default=10)
    parser.add_argument("--hours", type=int, default=24)
    parser.add_argument("--share", type=float, default=0.8, help="size of the small cache, as a share of the vectors")
    parser.add_argument("--quick", action="store_true", help="two hours of each camera")
    add_ratios_option(parser)
    args = parser.parse_args()
    hours = 2 if args.quick else args.hours
    with tempfile.TemporaryDirectory() as folder:
        size = store(Path(folder), args.cameras, hours)
        print(f"{args.cameras * hours} camera-hours, {size / 2**20:.0f} MiB of frame vectors", flush=True)
        small, large = (
            replace(Settings(), server=replace(Settings().server, frame_cache_bytes=int(share * size)))
            for share in (args.share, 4.0)
        )
        times: dict[str, list[float]] = {"small": [], "large": []}
        with Library.open(Path(folder), small) as first, Library.open(Path(folder), large) as second:
            for number in range(WARM_COUNT + QUESTION_COUNT):
                for name, library in (("small", first), ("large", second)):
                    spent = ask(library, number)
                    print(f"{name}: {1000 * spent:.0f} ms", flush=True)
                    if number >= WARM_COUNT:
                        times[name].append(1000 * spent)
    ratio = Ratio(
        name=f"a question over {args.cameras * hours} camera-hours, with a frame cache of {args.share:.0%}",
        ours=statistics.median(times["small"]), reference=statistics.median(times["large"]), unit="ms",
        against="with a cache of all", target="<= 3",
        bounded_by="Reading from the catalog what the cache does not hold.",
    )  # fmt: skip
    print(ratio)
    write_ratios(args.ratios, [ratio])


if __name__ == "__main__":
    main()
