"""Tables for people of what `kinodex eval` measured. `--json` prints the same figures."""

from collections.abc import Mapping, Sequence
from typing import Any

MOMENT_COLUMNS = ("R1@0.5", "R1@0.7", "mAP", "mIoU")
VIDEO_COLUMNS = ("R@1", "R@5", "R@10", "nDCG@10")
REJECTION_COLUMNS = ("precision", "recall", "F1")
PREDICTION_COLUMNS = ("R1@0.5", "R1@0.7", "mAP", "mAP@0.5", "mAP@0.75", "mIoU")
POLICY_COLUMNS = ("spans", "events", "precision", "recall", "F1", "enter", "leave")


def query_table(figures: Mapping[str, Any]) -> str:
    """Lay out the figures of serve.evaluate.queries.query_figures."""
    lines = []
    if figures["moments"]:
        lines += _moment_lines(figures["moments"], "library", "moments, asked of the library")
        lines += _moment_lines(figures["moments"], "video", "moments, asked of their video")
    videos = figures["videos"]
    if videos["n"]:
        lines.append(f"{'':32}{'queries':>9}" + "".join(f"{name:>12}" for name in (*VIDEO_COLUMNS, "median rank")))
        median_rank = "none" if videos["median-rank"] is None else f"{videos['median-rank']:g}"
        values = "".join(f"{videos[name]:12.2f}" for name in VIDEO_COLUMNS)
        lines += [f"{'whole videos':32}{videos['n']:9}{values}{median_rank:>12}", ""]
    if figures["rejection"]:
        lines.append(_header("absent, answered with NO_MATCH", REJECTION_COLUMNS))
        lines += [_line(f"  {channel}", part, REJECTION_COLUMNS) for channel, part in figures["rejection"].items()]
        lines.append("")
    seconds = figures["seconds"]
    lines.append(f"an answer took {seconds['median'] * 1000:.0f} ms (median), {seconds['p95'] * 1000:.0f} ms (p95)")
    return "\n".join(lines)


def _moment_lines(channels: Mapping[str, Any], scope: str, title: str) -> list[str]:
    lines = [_header(title, MOMENT_COLUMNS)]
    for channel, figures in channels.items():
        part = figures[scope]
        lines.append(_line(f"  {channel}", part, MOMENT_COLUMNS))
        lines += [_line(f"    {length}", figures, MOMENT_COLUMNS) for length, figures in part["by-length"].items()]
    return [*lines, ""]


def _header(title: str, columns: Sequence[str]) -> str:
    return f"{title:32}{'queries':>9}" + "".join(f"{name:>10}" for name in columns)


def _line(title: str, figures: Mapping[str, Any], columns: Sequence[str]) -> str:
    return f"{title:32}{figures['n']:9}" + "".join(f"{figures[name]:10.2f}" for name in columns)


def policy_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Lay out the figures of serve.evaluate.policies.policy_figures."""
    lines = [f"{'':24}" + "".join(f"{name:>10}" for name in POLICY_COLUMNS)]
    for row in rows:
        lines.append(f"{row['policy_id'] or 'all of ' + row['label']:24}" + _policy_cells(row))
        if row["suggested"] is not None:
            lines.append(f"{'  better on these clips':24}" + _policy_cells(row["suggested"]))
    if any(row["suggested"] for row in rows):
        lines += ["", "better thresholds were chosen on these clips: try them on other clips before you use them"]
    return "\n".join(lines)


def _policy_cells(row: Mapping[str, Any]) -> str:
    shares = ["-" if row[name] is None else f"{100 * row[name]:.0f}" for name in ("precision", "recall", "F1")]
    thresholds = ["-" if row[name] is None else f"{row[name]:g}" for name in ("enter", "leave")]
    return "".join(f"{cell:>10}" for cell in (row["spans"], row["events"], *shares, *thresholds))


def prediction_table(figures: Mapping[str, float], parts: Sequence[str]) -> str:
    """Lay out the figures of serve.evaluate.predictions.prediction_figures: "full", then the length buckets."""
    lines = [f"{'moments':8}{'queries':>9}" + "".join(f"{name:>10}" for name in PREDICTION_COLUMNS)]
    for part in parts:
        values = "".join(f"{figures[f'MR-{part}-{name}']:10.2f}" for name in PREDICTION_COLUMNS)
        lines.append(f"{part:8}{figures[f'MR-{part}-n']:9}{values}")
    if "absent-n" in figures:
        lines += [
            "",
            f"{figures['absent-n']} absent: rejection precision {figures['absent-precision']:.2f},"
            f" recall {figures['absent-recall']:.2f}, F1 {figures['absent-F1']:.2f}",
        ]
    return "\n".join(lines)
