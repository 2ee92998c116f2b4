"""Pruner: removes the segments of live videos over a retention limit, a few at a time, and logs what went."""

import logging
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from serve.config import Retention
from serve.live.batch_size import BatchSize
from serve.live.broker_clock import BrokerClock
from serve.live.live_rows import LiveRows
from serve.live.tombstones import PendingTombstones
from serve.observe.metrics import LiveMetrics

logger = logging.getLogger(__name__)

PRUNE_SECONDS = 5.0  # between two checks for segments over a retention limit
# Pruning is in no hurry: its transactions are shorter than those of the feed, and it rests this many times as long as
# it works.
PRUNE_TRANSACTION_SECONDS = 0.1
PRUNE_REST = 2.0
LOG_SECONDS = 60.0  # between two log lines about one collection, while much is removed
OWN, CLUSTER = "server.retention", "kinodex retention"  # where a limit was set, for the log


@dataclass(slots=True)
class _Removed:
    """What went of one collection since the last log line."""

    videos: set[str] = field(default_factory=set)
    segment_count: int = 0
    size_bytes: int = 0


class Pruner:
    """Holds two retentions: the server's own, for its copy alone, and the cluster's, for every server and Kafka."""

    def __init__(
        self,
        rows: LiveRows,
        own: Retention,
        *,
        clock: BrokerClock,
        tombstones: PendingTombstones,
        metrics: LiveMetrics,
        on_change: Callable[[], None],
    ) -> None:
        """Begin with the server's own retention.

        Args:
            on_change: Makes a removal visible to searches.
        """
        self._rows, self._own, self._clock = rows, own, clock
        self.cluster = Retention()  # as the topic of settings has it
        self._tombstones, self._metrics, self._on_change = tombstones, metrics, on_change
        self._size = BatchSize(PRUNE_TRANSACTION_SECONDS)
        self._prune_at = 0.0  # monotonic seconds: not before
        self._removed: defaultdict[tuple[str, str, str], _Removed] = defaultdict(_Removed)  # collection, reason, limit
        self._logged_at = time.monotonic()

    def step(self) -> None:
        """Remove a few of the segments over a limit; later calls remove the next ones.

        Raises:
            BrokerUnavailable: If there is no broker to ask for its time.
        """
        started = time.monotonic()
        if not (self._own or self.cluster) or started < self._prune_at:
            return
        self._clock.keep_going()
        is_all = self._remove(self.cluster, CLUSTER) and self._remove(self._own, OWN)
        now = time.monotonic()
        self._prune_at = now + (PRUNE_SECONDS if is_all else PRUNE_REST * (now - started))
        if self._removed and (is_all or now - self._logged_at >= LOG_SECONDS):
            self._log()

    def _remove(self, retention: Retention, name: str) -> bool:
        """Remove a few segments over a limit; return whether none is left."""
        started, count = time.monotonic(), self._size.count
        excess = self._rows.prune(retention, self._clock.seconds, count) if retention else []
        if not excess:
            return True
        seconds = time.monotonic() - started
        self._size.adapt(len(excess), seconds)
        self._metrics.prune_seconds.observe(seconds)
        self._metrics.pruned.inc(len(excess))
        if name == CLUSTER:
            self._tombstones.add(one.segment for one in excess)
        for one in excess:
            removed = self._removed[one.segment.collection, one.reason, name]
            removed.videos.add(one.segment.video_id)
            removed.segment_count += 1
            removed.size_bytes += one.size_bytes
        self._on_change()
        return len(excess) < count

    def _log(self) -> None:
        for (collection, reason, name), removed in sorted(self._removed.items()):
            logger.info(
                "pruned collection=%s videos=%d segments=%d bytes=%d reason=%s set_by=%s also_in_kafka=%s",
                collection, len(removed.videos), removed.segment_count, removed.size_bytes, reason, name,
                "yes" if name == CLUSTER else "no",
            )  # fmt: skip
        self._removed.clear()
        self._logged_at = time.monotonic()
