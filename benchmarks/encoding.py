"""Encodes frames of many streams with the worker's batcher, against a bare open_clip loop with the same weights.

    python benchmarks/encoding.py [--model ViT-B-32] [--device cpu] [--frames N] [--out FILE.md] [--ratios FILE]

The weights are random: speed does not depend on them, and no hub is needed. The bare loop has a tensor of all pictures
in memory. It normalises and embeds them batch by batch, and scales the vectors to unit length. Its fastest batch size
and type count. The types include bfloat16, both by open_clip's precision="pure_bf16", weights included, and by
autocast. Our side is the code of `kinodex worker`: each stream brings the frames of a chunk of the shortest kind, as
many chunks are in flight as a worker allows, and encoders.batching.Batcher makes batches of the waiting frames.

The two sides take turns in rounds; the median counts. On the CPU the clock is the CPU time of the process divided by
its threads, which excludes other work on the machine. On a GPU (--device cuda) it is wall time.
"""

import argparse
import statistics
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from ratio import Ratio, add_ratios_option, write_ratios
from sampling import ROOT, command, machine
from torch.nn.functional import normalize

from encoders.batching import Batcher
from encoders.clip import OpenClipEncoder, load_open_clip
from encoders.config import SentenceConfig, VisualConfig
from encoders.mini import MiniEncoder
from encoders.sentence import SentenceEncoder
from ingest.config import PublishConfig
from serve.settings import Settings
from serve.worker.worker import PARTS_IN_FLIGHT

STREAM_COUNT = 16
GROUP_COUNT = round(
    PublishConfig().chunk_seconds
)  # frames of a chunk, one a second; most chunks are longer, to the next keyframe
BATCH_COUNTS = (8, 16, 32, 64)
TRIED_COUNT = 32  # least count of frames with which the ways of the bare loop are tried
NEAR = 0.8  # share of the best speed so far from which a way is tried again, so that noise does not decide
RESULTS = ROOT / "benchmarks" / "results" / "encoding.md"
Pixels = NDArray[np.uint8]


def seconds_of(work: Callable[[], object], device: str) -> float:
    if device.startswith("cuda"):
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        return time.perf_counter() - began
    began = time.process_time()
    work()
    return (time.process_time() - began) / torch.get_num_threads()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bare:
    """A way to run open_clip."""

    name: str
    model: Any
    dtype: torch.dtype  # dtype of the weights
    autocast: torch.dtype | None = None

    def embed(self, pictures: torch.Tensor, batch_count: int, device: str) -> None:
        """Embed uint8 (N, H, W, 3) as a user of open_clip does."""
        mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN, device=device).view(3, 1, 1)
        std = torch.tensor(open_clip.OPENAI_DATASET_STD, device=device).view(3, 1, 1)
        kind = device.partition(":")[0]
        typed = torch.autocast(kind, self.autocast) if self.autocast is not None else nullcontext()
        with torch.inference_mode(), typed:
            for start in range(0, len(pictures), batch_count):
                x = pictures[start : start + batch_count].to(device).permute(0, 3, 1, 2).float() / 255
                features = self.model.encode_image(((x - mean) / std).to(self.dtype))
                normalize(features.float(), dim=-1).cpu()


def ours(encoder: OpenClipEncoder | MiniEncoder, pixels: Pixels, sizes: list[int]) -> None:
    """Submit the frames of chunks from STREAM_COUNT threads: each waits for its last chunk, and for room.

    Room is for as many chunks as a worker has in flight on this machine.
    """
    batcher: Batcher[Any, Any] = Batcher(
        lambda frames: encoder.encode_frames(np.stack(frames)),
        max_count=VisualConfig().batch_count,
        name="encode",
        on_batch=lambda count, _: sizes.append(count),
        is_even=True,
    )

    room = threading.Semaphore(chunks_in_flight())

    def stream(mine: Pixels) -> None:
        waiting = threading.Semaphore(0)
        failed: list[Exception] = []

        def done(values: Sequence[Any] | Exception) -> None:
            if isinstance(values, Exception):
                failed.append(values)
            room.release()
            waiting.release()

        for start in range(0, len(mine), GROUP_COUNT):
            room.acquire()
            batcher.submit(list(mine[start : start + GROUP_COUNT]), done)
            waiting.acquire()
        if failed:
            raise failed[0]

    threads = [threading.Thread(target=stream, args=(pixels[n::STREAM_COUNT],)) for n in range(STREAM_COUNT)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    batcher.close()


def chunks_in_flight() -> int:
    """Return how many chunks a worker with default settings has in flight on this machine."""
    return PARTS_IN_FLIGHT * Settings().workers


def load(model: str, device: str) -> tuple[list[Bare], OpenClipEncoder]:
    """Make random weights: for open_clip, and as a file for our encoder."""
    torch.manual_seed(0)
    theirs = open_clip.create_model(model, pretrained=None, device="cpu")
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "weights.pt"
        torch.save(theirs.state_dict(), path)
        encoder = load_open_clip(f"{model}:{path}", VisualConfig(device=device))
    theirs = theirs.to(device).eval()
    pure = open_clip.create_model(model, pretrained=None, precision="pure_bf16", device=device).eval()
    ways = [
        Bare(name="bfloat16 weights", model=pure, dtype=torch.bfloat16),
        Bare(name="float32", model=theirs, dtype=torch.float32),
        Bare(name="bfloat16 by autocast", model=theirs, dtype=torch.float32, autocast=torch.bfloat16),
    ]
    return ways, encoder


def copied(encoder: OpenClipEncoder, pixels: Pixels) -> tuple[float, float]:
    """Return the cost of a batch beside its frames: the peak of NumPy's memory as a multiple of the frames' bytes, and
    the share of the batch's time that stacking the frames into an array takes.
    """
    frames = list(pixels)
    tracemalloc.start()
    encoder.encode_frames(np.stack(frames))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    begin = time.perf_counter()
    together = np.stack(frames)
    stacked = time.perf_counter()
    encoder.encode_frames(together)
    return peak / pixels.nbytes, (stacked - begin) / (time.perf_counter() - begin)


def best_bare(ways: Sequence[Bare], pictures: torch.Tensor, device: str) -> tuple[dict[str, float], Bare, int]:
    """Try every way and batch size on some frames after a warm-up, and those near the best twice."""
    speeds = {}
    best, choice = 0.0, (ways[0], BATCH_COUNTS[0])
    for way in ways:
        way.embed(pictures[:8], 8, device)
        for count in BATCH_COUNTS:
            part = pictures[: max(count, TRIED_COUNT)]
            work = partial(way.embed, part, count, device)
            speed = len(part) / seconds_of(work, device)
            if speed > NEAR * best:
                speed = max(speed, len(part) / seconds_of(work, device))
            speeds[f"{way.name}, batches of {count}"] = speed
            if speed > best:
                best, choice = speed, (way, count)
    return speeds, *choice


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default="ViT-B-32", help="model of open_clip with OpenAI's normalisation (default: ViT-B-32)"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--frames", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="64 frames, two rounds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="FILE.md (default: benchmarks/results/encoding.md; with --quick none)")
    add_ratios_option(parser)
    args = parser.parse_args()
    if args.quick:
        args.frames, args.repeats = 64, 2
    out = args.out or (None if args.quick else RESULTS)
    torch.set_num_threads(args.threads)
    ways, encoder = load(args.model, args.device)
    shape = (args.frames, encoder.input_height, encoder.input_width, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    pictures = torch.from_numpy(pixels)
    tried, way, batch_count = best_bare(ways, pictures, args.device)
    sizes: list[int] = []
    ours(encoder, pixels[:STREAM_COUNT], [])
    mine, theirs = [], []
    for _ in range(args.repeats):
        mine.append(len(pixels) / seconds_of(lambda: ours(encoder, pixels, sizes), args.device))
        run = seconds_of(lambda: way.embed(pictures, batch_count, args.device), args.device)
        theirs.append(len(pixels) / run)
    mini = MiniEncoder.load(VisualConfig(device=args.device), SentenceEncoder.load(SentenceConfig()))
    small = np.ascontiguousarray(pixels[:, : mini.input_height, : mini.input_width])
    ours(mini, small[:STREAM_COUNT], [])
    mini_speed = len(small) / seconds_of(lambda: ours(mini, small, []), args.device)
    used = str(encoder._dtype).removeprefix("torch.")
    ours_count = statistics.mean(sizes)
    unit = "second" if args.device.startswith("cuda") else "second of all threads' CPU time"
    ratio = Ratio(
        name=f"encoding: {args.model}, {STREAM_COUNT} streams",
        ours=statistics.median(mine),
        reference=statistics.median(theirs),
        unit=f"frames a {unit}",
        against="a bare open_clip loop at its best batch size and type",
        target=">= 0.95",
        bounded_by=f"Ours runs {used} in batches of {ours_count:.0f}, of the {chunks_in_flight()} chunks that a worker"
        f" here has in flight; the bare loop {way.name} in batches of {batch_count}.",
    )
    memory, share = copied(encoder, pixels[:32])
    lines = [
        "# Encoding: frames of many streams",
        "",
        f"`{command()}`, {date.today()}, {machine()}.",
        f"torch {torch.__version__}, {args.threads} threads, {args.device};"
        f" {args.model} with random weights; {len(pixels)} frames, {STREAM_COUNT} streams that bring {GROUP_COUNT} at a"
        f" time, {chunks_in_flight()} such chunks in flight; median of {args.repeats}, taking turns.",
        "",
        f"| | frames a {unit} | ours over it |",
        "| --- | --- | --- |",
        f"| ours, {used}, batches of {ours_count:.0f} on average | {ratio.ours:.1f} | |",
        f"| bare open_clip, {way.name}, batches of {batch_count} | {ratio.reference:.1f} | {ratio.ratio:.2f} |",
        f"| mini, the same way | {mini_speed:.0f} | |",
        "",
        "The bare loop's types and batch sizes, those near the best tried twice: "
        + "; ".join(f"{name}: {speed:.1f}" for name, speed in tried.items())
        + f" frames a {unit}.",
        f"NumPy memory of a batch beside the frames: {memory:.2f} times their bytes, the stack that makes one array of",
        f"them, in {share:.2%} of the batch's time; torch reads that in place, and makes floats of it once. No frame",
        "is copied on its own.",
        "",
    ]
    print("\n".join(lines))
    if out is not None:
        out.write_text("\n".join(lines))
    write_ratios(args.ratios, [ratio])


if __name__ == "__main__":
    main()
