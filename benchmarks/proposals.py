"""Measures whether another order of a video's proposed moments is better than temporal.moments' own.

    python -m benchmarks.proposals DATA QUERIES.json... [--report] [--out FILE.md]

DATA is a data directory with the videos of QUERIES.json (the format of `kinodex eval --queries`). Each question for a
sight is asked of its own video. The orders:
- today's;
- today's score plus one feature of a proposal, with the weight that is best on the other videos;
- a linear scorer of all features, fitted on the other videos (ridge regression of the tIoU);
- the best of the proposals, which no order can beat.
Features are relative to the curve of the question, so they do not depend on the encoder's scale. Everything is chosen
on the train half. --report adds the other half: ask for it once.
"""

import argparse
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serve.evaluate.questions import Question, names_of, read_all_questions
from serve.search.intent import read_intent
from serve.search.library import Library
from serve.settings import load_settings
from temporal.config import MomentConfig
from temporal.moments import moments
from temporal.moments.curve import median, per_second
from temporal.moments.moments import Scores, suppress, tiou
from temporal.moments.ranges import score_ranges, smooth_curve
from temporal.moments.shots import NO_CHANGES
from temporal.values import TimeSpan

CONFIG = MomentConfig()
FEATURES = (
    "score", "height", "ring contrast", "contrast to all else", "edges of the curve", "spread inside", "length",
    "share of the video", "changes at the edges", "strongest change inside", "agreement with other proposals", "peak",
    "length, if a slide or text is asked for", "length, if an action is asked for",
)  # fmt: skip
SLIDE = re.compile(r"\b(?:slide|text|title|logo|caption|heading|screen|page|chart|diagram)", re.IGNORECASE)
ACTION = re.compile(
    r"\b(?:jump|swing|throw|walk|run|come|go|turn|fall|pass|open|kick|catch|put|take|lift|bend|hit|roll|move|lean|enter)"
    r"(?:s|es|ing)?\b",
    re.IGNORECASE,
)
WEIGHTS = (0.0, -0.5, -0.25, -0.1, 0.1, 0.25, 0.5)  # of a feature beside today's score, both at unit spread
RIDGE = 0.1  # penalty of the linear scorer, features at unit spread
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The proposals of one question, in its own video."""

    file: str
    half: str
    features: Floats  # (N, len(FEATURES))
    overlaps: Floats  # (N,), tIoU with the truth
    kept: list[int]  # proposals after suppression, today's best first


def ask(library: Library, question: Question) -> Asked | None:
    """Collect the proposals of a question; None if its curve is flat, or the video is not there."""
    engine, visual = library.engine, library.engine.visual
    assert visual is not None
    with engine.snapshot():
        video = next((each for each in engine.videos.values() if question.file in names_of(each)), None)
        if video is None:
            return None
        curve = visual.score_frames(visual.encode_text(read_intent(question.text).text), video, None)
        if curve is None:
            return None
        visual._find_traits(curve)
    scores = Scores(
        pts_seconds=curve.frames.pts_seconds, scores=curve.values, epochs=curve.frames.epochs,
        duration_seconds=video.duration_seconds, changes=curve.frames.traits.changes or NO_CHANGES,
    )  # fmt: skip
    epochs = list(moments._epochs_of(0, scores, CONFIG))
    ranges = score_ranges([stretch for epoch in epochs for stretch in epoch.stretches()], CONFIG)
    parts, first = [], 0
    for epoch in epochs:
        parts.append(epoch.spans(ranges.of(first, first + len(epoch.regions)), first, CONFIG))
        first += len(epoch.regions)
    starts, ends, heights, _ = (np.concatenate(each) for each in zip(*parts, strict=True))
    if not len(starts):
        return None
    kept = suppress(starts, ends, heights, tiou_threshold=CONFIG.tiou_threshold, containment=CONFIG.containment_share)[
        : CONFIG.max_moments
    ]
    found = [TimeSpan(start_seconds=float(a), end_seconds=float(b)) for a, b in zip(starts, ends, strict=True)]
    return Asked(
        file=video.uri, half=question.half, kept=kept, features=describe(scores, starts, ends, heights, question.text),
        overlaps=np.array([max(tiou(span, truth) for truth in question.spans) for span in found]),
    )  # fmt: skip


def describe(video: Scores, starts: Floats, ends: Floats, heights: Floats, text: str) -> Floats:
    """Return the features of the proposals of one video, (N, len(FEATURES))."""
    curve = per_second(video.pts_seconds, video.scores, epochs=video.epochs, duration_seconds=video.duration_seconds)
    values, lengths = curve.values.astype(np.float64), curve.ends - curve.times
    middle = median(values)
    reach = max(float(smooth_curve(values, 1.0).max()) - middle, 1e-6)  # the scale of this question's curve
    strengths = video.changes.strengths
    ranks = (np.argsort(np.argsort(strengths)) + 1) / max(len(strengths), 1)

    def within(a: float, b: float) -> Floats:
        return np.clip(np.minimum(curve.ends, b) - np.maximum(curve.times, a), 0.0, None)

    def level(weights: Floats, otherwise: float) -> float:
        return float(weights @ values / weights.sum()) if weights.sum() > 0.1 else otherwise

    def change_at(seconds: float) -> float:
        if seconds < curve.times[0] + 0.6 or seconds > curve.ends[-1] - 0.6:
            return 1.0  # the ends of a video are changes
        return float(ranks[np.abs(video.changes.seconds - seconds) < 0.75].max(initial=0.0))

    length = ends - starts
    shared = np.minimum(ends[:, None], ends) - np.maximum(starts[:, None], starts)
    agree = np.clip(shared, 0, None) / (length[:, None] + length - np.clip(shared, 0, None))
    rows = []
    for n, (a, b) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        inside, long = within(a, b), max(b - a, 1.0)
        mean = level(inside, middle)
        wide, edge = max(long, 5.0), min(long, 3.0)
        rise = mean - level(within(a - edge, a), mean), mean - level(within(b, b + edge), mean)
        between = (video.changes.seconds > a + 0.75) & (video.changes.seconds < b - 0.75)
        rows.append([
            heights[n] / reach, (mean - middle) / reach,
            (mean - level(within(a - wide, b + wide) - inside, mean)) / reach,
            (mean - level(lengths - inside, mean)) / reach, sum(rise) / 2 / reach,
            float(np.sqrt(inside @ (values - mean) ** 2 / max(inside.sum(), 1e-6))) / reach, np.log(long),
            (b - a) / video.duration_seconds, (change_at(a) + change_at(b)) / 2, float(ranks[between].max(initial=0.0)),
            float(agree[n] @ np.clip(heights, 0, None)) / max(float(np.clip(heights, 0, None).sum()), 1e-9),
            (float(values[inside > 0.3].max(initial=mean)) - middle) / reach,
            np.log(long) * bool(SLIDE.search(text)), np.log(long) * bool(ACTION.search(text)),
        ])  # fmt: skip
    return np.array(rows)


def spread_of(asked: Sequence[Asked]) -> Floats:
    """Return the spread of each feature inside questions."""
    return np.concatenate([each.features - each.features.mean(axis=0) for each in asked]).std(axis=0) + 1e-9


def take(asked: Asked, weights: Floats) -> float:
    """Return the tIoU of the proposal that a linear scorer likes best."""
    return float(asked.overlaps[np.argmax(asked.features @ weights)])


def beside_score(feature: int) -> Callable[[Sequence[Asked]], Floats]:
    """Return a fit of today's score and one feature: the weight of the feature with the highest mean tIoU."""

    def fit(asked: Sequence[Asked]) -> Floats:
        spread, best, best_mean = spread_of(asked), np.zeros(len(FEATURES)), -1.0
        for weight in WEIGHTS:
            weights = np.zeros(len(FEATURES))
            weights[0], weights[feature] = 1 / spread[0], weight / spread[feature]
            if (mean := float(np.mean([take(each, weights) for each in asked]))) > best_mean:
                best, best_mean = weights, mean
        return best

    return fit


def ridge(asked: Sequence[Asked]) -> Floats:
    """Fit all features to the tIoU, each question with the same weight."""
    spread, size = spread_of(asked), len(FEATURES)
    gram, target = RIDGE * np.eye(size), np.zeros(size)
    for each in asked:
        features = (each.features - each.features.mean(axis=0)) / spread
        gram += features.T @ features / len(features) / len(asked)
        target += features.T @ (each.overlaps - each.overlaps.mean()) / len(features) / len(asked)
    return np.asarray(np.linalg.solve(gram, target) / spread)


def held_out(asked: Sequence[Asked], fit: Callable[[Sequence[Asked]], Floats]) -> list[float]:
    """Return the tIoU of each question by a scorer that was fitted on the other videos."""
    weights = {file: fit([each for each in asked if each.file != file]) for file in {each.file for each in asked}}
    return [take(each, weights[each.file]) for each in asked]


def rows_of(train: Sequence[Asked], asked: Sequence[Asked]) -> Iterator[tuple[str, list[float]]]:
    """Yield a name and the tIoU of each question, by order; `asked` is the train half itself, or another half."""
    yield "today's order", [float(each.overlaps[each.kept[0]]) for each in asked]
    fits = {f"score and {name}": beside_score(n) for n, name in enumerate(FEATURES) if n} | {"all, linear": ridge}
    for name, fit in fits.items():
        yield name, held_out(train, fit) if asked is train else [take(each, fit(train)) for each in asked]
    yield "the best of the ten", [float(each.overlaps[each.kept].max()) for each in asked]
    yield "the best before suppression", [float(each.overlaps.max()) for each in asked]


def table(train: Sequence[Asked], asked: Sequence[Asked]) -> list[str]:
    lines = ["| order | R1@0.3 | R1@0.5 | R1@0.7 | mIoU | against today's: mean, 95 % |", "|" + " --- |" * 6]
    rng, today = np.random.default_rng(1), None
    for name, overlaps in rows_of(train, asked):
        found = np.array(overlaps)
        today = found if today is None else today
        drawn = rng.choice(found - today, (2000, len(found))).mean(axis=1)
        low, high = np.quantile(drawn, (0.025, 0.975))
        shares = " | ".join(f"{(found >= least).mean():.2f}" for least in (0.3, 0.5, 0.7))
        lines.append(
            f"| {name} | {shares} | {found.mean():.3f} | {(found - today).mean():+.3f} ({low:+.3f} to {high:+.3f}) |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("queries", type=Path, nargs="+")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    asked = []
    with Library.open(args.data, load_settings(args.data, None)) as library:
        for question in read_all_questions(args.queries).moments:
            if question.channel == "visual" and (found := ask(library, question)) is not None:
                asked.append(found)
        encoders = str(library.encoders.space)
    train = [each for each in asked if each.half == "train"]
    lines = [
        "# Another order of proposed moments", "",
        f"`python -m benchmarks.proposals DATA {' '.join(path.name for path in args.queries)}"
        f"{' --report' if args.report else ''}`, {date.today()}. Encoders: {encoders}.", "",
        f"The train half, {len(train)} questions, each video asked with what the other videos chose:", "",
        *table(train, train),
    ]  # fmt: skip
    if args.report:
        report = [each for each in asked if each.half == "report"]
        lines += ["", f"The report half, {len(report)} questions, with what the train half chose:", ""]
        lines += table(train, report)
    print("\n".join(lines))
    if args.out is not None:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
