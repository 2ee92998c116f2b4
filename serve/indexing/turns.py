"""Turns: whose job of the queue is indexed next."""

from serve.catalog.catalog import Catalog


class Turns:
    """Lets callers take turns: the caller with the fewest running jobs is next, then the one who waited longest.

    So one caller's thousand videos delay another's first video by one of them at most.
    """

    def __init__(self) -> None:
        self._count = 0  # of turns taken
        self._last: dict[str, int] = {}  # by caller: the number of its last turn

    def next(self, catalog: Catalog, max_caller_count: int | None = None) -> int | None:
        """Return the id of the QUEUED job that is next; None if there is none.

        Args:
            max_caller_count: Callers with so many RUNNING jobs get no turn; None: no limit.
        """
        running = dict(catalog.select("SELECT caller, count(*) FROM jobs WHERE state = 'RUNNING' GROUP BY caller"))
        waiting = catalog.select("SELECT caller, min(id) FROM jobs WHERE state = 'QUEUED' GROUP BY caller")
        candidates = [
            (running.get(caller, 0), self._last.get(caller, 0), job_id)
            for caller, job_id in waiting
            if max_caller_count is None or running.get(caller, 0) < max_caller_count
        ]
        return min(candidates)[2] if candidates else None

    def take(self, caller: str) -> None:
        """Note that a caller's job begins."""
        self._count += 1
        self._last[caller] = self._count
