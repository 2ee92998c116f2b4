"""One batch for all who ask at the same time, and nothing asked twice."""

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

MAX_BATCH_COUNT = 256  # texts of one batch: bounds its memory and how long the first of them waits
CACHED_COUNT = 20_000  # vectors that stay: 30 MB at 384 numbers


@dataclass(slots=True)
class _Wanted:
    """One text's vector, now or later."""

    vector: NDArray[np.float32] | None = None
    error: BaseException | None = None

    @property
    def is_done(self) -> bool:
        return self.vector is not None or self.error is not None


class TextVectors:
    """Encodes texts for any number of threads: cached, each text once, whatever waits in one batch.

    Nothing waits for a batch to fill: the first thread that asks encodes at once, what others ask meanwhile is the
    next batch. So a lone question loses no time, and the busier it is, the larger the batches are.
    """

    def __init__(
        self, encode: Callable[[Sequence[str]], NDArray[np.float32]], *, cached_count: int = CACHED_COUNT
    ) -> None:
        """Take what encodes: N texts -> float32 (N, D)."""
        self._encode = encode
        self._cached_count = cached_count
        self._changed = threading.Condition()  # a batch is done
        self._known: OrderedDict[str, NDArray[np.float32]] = OrderedDict()  # the one used last is last
        self._awaited: dict[str, _Wanted] = {}  # being encoded, or waiting for it
        self._waiting: list[str] = []  # of the next batch
        self._is_encoding = False
        self.found_count = 0  # texts that were known, or under way already
        self.encoded_count = 0
        self.batch_count = 0

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return float32 (N, D), as the encoder gives it. What it raises, all who wait for the batch get."""
        if not texts:
            return self._encode(texts)
        with self._changed:
            wanted = [self._wanted(text) for text in texts]
            while not all(one.is_done for one in wanted):
                if self._is_encoding:
                    self._changed.wait()
                else:  # what is wanted and not done is then in the next batch
                    self._encode_waiting()
        for one in wanted:
            if one.error is not None:
                raise one.error
        return np.stack([one.vector for one in wanted if one.vector is not None])

    def _wanted(self, text: str) -> "_Wanted":
        if (vector := self._known.get(text)) is not None:
            self._known.move_to_end(text)
            self.found_count += 1
            return _Wanted(vector=vector)
        if (awaited := self._awaited.get(text)) is not None:
            self.found_count += 1
            return awaited
        self._awaited[text] = _Wanted()
        self._waiting.append(text)
        return self._awaited[text]

    def _encode_waiting(self) -> None:
        """Encode the next batch, without the lock while it lasts."""
        batch, self._waiting = self._waiting[:MAX_BATCH_COUNT], self._waiting[MAX_BATCH_COUNT:]
        self._is_encoding = True
        self._changed.release()
        vectors, failure = None, None
        try:
            vectors = self._encode(batch)
        except BaseException as error:  # raised again in every thread that waits, this one among them
            failure = error
        finally:
            self._changed.acquire()
            self._is_encoding = False
            for n, text in enumerate(batch):
                wanted = self._awaited.pop(text)
                wanted.error = failure
                if vectors is not None:
                    wanted.vector = self._known[text] = vectors[n].copy()  # a view would keep the whole batch
            while len(self._known) > self._cached_count:
                self._known.popitem(last=False)
            self.encoded_count += len(batch)
            self.batch_count += 1
            self._changed.notify_all()


class Batcher(Generic[Item, Value]):
    """Works on what many streams bring, in one thread; whatever waits is the next batch, none is waited for."""

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
            work: From items to as many values.
            max_count: A batch takes no further group once it has so many items.
            on_batch: Told of each batch: how many items, and how many seconds it took.
            is_even: Make batches of like size. Else, where who is done brings the next at once, one that was small is
                followed by one of all others, that by a small one, and so on. Only where the small ones cost more than
                two halves do.
        """
        self._work, self._max_count, self._on_batch, self._is_even = work, max_count, on_batch, is_even
        self._groups: queue.SimpleQueue[tuple[Sequence[Item], OnDone[Value]] | None] = queue.SimpleQueue()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, items: Sequence[Item], on_done: "OnDone[Value]") -> None:
        """Have a group of items worked on; `on_done` is called in the thread, with their values or what was raised."""
        self._groups.put((items, on_done))

    def close(self) -> None:
        """End the thread when the batch under way is done; what waits is dropped."""
        self._is_closed = True
        self._groups.put(None)
        self._thread.join()

    def _run(self) -> None:
        before = 0  # groups of the last batch
        while (first := self._groups.get()) is not None and not self._is_closed:
            groups, count = [first], len(first[0])
            waiting = 1 + self._groups.qsize()
            most = (waiting + before + 1) // 2 if self._is_even else waiting  # those of the last batch come again
            while len(groups) < most and count < self._max_count and not self._groups.empty():
                following = self._groups.get()
                if following is None:
                    return
                groups.append(following)
                count += len(following[0])
            before = len(groups)
            self._one(groups)

    def _one(self, groups: "Sequence[tuple[Sequence[Item], OnDone[Value]]]") -> None:
        items = [item for group, _ in groups for item in group]
        begin = time.monotonic()
        try:
            values = self._work(items)
        except Exception as error:  # the one who waits raises it where somebody sees it
            for _, on_done in groups:
                on_done(error)
            return
        self._on_batch(len(items), time.monotonic() - begin)
        at = 0
        for group, on_done in groups:
            on_done(values[at : at + len(group)])
            at += len(group)
