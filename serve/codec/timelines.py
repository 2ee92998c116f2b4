"""Requests and answers over the time of one video <-> kinodex.v1: storyboards and similarity curves."""

from dataclasses import replace

from kinodex.v1 import library_service_pb2 as library
from kinodex.v1 import search_service_pb2 as search
from serve.codec.fields import (
    channel_message,
    channel_value,
    duration_message,
    duration_value,
    escape_surrogates,
    span_message,
    span_value,
)
from serve.codec.messages import moment_message, moment_value, query_message
from serve.codec.requests import MAX_ANSWER_COUNT, VideoReference, moments_query, read_reference, read_span
from serve.codec.rows import write_rows
from serve.codec.violations import Violations
from serve.timeline import ScoredPart, SimilarityCurve, VideoStoryboard
from serve.values import Filter, Query
from temporal.values import TimeSpan

DEFAULT_PICTURE_COUNT, MAX_PICTURE_COUNT = 60, 1_000
DEFAULT_POINT_COUNT, MAX_POINT_COUNT = 500, 2_000


# ------------------------------------------------------------------ storyboards


def storyboard_request(request: library.GetStoryboardRequest) -> tuple[VideoReference, TimeSpan | None, int]:
    """Read a request for a storyboard: the video, the part (None: all of it) and the number of pictures.

    Raises:
        RequestInvalid: With all mistakes of the request.
    """
    violations = Violations()
    reference = read_reference(violations, request)
    span = read_span(violations, "span", request.span) if request.HasField("span") else None
    count = violations.read_count("picture_count", request.picture_count, DEFAULT_PICTURE_COUNT, MAX_PICTURE_COUNT)
    violations.check()
    return reference, span, count


def storyboard_message(storyboard: VideoStoryboard) -> library.GetStoryboardResponse:
    return library.GetStoryboardResponse(
        picture_offsets=map(duration_message, storyboard.picture_seconds),
        span=span_message(storyboard.span.start_seconds, storyboard.span.end_seconds),
        shot_offsets=map(duration_message, storyboard.shot_seconds),
    )


def storyboard_value(message: library.GetStoryboardResponse) -> VideoStoryboard:
    start, end = span_value(message.span)
    return VideoStoryboard(
        span=TimeSpan(start_seconds=start, end_seconds=end),
        picture_seconds=tuple(map(duration_value, message.picture_offsets)),
        shot_seconds=tuple(map(duration_value, message.shot_offsets)),
    )


# ------------------------------------------------------------------ curves
def curve_request(request: search.GetSimilarityCurveRequest) -> tuple[Query, TimeSpan | None, int]:
    """Read a request for a curve: the question, the part (None: all of it) and the number of points.

    The question's filter names the video.

    Raises:
        RequestInvalid: With all mistakes of the request.
    """
    violations = Violations()
    reference = read_reference(violations, request)
    span = read_span(violations, "span", request.span) if request.HasField("span") else None
    count = violations.read_count("point_count", request.point_count, DEFAULT_POINT_COUNT, MAX_POINT_COUNT)
    question = search.SearchMomentsRequest(page_size=MAX_ANSWER_COUNT)
    if request.HasField("query"):
        question.query.CopyFrom(request.query)
    query = moments_query(question, violations)
    collections = None if reference.collection is None else (reference.collection,)
    only = Filter(collections=collections, video_ids=(reference.video_id,))
    return replace(query, filter=only), span, count


def write_curve_request(
    query: Query, video_id: str, collection: str, span: TimeSpan | None, point_count: int
) -> search.GetSimilarityCurveRequest:
    """Write a request for a curve. The query's filter does not count.

    Raises:
        RequestInvalid: If no request can carry the question.
    """
    return search.GetSimilarityCurveRequest(
        query=query_message(query),
        video_id=escape_surrogates(video_id),
        collection=escape_surrogates(collection),
        span=None if span is None else span_message(span.start_seconds, span.end_seconds),
        point_count=point_count,
    )


def curve_message(curve: SimilarityCurve) -> search.GetSimilarityCurveResponse:
    return search.GetSimilarityCurveResponse(
        span=span_message(curve.span.start_seconds, curve.span.end_seconds),
        visual_points=(
            search.CurvePoint(offset=duration_message(seconds), score=score) for seconds, score in curve.visual_points
        ),
        speech_parts=map(_part_message, curve.speech_parts),
        text_parts=map(_part_message, curve.text_parts),
        shot_offsets=map(duration_message, curve.shot_seconds),
        moments=write_rows(moment_message, curve.moments),
        degraded_channels=map(channel_message, curve.degraded_channels),
        live_is_behind=curve.is_live_behind,
    )


def curve_value(message: search.GetSimilarityCurveResponse) -> SimilarityCurve:
    """Read a curve.

    Raises:
        ValueError: As serve.codec.messages.moment_value().
    """
    start, end = span_value(message.span)
    return SimilarityCurve(
        span=TimeSpan(start_seconds=start, end_seconds=end),
        visual_points=tuple((duration_value(point.offset), point.score) for point in message.visual_points),
        speech_parts=tuple(map(_part_value, message.speech_parts)),
        text_parts=tuple(map(_part_value, message.text_parts)),
        shot_seconds=tuple(map(duration_value, message.shot_offsets)),
        moments=tuple(map(moment_value, message.moments)),
        degraded_channels=tuple(map(channel_value, message.degraded_channels)),
        is_live_behind=message.live_is_behind,
    )


def _part_message(part: ScoredPart) -> search.CurvePart:
    return search.CurvePart(
        span=span_message(part.span.start_seconds, part.span.end_seconds),
        score=part.score,
        text=escape_surrogates(part.text),
    )


def _part_value(message: search.CurvePart) -> ScoredPart:
    start, end = span_value(message.span)
    return ScoredPart(span=TimeSpan(start_seconds=start, end_seconds=end), score=message.score, text=message.text)
