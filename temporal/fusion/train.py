"""Trains the fusion transformer: the vector of a window learns to lie near the vectors of its captions.

The vectors of frames and sentences are frozen; they come from the indexed videos. A step draws captions and cuts a
window of random length that loosely overlaps each. Each window must choose its caption in the batch, and each
caption its window (symmetric InfoNCE, https://arxiv.org/abs/1807.03748). Every second batch holds captions near
each other. The loose overlap and the hard batches are VideoCLIP's (https://arxiv.org/abs/2109.14084). An anchor keeps
the result near the mean of the frames, where the encoder of the questions is at home.

The videos are split into three sets. The model trains on most videos, the validation set chooses the best step of the
run, and the test set compares that step with the mean of the frames. The checkpoint is promoted if it is no worse.

Runs on one GPU or the CPU, or on several GPUs with torchrun, where each process takes a share of every batch.
"""

import copy
import math
import os
import pickle
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.nn
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from encoders.errors import WeightsInvalid
from temporal.config import FusionConfig, TrainConfig
from temporal.fusion.fusion import Fusion, MeanPooling, save_checkpoint
from temporal.fusion.model import FusionTransformer, TokenBatch
from temporal.fusion.retrieval_eval import Judgement, judge
from temporal.fusion.training_log import Report, report_of, row_of, write_history
from temporal.fusion.training_set import TrainingSet, split
from temporal.values import TimeSpan, WindowTokens
from temporal.window import overlaps, window_tokens

FUSION, CANDIDATE = "fusion.safetensors", "candidate.safetensors"  # the promoted checkpoint; the best of the run
CHECKPOINT = "checkpoint.pt"
SAME_TEXT = 0.9999  # cosine above which two captions count as the same text, and not as wrong answers
NEIGHBOURS = 8  # size of the groups in a hard batch: a caption and its nearest captions
MAX_SCALE = 100.0  # bound of the scale of similarities in the loss, as in CLIP


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result of a run."""

    best_step: int  # 0 if no step was better than the mean of the frames
    fusion: Judgement  # of the best step, on the test set
    mean: Judgement  # of the mean of the frames, on the test set
    is_promoted: bool


@dataclass(frozen=True, slots=True)
class Process:
    """This process among the processes of torchrun; without torchrun, the first of one."""

    rank: int = 0
    count: int = 1

    @classmethod
    def join(cls, device: str) -> "Process":
        """Join the process group, if torchrun started one."""
        if "WORLD_SIZE" not in os.environ:
            return cls()
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
        return cls(rank=dist.get_rank(), count=dist.get_world_size())

    def gather(self, mine: Tensor) -> Tensor:
        """Return the rows of all processes, in order; gradients flow back to each process."""
        if self.count == 1:
            return mine
        return torch.cat(torch.distributed.nn.functional.all_gather(mine))  # type: ignore[no-untyped-call]


def train_fusion(
    data: TrainingSet,
    out: Path,
    config: TrainConfig,
    *,
    device: str,
    model_config: FusionConfig | None = None,
    on_step: Callable[[int, int, float], None] = lambda step, steps, loss: None,
    on_report: Callable[[Report], None] = lambda report: None,
) -> Outcome:
    """Train for `config.steps`, or until the validation stops improving; then test the best step.

    A stopped run resumes from its last checkpoint in `out`, and ends with the same result.

    Args:
        out: Gets candidate.safetensors, fusion.safetensors if it is promoted, history.jsonl, training.png, and
            checkpoint.pt during the run.
        device: "cpu", "cuda", "cuda:1", "mps".
        model_config: Shape of the model, if not the default; its sizes must fit the data.
        on_step: Called with the step, the number of steps, and the loss.
        on_report: Called with a report every `config.report_steps`.
    Raises:
        TrainingSetInvalid: If there are too few captioned videos.
        WeightsInvalid: If `out` holds a run with other settings.
    """
    process = Process.join(device)
    training, validation, test = split(data, config.held_out_share, config.seed)
    shape = model_config or FusionConfig(frame_size=data.frame_size, utterance_size=data.utterance_size)
    run = FusionRun(training, validation, config, shape, device, process)
    out.mkdir(parents=True, exist_ok=True)
    run.resume(out / CHECKPOINT)
    losses: list[float] = []
    while run.step < config.steps and not run.is_exhausted:
        losses.append(run.advance())
        on_step(run.step, config.steps, losses[-1])
        if run.step % config.report_steps and run.step < config.steps:
            continue
        report = run.report(float(np.mean(losses)))
        losses = []
        if process.rank == 0:
            on_report(report)
            write_history(out, run.history)
            run.save(out / CHECKPOINT)
    outcome = judge_best(run.best, run.best_step, test, out, device) if process.rank == 0 else None
    if process.count > 1:
        dist.barrier()
    if outcome is None:
        raise SystemExit(0)  # the first process reports the result
    return outcome


def judge_best(best: FusionTransformer, best_step: int, test: TrainingSet, out: Path, device: str) -> Outcome:
    """Compare the best weights of a run with the mean of the frames, and promote them if they are no worse."""
    save_checkpoint(best, out / CANDIDATE)
    fusion = Fusion(out / CANDIDATE, device)
    fusion.load(best.config.frame_size, best.config.utterance_size)
    trained, mean = judge(fusion, test), judge(MeanPooling(), test)
    is_promoted = best_step > 0 and trained.is_no_worse_than(mean)
    if is_promoted:
        save_checkpoint(best, out / FUSION)
    return Outcome(best_step=best_step, fusion=trained, mean=mean, is_promoted=is_promoted)


class FusionRun:
    """One training run: the contents of a checkpoint. Seed and number of a step decide its random choices."""

    def __init__(
        self,
        training: TrainingSet,
        validation: TrainingSet,
        config: TrainConfig,
        shape: FusionConfig,
        device: str,
        process: Process,
    ) -> None:
        self.training, self.validation, self.config = training, validation, config
        self.device, self.process = device, process
        torch.manual_seed(config.seed)
        self.model = FusionTransformer(shape).to(device)
        self.average = copy.deepcopy(self.model).eval()  # moving average of the weights: the result
        self.best, self.best_step = copy.deepcopy(self.average), 0
        self.scale = torch.nn.Parameter(torch.tensor(math.log(config.first_scale), device=device))
        weighing = list(self.model.weighing.parameters())
        others = [weight for name, weight in self.model.named_parameters() if not name.startswith("weighing.")]
        matrices, vectors = [w for w in others if w.dim() > 1], [w for w in others if w.dim() <= 1]
        factor = config.weighing_factor
        self.optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": config.weight_decay, "factor": 1.0},
                {"params": vectors, "weight_decay": 0.0, "factor": 1.0},
                {"params": [*weighing, self.scale], "weight_decay": 0.0, "factor": factor},
            ],
            lr=config.learning_rate,
            betas=(0.9, 0.98),
        )
        self.parallel: torch.nn.Module = self.model
        if process.count > 1:
            self.parallel = DistributedDataParallel(self.model, find_unused_parameters=True)
        self.step = 0
        self.history: list[Report] = []
        self.history.append(self._measure(None))  # the untrained model is the mean of the frames

    # ---- steps

    def advance(self) -> float:
        """Take one step, and return the loss before it."""
        config, process = self.config, self.process
        rng = np.random.default_rng([config.seed, self.step])
        chosen = draw_captions(self.training, config.batch_count, is_hard=self.step % 2 == 1, rng=rng)
        chosen = chosen[: len(chosen) // process.count * process.count]
        mine = np.split(chosen, process.count)[process.rank]
        own_rng = np.random.default_rng([config.seed, self.step, process.rank])
        windows = [draw_window(self.training, int(row), config, own_rng) for row in mine]
        torch.manual_seed((config.seed * 1_000_003 + self.step) * 64 + process.rank)  # dropout
        batch = TokenBatch.of(windows, self.model.config).to(self.device)
        self.model.train()
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.device.startswith("cuda")):
            vectors = self.parallel(batch)
        anchor = (vectors - F.normalize(batch.mean, dim=-1)).square().sum(dim=-1).mean()
        loss = contrast(process.gather(vectors), self.training, chosen, self.scale.exp())
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * group["factor"] * schedule(self.step, config.steps)
        self.optimizer.zero_grad()
        (loss + config.anchor_weight * anchor).backward()
        torch.nn.utils.clip_grad_norm_([*self.model.parameters(), self.scale], config.gradient_norm)
        self.optimizer.step()
        self.step += 1
        with torch.no_grad():
            self.scale.clamp_(max=math.log(MAX_SCALE))
            decay = min(config.average_decay, self.step / (self.step + 10))
            for mean, value in zip(self.average.parameters(), self.model.parameters(), strict=True):
                mean.lerp_(value, 1 - decay)
        return loss.item()

    # ---- reports

    @property
    def is_exhausted(self) -> bool:
        """Whether the last `config.patience` reports brought no improvement."""
        best = max(range(len(self.history)), key=lambda at: self.history[at].rank)
        return len(self.history) - 1 - best >= self.config.patience

    def report(self, loss: float) -> Report:
        """Measure, and store the weights if they are the best so far."""
        report = self._measure(loss)
        if report.rank > max(earlier.rank for earlier in self.history):
            self.best, self.best_step = copy.deepcopy(self.average), self.step
        self.history.append(report)
        return report

    def _measure(self, loss: float | None) -> Report:
        pooling = _ModelPooling(self.average, self.device)
        rng = np.random.default_rng(self.config.seed)
        rows = np.arange(len(self.validation.captions))[: self.config.batch_count]
        windows = [draw_window(self.validation, int(row), self.config, rng) for row in rows]
        vectors = np.stack(
            [np.zeros(self.model.config.frame_size) if v is None else v for v in pooling.vectors(windows)]
        )
        with torch.inference_mode():
            validation_loss = contrast(
                torch.from_numpy(vectors.astype(np.float32)).to(self.device), self.validation, rows, self.scale.exp()
            )
        return Report(
            step=self.step,
            loss=loss,
            validation_loss=validation_loss.item(),
            validation=judge(pooling, self.validation),
        )

    # ---- checkpoints

    def settings(self) -> dict[str, object]:
        """Return the settings that must equal those of a checkpoint."""
        return {"data": self.training.fingerprint, "config": asdict(self.config), "model": asdict(self.model.config)}

    def save(self, path: Path) -> None:
        """Write a checkpoint atomically: a kill during the write leaves the old checkpoint."""
        saved = {
            "settings": self.settings(),
            "step": self.step,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "best": self.best.state_dict(),
            "best_step": self.best_step,
            "scale": self.scale.data,
            "optimizer": self.optimizer.state_dict(),
            "history": [row_of(report) for report in self.history],
        }
        torch.save(saved, path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)

    def resume(self, path: Path) -> None:
        """Load a checkpoint, if there is one."""
        if not path.exists():
            return
        try:
            saved = torch.load(path, map_location=self.device, weights_only=True)
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
            raise WeightsInvalid(str(path), str(error).partition("\n")[0]) from error
        if saved["settings"] != self.settings():
            raise WeightsInvalid(
                str(path), "it belongs to a run with other videos, captions or settings: use another --out"
            )
        self.model.load_state_dict(saved["model"])
        self.average.load_state_dict(saved["average"])
        self.best.load_state_dict(saved["best"])
        self.scale.data.copy_(saved["scale"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step, self.best_step = saved["step"], saved["best_step"]
        self.history = [report_of(row) for row in saved["history"]]


class _ModelPooling:
    """Pooling by the current weights of a run."""

    name = "training"

    def __init__(self, model: FusionTransformer, device: str) -> None:
        self._model, self._device = model, device

    def load(self, frame_size: int, utterance_size: int) -> None: ...

    def vectors(self, windows: Sequence[WindowTokens]) -> list[NDArray[np.float32] | None]:
        if not windows:
            return []
        with torch.inference_mode():
            vectors = self._model(TokenBatch.of(windows, self._model.config).to(self._device)).cpu().numpy()
        return [vector if len(window.frames) else None for window, vector in zip(windows, vectors, strict=True)]


# ---- parts of a step


def draw_captions(data: TrainingSet, count: int, *, is_hard: bool, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw captions without repetition; a hard batch consists of groups of near captions."""
    total = len(data.captions)
    count = min(count, total)
    if not is_hard or total <= count:
        return rng.permutation(total)[:count]
    seeds = rng.permutation(total)[: max(1, count // NEIGHBOURS)]
    near = np.argsort(-(data.caption_vectors[seeds] @ data.caption_vectors.T), axis=1, kind="stable")
    chosen = np.array(list(dict.fromkeys(near[:, :NEIGHBOURS].ravel().tolist())))
    rest = np.setdiff1d(np.arange(total), chosen)
    return np.concatenate([chosen, rng.permutation(rest)])[:count].astype(np.int64)


def draw_window(data: TrainingSet, row: int, config: TrainConfig, rng: np.random.Generator) -> WindowTokens:
    """Cut a window of random length that contains a random second of a caption at a random place.

    Some frames are left out, and sometimes all words. A caption that is an utterance is never among the words.
    """
    caption = data.captions[row]
    video = data.videos[caption.video]
    length = rng.uniform(config.shortest_seconds, config.longest_seconds)
    inside = rng.uniform(caption.span.start_seconds, max(caption.span.end_seconds, caption.span.start_seconds))
    start = inside - rng.uniform(0, length)
    start = max(0.0, min(start, video.duration_seconds - length))
    span = TimeSpan(start_seconds=start, end_seconds=min(start + length, max(video.duration_seconds, start)))
    pts = video.embeddings.pts_seconds
    first, last = (int(at) for at in np.searchsorted(pts, (span.start_seconds, span.end_seconds)))
    rows = np.arange(first, last) if first < last else np.array([max(first - 1, 0)])
    rows = rows[video.embeddings.epochs[rows] == video.embeddings.epochs[rows[len(rows) // 2]]]
    remaining = rows[rng.random(len(rows)) >= rng.uniform(0, config.frame_dropout)]
    rows = remaining if len(remaining) else rows
    spoken = [n for n, text in enumerate(video.utterances) if n != caption.utterance and overlaps(text, span)]
    if rng.random() < config.transcript_dropout:
        spoken = []
    utterances = [video.utterances[n] for n in spoken]
    return window_tokens(span, pts[rows], video.embeddings.vectors[rows], utterances, video.sentences[spoken])


def contrast(vectors: Tensor, data: TrainingSet, rows: NDArray[np.int64], scale: Tensor) -> Tensor:
    """Return the symmetric InfoNCE loss of windows (B, D) and their captions, rows of the data.

    Another caption of the same video, or the same text of another video, does not count as a wrong answer.
    """
    texts = torch.from_numpy(data.caption_vectors[rows]).to(vectors.device)
    videos = torch.from_numpy(data.caption_videos[rows]).to(vectors.device)
    may_be_right = (videos[:, None] == videos) | (texts @ texts.T > SAME_TEXT)
    may_be_right.fill_diagonal_(False)
    logits = (vectors.float() @ texts.T * scale).masked_fill(may_be_right, -torch.inf)
    right = torch.arange(len(rows), device=vectors.device)
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2


def schedule(step: int, steps: int) -> float:
    """Return the learning rate over its peak: a linear warm-up over a tenth of the steps, then a cosine to 0."""
    warm_up = max(1, steps // 10)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))
