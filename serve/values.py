"""What the library stores and answers. Times are media time in seconds, spans half-open."""

import hashlib
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ingest.values import MediaInfo

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
        return f"{self.fingerprint} (visual {self.visual}, speech {self.speech}, sentence {self.sentence})"


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


class Verdict(StrEnum):
    """Whether an answer is one."""

    MATCH = "MATCH"
    WEAK = "WEAK"
    NO_MATCH = "NO_MATCH"


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One question."""

    text: str = ""
    image: NDArray[np.uint8] | None = None  # (H, W, 3) RGB at the visual encoder's input size
    channel: Channel = "all"
    limit: int = 10
    collection: str | None = None  # None: every collection
    video_ids: tuple[str, ...] = ()  # empty: every video

    def __post_init__(self) -> None:
        if not self.text.strip() and self.image is None:
            raise ValueError("a query needs text or an image")
        if self.limit < 1:
            raise ValueError(f"limit must be >= 1, got {self.limit}")
        if self.channel not in ("visual", "speech", "all"):
            raise ValueError(f"channel must be visual, speech or all, got {self.channel!r}")


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
    matched_words: tuple[str, ...]
    best_frame_seconds: float | None  # None: the video has no pictures
    final: bool = True  # False: a live stream may still revise it


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoAnswer:
    """One video that answers a query, with its best moments, best first."""

    video_id: str
    uri: str
    score: float
    confidence: float
    verdict: Verdict
    moments: tuple[Moment, ...]


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

    def expected(self, count: int) -> None:
        """Say how many inputs there are."""

    def note(self, line: str) -> None:
        """Say one line, e.g. which visual encoder was taken and why."""

    def started(self, uri: str) -> None:
        """Say that an input's bytes are being read."""

    def advanced(self, uri: str, media_seconds: float, duration_seconds: float | None) -> None:
        """Say how far into an input decoding and encoding have come."""

    def finished(self, uri: str) -> None:
        """Say that an input is done, well or not."""
