"""Trains `mini`: the tower learns to embed a picture where the sentence encoder embeds its caption.

The loss of the captions has three parts:

- A picture must choose its caption among all captions of the data. Captions that the sentence encoder finds similar
  share the choice.
- Each caption must choose its picture in the batch. (Both: InfoNCE, https://arxiv.org/abs/1807.03748, with soft targets
  as in https://arxiv.org/abs/2303.06628.)
- The vector of a picture must point to the vector of its caption, so that words of no caption find their place too.

The class trunk learns to recognise ImageNet's classes in small pictures as the original network does in larger ones.
"""

import json
import math
import os
import pickle
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from encoders.config import SentenceConfig
from encoders.errors import PicturesInvalid, WeightsInvalid
from encoders.mini.augment import augment, mix
from encoders.mini.encoder import MiniConfig
from encoders.mini.evaluate import Evaluation, evaluate_tower
from encoders.mini.pictures import Pictures, load_pictures
from encoders.mini.tower import (
    ARCHITECTURE,
    WIDTH,
    Tower,
    class_names,
    load_pretrained,
    pack_weights,
    scale_pixels,
    unpack_weights,
)
from encoders.sentence import SentenceEncoder
from encoders.weights import choose_device

# The licence of this source is not free, so it is never trained on.
EXCLUDED_SOURCES = frozenset({"dalelane/pokemon-images-dataset"})
INPUT_PX = 128
TRAIN_PX = 112  # objects look larger in training crops than in whole pictures: https://arxiv.org/abs/1906.06423
BATCH_COUNT = 128
LEARNING_RATE = 3e-4
HEAD_LEARNING_RATE = 1e-3  # of new layers
WEIGHT_DECAY = 0.02
WARM_UP_STEPS = 200
GRADIENT_NORM = 1.0
CAPTION_TEMPERATURE = 0.05  # of the soft targets: how far similar captions share a choice
PICTURE_TEMPERATURE = 0.05  # start value; it is learned
CAPTION_TO_PICTURE_WEIGHT = 0.5
COSINE_WEIGHT = 1.0
CLASS_STEPS = 12  # the class trunk learns at every 12th step only, because it starts close to its target
CLASS_LEARNING_RATE = 1e-4
TEACHER_PX = 160  # ImageNet's classifier, trained at 224, knows these small pictures better than at INPUT_PX
MIX_SHARE = 0.15  # share of pictures with a box of another picture
KIND_POWER = 0.75  # a kind of n pictures is drawn in proportion to n ** 0.75: fewer objects, more scenes
AVERAGE_DECAY = 0.999  # of the moving average of the weights, which is the result
PLAIN_SHARE = 0.2  # share of the last steps without boxes, as pictures have none when the tower is used
CHECKPOINT_STEPS = 100


OnStage = Callable[[str, int, int | None], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochReport:
    """The result of one epoch."""

    epoch: int
    loss: float
    seconds: float
    evaluation: Evaluation | None  # None: no pictures to evaluate on


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
    start: Path | None = None,
    on_stage: OnStage = lambda stage, done, total: None,
    on_step: Callable[[int, int, float], None] = lambda step, steps, loss: None,
    on_epoch: Callable[[EpochReport], None] = lambda report: None,
) -> None:
    """Train a tower and write it to `out` after each epoch.

    A stopped run resumes from its last checkpoint in `out`, and ends with the same result.

    Args:
        data: A folder of tars; `val.tar`, if it exists, is used for evaluation only.
        out: Gets mini.safetensors, mini.json, history.jsonl, training.png, and checkpoint.pt during the run.
        epochs: An epoch draws as many pictures as there are.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        start: Folder of a trained `mini` to start from; None: EfficientNet-lite0's ImageNet weights.
        on_stage: Called before the first step with a stage, the work done, and the total where it is known.
        on_step: Called with the step, the number of steps, and the loss.
    Raises:
        PicturesInvalid: If the pictures cannot be read.
        WeightsInvalid: If `out` holds a run with other settings, or `start` holds no `mini`.
        ImportError: If the package of the ImageNet weights is not installed.
    """
    paths = sorted(path for path in data.glob("*.tar") if path.name != "val.tar")
    if not paths:
        raise PicturesInvalid(str(data), "there is no .tar to train on")
    out.mkdir(parents=True, exist_ok=True)
    on_stage("Reading pictures", 0, None)
    pictures = load_pictures(paths, INPUT_PX, excluded=EXCLUDED_SOURCES)
    held_out = load_pictures([data / "val.tar"], INPUT_PX) if (data / "val.tar").exists() else None
    sentence = SentenceEncoder.load(SentenceConfig())
    run = MiniRun(pictures, sentence, epochs=epochs, seed=seed, device=choose_device(device), on_stage=on_stage)
    run.begin(start)
    run.resume(out / "checkpoint.pt")
    history = read_epochs(out / "history.jsonl", run.step // run.steps_in_epoch)
    while run.step < run.steps:
        began, losses = time.monotonic(), []
        while True:
            losses.append(run.advance())
            on_step(run.step, run.steps, losses[-1])
            if run.step % run.steps_in_epoch == 0:
                break
            if run.step % CHECKPOINT_STEPS == 0:
                run.save(out / "checkpoint.pt")
        write_weights(run, sentence, out, trained=f"{run.step // run.steps_in_epoch} of {epochs} epochs, seed {seed}")
        report = EpochReport(
            epoch=run.step // run.steps_in_epoch,
            loss=float(np.mean(losses)),
            seconds=time.monotonic() - began,
            evaluation=evaluate_tower(run.average, held_out, sentence) if held_out else None,
        )
        history.append(report)
        write_epochs(out, history)
        run.save(out / "checkpoint.pt")
        on_epoch(report)


class MiniRun:
    """One training run: the contents of a checkpoint. Seed and number of a step decide its random choices."""

    def __init__(
        self, pictures: Pictures, sentence: SentenceEncoder, *, epochs: int, seed: int, device: str, on_stage: OnStage
    ) -> None:
        torch.manual_seed(seed)
        self.pictures, self.seed, self.device = pictures, seed, device
        on_stage("Encoding captions", 0, None)
        self.captions = encode_captions(pictures, sentence, device)
        self.class_vectors = encode_classes(sentence).to(device)
        self.classes = classify(pictures.pixels, device, on_stage)
        self.steps_in_epoch = max(len(pictures) // BATCH_COUNT, 1)
        self.steps, self.step = epochs * self.steps_in_epoch, 0
        self.tower = Tower().to(device).to(memory_format=torch.channels_last)
        self.average = Tower().to(device).to(memory_format=torch.channels_last).requires_grad_(False).eval()
        self.scale = torch.nn.Parameter(torch.tensor(-math.log(PICTURE_TEMPERATURE), device=device))
        self.tower.stem.requires_grad_(False)
        self.tower.shared.requires_grad_(False)
        trunk = [*self.tower.caption_trunk.parameters()]
        classes = [*self.tower.class_trunk.parameters(), *self.tower.classes.parameters()]
        head = [*self.tower.hidden.parameters(), *self.tower.out.parameters()]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in trunk if p.ndim > 1], "peak": LEARNING_RATE},
                {"params": [p for p in trunk if p.ndim == 1], "peak": LEARNING_RATE, "weight_decay": 0.0},
                {"params": classes, "peak": CLASS_LEARNING_RATE, "weight_decay": 0.0},
                {"params": head, "peak": HEAD_LEARNING_RATE},
                {"params": [self.scale], "peak": HEAD_LEARNING_RATE, "weight_decay": 0.0},
            ],
            weight_decay=WEIGHT_DECAY,
        )
        kinds = Counter(label.kind for label in pictures.labels)
        share = np.array([kinds[label.kind] ** (KIND_POWER - 1) for label in pictures.labels])
        self.share = share / share.sum()

    def begin(self, start: Path | None) -> None:
        """Load the start weights."""
        if start is None:
            # The head of the captions stays random.
            self.tower.load_state_dict({**load_pretrained(), "class_vectors": self.class_vectors}, strict=False)
        else:
            try:
                self.tower.load_state_dict(unpack_weights((start / "mini.safetensors").read_bytes()))
            except (OSError, SafetensorError, RuntimeError) as error:
                raise WeightsInvalid(str(start), str(error).partition("\n")[0]) from error
        self.average.load_state_dict(self.tower.state_dict())

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
        self.tower.load_state_dict(saved["tower"])
        self.average.load_state_dict(saved["average"])
        self.scale.data.copy_(saved["scale"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step = saved["step"]

    def save(self, path: Path) -> None:
        """Write a checkpoint atomically: a kill during the write leaves the old checkpoint."""
        saved = {
            "settings": self.settings(),
            "step": self.step,
            "tower": self.tower.state_dict(),
            "average": self.average.state_dict(),
            "scale": self.scale.data,
            "optimizer": self.optimizer.state_dict(),
        }
        torch.save(saved, path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)

    def settings(self) -> dict[str, int]:
        return {"pictures": len(self.pictures), "steps": self.steps, "seed": self.seed}

    def advance(self) -> float:
        """Take one step, and return the loss of the captions before it."""
        epoch, number = divmod(self.step, self.steps_in_epoch)
        order = np.random.default_rng([self.seed, epoch]).choice(
            len(self.pictures), size=(self.steps_in_epoch, min(BATCH_COUNT, len(self.pictures))), p=self.share
        )
        chosen = order[number]
        choice = np.random.default_rng([self.seed, epoch, number])
        own = torch.from_numpy(np.array([choice.choice(self.captions.own[row]) for row in chosen])).to(self.device)
        generator = torch.Generator(self.device).manual_seed(self.seed * 1_000_003 + self.step)
        torch.manual_seed(self.seed * 1_000_003 + self.step)  # dropout
        pixels = torch.from_numpy(self.pictures.pixels[chosen]).to(self.device)
        x = augment(pixels, TRAIN_PX, generator)
        mixed = MIX_SHARE if self.step < (1 - PLAIN_SHARE) * self.steps else 0.0
        x, partner, share = mix(x, mixed, generator)

        self.tower.train()
        with torch.autocast(torch.device(self.device).type, torch.bfloat16):
            edges = self.tower.edges(x.contiguous(memory_format=torch.channels_last))
            vectors = self.tower.caption_vectors(edges)
        caption_loss = loss_of_captions(vectors, own, partner, share, self.captions.vectors, self.scale.exp())
        loss = caption_loss
        if self.step % CLASS_STEPS == 0:
            loss = loss + self.loss_of_classes(pixels, torch.from_numpy(self.classes[chosen]).to(self.device))
        rate = schedule(self.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * rate
        self.optimizer.zero_grad()  # sets gradients to None, so the class trunk is unchanged between its steps
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.tower.parameters(), GRADIENT_NORM)
        self.optimizer.step()
        self.step += 1
        decay = min(AVERAGE_DECAY, self.step / (self.step + 10))
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.tower.parameters(), strict=True):
                mean.lerp_(value, 1 - decay)
        return caption_loss.item()

    def loss_of_classes(self, pixels: Tensor, classes: Tensor) -> Tensor:
        """Compare the class trunk's answers on whole pictures with the answers before training (`classify`)."""
        x = scale_pixels(pixels)
        with torch.autocast(torch.device(self.device).type, torch.bfloat16):
            logits = self.tower.class_logits(self.tower.edges(x))
        return F.cross_entropy(logits, classes.float())


def classify(pixels: NDArray[np.uint8], device: str, on_stage: OnStage) -> NDArray[np.float16]:
    """Return the class probabilities of the network before training: float16 (N, CLASS_COUNT), rows sum to 1."""
    teacher = Tower().to(device).to(memory_format=torch.channels_last).eval()
    teacher.load_state_dict(load_pretrained(), strict=False)
    probabilities = []
    with torch.inference_mode(), torch.autocast(torch.device(device).type, torch.bfloat16):
        for start in range(0, len(pixels), BATCH_COUNT):
            x = scale_pixels(torch.from_numpy(pixels[start : start + BATCH_COUNT]).to(device))
            x = F.interpolate(x, size=TEACHER_PX, mode="bicubic").contiguous(memory_format=torch.channels_last)
            on_stage("Classifying pictures", start, len(pixels))
            probabilities.append(teacher.class_logits(teacher.edges(x)).softmax(dim=1).half().cpu().numpy())
    return np.concatenate(probabilities)


def loss_of_captions(
    vectors: Tensor, own: Tensor, partner: Tensor, share: Tensor, captions: Tensor, scale: Tensor
) -> Tensor:
    """Compute the sum of the three caption losses of a batch.

    Args:
        vectors: float32 (B, D), vectors of the pictures.
        own: int64 (B,), a caption of each picture: a row of `captions`.
        partner: int64 (B,), index of the picture that the box in each picture comes from.
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


def encode_captions(pictures: Pictures, sentence: SentenceEncoder, device: str) -> Captions:
    rows: dict[str, int] = {}
    own = tuple(
        np.array([rows.setdefault(caption, len(rows)) for caption in label.captions]) for label in pictures.labels
    )
    return Captions(vectors=torch.from_numpy(sentence.encode(list(rows))).to(device), own=own)


def encode_classes(sentence: SentenceEncoder) -> Tensor:
    """Return the vectors of ImageNet's class names minus their mean: float32 (CLASS_COUNT, WIDTH)."""
    names = sentence.encode([f"a photo of a {name}" for name in class_names()])
    return torch.from_numpy(names - names.mean(axis=0))


def write_weights(run: MiniRun, sentence: SentenceEncoder, out: Path, trained: str) -> None:
    """Write the averaged weights in the files that `mini` loads."""
    config = MiniConfig(
        architecture=ARCHITECTURE, trained=trained, text=sentence.name, width=WIDTH, input_px=INPUT_PX,
        resize="squash", mean=127.5, std=127.5,
    )  # fmt: skip
    (out / "mini.safetensors").write_bytes(pack_weights(run.average.state_dict()))
    (out / "mini.json").write_text(json.dumps(asdict(config), indent=2) + "\n", encoding="utf-8")


def read_epochs(path: Path, epochs: int) -> list[EpochReport]:
    """Read the reports of the first `epochs` epochs, which are those of the checkpoint."""
    if not path.exists():
        return []
    reports = []
    for line in path.read_text(encoding="utf-8").splitlines()[:epochs]:
        row = json.loads(line)
        evaluation = Evaluation(**row.pop("evaluation")) if row["evaluation"] else row.pop("evaluation")
        reports.append(EpochReport(**row, evaluation=evaluation))
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
    for name in ("top1", "top5", "label_top1", "label_top5"):
        points = [(report.epoch, getattr(report.evaluation, name)) for report in history if report.evaluation]
        right.plot([x for x, _ in points], [y for _, y in points], marker=".", label=name)
    right.set(xlabel="epoch", ylabel="share of held-out pictures", ylim=(0, 1), title="Held-out accuracy")
    right.legend(loc="lower right")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
