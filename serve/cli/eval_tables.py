"""Tables for people of what `kinodex eval` measured. `--json` prints the same figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

from serve.text import printable, time_span, title
from temporal.metrics import LENGTH_BUCKETS_SECONDS

MOMENT_COLUMNS = ("right-seconds", "R1@0.3", "R1@0.5", "R1@0.7", "mAP", "mIoU")
VIDEO_COLUMNS = ("R@1", "R@5", "R@10", "nDCG@10")
PREDICTION_COLUMNS = ("R1@0.5", "R1@0.7", "mAP", "mAP@0.5", "mAP@0.75", "mIoU")
POLICY_COLUMNS = ("spans", "events", "precision", "recall", "F1", "enter", "leave")


TITLE_WIDTH = 22  # of a row, in letters
LENGTHS = {name: f"{over:g} to {up_to:g} s long" for name, (over, up_to) in LENGTH_BUCKETS_SECONDS.items()}
ALL_HALVES = "all halves"
WRONG_LINES = 10  # wrong answers that are printed; --json has more

Cell = str | int | float | None
Table = tuple[Sequence[str], list[tuple[str, Sequence[Cell]]]]  # names of the columns; title and cells of each row


@dataclass(frozen=True, slots=True)
class Section:
    """A table under its heading. Without rows it is left out."""

    heading: str
    explanation: str
    table: Table


def query_table(figures: Mapping[str, Any]) -> str:
    """Lay out the figures of serve.evaluate.figures.query_figures."""
    lines = []
    for section in _sections(figures):
        if section.table[1]:
            explanation = wrap(section.explanation, 100, initial_indent="  ", subsequent_indent="  ")
            lines += [section.heading, *explanation, *_lay_out(section.table), ""]
    if figures["wrong"]:
        lines += ["THE SUREST WRONG ANSWERS (--sheet draws them)"]
        lines += [*map(_wrong_line, figures["wrong"][:WRONG_LINES]), ""]
    seconds = figures["seconds"]
    lines.append(f"an answer took {seconds['median'] * 1000:.0f} ms (median), {seconds['p95'] * 1000:.0f} ms (p95)")
    return "\n".join(lines)


def _sections(figures: Mapping[str, Any]) -> tuple[Section, ...]:
    halves = dict(figures["halves"]) | ({ALL_HALVES: figures} if len(figures["halves"]) > 1 else {})
    return (
        Section(
            "MOMENTS: the first answer from the whole library",
            "per cent of the questions; right seconds: it overlaps a right span of the right video; R1@x: with a"
            " temporal IoU of x or more",
            _moment_table(halves, "library", ("right-video", *MOMENT_COLUMNS)),
        ),
        Section(
            "MOMENTS: the first answer when only the right video is searched",
            "per cent of the questions",
            _moment_table(halves, "video", MOMENT_COLUMNS),
        ),
        Section(
            "WHOLE VIDEOS",
            "per cent of the questions; R@k: the right video is among the first k",
            _video_table(halves),
        ),
        Section(
            "VERDICTS: how many of the answers called MATCH are right",
            "95 %: the interval of the share that is right; answers to absent events count as wrong; videos: whole"
            " videos, which the line of their half leaves out",
            _match_table(halves),
        ),
        Section(
            "VERDICTS: what the first answers that are right are called",
            "",
            _count_table(halves, "right-first", "right answers"),
        ),
        Section(
            "VERDICTS: the best that questions about absent events get",
            "NO_MATCH is right; MATCH is wrong",
            _count_table(halves, "absent-best", "absent events"),
        ),
        Section(
            "CONFIDENCE",
            "ECE: mean distance between the confidence and the share of right answers, 0 is best; 95 %: its interval;"
            " chance: the ECE that so few answers would have if every confidence were true",
            _reliability_table(halves),
        ),
        Section(
            "CONFIDENCE of first answers, by its height",
            "how many answers have it, and how many per cent of them are right",
            _bin_table(figures["reliability"]),
        ),
    )


def _moment_table(halves: Mapping[str, Any], scope: str, columns: Sequence[str]) -> Table:
    rows: list[tuple[str, Sequence[Cell]]] = []
    for half, figures in halves.items():
        kinds = {f"kind {name}": part for name, part in figures["kinds"].items()}
        parts = {name: part[scope] for name, part in (figures["moments"] | kinds).items()}
        for name, part in parts.items():
            rows.append((_row_title(half, name), [part["n"], *(float(part[column]) for column in columns)]))
        for name, part in parts.get("all", {"by-length": {}})["by-length"].items():
            cells = [None if column == "right-video" else float(part[column]) for column in columns]
            rows.append((f"  {LENGTHS[name]}", [part["n"], *cells]))
    return ("questions", *(column.replace("-", " ") for column in columns)), rows


def _video_table(halves: Mapping[str, Any]) -> Table:
    rows: list[tuple[str, Sequence[Cell]]] = []
    for half, figures in halves.items():
        videos = figures["videos"]
        if videos["n"]:
            median = "none" if videos["median-rank"] is None else f"{videos['median-rank']:g}"
            rows.append((half, [videos["n"], *(float(videos[column]) for column in VIDEO_COLUMNS), median]))
    return ("questions", *VIDEO_COLUMNS, "median rank"), rows


def _match_table(halves: Mapping[str, Any]) -> Table:
    rows: list[tuple[str, Sequence[Cell]]] = []
    for half, figures in halves.items():
        kinds = {f"kind {name}": part["verdicts"] for name, part in figures["kinds"].items()}
        for name, part in (figures["verdicts"] | kinds).items():
            cells: list[Cell] = []
            for answers in (part["first"], part["all"]):
                cells += [answers["n"], answers["match"], answers["right-video"], answers["right"]]
                cells += [_percent(answers["precision"]), _range(answers["precision-interval"], "{:.0f}")]
            rows.append(
                (_row_title(half, name), cells[:-1])
            )  # no interval: answers to one question are no chance draws
    columns = ("MATCH", "right video", "right", "right %")
    return ("first answers", *columns, "95 %", "first ten", *columns), rows


def _count_table(halves: Mapping[str, Any], key: str, noun: str) -> Table:
    rows: list[tuple[str, Sequence[Cell]]] = []
    for half, figures in halves.items():
        for name, part in figures["verdicts"].items():
            counts = part[key]
            if sum(counts.values()):
                rows.append((_row_title(half, name), [sum(counts.values()), *counts.values()]))
    return (noun, "MATCH", "WEAK", "NO_MATCH"), rows


def _reliability_table(halves: Mapping[str, Any]) -> Table:
    rows: list[tuple[str, Sequence[Cell]]] = []
    for half, figures in halves.items():
        for name, part in figures["reliability"].items():
            first, every = part["first"], part["all"]
            if first is not None:
                cells = [first["n"], f"{first['ECE']:.3f}", _range(first["ECE-interval"], "{:.2f}")]
                cells += [f"{first['ECE-by-chance']:.3f}", f"{first['Brier']:.3f}", every["n"], f"{every['ECE']:.3f}"]
                cells += [_range(every["ECE-interval"], "{:.2f}"), f"{every['Brier']:.3f}"]
                rows.append((_row_title(half, name), cells))
    columns = ("first answers", "ECE", "95 %", "chance", "Brier", "first ten", "ECE", "95 %", "Brier")
    return columns, rows


def _bin_table(channels: Mapping[str, Any]) -> Table:
    rows: list[tuple[str, Sequence[Cell]]] = []
    columns: list[str] = []
    for name, part in channels.items():
        if part["first"] is not None:
            bins = part["first"]["bins"]
            columns = [f"{100 * each['from']:.0f}-{100 * each['to']:.0f} %" for each in bins]
            rows.append((f"{name}: answers", [each["n"] for each in bins]))
            right = [None if each["accuracy"] is None else _percent(100 * each["accuracy"]) for each in bins]
            rows.append(("  right", right))
    return columns, rows


def _wrong_line(wrong: Mapping[str, Any]) -> str:
    answer, right = wrong["answer"], wrong["right"]
    given = f"{title(answer['uri'])} {time_span(answer['start_seconds'], answer['end_seconds'])}"
    return (
        f"  {answer['confidence']:4.0%} {answer['verdict'].replace('_', ' '):8}  {printable(wrong['query'])}\n"
        f"{'':18}answered {given}; {right_text(right)}"
    )


def right_text(right: Mapping[str, Any] | None) -> str:
    """Say which answer would have been right."""
    if right is None:
        return "nothing in the library is right"
    spans = ", ".join(time_span(each["start_seconds"], each["end_seconds"]) for each in right["spans"])
    return f"right: {printable(right['file'])} {spans}"


def _row_title(half: str, name: str) -> str:
    """The first row of a half has its name, and the others stand below it."""
    return half if name == "all" else f"  {name}"


def _range(interval: Sequence[float] | None, form: str) -> str | None:
    return None if interval is None else "-".join(form.format(end) for end in interval)


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{share:.0f}"


def _lay_out(table: Table) -> list[str]:
    """Lay out a table whose columns are as wide as their widest cell."""
    columns, rows = table
    texts = [
        (name, ["-" if c is None else f"{c:.1f}" if isinstance(c, float) else str(c) for c in cells])
        for name, cells in rows
    ]
    widths = [
        max(len(each) for each in (column, *(cells[n] for _, cells in texts))) for n, column in enumerate(columns)
    ]
    lines = [(f"{'':{TITLE_WIDTH}}", columns), *((f"{name:{TITLE_WIDTH}}", cells) for name, cells in texts)]
    return [
        start + "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        for start, cells in lines
    ]


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
