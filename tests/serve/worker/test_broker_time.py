"""The brokers' clock in a worker, measured by what it sends."""

import math

from ingest.errors import BrokerUnavailable
from serve.worker.broker_time import BrokerTime
from support.worker_fakes import FakeDelivery

BROKER = 1_700_000_000.0  # the brokers' time when the monotonic clock shows 0


class Sent(FakeDelivery):
    def __init__(self, appended: float | None = None) -> None:
        super().__init__("t", b"k", None)
        self.appended = appended

    @property
    def append_seconds(self) -> float | None:
        return self.appended if self.is_acknowledged else None


class Bench:
    def __init__(self) -> None:
        self.now = 100.0
        self.time = BrokerTime(lambda: self.now)

    def send(self, *, append_after: float, look_after: float) -> None:
        """Send a record, and look at the clock after it was appended and acknowledged."""
        sent = Sent(BROKER + self.now + append_after)
        self.time.measure(sent)
        self.now += look_after
        sent.is_acknowledged = True


def test_is_unknown_until_a_record_is_appended() -> None:
    bench = Bench()
    assert bench.time.seconds() == -math.inf
    lost = Sent()
    bench.time.measure(lost)
    lost.failure = BrokerUnavailable(("nobody:9092",), "no answer")
    assert bench.time.seconds() == -math.inf
    bench.send(append_after=0.01, look_after=0.02)
    assert BROKER + bench.now - 0.02 < bench.time.seconds() <= BROKER + bench.now


def test_a_record_that_waits_for_long_changes_nothing() -> None:
    bench = Bench()
    bench.send(append_after=0.01, look_after=0.02)
    bench.time.seconds()
    for append_after, look_after in ((60.0, 60.1), (0.0, 300.0)):  # the broker was away; the worker looks late
        bench.send(append_after=append_after, look_after=look_after)
        assert abs(bench.time.seconds() - (BROKER + bench.now)) < 0.02


def test_follows_a_clock_that_drifts() -> None:
    bench = Bench()
    for lead in (0.0, 30.0, -45.0):
        bench.send(append_after=lead + 0.01, look_after=0.02)
        assert abs(bench.time.seconds() - (BROKER + bench.now + lead)) < 0.02
