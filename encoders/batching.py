"""Batching across threads: TextVectors for the texts of questions, Batcher for the frames and speech of streams."""

import contextvars
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Item = TypeVar("Item")
Value = TypeVar("Value")
OnDone = Callable[[Sequence[Value] | Exception], None]
OnBatch = Callable[[int, float], None]

MAX_BATCH_COUNT = 256  # texts in one batch: bounds its memory and the wait of its first text
CACHED_COUNT = 20_000  # vectors in the cache: 30 MB at 384 numbers each


# Who asks, in this thread or task. A text is found in memory only by who asked it before: else the time of an answer
# would tell what others have asked. Empty: the process itself.
ASKER: contextvars.ContextVar[str] = contextvars.ContextVar("asker", default="")

_Key = tuple[str, str]  # who asks, and the text


@dataclass(slots=True)
class _Pending:
    """The vector of one text, once it is encoded."""

    vector: NDArray[np.float32] | None = None
    error: BaseException | None = None

    @property
    def is_done(self) -> bool:
        return self.vector is not None or self.error is not None


class TextVectors:
    """Encodes texts for any number of threads, with a cache; each text is encoded once for each ASKER.

    No thread waits for a batch to fill. The first thread encodes at once, and texts that arrive meanwhile form the next
    batch. So a single question loses no time, and batches grow with the load.
    """

    def __init__(
        self, encode: Callable[[Sequence[str]], NDArray[np.float32]], *, cached_count: int = CACHED_COUNT
    ) -> None:
        """Wrap an encoder: N texts -> float32 (N, D)."""
        self._encode = encode
        self._cached_count = cached_count
        self._changed = threading.Condition()  # notified when a batch is done
        self._cache: OrderedDict[_Key, NDArray[np.float32]] = OrderedDict()  # least recently used first
        self._pending: dict[_Key, _Pending] = {}  # being encoded, or in the next batch
        self._next_batch: list[_Key] = []
        self._is_encoding = False
        self.found_count = 0  # texts that were in the cache, or already being encoded
        self.encoded_count = 0
        self.batch_count = 0

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return float32 (N, D) from the encoder. Its exception is raised in every thread that waits for the batch."""
        if not texts:
            return self._encode(texts)
        with self._changed:
            results = [self._look_up((ASKER.get(), text)) for text in texts]
            while not all(result.is_done for result in results):
                if self._is_encoding:
                    self._changed.wait()
                else:  # every text that is not done is in the next batch
                    self._encode_next_batch()
        for result in results:
            if result.error is not None:
                raise result.error
        return np.stack([result.vector for result in results if result.vector is not None])

    def _look_up(self, key: _Key) -> "_Pending":
        if (vector := self._cache.get(key)) is not None:
            self._cache.move_to_end(key)
            self.found_count += 1
            return _Pending(vector=vector)
        if (pending := self._pending.get(key)) is not None:
            self.found_count += 1
            return pending
        self._pending[key] = _Pending()
        self._next_batch.append(key)
        return self._pending[key]

    def _encode_next_batch(self) -> None:
        """Encode the next batch. The lock is released while the encoder runs."""
        batch, self._next_batch = self._next_batch[:MAX_BATCH_COUNT], self._next_batch[MAX_BATCH_COUNT:]
        self._is_encoding = True
        self._changed.release()
        vectors, failure = None, None
        try:
            vectors = self._encode([text for _, text in batch])
        except BaseException as error:  # raised again in every waiting thread, including this one
            failure = error
        finally:
            self._changed.acquire()
            self._is_encoding = False
            for n, key in enumerate(batch):
                pending = self._pending.pop(key)
                pending.error = failure
                if vectors is not None:
                    pending.vector = self._cache[key] = vectors[n].copy()  # a view would hold the whole batch
            while len(self._cache) > self._cached_count:
                self._cache.popitem(last=False)
            self.encoded_count += len(batch)
            self.batch_count += 1
            self._changed.notify_all()


class Batcher(Generic[Item, Value]):
    """Processes items of many streams in batches, in one thread. A batch is whatever waits when the last one ends."""

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Sequence[Value]],
        *,
        max_count: int,
        name: str,
        on_batch: OnBatch,
        is_even: bool = False,
    ) -> None:
        """Start the thread.

        Args:
            work: Turns N items into N values.
            max_count: A batch takes no further group once it has so many items.
            on_batch: Called after each batch with its item count and its seconds.
            is_even: Split the waiting groups into batches of even size. Otherwise producers that refill at once make
                batch sizes alternate between small and large. Use it only where a small and a large batch cost more
                than two halves.
        """
        self._work, self._max_count, self._on_batch, self._is_even = work, max_count, on_batch, is_even
        self._groups: queue.SimpleQueue[tuple[Sequence[Item], OnDone[Value]] | None] = queue.SimpleQueue()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, items: Sequence[Item], on_done: "OnDone[Value]") -> None:
        """Queue a group of items. `on_done` is called in the thread, with their values or with the exception."""
        self._groups.put((items, on_done))

    def close(self) -> None:
        """End the thread after the current batch; waiting groups are dropped."""
        self._is_closed = True
        self._groups.put(None)
        self._thread.join()

    def _run(self) -> None:
        last_count = 0  # groups in the last batch
        while (first := self._groups.get()) is not None and not self._is_closed:
            groups, count = [first], len(first[0])
            waiting = 1 + self._groups.qsize()
            # The producers of the last batch are about to refill the queue.
            most = (waiting + last_count + 1) // 2 if self._is_even else waiting
            while len(groups) < most and count < self._max_count and not self._groups.empty():
                following = self._groups.get()
                if following is None:
                    return
                groups.append(following)
                count += len(following[0])
            last_count = len(groups)
            self._process(groups)

    def _process(self, groups: "Sequence[tuple[Sequence[Item], OnDone[Value]]]") -> None:
        items = [item for group, _ in groups for item in group]
        begin = time.monotonic()
        try:
            values = self._work(items)
        except Exception as error:  # the waiting producer raises it in its own thread
            for _, on_done in groups:
                on_done(error)
            return
        self._on_batch(len(items), time.monotonic() - begin)
        at = 0
        for group, on_done in groups:
            on_done(values[at : at + len(group)])
            at += len(group)
