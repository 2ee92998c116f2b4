"""Where a video is divided: where pictures, words and pauses change, and nowhere else."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from encoders.values import FrameEmbeddings, Utterance
from temporal.chapters import boundaries
from temporal.chapters.boundaries import TimedVectors, find_parts, integrals, timed_pictures, timed_sentences
from temporal.config import ChapterConfig
from temporal.values import TimeSpan

CONFIG = ChapterConfig()
SIZE = 64


def things(*seconds: int, seed: int = 0, noise: float = 0.5) -> NDArray[np.float32]:
    """Return a vector for each second of a video that shows one thing after another, each so many seconds."""
    random = np.random.default_rng(seed)
    kinds = np.repeat(random.standard_normal((len(seconds), SIZE)), seconds, axis=0)
    vectors = kinds + noise * random.standard_normal(kinds.shape)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def frames(vectors: NDArray[np.float32], start_seconds: float = 0.0) -> FrameEmbeddings:
    count = len(vectors)
    return FrameEmbeddings(
        epochs=np.zeros(count, np.int32),
        pts_seconds=start_seconds + np.arange(count, dtype=np.float64),
        vectors=vectors,
    )


def utterance(start_seconds: float, end_seconds: float) -> Utterance:
    return Utterance(
        epoch=0,
        start_seconds=start_seconds,
        end_seconds=end_seconds,
        text="words",
        words=(),
        language="en",
        avg_logprob=-0.3,
        no_speech_prob=0.1,
    )


NO_SPEECH = timed_sentences([], np.empty((0, 0), np.float32))


def parts_of(
    pictures: NDArray[np.float32],
    speech: TimedVectors = NO_SPEECH,
    start_seconds: float = 0.0,
    length: float | None = None,
) -> list[float]:
    end = start_seconds + (len(pictures) if length is None else length)
    span = TimeSpan(start_seconds=start_seconds, end_seconds=end)
    return find_parts(timed_pictures(frames(pictures, start_seconds), span), speech, span, CONFIG).tolist()


def test_a_video_is_divided_where_its_pictures_change() -> None:
    assert parts_of(things(20, 35, 15)) == [0.0, 19.5, 54.5, 70.0]


def test_a_video_of_one_thing_is_one_part() -> None:
    assert parts_of(things(120)) == [0.0, 120.0]


@pytest.mark.parametrize("count", [0, 1, 2, 19])
def test_a_short_video_is_one_part(count: int) -> None:
    assert parts_of(things(count)) == [0.0, float(count)]


def test_no_part_is_shorter_than_the_least_length() -> None:
    parts = parts_of(things(30, 4, 30, 4, 30))
    assert len(parts) > 2
    assert np.diff(parts).min() >= CONFIG.min_seconds


def test_a_flash_is_no_chapter() -> None:
    pictures = things(60)
    pictures[30] = things(1, seed=1)[0]
    assert parts_of(pictures) == [0.0, 60.0]


def test_the_parts_begin_where_the_video_does() -> None:
    assert parts_of(things(20, 20), start_seconds=3600.0) == [3600.0, 3619.5, 3640.0]


def test_a_picture_counts_as_long_as_it_is_shown() -> None:
    """A slide may be stored once and shown for minutes."""
    times = np.array([0.0, 1.0, 2.0, 300.0, 301.0, 302.0])
    pictures = FrameEmbeddings(epochs=np.zeros(6, np.int32), pts_seconds=times, vectors=things(3, 3))
    span = TimeSpan(start_seconds=0.0, end_seconds=600.0)
    assert find_parts(timed_pictures(pictures, span), NO_SPEECH, span, CONFIG).tolist() == [0.0, 299.5, 600.0]


def test_speech_alone_is_divided_in_its_pauses() -> None:
    said = [utterance(5.0 * i, 5.0 * i + 4.5) for i in range(40)]
    speech = timed_sentences(said, things(20, 20, noise=0.3))
    assert parts_of(np.empty((0, 0), np.float32), speech, length=200.0) == [0.0, pytest.approx(99.75), 200.0]


def test_words_divide_what_looks_the_same() -> None:
    said = [utterance(5.0 * i, 5.0 * i + 4.5) for i in range(40)]
    speech = timed_sentences(said, things(20, 20, noise=0.3))
    [middle] = parts_of(things(200), speech)[1:-1]
    assert middle == pytest.approx(99.75, abs=1)


def test_a_change_of_the_picture_inside_a_sentence_waits_for_the_pause() -> None:
    """The pictures fade, rather sooner than later, while somebody ends a sentence."""
    pictures = things(30, 30, noise=0.0)
    faded = 0.45 * pictures[29] + 0.55 * pictures[31]
    pictures[30] = faded / np.linalg.norm(faded)
    assert parts_of(pictures)[1] == 29.5
    spoken = timed_sentences([utterance(20.0, 30.75), utterance(30.75, 40.0)], things(2, noise=0.0))
    assert parts_of(pictures, spoken)[1] == 30.5


def test_a_sentence_that_overlaps_another_begins_where_that_ends() -> None:
    track = timed_sentences([utterance(0, 4), utterance(3, 6), utterance(1, 2)], things(3))
    assert track.starts.tolist() == [0, 4, 6]
    assert track.ends.tolist() == [4, 6, 6]


def test_vectors_of_no_size_divide_nothing() -> None:
    """Without encoders, vectors have no dimensions."""
    speech = timed_sentences([utterance(30, 40), utterance(41, 50)], np.empty((2, 0), np.float32))
    assert parts_of(np.empty((100, 0), np.float32), speech) == [0.0, 100.0]


def test_integrals_agree_with_a_sum_over_small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boundaries, "BLOCK_PIECES", 3)
    track = TimedVectors(
        starts=np.array([1.0, 2.0, 4.0, 7.0, 8.0]), ends=np.array([2.0, 3.0, 5.5, 8.0, 9.0]), vectors=things(2, 3)
    )
    seconds = np.array([0.0, 1.5, 3.5, 5.0, 7.25, 20.0])
    sums, covered = integrals(track, seconds)
    step = 0.01
    middles = np.arange(0.0, 20.0, step) + step / 2
    for time, vector_sum, length in zip(seconds, sums, covered, strict=True):
        pieces = zip(track.starts, track.ends, strict=True)
        inside = [((start <= middles) & (middles < min(end, time))).sum() * step for start, end in pieces]
        np.testing.assert_allclose(length, sum(inside), atol=1e-6)
        np.testing.assert_allclose(vector_sum, np.array(inside) @ track.vectors, atol=1e-5)


def test_the_parts_are_those_of_least_cost() -> None:
    """Against trying every division of a short video."""
    pictures = things(12, 14, 11, noise=1.5)
    count = len(pictures)
    price = CONFIG.price(count)
    times = np.concatenate([[0.0], np.arange(1, count) - 0.5, [float(count)]])

    def cost(edges: tuple[int, ...]) -> float:
        total = 0.0
        for first, last in itertools.pairwise(edges):
            lengths = np.diff(times)[first:last]
            total += price + lengths.sum() - np.sum((lengths @ pictures[first:last].astype(float)) ** 2) / lengths.sum()
        return total

    divisions = [(0, count)] + [(0, a, count) for a in range(1, count)]
    divisions += [(0, a, b, count) for a in range(1, count) for b in range(a + 1, count)]
    allowed = [d for d in divisions if np.diff(times[list(d)]).min() >= CONFIG.min_seconds]
    assert parts_of(pictures) == times[list(min(allowed, key=cost))].tolist()


def test_no_part_is_longer_than_the_most_where_there_are_changes_to_divide_at() -> None:
    config = ChapterConfig(min_seconds=5.0, max_seconds=15.0, max_count=1000)
    span = TimeSpan(start_seconds=0.0, end_seconds=100.0)
    lengths = np.diff(find_parts(timed_pictures(frames(things(100)), span), NO_SPEECH, span, config))
    assert 5 <= lengths.min() <= lengths.max() <= 15
    still = timed_pictures(frames(things(40)), span)  # the last picture stands for a minute
    lengths = np.diff(find_parts(still, NO_SPEECH, span, config))
    assert lengths[:-1].max() <= 15
    assert 60 < lengths[-1] < 70


def test_many_candidates_are_thinned_to_the_strongest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boundaries, "MAX_CANDIDATES", 12)
    assert parts_of(things(50, 70)) == [0.0, 49.5, 120.0]
