"""Every error of every stage, and what a client gets to know of it."""

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2
from google.rpc.status_pb2 import Status

import encoders
import ingest
import serve
import temporal
from encoders import errors as encoder_errors
from ingest import errors as ingest_errors
from serve import errors
from serve.api.status import DOMAIN, INTERNAL, RETRY_SECONDS, STATUS, code_of, reason_of, status_of
from serve.codec.violations import MAX_VIOLATION_COUNT
from temporal.errors import TemporalError, TrainingSetInvalid

ROOTS = (ingest_errors.IngestError, encoder_errors.EncoderError, TemporalError, errors.ServeError)
REQUEST_ID = "5c0ffee5"
TRAILER_BYTES = 8192  # what gRPC clients take of all trailing metadata, unless they are set otherwise

URI = "https://example.org/film.mp4"
# One of each kind that a client hears of.
SPOKEN: list[Exception] = [
    errors.RequestInvalid([("query", "is required"), ("page_size", "must not be negative, got -1")]),
    errors.PageTokenInvalid(),
    errors.PageTokenExpired(),
    errors.ResumeTokenExpired(),
    errors.CollectionNotFound("talks"),
    errors.VideoNotFound("c0ffee"),
    errors.VideoAmbiguous("3fa9", ["a", "b"]),
    errors.VideoNotReady("3fa9", "PROCESSING"),
    errors.VideoDamaged("3fa9", "a time must lie in the years 1 to 9999"),
    errors.VideoIsLive("cam"),
    errors.MediaGone("c0ffee", "uploaded files are not kept"),
    errors.MediaChanged("c0ffee", URI),
    errors.FrameNotFound("c0ffee"),
    errors.JobNotFound("c0ffee"),
    errors.SpeakerNotFound("c0ffee", 3),
    errors.EventNotFound("e1"),
    errors.RequestIdReused("retry-1"),
    errors.Unauthenticated(),
    errors.TokenExpired("laptop", datetime(2026, 5, 1, 12, tzinfo=UTC)),
    errors.PermissionDenied("read collection talks"),
    errors.Overloaded("calls", 2.5, "max_concurrent_calls"),
    errors.ServerNotReady("loading", 3.0),
    errors.IndexUnavailable(),
    errors.CallAbandoned("the call was cancelled"),
    errors.CallTooLong(60.0),
    errors.UploadCorrupt("film.mp4", "its SHA-256 differs"),
    errors.UploadStalled("film.mp4", 60.0),
    errors.SpoolFull(30.0),
    errors.QuotaExceeded("talks", "5 of 5 videos"),
    ingest_errors.SourceNotFound(URI, "no such file or page"),
    ingest_errors.SourceUnreadable(URI, "empty file"),
    ingest_errors.SourceRefused(URI, "the host is not allowed", "list it in hosts"),
    ingest_errors.SourceUnavailable(URI, "the connection failed", "try later"),
    ingest_errors.DecodeError(URI, "not a media file"),
    ingest_errors.DecoderCrashed(URI, "the decoder process died"),
    ingest_errors.DecoderTimeout(URI, "no progress"),
    ingest_errors.SpanOutside(URI, "nothing at 1:00: the video ends at 0:30"),
    ingest_errors.LimitExceeded(URI, "max_upload_bytes", "more than 10 bytes"),
    ingest_errors.BrokerUnavailable(("the server's brokers",), "nothing is changed"),
    encoder_errors.NoVisualEncoder("an image cannot be searched for"),
]
SECRET = "/secret/path/of/the/server"
# One of each kind that it does not.
UNSPOKEN: list[Exception] = [
    errors.ServeError(SECRET),
    errors.SettingsError(SECRET),
    errors.DataDirectoryMissing(SECRET),
    errors.DataDirectoryBusy(SECRET, 4711),
    errors.DataDirectoryInvalid(SECRET, "malformed"),
    errors.DiskFull(SECRET),
    errors.DataDirectoryOutdated(SECRET, 5, 6),
    errors.EncoderSpaceMismatch(SECRET, "stored", "wanted"),
    errors.QuestionsInvalid(SECRET, "no questions"),
    errors.TranscriptNotImported(SECRET, "it is live"),
    errors.PredictionsInvalid(SECRET, "no predictions"),
    errors.ClipsInvalid(SECRET, "there is no clip in it"),
    errors.PolicyInvalid(SECRET, "no policies", line=3, field="policies"),
    errors.RecordInvalid(SECRET),
    errors.StreamsNotBegun(SECRET),
    errors.WorkerCrashed(SECRET, 3),
    errors.ServerFailed(SECRET, "UNAVAILABLE"),
    ingest_errors.IngestError(SECRET, "bad"),
    ingest_errors.SourceError(SECRET, "bad"),
    ingest_errors.OffsetRegression(SECRET, 0, 7, 3),
    ingest_errors.TopicReplaced(SECRET),
    ingest_errors.RecordTooLarge(SECRET, "too large"),
    encoder_errors.EncoderError(SECRET),
    encoder_errors.WeightsNotFound("clip", SECRET),
    encoder_errors.WeightsInvalid(SECRET, "damaged"),
    encoder_errors.PicturesInvalid(SECRET, "damaged"),
    TemporalError(SECRET),
    TrainingSetInvalid(SECRET),
]
STRANGERS: list[Exception] = [
    RuntimeError(SECRET),
    OSError(2, "No such file or directory", SECRET),
    KeyError(SECRET),
    type("Unmapped", (errors.VideoNotFound,), {})(SECRET),
]


def kinds(base: type[Exception]) -> Iterator[type[Exception]]:
    yield base
    for kind in base.__subclasses__():
        yield from kinds(kind)


@pytest.fixture(scope="module")
def ours() -> set[type[Exception]]:
    """Every error of the four stages, in whichever of their modules it is defined."""
    for package in (ingest, encoders, temporal, serve):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    packages = ("ingest", "encoders", "temporal", "serve")
    return {kind for root in ROOTS for kind in kinds(root) if kind.__module__.partition(".")[0] in packages}


def details(status: Status) -> list[Message]:
    kinds = (
        error_details_pb2.ErrorInfo,
        error_details_pb2.BadRequest,
        error_details_pb2.RetryInfo,
        error_details_pb2.RequestInfo,
    )
    found = []
    for detail in status.details:
        (message,) = (kind() for kind in kinds if detail.Is(kind.DESCRIPTOR))
        detail.Unpack(message)
        found.append(message)
    return found


def only(status: Status, kind: Callable[[], Message]) -> Message:
    (found,) = (each for each in details(status) if isinstance(each, kind))  # type: ignore[arg-type]
    return found


def name(error: Exception) -> str:
    return type(error).__name__


# ------------------------------------------------------------------ none is forgotten
def test_every_error_is_either_mapped_or_listed_as_internal(ours: set[type[Exception]]) -> None:
    assert ours - STATUS.keys() - INTERNAL == set()
    assert STATUS.keys() & INTERNAL == set()
    assert (STATUS.keys() | INTERNAL) - ours == set()


def test_an_example_of_each_is_looked_at_here() -> None:
    assert [type(error) for error in SPOKEN] == list(STATUS)
    assert {type(error) for error in UNSPOKEN} == INTERNAL


def test_reasons_are_those_of_one_error_each() -> None:
    reasons = [reason_of(error) for error in SPOKEN]
    assert len(set(reasons)) == len(reasons)
    assert "INTERNAL" not in reasons


# ------------------------------------------------------------------ what is said
@pytest.mark.parametrize("error", SPOKEN, ids=name)
def test_tells_a_client_code_message_reason_and_request(error: Exception) -> None:
    status = status_of(error, REQUEST_ID)
    assert status.code == STATUS[type(error)] not in (code_pb2.OK, code_pb2.INTERNAL, code_pb2.UNKNOWN)
    assert code_of(error) == code_pb2.Code.Name(status.code)
    assert status.message == str(error)
    info = only(status, error_details_pb2.ErrorInfo)
    assert info.domain == DOMAIN == "kinodex"
    assert re.fullmatch(r"[A-Z]+(_[A-Z]+)*", info.reason)
    assert info.reason.replace("_", "") == name(error).upper()
    assert all(re.fullmatch(r"[a-z][a-z0-9_]{0,63}", key) for key in info.metadata)
    assert only(status, error_details_pb2.RequestInfo).request_id == REQUEST_ID


@pytest.mark.parametrize("error", SPOKEN, ids=name)
def test_says_when_to_come_back_where_that_helps(error: Exception) -> None:
    status = status_of(error, REQUEST_ID)
    found = [each for each in details(status) if isinstance(each, error_details_pb2.RetryInfo)]
    passing = status.code in (code_pb2.UNAVAILABLE, code_pb2.RESOURCE_EXHAUSTED)
    stays = ingest_errors.LimitExceeded | errors.QuotaExceeded  # a file too large, and a full collection
    if not passing or isinstance(error, stays):
        assert found == []
    else:
        expected = getattr(error, "retry_after_seconds", RETRY_SECONDS)
        assert [each.retry_delay.ToTimedelta().total_seconds() for each in found] == [expected]


@pytest.mark.parametrize("error", SPOKEN, ids=name)
def test_names_the_fields_that_are_wrong(error: Exception) -> None:
    found = [each for each in details(status_of(error, "")) if isinstance(each, error_details_pb2.BadRequest)]
    if isinstance(error, errors.RequestInvalid):
        (bad,) = found
        assert [(each.field, each.description) for each in bad.field_violations] == list(error.violations)
    else:
        assert found == []


@pytest.mark.parametrize(
    ("error", "metadata"),
    [
        (errors.VideoNotFound("c0ffee"), {"video_id": "c0ffee"}),
        (errors.PermissionDenied("read collection talks"), {"what": "read collection talks"}),
        (
            errors.Overloaded("calls", 2.5, "max_concurrent_calls"),
            {"what": "calls", "retry_after_seconds": "2.5", "limit": "max_concurrent_calls"},
        ),
        (
            ingest_errors.LimitExceeded(URI, "max_bytes", "too much"),
            {"uri": URI, "reason": "too much", "remedy": "the limit is the setting max_bytes", "limit": "max_bytes"},
        ),
        (errors.Unauthenticated(), {}),
    ],
    ids=name,
)
def test_carries_what_varies_in_the_message_for_programs(error: Exception, metadata: dict[str, str]) -> None:
    assert dict(only(status_of(error, ""), error_details_pb2.ErrorInfo).metadata) == metadata


# ------------------------------------------------------------------ what is not
@pytest.mark.parametrize("error", [*UNSPOKEN, *STRANGERS], ids=name)
def test_says_nothing_of_what_is_not_the_clients_business(error: Exception) -> None:
    status = status_of(error, REQUEST_ID)
    assert (status.code, status.message, code_of(error)) == (code_pb2.INTERNAL, "internal error", "INTERNAL")
    expected = [
        error_details_pb2.ErrorInfo(reason="INTERNAL", domain=DOMAIN),
        error_details_pb2.RequestInfo(request_id=REQUEST_ID),
    ]
    assert details(status) == expected  # and so neither path, message nor class


# ------------------------------------------------------------------ how much of it
def trailer_bytes(status: Status) -> int:
    """Return what gRPC makes of a status: percent-encoded text, base64 of the whole, and 32 bytes a header."""
    message = sum(1 if 0x20 <= byte <= 0x7E and byte != 0x25 else 3 for byte in status.message.encode())
    whole = (len(status.SerializeToString()) + 2) // 3 * 4
    names = ("grpc-status", "grpc-message", "grpc-status-details-bin")
    return message + whole + sum(len(name) + 32 for name in names) + 2


@pytest.mark.parametrize("letter", ["a", "%", "ä", "\N{GRINNING FACE}"])
def test_a_status_fits_into_the_trailer_that_carries_it(letter: str) -> None:
    """Else the client gets RESOURCE_EXHAUSTED from its own gRPC, and none of what is said here."""
    long = [
        errors.VideoNotFound(512 * letter),
        errors.CollectionNotFound(512 * letter),
        errors.PermissionDenied(f"read collection {512 * letter}"),
        errors.RequestIdReused(128 * letter),
        errors.UploadCorrupt(255 * letter, "its SHA-256 differs"),
        ingest_errors.SourceRefused(f"ftp://{8000 * letter}", "not a URI of a supported scheme", "use another"),
        errors.RequestInvalid(
            [(f"header.metadata[{64 * letter}]", "must be at most 1,024 characters")] * MAX_VIOLATION_COUNT
        ),
    ]
    for error in long:
        status = status_of(error, 128 * "r")
        assert trailer_bytes(status) <= TRAILER_BYTES, name(error)
        assert status.message[:40] == str(error)[:40]
        assert only(status, error_details_pb2.ErrorInfo).reason == reason_of(error)
        assert only(status, error_details_pb2.RequestInfo).request_id == 128 * "r"
