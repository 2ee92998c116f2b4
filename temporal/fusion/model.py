"""FusionTransformer: turns the frames and utterances of one window into one segment vector.

    y = normalise(Σ a·x + Σ b·u)                        where frames and sentences share a space
    y = normalise(Σ a·x + W_out · mean(T(x, u)))        elsewhere

x are the vectors of the frames, u those of the utterances, T is a pre-norm transformer over both. T weighs the frames
(a, a softmax) and the utterances (b). In a shared space W_out is left out: trained on 1,600 composed videos, it learns
their captions by heart and loses those of unseen labels.

W_out and the layer that makes the weights start at zero: then a is 1 / F and b is 0. So an untrained model is exactly
mean pooling. Gradients reach them in the first step, and T in the second.

Axes: B windows, F frames, U utterances, D and E the sizes of their vectors, W the width of T.

Source: the residual over the mean is CLIP4Clip's (seqTransf, https://arxiv.org/abs/2104.08860). The zero gate, in place
of an initialisation from CLIP's text layers, is ReZero's (https://arxiv.org/abs/2003.04887).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from temporal.config import FusionConfig
from temporal.values import WindowTokens

TIME_FEATURES = 32  # sine and cosine of 16 periods
SHORTEST_SECONDS, LONGEST_SECONDS = 2.0, 128.0  # periods: from two frames at one a second to beyond any window
MODALITIES = 2  # frames, utterances
LEAST_LOGIT = -1e4  # of padding in a softmax: a weight of zero, and no NaN where there is nothing but padding


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBatch:
    """A batch of windows, padded with zeros at the end. The padding changes no output."""

    mean: Tensor  # (B, D), mean of all frames, before neighbours are merged; zero without frames
    frames: Tensor  # (B, F, D)
    frame_seconds: Tensor  # (B, F)
    frame_is_valid: Tensor  # (B, F), bool, True = real
    utterances: Tensor  # (B, U, E)
    utterance_seconds: Tensor  # (B, U)
    utterance_is_valid: Tensor  # (B, U), bool, True = real

    @classmethod
    def of(cls, windows: Sequence[WindowTokens], config: FusionConfig) -> "TokenBatch":
        """Make a batch. In long windows, neighbouring tokens are merged into their mean.

        Raises:
            ValueError: If vectors have other sizes than the model reads.
        """
        frames = _pad(
            [_merge(window.frames, window.frame_seconds, config.max_frames) for window in windows], config.frame_size
        )
        means = np.zeros((len(windows), config.frame_size), np.float32)
        for row, window in enumerate(windows):
            if len(window.frames):
                means[row] = window.frames.mean(axis=0, dtype=np.float64)
        utterances = _pad(
            [_merge(window.utterances, window.utterance_seconds, config.max_utterances) for window in windows],
            config.utterance_size,
        )
        return cls(
            mean=torch.from_numpy(means),
            frames=frames[0],
            frame_seconds=frames[1],
            frame_is_valid=frames[2],
            utterances=utterances[0],
            utterance_seconds=utterances[1],
            utterance_is_valid=utterances[2],
        )

    def to(self, device: str) -> "TokenBatch":
        return TokenBatch(**{name: getattr(self, name).to(device) for name in self.__slots__})


class FusionTransformer(nn.Module):
    """The transformer T and the output W_out of the module docstring."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.config = config
        self.frame_projection = nn.Linear(config.frame_size, config.width)
        self.utterance_projection = nn.Linear(config.utterance_size, config.width)
        self.time_projection = nn.Linear(TIME_FEATURES, config.width)
        self.modality_embedding = nn.Parameter(torch.randn(MODALITIES, config.width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            config.width,
            config.head_count,
            dim_feedforward=4 * config.width,
            dropout=config.dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerEncoder(
            layer, config.layer_count, norm=nn.LayerNorm(config.width), enable_nested_tensor=False
        )
        self.weighing = nn.Linear(config.width, MODALITIES)
        nn.init.zeros_(self.weighing.weight)
        nn.init.zeros_(self.weighing.bias)
        self.output: nn.Linear | None = None
        if not config.has_one_space:
            self.output = nn.Linear(config.width, config.frame_size, bias=False)
            nn.init.zeros_(self.output.weight)

    def forward(self, batch: TokenBatch) -> Tensor:
        """Return float32 (B, D), unit length; zero for a window without tokens."""
        return F.normalize(batch.mean.float() + self.correction(batch), dim=-1)

    def correction(self, batch: TokenBatch) -> Tensor:
        """Return what y has more than the mean of the frames, before it is normalised: float32 (B, D)."""
        dtype = self.weighing.weight.dtype
        frames = self.frame_projection(batch.frames.to(dtype)) + self.modality_embedding[0]
        utterances = self.utterance_projection(batch.utterances.to(dtype)) + self.modality_embedding[1]
        seconds = torch.cat([batch.frame_seconds, batch.utterance_seconds], dim=1)
        is_valid = torch.cat([batch.frame_is_valid, batch.utterance_is_valid], dim=1)  # (B, F + U)
        tokens = torch.cat([frames, utterances], dim=1) + self.time_projection(time_features(seconds).to(dtype))
        is_empty = ~is_valid.any(dim=1, keepdim=True)  # a softmax over nothing is NaN, so it attends to the padding
        hidden = self.layers(tokens, src_key_padding_mask=~(is_valid | is_empty))  # (B, F + U, W)
        correction = torch.zeros_like(batch.mean)
        weighing = self.weighing(hidden).float()  # (B, F + U, MODALITIES)
        frame_count = batch.frames.shape[1]
        if frame_count:
            logits = weighing[:, :frame_count, 0].masked_fill(~batch.frame_is_valid, LEAST_LOGIT)
            valid = batch.frame_is_valid.float()
            alike = valid / valid.sum(dim=1, keepdim=True).clamp(min=1)  # weights of the mean
            weights = logits.softmax(dim=1) * valid - alike  # zero in a window without frames
            correction = correction + (weights.unsqueeze(-1) * batch.frames).sum(dim=1)
        if self.output is not None:
            output: Tensor = self.output(masked_mean(hidden.float(), is_valid).to(dtype)).float()
            return correction + output
        if batch.utterances.shape[1]:
            heard = weighing[:, frame_count:, 1:] * batch.utterances
            correction = correction + masked_mean(heard, batch.utterance_is_valid)
        return correction


def masked_mean(vectors: Tensor, is_valid: Tensor) -> Tensor:
    """Return the mean of the real vectors of (B, N, D): (B, D); zero where there are none."""
    weights = is_valid.unsqueeze(-1).to(vectors.dtype)
    mean: Tensor = (vectors * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
    return mean


def time_features(seconds: Tensor) -> Tensor:
    """Return sine and cosine of times (B, N), float32 (B, N, TIME_FEATURES), periods from shortest to longest.

    Source: Attention is all you need, https://arxiv.org/abs/1706.03762, section 3.5, with seconds as positions.
    """
    count = TIME_FEATURES // 2
    ratios = torch.arange(count, device=seconds.device, dtype=torch.float32) / (count - 1)
    periods = SHORTEST_SECONDS * (LONGEST_SECONDS / SHORTEST_SECONDS) ** ratios
    angles = 2 * math.pi * seconds.float().unsqueeze(-1) / periods
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def _merge(
    vectors: NDArray[np.float32], seconds: NDArray[np.float32], limit: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return at most `limit` tokens. More tokens are merged into the means of runs of nearly equal length."""
    if len(vectors) <= limit:
        return vectors, seconds
    starts = np.linspace(0, len(vectors), limit, endpoint=False).astype(np.int64)
    counts = np.diff(np.append(starts, len(vectors)))
    return (
        (np.add.reduceat(vectors, starts, axis=0) / counts[:, None]).astype(np.float32),
        (np.add.reduceat(seconds, starts) / counts).astype(np.float32),
    )


def _pad(rows: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]], size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return vectors (B, N, size), times (B, N) and validity (B, N); N is the length of the longest row."""
    longest = max((len(vectors) for vectors, _ in rows), default=0)
    vectors = np.zeros((len(rows), longest, size), np.float32)
    seconds = np.zeros((len(rows), longest), np.float32)
    is_valid = np.zeros((len(rows), longest), np.bool_)
    for at, (tokens, times) in enumerate(rows):
        if len(tokens) and tokens.shape[1] != size:
            raise ValueError(f"the model reads vectors of {size} numbers, got {tokens.shape[1]}")
        if len(tokens):
            vectors[at, : len(tokens)], seconds[at, : len(tokens)], is_valid[at, : len(tokens)] = tokens, times, True
    return torch.from_numpy(vectors), torch.from_numpy(seconds), torch.from_numpy(is_valid)
