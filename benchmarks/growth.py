"""Measures the index as it grows: build, add, delete, search, recall against exact search, memory, and files.

    python benchmarks/growth.py [--sizes N...] [--quick] [--out FILE.md] [--ratios FILE]

The index is serve.index.faiss_index.VectorIndex, over synthetic segments with the statistics of real ones, as in
serving_data.py: a hundred in a video, similar within a video, far from every text. The queries are texts that the
built-in encoder encodes. All runs on one thread. --sizes 10000000 takes ten minutes and 10 GB; --quick stops at
100,000. Beside the index, other ways to store the same vectors are measured on --storage segments: the reason why a
sealed shard is stored as it is.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import faiss
import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray
from ratio import Ratio, add_ratios_option, write_ratios
from sampling import command, machine
from serving import commit
from serving_data import CAPTION_COUNT, SEED, SHOT_SHARES, caption, distinct, new_questions, question, unit

from encoders.clip import load_visual
from encoders.config import VisualConfig
from serve.catalog.reader import RowState
from serve.index.changes import VectorRows
from serve.index.faiss_index import VectorIndex
from serve.index.shard import make_tail, seal
from serve.search.visual import encode_text

SIZES, QUICK_SIZES = (10_000, 100_000, 1_000_000), (10_000, 100_000)
STORAGE_COUNT, QUICK_STORAGE_COUNT = 200_000, 50_000
EACH = 100  # segments of a video
SHOT_SEGMENTS = 2.5  # average length of a shot
QUERY_COUNT = 60
WALK_LEFT = 0.4  # share of the random walk of 16 frames that remains in their mean
COUNTS = (10, 512)  # rows asked for: as many as answers, and as many as the engine asks for


# ------------------------------------------------------------------ the data
class Made:
    """A stand-in for the catalog: videos whose segments follow from their row number."""

    directory = Path()

    def __init__(self, video_count: int, captions: NDArray[np.float32]) -> None:
        self.rows, self.captions, self.changes = set(range(1, video_count + 1)), captions, 0
        self.common = unit(np.random.default_rng((SEED, 1)).standard_normal(captions.shape[1]).astype(np.float32))

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        yield

    def identity(self) -> str:
        return "made"

    def generation(self) -> int:
        return self.changes

    def ready_count(self, fingerprint: str) -> int:
        return len(self.rows)

    def changed_rows(self, fingerprint: str, since: int = -1) -> dict[int, RowState]:
        return {row: RowState(indexed_time=1.0, is_live=False, version=0) for row in self.rows}

    def row_ids(self, kind: str, row: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the ids and vectors of the segments of a video."""
        rng, width = np.random.default_rng((SEED, 8, row)), self.captions.shape[1]
        own, shows = unit(rng.standard_normal(width, np.float32)), rng.choice(len(self.captions), 5)
        shot = np.cumsum(rng.random(EACH) < 1 / SHOT_SEGMENTS)
        shots = unit(rng.standard_normal((shot[-1] + 1, width), np.float32))
        seen = self.captions[rng.choice(shows, len(shots))]
        walk = unit(rng.standard_normal((EACH, width), np.float32))
        share = {name: np.float32(value) for name, value in SHOT_SHARES.items()}
        vectors = unit(
            (share["caption"] * seen + share["shot"] * shots)[shot]
            + share["pictures"] * self.common
            + share["video"] * own
            + WALK_LEFT * share["walk"] * walk
        )
        return row * EACH + np.arange(EACH), vectors

    def add(self) -> None:
        self.rows.add(max(self.rows) + 1)
        self.changes += 1

    def remove(self) -> None:
        self.rows.remove(min(self.rows))
        self.changes += 1


def texts() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return vectors (N, D): of captions, which the videos show, and of questions."""
    encoder, _ = load_visual(VisualConfig(model="mini"))
    assert encoder is not None
    templates = encoder.calibration.templates
    asked = [*distinct(question, QUERY_COUNT // 2, (SEED, 9)), *new_questions(QUERY_COUNT // 2, 9)]
    captions = encoder.encode_texts(distinct(caption, CAPTION_COUNT, (SEED, 2)))
    return captions, np.stack([encode_text(encoder.encode_texts, templates, text) for text in asked])


# ------------------------------------------------------------------ measuring
def timed(work: Callable[[], Any]) -> float:
    """Return the CPU seconds of this thread. The measured work starts no other thread."""
    started = time.thread_time()
    work()
    return time.thread_time() - started


def each(queries: NDArray[np.float32], search: Callable[[NDArray[np.float32]], Any]) -> tuple[float, list[Any]]:
    """Ask the queries one by one. Return the median milliseconds and the ids of the results."""
    taken, found = [], []
    for query in queries:
        started = time.thread_time()
        ids = search(query[None])
        taken.append(time.thread_time() - started)
        found.append(ids[0])
    return 1000 * float(np.median(taken)), found


def recall(found: Sequence[NDArray[np.int64]], true: Sequence[NDArray[np.int64]], k: int) -> float:
    return float(
        np.mean([len(set(a[:k].tolist()) & set(b[:k].tolist())) / k for a, b in zip(found, true, strict=True)])
    )


def held_bytes(index: VectorIndex) -> int:
    """Return the bytes of the vectors of an index and of the data about them."""
    size = 0
    for shard in index._shards():
        size += sum(len(faiss.serialize_index(part)) for part in (shard.vectors, shard.quantised) if part is not None)
        size += shard.ids.nbytes + shard.owners.nbytes + shard.stamps.nbytes
    return size


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The figures of the index at a size."""

    count: int
    build_seconds: float
    bytes_a_row: float
    search_ms: dict[int, float]
    recall: dict[int, float]
    exact_ms: float
    add_ms: float
    delete_ms: float
    save_seconds: float
    load_seconds: float


def exact(index: VectorIndex, queries: NDArray[np.float32]) -> list[NDArray[np.int64]]:
    """Return the ids of the nearest vectors by exact search, best first."""
    scores, ids = [], []
    for shard in index._shards():
        found, places = shard.vectors.search(queries, max(COUNTS))
        scores.append(found)
        ids.append(shard.ids[places])
    order = np.argsort(-np.concatenate(scores, axis=1), axis=1, kind="stable")
    return list(np.take_along_axis(np.concatenate(ids, axis=1), order, axis=1))


def changed(change: Callable[[], None], index: VectorIndex, made: Any) -> float:
    """Return the median milliseconds to add a video to the index, or to delete one."""
    taken = []
    for _ in range(5):
        change()
        taken.append(timed(lambda: index.refresh(made)))
    return 1000 * float(np.median(taken))


def measure(count: int, captions: NDArray[np.float32], queries: NDArray[np.float32], folder: Path) -> Size:
    made: Any = Made(count // EACH, captions)
    making_seconds = timed(lambda: [made.row_ids("segments", row) for row in range(1, 101)]) / 100
    index = VectorIndex(folder, "segments", "made")
    build_seconds = timed(lambda: index.refresh(made)) - making_seconds * len(made.rows)
    true = exact(index, queries)
    found = {k: each(queries, lambda query, k=k: index.search(query, k)[0]) for k in COUNTS}
    return Size(
        count=count,
        build_seconds=build_seconds,
        bytes_a_row=held_bytes(index) / count,
        search_ms={k: found[k][0] for k in COUNTS},
        recall={k: recall(found[k][1], true, k) for k in COUNTS},
        exact_ms=flat_ms(made, queries, count),
        add_ms=changed(made.add, index, made),
        delete_ms=changed(made.remove, index, made),
        save_seconds=timed(index.save),
        load_seconds=timed(lambda: VectorIndex(folder, "segments", "made").refresh(made)),
    )


def flat_ms(made: Made, queries: NDArray[np.float32], count: int) -> float:
    """Return the milliseconds of bare FAISS in float32 over all rows. Above a million, scaled up from a million."""
    plain = faiss.IndexFlatIP(queries.shape[1])
    for row in range(1, min(count, 1_000_000) // EACH + 1):
        plain.add(made.row_ids("segments", row)[1])
    taken, _ = each(queries[:20], lambda query: plain.search(query, max(COUNTS))[1])
    return taken * count / plain.ntotal


# ------------------------------------------------------------------ other ways to store the vectors
@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    name: str
    build_seconds: float
    bytes_a_row: float
    ms: float
    recall: dict[int, float]


def ways(count: int, captions: NDArray[np.float32], queries: NDArray[np.float32]) -> list[Way]:
    """Compare candidates for a sealed shard, at the most rows that the engine asks for."""
    made, k = Made(count // EACH, captions), max(COUNTS)
    vectors = np.concatenate([made.row_ids("segments", row)[1] for row in sorted(made.rows)])
    width, inner = vectors.shape[1], faiss.METRIC_INNER_PRODUCT
    plain = faiss.IndexFlatIP(width)
    ms, true = each(queries, lambda query: (plain.ntotal or plain.add(vectors), plain.search(query, k)[1])[1])
    found = [Way(name="all, float32", build_seconds=0, bytes_a_row=4 * width, ms=ms, recall=dict.fromkeys(COUNTS, 1.0))]

    def add(name: str, build_seconds: float, index: Any, search: Callable[[NDArray[np.float32]], Any]) -> None:
        took, ids = each(queries, search)
        size = sum(len(faiss.serialize_index(one)) for one in index) / count
        recalls = {n: recall(ids, true, n) for n in COUNTS}
        found.append(Way(name=name, build_seconds=build_seconds, bytes_a_row=size, ms=took, recall=recalls))

    tail = make_tail(width)
    none = np.zeros(count, np.int64)
    rows = VectorRows(ids=np.arange(count), vectors=vectors, owners=none, stamps=none.astype(np.float64))
    seconds = timed(lambda: tail.add(rows))
    add("all, float16: the tail", seconds, [tail.vectors], lambda query: tail.search(query, k, None)[0])
    shards: list[Any] = []
    seconds += timed(lambda: shards.append(seal(tail)))
    parts = [shards[0].vectors, shards[0].quantised]
    add("rough copy and float16: a sealed shard", seconds, parts, lambda query: shards[0].search(query, k, None)[0])
    lists = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, count // 200, inner)
    lists.cp.niter, lists.cp.max_points_per_centroid = 8, 40
    seconds = timed(lambda: (lists.train(vectors), lists.add(vectors)))
    for probes in (32, 256):
        given = faiss.SearchParametersIVF(nprobe=min(probes, lists.nlist))
        add(f"IVF of {lists.nlist} lists, {given.nprobe} probed", seconds, [lists],
            lambda query, given=given: lists.search(query, k, params=given)[1])  # fmt: skip
    graph = faiss.IndexHNSWFlat(width, 24, inner)
    graph.hnsw.efConstruction = 80
    seconds = timed(lambda: graph.add(vectors))
    given = faiss.SearchParametersHNSW(efSearch=max(COUNTS))
    add("HNSW of 24 neighbours, 512 looked at", seconds, [graph], lambda query: graph.search(query, k, params=given)[1])
    return found


# ------------------------------------------------------------------ the report
def report(sizes: Sequence[Size], held: Sequence[Way], count: int) -> str:
    lines = [
        "# The index as it grows", "",
        f"`{command()}`, {date.today()}, {machine()}; commit {commit()};",
        f"{QUERY_COUNT} texts, one thread, CPU time.", "",
        "| segments | build s | bytes a row | search 10 ms | 512 ms | recall@10 | @512 | bare FAISS, all, float32, ms |"
        " add a video ms | delete one ms | save s | load s |",
        "| " + "--- | " * 12,
        *(
            f"| {one.count:,} | {one.build_seconds:.1f} | {one.bytes_a_row:.0f} | {one.search_ms[10]:.2f} |"
            f" {one.search_ms[512]:.2f} | {one.recall[10]:.3f} | {one.recall[512]:.3f} | {one.exact_ms:.2f} |"
            f" {one.add_ms:.1f} | {one.delete_ms:.1f} | {one.save_seconds:.1f} | {one.load_seconds:.1f} |"
            for one in sizes
        ),
        "", "A video is a hundred segments. Up to 50,000 rows are compared exactly; then they are sealed, 200,000 at",
        "the most in a shard.", "", "![build, search, recall and memory over the size](growth.png)", "",
        f"## Other ways to hold {count:,} of them", "",
        "| | build s | bytes a row | 512 nearest ms | recall@10 | @512 |", "| --- | --- | --- | --- | --- | --- |",
        *(
            f"| {one.name} | {one.build_seconds:.1f} | {one.bytes_a_row:.0f} | {one.ms:.2f} | {one.recall[10]:.3f} |"
            f" {one.recall[512]:.3f} |"
            for one in held
        ),
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def plot(sizes: Sequence[Size], file: Path) -> None:
    counts = [one.count for one in sizes]
    figure, ((build, search), (found, memory)) = plt.subplots(2, 2, figsize=(9, 6), layout="constrained", sharex=True)
    build.plot(counts, [one.build_seconds for one in sizes], "o-", label="build, s")
    build.plot(counts, [one.load_seconds for one in sizes], "s-", label="load, s")
    for k in COUNTS:
        search.plot(counts, [one.search_ms[k] for one in sizes], "o-", label=f"{k} nearest, ms")
        found.plot(counts, [one.recall[k] for one in sizes], "o-", label=f"recall@{k}")
    search.plot(counts, [one.exact_ms for one in sizes], "k--", label="bare FAISS, all, float32")
    memory.plot(counts, [one.bytes_a_row * one.count / 2**20 for one in sizes], "o-", label="memory, MiB")
    found.set_ylim(0.8, 1.01)
    for axes in (build, search, memory):
        axes.set_yscale("log")
    for axes in (build, search, found, memory):
        axes.set_xscale("log")
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    for axes in (found, memory):
        axes.set_xlabel("segments")
    figure.savefig(file, dpi=120)


def ratios_of(sizes: Sequence[Size], held: Sequence[Way]) -> list[Ratio]:
    last = sizes[-1]
    ivf = next(one for one in held if one.name.startswith("IVF"))
    sealed = next(one for one in held if "sealed" in one.name)
    return [
        Ratio(
            name=f"growth: 512 nearest of {last.count:,}", ours=last.search_ms[512], reference=last.exact_ms,
            unit="CPU ms", against="FAISS comparing all, float32",
            bounded_by=f"Memory: every rough code is read once a query (recall {last.recall[512]:.3f}).",
        ),
        Ratio(
            name="growth: recall@512 of a sealed shard", ours=sealed.recall[512], reference=ivf.recall[512],
            unit="share", against=ivf.name,
            bounded_by="Texts are far from all pictures, so lists of near pictures do not hold what is near to a text.",
        ),
        Ratio(
            name=f"growth: memory of {last.count:,}", ours=last.bytes_a_row, reference=4 * 384, unit="bytes a row",
            against="float32 vectors", bounded_by="float16 vectors and 4 bits for each two numbers.",
        ),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--storage", type=int, default=STORAGE_COUNT)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="report; its plot is written beside it")
    add_ratios_option(parser)
    args = parser.parse_args()
    sizes, storage = (QUICK_SIZES, QUICK_STORAGE_COUNT) if args.quick else (args.sizes, args.storage)
    faiss.omp_set_num_threads(1)
    captions, queries = texts()
    measured = []
    for count in sizes:
        with tempfile.TemporaryDirectory() as folder:
            measured.append(measure(count, captions, queries, Path(folder)))
        print(measured[-1], flush=True)
    held = ways(storage, captions, queries)
    text = report(measured, held, storage)
    print(text)
    write_ratios(args.ratios, ratios_of(measured, held))
    if args.out is not None:
        args.out.write_text(text)
        plot(measured, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
