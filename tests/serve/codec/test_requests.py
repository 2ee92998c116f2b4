"""All that is wrong with a request is told, with the path of each field; all else is read."""

import math
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from kinodex.v1 import library_service_pb2 as library
from kinodex.v1 import moment_pb2
from kinodex.v1.moment_pb2 import Filter, MetadataFilter, MomentReference, NumberRange, TimeRange, TimeSpan
from kinodex.v1.search_service_pb2 import SearchMomentsRequest, SearchVideosRequest
from serve.codec.requests import (
    Placement,
    UploadInfo,
    VideoListing,
    VideoReference,
    ingest_placement,
    moments_query,
    search_query,
    upload_info,
    video_listing,
    video_reference,
)
from serve.errors import RequestInvalid
from serve.values import EVERYTHING, MetadataCondition
from serve.values import Filter as FilterValue

CAR = moment_pb2.Query(text="a red car")
ONE_TO_TWO = TimeSpan(start_offset=Duration(seconds=1), end_offset=Duration(seconds=2))


def problems(read: Any, request: Any) -> dict[str, str]:
    """What is wrong with a request: {field: problem}."""
    with pytest.raises(RequestInvalid) as caught:
        read(request)
    assert str(caught.value) == "; ".join(f"{field}: {problem}" for field, problem in caught.value.violations)
    return dict(caught.value.violations)


# ------------------------------------------------------------------ questions
@pytest.mark.parametrize(
    ("query", "field", "problem"),
    [
        ({}, "query", "needs text"),
        ({"text": " \n"}, "query", "needs text"),
        ({"exclude_text": "people"}, "query", "needs text"),
        ({"image": b"x", "like": MomentReference(video_id="v", span=ONE_TO_TWO)}, "query.like", "image"),
        ({"text": "x" * 2001}, "query.text", "at most 2,000 characters, got 2,001"),
        ({"text": "x", "exclude_text": "x" * 2001}, "query.exclude_text", "2,000"),
        ({"image": bytes((8 << 20) + 1)}, "query.image", "8 MiB"),
        ({"text": "x", "image_weight": 1.01}, "query.image_weight", "0 to 1, got 1.01"),
        ({"text": "x", "image_weight": -0.1}, "query.image_weight", "0 to 1"),
        ({"text": "x", "image_weight": math.nan}, "query.image_weight", "nan"),
        ({"text": "x", "channel": 9}, "query.channel", "Channel, got 9"),
        ({"like": MomentReference(span=ONE_TO_TWO)}, "query.like.video_id", "required"),
        ({"like": MomentReference(video_id="v" * 513, span=ONE_TO_TWO)}, "query.like.video_id", "512"),
        ({"like": MomentReference(video_id="v")}, "query.like.span", "required"),
        (
            {"like": MomentReference(video_id="v", span=ONE_TO_TWO, collection="c" * 513)},
            "query.like.collection",
            "512",
        ),
        (
            {"like": MomentReference(video_id="v", span=TimeSpan(start_offset=Duration(seconds=1)))},
            "query.like.span.end_offset",
            "below the start",
        ),
        (
            {"like": MomentReference(video_id="v", span=TimeSpan(start_offset=Duration(seconds=-1)))},
            "query.like.span.start_offset",
            "negative, got -1 s",
        ),
        (
            {"like": MomentReference(video_id="v", span=TimeSpan(end_offset=Duration(seconds=1, nanos=-1)))},
            "query.like.span.end_offset",
            "not a valid Duration",
        ),
    ],
)
@pytest.mark.parametrize("read", [search_query, moments_query])
def test_a_question_is_refused(read: Any, query: dict[str, Any], field: str, problem: str) -> None:
    request = SearchVideosRequest if read is search_query else SearchMomentsRequest
    found = problems(read, request(query=moment_pb2.Query(**query)))
    assert list(found) == [field]
    assert problem in found[field]


@pytest.mark.parametrize(
    ("rest", "field", "problem"),
    [
        ({"min_confidence": 1.5}, "min_confidence", "0 to 1"),
        ({"min_confidence": math.nan}, "min_confidence", "0 to 1"),
        ({"page_size": -1}, "page_size", "negative, got -1"),
        ({"max_moments_per_video": -1}, "max_moments_per_video", "negative"),
        ({"max_moments_per_video": 21}, "max_moments_per_video", "at most 20"),
    ],
)
def test_the_rest_of_a_search_is_refused(rest: dict[str, Any], field: str, problem: str) -> None:
    found = problems(search_query, SearchVideosRequest(query=CAR, **rest))
    assert list(found) == [field]
    assert problem in found[field]


@pytest.mark.parametrize(
    ("asked", "field", "problem"),
    [
        (Filter(collections=["c"] * 1001), "filter.collections", "1,000 entries, got 1,001"),
        (Filter(collections=["a", ""]), "filter.collections[1]", "required"),
        (Filter(video_ids=["v"] * 1001), "filter.video_ids", "1,000"),
        (Filter(video_ids=["v" * 513]), "filter.video_ids[0]", "512"),
        (Filter(metadata=[MetadataFilter(key="k", equals="v")] * 65), "filter.metadata", "64"),
        (Filter(metadata=[MetadataFilter(equals="v")]), "filter.metadata[0].key", "required"),
        (Filter(metadata=[MetadataFilter(key="k")]), "filter.metadata[0]", "condition"),
        (Filter(metadata=[MetadataFilter(key="k", equals="v" * 1025)]), "filter.metadata[0].equals", "1,024"),
        (
            Filter(metadata=[MetadataFilter(key="k", range=NumberRange(min=math.nan))]),
            "filter.metadata[0].range.min",
            "NaN",
        ),
        (
            Filter(metadata=[MetadataFilter(key="k", range=NumberRange(max=math.nan))]),
            "filter.metadata[0].range.max",
            "NaN",
        ),
        (
            Filter(metadata=[MetadataFilter(key="k", range=NumberRange(min=2, max=1))]),
            "filter.metadata[0].range.max",
            "below",
        ),
        (Filter(min_duration=Duration(seconds=-1)), "filter.min_duration", "negative"),
        (Filter(min_duration=Duration(nanos=-1)), "filter.min_duration", "negative"),
        (Filter(max_duration=Duration(seconds=315_576_000_001)), "filter.max_duration", "not a valid Duration"),
        (Filter(max_duration=Duration(seconds=-1, nanos=1)), "filter.max_duration", "not a valid Duration"),
        (Filter(max_duration=Duration(nanos=10**9)), "filter.max_duration", "not a valid Duration"),
        (Filter(min_duration=Duration(seconds=2), max_duration=Duration(seconds=1)), "filter.max_duration", "below"),
        (
            Filter(recorded=TimeRange(start_time=Timestamp(nanos=-1))),
            "filter.recorded.start_time",
            "not a valid Timestamp",
        ),
        (
            Filter(recorded=TimeRange(end_time=Timestamp(seconds=253_402_300_800))),
            "filter.recorded.end_time",
            "not a valid Timestamp",
        ),
        (
            Filter(recorded=TimeRange(start_time=Timestamp(seconds=2), end_time=Timestamp(seconds=1))),
            "filter.recorded.end_time",
            "below",
        ),
    ],
)
def test_a_filter_is_refused(asked: Filter, field: str, problem: str) -> None:
    found = problems(search_query, SearchVideosRequest(query=CAR, filter=asked))
    assert list(found) == [field]
    assert problem in found[field]


def test_all_that_is_wrong_is_told_at_once_but_never_more_than_a_header_holds() -> None:
    request = SearchVideosRequest(
        min_confidence=2, page_size=-1, filter=Filter(metadata=[MetadataFilter()] * 2, video_ids=[""])
    )
    assert list(problems(search_query, request)) == [
        "query",
        "min_confidence",
        "filter.video_ids[0]",
        "filter.metadata[0].key",
        "filter.metadata[0]",
        "filter.metadata[1].key",
        "filter.metadata[1]",
        "page_size",
    ]
    assert problems(search_query, SearchVideosRequest())["query"] == "is required"
    assert len(problems(search_query, SearchVideosRequest(query=CAR, filter=Filter(video_ids=[""] * 900)))) == 20


def test_what_is_unset_has_the_documented_default() -> None:
    for query in (
        search_query(SearchVideosRequest(query=CAR)),
        moments_query(SearchMomentsRequest(query=CAR)),
    ):
        assert (query.text, query.image, query.like) == ("a red car", b"", None)
        assert (query.limit, query.max_moments_per_video, query.image_weight) == (10, None, 0.5)
        assert (query.channel, query.filter, query.min_confidence) == ("all", EVERYTHING, 0.0)


def test_what_is_set_counts_also_where_it_is_zero() -> None:
    asked = Filter(
        metadata=[MetadataFilter(key="k", equals=""), MetadataFilter(key="n", range=NumberRange(max=0))],
        max_duration=Duration(),
        recorded=TimeRange(start_time=Timestamp()),
    )
    query = moments_query(
        SearchMomentsRequest(
            query=moment_pb2.Query(text="x", image_weight=0.0, channel=moment_pb2.CHANNEL_SPEECH),
            filter=asked,
            page_size=1000,
            max_moments_per_video=500,
        )
    )
    assert (query.image_weight, query.channel, query.limit, query.max_moments_per_video) == (0.0, "speech", 100, 500)
    assert query.filter == FilterValue(
        metadata=(MetadataCondition(key="k", equals=""), MetadataCondition(key="n", greatest=0.0)),
        max_duration_seconds=0.0,
        recorded_from=0.0,
    )


# ------------------------------------------------------------------ new videos
GOOD_URI = "https://example.org/a.mp4"


@pytest.mark.parametrize(
    ("values", "field", "problem"),
    [
        ({"uri": ""}, "uri", "required"),
        ({"uri": "videos/a.mp4"}, "uri", "is not a URI"),
        ({"uri": "https:"}, "uri", "is not a URI"),
        ({"uri": "https://example.org/\n"}, "uri", "is not a URI"),
        ({"uri": GOOD_URI + "x" * 8192}, "uri", "8,192"),
        ({"collection": "a/b"}, "collection", "letters"),
        ({"collection": "c" * 65}, "collection", "at most 64"),
        ({"collection": ".."}, "collection", "letters"),
        ({"video_id": "caf\u00e9"}, "video_id", "letters"),
        ({"video_id": "v" * 129}, "video_id", "at most 128"),
        ({"video_id": "a\n"}, "video_id", "letters"),
        ({"metadata": {f"k{number}": "" for number in range(65)}}, "metadata", "64 keys, got 65"),
        ({"metadata": {"": "v"}}, "metadata", "1 to 64 characters, got one of 0"),
        ({"metadata": {"k" * 65: "v"}}, "metadata", "1 to 64 characters, got one of 65"),
        ({"metadata": {"k": "v" * 1025}}, "metadata[k]", "1,024"),
        ({"start_time": Timestamp(nanos=10**9)}, "start_time", "not a valid Timestamp"),
        ({"start_time": Timestamp(seconds=253_402_300_799, nanos=999_999_999)}, "start_time", "1000 years of 1970"),
        ({"start_time": Timestamp(seconds=-62_135_596_800)}, "start_time", "1000 years of 1970"),
        ({"request_id": "r" * 129}, "request_id", "128"),
        ({"request_id": "a\tb"}, "request_id", "printable"),
    ],
)
def test_an_ingest_is_refused(values: dict[str, Any], field: str, problem: str) -> None:
    found = problems(ingest_placement, library.IngestVideoRequest(**({"uri": GOOD_URI} | values)))
    assert list(found) == [field]
    assert problem in found[field]
    if field != "uri":
        upload = library.UploadHeader(filename="a.mp4", **{k: v for k, v in values.items() if k != "uri"})
        assert list(problems(upload_info, upload)) == [f"header.{field}"]


@pytest.mark.parametrize(
    ("values", "field", "problem"),
    [
        ({"filename": ""}, "header.filename", "required"),
        ({"filename": "f" * 256}, "header.filename", "255"),
        ({"filename": "a/b.mp4"}, "header.filename", "not a path"),
        ({"filename": "a\\b.mp4"}, "header.filename", "not a path"),
        ({"filename": ".."}, "header.filename", "not a path"),
        ({"filename": "a\0b"}, "header.filename", "control"),
        ({"size_bytes": -1}, "header.size_bytes", "negative"),
        ({"sha256": "ab"}, "header.sha256", "64"),
        ({"sha256": "g" * 64}, "header.sha256", "hexadecimal"),
    ],
)
def test_an_upload_is_refused(values: dict[str, Any], field: str, problem: str) -> None:
    found = problems(upload_info, library.UploadHeader(**({"filename": "a.mp4"} | values)))
    assert list(found) == [field]
    assert problem in found[field]


def test_a_new_video_is_read() -> None:
    assert ingest_placement(library.IngestVideoRequest(uri=GOOD_URI)) == Placement()
    header = library.UploadHeader(
        filename="Caf\u00e9 \U0001f469\u200d\U0001f467 1.mp4",
        size_bytes=7,
        sha256="AB" * 32,
        collection="c" * 64,
        video_id="A.b_c-1",
        metadata={"k" * 64: "v" * 1024},
        start_time=Timestamp(seconds=-1, nanos=500_000_000),
        request_id="r" * 128,
    )
    assert upload_info(header) == UploadInfo(
        filename=header.filename,
        size_bytes=7,
        sha256="ab" * 32,
        placement=Placement(
            collection="c" * 64,
            video_id="A.b_c-1",
            metadata={"k" * 64: "v" * 1024},
            recorded_time=-0.5,
            request_id="r" * 128,
        ),
    )


# ------------------------------------------------------------------ videos that are there
@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (library.GetVideoRequest(), ["video_id"]),
        (library.GetVideoRequest(video_id="v" * 513, collection="c" * 513), ["video_id", "collection"]),
        (library.GetTranscriptRequest(), ["video_id"]),
        (library.GetChaptersRequest(highlight_count=101), ["video_id", "highlight_count"]),
        (library.GetFrameRequest(offset=Duration(seconds=-1)), ["video_id", "offset"]),
        (library.DeleteVideoRequest(request_id="\n"), ["video_id", "request_id"]),
        (library.NameSpeakerRequest(speaker=-1, name="n" * 101), ["video_id", "speaker", "name"]),
        (library.NameSpeakerRequest(video_id="v", speaker=1, name="a\nb"), ["name"]),
    ],
)
def test_a_reference_is_refused(request_: Any, fields: list[str]) -> None:
    assert list(problems(video_reference, request_)) == fields


def test_a_reference_may_be_of_any_name_that_another_program_gave() -> None:
    request = library.GetVideoRequest(video_id="caf\u00e9/1", collection="a b")
    assert video_reference(request) == VideoReference(video_id="caf\u00e9/1", collection="a b")
    assert video_reference(library.GetVideoRequest(video_id="v")).collection is None


def test_a_list_is_read_or_refused() -> None:
    assert video_listing(library.ListVideosRequest()) == VideoListing(collection=None, page_size=100)
    request = library.ListVideosRequest(collection="c", page_size=2000)
    assert video_listing(request) == VideoListing(collection="c", page_size=1000)
    request = library.ListVideosRequest(collection="c" * 513, page_size=-1)
    assert list(problems(video_listing, request)) == ["collection", "page_size"]
