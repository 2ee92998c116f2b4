"""The audit log: one line of JSON for each act, appended to a file (server.audit_log).

An act is a call of the API, or a change by the command to a data directory. A line has:
    time, caller (a token's name, "certificate:NAME" or "local:USER"), peer, method, request_id,
    outcome ("OK", or a gRPC code), reason (of a failure),
    collections, ids, uri, and question (only with server.audit_questions).
A field that an act does not have is left out. The operator's logrotate may rename the file, or copy and truncate it at
any time: the file at the path is looked up before each write.
"""

import contextlib
import json
import logging
import os
import queue
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ingest.source.source import display_uri

if TYPE_CHECKING:  # `kinodex token` needs no protobuf
    from google.protobuf.descriptor import Descriptor
    from google.protobuf.message import Message

logger = logging.getLogger(__name__)

# Requests are noted before they are checked, so that refused ones are recorded too. These bounds keep a line short.
MAX_NAME_COUNT = 100  # collections of a line, and ids
MAX_NAME_LENGTH = 256  # characters
MAX_TEXT_LENGTH = 4096  # characters of a URI and of a question
MAX_WAITING_COUNT = 10_000  # acts that wait for a slow disk; further ones are lost
MAX_BATCH_COUNT = 1000  # lines of one write
OWN_IDS = ("request_id",)  # name a request, not what it is about

Outcome = Literal["written", "lost"]
Kind = Literal["collection", "id", "uri", "text", "message"]


@dataclass(slots=True)
class Subject:
    """What an act is about. Filled in while it goes on."""

    collections: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    uri: str = ""
    question: str = ""
    is_noted: bool = False  # whether a request was read into it

    def add(self, *, collection: str = "", name: str = "") -> None:
        for names, text in ((self.collections, collection), (self.ids, name)):
            if text and len(names) < MAX_NAME_COUNT and (text := text[:MAX_NAME_LENGTH]) not in names:
                names.append(text)

    def note_request(self, message: "Message") -> None:
        """Take what a call's first message is about. The other messages of an upload hold bytes."""
        if not self.is_noted:
            self.is_noted = True
            self._read(message)

    def note_response(self, message: "Message") -> None:
        """Take the video that a call made or found. Lists and answers are not recorded."""
        if "video" in message.DESCRIPTOR.fields_by_name:
            video = message.video  # type: ignore[attr-defined]
            self.add(collection=video.collection, name=video.video_id)
            self.uri = self.uri or video.uri[:MAX_TEXT_LENGTH]

    def _read(self, message: "Message") -> None:
        for name, kind, is_list in _fields_of(message.DESCRIPTOR):
            if kind == "message" and not is_list and not message.HasField(name):
                continue
            value = getattr(message, name)
            for item in value[:MAX_NAME_COUNT] if is_list else (value,):
                if kind == "message":
                    self._read(item)
                elif kind == "collection":
                    self.add(collection=item)
                elif kind == "id":
                    self.add(name=item)
                elif kind == "uri":
                    self.uri = display_uri(item)[:MAX_TEXT_LENGTH] if item else self.uri
                elif item:
                    self.question = " | ".join(filter(None, (self.question, item)))[:MAX_TEXT_LENGTH]


@cache  # of the few messages of the API
def _fields_of(descriptor: "Descriptor") -> tuple[tuple[str, Kind, bool], ...]:
    """Return (name, kind, whether it is a list) of the fields that a line tells of. Bytes are never among them."""
    from google.protobuf.descriptor import FieldDescriptor

    found: list[tuple[str, Kind, bool]] = []
    for each in descriptor.fields:
        kind: Kind | None = None
        if each.message_type is not None:
            is_map = each.message_type.GetOptions().map_entry
            kind = None if is_map or each.message_type.full_name.startswith("google.") else "message"
        elif each.type == FieldDescriptor.TYPE_STRING and each.name not in OWN_IDS:
            if each.name in ("collection", "collections"):
                kind = "collection"
            elif each.name.endswith(("_id", "_ids")):
                kind = "id"
            elif each.name == "uri":
                kind = "uri"
            elif each.name in ("text", "exclude_text", "note"):
                kind = "text"
        if kind is not None:
            found.append((each.name, kind, each.is_repeated))
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """One act, when it ended. A watch has an act more, when it began."""

    method: str  # kinodex.v1.LibraryService/DeleteVideo, or "kinodex delete"
    caller: str  # name of a token; "certificate:NAME"; "local:USER" for the command; empty: anybody
    peer: str = ""
    request_id: str = ""
    outcome: str
    reason: str = ""  # of a failure
    subject: Subject
    time: datetime = field(default_factory=lambda: datetime.now(UTC))

    def line(self, *, with_question: bool) -> bytes:
        values = {
            "time": self.time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "caller": self.caller,
            "peer": self.peer,
            "method": self.method,
            "request_id": self.request_id,
            "outcome": self.outcome,
            "reason": self.reason,
            "collections": self.subject.collections,
            "ids": self.subject.ids,
            "uri": self.subject.uri,
            "question": self.subject.question if with_question else "",
        }
        # json.dumps escapes all but ASCII, so the line holds no control character that a terminal would obey.
        return json.dumps({name: value for name, value in values.items() if value}).encode() + b"\n"


class AuditFile:
    """A file that lines are appended to, by several processes perhaps. Used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None
        self._is_torn = False  # whether the last write ended within a line

    def append(self, lines: bytes) -> None:
        """Append whole lines to the file that is at the path now, which is made if it is missing.

        Raises:
            OSError: If it cannot be written, or is not a regular file. Some of the lines may be there.
        """
        descriptor = self.open()
        rest = memoryview(b"\n" + lines if self._is_torn else lines)
        while rest:
            written = os.write(descriptor, rest)
            self._is_torn = rest[written - 1] != ord("\n")
            rest = rest[written:]

    def open(self) -> int:
        """Open the file, unless it is open already; return its descriptor. Raises as append() does."""
        if self._descriptor is not None:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(self.path), os.fstat(self._descriptor)):
                    return self._descriptor
            self.close()
        is_new = not self.path.exists()
        # Without O_NONBLOCK, a FIFO that nobody reads would wait here for ever.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(self.path, flags, 0o600)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(0, "not a regular file")
            if is_new and os.geteuid() == 0:  # made by root, for a server that does not run as root
                folder = self.path.parent.stat()
                os.fchown(descriptor, folder.st_uid, folder.st_gid)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor, self._is_torn = descriptor, False
        return descriptor

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class AuditLog:
    """The audit log of a server. A thread writes it, so that no call waits for the disk.

    Calls go on while the file cannot be written: the log says so once, and lost acts are counted.
    """

    def __init__(self, path: Path, *, with_questions: bool, count: Callable[[Outcome, int], None]) -> None:
        """Open the file, and begin to write.

        Args:
            with_questions: Whether lines have the texts of questions and of reviews' notes.
            count: Called with the outcome of acts and their number, from any thread.
        """
        self._file, self._with_questions, self._count = AuditFile(path), with_questions, count
        self._acts: queue.Queue[Act | None] = queue.Queue(MAX_WAITING_COUNT)
        self._failure = ""  # why acts are lost now
        self._is_closed = False
        try:
            self._file.open()
        except OSError as error:
            self._note_failure(error.strerror or str(error))
        self._thread = threading.Thread(target=self._write_acts, name="audit log", daemon=True)
        self._thread.start()

    def record(self, act: Act) -> None:
        """Write an act soon; from any thread, without waiting. One after close() is lost, and counted."""
        with contextlib.suppress(queue.Full):
            if not self._is_closed:
                self._acts.put_nowait(act)
                return
        self._count("lost", 1)

    def close(self) -> None:
        """Write the acts that wait, and end."""
        self._is_closed = True
        self._acts.put(None)
        self._thread.join()
        self._file.close()

    def _write_acts(self) -> None:
        is_open = True
        while is_open:
            batch = list(self._next_batch())
            acts = [act for act in batch if act is not None]
            is_open = len(acts) == len(batch)
            self._write(acts)

    def _next_batch(self) -> Iterator[Act | None]:
        yield self._acts.get()
        with contextlib.suppress(queue.Empty):
            for _ in range(MAX_BATCH_COUNT - 1):
                yield self._acts.get_nowait()

    def _write(self, acts: Sequence[Act]) -> None:
        lines = b"".join(act.line(with_question=self._with_questions) for act in acts)
        try:
            self._file.append(lines)
        except OSError as error:
            self._count("lost", len(acts))
            self._note_failure(error.strerror or str(error))
            return
        self._count("written", len(acts))
        if self._failure:
            self._failure = ""
            logger.warning("audit log can be written again file=%s", self._file.path)

    def _note_failure(self, reason: str) -> None:
        if reason != self._failure:
            self._failure = reason
            logger.error("audit log cannot be written, its acts are lost file=%s reason=%s", self._file.path, reason)
