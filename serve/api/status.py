"""Errors -> google.rpc.Status: the whole mapping, for the interceptor.

A client gets a code and one ErrorInfo: a reason for programs, and the values that the message contains. Some errors add
BadRequest field violations or RetryInfo. An error that does not concern the client is INTERNAL with the message
"internal error"; its text goes to the log only.
"""

from collections.abc import Sequence

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2

from encoders import errors as encoder_errors
from ingest import errors as ingest_errors
from serve import errors
from serve.errors import name_of
from temporal.errors import TemporalError, TrainingSetInvalid

DOMAIN = "kinodex"
RETRY_SECONDS = 1.0  # in RetryInfo, if the error itself does not say how long to wait
# A status travels in a trailer. gRPC's clients accept 8 KiB, and report of a longer trailer only that it is too long.
# The message is in it twice: percent-encoded, with up to three times its length, and in the base64 of the whole.
MESSAGE_BYTES = 1024
VALUE_BYTES = 512  # of each value in ErrorInfo.metadata, and each field violation
VIOLATIONS_BYTES = 2048  # of all field violations together

STATUS: dict[type[Exception], "code_pb2.Code.ValueType"] = {
    errors.RequestInvalid: code_pb2.INVALID_ARGUMENT,
    errors.PageTokenInvalid: code_pb2.INVALID_ARGUMENT,
    errors.PageTokenExpired: code_pb2.FAILED_PRECONDITION,
    errors.ResumeTokenExpired: code_pb2.FAILED_PRECONDITION,
    errors.CollectionNotFound: code_pb2.NOT_FOUND,
    errors.VideoNotFound: code_pb2.NOT_FOUND,
    errors.VideoAmbiguous: code_pb2.INVALID_ARGUMENT,
    errors.VideoNotReady: code_pb2.FAILED_PRECONDITION,
    errors.VideoDamaged: code_pb2.DATA_LOSS,
    errors.VideoIsLive: code_pb2.FAILED_PRECONDITION,
    errors.MediaGone: code_pb2.NOT_FOUND,
    errors.MediaChanged: code_pb2.FAILED_PRECONDITION,
    errors.FrameNotFound: code_pb2.NOT_FOUND,
    errors.JobNotFound: code_pb2.NOT_FOUND,
    errors.SpeakerNotFound: code_pb2.NOT_FOUND,
    errors.EventNotFound: code_pb2.NOT_FOUND,
    errors.RequestIdReused: code_pb2.INVALID_ARGUMENT,
    errors.Unauthenticated: code_pb2.UNAUTHENTICATED,
    errors.TokenExpired: code_pb2.UNAUTHENTICATED,
    errors.PermissionDenied: code_pb2.PERMISSION_DENIED,
    errors.Overloaded: code_pb2.RESOURCE_EXHAUSTED,
    errors.ServerNotReady: code_pb2.UNAVAILABLE,
    errors.IndexUnavailable: code_pb2.UNAVAILABLE,
    errors.CallAbandoned: code_pb2.CANCELLED,
    errors.CallTooLong: code_pb2.DEADLINE_EXCEEDED,
    errors.UploadCorrupt: code_pb2.DATA_LOSS,
    errors.UploadStalled: code_pb2.DEADLINE_EXCEEDED,
    errors.SpoolFull: code_pb2.RESOURCE_EXHAUSTED,
    errors.QuotaExceeded: code_pb2.RESOURCE_EXHAUSTED,
    ingest_errors.SourceNotFound: code_pb2.NOT_FOUND,
    ingest_errors.SourceUnreadable: code_pb2.INVALID_ARGUMENT,
    ingest_errors.SourceRefused: code_pb2.PERMISSION_DENIED,
    ingest_errors.SourceUnavailable: code_pb2.UNAVAILABLE,
    ingest_errors.DecodeError: code_pb2.INVALID_ARGUMENT,
    ingest_errors.DecoderCrashed: code_pb2.INVALID_ARGUMENT,
    ingest_errors.DecoderTimeout: code_pb2.INVALID_ARGUMENT,
    ingest_errors.SpanOutside: code_pb2.OUT_OF_RANGE,
    ingest_errors.LimitExceeded: code_pb2.RESOURCE_EXHAUSTED,
    ingest_errors.BrokerUnavailable: code_pb2.UNAVAILABLE,
    encoder_errors.NoVisualEncoder: code_pb2.FAILED_PRECONDITION,
}
# Errors inside the server, and of other commands. Clients get no details of them.
INTERNAL: frozenset[type[Exception]] = frozenset(
    {
        errors.ServeError,
        errors.SettingsError,
        errors.DataDirectoryMissing,
        errors.DataDirectoryBusy,
        errors.DataDirectoryInvalid,
        errors.DiskFull,
        errors.DataDirectoryOutdated,
        errors.EncoderSpaceMismatch,
        errors.QuestionsInvalid,
        errors.TranscriptNotImported,
        errors.PredictionsInvalid,
        errors.PolicyInvalid,
        errors.ClipsInvalid,
        errors.RecordInvalid,
        errors.StreamsNotBegun,
        errors.WorkerCrashed,
        errors.ServerFailed,
        ingest_errors.IngestError,
        ingest_errors.SourceError,
        ingest_errors.OffsetRegression,
        ingest_errors.TopicReplaced,
        ingest_errors.RecordTooLarge,
        encoder_errors.EncoderError,
        encoder_errors.WeightsNotFound,
        encoder_errors.WeightsInvalid,
        encoder_errors.PicturesInvalid,
        TemporalError,
        TrainingSetInvalid,
    }
)


def reason_of(error: Exception) -> str:
    """Return an error's reason for programs: DECODE_ERROR for a DecodeError; INTERNAL if clients may not see it."""
    return name_of(error) if type(error) in STATUS else "INTERNAL"


def status_of(error: Exception, request_id: str) -> status_pb2.Status:
    """Return the status that reports an error to a client."""
    code = STATUS.get(type(error), code_pb2.INTERNAL)
    message = "internal error" if code == code_pb2.INTERNAL else shorten(str(error), MESSAGE_BYTES)
    info = error_details_pb2.ErrorInfo(reason=reason_of(error), domain=DOMAIN)
    details: list[AnyMessage] = []
    if code != code_pb2.INTERNAL:
        for key, value in vars(error).items():
            if isinstance(value, str | int | float) and value != "":
                info.metadata[key] = shorten(str(value), VALUE_BYTES)
    if type(error) in STATUS and isinstance(error, errors.RequestInvalid):
        details.append(pack_detail(bad_request(error.violations)))
    if code in (code_pb2.UNAVAILABLE, code_pb2.RESOURCE_EXHAUSTED) and not isinstance(
        error, ingest_errors.LimitExceeded | errors.QuotaExceeded
    ):
        delay = Duration()
        delay.FromMilliseconds(round(1000 * getattr(error, "retry_after_seconds", RETRY_SECONDS)))
        details.append(pack_detail(error_details_pb2.RetryInfo(retry_delay=delay)))
    details.append(pack_detail(error_details_pb2.RequestInfo(request_id=request_id)))
    return status_pb2.Status(code=code, message=message, details=[pack_detail(info), *details])


def bad_request(violations: Sequence[tuple[str, str]]) -> error_details_pb2.BadRequest:
    """Write the (field, problem) pairs of a bad request; only the first ones if all are too long to be sent."""
    message = error_details_pb2.BadRequest()
    for field, problem in violations:
        message.field_violations.add(field=shorten(field, VALUE_BYTES), description=shorten(problem, VALUE_BYTES))
        if message.ByteSize() > VIOLATIONS_BYTES and len(message.field_violations) > 1:
            del message.field_violations[-1]
            break
    return message


def shorten(text: str, max_bytes: int) -> str:
    """Cut a text to at most `max_bytes` of UTF-8; a cut text ends in "…"."""
    content = text.encode("utf-8", "backslashreplace")
    if len(content) <= max_bytes:
        return content.decode()
    return content[: max_bytes - len("…".encode())].decode("utf-8", "ignore") + "…"


def pack_detail(
    message: "error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | error_details_pb2.RetryInfo"
    " | error_details_pb2.RequestInfo",
) -> AnyMessage:
    detail = AnyMessage()
    detail.Pack(message)
    return detail


def code_of(error: Exception) -> str:
    """Return the name of an error's gRPC code, for metrics and logs."""
    return str(code_pb2.Code.Name(STATUS.get(type(error), code_pb2.INTERNAL)))
