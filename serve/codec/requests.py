"""kinodex.v1 requests -> checked values, for the services. The client writes requests with serve.codec.messages.

RequestInvalid names all mistakes of a request at once, each with the path of its field. The protos state the limits.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from kinodex.v1 import library_service_pb2 as library
from kinodex.v1 import moment_pb2
from kinodex.v1 import search_service_pb2 as search
from serve.codec.messages import MAX_IMAGE_BYTES
from serve.codec.violations import Violations, has_controls
from serve.text import printable
from serve.values import Filter, MetadataCondition, MomentReference, Query, Thresholds
from temporal.values import TimeSpan

MAX_TEXT_CHARS = 2_000  # of a question
DEFAULT_ENTER, DEFAULT_LEAVE, DEFAULT_MIN_SECONDS = 0.7, 0.5, 2.0  # of watched moments
DEFAULT_IMAGE_WEIGHT = 0.5
MAX_VIDEO_MOMENT_COUNT = 20
MAX_HIGHLIGHT_COUNT = 100
DEFAULT_ANSWER_COUNT, MAX_ANSWER_COUNT = 10, 100  # videos or moments on a page
DEFAULT_VIDEO_COUNT, MAX_VIDEO_COUNT = 100, 1_000  # videos on a page of ListVideos
MAX_FILTER_NAME_COUNT = 1_000  # collections in a filter, and videos
MAX_METADATA_COUNT, MAX_KEY_CHARS, MAX_VALUE_CHARS = 64, 64, 1_024
MAX_METADATA_CHARS = 16_384  # of all keys and values of a video: lists and answers carry them with each video
MAX_NAME_CHARS = 100  # of a speaker
MAX_REFERENCE_CHARS = 512  # of a name to look up: other programs may have given longer names than ours
MAX_URI_CHARS = 8_192  # signed URLs of object stores are shorter
MAX_FILENAME_CHARS = 255  # the limit of most file systems
MAX_REQUEST_ID_CHARS = 128

COLLECTION = re.compile(r"[A-Za-z0-9._-]{1,64}")
VIDEO_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
SHA256 = re.compile(r"[0-9A-Fa-f]{64}")
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:.")


# ------------------------------------------------------------------ requests
@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """The collection, the id and the description of a new video."""

    collection: str = "default"
    video_id: str = ""  # empty: the server derives it
    metadata: Mapping[str, str] = field(default_factory=dict)
    recorded_time: float | None = None  # seconds since 1970; None: unknown
    request_id: str = ""  # empty: a retry is a new request


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadInfo:
    """The header of an upload."""

    filename: str
    size_bytes: int  # 0: unknown
    sha256: str  # lower case; empty: do not check it
    placement: Placement


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoReference:
    """An existing video, named by its id."""

    video_id: str
    collection: str | None = None  # None: any collection that has the video


class NamesVideo(Protocol):
    """A message that names a video."""

    @property
    def video_id(self) -> str: ...

    @property
    def collection(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoListing:
    """A request for a page of videos."""

    collection: str | None  # None: all
    page_size: int


def search_query(request: search.SearchVideosRequest) -> Query:
    """Read a question for videos; `limit` is the size of the page.

    Raises:
        RequestInvalid: With all mistakes of the request, as for all functions here.
    """
    violations = Violations()
    if request.max_moments_per_video > MAX_VIDEO_MOMENT_COUNT:
        violations.add("max_moments_per_video", f"must be at most {MAX_VIDEO_MOMENT_COUNT}")
    return _read_query(violations, request)


def moments_query(request: search.SearchMomentsRequest, violations: Violations | None = None) -> Query:
    """Read a question for moments; `limit` is the size of the page. `violations` are mistakes found before."""
    return _read_query(violations or Violations(), request)


def standing_query(request: search.WatchMomentsRequest) -> tuple[Query, Thresholds]:
    """Read a standing query and its thresholds."""
    violations = Violations()
    enter = request.enter_confidence if request.HasField("enter_confidence") else DEFAULT_ENTER
    leave = request.leave_confidence if request.HasField("leave_confidence") else min(DEFAULT_LEAVE, enter)
    violations.check_share("enter_confidence", enter)
    violations.check_share("leave_confidence", leave)
    if leave > enter:
        violations.add("leave_confidence", f"must be at most enter_confidence = {enter:g}, got {leave:g}")
    min_seconds = DEFAULT_MIN_SECONDS
    if request.HasField("min_duration"):
        min_seconds = violations.read_duration("min_duration", request.min_duration)
    cooldown_seconds = violations.read_duration("cooldown", request.cooldown)
    if request.query.exclude_text:
        violations.add("query.exclude_text", "is not supported for watched moments")
    if request.query.speaker:
        violations.add("query.speaker", "is not supported for watched moments")
    question = search.SearchMomentsRequest(filter=request.filter)
    if request.HasField("query"):
        question.query.CopyFrom(request.query)
    query = moments_query(question, violations)
    return query, Thresholds(enter=enter, leave=leave, min_seconds=min_seconds, cooldown_seconds=cooldown_seconds)


def ingest_placement(request: library.IngestVideoRequest) -> Placement:
    """Read the placement of the video at `request.uri`; checks the URI too."""
    violations = Violations()
    violations.require_text("uri", request.uri, MAX_URI_CHARS)
    if request.uri and (not SCHEME.match(request.uri) or has_controls(request.uri)):
        violations.add("uri", "is not a URI, such as https://example.org/video.mp4")
    placement = _read_placement(violations, request)
    violations.check()
    return placement


def upload_info(header: library.UploadHeader) -> UploadInfo:
    """Read the first message of an upload."""
    violations = Violations()
    violations.require_text("header.filename", header.filename, MAX_FILENAME_CHARS)
    if header.filename in (".", "..") or any(char in "/\\" for char in header.filename):
        violations.add("header.filename", "must be a name, not a path")
    if has_controls(header.filename):
        violations.add("header.filename", "must not contain control characters")
    if header.size_bytes < 0:
        violations.add("header.size_bytes", f"must not be negative, got {header.size_bytes}")
    if header.sha256 and not SHA256.fullmatch(header.sha256):
        violations.add("header.sha256", "must be 64 hexadecimal digits")
    placement = _read_placement(violations, header, "header.")
    violations.check()
    return UploadInfo(
        filename=header.filename, size_bytes=header.size_bytes, sha256=header.sha256.lower(), placement=placement
    )


def video_reference(
    request: library.GetVideoRequest
    | library.DeleteVideoRequest
    | library.GetTranscriptRequest
    | library.GetChaptersRequest
    | library.GetFrameRequest
    | library.NameSpeakerRequest,
) -> VideoReference:
    """Read which video a request is about, and check its other fields."""
    violations = Violations()
    reference = read_reference(violations, request)
    if isinstance(request, library.GetChaptersRequest) and not 0 <= request.highlight_count <= MAX_HIGHLIGHT_COUNT:
        violations.add("highlight_count", f"must be 0 to {MAX_HIGHLIGHT_COUNT}, got {request.highlight_count}")
    if isinstance(request, library.GetFrameRequest):
        violations.read_duration("offset", request.offset)
    if isinstance(request, library.NameSpeakerRequest):
        if request.speaker < 1:
            violations.add("speaker", f"must be 1 or more, got {request.speaker}")
        violations.check_length("name", request.name, MAX_NAME_CHARS)
        if has_controls(request.name):
            violations.add("name", "must not contain control characters")
    if isinstance(request, library.DeleteVideoRequest):
        check_request_id(violations, "request_id", request.request_id)
    violations.check()
    return reference


def video_listing(request: library.ListVideosRequest) -> VideoListing:
    """Read a request for a page of videos."""
    violations = Violations()
    violations.check_length("collection", request.collection, MAX_REFERENCE_CHARS)
    page_size = violations.read_page_size(request.page_size, DEFAULT_VIDEO_COUNT, MAX_VIDEO_COUNT)
    violations.check()
    return VideoListing(collection=request.collection or None, page_size=page_size)


# ------------------------------------------------------------------ a question
def _read_query(violations: Violations, request: search.SearchVideosRequest | search.SearchMomentsRequest) -> Query:
    question = request.query
    if not request.HasField("query"):
        violations.add("query", "is required")
    elif not question.text.strip() and not question.image and not question.HasField("like"):
        violations.add("query", "needs text, an image or an example (like)")
    if question.image and question.HasField("like"):
        violations.add("query.like", "cannot stand beside an image")
    violations.check_length("query.text", question.text, MAX_TEXT_CHARS)
    violations.check_length("query.exclude_text", question.exclude_text, MAX_TEXT_CHARS)
    if len(question.image) > MAX_IMAGE_BYTES:
        violations.add("query.image", f"must be at most {MAX_IMAGE_BYTES >> 20} MiB")
    weight = question.image_weight if question.HasField("image_weight") else DEFAULT_IMAGE_WEIGHT
    violations.check_share("query.image_weight", weight)
    violations.check_share("min_confidence", request.min_confidence)
    if request.max_moments_per_video < 0:
        violations.add("max_moments_per_video", f"must not be negative, got {request.max_moments_per_video}")
    channel = violations.read_channel("query.channel", question.channel)
    violations.check_length("query.speaker", question.speaker, MAX_NAME_CHARS)
    if question.speaker and not question.text.strip():
        violations.add("query.speaker", "needs a text")
    elif question.speaker and channel not in ("all", "speech"):
        violations.add("query.speaker", "cannot stand beside a channel other than CHANNEL_ALL and CHANNEL_SPEECH")
    like = _read_example(violations, question.like) if question.HasField("like") else None
    query_filter = _read_filter(violations, request.filter)
    limit = violations.read_page_size(request.page_size, DEFAULT_ANSWER_COUNT, MAX_ANSWER_COUNT)
    violations.check()
    return Query(
        text=question.text,
        image=question.image,
        like=like,
        image_weight=weight,
        exclude_text=question.exclude_text,
        channel=channel,
        speaker=question.speaker.strip(),
        filter=query_filter,
        min_confidence=request.min_confidence,
        max_moments_per_video=request.max_moments_per_video or None,
        limit=limit,
    )


def _read_example(violations: Violations, like: moment_pb2.MomentReference) -> MomentReference:
    path = "query.like"
    reference = read_reference(violations, like, f"{path}.")
    if not like.HasField("span"):
        violations.add(f"{path}.span", "is required")
    span = read_span(violations, f"{path}.span", like.span)
    return MomentReference(video_id=reference.video_id, collection=reference.collection, span=span)


def read_span(violations: Violations, path: str, message: moment_pb2.TimeSpan) -> TimeSpan:
    """Read a part of a video; an empty one after a mistake."""
    start = violations.read_duration(f"{path}.start_offset", message.start_offset)
    end = violations.read_duration(f"{path}.end_offset", message.end_offset)
    violations.check_order(f"{path}.end_offset", start, end)
    return TimeSpan(start_seconds=start, end_seconds=end) if start <= end else TimeSpan(start_seconds=0, end_seconds=0)


def _read_filter(violations: Violations, message: moment_pb2.Filter) -> Filter:
    least = violations.read_duration("filter.min_duration", message.min_duration)
    greatest = math.inf
    if message.HasField("max_duration"):
        greatest = violations.read_duration("filter.max_duration", message.max_duration)
        violations.check_order("filter.max_duration", least, greatest)
    start = end = None
    if message.recorded.HasField("start_time"):
        start = violations.read_timestamp("filter.recorded.start_time", message.recorded.start_time)
    if message.recorded.HasField("end_time"):
        end = violations.read_timestamp("filter.recorded.end_time", message.recorded.end_time)
    if start is not None and end is not None:
        violations.check_order("filter.recorded.end_time", start, end)
    return Filter(
        collections=violations.read_names(
            "filter.collections", message.collections, MAX_FILTER_NAME_COUNT, MAX_REFERENCE_CHARS
        )
        or None,
        video_ids=violations.read_names(
            "filter.video_ids", message.video_ids, MAX_FILTER_NAME_COUNT, MAX_REFERENCE_CHARS
        ),
        metadata=_read_conditions(violations, message.metadata),
        recorded_from=start,
        recorded_until=end,
        min_duration_seconds=least,
        max_duration_seconds=greatest,
    )


def _read_conditions(
    violations: Violations, conditions: Sequence[moment_pb2.MetadataFilter]
) -> tuple[MetadataCondition, ...]:
    if len(conditions) > MAX_METADATA_COUNT:
        violations.add("filter.metadata", f"must have at most {MAX_METADATA_COUNT} entries, got {len(conditions)}")
        return ()
    return tuple(
        _read_condition(violations, f"filter.metadata[{index}]", condition)
        for index, condition in enumerate(conditions)
    )


def _read_condition(violations: Violations, path: str, message: moment_pb2.MetadataFilter) -> MetadataCondition:
    violations.require_text(f"{path}.key", message.key, MAX_REFERENCE_CHARS)
    kind = message.WhichOneof("condition")
    if kind is None:
        violations.add(path, "needs a condition: equals or range")
    if kind != "range":
        violations.check_length(f"{path}.equals", message.equals, MAX_VALUE_CHARS)
        return MetadataCondition(key=message.key, equals=message.equals)
    least = message.range.min if message.range.HasField("min") else -math.inf
    greatest = message.range.max if message.range.HasField("max") else math.inf
    for name, number in (("min", least), ("max", greatest)):
        if math.isnan(number):
            violations.add(f"{path}.range.{name}", "must be a number, got NaN")
    violations.check_order(f"{path}.range.max", least, greatest)
    return MetadataCondition(key=message.key, least=least, greatest=greatest)


# ------------------------------------------------------------------ a new video
def _read_placement(
    violations: Violations, request: library.IngestVideoRequest | library.UploadHeader, path: str = ""
) -> Placement:
    _check_name(violations, f"{path}collection", request.collection, COLLECTION, 64)
    _check_name(violations, f"{path}video_id", request.video_id, VIDEO_ID, 128)
    _check_metadata(violations, f"{path}metadata", request.metadata)
    recorded = None
    if request.HasField("start_time"):
        recorded = violations.read_recorded_time(f"{path}start_time", request.start_time)
    check_request_id(violations, f"{path}request_id", request.request_id)
    return Placement(
        collection=request.collection or "default",
        video_id=request.video_id,
        metadata=dict(request.metadata),
        recorded_time=recorded,
        request_id=request.request_id,
    )


def _check_name(violations: Violations, path: str, name: str, pattern: re.Pattern[str], most_chars: int) -> None:
    # Names become parts of paths and Kafka keys, where "." and ".." would mean folders.
    if name and (not pattern.fullmatch(name) or name in (".", "..")):
        violations.add(path, f'must be letters, digits, ".", "_" and "-", at most {most_chars}')


def _check_metadata(violations: Violations, path: str, metadata: Mapping[str, str]) -> None:
    if len(metadata) > MAX_METADATA_COUNT:
        violations.add(path, f"must have at most {MAX_METADATA_COUNT} keys, got {len(metadata)}")
        return
    char_count = sum(len(key) + len(value) for key, value in metadata.items())
    if char_count > MAX_METADATA_CHARS:
        violations.add(path, f"must have at most {MAX_METADATA_CHARS:,} characters in all, got {char_count:,}")
    for key, value in sorted(metadata.items()):
        if not 1 <= len(key) <= MAX_KEY_CHARS:
            violations.add(path, f"must have keys of 1 to {MAX_KEY_CHARS} characters, got one of {len(key)}")
        elif len(value) > MAX_VALUE_CHARS:
            violations.add(
                f"{path}[{printable(key)}]", f"must be at most {MAX_VALUE_CHARS:,} characters, got {len(value):,}"
            )


def check_request_id(violations: Violations, path: str, request_id: str) -> None:
    violations.check_length(path, request_id, MAX_REQUEST_ID_CHARS)
    if not request_id.isprintable():
        violations.add(path, "must be printable")


def read_reference(violations: Violations, request: NamesVideo, path: str = "") -> VideoReference:
    """Read which video a request, or a message in it, names; add what is wrong with it to `violations`."""
    violations.require_text(f"{path}video_id", request.video_id, MAX_REFERENCE_CHARS)
    violations.check_length(f"{path}collection", request.collection, MAX_REFERENCE_CHARS)
    return VideoReference(video_id=request.video_id, collection=request.collection or None)
