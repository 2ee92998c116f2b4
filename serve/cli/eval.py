"""`kinodex eval`: how good answers are."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from serve.cli.options import json_option, library_options, load

if TYPE_CHECKING:
    from serve.client.any_library import AnyLibrary
    from serve.evaluate.queries import Measured
    from serve.evaluate.questions import Half, Questions
    from serve.search.library import Library

COLUMNS = ("R1@0.5", "R1@0.7", "mAP", "mIoU")
PREDICTED_COLUMNS = ("R1@0.5", "R1@0.7", "mAP", "mAP@0.5", "mAP@0.75", "mIoU")


@click.command(
    name="eval",
    epilog="""\b
Examples:
  kinodex eval --queries queries.json                      how well this library answers
  kinodex eval --queries queries.jsonl --half report --plots plots
  kinodex eval --queries queries.json --server localhost:8970 --json
  kinodex eval --policies mine.yaml --clips clips.jsonl --plots plots
  kinodex eval --predictions mine.jsonl --truth highlight_val_release.jsonl

\b
Queries, one JSON object a line; a file is the last part of a video's URI, or its id:
  {"kind": "video", "file": "hike.mp4", "query": "hiking in the mountains"}
  {"kind": "moment", "file": "hike.mp4", "query": "a dog jumps over a stream", "start_seconds": 12, "end_seconds": 19}
  {"kind": "moment", "file": "talk.mp4", "query": "when does she mention Paris?", "start_seconds": 61,
   "end_seconds": 66, "channel": "speech"}
  {"kind": "absent", "query": "a volcano erupts"}
"channel" says what finds it: visual (the default), speech or mixed; figures are given for each. "half" may be train or
report. Or one JSON object of three lists, as `kinodex calibrate` reads.

\b
Clips are videos of the library and what is in them, one JSON object a line; without seconds the whole of one is meant,
without a label nothing is in it:
  {"file": "gate.mp4", "label": "Fire", "start_seconds": 12, "end_seconds": 30}
  {"file": "empty.mp4"}
A label is a policy's id, its label or one of its parents. Label all that is in a clip: what finds more is wrong. By a
parent label, the policies below it are judged together, in a line of its own.

\b
Predictions and truth have one JSON object a line, as in QVHighlights:
  predictions  {"qid": 7, "pred_relevant_windows": [[start, end, score], ...]}   seconds, the best first
  truth        {"qid": 7, "relevant_windows": [[start, end], ...]}               none: the event is absent
""",
)
@click.option("--queries", metavar="FILE", type=click.Path(path_type=Path), help="Questions with known answers.")
@click.option("--server", metavar="ADDR", help="Ask the library of this server; as in `kinodex moments`.")
@click.option("--half", type=click.Choice(["train", "report"]), help="Ask these queries only.  [default: all]")
@click.option(
    "--plots",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Draw recall.png, scores.png, lengths.png and, of a library here, curve.png; of policies, policies.png.",
)
@click.option("--policies", metavar="FILE", type=click.Path(path_type=Path), help="Moderation policies to judge.")
@click.option("--clips", metavar="JSONL", type=click.Path(path_type=Path), help="Labelled clips to judge them by.")
@click.option("--predictions", metavar="JSONL", type=click.Path(path_type=Path), help="What was answered.")
@click.option("--truth", metavar="JSONL", type=click.Path(path_type=Path), help="What is right.")
@json_option
@library_options
def evaluate(
    queries: Path | None,
    server: str | None,
    half: "Half | None",
    plots: Path | None,
    policies: Path | None,
    clips: Path | None,
    predictions: Path | None,
    truth: Path | None,
    as_json: bool,
    data: Path | None,
    config: Path | None,
) -> None:
    """Measure answers against the truth: of this program to queries, or any that are in a file.

    Moments: R1@tIoU, mAP and mIoU, by length. Whole videos: recall@k, median rank, nDCG. Absent events: how often they
    are told from present ones. Shares are in per cent. Or measure moderation policies on labelled clips, and suggest
    thresholds: precision, recall and F1 of their events.
    """
    if policies is not None or clips is not None:
        if policies is None or clips is None:
            raise click.UsageError("--policies and --clips go together")
        others = {
            "--queries": queries,
            "--server": server,
            "--half": half,
            "--predictions": predictions,
            "--truth": truth,
        }
        for name, value in others.items():
            if value is not None:
                raise click.UsageError(f"{name} goes without --policies")
        _evaluate_policies(policies, clips, plots, as_json, data, config)
        return
    if queries is not None:
        if predictions is not None or truth is not None:
            raise click.UsageError("--queries asks for answers itself: it goes without --predictions and --truth")
        if server is not None and data is not None:
            raise click.UsageError("give --data or --server, not both")
        _evaluate_queries(queries, server, half, plots, as_json, data, config)
        return
    if predictions is None or truth is None:
        raise click.UsageError("give --queries, or --predictions and --truth")
    for name, value in (("--server", server), ("--half", half), ("--plots", plots), ("--data", data)):
        if value is not None:
            raise click.UsageError(f"{name} goes with --queries")
    _evaluate_files(predictions, truth, as_json)


# ---- queries


def _evaluate_queries(
    queries: Path,
    server: str | None,
    half: "Half | None",
    plots: Path | None,
    as_json: bool,
    data: Path | None,
    config: Path | None,
) -> None:
    from serve.client.any_library import LocalLibrary, open_library
    from serve.evaluate.queries import figures
    from serve.evaluate.questions import read_questions
    from serve.text import counted

    questions = read_questions(queries).of(half)
    directory, settings = load(data, config, is_local=server is None)
    if plots is not None:
        plots.mkdir(parents=True, exist_ok=True)
    with open_library(settings, directory, server) as asked:
        measured = _followed(asked, questions)
        for channel in measured.degraded_channels:
            click.echo(f"kinodex: {channel} search is not available: the figures are without it", err=True)
        if measured.missing:
            count = sum(measured.missing.values())
            names = ", ".join(sorted(measured.missing))
            click.echo(f"kinodex: not asked: {counted(count, 'question')} about videos not here: {names}", err=True)
        found = figures(measured)
        if plots is not None:
            from serve.evaluate.plots import draw

            draw(measured, found, plots)
            if isinstance(asked, LocalLibrary):
                _draw_curve(asked.library, measured, plots)
    click.echo(json.dumps(found) if as_json else table(found))


def _followed(asked: "AnyLibrary", questions: "Questions") -> "Measured":
    """Ask, under a progress bar."""
    from rich.console import Console
    from rich.progress import Progress

    from serve.evaluate.queries import measure

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("Asking", total=None)
        return measure(asked, questions, lambda done, total: progress.update(bar, completed=done, total=total))


def _draw_curve(library: "Library", measured: "Measured", folder: Path) -> None:
    """Draw the curve of the seen moment whose video is longest, if there is one."""
    from serve.evaluate.plots import CURVE, draw_curve
    from serve.evaluate.questions import names_of
    from serve.values import Filter, Query

    seen = [one for one in measured.moments if one.question.channel == "visual"]
    if not seen or library.engine.visual is None:
        return
    videos = {place: video for video in library.videos() for place in names_of(video)}
    question = max((one.question for one in seen), key=lambda one: videos[one.file or ""].duration_seconds)
    video = videos[question.file or ""]
    seconds, similarities = library.similarities(question.text, video)
    only = Filter(collections=(video.collection,), video_ids=(video.video_id,))
    answers = library.moments(Query(text=question.text, limit=3, filter=only)).moments
    if len(seconds):
        draw_curve(question, seconds, similarities, answers, folder / CURVE)


def table(found: dict[str, Any]) -> str:
    """Lay the figures out for people."""
    lines = []
    for where, name in (("library", "moments, asked of the library"), ("video", "moments, asked of their video")):
        if not found["moments"]:
            break
        lines.append(f"{name:32}{'queries':>9}" + "".join(f"{column:>10}" for column in COLUMNS))
        for channel, both in found["moments"].items():
            parts = both[where]
            lines.append(_row(f"  {channel}", parts["n"], [parts[column] for column in COLUMNS]))
            for length, part in parts["by-length"].items():
                lines.append(_row(f"    {length}", part["n"], [part[column] for column in COLUMNS]))
        lines.append("")
    videos = found["videos"]
    if videos["n"]:
        columns = ("R@1", "R@5", "R@10", "nDCG@10", "median rank")
        lines.append(f"{'':32}{'queries':>9}" + "".join(f"{column:>12}" for column in columns))
        rank = videos["median-rank"]
        shown = "none" if rank is None else f"{rank:g}"
        values = "".join(f"{videos[column]:12.2f}" for column in columns[:4])
        lines += [f"{'whole videos':32}{videos['n']:9}{values}{shown:>12}", ""]
    if found["rejection"]:
        told = ("precision", "recall", "F1")
        lines.append(f"{'absent, told to be NO_MATCH':32}{'queries':>9}" + "".join(f"{one:>10}" for one in told))
        for channel, part in found["rejection"].items():
            lines.append(_row(f"  {channel}", part["n"], [part[column] for column in told]))
        lines.append("")
    seconds = found["seconds"]
    lines.append(f"an answer took {seconds['median'] * 1000:.0f} ms (median), {seconds['p95'] * 1000:.0f} ms (p95)")
    return "\n".join(lines)


def _row(name: str, count: int, values: list[float]) -> str:
    return f"{name:32}{count:9}" + "".join(f"{value:10.2f}" for value in values)


# ---- policies


def _evaluate_policies(
    file: Path, clips: Path, plots: Path | None, as_json: bool, data: Path | None, config: Path | None
) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from serve.evaluate.policies import evaluate_policies, policy_figures, read_clips
    from serve.moderation.policies import read_policies
    from serve.search.library import Library

    policies, labelled = read_policies(file), read_clips(clips)
    directory, settings = load(data, config)
    console = Console(stderr=True)
    with (
        Library.open(directory, settings) as library,
        Progress(console=console, transient=True, disable=not console.is_terminal) as progress,
    ):
        bar = progress.add_task("Scoring", total=None)
        judged = evaluate_policies(
            library, policies, labelled, str(clips), lambda n, total: progress.update(bar, completed=n, total=total)
        )
    if plots is not None:
        from serve.evaluate.plots import POLICIES, draw_policies

        plots.mkdir(parents=True, exist_ok=True)
        draw_policies(judged.policies, plots / POLICIES)
    found = policy_figures(judged)
    click.echo(json.dumps(found) if as_json else policy_table(found))


def policy_table(found: list[dict[str, Any]]) -> str:
    """Lay out what became of policies for people."""
    names = ("spans", "events", "precision", "recall", "F1", "enter", "leave")
    lines = [f"{'':24}" + "".join(f"{name:>10}" for name in names)]
    for one in found:
        lines.append(f"{one['policy_id'] or 'all of ' + one['label']:24}" + _figures_of(one))
        best = one["suggested"]
        if best is not None:
            lines.append(f"{'  better on these clips':24}" + _figures_of(best))
    if any(one["suggested"] for one in found):
        lines += ["", "thresholds that are best here were chosen here: try them on clips they have not seen"]
    return "\n".join(lines)


def _figures_of(one: dict[str, Any]) -> str:
    shares = ["-" if one[name] is None else f"{100 * one[name]:.0f}" for name in ("precision", "recall", "F1")]
    thresholds = ["-" if one[name] is None else f"{one[name]:g}" for name in ("enter", "leave")]
    texts = [str(one["spans"]), str(one["events"]), *shares, *thresholds]
    return "".join(f"{text:>10}" for text in texts)


# ---- predictions


def _evaluate_files(predictions: Path, truth: Path, as_json: bool) -> None:
    from serve.evaluate.predictions import evaluate_files, figures

    evaluation = evaluate_files(predictions, truth)
    found = figures(evaluation)
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(f"{'moments':8}{'queries':>9}" + "".join(f"{name:>10}" for name in PREDICTED_COLUMNS))
    for part in evaluation.parts:
        values = "".join(f"{found[f'MR-{part}-{name}']:10.2f}" for name in PREDICTED_COLUMNS)
        click.echo(f"{part:8}{found[f'MR-{part}-n']:9}{values}")
    if evaluation.rejection is not None:
        click.echo(
            f"\n{found['absent-n']} absent: rejection precision {found['absent-precision']:.2f},"
            f" recall {found['absent-recall']:.2f}, F1 {found['absent-F1']:.2f}"
        )
