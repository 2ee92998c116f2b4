"""The changes that one who watches moments has not read yet: so many, and no more."""

import asyncio
import contextlib
from typing import Any

import grpc
from grpc_status import rpc_status

from serve.api.status import status_of
from serve.errors import Overloaded
from serve.observe.logs import REQUEST_ID
from serve.values import MomentChange

MOST_WAITING = 1000  # changes; then the call ends
READ_RETRY_SECONDS = 1.0
STUCK_SECONDS = 5.0  # without reading on, until the call is ended for one who reads nothing


class Unread:
    """The changes of one call. Made and used on its event loop, but for tell()."""

    def __init__(self, context: Any) -> None:
        """Take the call that is under way here.

        Args:
            context: Its own, of gRPC.
        """
        self._context, self._loop = context, asyncio.get_running_loop()
        self._changes: asyncio.Queue[MomentChange] = asyncio.Queue()
        call = asyncio.current_task()
        assert call is not None  # gRPC runs each call in one
        self._call, self._request_id = call, REQUEST_ID.get()
        self._is_overrun = False
        self._giving_up: asyncio.TimerHandle | None = None
        self._ending: asyncio.Task[None] | None = None

    def tell(self, change: MomentChange) -> None:
        """Take a change; from any thread."""
        if not self._is_overrun:
            self._loop.call_soon_threadsafe(self._take, change)

    async def next(self) -> MomentChange:
        """Wait for the next change.

        Raises:
            Overloaded: If too many came meanwhile.
        """
        if self._is_overrun:
            raise overrun()
        return await self._changes.get()

    def close(self) -> None:
        """Let go: the call ends."""
        if self._giving_up is not None:
            self._giving_up.cancel()

    def __len__(self) -> int:
        """Return how many wait."""
        return self._changes.qsize()

    def _take(self, change: MomentChange) -> None:
        if self._is_overrun:
            return
        if len(self) < MOST_WAITING:
            self._changes.put_nowait(change)
            return
        self._is_overrun = True
        self._giving_up = self._loop.call_later(STUCK_SECONDS, self._give_up)

    def _give_up(self) -> None:
        self._ending = self._loop.create_task(self._end())

    async def _end(self) -> None:
        """End the call from outside: it waits in gRPC until its reader reads on, which may never be."""
        aborting = asyncio.create_task(self._abort())
        await asyncio.sleep(0)  # until the status is on its way
        self._call.cancel()  # which lets go of all but the status
        await aborting

    async def _abort(self) -> None:
        status = status_of(overrun(), self._request_id)
        with contextlib.suppress(grpc.aio.AbortError, grpc.aio.UsageError):  # it always raises; or it ended meanwhile
            await self._context.abort_with_status(rpc_status.to_status(status))


def overrun() -> Overloaded:
    """Return what ends a call whose changes are not read."""
    return Overloaded("moments that were not read", READ_RETRY_SECONDS)
