"""Asks a library, here or on a server, questions whose answers are known, for `kinodex eval --queries`.

Moments are asked for in the whole library and, apart, in the right video alone: what finds the video and what finds the
moment in it are two things. Whether an event is told to be absent is read off the answers of the whole library: it is
if none of them is even WEAK.
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
    by_length,
    localisation,
    median_rank,
    ndcg,
    recall_at,
    rejection,
)

VIDEO_COUNT = 100  # videos of a search that are looked through for the right one; farther down it is not found
TIMELINE_SECONDS = 1e7  # between the starts of two videos, all laid end to end: more than any is long
ALL = "all"  # channels together

Name = tuple[str, str]  # collection, video id


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came of one question."""

    question: Question
    seconds: float  # until the answer was there
    confidence: float  # of the surest answer, 0..1; 0: there was none
    is_rejected: bool  # no answer, or none that is even WEAK
    rank: int | None = None  # of the right video, from 1; None: not found, or no whole video was asked for
    everywhere: Localised | None = None  # of a moment: the answers of the whole library, on one line of all videos
    inside: Localised | None = None  # of a moment: the answers of its video


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All that was asked."""

    videos: tuple[Reply, ...]
    moments: tuple[Reply, ...]
    absent: tuple[Reply, ...]
    missing: Mapping[str, int]  # file -> questions about it that were not asked: it is not there
    degraded_channels: tuple[str, ...]

    @property
    def replies(self) -> tuple[Reply, ...]:
        return self.videos + self.moments + self.absent


def measure(
    asked: AnyLibrary, questions: Questions, on_done: Callable[[int, int], None] = lambda done, total: None
) -> Measured:
    """Ask every question whose video is there.

    Args:
        on_done: Told how many were asked, and how many there are.

    Raises:
        QuestionsInvalid: If none can be asked, or a file's name is that of several videos.
        ServerFailed: If it is a server that is asked.
    """
    places = Places(asked.videos(), questions.source)
    missing: dict[str, int] = defaultdict(int)
    here: list[Question] = []
    for question in (*questions.videos, *questions.moments, *questions.absent):
        if question.file is None or places.name(question.file) is not None:
            here.append(question)
        else:
            missing[question.file] += 1
    if not here:
        raise QuestionsInvalid(questions.source, "no question is about a video of this library")
    warm = asked.moments(Query(text="anything at all", limit=1))  # the encoders' loading is nobody's answer
    replies = []
    for done, question in enumerate(here):
        on_done(done, len(here))
        replies.append(ask(asked, question, places))
    on_done(len(here), len(here))
    return Measured(
        videos=tuple(one for one in replies if one.question.file is not None and one.question.span is None),
        moments=tuple(one for one in replies if one.question.span is not None),
        absent=tuple(one for one in replies if one.question.file is None),
        missing=dict(missing),
        degraded_channels=warm.degraded_channels,
    )


class Places:
    """The videos of a library: by name, and each at its place on one line of all."""

    def __init__(self, videos: Iterable[Video | VideoStatus], source: str) -> None:
        self._source = source
        self._starts: dict[Name, float] = {}
        self._named: dict[str, list[Name]] = defaultdict(list)
        for video in videos:
            if isinstance(video, VideoStatus) and video.state is not VideoState.READY:
                continue
            name = (video.collection, video.video_id)
            self._starts[name] = len(self._starts) * TIMELINE_SECONDS
            for each in names_of(video):
                self._named[each].append(name)

    def name(self, file: str) -> Name | None:
        """Find a video by its id or the last part of its URI; None: it is not there."""
        found = self._named.get(file, [])
        if len(found) > 1:
            raise QuestionsInvalid(self._source, f"{len(found)} videos are named {file}: name them by their ids")
        return found[0] if found else None

    def spans(self, moments: Sequence[Moment]) -> NDArray[np.float64]:
        """Return (N, 2): start and end of each on the line of all videos; one that was added since is left out."""
        starts = [self._starts.get((one.collection, one.video_id)) for one in moments]
        rows = [
            (start + one.start_seconds, start + one.end_seconds)
            for start, one in zip(starts, moments, strict=True)
            if start is not None
        ]
        return np.array(rows, np.float64).reshape(-1, 2)

    def truth(self, question: Question) -> NDArray[np.float64]:
        """Return (1, 2): where its answer is on the line of all videos."""
        assert question.file is not None
        assert question.span is not None
        name = self.name(question.file)
        assert name is not None
        return self._starts[name] + np.array([[question.span.start_seconds, question.span.end_seconds]])


def ask(asked: AnyLibrary, question: Question, places: Places) -> Reply:
    """Ask one question as a client would, without naming a channel."""
    if question.file is not None and question.span is None:
        return ask_video(asked, question, places)
    began = time.perf_counter()
    answer = asked.moments(Query(text=question.text, limit=BEST_COUNT))
    seconds = time.perf_counter() - began
    everywhere = inside = None
    if question.file is not None:
        name = places.name(question.file)
        assert name is not None
        only = Filter(collections=(name[0],), video_ids=(name[1],))
        near = asked.moments(Query(text=question.text, limit=BEST_COUNT, filter=only))
        truth = places.truth(question)
        everywhere = Localised(predicted=places.spans(answer.moments), truth=truth)
        inside = Localised(predicted=places.spans(near.moments), truth=truth)
    return Reply(
        question=question,
        seconds=seconds,
        confidence=max((one.confidence for one in answer.moments), default=0.0),
        is_rejected=all(one.verdict is Verdict.NO_MATCH for one in answer.moments),
        everywhere=everywhere,
        inside=inside,
    )


def ask_video(asked: AnyLibrary, question: Question, places: Places) -> Reply:
    """Ask for a whole video."""
    assert question.file is not None
    began = time.perf_counter()
    answer = asked.search(Query(text=question.text, limit=VIDEO_COUNT))
    seconds = time.perf_counter() - began
    names = [(one.collection, one.video_id) for one in answer.videos]
    right = places.name(question.file)
    return Reply(
        question=question,
        seconds=seconds,
        confidence=max((one.confidence for one in answer.videos), default=0.0),
        is_rejected=all(one.verdict is Verdict.NO_MATCH for one in answer.videos),
        rank=names.index(right) + 1 if right in names else None,
    )


# ---- figures


def figures(measured: Measured) -> dict[str, Any]:
    """Return the figures as JSON has them: shares in per cent to two decimals, times in seconds."""
    seconds = [one.seconds for one in measured.replies]
    found: dict[str, Any] = {"moments": {}, "rejection": {}}
    for channel, replies in by_channel(measured.moments).items():
        found["moments"][channel] = {
            "library": localised([one.everywhere for one in replies if one.everywhere is not None]),
            "video": localised([one.inside for one in replies if one.inside is not None]),
        }
    ranks = [one.rank for one in measured.videos]
    found["videos"] = {
        "n": len(ranks),
        **{f"R@{k}": percent(recall_at(ranks, k)) for k in (1, 5, 10)},
        "median-rank": None if not ranks or np.isinf(median_rank(ranks)) else median_rank(ranks),
        "nDCG@10": percent(float(np.mean([gain(rank) for rank in ranks])) if ranks else 0.0),
    }
    for channel, replies in by_channel(measured.absent).items():
        present = by_channel(measured.moments).get(channel, [])
        told = rejection(
            [False] * len(present) + [True] * len(replies), [one.is_rejected for one in (*present, *replies)]
        )
        found["rejection"][channel] = {
            "n": told.absent_count,
            "present": len(present),
            "precision": percent(told.precision),
            "recall": percent(told.recall),
            "F1": percent(told.f1),
        }
    found["seconds"] = {
        "median": round(float(np.median(seconds)), 4),
        "p95": round(float(np.quantile(seconds, 0.95)), 4),
    }
    found["missing"] = dict(measured.missing)
    return found


def by_channel(replies: Sequence[Reply]) -> dict[str, list[Reply]]:
    """Return all, then those of each channel that has some; nothing if there is nothing."""
    found = {ALL: list(replies)} if replies else {}
    for channel in CHANNELS:
        mine = [one for one in replies if one.question.channel == channel]
        if mine:
            found[channel] = mine
    return found


def localised(queries: Sequence[Localised]) -> dict[str, Any]:
    parts = {name: part_figures(part) for name, part in by_length(queries).items()}
    return {**part_figures(localisation(queries)), "by-length": parts}


def part_figures(part: Localisation) -> dict[str, float]:
    return {
        "n": part.query_count,
        "R1@0.5": percent(part.recall[0.5]),
        "R1@0.7": percent(part.recall[0.7]),
        "mAP": percent(part.mean_average_precision),
        "mIoU": percent(part.mean_iou),
    }


def gain(rank: int | None) -> float:
    """Return the nDCG of one right answer at a rank."""
    return 0.0 if rank is None else ndcg([0.0] * (rank - 1) + [1.0], [1.0], 10)


def percent(share: float) -> float:
    return round(100 * share, 2)
