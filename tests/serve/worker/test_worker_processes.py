"""Workers as processes: stopped, killed, added, and without a broker. The final segments are those of a calm run."""

import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ingest.values import Chunk
from support.broker import Broker
from support.fakes import use_fakes, write_scenes
from support.waiting import HANG_SECONDS, wait_until
from support.worker_runs import Child, Topic, comparable_finals, cut, worker_in_thread

pytestmark = [pytest.mark.kafka, pytest.mark.slow]
IDLE_SECONDS = 20.0  # a slow machine must send, read and decode within this time
NAMES = ("a", "b", "c", "d", "e")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    use_fakes(monkeypatch)
    caplog.set_level(logging.CRITICAL, "kafka")


@pytest.fixture
def topic(kafka: str, topic_prefix: str) -> Iterator[Topic]:
    made = Topic(kafka, topic_prefix, partition_count=4, session_timeout_seconds=8.0)  # killed workers are waited for
    yield made
    made.close()


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    return write_scenes(path, [("red", 12), ("green", 13), ("blue", 15)], tones=[(440, 3.0), (880, 17.0), (1320, 33.0)])


@pytest.fixture
def children(tmp_path: Path) -> Iterator[list[Child]]:
    """Workers that are ended with the test."""
    made: list[Child] = []
    yield made
    for child in made:
        child.close()


def begin(children: list[Child], topic: Topic, folder: Path, **options: Any) -> Child:
    child = Child(topic, folder, **options)
    children.append(child)
    return child


def streams(film: Path, names: Sequence[str] = NAMES) -> list[Chunk]:
    """Return the chunks of some streams, one of each in turn."""
    return [chunk for chunks in zip(*(cut(film, name) for name in names), strict=True) for chunk in chunks]


@pytest.fixture(scope="module")
def expected(kafka: str, film: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The segments that an undisturbed worker makes of the film."""
    topic = Topic(kafka, f"calm-{time.time_ns()}")
    with pytest.MonkeyPatch.context() as patch:
        use_fakes(patch)
        topic.send(cut(film, "calm"))
        with worker_in_thread(topic, tmp_path_factory.mktemp("calm")) as worker:
            worker.wait_until(lambda: topic.is_ended("calm"))
    found = comparable_finals(topic.segments())
    topic.close()
    return {"calm": found}


def assert_as_expected(topic: Topic, expected: dict[str, object], names: Sequence[str] = NAMES) -> None:
    calm = expected["calm"]
    assert isinstance(calm, list)
    for name in names:
        found = comparable_finals(topic.segments(name))
        assert found == [one | {"id": str(one["id"]).replace("calm", name)} for one in calm]
    assert topic.dead_letters() == []


def test_a_stopped_worker_commits_all_finished_work(
    topic: Topic, film: Path, tmp_path: Path, children: list[Child], expected: dict[str, object]
) -> None:
    first = begin(children, topic, tmp_path)
    second = begin(children, topic, tmp_path)
    second.wait_until_ready()
    second.terminate()  # an idle one
    assert second.process.returncode == 0, second.log_text()
    topic.send(streams(film, "ab"))
    wait_until(lambda: topic.is_ended("a", "b"))
    status = first.terminate()
    assert (status, topic.lag()) == (0, 0), first.log_text()
    before = len(topic.revisions())
    third = begin(children, topic, tmp_path)
    third.wait_until_ready()
    topic.send(streams(film, "c"))
    wait_until(lambda: topic.is_ended("c") and topic.lag() == 0)
    assert_as_expected(topic, expected, "abc")
    assert before == len([one for one in topic.revisions() if one.video_id != "c"])


def test_a_worker_stopped_under_full_load_ends_soon_and_another_continues(
    topic: Topic, film: Path, tmp_path: Path, children: list[Child], expected: dict[str, object]
) -> None:
    topic.send(streams(film))
    first = begin(children, topic, tmp_path, slow_seconds=3.0)
    wait_until(lambda: len(topic.revisions()) > 2)
    status = first.terminate()
    assert status == 0, first.log_text()
    assert topic.lag() > 0
    begin(children, topic, tmp_path)
    wait_until(lambda: topic.is_ended(*NAMES) and topic.lag() == 0)
    assert_as_expected(topic, expected)


def test_a_second_worker_shares_and_continues_alone_when_the_first_is_killed(
    topic: Topic, film: Path, tmp_path: Path, children: list[Child], expected: dict[str, object]
) -> None:
    mine = streams(film)
    first = begin(children, topic, tmp_path, slow_seconds=0.05)
    first.wait_until_ready()
    third = len(mine) // 3
    topic.send(mine[:third])
    wait_until(lambda: len(topic.revisions()) > 5)
    second = begin(children, topic, tmp_path, slow_seconds=0.05)
    wait_until(
        lambda: "partitions given up count=2" in first.log_text() or "partitions given up count=4" in first.log_text()
    )
    assert second.process.poll() is None
    topic.send(mine[third : 2 * third])
    wait_until(lambda: "partitions assigned" in second.log_text())
    first.kill()
    topic.send(mine[2 * third :])
    wait_until(lambda: topic.is_ended(*NAMES) and topic.lag() == 0)
    assert_as_expected(topic, expected)


def test_workers_that_are_killed_repeatedly_lose_nothing(
    topic: Topic, film: Path, tmp_path: Path, children: list[Child], expected: dict[str, object]
) -> None:
    mine = streams(film)
    for part in range(3):
        child = begin(children, topic, tmp_path, slow_seconds=0.1)
        child.wait_until_ready()
        topic.send(mine[part * len(mine) // 3 : (part + 1) * len(mine) // 3])
        before = len(topic.revisions())
        wait_until(lambda before=before: len(topic.revisions()) > before + 3)
        child.kill()
    begin(children, topic, tmp_path)
    wait_until(lambda: topic.is_ended(*NAMES) and topic.lag() == 0)
    assert_as_expected(topic, expected)


# ------------------------------------------------------------------ without a broker
def test_a_missing_broker_or_topic_is_an_error_of_one_line(topic: Topic, tmp_path: Path, children: list[Child]) -> None:
    short = {"KINODEX_KAFKA_BOOTSTRAP_TIMEOUT_SECONDS": "1"}
    for child, reason in (
        (
            begin(children, topic, tmp_path, servers="127.0.0.1:1", **short),
            "Kafka is not available: Connection refused",
        ),
        (begin(children, topic, tmp_path, KINODEX_KAFKA_TOPIC_PREFIX="none"), "there is no topic none."),
    ):
        assert child.process.wait(HANG_SECONDS) == 1
        [line] = [line for line in child.log_text().splitlines() if line.startswith("kinodex: error:")]
        assert reason in line
        assert "Traceback" not in child.log_text()


def test_a_worker_continues_after_an_outage_of_the_broker(
    own_broker: Broker, topic_prefix: str, film: Path, tmp_path: Path, children: list[Child],
    expected: dict[str, object],
) -> None:  # fmt: skip
    topic = Topic(own_broker.servers, topic_prefix, partition_count=2, session_timeout_seconds=8.0)
    mine = streams(film, "ab")
    child = begin(children, topic, tmp_path, slow_seconds=0.1, KINODEX_WORKER_IDLE_SECONDS=str(IDLE_SECONDS))
    child.wait_until_ready()
    half = len(mine) // 2
    topic.send(mine[:half])
    wait_until(lambda: len(topic.revisions()) > 2)
    own_broker.kill()
    time.sleep(IDLE_SECONDS + 2)  # longer than a silence that ends a stream
    own_broker.start()
    topic.send(mine[half:])
    wait_until(lambda: topic.is_ended("a", "b") and topic.lag() == 0)
    assert_as_expected(topic, expected, "ab")
    assert child.process.poll() is None
    topic.send(cut(film, "c")[:3])
    wait_until(lambda: topic.segments("c"))
    own_broker.kill()
    status = child.terminate()
    assert status == 0, child.log_text()
    topic.close()
