"""python -m encoders.mini: train and evaluate the built-in visual encoder."""

import dataclasses
import json
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from encoders.errors import EncoderError

FOLDER = click.Path(file_okay=False, path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Train or evaluate `mini`, the built-in visual encoder."""


@main.command("train")
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=FOLDER)
@click.option("--epochs", default=6, show_default=True, type=click.IntRange(min=1), help="Passes over the pictures.")
@click.option("--seed", default=1, show_default=True, type=click.IntRange(min=0), help="Seed of every random choice.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")
def train_command(data: Path, out: Path, epochs: int, seed: int, device: str) -> None:
    """Train a mini on the tars of folder DATA and write it to folder OUT.

    Tars whose name ends in val.tar are not trained on but evaluated after every epoch. OUT gets mini.safetensors and
    mini.json (the files that Kinodex loads), history.jsonl and training.png. The same command resumes a run that was
    stopped or killed. Most of the time goes into reading every picture once with ImageNet's network.
    """
    from encoders.mini.train import EpochReport, train_mini

    console = Console(stderr=True)
    progress = Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
        TextColumn("loss {task.fields[loss]:.3f}"), TimeElapsedColumn(), TimeRemainingColumn(), console=console,
    )  # fmt: skip
    bar = progress.add_task("Starting", total=None, loss=float("nan"))

    def on_stage(stage: str, done: int, total: int | None) -> None:
        if done == 0 and not console.is_terminal:
            console.print(stage, highlight=False)
        progress.update(bar, description=stage, completed=done, total=total)

    def on_step(step: int, steps: int, loss: float) -> None:
        progress.update(bar, description="Training, step", completed=step, total=steps, loss=loss)

    def on_epoch(report: EpochReport) -> None:
        held_out = "".join(
            f", {name} top1 {each.top1:.3f} top5 {each.top5:.3f}" for name, each in report.evaluations.items()
        )
        console.print(
            f"epoch {report.epoch}: loss {report.loss:.3f}{held_out}, {report.seconds:.0f} s", highlight=False
        )

    try:
        with progress:
            train_mini(
                data,
                out,
                epochs=epochs,
                seed=seed,
                device=device,
                on_stage=on_stage,
                on_step=on_step,
                on_epoch=on_epoch,
            )
    except ImportError as error:
        raise click.ClickException(f"{error}; pip install 'kinodex[train]'") from error
    except (EncoderError, OSError) as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        raise click.ClickException("stopped; the same command resumes from the last checkpoint") from None
    console.print(
        f"{out / 'mini.safetensors'} and mini.json are ready; training.png shows the loss and the accuracy.",
        highlight=False,
    )


@main.command("evaluate")
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("pictures", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, without the table by kind.")
def evaluate_command(model: Path, pictures: Path, as_json: bool) -> None:
    """Rank each picture's own first caption among all first captions of tar PICTURES, with the mini of folder MODEL.

    top1 and top5: the share of pictures whose caption ranks first, or among the first five. label_top1 and label_top5:
    the same with one caption for each label.
    """
    from encoders.config import SentenceConfig, VisualConfig
    from encoders.mini.encoder import MiniEncoder
    from encoders.mini.evaluate import accuracy_by_kind, evaluate_vectors
    from encoders.mini.pictures import load_pictures
    from encoders.sentence import SentenceEncoder

    try:
        sentence = SentenceEncoder.load(SentenceConfig())
        encoder = MiniEncoder.load(VisualConfig(), sentence, model)
        loaded = load_pictures([pictures], encoder.input_width)
    except EncoderError as error:
        raise click.ClickException(str(error)) from error
    vectors = encoder.encode_frames(loaded.pixels)
    evaluation = evaluate_vectors(vectors, loaded.labels, sentence)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(evaluation)))
        return
    table = Table("pictures", "number", "top1", "top5", title=f"{pictures.name}: {evaluation.captions} captions")
    table.add_row("all", str(evaluation.images), f"{evaluation.top1:.3f}", f"{evaluation.top5:.3f}")
    table.add_row(
        "all, by label", str(evaluation.images), f"{evaluation.label_top1:.3f}", f"{evaluation.label_top5:.3f}"
    )
    for kind, (count, top1, top5) in accuracy_by_kind(vectors, loaded.labels, sentence).items():
        table.add_row(kind, str(count), f"{top1:.3f}", f"{top5:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main(prog_name="python -m encoders.mini")
