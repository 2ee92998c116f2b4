"""Asks an indexed library the questions with known answers, and counts the right answers.

    python benchmarks/library.py DATA QUERIES.json [--half train|report|both] [--out FILE.md] [--verbose]

DATA is a data directory with the videos of QUERIES.json (kinodex index FILES --data DATA). The counts:
- spoken moments, asked of the whole library: right video first, overlapping span, tIoU >= 0.5
- visual moments: the same, and asked of their own video alone
- whole videos by caption, over all videos: recall@1, @5, @10 and median rank
- questions that no video answers: how many are not called a MATCH
"""

import argparse
import json
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np

from serve.search.library import Library
from serve.settings import load_settings
from serve.values import Filter, Moment, Query, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """A line of the table."""

    name: str
    asked_count: int
    shares: tuple[tuple[str, float], ...]

    def __str__(self) -> str:
        return f"| {self.name} | {self.asked_count} | " + ", ".join(f"{n} {v:.2f}" for n, v in self.shares) + " |"


def tiou(moment: Moment, start: float, end: float) -> float:
    shared = min(moment.end_seconds, end) - max(moment.start_seconds, start)
    union = max(moment.end_seconds, end) - min(moment.start_seconds, start)
    return max(shared, 0.0) / union if union else 0.0


def share(flags: Sequence[bool]) -> float:
    return sum(flags) / max(len(flags), 1)


def ask_moments(library: Library, truths: Sequence[dict], say: Callable[[str], None], name: str) -> Tally:
    """Ask the whole library for each moment, and judge the first answer."""
    right, overlapping, good, matched = [], [], [], []
    for truth in truths:
        answer = library.moments(Query(text=truth["query"], limit=5)).moments
        best = answer[0] if answer else None
        is_right = best is not None and Path(best.uri).name == truth["file"]
        found = tiou(best, truth["start_seconds"], truth["end_seconds"]) if best is not None and is_right else 0.0
        right.append(is_right)
        overlapping.append(found > 0)
        good.append(found >= 0.5)
        matched.append(best is not None and best.verdict is Verdict.MATCH)
        if found < 0.5 and best is not None:
            say(
                f"  {truth['query']!r} [{truth['start_seconds']}, {truth['end_seconds']}) of {truth['file']}: "
                f"{Path(best.uri).name} [{best.start_seconds:.1f}, {best.end_seconds:.1f}) {best.verdict} "
                f"{best.confidence:.2f} v={best.visual_score} s={best.speech_score} {best.transcript[:70]!r}"
            )
    return Tally(
        name=name,
        asked_count=len(truths),
        shares=(
            ("right video first", share(right)),
            ("overlapping", share(overlapping)),
            ("tIoU >= 0.5", share(good)),
            ("called a MATCH", share(matched)),
        ),
    )


def ask_within(library: Library, truths: Sequence[dict], ids: dict[str, str]) -> Tally:
    """Ask the right video alone for each visual moment, and judge the first answer."""
    inside, third, half = [], [], []
    for truth in truths:
        query = Query(text=truth["query"], limit=1, channel="visual", filter=Filter(video_ids=(ids[truth["file"]],)))
        answer = library.moments(query).moments
        found = tiou(answer[0], truth["start_seconds"], truth["end_seconds"]) if answer else 0.0
        at = answer[0].best_frame_seconds if answer else None
        inside.append(at is not None and truth["start_seconds"] <= at < truth["end_seconds"])
        third.append(found >= 0.3)
        half.append(found >= 0.5)
    return Tally(
        name="moments, visual, inside the right video",
        asked_count=len(truths),
        shares=(("best frame inside", share(inside)), ("R1@0.3", share(third)), ("R1@0.5", share(half))),
    )


def ask_videos(library: Library, videos: Sequence[dict], field: str, channel: str) -> Tally:
    """Ask for each video by its caption."""
    ranks = []
    for video in videos:
        answer = library.search(Query(text=video[field], limit=100, channel=channel)).videos
        names = [Path(found.uri).name for found in answer]
        ranks.append(names.index(video["file"]) + 1 if video["file"] in names else 1000)
    return Tally(
        name=f"videos by {field}, channel {channel}",
        asked_count=len(videos),
        shares=(
            *((f"recall@{k}", share([r <= k for r in ranks])) for k in (1, 5, 10)),
            ("median rank", float(np.median(ranks))),
        ),
    )


def ask_absent(library: Library, queries: Sequence[dict], say: Callable[[str], None], channel: str) -> Tally:
    """Ask the questions that no video answers."""
    verdicts = []
    for query in queries:
        answer = library.moments(Query(text=query["query"], limit=1)).moments
        verdicts.append(answer[0].verdict if answer else Verdict.NO_MATCH)
        if answer and answer[0].verdict is Verdict.MATCH:
            say(f"  absent, called a MATCH: {query['query']!r}: {answer[0]}")
    return Tally(
        name=f"absent, {channel}",
        asked_count=len(queries),
        shares=(
            ("not a MATCH", share([v is not Verdict.MATCH for v in verdicts])),
            ("NO_MATCH", share([v is Verdict.NO_MATCH for v in verdicts])),
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("queries", type=Path)
    parser.add_argument("--half", choices=("train", "report", "both"), default="both")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    say = print if args.verbose else lambda line: None
    truth = json.loads(args.queries.read_text())
    wanted = {kind: [q for q in truth[kind] if args.half in ("both", q["half"])] for kind in truth}
    with Library.open(args.data, load_settings(args.data, None)) as library:
        ids = {Path(video.uri).name: video.video_id for video in library.videos()}
        here = set(ids)
        whole = [v for v in wanted["videos"] if v["file"] in here]
        tallies = []
        for channel in ("speech", "visual"):
            moments = [m for m in wanted["moments"] if m["channel"] == channel and m["file"] in here]
            tallies.append(ask_moments(library, moments, say, f"moments, {channel}"))
        tallies.append(ask_within(library, moments, ids))  # the visual moments
        for name in ("caption", "alt"):
            named = [v for v in whole if v.get(name)]
            tallies += [ask_videos(library, named, name, channel) for channel in ("all", "visual")]
        for channel in ("speech", "visual"):
            absent = [a for a in wanted["absent"] if a["channel"] == channel]
            tallies.append(ask_absent(library, absent, say, channel))
        lines = ["| asked | count | share |", "| --- | --- | --- |", *map(str, tallies)]
        print("\n".join(lines))
        if args.out is not None:
            head = [
                "# Questions with known answers",
                "",
                f"`python {' '.join(sys.argv)}`, {date.today()}, {platform.machine()}.",
                f"Encoders: {library.encoders.space}.",
                f"Half: {args.half}; {len(here)} videos in the library; every question is asked of the whole library.",
                "",
            ]
            args.out.write_text("\n".join([*head, *lines, ""]))


if __name__ == "__main__":
    main()
