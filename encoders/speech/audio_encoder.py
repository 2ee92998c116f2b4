"""CpuAudioEncoder: Whisper's audio encoder on a CPU, one window at a time, in bfloat16 where the CPU supports it.

openai-whisper's own forward multiplies a whole batch in float32. The activations of eight windows do not fit into the
cache of a CPU; those of one window do.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from whisper.model import AudioEncoder, MultiHeadAttention

from encoders.speech.text_decoder import keys_and_values, split_heads

QUERY_COUNT = 250  # encoder positions in one attention product; the 4.5 MB for tiny.en stay in the cache


class CpuAudioEncoder:
    """Computes the features of the given encoder; in bfloat16 they differ by about 1 % of their length.

    Args:
        encoder: Whisper's, in float32, on the CPU. bfloat16 converts its layers in place; then only this class can run
            it.
        dtype: Type of the products of the layers. Sums (residuals, norms, positions) stay in float32. So do the first
            convolutions: rounding the spectrogram costs as many words as all later rounding, and its products are few.
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
    """Compute self-attention: (1, T, D) -> (1, T, D).

    On a CPU without AMX, torch's fused attention is as slow in bfloat16 as in float32. Plain products are faster while
    QUERY_COUNT queries at a time keep the weights in the cache.
    """
    query = split_heads(attention, attention.query(x)) * (x.shape[2] // attention.n_head) ** -0.5
    key, value = keys_and_values(attention, x)
    queries = torch.split(query, QUERY_COUNT, dim=2)
    parts = [torch.softmax(some @ key.transpose(-1, -2), dim=-1) @ value for some in queries]
    attended: Tensor = attention.out(torch.cat(parts, dim=2).transpose(1, 2).flatten(2))
    return attended
