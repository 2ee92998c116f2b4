"""Deliverer: the thread that delivers the changes of moderation events to one sink, in order, at least once.

A sink is a Kafka topic (serve.moderation.kafka_topic) or a webhook (serve.moderation.webhook). The protocol:
1. The next changes after the position that the catalog holds for the sink are sent, until they arrive or are given up.
2. Then the catalog notes the position behind them. After a kill between the two, the same changes are delivered again:
   the Kafka sink first reads which of them the topic holds; the receiver of a webhook recognises a repeated id.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ingest.errors import BrokerUnavailable
from serve.background import STOP_SECONDS, Background, Backoff
from serve.catalog.events import EventLog
from serve.errors import DataDirectoryBusy, DataDirectoryInvalid
from serve.event import Event

PAUSE_SECONDS = 1.0  # between two looks at the catalog, unless wake() says that it changed
FIRST_BACKOFF_SECONDS = 1.0  # after a failure; doubled with each one that follows
LAST_BACKOFF_SECONDS = 60.0
TEMPORARY_ERRORS = (BrokerUnavailable, DataDirectoryBusy, DataDirectoryInvalid, OSError)


class Sink(Protocol):
    """A place that event changes are delivered to."""

    name: str  # under which the catalog holds the position of the sink
    batch_count: int  # changes of one deliver()

    def begin(self, state: Any) -> None:
        """Resume from what the last deliver() returned; None: nothing was ever delivered."""

    def deliver(self, events: Sequence[Event], wait: Callable[[float], bool]) -> Any:
        """Send events and wait until they arrived; return the state for begin().

        Args:
            wait: Waits some seconds, at most until the server stops; returns whether it does.
        Raises:
            BrokerUnavailable, OSError: If they must be sent again.
            Stopped: If the server stops before they arrived.
        """

    def close(self) -> None:
        """Close connections."""


class Deliverer(Background):
    """Delivers all changes of events to one sink, from the position on that the catalog holds."""

    def __init__(
        self,
        log: EventLog,
        sink: Sink,
        *,
        pause_seconds: float = PAUSE_SECONDS,
        first_backoff_seconds: float = FIRST_BACKOFF_SECONDS,
        stop_seconds: float = STOP_SECONDS,
    ) -> None:
        """Take the event log of a catalog that is open for small changes, and the sink."""
        super().__init__(
            f"events-to-{sink.name}", self.deliver_changes, pause_seconds=pause_seconds, expected=TEMPORARY_ERRORS,
            backoff=Backoff(first_backoff_seconds, LAST_BACKOFF_SECONDS), on_error=self._resume_anew,
            stop_seconds=stop_seconds,
        )  # fmt: skip
        self.log, self.sink = log, sink
        self._is_begun = False

    def stop(self) -> None:
        """End after the delivery under way, and close the sink. May be called twice.

        Changes whose delivery was not noted are sent again at the next start.
        """
        super().stop()
        self.sink.close()

    def deliver_changes(self) -> None:
        """Deliver all changes that are not delivered yet."""
        position, state = self.log.delivery_of(self.sink.name)
        changes = self.log.changes(position, self.sink.batch_count)
        if changes and not self._is_begun:
            self.sink.begin(state)
            self._is_begun = True
        while changes and not self.is_stopping:
            state = self.sink.deliver([change.event for change in changes], self.wait)
            self.log.record_delivery(self.sink.name, changes[-1].sequence, state)
            changes = self.log.changes(changes[-1].sequence, self.sink.batch_count)

    def _resume_anew(self, error: Exception) -> None:
        """Have the sink begin again from the catalog's state after an error."""
        self._is_begun = False
