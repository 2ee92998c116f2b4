"""What the library stores and answers. Times are media time in seconds, spans half-open."""

import hashlib
import itertools
import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Literal, Protocol

from ingest.values import MediaInfo
from temporal.values import ChangeKind, TimeSpan

Channel = Literal["visual", "speech", "all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSpace:
    """The encoders that a data directory's rows were made with. Rows of two spaces never meet in one answer."""

    visual: str  # name of the visual encoder, or "none"
    visual_fingerprint: str  # architecture + weights hash + preprocessing
    speech: str
    speech_fingerprint: str
    sentence: str
    sentence_fingerprint: str
    window: str  # the window grid and the fusion checkpoint, e.g. "16s/8s mean"

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change when any encoder or the window grid does."""
        text = "\n".join(f"{key}={value}" for key, value in sorted(asdict(self).items()))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def __str__(self) -> str:
        encoders = f"visual {self.visual}, speech {self.speech}, sentence {self.sentence}, segments {self.window}"
        return f"{self.fingerprint} ({encoders})"


@dataclass(frozen=True, slots=True, kw_only=True)
class WallClockAnchor:
    """A media time of a video, and the wall clock then; it goes on from there until the next one."""

    media_seconds: float
    unix_time: float  # seconds since 1970


@dataclass(frozen=True, slots=True, kw_only=True)
class Video:
    """One indexed video."""

    row: int  # the catalog's own key; never shown to a user
    video_id: str
    collection: str
    uri: str
    content_sha256: str
    media: MediaInfo
    duration_seconds: float
    frame_count: int
    segment_count: int
    utterance_count: int
    warnings: tuple[str, ...]  # e.g. "the file ends before its header says"
    indexed_time: float  # seconds since 1970, UTC
    metadata: Mapping[str, str] = field(default_factory=dict)  # what the caller said of it
    recorded_time: float | None = None  # when its first picture was recorded, seconds since 1970; None: not known
    is_live: bool = False  # fed by Kafka: its rows come, change and go
    is_ended: bool = True  # False: it grows
    watermark_seconds: float | None = None  # before it, everything is final; None: everywhere
    anchors: tuple[WallClockAnchor, ...] = ()  # of a live video, one an epoch, by media time; may be none
    version: int = 0  # grows with each change of a live video's rows

    @property
    def span(self) -> TimeSpan:
        """What there is of it, as far as its clock tells: the old end of a live video may be gone."""
        start = self.anchors[0].media_seconds if self.anchors else 0.0
        return TimeSpan(start_seconds=min(start, self.duration_seconds), end_seconds=self.duration_seconds)

    @property
    def is_growing(self) -> bool:
        """Whether it is live and goes on."""
        return self.is_live and not self.is_ended

    def is_final_until(self, seconds: float) -> bool:
        """Whether nothing before a media time will be revised."""
        return self.is_ended or self.watermark_seconds is None or seconds <= self.watermark_seconds

    def recorded_at(self, seconds: float) -> float | None:
        """Return when a media time was recorded, seconds since 1970; None: not known."""
        if not self.anchors:
            return None if self.recorded_time is None else self.recorded_time + seconds
        after = bisect_right(self.anchors, seconds, key=lambda anchor: anchor.media_seconds)
        anchor = self.anchors[max(0, after - 1)]
        return anchor.unix_time + seconds - anchor.media_seconds

    def recorded_spans(self, span: TimeSpan) -> Iterator[tuple[float, float]]:
        """Yield when a part of it was recorded, start and end: a span for each epoch, and none where it is not known.

        The clock of a live video jumps where an epoch begins, forward or back.
        """
        jumps = [a.media_seconds for a in self.anchors[1:] if span.start_seconds < a.media_seconds < span.end_seconds]
        edges = [span.start_seconds, *jumps, span.end_seconds]
        for start, end in itertools.pairwise(edges):
            recorded = self.recorded_at(start)
            if recorded is not None:
                yield recorded, recorded + end - start


class VideoState(StrEnum):
    """How far a video is."""

    PROCESSING = "PROCESSING"
    READY = "READY"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoStatus:
    """A video as a server tells of it, which may still be on its way in."""

    video_id: str
    collection: str
    uri: str
    state: VideoState
    progress: float = 0.0  # 0..1 while PROCESSING
    failure_reason: str = ""  # while FAILED, for a program: UPPER_SNAKE
    failure_message: str = ""  # while FAILED, for a person
    metadata: Mapping[str, str] = field(default_factory=dict)
    duration_seconds: float | None = None
    frame_count: int = 0
    utterance_count: int = 0
    indexed_time: float | None = None  # seconds since 1970, UTC
    recorded_time: float | None = None  # seconds since 1970, UTC
    warnings: tuple[str, ...] = ()
    content_sha256: str = ""
    is_live: bool = False  # it grows
    watermark_seconds: float | None = None  # of a live one: before it, nothing will be revised


class Verdict(StrEnum):
    """Whether an answer is one."""

    MATCH = "MATCH"
    WEAK = "WEAK"
    NO_MATCH = "NO_MATCH"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataCondition:
    """What one metadata value of a video must be: a text, or a number in a closed range. Without the key: not met."""

    key: str
    equals: str | None = None  # None: the range counts
    least: float = -math.inf
    greatest: float = math.inf

    def is_met_by(self, metadata: Mapping[str, str]) -> bool:
        value = metadata.get(self.key)
        if value is None or self.equals is not None:
            return value is not None and value == self.equals
        try:
            return self.least <= float(value) <= self.greatest
        except ValueError:
            return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which videos are asked: those that meet every condition."""

    collections: tuple[str, ...] | None = None  # None: every one
    video_ids: tuple[str, ...] = ()  # empty: every one
    metadata: tuple[MetadataCondition, ...] = ()
    recorded_from: float | None = None  # seconds since 1970; with it or the next, videos of unknown time are left out
    recorded_until: float | None = None  # exclusive
    min_duration_seconds: float = 0.0
    max_duration_seconds: float = math.inf

    @property
    def is_timed(self) -> bool:
        """Whether it asks for a time of recording."""
        return self.recorded_from is not None or self.recorded_until is not None

    def admits(self, video: Video) -> bool:
        """Whether a video is asked."""
        return (
            (self.collections is None or video.collection in self.collections)
            and (not self.video_ids or video.video_id in self.video_ids)
            and self.min_duration_seconds <= video.duration_seconds <= self.max_duration_seconds
            and all(condition.is_met_by(video.metadata) for condition in self.metadata)
            and self.admits_span(video, video.span)
        )

    def admits_span(self, video: Video, span: TimeSpan) -> bool:
        """Whether any of a part of a video was recorded within the time that is asked for."""
        if not self.is_timed:
            return True
        return any(
            (self.recorded_from is None or end > self.recorded_from)
            and (self.recorded_until is None or start < self.recorded_until)
            for start, end in video.recorded_spans(span)
        )


EVERYTHING = Filter()


@dataclass(frozen=True, slots=True, kw_only=True)
class MomentReference:
    """A part of a video, as the example of a "more like this" question."""

    video_id: str
    span: TimeSpan
    collection: str | None = None  # None: the one that has the video


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One question: by text, by a picture or an example of what is looked for, or by text and one of them."""

    text: str = ""
    image: bytes = b""  # a JPEG, PNG, WebP or other picture file
    image_name: str = "image"  # its name in errors
    like: MomentReference | None = None
    image_weight: float = 0.5  # 0..1: of the picture, or of the example, beside the text
    exclude_text: str = ""  # what the answers should not show or say
    channel: Channel = "all"
    filter: Filter = EVERYTHING
    min_confidence: float = 0.0  # 0..1: answers below are left out
    max_moments_per_video: int | None = None  # None: of a search the usual three, of moments no limit
    limit: int = 10

    def __post_init__(self) -> None:
        if not self.text.strip() and not self.image and self.like is None:
            raise ValueError("a query needs text, an image or an example")
        if self.image and self.like is not None:
            raise ValueError("a query takes an image or an example, not both")
        if self.limit < 1:
            raise ValueError(f"limit must be >= 1, got {self.limit}")
        if self.channel not in ("visual", "speech", "all"):
            raise ValueError(f"channel must be visual, speech or all, got {self.channel!r}")
        for name in ("image_weight", "min_confidence"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be 0 to 1, got {getattr(self, name)}")
        if self.max_moments_per_video is not None and self.max_moments_per_video < 1:
            raise ValueError(f"max_moments_per_video must be >= 1, got {self.max_moments_per_video}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedWord:
    """A word of the question as it was said."""

    text: str
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One answer: a span of one video."""

    video_id: str
    uri: str
    start_seconds: float
    end_seconds: float
    score: float  # comparable within one answer only; higher is closer
    confidence: float  # 0..1, comparable between answers
    verdict: Verdict
    visual_score: float | None  # None: the channel had nothing to say here
    speech_score: float | None
    transcript: str  # what is said in the span; may be empty
    matched_words: tuple[MatchedWord, ...]
    best_frame_seconds: float | None  # None: the video has no pictures
    final: bool = True  # False: a live stream may still revise it
    collection: str = "default"
    recorded_time: float | None = None  # when it begins by the wall clock, seconds since 1970; None: not known


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """When a moment that a standing query looks for begins and ends: see temporal.hysteresis."""

    enter: float = 0.7  # confidence from which it begins, 0..1
    leave: float = 0.5  # and under which it ends; at most `enter`
    min_seconds: float = 2.0  # shorter ones are nothing
    cooldown_seconds: float = 0.0  # after one ends, before the next of the same video may begin


@dataclass(frozen=True, slots=True, kw_only=True)
class MomentChange:
    """Something about a moment that a standing query found."""

    moment_id: str
    kind: ChangeKind
    moment: Moment


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoAnswer:
    """One video that answers a query, with its best moments, best first."""

    video_id: str
    uri: str
    score: float
    confidence: float
    verdict: Verdict
    moments: tuple[Moment, ...]
    collection: str = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Everything a query brought back, best first."""

    moments: tuple[Moment, ...] = ()  # of a moments query
    videos: tuple[VideoAnswer, ...] = ()  # of a search
    degraded_channels: tuple[str, ...] = field(default=())  # asked for, and not to be had: e.g. ("visual",)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexOutcome:
    """What became of one input of an indexing run."""

    video_id: str | None  # None: it failed before its bytes were known
    uri: str
    status: Literal["indexed", "unchanged", "failed"]
    duration_seconds: float | None = None
    frames: int = 0
    segments: int = 0
    utterances: int = 0
    error: str | None = None
    warnings: tuple[str, ...] = ()


class IndexProgress(Protocol):
    """Who watches an indexing run. Called from the thread that iterates the outcomes."""

    def expect(self, count: int) -> None:
        """Say how many inputs there are."""

    def note(self, line: str) -> None:
        """Say one line, e.g. which visual encoder was taken and why."""

    def start(self, uri: str) -> None:
        """Say that an input's bytes are being read."""

    def advance(self, uri: str, media_seconds: float, duration_seconds: float | None) -> None:
        """Say how far into an input decoding and encoding have come."""

    def finish(self, uri: str) -> None:
        """Say that an input is done, well or not."""
