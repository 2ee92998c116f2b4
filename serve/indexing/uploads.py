"""Spool: a folder of uploaded files, which stay until they are indexed.

A file is called `….part` while its bytes arrive, and gets its name when all of them are on the disk. The thread that
receives it holds a lock on it the whole time. So clean() can tell a file in use from a file that a kill left behind.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from ingest.errors import LimitExceeded, SourceUnreadable
from serve.errors import SpoolFull, UploadCorrupt, UploadStalled
from serve.files import make_private_folder

FOLDER_NAME = "uploads"  # in the data directory
RETRY_AFTER_SECONDS = 30.0  # about the time until a short video is indexed and its file removed
COUNT_SECONDS = 1.0  # how long a count of the folder's bytes is used: other processes only remove files
MIN_BYTES_PER_SECOND = 1024  # slower uploads fail, or a drip feed could hold a place for ever; phones are faster
_PART_SUFFIX = ".part"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spooled:
    """A complete upload on the disk."""

    name: str  # in the spool's folder
    content_sha256: str  # 64 hex digits
    size_bytes: int


class Spool:
    """A folder of uploads. Safe to share between threads."""

    def __init__(
        self,
        folder: Path,
        *,
        max_upload_bytes: int,
        max_spool_bytes: int,
        max_caller_bytes: int | None = None,
        waiting_bytes: Callable[[str], int] = lambda caller: 0,
    ) -> None:
        """Use a folder.

        Args:
            max_caller_bytes: Largest size of all files of one known caller; None: no such limit.
            waiting_bytes: Returns the size of a caller's finished files that wait to be indexed.
        """
        self.folder = folder
        self.max_upload_bytes, self.max_spool_bytes = max_upload_bytes, max_spool_bytes
        self.max_caller_bytes, self._waiting_bytes = max_caller_bytes, waiting_bytes
        self._lock = threading.Lock()
        self._receiving: Counter[str] = Counter()  # bytes of unfinished files, by caller
        self._used_bytes, self._counted_at = 0, -COUNT_SECONDS

    @contextmanager
    def receive(self, filename: str, *, size_bytes: int | None = None, caller: str = "") -> "Iterator[Upload]":
        """Receive an upload. Leaving the block before finish() removes the file.

        Leave the block only after the job that names the file is submitted: until then clean() does not touch it.

        Args:
            filename: The client's name for it, for errors.
            size_bytes: Its length if the client announced it: too large a file is refused before its bytes arrive.
            caller: Whose share of the spool it takes; empty: nobody is known.
        Raises:
            LimitExceeded: If it is larger than max_upload_bytes.
            SpoolFull: If the spool, or the caller's share of it, has no room.
        """
        self._admit(filename, caller, size_bytes or 0, new_bytes=size_bytes or 0)
        with translate_disk_failures():
            make_private_folder(self.folder)
            upload = Upload(self, filename, caller)
        try:
            yield upload
        finally:
            upload.close()
            with self._lock:
                self._receiving[caller] -= upload.size_bytes
                self._receiving += Counter()  # drops the callers without any

    def path(self, name: str) -> Path:
        """Return the path of a finished file."""
        return path_of(self.folder, name)

    def used_bytes(self) -> int:
        """Return the size of all files, finished or not."""
        return _size_of(self.folder)

    def remove(self, name: str) -> None:
        """Remove a finished file that no job needs."""
        remove(self.folder, name)

    def clean(self, referenced: Callable[[], Container[str]]) -> None:
        """Remove files that killed processes left: unfinished ones, and those no job names (`referenced`)."""
        try:
            named = referenced()
            unnamed = [path for path in self.folder.iterdir() if path.name not in named]
        except FileNotFoundError:
            return
        for path in unnamed:
            with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
                # Asked again under the lock: before the lock was free, the file may have waited for its job.
                if _try_lock(file.fileno()) and path.name not in referenced():
                    path.unlink()

    def _admit(self, filename: str, caller: str, size_bytes: int, *, new_bytes: int) -> None:
        """Refuse a file that is too large, or bytes for which the spool or the caller's share of it has no room."""
        if size_bytes > self.max_upload_bytes:
            raise LimitExceeded(upload_uri(filename), "max_upload_bytes", f"more than {self.max_upload_bytes} bytes")
        with self._lock:
            if time.monotonic() - self._counted_at >= COUNT_SECONDS:
                self._used_bytes, self._counted_at = _size_of(self.folder), time.monotonic()
            if self._used_bytes + new_bytes > self.max_spool_bytes:
                raise SpoolFull(RETRY_AFTER_SECONDS, "max_spool_bytes")
            receiving = self._receiving[caller]
        if not caller or self.max_caller_bytes is None:
            return
        if self._waiting_bytes(caller) + receiving + new_bytes > self.max_caller_bytes:
            raise SpoolFull(RETRY_AFTER_SECONDS, "max_caller_share")

    def _admit_more(self, upload: "Upload", new_bytes: int) -> None:
        self._admit(upload.filename, upload.caller, upload.size_bytes + new_bytes, new_bytes=new_bytes)
        with self._lock:
            self._used_bytes += new_bytes
            self._receiving[upload.caller] += new_bytes


class Upload:
    """A file that is being received. Used by one thread at a time."""

    def __init__(self, spool: Spool, filename: str, caller: str) -> None:
        """Create the file. Only Spool.receive() calls this."""
        self.filename, self.caller, self.size_bytes = filename, caller, 0
        self._spool, self._digest = spool, hashlib.sha256()
        self._is_finished = False
        while True:
            self._path = spool.folder / f"{uuid4().hex}{_PART_SUFFIX}"
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX)
            if os.fstat(self._file).st_nlink:
                break
            os.close(self._file)  # clean() removed it before it was locked

    def write(self, data: bytes) -> None:
        """Append bytes.

        Raises:
            LimitExceeded: If it is larger than max_upload_bytes.
            SpoolFull: If there is no room for them.
        """
        self._spool._admit_more(self, len(data))
        self._digest.update(data)
        self.size_bytes += len(data)
        rest = memoryview(data)
        with translate_disk_failures():
            while rest:
                rest = rest[os.write(self._file, rest) :]

    def finish(self, *, size_bytes: int | None = None, sha256: str | None = None) -> Spooled:
        """Check the file against what the client announced, and store it under its name.

        Args:
            size_bytes: The announced size; None: none was announced.
            sha256: The announced hash, in hex; None or empty: none was announced.
        Raises:
            SourceUnreadable: If it is empty.
            UploadCorrupt: If its length or checksum differs.
            SpoolFull: If the disk is full.
        """
        content_sha256 = self._digest.hexdigest()
        if size_bytes is not None and size_bytes != self.size_bytes:
            raise UploadCorrupt(self.filename, f"{self.size_bytes} of {size_bytes} bytes arrived")
        if sha256 and sha256.lower() != content_sha256:
            raise UploadCorrupt(self.filename, "its SHA-256 differs")
        if not self.size_bytes:
            raise SourceUnreadable(upload_uri(self.filename), "empty file")
        name = f"{content_sha256}-{uuid4().hex[:8]}"
        with translate_disk_failures():
            os.fsync(self._file)
            self._path.rename(path_of(self._spool.folder, name))
            folder = os.open(self._spool.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        self._is_finished = True
        return Spooled(name=name, content_sha256=content_sha256, size_bytes=self.size_bytes)

    def close(self) -> None:
        """Unlock the file; remove it unless it was finished."""
        if not self._is_finished:
            self._path.unlink(missing_ok=True)
        os.close(self._file)


class UploadPace:
    """Ends an upload whose bytes come too slowly. Only the time that the server waits for the client counts."""

    def __init__(self, filename: str, max_stall_seconds: float) -> None:
        self.filename, self.max_stall_seconds = filename, max_stall_seconds
        self._waited_seconds, self._size_bytes = 0.0, 0

    def note(self, waited_seconds: float, size_bytes: int) -> None:
        """Count a message, for which the server waited.

        Raises:
            UploadStalled: If too few bytes came in max_stall_seconds of waiting.
        """
        self._waited_seconds += waited_seconds
        self._size_bytes += size_bytes
        if self._waited_seconds >= self.max_stall_seconds:
            if self._size_bytes < MIN_BYTES_PER_SECOND * self._waited_seconds:
                raise UploadStalled(self.filename, self._waited_seconds, self._size_bytes)
            self._waited_seconds, self._size_bytes = 0.0, 0


def upload_uri(filename: str) -> str:
    """Return the URI under which an upload is shown and stored."""
    return f"upload:{filename}"


def has_same_content(one: str, other: str) -> bool:
    """Whether two finished files, by their names, hold the same bytes."""
    return one.partition("-")[0] == other.partition("-")[0]


def path_of(folder: Path, name: str) -> Path:
    """Return the path of a finished file.

    Raises:
        ValueError: If a spool never gives such a name.
    """
    if not name or "/" in name or "\0" in name or name in (".", "..") or name.endswith(_PART_SUFFIX):
        raise ValueError(f"not the name of a finished upload: {name!r}")
    return folder / name


def remove(folder: Path, name: str | None) -> None:
    """Remove a finished file that no job needs. A name of None is ignored."""
    if name is not None:
        path_of(folder, name).unlink(missing_ok=True)


@contextmanager
def translate_disk_failures() -> Iterator[None]:
    """Turn a full disk into SpoolFull."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise SpoolFull(RETRY_AFTER_SECONDS) from error
        raise


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _size_of(folder: Path) -> int:
    total = 0
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # indexed and removed by now
                total += entry.stat().st_size
    return total
