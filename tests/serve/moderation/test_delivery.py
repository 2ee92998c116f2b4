"""Delivery of event changes to sinks: all of them, in order, again until they arrive."""

import base64
import contextlib
import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ingest.config import KafkaConfig
from ingest.errors import BrokerUnavailable
from serve.background import Stopped
from serve.catalog.catalog import Catalog
from serve.catalog.events import EventLog
from serve.errors import SettingsError
from serve.event import Event
from serve.moderation import kafka_topic, webhook
from serve.moderation.delivery import Deliverer
from serve.moderation.kafka_topic import EventTopic
from serve.moderation.webhook import Webhook
from support.sample_catalog import SPACE
from support.sample_events import add, event, never_stop
from support.waiting import HANG_SECONDS, wait_until
from support.webhook_receiver import Receiver
from support.webhook_receiver import receiver as receiver

pytestmark = pytest.mark.slow

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123").decode()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    with Catalog.open_writer(tmp_path / "data") as catalog:
        catalog.set_space(SPACE)
        yield EventLog(catalog)


@dataclass
class FakeSink:
    """Notes what is delivered; fails where a test says."""

    name: str = "fake"
    batch_count: int = 2
    delivered: list[str] = field(default_factory=list)
    begun: list[Any] = field(default_factory=list)
    failures: int = 0

    def begin(self, state: Any) -> None:
        self.begun.append(state)

    def deliver(self, events: Sequence[Event], wait: Callable[[float], bool]) -> Any:
        if self.failures:
            self.failures -= 1
            raise BrokerUnavailable(("broker",), "away")
        self.delivered += [f"{event.event_id}-{event.revision}" for event in events]
        return {"count": len(self.delivered)}

    def close(self) -> None:
        pass


def test_resumes_at_the_position_in_the_catalog(log: EventLog) -> None:
    sink = FakeSink()
    add(log, 0, 1, 2)
    Deliverer(log, sink).deliver_changes()
    add(log, 3, 0)
    Deliverer(log, sink).deliver_changes()
    Deliverer(log, sink).deliver_changes()

    assert sink.delivered == ["event0-0", "event1-0", "event2-0", "event3-0", "event0-1"]
    assert sink.begun == [None, {"count": 3}]


def test_delivers_again_after_a_failure(log: EventLog, caplog: pytest.LogCaptureFixture) -> None:
    sink = FakeSink(failures=2)
    add(log, 0, 1)
    deliverer = Deliverer(log, sink, first_backoff_seconds=0.01)
    deliverer.start()
    wait_until(lambda: len(sink.delivered) == 2)
    deliverer.stop()
    assert sink.delivered == ["event0-0", "event1-0"]
    assert sink.begun == [None, None, None]  # after a failure the sink begins anew
    assert sum("events-to-fake waits reason=" in line for line in caplog.messages) == 1  # once for one problem


def test_a_stop_gives_up_on_a_delivery_that_hangs(
    log: EventLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sink, is_released, is_delivering = FakeSink(), threading.Event(), threading.Event()

    def deliver(events: Sequence[Event], wait: Callable[[float], bool]) -> None:
        is_delivering.set()
        assert is_released.wait(HANG_SECONDS)
        raise Stopped

    monkeypatch.setattr(sink, "deliver", deliver)
    add(log, 0)
    deliverer = Deliverer(log, sink, stop_seconds=0.1)
    deliverer.start()
    assert is_delivering.wait(HANG_SECONDS)
    deliverer.stop()
    assert "events-to-fake did not end in time" in caplog.text
    is_released.set()
    wait_until(lambda: not deliverer.is_alive)


# ---- Kafka; with a broker: test_events_kafka.py


class SilentBroker:
    """A producer whose broker has stopped answering, and what it sends."""

    def __init__(self, config: KafkaConfig) -> None:
        self.sent, self.is_closed = threading.Event(), threading.Event()

    def partition_of(self, topic: str, key: bytes) -> int:
        return 0

    def send(self, topic: str, key: bytes, value: bytes, *, partition: int) -> "SilentBroker":
        self.sent.set()
        return self

    def wait(self, seconds: float) -> bool:
        return self.is_closed.wait(seconds)

    def close(self) -> None:
        self.is_closed.set()


def test_a_stop_does_not_wait_for_a_broker_that_does_not_answer(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_topic, "Producer", SilentBroker)
    sink = EventTopic(KafkaConfig(servers=("127.0.0.1:9",)))
    monkeypatch.setattr(sink, "begin", lambda state: None)
    add(log, 0)
    deliverer = Deliverer(log, sink, stop_seconds=HANG_SECONDS)  # less than the delivery timeout
    deliverer.start()
    wait_until(lambda: sink._producer is not None and sink._producer.sent.is_set())  # type: ignore[attr-defined]
    deliverer.stop()
    assert not deliverer.is_alive
    assert log.delivery_of("kafka") == (0, None)


# ---- webhook


def test_posts_events_signed_as_standard_webhooks_says(receiver: Receiver, tmp_path: Path) -> None:
    begin = time.time()
    Webhook(receiver.url, SECRET, tmp_path / "dead").deliver([event(3), event(4)], never_stop)

    (headers, body), (_, second) = receiver.requests
    posted = json.loads(body)
    assert (posted["eventId"], posted["state"], posted["label"]) == ("event3", "STATE_OPENED", "Fire")
    assert posted["span"] == {"startOffset": "4.500s", "endOffset": "5.500s"}
    assert (posted["startTime"], posted["revision"]) == ("2023-11-14T22:13:20.250Z", "0")
    assert posted["parentLabels"] == ["Hazards"]
    assert json.loads(second)["eventId"] == "event4"
    assert headers["content-type"] == "application/json"
    assert headers["webhook-id"] == "event3-0"
    assert int(begin) <= int(headers["webhook-timestamp"]) <= time.time()
    signed = f"event3-0.{headers['webhook-timestamp']}.".encode() + body
    expected = hmac.new(b"0123456789abcdef0123", signed, hashlib.sha256).digest()
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(expected).decode()}"
    assert not (tmp_path / "dead").exists()


def test_signs_the_example_of_the_specification() -> None:
    key = webhook.read_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signature = webhook.signature(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("answers", [[500], [503, 429, 408]])
def test_posts_again_after_a_temporary_failure(receiver: Receiver, tmp_path: Path, answers: list[int]) -> None:
    receiver.answers = list(answers)
    waits: list[float] = []
    Webhook(receiver.url, SECRET, tmp_path / "dead").deliver([event(1)], noting_waits(waits))

    assert {headers["webhook-id"] for headers, _ in receiver.requests} == {"event1-0"}
    assert len(receiver.requests) == len(answers) + 1
    assert waits == [1.0, 2.0, 4.0][: len(answers)]


@pytest.mark.parametrize(("answers", "count"), [([400], 1), ([302], 1), ([500] * 20, webhook.ATTEMPT_COUNT)])
def test_a_refused_event_is_a_dead_letter_and_the_next_is_posted(
    receiver: Receiver, tmp_path: Path, answers: list[int], count: int
) -> None:
    receiver.answers = answers[:count]
    Webhook(receiver.url, SECRET, tmp_path / "dead").deliver([event(1), event(2)], never_stop)

    (letter,) = [json.loads(line) for line in (tmp_path / "dead").read_text().splitlines()]
    assert (letter["event"]["eventId"], letter["reason"]) == ("event1", f"HTTP {answers[0]}")
    assert len(receiver.requests) == count + 1
    assert receiver.requests[-1][0]["webhook-id"] == "event2-0"


def noting_waits(waits: list[float], stop_at: int = 1000) -> Callable[[float], bool]:
    """Return a `wait` that returns at once and notes how long it was to wait between tries; it stops at a count."""

    def wait(seconds: float) -> bool:
        if seconds:
            waits.append(seconds)
        return len(waits) == stop_at

    return wait


@contextlib.contextmanager
def answering(first: bytes, repeated: bytes = b"", pause_seconds: float = 0.0) -> Iterator[str]:
    """Serve one connection, which answers `first`, then `repeated` without end; yield its host and port."""
    listener = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def answer() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(first)
            while repeated and not ended.wait(pause_seconds):
                connection.sendall(repeated)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):  # closing with bytes unread would reset the connection
                pass

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        ended.set()
        thread.join()
        listener.close()


TRICKLES = {
    "http": b"HTTP/1.1 200 OK\r\nX: ",  # a header that does not end
    "https": b"\x16\x03\x03\x40\x00",  # a TLS record of 16 KiB
}


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_receiver_that_trickles_fails_after_the_deadline(
    log: EventLog, tmp_path: Path, caplog: pytest.LogCaptureFixture, scheme: str
) -> None:
    add(log, 0)
    with answering(TRICKLES[scheme], b"a", 0.1) as address:
        sink = Webhook(f"{scheme}://{address}/", SECRET, tmp_path / "dead", post_seconds=0.5)
        deliverer = Deliverer(log, sink)
        deliverer.start()
        try:
            wait_until(lambda: "webhook failed event_id=event0 attempt=1" in caplog.text)
        finally:
            deliverer.stop()
    assert "reason=no answer within 0.5 s" in caplog.text


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_stop_does_not_wait_for_a_post_that_hangs(log: EventLog, tmp_path: Path, scheme: str) -> None:
    add(log, 0)
    is_posting = threading.Event()

    class SpiedWebhook(Webhook):
        async def _send(self, headers: dict[str, str], body: bytes) -> int:
            is_posting.set()
            return await super()._send(headers, body)

    with answering(TRICKLES[scheme], b"a", 0.1) as address:
        sink = SpiedWebhook(f"{scheme}://{address}/", SECRET, tmp_path / "dead", post_seconds=2 * HANG_SECONDS)
        deliverer = Deliverer(log, sink, stop_seconds=HANG_SECONDS)
        deliverer.start()
        assert is_posting.wait(HANG_SECONDS)
        deliverer.stop()
        assert not deliverer.is_alive
    assert log.delivery_of("webhook") == (0, None)


def test_the_body_of_an_answer_is_not_read(tmp_path: Path) -> None:
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n", b"a" * 65536) as address:
        Webhook(f"http://{address}/", SECRET, tmp_path / "dead", post_seconds=HANG_SECONDS).deliver(
            [event(1)], never_stop
        )
    assert not (tmp_path / "dead").exists()


@pytest.mark.parametrize(
    ("answer", "repeated", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"X: a\r\n" * 1000, "Receive buffer too long"),
        (b"no HTTP\r\n\r\n", b"", "illegal status line"),
        (b"", b"", "disconnected without sending a response"),
    ],
)
def test_a_broken_answer_is_a_failure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, answer: bytes, repeated: bytes, reason: str
) -> None:
    with answering(answer, repeated) as address:
        sink = Webhook(f"http://{address}/", SECRET, tmp_path / "dead", post_seconds=HANG_SECONDS)
        with pytest.raises(Stopped):
            sink.deliver([event(1)], noting_waits([], stop_at=1))
    assert f"webhook failed event_id=event1 attempt=1 reason={reason}" in caplog.text.replace("Server ", "")


def test_a_restart_posts_nothing_again_that_was_taken(log: EventLog, receiver: Receiver, tmp_path: Path) -> None:
    add(log, *range(6))
    receiver.answers = [204] * 4 + [500]
    deliverer = Deliverer(log, Webhook(receiver.url, SECRET, tmp_path / "dead"))
    deliverer.start()
    wait_until(lambda: len(receiver.requests) >= 5)
    deliverer.stop()
    deliverer = Deliverer(log, Webhook(receiver.url, SECRET, tmp_path / "dead"))
    deliverer.start()
    wait_until(lambda: len(receiver.requests) >= 7)
    deliverer.stop()

    ids = [headers["webhook-id"] for headers, _ in receiver.requests]
    assert ids == [f"event{n}-0" for n in (0, 1, 2, 3, 4, 4, 5)]


def test_a_dead_letter_that_cannot_be_written_is_tried_again(
    log: EventLog, receiver: Receiver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dead = tmp_path / "dead"
    dead.mkdir()  # in the file's place
    add(log, *range(3))
    receiver.answers = [204] + [400] * 10_000
    deliverer = Deliverer(log, Webhook(receiver.url, SECRET, dead), pause_seconds=0.01, first_backoff_seconds=0.01)
    deliverer.start()
    wait_until(lambda: len(receiver.requests) >= 3)
    dead.rmdir()
    wait_until(lambda: log.delivery_of("webhook")[0] == log.last_sequence())
    deliverer.stop()

    ids = [headers["webhook-id"] for headers, _ in receiver.requests]
    assert (ids[0], ids[-1], set(ids[1:-1])) == ("event0-0", "event2-0", {"event1-0"})
    assert caplog.text.count("events-to-webhook waits reason=") == 1
    assert "events-to-webhook failed" not in caplog.text


def test_a_receiver_that_is_away_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    waits: list[float] = []
    with pytest.raises(Stopped):
        Webhook("http://127.0.0.1:9/", SECRET, tmp_path / "dead").deliver([event(1)], noting_waits(waits, stop_at=3))
    assert waits == [1.0, 2.0, 4.0]
    assert not (tmp_path / "dead").exists()
    assert "Connect call failed" in caplog.text


def test_a_socks_proxy_of_the_environment_stops_no_delivery(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")  # for other programs
    Webhook(receiver.url, SECRET, tmp_path / "dead").deliver([event(1)], never_stop)
    assert len(receiver.requests) == 1

    monkeypatch.setenv("HTTP_PROXY", "socks5://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    Webhook(receiver.url, SECRET, tmp_path / "dead").deliver([event(2)], noting_waits([]))
    assert "socksio" in caplog.text  # the package that httpx2 needs for it
    assert json.loads((tmp_path / "dead").read_text())["event"]["eventId"] == "event2"


@pytest.mark.parametrize(
    ("url", "secret", "message"),
    [
        ("ftp://host/", SECRET, "must be http:// or https://"),
        ("https://host/", "short", "at least 16 bytes, got 5"),
        ("https://host/", "whsec_!", "is not whsec_ and base64"),
    ],
)
def test_refuses_invalid_settings(url: str, secret: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=message):
        Webhook(url, secret, tmp_path / "dead")
