"""A lock and two caches that the threads of serve.search.engine and serve.api.services.search share."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

REMEMBERED_COUNT = 100_000  # values without room whose last use is known: some 10 MB


@dataclass(slots=True)
class _Entry(Generic[Value]):
    """A cached value."""

    value: Value
    version: int
    size: int
    asked: int  # when it was asked for last


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


class RowCache(Generic[Key, Value]):
    """Values read of videos, by row, or by row and block.

    A row is never reused, and the content of one version of a row never changes, so a value stays right.

    Where the values do not fit, questions read them in turn, and a cache of the most recently used would always have
    dropped the next one. So a full cache takes a value in only if it was asked for twice while the one to be dropped
    was not asked for at all: a part of the values stays, and is found by every question.
    """

    def __init__(
        self, read: Callable[[Key, int, Value | None], Value], size_of: Callable[[Value], int], max_size: int
    ) -> None:
        """Make an empty cache.

        Args:
            read: Reads a version of a row. Its third argument is the cached value of an older version, or None; it must
                not change that value.
            size_of: Returns the size of a value, in any unit.
        """
        self._read, self._size_of, self.max_size = read, size_of, max_size
        self._lock = threading.Lock()
        self._entries: OrderedDict[Key, _Entry[Value]] = OrderedDict()  # last used is last
        self._asked: OrderedDict[Key, int] = OrderedDict()  # of values without an entry: when they were asked for last
        self._now = 0  # counts calls of get()
        self.size = 0
        self.size_read_again = 0  # of values that were read before, and had no room

    def get(self, row: Key, version: int = 0) -> Value:
        """Return the value of a version of a row, from memory or read."""
        older: Value | None = None
        with self._lock:
            self._now += 1
            asked = self._now
            entry = self._entries.get(row)
            if entry is not None:
                if entry.version == version:
                    entry.asked = asked
                    self._entries.move_to_end(row)
                    return entry.value
                older = entry.value if entry.version < version else None
        value = self._read(row, version, older)  # without the lock: a value read twice costs less than waiting
        size = self._size_of(value)
        with self._lock:
            entry = self._entries.get(row)
            if entry is None or entry.version < version:
                asked_before = entry.asked if entry is not None else self._asked.get(row)
                if entry is None and asked_before is not None:
                    self.size_read_again += size
                self._remove(row)
                if self._make_room(size, asked_before):
                    self._entries[row] = _Entry(value, version, size, asked)
                    self._asked.pop(row, None)
                    self.size += size
                else:
                    self._remember(row, asked)
        return value

    def discard(self, is_gone: Callable[[Key], bool]) -> None:
        """Drop the values of deleted videos."""
        with self._lock:
            for row in [row for row in self._entries if is_gone(row)]:
                self._remove(row)

    def _make_room(self, size: int, asked_before: int | None) -> bool:
        """Drop values for a new one; return False if it has to stay outside.

        Args:
            asked_before: When the new value was asked for the last time before.
        """
        freed, victims = self.max_size - self.size, list[Key]()
        for row, entry in self._entries.items():
            if freed >= size:
                break
            if asked_before is None or entry.asked > asked_before:
                return False
            freed += entry.size
            victims.append(row)
        for row in victims:  # a value larger than the cache is kept if it is the only one
            self._remember(row, self._entries[row].asked)
            self._remove(row)
        return True

    def _remember(self, row: Key, asked: int) -> None:
        self._asked[row] = asked
        self._asked.move_to_end(row)
        if len(self._asked) > REMEMBERED_COUNT:
            self._asked.popitem(last=False)

    def _remove(self, row: Key) -> None:
        if row in self._entries:
            self.size -= self._entries.pop(row).size


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
