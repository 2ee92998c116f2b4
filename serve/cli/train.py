"""`kinodex train`: trains the fusion transformer on the videos of libraries."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from serve.cli.failures import debug_option
from serve.cli.options import config_option, json_option
from serve.settings import data_directory, load_settings

COMPOSED = "composed"  # folder of --out with the library that --pictures makes

if TYPE_CHECKING:
    from temporal.fusion.train import Outcome
    from temporal.fusion.training_log import Report


@click.command(
    epilog="""\b
Examples:
  kinodex train --data ~/library --out fusion --captions captions.jsonl
  kinodex train --data news --data sport --out fusion          captions from the metadata, or else the transcripts
  torchrun --nproc-per-node 4 --no-python kinodex train --data ~/library --out fusion
  kinodex train --pictures pictures --out fusion               videos composed of labelled pictures

\b
CAPTIONS has one JSON object a line. "video" is the ID of a video, or the last part of its path:
  {"video": "hike.mp4", "caption": "hiking in the mountains"}
  {"video": "hike.mp4", "caption": "a dog jumps over a stream", "start_seconds": 12, "end_seconds": 19.5}

\b
To use a promoted checkpoint:
  KINODEX_WINDOW_FUSION=fusion/fusion.safetensors kinodex reindex --data ~/library
""",
)
@click.option(
    "--data",
    "directories",
    metavar="DIR",
    multiple=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of a library to train on. Repeatable.  [default: $KINODEX_DATA, then ./kinodex-data]",
)
@click.option(
    "--pictures",
    metavar="DIR",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of labelled pictures, tars as for `python -m encoders.mini train`: train on videos composed of them,"
    " which are stored in composed/ of the output folder.",
)
@click.option(
    "--videos", metavar="N", default=3000, show_default=True, type=click.IntRange(min=20), help="Videos to compose."
)
@click.option(
    "--out",
    metavar="DIR",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the checkpoint, the log and the plot. A stopped run continues from it.",
)
@click.option("--captions", metavar="CAPTIONS", type=click.Path(path_type=Path), help="Captions of the videos.")
@click.option(
    "--steps", metavar="N", default=2000, show_default=True, type=click.IntRange(min=1), help="Most training steps."
)
@click.option(
    "--batch", metavar="N", default=128, show_default=True, type=click.IntRange(min=2), help="Captions in a step."
)
@click.option(
    "--seed", metavar="N", default=1, show_default=True, type=click.IntRange(min=0), help="Seed of all random choices."
)
@click.option("--device", metavar="DEVICE", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")
@json_option
@config_option("$KINODEX_CONFIG, then DIR/kinodex.toml")
@debug_option
def train(
    directories: tuple[Path, ...],
    pictures: Path | None,
    videos: int,
    out: Path,
    captions: Path | None,
    steps: int,
    batch: int,
    seed: int,
    device: str,
    as_json: bool,
    config: Path | None,
) -> None:
    """Train the fusion of pictures and words.

    The fusion transformer makes one vector of the pictures and words of a window. Without it, that vector is the mean
    of the pictures. Training reads indexed libraries, and decodes nothing. A tenth of the videos selects the best
    checkpoint, and another tenth tests it. A checkpoint is promoted only if recall@1 and the mAP of moments on the
    test videos are at least those of the mean.
    """
    from encoders.weights import choose_device
    from serve.evaluate.training_data import gather
    from temporal.config import TrainConfig
    from temporal.fusion.train import train_fusion

    if pictures is not None and (directories or captions is not None):
        raise click.UsageError("--pictures goes without --data and --captions")
    libraries = directories or (data_directory(None),)
    progress = _TrainingProgress(is_first=os.environ.get("RANK", "0") == "0")
    with progress.bars:
        if pictures is not None:
            libraries = (out / COMPOSED,)
            captions = _compose(pictures, libraries[0], videos, seed, config, progress)
        gathered = gather(libraries, captions, out, load_settings(libraries[0], config), progress.show_stage)
        data = gathered.data
        missing = f"; {gathered.missing_count} left out: not of these videos" if gathered.missing_count else ""
        progress.print(f"{len(data.captions)} captions of {len(data.videos)} videos, from {gathered.source}{missing}")
        outcome = train_fusion(
            data,
            out,
            TrainConfig(steps=steps, batch_count=batch, seed=seed),
            device=choose_device(device if "LOCAL_RANK" not in os.environ else _process_device(device)),
            on_step=progress.show_step,
            on_report=progress.print_report,
        )
    click.echo(json.dumps(_outcome_json(outcome, out)) if as_json else _outcome_text(outcome, out))


def _compose(
    pictures: Path, directory: Path, count: int, seed: int, config: Path | None, progress: "_TrainingProgress"
) -> Path:
    """Make the library of composed videos, unless a run that was stopped made it; return the file of its captions."""
    import shutil

    from serve.encoder_set import load_encoders
    from serve.evaluate.composed_library import CAPTIONS, compose_library

    if (directory / CAPTIONS).exists():  # it is written last
        return directory / CAPTIONS
    shutil.rmtree(directory, ignore_errors=True)
    encoders = load_encoders(load_settings(directory, config), None, speech=("none", "none"))
    return compose_library(pictures, directory, encoders, count=count, seed=seed, on_stage=progress.show_stage)


def _process_device(device: str) -> str:
    """Return the GPU of this process, which torchrun started."""
    import torch

    has_gpus = device in ("auto", "cuda") and torch.cuda.is_available()
    return f"cuda:{os.environ['LOCAL_RANK']}" if has_gpus else device


class _TrainingProgress:
    """Shows the progress of training on standard error. Of several processes, only the first shows it."""

    def __init__(self, *, is_first: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._console = Console(stderr=True, quiet=not is_first)
        self.bars = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(), TimeRemainingColumn(), console=self._console, disable=not self._console.is_terminal,
        )  # fmt: skip
        self._bar = self.bars.add_task("Starting", total=None)

    def print(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True, markup=False)

    def show_stage(self, name: str, done: int, total: int | None) -> None:
        self.bars.update(self._bar, description=name, completed=done, total=total)

    def show_step(self, step: int, steps: int, loss: float) -> None:
        self.bars.update(self._bar, description=f"Training, loss {loss:.3f}", completed=step, total=steps)

    def print_report(self, report: "Report") -> None:
        moments = report.validation.moment_map
        self.print(
            f"step {report.step}: loss {report.loss:.3f}, validation {report.validation_loss:.3f},"
            f" recall@1 {report.validation.recall_at_1:.3f}"
            + (f", moment mAP {moments:.3f}" if moments is not None else "")
        )


def _outcome_json(outcome: "Outcome", out: Path) -> dict[str, Any]:
    from temporal.fusion.train import CANDIDATE, FUSION

    checkpoint = out / (FUSION if outcome.is_promoted else CANDIDATE)
    return {**asdict(outcome), "checkpoint": str(checkpoint)}


def _outcome_text(outcome: "Outcome", out: Path) -> str:
    """Describe the figures of the checkpoint on the test videos, and whether it was promoted."""
    fusion, mean = outcome.fusion, outcome.mean
    lines = [
        f"held-out videos, {fusion.caption_count} captions: recall@1 {fusion.recall_at_1:.3f}, mean of the frames"
        f" {mean.recall_at_1:.3f}"
    ]
    if fusion.moment_map is not None and mean.moment_map is not None:
        lines.append(
            f"held-out moments, {fusion.moment_count}: mAP {fusion.moment_map:.3f}, mean of the frames"
            f" {mean.moment_map:.3f}"
        )
    else:
        lines.append("moments were not measured: no held-out caption describes a part of a video")
    checkpoint = _outcome_json(outcome, out)["checkpoint"]
    if outcome.is_promoted:
        lines.append(f"promoted: {checkpoint} (step {outcome.best_step})")
        lines.append(f"to use it: KINODEX_WINDOW_FUSION={checkpoint}, or window.fusion in the settings; then reindex")
    elif not outcome.best_step:
        lines.append("not promoted: no step was better than the mean of the frames")
    else:
        lines.append(f"not promoted: worse than the mean of the frames; the candidate is in {checkpoint}")
    return "\n".join(lines)
