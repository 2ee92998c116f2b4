"""`kinodex eval`: how good answers are."""

import json
from pathlib import Path

import click

from serve.failures import debug_option
from serve.options import json_option


@click.command(
    name="eval",
    epilog="""\b
Examples:
  kinodex eval --predictions mine.jsonl --truth highlight_val_release.jsonl
  kinodex eval --predictions mine.jsonl --truth highlight_val_release.jsonl --json | jq '."MR-full-mAP"'

\b
Both files have one JSON object a line, as in QVHighlights:
  predictions  {"qid": 7, "pred_relevant_windows": [[start, end, score], ...]}   seconds, the best first
  truth        {"qid": 7, "relevant_windows": [[start, end], ...]}               none: the event is absent
""",
)
@click.option(
    "--predictions", metavar="JSONL", required=True, type=click.Path(path_type=Path), help="What was answered."
)
@click.option("--truth", metavar="JSONL", required=True, type=click.Path(path_type=Path), help="What is right.")
@json_option
@debug_option
def evaluate(predictions: Path, truth: Path, as_json: bool) -> None:
    """Measure found moments against the truth: R1@tIoU, mAP, mIoU, in per cent, all in all and by length."""
    from serve.evaluation import evaluate_files, figures

    evaluation = evaluate_files(predictions, truth)
    if as_json:
        click.echo(json.dumps(figures(evaluation)))
        return
    columns = ("R1@0.5", "R1@0.7", "mAP", "mAP@0.5", "mAP@0.75", "mIoU")
    found = figures(evaluation)
    click.echo(f"{'moments':8}{'queries':>9}" + "".join(f"{name:>10}" for name in columns))
    for part in evaluation.parts:
        values = "".join(f"{found[f'MR-{part}-{name}']:10.2f}" for name in columns)
        click.echo(f"{part:8}{found[f'MR-{part}-n']:9}{values}")
    if evaluation.rejection is not None:
        click.echo(
            f"\n{found['absent-n']} absent: rejection precision {found['absent-precision']:.2f},"
            f" recall {found['absent-recall']:.2f}, F1 {found['absent-F1']:.2f}"
        )
