"""Asks a library, here or on a server, questions whose answers are known, for `kinodex eval --queries`.

Each moment is searched for twice: in the whole library, and in the right video alone. The second search measures how
well a moment is found in its video, apart from how well the video is found. A question counts as rejected, which is
right for an absent event, if none of its answers in the whole library is at least WEAK. An answer is right if it
overlaps a right span of the right video, or is the right video where the question is about a whole one.

A question about a whole video is asked twice as well: of the whole library, and of the library without the right video,
where no answer is right. So half of these questions have no answer, as in the questions to which `kinodex calibrate`
fits confidences.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from serve.client.any_library import AnyLibrary
from serve.codec.requests import MAX_FILTER_NAME_COUNT
from serve.errors import QuestionsInvalid
from serve.evaluate.questions import CHANNELS, THINGS, Question, Questions, names_of
from serve.values import Filter, Moment, Query, Verdict, Video, VideoAnswer, VideoState, VideoStatus
from temporal.metrics import BEST_COUNT, Localised

VIDEO_COUNT = 100  # videos asked for in a search; a right video below this rank counts as not found
TIMELINE_SECONDS = 1e7  # between the starts of two videos on the timeline; longer than any video (116 days)
ALL = "all"  # the name under which the figures of all channels together stand

VideoKey = tuple[str, str]  # collection, video id


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedAnswer:
    """One answer of a reply, compared with the known answer."""

    answer: Moment | VideoAnswer
    is_right_video: bool
    is_right: bool  # of a moment: it overlaps a right span; of a whole video: it is the right one


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The reply to one question, as far as it is measured."""

    question: Question
    seconds: float  # from the question to the answer
    answers: tuple[JudgedAnswer, ...]  # from the whole library, best first
    rank: int | None = None  # of the right video, from 1; None: not found, or the question is not about a whole video
    everywhere: Localised | None = None  # moments only: answers from the whole library, as spans of the timeline
    inside: Localised | None = None  # moments only: answers from the right video, as spans of the timeline

    @property
    def first(self) -> JudgedAnswer | None:
        """The best answer; None: there is no answer."""
        return self.answers[0] if self.answers else None

    @property
    def confidence(self) -> float:
        """The highest confidence of the answers, 0..1; 0 without answers."""
        return max((each.answer.confidence for each in self.answers), default=0.0)

    @property
    def is_rejected(self) -> bool:
        """Whether there is no answer, or no answer is at least WEAK."""
        return all(each.answer.verdict is Verdict.NO_MATCH for each in self.answers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The replies to all questions."""

    videos: tuple[Reply, ...]
    moments: tuple[Reply, ...]
    absent: tuple[Reply, ...]
    missing: Mapping[str, int]  # file that the library lacks -> count of questions about it, which were not asked
    degraded_channels: tuple[str, ...]
    # To the questions about whole videos, asked without the right one, so absent. Empty for a library of more videos
    # than a filter can name.
    without: tuple[Reply, ...] = ()

    @property
    def replies(self) -> tuple[Reply, ...]:
        return self.videos + self.moments + self.absent

    @property
    def halves(self) -> tuple[str, ...]:
        """The names of the halves whose questions were asked."""
        return tuple(sorted({reply.question.half for reply in self.replies}))

    def of(self, half: str) -> "Measurement":
        """Return the replies to the questions of one half."""
        videos, moments, absent, without = (
            tuple(reply for reply in replies if reply.question.half == half)
            for replies in (self.videos, self.moments, self.absent, self.without)
        )
        return replace(self, videos=videos, moments=moments, absent=absent, without=without)


def measure(
    library: AnyLibrary, questions: Questions, on_done: Callable[[int, int], None] = lambda done, total: None
) -> Measurement:
    """Ask every question whose video the library holds.

    Args:
        on_done: Called with the count of questions asked so far, and the count of all.
    Raises:
        QuestionsInvalid: If no question can be asked, or several videos share the name of a file.
        ServerFailed: If a call to a server fails.
    """
    timeline = LibraryTimeline(library.videos(), questions.source)
    missing: dict[str, int] = defaultdict(int)
    answerable: list[Question] = []
    for question in (*questions.videos, *questions.moments, *questions.absent):
        if question.file is None or timeline.find(question.file) is not None:
            answerable.append(question)
        else:
            missing[question.file] += 1
    if not answerable:
        raise QuestionsInvalid(questions.source, "no question is about a video of this library")
    # Loads the encoders, so that the first question is not slower than the others.
    warm_up = library.moments(Query(text="anything at all", limit=1))
    replies: list[Reply] = []
    without: list[Reply] = []
    for done, question in enumerate(answerable):
        on_done(done, len(answerable))
        replies.append(ask_question(library, question, timeline))
        if question.file is not None and not question.spans:
            without += ask_without(library, question, timeline)
    on_done(len(answerable), len(answerable))
    return Measurement(
        videos=tuple(reply for reply in replies if reply.question.file is not None and not reply.question.spans),
        moments=tuple(reply for reply in replies if reply.question.spans),
        absent=tuple(reply for reply in replies if reply.question.file is None),
        missing=dict(missing),
        degraded_channels=warm_up.degraded_channels,
        without=tuple(without),
    )


class LibraryTimeline:
    """The videos of a library laid end to end on one line, so that spans of different videos can be compared."""

    def __init__(self, videos: Iterable[Video | VideoStatus], source: str) -> None:
        self._source = source
        self._starts: dict[VideoKey, float] = {}
        self._keys_by_name: dict[str, list[VideoKey]] = defaultdict(list)
        for video in videos:
            if isinstance(video, VideoStatus) and video.state is not VideoState.READY:
                continue
            key = (video.collection, video.video_id)
            self._starts[key] = len(self._starts) * TIMELINE_SECONDS
            for name in names_of(video):
                self._keys_by_name[name].append(key)

    def find(self, file: str) -> VideoKey | None:
        """Find a video by its id or the last part of its URI; None: the library lacks it.

        Raises:
            QuestionsInvalid: If several videos have that name.
        """
        keys = self._keys_by_name.get(file, [])
        if len(keys) > 1:
            raise QuestionsInvalid(self._source, f"{len(keys)} videos are named {file}: name them by their ids")
        return keys[0] if keys else None

    def others(self, key: VideoKey) -> tuple[str, ...]:
        """Return the ids of the videos whose id is another."""
        return tuple(dict.fromkeys(video_id for _, video_id in self._starts if video_id != key[1]))

    def spans(self, moments: Sequence[Moment]) -> NDArray[np.float64]:
        """Return start and end of each moment on the timeline: (N, 2). Videos added since are left out."""
        starts = [self._starts.get((moment.collection, moment.video_id)) for moment in moments]
        rows = [
            (start + moment.start_seconds, start + moment.end_seconds)
            for start, moment in zip(starts, moments, strict=True)
            if start is not None
        ]
        return np.array(rows, np.float64).reshape(-1, 2)

    def true_spans(self, question: Question) -> NDArray[np.float64]:
        """Return start and end of each right moment of a question on the timeline: (N, 2)."""
        assert question.file is not None
        key = self.find(question.file)
        assert key is not None
        return self._starts[key] + np.array([(span.start_seconds, span.end_seconds) for span in question.spans])


def ask_question(library: AnyLibrary, question: Question, timeline: LibraryTimeline) -> Reply:
    """Ask one question as a client would, in all channels."""
    if question.file is not None and not question.spans:
        return _ask_video(library, question, timeline)
    began = time.perf_counter()
    answer = library.moments(Query(text=question.text, limit=BEST_COUNT))
    seconds = time.perf_counter() - began
    if question.file is None:
        wrong = tuple(JudgedAnswer(answer=moment, is_right_video=False, is_right=False) for moment in answer.moments)
        return Reply(question=question, seconds=seconds, answers=wrong)
    key = timeline.find(question.file)
    assert key is not None
    right_video = Filter(collections=(key[0],), video_ids=(key[1],))
    answer_inside = library.moments(Query(text=question.text, limit=BEST_COUNT, filter=right_video))
    truth = timeline.true_spans(question)
    return Reply(
        question=question,
        seconds=seconds,
        answers=tuple(_judge_moment(moment, key, question) for moment in answer.moments),
        everywhere=Localised(predicted=timeline.spans(answer.moments), truth=truth),
        inside=Localised(predicted=timeline.spans(answer_inside.moments), truth=truth),
    )


def _judge_moment(moment: Moment, right: VideoKey, question: Question) -> JudgedAnswer:
    is_right_video = (moment.collection, moment.video_id) == right
    overlaps = any(
        moment.start_seconds < span.end_seconds and span.start_seconds < moment.end_seconds for span in question.spans
    )
    return JudgedAnswer(answer=moment, is_right_video=is_right_video, is_right=is_right_video and overlaps)


def _ask_video(library: AnyLibrary, question: Question, timeline: LibraryTimeline) -> Reply:
    assert question.file is not None
    began = time.perf_counter()
    answer = library.search(Query(text=question.text, limit=VIDEO_COUNT))
    seconds = time.perf_counter() - began
    right = timeline.find(question.file)
    is_right = [(video.collection, video.video_id) == right for video in answer.videos]
    return Reply(
        question=question,
        seconds=seconds,
        answers=tuple(
            JudgedAnswer(answer=video, is_right_video=right, is_right=right)
            for video, right in zip(answer.videos, is_right, strict=True)
        ),
        rank=is_right.index(True) + 1 if True in is_right else None,
    )


def ask_without(library: AnyLibrary, question: Question, timeline: LibraryTimeline) -> list[Reply]:
    """Ask for a whole video where it is not: of all other videos. Return no reply if a filter cannot name them."""
    assert question.file is not None
    key = timeline.find(question.file)
    assert key is not None
    others = timeline.others(key)
    if not 0 < len(others) <= MAX_FILTER_NAME_COUNT:
        return []
    began = time.perf_counter()
    answer = library.search(Query(text=question.text, limit=BEST_COUNT, filter=Filter(video_ids=others)))
    seconds = time.perf_counter() - began
    wrong = tuple(JudgedAnswer(answer=video, is_right_video=False, is_right=False) for video in answer.videos)
    return [Reply(question=replace(question, file=None), seconds=seconds, answers=wrong)]


def by_channel(replies: Sequence[Reply]) -> dict[str, list[Reply]]:
    """Group replies by channel: ALL first, then each channel that has a reply. Empty without replies."""
    groups = {ALL: list(replies)} if replies else {}
    return groups | _groups_of(replies, CHANNELS, lambda question: question.channel)


def by_thing(replies: Sequence[Reply]) -> dict[str, list[Reply]]:
    """Group replies by the kind of thing that their questions are about. Questions that do not say are left out."""
    return _groups_of(replies, THINGS, lambda question: question.thing)


def _groups_of(
    replies: Sequence[Reply], names: Sequence[str], name_of: Callable[[Question], str | None]
) -> dict[str, list[Reply]]:
    groups = {name: [reply for reply in replies if name_of(reply.question) == name] for name in names}
    return {name: group for name, group in groups.items() if group}
