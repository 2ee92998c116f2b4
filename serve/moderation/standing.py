"""Watcher: follows live videos for standing queries, which are asked once and answered whenever a moment comes.

A batch of new frames is compared with all queries in one matrix product, and all queries are stepped side by side. So
thousands of queries cost little more than one. A visual moment opens, is updated and closes (temporal.hysteresis). A
spoken moment is an utterance, delivered once its words are final. A query sees the frames and words that come after it
was added, until it is removed.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from encoders.values import Utterance
from serve.background import Background
from serve.catalog.final_utterances import FinalUtterances
from serve.catalog.spelling import matches_term
from serve.errors import IndexUnavailable
from serve.event import event_id
from serve.moderation.scoring import UNREACHABLE_CONFIDENCE, generality_of, picture_confidences, text_confidences
from serve.search.engine import Engine
from serve.search.evidence import VisualQuery
from serve.search.ranking import combine_confidences
from serve.search.speech import Passage, match_words
from serve.search.spoken import judge_passages
from serve.search.target import Target
from serve.search.verdict import verdict_of
from serve.search.video_rows import VideoFrames
from serve.values import MatchedWord, Moment, MomentChange, Query, Thresholds, Video
from temporal.hysteresis import Change, Hysteresis, Rules
from temporal.values import ChangeKind, TimeSpan

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 1.0  # between two looks at the videos, unless wake() says that they changed
FIRST_CAPACITY = 16  # slots for queries; doubled when all are taken
UNREACHED_CONFIDENCE = -1.0  # below 0, and so below every threshold: of videos that a query does not ask about
NEAR_COSINE = 0.2  # between utterance and query; an utterance below it is no answer


@dataclass(slots=True, kw_only=True, eq=False)
class StandingQuery:
    """A question to live videos, and the function that its moments are delivered to."""

    query: Query
    target: Target
    thresholds: Thresholds
    deliver: Callable[[MomentChange], object]  # called in the watcher's thread: must not wait
    # By video row: when the next spoken moment may begin, after the cooldown. Written by the watcher.
    ready_seconds: dict[int, float] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class _FollowedVideo:
    """A live video that grows, and how far it was compared with the queries."""

    version: int
    epoch: int
    frames_after: float  # seconds; later frames are new
    words_after: int  # position of the last utterance; later ones are new
    tracks: Hysteresis
    is_admitted: NDArray[np.bool_]  # (N,), whether the query in each slot asks about this video
    video: Video | None = None  # as it was compared last; None: not yet
    failed_version: int = -1  # the last that could not be compared; its failure is logged


@dataclass(frozen=True, slots=True, kw_only=True)
class _EndedVideo:
    """How far a live video was compared that ended. It may grow again, and late words may come."""

    version: int
    epoch: int
    frames_after: float
    words_after: int


class Watcher(Background):
    """Follows live videos for all standing queries. start() begins its thread, stop() ends it."""

    def __init__(self, engine: Engine) -> None:
        super().__init__("watcher", self.follow, pause_seconds=PAUSE_SECONDS, expected=(IndexUnavailable,))
        self.engine = engine
        self.visual = engine.visual
        self.width = 0 if self.visual is None else self.visual.bank.shape[1]
        self.lock = threading.Lock()  # of all attributes below
        # Slot n of the N slots is row n of each array.
        self.slots: list[StandingQuery | None] = []
        self.texts = np.zeros((0, self.width), np.float32)  # what a query asks to see
        self.generality = np.zeros(0, np.float32)  # of the texts
        self.pictures = np.zeros((0, self.width), np.float32)
        self.picture_shares = np.zeros(0)  # 0..1, of the picture in the confidence
        self.speech_vectors = np.zeros((0, 0), np.float32)  # (N, 0) until a query has one
        self.enter, self.leave, self.min_seconds, self.cooldown_seconds = (np.zeros(0) for _ in range(4))
        self.videos: dict[int, _FollowedVideo] = {}  # by row of the catalog
        self.ended: dict[int, _EndedVideo] = {}  # by row of the catalog

    def add(self, standing: StandingQuery) -> None:
        """Follow a query from now on."""
        with self.lock:
            if len(self):
                self._follow_videos()  # frames that are already there are new to the other queries only
            else:
                videos = self.engine.videos
                self.videos = {row: self._skip_to_end(video) for row, video in videos.items() if video.is_growing}
                self.ended = {
                    row: self._end_of(video) for row, video in videos.items() if video.is_live and video.is_ended
                }
            slot = self.slots.index(None) if None in self.slots else self._grow()
            self.slots[slot] = standing
            target, thresholds = standing.target, standing.thresholds
            self._set_visual(slot, target.visual)
            if target.speech is not None:
                if self.speech_vectors.shape[1] == 0:
                    self.speech_vectors = np.zeros((len(self.slots), len(target.speech)), np.float32)
                self.speech_vectors[slot] = target.speech
            self.enter[slot] = UNREACHABLE_CONFIDENCE if target.visual is None else thresholds.enter
            self.leave[slot], self.min_seconds[slot] = thresholds.leave, thresholds.min_seconds
            self.cooldown_seconds[slot] = thresholds.cooldown_seconds
            for row, followed in self.videos.items():
                followed.tracks.reset(slot)
                followed.is_admitted[slot] = _admits(standing, self.engine.videos.get(row))

    def _set_visual(self, slot: int, visual: VisualQuery | None) -> None:
        """Set what the query in a slot asks to see; None: nothing."""
        text, picture = (None, None) if visual is None else (visual.text, visual.picture)
        self.texts[slot] = 0.0 if text is None else text
        if self.visual is not None:
            self.generality[slot] = generality_of(self.texts[slot], self.visual.bank)
        self.pictures[slot] = 0.0 if picture is None else picture
        share = 0.0 if visual is None or picture is None else visual.picture_share
        self.picture_shares[slot] = 1.0 if text is None and picture is not None else share

    def remove(self, standing: StandingQuery) -> None:
        """Remove a query, if it is there."""
        with self.lock:
            if standing not in self.slots:
                return
            slot = self.slots.index(standing)
            self.slots[slot], self.enter[slot] = None, UNREACHABLE_CONFIDENCE
            if self.speech_vectors.shape[1]:
                self.speech_vectors[slot] = 0.0

    def __len__(self) -> int:
        """Return the number of queries."""
        return sum(standing is not None for standing in self.slots)

    def _grow(self) -> int:
        """Add as many slots as there are; return the first new slot."""
        count = len(self.slots)
        more = max(FIRST_CAPACITY, count)
        self.slots += [None] * more
        unseen = np.zeros((more, self.width), np.float32)
        self.texts, self.pictures = np.concatenate([self.texts, unseen]), np.concatenate([self.pictures, unseen])
        self.generality = np.concatenate([self.generality, np.zeros(more, np.float32)])
        self.picture_shares = np.concatenate([self.picture_shares, np.zeros(more)])
        empty = np.zeros((more, self.speech_vectors.shape[1]), np.float32)
        self.speech_vectors = np.concatenate([self.speech_vectors, empty])
        self.enter = np.concatenate([self.enter, np.full(more, UNREACHABLE_CONFIDENCE)])
        self.leave, self.min_seconds, self.cooldown_seconds = (
            np.concatenate([each, np.zeros(more)]) for each in (self.leave, self.min_seconds, self.cooldown_seconds)
        )
        for followed in self.videos.values():
            followed.tracks = followed.tracks.grow(self._rules())
            followed.is_admitted = np.concatenate([followed.is_admitted, np.zeros(more, np.bool_)])
        return count

    def _rules(self) -> Rules:
        return Rules(
            enter=self.enter, leave=self.leave, min_seconds=self.min_seconds, cooldown_seconds=self.cooldown_seconds
        )

    def _admissions(self, video: Video) -> NDArray[np.bool_]:
        """Return (N,): whether the query in each slot asks about a video."""
        return np.array([standing is not None and _admits(standing, video) for standing in self.slots], np.bool_)

    def _skip_to_end(self, video: Video) -> _FollowedVideo:
        """Begin to follow a growing video behind all frames and final words that it has now."""
        with self.engine.snapshot():
            video = self.engine.videos.get(video.row, video)
            times = np.empty(0)
            if self.visual is not None:
                times = self.visual.frames.get(video.row, video.version).pts_seconds
            words_after = FinalUtterances(self.engine.catalog).last_position(video)
        return _FollowedVideo(
            version=video.version, epoch=0, frames_after=float(times[-1]) if len(times) else -1.0,
            words_after=words_after, tracks=Hysteresis(self._rules()), is_admitted=self._admissions(video),
        )  # fmt: skip

    def _end_of(self, video: Video) -> _EndedVideo:
        """Return the end of a video that ended before there was a query."""
        words_after = FinalUtterances(self.engine.catalog).last_position(video)
        return _EndedVideo(version=video.version, epoch=0, frames_after=video.duration_seconds, words_after=words_after)

    def follow(self) -> None:
        """Compare the new frames and words of all live videos with the queries."""
        with self.lock:
            if len(self):
                self._follow_videos()

    def _follow_videos(self) -> None:
        videos = self.engine.videos
        for row in self.videos.keys() - videos.keys():  # deleted videos, whose open moments are closed
            deleted = self.videos.pop(row)
            if deleted.video is not None:
                self._deliver(deleted.video, deleted.epoch, deleted.tracks.finish(deleted.frames_after))
        self.ended = {row: ended for row, ended in self.ended.items() if row in videos}
        for row, video in videos.items():
            followed = self.videos.get(row)
            ended = self.ended.get(row)
            if followed is None and (video.is_growing if ended is None else ended.version != video.version):
                followed = self.videos[row] = self._resume(video)
            if followed is not None and followed.version != video.version:
                try:
                    self._follow_video(video, followed)
                except IndexUnavailable:  # nothing of the video was compared: it is when Milvus is back
                    raise
                except Exception:  # a bug, or a damaged video: the others are followed, and this one is tried again
                    if followed.failed_version != video.version:
                        logger.exception("standing queries failed video=%s/%s", video.collection, video.video_id)
                    followed.failed_version = video.version

    def _resume(self, video: Video) -> _FollowedVideo:
        """Follow a video from where it ended before, or from its start if it began after the queries were added."""
        ended = self.ended.pop(video.row, _EndedVideo(version=-1, epoch=0, frames_after=-1.0, words_after=-1))
        return _FollowedVideo(
            version=-1, epoch=ended.epoch, frames_after=ended.frames_after, words_after=ended.words_after,
            tracks=Hysteresis(self._rules()), is_admitted=self._admissions(video),
        )  # fmt: skip

    def _follow_video(self, video: Video, followed: _FollowedVideo) -> None:
        """Compare the new frames and words of one video."""
        with self.engine.snapshot():
            video = self.engine.videos.get(video.row, video)
            frames = None
            if self.visual is not None:
                frames = self.visual.frames.get(video.row, video.version)
                new = np.arange(int(np.searchsorted(frames.pts_seconds, followed.frames_after, "right")), len(frames))
                vectors = frames.vectors.take(new) if len(new) else None
            utterances = FinalUtterances(self.engine.catalog).after(video, followed.words_after)
        if frames is not None and vectors is not None:
            self._follow_frames(video, followed, frames, new, vectors)
        for position, utterance in utterances:
            followed.words_after = position
            self._follow_utterance(video, followed, utterance)
        if not video.is_growing:
            self._deliver(video, followed.epoch, followed.tracks.finish(video.duration_seconds))
            self.ended[video.row] = _EndedVideo(
                version=video.version, epoch=followed.epoch, frames_after=followed.frames_after,
                words_after=followed.words_after,
            )  # fmt: skip
            self.videos.pop(video.row, None)
        followed.version, followed.video = video.version, video

    def _follow_frames(
        self,
        video: Video,
        followed: _FollowedVideo,
        frames: VideoFrames,
        new: NDArray[np.int64],
        vectors: NDArray[np.float32],
    ) -> None:
        """Compare the new frames of a video, and their vectors (F, D), with all queries, and step their tracks."""
        assert self.visual is not None
        confidences = self._score_frames(vectors)
        confidences[:, ~followed.is_admitted] = UNREACHED_CONFIDENCE
        for n, frame_confidences in zip(new, confidences, strict=True):
            seconds, epoch = float(frames.pts_seconds[n]), int(frames.epochs[n])
            followed.frames_after = seconds  # before the step: a frame that fails is left out, none is stepped twice
            if epoch != followed.epoch:
                self._deliver(video, followed.epoch, followed.tracks.finish(seconds))
                followed.epoch = epoch
            self._deliver(video, epoch, followed.tracks.step(seconds, frame_confidences))

    def _score_frames(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the confidence of each frame (F, D) for the query in each slot, (F, N)."""
        assert self.visual is not None
        calibration = self.visual.calibration
        confidences = text_confidences(vectors, self.texts, self.generality, self.visual.bank, calibration.moment)
        with_picture = np.flatnonzero(self.picture_shares)
        if len(with_picture):
            shares = self.picture_shares[with_picture]
            alike = picture_confidences(vectors @ self.pictures[with_picture].T, calibration.picture)
            confidences[:, with_picture] = shares * alike + (1 - shares) * confidences[:, with_picture]
        return confidences

    def _deliver(self, video: Video, epoch: int, changes: Sequence[Change]) -> None:
        """Deliver changes of visual moments to their queries."""
        for change in changes:
            standing = self.slots[change.track]
            if standing is not None:
                moment = moment_of(
                    video, change.start_seconds, change.end_seconds, change.peak, best_frame_seconds=change.peak_seconds
                )
                name = moment_id(moment, epoch, "visual")
                standing.deliver(MomentChange(moment_id=name, kind=change.kind, moment=moment))

    def _follow_utterance(self, video: Video, followed: _FollowedVideo, utterance: Utterance) -> None:
        """Deliver an utterance to the queries that it answers, by meaning or by their words."""
        if not self.speech_vectors.shape[1] or not utterance.text.strip():
            return
        vector = self.engine.sentences.encode([utterance.text])[0]
        cosines = self.speech_vectors @ vector
        for slot in np.flatnonzero((cosines >= NEAR_COSINE) & followed.is_admitted).tolist():
            standing = self.slots[slot]
            if standing is None or utterance.start_seconds < standing.ready_seconds.get(video.row, 0.0):
                continue
            confidence = judge_utterance(utterance, vector, float(cosines[slot]), standing.target)
            if confidence < standing.thresholds.enter:
                continue
            standing.ready_seconds[video.row] = utterance.end_seconds + standing.thresholds.cooldown_seconds
            words = match_words(utterance.words, standing.target.terms)
            moment = moment_of(
                video, utterance.start_seconds, utterance.end_seconds, confidence, transcript=utterance.text,
                words=words,
            )  # fmt: skip
            name = moment_id(moment, utterance.epoch, "speech")
            for kind in (ChangeKind.OPENED, ChangeKind.CLOSED):
                standing.deliver(MomentChange(moment_id=name, kind=kind, moment=moment))


def judge_utterance(utterance: Utterance, vector: NDArray[np.float32], cosine: float, target: Target) -> float:
    """Return how surely an utterance answers a query, 0..1, as a search judges the only passage that it finds.

    An utterance has no lead, because nobody knows what is said later. Each term of the query counts the same, because
    nobody knows how rare it is.

    Args:
        utterance: It has a text.
        vector: Of the utterance, (D,), unit length.
        cosine: Of the utterance and the query.
        target: It asks for something that is said.
    """
    assert target.intent is not None
    terms = tuple(term for term in target.terms if matches_term(utterance.text, term))
    passage = Passage(
        row=0, positions=(0,), text=utterance.text, cosine=cosine, words=(), terms=terms, vector=vector,
        span=TimeSpan(start_seconds=utterance.start_seconds, end_seconds=utterance.end_seconds),
        coverage=len(terms) / max(1, len(target.terms)),
    )  # fmt: skip
    [confidence] = judge_passages([passage], target.intent)
    return combine_confidences(0.0, confidence, target.intent)


def _admits(standing: StandingQuery, video: Video | None) -> bool:
    """Return whether a query asks about a video; None: it is deleted."""
    return video is not None and standing.query.filter.admits(video)


def moment_of(
    video: Video,
    start_seconds: float,
    end_seconds: float,
    confidence: float,
    *,
    best_frame_seconds: float | None = None,
    transcript: str = "",
    words: tuple[MatchedWord, ...] = (),
) -> Moment:
    """Make a moment of a standing query: a visual one if it has a best frame, a spoken one otherwise."""
    return Moment(
        video_id=video.video_id,
        uri=video.uri,
        start_seconds=start_seconds,
        end_seconds=end_seconds,
        score=confidence,
        confidence=confidence,
        verdict=verdict_of(confidence),
        visual_score=None if best_frame_seconds is None else confidence,
        speech_score=confidence if best_frame_seconds is None else None,
        transcript=transcript,
        matched_words=words,
        best_frame_seconds=best_frame_seconds,
        final=video.is_final_until(end_seconds),
        collection=video.collection,
        recorded_time=video.recorded_at(start_seconds),
    )


def moment_id(moment: Moment, epoch: int, channel: str) -> str:
    """Return the id that all changes of one moment of a query share."""
    return event_id("", moment.collection, moment.video_id, epoch, channel, moment.start_seconds)
