"""Texts that many threads ask for are encoded once, together, and remembered."""

import contextvars
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from encoders.batching import ASKER, Batcher, TextVectors
from support.waiting import HANG_SECONDS, wait_until


class Recorder:
    """An encoder whose batches can be held up: a text's vector is its length."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.may_go = threading.Event()
        self.may_go.set()
        self.started = threading.Event()
        self.failure: Exception | None = None

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.batches.append(list(texts))
        self.started.set()
        assert self.may_go.wait(HANG_SECONDS)
        if self.failure is not None:
            raise self.failure
        return np.array([[len(text)] for text in texts], np.float32).reshape(-1, 1)


def test_texts_come_back_in_order_and_are_encoded_once() -> None:
    recorder = Recorder()
    vectors = TextVectors(recorder.encode)
    assert vectors.encode(["aa", "b", "aa"]).tolist() == [[2], [1], [2]]
    assert vectors.encode(["b", "ccc"]).tolist() == [[1], [3]]
    assert recorder.batches == [["aa", "b"], ["ccc"]]
    assert (vectors.found_count, vectors.encoded_count, vectors.batch_count) == (2, 3, 2)
    assert vectors.encode([]).shape == (0, 1)


def test_nobody_finds_in_memory_what_others_asked() -> None:
    recorder = Recorder()
    vectors = TextVectors(recorder.encode)

    def ask(asker: str, *texts: str) -> None:
        ASKER.set(asker)
        assert vectors.encode(texts).tolist() == [[len(text)] for text in texts]

    for asker in ("ann", "bob", "ann"):
        contextvars.copy_context().run(ask, asker, "purple", "red")
    assert recorder.batches == [["purple", "red"], ["purple", "red"]]
    assert (vectors.found_count, vectors.encoded_count) == (2, 4)


def test_what_is_asked_while_a_batch_is_encoded_is_the_next_batch() -> None:
    recorder = Recorder()
    recorder.may_go.clear()
    vectors = TextVectors(recorder.encode)
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(vectors.encode, ["first"])
        assert recorder.started.wait(HANG_SECONDS)
        others = [pool.submit(vectors.encode, [f"{n % 4:05}", "first"]) for n in range(8)]
        wait_until(lambda: vectors.found_count == 8 + 4)  # all eight have asked: "first" eight times, each number twice
        recorder.may_go.set()
        assert first.result().tolist() == [[5]]
        assert [other.result().tolist() for other in others] == [[[5], [5]]] * 8
    assert len(recorder.batches) == 2
    assert sorted(recorder.batches[1]) == ["00000", "00001", "00002", "00003"]


def test_an_encoders_failure_reaches_all_who_wait_and_is_not_remembered() -> None:
    recorder = Recorder()
    recorder.failure = RuntimeError("out of memory")
    vectors = TextVectors(recorder.encode)
    with pytest.raises(RuntimeError, match="out of memory"):
        vectors.encode(["a"])
    recorder.failure = None
    assert vectors.encode(["a"]).tolist() == [[1]]


def test_forgets_what_was_asked_longest_ago() -> None:
    recorder = Recorder()
    vectors = TextVectors(recorder.encode, cached_count=2)
    for text in ("a", "bb", "a", "ccc", "a", "bb"):
        vectors.encode([text])
    assert recorder.batches == [["a"], ["bb"], ["ccc"], ["bb"]]


def test_many_threads_get_what_they_asked_for() -> None:
    vectors = TextVectors(Recorder().encode, cached_count=50)

    def ask(seed: int) -> bool:
        lengths = np.random.default_rng(seed).integers(1, 200, 300)
        return all(vectors.encode(["x" * int(n)]).tolist() == [[n]] for n in lengths)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(8)))


def test_a_batcher_that_is_closed_drops_what_waits() -> None:
    begun, going_on = threading.Event(), threading.Event()
    done: list[object] = []

    def work(items: Sequence[int]) -> Sequence[int]:
        begun.set()
        going_on.wait(HANG_SECONDS)
        return items

    batcher: Batcher[int, int] = Batcher(work, max_count=1, name="b", on_batch=lambda count, seconds: None)
    for n in range(5):
        batcher.submit([n], done.append)
    begun.wait(HANG_SECONDS)
    closing = threading.Thread(target=batcher.close)
    closing.start()
    wait_until(lambda: batcher._is_closed)
    going_on.set()
    closing.join()
    assert done == [[0]]


@pytest.mark.parametrize(("is_even", "expected"), [(False, [1, 7]), (True, [1, 4, 3])])
def test_even_batches_share_what_waits(is_even: bool, expected: list[int]) -> None:
    sizes: list[int] = []
    begun, may_go, done = threading.Event(), threading.Event(), threading.Semaphore(0)

    def work(items: Sequence[int]) -> Sequence[int]:
        begun.set()
        may_go.wait(HANG_SECONDS)
        return items

    batcher: Batcher[int, int] = Batcher(
        work, max_count=9, name="b", on_batch=lambda count, seconds: sizes.append(count), is_even=is_even
    )
    batcher.submit([0], lambda values: done.release())
    assert begun.wait(HANG_SECONDS)
    for n in range(1, 8):
        batcher.submit([n], lambda values: done.release())
    may_go.set()
    assert all(done.acquire(timeout=HANG_SECONDS) for _ in range(8))
    batcher.close()
    assert sizes == expected
