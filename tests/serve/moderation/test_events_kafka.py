"""Events of live streams on a real Kafka: each change once, in order per video, through restarts."""

import json
from collections import defaultdict
from pathlib import Path

import pytest

from kinodex.v1 import stream_pb2
from serve.catalog.catalog import Catalog
from serve.catalog.events import EventLog
from serve.moderation.delivery import Deliverer
from serve.moderation.kafka_topic import EventTopic
from support.fakes import use_fakes
from support.hand_made import stream
from support.running import running
from support.sample_catalog import SPACE
from support.sample_events import add, event, never_stop
from support.segment_source import Worker, now
from support.segment_source import worker as worker
from support.waiting import HANG_SECONDS, wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

POLICIES = [
    {"id": "red", "label": "Red", "shows": ["red"], "min_seconds": 2, "cooldown_seconds": 0},
    {"id": "paris", "label": "Paris", "says": ["paris"], "cooldown_seconds": 5},
]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_fakes(monkeypatch)
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "policies.yaml").write_text(json.dumps({"version": "1", "policies": POLICIES}))
    return folder


def topic_events(worker: Worker) -> list[stream_pb2.Event]:
    return [stream_pb2.Event.FromString(record.value or b"") for record in worker.read_topic(worker.topics.events)]


def test_events_arrive_once_and_in_order_through_restarts(worker: Worker, data: Path) -> None:
    start = now() - 60
    cams = {
        "front": (["blue"] * 6 + ["red"] * 14 + ["blue"] * 20, {3.0: "Paris is lovely.", 30.0: "Paris again."}),
        "back": (["red"] * 4 + ["green"] * 36, {10.0: "Only London."}),
    }
    for known in (7, 13, 24, 31, 40):
        with running(data, worker.settings):
            for name, (colours, said) in cams.items():
                worker.publish(stream(name, colours[:known], said, appended=start, is_ended=known == 40))
            if known == 40:
                wait_until(lambda: len(topic_events(worker)) == 9)

    found = topic_events(worker)
    assert len({(one.event_id, one.revision) for one in found}) == len(found) == 9
    by_video = defaultdict(list)
    for one in found:
        by_video[one.video_id].append((one.policy_id, one.state, one.revision))
    assert [one[2] for one in by_video["back"]] == [0, 1]
    for policy, states in (("red", [1, 2, 3]), ("paris", [1, 3, 1, 3])):
        assert [state for name, state, _ in by_video["front"] if name == policy] == states
    paris = next(one for one in found if one.policy_id == "paris")
    assert [word.text for word in paris.matched_words] == ["Paris"]
    assert paris.start_time.ToNanoseconds() / 1e9 == pytest.approx(start + 3.0, abs=0.001)
    assert paris.collection == "cams"


def test_an_event_that_was_sent_and_not_noted_is_not_sent_again(worker: Worker, tmp_path: Path) -> None:
    with Catalog.open_writer(tmp_path / "data") as catalog:
        catalog.set_space(SPACE)
        log = EventLog(catalog)
        add(log, 0, 1)
        Deliverer(log, EventTopic(worker.config)).deliver_changes()
        add(log, 2, 3)
        killed = EventTopic(worker.config)
        killed.begin(log.delivery_of("kafka")[1])
        killed.deliver([event(2)], never_stop)  # and here the process is killed
        killed.close()
        deliverer = Deliverer(log, EventTopic(worker.config))
        deliverer.deliver_changes()
        add(log, 0)
        deliverer.deliver_changes()
        deliverer.sink.close()

    found = [(one.event_id, one.revision) for one in topic_events(worker)]
    assert found == [("event0", 0), ("event1", 0), ("event2", 0), ("event3", 0), ("event0", 1)]


def test_a_record_that_is_no_event_is_skipped(worker: Worker, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    worker.producer.send(worker.topics.events, b"cams/front", b"\xff\xffno event")
    assert worker.producer.flush(HANG_SECONDS)
    with Catalog.open_writer(tmp_path / "data") as catalog:
        catalog.set_space(SPACE)
        log = EventLog(catalog)
        for n in range(2):
            add(log, n)
            deliverer = Deliverer(log, EventTopic(worker.config))
            deliverer.deliver_changes()
            deliverer.sink.close()

    events = [record.value for record in worker.read_topic(worker.topics.events) if record.key != b"cams/front"]
    assert [stream_pb2.Event.FromString(value or b"").event_id for value in events] == ["event0", "event1"]
    assert "record skipped" in caplog.text
