"""A lock and two caches that the threads of serve.search.engine and serve.api.search share."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Generic, TypeVar

Value = TypeVar("Value")


class ReadWriteLock:
    """A lock for any number of readers or one writer. A waiting writer goes before readers that arrive after it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._reader_count = 0
        self._waiting_writer_count = 0
        self._is_written = False

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hold the lock together with other readers. Not reentrant: a thread that has the lock would wait forever."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_written and not self._waiting_writer_count)
            self._reader_count += 1
        try:
            yield
        finally:
            self._leave()

    @contextmanager
    def writing_then_reading(self, write: Callable[[], None]) -> Iterator[None]:
        """Run `write` as the only writer, then hold the lock as a reader, with no other writer in between."""
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
    """Values read of videos, by row; the least recently used are dropped.

    A row is never reused, and the content of one version of a row never changes, so a value stays right.
    """

    def __init__(
        self, read: Callable[[int, int, Value | None], Value], size_of: Callable[[Value], int], max_size: int
    ) -> None:
        """Make an empty cache.

        Args:
            read: Reads a version of a row. Its third argument is the cached value of an older version, or None; it must
                not change that value.
            size_of: Returns the size of a value, in any unit.
        """
        self._read, self._size_of, self._max_size = read, size_of, max_size
        self._lock = threading.Lock()
        self._entries: OrderedDict[int, tuple[int, Value]] = OrderedDict()  # version and value; last used is last
        self.size = 0

    def get(self, row: int, version: int = 0) -> Value:
        """Return the value of a version of a row, from memory or read."""
        older: Value | None = None
        with self._lock:
            if row in self._entries:
                cached_version, value = self._entries[row]
                if cached_version == version:
                    self._entries.move_to_end(row)
                    return value
                older = value if cached_version < version else None
        value = self._read(row, version, older)  # without the lock: a value read twice costs less than waiting
        with self._lock:
            if row not in self._entries or self._entries[row][0] < version:
                self._remove(row)
                self._entries[row] = (version, value)
                self.size += self._size_of(value)
                while self.size > self._max_size and len(self._entries) > 1:
                    self._remove(next(iter(self._entries)))
        return value

    def discard(self, rows: Iterable[int]) -> None:
        """Drop the values of deleted videos."""
        with self._lock:
            for row in rows:
                self._remove(row)

    def _remove(self, row: int) -> None:
        if row in self._entries:
            self.size -= self._size_of(self._entries.pop(row)[1])


class SingleFlightCache(Generic[Value]):
    """Values by key; the least recently used are dropped.

    Of threads that need one key at once, one computes the value and the others wait.
    """

    def __init__(self, max_count: int) -> None:
        self._max_count = max_count
        self._lock = threading.Lock()
        self._futures: OrderedDict[Hashable, Future[Value]] = OrderedDict()  # last used is last
        self.hit_count = 0
        self.miss_count = 0

    def get(self, key: Hashable, compute: Callable[[], Value]) -> Value:
        """Return the value of a key, from memory or from `compute`.

        An exception of `compute` is raised in the thread that called it, and is not kept: a thread that waited for it
        computes the value itself.
        """
        while True:
            with self._lock:
                shared = self._futures.get(key)
                if shared is None:
                    own = self._futures[key] = Future()
                    self.miss_count += 1
                    if len(self._futures) > self._max_count:
                        self._futures.popitem(last=False)
                    break
                self._futures.move_to_end(key)
            if shared.exception() is None:  # waits for the thread that computes it
                self.hit_count += 1
                return shared.result()
        try:
            own.set_result(compute())
        except BaseException as error:
            with self._lock:
                if self._futures.get(key) is own:
                    del self._futures[key]
            own.set_exception(error)
            raise
        return own.result()
