"""Measure what one picture a second costs: CPU seconds per hour of video, ours and others', side by side.

    python benchmarks/sampling.py [FILES...] [--repeats N] [--json] [--out FILE.md]

All read the same bytes: each file's video stream alone, remuxed without sound. All deliver 224 x 224 RGB pictures, the
whole picture's shorter side scaled and the middle cut out. CPU seconds are user + system of this process or, for
ffmpeg and for our child process, of that one. Contenders take turns; the median of the repeats counts. The time to
start is left out for those that run in this process, and is in for ffmpeg (some 0.05 s). Ours also makes the JPEG
thumbnail that is kept as evidence; the others do not. OpenCV takes part where it is installed.
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
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from ingest.config import DecodeConfig, SamplingPolicy
from ingest.decode import decode
from ingest.sandbox import DecodePool
from ingest.values import Decoded, Frame

ROOT = Path(__file__).resolve().parents[1]
INPUT_PX = 224
# Real videos beside the checkout, long enough that starting hardly counts, one for each common codec and size.
REAL_FILES = (
    "Emu__test_video.mp4",
    "MiniCPM-o__demo_video.mp4",
    "sam2__05_default_juggle.mp4",
    "VideoLLaMA2__00003491.mp4",
    "moviepy__second_vid.mp4",
    "hls.js__demo_video_560-566_concat.ts",
    "simpl__video.webm",
    "simpl__av1-2018-06_550.webm",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One video without sound, ready to be measured."""

    path: Path
    name: str
    about: str
    duration_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What one contender did with one video, the median over the repeats."""

    file: str
    contender: str
    frame_count: int
    cpu_seconds_per_hour: float
    wall_seconds_per_hour: float


# ---- contenders: each takes a file's path, and returns how many pictures it made


def count_frames(items: Iterable[Decoded]) -> int:
    return sum(isinstance(item, Frame) for item in items)


def ours(sampling: SamplingPolicy) -> Callable[[Path], int]:
    config = DecodeConfig(sampling=sampling, input_width=INPUT_PX, input_height=INPUT_PX)

    def run(path: Path) -> int:
        with path.open("rb", buffering=0) as file:
            return count_frames(decode(file, uri=path.name, config=config))

    return run


def ours_in_child(pool: DecodePool, sampling: SamplingPolicy) -> Callable[[Path], int]:
    config = DecodeConfig(sampling=sampling, input_width=INPUT_PX, input_height=INPUT_PX)

    def run(path: Path) -> int:
        with path.open("rb", buffering=0) as file:
            return count_frames(pool.decode(file, uri=path.name, config=config))

    return run


def ffmpeg(*options: str, filters: str = "fps=1,") -> Callable[[Path], int]:
    fit = f"scale={INPUT_PX}:{INPUT_PX}:force_original_aspect_ratio=increase,crop={INPUT_PX}:{INPUT_PX}"

    def run(path: Path) -> int:
        command = ["ffmpeg", "-nostdin", "-loglevel", "error", *options, "-i", str(path), "-an"]
        command += ["-vf", filters + fit, "-fps_mode", "passthrough"]
        command += ["-pix_fmt", "rgb24", "-f", "rawvideo", "pipe:1"]
        count, size = 0, INPUT_PX * INPUT_PX * 3
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            while process.stdout.read(size):
                count += 1
        return count

    return run


def naive_pyav(path: Path) -> int:
    """Decode every frame, convert the first one of each second."""
    count, begin = 0, None
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            if frame.time is None:
                continue
            begin = frame.time if begin is None else begin
            if frame.time - begin >= count:
                frame.reformat(width=INPUT_PX, height=INPUT_PX, format="rgb24").to_ndarray()
                count += 1
    return count


def opencv(path: Path) -> int:
    """Decode every frame, as the loops in tutorials do."""
    import cv2

    capture, count = cv2.VideoCapture(str(path)), 0
    while True:
        is_read, picture = capture.read()
        if not is_read:
            return count
        if capture.get(cv2.CAP_PROP_POS_MSEC) >= count * 1000:
            cv2.cvtColor(cv2.resize(picture, (INPUT_PX, INPUT_PX)), cv2.COLOR_BGR2RGB)
            count += 1


@contextmanager
def contenders() -> Iterator[dict[str, Callable[[Path], int]]]:
    """Give the contenders of this machine by name; the reference, ffmpeg where it is installed, comes first."""
    table: dict[str, Callable[[Path], int]] = {}
    if shutil.which("ffmpeg"):
        table["ffmpeg fps=1"] = ffmpeg()
        table["ffmpeg fps=1, one thread"] = ffmpeg("-threads", "1")  # as ours: threads cost some CPU time
        table["ffmpeg keyframes"] = ffmpeg("-skip_frame", "nokey", filters="")
    table["PyAV, every frame"] = naive_pyav
    try:
        import cv2  # noqa: F401

        table["OpenCV, every frame"] = opencv
    except ImportError:
        pass
    policies: tuple[SamplingPolicy, ...] = ("exact", "fast", "keyframes")
    table |= {f"ours, {policy}": ours(policy) for policy in policies}
    with DecodePool(DecodeConfig(), workers=1) as pool:
        if Path("/proc/self/stat").exists():  # the child's CPU time is read there
            table["ours, fast, in the child process"] = ours_in_child(pool, "fast")
        yield table


# ---- measuring


def descendants(process_id: int) -> list[int]:
    """Return the ids of the living children of a process, and of theirs."""
    found = []
    for listing in Path(f"/proc/{process_id}/task").glob("*/children"):
        for child in map(int, listing.read_text().split()):
            found += [child, *descendants(child)]
    return found


def cpu_seconds() -> float:
    """Return the CPU time of this process, of its ended children, and of its living ones where /proc tells."""
    spent = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        spent += usage.ru_utime + usage.ru_stime
    for process_id in descendants(os.getpid()) if Path("/proc/self/stat").exists() else ():
        fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
        spent += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")  # utime, stime, cutime, cstime
    return spent


def measure(
    subjects: Sequence[Subject], table: dict[str, Callable[[Path], int]], repeats: int, note: Callable[[str], None]
) -> list[Measurement]:
    """Measure every contender on every video, in turns."""
    results = []
    for subject in subjects:
        note(f"{subject.name}, {subject.about}, {subject.duration_seconds:.0f} s")
        counts: dict[str, int] = {}
        spent: dict[str, list[tuple[float, float]]] = {name: [] for name in table}
        if subject is subjects[0]:
            for run in table.values():
                run(subject.path)  # once unmeasured: imports, and the child's start
        for repeat in range(repeats):
            names = list(table)
            for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
                cpu, wall = cpu_seconds(), time.perf_counter()
                counts[name] = table[name](subject.path)
                spent[name].append((cpu_seconds() - cpu, time.perf_counter() - wall))
        per_hour = 3600 / subject.duration_seconds
        results += [
            Measurement(
                file=subject.name,
                contender=name,
                frame_count=counts[name],
                cpu_seconds_per_hour=statistics.median(cpu for cpu, _ in spent[name]) * per_hour,
                wall_seconds_per_hour=statistics.median(wall for _, wall in spent[name]) * per_hour,
            )
            for name in table
        ]
    return results


# ---- what is measured


def without_sound(path: Path, folder: Path) -> Subject:
    """Remux the video stream of a file alone."""
    target = folder / path.name
    keyframe_count = 0
    with av.open(str(path)) as source, av.open(str(target), "w") as sink:
        stream = source.streams.video[0]
        copy = sink.add_stream_from_template(stream, opaque=True)
        for packet in source.demux(stream):
            if packet.dts is None:
                continue
            keyframe_count += packet.is_keyframe
            packet.stream = copy
            sink.mux(packet)
    with av.open(str(target)) as container:
        stream, times = container.streams.video[0], []
        for packet in container.demux(stream):
            if packet.pts is not None and packet.time_base is not None:
                times.append(float(packet.pts * packet.time_base))
        context = stream.codec_context
        rate = float(stream.average_rate or 0)
        duration_seconds = max(times) - min(times) + 1 / max(rate, 1.0)
        gap = duration_seconds / max(keyframe_count, 1)
        size = f"{context.width}x{context.height}"
        about = f"{context.codec.canonical_name} {size}, {rate:.0f} fps, keyframe every {gap:.1f} s"
    return Subject(path=target, name=path.name, about=about, duration_seconds=duration_seconds)


def synthetic(path: Path, *, seconds: int = 20, width: int = 1280, height: int = 720) -> Path:
    """Make an H.264 video: noise that drifts, so that every frame costs something, a keyframe every 250 frames."""
    rng, rate = np.random.default_rng(0), 30
    noise = rng.integers(0, 256, (height // 8, width // 8 + seconds * rate // 4, 3), np.uint8)
    texture = noise.repeat(8, axis=0).repeat(8, axis=1)
    with av.open(str(path), "w") as sink:
        stream = sink.add_stream("libx264", rate=Fraction(rate))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "veryfast", "g": "250"}
        for index in range(seconds * rate):
            picture = np.ascontiguousarray(texture[:, index * 2 : index * 2 + width])
            sink.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        sink.mux(stream.encode())
    return path


def default_files(folder: Path) -> list[Path]:
    shared = ROOT.parent / "shared" / "videos" / "files"
    real = [shared / name for name in REAL_FILES if (shared / name).exists()]
    return real or [synthetic(folder / "synthetic.mp4")]


def machine() -> str:
    """Describe this machine in a few words."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    load = f"load average {os.getloadavg()[0]:.0f}"  # more than ours: the machine had other work too
    return f"{os.cpu_count()} cores of {model}, {load}, {platform.system()}, Python {platform.python_version()}"


def command() -> str:
    """Return the command as typed, with the names of files only."""
    return " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *(Path(word).name for word in sys.argv[1:])])


def ffmpeg_version() -> str:
    if not shutil.which("ffmpeg"):
        return "no ffmpeg command here"
    return subprocess.run(["ffmpeg", "-version"], capture_output=True, text=True).stdout.split(" Copyright")[0]


def report(subjects: Sequence[Subject], results: Sequence[Measurement], repeats: int) -> str:
    names = list(dict.fromkeys(result.contender for result in results))
    lines = [
        "# One picture a second: CPU seconds per hour of video",
        "",
        f"`{command()}`, {date.today()}, {machine()}; PyAV {av.__version__}, {ffmpeg_version()}.",
        f"Median of {repeats}, contenders in turns. In brackets: the share of {names[0]}; then pictures delivered.",
        "Video streams alone, same bytes, 224 x 224 RGB out. Ours also makes a JPEG thumbnail of each picture.",
        "",
        "| video | " + " | ".join(names) + " |",
        "| --- " * (len(names) + 1) + "|",
    ]
    for subject in subjects:
        own = {result.contender: result for result in results if result.file == subject.name}
        cells = [
            f"{own[name].cpu_seconds_per_hour:.0f} "
            f"({own[name].cpu_seconds_per_hour / own[names[0]].cpu_seconds_per_hour:.2f}) {own[name].frame_count}"
            for name in names
        ]
        lines.append(
            f"| {subject.name}: {subject.about}, {subject.duration_seconds:.0f} s | " + " | ".join(cells) + " |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one object a line instead of the table")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "sampling.md")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, contenders() as table:
        made, folder = Path(name) / "made", Path(name) / "silent"
        made.mkdir()
        folder.mkdir()
        subjects = [without_sound(path, folder) for path in args.files or default_files(made)]
        results = measure(subjects, table, args.repeats, lambda line: print(line, file=sys.stderr))
    text = report(subjects, results, args.repeats)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(text)
    print("\n".join(json.dumps(asdict(result)) for result in results) if args.json else text)


if __name__ == "__main__":
    main()
