"""The evidence for an answer, and its confidence."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from encoders.calibration import GENERIC, Scale, weigh_own
from serve.search.evidence import (
    MAX_VIDEO_COUNT,
    MAX_Z,
    VisualQuery,
    WeighedVideo,
    evidence_of,
    judge_videos,
    lead_over_others,
    z_scores,
)
from serve.search.traits import CaptionBank
from support.fakes import ColourEncoder, unit
from support.sample_answers import video
from temporal.values import ScoredSpan, TimeSpan

CALIBRATION = replace(
    GENERIC,
    video=weigh_own(half_at=2, slope=2),
    moment=weigh_own(half_at=2, slope=2),
    picture=Scale(no_match_below=0.7, match_above=0.9),
)


class RandomTexts(ColourEncoder):
    """Embeds each text as a fixed random direction of 8 numbers."""

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return unit(np.stack([np.random.default_rng(len(text)).normal(size=8) for text in texts]))


CAPTIONS = CaptionBank(RandomTexts(), CALIBRATION)
TEXT = unit(np.arange(1.0, 9.0)[None])[0]


def weighed(
    z: float,
    own: Sequence[float] = (),
    likeness: Sequence[float] | None = None,
    pictures: NDArray[np.float32] | None = None,
    **other: Any,
) -> WeighedVideo:
    """Moments look unlike all others unless `pictures`, (M, 8), says what they look like."""
    moments = tuple(
        ScoredSpan(span=TimeSpan(start_seconds=n, end_seconds=n + 1), score=0.1, peak_seconds=float(n), peak=0.1)
        for n in range(len(own))
    )
    values = {"video": video(), "score": 0.1, "moment_score": 0.1, "frame_count": 10, **other}
    if pictures is None:
        pictures = np.zeros((len(own), 8), np.float32)
    alike = tuple(likeness or [0.0] * len(own))
    return WeighedVideo(z=z, moments=moments, own=tuple(own), likeness=alike, pictures=pictures, **values)


def test_a_z_score_does_not_depend_on_how_many_frames_were_added_up() -> None:
    frames = np.random.default_rng(1).normal(size=(6, 8)).astype(np.float32)
    once, often = z_scores(np.stack([frames.sum(axis=0), 50 * frames.sum(axis=0)]), TEXT, CAPTIONS)
    assert once == pytest.approx(often, abs=1e-4)


def test_a_z_score_compares_the_text_with_captions_on_the_same_picture() -> None:
    picture = np.random.default_rng(2).normal(size=(1, 8)).astype(np.float32)
    generic = (CAPTIONS.vectors - CAPTIONS.bias) @ picture[0]
    expected = ((TEXT - CAPTIONS.bias) @ picture[0] - generic.mean()) / generic.std()
    assert z_scores(picture, TEXT, CAPTIONS) == pytest.approx([float(expected)], abs=1e-4)


def test_the_margin_is_to_the_best_other_video() -> None:
    found = evidence_of([weighed(1.0), weighed(3.0), weighed(2.5)], 0.1, 3)
    assert [whole.margin for whole, _ in found] == [-2.0, 0.5, -0.5]


def test_two_equal_videos_have_no_margin() -> None:
    found = [whole for whole, _ in evidence_of([weighed(2.0), weighed(2.0)], 0.1, 2)]
    assert [(whole.margin, whole.lead) for whole in found] == [(0.0, 0.0), (0.0, 0.0)]


def test_the_lead_is_to_the_best_other_answer_of_its_kind() -> None:
    videos = [weighed(1.0, own=[0.0], score=0.5, moment_score=0.3), weighed(9.0, own=[0.0, 0.0], score=0.2)]
    (first, [alone]), (second, twins) = evidence_of(videos, 0.1, 2)
    assert [first.lead, second.lead] == pytest.approx([0.3, -0.3])
    assert [alone.lead, *(each.lead for each in twins)] == pytest.approx([0.2, -0.2, -0.2])


def test_the_lead_over_others() -> None:
    def leads(values: list[float], *vectors: list[float]) -> list[float | None]:
        return lead_over_others(values, np.array(vectors or [[0.0]] * len(values), np.float32), 0.95)

    assert leads([]) == []
    assert leads([3.0]) == [None]
    assert leads([1.0, 4.0, 2.0]) == [-3.0, 2.0, -2.0]
    assert leads([4.0, 4.0, 2.0]) == [0.0, 0.0, -2.0]
    x, y, near_x = [1.0, 0.0], [0.0, 1.0], [0.96, 0.28]
    assert leads([4.0, 3.5, 2.0], x, near_x, y) == [2.0, 1.5, -2.0]
    assert leads([4.0, 3.5], x, x) == [None, None]


def pictures_of(*moments: int) -> NDArray[np.float32]:
    """Moments of equal numbers look alike."""
    return np.eye(8, dtype=np.float32)[list(moments)]


def test_a_copy_takes_no_confidence_from_an_answer() -> None:
    first = weighed(3.0, own=[4.0, 1.0], score=0.5, moment_score=0.4, pictures=pictures_of(0, 1))
    other = weighed(1.0, own=[0.0], score=0.2, pictures=pictures_of(2))
    alone = evidence_of([first, other], 0.1, 2)
    for copies in (2, 5):
        assert evidence_of([*[first] * copies, other], 0.1, 2) == [*[alone[0]] * copies, alone[1]]


def test_a_library_of_copies_is_a_film_alone() -> None:
    film = weighed(3.0, own=[2.0], pictures=pictures_of(0))
    assert evidence_of([film, film], 0.1, 1) == evidence_of([film], 0.1, 1) * 2


def test_a_scene_that_returns_is_as_sure_as_a_scene_shown_once() -> None:
    returning = weighed(3.0, own=[2.0, 1.9, 0.0], pictures=pictures_of(0, 0, 1))
    once = weighed(3.0, own=[2.0, 0.0], pictures=pictures_of(0, 1))
    ((_, both),), ((_, single),) = evidence_of([returning], 0.1, 1), evidence_of([once], 0.1, 1)
    assert [both[0], both[2]] == single
    assert both[1].lead == both[0].lead


def test_a_video_alone_has_no_margin_and_says_so() -> None:
    ((whole, _),) = evidence_of([weighed(3.0)], 0.1, 1)
    assert (whole.margin, whole.is_alone, whole.log_videos) == (0.0, 1.0, 0.0)


def test_each_moment_has_its_own_z_score_and_the_video_that_of_the_best() -> None:
    ((whole, parts),) = evidence_of([weighed(2.0, own=[0.5, 1.5])], 0.1, 1)
    assert [part.own for part in parts] == [0.5, 1.5]
    assert whole.own == 1.5


def test_extreme_scores_and_large_libraries_say_no_more() -> None:
    (whole, _), _ = evidence_of([weighed(1e5), weighed(-1e5)], 0.1, 10_000)
    assert (whole.video, whole.margin) == (MAX_Z, MAX_Z)
    assert whole.log_videos == pytest.approx(np.log(MAX_VIDEO_COUNT))


def test_moments_of_one_video_are_judged_apart() -> None:
    (scored,) = judge_videos([weighed(3.0, own=[4.0, 0.0])], VisualQuery.of_text(TEXT), 1, CAPTIONS, CALIBRATION)
    assert scored.confidences[0] > 0.9
    assert scored.confidences[1] < 0.1
    assert scored.confidence > 0.9


def test_a_picture_is_judged_by_its_cosine_alone() -> None:
    query = VisualQuery(vector=TEXT, picture=TEXT, picture_share=1.0)
    (scored,) = judge_videos([weighed(9.0, own=[0.0, 0.0], likeness=[0.9, 0.7])], query, 1, CAPTIONS, CALIBRATION)
    assert scored.confidences == pytest.approx([0.7, 0.3])
    assert scored.confidence == pytest.approx(0.7)


def test_the_confidences_of_a_text_and_a_picture_are_mixed() -> None:
    query = VisualQuery(vector=TEXT, text=TEXT, picture=TEXT, picture_share=0.25)
    (scored,) = judge_videos([weighed(0.0, own=[2.0], likeness=[0.9])], query, 1, CAPTIONS, CALIBRATION)
    assert scored.confidences == pytest.approx([0.25 * 0.7 + 0.75 * 0.5])


def test_a_video_without_moments_is_judged_by_its_best_frames() -> None:
    (scored,) = judge_videos([weighed(2.0)], VisualQuery.of_text(TEXT), 1, CAPTIONS, CALIBRATION)
    assert (scored.confidence, scored.confidences) == (pytest.approx(0.5), ())
