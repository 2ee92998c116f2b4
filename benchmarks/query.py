"""Measures what a question costs over a large library, beside the least possible: encoding its text and asking FAISS.

    python benchmarks/query.py [--segments N] [--seconds S] [--cache DIR] [--ratios FILE] [--out FILE.md]

`kinodex serve` runs over a library of N segments, which serving_data.py makes once and keeps in the cache folder (a
million: 10,000 videos of 808 s, 15 GB, half an hour; --quick: 50,000). Python clients ask it over gRPC: new texts, one
after the other and from 16 clients at once, and the same text repeatedly. In turns with that, a process of its own asks
the same index files directly, with the same encoder for the text and one thread.

The library is read through once beforehand, so that as many of its pages as possible are in memory. Each new text asks
about other videos: with a library on disk, the disk is measured.
"""

import argparse
import itertools
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import grpc
import numpy as np
from ratio import Ratio, add_ratios_option, write_ratios
from sampling import command, machine
from serving import CACHED_TEXT, commit
from serving_data import library, new_questions, size_bytes
from serving_load import (
    CALL_SECONDS,
    Load,
    Served,
    bare_faiss,
    caller,
    in_process,
    in_threads,
    request_of,
    served,
    status_of,
)

SEGMENT_COUNT, QUICK_SEGMENT_COUNT = 1_000_000, 50_000
TURN_COUNT = 2
CLIENT_COUNT = 16
NAMES = ("new", "many", "known", "many known", "bare new", "bare known")
VECTOR_BYTES = 384 * 4  # bytes of the vector of a segment with mini

HEAD = ["| asked | clients | a second | p50 ms | p95 ms | p99 ms |", "| --- | --- | --- | --- | --- | --- |"]


@contextmanager
def asking(address: str, texts: Iterator[str]) -> Iterator[Callable[[], None]]:
    """Yield a function that asks the server the next text. Threads may share it."""
    lock = threading.Lock()
    with grpc.insecure_channel(address) as channel:
        send = caller(channel, "SearchMoments")

        def ask() -> None:
            with lock:
                text = next(texts)
            send(request_of("SearchMoments", text), timeout=CALL_SECONDS)

        yield ask


def read_through(directory: Path) -> None:
    """Read the library's files once, so that the kernel caches their pages."""
    for path in sorted(directory.iterdir()):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.read(8 << 20):
                    pass


def together(loads: Sequence[Load]) -> Load:
    """Return the median of each figure over several turns."""

    def median(name: str) -> float:
        return float(np.median([getattr(load, name) for load in loads]))

    return Load(
        name=loads[0].name, clients=loads[0].clients, qps=median("qps"), p50_ms=median("p50_ms"),
        p95_ms=median("p95_ms"), p99_ms=median("p99_ms"),
    )  # fmt: skip


def measure(server: Served, directory: Path, seconds: float) -> dict[str, Load]:
    """Ask in turns. Return the figures by the keys of NAMES."""
    run, found = int(time.time()) % 100_000, {name: [] for name in NAMES}
    for turn in range(TURN_COUNT):
        new = iter(new_questions(20_000, run + turn))
        with asking(server.address, new) as ask:
            ask()
            found["new"].append(in_threads("new texts", ask, 1, seconds))
            found["many"].append(in_threads("new texts", ask, CLIENT_COUNT, seconds))
        with asking(server.address, itertools.repeat(CACHED_TEXT)) as ask:
            ask()
            found["known"].append(in_threads("one text, asked before", ask, 1, seconds / 2))
            found["many known"].append(in_threads("one text, asked before", ask, CLIENT_COUNT, seconds / 2))
        bare = (directory, CACHED_TEXT, new_questions(20_000, run + 10 + turn), 1, seconds / 2)
        with in_process(bare_faiss, *bare) as (pipe, _):
            known, encoded = pipe.recv()
        found["bare known"].append(known)
        found["bare new"].append(encoded)
    return {name: together(loads) for name, loads in found.items()}


def ratios_of(found: dict[str, Load], segment_count: int, resident_bytes: int) -> list[Ratio]:
    new, many, known, many_known, bare_new, bare_known = found.values()
    size = f"{segment_count:,} segments"
    return [
        Ratio(
            name=f"query: a new text, {size}", ours=new.p50_ms, reference=bare_new.p50_ms, unit="ms (p50)",
            against="the same text encoder and bare FAISS over the same index files", target="<= 1.2",
            bounded_by="Bare FAISS finds segments, not moments: comparing every frame of the nearest 80 videos (50 MB "
            "of vectors out of SQLite), finding moments on the best 20 of them, and BM25 over what is said.",
        ),
        Ratio(
            name=f"query: p99 of {CLIENT_COUNT} clients, new texts, {size}", ours=many.p99_ms, reference=many.p50_ms,
            unit="ms", against="p50 of the same calls", target="<= 3",
            bounded_by="Questions wait for each other in the order they came, so the slowest waits little longer.",
        ),
        Ratio(
            name=f"query: p99 of {CLIENT_COUNT} clients, a text asked before, {size}", ours=many_known.p99_ms,
            reference=many_known.p50_ms, unit="ms", against="p50 of the same calls", target="<= 3",
            bounded_by="As above; what takes long is the clients' own share of the two cores.",
        ),
        Ratio(
            name=f"query: a text asked before, {size}", ours=known.p50_ms, reference=bare_known.p50_ms, unit="ms (p50)",
            against="bare FAISS, its vector known",
            bounded_by="A ranking that is still true is not made again: what is left is reading ten answers, and gRPC.",
        ),
        Ratio(
            name=f"query: memory of the server, {size}", ours=resident_bytes / 2**20,
            reference=segment_count * VECTOR_BYTES / 2**20, unit="MiB", against="the segments' vectors as float32",
            bounded_by="Vectors of segments and utterances, the videos asked about lately, and 0.3 GiB of libraries.",
        ),
    ]  # fmt: skip


def report(
    server: Served, found: dict[str, Load], ratios: Sequence[Ratio], directory: Path, bytes_: tuple[int, int]
) -> str:
    rows = [
        f"| {who}{one.name} | {one.clients} | {one.qps:.1f} | {one.p50_ms:.1f} | {one.p95_ms:.1f} | {one.p99_ms:.1f} |"
        for who, one in zip(["ours, "] * 4 + ["", ""], found.values(), strict=True)
    ]
    return "\n".join(
        [
            "# A question over a large library",
            "",
            f"`{command()}`, {date.today()}, {machine()}; commit {commit()}.",
            f"The library: {size_bytes(directory) / 1e9:.1f} GB. It was ready after {server.start_seconds:.1f} s,"
            f" with {bytes_[0] / 2**20:.0f} MiB; {bytes_[1] / 2**20:.0f} MiB after the questions.",
            "",
            *HEAD,
            *rows,
            "",
            "| | ours / reference | target | met |",
            "| --- | --- | --- | --- |",
            *(f"| {one.name} | {one.ratio:.2f} | {one.target} | {one.met if one.target else ''} |" for one in ratios),
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segments", type=int, default=SEGMENT_COUNT)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SEGMENT_COUNT:,} segments, and shorter loads")
    parser.add_argument("--seconds", type=float, default=20.0, help="seconds of each load")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "kinodex-bench")
    parser.add_argument("--out", type=Path, metavar="FILE.md")
    add_ratios_option(parser)
    args = parser.parse_args()
    segment_count = QUICK_SEGMENT_COUNT if args.quick else args.segments
    args.cache.mkdir(parents=True, exist_ok=True)
    directory = library(args.cache, segment_count)
    read_through(directory)
    with served(directory, args.cache / "server.log") as server:
        first_bytes = status_of(server.process_id)["rss"]
        found = measure(server, directory, 8.0 if args.quick else args.seconds)
        resident_bytes = status_of(server.process_id)["rss"]
    ratios = ratios_of(found, segment_count, resident_bytes)
    text = report(server, found, ratios, directory, (first_bytes, resident_bytes))
    print(text)
    write_ratios(args.ratios, ratios)
    if args.out is not None:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
