"""VideoFlow: turns the decoded pictures and sound of one video into records of segments, without threads or a broker.

The caller encodes pictures and windows of speech in batches across videos, and may return the results in any order.
The records depend only on the order of the video's own chunks.
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
from ingest.stream.chunk_order import Session
from ingest.stream.stream_clock import MAX_LAG_SECONDS, EpochPart
from ingest.values import SAMPLE_RATE_HZ, Frame, MediaInfo
from serve.codec.records import Gap, SegmentRecord
from serve.video_warnings import FileFacts
from serve.worker.picture_text import EncodedLine, PictureText, lines_in
from temporal.config import WindowConfig
from temporal.values import Pooling
from temporal.window import ALL_HEARD, CutSegment, EncodedFrame, EncodedUtterance, WindowCutter

MAX_GAPS = 64  # bounds the gaps that wait for a final segment; further gaps are counted into the last of them
# A whole file may store pictures this much later than sound of the same time, or sound than pictures. What its open
# windows hold meanwhile takes some 40 MB. A live stream has MAX_LAG_SECONDS.
MAX_FILE_LAG_SECONDS = 3600.0
SAME_SECONDS = 1e-6  # a checkpoint changes media times by less than this


@dataclass(slots=True, eq=False)
class Step:
    """The new pictures of one chunk, until they are encoded and cut; or the end of an epoch or of the video."""

    placed: EpochPart | None  # None: the end
    frames: tuple[Frame, ...] = ()
    vectors: NDArray[np.float32] | None = None
    is_last: bool = False  # with no `placed`: of the video
    end_seconds: float = 0.0  # media time
    needed: tuple[int, float] = (0, 0.0)  # epoch and media time before which no segment is open
    is_reading: bool = False  # whether the text in the pictures is still to be read
    lines: tuple[EncodedLine, ...] | None = None  # of the video so far, from `needed` on; None: it has no reader

    @property
    def is_done(self) -> bool:
        return (not self.frames or self.vectors is not None) and not self.is_reading


@dataclass(slots=True, eq=False)
class TrackedSpeech:
    """A window of speech, until its words are known and every segment that holds them is final."""

    window: SpeechWindow
    run_start: tuple[int, int]  # epoch, and its sample at which reading must begin to find the window again
    is_done: bool = False
    language: str | None = None  # of the video, as known before this window was transcribed

    @property
    def start(self) -> tuple[int, float]:
        return self.window.epoch, self.window.start_seconds

    @property
    def end(self) -> tuple[int, float]:
        return self.window.epoch, self.window.end_seconds


@dataclass(frozen=True, slots=True)
class _Origin:
    """The part of the video that came in one Kafka record."""

    epoch: int
    start_seconds: float
    end_seconds: float
    append_seconds: float


@dataclass(frozen=True, slots=True)
class NotedGap:
    """A gap that is not in a final segment yet."""

    epoch: int
    place: tuple[Session, int]  # session and sequence of the first chunk
    gap: Gap


@dataclass(slots=True, kw_only=True, eq=False)
class Submission:
    """The pictures and windows of speech of one chunk, for the caller to encode."""

    step: Step
    speech: list[TrackedSpeech] = field(default_factory=list)


class VideoFlow:
    """Turns the decoded parts of one video into records of segments."""

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
        facts: FileFacts | None = None,
        text: PictureText | None = None,
    ) -> None:
        """Begin with a video's first chunk, or go on with a later one.

        `first` is the epoch and index of the first segment that is not final, `heard_from` the epoch and sample of the
        first sound that is still needed. `facts` are those of a whole file, for its warnings. `text`
        reads the pictures; None: nobody does.
        """
        self.collection, self.video_id = collection, video_id
        self.uri, self.metadata = uri, dict(metadata or {})
        self.fingerprint = fingerprint
        self.media = media
        self.cutter = WindowCutter(video_id, window, pooling, first=first, is_file=facts is not None)
        self._language = language
        self.gaps: list[NotedGap] = []
        self.anchors: list[tuple[int, float, float]] = []  # epoch, media time, wall clock
        self._transcriber, self._facts, self.text = transcriber, facts, text
        self._lines: tuple[EncodedLine, ...] = ()  # as known after the last step
        self._lag_seconds = MAX_LAG_SECONDS if facts is None else MAX_FILE_LAG_SECONDS
        self._speech_stream: SpeechStream | None = None
        self._heard_from = heard_from
        self._epoch_starts: dict[int, float] = {}
        self._steps: deque[Step] = deque()
        self._speech: list[TrackedSpeech] = []
        self._origins: list[_Origin] = []
        self._place = (0, 0.0, 0.0)  # epoch, its start, media time at which everything placed ends
        self._sound_end_seconds = 0.0
        self._has_ended = False  # the epoch

    # ---- input

    def place(self, placed: EpochPart, *, append_seconds: float, recorded_time: float | None) -> Submission:
        """Take the new part of one chunk, and return its pictures and windows of speech to be encoded."""
        self.media = self.media or placed.media
        self._has_ended = False
        self._epoch_starts[placed.epoch] = placed.epoch_start_seconds
        self._place = (placed.epoch, placed.epoch_start_seconds, placed.end_seconds)
        self._origins.append(_Origin(placed.epoch, placed.start_seconds, placed.end_seconds, append_seconds))
        if recorded_time is not None:
            self.anchors.append((placed.epoch, placed.start_seconds, recorded_time))
        step = self._open_step(placed, is_reading=bool(placed.frames))
        self._steps.append(step)
        return Submission(step=step, speech=self._cut_speech(placed))

    def end(self, *, is_last: bool) -> Submission:
        """End the current epoch, and with it the video if `is_last`; return the last windows of speech."""
        speech = [] if self._speech_stream is None else self._track(self._speech_stream.finish())
        self._has_ended = True
        step = self._open_step(None, is_reading=True, is_last=is_last)
        self._steps.append(step)
        return Submission(step=step, speech=speech)

    def note_gap(self, gap: Gap, *, epoch: int, session: Session) -> None:
        """Take a gap, for the record of the segment in which it lies. Consecutive gaps of one reason become one."""
        last = self.gaps[-1] if self.gaps else None
        if last is not None and last.epoch == epoch and gap.at_seconds - last.gap.at_seconds < SAME_SECONDS:
            following = last.place[0], last.place[1] + last.gap.chunk_count
            is_next = following == (session, gap.first_sequence) and last.gap.reason == gap.reason
            if is_next or len(self.gaps) >= MAX_GAPS:
                count = min(last.gap.chunk_count + gap.chunk_count, sys.maxsize)
                self.gaps[-1] = replace(last, gap=replace(last.gap, chunk_count=count))
                return
        self.gaps.append(NotedGap(epoch, (session, gap.first_sequence), gap))

    def add_words(self, speech: TrackedSpeech, spoken: Sequence[Utterance], vectors: NDArray[np.float32]) -> None:
        """Take the utterances of a window of speech and their vectors, float32 (U, E)."""
        if self._facts is not None:
            self._facts.take_words(speech.window.speech, spoken)
        speech.is_done, speech.language = True, self._language
        self._language = speech.window.stream.language or self._language
        self.cutter.add_utterances(
            [EncodedUtterance(utterance=said, vector=vector) for said, vector in zip(spoken, vectors, strict=True)]
        )

    # ---- output

    @property
    def is_settled(self) -> bool:
        """Whether everything that was placed is encoded."""
        return not self._steps and all(speech.is_done for speech in self._speech)

    @property
    def end_seconds(self) -> float:
        """Media time at which the last placed part ends."""
        return self._place[2]

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings of a whole file, once it is done; a live stream has none here."""
        return () if self._facts is None else self._facts.warnings(self._transcriber)

    def records(self) -> Iterator[SegmentRecord]:
        """Yield a record of each segment that holds more than in its last record, in order."""
        while self._steps and self._steps[0].is_done:
            self._settle(self._steps.popleft())
        for segment in self.cutter.segments(self._heard_until()):
            yield self._record_of(segment)
        self._forget()

    @property
    def needed(self) -> tuple[int, float] | None:
        """The epoch and media time from which on pictures are still needed; None: nothing is open."""
        waiting = [(step.placed.epoch, step.placed.start_seconds) for step in self._steps if step.placed is not None]
        return min([*waiting[:1], *filter(None, [self.cutter.needed])], default=None)

    @property
    def language(self) -> str | None:
        """The language as known before the first window of speech still needed: the next worker begins with it."""
        return next((speech.language for speech in self._speech if speech.is_done), self._language)

    def speech_start(self) -> tuple[int, int]:
        """Return the epoch, and the sample in it, from which on sound is still needed."""
        epoch, _, start = self.cutter.open_segment
        needed = [speech.run_start for speech in self._speech if not speech.is_done or speech.end > (epoch, start)]
        stream = self._speech_stream
        if stream is not None and stream.run_start_seconds is not None:
            needed.append(self._sample(stream.epoch, stream.run_start_seconds))
        else:
            needed.append(max(self._heard_from, self._sample(self._place[0], self._sound_end_seconds)))
        return min(needed)

    # ---- internal

    def _open_step(self, placed: EpochPart | None, *, is_reading: bool, is_last: bool = False) -> Step:
        epoch, _, start = self.cutter.open_segment
        return Step(
            placed, () if placed is None else placed.frames, is_last=is_last, end_seconds=self._place[2],
            needed=(epoch, start), is_reading=is_reading and self.text is not None,
        )  # fmt: skip

    def _cut_speech(self, placed: EpochPart) -> list[TrackedSpeech]:
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
        windows: list[SpeechWindow] = list(stream.finish()) if placed.opens_epoch else []
        for sound in placed.sounds:
            begin = self._heard_from[1] if sound.epoch == self._heard_from[0] else 0
            cut = begin - self._sample(sound.epoch, sound.start_seconds)[1]
            self._sound_end_seconds = sound.end_seconds
            if sound.epoch < self._heard_from[0] or cut >= len(sound.samples):
                continue
            if cut > 0:  # an earlier worker has transcribed that
                at = self._epoch_starts[sound.epoch] + begin / SAMPLE_RATE_HZ
                sound = type(sound)(epoch=sound.epoch, start_seconds=at, samples=sound.samples[cut:])
            windows += stream.push(sound)
        if placed.end_seconds - self._sound_end_seconds > self._lag_seconds:
            windows += stream.finish()
        return self._track(windows)

    def _track(self, windows: Sequence[SpeechWindow]) -> list[TrackedSpeech]:
        speech = [TrackedSpeech(window, self._sample(window.epoch, window.run_start_seconds)) for window in windows]
        self._speech += speech
        return speech

    def _sample(self, epoch: int, seconds: float) -> tuple[int, int]:
        return epoch, round((seconds - self._epoch_starts.get(epoch, 0.0)) * SAMPLE_RATE_HZ)

    def _heard_until(self) -> tuple[int, float]:
        """Return the epoch and media time before which all words are known."""
        for speech in self._speech:
            if not speech.is_done:
                return speech.start
        stream = self._speech_stream
        if stream is None:
            return ALL_HEARD
        since = stream.open_since_seconds
        epoch, _, end = self._place
        if since is not None:
            return stream.epoch, since
        if self._facts is None or self._has_ended:
            return epoch, end
        return epoch, max(self._sound_end_seconds, end - self._lag_seconds)  # sound may still come

    def _settle(self, step: Step) -> None:
        placed = step.placed
        if step.lines is not None:
            self._lines = step.lines
        if placed is None:
            self.cutter.finish(is_last=step.is_last)
            return
        frames = [
            EncodedFrame(
                pts_seconds=frame.pts_seconds,
                vector=np.zeros(0, np.float32) if step.vectors is None else step.vectors[n],
                thumbnail=frame.thumbnail,
            )
            for n, frame in enumerate(step.frames)
        ]
        self.cutter.add_frames(
            placed.epoch,
            frames,
            start_seconds=placed.epoch_start_seconds,
            end_seconds=placed.end_seconds,
            whole_seconds=placed.whole_seconds,
        )

    def _record_of(self, cut: CutSegment) -> SegmentRecord:
        assert self.media is not None
        span, epoch = cut.segment.span, cut.segment.epoch
        appended = [
            origin.append_seconds
            for origin in self._origins
            if origin.epoch == epoch
            and origin.start_seconds < span.end_seconds
            and origin.end_seconds > span.start_seconds
        ]
        begin = cut.introduces.start_seconds - SAME_SECONDS
        end = math.inf if cut.ends_epoch else cut.introduces.end_seconds - SAME_SECONDS
        gaps = [noted for noted in self.gaps if noted.epoch == epoch and begin <= noted.gap.at_seconds < end]
        if cut.is_final:
            self.gaps = [noted for noted in self.gaps if noted not in gaps]
        vectors = [one.vector for one in cut.spoken]
        written = lines_in(
            self._lines, epoch, replace(cut.introduces, end_seconds=end) if cut.ends_epoch else cut.introduces
        )
        return SegmentRecord(
            segment=cut.segment,
            collection=self.collection,
            video_id=self.video_id,
            revision=cut.revision,
            is_final=cut.is_final,
            frames=cut.frames,
            thumbnails=cut.thumbnails,
            utterances=tuple(one.utterance for one in cut.spoken),
            utterance_vectors=np.stack(vectors) if vectors else np.zeros((0, 0), np.float32),
            continued_count=cut.continued_count,
            lines=tuple(one.line for one in written),
            line_vectors=np.stack([one.vector for one in written]) if written else np.zeros((0, 0), np.float32),
            fingerprint=self.fingerprint,
            watermark_seconds=max(self.cutter.watermark_seconds, span.end_seconds if cut.is_final else 0.0),
            source_append_time=min(appended, default=0.0),
            newest_append_time=max(appended, default=0.0),
            recorded_time=self._recorded_time(epoch, span.start_seconds),
            gaps=tuple(noted.gap for noted in gaps),
            uri=self.uri,
            metadata=self.metadata,
            media=self.media,
            is_last=cut.is_last,
            warnings=self.warnings if cut.is_last and cut.is_final else (),
        )

    def _recorded_time(self, epoch: int, seconds: float) -> float | None:
        """Return the wall clock at a media time, from the last anchor before it, or else the first after it."""
        anchors = [(at, wall) for anchor_epoch, at, wall in self.anchors if anchor_epoch == epoch]
        if not anchors:
            return None
        at, wall = max((anchor for anchor in anchors if anchor[0] <= seconds), default=anchors[0])
        return wall + (seconds - at)

    def _forget(self) -> None:
        """Drop what no further record needs."""
        epoch, _, start = self.cutter.open_segment
        self._speech = [speech for speech in self._speech if not speech.is_done or speech.end > (epoch, start)]
        self._origins = [part for part in self._origins if (part.epoch, part.end_seconds) >= (epoch, start)]
        older = [anchor for anchor in self.anchors if anchor[:2] <= (epoch, start)]
        self.anchors = self.anchors[max(0, len(older) - 1) :]
