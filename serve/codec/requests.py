"""What the API is asked: kinodex.v1 requests -> values, checked. What the client writes is in serve.codec.messages.

All that is wrong with a request is told at once: RequestInvalid with the path of each field. Limits are those that the
protos state.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kinodex.v1 import library_service_pb2 as library
from kinodex.v1 import moment_pb2
from kinodex.v1 import search_service_pb2 as search
from serve.codec.messages import MAX_IMAGE_BYTES
from serve.codec.violations import Violations, has_controls
from serve.text import printable
from serve.values import Filter, MetadataCondition, MomentReference, Query, Thresholds
from temporal.values import TimeSpan

MAX_TEXT_CHARS = 2_000
DEFAULT_ENTER, DEFAULT_LEAVE, DEFAULT_MIN_SECONDS = 0.7, 0.5, 2.0  # of moments that are watched
DEFAULT_IMAGE_WEIGHT = 0.5
MAX_VIDEO_MOMENT_COUNT = 20
DEFAULT_ANSWER_COUNT, MAX_ANSWER_COUNT = 10, 100  # on a page, of videos or moments
DEFAULT_VIDEO_COUNT, MAX_VIDEO_COUNT = 100, 1_000  # on a page of a list
MAX_FILTER_NAME_COUNT = 1_000  # of collections, and of videos
MAX_METADATA_COUNT, MAX_KEY_CHARS, MAX_VALUE_CHARS = 64, 64, 1_024
MAX_REFERENCE_CHARS = 512  # of what is only looked up: names that other programs gave may be longer than ours
MAX_URI_CHARS = 8_192  # signed URLs of object stores stay below
MAX_FILENAME_CHARS = 255  # what file systems take
MAX_REQUEST_ID_CHARS = 128

COLLECTION = re.compile(r"[A-Za-z0-9._-]{1,64}")
VIDEO_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
SHA256 = re.compile(r"[0-9A-Fa-f]{64}")
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:.")


# ------------------------------------------------------------------ what the service reads
@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a new video goes, and what is said of it."""

    collection: str = "default"
    video_id: str = ""  # empty: it is derived
    metadata: Mapping[str, str] = field(default_factory=dict)
    recorded_time: float | None = None  # seconds since 1970; None: not known
    request_id: str = ""  # empty: a retry is a new request


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadAnnounced:
    """What is said of an upload before its bytes."""

    filename: str
    size_bytes: int  # 0: not known
    sha256: str  # lower case; empty: not to be checked
    placement: Placement


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoReference:
    """A video that should be there."""

    video_id: str
    collection: str | None = None  # None: the one that has it


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Which videos are to be listed."""

    collection: str | None  # None: every one
    page_size: int


def search_query(request: search.SearchVideosRequest) -> Query:
    """Read a search; `limit` is the page's size.

    Raises:
        RequestInvalid: For all that is wrong with it.
    """
    wrong = Violations()
    if request.max_moments_per_video > MAX_VIDEO_MOMENT_COUNT:
        wrong.add("max_moments_per_video", f"must be at most {MAX_VIDEO_MOMENT_COUNT}")
    return _query(wrong, request)


def moments_query(request: search.SearchMomentsRequest) -> Query:
    """Read a question for moments; `limit` is the page's size.

    Raises:
        RequestInvalid: For all that is wrong with it.
    """
    return _query(Violations(), request)


def standing_query(request: search.WatchMomentsRequest) -> tuple[Query, Thresholds]:
    """Read a question for moments that are still to come.

    Raises:
        RequestInvalid: For all that is wrong with it.
    """
    wrong = Violations()
    enter = request.enter_confidence if request.HasField("enter_confidence") else DEFAULT_ENTER
    leave = request.leave_confidence if request.HasField("leave_confidence") else min(DEFAULT_LEAVE, enter)
    wrong.share("enter_confidence", enter)
    wrong.share("leave_confidence", leave)
    if leave > enter:
        wrong.add("leave_confidence", f"must be at most enter_confidence = {enter:g}, got {leave:g}")
    least = DEFAULT_MIN_SECONDS
    if request.HasField("min_duration"):
        least = wrong.duration("min_duration", request.min_duration)
    pause = wrong.duration("cooldown", request.cooldown)
    if request.query.exclude_text:
        wrong.add("query.exclude_text", "is not for moments that are watched")
    asked = search.SearchMomentsRequest(filter=request.filter)
    if request.HasField("query"):
        asked.query.CopyFrom(request.query)
    query = _query(wrong, asked)
    return query, Thresholds(enter=enter, leave=leave, min_seconds=least, cooldown_seconds=pause)


def ingest_placement(request: library.IngestVideoRequest) -> Placement:
    """Read where the video at `request.uri` goes.

    Raises:
        RequestInvalid: For all that is wrong with the request, its URI included.
    """
    wrong = Violations()
    wrong.required("uri", request.uri, MAX_URI_CHARS)
    if request.uri and (not SCHEME.match(request.uri) or has_controls(request.uri)):
        wrong.add("uri", "is not a URI, such as https://example.org/video.mp4")
    placement = _placement(wrong, request)
    wrong.check()
    return placement


def upload_announced(header: library.UploadHeader) -> UploadAnnounced:
    """Read the first message of an upload.

    Raises:
        RequestInvalid: For all that is wrong with it.
    """
    wrong = Violations()
    wrong.required("header.filename", header.filename, MAX_FILENAME_CHARS)
    if header.filename in (".", "..") or any(char in "/\\" for char in header.filename):
        wrong.add("header.filename", "must be a name, not a path")
    if has_controls(header.filename):
        wrong.add("header.filename", "must not contain control characters")
    if header.size_bytes < 0:
        wrong.add("header.size_bytes", f"must not be negative, got {header.size_bytes}")
    if header.sha256 and not SHA256.fullmatch(header.sha256):
        wrong.add("header.sha256", "must be 64 hexadecimal digits")
    placement = _placement(wrong, header, "header.")
    wrong.check()
    return UploadAnnounced(
        filename=header.filename,
        size_bytes=header.size_bytes,
        sha256=header.sha256.lower(),
        placement=placement,
    )


def video_reference(
    request: library.GetVideoRequest
    | library.DeleteVideoRequest
    | library.GetTranscriptRequest
    | library.GetFrameRequest,
) -> VideoReference:
    """Read which video a request is about, and check all that the request has beside it.

    Raises:
        RequestInvalid: For all that is wrong with it.
    """
    wrong = Violations()
    reference = _reference(wrong, request)
    if isinstance(request, library.GetFrameRequest):
        wrong.duration("offset", request.offset)
    if isinstance(request, library.DeleteVideoRequest):
        _request_id(wrong, "request_id", request.request_id)
    wrong.check()
    return reference


def listing(request: library.ListVideosRequest) -> Listing:
    """Read which videos are to be listed.

    Raises:
        RequestInvalid: For all that is wrong with the request.
    """
    wrong = Violations()
    wrong.bounded("collection", request.collection, MAX_REFERENCE_CHARS)
    page_size = wrong.page_size(request.page_size, DEFAULT_VIDEO_COUNT, MAX_VIDEO_COUNT)
    wrong.check()
    return Listing(collection=request.collection or None, page_size=page_size)


# ------------------------------------------------------------------ a question
def _query(wrong: Violations, request: search.SearchVideosRequest | search.SearchMomentsRequest) -> Query:
    asked = request.query
    if not request.HasField("query"):
        wrong.add("query", "is required")
    elif not asked.text.strip() and not asked.image and not asked.HasField("like"):
        wrong.add("query", "needs text, an image or an example (like)")
    if asked.image and asked.HasField("like"):
        wrong.add("query.like", "cannot stand beside an image")
    wrong.bounded("query.text", asked.text, MAX_TEXT_CHARS)
    wrong.bounded("query.exclude_text", asked.exclude_text, MAX_TEXT_CHARS)
    if len(asked.image) > MAX_IMAGE_BYTES:
        wrong.add("query.image", f"must be at most {MAX_IMAGE_BYTES >> 20} MiB")
    weight = asked.image_weight if asked.HasField("image_weight") else DEFAULT_IMAGE_WEIGHT
    wrong.share("query.image_weight", weight)
    wrong.share("min_confidence", request.min_confidence)
    if request.max_moments_per_video < 0:
        wrong.add("max_moments_per_video", f"must not be negative, got {request.max_moments_per_video}")
    channel = wrong.channel("query.channel", asked.channel)
    like = _example(wrong, asked.like) if asked.HasField("like") else None
    asked_of = _filter(wrong, request.filter)
    limit = wrong.page_size(request.page_size, DEFAULT_ANSWER_COUNT, MAX_ANSWER_COUNT)
    wrong.check()
    return Query(
        text=asked.text,
        image=asked.image,
        like=like,
        image_weight=weight,
        exclude_text=asked.exclude_text,
        channel=channel,
        filter=asked_of,
        min_confidence=request.min_confidence,
        max_moments_per_video=request.max_moments_per_video or None,
        limit=limit,
    )


def _example(wrong: Violations, like: moment_pb2.MomentReference) -> MomentReference:
    path = "query.like"
    reference = _reference(wrong, like, f"{path}.")
    if not like.HasField("span"):
        wrong.add(f"{path}.span", "is required")
    start = wrong.duration(f"{path}.span.start_offset", like.span.start_offset)
    end = wrong.duration(f"{path}.span.end_offset", like.span.end_offset)
    wrong.in_order(f"{path}.span.end_offset", start, end)
    # Of a wrong one nothing is used.
    span = TimeSpan(start_seconds=start, end_seconds=end) if start <= end else TimeSpan(start_seconds=0, end_seconds=0)
    return MomentReference(video_id=reference.video_id, collection=reference.collection, span=span)


def _filter(wrong: Violations, asked: moment_pb2.Filter) -> Filter:
    least = wrong.duration("filter.min_duration", asked.min_duration)
    greatest = math.inf
    if asked.HasField("max_duration"):
        greatest = wrong.duration("filter.max_duration", asked.max_duration)
        wrong.in_order("filter.max_duration", least, greatest)
    start = end = None
    if asked.recorded.HasField("start_time"):
        start = wrong.timestamp("filter.recorded.start_time", asked.recorded.start_time)
    if asked.recorded.HasField("end_time"):
        end = wrong.timestamp("filter.recorded.end_time", asked.recorded.end_time)
    if start is not None and end is not None:
        wrong.in_order("filter.recorded.end_time", start, end)
    return Filter(
        collections=wrong.names("filter.collections", asked.collections, MAX_FILTER_NAME_COUNT, MAX_REFERENCE_CHARS)
        or None,
        video_ids=wrong.names("filter.video_ids", asked.video_ids, MAX_FILTER_NAME_COUNT, MAX_REFERENCE_CHARS),
        metadata=_conditions(wrong, asked.metadata),
        recorded_from=start,
        recorded_until=end,
        min_duration_seconds=least,
        max_duration_seconds=greatest,
    )


def _conditions(wrong: Violations, asked: Sequence[moment_pb2.MetadataFilter]) -> tuple[MetadataCondition, ...]:
    if len(asked) > MAX_METADATA_COUNT:
        wrong.add("filter.metadata", f"must have at most {MAX_METADATA_COUNT} entries, got {len(asked)}")
        return ()
    return tuple(_condition(wrong, f"filter.metadata[{index}]", each) for index, each in enumerate(asked))


def _condition(wrong: Violations, path: str, asked: moment_pb2.MetadataFilter) -> MetadataCondition:
    wrong.required(f"{path}.key", asked.key, MAX_REFERENCE_CHARS)
    kind = asked.WhichOneof("condition")
    if kind is None:
        wrong.add(path, "needs a condition: equals or range")
    if kind != "range":
        wrong.bounded(f"{path}.equals", asked.equals, MAX_VALUE_CHARS)
        return MetadataCondition(key=asked.key, equals=asked.equals)
    least = asked.range.min if asked.range.HasField("min") else -math.inf
    greatest = asked.range.max if asked.range.HasField("max") else math.inf
    for name, number in (("min", least), ("max", greatest)):
        if math.isnan(number):
            wrong.add(f"{path}.range.{name}", "must be a number, got NaN")
    wrong.in_order(f"{path}.range.max", least, greatest)
    return MetadataCondition(key=asked.key, least=least, greatest=greatest)


# ------------------------------------------------------------------ a new video
def _placement(
    wrong: Violations, request: library.IngestVideoRequest | library.UploadHeader, path: str = ""
) -> Placement:
    _name(wrong, f"{path}collection", request.collection, COLLECTION, 64)
    _name(wrong, f"{path}video_id", request.video_id, VIDEO_ID, 128)
    _metadata(wrong, f"{path}metadata", request.metadata)
    recorded = None
    if request.HasField("start_time"):
        recorded = wrong.timestamp(f"{path}start_time", request.start_time)
    _request_id(wrong, f"{path}request_id", request.request_id)
    return Placement(
        collection=request.collection or "default",
        video_id=request.video_id,
        metadata=dict(request.metadata),
        recorded_time=recorded,
        request_id=request.request_id,
    )


def _name(wrong: Violations, path: str, name: str, pattern: re.Pattern[str], most_chars: int) -> None:
    # Names become parts of paths and Kafka keys, so the two that mean a folder are none.
    if name and (not pattern.fullmatch(name) or name in (".", "..")):
        wrong.add(path, f'must be letters, digits, ".", "_" and "-", at most {most_chars}')


def _metadata(wrong: Violations, path: str, metadata: Mapping[str, str]) -> None:
    if len(metadata) > MAX_METADATA_COUNT:
        wrong.add(path, f"must have at most {MAX_METADATA_COUNT} keys, got {len(metadata)}")
        return
    for key, value in sorted(metadata.items()):
        if not 1 <= len(key) <= MAX_KEY_CHARS:
            wrong.add(path, f"must have keys of 1 to {MAX_KEY_CHARS} characters, got one of {len(key)}")
        elif len(value) > MAX_VALUE_CHARS:
            wrong.add(
                f"{path}[{printable(key)}]", f"must be at most {MAX_VALUE_CHARS:,} characters, got {len(value):,}"
            )


def _request_id(wrong: Violations, path: str, request_id: str) -> None:
    wrong.bounded(path, request_id, MAX_REQUEST_ID_CHARS)
    if not request_id.isprintable():
        wrong.add(path, "must be printable")


def _reference(
    wrong: Violations,
    request: library.GetVideoRequest
    | library.DeleteVideoRequest
    | library.GetTranscriptRequest
    | library.GetFrameRequest
    | moment_pb2.MomentReference,
    path: str = "",
) -> VideoReference:
    wrong.required(f"{path}video_id", request.video_id, MAX_REFERENCE_CHARS)
    wrong.bounded(f"{path}collection", request.collection, MAX_REFERENCE_CHARS)
    return VideoReference(video_id=request.video_id, collection=request.collection or None)
