"""The fusion transformer: mean pooling until it is trained, and nothing that depends on padding."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from temporal.config import FusionConfig
from temporal.fusion.model import FusionTransformer, TokenBatch
from temporal.values import WindowTokens

CONFIG = FusionConfig(frame_size=24, utterance_size=12, width=32, head_count=4)
DRAWN = np.random.default_rng(7)


def tokens(frame_count: int, utterance_count: int = 0) -> WindowTokens:
    def unit(count: int, size: int) -> np.ndarray:
        vectors = DRAWN.normal(size=(count, size)).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    return WindowTokens(
        frames=unit(frame_count, CONFIG.frame_size),
        frame_seconds=np.arange(frame_count, dtype=np.float32),
        utterances=unit(utterance_count, CONFIG.utterance_size),
        utterance_seconds=np.linspace(-2, 18, utterance_count, dtype=np.float32),
    )


def untrained() -> FusionTransformer:
    torch.manual_seed(0)
    return FusionTransformer(CONFIG).eval()


def opened() -> FusionTransformer:
    """Return a model whose gate is open, as after training."""
    model = untrained()
    assert model.output is not None
    torch.nn.init.normal_(model.output.weight, std=0.2)
    torch.nn.init.normal_(model.weighing.weight, std=0.2)
    return model


def vectors(model: FusionTransformer, *windows: WindowTokens) -> torch.Tensor:
    with torch.inference_mode():
        return model(TokenBatch.of(windows, CONFIG))


def test_an_untrained_model_is_exactly_mean_pooling() -> None:
    windows = [tokens(16, 3), tokens(1), tokens(32, 16), tokens(5, 1)]
    means = torch.stack([torch.from_numpy(one.frames.mean(axis=0, dtype=np.float64)).float() for one in windows])
    assert torch.equal(vectors(untrained(), *windows), F.normalize(means, dim=-1))


def test_only_the_gate_begins_at_zero() -> None:
    zero = {name for name, weight in untrained().named_parameters() if weight.dim() > 1 and not weight.any()}
    assert zero == {"output.weight", "weighing.weight"}


@pytest.mark.slow
def test_gradients_reach_the_gate_at_once_and_the_rest_with_the_second_step() -> None:
    model, batch = untrained().train(), TokenBatch.of([tokens(8, 2), tokens(6, 1)], CONFIG)
    target = F.normalize(torch.randn(2, CONFIG.frame_size), dim=-1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(2):
        optimizer.zero_grad()
        (-(model(batch) * target).sum()).backward()
        reached = {name for name, one in model.named_parameters() if one.grad is not None and one.grad.any()}
        if step == 0:
            assert reached - {"weighing.bias"} == {"output.weight", "weighing.weight"}
        optimizer.step()
    assert {"frame_projection.weight", "utterance_projection.weight", "time_projection.weight"} <= reached


def test_what_is_said_counts_where_frames_and_sentences_share_a_space() -> None:
    config = replace(CONFIG, utterance_size=CONFIG.frame_size)
    window = tokens(4)
    said = tokens(2)
    window = replace(window, utterances=said.frames, utterance_seconds=said.frame_seconds)
    model = FusionTransformer(config).eval()
    with torch.inference_mode():
        model.weighing.bias[1] = 0.5  # every sentence counts half as much as the frames
        vector = model(TokenBatch.of([window], config))[0].numpy()
    expected = window.frames.mean(axis=0) + 0.5 * window.utterances.mean(axis=0)
    np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("model", [untrained(), opened()])
def test_padding_never_changes_an_output(model: FusionTransformer) -> None:
    short, long = tokens(3, 1), tokens(32, 16)
    torch.testing.assert_close(vectors(model, short, long)[0], vectors(model, short)[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(vectors(model, long, tokens(0), short)[2], vectors(model, short)[0], atol=1e-6, rtol=0)


def test_what_stands_in_the_padding_does_not_matter() -> None:
    model, batch = opened(), TokenBatch.of([tokens(3, 1), tokens(9, 4)], CONFIG)
    noisy = replace(
        batch,
        frames=torch.where(batch.frame_is_valid[..., None], batch.frames, 1e3),
        frame_seconds=torch.where(batch.frame_is_valid, batch.frame_seconds, 77.0),
        utterances=torch.where(batch.utterance_is_valid[..., None], batch.utterances, -1e3),
    )
    with torch.inference_mode():
        torch.testing.assert_close(model(noisy), model(batch), atol=1e-6, rtol=0)


def test_outputs_are_unit_and_finite_whatever_is_missing() -> None:
    found = vectors(opened(), tokens(4, 2), tokens(0, 2), tokens(4, 0), tokens(0, 0))
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found[:3].norm(dim=1), torch.ones(3))
    assert not found[3].any()
    assert vectors(opened()).shape == (0, CONFIG.frame_size)


def test_order_and_words_matter_once_the_gate_is_open() -> None:
    window = tokens(8, 2)
    backwards = replace(window, frames=window.frames[::-1].copy())
    silent = replace(window, utterances=window.utterances[:0], utterance_seconds=window.utterance_seconds[:0])
    found = vectors(opened(), window, backwards, silent)
    assert (found[0] - found[1]).norm() > 1e-3
    assert (found[0] - found[2]).norm() > 1e-3
    mean = vectors(untrained(), window, backwards, silent)
    torch.testing.assert_close(mean[0], mean[1])


def test_long_windows_are_joined_to_32_tokens_and_keep_the_mean_of_all() -> None:
    window = tokens(101, 40)
    batch = TokenBatch.of([window], CONFIG)
    assert batch.frames.shape == (1, 32, CONFIG.frame_size)
    assert batch.utterances.shape == (1, 16, CONFIG.utterance_size)
    assert (batch.frame_seconds[0].diff() > 0).all()
    np.testing.assert_allclose(batch.mean[0].numpy(), window.frames.mean(axis=0), atol=1e-6)


def test_bfloat16_stays_near_float32() -> None:
    windows = [tokens(16, 3), tokens(7)]
    exact, rough = vectors(opened(), *windows), vectors(opened().to(torch.bfloat16), *windows)
    assert rough.dtype == torch.float32
    assert (exact * rough).sum(dim=1).min() > 0.999
    assert torch.equal(vectors(untrained().to(torch.bfloat16), *windows), vectors(untrained(), *windows))


def test_vectors_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="the model reads vectors of 24 numbers, got 12"):
        TokenBatch.of([replace(tokens(3), frames=np.ones((3, 12), np.float32))], CONFIG)
    with pytest.raises(ValueError, match="do not fit"):
        replace(tokens(3), frame_seconds=np.zeros(2, np.float32))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"width": 30}, "multiple"), ({"max_frames": 33}, "max_frames"), ({"dropout": 1.0}, "dropout"),
     ({"layer_count": 0}, "layer_count")],
)  # fmt: skip
def test_impossible_shapes_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **change)
