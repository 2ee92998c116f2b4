"""The fusion of channels: which span a moment has that is both seen and said."""

from dataclasses import replace

import numpy as np
import pytest

from ingest.values import MediaInfo
from serve.search.intent import read_intent
from serve.search.occurrence import choose_occurrence
from serve.search.ranking import Candidate, merge_channels, rank_by_score, score_video
from serve.search.speech import Passage
from serve.values import Video
from temporal.values import ScoredSpan, TimeSpan

MEDIA = MediaInfo(
    container="mp4", duration_seconds=60.0, video_codec="h264", audio_codec="aac", width=320, height=180,
    rotation_degrees=0, frame_rate_fps=25.0,
)  # fmt: skip
VIDEO = Video(
    row=1, video_id="v", collection="default", uri="v.mp4", content_sha256="", media=MEDIA, duration_seconds=60.0,
    frame_count=60, segment_count=8, utterance_count=1, warnings=(), indexed_time=0.0,
)  # fmt: skip
SEEN, SAID = TimeSpan(start_seconds=10.0, end_seconds=20.0), TimeSpan(start_seconds=14.0, end_seconds=22.0)


def seen(confidence: float) -> Candidate:
    shown = ScoredSpan(span=SEEN, score=0.1, peak_seconds=12.0, peak=0.3)
    return Candidate(video=VIDEO, span=SEEN, visual=shown, visual_confidence=confidence, ranks={"visual": 1})


def make_spoken(cosine: float, coverage: float, sure: float = 0.0) -> Candidate:
    passage = Passage(
        row=1, positions=(0,), span=SAID, text="", cosine=cosine, coverage=coverage, words=("[]",), terms=(),
        vector=np.zeros(4, np.float32),
    )  # fmt: skip
    ranks = {"dense": 1, "lexical": 1} if coverage else {"dense": 1}
    return Candidate(video=VIDEO, span=SAID, passage=passage, spoken_confidence=sure, ranks=ranks)


@pytest.mark.parametrize(
    ("question", "confidence", "cosine", "coverage", "span"),
    [
        ("when do you see the sun?", 0.0, 0.9, 1.0, SEEN),  # a sight keeps its span however sure the words are
        ("when does she mention the sun?", 1.0, 0.9, 1.0, SAID),
        ("when does she mention the sun?", 0.1, 0.45, 0.0, SAID),
        ("a big orange sun", 0.0, 0.3, 0.2, SEEN),  # no channel named: neither is sure, and a look beats a guess
        ("a big orange sun", 0.0, 0.9, 1.0, SAID),
        ("a big orange sun", 1.0, 0.45, 0.0, SEEN),
    ],
)
def test_the_channel_that_weighs_more_gives_the_span(
    question: str, confidence: float, cosine: float, coverage: float, span: TimeSpan
) -> None:
    [moment] = merge_channels([seen(confidence)], [make_spoken(cosine, coverage)], read_intent(question))
    assert moment.span == span
    assert moment.visual is not None
    assert moment.passage is not None


def test_a_sight_that_a_question_names_comes_before_words_about_it() -> None:
    elsewhere = make_spoken(0.9, 1.0)
    elsewhere.span = TimeSpan(start_seconds=40.0, end_seconds=44.0)
    intent = read_intent("when do you see the sun?")
    candidates = merge_channels([seen(0.0)], [elsewhere], intent)
    assert [moment.candidate.span for moment in rank_by_score(candidates, intent)] == [SEEN, elsewhere.span]


@pytest.mark.parametrize(
    ("question", "starts"),
    [
        ("when does she mention the sun?", [30, 10, 50, 20]),
        ("the first time she mentions the sun", [10, 30, 50, 20]),
        ("the second time she mentions the sun", [30, 10, 50, 20]),
        ("the last time she mentions the sun", [50, 30, 10, 20]),
        ("the fourth time she mentions the sun", [30, 10, 50, 20]),  # she does so three times
    ],
)
def test_an_occurrence_is_chosen_by_time_among_good_moments(question: str, starts: list[int]) -> None:
    candidates = []
    for rank, (start, cosine, coverage) in enumerate([(30, 0.8, 1), (10, 0.7, 1), (50, 0.6, 1), (20, 0.5, 0)], 1):
        candidate = make_spoken(cosine, coverage)
        candidate.span = TimeSpan(start_seconds=start, end_seconds=start + 4)
        candidate.ranks = {"dense": rank}
        candidates.append(candidate)
    intent = read_intent(question)
    ranked = choose_occurrence(rank_by_score(candidates, intent), intent)
    assert [moment.candidate.span.start_seconds for moment in ranked] == starts
    assert [moment.score for moment in ranked] == sorted((moment.score for moment in ranked), reverse=True)


def test_a_sight_is_counted_where_it_stands_out_as_much() -> None:
    candidates = []
    for rank, (start, score) in enumerate([(30, 0.10), (10, 0.08), (50, 0.02)], 1):
        span = TimeSpan(start_seconds=start, end_seconds=start + 4)
        shown = ScoredSpan(span=span, score=score, peak_seconds=start, peak=0.3)
        candidates.append(Candidate(video=VIDEO, span=span, visual=shown, ranks={"visual": rank}))
    for question, first in (("the first time we see the sun", 10), ("the last time we see the sun", 30)):
        intent = read_intent(question)
        ranked = choose_occurrence(rank_by_score(candidates, intent), intent)
        assert ranked[0].candidate.span.start_seconds == first


def test_the_confidence_of_words_is_that_of_their_channel_by_the_weight_of_the_question() -> None:
    near = replace(make_spoken(0.9, 1.0), spoken_confidence=0.8)
    for question, expected in (("a big orange sun", 0.8), ("when do you see the sun?", 0.8 * 0.15 / 0.85)):
        intent = read_intent(question)
        [moment] = rank_by_score([near], intent)
        assert moment.confidence == pytest.approx(expected)
        assert score_video([near], None, 0.0, intent)[1] == pytest.approx(expected)


def test_a_surer_answer_comes_first() -> None:
    """A WEAK 49 % stood above a MATCH 98 %: its cosine was trusted more than its confidence said."""
    intent = read_intent("a big orange sun")
    near, sure = make_spoken(0.9, 1.0, sure=0.49), make_spoken(0.5, 0.0, sure=0.98)
    near.ranks, sure.ranks = {"dense": 1, "lexical": 1}, {"dense": 2}
    assert [moment.confidence for moment in rank_by_score([near, sure], intent)] == [0.98, 0.49]
    videos = [score_video([each], None, 0.0, intent) for each in (near, sure)]
    assert sorted(videos, reverse=True) == [videos[1], videos[0]]


def test_the_ranks_decide_among_answers_that_are_as_sure() -> None:
    intent = read_intent("a big orange sun")
    first, second = make_spoken(0.9, 1.0, sure=0.49), make_spoken(0.8, 0.0, sure=0.5)
    second.ranks = {"dense": 2}
    assert [moment.candidate for moment in rank_by_score([second, first], intent)] == [first, second]
