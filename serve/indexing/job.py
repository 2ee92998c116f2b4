"""Values of the queue of videos to index: jobs, new jobs, their limits, and the identity of requests."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ingest.source.source import scheme_of
from serve.values import VideoState, VideoStatus

OWN_SCHEMES = ("http:", "https:", "file:")


class JobState(StrEnum):
    """State of a job. A job that succeeded has no row any more."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A video to index."""

    collection: str
    video_id: str
    uri: str = field(repr=False)  # fetched; may hold credentials, and is never shown
    display_uri: str  # shown, and stored with the video
    spool_name: str | None = None  # file of an upload, read instead of the URI
    metadata: Mapping[str, str] = field(default_factory=dict)
    recorded_time: float | None = None  # seconds since 1970
    caller: str = ""  # whose share of the queue it takes; empty: nobody is known
    size_bytes: int = 0  # of an upload's file

    def __post_init__(self) -> None:
        # A plain path is opened without the URI policy. So is "name:rest" if a file of that name exists, unless the
        # scheme is among OWN_SCHEMES.
        is_uri = "://" in self.uri or self.uri.lower().startswith(OWN_SCHEMES)
        if self.spool_name is None and (scheme_of(self.uri) is None or not is_uri):
            raise ValueError(f"a job needs a URI that cannot be taken for a path, got {self.display_uri!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A video that waits or is being indexed, or the reason why its indexing failed."""

    job_id: int  # never reused
    collection: str
    video_id: str
    uri_name: str | None  # file of serve.catalog.fetch_uris with the URI that is fetched; None: display_uri is fetched
    spool_name: str | None
    display_uri: str
    metadata: Mapping[str, str]
    recorded_time: float | None
    state: JobState
    progress: float  # 0..1
    failure_reason: str  # UPPER_SNAKE; empty unless FAILED
    failure_message: str
    attempt_count: int
    created_time: float  # seconds since 1970, as the next
    changed_time: float
    caller: str  # whose share of the queue it takes; empty: nobody is known

    def status(self) -> VideoStatus:
        """Return the video as a server lists it."""
        return VideoStatus(
            video_id=self.video_id,
            collection=self.collection,
            uri=self.display_uri,
            state=VideoState.FAILED if self.state is JobState.FAILED else VideoState.PROCESSING,
            progress=self.progress,
            failure_reason=self.failure_reason,
            failure_message=self.failure_message,
            metadata=self.metadata,
            recorded_time=self.recorded_time,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLimits:
    """How many videos may wait to be indexed."""

    total_count: int  # of all callers, the setting max_jobs
    caller_count: int  # of one known caller


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestKey:
    """Identity of a request: equal for a repeated request, different for any other."""

    principal: str  # the caller: others may use the same ids
    request_id: str
    method: str
    digest: str  # of the whole request
