"""The log of a training run: its reports, as JSON lines and as a plot."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from temporal.fusion.retrieval_eval import Judgement

HISTORY, PLOT = "history.jsonl", "training.png"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One measurement during a run."""

    step: int
    loss: float | None  # mean training loss since the last report; None before the first step
    validation_loss: float
    validation: Judgement

    @property
    def rank(self) -> tuple[float, float]:
        """Sort key: the best report of a run has the highest rank."""
        return self.validation.recall_at_1 + (self.validation.moment_map or 0.0), -self.validation_loss


def row_of(report: Report) -> dict[str, float | None]:
    return {
        "step": report.step,
        "loss": report.loss,
        "validation_loss": report.validation_loss,
        **asdict(report.validation),
    }


def report_of(row: dict[str, float | None]) -> Report:
    step, loss, validation_loss = row.pop("step"), row.pop("loss"), row.pop("validation_loss")
    return Report(step=step, loss=loss, validation_loss=validation_loss, validation=Judgement(**row))  # type: ignore[arg-type]


def write_history(out: Path, history: Sequence[Report]) -> None:
    """Write the reports of a run as JSON lines and as a plot."""
    (out / HISTORY).write_text("".join(json.dumps(row_of(one)) + "\n" for one in history), encoding="utf-8")
    plot(out / PLOT, history)


def plot(path: Path, history: Sequence[Report]) -> None:
    """Draw the losses, and recall and moment mAP on the validation videos, over the steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = [one.step for one in history]
    left.plot(steps[1:], [one.loss for one in history[1:]], label="training")
    left.plot(steps, [one.validation_loss for one in history], label="validation")
    left.set(xlabel="step", ylabel="InfoNCE, nats", title="Loss")
    lines = {"recall@1": [one.validation.recall_at_1 for one in history]}
    if history[0].validation.moment_map is not None:
        lines["moment mAP"] = [one.validation.moment_map or 0.0 for one in history]
    for colour, (name, values) in zip(("C0", "C1"), lines.items(), strict=False):
        right.plot(steps, values, color=colour, label=name)
        right.axhline(values[0], color=colour, linestyle=":", label=f"{name}, mean of frames")
    right.set(xlabel="step", ylabel="on the validation videos", ylim=(-0.02, 1.02), title="Found")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
