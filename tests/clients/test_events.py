"""Consumers of moderation events that have the .proto files and none of our code: from Kafka, and from WatchEvents."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from serve.client.client import Client
from support import toolchain
from support.fakes import use_fakes
from support.hand_made import stream
from support.running import running
from support.segment_source import Worker
from support.segment_source import worker as worker
from support.waiting import HANG_SECONDS, wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.clients]

RECORDED = 1_780_000_000.0  # 2026-05-28T20:26:40Z
POLICIES = [
    {"id": "red", "label": "Red", "parents": ["Colours"], "shows": ["red"], "cooldown_seconds": 0, "action": "look"},
    {"id": "paris", "label": "Paris", "parents": ["Places"], "says": ["paris"]},
]


def run(command: Sequence[str], **options: object) -> list[dict[str, Any]]:
    given = [f"--{name}={value}" for name, value in options.items()]
    done = subprocess.run([*command, *given], capture_output=True, text=True, timeout=HANG_SECONDS, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_consumer_in_node_gets_each_change_from_kafka_and_from_a_server(
    worker: Worker, node_events: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fakes(monkeypatch)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "policies.yaml").write_text(json.dumps({"version": "1", "policies": POLICIES}))
    with running(tmp_path / "data", worker.settings) as server, Client(server.address) as client:
        colours = ["blue"] * 4 + ["red"] * 16 + ["blue"] * 4
        worker.publish(stream("cam", colours, {6.0: "Paris is lovely."}, appended=RECORDED, is_ended=True))
        wait_until(lambda: [one.state for one in client.events()] == ["CLOSED", "CLOSED"])
        wait_until(lambda: len(worker.read_topic(worker.topics.events)) == 5)
        from_kafka = run(
            node_events, servers=worker.config.servers[0], prefix=worker.config.topic_prefix, protos=toolchain.PROTOS
        )
        watching = {"address": server.address, "protos": toolchain.PROTOS}
        *first, left = run(node_events, **watching, count=2)
        *rest, _ = run(node_events, **watching, count=3, resume=left["resume"])
        *red, _ = run(node_events, **watching, count=3, label="Colours")

    assert first + rest == from_kafka
    assert red == [one for one in from_kafka if one["label"] == "Colours > Red"]
    assert [(one["state"], one["revision"]) for one in red] == [("OPENED", 0), ("UPDATED", 1), ("CLOSED", 2)]
    assert red[-1] == {
        "event_id": red[0]["event_id"],
        "state": "CLOSED",
        "revision": 2,
        "label": "Colours > Red",
        "video": "cams/cam",
        "start_seconds": 4,
        "end_seconds": 20,
        "recorded": "2026-05-28T20:26:44.000Z",
        "words": [],
        "action": "look",
    }
    assert [one["words"] for one in from_kafka if one["label"] == "Places > Paris"] == [["Paris"]] * 2
