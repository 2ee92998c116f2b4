"""Values that the library stores and answers with. Times are media time in seconds, spans half-open."""

import hashlib
import itertools
import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Literal

from ingest.values import MediaInfo
from temporal.values import ChangeKind, TimeSpan

Channel = Literal["visual", "speech", "text", "all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSpace:
    """The encoders that a data directory's rows were made with. No answer mixes rows of two spaces."""

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
    """A media time of a video and its time of day. Both clocks run on together until the next anchor."""

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
    metadata: Mapping[str, str] = field(default_factory=dict)  # from the caller
    recorded_time: float | None = None  # when its start was recorded, seconds since 1970; None: not known
    is_live: bool = False  # fed by Kafka: its rows are added, changed and deleted
    is_ended: bool = True  # False: a live video that still grows
    watermark_seconds: float | None = None  # everything before it is final; None: everything is
    anchors: tuple[WallClockAnchor, ...] = ()  # of a live video, by media time, at most one in each epoch
    version: int = 0  # grows with each change of a live video's rows
    text_line_count: int = 0  # lines of text read in its pictures
    is_searchable: bool = True  # False: its vectors are of other encoders than the library's; `warnings` says why

    @property
    def span(self) -> TimeSpan:
        """The span that is still there, as far as the anchors tell: the start of a live video may be pruned."""
        start = self.anchors[0].media_seconds if self.anchors else 0.0
        return TimeSpan(start_seconds=min(start, self.duration_seconds), end_seconds=self.duration_seconds)

    @property
    def is_growing(self) -> bool:
        """Whether it is live and has not ended."""
        return self.is_live and not self.is_ended

    def is_final_until(self, seconds: float) -> bool:
        """Whether no revision will change anything before a media time."""
        return self.is_ended or self.watermark_seconds is None or seconds <= self.watermark_seconds

    def recorded_at(self, seconds: float) -> float | None:
        """Return when a media time was recorded, seconds since 1970; None: not known."""
        if not self.anchors:
            return None if self.recorded_time is None else self.recorded_time + seconds
        after = bisect_right(self.anchors, seconds, key=lambda anchor: anchor.media_seconds)
        anchor = self.anchors[max(0, after - 1)]
        return anchor.unix_time + seconds - anchor.media_seconds

    def recorded_spans(self, span: TimeSpan) -> Iterator[tuple[float, float]]:
        """Yield start and end of the times of day at which a part was recorded, for each epoch with a known clock.

        The clock of a live video jumps, forward or back, where an epoch begins.
        """
        jumps = [a.media_seconds for a in self.anchors[1:] if span.start_seconds < a.media_seconds < span.end_seconds]
        edges = [span.start_seconds, *jumps, span.end_seconds]
        for start, end in itertools.pairwise(edges):
            recorded = self.recorded_at(start)
            if recorded is not None:
                yield recorded, recorded + end - start


@dataclass(frozen=True, slots=True, kw_only=True)
class Speaker:
    """Somebody who speaks in one video. Nobody is recognised in another video."""

    number: int  # from 1, in the order of first words
    name: str  # that a person gave; empty: none
    utterance_count: int
    speech_seconds: float  # of these utterances together
    start_seconds: float  # of the first one

    @property
    def label(self) -> str:
        """The name, or "speaker 1"."""
        return self.name or f"speaker {self.number}"


class VideoState(StrEnum):
    """Progress of a video through indexing."""

    PROCESSING = "PROCESSING"
    READY = "READY"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoStatus:
    """A video as a server lists it; it may still wait to be indexed."""

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
    is_live: bool = False  # a live video that still grows
    watermark_seconds: float | None = None  # of a live video: no revision changes anything before it


class Verdict(StrEnum):
    """How sure a moment is to answer the query."""

    MATCH = "MATCH"
    WEAK = "WEAK"
    NO_MATCH = "NO_MATCH"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataCondition:
    """A metadata value that a video must have: a text, or a number in a closed range. A video without the key fails."""

    key: str
    equals: str | None = None  # None: the range applies
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
    """Which videos a query searches: those that meet every condition."""

    collections: tuple[str, ...] | None = None  # None: every collection
    video_ids: tuple[str, ...] = ()  # empty: every video
    metadata: tuple[MetadataCondition, ...] = ()
    recorded_from: float | None = None  # seconds since 1970; this and the next bar videos of unknown time
    recorded_until: float | None = None  # exclusive
    min_duration_seconds: float = 0.0
    max_duration_seconds: float = math.inf

    @property
    def is_timed(self) -> bool:
        """Whether it has a condition on the time of recording."""
        return self.recorded_from is not None or self.recorded_until is not None

    def admits(self, video: Video) -> bool:
        """Whether a video meets every condition."""
        return (
            (self.collections is None or video.collection in self.collections)
            and (not self.video_ids or video.video_id in self.video_ids)
            and self.min_duration_seconds <= video.duration_seconds <= self.max_duration_seconds
            and all(condition.is_met_by(video.metadata) for condition in self.metadata)
            and self.admits_span(video, video.span)
        )

    def admits_span(self, video: Video, span: TimeSpan) -> bool:
        """Whether some of a part of a video was recorded within the times of the filter."""
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
    """A part of a video, as the example of a "more like this" query."""

    video_id: str
    span: TimeSpan
    collection: str | None = None  # None: the collection that has the video


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One query: a text, an image or an example of what to find, or a text with either."""

    text: str = ""
    image: bytes = b""  # a JPEG, PNG, WebP or other picture file
    image_name: str = "image"  # its name in errors
    like: MomentReference | None = None
    image_weight: float = 0.5  # 0..1: weight of the image or the example beside the text
    exclude_text: str = ""  # what answers should not show or say
    channel: Channel = "all"
    speaker: str = ""  # only what they say: the number of a speaker in each video, or a name; empty: anybody
    filter: Filter = EVERYTHING
    min_confidence: float = 0.0  # 0..1: answers below it are left out
    max_moments_per_video: int | None = None  # None: three in a search, no limit for moments
    limit: int = 10

    def __post_init__(self) -> None:
        if not self.text.strip() and not self.image and self.like is None:
            raise ValueError("a query needs text, an image or an example")
        if self.image and self.like is not None:
            raise ValueError("a query takes an image or an example, not both")
        if self.limit < 1:
            raise ValueError(f"limit must be >= 1, got {self.limit}")
        if self.channel not in ("visual", "speech", "text", "all"):
            raise ValueError(f"channel must be visual, speech, text or all, got {self.channel!r}")
        if self.speaker and (self.channel not in ("all", "speech") or not self.text.strip()):
            raise ValueError("a speaker needs a text, and the channel all or speech")
        for name in ("image_weight", "min_confidence"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be 0 to 1, got {getattr(self, name)}")
        if self.max_moments_per_video is not None and self.max_moments_per_video < 1:
            raise ValueError(f"max_moments_per_video must be >= 1, got {self.max_moments_per_video}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedWord:
    """A word of the query as it was spoken."""

    text: str
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedText:
    """A line of text in the picture that the query matched. The text is untrusted: anybody can hold up a sign."""

    text: str
    box: tuple[float, float, float, float]  # left, top, right, bottom, in shares of the picture's size
    start_seconds: float  # while it stands in the picture
    end_seconds: float
    confidence: float  # 0..1, that of the reader


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
    visual_score: float | None  # None: the channel found nothing here
    speech_score: float | None
    transcript: str  # words spoken in the span; may be empty
    matched_words: tuple[MatchedWord, ...]
    best_frame_seconds: float | None  # None: the video has no pictures
    final: bool = True  # False: a live stream may still revise it
    collection: str = "default"
    recorded_time: float | None = None  # time of day at its start, seconds since 1970; None: not known
    text_score: float | None = None  # None: the text channel found nothing here
    matched_text: tuple[MatchedText, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """When a moment of a standing query begins and ends; see temporal.hysteresis."""

    enter: float = 0.7  # confidence at which a moment begins, 0..1
    leave: float = 0.5  # confidence below which it ends; at most `enter`
    min_seconds: float = 2.0  # shorter moments are ignored
    cooldown_seconds: float = 0.0  # pause after a moment before the next one of the same video


@dataclass(frozen=True, slots=True, kw_only=True)
class MomentChange:
    """A change of a moment that a standing query found."""

    moment_id: str
    kind: ChangeKind
    moment: Moment


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoAnswer:
    """A video that answers a query, with its best moments, best first."""

    video_id: str
    uri: str
    score: float
    confidence: float
    verdict: Verdict
    moments: tuple[Moment, ...]
    collection: str = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """All answers to a query, best first."""

    moments: tuple[Moment, ...] = ()  # of moments()
    videos: tuple[VideoAnswer, ...] = ()  # of search()
    degraded_channels: tuple[str, ...] = field(default=())  # channels that were not available, e.g. ("visual",)
    is_live_behind: bool = False  # the server does not reach Kafka: live videos may lack their newest part


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexOutcome:
    """The outcome of one input of an indexing run."""

    video_id: str | None  # None: it failed before its bytes were read
    uri: str
    status: Literal["indexed", "unchanged", "failed"]
    duration_seconds: float | None = None
    frames: int = 0
    segments: int = 0
    utterances: int = 0
    error: str | None = None
    warnings: tuple[str, ...] = ()
    is_new_version: bool = False  # its bytes replaced older bytes of the same video


class IndexProgress:
    """Observes an indexing run: here without effect. The thread that iterates the outcomes calls it."""

    def expect(self, count: int) -> None:
        """Take the number of inputs."""

    def leave_out(self, counts: Mapping[str, int]) -> None:
        """Take how many files of folders are no inputs, by suffix."""

    def note(self, line: str) -> None:
        """Take a line for people, e.g. which visual encoder was chosen and why."""

    def start(self, uri: str) -> None:
        """Take note that reading an input begins."""

    def advance(self, uri: str, media_seconds: float, duration_seconds: float | None) -> None:
        """Take how far decoding and encoding of an input are."""

    def finish(self, uri: str) -> None:
        """Take note that an input is done or failed."""
