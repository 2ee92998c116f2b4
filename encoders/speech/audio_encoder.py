"""Whisper's audio encoder on a CPU: window by window, its products in bfloat16 where the CPU has instructions for it.

openai-whisper's own forward multiplies in float32 and a whole batch at a time: the activations of eight windows do not
fit into a CPU's cache, those of one do.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from whisper.model import AudioEncoder, MultiHeadAttention

from encoders.speech.text_decoder import keys_and_values, split_heads

QUERY_COUNT = 250  # encoder positions whose attention is computed at a time; its 4.5 MB for tiny.en stay in the cache


class Hearing:
    """Encodes sound as the given encoder does; with bfloat16 the features differ by about 1 % of their length.

    Args:
        encoder: Whisper's, in float32, on the CPU. With bfloat16 its layers are converted in place, and only this class
            can run it from then on.
        dtype: Of the layers' products. What is added up (residuals, norms, positions) stays float32, and so does the
            beginning: rounding the spectrogram costs as many words as all that follows, and its products are few.
    """

    def __init__(self, encoder: AudioEncoder, dtype: torch.dtype) -> None:
        self._encoder, self._dtype = encoder, dtype
        for module in encoder.modules():
            if isinstance(module, nn.Linear):
                module.to(self._dtype)

    def __call__(self, mels: Tensor) -> Tensor:
        """Encode windows: float32 (B, M, 2 T) log mel spectrograms -> float32 (B, T, D)."""
        encode = self._encoder if self._dtype == torch.float32 else self._encode
        return torch.cat([encode(mel[None]) for mel in mels])

    def _encode(self, mel: Tensor) -> Tensor:
        encoder = self._encoder
        x = F.gelu(encoder.conv1(mel))
        x = F.gelu(encoder.conv2(x)).transpose(1, 2) + encoder.positional_embedding  # (1, T, D)
        for block in encoder.blocks:
            x = x + _attend(block.attn, block.attn_ln(x).to(self._dtype))
            x = x + block.mlp(block.mlp_ln(x).to(self._dtype))
        features: Tensor = encoder.ln_post(x)
        return features


def _attend(attention: MultiHeadAttention, x: Tensor) -> Tensor:
    """Attend from all positions to all: (1, T, D) -> (1, T, D).

    torch's fused attention in bfloat16 is as slow as in float32 on a CPU without AMX; plain products are not, as long
    as a part of the queries at a time keeps the weights in the cache.
    """
    query = split_heads(attention, attention.query(x)) * (x.shape[2] // attention.n_head) ** -0.5
    key, value = keys_and_values(attention, x)
    some_at_a_time = torch.split(query, QUERY_COUNT, dim=2)
    parts = [torch.softmax(some @ key.transpose(-1, -2), dim=-1) @ value for some in some_at_a_time]
    attended: Tensor = attention.out(torch.cat(parts, dim=2).transpose(1, 2).flatten(2))
    return attended
