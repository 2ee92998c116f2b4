"""BrokerTime: the brokers' clock in a worker, by which the age of chunks is counted."""

import math
import time
from collections.abc import Callable

from ingest.kafka import Delivery


class BrokerTime:
    """Measured by the append times of records that the worker sends. The machine's own clock has no part in it."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Begin without a measurement."""
        self._monotonic = monotonic
        self._lead_seconds = -math.inf  # of the brokers' clock before the monotonic one; -inf: not measured
        self._sent: Delivery | None = None
        self._sent_at = 0.0  # by the monotonic clock

    def measure(self, delivery: Delivery) -> None:
        """Measure by a record that was sent just now, unless an earlier one is still on its way."""
        if self._sent is None:
            self._sent, self._sent_at = delivery, self._monotonic()

    def seconds(self) -> float:
        """Return the brokers' time, in seconds since 1970; -inf before the first measurement."""
        now = self._monotonic()
        if self._sent is not None and self._sent.is_done:
            at, self._sent = self._sent.append_seconds, None
            if at is not None:  # it was appended between _sent_at and now
                self._lead_seconds = max(at - now, min(self._lead_seconds, at - self._sent_at))
        return now + self._lead_seconds
