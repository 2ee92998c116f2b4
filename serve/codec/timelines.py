"""Requests and answers over the time of one video <-> kinodex.v1: storyboards."""

from kinodex.v1 import library_service_pb2 as library
from serve.codec.fields import duration_message, duration_value, span_message, span_value
from serve.codec.requests import VideoReference, read_reference, read_span
from serve.codec.violations import Violations
from serve.timeline import VideoStoryboard
from temporal.values import TimeSpan

DEFAULT_PICTURE_COUNT, MAX_PICTURE_COUNT = 60, 1_000


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
