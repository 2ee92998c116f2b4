"""Trains `mini`: its caption head learns to embed a picture where the sentence encoder embeds its caption.

The trunk is ImageNet's and stays as it is, so each picture passes it once for each view: whole, and cropped and
recoloured at random. The features of the views are kept, and the head learns from them in minutes.

Two pictures of a batch are often mixed, as if they stood side by side: features are means over a picture's positions,
so the features of such a picture are the weighted mean of both (mixup, https://arxiv.org/abs/1710.09412, of features).
Frames of videos show several things where most training pictures show one. The loss has three parts:

- A picture must choose its caption among all captions of the data. Captions that the sentence encoder finds similar
  share the choice.
- Each caption must choose its picture in the batch. (Both: InfoNCE, https://arxiv.org/abs/1807.03748, with soft targets
  as in https://arxiv.org/abs/2303.06628.)
- The vector of a picture must point to the vector of its caption, so that words of no caption find their place too.
"""

import json
import math
import os
import pickle
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from encoders.config import SentenceConfig
from encoders.errors import PicturesInvalid, WeightsInvalid
from encoders.mini.encoder import MiniConfig
from encoders.mini.evaluate import Evaluation, evaluate_vectors
from encoders.mini.features import INPUT_PX, Features, OnStage, TrunkReader, read_features
from encoders.mini.pictures import Label, is_held_out
from encoders.mini.tower import ARCHITECTURE, WIDTH, CaptionHead, Tower, class_names, load_pretrained, pack_weights
from encoders.sentence import SentenceEncoder
from encoders.weights import choose_device

BATCH_COUNT = 256
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.02
WARM_UP_STEPS = 100
DROPOUT = 0.3  # of features and of the hidden layer: captions of 3,000 labels are soon learned by heart
NOISE = 0.2  # standard deviation of the noise on a feature, as a share of the feature's own in the batch
MIX_SHARE = 0.5  # share of pictures that are mixed with another
MIX_LEAST = 0.4  # least share that a mixed picture keeps
CAPTION_TEMPERATURE = 0.05  # of the soft targets: how far similar captions share a choice
PICTURE_TEMPERATURE = 0.05  # start value; it is learned
CAPTION_TO_PICTURE_WEIGHT = 0.5
COSINE_WEIGHT = 1.0
KIND_POWER = 0.75  # a kind of n pictures is drawn in proportion to n ** 0.75: fewer objects, more scenes


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochReport:
    """The result of one epoch."""

    epoch: int
    loss: float
    seconds: float
    evaluations: dict[str, Evaluation]  # by the name of the tar of held-out pictures


@dataclass(frozen=True, slots=True, kw_only=True)
class Captions:
    """All distinct captions of the data."""

    vectors: Tensor  # float32 (C, WIDTH), unit length
    own: tuple[NDArray[np.int64], ...]  # the captions of each picture: rows of `vectors`


def train_mini(
    data: Path,
    out: Path,
    *,
    epochs: int,
    seed: int,
    device: str = "auto",
    on_stage: OnStage = lambda stage, done, total: None,
    on_step: Callable[[int, int, float], None] = lambda step, steps, loss: None,
    on_epoch: Callable[[EpochReport], None] = lambda report: None,
) -> None:
    """Train a tower and write it to `out` after each epoch.

    A stopped run resumes in `out`, after the last tar whose features it kept or the last epoch, with the same result.

    Args:
        data: A folder of tars. Those whose name ends in `val.tar` are used for evaluation only.
        out: Gets mini.safetensors, mini.json, history.jsonl, training.png, checkpoint.pt and a folder of features.
        epochs: An epoch draws as many pictures as there are.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        on_stage: Called before the first step with a stage, the work done, and the total where it is known.
        on_step: Called with the step, the number of steps, and the loss.
    Raises:
        PicturesInvalid: If the pictures cannot be read.
        WeightsInvalid: If `out` holds a run with other settings.
        ImportError: If the package of the ImageNet weights is not installed.
    """
    paths = sorted(data.glob("*.tar"))
    if all(is_held_out(path) for path in paths):
        raise PicturesInvalid(str(data), "there is no .tar to train on")
    (out / "features").mkdir(parents=True, exist_ok=True)
    device = choose_device(device)
    reader = TrunkReader(device, seed)
    features = {path: read_features(path, out / "features", reader, on_stage) for path in paths}
    held_out = {path.name: each for path, each in features.items() if is_held_out(path)}
    sentence = SentenceEncoder.load(SentenceConfig())
    tower = make_tower(sentence)
    run = HeadRun(
        [each for path, each in features.items() if not is_held_out(path)],
        sentence, epochs=epochs, seed=seed, device=device, on_stage=on_stage,
    )  # fmt: skip
    run.resume(out / "checkpoint.pt")
    history = read_epochs(out / "history.jsonl", run.step // run.steps_in_epoch)
    while run.step < run.steps:
        began, losses = time.monotonic(), []
        while True:
            losses.append(run.advance())
            on_step(run.step, run.steps, losses[-1])
            if run.step % run.steps_in_epoch == 0:
                break
        epoch = run.step // run.steps_in_epoch
        tower.captions.load_state_dict(run.head.state_dict())
        write_weights(tower, sentence, out, f"{epoch} of {epochs} epochs, seed {seed}")
        report = EpochReport(
            epoch=epoch,
            loss=float(np.mean(losses)),
            seconds=time.monotonic() - began,
            evaluations={name: evaluate(tower, each, sentence) for name, each in held_out.items()},
        )
        history.append(report)
        write_epochs(out, history)
        run.save(out / "checkpoint.pt")
        on_epoch(report)


class HeadRun:
    """The training of one caption head. Seed and number of a step decide its random choices."""

    def __init__(
        self,
        parts: Sequence[Features],
        sentence: SentenceEncoder,
        *,
        epochs: int,
        seed: int,
        device: str,
        on_stage: OnStage,
    ) -> None:
        torch.manual_seed(seed)
        self.seed, self.device = seed, device
        self.views = np.concatenate([part.views for part in parts], axis=1)  # float16 (V, N, FEATURE_CHANNELS)
        labels = [label for part in parts for label in part.labels]
        on_stage("Encoding captions", 0, None)
        self.captions = encode_captions(labels, sentence, device)
        self.head = CaptionHead(DROPOUT).to(device)
        self.scale = torch.nn.Parameter(torch.tensor(-math.log(PICTURE_TEMPERATURE), device=device))
        groups: list[dict[str, Any]] = [
            {"params": [*self.head.parameters()]},
            {"params": [self.scale], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY)
        kinds = Counter(label.kind for label in labels)
        share = np.array([kinds[label.kind] ** (KIND_POWER - 1) for label in labels])
        self.share = share / share.sum()
        self.steps_in_epoch = max(len(labels) // BATCH_COUNT, 1)
        self.steps, self.step = epochs * self.steps_in_epoch, 0

    def resume(self, path: Path) -> None:
        """Load a checkpoint, if there is one."""
        if not path.exists():
            return
        try:
            saved = torch.load(path, map_location=self.device, weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise WeightsInvalid(str(path), str(error).partition("\n")[0]) from error
        if saved["settings"] != self.settings():
            raise WeightsInvalid(str(path), "it belongs to a run with other pictures, epochs or seed; use another OUT")
        self.head.load_state_dict(saved["head"])
        self.scale.data.copy_(saved["scale"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step = saved["step"]

    def save(self, path: Path) -> None:
        """Write a checkpoint atomically: a kill during the write leaves the old checkpoint."""
        saved = {
            "settings": self.settings(),
            "step": self.step,
            "head": self.head.state_dict(),
            "scale": self.scale.data,
            "optimizer": self.optimizer.state_dict(),
        }
        torch.save(saved, path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)

    def settings(self) -> dict[str, int]:
        return {"pictures": len(self.share), "steps": self.steps, "seed": self.seed}

    def advance(self) -> float:
        """Take one step, and return the loss before it."""
        choice = np.random.default_rng([self.seed, self.step])
        torch.manual_seed(self.seed * 1_000_003 + self.step)  # dropout and noise
        rows = choice.choice(len(self.share), size=min(BATCH_COUNT, len(self.share)), p=self.share)
        own = torch.from_numpy(np.array([choice.choice(self.captions.own[row]) for row in rows])).to(self.device)
        view = self.views[choice.integers(len(self.views)), rows].astype(np.float32)
        features = torch.from_numpy(view).to(self.device)
        features = features + NOISE * features.std(dim=0) * torch.randn_like(features)
        features, partner, share = mix(features)
        self.head.train()
        with torch.autocast(torch.device(self.device).type, torch.bfloat16):
            vectors = self.head(features)
            loss = loss_of_captions(vectors, own, partner, share, self.captions.vectors, self.scale.exp())
        for group in self.optimizer.param_groups:
            group["lr"] = LEARNING_RATE * schedule(self.step, self.steps)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.step += 1
        return loss.item()


def mix(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mix the features of MIX_SHARE of the pictures with those of another picture of the batch, float32 (B, D).

    Returns:
        The features; int64 (B,), the index of each picture's partner; float32 (B,), the share of each picture that is
        left, 1 for those that are not mixed.
    """
    count, device = len(features), features.device
    partner = torch.randperm(count, device=device)
    left = MIX_LEAST + (1 - MIX_LEAST) * torch.rand(count, device=device)
    share = torch.where(torch.rand(count, device=device) < MIX_SHARE, left, 1.0)
    return share[:, None] * features + (1 - share[:, None]) * features[partner], partner, share


def loss_of_captions(
    vectors: Tensor, own: Tensor, partner: Tensor, share: Tensor, captions: Tensor, scale: Tensor
) -> Tensor:
    """Compute the sum of the three losses of a batch.

    Args:
        vectors: float32 (B, D), vectors of the pictures.
        own: int64 (B,), a caption of each picture: a row of `captions`.
        partner: int64 (B,), index of the picture that each picture is mixed with.
        share: float32 (B,), share of each picture that is left.
        captions: float32 (C, D), all captions.
        scale: Factor of the similarities: one over the temperature.
    """
    mine, other, share = captions[own], captions[own[partner]], share[:, None]
    target = F.normalize(share * mine + (1 - share) * other, dim=1)  # (B, D)

    choice = (mine @ captions.T / CAPTION_TEMPERATURE).softmax(dim=1)  # (B, C)
    choice = share * choice + (1 - share) * choice[partner]
    to_captions = F.cross_entropy(vectors @ captions.T * scale, choice)

    choice = (target @ target.T / CAPTION_TEMPERATURE).softmax(dim=1)  # (B, B)
    to_pictures = F.cross_entropy(target @ vectors.T * scale, choice)

    cosine = 1 - (vectors * target).sum(dim=1).mean()
    return to_captions + CAPTION_TO_PICTURE_WEIGHT * to_pictures + COSINE_WEIGHT * cosine


def schedule(step: int, steps: int) -> float:
    """Return the learning rate over its peak: a linear warm-up, then a cosine to 0."""
    warm_up = min(WARM_UP_STEPS, steps // 10)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up)))


def encode_captions(labels: Sequence[Label], sentence: SentenceEncoder, device: str) -> Captions:
    rows: dict[str, int] = {}
    own = tuple(np.array([rows.setdefault(caption, len(rows)) for caption in label.captions]) for label in labels)
    return Captions(vectors=torch.from_numpy(sentence.encode(list(rows))).to(device), own=own)


def encode_classes(sentence: SentenceEncoder) -> Tensor:
    """Return the vectors of ImageNet's class names minus their mean: float32 (CLASS_COUNT, WIDTH)."""
    names = sentence.encode([f"a photo of a {name}" for name in class_names()])
    return torch.from_numpy(names - names.mean(axis=0))


def evaluate(tower: Tower, features: Features, sentence: SentenceEncoder) -> Evaluation:
    """Evaluate a tower, on the CPU, on the whole pictures of a tar."""
    with torch.inference_mode():
        vectors = tower.read(torch.from_numpy(features.views[0].astype(np.float32)))
    return evaluate_vectors(vectors.numpy(), features.labels, sentence)


def make_tower(sentence: SentenceEncoder) -> Tower:
    """Make the tower on the CPU: ImageNet's weights, the vectors of its classes, and an untrained caption head."""
    tower = Tower().eval()
    head = {f"captions.{name}": value for name, value in tower.captions.state_dict().items()}
    tower.load_state_dict({**load_pretrained(), **head, "class_vectors": encode_classes(sentence)})
    return tower


def write_weights(tower: Tower, sentence: SentenceEncoder, out: Path, trained: str) -> None:
    """Write the weights in the files that `mini` loads."""
    config = MiniConfig(
        architecture=ARCHITECTURE, trained=trained, text=sentence.name, width=WIDTH, input_px=INPUT_PX,
        resize="squash", mean=127.5, std=127.5,
    )  # fmt: skip
    (out / "mini.safetensors").write_bytes(pack_weights(tower.state_dict()))
    (out / "mini.json").write_text(json.dumps(asdict(config), indent=2) + "\n", encoding="utf-8")


def read_epochs(path: Path, epochs: int) -> list[EpochReport]:
    """Read the reports of the first `epochs` epochs, which are those of the checkpoint."""
    if not path.exists():
        return []
    reports = []
    for line in path.read_text(encoding="utf-8").splitlines()[:epochs]:
        row = json.loads(line)
        evaluations = {name: Evaluation(**each) for name, each in row.pop("evaluations").items()}
        reports.append(EpochReport(**row, evaluations=evaluations))
    return reports


def write_epochs(out: Path, history: list[EpochReport]) -> None:
    lines = "".join(json.dumps(asdict(report)) + "\n" for report in history)
    (out / "history.jsonl").write_text(lines, encoding="utf-8")
    plot_epochs(out / "training.png", history)


def plot_epochs(path: Path, history: list[EpochReport]) -> None:
    """Draw loss and held-out accuracy over the epochs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [report.epoch for report in history]
    left.plot(epochs, [report.loss for report in history], marker=".")
    left.set(xlabel="epoch", ylabel="loss", title="Training loss")
    for name in history[-1].evaluations:
        for figure_name in ("top1", "top5"):
            shares = [getattr(report.evaluations[name], figure_name) for report in history]
            right.plot(epochs, shares, marker=".", label=f"{name}, {figure_name}")
    right.set(xlabel="epoch", ylabel="share of held-out pictures", ylim=(0, 1), title="Held-out accuracy")
    if history[-1].evaluations:
        right.legend(loc="lower right", fontsize="small")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
