"""The windows of a video that is still coming in: segments as far as they are known, then final ones.

The cut is that of temporal.window, made bit by bit: of the windows of an epoch only the last is open, and those that
are final are forgotten. A segment introduces what lies in no window before its own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from encoders.values import FrameEmbeddings, Utterance
from temporal.config import WindowConfig
from temporal.values import Pooling, Segment, TimeSpan
from temporal.window import SLACK_SECONDS, overlaps, window_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class SpokenVector:
    """An utterance and the vector of its sentence."""

    utterance: Utterance
    vector: NDArray[np.float32]  # (D,), unit length; D is 0 without a sentence encoder


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenFrame:
    """One picture's time, vector and JPEG."""

    pts_seconds: float
    vector: NDArray[np.float32]  # (D,), unit length; D is 0 without a visual encoder
    thumbnail: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveSegment:
    """A segment as it is known now."""

    segment: Segment
    frames: FrameEmbeddings
    thumbnails: tuple[bytes, ...]  # of the last of `frames`: those it introduces
    spoken: tuple[SpokenVector, ...]
    continued_count: int  # of the first of `spoken`, which earlier segments hold too
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
    end_seconds: float
    whole_seconds: float  # before it no picture comes any more
    next_index: int  # the first window that is not final
    is_over: bool = False  # nothing comes any more
    is_last: bool = False  # of the video
    frames: list[SeenFrame] = field(default_factory=list)
    spoken: list[SpokenVector] = field(default_factory=list)
    published: dict[int, int] = field(default_factory=dict)  # index -> revision


class LiveWindows:
    """Cuts one video into segments while it comes in."""

    def __init__(
        self, video_id: str, config: WindowConfig, pooling: Pooling, *, first: tuple[int, int] = (0, 0)
    ) -> None:
        """Begin with a segment.

        Args:
            first: Epoch and index of the first segment that is not final; those before it are left out.
        """
        self._video_id, self._config, self._pooling, self._first = video_id, config, pooling, first
        self._epochs: list[_Epoch] = []
        self._early: list[SpokenVector] = []  # of an epoch whose pictures are still on their way
        self._final_seconds = 0.0

    @property
    def watermark_seconds(self) -> float:
        """Media time before which everything is final."""
        return self._final_seconds

    @property
    def needed(self) -> tuple[int, float] | None:
        """The epoch and media time from which on pictures are still needed; None: nothing is open."""
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

    def extend(
        self, epoch: int, frames: Sequence[SeenFrame], *, start_seconds: float, end_seconds: float, whole_seconds: float
    ) -> None:
        """Take what comes next, which ends at a media time. A new epoch ends the one before it.

        Args:
            start_seconds: Where the epoch begins.
            whole_seconds: Before it no picture comes any more; at most the end.
        """
        if epoch < self._first[0]:
            return
        current = self._epochs[-1] if self._epochs else None
        if current is None or current.epoch != epoch:
            if current is not None:
                current.is_over = True
            index = self._first[1] if epoch == self._first[0] else 0
            current = _Epoch(
                epoch=epoch,
                start_seconds=start_seconds,
                end_seconds=start_seconds,
                whole_seconds=start_seconds,
                next_index=index,
            )
            self._epochs.append(current)
            early, self._early = self._early, []
            self.hear(early)
        current.end_seconds = max(current.end_seconds, end_seconds)
        current.whole_seconds = max(current.whole_seconds, whole_seconds)
        current.frames += frames

    def hear(self, spoken: Sequence[SpokenVector]) -> None:
        """Take utterances, in any order."""
        by_number = {epoch.epoch: epoch for epoch in self._epochs}
        newest = max(by_number, default=-1)
        for one in spoken:
            if (epoch := by_number.get(one.utterance.epoch)) is not None:
                epoch.spoken.append(one)
                epoch.spoken.sort(key=lambda each: each.utterance.start_seconds)
            elif one.utterance.epoch > newest:
                self._early.append(one)

    def finish(self, *, is_last: bool) -> None:
        """End the epoch that is going on: nothing of it comes any more."""
        if self._epochs:
            self._epochs[-1].is_over = True
            self._epochs[-1].is_last = is_last

    def segments(self, heard: tuple[int, float]) -> Iterator[LiveSegment]:
        """Yield the segments that hold more than when they were last given out, in order.

        Args:
            heard: Epoch and media time before which all words are known.
        """
        are_final = True  # so far; what follows one that is not final is not final either
        for epoch in self._epochs:
            for index in self._indices(epoch):
                known = self._segment(epoch, index, heard, are_final)
                are_final = known.is_final
                if epoch.published.get(index, -1) < known.revision:
                    epoch.published[index] = known.revision
                    yield replace(known, segment=replace(known.segment, vector=self._vector(known)))
                if known.is_final:
                    epoch.next_index = index + 1
                    self._final_seconds = max(self._final_seconds, known.segment.span.end_seconds)
            self._forget(epoch)
        self._epochs = [
            epoch
            for epoch in self._epochs
            if epoch is self._epochs[-1] or self._start_of(epoch, epoch.next_index) is not None
        ]

    def _start_of(self, epoch: _Epoch, index: int) -> float | None:
        """Return where a window begins; None: there is no such window, and there will be none."""
        start = epoch.start_seconds + index * self._config.stride_seconds
        if not epoch.is_over or self._exists(epoch, index):
            return start
        return None

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

    def _vector(self, known: LiveSegment) -> NDArray[np.float32] | None:
        frames, said = known.frames, [one.utterance for one in known.spoken]
        sentences = np.stack([one.vector for one in known.spoken]) if said else np.zeros((0, 0), np.float32)
        tokens = window_tokens(known.segment.span, frames.pts_seconds, frames.vectors, said, sentences)
        [vector] = self._pooling.vectors([tokens])
        return vector

    def _segment(self, epoch: _Epoch, index: int, heard: tuple[int, float], may_be_final: bool) -> LiveSegment:
        """Return a window as it is known now, without its vector."""
        config = self._config
        start = epoch.start_seconds + index * config.stride_seconds
        full_end = start + config.length_seconds
        is_full = full_end < epoch.end_seconds - SLACK_SECONDS and full_end <= epoch.whole_seconds + SLACK_SECONDS
        span = TimeSpan(start_seconds=start, end_seconds=min(full_end, epoch.end_seconds))
        end = span.end_seconds
        introduced = start + (config.length_seconds - config.stride_seconds if index else 0.0)
        frames = [frame for frame in epoch.frames if start <= frame.pts_seconds < end]
        if not frames:  # a still: what is shown from before
            frames = [frame for frame in epoch.frames if frame.pts_seconds < start][-1:]
        spoken = [one for one in epoch.spoken if overlaps(one.utterance, span)]
        is_final = may_be_final and (is_full or epoch.is_over) and heard >= (epoch.epoch, end)
        ends_epoch = epoch.is_over and not self._exists(epoch, index + 1)
        vectors = np.stack([frame.vector for frame in frames]) if frames else np.zeros((0, 0), np.float32)
        return LiveSegment(
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
            continued_count=sum(one.utterance.start_seconds < introduced for one in spoken) if index else 0,
            is_final=is_final,
            ends_epoch=ends_epoch,
            is_last=is_final and epoch.is_last and ends_epoch,
            introduces=TimeSpan(start_seconds=min(introduced, end), end_seconds=end),
        )

    def _forget(self, epoch: _Epoch) -> None:
        """Let go of what no window to come needs."""
        start = epoch.start_seconds + epoch.next_index * self._config.stride_seconds
        shown = [n for n, frame in enumerate(epoch.frames) if frame.pts_seconds <= start]
        del epoch.frames[: shown[-1] if shown else 0]
        epoch.spoken = [one for one in epoch.spoken if one.utterance.end_seconds > start]
        epoch.published = {index: known for index, known in epoch.published.items() if index >= epoch.next_index}
