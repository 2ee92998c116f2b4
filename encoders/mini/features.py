"""Features of labelled pictures: what ImageNet's trunk makes of each view of a picture. Training reads them.

The features of each tar are kept in a file, because the trunk takes most of the time of a training run.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from encoders.errors import PicturesInvalid, WeightsInvalid
from encoders.mini.augment import augment
from encoders.mini.encoder import choose_convolution_dtype
from encoders.mini.pictures import EXCLUDED_SOURCES, Label, is_held_out, read_pictures
from encoders.mini.tower import Trunk, load_pretrained, scale_pixels

INPUT_PX = 192  # 153 frames a second on two cores (benchmarks/mini.py); a larger side finds no more videos
# Side of each view, in pixels. The first view is the whole picture, as frames are when the tower is used. Objects look
# larger in crops than in whole pictures, so some are smaller: https://arxiv.org/abs/1906.06423.
VIEWS_PX = (INPUT_PX, 160)
BATCH_COUNT = 64

OnStage = Callable[[str, int, int | None], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Features of the pictures of one tar."""

    views: NDArray[np.float16]  # (V, N, FEATURE_CHANNELS); V is 1 for held-out pictures
    labels: tuple[Label, ...]  # of the N pictures


class TrunkReader:
    """Passes views of pictures through ImageNet's trunk."""

    def __init__(self, device: str, seed: int) -> None:
        """Load the trunk.

        Raises:
            ImportError: If the package of the ImageNet weights is not installed.
        """
        self.device, self.seed = device, seed
        trunk = Trunk()
        trunk.load_state_dict(
            {name.removeprefix("trunk."): value for name, value in load_pretrained().items() if "trunk." in name}
        )
        self.dtype = choose_convolution_dtype(device)
        self.trunk = trunk.to(device, self.dtype).to(memory_format=torch.channels_last).requires_grad_(False).eval()

    def read(self, pixels: NDArray[np.uint8], sides_px: tuple[int, ...], number: int) -> NDArray[np.float16]:
        """Return the features of views of pictures.

        Args:
            pixels: uint8 (B, INPUT_PX, INPUT_PX, 3) RGB.
            sides_px: The side of each view; the first is of whole pictures.
            number: Number of the batch; with the seed, it decides the random changes.
        Returns:
            float16 (V, B, FEATURE_CHANNELS).
        """
        batch = torch.from_numpy(pixels).to(self.device)
        generator = torch.Generator(self.device).manual_seed(self.seed * 1_000_003 + number)
        views = [scale_pixels(batch), *(augment(batch, side, generator) for side in sides_px[1:])]
        return np.stack([self._run(view) for view in views])

    def _run(self, x: Tensor) -> NDArray[np.float16]:
        with torch.inference_mode():
            x = x.to(self.dtype).contiguous(memory_format=torch.channels_last)
            return np.asarray(self.trunk(x).half().cpu().numpy())


def read_features(path: Path, folder: Path, reader: TrunkReader, on_stage: OnStage) -> Features:
    """Return the features of the pictures of a tar, from `folder` if they were kept there, else computed and kept.

    Raises:
        PicturesInvalid: If the tar cannot be read.
        WeightsInvalid: If the kept file is damaged.
    """
    kept = folder / f"{path.stem}-{reader.seed}.safetensors"
    if not kept.exists():
        sides = VIEWS_PX[:1] if is_held_out(path) else VIEWS_PX
        labels: list[Label] = []
        views = []
        for number, (batch_labels, pixels) in enumerate(read_batches(path)):
            on_stage(f"Reading {path.name}", len(labels), None)
            labels += batch_labels
            views.append(reader.read(pixels, sides, number))
        if not labels:
            raise PicturesInvalid(str(path), "there are no pictures in it")
        metadata = {"labels": json.dumps([asdict(label) for label in labels])}
        save_file({"views": np.concatenate(views, axis=1)}, kept.with_suffix(".part"), metadata)
        os.replace(kept.with_suffix(".part"), kept)
    try:
        with safe_open(kept, "np") as file:
            rows = json.loads(file.metadata()["labels"])
            found = [Label(**{**row, "captions": tuple(row["captions"])}) for row in rows]
            return Features(views=file.get_tensor("views"), labels=tuple(found))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise WeightsInvalid(str(kept), f"{error}; remove it, and it is made again") from error


def read_batches(path: Path) -> Iterator[tuple[list[Label], NDArray[np.uint8]]]:
    """Yield the pictures of a tar in batches: labels, and uint8 (B, INPUT_PX, INPUT_PX, 3)."""
    labels: list[Label] = []
    pixels: list[NDArray[np.uint8]] = []
    for label, picture in read_pictures([path], INPUT_PX, EXCLUDED_SOURCES):
        labels.append(label)
        pixels.append(picture)
        if len(labels) == BATCH_COUNT:
            yield labels, np.stack(pixels)
            labels, pixels = [], []
    if labels:
        yield labels, np.stack(pixels)
