"""One SQLite file in a data directory: how it is opened, locked against a second writer, and how its failures read."""

import errno
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from serve.catalog import schema
from serve.errors import DataDirectoryBusy, DataDirectoryInvalid, DataDirectoryMissing, DataDirectoryOutdated

CATALOG_NAME = "catalog.sqlite"
LOCK_NAME = "lock"
# Readers wait only for the moments in which SQLite itself needs the whole file: replaying the log of a writer that
# was killed, and the last connection's close. Seconds even for a large log on a slow disk. Editors wait for one
# transaction of the writer, of which only the end of a reindexing takes seconds.
BUSY_TIMEOUT_SECONDS = 30.0
# Bytes per page. Vectors of 384-512 float32 (1.5-2 KiB) stay inside the row instead of in overflow pages, several to
# a page; 4 KiB, SQLite's default, holds one or two of them and wastes the rest.
PAGE_SIZE_BYTES = 16384
JOURNAL_LIMIT_BYTES = 64 << 20  # the write-ahead log shrinks back to this after a large transaction
CACHE_KIBIBYTES = 16 << 10  # pages of the upper b-tree levels and of FTS5; vectors are read once and leave again


class WriterLock:
    """An exclusive flock on DIR/lock. The kernel drops it with the process, however that dies, so the file of a dead
    writer is no obstacle; the file itself is never removed, else two writers could lock two different files."""

    def __init__(self, directory: Path) -> None:
        """Take the lock.

        Raises:
            DataDirectoryBusy: If another writer has it.
            OSError: If the file cannot be made or locked.
        """
        self._file = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError as error:
            pid = os.pread(self._file, 32, 0).strip()
            os.close(self._file)
            raise DataDirectoryBusy(str(directory), int(pid) if pid.isdigit() else None) from error
        except OSError:
            os.close(self._file)
            raise

    def release(self) -> None:
        os.close(self._file)


@contextmanager
def translate_failures(directory: Path) -> Iterator[None]:
    """Turn what SQLite and the file system say into DataDirectoryInvalid, or into DataDirectoryBusy where another
    process holds a transaction open for longer than we wait. Bugs of ours pass through as they are."""
    try:
        yield
    except (sqlite3.ProgrammingError, sqlite3.IntegrityError):
        raise
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorname", "").startswith("SQLITE_BUSY"):
            raise DataDirectoryBusy(str(directory), None) from error
        raise DataDirectoryInvalid(str(directory), _reason(error)) from error
    except OSError as error:
        raise DataDirectoryInvalid(str(directory), error.strerror or str(error)) from error


def _reason(error: sqlite3.DatabaseError) -> str:
    name = getattr(error, "sqlite_errorname", "")
    if name == "SQLITE_FULL":
        return "the disk is full"
    if name == "SQLITE_NOTADB":
        return f"{CATALOG_NAME} is not an SQLite file"
    if name.startswith("SQLITE_CORRUPT"):
        return f"{CATALOG_NAME} is damaged ({error})"
    if name.startswith("SQLITE_READONLY"):
        return "it may not be written to"
    if name.startswith("SQLITE_IOERR"):
        return f"the disk failed, or is full ({error}, {name})"
    return str(error)


def connect_writer(directory: Path) -> sqlite3.Connection:
    """Open the catalog for writing, making or migrating it. The caller holds the WriterLock.

    Raises:
        DataDirectoryInvalid: If the file is damaged, newer, or may not be written.
        DataDirectoryOutdated: If it is too old to be migrated.
    """
    with translate_failures(directory):
        connection = _connect(directory, "rwc")
        try:
            connection.execute(f"PRAGMA page_size = {PAGE_SIZE_BYTES}")  # only a new file takes it
            _check_version(directory, connection)
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise DataDirectoryInvalid(str(directory), "its file system has no shared memory for SQLite's WAL")
            _prepare_for_writing(connection)
            if schema.version(connection) < schema.VERSION:
                schema.migrate(connection)
        except BaseException:
            connection.close()
            raise
    return connection


def _prepare_for_writing(connection: sqlite3.Connection) -> None:
    # FULL: every commit is on the disk before it is answered, so that "indexed" survives a power cut and a Kafka offset
    # is never ahead of its rows. One fsync for each ~64 frames costs nothing beside encoding them. (NORMAL is as safe
    # against kill -9, but may forget the last commits when the power goes.)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_size_limit = {JOURNAL_LIMIT_BYTES}")
    # Some builds zero all that is deleted, which doubles the writing; FAST zeroes what costs no extra write.
    connection.execute("PRAGMA secure_delete = FAST")
    connection.execute("PRAGMA foreign_keys = ON")


def connect_editor(directory: Path) -> sqlite3.Connection:
    """Open an existing catalog for changes beside the holder of the WriterLock; SQLite lets one at a time commit.

    Raises:
        DataDirectoryMissing: If there is no catalog, or one in which nothing was ever committed.
        DataDirectoryInvalid: If the file is damaged, or of another schema version.
    """
    connection = _connect_existing(directory, "rw")
    with translate_failures(directory):
        try:
            _prepare_for_writing(connection)
        except BaseException:
            connection.close()
            raise
    return connection


def connect_outdated(directory: Path) -> sqlite3.Connection:
    """Open an existing catalog of any version, to rebuild it. The caller holds the WriterLock.

    Raises:
        DataDirectoryMissing: If there is no catalog.
        DataDirectoryInvalid: If the file is damaged.
    """
    with translate_failures(directory):
        _require_catalog(directory)
        return _connect(directory, "rw")


def connect_reader(directory: Path) -> sqlite3.Connection:
    """Open the catalog for reading only, beside a writer or without one.

    Raises:
        DataDirectoryMissing: If there is no catalog, or one in which nothing was ever committed.
        DataDirectoryInvalid: If the file is damaged, or of another schema version.
    """
    return _connect_existing(directory, "ro")


def _connect_existing(directory: Path, mode: str) -> sqlite3.Connection:
    with translate_failures(directory):
        _require_catalog(directory)
        connection = _connect(directory, mode)
        try:
            version = _check_version(directory, connection)
            if version == 0:
                raise DataDirectoryMissing(str(directory))
            if version < schema.VERSION:
                raise DataDirectoryInvalid(
                    str(directory),
                    f"its catalog is of version {version} and this program reads {schema.VERSION}: "
                    f"write to it once (kinodex index) to bring it forward",
                )
        except BaseException:
            connection.close()
            raise
    return connection


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
    unwatched = mode == "ro" and unlocked_state(directory) is not None
    connection = sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?mode={mode}" + ("&immutable=1" if unwatched else ""),
        uri=True,
        timeout=BUSY_TIMEOUT_SECONDS,
        isolation_level=None,  # transactions are begun and ended in so many words
        check_same_thread=False,  # Catalog serialises its callers
    )
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIBIBYTES}")
    return connection


def unlocked_state(directory: Path) -> tuple[int, int] | None:
    """Return what tells one state of a catalog from the next where SQLite itself cannot: on read-only media it has no
    shared memory to see other processes in, and reads without any lock. None: it can.

    Raises:
        OSError: If the catalog is gone.
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
