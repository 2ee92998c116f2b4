"""ServeError
├── SettingsError          a settings file or variable is wrong
├── DataDirectoryMissing   nothing has been indexed there
├── DataDirectoryBusy      another process is writing there
├── DataDirectoryInvalid   the catalog is damaged, or newer than this program
│   ├── DiskFull               its disk is full
│   └── DataDirectoryOutdated  it is too old for this program; kinodex reindex rebuilds it
├── EncoderSpaceMismatch   the rows were made by other encoders
├── VideoNotFound          no such video id
├── VideoAmbiguous         an id names more than one video
├── VideoNotReady          it is not indexed yet, or its indexing failed
├── VideoDamaged           its stored row has a value that no message can carry
├── VideoIsLive            it comes from Kafka, where its deletion must be published
├── TranscriptNotImported  a transcript cannot become the words of a video
├── MediaGone              the file of a video is gone, or was never kept
├── MediaChanged           the file of a video has other content than was indexed
├── QuestionsInvalid       a file of questions with known answers cannot be used
├── PredictionsInvalid     a file of predictions or of their truth cannot be used
├── PolicyInvalid          a file of moderation policies cannot be used; names line and field
├── ClipsInvalid           a file of labelled clips cannot be used
├── RequestInvalid         fields of a request are wrong; names them
│   └── PageTokenInvalid   it is of another server, caller or question
├── PageTokenExpired       the server no longer has the answer it pages through
├── ResumeTokenExpired     the library it belongs to is gone
├── CollectionNotFound     no such collection
├── FrameNotFound          the video has no pictures
├── JobNotFound            no job to index this video
├── SpeakerNotFound        the video has no such speaker
├── EventNotFound          no such moderation event
├── RequestIdReused        a request id came with another request
├── Unauthenticated        no valid token
│   └── TokenExpired       a right token whose time is over
├── PermissionDenied       a valid token that does not allow this
├── Overloaded             too many requests at once; try again later
├── ServerNotReady         it is still loading, or stopping
├── IndexUnavailable       Milvus does not answer
├── CallAbandoned          the caller waits no longer
├── CallTooLong            it took longer than the server allows
├── UploadCorrupt          its bytes are not those that were announced
├── UploadStalled          its bytes stopped coming
├── SpoolFull              the server has no room
├── QuotaExceeded          the collection holds all that its quota allows
├── RecordInvalid          a Kafka record is not what its topic holds
├── StreamsNotBegun        no worker has begun some streams, so partitions cannot be added
├── WorkerCrashed          the indexing process died on a video more than once
└── ServerFailed           (clients) a server refused or could not be reached
"""

import re
from collections.abc import Sequence
from datetime import datetime


class ServeError(Exception):
    """The library or a server cannot do what a caller asks for."""


class SettingsError(ServeError):
    """A settings file or an environment variable is wrong."""


class DataDirectoryMissing(ServeError):
    """Nothing has been indexed in this data directory."""

    def __init__(self, directory: str) -> None:
        super().__init__(f"no library in {directory}: index something first (kinodex index PATH --data {directory})")
        self.directory = directory


class DataDirectoryBusy(ServeError):
    """Another process is writing to this data directory, or serves it."""

    def __init__(self, directory: str, pid: int | None, *, is_served: bool = False) -> None:
        holder = f"process {pid}" if pid else "another process"
        what = f"serves {directory} already: stop" if is_served else f"is writing to {directory}: wait for"
        super().__init__(f"{holder} {what} it, or choose another --data")
        self.directory, self.pid = directory, pid


class DataDirectoryInvalid(ServeError):
    """The catalog is damaged, or was written by a newer program."""

    def __init__(self, directory: str, reason: str) -> None:
        super().__init__(f"cannot use the library in {directory}: {reason}")
        self.directory, self.reason = directory, reason


class DiskFull(DataDirectoryInvalid):
    """The disk of the data directory is full. A server's callers get SPOOL_FULL, as the text names a folder."""

    def __init__(self, directory: str) -> None:
        super().__init__(directory, "the disk is full")


class DataDirectoryOutdated(DataDirectoryInvalid):
    """The catalog is too old for this program; `kinodex reindex` rebuilds it."""

    def __init__(self, directory: str, version: int, current_version: int) -> None:
        super().__init__(
            directory,
            f"its catalog is of version {version}, too old for this program, which reads version {current_version}: "
            f"run `kinodex reindex`, which encodes its videos again",
        )
        self.version = version


class EncoderSpaceMismatch(ServeError):
    """Other encoders than the chosen ones made the rows of the data directory."""

    def __init__(self, directory: str, stored: str, wanted: str) -> None:
        super().__init__(
            f"{directory} was indexed with {stored}, and this run has {wanted}: "
            f"run `kinodex reindex` to move it, or name the first encoders again"
        )
        self.directory, self.stored, self.wanted = directory, stored, wanted


class VideoNotFound(ServeError):
    """No video of this id."""

    def __init__(self, video_id: str) -> None:
        super().__init__(f"no video {video_id}")
        self.video_id = video_id


class VideoAmbiguous(ServeError):
    """An id, or the beginning of an id, names more than one video."""

    def __init__(self, video_id: str, collections: Sequence[str]) -> None:
        where = f"in the collections {', '.join(collections)}" if len(collections) > 1 else f"in {collections[0]}"
        super().__init__(f"{video_id} is more than one video {where}: name the collection, or the whole id")
        self.video_id, self.where = video_id, where


class VideoNotReady(ServeError):
    """The video is not indexed yet, or its indexing failed."""

    def __init__(self, video_id: str, state: str) -> None:
        super().__init__(f"video {video_id} is {state}: its content cannot be read")
        self.video_id, self.state = video_id, state


class VideoDamaged(ServeError):
    """The stored row of a video has a value that no message can carry, as earlier versions took them."""

    def __init__(self, video_id: str, problem: str) -> None:
        super().__init__(f"video {video_id} is damaged in the library, {problem}: delete it and index it again")
        self.video_id, self.problem = video_id, problem


class VideoIsLive(ServeError):
    """The video comes from Kafka. Unless its deletion is published there, it comes back, and other servers keep it."""

    def __init__(self, video_id: str) -> None:
        super().__init__(
            f"video {video_id} comes from Kafka, where its deletion must be published: name the brokers"
            " (--kafka SERVERS, or kafka.servers), or ask a server that runs with them; or give --local to delete it"
            " from this library only"
        )
        self.video_id = video_id


class TranscriptNotImported(ServeError):
    """A transcript cannot become the words of a video."""

    def __init__(self, video_id: str, reason: str) -> None:
        super().__init__(f"the transcript of video {video_id} was not imported: {reason}")
        self.video_id, self.reason = video_id, reason


class MediaGone(ServeError):
    """The file of a video is not there any more, or was not kept."""

    def __init__(self, video_id: str, reason: str) -> None:
        super().__init__(f"the file of video {video_id} is not there: {reason}")
        self.video_id, self.reason = video_id, reason


class MediaChanged(ServeError):
    """The file of a video has other content than was indexed."""

    def __init__(self, video_id: str, uri: str) -> None:
        super().__init__(f"the file of video {video_id} has changed since it was indexed: index it again: {uri}")
        self.video_id, self.uri = video_id, uri


class QuestionsInvalid(ServeError):
    """A file of questions with known answers cannot be used."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"cannot use questions {path}: {reason}")
        self.path = path


class PredictionsInvalid(ServeError):
    """A file of predictions, or of their truth, cannot be used."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"cannot use {path}: {reason}")
        self.path = path


class ClipsInvalid(ServeError):
    """A file of labelled clips cannot be used."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"cannot use clips {path}: {reason}")
        self.path = path


class PolicyInvalid(ServeError):
    """A file of moderation policies cannot be used.

    Attributes:
        line: From 1; None: the file as a whole.
        field: Such as "policies[2].leave"; empty: none.
        where: Line and field, for callers who may not learn the path; empty: the file as a whole.
        reason: What is wrong; may quote the file.
    """

    def __init__(self, path: str, reason: str, *, line: int | None = None, field: str = "") -> None:
        place = path if line is None else f"{path}, line {line}"
        super().__init__(
            f"cannot use policies {place}: {field}: {reason}" if field else f"cannot use policies {place}: {reason}"
        )
        self.path, self.line, self.field, self.reason = path, line, field, reason
        self.where = ": ".join(part for part in ("" if line is None else f"line {line}", field) if part)


class RequestInvalid(ServeError):
    """Fields of a request are wrong.

    Attributes:
        violations: (field, what is wrong with it), at least one pair.
    """

    def __init__(self, violations: Sequence[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{field}: {problem}" for field, problem in violations))
        self.violations = tuple(violations)


class PageTokenInvalid(RequestInvalid):
    """A page token is of another server, another caller or another question."""

    def __init__(self) -> None:
        super().__init__([("page_token", "is not the next_page_token of this request")])


class PageTokenExpired(ServeError):
    """The server no longer has the answer that a page token pages through."""

    def __init__(self) -> None:
        super().__init__("the page token has expired: ask for the first page again")


class ResumeTokenExpired(ServeError):
    """A resume token is of a library that no longer exists."""

    def __init__(self) -> None:
        super().__init__("the resume token is of a library that is gone: begin without it, from_start for all events")


class CollectionNotFound(ServeError):
    """No such collection."""

    def __init__(self, collection: str) -> None:
        super().__init__(f"no collection {collection}")
        self.collection = collection


class FrameNotFound(ServeError):
    """The video has no pictures."""

    def __init__(self, video_id: str) -> None:
        super().__init__(f"video {video_id} has no pictures")
        self.video_id = video_id


class JobNotFound(ServeError):
    """No job to index this video: it was indexed, the job was cancelled, or there was none."""

    def __init__(self, video_id: str) -> None:
        super().__init__(f"no job for video {video_id}: it is indexed, cancelled, or was never asked for")
        self.video_id = video_id


class SpeakerNotFound(ServeError):
    """The video has no speaker of this number."""

    def __init__(self, video_id: str, speaker: int) -> None:
        super().__init__(f"video {video_id} has no speaker {speaker}")
        self.video_id, self.speaker = video_id, speaker


class EventNotFound(ServeError):
    """No such moderation event: it was withdrawn, or the caller may not read it."""

    def __init__(self, event_id: str) -> None:
        super().__init__(f"no event {event_id}")
        self.event_id = event_id


class RequestIdReused(ServeError):
    """A request id was used before, with another request."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"request_id {request_id} was used for another request")
        self.request_id = request_id


class Unauthenticated(ServeError):
    """A call without a valid token. Its text does not say why, so that trying tokens teaches nothing."""

    def __init__(self) -> None:
        super().__init__("a valid token is needed: send it as the metadata authorization: Bearer TOKEN")


class TokenExpired(Unauthenticated):
    """The token is right, and its time is over."""

    def __init__(self, name: str, expire_time: datetime) -> None:
        ServeError.__init__(
            self, f"the token {name} expired on {expire_time:%Y-%m-%d %H:%M} UTC: ask the operator for a new one"
        )


class PermissionDenied(ServeError):
    """A valid token does not allow the call. The text is the same whether or not the resource exists."""

    def __init__(self, what: str) -> None:
        super().__init__(f"this token may not {what}")
        self.what = what


class Overloaded(ServeError):
    """Too many requests at once, of this caller or of all callers. `limit` is the setting that bounds them."""

    def __init__(self, what: str, retry_after_seconds: float, limit: str) -> None:
        super().__init__(f"too many {what} at once ({limit}): come back in {retry_after_seconds:.3g} s")
        self.what, self.retry_after_seconds, self.limit = what, retry_after_seconds, limit


class ServerNotReady(ServeError):
    """The server is still loading, or stopping."""

    def __init__(self, why: str, retry_after_seconds: float) -> None:
        super().__init__(f"the server is {why}: come back in {retry_after_seconds:g} s")
        self.why, self.retry_after_seconds = why, retry_after_seconds


class IndexUnavailable(ServeError):
    """Milvus does not answer. The log has its address and the reason, which clients must not learn."""

    def __init__(self) -> None:
        super().__init__("the vector index (index.milvus_uri) does not answer: come back later")


class CallAbandoned(ServeError):
    """The caller waits no longer: the call was cancelled, or its deadline has passed."""


class CallTooLong(ServeError):
    """A call without a deadline of its own took longer than the server allows."""

    def __init__(self, limit_seconds: float) -> None:
        super().__init__(f"not done within {limit_seconds:g} s, the server's limit (server.max_call_seconds)")
        self.limit_seconds = limit_seconds


class UploadCorrupt(ServeError):
    """The bytes that arrived are not those that were announced."""

    def __init__(self, filename: str, reason: str) -> None:
        super().__init__(f"the upload of {filename} was damaged on its way, {reason}: send it again")
        self.filename, self.reason = filename, reason


class UploadStalled(ServeError):
    """The bytes of an upload stopped coming, or came too slowly."""

    def __init__(self, filename: str, seconds: float, size_bytes: int = 0) -> None:
        sent = f"only {size_bytes} bytes" if size_bytes else "nothing"
        super().__init__(f"the upload of {filename} sent {sent} for {seconds:g} s: send it again")
        self.filename, self.seconds, self.size_bytes = filename, seconds, size_bytes


class SpoolFull(ServeError):
    """The server has no room for uploads now, none for this caller's, or its disk is full and it can change nothing.
    `limit` is the setting that bounds them."""

    def __init__(self, retry_after_seconds: float, limit: str = "") -> None:
        reason = f" ({limit})" if limit else ""
        super().__init__(f"the server has no room now{reason}: come back when other videos are indexed or deleted")
        self.retry_after_seconds, self.limit = retry_after_seconds, limit


class QuotaExceeded(ServeError):
    """The collection holds all that its quota allows."""

    def __init__(self, collection: str, used: str) -> None:
        super().__init__(
            f"collection {collection} is full: it has {used} (server.quotas): delete some first, or ask the operator"
        )
        self.collection, self.used = collection, used


class RecordInvalid(ServeError):
    """A Kafka record is not what its topic holds."""


class StreamsNotBegun(ServeError):
    """Partitions cannot be added: workers would read chunks of some streams in the wrong order then."""

    def __init__(self, streams: str) -> None:
        super().__init__(
            f"no worker has begun {streams}, so partitions cannot be added yet: "
            f"run `kinodex worker` until `kinodex streams` shows no lag, then try again"
        )
        self.streams = streams


class WorkerCrashed(ServeError):
    """The indexing process died on a video more than once."""

    def __init__(self, uri: str, attempt_count: int) -> None:
        super().__init__(f"indexing ended {attempt_count} times in the middle of this video: {uri}")
        self.uri = uri


class ServerFailed(ServeError):
    """A server refused a call, or could not be reached.

    Attributes:
        code: The gRPC status code's name, such as UNAVAILABLE.
        reason: ErrorInfo.reason, such as VIDEO_NOT_FOUND; empty where the server gave none.
        retry_after_seconds: When to come back; None: the server did not say.
    """

    def __init__(self, message: str, code: str, reason: str = "", retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.code, self.reason, self.retry_after_seconds = code, reason, retry_after_seconds


def name_of(error: Exception) -> str:
    """Return an error's class name as a reason, such as VIDEO_NOT_FOUND, whether or not clients may learn it."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__).upper()
