"""Rows of an index on their way into a sealed shard, in a thread: it takes seconds, and questions do not wait."""

import logging
import sqlite3
import threading
from collections.abc import Sequence

import numpy as np

from serve.catalog.catalog import Catalog, Kind
from serve.errors import ServeError
from serve.index.changes import rows_by_id
from serve.index.shard import Shard, make_tail, seal

logger = logging.getLogger(__name__)


class Sealing:
    """Makes one sealed shard of the rows that some shards hold now, and leaves those as they are."""

    def __init__(self, catalog: Catalog, kind: Kind, shards: Sequence[Shard]) -> None:
        """Begin.

        Args:
            catalog: Open for reading: the thread has a connection of its own.
        """
        self.shards = tuple(shards)
        self.shard: Shard | None = None  # when it is over; None then: it failed
        self._catalog, self._kind = catalog, kind
        self._is_stopped, self._has_read = threading.Event(), threading.Event()
        is_there = np.concatenate([shard.owners for shard in shards]) >= 0
        self._ids = np.concatenate([shard.ids for shard in shards])[is_there]
        self._owners = np.concatenate([shard.owners for shard in shards])[is_there]
        self._stamps = np.concatenate([shard.stamps for shard in shards])[is_there]
        self.thread = threading.Thread(target=self._run, name=f"seal-{kind}", daemon=True)
        self.thread.start()

    @property
    def is_over(self) -> bool:
        return not self.thread.is_alive()

    def stop_reading(self) -> None:
        """Give up, and return when the catalog may be closed."""
        self._is_stopped.set()
        self._has_read.wait()

    def _run(self) -> None:
        try:
            try:
                tail = self._read()
            finally:
                self._has_read.set()
            if tail.live_count and not self._is_stopped.is_set():
                self.shard = seal(tail)
        except (ServeError, sqlite3.Error, RuntimeError) as error:  # FAISS's own are RuntimeErrors
            logger.warning("index not sealed kind=%s reason=%r", self._kind, error)

    def _read(self) -> Shard:
        tail = make_tail(self.shards[0].width)
        for rows in rows_by_id(self._catalog, self._kind, self._ids, self._owners, self._stamps):
            tail.add(rows.ids, rows.vectors, rows.owners, rows.stamps)
            if self._is_stopped.is_set():
                break
        return tail

    def settle(self, held: Sequence[Shard]) -> Shard | None:
        """Return the shard without what went meanwhile; None: there is none.

        Args:
            held: The shards that may still hold its rows.
        """
        if self.shard is not None:
            ids = [shard.ids[shard.owners >= 0] for shard in held]
            self.shard.remove_ids(np.setdiff1d(self.shard.ids, np.concatenate([np.empty(0, np.int64), *ids])))
        return self.shard
