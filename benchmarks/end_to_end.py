"""Measures `kinodex index` against a straightforward pipeline: whole processes, same files, same weights.

    python benchmarks/end_to_end.py [VIDEOS] [--quick] [--repeats N] [--out FILE.md] [--ratios FILE]

VIDEOS is a folder of video files. The other side is `plain` in end_to_end_sides.py: OpenCV, PIL, the built-in visual
encoder as a plain module in float32, openai-whisper's transcribe(), sentence-transformers, a flat FAISS index. It needs
`pip install 'kinodex[bench]'` and ffmpeg. The sides take turns, each run in a new process. The median of their wall
times counts, from the start of the process to its end. --quick takes twelve files of up to a minute, drawn with a fixed
seed. On a machine with other work, compare CPU seconds.
"""

import argparse
import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import av
from ratio import Ratio, add_ratios_option, write_ratios
from sampling import ROOT, command, descendants, machine

SIDES = ("ours", "plain")
STAGES = (
    "start-up",
    "decode",
    "visual encode",
    "speech detection",
    "whisper",
    "sentences",
    "fuse",
    "catalog and index",
    "other",
)
QUICK_COUNT = 12
QUICK_SECONDS = 60  # longest video that --quick may draw
SEED = 0
SAMPLE_SECONDS = 2.0  # between two measurements of memory; each walks the page tables, 20 ms of CPU time and more
RESULTS = ROOT / "benchmarks" / "results" / "end_to_end.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The run of a process, from its start to its end."""

    wall_seconds: float
    peak_bytes: int  # proportional set size of the process and its children together
    wall: dict[str, float]  # seconds by stage
    cpu: dict[str, float]
    counts: dict[str, Any]


def proportional_bytes(process_id: int) -> int:
    """Return the proportional set size, in which a page shared by n processes counts 1/n."""
    try:
        for line in Path(f"/proc/{process_id}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:  # the process has just ended
        pass
    return 0


def measure(side: str, listing: Path) -> Measured:
    """Run a side in a new process, in an empty folder."""
    peak = 0
    ended = threading.Event()

    def watch(process_id: int) -> None:
        nonlocal peak
        while not ended.wait(SAMPLE_SECONDS):
            peak = max(peak, sum(map(proportional_bytes, [process_id, *descendants(process_id)])))

    with tempfile.TemporaryDirectory() as name:
        script = ROOT / "benchmarks" / "end_to_end_sides.py"
        paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, str(script), side, name, str(listing)],
            env=os.environ | {"PYTHONPATH": paths},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        watcher = threading.Thread(target=watch, args=(process.pid,))
        watcher.start()
        _, complaints = process.communicate()
        wall_seconds = time.perf_counter() - started
        ended.set()
        watcher.join()
        if process.returncode:
            sys.exit(f"{side} failed:\n{complaints}")
        account = json.loads((Path(name) / "account.json").read_text())
    wall, cpu, counts = account["wall"], account["cpu"], account["counts"]
    wall["other"] = wall_seconds - sum(wall.values())
    if side == "ours":  # decoding is the CPU time of the child processes
        cpu["decode"] = counts["children_cpu_seconds"]
    cpu["other"] = max(counts["cpu_seconds"] - sum(cpu.values()), 0.0)
    return Measured(wall_seconds=wall_seconds, peak_bytes=peak, wall=wall, cpu=cpu, counts=counts)


def is_short(path: str) -> bool:
    """Return whether the header of a file claims at most QUICK_SECONDS. A file that does not open is short too."""
    try:
        with av.open(path) as container:
            return container.duration is not None and container.duration <= QUICK_SECONDS * av.time_base
    except av.FFmpegError:
        return True


def middle(runs: list[Measured]) -> Measured:
    """Return the run with the median wall time."""
    return sorted(runs, key=lambda run: run.wall_seconds)[(len(runs) - 1) // 2]


def draw(found: dict[str, Measured], path: Path) -> None:
    """Draw the time of the stages as stacked bars: wall and CPU seconds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(10, 5), layout="constrained")
    for panel, kind, title in ((panels[0], "wall", "Wall seconds"), (panels[1], "cpu", "CPU seconds")):
        heights = [0.0] * len(SIDES)
        for number, stage in enumerate(STAGES):
            values = [getattr(found[side], kind).get(stage, 0.0) for side in SIDES]
            panel.bar(["kinodex index", "straightforward"], values, 0.6, heights, label=stage, color=f"C{number}")
            heights = [height + value for height, value in zip(heights, values, strict=True)]
        panel.set(title=title, ylabel="s")
    panels[1].legend(reverse=True, frameon=False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def report(found: dict[str, Measured], runs: dict[str, list[Measured]], file_count: int) -> str:
    ours, plain = found["ours"], found["plain"]
    lines = [
        "# End to end: from files to a library",
        "",
        f"`{command()}`, {date.today()}, {machine()}.",
        f"{file_count} files, whole processes that take turns, median of {len(runs['ours'])}; mini and Whisper tiny.en"
        " on both sides.",
        "",
        "| | kinodex index | straightforward | times |",
        "| --- | --- | --- | --- |",
    ]

    def line(name: str, mine: float, theirs: float, form: str) -> None:
        times = f"{theirs / mine:.2f}" if mine > 0 else ""
        lines.append(f"| {name} | {mine:{form}} | {theirs:{form}} | {times} |")

    line("wall seconds", ours.wall_seconds, plain.wall_seconds, ".1f")
    without = [run.wall_seconds - run.wall["start-up"] for run in (ours, plain)]
    line("wall seconds without start-up", *without, ".1f")
    line("CPU seconds", ours.counts["cpu_seconds"], plain.counts["cpu_seconds"], ".1f")
    line("peak memory, MiB, children included", ours.peak_bytes / 2**20, plain.peak_bytes / 2**20, ".0f")
    for name in ("indexed", "failed", "frames", "words"):
        lines.append(f"| {name} | {ours.counts.get(name, 0)} | {plain.counts.get(name, 0)} | |")
    spread = "; ".join(
        f"{side} " + ", ".join(f"{run.wall_seconds:.1f}" for run in runs[side]) for side in SIDES
    )  # in the order of the runs
    lines += ["", f"Wall seconds of all runs: {spread}.", ""]
    lines += ["| stage | ours, wall s | ours, CPU s | straightforward, wall s | straightforward, CPU s |"]
    lines += ["| --- | --- | --- | --- | --- |"]
    for stage in STAGES:
        values = (ours.wall, ours.cpu, plain.wall, plain.cpu)
        lines.append(f"| {stage} | " + " | ".join(f"{value.get(stage, 0.0):.2f}" for value in values) + " |")
    lines += [
        "",
        "Our decoding runs in child processes beside the rest: its wall seconds are those the encoding thread waited",
        "for it. Where a video has more keyframes than one a second it decodes those alone (sampling fast), as it does",
        "by default. Preprocessing is part of decoding with us, of encoding on the other side, and there the sound is",
        "read within whisper. openai-whisper hears all of the sound, we hear what the detector calls speech.",
        "Start-up is imports and models. A file is failed where no picture and no sound came out.",
        "",
        "![where the time goes](end_to_end.png)",
        "",
    ]
    return "\n".join(lines)


def ratios(found: dict[str, Measured]) -> list[Ratio]:
    ours, plain = found["ours"], found["plain"]
    whisper_share = ours.wall.get("whisper", 0.0) / ours.wall_seconds
    return [
        Ratio(
            name="end to end: files a second",
            ours=1 / ours.wall_seconds,
            reference=1 / plain.wall_seconds,
            unit="runs over all the files a second",
            against="OpenCV, PIL, float32 torch, openai-whisper, sentence-transformers, FAISS",
            target=">= 3",
            bounded_by=f"Whisper is {whisper_share:.0%} of our wall time; the decoders share its cores.",
        ),
        Ratio(
            name="end to end: CPU seconds",
            ours=ours.counts["cpu_seconds"],
            reference=plain.counts["cpu_seconds"],
            unit="CPU s",
            against="the same",
            bounded_by="What both compute: Whisper's encoder sees 30 s a window whatever is in it.",
        ),
        Ratio(
            name="end to end: peak memory",
            ours=ours.peak_bytes / 2**20,
            reference=plain.peak_bytes / 2**20,
            unit="MiB, children included",
            against="the same",
            bounded_by="Torch, the models and one decoder a core.",
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="?", type=Path, default=ROOT.parent / "shared" / "videos" / "files")
    parser.add_argument("--quick", action="store_true", help=f"use {QUICK_COUNT} of the files")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0, help="OMP_NUM_THREADS of both sides (default: unchanged)")
    parser.add_argument(
        "--out", type=Path, help="FILE.md (default: benchmarks/results/end_to_end.md; with --quick none)"
    )
    add_ratios_option(parser)
    args = parser.parse_args()
    if args.threads:
        os.environ["OMP_NUM_THREADS"] = str(args.threads)
    if importlib.util.find_spec("cv2") is None:
        sys.exit("end_to_end.py needs OpenCV: pip install 'kinodex[bench]'")
    if not args.videos.is_dir():
        sys.exit(f"end_to_end.py needs the development videos: no folder {args.videos}")
    paths = sorted(str(path) for path in args.videos.iterdir() if path.is_file())
    if args.quick:
        paths = random.Random(SEED).sample([path for path in paths if is_short(path)], QUICK_COUNT)
    for path in paths:  # reads every file once, so that no side reads from a cold disk
        Path(path).read_bytes()
    runs: dict[str, list[Measured]] = {side: [] for side in SIDES}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as listing:
        json.dump(paths, listing)
        listing.flush()
        for _ in range(args.repeats):
            for side in SIDES:
                runs[side].append(measure(side, Path(listing.name)))
                print(f"{side}: {runs[side][-1]}", file=sys.stderr)
    found = {side: middle(runs[side]) for side in SIDES}
    text = report(found, runs, len(paths))
    print(text)
    out = args.out or (None if args.quick else RESULTS)
    if out is not None:
        out.write_text(text)
        draw(found, out.with_suffix(".png"))
    write_ratios(args.ratios, ratios(found))


if __name__ == "__main__":
    main()
