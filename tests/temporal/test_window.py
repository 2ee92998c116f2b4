"""Windows and segments: the grid, what lies in it, and mean pooling."""

import itertools

import numpy as np
import pytest

from encoders.values import FrameEmbeddings, Utterance
from temporal.config import WindowConfig
from temporal.fusion.fusion import MeanPooling
from temporal.values import TimeSpan
from temporal.window import CutSegment, cut_video, overlaps

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


def cut_of(
    frames: FrameEmbeddings, utterances: list[Utterance], duration_seconds: float, video_id: str = "v"
) -> list[CutSegment]:
    sentences = np.zeros((len(utterances), 3), np.float32)
    return list(
        cut_video(
            video_id, frames, utterances, sentences,
            duration_seconds=duration_seconds, config=CONFIG, pooling=MeanPooling(),
        )
    )  # fmt: skip


def edges(cut: list[CutSegment]) -> list[tuple[float, float]]:
    return [(one.segment.span.start_seconds, one.segment.span.end_seconds) for one in cut]


def times(cut: CutSegment) -> list[float]:
    return cut.frames.pts_seconds.tolist()


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
    assert edges(cut_of(embeddings(pts), [], duration)) == expected


def test_begins_the_grid_anew_with_each_epoch() -> None:
    pts, epochs = [float(t) for t in range(40)], [0] * 21 + [2] * 19
    cut = cut_of(embeddings(pts, epochs), [], 40.0)
    assert [(one.segment.epoch, one.segment.index, *edges([one])[0]) for one in cut] == [
        (0, 0, 0, 16), (0, 1, 8, 21), (2, 0, 21, 37), (2, 1, 29, 40),
    ]  # fmt: skip
    assert [times(one) for one in cut] == [pts[0:16], pts[8:21], pts[21:37], pts[29:40]]


def test_holds_the_frame_still_shown_where_none_begins() -> None:
    cut = cut_of(embeddings([0.0, 50.0]), [utterance(30.0, 31.0)], 60.0)
    assert [times(one) for one in cut if one.segment.span.start_seconds == 24.0] == [[0.0]]
    assert all(one.segment.vector is not None for one in cut)


def test_leaves_out_windows_of_a_picture_that_stands() -> None:
    cut = cut_of(embeddings([0.0, 1.0, 50.0]), [utterance(90.0, 91.0)], 160.0)
    assert [(one.segment.index, times(one), len(one.spoken)) for one in cut] == [
        (0, [0.0, 1.0], 0), (1, [1.0], 0), (5, [50.0], 0), (10, [50.0], 1), (11, [50.0], 1), (12, [50.0], 0),
        (18, [50.0], 0),
    ]  # fmt: skip
    assert edges(cut)[-1] == (144.0, 160.0)
    assert [(one.ends_epoch, one.is_last) for one in cut] == [(False, False)] * 6 + [(True, True)]


def test_a_gap_of_a_day_has_few_windows() -> None:
    cut = cut_of(embeddings([0.0, 1.0, 86_000.0]), [], 86_001.0)
    assert [one.segment.index for one in cut] == [0, 1, 10749]


def test_never_holds_a_frame_of_the_epoch_before() -> None:
    spoken = [utterance(20.0, 22.0, epoch=1)]
    cut = cut_of(embeddings([0.0]), spoken, 30.0)
    assert [(one.segment.epoch, len(times(one))) for one in cut] == [(0, 1), (0, 1), (1, 0)]


def test_cuts_windows_of_speech_alone() -> None:
    nothing = embeddings([], width=0)
    spoken = [utterance(3.0, 5.0), utterance(15.0, 18.0), utterance(20.0, 21.0)]
    cut = cut_of(nothing, spoken, 30.0)
    assert edges(cut) == [(0, 16), (8, 24), (16, 30)]
    assert [[each.utterance for each in one.spoken] for one in cut] == [spoken[0:2], spoken[1:3], spoken[1:3]]
    assert [one.segment.vector for one in cut] == [None] * 3


def test_takes_each_utterance_that_overlaps_even_under_a_longer_one() -> None:
    spoken = [utterance(0.0, 40.0), utterance(1.0, 2.0), utterance(30.0, 31.0)]
    for one in cut_of(embeddings([0.0]), spoken, 40.0):
        assert [each.utterance for each in one.spoken] == [u for u in spoken if overlaps(u, one.segment.span)]


def test_knows_no_window_without_frames_and_speech() -> None:
    assert cut_of(embeddings([]), [], 20.0) == []


def test_gives_a_picture_of_no_length_one_window() -> None:
    cut = cut_of(embeddings([0.0]), [], 0.0)
    assert [(one.segment.span, times(one)) for one in cut] == [(TimeSpan(start_seconds=0.0, end_seconds=0.0), [0.0])]


@pytest.mark.parametrize("duration", [-1.0, float("nan"), float("inf"), 3.0])
def test_refuses_a_duration_that_cannot_be(duration: float) -> None:
    with pytest.raises(ValueError, match=r"duration_seconds|the last frame"):
        cut_of(embeddings([0.0, 5.0]), [], duration)


def test_pools_the_mean_of_the_unit_vectors_to_unit_length() -> None:
    frames = embeddings([float(t) for t in range(20)])
    found = [one.segment for one in cut_of(frames, [utterance(2.0, 3.0)], 20.0, "film")]
    assert [s.segment_id for s in found] == ["film/0/0", "film/0/1"]
    for segment, rows in zip(found, (range(16), range(8, 20)), strict=True):
        mean = np.mean([frames.vectors[row] for row in rows], axis=0)
        assert segment.vector is not None
        assert segment.vector.dtype == np.float32
        np.testing.assert_allclose(segment.vector, mean / np.linalg.norm(mean), atol=1e-6)


def test_has_no_vector_without_a_visual_encoder() -> None:
    frames = embeddings([0.0, 1.0], width=0)
    assert [one.segment.vector for one in cut_of(frames, [], 2.0)] == [None]


@pytest.mark.parametrize("seed", range(5))
def test_covers_each_epoch_without_crossing_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pts = np.cumsum(rng.uniform(0.2, 6.0, size=60)).tolist()
    epochs = np.sort(rng.integers(0, 3, size=60)).tolist()
    frames = embeddings(pts, epochs)
    found = cut_of(frames, [], pts[-1] + 1.0)
    for epoch, at in zip(epochs, pts, strict=True):
        holding = [one.segment for one in found if at in times(one)]
        assert holding
        assert all(one.epoch == epoch for one in holding)
        assert any(one.span.start_seconds <= at < one.span.end_seconds for one in holding)
    for before, after in itertools.pairwise([one.segment for one in found]):
        assert after.epoch > before.epoch or after.span.end_seconds > before.span.end_seconds
