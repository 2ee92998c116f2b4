"""FrameScorer: confidences of frames for prompts."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from encoders.calibration import Evidence, Regression, Scale, weigh_own
from serve.moderation.scoring import FrameScorer, Prompts, generality_of, picture_confidences, text_confidences
from serve.search.evidence import MAX_VIDEO_COUNT

WIDTH = 16
NONE = np.empty((0, WIDTH), np.float32)
BY = weigh_own(half_at=1.8, slope=2.5)


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
    screen = FrameScorer([Prompts(shown=prompts[:2], unlike=NONE)], bank, BY)

    confidences = screen.confidences(np.concatenate([prompts[:2], bank]))[:, 0]

    assert (confidences[:2] > 0.9).all()
    assert np.median(confidences[2:]) < 0.3


def test_lookalike_prompts_lower_the_confidence(bank: NDArray[np.float32], prompts: NDArray[np.float32]) -> None:
    alike = unit(prompts[:1] + 0.5 * prompts[1:2])
    plain = FrameScorer([Prompts(shown=prompts[:1], unlike=NONE)], bank, BY)
    rivalled = FrameScorer([Prompts(shown=prompts[:1], unlike=alike)], bank, BY)

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

    together = FrameScorer(prompts_by_policy, bank, BY).confidences(frames)

    assert together.shape == (40, 4)
    assert (together[:, 1] == 0).all()
    for n, one in enumerate(prompts_by_policy):
        assert together[:, n] == pytest.approx(FrameScorer([one], bank, BY).confidences(frames)[:, 0], abs=1e-5)


def test_a_frame_near_to_every_caption_has_a_lower_confidence(
    bank: NDArray[np.float32], prompts: NDArray[np.float32]
) -> None:
    hub = unit(prompts[:1] + 3 * bank.mean(axis=0) / np.linalg.norm(bank.mean(axis=0)))
    screen = FrameScorer([Prompts(shown=prompts[:1], unlike=NONE)], bank, BY)

    assert screen.confidences(hub)[0, 0] < screen.confidences(prompts[:1])[0, 0] - 0.1


def test_no_frames_and_no_prompts(bank: NDArray[np.float32], prompts: NDArray[np.float32]) -> None:
    assert FrameScorer([], bank, BY).confidences(prompts).shape == (5, 0)
    assert FrameScorer([Prompts(shown=prompts, unlike=NONE)], bank, BY).confidences(NONE).shape == (0, 1)


def test_the_confidence_of_a_text_is_that_of_the_calibration(
    bank: NDArray[np.float32], prompts: NDArray[np.float32]
) -> None:
    weights = Evidence(
        own=0.5, video=0.25, margin=0.4, lead=4.0, generality=-9.0, log_frames=-0.1, log_videos=-0.4, is_alone=0.9
    )
    by = Regression(intercept=-0.5, weights=weights)
    frames = unit(prompts + 0.4 * np.random.default_rng(4).standard_normal(prompts.shape))

    found = text_confidences(frames, prompts, generality_of(prompts, bank), bank, by)

    generic = frames @ bank.T
    for n, m in np.ndindex(found.shape):
        z = (frames[n] @ prompts[m] - generic[n].mean()) / generic[n].std()
        evidence = Evidence(
            own=z, video=z, margin=0.0, lead=0.0, generality=float(bank.mean(axis=0) @ prompts[m]), log_frames=0.0,
            log_videos=math.log(MAX_VIDEO_COUNT), is_alone=0.0,
        )  # fmt: skip
        assert found[n, m] == pytest.approx(by.confidence(evidence), abs=1e-4)


def test_the_confidence_of_a_picture_is_that_of_the_calibration() -> None:
    scale = Scale(no_match_below=0.6, match_above=0.8)
    cosines = np.array([-1.0, 0.6, 0.7, 0.8, 1.0], np.float32)
    expected = [scale.confidence(float(each)) for each in cosines]
    assert picture_confidences(cosines, scale) == pytest.approx(expected, abs=1e-5)
