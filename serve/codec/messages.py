"""serve.values -> kinodex.v1 messages and back, for the services and the client.

Each `x_message` has its `x_value`. A round trip keeps everything that the protos carry; times are rounded to the
nanosecond. serve.codec.requests reads requests on the server, with all checks.
"""

import math
from collections.abc import Iterable
from typing import TypeVar

from kinodex.v1 import library_service_pb2, moment_pb2, search_service_pb2
from serve.codec.fields import (
    channel_message,
    channel_value,
    duration_field,
    duration_message,
    escape_surrogates,
    matched_text_message,
    matched_text_value,
    matched_word_messages,
    matched_word_values,
    metadata_message,
    span_message,
    span_value,
    timestamp_field,
    timestamp_message,
    unescape_surrogates,
    verdict_message,
    verdict_value,
)
from serve.codec.rows import write_rows
from serve.errors import RequestInvalid
from serve.values import (
    Answer,
    Filter,
    MetadataCondition,
    Moment,
    MomentChange,
    MomentReference,
    Query,
    Thresholds,
    Video,
    VideoAnswer,
    VideoState,
    VideoStatus,
)
from temporal.values import ChangeKind

MAX_IMAGE_BYTES = 8 << 20  # of a question's picture, as the proto says

SearchRequest = TypeVar(
    "SearchRequest", search_service_pb2.SearchVideosRequest, search_service_pb2.SearchMomentsRequest
)


# ------------------------------------------------------------------ questions
def search_request(query: Query, *, page_size: int, page_token: str = "") -> search_service_pb2.SearchVideosRequest:
    """Write a question for videos.

    Raises:
        RequestInvalid: If no request can carry the question.
    """
    return _fill_question(search_service_pb2.SearchVideosRequest(page_size=page_size, page_token=page_token), query)


def moments_request(query: Query, *, page_size: int, page_token: str = "") -> search_service_pb2.SearchMomentsRequest:
    """Write a question for moments; raises as search_request() does."""
    return _fill_question(search_service_pb2.SearchMomentsRequest(page_size=page_size, page_token=page_token), query)


def _fill_question(request: SearchRequest, query: Query) -> SearchRequest:
    request.query.CopyFrom(query_message(query))
    request.filter.CopyFrom(_filter_message(query.filter))
    request.min_confidence = query.min_confidence
    request.max_moments_per_video = query.max_moments_per_video or 0
    return request


def query_message(query: Query) -> moment_pb2.Query:
    """Write a question without its filter; raises as search_request() does."""
    if len(query.image) > MAX_IMAGE_BYTES:
        raise RequestInvalid([("query.image", f"a server takes at most {MAX_IMAGE_BYTES >> 20} MiB")])
    return moment_pb2.Query(
        text=escape_surrogates(query.text),
        image=query.image,
        like=None if query.like is None else _example_message(query.like),
        exclude_text=escape_surrogates(query.exclude_text),
        image_weight=query.image_weight,
        channel=channel_message(query.channel),
        speaker=escape_surrogates(query.speaker),
    )


def _example_message(like: MomentReference) -> moment_pb2.MomentReference:
    return moment_pb2.MomentReference(
        video_id=escape_surrogates(like.video_id),
        span=span_message(like.span.start_seconds, like.span.end_seconds),
        collection=escape_surrogates(like.collection or ""),
    )


def _filter_message(query_filter: Filter) -> moment_pb2.Filter:
    if query_filter.collections is not None and not query_filter.collections:
        raise RequestInvalid([("filter.collections", "needs a collection: an empty list would mean every collection")])
    recorded = None
    if query_filter.is_timed:
        recorded = moment_pb2.TimeRange(
            start_time=timestamp_message(query_filter.recorded_from),
            end_time=timestamp_message(query_filter.recorded_until),
        )
    shortest, longest = query_filter.min_duration_seconds, query_filter.max_duration_seconds
    return moment_pb2.Filter(
        collections=map(escape_surrogates, query_filter.collections or ()),
        video_ids=map(escape_surrogates, query_filter.video_ids),
        metadata=map(_condition_message, query_filter.metadata),
        recorded=recorded,
        min_duration=duration_message(shortest) if shortest > 0 else None,
        max_duration=duration_message(longest) if longest < math.inf else None,
    )


def _condition_message(condition: MetadataCondition) -> moment_pb2.MetadataFilter:
    if condition.equals is not None:
        return moment_pb2.MetadataFilter(
            key=escape_surrogates(condition.key), equals=escape_surrogates(condition.equals)
        )
    least, greatest = condition.least, condition.greatest
    return moment_pb2.MetadataFilter(
        key=escape_surrogates(condition.key),
        range=moment_pb2.NumberRange(
            min=least if least > -math.inf else None, max=greatest if greatest < math.inf else None
        ),
    )


# ------------------------------------------------------------------ answers
def moment_message(moment: Moment) -> moment_pb2.Moment:
    best = moment.best_frame_seconds
    return moment_pb2.Moment(
        video_id=escape_surrogates(moment.video_id),
        uri=escape_surrogates(moment.uri),
        collection=escape_surrogates(moment.collection),
        span=span_message(moment.start_seconds, moment.end_seconds),
        start_time=timestamp_message(moment.recorded_time),
        score=moment.score,
        confidence=moment.confidence,
        verdict=verdict_message(moment.verdict),
        visual_score=moment.visual_score,
        speech_score=moment.speech_score,
        transcript=escape_surrogates(moment.transcript),
        matched_words=matched_word_messages(moment.matched_words),
        best_frame_offset=None if best is None else duration_message(best),
        final=moment.final,
        text_score=moment.text_score,
        matched_text=map(matched_text_message, moment.matched_text),
    )


def moment_change_message(change: MomentChange) -> search_service_pb2.WatchMomentsResponse:
    state = search_service_pb2.WatchMomentsResponse.State.Value(f"STATE_{change.kind}")
    return search_service_pb2.WatchMomentsResponse(
        state=state, moment=moment_message(change.moment), moment_id=change.moment_id
    )


def moment_change_value(message: search_service_pb2.WatchMomentsResponse) -> MomentChange:
    """Read a change of a moment.

    Raises:
        ValueError: For a kind of change that only a newer program knows.
    """
    state = search_service_pb2.WatchMomentsResponse.State.Name(message.state).removeprefix("STATE_")
    return MomentChange(moment_id=message.moment_id, kind=ChangeKind(state), moment=moment_value(message.moment))


def watch_request(query: Query, thresholds: Thresholds) -> search_service_pb2.WatchMomentsRequest:
    """Write a standing query; raises as search_request() does."""
    return search_service_pb2.WatchMomentsRequest(
        query=query_message(query),
        filter=_filter_message(query.filter),
        enter_confidence=thresholds.enter,
        leave_confidence=thresholds.leave,
        min_duration=duration_message(thresholds.min_seconds),
        cooldown=duration_message(thresholds.cooldown_seconds),
    )


def moment_value(message: moment_pb2.Moment) -> Moment:
    """Read a moment.

    Raises:
        ValueError: For a verdict that only a newer program knows.
    """
    start, end = span_value(message.span)
    return Moment(
        video_id=message.video_id,
        uri=unescape_surrogates(message.uri),
        collection=message.collection,
        start_seconds=start,
        end_seconds=end,
        recorded_time=timestamp_field(message, "start_time"),
        score=message.score,
        confidence=message.confidence,
        verdict=verdict_value(message.verdict),
        visual_score=message.visual_score if message.HasField("visual_score") else None,
        speech_score=message.speech_score if message.HasField("speech_score") else None,
        transcript=message.transcript,
        matched_words=matched_word_values(message.matched_words),
        best_frame_seconds=duration_field(message, "best_frame_offset"),
        final=message.final,
        text_score=message.text_score if message.HasField("text_score") else None,
        matched_text=tuple(map(matched_text_value, message.matched_text)),
    )


def _match_message(video: VideoAnswer) -> search_service_pb2.VideoMatch:
    return search_service_pb2.VideoMatch(
        video_id=escape_surrogates(video.video_id),
        uri=escape_surrogates(video.uri),
        collection=escape_surrogates(video.collection),
        score=video.score,
        confidence=video.confidence,
        verdict=verdict_message(video.verdict),
        moments=write_rows(moment_message, video.moments),
    )


def _match_value(message: search_service_pb2.VideoMatch) -> VideoAnswer:
    return VideoAnswer(
        video_id=message.video_id,
        uri=unescape_surrogates(message.uri),
        collection=message.collection,
        score=message.score,
        confidence=message.confidence,
        verdict=verdict_value(message.verdict),
        moments=tuple(map(moment_value, message.moments)),
    )


def search_response(answer: Answer, next_page_token: str = "") -> search_service_pb2.SearchVideosResponse:
    return search_service_pb2.SearchVideosResponse(
        videos=write_rows(_match_message, answer.videos),
        next_page_token=next_page_token,
        degraded_channels=map(channel_message, answer.degraded_channels),
        live_is_behind=answer.is_live_behind,
    )


def search_answer(message: search_service_pb2.SearchVideosResponse) -> Answer:
    """Read one page of a search. Raises ValueError as moment_value does."""
    return Answer(
        videos=tuple(map(_match_value, message.videos)),
        degraded_channels=_channel_values(message.degraded_channels),
        is_live_behind=message.live_is_behind,
    )


def moments_response(answer: Answer, next_page_token: str = "") -> search_service_pb2.SearchMomentsResponse:
    return search_service_pb2.SearchMomentsResponse(
        moments=write_rows(moment_message, answer.moments),
        next_page_token=next_page_token,
        degraded_channels=map(channel_message, answer.degraded_channels),
        live_is_behind=answer.is_live_behind,
    )


def moments_answer(message: search_service_pb2.SearchMomentsResponse) -> Answer:
    """Read one page of moments. Raises ValueError as moment_value does."""
    return Answer(
        moments=tuple(map(moment_value, message.moments)),
        degraded_channels=_channel_values(message.degraded_channels),
        is_live_behind=message.live_is_behind,
    )


def _channel_values(channels: Iterable[moment_pb2.Channel.ValueType]) -> tuple[str, ...]:
    return tuple(map(channel_value, channels))


# ------------------------------------------------------------------ videos
def ready_status(video: Video) -> VideoStatus:
    return VideoStatus(
        video_id=video.video_id,
        collection=video.collection,
        uri=video.uri,
        state=VideoState.READY,
        progress=1.0,
        metadata=video.metadata,
        duration_seconds=video.duration_seconds,
        frame_count=video.frame_count,
        utterance_count=video.utterance_count,
        indexed_time=video.indexed_time,
        recorded_time=video.recorded_time,
        warnings=video.warnings,
        content_sha256=video.content_sha256,
        is_live=video.is_growing,
        watermark_seconds=video.watermark_seconds if video.is_growing else None,
    )


def video_message(video: VideoStatus) -> library_service_pb2.Video:
    failure = None
    if video.failure_reason or video.failure_message:
        failure = library_service_pb2.Failure(
            reason=video.failure_reason, message=escape_surrogates(video.failure_message)
        )
    return library_service_pb2.Video(
        video_id=escape_surrogates(video.video_id),
        collection=escape_surrogates(video.collection),
        uri=escape_surrogates(video.uri),
        metadata=metadata_message(video.metadata),
        state=library_service_pb2.Video.State.Value(f"STATE_{video.state}"),
        progress=video.progress,
        failure=failure,
        duration=None if video.duration_seconds is None else duration_message(video.duration_seconds),
        frame_count=video.frame_count,
        utterance_count=video.utterance_count,
        index_time=timestamp_message(video.indexed_time),
        start_time=timestamp_message(video.recorded_time),
        warnings=map(escape_surrogates, video.warnings),
        content_sha256=video.content_sha256,
        live=video.is_live,
        watermark_offset=None if video.watermark_seconds is None else duration_message(video.watermark_seconds),
    )


def video_value(message: library_service_pb2.Video) -> VideoStatus:
    """Read a video.

    Raises:
        ValueError: For a state that only a newer program knows.
    """
    return VideoStatus(
        video_id=message.video_id,
        collection=message.collection,
        uri=unescape_surrogates(message.uri),
        state=VideoState(library_service_pb2.Video.State.Name(message.state).removeprefix("STATE_")),
        progress=message.progress,
        failure_reason=message.failure.reason,
        failure_message=message.failure.message,
        metadata=dict(message.metadata),
        duration_seconds=duration_field(message, "duration"),
        frame_count=message.frame_count,
        utterance_count=message.utterance_count,
        indexed_time=timestamp_field(message, "index_time"),
        recorded_time=timestamp_field(message, "start_time"),
        warnings=tuple(message.warnings),
        content_sha256=message.content_sha256,
        is_live=message.live,
        watermark_seconds=duration_field(message, "watermark_offset"),
    )
