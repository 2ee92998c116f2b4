"""Lays the figures of `kinodex eval --json` out as markdown tables: of one version, or of two, before and after.

    kinodex eval --queries QUERIES.json --data LIB --json > after.json
    python -m benchmarks.answers after.json [--before before.json] [--out FILE.md]

Both files must be answers to the same questions. A cell reads "before → after"; one value stands where both are equal.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Figures = Mapping[str, Any]
LIBRARY_COLUMNS = ("right-video", "right-seconds", "R1@0.3", "R1@0.5", "R1@0.7", "mIoU")
VIDEO_COLUMNS = ("right-seconds", "R1@0.5", "R1@0.7", "mIoU")
RANK_COLUMNS = ("R@1", "R@5", "R@10", "nDCG@10")


def halves_of(figures: Figures) -> Iterator[tuple[str, Figures]]:
    yield from figures["halves"].items()
    if len(figures["halves"]) > 1:
        yield "all", figures


def moment_rows(figures: Figures) -> dict[str, list[str]]:
    rows = {}
    for half, part in halves_of(figures):
        kinds = {f"kind {name}": each for name, each in part["kinds"].items()}
        for name, each in (part["moments"] | kinds).items():
            library, video = each["library"], each["video"]
            cells = [f"{library[column]:.0f}" for column in LIBRARY_COLUMNS]
            rows[f"{half}, {name}"] = [str(library["n"]), *cells, *(f"{video[column]:.0f}" for column in VIDEO_COLUMNS)]
    return rows


def video_rows(figures: Figures) -> dict[str, list[str]]:
    return {
        half: [str(part["videos"]["n"]), *(f"{part['videos'][column]:.0f}" for column in RANK_COLUMNS)]
        for half, part in halves_of(figures)
        if part["videos"]["n"]
    }


def verdict_rows(figures: Figures) -> dict[str, list[str]]:
    rows = {}
    for half, part in halves_of(figures):
        kinds = {f"kind {name}": each["verdicts"] for name, each in part["kinds"].items()}
        for name, each in (part["verdicts"] | kinds).items():
            matches = [f"{each[scope]['right']} of {each[scope]['match']}" for scope in ("first", "all")]
            shares = [share(each[scope]["precision"]) for scope in ("first", "all")]
            called = f"{each['right-first']['MATCH']} of {sum(each['right-first'].values())}"
            best = each["absent-best"]
            absent = [str(count) for count in best.values()] if sum(best.values()) else ["", "", ""]
            rows[f"{half}, {name}"] = [matches[0], shares[0], matches[1], shares[1], called, *absent]
    return rows


def confidence_rows(figures: Figures) -> dict[str, list[str]]:
    rows = {}
    for half, part in halves_of(figures):
        for name, each in part["reliability"].items():
            first, ten = each["first"], each["all"]
            if first is not None:
                low, high = first["ECE-interval"]
                cells = [f"{first['ECE']:.2f} ({low:.2f} to {high:.2f})", f"{first['ECE-by-chance']:.2f}"]
                cells += [f"{first['Brier']:.2f}", f"{ten['ECE']:.2f}", f"{ten['Brier']:.2f}"]
                rows[f"{half}, {name}"] = [str(first["n"]), *cells]
    return rows


TABLES: tuple[tuple[str, Sequence[str], Callable[[Figures], dict[str, list[str]]]], ...] = (
    (
        "Moments: the first answer, in per cent of the questions. After the bar: asked of the right video alone.",
        (
            "questions", "right video", "right seconds", "R1@0.3", "R1@0.5", "R1@0.7", "mIoU",
            "\\| right seconds", "R1@0.5", "R1@0.7", "mIoU",
        ),
        moment_rows,
    ),
    ("Whole videos, in per cent.", ("questions", *RANK_COLUMNS), video_rows),
    (
        "Verdicts. Of the answers called MATCH, how many are right; of the first answers that are right, how many are"
        " called MATCH; the best verdict of absent events.",
        (
            "first: right MATCHes", "%", "first ten: right MATCHes", "%", "right, called MATCH", "absent: MATCH",
            "WEAK", "NO_MATCH",
        ),
        verdict_rows,
    ),
    (
        "Confidence: expected calibration error (ECE) and Brier score of the first answers, then of the first ten.",
        ("questions", "ECE (95 %)", "ECE by chance", "Brier", "ten: ECE", "Brier"),
        confidence_rows,
    ),
)  # fmt: skip


def share(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def lay_out(after: Figures, before: Figures | None) -> list[str]:
    lines: list[str] = []
    for title, columns, rows_of in TABLES:
        rows, old = rows_of(after), {} if before is None else rows_of(before)
        lines += [title, "", f"| | {' | '.join(columns)} |", "| --- " * (len(columns) + 1) + "|"]
        for name, cells in rows.items():
            pairs = zip(old.get(name, cells), cells, strict=True)
            lines.append(
                f"| {name} | " + " | ".join(now if was == now else f"{was} → {now}" for was, now in pairs) + " |"
            )
        lines.append("")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("after", type=Path, help="printed by kinodex eval --json")
    parser.add_argument("--before", type=Path, help="the same of an earlier version")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    after = json.loads(args.after.read_text())
    before = json.loads(args.before.read_text()) if args.before is not None else None
    if before is not None and set(moment_rows(before)) != set(moment_rows(after)):
        sys.exit(f"{args.before} and {args.after} answer different questions")
    text = "\n".join(lay_out(after, before))
    print(text)
    if args.out is not None:
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
