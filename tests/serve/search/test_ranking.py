"""The fusion of channels: which span a moment has that is both seen and said."""

import pytest

from ingest.values import MediaInfo
from serve.search.intent import read_intent
from serve.search.ranking import Candidate, merge_channels, rank_by_score
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


def said(cosine: float, coverage: float) -> Candidate:
    passage = Passage(
        row=1, positions=(0,), span=SAID, text="", cosine=cosine, coverage=coverage, words=("[]",), terms=()
    )
    ranks = {"dense": 1, "lexical": 1} if coverage else {"dense": 1}
    return Candidate(video=VIDEO, span=SAID, passage=passage, ranks=ranks)


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
    [moment] = merge_channels([seen(confidence)], [said(cosine, coverage)], read_intent(question))
    assert moment.span == span
    assert moment.visual is not None
    assert moment.passage is not None


def test_a_sight_that_a_question_names_comes_before_words_about_it() -> None:
    elsewhere = said(0.9, 1.0)
    elsewhere.span = TimeSpan(start_seconds=40.0, end_seconds=44.0)
    intent = read_intent("when do you see the sun?")
    candidates = merge_channels([seen(0.0)], [elsewhere], intent)
    assert [moment.candidate.span for moment in rank_by_score(candidates, intent)] == [SEEN, elsewhere.span]
