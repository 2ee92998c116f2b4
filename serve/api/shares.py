"""Shares: how much of a limited resource all callers hold together and each of them alone; and RateLimit, how often.

One caller is one token, one client certificate, or everybody at a server that knows no callers. Everything here lives
on the server's event loop.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from serve.errors import Overloaded

RETRY_SECONDS = 1.0  # when a refused caller may try again: most calls take less
BURST_SECONDS = 5.0  # a caller that asked nothing for so long may ask the questions of that time at once


def share_of(total: int, share: float) -> int:
    """Return the part of a limit that one known caller may hold: at least 1."""
    return max(1, int(total * share))


class Shares:
    """Counts what the callers hold, and refuses more than the total or than a caller's own share."""

    def __init__(
        self, what: str, limit: str, total: int, share: float, *, on_change: Callable[[], None] = lambda: None
    ):
        """Make the counts.

        Args:
            what: Names the resource, in errors.
            limit: The setting of the total, in errors.
            total: Greatest amount that all callers hold together.
            share: Part of the total that one caller may hold, 0 to 1. Callers without a name have no such limit.
            on_change: Called when an amount has changed.
        """
        self.what, self.limit, self.total, self.share = what, limit, total, share_of(total, share)
        self.held: Counter[str] = Counter()  # by caller
        self._on_change = on_change

    @property
    def count(self) -> int:
        """The amount that all callers hold."""
        return self.held.total()

    def check(self, caller: str) -> None:
        """Refuse a caller who may hold no more.

        Raises:
            Overloaded: If the total or the caller's share is used up.
        """
        if caller and self.held[caller] >= self.share:
            raise Overloaded(self.what, RETRY_SECONDS, "max_caller_share")
        if self.count >= self.total:
            raise Overloaded(self.what, RETRY_SECONDS, self.limit)

    @contextmanager
    def hold(self, caller: str) -> Iterator[None]:
        """Hold one.

        Raises:
            Overloaded: If the total or the caller's share is used up.
        """
        self.check(caller)
        self.held[caller] += 1
        self._on_change()
        try:
            yield
        finally:
            self.held[caller] -= 1
            if not self.held[caller]:
                del self.held[caller]
            self._on_change()


class RateLimit:
    """Bounds how often each caller does something, with bursts. Callers without a name have no limit."""

    def __init__(self, what: str, limit: str, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Make the limit; `what` and `limit`, a setting, name it in errors."""
        self.what, self.limit, self.per_second, self._clock = what, limit, per_second, clock
        self._paid_until: dict[str, float] = {}  # by caller: when all that it did is allowed without a burst

    def take(self, caller: str) -> None:
        """Count one.

        Raises:
            Overloaded: If the caller is too fast; it says when the next one is allowed.
        """
        if not caller:
            return
        now = self._clock()
        paid_until = max(self._paid_until.get(caller, now), now)
        wait = paid_until - now - BURST_SECONDS
        if wait > 0:
            raise Overloaded(self.what, wait, self.limit)
        self._paid_until[caller] = paid_until + 1 / self.per_second
