"""Standing queries: questions to live videos that are asked once and answered whenever something comes.

All of them are compared with a batch of new frames in one matrix product, and followed side by side, so that thousands
cost little more than one. What is seen opens, goes on and closes (temporal.hysteresis); what is said is an utterance,
and is told once its words are final. A query sees what comes after it was asked, and is forgotten when nobody listens.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from encoders.calibration import logistic
from encoders.values import Utterance
from serve.catalog.final_utterances import FinalUtterances
from serve.catalog.spelling import matches_term
from serve.errors import IndexUnavailable
from serve.event import event_id
from serve.moderation.scoring import compare, confidence
from serve.search.engine import Engine
from serve.search.ranking import verdict_of
from serve.search.speech import COSINE_MIDDLE, COSINE_WIDTH, WORD_CONFIDENCE
from serve.search.target import Target
from serve.values import MatchedWord, Moment, MomentChange, Query, Thresholds, Video
from temporal.hysteresis import Change, Hysteresis, Rules
from temporal.values import ChangeKind

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0  # between two looks at the videos if nobody says that they changed
FIRST_CAPACITY = 16  # places for queries; doubled when they are taken
NEVER = 2.0  # a confidence that no frame has: of a place without a query, or of one that looks at nothing
NEAR_COSINE = 0.2  # to an utterance: only then a query's words are looked for in it


@dataclass(slots=True, kw_only=True, eq=False)
class StandingQuery:
    """A question, and who is told. The watcher fills in the rest."""

    query: Query
    target: Target
    thresholds: Thresholds
    tell: Callable[[MomentChange], object]  # called by the watcher's thread: must not wait
    ready_at: dict[int, float] = field(default_factory=dict)  # by video: when the next spoken moment may begin


@dataclass(slots=True, kw_only=True)
class _Followed:
    """A live video that is followed."""

    version: int
    epoch: int
    frames_after: float  # seconds
    words_after: int  # position
    tracks: Hysteresis
    admitted: NDArray[np.bool_]  # (N,), which queries ask of it
    video: Video | None = None  # as it was taken last; None: nothing of it was
    failed_version: int = -1  # the last that could not be taken


@dataclass(frozen=True, slots=True, kw_only=True)
class _Left:
    """Where a live video that ended was left: it may go on, and late words may come."""

    version: int
    epoch: int
    frames_after: float
    words_after: int


class Watcher:
    """Follows live videos for all standing queries. start() begins its thread, stop() ends it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.visual = engine.visual
        self.width = 0 if self.visual is None else self.visual.bank.shape[1]
        self.lock = threading.Lock()  # of all below
        self.places: list[StandingQuery | None] = []
        self.shown = np.zeros((0, self.width), np.float32)
        self.said = np.zeros((0, 0), np.float32)
        self.enter, self.leave, self.least, self.pause = (np.zeros(0) for _ in range(4))
        self.videos: dict[int, _Followed] = {}  # by row
        self.ended: dict[int, _Left] = {}  # by row
        self.stopping, self.woken = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.run, name="watcher", daemon=True)

    # ---- queries come and go

    def add(self, asked: StandingQuery) -> None:
        """Follow a query from now on."""
        with self.lock:
            if len(self):
                self._follow()  # what is there already is for the others
            else:
                self.videos = {row: self._begun(one) for row, one in self.engine.videos.items() if one.is_growing}
                self.ended = {row: self._left(one) for row, one in self.engine.videos.items() if _has_ended(one)}
            place = self.places.index(None) if None in self.places else self._grown()
            self.places[place] = asked
            target, thresholds = asked.target, asked.thresholds
            is_seen = target.visual is not None
            self.shown[place] = target.visual if target.visual is not None else 0.0
            if target.speech is not None:
                if self.said.shape[1] == 0:
                    self.said = np.zeros((len(self.places), len(target.speech)), np.float32)
                self.said[place] = target.speech
            self.enter[place] = thresholds.enter if is_seen else NEVER
            self.leave[place], self.least[place] = thresholds.leave, thresholds.min_seconds
            self.pause[place] = thresholds.cooldown_seconds
            for row, followed in self.videos.items():
                followed.tracks.reset(place)
                followed.admitted[place] = self._admits(asked, self.engine.videos.get(row))

    def remove(self, asked: StandingQuery) -> None:
        """Forget a query, if it is there."""
        with self.lock:
            if asked not in self.places:
                return
            place = self.places.index(asked)
            self.places[place], self.enter[place] = None, NEVER
            if self.said.shape[1]:
                self.said[place] = 0.0

    def __len__(self) -> int:
        """Return how many there are."""
        return sum(one is not None for one in self.places)

    def _grown(self) -> int:
        """Make room for more; return the first new place."""
        count = len(self.places)
        more = max(FIRST_CAPACITY, count)
        self.places += [None] * more
        self.shown = np.concatenate([self.shown, np.zeros((more, self.width), np.float32)])
        self.said = np.concatenate([self.said, np.zeros((more, self.said.shape[1]), np.float32)])
        self.enter = np.concatenate([self.enter, np.full(more, NEVER)])
        self.leave, self.least, self.pause = (
            np.concatenate([each, np.zeros(more)]) for each in (self.leave, self.least, self.pause)
        )
        for followed in self.videos.values():
            followed.tracks = followed.tracks.grown(self._rules())
            followed.admitted = np.concatenate([followed.admitted, np.zeros(more, np.bool_)])
        return count

    def _rules(self) -> Rules:
        return Rules(enter=self.enter, leave=self.leave, min_seconds=self.least, cooldown_seconds=self.pause)

    def _admits(self, asked: StandingQuery, video: Video | None) -> bool:
        return video is not None and asked.query.filter.admits(video)

    def _begun(self, video: Video) -> _Followed:
        """Begin to follow a video, behind all that there is of it."""
        with self.engine.snapshot():
            current = self.engine.videos.get(video.row, video)
            times = np.empty(0)
            if self.visual is not None:
                times = self.visual.frames.get(current.row, current.version).pts_seconds
            heard = FinalUtterances(self.engine.catalog).last_position(current)
        return _Followed(
            version=current.version, epoch=0, frames_after=float(times[-1]) if len(times) else -1.0, words_after=heard,
            tracks=Hysteresis(self._rules()),
            admitted=np.array([one is not None and self._admits(one, current) for one in self.places], np.bool_),
        )  # fmt: skip

    # ---- the thread

    def start(self) -> None:
        """Begin."""
        self.thread.start()

    def wake(self) -> None:
        """Look at once: something changed."""
        self.woken.set()

    def stop(self) -> None:
        """End. May be called twice."""
        self.stopping.set()
        self.woken.set()
        if self.thread.is_alive():
            self.thread.join()

    def run(self) -> None:
        """Follow what comes, until stop()."""
        while not self.stopping.is_set():
            try:
                self.follow()
            except IndexUnavailable:  # nothing was taken of what could not be read: it is taken when Milvus is back
                pass
            except Exception:  # a bug, or a disk that fails: the other answers go on
                logger.exception("standing queries failed")
            self.woken.wait(LOOK_SECONDS)
            self.woken.clear()

    def follow(self) -> None:
        """Take what is new in the live videos."""
        with self.lock:
            if len(self):
                self._follow()

    def _follow(self) -> None:
        videos = self.engine.videos
        for row in self.videos.keys() - videos.keys():
            self._gone(self.videos.pop(row))
        self.ended = {row: left for row, left in self.ended.items() if row in videos}
        for row, video in videos.items():
            followed = self.videos.get(row)
            left = self.ended.get(row)
            if followed is None and (video.is_growing if left is None else left.version != video.version):
                followed = self.videos[row] = self._new(video)
            if followed is not None and followed.version != video.version:
                try:
                    self._take(video, followed)
                except IndexUnavailable:
                    raise
                except Exception:  # a bug, or a damaged video: the others are followed, and this one is tried again
                    if followed.failed_version != video.version:
                        logger.exception("standing queries failed video=%s/%s", video.collection, video.video_id)
                    followed.failed_version = video.version

    def _new(self, video: Video) -> _Followed:
        """Begin to follow a video from where it was left; if it began after the queries did, all of it is new."""
        left = self.ended.pop(video.row, _Left(version=-1, epoch=0, frames_after=-1.0, words_after=-1))
        admitted = np.array([one is not None and self._admits(one, video) for one in self.places], np.bool_)
        return _Followed(
            version=-1, epoch=left.epoch, frames_after=left.frames_after, words_after=left.words_after,
            tracks=Hysteresis(self._rules()), admitted=admitted,
        )  # fmt: skip

    def _left(self, video: Video) -> _Left:
        """Return the end of a video that ended before it was followed."""
        words_after = FinalUtterances(self.engine.catalog).last_position(video)
        return _Left(version=video.version, epoch=0, frames_after=video.duration_seconds, words_after=words_after)

    def _gone(self, followed: _Followed) -> None:
        """End what goes on in a video that was deleted."""
        if followed.video is not None:
            self._tell(followed.video, followed.epoch, followed.tracks.finish(followed.frames_after))

    def _take(self, video: Video, followed: _Followed) -> None:
        """Take the frames and words that are new in a video."""
        with self.engine.snapshot():
            video = self.engine.videos.get(video.row, video)
            frames = None
            if self.visual is not None:
                frames = self.visual.frames.get(video.row, video.version)
            utterances = FinalUtterances(self.engine.catalog).after(video, followed.words_after)
        if frames is not None and self.visual is not None:
            first = int(np.searchsorted(frames.pts_seconds, followed.frames_after, "right"))
            new = np.arange(first, len(frames))
            if len(new):
                scores, generic = compare(frames.vectors.take(new), self.shown, self.visual.bank)
                confidences = confidence(scores - generic[:, None]) * followed.admitted
                for place, confidences_then in zip(new, confidences, strict=True):
                    seconds, epoch = float(frames.pts_seconds[place]), int(frames.epochs[place])
                    followed.frames_after = seconds  # first: what fails here is left out, and nothing is told twice
                    if epoch != followed.epoch:
                        self._tell(video, followed.epoch, followed.tracks.finish(seconds))
                        followed.epoch = epoch
                    self._tell(video, epoch, followed.tracks.step(seconds, confidences_then))
        for position, utterance in utterances:
            followed.words_after = position
            self._hear(video, followed, utterance)
        if not video.is_growing:
            self._tell(video, followed.epoch, followed.tracks.finish(video.duration_seconds))
            self.ended[video.row] = _Left(
                version=video.version, epoch=followed.epoch, frames_after=followed.frames_after,
                words_after=followed.words_after,
            )  # fmt: skip
            self.videos.pop(video.row, None)  # not kept with all that stands
        followed.version, followed.video = video.version, video

    def _tell(self, video: Video, epoch: int, changes: Sequence[Change]) -> None:
        for change in changes:
            asked = self.places[change.track]
            if asked is not None:
                moment = moment_of(
                    video, change.start_seconds, change.end_seconds, change.peak, best_frame_seconds=change.peak_seconds
                )
                asked.tell(MomentChange(moment_id=moment_id(moment, epoch, "visual"), kind=change.kind, moment=moment))

    def _hear(self, video: Video, followed: _Followed, utterance: Utterance) -> None:
        """Tell those whose question an utterance answers."""
        if not self.said.shape[1] or not utterance.text.strip():
            return
        cosines = self.said @ self.engine.sentences.encode([utterance.text])[0]
        for place in np.flatnonzero((cosines >= NEAR_COSINE) & followed.admitted).tolist():
            asked = self.places[place]
            if asked is None or utterance.start_seconds < asked.ready_at.get(video.row, 0.0):
                continue
            terms = asked.target.terms
            is_worded = bool(terms) and all(matches_term(utterance.text, term) for term in terms)
            by_meaning = logistic((float(cosines[place]) - COSINE_MIDDLE) / COSINE_WIDTH)
            sure = 1 - (1 - by_meaning) * (1 - WORD_CONFIDENCE * is_worded)
            if sure < asked.thresholds.enter:
                continue
            asked.ready_at[video.row] = utterance.end_seconds + asked.thresholds.cooldown_seconds
            words = tuple(
                MatchedWord(text=word.text, start_seconds=word.start_seconds, end_seconds=word.end_seconds)
                for word in utterance.words
                if any(matches_term(word.text, term) for term in terms)
            )
            moment = moment_of(
                video, utterance.start_seconds, utterance.end_seconds, sure, transcript=utterance.text, words=words
            )
            name = moment_id(moment, utterance.epoch, "speech")
            for kind in (ChangeKind.OPENED, ChangeKind.CLOSED):
                asked.tell(MomentChange(moment_id=name, kind=kind, moment=moment))


def _has_ended(video: Video) -> bool:
    return video.is_live and video.is_ended


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
    """Make the moment that a standing query found."""
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
    """Return the same for all that happens to one moment of a query."""
    return event_id("", moment.collection, moment.video_id, epoch, channel, moment.start_seconds)
