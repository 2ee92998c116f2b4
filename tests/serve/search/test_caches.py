"""The lock for many readers, the cache of rows, and the cache that computes each value once."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from serve.search.caches import ReadWriteLock, RowCache, SingleFlightCache
from support.waiting import HANG_SECONDS, wait_until


def test_readers_hold_the_lock_together_and_a_writer_alone() -> None:
    lock, inside, most = ReadWriteLock(), [], []
    both = threading.Barrier(2, timeout=HANG_SECONDS)

    def read() -> None:
        with lock.reading():
            both.wait()  # passes only if both are inside

    def write() -> None:
        def alone() -> None:
            inside.append(1)
            most.append(len(inside))
            inside.pop()

        with lock.writing_then_reading(alone):
            pass

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(read), pool.submit(read)]:
            future.result(HANG_SECONDS)
        for future in [pool.submit(write) for _ in range(50)]:
            future.result(HANG_SECONDS)
    assert set(most) == {1}


def test_a_failed_write_leaves_the_lock_free() -> None:
    lock = ReadWriteLock()

    def fail() -> None:
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"), lock.writing_then_reading(fail):
        pass
    with lock.reading(), lock.reading():
        pass


def test_a_waiting_writer_goes_before_later_readers() -> None:
    lock, order = ReadWriteLock(), []
    reading, may_leave = threading.Event(), threading.Event()

    def first() -> None:
        with lock.reading():
            reading.set()
            assert may_leave.wait(HANG_SECONDS)

    def write() -> None:
        with lock.writing_then_reading(lambda: order.append("write")):
            pass

    def late() -> None:
        with lock.reading():
            order.append("read")

    with ThreadPoolExecutor(3) as pool:
        pool.submit(first)
        assert reading.wait(HANG_SECONDS)
        writing = pool.submit(write)
        wait_until(lambda: lock._waiting_writer_count)
        reader = pool.submit(late)
        may_leave.set()
        writing.result(HANG_SECONDS), reader.result(HANG_SECONDS)
    assert order == ["write", "read"]


def test_rows_are_cached_up_to_a_size() -> None:
    read: list[int] = []
    cache: RowCache[int, str] = RowCache(lambda row, version, older: read.append(row) or "x" * row, len, 10)
    assert [cache.get(4), cache.get(5), cache.get(4)] == ["xxxx", "xxxxx", "xxxx"]
    assert (read, cache.size) == ([4, 5], 9)
    assert cache.get(3) == "xxx"  # no room: 5 and 4 were asked for before
    assert (cache.get(4), read, cache.size) == ("xxxx", [4, 5, 3], 9)
    assert cache.get(3) == "xxx"  # for the second time, and 5 not at all meanwhile: 5 is dropped
    assert (cache.get(3), read, cache.size, cache.size_read_again) == ("xxx", [4, 5, 3, 3], 7, 3)
    cache.discard({4, 99}.__contains__)
    assert cache.size == 3
    assert cache.get(4) == "xxxx"
    assert read[-1] == 4
    assert len(cache.get(50)) == 50  # larger than the cache: still returned


def test_rows_that_are_read_in_turn_and_have_no_room_leave_a_part_in_memory() -> None:
    read: list[int] = []
    cache: RowCache[int, str] = RowCache(lambda row, version, older: read.append(row) or "x", len, 8)
    for _ in range(5):
        read.clear()
        for row in range(10):
            cache.get(row)
    assert read == [8, 9]
    for _ in range(3):  # other questions
        read.clear()
        for row in range(20, 28):
            cache.get(row)
    assert read == []


def test_a_newer_version_of_a_row_is_read_from_the_older_and_replaces_it() -> None:
    read: list[tuple[int, int, str | None]] = []

    def grow(row: int, version: int, older: str | None) -> str:
        read.append((row, version, older))
        return (older or "") + str(version)

    cache: RowCache[int, str] = RowCache(grow, len, 100)
    assert [cache.get(1, 2), cache.get(1, 2), cache.get(1, 5)] == ["2", "2", "25"]
    assert (read, cache.size) == ([(1, 2, None), (1, 5, "2")], 2)
    assert cache.get(1, 3) == "3"  # an older version than the cached one is not cached
    assert (cache.get(1, 5), cache.size) == ("25", 2)


def test_threads_that_need_one_key_compute_its_value_once() -> None:
    cache: SingleFlightCache[str] = SingleFlightCache(2)
    started, may_go, calls = threading.Event(), threading.Event(), []

    def compute() -> str:
        calls.append(1)
        started.set()
        assert may_go.wait(HANG_SECONDS)
        return "answer"

    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(cache.get, "q", compute)
        assert started.wait(HANG_SECONDS)
        others = [pool.submit(cache.get, "q", compute) for _ in range(4)]
        may_go.set()
        assert {future.result(HANG_SECONDS) for future in (first, *others)} == {"answer"}
    assert len(calls) == 1
    assert (cache.miss_count, cache.hit_count) == (1, 4)
    assert cache.get("r", lambda: "other") == "other"
    assert cache.get("s", lambda: "third") == "third"
    assert cache.get("q", lambda: "anew") == "anew"  # the cache holds two


def test_a_thread_that_waited_for_a_failure_computes_the_value_itself() -> None:
    cache: SingleFlightCache[str] = SingleFlightCache(10)
    started, may_fail = threading.Event(), threading.Event()

    def give_up() -> str:
        started.set()
        assert may_fail.wait(HANG_SECONDS)
        raise RuntimeError("nobody waits any more")

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.get, "q", give_up)
        assert started.wait(HANG_SECONDS)
        second = pool.submit(cache.get, "q", lambda: "answer")
        may_fail.set()
        with pytest.raises(RuntimeError):
            first.result(HANG_SECONDS)
        assert second.result(HANG_SECONDS) == "answer"
