"""Segment vectors: MeanPooling (the mean of the frames) and Fusion (a trained transformer); checkpoints of Fusion.

A checkpoint is one safetensors file. Its header holds the config of the model as JSON, under "config".
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
BATCH_COUNT = 256  # windows in a batch: about 50 MB of activations


class MeanPooling:
    """The mean of the frames of a window, scaled to unit length."""

    name = "mean"

    def load(self, frame_size: int, utterance_size: int) -> None: ...

    def vectors(self, windows: Sequence[WindowTokens]) -> list[NDArray[np.float32] | None]:
        """Return float32 (D,), unit length, for each window; None without pictures, or where they cancel out."""
        return [_direction(_mean(window)) for window in windows]


class Fusion:
    """A trained fusion transformer. A question needs only its name; call load() before vectors()."""

    def __init__(self, path: Path, device: str) -> None:
        """Hash a checkpoint for its name.

        Raises:
            WeightsNotFound: If the checkpoint cannot be read.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise WeightsNotFound(str(path), error.strerror or str(error)) from error
        self.name = f"fusion {hashlib.sha256(content).hexdigest()[:12]}"
        self._path, self._device = path, device
        self._model: FusionTransformer | None = None

    def load(self, frame_size: int, utterance_size: int) -> None:
        """Load the weights, and compare their sizes with those of the encoders; see Pooling."""
        self._model = load_checkpoint(self._path).to(self._device).eval()
        config = self._model.config
        sizes, given = (config.frame_size, config.utterance_size), (frame_size, utterance_size)
        if frame_size and sizes != given:
            raise WeightsInvalid(
                str(self._path), f"it was trained for vectors of {sizes} numbers, and these encoders give {given}"
            )

    def vectors(self, windows: Sequence[WindowTokens]) -> list[NDArray[np.float32] | None]:
        """Return float32 (D,), unit length, for each window; None without pictures. Needs load()."""
        import torch

        from temporal.fusion.model import TokenBatch

        assert self._model is not None
        vectors: list[NDArray[np.float32] | None] = []
        for first in range(0, len(windows), BATCH_COUNT):
            part = windows[first : first + BATCH_COUNT]
            batch = TokenBatch.of(part, self._model.config)
            with torch.inference_mode():
                corrections = self._model.correction(batch.to(self._device)).cpu().numpy()
            for window, correction in zip(part, corrections, strict=True):
                mean = _mean(window)
                vectors.append(None if mean is None else _direction(mean + correction))
        return vectors


def save_checkpoint(model: "FusionTransformer", path: Path) -> None:
    """Write the weights and config of a model atomically: a reader sees the old file or the new one."""
    from safetensors.torch import save_file

    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    save_file(weights, unfinished, metadata={CONFIG_KEY: json.dumps(asdict(model.config))})
    unfinished.replace(path)


def load_checkpoint(path: Path) -> "FusionTransformer":
    """Load a model onto the CPU.

    Raises:
        WeightsNotFound: If there is no such file.
        WeightsInvalid: If the file is damaged, or is no fusion checkpoint.
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
    """Return the mean of the frames (D,); None without frames."""
    return window.frames.mean(axis=0, dtype=np.float64) if window.frames.size else None


def _direction(vector: NDArray[np.float64] | None) -> NDArray[np.float32] | None:
    length = 0.0 if vector is None else float(np.linalg.norm(vector))
    return None if vector is None or not length else (vector / length).astype(np.float32)
