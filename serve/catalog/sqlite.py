"""The SQLite file of a data directory: opening it, locking out a second writer, and its failures as our errors."""

import contextlib
import errno
import fcntl
import os
import resource
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from serve.catalog import schema
from serve.errors import (
    DataDirectoryBusy,
    DataDirectoryInvalid,
    DataDirectoryMissing,
    DataDirectoryOutdated,
    DiskFull,
)
from serve.files import PRIVATE_FILE

CATALOG_NAME = "catalog.sqlite"
LOCK_NAME = "lock"
SERVER_LOCK_NAME = "serve.lock"
MAX_PATH_BYTES = 504  # the longest path of a catalog: SQLite opens 512 bytes, with "-journal" behind the name
# Readers wait only while SQLite itself needs the whole file: to replay the log of a killed writer, and to close the
# last connection. Both take seconds even for a large log on a slow disk. Editors wait for one transaction of the
# writer; only the last one of a reindexing takes seconds.
BUSY_TIMEOUT_SECONDS = 30.0
# Bytes per page. Vectors of 384-512 float32 (1.5-2 KiB) stay inside the row instead of in overflow pages, several to
# a page. 4 KiB, SQLite's default, has room for one or two vectors and wastes the rest.
PAGE_SIZE_BYTES = 16384
JOURNAL_LIMIT_BYTES = 64 << 20  # the write-ahead log shrinks back to this after a large transaction
FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FREE_BYTES = 1 << 20  # a disk with less is full: a transaction writes some pages to the log and some to the catalog
CACHE_KIBIBYTES = 16 << 10  # for the upper b-tree levels and FTS5; vectors are read once and need no cache


class WriterLock:
    """An exclusive flock on DIR/lock, or on DIR/serve.lock for the one server of a data directory.

    The two are apart: while a server runs, `kinodex index` may write, and then the server's own indexing waits.

    The kernel releases it when the process dies, so the file of a dead writer is no obstacle. The file itself is never
    deleted, else two writers could lock two different files.
    """

    def __init__(self, directory: Path, name: str = LOCK_NAME) -> None:
        """Take the lock.

        Raises:
            DataDirectoryBusy: If another process has the lock, or another holder in this process.
            OSError: If the file cannot be made or locked.
        """
        self._file = os.open(directory / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError as error:
            pid = os.pread(self._file, 32, 0).strip()
            os.close(self._file)
            is_served = name == SERVER_LOCK_NAME
            raise DataDirectoryBusy(str(directory), int(pid) if pid.isdigit() else None, is_served=is_served) from error
        except OSError:
            os.close(self._file)
            raise

    def release(self) -> None:
        os.close(self._file)


@contextmanager
def translate_failures(directory: Path) -> Iterator[None]:
    """Raise errors of SQLite and the file system as DataDirectoryInvalid, as DiskFull if the disk is full, or as
    DataDirectoryBusy if another process holds a transaction open for longer than BUSY_TIMEOUT_SECONDS. Errors that only
    our bugs cause pass unchanged."""
    try:
        yield
    except (sqlite3.ProgrammingError, sqlite3.IntegrityError):
        raise
    except sqlite3.DatabaseError as error:
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith("SQLITE_BUSY"):
            raise DataDirectoryBusy(str(directory), None) from error
        # SQLite says "FULL" only if writing the catalog itself fails for want of room, not its log or shared memory.
        if name == "SQLITE_FULL" or (name.startswith("SQLITE_IOERR") and _is_disk_full(directory)):
            raise DiskFull(str(directory)) from error
        raise DataDirectoryInvalid(str(directory), _reason(error, directory)) from error
    except FileExistsError as error:
        raise DataDirectoryInvalid(str(directory), "it is not a folder, or a link that leads nowhere") from error
    except OSError as error:
        if error.errno in FULL_ERRNOS:
            raise DiskFull(str(directory)) from error
        raise DataDirectoryInvalid(str(directory), error.strerror or str(error)) from error


def _is_disk_full(directory: Path) -> bool:
    """Whether the disk, the user's quota or the largest file size of this process leaves the catalog no room."""
    limit_bytes, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        status = os.statvfs(directory)
        sizes = [path.stat().st_size for path in directory.glob(f"{CATALOG_NAME}*")]
        with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
            file.write(bytes(PAGE_SIZE_BYTES))
    except OSError as error:
        return error.errno in FULL_ERRNOS
    is_over_limit = limit_bytes != resource.RLIM_INFINITY and max(sizes, default=0) + FREE_BYTES > limit_bytes
    return is_over_limit or status.f_bavail * status.f_frsize < FREE_BYTES


def _reason(error: sqlite3.DatabaseError, directory: Path) -> str:
    name = getattr(error, "sqlite_errorname", "")
    if name == "SQLITE_CANTOPEN":
        length = len(os.fsencode(os.path.realpath(directory / CATALOG_NAME)))
        if length > MAX_PATH_BYTES:
            return f"the path of its catalog has {length} bytes, and SQLite opens at most {MAX_PATH_BYTES}"
    if name == "SQLITE_NOTADB":
        return f"{CATALOG_NAME} is not an SQLite file"
    if name.startswith("SQLITE_CORRUPT"):
        return f"{CATALOG_NAME} is damaged ({error})"
    if name.startswith("SQLITE_READONLY"):
        return "it may not be written to"
    if name.startswith("SQLITE_IOERR"):
        return f"the disk failed ({error}, {name})"
    return str(error)


def connect_writer(directory: Path) -> sqlite3.Connection:
    """Open the catalog for writing; make or migrate it. The caller holds the WriterLock.

    Raises:
        DataDirectoryInvalid: If the file is damaged, newer, or may not be written.
        DataDirectoryOutdated: If it is too old to be migrated.
    """
    # A new file only. To close a file that this process has open in SQLite drops the locks of all its connections.
    with translate_failures(directory), contextlib.suppress(FileExistsError):
        # SQLite gives its log and its shared memory the same permissions.
        os.close(os.open(directory / CATALOG_NAME, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE))
    with _connecting(directory, "rwc") as connection:
        connection.execute(f"PRAGMA page_size = {PAGE_SIZE_BYTES}")  # has an effect on new files only
        _check_version(directory, connection)
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise DataDirectoryInvalid(str(directory), "its file system has no shared memory for SQLite's WAL")
        if schema.version(connection) < schema.VERSION:
            schema.migrate(connection, directory)
        _prepare_for_writing(connection)
    return connection


def _prepare_for_writing(connection: sqlite3.Connection) -> None:
    # FULL: every commit is on the disk before it returns, so that "indexed" survives a power cut and a Kafka offset is
    # never ahead of its rows. One fsync for each ~64 frames costs nothing beside encoding them. (NORMAL is as safe
    # against kill -9, but may lose the last commits in a power cut.)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_size_limit = {JOURNAL_LIMIT_BYTES}")
    # Some builds of SQLite overwrite all deleted bytes with zeros, which doubles the writing. FAST does so only where
    # it costs no extra write.
    connection.execute("PRAGMA secure_delete = FAST")
    connection.execute("PRAGMA foreign_keys = ON")


def connect_editor(directory: Path) -> sqlite3.Connection:
    """Open an existing catalog for small changes beside the holder of the WriterLock. SQLite serialises the commits.

    A catalog of an older version is brought forward first, as by connect_reader().

    Raises:
        DataDirectoryMissing: If there is no catalog, or one in which nothing was ever committed.
        DataDirectoryInvalid: If the file is damaged, or of another schema version.
    """
    connection = _connect_present(directory, "rw")
    with translate_failures(directory):
        _prepare_for_writing(connection)
    return connection


def connect_outdated(directory: Path) -> sqlite3.Connection:
    """Open an existing catalog of any version, to rebuild it. The caller holds the WriterLock.

    Raises:
        DataDirectoryMissing: If there is no catalog.
        DataDirectoryInvalid: If the file is damaged.
    """
    with _connecting(directory, "rw") as connection:
        return connection


def connect_reader(directory: Path) -> sqlite3.Connection:
    """Open an existing catalog for reading only, beside a writer or without one.

    A catalog of an older version is brought forward first, if it may be written and nobody writes to it.

    Raises:
        DataDirectoryMissing: If there is no catalog, or one in which nothing was ever committed.
        DataDirectoryInvalid: If the file is damaged, or of another schema version.
    """
    return _connect_present(directory, "ro")


def _connect_present(directory: Path, mode: str) -> sqlite3.Connection:
    """Open an existing catalog of the present version, or bring it there first."""
    with _connecting(directory, mode) as connection:
        version = _check_version(directory, connection)
    if 0 < version < schema.VERSION:
        connection.close()
        _bring_forward(directory)
        with _connecting(directory, mode) as connection:
            version = _check_version(directory, connection)
    try:
        _require_present_version(directory, version)
    except BaseException:
        connection.close()
        raise
    return connection


def _bring_forward(directory: Path) -> None:
    with contextlib.suppress(DataDirectoryBusy, OSError):  # the caller says that it is too old
        lock = WriterLock(directory)
        try:
            connect_writer(directory).close()
        finally:
            lock.release()


@contextmanager
def _connecting(directory: Path, mode: str) -> Iterator[sqlite3.Connection]:
    """Connect, and close the connection if the block fails; translate failures of both."""
    with translate_failures(directory):
        if mode != "rwc":
            _require_catalog(directory)
        connection = _connect(directory, mode)
        try:
            yield connection
        except BaseException:
            connection.close()
            raise


def _require_present_version(directory: Path, version: int) -> None:
    if version == 0:
        raise DataDirectoryMissing(str(directory))
    if version < schema.VERSION:
        raise DataDirectoryInvalid(
            str(directory),
            f"its catalog is of version {version} and this program reads {schema.VERSION}: "
            f"open it once where it may be written and nobody writes to it",
        )


def _require_catalog(directory: Path) -> None:
    path = directory / CATALOG_NAME
    try:
        if path.stat().st_size == 0 and not Path(f"{path}-wal").exists():
            raise DataDirectoryMissing(str(directory))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataDirectoryMissing(str(directory)) from error


def _connect(directory: Path, mode: str) -> sqlite3.Connection:
    path = directory / CATALOG_NAME
    if not os.access(path, os.R_OK) and path.exists():
        raise PermissionError(errno.EACCES, f"{CATALOG_NAME} may not be read")
    is_unlocked = mode == "ro" and unlocked_state(directory) is not None
    connection = sqlite3.connect(
        f"file:{quote(os.fsencode(path.absolute()))}?mode={mode}" + ("&immutable=1" if is_unlocked else ""),
        uri=True,
        timeout=BUSY_TIMEOUT_SECONDS,
        isolation_level=None,  # our code begins and commits transactions itself
        check_same_thread=False,  # Catalog serialises its callers
    )
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIBIBYTES}")
    return connection


def unlocked_state(directory: Path) -> tuple[int, int] | None:
    """Return the modification time in ns and the size of a catalog that must be read without locks; None: of others.

    On read-only media SQLite has no shared memory in which to see other processes, so it reads without locks and does
    not notice their changes. These two numbers do.

    Raises:
        OSError: If the catalog does not exist.
    """
    path = directory / CATALOG_NAME
    if os.access(directory, os.W_OK) or Path(f"{path}-wal").exists():
        return None
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def _check_version(directory: Path, connection: sqlite3.Connection) -> int:
    """Return the catalog's schema version, 0 for an empty file; refuse one that this program can neither read nor
    bring forward."""
    try:
        version = schema.version(connection)
    except ValueError as error:
        raise DataDirectoryInvalid(str(directory), str(error)) from error
    if version > schema.VERSION:
        raise DataDirectoryInvalid(
            str(directory),
            f"its catalog is of version {version}, and this program knows versions up to {schema.VERSION}: "
            f"update kinodex",
        )
    if 0 < version < schema.FIRST_VERSION:
        raise DataDirectoryOutdated(str(directory), version, schema.VERSION)
    return version
