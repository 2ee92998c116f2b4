"""Compares every file of a folder with ffprobe: duration, the pictures of each second and their times, and sound.

    python benchmarks/corpus.py FOLDER [--sampling fast|exact] [--json FILE]

Each file is decoded as the product does it, in a child process. ffprobe decodes it too, from end to end. Time zero is
the earlier of the first picture and the first sound. Each difference is explained by a class, such as "damaged" (both
sides met errors) or "over a limit"; the files of each class are counted. What nothing explains is listed, and the exit
status is then 1. Two files run at a time.
"""

import argparse
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from corpus_difference import Decoded, Difference, differences
from corpus_truth import probe

from ingest.config import DecodeConfig, SamplingPolicy
from ingest.errors import IngestError, LimitExceeded
from ingest.sandbox.pool import DecodePool
from ingest.values import AudioBlock, DecodeSummary, Frame

WORKER_COUNT = 2
MAX_WALL_SECONDS = 600.0  # bound of our decoding of one file; samples are short
SAME, UNEXPLAINED = "same", "unexplained"


@dataclass(frozen=True, slots=True)
class Row:
    """The outcome of one file."""

    path: str
    differences: list[Difference]

    @property
    def label(self) -> str:
        """Its class: that of the first difference which nothing explains, else of the first one."""
        if not self.differences:
            return SAME
        return UNEXPLAINED if not all(one.reason for one in self.differences) else self.differences[0].reason


def decode(pool: DecodePool, path: Path, sampling: SamplingPolicy) -> Decoded:
    """Decode one file as the product does."""
    config = DecodeConfig(sampling=sampling, input_width=64, input_height=64, max_wall_seconds=MAX_WALL_SECONDS)
    ours = Decoded()
    try:
        with path.open("rb", buffering=0) as file:
            for item in pool.decode(file, uri=path.name, config=config):
                if isinstance(item, Frame):
                    ours.pictures.append(item.pts_seconds)
                elif isinstance(item, AudioBlock):
                    ours.sound.append((item.start_seconds, item.end_seconds))
                elif isinstance(item, DecodeSummary):
                    ours.duration_seconds, ours.error_count = item.duration_seconds, item.error_count
                    ours.is_truncated, ours.epoch_count = item.truncated, item.epoch_count
    except IngestError as error:
        ours.error = error.reason
        ours.limit = error.limit if isinstance(error, LimitExceeded) else ""
    return ours


def compare(folder: Path, sampling: SamplingPolicy) -> Iterator[Row]:
    """Yield the outcome of each file of a folder, at any depth, in the order of names."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    config = DecodeConfig()
    with DecodePool(config, workers=WORKER_COUNT) as pool, ThreadPoolExecutor(WORKER_COUNT) as threads:

        def run(path: Path) -> Row:
            found = differences(probe(path), decode(pool, path, sampling), is_exact=sampling == "exact")
            return Row(str(path.relative_to(folder)), found)

        for count, row in enumerate(threads.map(run, paths), 1):
            if sys.stderr.isatty():
                print(f"\r\x1b[K{count} of {len(paths)}: {row.path[-60:]}", end="", file=sys.stderr, flush=True)
            yield row
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)


def report(rows: Sequence[Row]) -> str:
    """Return a table of the classes, and the list of what nothing explains."""
    counts = Counter(row.label for row in rows)
    lines = ["| class | files | for example |", "| --- | --- | --- |"]
    for label, count in counts.most_common():
        example = next(row for row in rows if row.label == label)
        text = example.differences[0].text if example.differences else ""
        lines.append(f"| {label} | {count} | {example.path}{': ' if text else ''}{text} |")
    for row in rows:
        lines += [
            f"- {row.path}: {one.figure}: {one.text}"
            for one in row.differences
            if row.label == UNEXPLAINED and not one.reason
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sampling", choices=("fast", "exact"), default="fast")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every file's differences there")
    args = parser.parse_args()
    if shutil.which("ffprobe") is None:
        sys.exit("ffprobe is missing: install the system's ffmpeg package (Debian: apt-get install ffmpeg)")
    if not args.folder.is_dir():
        sys.exit(f"not a folder: {args.folder}")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    rows = list(compare(args.folder, args.sampling))
    if args.json is not None:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    print(report(rows))
    sys.exit(any(row.label == UNEXPLAINED for row in rows))


if __name__ == "__main__":
    main()
