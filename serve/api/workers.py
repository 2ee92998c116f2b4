"""Threads for the calls of the services: a bounded pool, and waiting that a cancelled call cannot cut short."""

import asyncio
import contextlib
import contextvars
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from serve.errors import CallAbandoned, Overloaded

Result = TypeVar("Result")

RETRY_SECONDS = 1.0  # when a caller that was refused may try again: most calls take less


class Workers:
    """A pool of threads with a bounded queue. The work of a cancelled call stops at its next check."""

    def __init__(self, name: str, count: int, max_waiting_count: int, on_waiting: Callable[[int], None]) -> None:
        """Make the pool.

        Args:
            name: Names the work, in thread names and in Overloaded.
            count: Number of threads.
            max_waiting_count: Number of calls that may wait for a thread; a further call is refused.
            on_waiting: Called with the number of waiting calls whenever it may have changed.
        """
        self.name, self.count, self.max_waiting_count, self.on_waiting = name, count, max_waiting_count, on_waiting
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)
        self.call_count = 0  # running and waiting

    async def run(self, work: Callable[[Callable[[], None]], Result]) -> Result:
        """Run `work(check)` in a thread; `check()` raises CallAbandoned once the call is cancelled.

        Raises:
            Overloaded: If too many calls wait already.
        """
        if self.call_count >= self.count + self.max_waiting_count:
            raise Overloaded(self.name, RETRY_SECONDS)
        is_abandoned = False

        def check() -> None:
            if is_abandoned:
                raise CallAbandoned("the call was cancelled")

        self._add_calls(1)
        context = contextvars.copy_context()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, context.run, work, check)
        finally:
            is_abandoned = True
            self._add_calls(-1)

    def _add_calls(self, change: int) -> None:
        self.call_count += change
        self.on_waiting(max(0, self.call_count - self.count))

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
