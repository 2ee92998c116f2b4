"""FrameScorer: confidences of frames for prompts."""

import numpy as np
import pytest
from numpy.typing import NDArray

from serve.moderation.scoring import FrameScorer, Prompts

WIDTH = 16
NONE = np.empty((0, WIDTH), np.float32)


def unit(vectors: NDArray[np.float64]) -> NDArray[np.float32]:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture
def bank() -> NDArray[np.float32]:
    return unit(np.random.default_rng(1).standard_normal((60, WIDTH)))


@pytest.fixture
def prompts() -> NDArray[np.float32]:
    return unit(np.random.default_rng(2).standard_normal((5, WIDTH)))


def test_frames_near_a_prompt_have_a_high_confidence_and_others_a_low(
    bank: NDArray[np.float32], prompts: NDArray[np.float32]
) -> None:
    screen = FrameScorer([Prompts(shown=prompts[:2], unlike=NONE)], bank)

    confidences = screen.confidences(np.concatenate([prompts[:2], bank]))[:, 0]

    assert (confidences[:2] > 0.9).all()
    assert np.median(confidences[2:]) < 0.3


def test_lookalike_prompts_lower_the_confidence(bank: NDArray[np.float32], prompts: NDArray[np.float32]) -> None:
    alike = unit(prompts[:1] + 0.5 * prompts[1:2])
    plain = FrameScorer([Prompts(shown=prompts[:1], unlike=NONE)], bank)
    rivalled = FrameScorer([Prompts(shown=prompts[:1], unlike=alike)], bank)

    assert plain.confidences(alike)[0, 0] > 0.6
    assert rivalled.confidences(alike)[0, 0] < 0.3


def test_policies_do_not_change_each_others_confidences(
    bank: NDArray[np.float32], prompts: NDArray[np.float32]
) -> None:
    prompts_by_policy = [
        Prompts(shown=prompts[:2], unlike=prompts[2:3]),
        Prompts(shown=NONE, unlike=NONE),
        Prompts(shown=prompts[3:4], unlike=NONE),
        Prompts(shown=prompts[4:5], unlike=prompts[:3]),
    ]
    frames = unit(np.random.default_rng(3).standard_normal((40, WIDTH)))

    together = FrameScorer(prompts_by_policy, bank).confidences(frames)

    assert together.shape == (40, 4)
    assert (together[:, 1] == 0).all()
    for n, one in enumerate(prompts_by_policy):
        assert together[:, n] == pytest.approx(FrameScorer([one], bank).confidences(frames)[:, 0], abs=1e-5)


def test_a_frame_near_to_every_caption_has_a_lower_confidence(
    bank: NDArray[np.float32], prompts: NDArray[np.float32]
) -> None:
    hub = unit(prompts[:1] + 3 * bank.mean(axis=0) / np.linalg.norm(bank.mean(axis=0)))
    screen = FrameScorer([Prompts(shown=prompts[:1], unlike=NONE)], bank)

    assert screen.confidences(hub)[0, 0] < screen.confidences(prompts[:1])[0, 0] - 0.1


def test_no_frames_and_no_prompts(bank: NDArray[np.float32], prompts: NDArray[np.float32]) -> None:
    assert FrameScorer([], bank).confidences(prompts).shape == (5, 0)
    assert FrameScorer([Prompts(shown=prompts, unlike=NONE)], bank).confidences(NONE).shape == (0, 1)
