"""Asks a library, here or on a server, questions whose answers are known, for `kinodex eval --queries`.

Each moment is searched for twice: in the whole library, and in the right video alone. The second search measures how
well a moment is found in its video, apart from how well the video is found. A question counts as rejected, which is
right for an absent event, if none of its answers in the whole library is at least WEAK.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve.client.any_library import AnyLibrary
from serve.errors import QuestionsInvalid
from serve.evaluate.questions import CHANNELS, Question, Questions, names_of
from serve.values import Filter, Moment, Query, Verdict, Video, VideoState, VideoStatus
from temporal.metrics import (
    BEST_COUNT,
    Localisation,
    Localised,
    measure_by_length,
    measure_localisation,
    measure_rejection,
    median_rank,
    ndcg,
    recall_at,
)

VIDEO_COUNT = 100  # videos asked for in a search; a right video below this rank counts as not found
TIMELINE_SECONDS = 1e7  # between the starts of two videos on the timeline; longer than any video (116 days)
ALL = "all"  # the name under which the figures of all channels together stand

VideoKey = tuple[str, str]  # collection, video id


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The reply to one question, as far as it is measured."""

    question: Question
    seconds: float  # from the question to the answer
    confidence: float  # highest confidence of the answers, 0..1; 0 without answers
    is_rejected: bool  # whether there is no answer, or no answer is at least WEAK
    rank: int | None = None  # of the right video, from 1; None: not found, or the question is not about a whole video
    everywhere: Localised | None = None  # moments only: answers from the whole library, as spans of the timeline
    inside: Localised | None = None  # moments only: answers from the right video, as spans of the timeline


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The replies to all questions."""

    videos: tuple[Reply, ...]
    moments: tuple[Reply, ...]
    absent: tuple[Reply, ...]
    missing: Mapping[str, int]  # file that the library lacks -> count of questions about it, which were not asked
    degraded_channels: tuple[str, ...]

    @property
    def replies(self) -> tuple[Reply, ...]:
        return self.videos + self.moments + self.absent


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
    replies = []
    for done, question in enumerate(answerable):
        on_done(done, len(answerable))
        replies.append(ask_question(library, question, timeline))
    on_done(len(answerable), len(answerable))
    return Measurement(
        videos=tuple(reply for reply in replies if reply.question.file is not None and not reply.question.spans),
        moments=tuple(reply for reply in replies if reply.question.spans),
        absent=tuple(reply for reply in replies if reply.question.file is None),
        missing=dict(missing),
        degraded_channels=warm_up.degraded_channels,
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
    everywhere = inside = None
    if question.file is not None:
        key = timeline.find(question.file)
        assert key is not None
        right_video = Filter(collections=(key[0],), video_ids=(key[1],))
        answer_inside = library.moments(Query(text=question.text, limit=BEST_COUNT, filter=right_video))
        truth = timeline.true_spans(question)
        everywhere = Localised(predicted=timeline.spans(answer.moments), truth=truth)
        inside = Localised(predicted=timeline.spans(answer_inside.moments), truth=truth)
    return Reply(
        question=question,
        seconds=seconds,
        confidence=max((moment.confidence for moment in answer.moments), default=0.0),
        is_rejected=all(moment.verdict is Verdict.NO_MATCH for moment in answer.moments),
        everywhere=everywhere,
        inside=inside,
    )


def _ask_video(library: AnyLibrary, question: Question, timeline: LibraryTimeline) -> Reply:
    assert question.file is not None
    began = time.perf_counter()
    answer = library.search(Query(text=question.text, limit=VIDEO_COUNT))
    seconds = time.perf_counter() - began
    keys = [(video.collection, video.video_id) for video in answer.videos]
    right = timeline.find(question.file)
    return Reply(
        question=question,
        seconds=seconds,
        confidence=max((video.confidence for video in answer.videos), default=0.0),
        is_rejected=all(video.verdict is Verdict.NO_MATCH for video in answer.videos),
        rank=keys.index(right) + 1 if right in keys else None,
    )


def query_figures(measurement: Measurement) -> dict[str, Any]:
    """Return the figures that `--json` prints: shares in per cent with two decimals, times in seconds."""
    seconds = [reply.seconds for reply in measurement.replies]
    figures: dict[str, Any] = {"moments": {}, "rejection": {}}
    for channel, replies in by_channel(measurement.moments).items():
        figures["moments"][channel] = {
            "library": _localisation_figures([reply.everywhere for reply in replies if reply.everywhere is not None]),
            "video": _localisation_figures([reply.inside for reply in replies if reply.inside is not None]),
        }
    ranks = [reply.rank for reply in measurement.videos]
    figures["videos"] = {
        "n": len(ranks),
        **{f"R@{k}": _percent(recall_at(ranks, k)) for k in (1, 5, 10)},
        "median-rank": None if not ranks or np.isinf(median_rank(ranks)) else median_rank(ranks),
        "nDCG@10": _percent(float(np.mean([_gain(rank) for rank in ranks])) if ranks else 0.0),
    }
    for channel, replies in by_channel(measurement.absent).items():
        present = by_channel(measurement.moments).get(channel, [])
        scores = measure_rejection(
            [False] * len(present) + [True] * len(replies), [reply.is_rejected for reply in (*present, *replies)]
        )
        figures["rejection"][channel] = {
            "n": scores.absent_count,
            "present": len(present),
            "precision": _percent(scores.precision),
            "recall": _percent(scores.recall),
            "F1": _percent(scores.f1),
        }
    figures["seconds"] = {
        "median": round(float(np.median(seconds)), 4),
        "p95": round(float(np.quantile(seconds, 0.95)), 4),
    }
    figures["missing"] = dict(measurement.missing)
    return figures


def by_channel(replies: Sequence[Reply]) -> dict[str, list[Reply]]:
    """Group replies by channel: ALL first, then each channel that has a reply. Empty without replies."""
    groups = {ALL: list(replies)} if replies else {}
    for channel in CHANNELS:
        group = [reply for reply in replies if reply.question.channel == channel]
        if group:
            groups[channel] = group
    return groups


def _localisation_figures(queries: Sequence[Localised]) -> dict[str, Any]:
    parts = {name: _part_figures(part) for name, part in measure_by_length(queries).items()}
    return {**_part_figures(measure_localisation(queries)), "by-length": parts}


def _part_figures(part: Localisation) -> dict[str, float]:
    return {
        "n": part.query_count,
        "R1@0.5": _percent(part.recall[0.5]),
        "R1@0.7": _percent(part.recall[0.7]),
        "mAP": _percent(part.mean_average_precision),
        "mIoU": _percent(part.mean_iou),
    }


def _gain(rank: int | None) -> float:
    """Return the nDCG@10 of a search whose only right answer is at this rank."""
    return 0.0 if rank is None else ndcg([0.0] * (rank - 1) + [1.0], [1.0], 10)


def _percent(share: float) -> float:
    return round(100 * share, 2)
