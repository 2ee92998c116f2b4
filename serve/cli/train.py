"""`kinodex train`: the fusion transformer, on one's own videos."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from serve.cli.failures import debug_option
from serve.cli.options import config_option, json_option
from serve.settings import data_directory, load_settings

if TYPE_CHECKING:
    from temporal.fusion.train import Outcome
    from temporal.fusion.training_log import Report


@click.command(
    epilog="""\b
Examples:
  kinodex train --data ~/library --out fusion --captions captions.jsonl
  kinodex train --data news --data sport --out fusion          captions of the metadata, else what is said
  torchrun --nproc-per-node 4 --no-python kinodex train --data ~/library --out fusion

\b
Captions, one JSON object a line; a video is named by its id or by the last part of its path:
  {"video": "hike.mp4", "caption": "hiking in the mountains"}
  {"video": "hike.mp4", "caption": "a dog jumps over a stream", "start_seconds": 12, "end_seconds": 19.5}

\b
Then, if it was promoted:
  KINODEX_WINDOW_FUSION=fusion/fusion.safetensors kinodex reindex --data ~/library
""",
)
@click.option(
    "--data",
    "directories",
    metavar="DIR",
    multiple=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="A library to learn from; again for more.  [default: $KINODEX_DATA, then ./kinodex-data]",
)
@click.option(
    "--out",
    metavar="DIR",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Gets the checkpoint, the history, and the plot. A run that was stopped goes on there.",
)
@click.option("--captions", metavar="JSONL", type=click.Path(path_type=Path), help="What the videos show; see below.")
@click.option("--steps", default=2000, show_default=True, type=click.IntRange(min=1), help="At most.")
@click.option("--batch", default=128, show_default=True, type=click.IntRange(min=2), help="Captions a step.")
@click.option("--seed", default=1, show_default=True, type=click.IntRange(min=0), help="Of every random choice.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")
@json_option
@config_option("$KINODEX_CONFIG, then DIR/kinodex.toml")
@debug_option
def train(
    directories: tuple[Path, ...],
    out: Path,
    captions: Path | None,
    steps: int,
    batch: int,
    seed: int,
    device: str,
    as_json: bool,
    config: Path | None,
) -> None:
    """Train what makes one vector of the pictures and words of a window.

    Without training, a segment is the mean of its pictures. Training reads libraries as they were indexed, nothing is
    decoded again. A tenth of the videos chooses the best moment of the run, another tenth judges it: a checkpoint is
    promoted only if, there, neither recall@1 nor the mAP of moments is under that of the mean.
    """
    from encoders.weights import choose_device
    from serve.evaluate.training_data import gather
    from temporal.config import TrainConfig
    from temporal.fusion.train import train as train_fusion

    libraries = directories or (data_directory(None),)
    shown = _Shown(is_first=os.environ.get("RANK", "0") == "0")
    with shown.progress:
        gathered = gather(libraries, captions, out, load_settings(libraries[0], config), shown.stage)
        data = gathered.data
        missing = f"; {gathered.missing_count} are of no video here" if gathered.missing_count else ""
        shown.say(f"{len(data.captions)} captions of {len(data.videos)} videos, from {gathered.source}{missing}")
        outcome = train_fusion(
            data,
            out,
            TrainConfig(steps=steps, batch_count=batch, seed=seed),
            device=choose_device(device if "LOCAL_RANK" not in os.environ else _own_device(device)),
            on_step=shown.step,
            on_report=shown.report,
        )
    click.echo(json.dumps(_row(outcome, out)) if as_json else _told(outcome, out))


def _own_device(device: str) -> str:
    """Return the GPU of this process of torchrun."""
    import torch

    has_gpus = device in ("auto", "cuda") and torch.cuda.is_available()
    return f"cuda:{os.environ['LOCAL_RANK']}" if has_gpus else device


class _Shown:
    """What a person sees while it goes on: on standard error, of the first process alone."""

    def __init__(self, *, is_first: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._console = Console(stderr=True, quiet=not is_first)
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(), TimeRemainingColumn(), console=self._console, disable=not self._console.is_terminal,
        )  # fmt: skip
        self._bar = self.progress.add_task("Starting", total=None)

    def say(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True, markup=False)

    def stage(self, name: str, done: int, total: int | None) -> None:
        self.progress.update(self._bar, description=name, completed=done, total=total)

    def step(self, step: int, steps: int, loss: float) -> None:
        self.progress.update(self._bar, description=f"Training, loss {loss:.3f}", completed=step, total=steps)

    def report(self, report: "Report") -> None:
        moments = report.validation.moment_map
        self.say(
            f"step {report.step}: loss {report.loss:.3f}, validation {report.validation_loss:.3f},"
            f" recall@1 {report.validation.recall_at_1:.3f}"
            + (f", moment mAP {moments:.3f}" if moments is not None else "")
        )


def _row(outcome: "Outcome", out: Path) -> dict[str, Any]:
    from temporal.fusion.train import CANDIDATE, FUSION

    checkpoint = out / (FUSION if outcome.is_promoted else CANDIDATE)
    return {**asdict(outcome), "checkpoint": str(checkpoint)}


def _told(outcome: "Outcome", out: Path) -> str:
    """Say how the checkpoint did on the videos that judge, and what became of it."""
    found, mean = outcome.fusion, outcome.mean
    lines = [
        f"held-out videos, {found.caption_count} captions: recall@1 {found.recall_at_1:.3f}, mean of the frames"
        f" {mean.recall_at_1:.3f}"
    ]
    if found.moment_map is not None and mean.moment_map is not None:
        lines.append(
            f"held-out moments, {found.moment_count}: mAP {found.moment_map:.3f}, mean of the frames"
            f" {mean.moment_map:.3f}"
        )
    else:
        lines.append("moments were not measured: no held-out caption is of a part of a video")
    checkpoint = _row(outcome, out)["checkpoint"]
    if outcome.is_promoted:
        lines.append(f"promoted: {checkpoint} (step {outcome.best_step})")
        lines.append(f"to use it: KINODEX_WINDOW_FUSION={checkpoint}, or window.fusion in the settings; then reindex")
    elif not outcome.best_step:
        lines.append("not promoted: no step was better than the mean of the frames")
    else:
        lines.append(f"not promoted: it is under the mean of the frames; the candidate stays in {checkpoint}")
    return "\n".join(lines)
