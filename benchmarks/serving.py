"""Measures a real server: questions a second, response times, and whether it stays level while videos come and go.

    python benchmarks/serving.py [--segments N] [--clients N] [--seconds S] [--mixed-seconds S] [--out FILE.json]

`kinodex serve` runs over a library of N segments, which serving_data.py makes once and keeps in the cache folder
(200,000 segments: 2,000 videos of 808 s, 3 GB, some minutes). ghz (built with Go) asks it. In the same run ghz asks a
bare gRPC server that answers with the same bytes, and the index file is asked without a server. Then 16 clients ask a
mixture of questions for longer, while a small real video is uploaded, found and deleted repeatedly.

The clients share the machine with the server. CPU time is that of the server process, for a call.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import numpy as np
from sampling import ROOT, command, machine
from serving_data import SEED, distinct, library, new_questions, question, size_bytes
from serving_load import (
    Ghz,
    Load,
    Served,
    ask_once,
    bare_faiss,
    cpu_seconds,
    echo,
    in_process,
    load_of,
    served,
    status_of,
)
from serving_mixed import Asked, Sampler, Uploader, ask_mixed, beside, forget_uploads

CACHED_TEXT = "a red car standing on a street"
KNOWN_COUNT = 1_000
NEW_COUNT = 60_000  # texts for a load of new texts: more than can be asked in the time
MIXED_CLIENTS = 16
STEP_SECONDS = 60  # step of the time line of the mixed load
LEVEL_AFTER_SECONDS = 60  # from this time on resident memory should not grow
ECHO, FAISS = "bare gRPC server, answers as ", "bare FAISS, vector known"
FAISS_NEW = "bare FAISS, encoding new texts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixed:
    """The result of the mixed load."""

    loads: list[Load]
    qps: list[float]  # questions a second in each STEP_SECONDS
    errors: dict[str, int]
    upload_count: int
    upload_errors: dict[str, int]
    upload_p50_seconds: dict[str, float]  # median of each step of an upload
    samples: list[dict[str, float]]
    log_lines: dict[str, int]  # count of the server's log lines by level


# ------------------------------------------------------------------ questions by ghz
def ask_ours(ghz: Ghz, server: Served, known: Sequence[str], clients: int, seconds: float) -> list[Load]:
    run = int(time.time()) % 100_000
    one = [CACHED_TEXT]
    plan = [
        ("SearchMoments, one cached text", "SearchMoments", one, 1),
        ("SearchMoments, one cached text", "SearchMoments", one, clients),
        (f"SearchMoments, {len(known)} known texts", "SearchMoments", known, clients),
        ("SearchMoments, new texts", "SearchMoments", new_questions(NEW_COUNT, run), clients),
        ("SearchMoments, new texts", "SearchMoments", new_questions(NEW_COUNT, run + 1), 1),
        ("SearchVideos, one cached text", "SearchVideos", one, clients),
        (f"SearchVideos, {len(known)} known texts", "SearchVideos", known, clients),
    ]
    found = []
    for name, method, texts, count in plan:
        found.append(ghz.load(name, server.address, server.process_id, method, texts, clients=count, seconds=seconds))
        print(row_of(found[-1], None, None), flush=True)
    return found


def ask_references(ghz: Ghz, server: Served, directory: Path, clients: int, seconds: float) -> list[Load]:
    answers = {name: ask_once(server.address, name, CACHED_TEXT) for name in ("SearchMoments", "SearchVideos")}
    found = []
    with in_process(echo, answers) as (pipe, process_id):
        address = pipe.recv()
        for method, count in (("SearchMoments", 1), ("SearchMoments", clients), ("SearchVideos", clients)):
            found.append(
                ghz.load(ECHO + method, address, process_id, method, [CACHED_TEXT], clients=count, seconds=seconds)
            )
    new = new_questions(NEW_COUNT, int(time.time()) % 100_000 + 2)
    with in_process(bare_faiss, directory, CACHED_TEXT, new, clients, seconds) as (pipe, _):
        found += pipe.recv()
    for load in found:
        print(row_of(load, None, None), flush=True)
    return found


# ------------------------------------------------------------------ mixed load
def ask_mixture(server: Served, known: Sequence[str], seconds: float, log: Path) -> Mixed:
    new = new_questions(NEW_COUNT, int(time.time()) % 100_000 + 3)
    sampler, before = Sampler(server.process_id), cpu_seconds(server.process_id)
    with tempfile.TemporaryDirectory() as folder:
        uploader = Uploader(server.address, Path(folder))
        with (
            in_process(ask_mixed, server.address, known, new, MIXED_CLIENTS, seconds) as (pipe, _),
            beside(sampler, uploader),
        ):
            asked: list[Asked] = pipe.recv()
    used = cpu_seconds(server.process_id) - before
    whole = max((one.ended_seconds for one in asked), default=seconds)
    by_kind = defaultdict(list)
    for one in asked:
        by_kind[one.kind].append(one)
        by_kind["all"].append(one)
    steps = Counter(int(one.ended_seconds // STEP_SECONDS) for one in asked if one.code == "OK")
    cycles = [asdict(one) for one in uploader.cycles]
    return Mixed(
        loads=[
            load_of(
                f"mixed load, {kind}", MIXED_CLIENTS, [one.taken_seconds for one in some],
                dict(Counter(one.code.partition(":")[0] for one in some)), whole,
                1000 * used / len(some) if kind == "all" else None,
            )
            for kind, some in sorted(by_kind.items())
        ],
        qps=[steps[n] / min(STEP_SECONDS, whole - n * STEP_SECONDS) for n in range(int(whole // STEP_SECONDS) + 1)],
        errors=dict(Counter(one.code for one in asked if one.code != "OK")),
        upload_count=len(cycles),
        upload_errors=dict(uploader.errors),
        upload_p50_seconds={
            step: float(np.median([cycle[step] for cycle in cycles])) for step in (cycles[0] if cycles else ())
        },
        samples=sampler.taken,
        log_lines={level: log.read_text().count(f" {level} ") for level in ("INFO", "WARNING", "ERROR", "CRITICAL")},
    )  # fmt: skip


def growth(samples: Sequence[dict[str, float]], name: str) -> float:
    """Return the growth of a value in a minute after LEVEL_AFTER_SECONDS: the slope of a straight line."""
    later = [one for one in samples if one["seconds"] >= LEVEL_AFTER_SECONDS]
    if len(later) < 2:
        return float("nan")
    return float(60 * np.polyfit([one["seconds"] for one in later], [one[name] for one in later], 1)[0])


# ------------------------------------------------------------------ the report
def row_of(load: Load, echoed: Load | None, searched: Load | None) -> str:
    codes = ", ".join(f"{code} {count}" for code, count in sorted(load.codes.items()))
    cpu = "" if load.cpu_ms is None else f"{load.cpu_ms:.1f}"
    ratios = ["" if other is None else f"{load.qps / other.qps:.3f}" for other in (echoed, searched)]
    return (
        f"| {load.name} | {load.clients} | {load.qps:.1f} | {load.p50_ms:.1f} | {load.p95_ms:.1f} | {load.p99_ms:.1f} |"
        f" {cpu} | {codes} | {' | '.join(ratios)} |"
    )


HEAD = [
    "| asked | clients | QPS | p50 ms | p95 ms | p99 ms | CPU ms | answers | QPS over bare gRPC | over bare FAISS |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
]


def table_of(ours: Sequence[Load], references: Sequence[Load]) -> list[str]:
    by_name = {(one.name, one.clients): one for one in references}
    lines = list(HEAD)
    for load in ours:
        searched = by_name.get((FAISS_NEW if "new texts" in load.name else FAISS, load.clients))
        lines.append(row_of(load, by_name.get((ECHO + load.name.partition(",")[0], load.clients)), searched))
    return lines + [row_of(load, None, None) for load in references]


def mixed_lines(mixed: Mixed, clients: int) -> list[str]:
    samples = [one for one in mixed.samples if one["rss"]]
    marks = {f"{seconds} s": seconds for seconds in (5, 60, 120, 300) if seconds < samples[-1]["seconds"]}
    marks["end"] = samples[-1]["seconds"]
    lines = [
        "## Mixed load",
        "",
        f"{clients} clients: 7 of 10 questions for moments, 3 for videos; 3 of 10 new; 1 of 5 goes on to pages two and",
        f"three. Meanwhile {mixed.upload_count} videos of 4 s were uploaded, indexed, found and deleted, one by one",
        "(median seconds: "
        + ", ".join(f"{step} {value:.1f}" for step, value in mixed.upload_p50_seconds.items())
        + ").",
        f"Errors of questions: {mixed.errors or 'none'}; of uploads: {mixed.upload_errors or 'none'};"
        f" the server's log: {mixed.log_lines}.",
        f"Questions a second in each {STEP_SECONDS} s: " + ", ".join(f"{value:.1f}" for value in mixed.qps) + ".",
        "",
        *HEAD,
        *(row_of(load, None, None) for load in mixed.loads),
        "",
        "| at | server MiB | its children MiB | threads | open files |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, seconds in marks.items():
        one = min(samples, key=lambda sample: abs(sample["seconds"] - seconds))
        lines.append(
            f"| {name} | {one['rss'] / 2**20:.0f} | {one['children_rss'] / 2**20:.0f} | {one['threads']:.0f} |"
            f" {one['files']:.0f} |"
        )
    top = max(one["rss"] for one in samples)
    rates = [growth(samples, name) / 2**20 for name in ("rss", "children_rss")]
    return [
        *lines,
        "",
        f"Highest of the server: {top / 2**20:.0f} MiB. After the first minute it grew by {rates[0]:+.2f} MiB a minute,"
        f" its children by {rates[1]:+.2f} (nan: it took no longer).",
    ]


def commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    changed = git("status", "--porcelain", "--", "serve", "encoders", "temporal", "ingest")
    return git("rev-parse", "--short", "HEAD") + (" with changes that are not committed" if changed else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segments", type=int, default=200_000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=20.0, help="seconds of each load")
    parser.add_argument(
        "--mixed-seconds", type=float, default=600.0, help="seconds of the mixed load; 0: no mixed load"
    )
    parser.add_argument("--known", type=int, default=KNOWN_COUNT, help="texts that the server has answered before")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "kinodex-bench")
    parser.add_argument("--out", type=Path, help="write all figures there, JSON")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "serving.md")
    args = parser.parse_args()
    loads_before = os.getloadavg()
    args.cache.mkdir(parents=True, exist_ok=True)
    ghz, directory, log = Ghz(args.cache), library(args.cache, args.segments), args.cache / "server.log"
    forget_uploads(directory)
    known = distinct(question, args.known, (SEED, 6))
    with served(directory, log) as server:
        first_bytes = status_of(server.process_id)["rss"]
        print(f"ready after {server.start_seconds:.1f} s, {first_bytes / 2**20:.0f} MiB", flush=True)
        warming = ghz.load(
            "first time", server.address, server.process_id, "SearchMoments", known, clients=args.clients, seconds=0
        )
        print("\n".join([*HEAD, row_of(warming, None, None)]), flush=True)
        ours = ask_ours(ghz, server, known, args.clients, args.seconds)
        references = ask_references(ghz, server, directory, args.clients, args.seconds)
        asked_bytes = status_of(server.process_id)["rss"]
        mixed = ask_mixture(server, known, args.mixed_seconds, log) if args.mixed_seconds else None
    lines = [
        "# The server under load",
        "",
        f"`{command()}`, {date.today()}, {machine()}; commit {commit()}.",
        f"Load average before it began: {loads_before[0]:.1f}.",
        f"A library of {args.segments:,} segments in {args.segments // 100:,} videos of 808 s,"
        f" {size_bytes(directory) / 1e9:.1f} GB. The",
        f"server was ready after {server.start_seconds:.1f} s with {first_bytes / 2**20:.0f} MiB, and had"
        f" {asked_bytes / 2**20:.0f} MiB after the questions below. ghz and the server",
        f"share the machine. New texts are never asked twice; the {len(known)} known ones were asked before, at"
        f" {warming.qps:.1f} a second.",
        "",
        *table_of(ours, references),
        "",
        *(mixed_lines(mixed, MIXED_CLIENTS) if mixed is not None else []),
    ]
    print("\n".join(lines))
    args.results.write_text("\n".join([*lines, ""]))
    if args.out is not None:
        whole = {"machine": machine(), "commit": commit(), "command": command(), "date": str(date.today()),
                 "start_seconds": server.start_seconds, "start_rss": first_bytes, "asked_rss": asked_bytes,
                 "warming": asdict(warming), "ours": [asdict(one) for one in ours],
                 "references": [asdict(one) for one in references],
                 "mixed": None if mixed is None else asdict(mixed)}  # fmt: skip
        args.out.write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
