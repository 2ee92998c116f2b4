"""The cores that PyTorch uses: `one_core` for small work, `Lanes` to share large work among the cores once.

PyTorch splits each product among its threads, and they wait for each other after it. They spin; where the process has
other OpenMP threads, they sleep and must be woken. While another thread keeps a core busy, all wait for that core. So
small products are faster on one core, and large work is faster when it is split once:

    PyTorch alone               Lanes
    product 1: core A | core B      core A: product 1, product 2, ... of its share
    (wait)                          core B: product 1, product 2, ... of its share
    product 2: core A | core B      (wait once, at the end)
    (wait)
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from typing import Any, TypeVar

import torch
from threadpoolctl import ThreadpoolController

Items = TypeVar("Items", bound=Any)  # a sequence or an array
Result = TypeVar("Result")

MAX_LANE_COUNT = 4  # bounds memory: each lane holds the activations of its share
LEAST_SHARE = 4  # pictures or windows of speech in a share: every share reads all weights, so small ones waste it


@contextmanager
def one_core() -> Iterator[None]:
    """Limit this thread to one core inside the block; other threads keep theirs."""
    torch.get_num_threads()  # the first call in a thread sets the thread count, which would undo the limit
    with _openmp().limit(limits=1, user_api="openmp"):
        yield


@cache
def _openmp() -> ThreadpoolController:
    return ThreadpoolController()  # looking for the libraries takes milliseconds


class Lanes:
    """Threads that work in parallel, each with an equal share of the cores of the thread that made them."""

    def __init__(self, device: str) -> None:
        """Start the threads. On a device other than the CPU there is one lane: the calling thread."""
        core_count = torch.get_num_threads()
        self.count = min(core_count, MAX_LANE_COUNT) if device == "cpu" else 1
        if self.count == 1:
            return
        self._pool = ThreadPoolExecutor(self.count, thread_name_prefix="lane")
        barrier = threading.Barrier(self.count)

        def begin() -> None:
            torch.get_num_threads()  # first, as in one_core()
            torch.set_num_threads(core_count // self.count)
            barrier.wait()  # keeps each thread busy until all have run this once

        for each in [self._pool.submit(begin) for _ in range(self.count)]:
            each.result()
        torch.set_num_threads(core_count)  # new threads take the last count that any thread set

    def map(self, work: Callable[[Items], Result], items: Items) -> list[Result]:
        """Split items into shares, and return the result of each share, in order.

        Too few items to split run in the calling thread, with all cores.
        """
        count = max(1, min(self.count, len(items) // LEAST_SHARE))
        if count == 1:
            return [work(items)]
        edges = [len(items) * n // count for n in range(count + 1)]
        return list(self._pool.map(work, [items[first:last] for first, last in pairwise(edges)]))

    def map_batches(self, work: Callable[[Items], Result], items: Items, batch_count: int) -> list[Result]:
        """Call map() for each `batch_count` items, and return all results in order."""
        starts = range(0, len(items), batch_count)
        return [result for start in starts for result in self.map(work, items[start : start + batch_count])]
