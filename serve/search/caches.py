"""What threads that answer questions share: a lock that many readers hold at once, and what is kept in memory."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Generic, TypeVar

Value = TypeVar("Value")


class ReadWriteLock:
    """Held by any number of readers, or by one writer. A waiting writer goes before readers that come after it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._reader_count = 0
        self._waiting_writer_count = 0
        self._is_written = False

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hold it with other readers. Not to be asked for by a thread that has it."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_written and not self._waiting_writer_count)
            self._reader_count += 1
        try:
            yield
        finally:
            self._leave()

    @contextmanager
    def writing_then_reading(self, write: Callable[[], None]) -> Iterator[None]:
        """Run `write` alone, then hold the lock with other readers, with no other writer in between."""
        with self._changed:
            self._waiting_writer_count += 1
            self._changed.wait_for(lambda: not self._is_written and not self._reader_count)
            self._waiting_writer_count -= 1
            self._is_written = True
        try:
            write()
        except BaseException:
            self._end_writing(reader_count=0)
            raise
        self._end_writing(reader_count=1)
        try:
            yield
        finally:
            self._leave()

    def _end_writing(self, *, reader_count: int) -> None:
        with self._changed:
            self._is_written, self._reader_count = False, reader_count
            self._changed.notify_all()

    def _leave(self) -> None:
        with self._changed:
            self._reader_count -= 1
            self._changed.notify_all()


class RowCache(Generic[Value]):
    """What was read of the videos asked about lately, by row. No row comes again, and the content of one version of a
    row never changes."""

    def __init__(
        self, read: Callable[[int, int, Value | None], Value], size_of: Callable[[Value], int], max_size: int
    ) -> None:
        """Keep values of at most `max_size` together, in the measure of `size_of`.

        Args:
            read: Reads a version of a row; it gets what is known of an older one, which it must leave as it is.
        """
        self._read, self._size_of, self._max_size = read, size_of, max_size
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, tuple[int, Value]] = OrderedDict()  # with the version; the one used last is last
        self.size = 0
        self.found_count = 0
        self.read_count = 0

    def get(self, row: int, version: int = 0) -> Value:
        """Return a version of a row: what is in memory, or what is read."""
        older: Value | None = None
        with self._lock:
            if row in self._kept:
                known, value = self._kept[row]
                if known == version:
                    self._kept.move_to_end(row)
                    self.found_count += 1
                    return value
                older = value if known < version else None
        value = self._read(row, version, older)  # without the lock: two threads may read the same, which costs less
        with self._lock:
            self.read_count += 1
            if row not in self._kept or self._kept[row][0] < version:
                self._forget(row)
                self._kept[row] = (version, value)
                self.size += self._size_of(value)
                while self.size > self._max_size and len(self._kept) > 1:
                    self._forget(next(iter(self._kept)))
        return value

    def _forget(self, row: int) -> None:
        if row in self._kept:
            self.size -= self._size_of(self._kept.pop(row)[1])

    def discard(self, rows: Iterable[int]) -> None:
        """Forget videos that are gone."""
        with self._lock:
            for row in rows:
                self._forget(row)


class SingleFlightCache(Generic[Value]):
    """What was worked out lately, by key. Of threads that ask for the same at once, one works and the others wait."""

    def __init__(self, max_count: int) -> None:
        self._max_count = max_count
        self._lock = threading.Lock()
        self._known: OrderedDict[Hashable, Future[Value]] = OrderedDict()  # the one used last is last
        self.found_count = 0
        self.worked_count = 0

    def get(self, key: Hashable, work: Callable[[], Value]) -> Value:
        """Return the value of a key, from `work` unless it is known. A failure is its own thread's, and is forgotten:
        who waited for it works itself."""
        while True:
            with self._lock:
                found = self._known.get(key)
                if found is None:
                    mine = self._known[key] = Future()
                    self.worked_count += 1
                    if len(self._known) > self._max_count:
                        self._known.popitem(last=False)
                    break
                self._known.move_to_end(key)
            if found.exception() is None:  # waits
                self.found_count += 1
                return found.result()
        try:
            mine.set_result(work())
        except BaseException as error:
            with self._lock:
                if self._known.get(key) is mine:
                    del self._known[key]
            mine.set_exception(error)
            raise
        return mine.result()
