"""kinodex streams, dead-letters and doctor, against a real broker and a worker."""

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from serve.cli import doctor
from serve.cli.main import cli
from serve.codec.records import Source, source_bytes, video_key
from serve.settings import Settings
from support.fakes import use_fakes, write_scenes
from support.worker_runs import Topic, cut, worker_in_thread

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


@pytest.fixture
def topic(
    kafka: str, topic_prefix: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[Topic]:
    use_fakes(monkeypatch)
    caplog.set_level(logging.CRITICAL, "kafka")
    caplog.set_level(logging.WARNING, "serve")
    monkeypatch.setenv("KINODEX_KAFKA_SERVERS", kafka)
    monkeypatch.setenv("KINODEX_KAFKA_TOPIC_PREFIX", topic_prefix)
    monkeypatch.setenv("KINODEX_KAFKA_PARTITION_COUNT", "2")
    monkeypatch.setenv("KINODEX_KAFKA_BOOTSTRAP_TIMEOUT_SECONDS", "60")
    made = Topic(kafka, topic_prefix)
    yield made
    made.close()


def kinodex(*arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(cli, list(arguments))
    assert result.exit_code == status, result.output
    return result


def objects(*arguments: str, status: int = 0) -> list[dict[str, Any]]:
    return [json.loads(line) for line in kinodex(*arguments, "--json", status=status).stdout.splitlines()]


def test_streams_and_dead_letters_are_seen_and_retried(
    topic: Topic, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    film, later = write_scenes(tmp_path / "film.mp4", [("red", 20)]), tmp_path / "later.mp4"
    chunks = cut(film, "cam")
    broken = [replace(chunk, media=b"noise") if n == 2 else chunk for n, chunk in enumerate(cut(film, "ended"))]
    source = Source(collection="films", video_id="later", uri=later.as_uri())
    topic.send([*chunks[:-1], *broken])  # one goes on, one ends
    topic.send_raw([(video_key("films", "later"), source_bytes(source))], topic=topic.names.sources)
    waiting = [each for each in objects("streams") if "stream" not in each]
    assert sum(each["lag"] for each in waiting) == len(chunks) - 1 + len(broken) + 1
    with worker_in_thread(topic, tmp_path) as worker:
        worker.wait_until(lambda: topic.is_ended("ended") and len(topic.dead_letters()) == 2)
        worker.wait_until(lambda: len([each for each in objects("streams") if "stream" in each]) == 2)
        worker.wait_until(lambda: objects("streams")[1]["state"] == "ended")
    live, ended = (each for each in objects("streams") if "stream" in each)
    assert (live["stream"], live["state"], live["last_error"]) == ("cams/cam", "live", "")
    assert 0 < live["watermark_seconds"] <= live["taken_seconds"] <= 20.1
    assert (ended["stream"], ended["lag"], ended["watermark_seconds"]) == ("cams/ended", 0, pytest.approx(20, abs=0.1))
    assert ended["last_error"].startswith("DECODE_ERROR: ")
    said = kinodex("streams").stdout
    assert "cams/ended  ended  lag 0  final to 0:" in said
    [line] = [each for each in caplog.messages if "SOURCE_NOT_FOUND" in each]
    assert line.startswith(f"dead letter stream=films/later uri={later.as_uri()} topic={topic.names.sources} ")

    listed = {letter["reason"]: letter for letter in objects("dead-letters", "list")}
    assert set(listed) == {"DECODE_ERROR", "SOURCE_NOT_FOUND"}
    lost = listed["SOURCE_NOT_FOUND"]
    assert (lost["stream"], lost["uri"]) == ("films/later", later.as_uri())
    chunk_id = listed["DECODE_ERROR"]["id"]
    kinodex("dead-letters", "show", chunk_id, "--out", str(tmp_path / "media"))
    assert (tmp_path / "media").read_bytes() == b"noise"
    assert "no dead letter" in kinodex("dead-letters", "show", "x/0/1", status=2).stderr
    assert "give IDs" in kinodex("dead-letters", "retry", status=2).stderr

    film.rename(later)
    assert objects("dead-letters", "retry", "--reason", "SOURCE_NOT_FOUND") == [
        {"id": lost["id"], "sent": True, "problem": ""}
    ]
    assert [letter["id"] for letter in objects("dead-letters", "list")] == [chunk_id]
    with worker_in_thread(topic, tmp_path) as worker:
        worker.wait_until(lambda: topic.is_ended("later"))


def test_doctor_looks_at_kafka(topic: Topic) -> None:
    settings = Settings(kafka=topic.config)
    found = doctor._check_kafka(settings)
    assert (found.state, "1 broker of version" in found.detail) == ("ok", True)
    found = doctor._check_kafka(replace(settings, kafka=replace(topic.config, partition_count=3)))
    assert (found.state, "has 2 partitions, not 3" in found.detail) == ("note", True)
    found = doctor._check_kafka(replace(settings, kafka=replace(topic.config, topic_prefix="nothing")))
    assert (found.state, found.remedy, "nothing.chunks" in found.detail) == ("missing", "kinodex topics", True)
    away = replace(settings, kafka=replace(topic.config, servers=("127.0.0.1:1",), bootstrap_timeout_seconds=0.5))
    found = doctor.run_check("Kafka", lambda: doctor._check_kafka(away))
    assert (found.state, "Connection refused" in found.detail) == ("missing", True)
