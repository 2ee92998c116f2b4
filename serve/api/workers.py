"""Threads for the calls of the services: a bounded pool with a fair queue, and waiting that a cancelled call cannot cut
short."""

import asyncio
import contextlib
import contextvars
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from serve.api.interceptor import current_caller
from serve.api.shares import share_of
from serve.errors import CallAbandoned, Overloaded

Result = TypeVar("Result")

RETRY_SECONDS = 1.0  # when a caller that was refused may try again: most calls take less


class Workers:
    """A pool of threads with a bounded queue. The work of a cancelled call stops at its next check.

    The callers take turns: one that waits with a hundred calls delays another's first call by one of them, not by all.
    Used on one event loop, from the first run() on.
    """

    def __init__(
        self,
        name: str,
        count: int,
        max_waiting_count: int,
        on_waiting: Callable[[int], None],
        *,
        limit: str,
        share: float = 1.0,
    ) -> None:
        """Make the pool.

        Args:
            name: Names the work, in thread names and in Overloaded.
            count: Number of threads.
            max_waiting_count: Number of calls that may wait for a thread; a further call is refused.
            on_waiting: Called with the number of waiting calls whenever it may have changed.
            limit: The setting of max_waiting_count, in Overloaded.
            share: Part of max_waiting_count that one known caller may use, 0 to 1.
        """
        self.name, self.count, self.max_waiting_count, self.on_waiting = name, count, max_waiting_count, on_waiting
        self.limit, self.share_count = limit, share_of(max_waiting_count, share)
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)
        self._busy_count = 0  # threads with work
        self._turns: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()  # waiting calls; next caller first

    @property
    def waiting_count(self) -> int:
        """The calls that wait for a thread."""
        return sum(map(len, self._turns.values()))

    @property
    def call_count(self) -> int:
        """The calls that run or wait."""
        return self._busy_count + self.waiting_count

    async def run(self, work: Callable[[Callable[[], None]], Result]) -> Result:
        """Run `work(check)` in a thread; `check()` raises CallAbandoned once the call is cancelled.

        Raises:
            Overloaded: If too many calls wait already.
        """
        is_abandoned = False

        def check() -> None:
            if is_abandoned:
                raise CallAbandoned("the call was cancelled")

        await self._take_thread(current_caller())
        try:
            running = self._pool.submit(contextvars.copy_context().run, work, check)
        except BaseException:
            self._release_thread()
            raise
        loop = asyncio.get_running_loop()

        def release(_: "Future[Any]") -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the server has ended
                loop.call_soon_threadsafe(self._release_thread)

        running.add_done_callback(release)  # a cancelled call's thread may work on until its next check
        try:
            return await asyncio.wrap_future(running)
        finally:
            is_abandoned = True

    async def _take_thread(self, caller: str) -> None:
        """Wait until it is the caller's turn and a thread is free."""
        if self._busy_count < self.count:
            self._busy_count += 1
            return
        own = self._turns.get(caller, ())
        if caller and len(own) >= self.share_count:
            raise Overloaded(self.name, RETRY_SECONDS, "max_caller_share")
        if self.waiting_count >= self.max_waiting_count:
            raise Overloaded(self.name, RETRY_SECONDS, self.limit)
        turn = asyncio.get_running_loop().create_future()
        self._turns.setdefault(caller, deque()).append(turn)
        self.on_waiting(self.waiting_count)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it had its turn in the same moment
                self._release_thread()
            elif turn in self._turns.get(caller, ()):
                self._turns[caller].remove(turn)
                if not self._turns[caller]:
                    del self._turns[caller]
                self.on_waiting(self.waiting_count)
            raise

    def _release_thread(self) -> None:
        """Give the thread to the next caller's oldest call."""
        while self._turns:
            caller, waiting = self._turns.popitem(last=False)
            turn = waiting.popleft()
            if waiting:
                self._turns[caller] = waiting  # behind the other callers
            self.on_waiting(self.waiting_count)
            if not turn.done():
                turn.set_result(None)
                return
        self._busy_count -= 1

    def close(self) -> None:
        """Drop the waiting calls and wait for the running ones."""
        self._pool.shutdown(wait=True, cancel_futures=True)


async def run_to_end(work: Awaitable[Result]) -> Result:
    """Wait for the work of a thread, even if this task is cancelled meanwhile: the thread still uses what the caller
    would close next."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        raise
