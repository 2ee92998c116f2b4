"""Curves and moments, on curves whose truth is known because it was planted."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from temporal.config import MomentConfig
from temporal.moments.moments import Scores, debias, find_all_moments, find_moments, per_second, suppress, tiou
from temporal.moments.shots import NO_CHANGES, Changes
from temporal.values import ScoredSpan, TimeSpan

CONFIG = MomentConfig()


def span(start_seconds: float, end_seconds: float) -> TimeSpan:
    return TimeSpan(start_seconds=start_seconds, end_seconds=end_seconds)


def planted(length: int, start: int, end: int, seed: int = 0, noise: float = 0.01) -> NDArray[np.float32]:
    """0.2 with noise, and a moment 0.05 higher."""
    curve = 0.2 + noise * np.random.default_rng(seed).standard_normal(length)
    curve[start:end] += 0.05
    return curve.astype(np.float32)


def cut_at(seconds: Sequence[float]) -> Changes:
    """A cut at each of some times, the earlier the stronger."""
    count = len(seconds)
    return Changes(
        seconds=np.array(seconds, np.float64),
        strengths=np.linspace(1.0, 0.5, count, dtype=np.float32),
        is_cut=np.ones(count, np.bool_),
    )


def moments(curve: NDArray[np.float32], cuts: list[float] | None = None) -> list[ScoredSpan]:
    return find_moments(
        np.arange(len(curve), dtype=np.float64),
        curve,
        duration_seconds=float(len(curve)),
        changes=cut_at(cuts or []),
        config=CONFIG,
    )


@pytest.mark.parametrize(
    ("moment", "video", "least"),
    [(5, 30, 0.6), (5, 150, 0.6), (5, 3600, 0.6), (20, 150, 0.8), (20, 3600, 0.8), (60, 150, 0.8), (60, 3600, 0.8)],
)
def test_finds_a_planted_moment_at_every_length(moment: int, video: int, least: float) -> None:
    start = video // 3
    truth = span(start, start + moment)
    overlaps = [tiou(moments(planted(video, start, start + moment, seed))[0].span, truth) for seed in range(5)]
    assert np.mean(overlaps) >= least


@pytest.mark.parametrize("seconds", [40, 500, 3000, 80_000])
@pytest.mark.parametrize("after", [0, 30])
def test_a_moment_lasts_as_long_as_its_picture_stands(seconds: int, after: int) -> None:
    """A slide in a lecture: pictures of one a second before it, and perhaps after it."""
    pts = np.concatenate([np.arange(31), 30 + seconds + np.arange(after)]).astype(np.float64)
    scores = planted(len(pts), 30, 31, noise=0.002)
    found = find_moments(pts, scores, duration_seconds=30.0 + seconds + after, changes=NO_CHANGES, config=CONFIG)[0]
    assert found.span.start_seconds == pytest.approx(30, abs=1.0)
    assert found.span.end_seconds == pytest.approx(30 + seconds, abs=1.0)
    assert found.peak_seconds == 30.0


def test_slides_that_stand_are_told_apart() -> None:
    pts = np.arange(0.0, 1200.0, 120.0)
    scores = planted(len(pts), 4, 5, noise=0.002)
    found = find_moments(pts, scores, duration_seconds=1200.0, changes=NO_CHANGES, config=CONFIG)[0]
    assert (found.span.start_seconds, found.span.end_seconds) == pytest.approx((480, 600), abs=1.0)


@pytest.mark.parametrize(("start", "end"), [(0, 8), (42, 50)])
def test_finds_a_moment_at_either_end(start: int, end: int) -> None:
    assert tiou(moments(planted(50, start, end, noise=0.003))[0].span, span(start, end)) >= 0.7


def test_finds_both_of_two_moments() -> None:
    curve = planted(200, 30, 45, noise=0.003)
    curve[120:140] += 0.05
    found = moments(curve)[:2]
    assert sorted(round(m.span.start_seconds / 10) for m in found) == [3, 12]


def test_finds_a_second_occurrence_far_away_in_an_hour() -> None:
    curve = planted(3600, 300, 320, noise=0.003)
    curve[3000:3020] += 0.045
    best = moments(curve)[:2]
    assert [tiou(best[0].span, span(300, 320)) > 0.7, tiou(best[1].span, span(3000, 3020)) > 0.7] == [True] * 2


def test_answers_on_ten_hours_as_on_one() -> None:
    day = planted(36_000, 20_000, 20_020, noise=0.005)
    hour = day[18_200:21_800]
    best, best_of_hour = moments(day)[0], moments(hour)[0]
    assert best.span.start_seconds - 18_200 == best_of_hour.span.start_seconds
    assert best.span.end_seconds - 18_200 == best_of_hour.span.end_seconds
    assert best.score == pytest.approx(best_of_hour.score)


def test_a_single_outlier_does_not_win_over_a_moment() -> None:
    curve = planted(300, 100, 120)
    curve[250] += 0.1
    assert tiou(moments(curve)[0].span, span(100, 120)) > 0.7


@pytest.mark.parametrize("value", [0.0, 0.2, -1.0])
def test_has_no_moment_on_a_constant_curve(value: float) -> None:
    assert moments(np.full(100, value, dtype=np.float32)) == []


@pytest.mark.parametrize("length", [60, 600, 3600])
def test_gives_few_moments_where_nothing_stands_out(length: int) -> None:
    noise = (0.02 * np.random.default_rng(3).standard_normal(length)).astype(np.float32)
    assert len(moments(noise)) <= 4


def test_has_no_moment_without_frames() -> None:
    nothing = np.empty(0, dtype=np.float32)
    assert find_moments(np.empty(0), nothing, duration_seconds=5.0, config=CONFIG) == []


@pytest.mark.parametrize("duration", [0.0, 0.04, 30.0])
def test_has_no_moment_of_one_frame(duration: float) -> None:
    one = np.array([0.3], dtype=np.float32)
    assert find_moments(np.zeros(1), one, duration_seconds=duration, config=CONFIG) == []


@pytest.mark.parametrize(
    ("pts", "values", "epochs", "duration"),
    [
        ([0.0, 1.0], [0.1, np.nan], [0, 0], 2.0),
        ([0.0, 1.0], [0.1, np.inf], [0, 0], 2.0),
        ([0.0, np.nan], [0.1, 0.1], [0, 0], 2.0),
        ([1.0, 1.0], [0.1, 0.1], [0, 0], 2.0),
        ([-1.0, 1.0], [0.1, 0.1], [0, 0], 2.0),
        ([0.0, 1.0], [0.1, 0.1], [1, 0], 2.0),
        ([0.0, 3.0], [0.1, 0.1], [0, 0], 2.0),
        ([0.0, 1.0], [0.1, 0.1], [0, 0], np.nan),
        ([0.0, 1.0], [0.1], [0, 0], 2.0),
    ],
)
def test_refuses_curves_that_are_not_one(
    pts: list[float], values: list[float], epochs: list[int], duration: float
) -> None:
    with pytest.raises(ValueError, match=r"times|duration_seconds"):
        find_moments(
            np.array(pts),
            np.array(values, dtype=np.float32),
            epochs=np.array(epochs, dtype=np.int32),
            duration_seconds=duration,
            config=CONFIG,
        )


def test_shows_a_frame_until_the_next_one() -> None:
    pts, values = np.array([0.0, 1.0, 6.0]), np.array([1, 2, 3], dtype=np.float32)
    curve = per_second(pts, values, duration_seconds=8.0)
    np.testing.assert_array_equal(curve.values, [1, 2, 2, 2, 2, 2, 3, 3])
    np.testing.assert_array_equal(curve.times, np.arange(8.0))
    np.testing.assert_array_equal(curve.ends, np.arange(1.0, 9.0))


def test_begins_the_seconds_anew_with_each_epoch() -> None:
    curve = per_second(
        np.array([0.0, 1.0, 2.3, 3.3]),
        np.array([1, 2, 3, 4], dtype=np.float32),
        epochs=np.array([0, 0, 1, 1], dtype=np.int32),
        duration_seconds=4.5,
    )
    np.testing.assert_allclose(curve.times, [0.0, 1.0, 2.3, 3.3])
    np.testing.assert_allclose(curve.ends, [1.0, 2.3, 3.3, 4.5])
    np.testing.assert_array_equal(curve.values, [1, 2, 3, 4])
    np.testing.assert_array_equal(curve.epochs, [0, 0, 1, 1])


def test_a_still_picture_counts_for_as_long_as_it_is_shown() -> None:
    pts = np.concatenate([np.arange(20.0), [20.0], np.arange(50.0, 70.0)])
    values = np.where(pts == 20.0, 0.3, 0.2).astype(np.float32)
    best = find_moments(pts, values, duration_seconds=70.0, config=CONFIG)[0]
    assert tiou(best.span, span(20, 50)) > 0.9
    assert (best.peak_seconds, best.peak) == (20.0, pytest.approx(0.3))


def test_edges_follow_frames_sampled_off_the_second() -> None:
    pts = np.arange(60.0)
    pts[20], pts[30] = 20.3, 29.8
    values = np.where((pts >= 20.3) & (pts < 29.8), 0.3, 0.2).astype(np.float32)
    best = find_moments(pts, values, duration_seconds=60.0, config=CONFIG)[0]
    assert best.span == span(20.3, 29.8)


def test_snaps_edges_to_cuts_close_by_only() -> None:
    curve = planted(60, 20, 30, noise=0.0)
    assert moments(curve, cuts=[19.5, 31.0, 40.0])[0].span == span(19.5, 31.0)
    assert moments(curve, cuts=[18.0, 32.0])[0].span == span(20.0, 30.0)


def test_a_shot_is_a_moment_to_its_edges() -> None:
    """A curve that rises in every third second of a shot, or not: its pictures say where it ends."""
    curve = planted(60, 0, 0, noise=0.005)
    curve[20:36] += 0.02
    curve[21:36:3] += 0.06
    assert moments(curve)[0].span != span(20.2, 35.8)
    assert moments(curve, cuts=[20.2, 35.8])[0].span == span(20.2, 35.8)


def test_a_moment_may_be_of_several_shots_or_of_a_part_of_one() -> None:
    curve = planted(60, 20, 32, noise=0.0)
    strengths = np.zeros(59, np.float32)
    strengths[[19, 23, 31]] = 0.9, 0.3, 0.8  # the one at 24 s is inside the moment
    changes = Changes(seconds=np.arange(59) + 0.5, strengths=strengths, is_cut=strengths > 0.5)
    found = find_moments(np.arange(60.0), curve, duration_seconds=60.0, changes=changes, config=CONFIG)
    assert found[0].span == span(19.5, 31.5)


def test_never_snaps_a_short_moment_to_nothing() -> None:
    curve = planted(30, 10, 11, noise=0.0)
    for cuts in ([10.5], [10.4, 10.6], [9.4, 11.6]):
        best = moments(curve, cuts=cuts)[0].span
        assert best.start_seconds < best.end_seconds
        assert best.start_seconds <= 10.5 <= best.end_seconds


def test_moments_do_not_cross_epochs() -> None:
    curve = planted(60, 20, 40, noise=0.0)
    found = find_moments(
        np.arange(60.0),
        curve,
        epochs=np.repeat(np.array([0, 1], dtype=np.int32), 30),
        duration_seconds=60.0,
        changes=cut_at([30.8]),
        config=CONFIG,
    )
    assert sorted((m.span.start_seconds, m.span.end_seconds) for m in found[:2]) == [(20.0, 30.0), (30.0, 40.0)]
    assert all(m.span.end_seconds <= 30 or m.span.start_seconds >= 30 for m in found)


def drawn(seed: int, most: int) -> Scores:
    """A curve of 2 to `most` frames at uneven times, in up to three epochs."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, most))
    pts = np.cumsum(rng.uniform(0.05, 3.0, size=count)) - 0.05
    duration = float(pts[-1] + rng.uniform(0.0, 2.0))
    return Scores(
        pts_seconds=pts,
        scores=np.repeat(rng.standard_normal(count // 7 + 1), 7)[:count].astype(np.float32),
        epochs=np.sort(rng.integers(0, 3, size=count)).astype(np.int32),
        duration_seconds=duration,
        changes=cut_at(np.sort(rng.uniform(0.0, duration, size=count // 5)).tolist()),
    )


def test_moments_of_many_videos_are_those_of_each() -> None:
    flat = Scores(
        pts_seconds=np.arange(30.0), scores=np.ones(30, np.float32), epochs=None, duration_seconds=30.0,
        changes=NO_CHANGES,
    )  # fmt: skip
    videos = [*(drawn(seed, most) for seed, most in enumerate([3, 40, 400, 2000, 40, 3])), flat, drawn(9, 700)]
    together = find_all_moments(videos, CONFIG)
    assert together == [find_all_moments([video], CONFIG)[0] for video in videos]
    assert [len(found) > 0 for found in together[2:4]] == [True, True]
    assert together[-2] == []
    assert find_all_moments([], CONFIG) == []


@pytest.mark.parametrize("seed", range(12))
def test_answers_are_spans_of_one_epoch_in_order_of_score(seed: int) -> None:
    video = drawn(seed, 400)
    pts, values, epochs, duration = video.pts_seconds, video.scores, video.epochs, video.duration_seconds
    assert epochs is not None
    (found,) = find_all_moments([video], CONFIG)
    assert len(found) <= CONFIG.max_moments
    assert [m.score for m in found] == sorted((m.score for m in found), reverse=True)
    starts = {int(epoch): pts[epochs == epoch][0] for epoch in np.unique(epochs)}
    ends = dict(zip(starts, [*list(starts.values())[1:], duration], strict=True))
    for moment in found:
        begin, end = moment.span.start_seconds, moment.span.end_seconds
        assert 0 <= begin < end <= duration
        assert begin <= moment.peak_seconds < end
        assert sum(starts[epoch] <= begin and end <= ends[epoch] for epoch in starts) == 1
        assert moment.peak in values
    for one in range(len(found)):
        for other in range(one):
            assert tiou(found[one].span, found[other].span) < CONFIG.tiou_threshold


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 10), (0, 10), 1.0),
        ((0, 10), (5, 15), 1 / 3),
        ((0, 10), (10, 20), 0.0),
        ((0, 10), (2, 4), 0.2),
        ((3, 3), (3, 3), 0.0),
    ],
)
def test_measures_overlap_over_union(a: tuple[float, float], b: tuple[float, float], expected: float) -> None:
    assert tiou(span(*a), span(*b)) == pytest.approx(expected)
    assert tiou(span(*b), span(*a)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("spans", "kept"),
    [
        ([], []),
        ([(0, 10, 1.0), (20, 30, 2.0)], [(20, 30), (0, 10)]),
        ([(0, 10, 1.0), (2, 12, 0.9)], [(0, 10)]),
        ([(0, 10, 1.0), (7, 17, 0.9)], [(0, 10), (7, 17)]),
        ([(0, 100, 1.0), (40, 50, 0.95)], [(40, 50)]),  # inner, nearly as good: the tighter answer
        ([(0, 100, 1.0), (40, 50, 0.85)], [(0, 100)]),
        ([(0, 100, 0.9), (40, 50, 1.0)], [(40, 50)]),
        ([(0, 100, 1.0), (10, 30, 0.95), (60, 80, 0.92)], [(10, 30), (60, 80)]),
        ([(0, 100, 1.0), (10, 95, 0.99)], [(0, 100)]),  # nearly the same span: no shaving of edges
        ([(0, 100, 1.0), (30, 70, 0.92), (40, 55, 0.84)], [(30, 70)]),  # small steps do not add up
    ],
)
def test_keeps_one_span_a_moment(spans: list[tuple[float, float, float]], kept: list[tuple[float, float]]) -> None:
    table = np.array(spans[::-1], np.float64).reshape(-1, 3)
    best = suppress(*table.T, tiou_threshold=0.5, containment=0.9)
    assert [tuple(table[place, :2]) for place in best] == kept


def test_debiasing_takes_out_hubs_and_the_level() -> None:
    query = np.array([0.2, 0.2, 0.4, 0.3], dtype=np.float32)
    bank = np.array([[0.1, 0.1], [0.1, 0.1], [0.4, 0.2], [0.1, 0.1]], dtype=np.float32)
    specific = debias(query, bank)
    np.testing.assert_allclose(specific, [0.0, 0.0, 0.0, 0.1], atol=1e-6)
    np.testing.assert_allclose(debias(query, bank.mean(axis=1, keepdims=True)), specific, atol=1e-6)
    assert len(debias(query[:0], bank[:0])) == 0


@pytest.mark.parametrize("shape", [(3, 2), (4,), (4, 0)])
def test_debiasing_refuses_another_bank(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="bank_similarities"):
        debias(np.zeros(4, dtype=np.float32), np.zeros(shape, dtype=np.float32))


@pytest.mark.parametrize(
    "settings",
    [
        {"smoothing_seconds": ()},
        {"smoothing_seconds": (0.0,)},
        {"snap_seconds": -1.0},
        {"ring_share": 1.5},
        {"tiou_threshold": 0.0},
        {"containment_share": 1.5},
        {"locality_seconds": 0.0},
        {"max_moments": 0},
    ],
)
def test_refuses_settings_that_make_no_sense(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        MomentConfig(**settings)
