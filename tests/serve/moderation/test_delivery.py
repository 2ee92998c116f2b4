"""Sinks of events: told everything, in order, again until it arrives, and no more than that."""

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
from serve.catalog.catalog import Catalog
from serve.catalog.events import EventLog
from serve.errors import SettingsError
from serve.event import Event
from serve.moderation import delivery as telling
from serve.moderation import kafka_topic as event_topic
from serve.moderation import webhook
from serve.moderation.delivery import Deliverer, Stopped
from serve.moderation.kafka_topic import EventTopic
from serve.moderation.webhook import Webhook
from support.sample_catalog import SPACE
from support.sample_events import add, at_once, event
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
    """Notes what it is told; fails where a test says."""

    name: str = "fake"
    batch_count: int = 2
    told: list[str] = field(default_factory=list)
    begun: list[Any] = field(default_factory=list)
    failures: int = 0

    def begin(self, state: Any) -> None:
        self.begun.append(state)

    def tell(self, events: Sequence[Event], wait: Callable[[float], bool]) -> Any:
        if self.failures:
            self.failures -= 1
            raise BrokerUnavailable(("broker",), "away")
        self.told += [f"{one.event_id}-{one.revision}" for one in events]
        return {"count": len(self.told)}

    def close(self) -> None:
        pass


def test_goes_on_where_the_catalog_says(log: EventLog) -> None:
    sink = FakeSink()
    add(log, 0, 1, 2)
    Deliverer(log, sink).go_on()
    add(log, 3, 0)
    Deliverer(log, sink).go_on()
    Deliverer(log, sink).go_on()

    assert sink.told == ["event0-0", "event1-0", "event2-0", "event3-0", "event0-1"]
    assert sink.begun == [None, {"count": 3}]


def test_tells_again_what_did_not_arrive(
    log: EventLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(telling, "FIRST_BACKOFF_SECONDS", 0.01)
    sink = FakeSink(failures=2)
    add(log, 0, 1)
    teller = Deliverer(log, sink)
    teller.start()
    wait_until(lambda: len(sink.told) == 2)
    teller.stop()
    assert sink.told == ["event0-0", "event1-0"]
    assert sum("events wait to be told" in line for line in caplog.messages) == 1  # once for one trouble


# ---- Kafka; with a broker: test_events_kafka.py


class SilentBroker:
    """A producer whose broker has stopped answering, and what it sends."""

    def __init__(self, config: KafkaConfig) -> None:
        self.sent = threading.Event()

    def partition_of(self, topic: str, key: bytes) -> int:
        return 0

    def send(self, topic: str, key: bytes, value: bytes, *, partition: int) -> "SilentBroker":
        self.sent.set()
        return self

    def wait(self, seconds: float) -> bool:
        time.sleep(min(seconds, 20))
        return False

    def close(self) -> None:
        pass


def test_a_stop_does_not_wait_for_a_broker_that_does_not_answer(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_topic, "Producer", SilentBroker)
    sink = EventTopic(KafkaConfig(servers=("127.0.0.1:9",)))
    monkeypatch.setattr(sink, "begin", lambda state: None)
    add(log, 0)
    teller = Deliverer(log, sink)
    teller.start()
    wait_until(lambda: sink._producer is not None and sink._producer.sent.is_set())  # type: ignore[attr-defined]
    started = time.monotonic()
    teller.stop()
    assert time.monotonic() - started < 5
    assert log.told("kafka") == (0, None)


# ---- webhook


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_posts_events_signed_as_standard_webhooks_says(receiver: Receiver, tmp_path: Path) -> None:
    Webhook(receiver.url, SECRET, tmp_path / "dead").tell([event(3), event(4)], at_once)

    (headers, body), (_, second) = receiver.came
    told = json.loads(body)
    assert (told["eventId"], told["state"], told["label"]) == ("event3", "STATE_OPENED", "Fire")
    assert told["span"] == {"startOffset": "4.500s", "endOffset": "5.500s"}
    assert (told["startTime"], told["revision"], told["parentLabels"]) == ("2023-11-14T22:13:20.250Z", "0", ["Hazards"])
    assert json.loads(second)["eventId"] == "event4"
    assert headers["webhook-id"] == "event3-0"
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    signed = f"event3-0.{headers['webhook-timestamp']}.".encode() + body
    expected = hmac.new(b"0123456789abcdef0123", signed, hashlib.sha256).digest()
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(expected).decode()}"
    assert not (tmp_path / "dead").exists()


def test_signs_the_example_of_the_specification() -> None:
    key = webhook.webhook_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    found = webhook.signature(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", b'{"test": 2432232314}')
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("answers", [[500], [503, 429, 408]])
def test_posts_again_what_was_not_taken(receiver: Receiver, tmp_path: Path, answers: list[int]) -> None:
    receiver.answers = list(answers)
    waited: list[float] = []
    Webhook(receiver.url, SECRET, tmp_path / "dead").tell([event(1)], lambda seconds: bool(waited.append(seconds)))

    assert {headers["webhook-id"] for headers, _ in receiver.came} == {"event1-0"}
    assert len(receiver.came) == len(answers) + 1
    assert waited == [1.0, 2.0, 4.0][: len(answers)]


@pytest.mark.parametrize(("answers", "count"), [([400], 1), ([302], 1), ([500] * 20, webhook.ATTEMPT_COUNT)])
def test_what_is_not_taken_is_a_dead_letter_and_the_next_is_posted(
    receiver: Receiver, tmp_path: Path, answers: list[int], count: int
) -> None:
    receiver.answers = answers[:count]
    Webhook(receiver.url, SECRET, tmp_path / "dead").tell([event(1), event(2)], at_once)

    (letter,) = [json.loads(line) for line in (tmp_path / "dead").read_text().splitlines()]
    assert (letter["event"]["eventId"], letter["reason"]) == ("event1", f"HTTP {answers[0]}")
    assert len(receiver.came) == count + 1
    assert receiver.came[-1][0]["webhook-id"] == "event2-0"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_receiver_that_trickles_is_no_answer(
    log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, scheme: str
) -> None:
    monkeypatch.setattr(webhook, "WEBHOOK_SECONDS", 0.5)
    term_finder = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def trickle() -> None:
        connection, _ = term_finder.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            # A header that does not end; of TLS, a record of 16 KiB.
            connection.sendall(b"HTTP/1.1 200 OK\r\nX: " if scheme == "http" else b"\x16\x03\x03\x40\x00")
            while not ended.wait(0.1):
                connection.sendall(b"a")

    thread = threading.Thread(target=trickle)
    thread.start()
    add(log, 0)
    sink = Webhook(f"{scheme}://127.0.0.1:{term_finder.getsockname()[1]}/", SECRET, tmp_path / "dead")
    teller = Deliverer(log, sink)
    teller.start()
    try:
        wait_until(lambda: "webhook failed event_id=event0 attempt=1" in caplog.text)
    finally:
        ended.set()
        teller.stop()
        thread.join()
        term_finder.close()
    assert "reason=no answer within 0.5 s" in caplog.text


def test_a_stop_waits_so_long_and_no_longer(
    log: EventLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(telling, "STOP_SECONDS", 0.1)
    sink, go_on, telling_it = FakeSink(), threading.Event(), threading.Event()

    def tell(events: Sequence[Event], wait: Callable[[float], bool]) -> None:
        telling_it.set()
        assert go_on.wait(20)
        raise Stopped

    monkeypatch.setattr(sink, "tell", tell)
    add(log, 0)
    teller = Deliverer(log, sink)
    teller.start()
    assert telling_it.wait(20)
    teller.stop()
    assert "given up sink=fake" in caplog.text
    go_on.set()
    teller.thread.join(20)


def test_a_restart_posts_nothing_again_that_was_taken(log: EventLog, receiver: Receiver, tmp_path: Path) -> None:
    add(log, *range(6))
    receiver.answers = [204] * 4 + [500]
    teller = Deliverer(log, Webhook(receiver.url, SECRET, tmp_path / "dead"))
    teller.start()
    wait_until(lambda: len(receiver.came) == 5)
    teller.stop()
    teller = Deliverer(log, Webhook(receiver.url, SECRET, tmp_path / "dead"))
    teller.start()
    wait_until(lambda: len(receiver.came) == 7)
    teller.stop()

    ids = [headers["webhook-id"] for headers, _ in receiver.came]
    assert ids == [f"event{n}-0" for n in (0, 1, 2, 3, 4, 4, 5)]


def test_a_dead_letter_that_cannot_be_written_is_tried_again(
    log: EventLog, receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(telling, "FIRST_BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr(telling, "LOOK_SECONDS", 0.01)
    dead = tmp_path / "dead"
    dead.mkdir()  # in the file's place
    add(log, *range(3))
    receiver.answers = [204] + [400] * 3
    teller = Deliverer(log, Webhook(receiver.url, SECRET, dead))
    teller.start()
    wait_until(lambda: len(receiver.came) == 3)
    dead.rmdir()
    wait_until(lambda: log.told("webhook")[0] == log.last_sequence())
    teller.stop()

    ids = [headers["webhook-id"] for headers, _ in receiver.came]
    assert (ids[0], ids[-1], set(ids[1:-1])) == ("event0-0", "event2-0", {"event1-0"})
    assert caplog.text.count("events wait to be told sink=webhook") == 1
    assert "events not told" not in caplog.text


def test_a_receiver_that_is_away_is_waited_for(tmp_path: Path) -> None:
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        return len(waits) == 3

    with pytest.raises(Stopped):
        Webhook("http://127.0.0.1:9/", SECRET, tmp_path / "dead").tell([event(1)], wait)
    assert waits == [1.0, 2.0, 4.0]
    assert not (tmp_path / "dead").exists()


@pytest.mark.parametrize(
    ("url", "secret", "message"),
    [
        ("ftp://host/", SECRET, "must be http:// or https://"),
        ("https://host/", "short", "at least 16 bytes, got 5"),
        ("https://host/", "whsec_!", "is not whsec_ and base64"),
    ],
)
def test_refuses_what_cannot_work(url: str, secret: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=message):
        Webhook(url, secret, tmp_path / "dead")
