"""Runs the benchmarks that have a reference, and collects their figures: `make bench`.

    python benchmarks/bench.py [NAMES...] [--full] [--results DIR]

Each benchmark is a command of its own (`python benchmarks/NAME.py --help`). They run one after the other, each in its
own process. --full runs them without --quick, and takes hours. Writes DIR/DATE-COMMIT.json, .md and .png. If a
benchmark fails, the others still run, and the exit status is 1.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from sampling import machine
from serving import ROOT, commit

BENCHMARKS = ("sampling", "encoding", "speech", "end_to_end", "query", "growth", "live_day", "milvus")
MET, MISSED, WITHOUT = "#2a7f62", "#c8553d", "#8d99ae"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """The outcome of a benchmark."""

    name: str
    seconds: float
    ratios: list[dict[str, Any]]
    failed: bool


def run(name: str, *, is_full: bool) -> Ran:
    """Run a benchmark, and pass its output through."""
    words = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *([] if is_full else ["--quick"])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])}
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "ratios.json"
        print(f"\n==== {name}", flush=True)
        status = subprocess.run([*words, "--ratios", str(file)], env=environment, cwd=ROOT, check=False).returncode
        ratios = json.loads(file.read_text()) if status == 0 and file.exists() else []
    return Ran(name=name, seconds=time.monotonic() - started, ratios=ratios, failed=status != 0)


def table(ratios: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        "| figure | ours | reference | unit | ratio | target | met |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in ratios:
        met = {True: "yes", False: "**no**", None: ""}[one["met"]]
        lines.append(
            f"| {one['name']} | {one['ours']:g} | {one['reference']:g} ({one['against']}) | {one['unit']} |"
            f" {one['ratio']:g} | {one['target']} | {met} |"
        )
    return lines


def plot(ratios: Sequence[dict[str, Any]], file: Path) -> None:
    """Draw every ratio and its target on a logarithmic axis."""
    figure, axes = plt.subplots(figsize=(9, 0.8 + 0.34 * len(ratios)), layout="constrained")
    for at, one in enumerate(reversed(ratios)):
        colour = {True: MET, False: MISSED, None: WITHOUT}[one["met"]]
        axes.plot([1, one["ratio"]], [at, at], color=colour, linewidth=7, solid_capstyle="butt")
        side, shift = ("left", 4) if one["ratio"] >= 1 else ("right", -4)
        near = {"textcoords": "offset points", "va": "center", "ha": side, "fontsize": 8}
        axes.annotate(f"{one['ratio']:g}", (one["ratio"], at), (shift, 0), **near)
        if one["target"]:
            axes.plot([float(one["target"].split()[1])] * 2, [at - 0.4, at + 0.4], color="black", linewidth=1.5)
    axes.set_yticks(range(len(ratios)), [f"{one['name']}  {one['target']}" for one in reversed(ratios)], fontsize=8)
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.set_xlabel("ours / reference; black: the target; green meets it, red does not, grey has none", fontsize=8)
    figure.savefig(file, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    args = parser.parse_args()
    if unknown := set(args.names) - set(BENCHMARKS):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}: there are {', '.join(BENCHMARKS)}")
    on, of = machine(), commit()
    ran = [run(name, is_full=args.full) for name in args.names or BENCHMARKS]
    ratios = [one for each in ran for one in each.ratios]
    stem = args.results / f"{date.today()}-{of.split()[0]}"
    whole = {"machine": on, "commit": of, "date": str(date.today()), "ratios": ratios}
    stem.with_suffix(".json").write_text(json.dumps(whole, indent=1) + "\n")
    lines = [f"# All figures beside their references: {of}", "", f"`make bench`, {date.today()}, {on}.", ""]
    lines += [*table(ratios), "", "What bounds each:", ""]
    lines += [f"- **{one['name']}**: {one['bounded_by']}" for one in ratios if one["bounded_by"]]
    if ratios:
        plot(ratios, stem.with_suffix(".png"))
        lines += ["", f"![ours over the reference, and the targets]({stem.name}.png)"]
    lines += ["", "Minutes: " + ", ".join(f"{one.name} {one.seconds / 60:.1f}" for one in ran) + ".", ""]
    stem.with_suffix(".md").write_text("\n".join(lines))
    print("\n" + "\n".join(table(ratios)))
    missed = [one["name"] for one in ratios if one["met"] is False]
    print(f"\n{stem.with_suffix('.json')}: {len(ratios)} figures, {len(missed)} targets missed")
    if failed := [one.name for one in ran if one.failed]:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
