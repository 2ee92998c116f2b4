"""Changes of the picture, of scenes that are known because they were made."""

import numpy as np
import pytest

from encoders.values import FrameEmbeddings
from temporal.moments.shots import NO_CHANGES, join_changes, picture_changes


def scenes(lengths: list[int], noise: float = 0.02) -> FrameEmbeddings:
    """Frames a second apart; each scene is a direction of its own, with a little movement."""
    rng = np.random.default_rng(0)
    centres = np.repeat(np.eye(8)[np.arange(len(lengths)) % 8], lengths, axis=0)
    vectors = centres + noise * rng.standard_normal(centres.shape)
    return FrameEmbeddings(
        epochs=np.zeros(len(vectors), dtype=np.int32),
        pts_seconds=np.arange(len(vectors), dtype=np.float64),
        vectors=(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32),
    )


@pytest.mark.parametrize(
    ("lengths", "cuts"),
    [
        ([10, 5, 20], [9.5, 14.5]),
        ([3] * 20, [3 * n - 0.5 for n in range(1, 20)]),  # cut so fast that a median would call it calm
        ([1, 1], [0.5]),
        ([30], []),
        ([1], []),
    ],
)
def test_finds_the_cuts_between_scenes(lengths: list[int], cuts: list[float]) -> None:
    np.testing.assert_allclose(picture_changes(scenes(lengths)).cut_seconds, cuts)


def test_places_the_cut_after_a_still_picture_at_its_end() -> None:
    frames = scenes([1, 5])
    held = FrameEmbeddings(
        epochs=frames.epochs, pts_seconds=np.array([0, 40, 41, 42, 43, 44.0]), vectors=frames.vectors
    )
    np.testing.assert_allclose(picture_changes(held).cut_seconds, [39.5])


def test_an_epoch_break_is_no_cut() -> None:
    frames = scenes([10, 10, 10])
    broken = FrameEmbeddings(
        epochs=np.repeat(np.array([0, 1], dtype=np.int32), [10, 20]),
        pts_seconds=frames.pts_seconds,
        vectors=frames.vectors,
    )
    np.testing.assert_allclose(picture_changes(broken).cut_seconds, [19.5])


def test_finds_no_cuts_without_a_visual_encoder() -> None:
    blind = FrameEmbeddings(
        epochs=np.zeros(5, dtype=np.int32), pts_seconds=np.arange(5.0), vectors=np.empty((5, 0), np.float32)
    )
    assert len(picture_changes(blind).seconds) == 0


def test_says_how_much_each_frame_differs_from_the_one_before() -> None:
    frames = scenes([2, 2], noise=0.0)
    changes = picture_changes(frames)
    np.testing.assert_allclose(changes.seconds, [0.5, 1.5, 2.5])
    np.testing.assert_allclose(changes.strengths, [0, 1, 0], atol=1e-6)
    assert changes.is_cut.tolist() == [False, True, False]


def test_parts_are_laid_after_each_other_and_cut_out_again() -> None:
    changes = picture_changes(scenes([3, 3]))
    both = join_changes([changes.within(-1.0, 2.5), NO_CHANGES, changes.within(2.4, 9.0)])
    np.testing.assert_array_equal(both.seconds, changes.seconds)
    np.testing.assert_array_equal(both.strengths, changes.strengths)
    np.testing.assert_array_equal(both.is_cut, changes.is_cut)
    assert changes.within(1.5, 3.5).seconds.tolist() == [2.5]  # the ends of a span are not inside it
    assert len(changes.within(3.5, 1.5).seconds) == 0
    assert len(join_changes([]).seconds) == 0
