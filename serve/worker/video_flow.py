"""One video on its way from decoded pictures and sound to records of segments. Knows no thread, no clock, no broker.

Pictures and windows of speech are encoded elsewhere, in batches with those of other videos, and come back in any order.
What is published depends on the order of the video's own chunks only.
"""

import math
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from encoders.speech.whisper import SpeechStream, SpeechWindow, Transcriber
from encoders.values import Utterance
from ingest.stream.stream_clock import MAX_LAG_SECONDS, EpochPart
from ingest.values import SAMPLE_RATE_HZ, Frame, MediaInfo
from serve.codec.records import Gap, SegmentRecord
from temporal.config import WindowConfig
from temporal.values import Pooling
from temporal.window import ALL_HEARD, CutSegment, EncodedFrame, EncodedUtterance, WindowCutter

MAX_GAPS = 64  # that no final segment tells of yet; more are told of as one, however many chunks do not decode
SAME_SECONDS = 1e-6  # media times that went through a checkpoint differ by less


@dataclass(slots=True, eq=False)
class Step:
    """What one chunk brought, until its pictures are encoded."""

    placed: EpochPart | None  # None: the end of the video, or of what is known of it
    frames: tuple[Frame, ...] = ()
    vectors: NDArray[np.float32] | None = None
    is_last: bool = False  # with no `placed`: of the video

    @property
    def is_done(self) -> bool:
        return not self.frames or self.vectors is not None


@dataclass(slots=True, eq=False)
class Speech:
    """A window of speech, until its words are known and no segment needs them."""

    window: SpeechWindow
    run_start: tuple[int, int]  # epoch, and the sample of it: where reading must begin to find the window again
    is_done: bool = False
    language: str | None = None  # that was known when it was transcribed

    @property
    def start(self) -> tuple[int, float]:
        return self.window.epoch, self.window.start_seconds

    @property
    def end(self) -> tuple[int, float]:
        return self.window.epoch, self.window.end_seconds


@dataclass(frozen=True, slots=True)
class _Origin:
    """Which part of the video a Kafka record became."""

    epoch: int
    start_seconds: float
    end_seconds: float
    append_seconds: float


@dataclass(frozen=True, slots=True)
class NotedGap:
    """A gap that no final segment tells of yet."""

    epoch: int
    place: tuple[int, int]  # session and sequence of the first chunk
    gap: Gap


@dataclass(slots=True, kw_only=True, eq=False)
class Submission:
    """What a chunk brought that is to be encoded."""

    step: Step
    speech: list[Speech] = field(default_factory=list)


class VideoFlow:
    """Turns what was decoded of one video into segments."""

    def __init__(
        self,
        collection: str,
        video_id: str,
        *,
        transcriber: Transcriber | None,
        window: WindowConfig,
        pooling: Pooling,
        fingerprint: str,
        uri: str = "",
        metadata: Mapping[str, str] | None = None,
        first: tuple[int, int] = (0, 0),
        heard_from: tuple[int, int] = (0, 0),
        language: str | None = None,
        media: MediaInfo | None = None,
    ) -> None:
        """Begin with a video's first chunk, or go on with a later one.

        Args:
            first: Epoch and index of the first segment that is not final.
            heard_from: Epoch and sample of the first sound that is still needed.
        """
        self.collection, self.video_id = collection, video_id
        self.uri, self.metadata = uri, dict(metadata or {})
        self.fingerprint = fingerprint
        self.media = media
        self.windows = WindowCutter(video_id, window, pooling, first=first)
        self._language = language
        self.gaps: list[NotedGap] = []
        self.anchors: list[tuple[int, float, float]] = []  # epoch, media time, wall clock
        self._transcriber = transcriber
        self._speech_stream: SpeechStream | None = None
        self._heard_from = heard_from
        self._epoch_starts: dict[int, float] = {}
        self._steps: deque[Step] = deque()
        self._speech: list[Speech] = []
        self._origins: list[_Origin] = []
        self._place = (0, 0.0, 0.0)  # epoch, its start, media time at which everything placed ends
        self._sound_end_seconds = 0.0

    # ---- in

    def place(self, placed: EpochPart, *, append_seconds: float, recorded_time: float | None) -> Submission:
        """Take what is new in one chunk, and return what is to be encoded of it."""
        self.media = self.media or placed.media
        self._epoch_starts[placed.epoch] = placed.epoch_start_seconds
        self._place = (placed.epoch, placed.epoch_start_seconds, placed.end_seconds)
        self._origins.append(_Origin(placed.epoch, placed.start_seconds, placed.end_seconds, append_seconds))
        if recorded_time is not None:
            self.anchors.append((placed.epoch, placed.start_seconds, recorded_time))
        step = Step(placed, placed.frames)
        self._steps.append(step)
        return Submission(step=step, speech=self._listen(placed))

    def end(self, *, is_last: bool) -> Submission:
        """End the video, or the epoch that is going on: words need not be waited for any more."""
        found = [] if self._speech_stream is None else self._kept(self._speech_stream.finish())
        step = Step(None, is_last=is_last)
        self._steps.append(step)
        return Submission(step=step, speech=found)

    def note_gap(self, gap: Gap, *, epoch: int, session: int) -> None:
        """Remember what is missing, for the segment it is missing from; what follows upon each other is one gap."""
        last = self.gaps[-1] if self.gaps else None
        if last is not None and last.epoch == epoch and gap.at_seconds - last.gap.at_seconds < SAME_SECONDS:
            following = last.place[0], last.place[1] + last.gap.chunk_count
            is_next = following == (session, gap.first_sequence) and last.gap.reason == gap.reason
            if is_next or len(self.gaps) >= MAX_GAPS:
                count = min(last.gap.chunk_count + gap.chunk_count, sys.maxsize)
                self.gaps[-1] = replace(last, gap=replace(last.gap, chunk_count=count))
                return
        self.gaps.append(NotedGap(epoch, (session, gap.first_sequence), gap))

    def transcribed(self, speech: Speech, spoken: Sequence[Utterance], vectors: NDArray[np.float32]) -> None:
        """Take the words of a window of speech."""
        speech.is_done, speech.language = True, self._language
        self._language = speech.window.stream.language or self._language
        self.windows.hear(
            [EncodedUtterance(utterance=said, vector=vector) for said, vector in zip(spoken, vectors, strict=True)]
        )

    # ---- out

    @property
    def is_settled(self) -> bool:
        """Whether everything that came is encoded."""
        return not self._steps and all(speech.is_done for speech in self._speech)

    @property
    def end_seconds(self) -> float:
        """Media time at which what came so far ends."""
        return self._place[2]

    def records(self) -> Iterator[SegmentRecord]:
        """Yield the segments that are known better than before, in order."""
        while self._steps and self._steps[0].is_done:
            self._settle(self._steps.popleft())
        for segment in self.windows.segments(self._heard()):
            yield self._record(segment)
        self._forget()

    @property
    def needed(self) -> tuple[int, float] | None:
        """The epoch and media time from which on pictures are still needed; None: nothing is open."""
        coming = [(one.placed.epoch, one.placed.start_seconds) for one in self._steps if one.placed is not None]
        return min([*coming[:1], *filter(None, [self.windows.needed])], default=None)

    @property
    def language(self) -> str | None:
        """The language to go on with: what was known before the first window of speech that is still needed."""
        return next((speech.language for speech in self._speech if speech.is_done), self._language)

    def speech_start(self) -> tuple[int, int]:
        """Return the epoch and the sample of it from which on sound is still needed."""
        epoch, _, start = self.windows.open_segment
        needed = [one.run_start for one in self._speech if not one.is_done or one.end > (epoch, start)]
        stream = self._speech_stream
        if stream is not None and stream.run_start_seconds is not None:
            needed.append(self._sample(stream.epoch, stream.run_start_seconds))
        else:
            needed.append(max(self._heard_from, self._sample(self._place[0], self._sound_end_seconds)))
        return min(needed)

    # ---- within

    def _listen(self, placed: EpochPart) -> list[Speech]:
        if placed.opens_epoch or not self._sound_end_seconds:
            self._sound_end_seconds = placed.epoch_start_seconds
        has_sound = placed.media.audio_codec is not None
        if self._speech_stream is None and self._transcriber is not None and has_sound:
            self._speech_stream = self._transcriber.open_stream(self._language)
        stream = self._speech_stream
        if stream is None:
            if placed.sounds:
                self._sound_end_seconds = placed.sounds[-1].end_seconds
            return []
        found: list[SpeechWindow] = list(stream.finish()) if placed.opens_epoch else []
        for sound in placed.sounds:
            begin = self._heard_from[1] if sound.epoch == self._heard_from[0] else 0
            cut = begin - self._sample(sound.epoch, sound.start_seconds)[1]
            self._sound_end_seconds = sound.end_seconds
            if sound.epoch < self._heard_from[0] or cut >= len(sound.samples):
                continue
            if cut > 0:  # what a worker before this one has dealt with
                at = self._epoch_starts[sound.epoch] + begin / SAMPLE_RATE_HZ
                sound = type(sound)(epoch=sound.epoch, start_seconds=at, samples=sound.samples[cut:])
            found += stream.push(sound)
        if placed.end_seconds - self._sound_end_seconds > MAX_LAG_SECONDS:
            found += stream.finish()
        return self._kept(found)

    def _kept(self, windows: Sequence[SpeechWindow]) -> list[Speech]:
        found = [Speech(window, self._sample(window.epoch, window.run_start_seconds)) for window in windows]
        self._speech += found
        return found

    def _sample(self, epoch: int, seconds: float) -> tuple[int, int]:
        return epoch, round((seconds - self._epoch_starts.get(epoch, 0.0)) * SAMPLE_RATE_HZ)

    def _heard(self) -> tuple[int, float]:
        """Return the epoch and media time before which all words are known."""
        for speech in self._speech:
            if not speech.is_done:
                return speech.start
        stream = self._speech_stream
        if stream is None:
            return ALL_HEARD
        since = stream.open_since_seconds
        epoch, _, end = self._place
        return (epoch, end) if since is None else (stream.epoch, since)

    def _settle(self, step: Step) -> None:
        placed = step.placed
        if placed is None:
            self.windows.finish(is_last=step.is_last)
            return
        seen = [
            EncodedFrame(
                pts_seconds=frame.pts_seconds,
                vector=np.zeros(0, np.float32) if step.vectors is None else step.vectors[n],
                thumbnail=frame.thumbnail,
            )
            for n, frame in enumerate(step.frames)
        ]
        self.windows.extend(
            placed.epoch,
            seen,
            start_seconds=placed.epoch_start_seconds,
            end_seconds=placed.end_seconds,
            whole_seconds=placed.whole_seconds,
        )

    def _record(self, live: CutSegment) -> SegmentRecord:
        assert self.media is not None
        span, epoch = live.segment.span, live.segment.epoch
        appended = [
            origin.append_seconds
            for origin in self._origins
            if origin.epoch == epoch
            and origin.start_seconds < span.end_seconds
            and origin.end_seconds > span.start_seconds
        ]
        begin = live.introduces.start_seconds - SAME_SECONDS
        end = math.inf if live.ends_epoch else live.introduces.end_seconds - SAME_SECONDS
        gaps = [noted for noted in self.gaps if noted.epoch == epoch and begin <= noted.gap.at_seconds < end]
        if live.is_final:
            self.gaps = [one for one in self.gaps if one not in gaps]
        vectors = [one.vector for one in live.spoken]
        return SegmentRecord(
            segment=live.segment,
            collection=self.collection,
            video_id=self.video_id,
            revision=live.revision,
            is_final=live.is_final,
            frames=live.frames,
            thumbnails=live.thumbnails,
            utterances=tuple(one.utterance for one in live.spoken),
            utterance_vectors=np.stack(vectors) if vectors else np.zeros((0, 0), np.float32),
            continued_count=live.continued_count,
            fingerprint=self.fingerprint,
            watermark_seconds=max(self.windows.watermark_seconds, span.end_seconds if live.is_final else 0.0),
            source_append_time=min(appended, default=0.0),
            newest_append_time=max(appended, default=0.0),
            recorded_time=self._recorded_time(epoch, span.start_seconds),
            gaps=tuple(noted.gap for noted in gaps),
            uri=self.uri,
            metadata=self.metadata,
            media=self.media,
            is_last=live.is_last,
        )

    def _recorded_time(self, epoch: int, seconds: float) -> float | None:
        """Return the wall clock at a media time: that of the chunk it lies in, or of the nearest one known."""
        mine = [(at, wall) for one, at, wall in self.anchors if one == epoch]
        if not mine:
            return None
        at, wall = max((one for one in mine if one[0] <= seconds), default=mine[0])
        return wall + (seconds - at)

    def _forget(self) -> None:
        """Let go of what no segment to come needs."""
        epoch, _, start = self.windows.open_segment
        self._speech = [one for one in self._speech if not one.is_done or one.end > (epoch, start)]
        self._origins = [one for one in self._origins if (one.epoch, one.end_seconds) >= (epoch, start)]
        older = [one for one in self.anchors if one[:2] <= (epoch, start)]
        self.anchors = self.anchors[max(0, len(older) - 1) :]
