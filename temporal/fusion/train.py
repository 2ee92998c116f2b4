"""Training the fusion transformer: windows are taught to lie near what is said of them.

The vectors of frames and sentences are frozen: they were made when the videos were indexed. A step draws captions, cuts
for each a window of random length that lies loosely over it, and lets each window choose its caption in the batch, and
each caption its window (symmetric InfoNCE, https://arxiv.org/abs/1807.03748). Every second batch is of captions near
to each other (https://arxiv.org/abs/2109.14084, VideoCLIP, as is the loose overlap). An anchor holds the result near
the mean of the frames, where the questions' encoder knows its way.

Three groups of videos: the model learns from most; some choose the best moment of the run; the last judge what was
chosen, against the mean of the frames. Only what is no worse there is promoted.

One GPU or the CPU; several GPUs with torchrun, where each process takes its share of every batch.
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
from temporal.fusion.training_set import TrainingSet, held_apart
from temporal.values import TimeSpan, WindowTokens
from temporal.window import overlaps, window_tokens

FUSION, CANDIDATE = "fusion.safetensors", "candidate.safetensors"  # promoted; the best of the run, to be judged
CHECKPOINT = "checkpoint.pt"
SAME_TEXT = 0.9999  # cosine: captions as near as this are one, and not each other's wrong answers
NEIGHBOURS = 8  # a hard batch is of groups so large: a caption and those nearest to it
MAX_SCALE = 100.0  # of similarities, in the loss: CLIP's bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run came to."""

    best_step: int  # 0: no step was better than the mean of the frames
    fusion: Judgement  # on the videos that judge
    mean: Judgement  # of the mean of the frames, on the same
    is_promoted: bool


@dataclass(frozen=True, slots=True)
class Process:
    """This process among those of torchrun; alone, it is the first of one."""

    rank: int = 0
    count: int = 1

    @classmethod
    def join(cls, device: str) -> "Process":
        """Meet the others, if torchrun started some."""
        if "WORLD_SIZE" not in os.environ:
            return cls()
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
        return cls(rank=dist.get_rank(), count=dist.get_world_size())

    def gathered(self, mine: Tensor) -> Tensor:
        """Rows of all processes, in order; gradients flow back to each."""
        if self.count == 1:
            return mine
        return torch.cat(torch.distributed.nn.functional.all_gather(mine))  # type: ignore[no-untyped-call]


def train(
    data: TrainingSet,
    out: Path,
    config: TrainConfig,
    *,
    device: str,
    model_config: FusionConfig | None = None,
    on_step: Callable[[int, int, float], None] = lambda step, steps, loss: None,
    on_report: Callable[[Report], None] = lambda report: None,
) -> Outcome:
    """Train until `config.steps`, or until nothing becomes better; then judge.

    A run that was stopped goes on from its last checkpoint in `out`, and ends as it would have ended.

    Args:
        out: Gets fusion.safetensors if it is promoted, candidate.safetensors, history.jsonl, training.png, and
            checkpoint.pt while it runs.
        device: "cpu", "cuda", "cuda:1", "mps".
        model_config: Of another shape than the default; its sizes must be those of the data.
        on_step: Told the step, all steps, and the loss.
        on_report: Told how the run stands, every `config.report_steps`.

    Raises:
        TrainingSetInvalid: If there is too little to learn from.
        WeightsInvalid: If `out` holds a run of other settings.
    """
    process = Process.join(device)
    learning, choosing, judging = held_apart(data, config.held_out_share, config.seed)
    shape = model_config or FusionConfig(frame_size=data.frame_size, utterance_size=data.utterance_size)
    run = Run(learning, choosing, config, shape, device, process)
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
    outcome = verdict(run.best, run.best_step, judging, out, device) if process.rank == 0 else None
    if process.count > 1:
        dist.barrier()
    if outcome is None:
        raise SystemExit(0)  # the first process says what became of it
    return outcome


def verdict(best: FusionTransformer, best_step: int, judging: TrainingSet, out: Path, device: str) -> Outcome:
    """Judge the best of a run against the mean of the frames, and promote it if nothing falls."""
    save_checkpoint(best, out / CANDIDATE)
    fusion = Fusion(out / CANDIDATE, device)
    fusion.load(best.config.frame_size, best.config.utterance_size)
    found, mean = judge(fusion, judging), judge(MeanPooling(), judging)
    is_promoted = best_step > 0 and found.holds_against(mean)
    if is_promoted:
        save_checkpoint(best, out / FUSION)
    return Outcome(best_step=best_step, fusion=found, mean=mean, is_promoted=is_promoted)


class Run:
    """One training run: everything that a checkpoint holds. Each step's randomness hangs on the seed and its number."""

    def __init__(
        self,
        learning: TrainingSet,
        choosing: TrainingSet,
        config: TrainConfig,
        shape: FusionConfig,
        device: str,
        process: Process,
    ) -> None:
        self.learning, self.choosing, self.config = learning, choosing, config
        self.device, self.process = device, process
        torch.manual_seed(config.seed)
        self.model = FusionTransformer(shape).to(device)
        self.average = copy.deepcopy(self.model).eval()  # moving, of the weights: what is kept
        self.best, self.best_step = copy.deepcopy(self.average), 0
        self.scale = torch.nn.Parameter(torch.tensor(math.log(config.first_scale), device=device))
        matrices = [weight for weight in self.model.parameters() if weight.dim() > 1]
        vectors = [weight for weight in self.model.parameters() if weight.dim() <= 1]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": config.weight_decay},
                {"params": [*vectors, self.scale], "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
            betas=(0.9, 0.98),
        )
        self.parallel: torch.nn.Module = self.model
        if process.count > 1:
            self.parallel = DistributedDataParallel(self.model, find_unused_parameters=True)
        self.step = 0
        self.history: list[Report] = []
        self.history.append(self.measured(None))  # untrained: the mean of the frames

    # ---- steps

    def advance(self) -> float:
        """Take one step; return the loss before it."""
        config, process = self.config, self.process
        drawn = np.random.default_rng([config.seed, self.step])
        chosen = draw_captions(self.learning, config.batch_count, is_hard=self.step % 2 == 1, drawn=drawn)
        chosen = chosen[: len(chosen) // process.count * process.count]
        mine = np.split(chosen, process.count)[process.rank]
        own = np.random.default_rng([config.seed, self.step, process.rank])
        windows = [draw_window(self.learning, int(row), config, own) for row in mine]
        torch.manual_seed((config.seed * 1_000_003 + self.step) * 64 + process.rank)  # dropout
        batch = TokenBatch.of(windows, self.model.config).to(self.device)
        self.model.train()
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.device.startswith("cuda")):
            vectors = self.parallel(batch)
        anchor = (vectors - F.normalize(batch.mean, dim=-1)).square().sum(dim=-1).mean()
        loss = contrast(process.gathered(vectors), self.learning, chosen, self.scale.exp())
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * schedule(self.step, config.steps)
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

    # ---- how it stands

    @property
    def is_exhausted(self) -> bool:
        """Whether nothing became better for long."""
        best = max(range(len(self.history)), key=lambda at: self.history[at].rank)
        return len(self.history) - 1 - best >= self.config.patience

    def report(self, loss: float) -> Report:
        """Measure, and keep the weights if they are the best so far."""
        report = self.measured(loss)
        if report.rank > max(one.rank for one in self.history):
            self.best, self.best_step = copy.deepcopy(self.average), self.step
        self.history.append(report)
        return report

    def measured(self, loss: float | None) -> Report:
        pooling = _Weights(self.average, self.device)
        drawn = np.random.default_rng(self.config.seed)
        rows = np.arange(len(self.choosing.captions))[: self.config.batch_count]
        windows = [draw_window(self.choosing, int(row), self.config, drawn) for row in rows]
        vectors = np.stack(
            [np.zeros(self.model.config.frame_size) if v is None else v for v in pooling.vectors(windows)]
        )
        with torch.inference_mode():
            validation_loss = contrast(
                torch.from_numpy(vectors.astype(np.float32)).to(self.device), self.choosing, rows, self.scale.exp()
            )
        return Report(
            step=self.step,
            loss=loss,
            validation_loss=validation_loss.item(),
            validation=judge(pooling, self.choosing),
        )

    # ---- checkpoints

    def settings(self) -> dict[str, object]:
        """What a checkpoint must agree in."""
        return {"data": self.learning.fingerprint, "config": asdict(self.config), "model": asdict(self.model.config)}

    def save(self, path: Path) -> None:
        """Write a checkpoint; one that is killed while it writes leaves the old one."""
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
        """Go on from a checkpoint, if there is one."""
        if not path.exists():
            return
        try:
            saved = torch.load(path, map_location=self.device, weights_only=True)
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
            raise WeightsInvalid(str(path), str(error).partition("\n")[0]) from error
        if saved["settings"] != self.settings():
            raise WeightsInvalid(
                str(path), "it is of a run with other videos, captions or settings: take another --out"
            )
        self.model.load_state_dict(saved["model"])
        self.average.load_state_dict(saved["average"])
        self.best.load_state_dict(saved["best"])
        self.scale.data.copy_(saved["scale"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step, self.best_step = saved["step"], saved["best_step"]
        self.history = [report_of(row) for row in saved["history"]]


class _Weights:
    """Weights of a run, as what makes segments."""

    name = "training"

    def __init__(self, model: FusionTransformer, device: str) -> None:
        self._model, self._device = model, device

    def load(self, frame_size: int, utterance_size: int) -> None: ...

    def vectors(self, windows: Sequence[WindowTokens]) -> list[NDArray[np.float32] | None]:
        if not windows:
            return []
        with torch.inference_mode():
            found = self._model(TokenBatch.of(windows, self._model.config).to(self._device)).cpu().numpy()
        return [vector if len(window.frames) else None for window, vector in zip(windows, found, strict=True)]


# ---- what a step is made of


def draw_captions(data: TrainingSet, count: int, *, is_hard: bool, drawn: np.random.Generator) -> NDArray[np.int64]:
    """Draw captions without repetition; hard ones in groups that are near to each other."""
    total = len(data.captions)
    count = min(count, total)
    if not is_hard or total <= count:
        return drawn.permutation(total)[:count]
    seeds = drawn.permutation(total)[: max(1, count // NEIGHBOURS)]
    near = np.argsort(-(data.caption_vectors[seeds] @ data.caption_vectors.T), axis=1, kind="stable")
    chosen = np.array(list(dict.fromkeys(near[:, :NEIGHBOURS].ravel().tolist())))
    rest = np.setdiff1d(np.arange(total), chosen)
    return np.concatenate([chosen, drawn.permutation(rest)])[:count].astype(np.int64)


def draw_window(data: TrainingSet, row: int, config: TrainConfig, drawn: np.random.Generator) -> WindowTokens:
    """Cut a window of random length loosely over a caption: it holds some second of it, anywhere in itself.

    Some frames are left out, and sometimes all words. If the caption is an utterance, it is not among the words.
    """
    caption = data.captions[row]
    video = data.videos[caption.video]
    length = drawn.uniform(config.shortest_seconds, config.longest_seconds)
    held = drawn.uniform(caption.span.start_seconds, max(caption.span.end_seconds, caption.span.start_seconds))
    start = held - drawn.uniform(0, length)
    start = max(0.0, min(start, video.duration_seconds - length))
    span = TimeSpan(start_seconds=start, end_seconds=min(start + length, max(video.duration_seconds, start)))
    pts = video.embeddings.pts_seconds
    first, last = (int(at) for at in np.searchsorted(pts, (span.start_seconds, span.end_seconds)))
    rows = np.arange(first, last) if first < last else np.array([max(first - 1, 0)])
    rows = rows[video.embeddings.epochs[rows] == video.embeddings.epochs[rows[len(rows) // 2]]]
    kept = rows[drawn.random(len(rows)) >= drawn.uniform(0, config.frame_dropout)]
    rows = kept if len(kept) else rows
    said = [n for n, one in enumerate(video.utterances) if n != caption.utterance and overlaps(one, span)]
    if drawn.random() < config.transcript_dropout:
        said = []
    heard = [video.utterances[n] for n in said]
    return window_tokens(span, pts[rows], video.embeddings.vectors[rows], heard, video.sentences[said])


def contrast(vectors: Tensor, data: TrainingSet, rows: NDArray[np.int64], scale: Tensor) -> Tensor:
    """Symmetric InfoNCE of windows (B, D) with their captions, rows of the data.

    Neither another caption of the same video nor the same text of another is a wrong answer.
    """
    texts = torch.from_numpy(data.caption_vectors[rows]).to(vectors.device)
    videos = torch.from_numpy(data.caption_videos[rows]).to(vectors.device)
    may_be_right = (videos[:, None] == videos) | (texts @ texts.T > SAME_TEXT)
    may_be_right.fill_diagonal_(False)
    logits = (vectors.float() @ texts.T * scale).masked_fill(may_be_right, -torch.inf)
    right = torch.arange(len(rows), device=vectors.device)
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2


def schedule(step: int, steps: int) -> float:
    """Share of the peak learning rate: a linear warm-up over a tenth, then a cosine to nothing."""
    warm_up = max(1, steps // 10)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))
