"""Highlights: few moments that together tell most of a video."""

import itertools

import numpy as np
import pytest

from encoders.values import FrameEmbeddings
from support.sample_answers import utterance
from temporal.chapters.highlights import MOMENTS, _choose, find_highlights
from temporal.values import TimeSpan, VideoContent

NOBODY_SPEAKS = np.empty((0, 0), np.float32)


def shown(*seconds: int, seed: int = 0) -> FrameEmbeddings:
    """Return the frames of a video that shows one thing after another, each so many seconds."""
    random = np.random.default_rng(seed)
    vectors = np.repeat(random.standard_normal((len(seconds), 64)), seconds, axis=0)
    vectors += 0.2 * random.standard_normal(vectors.shape)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    count = len(vectors)
    return FrameEmbeddings(
        epochs=np.zeros(count, np.int32), pts_seconds=np.arange(float(count)), vectors=vectors.astype(np.float32)
    )


def silent(frames: FrameEmbeddings) -> VideoContent:
    span = TimeSpan(start_seconds=0.0, end_seconds=float(len(frames.pts_seconds)))
    return VideoContent(frames=frames, utterances=[], sentences=NOBODY_SPEAKS, span=span)


def test_each_thing_of_a_video_has_a_moment_before_any_has_two() -> None:
    found = find_highlights(silent(shown(60, 10, 30, 20)), 4)
    for start, end in itertools.pairwise((0, 60, 70, 100, 120)):
        assert sum(start - 1 <= each.span.start_seconds < end - 1 for each in found) == 1


def test_the_first_moment_is_of_what_the_video_shows_longest() -> None:
    [only] = find_highlights(silent(shown(20, 60, 30)), 1)
    assert 19 <= only.span.start_seconds < only.span.end_seconds <= 80
    assert only.best_frame_seconds is not None
    assert only.span.start_seconds - 1 <= only.best_frame_seconds < only.span.end_seconds


def test_moments_are_in_order_apart_and_of_their_lengths() -> None:
    found = find_highlights(silent(shown(*[20] * 15)), 10)
    assert len(found) == 10
    assert all(5 <= each.span.length_seconds <= MOMENTS.max_seconds for each in found)
    assert all(a.span.end_seconds <= b.span.start_seconds for a, b in itertools.pairwise(found))


def test_a_moment_has_the_words_that_are_said_in_it() -> None:
    said = [utterance("the sea", 2.0, 6.0, timed=False), utterance("the mountain", 32.0, 36.0, timed=False)]
    frames = shown(30, 30)
    sentences = np.eye(2, dtype=np.float32)
    span = TimeSpan(start_seconds=0.0, end_seconds=60.0)
    found = find_highlights(VideoContent(frames=frames, utterances=said, sentences=sentences, span=span), 2)
    assert [each.transcript for each in found] == ["the sea", "the mountain"]


def test_a_video_of_sound_has_moments_without_pictures() -> None:
    said = [utterance("the sea", 5.0, 9.0, timed=False), utterance("the mountain", 35.0, 39.0, timed=False)]
    span = TimeSpan(start_seconds=0.0, end_seconds=60.0)
    content = VideoContent(frames=shown(0), utterances=said, sentences=np.eye(2, dtype=np.float32), span=span)
    found = find_highlights(content, 10)
    assert {each.best_frame_seconds for each in found} == {None}
    assert " ".join(each.transcript for each in found) == "the sea the mountain"


@pytest.mark.parametrize("seconds", [0, 1, 4])
def test_a_short_video_has_one_moment_at_most(seconds: int) -> None:
    assert len(find_highlights(silent(shown(seconds)), 10)) == min(1, seconds)


def test_a_video_without_pictures_and_words_has_none() -> None:
    span = TimeSpan(start_seconds=0.0, end_seconds=60.0)
    content = VideoContent(frames=shown(0), utterances=[], sentences=NOBODY_SPEAKS, span=span)
    assert find_highlights(content, 10) == ()


def test_a_still_that_lasts_is_shown_in_a_moment_of_normal_length() -> None:
    span = TimeSpan(start_seconds=0.0, end_seconds=600.0)
    content = VideoContent(frames=shown(1), utterances=[], sentences=NOBODY_SPEAKS, span=span)
    [only] = find_highlights(content, 10)
    assert (only.span.start_seconds, only.span.end_seconds) == (0.0, MOMENTS.max_seconds)


def test_the_choice_is_nearly_the_best_of_all() -> None:
    """Against trying every choice: greedy is proven to reach 63 % of it."""
    random = np.random.default_rng(3)
    vectors = np.abs(random.standard_normal((12, 4)))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    likeness, seconds = vectors @ vectors.T, random.uniform(5, 15, 12)

    def coverage(chosen: tuple[int, ...]) -> float:
        return float(seconds @ likeness[:, list(chosen)].max(axis=1))

    best = max(coverage(choice) for choice in itertools.combinations(range(12), 3))
    assert 0.63 * best <= coverage(tuple(_choose(likeness, seconds, 3))) <= best
