"""Errors -> google.rpc.Status: the whole mapping, in one place.

A client gets a code, one ErrorInfo (a reason for programs, and all that varies in the message), and where it helps
BadRequest field violations or RetryInfo. What is not its business is INTERNAL, "internal error", and in the log.
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
RETRY_SECONDS = 1.0  # where an error does not say how long
# A status travels in a trailer, of which gRPC's clients take 8 KiB: of a longer one they say nothing but that it is too
# long. The message is there twice: percent-encoded, up to three times its length, and in the base64 of the whole.
MESSAGE_BYTES = 1024
VALUE_BYTES = 512  # of each that varies in the message
VIOLATIONS_BYTES = 2048  # of all fields that are named as wrong

STATUS: dict[type[Exception], "code_pb2.Code.ValueType"] = {
    errors.RequestInvalid: code_pb2.INVALID_ARGUMENT,
    errors.PageTokenInvalid: code_pb2.INVALID_ARGUMENT,
    errors.PageTokenExpired: code_pb2.FAILED_PRECONDITION,
    errors.ResumeTokenExpired: code_pb2.FAILED_PRECONDITION,
    errors.CollectionNotFound: code_pb2.NOT_FOUND,
    errors.VideoNotFound: code_pb2.NOT_FOUND,
    errors.VideoAmbiguous: code_pb2.INVALID_ARGUMENT,
    errors.VideoNotReady: code_pb2.FAILED_PRECONDITION,
    errors.VideoIsLive: code_pb2.FAILED_PRECONDITION,
    errors.FrameNotFound: code_pb2.NOT_FOUND,
    errors.RequestIdReused: code_pb2.INVALID_ARGUMENT,
    errors.Unauthenticated: code_pb2.UNAUTHENTICATED,
    errors.PermissionDenied: code_pb2.PERMISSION_DENIED,
    errors.Overloaded: code_pb2.RESOURCE_EXHAUSTED,
    errors.ServerNotReady: code_pb2.UNAVAILABLE,
    errors.IndexUnavailable: code_pb2.UNAVAILABLE,
    errors.CallAbandoned: code_pb2.CANCELLED,
    errors.CallTooLong: code_pb2.DEADLINE_EXCEEDED,
    errors.UploadCorrupt: code_pb2.DATA_LOSS,
    errors.UploadStalled: code_pb2.DEADLINE_EXCEEDED,
    errors.SpoolFull: code_pb2.RESOURCE_EXHAUSTED,
    ingest_errors.SourceNotFound: code_pb2.NOT_FOUND,
    ingest_errors.SourceUnreadable: code_pb2.INVALID_ARGUMENT,
    ingest_errors.SourceRefused: code_pb2.PERMISSION_DENIED,
    ingest_errors.SourceUnavailable: code_pb2.UNAVAILABLE,
    ingest_errors.DecodeError: code_pb2.INVALID_ARGUMENT,
    ingest_errors.DecoderCrashed: code_pb2.INVALID_ARGUMENT,
    ingest_errors.DecoderTimeout: code_pb2.INVALID_ARGUMENT,
    ingest_errors.LimitExceeded: code_pb2.RESOURCE_EXHAUSTED,
    ingest_errors.BrokerUnavailable: code_pb2.UNAVAILABLE,
    encoder_errors.NoVisualEncoder: code_pb2.FAILED_PRECONDITION,
}
# Of the server's own house, or of other commands: a client learns nothing of them.
INTERNAL: frozenset[type[Exception]] = frozenset(
    {
        errors.ServeError,
        errors.SettingsError,
        errors.DataDirectoryMissing,
        errors.DataDirectoryBusy,
        errors.DataDirectoryInvalid,
        errors.DataDirectoryOutdated,
        errors.EncoderSpaceMismatch,
        errors.QuestionsInvalid,
        errors.PredictionsInvalid,
        errors.PolicyInvalid,
        errors.ClipsInvalid,
        errors.RecordInvalid,
        errors.WorkerCrashed,
        errors.ServerFailed,
        ingest_errors.IngestError,
        ingest_errors.SourceError,
        ingest_errors.OffsetRegression,
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
    """Name what went wrong for programs: DecodeError -> DECODE_ERROR; what a client has no business with, INTERNAL."""
    return name_of(error) if type(error) in STATUS else "INTERNAL"


def status_of(error: Exception, request_id: str) -> status_pb2.Status:
    """Say to a client what went wrong."""
    code = STATUS.get(type(error), code_pb2.INTERNAL)
    message = "internal error" if code == code_pb2.INTERNAL else short(str(error), MESSAGE_BYTES)
    info = error_details_pb2.ErrorInfo(reason=reason_of(error), domain=DOMAIN)
    details: list[AnyMessage] = []
    if code != code_pb2.INTERNAL:
        for key, value in vars(error).items():
            if isinstance(value, str | int | float) and value != "":
                info.metadata[key] = short(str(value), VALUE_BYTES)
    if type(error) in STATUS and isinstance(error, errors.RequestInvalid):
        details.append(packed(bad_request(error.violations)))
    if code in (code_pb2.UNAVAILABLE, code_pb2.RESOURCE_EXHAUSTED) and not isinstance(
        error, ingest_errors.LimitExceeded
    ):
        delay = Duration()
        delay.FromMilliseconds(round(1000 * getattr(error, "retry_after_seconds", RETRY_SECONDS)))
        details.append(packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    details.append(packed(error_details_pb2.RequestInfo(request_id=request_id)))
    return status_pb2.Status(code=code, message=message, details=[packed(info), *details])


def bad_request(found: Sequence[tuple[str, str]]) -> error_details_pb2.BadRequest:
    """Name what is wrong with a request, the first of it where it is too much to be sent."""
    told = error_details_pb2.BadRequest()
    for field, problem in found:
        told.field_violations.add(field=short(field, VALUE_BYTES), description=short(problem, VALUE_BYTES))
        if told.ByteSize() > VIOLATIONS_BYTES and len(told.field_violations) > 1:
            del told.field_violations[-1]
            break
    return told


def short(text: str, most_bytes: int) -> str:
    """Cut a text that has more bytes than may be sent."""
    content = text.encode("utf-8", "backslashreplace")
    if len(content) <= most_bytes:
        return content.decode()
    return content[: most_bytes - len("…".encode())].decode("utf-8", "ignore") + "…"


def packed(
    message: "error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | error_details_pb2.RetryInfo"
    " | error_details_pb2.RequestInfo",
) -> AnyMessage:
    whole = AnyMessage()
    whole.Pack(message)
    return whole


def code_of(error: Exception) -> str:
    """Return the name of the gRPC code an error has, for metrics and logs."""
    return str(code_pb2.Code.Name(STATUS.get(type(error), code_pb2.INTERNAL)))
