"""Readers of kinodex.segments that have the .proto files and docs/live.md, and none of our code."""

import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingest.config import KafkaConfig
from ingest.kafka import Delivery, Producer, Topics, create_topics
from serve.codec.records import SegmentRecord, deletion_bytes, segment_bytes, video_key
from support import toolchain
from support.hand_made import stream
from support.waiting import HANG_SECONDS

pytestmark = pytest.mark.kafka

RECORDED = 1_780_000_000.125  # seconds since 1970: what broadcasts of 2026 say of their pictures
PAGE = toolchain.ROOT / "docs" / "live.md"


class Sender:
    """Publishes as a worker and a server do: segments in the partition of their video, each behind the last."""

    def __init__(self, config: KafkaConfig) -> None:
        create_topics(config)
        self.config, self.topics, self.producer = config, Topics(config.topic_prefix), Producer(config)

    def segment(self, record: SegmentRecord) -> None:
        self._delivered(self._send(record, segment_bytes(record)))

    def tombstone(self, record: SegmentRecord) -> None:
        self._delivered(self._send(record, None))

    def deletion(self, collection: str, video_id: str) -> float:
        """Delete a video, and return when: seconds since 1970."""
        key, data = video_key(collection, video_id), deletion_bytes(collection, video_id)
        return self._delivered(self.producer.send(self.topics.deletions, key, data))

    def _send(self, record: SegmentRecord, value: bytes | None) -> Delivery:
        topic = self.topics.segments
        partition = self.producer.partition_of(topic, video_key(record.collection, record.video_id))
        return self.producer.send(topic, record.key, value, partition=partition)

    @staticmethod
    def _delivered(delivery: Delivery) -> float:
        assert delivery.wait(HANG_SECONDS)
        assert delivery.append_seconds is not None, delivery.error
        return delivery.append_seconds


@pytest.fixture(scope="module")
def valid(kafka: str, topics: KafkaConfig) -> list[SegmentRecord]:
    """Fill the topics; what counts of it, in order."""
    sender = Sender(topics)
    said = {2.0: "Paris is lovely.", 15.5: "London is foggy."}
    early = stream("hall", ["blue"] * 9, said, appended=RECORDED)
    later = stream("hall", ["blue"] * 20 + ["red"] * 12, said, appended=RECORDED, is_ended=True)
    gate = stream("gate", ["green"] * 20, appended=RECORDED)
    other = stream("gate", ["yellow"] * 20, appended=RECORDED, collection="other")
    gone = stream("gone", ["red"] * 20, appended=RECORDED)
    for record in (*early, *later, *gone, *early, *gate, *other):  # the second `early` is older than what is there
        sender.segment(record)
    sender.segment(replace(gate[0], revision=gate[0].revision - 1, is_final=False))
    sender.tombstone(gate[1])  # the other gate has the same ids
    sender.tombstone(later[1])
    sender.segment(replace(later[1], revision=1))  # a tombstone ends all that came before, of any revision
    at = sender.deletion("cams", "gone")
    alive = replace(gone[1], source_append_time=at, revision=99)  # made of what was appended after the deletion
    sender.segment(alive)
    sender.producer.close()
    return [gate[0], alive, later[0], replace(later[1], revision=1), *later[2:], *other]


@pytest.fixture(scope="module")
def topics(kafka: str) -> KafkaConfig:
    """Where topics of our own are."""
    prefix = f"test-{uuid.uuid4().hex[:12]}"
    return KafkaConfig(
        servers=(kafka,),
        topic_prefix=prefix,
        partition_count=2,
        replication_factor=1,
        bootstrap_timeout_seconds=HANG_SECONDS,
    )


@pytest.mark.clients
def test_a_reader_in_node_sees_what_counts_and_no_more(
    valid: Sequence[SegmentRecord], topics: KafkaConfig, node_segments: Sequence[str]
) -> None:
    options = [f"--servers={topics.servers[0]}", f"--prefix={topics.topic_prefix}", f"--protos={toolchain.PROTOS}"]
    done = subprocess.run([*node_segments, *options], capture_output=True, text=True, timeout=HANG_SECONDS, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert [json.loads(line) for line in done.stdout.splitlines()] == list(map(as_told, valid))


def as_told(record: SegmentRecord) -> dict[str, Any]:
    """What segments.js prints of a segment."""
    segment, vector = record.segment, record.segment.vector
    assert vector is not None
    return {
        "segment_id": segment.segment_id,
        "collection": record.collection,
        "video_id": record.video_id,
        "start_seconds": segment.span.start_seconds,
        "end_seconds": segment.span.end_seconds,
        "recorded": f"2026-05-28T20:26:{40 + segment.span.start_seconds:02.0f}.125Z",
        "revision": record.revision,
        "final": record.is_final,
        "watermark_seconds": record.watermark_seconds,
        "words": [word.text for said in record.utterances for word in said.words],
        "first_said": [said.text for said in record.utterances[record.continued_count :]],
        "frame_count": len(record.frames.pts_seconds),
        "thumbnail_count": len(record.thumbnails),
        "fingerprint": record.fingerprint,
        "dimension_count": len(vector),
        "embedding": vector.astype(np.float16).astype(float)[:4].tolist(),
    }


def test_the_example_in_the_documentation_sees_the_same(
    valid: Sequence[SegmentRecord], topics: KafkaConfig, tmp_path: Path
) -> None:
    section = PAGE.read_text(encoding="utf-8").partition("## A reader without our code")[2]
    (example,) = re.findall(r"```python\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)
    program = tmp_path / "segments.py"
    program.write_text(example)
    # -v writes to standard error which files are imported.
    command = [sys.executable, "-v", str(program), topics.servers[0], topics.topic_prefix]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # it may name our code
    done = subprocess.run(
        command, cwd=toolchain.ROOT, env=environment, capture_output=True, text=True, timeout=HANG_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    ours = "|".join(re.escape(f"{toolchain.ROOT}/{name}/") for name in ("protos", "ingest", "encoders", "serve"))
    assert re.findall(rf"^.*(?:{ours}).*$", done.stderr, re.MULTILINE) == []
    assert sorted(done.stdout.splitlines()) == sorted(map(line_of, valid))


def line_of(record: SegmentRecord) -> str:
    """What the example prints of a segment."""
    vector = record.segment.vector
    assert vector is not None
    said = [each.text for each in record.utterances[record.continued_count :]]
    first = float(vector.astype(np.float16)[0])
    return f"{record.segment.segment_id} {record.segment.span.end_seconds} {record.is_final} {said} {first}"
