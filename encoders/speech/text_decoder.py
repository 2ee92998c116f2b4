"""Whisper's text decoder, token by token, with keys, values and weights in layouts that suit a CPU.

It computes the numbers of openai-whisper's decoder with hooks, up to rounding. There, the keys and values of the sound
have the layout (B, T, H, D / H), which torch's attention reads at a fifth of the speed of (B, H, T, D / H).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from whisper.model import MultiHeadAttention, TextDecoder, Whisper

Sound = list[tuple[Tensor, Tensor]]  # keys and values of the sound (B, H, T, D / H), for each layer of the decoder

PACKED_ROWS = 8  # batch size that the packed layout is tuned for; other sizes work too


class PackedLinear(nn.Module):
    """A linear layer through oneDNN, with the weight in oneDNN's layout: float32, on a CPU.

    For the few rows of a step, torch's own product takes two to three times as long.
    """

    def __init__(self, packed: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self._packed, self._bias = packed, bias

    def forward(self, x: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), self._packed, self._bias, "none", [], "")
        return product


def pack(weight: Tensor, bias: Tensor | None = None) -> PackedLinear | None:
    """Pack the weight (O, D) of a layer; return None where this is not possible."""
    # Not a public function of torch: a torch without it falls back to the ordinary product.
    has_packing = hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    if not has_packing or weight.device.type != "cpu" or weight.dtype != torch.float32:
        return None
    return PackedLinear(torch.ops.mkldnn._reorder_linear_weight(weight.detach(), PACKED_ROWS), bias)


def pack_layers(decoder: TextDecoder) -> None:
    """Replace the linear layers of a decoder by packed ones, where possible."""
    for name, module in list(decoder.named_modules()):
        if isinstance(module, nn.Linear) and (packed := pack(module.weight, module.bias)) is not None:
            decoder.set_submodule(name, packed)


class Vocabulary:
    """The output layer: multiplies states with the embeddings of all tokens."""

    def __init__(self, weight: Tensor) -> None:
        self._weight, self._packed = weight, pack(weight)

    def __call__(self, x: Tensor) -> Tensor:
        """Score all tokens: (B, W, D) -> float32 (B, W, V)."""
        if self._packed is not None and x.dtype == torch.float32:
            logits: Tensor = self._packed(x)
            return logits
        return (x @ self._weight.to(x.dtype).T).float()


def prepare(model: Whisper, features: Tensor) -> Sound:
    """Project features (B, T, D) once for all passes over them: decoding, retries, and word times."""
    return [keys_and_values(block.cross_attn, features) for block in model.decoder.blocks]


def pick(sound: Sound, rows: Tensor | list[int]) -> Sound:
    """Return some rows of a batch: indices, or bool (B,)."""
    return [(key[rows], value[rows]) for key, value in sound]


class DecoderSteps:
    """One decoding pass over a batch of texts; replaces openai-whisper's PyTorchInference."""

    def __init__(self, model: Whisper, vocabulary: Vocabulary, sound: Sound) -> None:
        self._decoder = model.decoder
        self._vocabulary = vocabulary
        self._sound = sound
        self._text: Sound = []  # keys and values of the tokens so far (B, H, W, D / H)

    def cleanup_caching(self) -> None:
        """Release the batch."""
        self._sound, self._text = [], []

    def keep(self, rows: Tensor) -> None:
        """Continue with the rows where `rows`, bool (B,), is True."""
        self._sound, self._text = pick(self._sound, rows), pick(self._text, rows)

    def logits(self, tokens: Tensor) -> Tensor:
        """Score the next token after each of the N new tokens: tokens so far (B, W) -> (B, N, V)."""
        return self._vocabulary(self.states(tokens))

    def states(self, tokens: Tensor, queries: list[Tensor] | None = None) -> Tensor:
        """Return the states (B, N, D) of the N new tokens after the tokens so far (B, W); the vocabulary scores them.

        `queries`, if given, gets the cross-attention queries (B, H, N, D / H) of each layer.
        """
        decoder = self._decoder
        begin = self._text[0][0].shape[2] if self._text else 0
        x = decoder.token_embedding(tokens[:, begin:]) + decoder.positional_embedding[begin : tokens.shape[1]]
        x = x.to(self._sound[0][0].dtype)
        text: Sound = []
        for i, block in enumerate(decoder.blocks):
            normed = block.attn_ln(x)
            key, value = keys_and_values(block.attn, normed)
            if self._text:
                key = torch.cat([self._text[i][0], key], dim=2)
                value = torch.cat([self._text[i][1], value], dim=2)
            text.append((key, value))
            query = split_heads(block.attn, block.attn.query(normed))
            x = x + _attend(block.attn, query, key, value, is_causal=begin == 0)
            query = split_heads(block.cross_attn, block.cross_attn.query(block.cross_attn_ln(x)))
            if queries is not None:
                queries.append(query)
            x = x + _attend(block.cross_attn, query, *self._sound[i], is_causal=False)
            x = x + block.mlp(block.mlp_ln(x))
        self._text = text
        states: Tensor = decoder.ln(x)
        return states


def split_heads(attention: MultiHeadAttention, x: Tensor) -> Tensor:
    """(B, N, D) -> contiguous (B, H, N, D / H)."""
    return x.view(*x.shape[:2], attention.n_head, -1).transpose(1, 2).contiguous()


def keys_and_values(attention: MultiHeadAttention, x: Tensor) -> tuple[Tensor, Tensor]:
    return split_heads(attention, attention.key(x)), split_heads(attention, attention.value(x))


def _attend(attention: MultiHeadAttention, query: Tensor, key: Tensor, value: Tensor, *, is_causal: bool) -> Tensor:
    heads = F.scaled_dot_product_attention(query, key, value, is_causal=is_causal)
    attended: Tensor = attention.out(heads.transpose(1, 2).flatten(2))
    return attended
