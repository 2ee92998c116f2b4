"""How many cores PyTorch uses for what one thread computes.

It shares out each product among its threads, which wait for each other after it: they spin, or sleep where the process
has other threads of the kind, and are woken. Where cores are busy besides, one waits until the other gets its turn. So
small products are quicker on one core, and large work is quicker when it is shared out once, as a whole.
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

MAX_LANE_COUNT = 4  # each holds what it works on in memory
LEAST_SHARE = 4  # pictures or windows of speech: each share reads all weights, and a large one has more of it


@contextmanager
def one_core() -> Iterator[None]:
    """Let what this thread computes in here use one core; other threads keep theirs."""
    torch.get_num_threads()  # the first use in a thread sets its number, which would undo ours
    with _openmp().limit(limits=1, user_api="openmp"):
        yield


@cache
def _openmp() -> ThreadpoolController:
    return ThreadpoolController()  # looking for the libraries takes milliseconds


class Lanes:
    """Threads that work beside each other, each with its share of the cores that the maker of this has."""

    def __init__(self, device: str) -> None:
        """Begin them; there is but one lane where a device other than the CPU computes."""
        core_count = torch.get_num_threads()
        self.count = min(core_count, MAX_LANE_COUNT) if device == "cpu" else 1
        if self.count == 1:
            return
        self._pool = ThreadPoolExecutor(self.count, thread_name_prefix="lane")
        are_here = threading.Barrier(self.count)

        def begin() -> None:
            torch.get_num_threads()  # first, as in one_core()
            torch.set_num_threads(core_count // self.count)
            are_here.wait()  # so that each of them begins once

        for each in [self._pool.submit(begin) for _ in range(self.count)]:
            each.result()
        torch.set_num_threads(core_count)  # the last number set anywhere is that of threads to come

    def map(self, work: Callable[[Items], Result], items: Items) -> list[Result]:
        """Share items out, and return what the work makes of each share, in order.

        What is too little to share out is done here, with all cores.
        """
        count = max(1, min(self.count, len(items) // LEAST_SHARE))
        if count == 1:
            return [work(items)]
        edges = [len(items) * n // count for n in range(count + 1)]
        return list(self._pool.map(work, [items[first:last] for first, last in pairwise(edges)]))

    def map_batches(self, work: Callable[[Items], Result], items: Items, batch_count: int) -> list[Result]:
        """As map(), of so many items at a time."""
        starts = range(0, len(items), batch_count)
        return [result for start in starts for result in self.map(work, items[start : start + batch_count])]
