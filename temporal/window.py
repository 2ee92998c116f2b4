"""Cuts encoded pictures and utterances into windows, and makes a segment of each: of whole files and of live streams.

The windows of an epoch lie on a fixed grid that begins with the epoch; none crosses into another epoch. The last window
of an epoch is cut short at its end, and none lies wholly inside the one before it. A window in which no picture begins
holds the picture still shown from before, so static scenes are covered. Of a file, a window that holds just what the
one before it holds is left out, so that a gap of hours makes no thousands of segments.
"""

import math
import sys
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from encoders.values import FrameEmbeddings, Utterance
from temporal.config import WindowConfig
from temporal.values import Pooling, Segment, TimeSpan, WindowTokens

SLACK_SECONDS = 1e-6  # sums of float strides; far under the microsecond that container timestamps resolve
POOLED_COUNT = 64  # windows that fusion reads together: their vectors are copies, 2 MB
ALL_HEARD = (sys.maxsize, math.inf)  # an epoch and media time after every word

_pts, _start = attrgetter("pts_seconds"), attrgetter("start_seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedFrame:
    """A picture's time, vector and JPEG."""

    pts_seconds: float
    vector: NDArray[np.float32]  # (D,), unit length; D is 0 without a visual encoder
    thumbnail: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedUtterance:
    """An utterance and the vector of its sentence."""

    utterance: Utterance
    vector: NDArray[np.float32]  # (E,), unit length; E is 0 without a sentence encoder

    @property
    def start_seconds(self) -> float:
        return self.utterance.start_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class CutSegment:
    """A segment as far as it is known now, with what its window holds."""

    segment: Segment
    frames: FrameEmbeddings
    thumbnails: tuple[bytes, ...]  # of the frames that it introduces, which are the last of `frames`
    spoken: tuple[EncodedUtterance, ...]  # all that overlap its span, in order of start
    continued_count: int  # utterances at the start of `spoken` that earlier segments hold too
    is_final: bool
    ends_epoch: bool
    is_last: bool  # of the video
    introduces: TimeSpan  # the part of its span that no earlier segment has

    @property
    def revision(self) -> int:
        """How much it holds: the same for the same content, and more for a final one than for any before it."""
        return len(self.frames.pts_seconds) + len(self.spoken) + self.is_final


@dataclass(slots=True, kw_only=True, eq=False)
class _Epoch:
    epoch: int
    start_seconds: float
    next_index: int  # the first window that is not final
    end_seconds: float = 0.0
    whole_seconds: float = 0.0  # every picture before this media time has arrived
    is_over: bool = False  # all of it has arrived
    is_last: bool = False  # of the video
    # In order of time; frames that no open window needs are dropped.
    frames: list[EncodedFrame] = field(default_factory=list)
    spoken: list[EncodedUtterance] = field(default_factory=list)  # in order of start
    published: dict[int, int] = field(default_factory=dict)  # index -> revision, of windows that are not final
    # index -> time of the only picture (-1: none), of windows without words, from the one before the next
    standing: dict[int, float] = field(default_factory=dict)


class WindowCutter:
    """Cuts one video into segments, at once or while it arrives.

    A window is final once its end and all its words are known. Frames and utterances that no open window needs are
    dropped.
    """

    def __init__(
        self,
        video_id: str,
        config: WindowConfig,
        pooling: Pooling,
        *,
        first: tuple[int, int] = (0, 0),
        is_file: bool = False,
    ) -> None:
        """Begin with the segment of an epoch and index.

        Args:
            first: The first segment that is not final; those before it are left out.
            is_file: Whether to leave out windows that hold just what the one before them holds: a picture that stands
                through them, or nothing. A file may have a gap of hours.
        """
        self._video_id, self._config, self._pooling, self._first = video_id, config, pooling, first
        self._is_file = is_file
        self._epochs: list[_Epoch] = []
        self._early: list[EncodedUtterance] = []  # of epochs whose pictures have not arrived yet
        self._final_seconds = 0.0

    @property
    def watermark_seconds(self) -> float:
        """Media time before which everything is final."""
        return self._final_seconds

    @property
    def needed(self) -> tuple[int, float] | None:
        """The epoch and media time from which on pictures are still needed; None: no window is open."""
        for epoch in self._epochs:
            if (start := self._start_of(epoch, epoch.next_index)) is not None:
                shown = [frame.pts_seconds for frame in epoch.frames if frame.pts_seconds <= start]
                return epoch.epoch, max(shown, default=start)
        return None

    @property
    def open_segment(self) -> tuple[int, int, float]:
        """The epoch, index and start of the first segment that is not final."""
        for epoch in self._epochs:
            if (start := self._start_of(epoch, epoch.next_index)) is not None:
                return epoch.epoch, epoch.next_index, start
        newest = self._epochs[-1] if self._epochs else None
        return (newest.epoch + 1, 0, newest.end_seconds) if newest is not None else (*self._first, 0.0)

    def add_frames(
        self,
        epoch: int,
        frames: Sequence[EncodedFrame],
        *,
        start_seconds: float,
        end_seconds: float,
        whole_seconds: float,
    ) -> None:
        """Take the next frames of an epoch. A new epoch ends the one before it.

        Args:
            start_seconds: Media time at which the epoch begins.
            end_seconds: Media time at which these frames, and the sound beside them, end.
            whole_seconds: All pictures before this media time have arrived; at most the end.
        """
        if epoch < self._first[0]:
            return
        current = self._epochs[-1] if self._epochs else None
        if current is None or current.epoch != epoch:
            if current is not None:
                current.is_over = True
            index = self._first[1] if epoch == self._first[0] else 0
            current = _Epoch(epoch=epoch, start_seconds=start_seconds, next_index=index)
            self._epochs.append(current)
            early, self._early = self._early, []
            self.add_utterances(early)
        current.end_seconds = max(current.end_seconds, current.start_seconds, end_seconds)
        current.whole_seconds = max(current.whole_seconds, current.start_seconds, whole_seconds)
        current.frames += frames

    def add_utterances(self, spoken: Sequence[EncodedUtterance]) -> None:
        """Take utterances, in any order of time."""
        by_number = {epoch.epoch: epoch for epoch in self._epochs}
        newest = max(by_number, default=-1)
        for one in spoken:
            if (epoch := by_number.get(one.utterance.epoch)) is not None:
                insort(epoch.spoken, one, key=_start)
            elif one.utterance.epoch > newest:
                self._early.append(one)

    def finish(self, *, is_last: bool) -> None:
        """End the current epoch: all of it has arrived."""
        if self._epochs:
            self._epochs[-1].is_over = True
            self._epochs[-1].is_last = is_last

    def segments(self, heard: tuple[int, float], *, pooled_count: int = 1) -> Iterator[CutSegment]:
        """Yield the segments that hold more than when they were last yielded, in order.

        Args:
            heard: Epoch and media time before which all words are known.
            pooled_count: Windows that fusion reads together. While they are yielded, other methods answer as after
                the last of them.
        """
        changed = self._changed_segments(heard)
        while some := list(islice(changed, pooled_count)):
            vectors = self._pooling.vectors([_tokens_of(one) for one in some])
            for one, vector in zip(some, vectors, strict=True):
                yield replace(one, segment=replace(one.segment, vector=vector))

    def _changed_segments(self, heard: tuple[int, float]) -> Iterator[CutSegment]:
        """Yield what segments() yields, without vectors."""
        are_final = True  # so far; what follows one that is not final is not final either
        for epoch in self._epochs:
            for index in self._indices(epoch):
                known = self._segment(epoch, index, heard, are_final)
                are_final = known.is_final
                is_repeat = self._is_file and self._is_repeat(epoch, index, known)
                if not is_repeat and epoch.published.get(index, -1) < known.revision:
                    epoch.published[index] = known.revision
                    yield known
                if known.is_final:
                    self._forget(epoch, index)
                    self._final_seconds = max(self._final_seconds, known.segment.span.end_seconds)
        self._epochs = [
            epoch
            for epoch in self._epochs
            if epoch is self._epochs[-1] or self._start_of(epoch, epoch.next_index) is not None
        ]

    def _is_repeat(self, epoch: _Epoch, index: int, known: CutSegment) -> bool:
        """Whether a window holds just what the one before it holds. Called for each in order."""
        pts = known.frames.pts_seconds
        if known.spoken or len(pts) > 1:
            epoch.standing.pop(index, None)
            return False
        shown = epoch.standing[index] = float(pts[0]) if len(pts) else -1.0
        return epoch.standing.get(index - 1) == shown and not known.ends_epoch

    def _start_of(self, epoch: _Epoch, index: int) -> float | None:
        """Return where a window begins; None: the epoch is over and has no such window."""
        exists = not epoch.is_over or self._exists(epoch, index)
        return epoch.start_seconds + index * self._config.stride_seconds if exists else None

    def _exists(self, epoch: _Epoch, index: int) -> bool:
        """Whether a window reaches further than the one before it."""
        if index == 0:
            return epoch.end_seconds > epoch.start_seconds or bool(epoch.frames)
        before = epoch.start_seconds + (index - 1) * self._config.stride_seconds
        return before + self._config.length_seconds < epoch.end_seconds - SLACK_SECONDS

    def _indices(self, epoch: _Epoch) -> Iterator[int]:
        index = epoch.next_index
        while self._exists(epoch, index):
            yield index
            index += 1

    def _segment(self, epoch: _Epoch, index: int, heard: tuple[int, float], may_be_final: bool) -> CutSegment:
        """Return a window as it is known now, without its vector."""
        config = self._config
        start = epoch.start_seconds + index * config.stride_seconds
        full_end = start + config.length_seconds
        goes_on = full_end < epoch.end_seconds - SLACK_SECONDS
        is_full = goes_on and full_end <= epoch.whole_seconds + SLACK_SECONDS
        end = full_end if goes_on else epoch.end_seconds
        span = TimeSpan(start_seconds=start, end_seconds=end)
        introduced = start + (config.length_seconds - config.stride_seconds if index else 0.0)
        frames = _frames_in(epoch.frames, span)
        until = bisect_left(epoch.spoken, end, key=_start)
        spoken = [one for one in epoch.spoken[:until] if overlaps(one.utterance, span)]
        is_final = may_be_final and (is_full or epoch.is_over) and heard >= (epoch.epoch, end)
        ends_epoch = epoch.is_over and not self._exists(epoch, index + 1)
        vectors = np.stack([frame.vector for frame in frames]) if frames else np.zeros((0, 0), np.float32)
        return CutSegment(
            segment=Segment(
                segment_id=f"{self._video_id}/{epoch.epoch}/{index}",
                epoch=epoch.epoch,
                index=index,
                span=span,
                vector=None,
            ),
            frames=FrameEmbeddings(
                epochs=np.full(len(frames), epoch.epoch, np.int32),
                pts_seconds=np.array([frame.pts_seconds for frame in frames], np.float64),
                vectors=vectors,
            ),
            thumbnails=tuple(frame.thumbnail for frame in frames if frame.pts_seconds >= introduced),
            spoken=tuple(spoken),
            continued_count=sum(one.start_seconds < introduced for one in spoken) if index else 0,
            is_final=is_final,
            ends_epoch=ends_epoch,
            is_last=is_final and epoch.is_last and ends_epoch,
            introduces=TimeSpan(start_seconds=min(introduced, end), end_seconds=end),
        )

    def _forget(self, epoch: _Epoch, index: int) -> None:
        """Take a window for final, and drop what no window after it needs."""
        epoch.published.pop(index, None)
        epoch.standing.pop(index - 1, None)
        epoch.next_index = index + 1
        start = epoch.start_seconds + epoch.next_index * self._config.stride_seconds
        shown = bisect_right(epoch.frames, start, key=_pts)
        del epoch.frames[: max(0, shown - 1)]
        ended = 0
        while ended < len(epoch.spoken) and epoch.spoken[ended].utterance.end_seconds <= start:
            ended += 1
        del epoch.spoken[:ended]


def cut_video(
    video_id: str,
    embeddings: FrameEmbeddings,
    utterances: Sequence[Utterance],
    sentences: NDArray[np.float32],
    *,
    duration_seconds: float,
    config: WindowConfig,
    pooling: Pooling,
    epoch_starts: Mapping[int, float] | None = None,
) -> Iterator[CutSegment]:
    """Cut a whole video into segments.

    Args:
        embeddings: All frames, in order; D may be 0.
        utterances: U utterances in order of start.
        sentences: float32 (U, E), unit: the vectors of the utterances.
        duration_seconds: Media time at which the last picture or sound ends.
        epoch_starts: Media time at which each epoch begins, those without a picture and an utterance too; None: with
            its first frame or utterance.
    Raises:
        ValueError: If the duration is not a number >= 0, or ends before the last frame begins.
    """
    if not (math.isfinite(duration_seconds) and duration_seconds >= 0):
        raise ValueError(f"duration_seconds must be a finite number >= 0, got {duration_seconds}")
    pts = embeddings.pts_seconds
    if len(pts) and pts[-1] > duration_seconds:
        raise ValueError(f"the last frame begins at {pts[-1]}, after the end at {duration_seconds}")
    starts = _starts_in_order(_epoch_starts(embeddings, utterances) if epoch_starts is None else epoch_starts)
    edges = [start for _, start in starts] + [duration_seconds]
    cutter = WindowCutter(video_id, config, pooling, is_file=True)
    for (epoch, start), end in zip(starts, edges[1:], strict=True):
        rows = range(*np.searchsorted(embeddings.epochs, (epoch, epoch + 1)))  # they are in order of epoch
        frames = [
            EncodedFrame(pts_seconds=float(pts[row]), vector=embeddings.vectors[row], thumbnail=b"") for row in rows
        ]
        end = max(start, end)
        cutter.add_frames(epoch, frames, start_seconds=start, end_seconds=end, whole_seconds=end)
    cutter.add_utterances(
        [EncodedUtterance(utterance=one, vector=vector) for one, vector in zip(utterances, sentences, strict=True)]
    )
    cutter.finish(is_last=True)
    yield from cutter.segments(ALL_HEARD, pooled_count=POOLED_COUNT)


def window_tokens(
    span: TimeSpan,
    pts_seconds: NDArray[np.float64],
    frames: NDArray[np.float32],
    utterances: Sequence[Utterance],
    sentences: NDArray[np.float32],
) -> WindowTokens:
    """Return what fusion reads of a window: media times become seconds from its start.

    Args:
        pts_seconds: float64 (F,) of the frames.
        frames: float32 (F, D).
        utterances: Those that overlap the window; U of them.
        sentences: float32 (U, E), their vectors.
    """
    middles = np.array([(one.start_seconds + one.end_seconds) / 2 for one in utterances], np.float64)
    return WindowTokens(
        frames=frames,
        frame_seconds=(pts_seconds - span.start_seconds).astype(np.float32),
        utterances=sentences,
        utterance_seconds=(middles - span.start_seconds).astype(np.float32),
    )


def overlaps(utterance: Utterance, span: TimeSpan) -> bool:
    """Whether some of an utterance is said in a span."""
    return utterance.start_seconds < span.end_seconds and utterance.end_seconds > span.start_seconds


def _tokens_of(cut: CutSegment) -> WindowTokens:
    sentences = np.stack([one.vector for one in cut.spoken]) if cut.spoken else np.zeros((0, 0), np.float32)
    utterances = [one.utterance for one in cut.spoken]
    return window_tokens(cut.segment.span, cut.frames.pts_seconds, cut.frames.vectors, utterances, sentences)


def _frames_in(frames: Sequence[EncodedFrame], span: TimeSpan) -> Sequence[EncodedFrame]:
    """Return the frames that begin in a span; where none does, the one that is shown through it."""
    first = bisect_left(frames, span.start_seconds, key=_pts)
    end = bisect_left(frames, span.end_seconds, key=_pts)
    if first < end:
        return frames[first:end]
    shown = bisect_right(frames, span.start_seconds, key=_pts)
    return frames[max(0, shown - 1) : shown]


def _epoch_starts(embeddings: FrameEmbeddings, utterances: Sequence[Utterance]) -> dict[int, float]:
    """Return the epochs that hold a frame or an utterance, with the media time at which each begins."""
    starts: dict[int, float] = {}
    first_frames = np.unique(embeddings.epochs, return_index=True)
    for epoch, first in zip(*first_frames, strict=True):
        starts[int(epoch)] = float(embeddings.pts_seconds[first])
    for utterance in utterances:
        known = starts.get(utterance.epoch, math.inf)
        starts[utterance.epoch] = min(known, utterance.start_seconds)
    return starts


def _starts_in_order(starts: Mapping[int, float]) -> list[tuple[int, float]]:
    # Media time begins with epoch 0, whatever is first seen or said in it.
    return sorted((epoch, start if epoch else 0.0) for epoch, start in starts.items())
