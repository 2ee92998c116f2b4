"""What a server lists of itself <-> kinodex.v1: collections, live streams, jobs and its state."""

from dataclasses import dataclass
from typing import get_args

from google.protobuf.duration_pb2 import Duration

from kinodex.v1 import library_service_pb2 as library
from kinodex.v1 import server_service_pb2 as server
from serve.codec.fields import (
    duration_field,
    duration_message,
    duration_value,
    escape_surrogates,
    timestamp_field,
    timestamp_message,
    timestamp_value,
    unescape_surrogates,
)
from serve.codec.requests import MAX_REFERENCE_CHARS, VideoReference, check_request_id, read_reference
from serve.codec.violations import Violations
from serve.overview import (
    CheckResult,
    CheckState,
    CollectionSummary,
    EncoderInfo,
    JobStateName,
    JobStatus,
    ServerInfo,
    StreamStatus,
)

DEFAULT_ROW_COUNT, MAX_ROW_COUNT = 100, 1_000  # collections, streams or jobs on a page


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRequest:
    """A request for a page of streams or jobs."""

    collections: tuple[str] | None  # None: all
    page_size: int


def collection_listing(request: library.ListCollectionsRequest) -> int:
    """Read the size of a page of collections; raises RequestInvalid, as all functions here that read requests."""
    violations = Violations()
    page_size = violations.read_page_size(request.page_size, DEFAULT_ROW_COUNT, MAX_ROW_COUNT)
    violations.check()
    return page_size


def page_request(request: server.ListStreamsRequest | server.ListJobsRequest) -> PageRequest:
    """Read which page of streams or jobs is asked for."""
    violations = Violations()
    violations.check_length("collection", request.collection, MAX_REFERENCE_CHARS)
    page_size = violations.read_page_size(request.page_size, DEFAULT_ROW_COUNT, MAX_ROW_COUNT)
    violations.check()
    return PageRequest(collections=(request.collection,) if request.collection else None, page_size=page_size)


def job_reference(request: server.GetJobRequest | server.CancelJobRequest) -> VideoReference:
    """Read whose job a request is about."""
    violations = Violations()
    reference = read_reference(violations, request)
    if isinstance(request, server.CancelJobRequest):
        check_request_id(violations, "request_id", request.request_id)
    violations.check()
    return reference


def collection_message(summary: CollectionSummary) -> library.Collection:
    return library.Collection(
        collection=escape_surrogates(summary.collection),
        video_count=summary.video_count,
        live_count=summary.live_count,
        processing_count=summary.processing_count,
        failed_count=summary.failed_count,
        duration=duration_message(summary.duration_seconds),
        live_size_bytes=summary.live_size_bytes,
    )


def collection_value(message: library.Collection) -> CollectionSummary:
    return CollectionSummary(
        collection=message.collection,
        video_count=message.video_count,
        live_count=message.live_count,
        processing_count=message.processing_count,
        failed_count=message.failed_count,
        duration_seconds=duration_value(message.duration),
        live_size_bytes=message.live_size_bytes,
    )


def stream_message(stream: StreamStatus) -> server.LiveStream:
    def offset(seconds: float | None) -> Duration | None:
        return None if seconds is None else duration_message(seconds)

    return server.LiveStream(
        stream_id=escape_surrogates(stream.stream_id),
        collection=escape_surrogates(stream.collection),
        state=server.LiveStream.STATE_ENDED if stream.is_ended else server.LiveStream.STATE_LIVE,
        start_offset=duration_message(stream.start_seconds),
        end_offset=duration_message(stream.end_seconds),
        watermark_offset=offset(stream.watermark_seconds),
        watermark_move_time=timestamp_message(stream.watermark_moved_time),
        latest_picture_offset=offset(stream.picture_seconds),
        latest_picture_time=timestamp_message(stream.picture_time),
        update_time=timestamp_message(stream.updated_time),
        lag=offset(stream.lag_seconds),
        last_error=escape_surrogates(stream.last_error),
        last_error_offset=offset(stream.last_error_seconds),
    )


def stream_value(message: server.LiveStream) -> StreamStatus:
    return StreamStatus(
        stream_id=message.stream_id,
        collection=message.collection,
        is_ended=message.state == server.LiveStream.STATE_ENDED,
        start_seconds=duration_value(message.start_offset),
        end_seconds=duration_value(message.end_offset),
        watermark_seconds=duration_field(message, "watermark_offset"),
        watermark_moved_time=timestamp_field(message, "watermark_move_time"),
        picture_seconds=duration_field(message, "latest_picture_offset"),
        picture_time=timestamp_field(message, "latest_picture_time"),
        updated_time=timestamp_field(message, "update_time"),
        lag_seconds=duration_field(message, "lag"),
        last_error=message.last_error,
        last_error_seconds=duration_field(message, "last_error_offset"),
    )


def job_message(job: JobStatus) -> server.Job:
    failure = None
    if job.failure_reason or job.failure_message:
        failure = library.Failure(reason=job.failure_reason, message=escape_surrogates(job.failure_message))
    return server.Job(
        video_id=escape_surrogates(job.video_id),
        collection=escape_surrogates(job.collection),
        uri=escape_surrogates(job.uri),
        state=server.Job.State.Value(f"STATE_{job.state}"),
        progress=job.progress,
        failure=failure,
        attempt_count=job.attempt_count,
        create_time=timestamp_message(job.created_time),
        change_time=timestamp_message(job.changed_time),
        own=job.is_own,
    )


def job_value(message: server.Job) -> JobStatus:
    """Read a job.

    Raises:
        ValueError: For a state that only a newer program knows.
    """
    name = server.Job.State.Name(message.state).removeprefix("STATE_")
    state = next((each for each in get_args(JobStateName) if each == name), None)
    if state is None:
        raise ValueError(f"a job is in the unknown state {name}")
    return JobStatus(
        video_id=message.video_id,
        collection=message.collection,
        uri=unescape_surrogates(message.uri),
        state=state,
        progress=message.progress,
        failure_reason=message.failure.reason,
        failure_message=message.failure.message,
        attempt_count=message.attempt_count,
        created_time=timestamp_value(message.create_time),
        changed_time=timestamp_value(message.change_time),
        is_own=message.own,
    )


def server_info_message(info: ServerInfo) -> server.GetServerInfoResponse:
    return server.GetServerInfoResponse(
        version=info.version,
        start_time=timestamp_message(info.started_time),
        encoders=(
            server.Encoder(kind=each.kind, name=escape_surrogates(each.name), fingerprint=each.fingerprint)
            for each in info.encoders
        ),
        fingerprint=info.fingerprint,
        video_count=info.video_count,
        index_rows=info.index_rows,
        waiting_question_count=info.waiting_question_count,
        call_count=info.call_count,
        queued_job_count=info.queued_job_count,
        running_job_count=info.running_job_count,
        failed_job_count=info.failed_job_count,
        spool_bytes=info.spool_bytes,
        pending_events=info.pending_events,
        live_is_behind=info.is_live_behind,
        checks=(
            server.Check(
                name=each.name,
                state=server.Check.State.Value(f"STATE_{each.state.upper()}"),
                detail=escape_surrogates(each.detail),
                remedy=escape_surrogates(each.remedy),
            )
            for each in info.checks
        ),
    )


def server_info_value(message: server.GetServerInfoResponse) -> ServerInfo:
    """Read the state of a server.

    Raises:
        ValueError: For an outcome of a check that only a newer program knows.
    """
    return ServerInfo(
        version=message.version,
        started_time=timestamp_value(message.start_time),
        encoders=tuple(
            EncoderInfo(kind=each.kind, name=each.name, fingerprint=each.fingerprint) for each in message.encoders
        ),
        fingerprint=message.fingerprint,
        video_count=message.video_count,
        index_rows=dict(message.index_rows),
        waiting_question_count=message.waiting_question_count,
        call_count=message.call_count,
        queued_job_count=message.queued_job_count,
        running_job_count=message.running_job_count,
        failed_job_count=message.failed_job_count,
        spool_bytes=message.spool_bytes,
        pending_events=dict(message.pending_events),
        is_live_behind=message.live_is_behind,
        checks=tuple(map(_check_value, message.checks)),
    )


def _check_value(message: server.Check) -> CheckResult:
    name = server.Check.State.Name(message.state).removeprefix("STATE_").lower()
    state = next((each for each in get_args(CheckState) if each == name), None)
    if state is None:
        raise ValueError(f"a check has the unknown outcome {name}")
    return CheckResult(name=message.name, state=state, detail=message.detail, remedy=message.remedy)
