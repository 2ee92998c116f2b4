"""Whisper's two halves as we run them, beside openai-whisper's own, on a small model of random weights."""

import pytest
import torch
from torch import Tensor
from whisper.model import ModelDimensions, Whisper

from encoders.speech.audio_encoder import CpuAudioEncoder
from encoders.speech.text_decoder import DecoderSteps, PackedLinear, Vocabulary, pack_layers, prepare
from support.random_whisper import random_whisper


@pytest.fixture
def model() -> Whisper:
    dims = ModelDimensions(
        n_mels=8,
        n_audio_ctx=600,  # more than one part of the queries
        n_audio_state=32,
        n_audio_head=2,
        n_audio_layer=2,
        n_vocab=101,
        n_text_ctx=16,
        n_text_state=32,
        n_text_head=2,
        n_text_layer=2,
    )
    return random_whisper(dims, std=0.2)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_float32_hears_what_openai_whisper_hears(model: Whisper) -> None:
    mels = noise(3, 8, 1200)
    torch.testing.assert_close(
        CpuAudioEncoder(model.encoder, torch.float32)(mels), model.encoder(mels), atol=1e-4, rtol=1e-4
    )


def test_bfloat16_hears_nearly_the_same(model: Whisper) -> None:
    mels = noise(3, 8, 1200)
    expected = model.encoder(mels)
    got = CpuAudioEncoder(model.encoder, torch.bfloat16)(mels)
    assert got.dtype == torch.float32
    assert (got - expected).norm() < 0.02 * expected.norm()


def test_bfloat16_hears_each_window_as_if_alone(model: Whisper) -> None:
    mels = noise(3, 8, 1200)
    hear = CpuAudioEncoder(model.encoder, torch.bfloat16)
    torch.testing.assert_close(hear(mels)[1:2], hear(mels[1:2]), atol=0, rtol=0)


@pytest.mark.parametrize("is_packed", [False, True])
def test_steps_score_like_one_pass_and_go_on_with_some_rows(model: Whisper, is_packed: bool) -> None:
    features = noise(3, 600, 32)
    tokens = torch.arange(18).reshape(3, 6)
    expected = model.decoder(tokens, features)
    if is_packed:
        pack_layers(model.decoder)
        assert isinstance(model.decoder.blocks[1].mlp[2], PackedLinear)
        torch.testing.assert_close(model.decoder(tokens, features), expected, atol=1e-4, rtol=1e-4)
    steps = DecoderSteps(model, Vocabulary(model.decoder.token_embedding.weight), prepare(model, features))
    torch.testing.assert_close(steps.logits(tokens[:, :3]), expected[:, :3], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(steps.logits(tokens[:, :4]), expected[:, 3:4], atol=1e-4, rtol=1e-4)
    kept = torch.tensor([True, False, True])
    steps.keep(kept)
    torch.testing.assert_close(steps.logits(tokens[kept, :5]), expected[kept, 4:5], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("row_count", [1, 3, 20])
def test_the_vocabulary_multiplies_any_number_of_rows(model: Whisper, row_count: int) -> None:
    weight = model.decoder.token_embedding.weight
    x = noise(row_count, 2, 32)
    torch.testing.assert_close(Vocabulary(weight)(x), x @ weight.T, atol=1e-4, rtol=1e-4)
    half = Vocabulary(weight.half())(x.half())
    torch.testing.assert_close(half, x @ weight.T, atol=0.1, rtol=0.02)
