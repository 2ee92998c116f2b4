"""Chapters: parts of a video with words and a picture of their own."""

import numpy as np
from numpy.typing import NDArray

from encoders.values import FrameEmbeddings, Utterance
from support.sample_answers import utterance
from temporal.chapters.boundaries import timed_pictures
from temporal.chapters.chapters import find_chapters, typical_frame
from temporal.config import ChapterConfig
from temporal.values import TimeSpan, VideoContent

SPAN = TimeSpan(start_seconds=0.0, end_seconds=60.0)
NOTHING_SAID = np.empty((0, 0), np.float32)


def frames(count: int = 60) -> FrameEmbeddings:
    """Return 60 s that show one thing and then another. The frames at 7 and 41 are the purest of their halves."""
    vectors = np.zeros((count, 4), np.float32)
    for second in range(count):
        vectors[second, second // 30] = 1
        vectors[second, 2] = 0 if second in (7, 41) else 0.3 * (-1) ** second
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return FrameEmbeddings(
        epochs=np.zeros(count, np.int32), pts_seconds=np.arange(count, dtype=np.float64), vectors=vectors
    )


def content(
    pictures: FrameEmbeddings, said: list[Utterance], sentences: NDArray[np.float32], span: TimeSpan
) -> VideoContent:
    return VideoContent(frames=pictures, utterances=said, sentences=sentences, span=span)


def test_each_chapter_has_its_words_and_its_picture() -> None:
    said = [utterance("the sea", 10, 14, timed=False), utterance("the mountain", 40, 44, timed=False)]
    first, second = find_chapters(content(frames(), said, np.eye(2, dtype=np.float32), SPAN), {"the"}, ChapterConfig())
    assert (first.span.start_seconds, first.span.end_seconds, first.title) == (0.0, 29.5, "sea")
    assert (second.span.start_seconds, second.span.end_seconds, second.title) == (29.5, 60.0, "mountain")
    assert (first.best_frame_seconds, second.best_frame_seconds) == (7.0, 41.0)


def test_the_picture_of_a_chapter_is_not_after_its_end() -> None:
    """The change to the last frame of the first half is placed before the half ends, and the frame itself after."""
    late = frames()
    late.pts_seconds[29] = 29.6
    for end in (29.4, 29.5):
        span = TimeSpan(start_seconds=0.0, end_seconds=60.0)
        best = typical_frame(late, timed_pictures(late, span), 28.95, end)
        assert best == 28.0


def test_a_video_without_words_has_chapters_without_titles() -> None:
    assert [each.title for each in find_chapters(content(frames(), [], NOTHING_SAID, SPAN), (), ChapterConfig())] == [
        "",
        "",
    ]


def test_a_video_without_pictures_has_none_in_its_chapter() -> None:
    said = [utterance("the sea", 10, 14, timed=False), utterance("the sea", 40, 44, timed=False)]
    [only] = find_chapters(content(frames(0), said, np.ones((2, 1), np.float32), SPAN), {"the"}, ChapterConfig())
    assert (only.span, only.title, only.best_frame_seconds) == (SPAN, "sea", None)


def test_a_video_without_anything_is_one_chapter() -> None:
    [only] = find_chapters(content(frames(0), [], NOTHING_SAID, SPAN), (), ChapterConfig())
    assert (only.span, only.title, only.best_frame_seconds) == (SPAN, "", None)


def test_a_chapter_may_show_a_picture_that_began_before_it() -> None:
    """Speech divides a slide that is stored once; both chapters show it."""
    slide = frames(1)
    said = [utterance("one", 6.0 * i, 6.0 * i + 4, timed=False) for i in range(40)]
    sentences = np.repeat(np.eye(2, dtype=np.float32), 20, axis=0)
    span = TimeSpan(start_seconds=0.0, end_seconds=240.0)
    found = find_chapters(content(slide, said, sentences, span), (), ChapterConfig())
    assert [each.best_frame_seconds for each in found] == [0.0, 0.0]
