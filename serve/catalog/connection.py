"""OpenCatalog: the connections of an open catalog, one for each reading thread, and its snapshots."""

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Self

from serve.catalog.sqlite import connect_reader, translate_failures, unlocked_state
from serve.values import EncoderSpace


class _ThreadState(threading.local):
    """The connection of one reading thread."""

    connection: sqlite3.Connection | None = None
    unlocked_state: tuple[int, int] | None = None  # of the file when the connection was opened; see unlocked_state()


class OpenCatalog:
    """An open catalog file.

    In a reader each thread has its own connection, so that threads read at the same time. A writer has one connection,
    and its threads take turns.
    """

    def __init__(self, directory: Path, connection: sqlite3.Connection | None = None) -> None:
        """Take the connection of a writer or editor; None: read. Callers use open_reader() or open_writer()."""
        self.directory = directory
        self._shared_connection = connection
        self._lock: AbstractContextManager[object] = nullcontext() if connection is None else threading.RLock()
        self._thread = _ThreadState()
        self._opened: list[sqlite3.Connection] = []
        self._is_closed = False
        self._begun: set[int] = set()  # rows of the PROCESSING videos of this writer

    @classmethod
    def open_reader(cls, directory: Path) -> Self:
        """Open for reading, beside a writer or without one.

        Raises:
            DataDirectoryMissing: If nothing was ever indexed there.
            DataDirectoryInvalid: If the catalog is damaged, or of another version than this program's.
        """
        catalog = cls(directory)
        catalog._connect()
        return catalog

    def close(self) -> None:
        """Close all connections. No thread may still be reading."""
        with self._lock:
            self._is_closed = True
            opened, self._opened = self._opened, []
            for connection in [*opened, *([self._shared_connection] if self._shared_connection else [])]:
                connection.close()

    def _connect(self) -> sqlite3.Connection:
        if self._is_closed:
            raise sqlite3.ProgrammingError("this catalog is closed")
        connection = connect_reader(self.directory)
        self._opened.append(connection)
        with translate_failures(self.directory):
            self._thread.connection, self._thread.unlocked_state = connection, unlocked_state(self.directory)
        return connection

    @property
    def _connection(self) -> sqlite3.Connection:
        return self._shared_connection or self._thread.connection or self._connect()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Let all reads in the block see one state of the catalog. Keep it short: the log cannot shrink meanwhile."""
        with self._lock:
            if self._connection.in_transaction:  # inside another snapshot, which goes on
                yield
                return
            with translate_failures(self.directory):
                self._reopen_if_changed()
                self._connection.execute("BEGIN")
            try:
                yield
            finally:
                self._connection.rollback()

    def identity(self) -> str:
        """Return the id that this catalog got when it was made: 32 hex digits that no other catalog has."""
        return str(self._meta("identity"))

    def generation(self) -> int:
        """Return a number that grows with every visible change."""
        return int(self._meta("generation") or 0)

    def space(self) -> EncoderSpace | None:
        """Return the encoder space that the rows were made in; None before the first set_space()."""
        text = self._meta("space")
        return None if text is None else EncoderSpace(**json.loads(text))

    def _meta(self, key: str) -> str | None:
        values = self.select("SELECT value FROM meta WHERE key = ?", key)
        return values[0][0] if values else None

    def select(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Return the rows of a SELECT: of the snapshot() around it, else of the latest state."""
        with self._lock, translate_failures(self.directory):
            if not self._connection.in_transaction:
                self._reopen_if_changed()
            return self._connection.execute(sql, parameters).fetchall()

    def _reopen_if_changed(self) -> None:
        """Open a catalog on read-only media again if another process, which may write there, has changed it."""
        before = self._thread.unlocked_state
        if before is not None and unlocked_state(self.directory) != before and self._thread.connection is not None:
            self._opened.remove(self._thread.connection)
            self._thread.connection.close()
            self._connect()
