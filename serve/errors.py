"""ServeError
├── SettingsError          a settings file or variable is wrong
├── DataDirectoryMissing   nothing has been indexed there
├── DataDirectoryBusy      another process is writing there
├── DataDirectoryInvalid   the catalog is damaged, or newer than this program
│   └── DataDirectoryOutdated   it is older than this program can read; kinodex reindex makes it anew
├── EncoderSpaceMismatch   the rows were made by other encoders
├── VideoNotFound          no such video id
├── VideoAmbiguous         more than one video is meant by an id
├── VideoNotReady          it is still on its way in, or failed
├── VideoIsLive            it comes from Kafka, which has to hear of its deletion
├── QuestionsInvalid       a file of questions with known answers cannot be used
├── PredictionsInvalid     a file of predictions or of their truth cannot be used
├── PolicyInvalid          a file of moderation policies cannot be used; names line and field
├── ClipsInvalid           a file of labelled clips cannot be used
├── RequestInvalid         a call's fields are wrong; names them
│   └── PageTokenInvalid   it is not of this server, this caller or this question
├── PageTokenExpired       the answer it pages through is forgotten
├── ResumeTokenExpired     the library it goes on in is gone
├── CollectionNotFound     no such collection
├── FrameNotFound          the video has no pictures
├── RequestIdReused        a request id came with another request
├── Unauthenticated        no valid token
├── PermissionDenied       a valid token, and not for this
├── Overloaded             too much at once; come back later
├── ServerNotReady         it is still loading, or going away
├── IndexUnavailable       Milvus does not answer
├── CallAbandoned          nobody waits for the answer any more
├── CallTooLong            it took longer than the server allows
├── UploadCorrupt          not the bytes that were announced
├── UploadStalled          the bytes stopped coming
├── SpoolFull              no room for uploads
├── RecordInvalid          a Kafka record is not what its topic holds
├── WorkerCrashed          the process that indexes died on a video, more than once
└── ServerFailed           (clients) a server refused or could not be reached
"""

import re
from collections.abc import Sequence


class ServeError(Exception):
    """The library cannot do what was asked."""


class SettingsError(ServeError):
    """A settings file or an environment variable is wrong."""


class DataDirectoryMissing(ServeError):
    """Nothing has been indexed in this data directory."""

    def __init__(self, directory: str) -> None:
        super().__init__(f"no library in {directory}: index something first (kinodex index PATH --data {directory})")
        self.directory = directory


class DataDirectoryBusy(ServeError):
    """Another process is writing to this data directory."""

    def __init__(self, directory: str, pid: int | None) -> None:
        who = f"process {pid}" if pid else "another process"
        super().__init__(f"{who} is writing to {directory}: wait for it, or choose another --data")
        self.directory, self.pid = directory, pid


class DataDirectoryInvalid(ServeError):
    """The catalog is damaged, or was written by a newer program."""

    def __init__(self, directory: str, reason: str) -> None:
        super().__init__(f"cannot use the library in {directory}: {reason}")
        self.directory, self.reason = directory, reason


class DataDirectoryOutdated(DataDirectoryInvalid):
    """The catalog was made by an older program, and is too old to be brought forward."""

    def __init__(self, directory: str, version: int, current_version: int) -> None:
        super().__init__(
            directory,
            f"its catalog is of version {version}, too old for this program, which reads version {current_version}: "
            f"run `kinodex reindex`, which encodes its videos again",
        )
        self.version = version


class EncoderSpaceMismatch(ServeError):
    """The data directory's rows were made by other encoders than the ones asked for."""

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
    """More than one video is meant by an id, or by the beginning of one."""

    def __init__(self, video_id: str, collections: Sequence[str]) -> None:
        where = f"in the collections {', '.join(collections)}" if len(collections) > 1 else f"in {collections[0]}"
        super().__init__(f"{video_id} is more than one video {where}: name the collection, or the whole id")
        self.video_id, self.where = video_id, where


class VideoNotReady(ServeError):
    """The video is known, and has nothing to show yet."""

    def __init__(self, video_id: str, state: str) -> None:
        super().__init__(f"video {video_id} is {state}: there is nothing to read of it")
        self.video_id, self.state = video_id, state


class VideoIsLive(ServeError):
    """The video comes from Kafka, which has to hear of its deletion, else it comes back and stays elsewhere."""

    def __init__(self, video_id: str) -> None:
        super().__init__(
            f"video {video_id} comes from Kafka, which has to be told that it is deleted: name the brokers"
            " (--kafka SERVERS, or kafka.servers), or ask a server that runs with them; or give --local, and only this"
            " library forgets it"
        )
        self.video_id = video_id


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
        where: Line and field for who may not know the file; empty where it is the file as a whole.
        reason: What is wrong; it may quote the file.
    """

    def __init__(self, path: str, reason: str, *, line: int | None = None, field: str = "") -> None:
        place = path if line is None else f"{path}, line {line}"
        super().__init__(
            f"cannot use policies {place}: {field}: {reason}" if field else f"cannot use policies {place}: {reason}"
        )
        self.path, self.line, self.field, self.reason = path, line, field, reason
        self.where = ": ".join(part for part in ("" if line is None else f"line {line}", field) if part)


class RequestInvalid(ServeError):
    """A call's fields are wrong.

    Attributes:
        violations: (field, what is wrong with it), at least one.
    """

    def __init__(self, violations: Sequence[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{field}: {problem}" for field, problem in violations))
        self.violations = tuple(violations)


class PageTokenInvalid(RequestInvalid):
    """A page token is not of this server, this caller or this question."""

    def __init__(self) -> None:
        super().__init__([("page_token", "is not the next_page_token of this request")])


class PageTokenExpired(ServeError):
    """The answer that a page token pages through is forgotten."""

    def __init__(self) -> None:
        super().__init__("the page token has expired: ask for the first page again")


class ResumeTokenExpired(ServeError):
    """A resume token is of a library that is gone."""

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


class RequestIdReused(ServeError):
    """A request id came with another request than before."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"request_id {request_id} was used for another request")
        self.request_id = request_id


class Unauthenticated(ServeError):
    """No valid token came with the call. Says nothing of why, so that nothing can be learnt by trying."""

    def __init__(self) -> None:
        super().__init__("a valid token is needed: send it as the metadata authorization: Bearer TOKEN")


class PermissionDenied(ServeError):
    """The token is valid, and not for this. Says the same whether or not what was asked for exists."""

    def __init__(self, what: str) -> None:
        super().__init__(f"this token may not {what}")
        self.what = what


class Overloaded(ServeError):
    """Too much is being asked at once."""

    def __init__(self, what: str, retry_after_seconds: float) -> None:
        super().__init__(f"too many {what} at once: come back in {retry_after_seconds:g} s")
        self.what, self.retry_after_seconds = what, retry_after_seconds


class ServerNotReady(ServeError):
    """The server is still loading, or going away."""

    def __init__(self, why: str, retry_after_seconds: float) -> None:
        super().__init__(f"the server is {why}: come back in {retry_after_seconds:g} s")
        self.why, self.retry_after_seconds = why, retry_after_seconds


class IndexUnavailable(ServeError):
    """Milvus does not answer. Where it is, and why, is in the log: it is not a client's to know."""

    def __init__(self) -> None:
        super().__init__("the vector index (index.milvus_uri) does not answer: come back later")


class CallAbandoned(ServeError):
    """Nobody waits for the answer any more: the call was cancelled, or its deadline has passed."""


class CallTooLong(ServeError):
    """A call that brought no deadline of its own took longer than the server allows."""

    def __init__(self, limit_seconds: float) -> None:
        super().__init__(f"not done within {limit_seconds:g} s, the server's limit (server.max_call_seconds)")
        self.limit_seconds = limit_seconds


class UploadCorrupt(ServeError):
    """The bytes that arrived are not those that were announced."""

    def __init__(self, filename: str, reason: str) -> None:
        super().__init__(f"the upload of {filename} was damaged on its way, {reason}: send it again")
        self.filename, self.reason = filename, reason


class UploadStalled(ServeError):
    """The bytes of an upload stopped coming."""

    def __init__(self, filename: str, seconds: float) -> None:
        super().__init__(f"the upload of {filename} sent nothing for {seconds:g} s: send it again")
        self.filename, self.seconds = filename, seconds


class SpoolFull(ServeError):
    """There is no room for uploads."""

    def __init__(self, retry_after_seconds: float) -> None:
        super().__init__("there is no room for uploads now: come back when others are indexed")
        self.retry_after_seconds = retry_after_seconds


class RecordInvalid(ServeError):
    """A Kafka record is not what its topic holds."""


class WorkerCrashed(ServeError):
    """The process that indexes died on a video, more than once."""

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
    """Write an error's class as a reason is written, whether or not a client may know of it."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__).upper()
