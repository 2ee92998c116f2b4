"""Tells moderation events to whoever does not call: Kafka (serve.moderation.kafka_topic), and a webhook
(serve.moderation.webhook).

Each is told every change, in order, by a thread that goes on from where the catalog says that it was left:
1. The next changes are sent, and sent again until they arrive or are given up.
2. Then the catalog notes up to which one all were. A process that is killed in between sends some of them again: of
   Kafka, it first reads what is there, so that nothing is there twice; a webhook knows them by their id.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ingest.errors import BrokerUnavailable
from serve.catalog.events import EventLog
from serve.errors import DataDirectoryBusy, DataDirectoryInvalid
from serve.event import Event

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0  # between two looks at the catalog if nobody says that it changed
STOP_SECONDS = 30.0  # for what is under way; of a webhook, and of a broker that answers, it is over before
FIRST_BACKOFF_SECONDS = 1.0
LAST_BACKOFF_SECONDS = 60.0


class Stopped(Exception):
    """The sink is to end."""


class Sink(Protocol):
    """Somebody who is told."""

    name: str
    batch_count: int  # changes between two notes of how far it was told

    def begin(self, state: Any) -> None:
        """Go on from what tell() returned; None: there was nothing."""

    def tell(self, events: Sequence[Event], wait: Callable[[float], bool]) -> Any:
        """Send these and wait until they are there; return what begin() needs.

        Args:
            wait: Waits so many seconds; True: all is to end, at once.
        Raises:
            BrokerUnavailable, OSError: If they are to be sent again.
            Stopped: If there is no time for that.
        """

    def close(self) -> None:
        """Let go."""


class Deliverer:
    """The thread that tells one sink. start() begins it, stop() ends it."""

    def __init__(self, log: EventLog, sink: Sink) -> None:
        """Take a log over a catalog that is open for small changes."""
        self.log, self.sink = log, sink
        self.stopping, self.woken = threading.Event(), threading.Event()
        self.is_begun = False
        self.trouble = ""
        self.thread = threading.Thread(target=self.run, name=f"events-to-{sink.name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self.thread.start()

    def wake(self) -> None:
        """Look at once: there are changes."""
        self.woken.set()

    def stop(self) -> None:
        """End, after what is under way. May be called twice."""
        self.stopping.set()
        self.woken.set()
        if self.thread.is_alive():
            self.thread.join(STOP_SECONDS)
        if self.thread.is_alive():  # what is not noted is sent again at the next start
            logger.error("given up sink=%s after=%g", self.sink.name, STOP_SECONDS)
        self.sink.close()

    def run(self) -> None:
        """Tell what changes, until stop()."""
        backoff_seconds = FIRST_BACKOFF_SECONDS
        while not self.stopping.is_set():
            try:
                self.go_on()
                backoff_seconds, self.trouble = FIRST_BACKOFF_SECONDS, ""
            except Stopped:
                return
            except (BrokerUnavailable, DataDirectoryBusy, DataDirectoryInvalid, OSError) as error:
                if self.trouble != str(error):
                    self.trouble = str(error)
                    logger.error("events wait to be told sink=%s reason=%s", self.sink.name, error)
                self.is_begun = False
                self.stopping.wait(backoff_seconds)
                backoff_seconds = min(LAST_BACKOFF_SECONDS, 2 * backoff_seconds)
            except Exception:  # a bug: the log says so, and the next change is another try
                logger.exception("events not told sink=%s", self.sink.name)
                self.is_begun = False
                self.stopping.wait(LAST_BACKOFF_SECONDS)
            self.woken.wait(LOOK_SECONDS)
            self.woken.clear()

    def go_on(self) -> None:
        """Tell all that there is."""
        sequence, state = self.log.told(self.sink.name)
        changes = self.log.changes(sequence, self.sink.batch_count)
        if changes and not self.is_begun:
            self.sink.begin(state)
            self.is_begun = True
        while changes and not self.stopping.is_set():
            state = self.sink.tell([change.event for change in changes], self.stopping.wait)
            self.log.note_told(self.sink.name, changes[-1].sequence, state)
            changes = self.log.changes(changes[-1].sequence, self.sink.batch_count)
