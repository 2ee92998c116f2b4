"""The built-in image tower: MobileNetV2-1.4 and a two-layer head, in the space of the MiniLM sentence encoder.

It loads without any network, in under a second, and is weak: weights/MODEL_CARD.md says how weak. Its network is
written out here, not taken from timm, because the stored weights have BatchNorm folded in (which no timm model takes)
and importing timm costs seconds. tests/encoders/test_mini.py holds it against timm's.
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

from encoders.config import VisualConfig
from encoders.errors import WeightsInvalid, WeightsNotFound
from encoders.sentence import SentenceEncoder
from encoders.weights import choose_device, fingerprint_of

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = Path(__file__).parent / "weights"
NAME = "mini"
# MobileNetV2 (https://arxiv.org/abs/1801.04381, table 2): blocks of each stage, and the stride of its first block.
STAGES = ((1, 1), (2, 2), (3, 2), (4, 2), (3, 1), (3, 2), (1, 1))
BATCH_NORM_EPSILON = 1e-5
INT8_MAX = 127


@dataclass(frozen=True, slots=True, kw_only=True)
class MiniConfig:
    """What mini.json says: all that the tower needs besides its weights, preprocessing included."""

    architecture: str
    trained: str  # which training run: told to a person
    text: str  # the sentence encoder whose space it shares
    width: int
    input_px: int  # both sides
    resize: Literal["crop", "squash", "pad"]  # benchmarks/preprocessing.py chose it
    mean: float  # of a channel, 0..255
    std: float


class MiniEncoder:
    """The built-in visual encoder. Implements encoders.clip.VisualEncoder.

    Text goes through the sentence encoder alone, so a question in words never builds the tower nor imports torch.
    """

    templates: tuple[str, ...] = ("{}",)  # it was trained on plain captions; "a photo of" makes it no better by measure

    def __init__(self, config: MiniConfig, data: bytes, sentence: SentenceEncoder, run: VisualConfig) -> None:
        self.name, self.config = NAME, config
        self.width, self.resize = config.width, config.resize
        self.input_width = self.input_height = config.input_px
        # What is told to a person does not change a vector.
        settings = json.dumps(asdict(replace(config, trained="")), sort_keys=True)
        self.fingerprint = fingerprint_of(NAME, settings, hashlib.sha256(data).digest(), sentence.fingerprint)
        self._data, self._sentence, self._run = data, sentence, run
        self._tower: Tower | None = None
        self._lock = threading.Lock()

    @classmethod
    def load(cls, config: VisualConfig, sentence: SentenceEncoder, folder: Path = FOLDER) -> "MiniEncoder":
        """Read `mini.json` and `mini.safetensors`.

        Raises:
            WeightsNotFound: If one of them is missing.
            WeightsInvalid: If one of them is damaged, or `sentence` is not the encoder it was trained with.
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
        if sentence.name != mini.text:
            raise WeightsInvalid(str(folder), f"its texts are those of {mini.text}, not of {sentence.name}")
        check_header(folder / "mini.safetensors", data)
        return cls(mini, data, sentence, config)

    def encode_frames(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed pictures.

        Args:
            pixels: uint8 (B, H, W, 3) RGB at the input size.

        Returns:
            float32 (B, D), unit length; a picture's vector does not depend on its batch (to 1e-4).

        Raises:
            ValueError: If the size is another.
        """
        import torch

        expected = (self.input_height, self.input_width, 3)
        if pixels.ndim != 4 or pixels.shape[1:] != expected or pixels.dtype != np.uint8:
            raise ValueError(f"pixels must be uint8 (B, *{expected}), got {pixels.dtype} {pixels.shape}")
        with self._lock:
            if self._tower is None:
                self._tower = Tower(unpack(self._data), choose_device(self._run.device))
        vectors = np.zeros((len(pixels), self.width), dtype=np.float32)
        with torch.inference_mode():
            for start in range(0, len(pixels), self._run.batch_count):
                batch = torch.from_numpy(np.ascontiguousarray(pixels[start : start + self._run.batch_count]))
                # (B, H, W, 3) seen as (B, 3, H, W) is channels_last already, the layout these convolutions like best.
                x = (batch.to(self._tower.device).permute(0, 3, 1, 2).float() - self.config.mean) / self.config.std
                vectors[start : start + len(batch)] = self._tower(x).cpu().numpy()
        return vectors

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts: float32 (Q, D), unit length."""
        return self._sentence.encode(texts)


class Tower:
    """The network with BatchNorm folded away: convolutions with a bias, ReLU6 between, then the head. Float32."""

    def __init__(self, weights: "dict[str, Tensor]", device: str) -> None:
        import torch

        self.device = device
        self._weights = {
            name: tensor.to(device, memory_format=torch.channels_last) if tensor.ndim == 4 else tensor.to(device)
            for name, tensor in weights.items()
        }

    def __call__(self, x: "Tensor") -> "Tensor":
        """Embed float (B, 3, H, W), scaled as the config says: float32 (B, D), unit length."""
        import torch.nn.functional as F

        x = F.relu6(self._convolve(x, "tower.conv_stem", stride=2))
        for stage, (block_count, first_stride) in enumerate(STAGES):
            for block in range(block_count):
                x = self._block(x, f"tower.blocks.{stage}.{block}", stride=first_stride if block == 0 else 1)
        x = F.relu6(self._convolve(x, "tower.conv_head")).mean(dim=(2, 3))  # (B, C)
        x = F.gelu(F.linear(x, self._weights["head.2.weight"], self._weights["head.2.bias"]))
        x = F.linear(x, self._weights["head.5.weight"], self._weights["head.5.bias"])
        return F.normalize(x, dim=1)

    def _block(self, x: "Tensor", name: str, stride: int) -> "Tensor":
        """Widen, filter each channel, narrow again; add what came in where nothing changed its shape."""
        import torch.nn.functional as F

        y = x
        if f"{name}.conv_pwl.weight" in self._weights:
            y = F.relu6(self._convolve(y, f"{name}.conv_pw"))
            narrow = f"{name}.conv_pwl"
        else:  # the first stage does not widen
            narrow = f"{name}.conv_pw"
        y = F.relu6(self._convolve(y, f"{name}.conv_dw", stride=stride, per_channel=True))
        y = self._convolve(y, narrow)
        return x + y if x.shape == y.shape else y

    def _convolve(self, x: "Tensor", name: str, stride: int = 1, per_channel: bool = False) -> "Tensor":
        import torch.nn.functional as F

        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        kernel = weight.shape[2]
        # TensorFlow's "SAME": where a side is odd, the surplus goes to the right and the bottom.
        total = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[2:]]
        top, left = total[0] // 2, total[1] // 2
        if total[0] % 2 or total[1] % 2:
            x = F.pad(x, (left, total[1] - left, top, total[0] - top))
            top = left = 0
        groups = x.shape[1] if per_channel else 1
        return F.conv2d(x, weight, bias, stride=stride, padding=(top, left), groups=groups)


def check_header(path: Path, data: bytes) -> None:
    """Refuse a damaged file when it is loaded, not at the first picture."""
    from safetensors import deserialize

    try:
        names = {name for name, _ in deserialize(data)}  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise WeightsInvalid(str(path), str(error)) from error
    if missing := {"tower.conv_stem.weight", "head.5.weight"} - names:
        raise WeightsInvalid(str(path), f"it has no {min(missing)}")


def unpack(data: bytes) -> "dict[str, Tensor]":
    """Read stored weights: float32, int8 multiplied by the scale of its output channel."""
    from safetensors.torch import load

    stored = load(data)
    weights = {}
    for name, tensor in stored.items():
        if name.endswith(".scale"):
            continue
        scale = stored.get(f"{name}.scale")
        weights[name] = (
            tensor.float() if scale is None else tensor.float() * scale.float().reshape(-1, *[1] * (tensor.ndim - 1))
        )
    return weights


def fold(state: "dict[str, Tensor]") -> "dict[str, Tensor]":
    """Fold each BatchNorm of a timm MobileNetV2 (names as timm's, below `tower.`) into the convolution before it."""
    weights = {name: state[name].float() for name in state if name.startswith("head.")}
    for name in [name for name in state if name.endswith(".weight") and ".conv_" in name]:
        convolution = name.removesuffix(".weight")
        norm = norm_of(convolution, set(state))
        gain = state[f"{norm}.weight"].float() / (state[f"{norm}.running_var"].float() + BATCH_NORM_EPSILON).sqrt()
        weights[name] = state[name].float() * gain[:, None, None, None]
        weights[f"{convolution}.bias"] = state[f"{norm}.bias"].float() - state[f"{norm}.running_mean"].float() * gain
    return weights


def norm_of(convolution: str, names: set[str]) -> str:
    """Name the BatchNorm that follows a convolution, as timm numbers them."""
    block, _, kind = convolution.rpartition(".")
    widens = f"{block}.conv_pwl.weight" in names
    number = {
        "conv_stem": 1,
        "conv_head": 2,
        "conv_pw": 1 if widens else 2,
        "conv_dw": 2 if widens else 1,
        "conv_pwl": 3,
    }[kind]
    return f"{block}.bn{number}"


def pack(weights: "dict[str, Tensor]") -> bytes:
    """Store folded weights: int8 with one scale for each output channel (symmetric).

    Kept as float16: what filters single channels, 1 % of the bytes, on which int8 costs most (the worst cosine on
    real frames is 0.981 with them in int8, 0.997 without), and the first convolution. Biases are float32.
    """
    import torch
    from safetensors.torch import save

    stored: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if name.endswith(".bias"):
            stored[name] = tensor.float().contiguous()
            continue
        if ".conv_dw." in name or ".conv_stem." in name:
            stored[name] = tensor.half().contiguous()
            continue
        peak = tensor.abs().amax(dim=tuple(range(1, tensor.ndim)), keepdim=True).clamp(min=1e-12)
        stored[name] = (tensor / peak * INT8_MAX).round().to(torch.int8).contiguous()
        stored[f"{name}.scale"] = (peak / INT8_MAX).reshape(-1).contiguous()
    return save(stored)
