"""BrokerClock: the brokers' time, by which the ages of live videos are counted."""

import logging
import math
import time
from collections.abc import Callable

from ingest.kafka import Delivery, Record

logger = logging.getLogger(__name__)

PROBE_KEY = b"clock"  # in the topic of settings: the key of records without meaning
# A clock without a new record for this long is asked for. Videos that stopped age too, and retention is in days.
PROBE_SECONDS = 600.0


class BrokerClock:
    """The newest append time that the brokers gave a record. No clock of a server or a worker has a part in it."""

    def __init__(self, send_probe: Callable[[], Delivery]) -> None:
        """Begin without a time.

        Args:
            send_probe: Begins to send a record without meaning.
        """
        self._send_probe = send_probe
        self.seconds = -math.inf  # since 1970; -inf: unknown, and nothing has an age
        self._noted_at = -math.inf  # when `seconds` last moved, by the monotonic clock
        self._probe: Delivery | None = None
        self._is_refusal_logged = False

    def note(self, record: Record) -> None:
        """Take the append time of a record that was read."""
        if record.is_broker_time:
            self._note(record.append_seconds)

    def keep_going(self) -> None:
        """Send a probe if nothing was appended for a while. Call it often.

        Raises:
            BrokerUnavailable: If there is no broker.
        """
        if self._probe is not None and self._probe.is_done:
            if self._probe.append_seconds is not None:
                self._note(self._probe.append_seconds)
            elif not self._is_refusal_logged:
                self._is_refusal_logged = True
                logger.warning("retention pauses while no stream sends anything reason=%s", self._probe.error)
            self._probe = None
        if self._probe is None and time.monotonic() - self._noted_at >= PROBE_SECONDS:
            self._noted_at = time.monotonic()  # also if it fails: the next try is as much later
            self._probe = self._send_probe()

    def _note(self, append_seconds: float) -> None:
        if append_seconds > self.seconds:
            self.seconds, self._noted_at = append_seconds, time.monotonic()
