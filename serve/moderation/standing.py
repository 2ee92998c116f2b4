"""Watcher: follows live videos for standing queries, which are asked once and answered whenever a moment comes.

A batch of new frames is compared with all queries in one matrix product, and all queries are stepped side by side. So
thousands of queries cost little more than one. A visual moment opens, is updated and closes (temporal.hysteresis). A
spoken moment is an utterance, and a written one a line of text in the pictures, delivered once they are final. A query
sees the frames and words that come after it was added, until it is removed.
"""

import logging
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from encoders.values import TextLine, Utterance
from serve.background import Background
from serve.catalog.final_utterances import FinalUtterances
from serve.catalog.text_lines import TextLineRow
from serve.errors import IndexUnavailable
from serve.moderation.scoring import UNREACHABLE_CONFIDENCE, generality_of, picture_confidences, text_confidences
from serve.moderation.standing_moments import judge_line, judge_utterance, moment_id, moment_of
from serve.search.engine import Engine
from serve.search.evidence import VisualQuery
from serve.search.speech import match_words
from serve.search.target import Target
from serve.search.video_rows import VideoFrames
from serve.search.written import SAME_SECONDS
from serve.values import MomentChange, Query, Thresholds, Video
from temporal.hysteresis import Change, Hysteresis, Rules
from temporal.values import ChangeKind

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
    ready_text_seconds: dict[int, float] = field(default_factory=dict)  # the same for text in pictures


@dataclass(slots=True, kw_only=True)
class _FollowedVideo:
    """A live video that grows, and how far it was compared with the queries."""

    version: int
    epoch: int
    frames_after: float  # seconds; later frames are new
    words_after: int  # position of the last utterance; later ones are new
    lines_after: int  # position of the last line of text; later ones are new
    tracks: Hysteresis
    is_admitted: NDArray[np.bool_]  # (N,), whether the query in each slot asks about this video
    video: Video | None = None  # as it was compared last; None: not yet
    standing: dict[str, float] = field(default_factory=dict)  # lines of text that stood last, and when they ended
    failed_version: int = -1  # the last that could not be compared; its failure is logged


@dataclass(frozen=True, slots=True, kw_only=True)
class _EndedVideo:
    """How far a live video was compared that ended. It may grow again, and late words may come."""

    version: int
    epoch: int
    frames_after: float
    words_after: int
    lines_after: int


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
        self.text_vectors = np.zeros((0, 0), np.float32)  # likewise
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
            self.speech_vectors = self._set_words(self.speech_vectors, slot, target.speech)
            self.text_vectors = self._set_words(self.text_vectors, slot, target.written)
            self.enter[slot] = UNREACHABLE_CONFIDENCE if target.visual is None else thresholds.enter
            self.leave[slot], self.min_seconds[slot] = thresholds.leave, thresholds.min_seconds
            self.cooldown_seconds[slot] = thresholds.cooldown_seconds
            for row, followed in self.videos.items():
                followed.tracks.reset(slot)
                followed.is_admitted[slot] = _admits(standing, self.engine.videos.get(row))

    def _set_words(
        self, vectors: NDArray[np.float32], slot: int, vector: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """Return the vectors of all slots with that of one slot set; None: its query asks for no such words."""
        if vector is not None and vectors.shape[1] == 0:
            vectors = np.zeros((len(self.slots), len(vector)), np.float32)
        if vectors.shape[1]:
            vectors[slot] = 0.0 if vector is None else vector
        return vectors

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
            for vectors in (self.speech_vectors, self.text_vectors):
                vectors[slot] = 0.0

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
        self.speech_vectors, self.text_vectors = (
            np.concatenate([each, np.zeros((more, each.shape[1]), np.float32)])
            for each in (self.speech_vectors, self.text_vectors)
        )
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
            final = FinalUtterances(self.engine.catalog)
            words_after, lines_after = final.last_position(video), final.last_position(video, "text_lines")
        return _FollowedVideo(
            version=video.version, epoch=0, frames_after=float(times[-1]) if len(times) else -1.0,
            words_after=words_after, lines_after=lines_after, tracks=Hysteresis(self._rules()),
            is_admitted=self._admissions(video),
        )  # fmt: skip

    def _end_of(self, video: Video) -> _EndedVideo:
        """Return the end of a video that ended before there was a query."""
        final = FinalUtterances(self.engine.catalog)
        return _EndedVideo(
            version=video.version, epoch=0, frames_after=video.duration_seconds,
            words_after=final.last_position(video), lines_after=final.last_position(video, "text_lines"),
        )  # fmt: skip

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
        none = _EndedVideo(version=-1, epoch=0, frames_after=-1.0, words_after=-1, lines_after=-1)
        ended = self.ended.pop(video.row, none)
        return _FollowedVideo(
            version=-1, epoch=ended.epoch, frames_after=ended.frames_after, words_after=ended.words_after,
            lines_after=ended.lines_after, tracks=Hysteresis(self._rules()), is_admitted=self._admissions(video),
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
            final = FinalUtterances(self.engine.catalog)
            utterances = final.after(video, followed.words_after)
            lines = final.lines_after(video, followed.lines_after) if self.text_vectors.shape[1] else []
        if frames is not None and vectors is not None:
            self._follow_frames(video, followed, frames, new, vectors)
        for position, utterance in utterances:
            followed.words_after = position
            self._follow_utterance(video, followed, utterance)
        self._follow_lines(video, followed, lines)
        if not video.is_growing:
            self._deliver(video, followed.epoch, followed.tracks.finish(video.duration_seconds))
            self.ended[video.row] = _EndedVideo(
                version=video.version, epoch=followed.epoch, frames_after=followed.frames_after,
                words_after=followed.words_after, lines_after=followed.lines_after,
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
            words = match_words(utterance.words, standing.target.terms, utterance.language)
            moment = moment_of(
                video, utterance.start_seconds, utterance.end_seconds, confidence, transcript=utterance.text,
                words=words,
            )  # fmt: skip
            name = moment_id(moment, utterance.epoch, "speech")
            for kind in (ChangeKind.OPENED, ChangeKind.CLOSED):
                standing.deliver(MomentChange(moment_id=name, kind=kind, moment=moment))

    def _follow_lines(self, video: Video, followed: _FollowedVideo, lines: Sequence[tuple[int, TextLine]]) -> None:
        """Deliver the screens to the queries that they answer, when the line that answers best begins to stand.

        A line that goes on in the next segment is a line in each, and is delivered once.
        """
        if not lines:
            return
        vectors = self.engine.sentences.encode([line.text for _, line in lines])
        rows = [
            TextLineRow(row=video.row, position=position, line=line, vector=vector)
            for (position, line), vector in zip(lines, vectors, strict=True)
        ]
        new = []
        for n, (position, line) in enumerate(lines):
            if abs(followed.standing.get(line.text, -math.inf) - line.start_seconds) > SAME_SECONDS:
                new.append(n)
            followed.standing[line.text], followed.lines_after = line.end_seconds, position
        first = lines[0][1].start_seconds
        followed.standing = {text: end for text, end in followed.standing.items() if end >= first}
        cosines = vectors[new] @ self.text_vectors.T
        near = (cosines >= NEAR_COSINE) & followed.is_admitted
        for line, slot in zip(*np.nonzero(near), strict=True):
            self._follow_line(video, rows[new[line]], rows, int(slot))

    def _follow_line(self, video: Video, row: TextLineRow, rows: Sequence[TextLineRow], slot: int) -> None:
        """Deliver the screen of a new line to the query in a slot, if it answers and no cooldown lasts."""
        standing, line = self.slots[slot], row.line
        if standing is None or line.start_seconds < standing.ready_text_seconds.get(video.row, 0.0):
            return
        confidence, screen = judge_line(row, rows, standing.target)
        if confidence < standing.thresholds.enter:
            return
        standing.ready_text_seconds[video.row] = line.end_seconds + standing.thresholds.cooldown_seconds
        moment = moment_of(
            video, line.start_seconds, line.end_seconds, confidence, matched_text=screen.matched, is_written=True
        )
        name = moment_id(moment, line.epoch, "text")
        for kind in (ChangeKind.OPENED, ChangeKind.CLOSED):
            standing.deliver(MomentChange(moment_id=name, kind=kind, moment=moment))


def _admits(standing: StandingQuery, video: Video | None) -> bool:
    """Return whether a query asks about a video; None: it is deleted."""
    return video is not None and standing.query.filter.admits(video)
