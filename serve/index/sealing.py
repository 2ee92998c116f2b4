"""ShardSealer: makes a sealed shard in a thread, so that questions go on during the seconds that this takes.

serve.index.faiss_index uses it.
"""

import logging
import sqlite3
import threading
from collections.abc import Sequence

import numpy as np

from serve.catalog.catalog import Catalog, Kind
from serve.errors import ServeError
from serve.index.changes import READ_ROW_COUNT, read_rows
from serve.index.shard import Shard, make_tail, seal

logger = logging.getLogger(__name__)


class ShardSealer:
    """Makes one sealed shard of the rows that some shards hold now, and leaves those shards unchanged."""

    def __init__(
        self, catalog: Catalog, kind: Kind, shards: Sequence[Shard], *, read_row_count: int = READ_ROW_COUNT
    ) -> None:
        """Start the thread. The catalog must be open for reading, so that the thread gets a connection of its own."""
        self.shards = tuple(shards)
        self._shard: Shard | None = None  # the result; None until then, or if sealing failed
        self._catalog, self._kind, self._read_row_count = catalog, kind, read_row_count
        self._is_stopped, self._has_read = threading.Event(), threading.Event()
        is_held = np.concatenate([shard.owners for shard in shards]) >= 0
        self._ids = np.concatenate([shard.ids for shard in shards])[is_held]
        self._owners = np.concatenate([shard.owners for shard in shards])[is_held]
        self._stamps = np.concatenate([shard.stamps for shard in shards])[is_held]
        self._thread = threading.Thread(target=self._run, name=f"seal-{kind}", daemon=True)
        self._thread.start()

    @property
    def is_done(self) -> bool:
        return not self._thread.is_alive()

    def join(self) -> None:
        """Wait until sealing is done."""
        self._thread.join()

    def stop_reading(self) -> None:
        """Cancel, and return as soon as the thread reads nothing more of the catalog."""
        self._is_stopped.set()
        self._has_read.wait()

    def take_shard(self, holders: Sequence[Shard]) -> Shard | None:
        """Return the sealed shard without the rows that none of the `holders` has any more; None if sealing failed."""
        if self._shard is not None:
            ids = [shard.ids[shard.owners >= 0] for shard in holders]
            self._shard.remove_ids(np.setdiff1d(self._shard.ids, np.concatenate([np.empty(0, np.int64), *ids])))
        return self._shard

    def _run(self) -> None:
        try:
            try:
                tail = self._read()
            finally:
                self._has_read.set()
            if tail.live_count and not self._is_stopped.is_set():
                self._shard = seal(tail)
        except (ServeError, sqlite3.Error, RuntimeError) as error:  # FAISS raises RuntimeError
            logger.warning("index not sealed kind=%s reason=%r", self._kind, error)

    def _read(self) -> Shard:
        tail = make_tail(self.shards[0].width)
        for rows in read_rows(
            self._catalog, self._kind, self._ids, self._owners, self._stamps, count=self._read_row_count
        ):
            tail.add(rows)
            if self._is_stopped.is_set():
                break
        return tail
