"""Word times: Whisper's cross-attention, mapped to time by dynamic time warping.

openai-whisper has this as `whisper.timing.find_alignment`, for one window at a time. It encodes the sound again, and
its warping compiles with numba for several seconds in every new process. Here a batch shares one pass over the encoded
sound, and the warping runs in NumPy along anti-diagonals.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from whisper.audio import TOKENS_PER_SECOND
from whisper.model import Whisper
from whisper.tokenizer import Tokenizer

from encoders.speech.text_decoder import DecoderSteps, Sound, Vocabulary

MEDIAN_REACH = 3  # encoder positions (20 ms each) on each side, as in openai-whisper
# Pairs of positions to sort one after the other; then the median of the 7 values is in the middle.
# Source: J. L. Smith, "Implementing median filters in XC4000E FPGAs", Xilinx Xcell 23 (1996).
MEDIAN_EXCHANGES = (
    (0, 5), (0, 3), (1, 6), (2, 4), (0, 1), (3, 5), (2, 6), (2, 3), (3, 6), (4, 5), (1, 4), (1, 3), (3, 4),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedText:
    """A piece of the text of one window, with its times."""

    text: str  # with the leading space of the tokenizer
    start_seconds: float  # from the start of the window
    end_seconds: float
    probability: float  # mean over its tokens, 0..1


def align(
    model: Whisper,
    tokenizer: Tokenizer,
    heads: Sequence[tuple[int, int]],
    vocabulary: Vocabulary,
    sound: Sound,
    texts: Sequence[Sequence[int]],
    durations_seconds: Sequence[float],
) -> list[list[TimedText]]:
    """Time the words of a batch of windows.

    Args:
        heads: (layer, head) of the cross-attention heads that follow the sound.
        sound: The prepared windows (`encoders.speech.text_decoder.prepare`).
        texts: The text tokens of each window, without special tokens.
        durations_seconds: The length of each window without its padding.
    Source: openai-whisper, whisper/timing.py; https://arxiv.org/abs/2212.04356, section 6.
    """
    if not texts:
        return []
    prefix = [*tokenizer.sot_sequence, tokenizer.no_timestamps]
    rows = [[*prefix, *text, tokenizer.eot] for text in texts]
    width = max(map(len, rows))
    tokens = torch.tensor([row + [tokenizer.eot] * (width - len(row)) for row in rows], device=sound[0][0].device)
    attention, states = _cross_attention(model, heads, vocabulary, sound, tokens)  # (H, B, W, T), (B, W, D)
    timed = []
    for b, (text, duration_seconds) in enumerate(zip(texts, durations_seconds, strict=True)):
        positions = min(attention.shape[-1], max(1, round(duration_seconds * TOKENS_PER_SECOND)))
        weights = attention[:, b, : len(rows[b]), :positions].float().softmax(dim=-1)
        std, mean = torch.std_mean(weights, dim=-2, keepdim=True, unbiased=False)
        weights = median_filter((weights - mean) / std.clamp_min(1e-8))
        matrix = weights.mean(dim=0)[len(tokenizer.sot_sequence) : -1].cpu().numpy()  # text tokens and eot, by time
        first = len(prefix) - 1  # the logits there predict the first text token
        logits = vocabulary(states[b : b + 1, first : first + len(text)])[0, :, : tokenizer.eot]  # (W, V)
        # Only the spoken tokens count: a softmax of all would write the whole vocabulary once more for each token.
        chosen = logits.gather(1, tokens[b, len(prefix) : len(prefix) + len(text), None])[:, 0]
        probabilities = (chosen - logits.logsumexp(dim=-1)).exp().tolist()
        timed.append(_cut_words(tokenizer, list(text), warp(-matrix), probabilities))
    return timed


def _cross_attention(
    model: Whisper, heads: Sequence[tuple[int, int]], vocabulary: Vocabulary, sound: Sound, tokens: Tensor
) -> tuple[Tensor, Tensor]:
    """Run the decoder over known tokens; return the attention of the heads before softmax (H, B, W, T), and the
    states (B, W, D)."""
    queries: list[Tensor] = []
    with torch.inference_mode():
        states = DecoderSteps(model, vocabulary, sound).states(tokens, queries)
    attention = []
    for layer, head in heads:
        query, key = queries[layer][:, head].float(), sound[layer][0][:, head].float()
        attention.append((query @ key.transpose(1, 2)) * query.shape[-1] ** -0.5)
    return torch.stack(attention), states


def median_filter(x: Tensor) -> Tensor:
    """Replace each value by the median of MEDIAN_REACH positions on each side, mirrored at the ends: (H, W, T).

    Gives the values of openai-whisper's filter, which sorts every seven values and takes seven times as long on a CPU.
    """
    count = x.shape[-1]
    if count <= MEDIAN_REACH:
        return x
    padded = F.pad(x, (MEDIAN_REACH, MEDIAN_REACH), mode="reflect")
    around = [padded[..., at : at + count] for at in range(2 * MEDIAN_REACH + 1)]
    for a, b in MEDIAN_EXCHANGES:
        around[a], around[b] = torch.minimum(around[a], around[b]), torch.maximum(around[a], around[b])
    return around[MEDIAN_REACH]


def warp(cost: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the cheapest monotone path through cost (N, M): its rows and its columns, first to last.

    Dynamic time warping. The cells of an anti-diagonal are independent, so each anti-diagonal is one vector operation.
    Ties go to the step along columns, as in openai-whisper.
    """
    n, m = cost.shape
    skewed = np.full((n + m + 1, n + 1), np.inf)  # skewed[i + j, i] = cost of cell (i, j), both from 1
    rows = np.arange(1, n + 1)[:, None]
    skewed[rows + np.arange(1, m + 1), rows] = cost
    totals = np.full((n + m + 1, n + 1), np.inf)  # totals[i + j, i] = cost of the cheapest path to (i, j)
    totals[0, 0] = 0.0
    for d in range(2, n + m + 1):
        both, row, column = totals[d - 2, :-1], totals[d - 1, :-1], totals[d - 1, 1:]
        totals[d, 1:] = np.where(both == row, column, np.minimum(np.minimum(both, row), column)) + skewed[d, 1:]
    i, j = n, m
    path = []
    while i > 0 and j > 0:
        path.append((i - 1, j - 1))
        both, row, column = totals[i + j - 2, i - 1], totals[i + j - 1, i - 1], totals[i + j - 1, i]
        if both < row and both < column:
            i, j = i - 1, j - 1
        elif row < both and row < column:
            i -= 1
        else:
            j -= 1
    path_rows, path_columns = np.array(path[::-1], dtype=np.int64).T
    return path_rows, path_columns


def _cut_words(
    tokenizer: Tokenizer, text: list[int], path: tuple[NDArray[np.int64], NDArray[np.int64]], probabilities: list[float]
) -> list[TimedText]:
    words, word_tokens = tokenizer.split_to_word_tokens([*text, tokenizer.eot])
    rows, columns = path
    entered = np.concatenate([[True], np.diff(rows) > 0])
    times = columns[entered] / TOKENS_PER_SECOND  # start of each token; the last token is eot
    edges = np.concatenate([[0], np.cumsum([len(tokens) for tokens in word_tokens[:-1]])])
    return [
        TimedText(
            text=word,
            start_seconds=float(times[a]),
            end_seconds=float(times[b]),
            probability=float(np.mean(probabilities[a:b])),
        )
        for word, a, b in zip(words[:-1], edges[:-1], edges[1:], strict=True)
    ]
