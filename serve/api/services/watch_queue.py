"""WatchQueue: the bounded queue of changes between the watcher's thread and one WatchMoments call."""

import asyncio
import contextlib
from typing import Any

import grpc
from grpc_status import rpc_status

from serve.api.status import status_of
from serve.errors import Overloaded
from serve.observe.logs import REQUEST_ID
from serve.values import MomentChange

MAX_CHANGE_COUNT = 1000  # unread changes of one call; one more ends the call
READ_RETRY_SECONDS = 1.0  # when a caller whose watch was ended may watch again
STUCK_SECONDS = 5.0  # how long a caller has to read on after the queue was full, until the call is aborted


class WatchQueue:
    """The unread changes of one call. Lives on the call's event loop; only put() may be called from other threads."""

    def __init__(self, context: Any) -> None:
        """Make the queue of the call that runs here, which has this context of gRPC."""
        self._context, self._loop = context, asyncio.get_running_loop()
        self._changes: asyncio.Queue[MomentChange] = asyncio.Queue()
        call = asyncio.current_task()
        assert call is not None  # gRPC runs each call as a task
        self._call, self._request_id = call, REQUEST_ID.get()
        self._is_overrun = False
        self._abort_timer: asyncio.TimerHandle | None = None
        self._ending: asyncio.Task[None] | None = None  # referenced, as the loop keeps only weak references to tasks

    def put(self, change: MomentChange) -> None:
        """Add a change; from any thread."""
        if not self._is_overrun:
            self._loop.call_soon_threadsafe(self._put, change)

    async def next(self) -> MomentChange:
        """Wait for the next change and return it.

        Raises:
            Overloaded: If the queue was full before; the changes in it are lost.
        """
        if self._is_overrun:
            raise _overrun_error()
        return await self._changes.get()

    def close(self) -> None:
        """Disarm the timer: the call ends by itself."""
        if self._abort_timer is not None:
            self._abort_timer.cancel()

    def __len__(self) -> int:
        """Return the number of unread changes."""
        return self._changes.qsize()

    def _put(self, change: MomentChange) -> None:
        if self._is_overrun:
            return
        if len(self) < MAX_CHANGE_COUNT:
            self._changes.put_nowait(change)
            return
        self._is_overrun = True
        self._abort_timer = self._loop.call_later(STUCK_SECONDS, self._start_ending)

    def _start_ending(self) -> None:
        self._ending = self._loop.create_task(self._end_call())

    async def _end_call(self) -> None:
        """End the call from outside: its own task waits in gRPC until the caller reads on, perhaps for ever."""
        aborting = asyncio.create_task(self._abort())
        await asyncio.sleep(0)  # until the status is handed to gRPC
        self._call.cancel()  # frees everything but the status, which stays with gRPC
        await aborting

    async def _abort(self) -> None:
        status = status_of(_overrun_error(), self._request_id)
        # AbortError is raised always; UsageError if the call ended meanwhile.
        with contextlib.suppress(grpc.aio.AbortError, grpc.aio.UsageError):
            await self._context.abort_with_status(rpc_status.to_status(status))


def _overrun_error() -> Overloaded:
    return Overloaded("moments that were not read", READ_RETRY_SECONDS, f"{MAX_CHANGE_COUNT} a watch")
