"""Segment vectors from windows: the mean of the frames, or what a trained fusion transformer makes of them.

A checkpoint is one safetensors file; its header carries the model's config as JSON, under "config".
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from encoders.errors import WeightsInvalid, WeightsNotFound
from temporal.config import FusionConfig
from temporal.values import WindowTokens

if TYPE_CHECKING:  # a question to an indexed library starts without torch
    from temporal.fusion.model import FusionTransformer

CONFIG_KEY = "config"
BATCH_COUNT = 256  # windows at once: about 50 MB of activations


class MeanPooling:
    """The mean of a window's frames, scaled to unit length."""

    name = "mean"

    def load(self, frame_size: int, utterance_size: int) -> None: ...

    def vectors(self, windows: Sequence[WindowTokens]) -> list[NDArray[np.float32] | None]:
        """Return float32 (D,), unit, of each window; None where no picture was seen, or they cancel out."""
        return [_direction(_mean(window)) for window in windows]


class Fusion:
    """A trained fusion transformer. A question needs its name alone; windows need it loaded."""

    def __init__(self, path: Path, device: str) -> None:
        """Name a checkpoint.

        Raises:
            WeightsNotFound: If it cannot be read.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise WeightsNotFound(str(path), error.strerror or str(error)) from error
        self.name = f"fusion {hashlib.sha256(content).hexdigest()[:12]}"
        self._path, self._device = path, device
        self._model: FusionTransformer | None = None

    def load(self, frame_size: int, utterance_size: int) -> None:
        """Read the weights, and hold their sizes against the encoders'; see Pooling."""
        self._model = load_checkpoint(self._path).to(self._device).eval()
        config = self._model.config
        sizes, wanted = (config.frame_size, config.utterance_size), (frame_size, utterance_size)
        if frame_size and sizes != wanted:
            raise WeightsInvalid(
                str(self._path), f"it was trained for vectors of {sizes} numbers, these encoders' are of {wanted}"
            )

    def vectors(self, windows: Sequence[WindowTokens]) -> list[NDArray[np.float32] | None]:
        """Return float32 (D,), unit, of each window; None where no picture was seen. Only after `load`."""
        import torch

        from temporal.fusion.model import TokenBatch

        assert self._model is not None
        found: list[NDArray[np.float32] | None] = []
        for first in range(0, len(windows), BATCH_COUNT):
            some = windows[first : first + BATCH_COUNT]
            batch = TokenBatch.of(some, self._model.config)
            with torch.inference_mode():
                corrections = self._model.correction(batch.to(self._device)).cpu().numpy()
            for window, correction in zip(some, corrections, strict=True):
                mean = _mean(window)
                found.append(None if mean is None else _direction(mean + correction))
        return found


def save_checkpoint(model: "FusionTransformer", path: Path) -> None:
    """Write a model's weights and config; a reader sees the old file or the new one."""
    from safetensors.torch import save_file

    weights = {name: one.detach().cpu().contiguous() for name, one in model.state_dict().items()}
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    save_file(weights, unfinished, metadata={CONFIG_KEY: json.dumps(asdict(model.config))})
    unfinished.replace(path)


def load_checkpoint(path: Path) -> "FusionTransformer":
    """Read a model, on the CPU.

    Raises:
        WeightsNotFound: If there is no such file.
        WeightsInvalid: If it is damaged, or no checkpoint of fusion.
    """
    from safetensors import SafetensorError, safe_open

    from temporal.fusion.model import FusionTransformer

    if not path.is_file():
        raise WeightsNotFound(str(path), "no such file")
    try:
        with safe_open(path, framework="pt") as file:
            config = FusionConfig(**json.loads((file.metadata() or {})[CONFIG_KEY]))
            names = file.keys()
            weights = {name: file.get_tensor(name) for name in names}
        model = FusionTransformer(config)
        model.load_state_dict(weights)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsInvalid(str(path), f"not a checkpoint of kinodex train ({error})".splitlines()[0]) from error
    return model


def _mean(window: WindowTokens) -> NDArray[np.float64] | None:
    """Mean of the frames (D,); None where there is none."""
    return window.frames.mean(axis=0, dtype=np.float64) if window.frames.size else None


def _direction(vector: NDArray[np.float64] | None) -> NDArray[np.float32] | None:
    length = 0.0 if vector is None else float(np.linalg.norm(vector))
    return None if vector is None or not length else (vector / length).astype(np.float32)
