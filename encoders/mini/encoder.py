"""MiniEncoder, the built-in visual encoder: mini's tower embeds pictures, the MiniLM sentence encoder embeds texts.

It loads in under a second without a network. It is weak; weights/MODEL_CARD.md says how weak.
"""

import hashlib
import json
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from encoders.calibration import FILE as CALIBRATION_FILE
from encoders.calibration import GENERIC, Calibration, read_calibrations
from encoders.config import VisualConfig
from encoders.errors import WeightsInvalid, WeightsNotFound
from encoders.sentence import SentenceEncoder
from encoders.weights import choose_device, choose_dtype, fingerprint_of

if TYPE_CHECKING:
    import torch

    from encoders.mini.tower import Tower

FOLDER = Path(__file__).parent / "weights"
NAME = "mini"


@dataclass(frozen=True, slots=True, kw_only=True)
class MiniConfig:
    """The contents of mini.json: everything that the tower needs besides its weights, with the preprocessing."""

    architecture: str
    trained: str  # the training run, for people
    text: str  # name of the sentence encoder whose space it shares
    width: int
    input_px: int  # width and height
    resize: Literal["crop", "squash", "pad"]  # benchmarks/preprocessing.py chose it
    mean: float  # of a colour channel, 0..255
    std: float  # of a colour channel


class MiniEncoder:
    """The built-in visual encoder. Implements encoders.clip.VisualEncoder.

    Texts need only the sentence encoder, so a question in words neither builds the tower nor imports torch.
    """

    def __init__(
        self,
        config: MiniConfig,
        data: bytes,
        calibrations: dict[str, Calibration],
        sentence: SentenceEncoder,
        run: VisualConfig,
    ) -> None:
        self.name, self.config = NAME, config
        self.width, self.resize = config.width, config.resize
        self.input_width = self.input_height = config.input_px
        # The note for people does not change a vector.
        settings = json.dumps(asdict(replace(config, trained="")), sort_keys=True)
        self.fingerprint = fingerprint_of(NAME, settings, hashlib.sha256(data).digest(), sentence.fingerprint)
        self.calibration = calibrations.get(self.fingerprint, GENERIC)  # a newly trained tower has no calibration
        self._data, self.sentence, self._run = data, sentence, run
        self._device = ""  # chosen at the first picture
        self._tower: Tower | None = None
        self._lock = threading.Lock()

    @classmethod
    def load(cls, config: VisualConfig, sentence: SentenceEncoder, folder: Path = FOLDER) -> "MiniEncoder":
        """Read `mini.json`, `mini.safetensors` and, if it exists, `calibration.json`.

        Raises:
            WeightsNotFound: If one of them is missing.
            WeightsInvalid: If one of them is damaged, or mini was trained with another encoder than `sentence`.
        """
        try:
            settings = (folder / "mini.json").read_text(encoding="utf-8")
            data = (folder / "mini.safetensors").read_bytes()
        except OSError as error:
            raise WeightsNotFound(NAME, f"cannot read {error.filename}: {error.strerror}") from error
        try:
            mini = MiniConfig(**json.loads(settings))
        except (ValueError, TypeError) as error:
            raise WeightsInvalid(str(folder / "mini.json"), str(error)) from error
        try:
            calibrations = read_calibrations(folder / CALIBRATION_FILE)
        except (ValueError, OSError) as error:
            raise WeightsInvalid(str(folder), str(error)) from error
        if sentence.name != mini.text:
            raise WeightsInvalid(str(folder), f"it was trained with {mini.text}, not with {sentence.name}")
        check_header(folder / "mini.safetensors", data)
        return cls(mini, data, calibrations, sentence, config)

    def encode_frames(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed pictures.

        Args:
            pixels: uint8 (B, H, W, 3) RGB at the input size.
        Returns:
            float32 (B, D), unit length. In float32 a vector does not depend on its batch (to 1e-4); in bfloat16 it
            moves by a cosine of up to 1e-3.
        Raises:
            ValueError: If the pixels have another shape or type.
        """
        expected = (self.input_height, self.input_width, 3)
        if pixels.ndim != 4 or pixels.shape[1:] != expected or pixels.dtype != np.uint8:
            raise ValueError(f"pixels must be uint8 (B, *{expected}), got {pixels.dtype} {pixels.shape}")
        with self._lock:
            if self._tower is None:
                from encoders.threads import Lanes

                self._device = choose_device(self._run.device)
                self._lanes = Lanes(self._device)
                self._tower = build(self.config, self._data, self._device)
        vectors = self._lanes.map_batches(self._encode_some, pixels, self._run.batch_count)
        return np.concatenate([np.zeros((0, self.width), np.float32), *vectors])

    def _encode_some(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        import torch

        assert self._tower is not None
        with torch.inference_mode():
            batch = torch.from_numpy(np.ascontiguousarray(pixels)).to(self._device)
            # (B, H, W, 3) viewed as (B, 3, H, W) is channels_last, the fastest layout for these convolutions.
            x = (batch.permute(0, 3, 1, 2).float() - self.config.mean) / self.config.std
            return np.asarray(self._tower(x.to(self._tower.trunk.stem.weight.dtype)).cpu().numpy(), np.float32)

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts: float32 (Q, D), unit length."""
        return self.sentence.encode(texts)


def check_header(path: Path, data: bytes) -> None:
    """Refuse a damaged file at loading, not at the first picture."""
    from safetensors import deserialize

    try:
        names = {name for name, _ in deserialize(data)}  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise WeightsInvalid(str(path), str(error)) from error
    if missing := {"trunk.stem.weight", "captions.out.weight"} - names:
        raise WeightsInvalid(str(path), f"it has no {min(missing)}")


def build(config: MiniConfig, data: bytes, device: str) -> "Tower":
    """Build the tower of a weights file, for inference.

    Raises:
        WeightsInvalid: If the file belongs to another network.
    """
    import torch

    from encoders.mini.tower import ARCHITECTURE, Tower, unpack_weights

    if config.architecture != ARCHITECTURE:
        raise WeightsInvalid(NAME, f"the weights belong to another network: {config.architecture}")
    tower = Tower()
    try:
        tower.load_state_dict(unpack_weights(data))
    except RuntimeError as error:
        raise WeightsInvalid(NAME, str(error).partition("\n")[0]) from error
    tower.to(device, choose_convolution_dtype(device)).to(memory_format=torch.channels_last)
    return tower.requires_grad_(False).eval()


def choose_convolution_dtype(device: str) -> "torch.dtype":
    """Return bfloat16 where the tower is faster in it, float32 elsewhere.

    Unlike transformers (see choose_dtype), these convolutions also gain from Intel's AVX-512 BF16: 163 frames a second
    instead of 137 on two cores, measured with EfficientNet-lite0, at a cosine above 0.999.
    """
    import torch

    is_fast = device == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if is_fast else choose_dtype(device)
