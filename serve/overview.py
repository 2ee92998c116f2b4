"""Values that a server tells of itself: what it holds and does, and its state. Times of day are seconds since 1970."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

CheckState = Literal["ok", "note", "missing"]  # note: works, but could be better; missing: something cannot work
JobStateName = Literal["QUEUED", "RUNNING", "FAILED"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionSummary:
    """A collection, and what it holds."""

    collection: str
    video_count: int = 0  # READY videos, live ones included
    live_count: int = 0  # live streams that go on, among them
    processing_count: int = 0  # videos that wait or are being indexed
    failed_count: int = 0  # videos whose indexing failed lately
    duration_seconds: float = 0.0  # of all READY videos
    live_size_bytes: int = 0  # stored of live streams: pictures, vectors and words


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStatus:
    """A live stream, as a server knows it. Field names are those of the JSON output."""

    stream_id: str
    collection: str
    is_ended: bool
    start_seconds: float  # media time where it begins; earlier parts are deleted
    end_seconds: float  # media time where it ends, as far as is known
    watermark_seconds: float | None  # media time before which all is final; None: all is
    watermark_moved_time: float | None  # None: it did not
    picture_seconds: float | None  # media time of the newest picture; None: there is none
    picture_time: float | None  # when that was recorded; None: not known
    updated_time: float | None  # when the server last read something of it
    lag_seconds: float | None  # age of what was read last; None: it has ended
    last_error: str  # the newest fault, for people; empty: none
    last_error_seconds: float | None  # media time of the newest fault, at most one window before it


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """A job to index a video, as its callers see it. Field names are those of the JSON output."""

    video_id: str
    collection: str
    uri: str  # without secrets
    state: JobStateName
    progress: float  # 0..1
    failure_reason: str  # UPPER_SNAKE; empty unless FAILED
    failure_message: str
    attempt_count: int  # how often it was begun
    created_time: float
    changed_time: float  # of its state
    is_own: bool  # whether the caller who asks asked for it


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """The result of one check of the installation."""

    name: str = ""  # whoever runs the checks names their results
    state: CheckState
    detail: str
    remedy: str = ""  # what to do; empty if there is nothing to do


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderInfo:
    """An encoder that a server answers with."""

    kind: str  # visual, speech or sentence
    name: str
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """The state of a server. Field names are those of the JSON output."""

    version: str
    started_time: float
    encoders: tuple[EncoderInfo, ...]
    fingerprint: str  # of all encoders together
    video_count: int  # videos that questions search
    index_rows: Mapping[str, int]  # vectors by kind of row: segments, utterances, text_lines
    waiting_question_count: int  # questions that wait for a thread
    call_count: int  # calls in progress, this one included
    queued_job_count: int
    running_job_count: int
    failed_job_count: int
    spool_bytes: int  # uploads that wait to be indexed
    pending_events: Mapping[str, int]  # changes of events not delivered yet, at most, by sink
    is_live_behind: bool
    checks: tuple[CheckResult, ...]
