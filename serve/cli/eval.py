"""`kinodex eval`: measures a library's answers, moderation policies, or a file of predictions."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from serve.cli.options import json_option, library_options, load_library_settings

if TYPE_CHECKING:
    from serve.evaluate.queries import Measurement
    from serve.search.library import Library

# For each kind of evaluation: the options that it needs -> the options that it also takes, besides --config and --json.
MODES: dict[tuple[str, ...], tuple[str, ...]] = {
    ("policies", "clips"): ("plots", "data"),
    ("queries",): ("server", "half", "plots", "sheet", "data"),
    ("predictions", "truth"): (),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalOptions:
    """The options of `kinodex eval`."""

    queries: tuple[Path, ...]
    server: str | None
    half: str | None
    plots: Path | None
    sheet: Path | None
    policies: Path | None
    clips: Path | None
    predictions: Path | None
    truth: Path | None
    as_json: bool
    data: Path | None
    config: Path | None


@click.command(
    name="eval",
    epilog="""\b
Examples:
  kinodex eval --queries queries.json                      how well this library answers
  kinodex eval --queries queries.json --queries more.json --half report --plots plots
  kinodex eval --queries queries.json --sheet wrong.png    which wrong answers is it sure of?
  kinodex eval --queries queries.json --server localhost:8970 --json
  kinodex eval --policies mine.yaml --clips clips.jsonl --plots plots
  kinodex eval --predictions mine.jsonl --truth highlight_val_release.jsonl

\b
QUERIES is one JSON object of three lists. "file" is the last part of a video's URI, or the video's ID:
  {"videos":  [{"file": "hike.mp4", "query": "hiking in the mountains"}],
   "moments": [{"file": "hike.mp4", "query": "a dog jumps over a stream", "start_seconds": 12, "end_seconds": 19},
               {"file": "talk.mp4", "query": "when does she mention Paris?", "channel": "speech",
                "spans": [{"start_seconds": 61, "end_seconds": 66}, {"start_seconds": 95, "end_seconds": 99}]}],
   "absent":  [{"query": "a volcano erupts"}]}
Of several "spans", each is right. A row may also have:
  "channel"  the channel that can find the answer: visual (the default), speech, text or mixed
  "half"     the name of a part of the questions: train (the default) for tuning, and any other name for measuring
  "kind"     what the question is about: people, action, sport, animal, object, scene, text, animation or speech
Or QUERIES has one row a line, with "kind": "video", "moment" or "absent" (what it is about is "thing" then):
  {"kind": "moment", "file": "hike.mp4", "query": "a dog jumps", "start_seconds": 12, "end_seconds": 19}

\b
CLIPS has one JSON object a line, and says what a video of the library shows. Without seconds, the label holds for the
whole video; without a label, the video shows nothing that a policy looks for:
  {"file": "gate.mp4", "label": "Fire", "start_seconds": 12, "end_seconds": 30}
  {"file": "empty.mp4"}
A label is the id of a policy, its label, or one of its parents. Label everything: an event outside the labelled spans
counts as wrong. The policies below a parent label are measured together, in a line of their own.

\b
PREDICTIONS and TRUTH have one JSON object a line, in the format of QVHighlights:
  predictions  {"qid": 7, "pred_relevant_windows": [[start, end, score], ...]}   seconds, the best first
  truth        {"qid": 7, "relevant_windows": [[start, end], ...]}               empty: the event is absent
""",
)
@click.option(
    "--queries",
    metavar="QUERIES",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Questions with known answers, to ask. May be given several times.",
)
@click.option("--server", metavar="ADDR", help="Ask the library of this server; as in `kinodex moments`.")
@click.option("--half", metavar="NAME", help='Ask only the questions of this "half".  [default: all]')
@click.option(
    "--plots",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Draw recall.png, scores.png, lengths.png, reliability.png and, for a local library, curve.png; for policies,"
    " policies.png.",
)
@click.option(
    "--sheet",
    metavar="FILE.png",
    type=click.Path(path_type=Path),
    help="Draw the surest wrong answers beside the right moments, to be looked at.",
)
@click.option("--policies", metavar="FILE", type=click.Path(path_type=Path), help="Moderation policies to measure.")
@click.option("--clips", metavar="CLIPS", type=click.Path(path_type=Path), help="Labels of videos in the library.")
@click.option("--predictions", metavar="PREDICTIONS", type=click.Path(path_type=Path), help="Predicted moments.")
@click.option("--truth", metavar="TRUTH", type=click.Path(path_type=Path), help="True moments.")
@json_option
@library_options
def evaluate(**values: Any) -> None:
    """Measure how good answers are.

    --queries asks a library questions with known answers, and says for each half of them, each channel and each kind
    of thing how often the first answer is right: the video, and the seconds (R1@tIoU, mAP, mIoU). Whole videos:
    recall@k, median rank and nDCG. Verdicts: how often MATCH is right, and what absent events are answered with.
    Confidence: the expected calibration error and the Brier score. It lists the wrong answers that are surest.

    --policies with --clips measures the events of moderation policies on labelled videos (precision, recall, F1), and
    suggests thresholds.

    --predictions with --truth measures moments that another program predicted.
    """
    options = EvalOptions(**values)
    if (mode := _mode(options)) == "policies":
        _evaluate_policies(options)
    elif mode == "queries":
        _evaluate_queries(options)
    else:
        _evaluate_predictions(options)


def _mode(options: EvalOptions) -> str:
    """Return the kind of evaluation, by its first option in MODES.

    Raises:
        click.UsageError: If options are missing, or do not go together.
    """

    def is_given(name: str) -> bool:
        return getattr(options, name) not in (None, ())

    names = next((names for names in MODES if any(map(is_given, names))), None)
    if names is None:
        raise click.UsageError("give --queries, or --policies and --clips, or --predictions and --truth")
    if not all(map(is_given, names)):
        raise click.UsageError(f"{' and '.join(f'--{name}' for name in names)} go together")
    for name in {name: None for group in MODES.items() for part in group for name in part}:
        if is_given(name) and name not in (*names, *MODES[names]):
            raise click.UsageError(f"--{name} does not go with --{names[0]}")
    if options.server is not None and options.data is not None:
        raise click.UsageError("give --data or --server, not both")
    return names[0]


def _evaluate_queries(options: EvalOptions) -> None:
    from serve.cli.eval_tables import query_table
    from serve.cli.progress import show_bar
    from serve.client.any_library import LocalLibrary, open_library
    from serve.evaluate.figures import WRONG_COUNT, query_figures, surest_wrong
    from serve.evaluate.queries import measure
    from serve.evaluate.questions import read_all_questions
    from serve.text import plural

    if options.sheet is not None:
        from serve.cli.ask import check_sheet

        check_sheet(options.sheet)
    questions = read_all_questions(options.queries).of(options.half)
    directory, settings = load_library_settings(options.data, options.config, is_local=options.server is None)
    if options.plots is not None:
        options.plots.mkdir(parents=True, exist_ok=True)
    with open_library(settings, directory, options.server) as library:
        with show_bar("Asking") as on_done:
            measurement = measure(library, questions, on_done)
        for channel in measurement.degraded_channels:
            click.echo(f"kinodex: {channel} search is not available: the figures are without it", err=True)
        if measurement.missing:
            count = sum(measurement.missing.values())
            names = ", ".join(sorted(measurement.missing))
            click.echo(f"kinodex: not asked: {plural(count, 'question')} about videos not here: {names}", err=True)
        figures = query_figures(measurement)
        if options.plots is not None:
            from serve.evaluate.plots import draw

            draw(measurement, figures, options.plots)
            if isinstance(library, LocalLibrary):
                _draw_curve(library.library, measurement, options.plots)
        if options.sheet is not None:
            from serve.cli.eval_sheet import draw_wrong

            wrong = surest_wrong(measurement, WRONG_COUNT)
            draw_wrong(library, wrong).save(options.sheet, format="PNG")
            click.echo(f"kinodex: drew {plural(len(wrong), 'wrong answer')} into {options.sheet}", err=True)
    click.echo(json.dumps(figures) if options.as_json else query_table(figures))


def _draw_curve(library: "Library", measurement: "Measurement", folder: Path) -> None:
    """Draw the similarity curve of the visual moment whose video is longest, if there is one."""
    from serve.evaluate.plots import CURVE, draw_curve
    from serve.evaluate.questions import names_of
    from serve.values import Filter, Query

    questions = [reply.question for reply in measurement.moments if reply.question.channel == "visual"]
    if not questions or library.engine.visual is None:
        return
    videos = {name: video for video in library.videos() for name in names_of(video)}
    question = max(questions, key=lambda question: videos[question.file or ""].duration_seconds)
    video = videos[question.file or ""]
    seconds, similarities = library.similarities(question.text, video)
    only_video = Filter(collections=(video.collection,), video_ids=(video.video_id,))
    answer = library.moments(Query(text=question.text, limit=3, filter=only_video))
    if len(seconds):
        draw_curve(question, seconds, similarities, answer.moments, folder / CURVE)


def _evaluate_policies(options: EvalOptions) -> None:
    from serve.cli.eval_tables import policy_table
    from serve.cli.progress import show_bar
    from serve.evaluate.policies import evaluate_policies, policy_figures, read_clips
    from serve.moderation.policies import read_policies
    from serve.search.library import Library

    assert options.policies is not None
    assert options.clips is not None
    policies, clips = read_policies(options.policies), read_clips(options.clips)
    directory, settings = load_library_settings(options.data, options.config)
    with Library.open(directory, settings) as library, show_bar("Scoring") as on_done:
        evaluation = evaluate_policies(library, policies, clips, str(options.clips), on_done)
    if options.plots is not None:
        from serve.evaluate.plots import POLICIES, draw_policies

        options.plots.mkdir(parents=True, exist_ok=True)
        draw_policies(evaluation.policies, options.plots / POLICIES)
    figures = policy_figures(evaluation)
    click.echo(json.dumps(figures) if options.as_json else policy_table(figures))


def _evaluate_predictions(options: EvalOptions) -> None:
    from serve.cli.eval_tables import prediction_table
    from serve.evaluate.predictions import evaluate_files, prediction_figures

    assert options.predictions is not None
    assert options.truth is not None
    scores = evaluate_files(options.predictions, options.truth)
    figures = prediction_figures(scores)
    click.echo(json.dumps(figures) if options.as_json else prediction_table(figures, list(scores.parts)))
