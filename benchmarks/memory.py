"""Measures whether memory stays level over an hour of 1080p video: resident bytes of the parent and of its child.

    python benchmarks/memory.py [FILE] [--minutes N] [--out FILE.md]

FILE is remuxed repeatedly, picture and sound, into a long file in a temporary folder. That file is decoded in a child
process, as in `kinodex index`. Without FILE it is a real 1080p video if one is beside the checkout, else a synthetic
video.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from fractions import Fraction
from pathlib import Path

import av
from sampling import ROOT, command, descendants, machine
from sampling_videos import synthetic

from ingest.config import DecodeConfig
from ingest.sandbox.pool import DecodePool
from ingest.values import DecodeSummary, Frame

REPORTED_MINUTES = (1, 5, 15, 30, 60)  # minutes of media time in the report
REAL_FILE = "Emu__test_video.mp4"  # 1080p H.264 with sound, two minutes


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Resident memory at a media time."""

    media_seconds: float
    parent_bytes: int
    child_bytes: int


def repeated(path: Path, target: Path, *, seconds: float, pause_seconds: Fraction = Fraction(0)) -> None:
    """Remux a file repeatedly up to a length, with continuous timestamps and an optional pause between repeats."""
    with av.open(str(target), "w") as sink:
        with av.open(str(path)) as source:
            # the first stream of each kind; decoding uses no others
            wanted = [*source.streams.video[:1], *source.streams.audio[:1]]
            copies = {stream.index: sink.add_stream_from_template(stream, opaque=True) for stream in wanted}
        offset = Fraction(0)
        while offset < seconds:
            end = offset
            with av.open(str(path)) as source:
                for packet in source.demux([source.streams[index] for index in copies]):
                    if packet.dts is None or packet.pts is None:
                        continue
                    base = packet.time_base
                    end = max(end, offset + (packet.pts + packet.duration) * base)
                    packet.pts += round(offset / base)
                    packet.dts += round(offset / base)
                    packet.stream = copies[packet.stream.index]
                    sink.mux(packet)
            offset = end + pause_seconds


def resident_bytes(process_id: int) -> int:
    for line in Path(f"/proc/{process_id}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024  # "VmRSS:  1234 kB"
    return 0  # the process has just ended


def readings(path: Path) -> Iterator[Reading]:
    """Decode a file in the child process. Yield the memory at each picture, and at the end."""
    last = 0.0
    with DecodePool(DecodeConfig(), workers=1) as pool, path.open("rb", buffering=0) as file:
        for item in pool.decode(file, uri=path.name, config=DecodeConfig()):
            if isinstance(item, Frame | DecodeSummary):
                last = item.pts_seconds if isinstance(item, Frame) else item.duration_seconds
                yield Reading(
                    media_seconds=last,
                    parent_bytes=resident_bytes(os.getpid()),
                    child_bytes=sum(map(resident_bytes, descendants(os.getpid()))),
                )


def report(path: Path, size_bytes: int, taken: list[Reading], wall_seconds: float) -> str:
    lines = [
        "# Memory over an hour of video",
        "",
        f"`{command()}`, {date.today()}, {machine()}; PyAV {av.__version__}.",
        f"{path.name} remuxed end to end, {size_bytes / 1e6:.0f} MB, picture and sound, sampling fast, decoded through",
        f"the child process in {wall_seconds:.0f} s. Resident memory in MiB; peak: highest at any picture until then.",
        "",
        "| media time | parent | child | peak of parent | peak of child |",
        "| --- | --- | --- | --- | --- |",
    ]
    marks = [minutes * 60.0 for minutes in REPORTED_MINUTES if minutes * 60 <= taken[-1].media_seconds]
    for mark in marks or [taken[-1].media_seconds]:
        before = [reading for reading in taken if reading.media_seconds <= mark]
        values = (
            before[-1].parent_bytes,
            before[-1].child_bytes,
            max(reading.parent_bytes for reading in before),
            max(reading.child_bytes for reading in before),
        )
        lines.append(f"| {mark / 60:.0f} min | " + " | ".join(f"{value / 2**20:.0f}" for value in values) + " |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--minutes", type=float, default=60.5)  # a little more than 60, so that minute 60 is reported
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "memory.md")
    args = parser.parse_args()
    if not Path("/proc/self/status").exists():
        sys.exit("memory.py reads /proc, which this system does not have")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = args.file or ROOT.parent / "shared" / "videos" / "files" / REAL_FILE
        if not path.exists():
            path = synthetic(folder / "synthetic.mp4", width=1920, height=1080)
        long = folder / "long.mkv"  # Matroska can hold every codec
        repeated(path, long, seconds=args.minutes * 60)
        started = time.monotonic()
        taken = list(readings(long))
        text = report(path, long.stat().st_size, taken, time.monotonic() - started)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
