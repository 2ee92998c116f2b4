"""Measures the cost of a picture a second: CPU seconds for an hour of video, ours beside other programs.

    python benchmarks/sampling.py [FILES...] [--quick] [--seconds S] [--repeats N] [--ratios FILE] [--out FILE.md]

All read the same bytes: the first 60 s of the video stream of each file, remuxed without sound. All deliver RGB
pictures of 224 x 224. CPU seconds are user + system, of this process or, for ffmpeg and our child process, of the
child. The contenders take turns. The median of the repeats counts; for figures without a target there is one run. Start
time is left out for contenders in this process, and included for ffmpeg (some 0.05 s). Ours also makes the JPEG
thumbnail that is stored as evidence; the others do not.

1080p H.264 is measured unchanged, and encoded again with a keyframe every 0.5, 1 and 2 s, as live encoders, cameras and
packagers do; the pictures are the same. ffmpeg is the reference: install it with the system's package manager (Debian:
apt-get install ffmpeg). torchcodec (which needs FFmpeg's libraries, as in ffmpeg's package), decord2 and OpenCV take
part if they are installed (pip install -e '.[bench]'). Takes six minutes on two idle cores. --quick takes a minute: one
video, 24 s of it, and no report unless --out names a file.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import av
from ratio import Ratio, add_ratios_option, write_ratios
from sampling_peers import PEERS, REFERENCE, Contender, contenders, missing_peers
from sampling_videos import ROOT, Subject, subjects, without_sound

SECONDS, QUICK_SECONDS = 60.0, 24.0
REPEAT_COUNT = 3
WARM_UP_SECONDS = 2.0
SHORT_SECONDS, LONG_SECONDS = 1.01, 2.02  # longest keyframe distances of the groups "1 s and under" and "2 s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The result of a contender on a video, the median over the repeats."""

    subject: Subject
    contender: str
    frame_count: int
    cpu_seconds_per_hour: float
    wall_seconds_per_hour: float

    def as_json(self) -> str:
        return json.dumps({**asdict(self), "subject": f"{self.subject.name}: {self.subject.about}"})


# ---- measuring


def descendants(process_id: int) -> list[int]:
    """Return the ids of the living children of a process, and of all their children."""
    found = []
    for listing in Path(f"/proc/{process_id}/task").glob("*/children"):
        for child in map(int, listing.read_text().split()):
            found += [child, *descendants(child)]
    return found


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its children; of living children only where /proc exists."""
    spent = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        spent += usage.ru_utime + usage.ru_stime
    for process_id in descendants(os.getpid()) if Path("/proc/self/stat").exists() else ():
        fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
        spent += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")  # utime, stime, cutime, cstime
    return spent


def measure(
    subject: Subject, table: Sequence[Contender], repeats: int, note: Callable[[str], None]
) -> list[Measurement]:
    """Measure every contender on one video, in turns."""
    note(f"{subject.name}, {subject.about}, {subject.duration_seconds:.0f} s")
    counts: dict[str, int] = {}
    spent: dict[str, list[tuple[float, float]]] = {}
    for repeat in range(repeats):
        in_turn = [*table[repeat % len(table) :], *table[: repeat % len(table)]]
        for one in in_turn:
            if (repeat and not one.is_judged) or (one.is_peer and not subject.is_full_hd_h264):
                continue
            cpu, wall = cpu_seconds(), time.perf_counter()
            counts[one.name] = one.run(subject.path)
            spent.setdefault(one.name, []).append((cpu_seconds() - cpu, time.perf_counter() - wall))
    per_hour = 3600 / subject.duration_seconds
    return [
        Measurement(
            subject=subject,
            contender=one.name,
            frame_count=counts[one.name],
            cpu_seconds_per_hour=statistics.median(cpu for cpu, _ in spent[one.name]) * per_hour,
            wall_seconds_per_hour=statistics.median(wall for _, wall in spent[one.name]) * per_hour,
        )
        for one in table
        if one.name in counts
    ]


# ---- figures


def worst(
    name: str,
    results: Sequence[Measurement],
    contender: str,
    reference: str,
    *,
    gops: tuple[float, float] = (0, float("inf")),
    target: str = "",
    bounded_by: str = "",
) -> list[Ratio]:
    """Return our highest ratio over the 1080p H.264 videos with this keyframe distance; none without such a video."""
    found = {(one.subject.path, one.contender): one for one in results if one.subject.is_full_hd_h264}
    ratios = []
    for (path, of), our in found.items():
        other = found.get((path, reference))
        if of != contender or other is None or not gops[0] < our.subject.gop_seconds <= gops[1]:
            continue
        about = f"{our.subject.name}, keyframe every {our.subject.gop_seconds:.1f} s"
        ratios.append(
            Ratio(
                name=f"sampling: {name}",
                ours=our.cpu_seconds_per_hour,
                reference=other.cpu_seconds_per_hour,
                unit="CPU s per video hour",
                against=f"{reference}, {about}",
                target=target,
                bounded_by=bounded_by,
            )
        )
    return [max(ratios, key=lambda one: one.ratio)] if ratios else []


def figures(results: Sequence[Measurement]) -> list[Ratio]:
    """Return the figure of each target, on the video where it is worst, and our figures beside other libraries."""
    exact, fast, keyframes = "ours, exact", "ours, fast", "ours, keyframes"
    far, every = (LONG_SECONDS, float("inf")), (0.0, float("inf"))
    decoding = "What a tick's picture refers to is decoded, back to the keyframe"
    ratios = worst(
        "exact", results, exact, REFERENCE, gops=every, target="<= 1.0",
        bounded_by=f"{decoding}; saved are pictures that no other refers to, so more of them where the encoder"
        " made many.",
    )  # fmt: skip
    ratios += worst(
        "fast, keyframe every 2 s", results, fast, REFERENCE, gops=(SHORT_SECONDS, LONG_SECONDS), target="<= 0.5",
        bounded_by="Every other tick has no keyframe within half a second: a quarter of the group is decoded for it,"
        " without pictures that no other refers to.",
    )  # fmt: skip
    ratios += worst(
        "fast, keyframe every 1 s or less", results, fast, REFERENCE, gops=(0, SHORT_SECONDS), target="<= 0.2",
        bounded_by="One keyframe a second is decoded, which is over half of it; the rest is scaling, the JPEG, and"
        " Python's arithmetic of timestamps.",
    )  # fmt: skip
    ratios += worst(
        "keyframes", results, keyframes, REFERENCE, gops=every, target="<= 0.15",
        bounded_by="As fast: decoding the keyframe is over half of it, scaling and the JPEG most of the rest.",
    )  # fmt: skip
    ratios += worst(
        "fast, keyframes further apart", results, fast, REFERENCE, gops=far,
        bounded_by=f"{decoding}, without pictures that no other refers to.",
    )  # fmt: skip
    ratios += worst(
        "exact beside one thread", results, exact, f"{REFERENCE}, one thread", gops=every, bounded_by=f"{decoding}."
    )
    for peer in PEERS:
        bound = f"{decoding}, by both; ours also makes a JPEG."
        ratios += worst(f"exact beside {peer}", results, exact, peer, bounded_by=bound)
        ratios += worst(f"fast beside {peer}", results, fast, peer, bounded_by=bound)
    return ratios


# ---- report


def machine() -> str:
    """Describe this machine in a few words."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    load = f"load average {os.getloadavg()[0]:.0f}"  # above our own load, the machine had other work too
    return f"{os.cpu_count()} cores of {model}, {load}, {platform.system()}, Python {platform.python_version()}"


def command() -> str:
    """Return the command as typed, with files by name and without folders."""
    return " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *(Path(word).name for word in sys.argv[1:])])


def ffmpeg_version() -> str:
    if not shutil.which("ffmpeg"):
        return "no ffmpeg command here"
    return subprocess.run(["ffmpeg", "-version"], capture_output=True, text=True).stdout.split(" Copyright")[0]


def cell(own: dict[str, Measurement], name: str, reference: str) -> str:
    if name not in own:
        return "-"
    one = own[name]
    share = one.cpu_seconds_per_hour / own[reference].cpu_seconds_per_hour
    return f"{one.cpu_seconds_per_hour:.0f} ({share:.2f}) {one.frame_count}"


def report(results: Sequence[Measurement], ratios: Sequence[Ratio], repeats: int) -> str:
    names = list(dict.fromkeys(result.contender for result in results))
    lines = [
        "# One picture a second: CPU seconds per hour of video",
        "",
        f"`{command()}`, {date.today()}, {machine()}; PyAV {av.__version__}, {ffmpeg_version()}.",
        f"ffmpeg fps=1 and ours: median of {repeats}; the others once; in turns. Video streams alone, same bytes,"
        " 224 x 224 RGB out. Ours also makes a JPEG thumbnail of each picture.",
    ]
    if missing := missing_peers():
        lines.append(f"Not installed, so not measured: {', '.join(missing)}.")
    lines += ["", "| figure, on its worst video | ratio | target | met |", "| --- | --- | --- | --- |"]
    for one in ratios:
        met = {True: "yes", False: "**no**", None: ""}[one.met]
        lines.append(f"| {one.name.partition(': ')[2]} ({one.against}) | {one.ratio:.3f} | {one.target} | {met} |")
    lines += ["", f"In brackets: the share of {names[0]}; then pictures delivered.", ""]
    lines += ["| video | " + " | ".join(names) + " |", "| --- " * (len(names) + 1) + "|"]
    for subject in dict.fromkeys(result.subject for result in results):
        own = {result.contender: result for result in results if result.subject is subject}
        cells = [cell(own, name, names[0]) for name in names]
        lines.append(
            f"| {subject.name}: {subject.about}, {subject.duration_seconds:.0f} s | " + " | ".join(cells) + " |"
        )
    bounds = dict.fromkeys(f"- **{one.name.partition(': ')[2]}**: {one.bounded_by}" for one in ratios if one.target)
    return "\n".join([*lines, "", "What bounds each:", "", *bounds, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--quick", action="store_true", help="one video, 24 s of it, no report")
    parser.add_argument("--seconds", type=float, help="seconds of each video")
    parser.add_argument("--repeats", type=int, default=REPEAT_COUNT)
    parser.add_argument("--json", action="store_true", help="print JSON, one object a line, instead of tables")
    parser.add_argument("--out", type=Path, help="write the report there")
    add_ratios_option(parser)
    args = parser.parse_args()
    out = args.out or (None if args.quick else ROOT / "benchmarks" / "results" / "sampling.md")
    seconds = args.seconds or (QUICK_SECONDS if args.quick else SECONDS)
    results: list[Measurement] = []
    with tempfile.TemporaryDirectory() as name, contenders() as table:
        chosen = subjects(args.files, Path(name), seconds=seconds, is_quick=args.quick)
        (warm := Path(name) / "warm").mkdir()
        measure(
            without_sound(chosen[0].path, warm, WARM_UP_SECONDS), table, 1, lambda _: None
        )  # warm-up: imports, and the start of the child process
        for subject in chosen:
            results += measure(subject, table, args.repeats, lambda line: print(line, file=sys.stderr))
    ratios = figures(results)
    text = report(results, ratios, args.repeats)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text)
    write_ratios(args.ratios, ratios)
    print("\n".join(result.as_json() for result in results) if args.json else text)


if __name__ == "__main__":
    main()
