"""Draws the figures of `kinodex eval` as PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from encoders.calibration import MATCH_CONFIDENCE, WEAK_CONFIDENCE
from serve.evaluate.figures import VIDEOS
from serve.evaluate.queries import ALL, Measurement, by_channel
from serve.evaluate.questions import Question
from serve.evaluate.reliability import share_interval
from serve.values import Moment
from temporal.metrics import BEST_COUNT, LENGTH_BUCKETS_SECONDS, Localised, recall_at, temporal_iou

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from serve.evaluate.policies import PolicyResult

RECALL, SCORES, LENGTHS, RELIABILITY = "recall.png", "scores.png", "lengths.png", "reliability.png"
CURVE, POLICIES = "curve.png", "policies.png"
COLOURS = tuple(f"C{n}" for n in range(10))  # matplotlib's cycle of colours
VIDEO_RANKS = 20  # ranks of whole videos on the axis of recall.png
RELIABILITY_TITLES = {"visual": "Seen", "speech": "Spoken", "text": "Written", "mixed": "Both", VIDEOS: "Whole videos"}
RIGHT_TIOU = 0.5  # least overlap (temporal IoU) of a right moment with the truth, as in R1@0.5


def draw(measurement: Measurement, figures: dict[str, Any], folder: Path) -> None:
    """Draw recall.png, scores.png, lengths.png and reliability.png.

    Args:
        figures: The figures of serve.evaluate.figures.query_figures.
    Raises:
        OSError: If a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    draw_recall(measurement, folder / RECALL)
    draw_scores(measurement, folder / SCORES)
    draw_lengths(figures, folder / LENGTHS)
    draw_reliability(figures["reliability"], folder / RELIABILITY)


def draw_recall(measurement: Measurement, path: Path) -> None:
    """Draw the share of questions answered by the first k results, for whole videos and for moments."""
    from matplotlib.ticker import MaxNLocator

    figure, (left, right) = _figure(2)
    ranks = [reply.rank for reply in measurement.videos]
    count = np.arange(1, VIDEO_RANKS + 1)
    left.plot(count, [recall_at(ranks, int(k)) for k in count], marker=".", label=f"{len(ranks)} questions")
    left.set(xlabel="first k videos", ylabel="share that holds the right one", title="Whole videos")
    count = np.arange(1, BEST_COUNT + 1)
    for colour, (channel, replies) in zip(
        ("C0", "C1", "C2", "C3"), by_channel(measurement.moments).items(), strict=False
    ):
        for line, scope in (("-", "everywhere"), (":", "inside")):
            firsts = [first_right(getattr(reply, scope)) for reply in replies]
            label = f"{channel}, {len(replies)}" if scope == "everywhere" else None
            right.plot(count, [recall_at(firsts, int(k)) for k in count], line, color=colour, marker=".", label=label)
    right.set(
        xlabel="first k moments", ylabel=f"share with tIoU ≥ {RIGHT_TIOU}", title="Moments (dotted: in the right video)"
    )
    for axes in (left, right):
        axes.set_ylim(-0.02, 1.02)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _save(figure, (left, right), path)


def first_right(query: Localised) -> int | None:
    """Return the rank of the first right moment, from 1; None if no moment is right."""
    overlaps = temporal_iou(query.predicted[:BEST_COUNT], query.truth).max(axis=1, initial=0.0)
    right = np.flatnonzero(overlaps >= RIGHT_TIOU)
    return int(right[0]) + 1 if len(right) else None


def draw_scores(measurement: Measurement, path: Path) -> None:
    """Draw the confidence of answers to questions about present events and about absent events."""
    figure, (axes,) = _figure(1)
    bins = np.linspace(0, 1, 21)
    for name, replies in (("present", measurement.moments), ("absent", measurement.absent)):
        if replies:
            confidences = [reply.confidence for reply in replies]
            weights = np.full(len(confidences), 1 / len(confidences))
            axes.hist(confidences, bins.tolist(), weights=weights, alpha=0.6, label=f"{name}, {len(confidences)}")
    for confidence, name in ((WEAK_CONFIDENCE, "WEAK from"), (MATCH_CONFIDENCE, "MATCH from")):
        axes.axvline(confidence, color="black", linestyle=":")
        label, transform = f"{name} {confidence}", axes.get_xaxis_transform()
        axes.text(confidence + 0.01, 0.97, label, transform=transform, va="top", fontsize="small")
    axes.set(xlabel="highest confidence of the moments", ylabel="share of the questions", title="Present and absent")
    _save(figure, (axes,), path)


def draw_lengths(figures: dict[str, Any], path: Path) -> None:
    """Draw how well moments of each length bucket are found in the right video."""
    figure, (left, right) = _figure(2)
    channels = list(figures["moments"])
    for axes, name in ((left, "R1@0.5"), (right, "mIoU")):
        for n, channel in enumerate(channels):
            parts = figures["moments"][channel]["video"]["by-length"]
            at = np.arange(len(LENGTH_BUCKETS_SECONDS)) + (n - (len(channels) - 1) / 2) * 0.8 / len(channels)
            heights = [parts.get(bucket, {name: 0.0})[name] for bucket in LENGTH_BUCKETS_SECONDS]
            bars = axes.bar(at, heights, 0.8 / len(channels), label=channel)
            counts = [str(parts[bucket]["n"]) if bucket in parts else "" for bucket in LENGTH_BUCKETS_SECONDS]
            axes.bar_label(bars, counts, fontsize="x-small")
        labels = [f"{bucket}\nto {up_to:g} s" for bucket, (_, up_to) in LENGTH_BUCKETS_SECONDS.items()]
        axes.set_xticks(range(len(labels)), labels)
        axes.set(ylabel=f"{name}, per cent", title=f"{name} in the right video; moments on top")
        axes.set_ylim(0, 105)
    _save(figure, (left, right), path)


def draw_reliability(channels: Mapping[str, Any], path: Path) -> None:
    """Draw a reliability diagram of each channel: the share of right answers over the confidence of the answers.

    Args:
        channels: The figures under "reliability".
    """
    from matplotlib.figure import Figure

    parts = {name: part for name, part in channels.items() if part["first"] is not None and name != ALL}
    if not parts:
        return
    figure = Figure(figsize=(1 + 4 * len(parts), 5.8), layout="constrained")
    axes = figure.subplots(2, len(parts), squeeze=False, sharex=True, height_ratios=(3, 1))
    for n, (name, part) in enumerate(parts.items()):
        _draw_reliability(axes[0, n], axes[1, n], RELIABILITY_TITLES[name], part)
    axes[0, 0].set(ylabel="share of right answers")
    axes[1, 0].set(ylabel="answers")
    for each in axes.flat:
        each.grid(alpha=0.3)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    figure.savefig(path, dpi=120)


def _draw_reliability(above: "Axes", below: "Axes", title: str, part: Mapping[str, Any]) -> None:
    above.plot([0, 1], [0, 1], color="black", linewidth=1, linestyle="--", label="where confidence is a frequency")
    for scope, label, colour, marker in (
        ("all", "first ten answers", "C7", "."),
        ("first", "first answers", "C0", "o"),
    ):
        bins = [each for each in part[scope]["bins"] if each["n"]]
        confidences, shares = [each["confidence"] for each in bins], [each["accuracy"] for each in bins]
        above.plot(confidences, shares, color=colour, marker=marker, linewidth=1, label=label)
        if scope == "first":
            intervals = [share_interval(round(each["n"] * each["accuracy"]), each["n"]) or (0, 1) for each in bins]
            lows, highs = zip(*intervals, strict=True)
            above.vlines(confidences, lows, highs, color=colour, alpha=0.4, label="95 % of first answers")
        width = 0.8 * (bins[0]["to"] - bins[0]["from"]) / 2
        shift = width / 2 if scope == "all" else -width / 2
        middles = [(each["from"] + each["to"]) / 2 + shift for each in bins]
        bars = below.bar(middles, [each["n"] for each in bins], width, color=colour)
        below.bar_label(bars, fontsize="xx-small")
    for confidence, name in ((WEAK_CONFIDENCE, "WEAK"), (MATCH_CONFIDENCE, "MATCH")):
        above.axvline(confidence, color="black", linestyle=":", linewidth=1)
        above.text(confidence + 0.01, 0.98, name, fontsize="x-small", va="top")
    errors = f"ECE {part['first']['ECE']:.2f} of first answers, {part['all']['ECE']:.2f} of ten"
    above.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    above.set_title(f"{title}: {part['first']['n']} questions\n{errors}", fontsize="medium")
    highest = max(each["n"] for each in part["all"]["bins"])
    below.set(xlabel="confidence", yscale="log", ylim=(0.7, 4 * highest))  # with room for the counts on the bars


def draw_curve(
    question: Question,
    seconds: NDArray[np.float64],
    similarities: NDArray[np.float32],
    answers: Sequence[Moment],
    path: Path,
) -> None:
    """Draw the similarity of each frame of a video to a question, with the true span and the answers."""
    figure, (axes,) = _figure(1)
    axes.step(seconds, similarities, where="post", label="similarity of each frame")
    for n, span in enumerate(question.spans):
        label = "true span" if n == 0 else "_"  # the legend lists them once
        axes.axvspan(span.start_seconds, span.end_seconds, color="C2", alpha=0.25, label=label)
    bottom, top = float(similarities.min()), float(similarities.max())
    reach = max(top - bottom, 1e-6)
    for n, answer in enumerate(answers):
        level = bottom - reach * (0.08 + 0.06 * n)
        label = "answers, the first on top" if n == 0 else "_"  # the legend lists the answers once
        axes.hlines(level, answer.start_seconds, answer.end_seconds, color="C1", linewidth=3, label=label)
        axes.text(
            answer.end_seconds, level, f" {answer.verdict} {answer.confidence:.2f}", va="center", fontsize="x-small"
        )
    axes.set(xlabel="seconds", ylabel="similarity, de-biased", title=f"“{question.text}” in {question.file}")
    _save(figure, (axes,), path)


def _figure(count: int) -> "tuple[Figure, tuple[Axes, ...]]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    return figure, tuple(figure.subplots(1, count, squeeze=False)[0])


def _save(figure: "Figure", all_axes: "Sequence[Axes]", path: Path) -> None:
    for axes in all_axes:
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)


def draw_policies(results: "Sequence[PolicyResult]", path: Path) -> None:
    """Draw precision, recall and F1 of each labelled policy for the thresholds that were tried."""
    labelled = [result for result in results if result.counts.span_count and result.trials]
    figure, axes = _figure(2)
    for colour, result in zip(COLOURS * len(labelled), labelled, strict=False):
        below = sorted((trial for trial in result.trials if trial.leave < trial.enter), key=lambda trial: trial.enter)
        trials = list({trial.enter: trial for trial in below}.values())  # for each `enter` the highest `leave` below it
        enters = [trial.enter for trial in trials]
        recalls = [trial.counts.recall or 0.0 for trial in trials]
        precisions = [np.nan if trial.counts.precision is None else trial.counts.precision for trial in trials]
        axes[0].plot(recalls, precisions, marker=".", color=colour, label=result.policy.policy_id)
        axes[1].plot(enters, [trial.counts.f1 for trial in trials], marker=".", color=colour)
        axes[1].axvline(result.policy.enter, color=colour, linestyle=":", linewidth=1)
    axes[0].set(xlabel="recall: labelled spans found", ylabel="precision: events that are right", title="By threshold")
    axes[1].set(xlabel="enter", ylabel="F1", title="Thresholds tried (dotted: the policy's own)")
    for each in axes:
        each.set_ylim(-0.02, 1.02)
        each.set_xlim(-0.02, 1.02)
    _save(figure, axes, path)
