"""Compares vectors in Milvus with FAISS: are the answers the same, and what do they cost?

    python benchmarks/milvus.py [--sizes N...] [--quick] [--milvus URI] [--out FILE.md] [--ratios FILE]

A catalog is filled with growth.py's synthetic segments. Each index is built from it alone. Then both are asked
growth.py's texts in turns. Without --milvus it is milvus-lite in this process, which says nothing about the speed of a
cluster. --quick: 20,000 segments only.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from growth import EACH, Made, texts
from numpy.typing import NDArray
from ratio import Ratio, add_ratios_option, write_ratios
from sampling import command, machine
from serving import commit

from ingest.values import MediaInfo
from serve.catalog.catalog import Catalog, NewVideo
from serve.config import IndexConfig
from serve.index.faiss_index import VectorIndex
from serve.index.milvus_index import MilvusIndex
from serve.index.nearest import NearestIndex
from temporal.values import Segment, TimeSpan

FINGERPRINT = "0123456789abcdef"
SIZES, QUICK_SIZES = (20_000, 100_000), (20_000,)
MEDIA = MediaInfo(
    container="mp4", duration_seconds=1608.0, video_codec="h264", audio_codec=None, width=640, height=360,
    rotation_degrees=0, frame_rate_fps=25.0,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The figures of both indexes for a kind of question."""

    row_count: int
    how: str
    k: int
    faiss_recall: float
    milvus_recall: float
    same_share: float  # share of the questions with the same ids from both
    faiss_ms: float  # median
    milvus_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """The times to fill an index, and to open it filled."""

    row_count: int
    faiss_seconds: float
    milvus_seconds: float
    milvus_again_seconds: float  # start of the next process, which reads the ids


def fill(catalog: Catalog, vectors: NDArray[np.float32]) -> None:
    """Store the vectors as segments of videos, with the ids 1 to N."""
    for n, first in enumerate(range(0, len(vectors), EACH)):
        name = f"video{n:06d}"
        row = catalog.begin(
            NewVideo(video_id=name, collection="default", uri=name, content_sha256=f"{n:064x}", fingerprint=FINGERPRINT)
        )
        catalog.add_segments(
            row,
            [
                Segment(
                    segment_id=f"{name}/0/{at}", epoch=0, index=at, vector=vector,
                    span=TimeSpan(start_seconds=8.0 * at, end_seconds=8.0 * at + 16),
                )
                for at, vector in enumerate(vectors[first : first + EACH])
            ],
        )  # fmt: skip
        catalog.finish(row, media=MEDIA, duration_seconds=8.0 * EACH + 8, warnings=())


def took(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def asked(
    faiss: NearestIndex,
    milvus: NearestIndex,
    queries: NDArray[np.float32],
    truth: NDArray[np.float32],
    how: str,
    k: int,
    rows: Sequence[int] | None,
) -> Asked:
    """Ask both indexes in turns, one question at a time.

    Args:
        truth: float32 (Q, N): the products of the questions and all rows, whose ids are 1 to N.
    """
    among = truth.copy()
    if rows is not None:
        is_among = np.repeat(np.isin(np.arange(1, truth.shape[1] // EACH + 1), rows), EACH)
        among[:, ~is_among] = -np.inf
    wanted = np.argsort(-among, axis=1, kind="stable")[:, : min(k, int(np.isfinite(among[0]).sum()))] + 1
    seconds: dict[str, list[float]] = {"faiss": [], "milvus": []}
    hits = {"faiss": 0, "milvus": 0}
    same = 0
    for query, right in zip(queries, wanted, strict=True):
        found = {}
        for name, index in (("faiss", faiss), ("milvus", milvus)):
            started = time.perf_counter()
            ids, _ = index.search(query[None], k, rows=rows)
            seconds[name].append(time.perf_counter() - started)
            found[name] = set(ids[0].tolist())
            hits[name] += len(found[name] & set(right.tolist()))
        same += found["faiss"] == found["milvus"]
    return Asked(
        row_count=truth.shape[1], how=how, k=k,
        faiss_recall=hits["faiss"] / wanted.size, milvus_recall=hits["milvus"] / wanted.size,
        same_share=same / len(queries),
        faiss_ms=1000 * statistics.median(seconds["faiss"]), milvus_ms=1000 * statistics.median(seconds["milvus"]),
    )  # fmt: skip


@contextmanager
def opened(uri: str) -> Iterator[MilvusIndex]:
    index = MilvusIndex("segments", FINGERPRINT, IndexConfig(milvus_uri=uri, milvus_timeout_seconds=120.0))
    try:
        yield index
    finally:
        index.close()


def measured(
    row_count: int, uri: str, captions: NDArray[np.float32], queries: NDArray[np.float32]
) -> tuple[Filled, list[Asked]]:
    """Fill both indexes with a number of rows, and ask them."""
    made = Made(row_count // EACH, captions)
    vectors = np.concatenate([made.row_ids("segments", row)[1] for row in sorted(made.rows)])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        uri = uri or str(folder / "vectors.db")
        with Catalog.open_writer(folder / "data") as catalog:
            fill(catalog, vectors)
            truth = queries @ vectors.astype(np.float16).astype(np.float32).T  # float16, as both indexes store them
            faiss = VectorIndex(folder / "data", "segments", FINGERPRINT)
            faiss_seconds = took(lambda: faiss.refresh(catalog))
            with opened(uri) as milvus, opened(uri) as again:
                filled = Filled(
                    row_count=row_count,
                    faiss_seconds=faiss_seconds,
                    milvus_seconds=took(lambda: milvus.refresh(catalog)),
                    milvus_again_seconds=took(lambda: again.refresh(catalog)),
                )
                client = milvus._connection._client
                client.flush(milvus._name)  # a Milvus server does this by itself after a while
                some = list(range(1, row_count // EACH + 1, 10))
                found = [
                    asked(faiss, milvus, queries, truth, "all", 10, None),
                    asked(faiss, milvus, queries, truth, "all", 512, None),
                    asked(faiss, milvus, queries, truth, "a tenth of the videos", 512, some),
                ]
    return filled, found


def ratios(found: Sequence[Asked], server: str) -> list[Ratio]:
    bounded_by = (
        "milvus-lite is Python that answers over gRPC in the same process; it says nothing of a cluster."
        if server == "milvus-lite"
        else "A search over gRPC, strongly consistent, beside one in this process."
    )
    return [
        Ratio(
            name=f"milvus: search of {one.row_count:,} rows, {one.how}, k = {one.k}",
            ours=one.milvus_ms, reference=one.faiss_ms, unit="ms, median", against="our index in FAISS",
            bounded_by=bounded_by,
        )
        for one in found
    ]  # fmt: skip


def report(filled: Sequence[Filled], found: Sequence[Asked], server: str, query_count: int) -> str:
    return "\n".join(
        [
            "# Vectors in Milvus, beside FAISS",
            "",
            f"`{command()}`, {date.today()}, {machine()}; commit {commit()};",
            f"{server}, {query_count} texts, one at a time.",
            "",
            "| segments | asked of | k | recall FAISS | recall Milvus | same answer | FAISS ms | Milvus ms |",
            "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
            *(
                f"| {one.row_count:,} | {one.how} | {one.k} | {one.faiss_recall:.4f} | {one.milvus_recall:.4f} |"
                f" {one.same_share:.2f} | {one.faiss_ms:.1f} | {one.milvus_ms:.1f} |"
                for one in found
            ),
            "",
            "| segments | FAISS filled, s | Milvus filled, s | found filled by the next process, s |",
            "| ---: | ---: | ---: | ---: |",
            *(
                f"| {one.row_count:,} | {one.faiss_seconds:.1f} | {one.milvus_seconds:.1f} |"
                f" {one.milvus_again_seconds:.1f} |"
                for one in filled
            ),
            "",
            "Recall is of the k nearest by NumPy's brute force; the same answer has the same ids as FAISS's. Our index",
            "in FAISS compares up to 50,000 rows exactly, of more it has a rough copy that is compared first; Milvus",
            "compares all. milvus-lite is Python, and what it takes says nothing of a cluster's time.",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", help="segments: multiples of 1,000")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--milvus", default="", metavar="URI", help="a Milvus server (default: milvus-lite in this process)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the tables there")
    add_ratios_option(parser)
    args = parser.parse_args()
    captions, queries = texts()
    filled, found = [], []
    for count in args.sizes or (QUICK_SIZES if args.quick else SIZES):
        one, answers = measured(count, args.milvus, captions, queries)
        filled.append(one)
        found += answers
        print(one, *answers, sep="\n", flush=True)
    server = "a Milvus server" if args.milvus else "milvus-lite"
    text = report(filled, found, server, len(queries))
    print(text)
    if args.out is not None:
        args.out.write_text(text, encoding="utf-8")
    write_ratios(args.ratios, ratios(found, server))


if __name__ == "__main__":
    main()
