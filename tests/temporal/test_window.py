"""Windows and segments: the grid, what lies in it, and mean pooling."""

import itertools

import numpy as np
import pytest

from encoders.values import FrameEmbeddings, Utterance
from temporal.config import WindowConfig
from temporal.fusion.fusion import MeanPooling
from temporal.values import Segment, TimeSpan, Window
from temporal.window import segments, windows

CONFIG = WindowConfig()


def embeddings(pts_seconds: list[float], epochs: list[int] | None = None, width: int = 4) -> FrameEmbeddings:
    vectors = np.random.default_rng(0).standard_normal((len(pts_seconds), width)).astype(np.float32)
    if width:
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return FrameEmbeddings(
        epochs=np.array(epochs or [0] * len(pts_seconds), dtype=np.int32),
        pts_seconds=np.array(pts_seconds, dtype=np.float64),
        vectors=vectors,
    )


def utterance(start_seconds: float, end_seconds: float, epoch: int = 0) -> Utterance:
    return Utterance(
        epoch=epoch,
        start_seconds=start_seconds,
        end_seconds=end_seconds,
        text="words",
        words=(),
        language="en",
        avg_logprob=-0.2,
        no_speech_prob=0.0,
    )


def pooled(video_id: str, cut: list[Window], frames: FrameEmbeddings) -> list[Segment]:
    silent = np.zeros((1, 3), np.float32)
    return segments(video_id, cut, frames, [utterance(2.0, 3.0)], silent, MeanPooling())


def edges(cut: list[Window]) -> list[tuple[float, float]]:
    return [(window.span.start_seconds, window.span.end_seconds) for window in cut]


def test_names_the_grid() -> None:
    assert CONFIG.name == "16s/8s"


@pytest.mark.parametrize(("length", "stride"), [(16.0, 0.0), (8.0, 16.0), (float("nan"), 8.0)])
def test_refuses_a_grid_with_holes(length: float, stride: float) -> None:
    with pytest.raises(ValueError, match="stride_seconds"):
        WindowConfig(length_seconds=length, stride_seconds=stride)


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        (0.5, [(0, 0.5)]),
        (16.0, [(0, 16)]),
        (16.5, [(0, 16), (8, 16.5)]),
        (24.0, [(0, 16), (8, 24)]),
        (25.0, [(0, 16), (8, 24), (16, 25)]),
    ],
)
def test_ends_with_a_shorter_window_that_adds_something(duration: float, expected: list[tuple[float, float]]) -> None:
    pts = [float(t) for t in range(int(duration) + 1) if t < duration]
    assert edges(windows(embeddings(pts), [], duration_seconds=duration, config=CONFIG)) == expected


def test_begins_the_grid_anew_with_each_epoch() -> None:
    pts, epochs = [float(t) for t in range(40)], [0] * 21 + [2] * 19
    cut = windows(embeddings(pts, epochs), [], duration_seconds=40.0, config=CONFIG)
    assert [(w.epoch, w.index, *edges([w])[0]) for w in cut] == [
        (0, 0, 0, 16), (0, 1, 8, 21), (2, 0, 21, 37), (2, 1, 29, 40),
    ]  # fmt: skip
    assert [(w.frames.start, w.frames.stop) for w in cut] == [(0, 16), (8, 21), (21, 37), (29, 40)]


def test_holds_the_frame_still_shown_where_none_begins() -> None:
    still = embeddings([0.0, 50.0])
    cut = windows(still, [], duration_seconds=60.0, config=CONFIG)
    assert [w.frames for w in cut if w.span.start_seconds == 24.0] == [slice(0, 1)]
    assert all(segment.vector is not None for segment in pooled("v", cut, still))


def test_never_holds_a_frame_of_the_epoch_before() -> None:
    spoken = [utterance(20.0, 22.0, epoch=1)]
    cut = windows(embeddings([0.0]), spoken, duration_seconds=30.0, config=CONFIG)
    assert [(w.epoch, w.frames.stop - w.frames.start) for w in cut] == [(0, 1), (0, 1), (1, 0)]


def test_cuts_windows_of_speech_alone() -> None:
    nothing = embeddings([], width=0)
    spoken = [utterance(3.0, 5.0), utterance(15.0, 18.0), utterance(20.0, 21.0)]
    cut = windows(nothing, spoken, duration_seconds=30.0, config=CONFIG)
    assert edges(cut) == [(0, 16), (8, 24), (16, 30)]
    assert [(w.utterances.start, w.utterances.stop) for w in cut] == [(0, 2), (1, 3), (1, 3)]
    assert [s.vector for s in pooled("v", cut, nothing)] == [None] * 3


def test_takes_each_utterance_that_overlaps_even_under_a_longer_one() -> None:
    spoken = [utterance(0.0, 40.0), utterance(1.0, 2.0), utterance(30.0, 31.0)]
    cut = windows(embeddings([0.0]), spoken, duration_seconds=40.0, config=CONFIG)
    for window in cut:
        inside = spoken[window.utterances]
        overlapping = [
            u for u in spoken if u.start_seconds < window.span.end_seconds and u.end_seconds > window.span.start_seconds
        ]
        assert all(u in inside for u in overlapping)


def test_knows_no_window_without_frames_and_speech() -> None:
    assert windows(embeddings([]), [], duration_seconds=20.0, config=CONFIG) == []


def test_gives_a_picture_of_no_length_one_window() -> None:
    cut = windows(embeddings([0.0]), [], duration_seconds=0.0, config=CONFIG)
    assert [(w.span, w.frames) for w in cut] == [(TimeSpan(start_seconds=0.0, end_seconds=0.0), slice(0, 1))]


@pytest.mark.parametrize("duration", [-1.0, float("nan"), float("inf"), 3.0])
def test_refuses_a_duration_that_cannot_be(duration: float) -> None:
    with pytest.raises(ValueError, match=r"duration_seconds|the last frame"):
        windows(embeddings([0.0, 5.0]), [], duration_seconds=duration, config=CONFIG)


def test_pools_the_mean_of_the_unit_vectors_to_unit_length() -> None:
    frames = embeddings([float(t) for t in range(20)])
    cut = windows(frames, [], duration_seconds=20.0, config=CONFIG)
    found = pooled("film", cut, frames)
    assert [s.segment_id for s in found] == ["film/0/0", "film/0/1"]
    for segment, rows in zip(found, (range(16), range(8, 20)), strict=True):
        mean = np.mean([frames.vectors[row] for row in rows], axis=0)
        assert segment.vector is not None
        assert segment.vector.dtype == np.float32
        np.testing.assert_allclose(segment.vector, mean / np.linalg.norm(mean), atol=1e-6)


def test_has_no_vector_without_a_visual_encoder() -> None:
    frames = embeddings([0.0, 1.0], width=0)
    cut = windows(frames, [], duration_seconds=2.0, config=CONFIG)
    assert [s.vector for s in pooled("v", cut, frames)] == [None]


@pytest.mark.parametrize("seed", range(5))
def test_covers_each_epoch_without_crossing_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pts = np.cumsum(rng.uniform(0.2, 6.0, size=60)).tolist()
    epochs = np.sort(rng.integers(0, 3, size=60)).tolist()
    frames = embeddings(pts, epochs)
    cut = windows(frames, [], duration_seconds=pts[-1] + 1.0, config=CONFIG)
    for row, (epoch, at) in enumerate(zip(epochs, pts, strict=True)):
        holding = [w for w in cut if w.frames.start <= row < w.frames.stop]
        assert holding
        assert all(w.epoch == epoch for w in holding)
        assert any(w.span.start_seconds <= at < w.span.end_seconds for w in holding)
    for before, after in itertools.pairwise(cut):
        assert after.epoch > before.epoch or after.span.end_seconds > before.span.end_seconds
