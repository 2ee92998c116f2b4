"""kinodex worker against a real broker whose topics change: expired chunks, topics made anew, added partitions."""

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, TopicPartition

from ingest.kafka import create_topics, grow_topics, repairs
from serve.errors import StreamsNotBegun
from serve.worker import growth
from support.fakes import use_fakes, write_scenes
from support.waiting import HANG_SECONDS, wait_until
from support.worker_runs import Topic, comparable_finals, cut, worker_in_thread

pytestmark = [pytest.mark.kafka, pytest.mark.slow]
SCENES = [("red", 7), ("green", 9), ("blue", 8)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    use_fakes(monkeypatch)
    caplog.set_level(logging.CRITICAL, "kafka")


@pytest.fixture
def topic(kafka: str, topic_prefix: str) -> Iterator[Topic]:
    made = Topic(kafka, topic_prefix)
    yield made
    made.close()


@pytest.fixture
def admin(topic: Topic) -> Iterator[KafkaAdminClient]:
    with KafkaAdminClient(bootstrap_servers=list(topic.config.servers)) as client:
        yield client


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 s of three colours, with three sentences."""
    folder = tmp_path_factory.mktemp("film")
    return write_scenes(folder / "film.mp4", SCENES, tones=[(440, 3.0), (880, 12.0), (1320, 20.0)])


def gaps_of(topic: Topic) -> list[tuple[int, int, str]]:
    return [(gap.first_sequence, gap.chunk_count, gap.reason) for one in topic.segments().values() for gap in one.gaps]


def test_a_stream_whose_open_chunks_expired_is_ended_with_its_gap_and_may_continue(
    topic: Topic, film: Path, tmp_path: Path, admin: KafkaAdminClient
) -> None:
    mine = cut(film, "cam")
    sent = topic.send(mine[:5])
    with worker_in_thread(topic, tmp_path) as worker:
        worker.wait_until(lambda: "cams/cam/0/0" in topic.segments() and worker.count("taken") == 5)
        worker.wait_until(lambda: len(topic.segments()["cams/cam/0/0"].frames.pts_seconds) >= 9)
    before = topic.segments()["cams/cam/0/0"]
    assert not before.is_final
    assert topic.lag() == 5  # the open window needs them
    (name, number), _ = sent[0].place or (("", 0), 0)
    admin.delete_records({TopicPartition(name, number): 5})
    with worker_in_thread(topic, tmp_path) as worker:
        worker.wait_until(lambda: topic.is_ended("cam"))
        after = topic.segments()["cams/cam/0/0"]
        assert after.is_final
        assert after.revision > before.revision
        assert len(after.frames.pts_seconds) >= len(before.frames.pts_seconds)
        assert gaps_of(topic) == [(0, 5, "EXPIRED")]
        topic.send(mine[6:])
        worker.wait_until(lambda: "cams/cam/1/0" in topic.segments() and topic.lag() == 0)
        worker.wait_until(lambda: topic.segments()["cams/cam/1/0"].is_final)
    assert gaps_of(topic) == [(0, 5, "EXPIRED"), (5, 1, "MISSING")]
    assert [one["id"] for one in comparable_finals(topic.segments())] == ["cam/0/0", "cam/1/0"]


def test_a_running_stream_goes_on_when_its_topic_is_made_anew(
    topic: Topic, film: Path, tmp_path: Path, admin: KafkaAdminClient
) -> None:
    key = b"cams/cam"
    mine = cut(film, "cam")
    topic.send_raw([(key, None)] * 3)
    topic.send(mine[:2])
    topic.send_raw([(key, None)])  # offset 5: sessions count anew from there on
    topic.send(cut(film, "cam", session=2)[:4])
    with worker_in_thread(topic, tmp_path) as worker:
        worker.wait_until(lambda: worker.count("taken") == 6 and "cams/cam/1/0" in topic.segments())
    admin.delete_topics([topic.names.chunks])
    wait_until(lambda: any(one.state == "created" for one in create_topics(topic.config)))
    with worker_in_thread(topic, tmp_path) as worker:
        worker.wait_until(lambda: topic.is_ended("cam"))
        topic.send(cut(film, "cam", session=3))
        worker.wait_until(lambda: "cams/cam/2/2" in topic.segments() and topic.lag() == 0)
    assert [reason for _, _, reason in gaps_of(topic)] == ["EXPIRED"]
    assert len(comparable_finals(topic.segments())) == 5


def test_partitions_without_checkpoints_wait_and_do_not_end_the_worker(
    topic: Topic, film: Path, tmp_path: Path, admin: KafkaAdminClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.handler.setLevel(logging.ERROR)
    admin.create_partitions({topic.names.chunks: 4})
    topic.send(cut(film, "cam"), partition=0)
    topic.send(cut(film, "late"), partition=3)
    with worker_in_thread(topic, tmp_path) as worker:
        worker.wait_until(lambda: topic.is_ended("cam"))
        worker.wait_until(lambda: "run `kinodex topics --grow 4`" in caplog.text)
        assert topic.segments("late") == {}
        admin.create_partitions({topic.names.checkpoints: 4})
        worker.wait_until(lambda: topic.is_ended("late"))


def test_streams_go_on_where_they_began_when_partitions_are_added(topic: Topic, film: Path, tmp_path: Path) -> None:
    names = [f"cam{n}" for n in range(4)]
    films = {name: cut(film, name) for name in (*names, "calm")}
    for name in films:
        topic.send(films[name][: None if name == "calm" else 6])
    with worker_in_thread(topic, tmp_path) as worker:
        worker.wait_until(lambda: topic.is_ended("calm") and worker.count("taken") == len(films["calm"]) + 24)
        worker.wait_until(lambda: len(topic.records_of(topic.names.checkpoints)) > 5)
        assert {one.state for one in grow_topics(topic.config, 5)} == {"grown"}
        for name in names:
            repairs.refresh_metadata(topic.producer._net_client, HANG_SECONDS)
            topic.send(films[name][6:])
        worker.wait_until(lambda: topic.is_ended(*names))
        assert worker.count("forwarded") > 0
    expected = comparable_finals(topic.segments("calm"))
    for name in names:
        found = comparable_finals(topic.segments(name))
        assert found == [one | {"id": str(one["id"]).replace("calm", name)} for one in expected]
    with pytest.raises(ValueError, match="has 5 partitions"):
        grow_topics(topic.config, 4)


def test_partitions_are_added_only_when_workers_have_begun_every_stream(
    topic: Topic, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"cam{n}" for n in range(4)]
    films = {name: cut(film, name) for name in (*names, "calm")}
    for name in films:
        topic.send(films[name][: None if name == "calm" else 6])
    settings, lines = topic.settings(), list[str]()
    with monkeypatch.context() as patched:
        patched.setattr(growth, "SPARE_SECONDS", -settings.worker.idle_seconds)
        with pytest.raises(StreamsNotBegun, match=r"begun the stream cams/\w+ in partition \d, and 4 more"):
            growth.grow(settings, 5, lines.append)
    assert topic.producer.partition_count(topic.names.chunks) == 2

    waiting = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        grown = pool.submit(growth.grow, settings, 5, lambda line: waiting.set())
        assert waiting.wait(HANG_SECONDS)  # no worker runs yet
        with worker_in_thread(topic, tmp_path) as worker:
            assert {one.state for one in grown.result(HANG_SECONDS)} == {"grown"}
            for name in names:
                repairs.refresh_metadata(topic.producer._net_client, HANG_SECONDS)
                topic.send(films[name][6:])
            worker.wait_until(lambda: topic.is_ended(*films))
            assert worker.count("forwarded") > 0
    expected = comparable_finals(topic.segments("calm"))
    for name in names:
        found = comparable_finals(topic.segments(name))
        assert found == [one | {"id": str(one["id"]).replace("calm", name)} for one in expected]
    growth.grow(settings, 6, lines.append)  # all is begun, with no worker running
    assert len(lines) == 1
