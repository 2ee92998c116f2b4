"""kinodex publish and kinodex topics, from the command line to the records on the topics."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from ingest.kafka import Record
from ingest.values import Chunk
from serve.cli.main import cli
from serve.codec.records import read_chunk, read_source
from serve.worker.publisher import Publisher
from support.broker import Broker
from support.fakes import write_scenes
from support.waiting import HANG_SECONDS
from support.worker_runs import Topic

pytestmark = [pytest.mark.kafka, pytest.mark.slow]
COMMAND = [sys.executable, "-P", "-m", "kinodex"]


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.CRITICAL, "kafka")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def topic(kafka: str, topic_prefix: str) -> Iterator[Topic]:
    made = Topic(kafka, topic_prefix)
    yield made
    made.close()


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("film") / "film.mp4", [("red", 5), ("blue", 4)], tones=[(440, 3.0)])


@pytest.fixture(scope="module")
def long_film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film that takes longer to publish in real time than a slow machine needs to interrupt it."""
    return write_scenes(tmp_path_factory.mktemp("film") / "long.mp4", [("red", 300)])


def environ(topic: Topic, **variables: str) -> dict[str, str]:
    return os.environ | {
        "KINODEX_KAFKA_TOPIC_PREFIX": topic.config.topic_prefix,
        "KINODEX_KAFKA_SERVERS": ",".join(topic.config.servers),
        "KINODEX_KAFKA_BOOTSTRAP_TIMEOUT_SECONDS": "60",
        **variables,
    }


def run(topic: Topic, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environ(topic, **variables),
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )


def start(topic: Topic, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*COMMAND, *arguments], env=environ(topic, **variables), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def chunk_records(topic: Topic) -> list[Record]:
    """Return the chunks. Before each session stands a record without a value, which lets sessions begin anew."""
    records = topic.records_of(topic.names.chunks)
    for before, record in pairwise(records):
        if record.value is not None and read_chunk(record.value).sequence == 0:
            assert before.value is None
            assert before.key == record.key
    return [record for record in records if record.value is not None]


def test_publishes_a_file_and_says_what_was_sent(topic: Topic, film: Path) -> None:
    before = time.time()
    done = run(topic, "publish", str(film), "--stream", "cam", "--collection", "cams", "--json")
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    records = chunk_records(topic)
    found = [read_chunk(record.value or b"") for record in records]
    assert {record.key for record in records} == {b"cams/cam"}
    assert [chunk.sequence for chunk in found] == list(range(6))
    assert [chunk.end_of_stream for chunk in found] == [False] * 5 + [True]
    assert len({chunk.session for chunk in found}) == 1
    assert before - 1 < found[0].session / 1000 < time.time() + 1
    assert told == [
        {
            "stream": "cams/cam",
            "sequence": chunk.sequence,
            "byte_count": len(record.value or b""),
            "end_of_stream": chunk.end_of_stream,
        }
        for record, chunk in zip(records, found, strict=True)
    ]
    assert done.stderr.splitlines()[-1].startswith("cams/cam: 5 chunks, 0:09, ")
    again = run(topic, "publish", str(film), "--stream", "cam", "--collection", "cams")
    assert (again.returncode, again.stdout) == (0, "")
    assert read_chunk(chunk_records(topic)[-1].value or b"").session > found[0].session


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("{gone}", "--stream", "cam"), 1, "it does not exist|no such file"),
        (("{noise}", "--stream", "cam"), 1, "not a media file"),
        (("{film}", "--stream", "a/b"), 1, 'stream_id must not be empty and have no "/"'),
        (("{film}", "--stream", ""), 1, "stream_id must not be empty"),
        (("{film}", "--stream", "cam", "--collection", "a\nb"), 1, "collection must not be empty"),
        (("{film}",), 2, "--stream"),
        (("{film}", "--stream", "cam", "--whole", "--realtime"), 2, "not both"),
        (("{gone}", "--stream", "cam", "--whole"), 1, "no such file"),
        (("ftp://example.org/a.mp4", "--stream", "cam", "--whole"), 1, "not a URI of a supported scheme"),
        (("{film}", "--stream", "cam", "--kafka", "127.0.0.1:1"), 1, "Connection refused"),
        (("{film}", "--stream", "cam", "--kafka", "nonsense"), 1, "host:port"),
    ],
    ids=lambda one: " ".join(one)[:40].replace("\n", " ") if isinstance(one, tuple) else "",
)
def test_a_source_that_cannot_be_published_is_an_error_of_one_line(
    arguments: tuple[str, ...],
    status: int,
    said: str,
    topic: Topic,
    film: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    noise = tmp_path / "noise.mp4"
    noise.write_bytes(bytes(range(256)) * 40)
    names = {"film": film, "gone": tmp_path / "gone.mp4", "noise": noise}
    variables = {"KINODEX_KAFKA_BOOTSTRAP_TIMEOUT_SECONDS": "2"} if "--kafka" in arguments else {}
    for name, value in environ(topic, **variables).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as caught:
        cli.main(["publish", *(one.format(**names) for one in arguments)], prog_name="kinodex")
    out, err = capsys.readouterr()
    [line] = [line for line in err.splitlines() if line.startswith("kinodex: error:")]
    assert (caught.value.code, out) == (status, ""), err
    assert any(one in line for one in said.split("|")), line
    assert chunk_records(topic) == []


def test_publishes_where_a_whole_file_is(topic: Topic, film: Path) -> None:
    uri = "https://user:secret@example.org/talk.mp4"
    done = run(topic, "publish", uri, "--stream", "talk", "--whole")
    assert done.returncode == 0, done.stderr
    assert "secret" not in done.stderr
    assert "sent https://example.org/talk.mp4 as default/talk" in done.stderr
    [record] = topic.records_of(topic.names.sources)
    source = read_source(record.value or b"")
    assert (record.key, source.collection, source.video_id, source.uri) == (b"default/talk", "default", "talk", uri)


@pytest.mark.parametrize(
    ("ahead_seconds", "said"), [(8 * 86400, r"691\d{3} s ahead of"), (-3600, r"3[56]\d\d s behind"), (3, "")]
)
def test_a_wrong_clock_is_said_and_the_stream_is_dated_by_the_brokers(
    topic: Topic, ahead_seconds: float, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    publisher = Publisher(
        topic.settings(), collection="cams", stream_id="cam", report=lambda sent: None, note=notes.append,
        stop=threading.Event(),
    )  # fmt: skip
    right = time.time

    def wrong() -> float:
        return right() + ahead_seconds

    monkeypatch.setattr("serve.worker.publisher.time.time", wrong)
    before = right()
    for sequence in range(2):
        publisher.send(
            Chunk(collection="cams", stream_id="cam", session=0, sequence=sequence, media=b"x", start_time=wrong())
        )
    publisher.finish()
    publisher.close()
    monkeypatch.undo()
    found = [read_chunk(record.value or b"") for record in chunk_records(topic)]
    assert [chunk.sequence for chunk in found] == [0, 1]
    assert before - 1 < found[0].session / 1000 == found[1].session / 1000 < right() + 1
    slack = abs(ahead_seconds) + 1 if not said else 2
    assert before - slack < (found[0].start_time or 0) < right() + slack
    assert len(notes) == bool(said)
    line = f"this machine's clock is {said} the brokers': the stream is dated by theirs"
    assert all(re.fullmatch(line, one) for one in notes)


def test_publishes_the_path_of_a_whole_file_as_its_uri(topic: Topic, film: Path) -> None:
    done = run(topic, "publish", os.path.relpath(film), "--stream", "talk", "--whole")
    assert done.returncode == 0, done.stderr
    assert "source.file_roots" in done.stderr
    [record] = topic.records_of(topic.names.sources)
    assert read_source(record.value or b"").uri == film.as_uri()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_publisher_that_is_stopped_ends_its_stream(topic: Topic, long_film: Path, number: signal.Signals) -> None:
    with start(topic, "publish", str(long_film), "--stream", "cam", "--realtime", "--json") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["sequence"] == 0
        process.send_signal(number)
        rest, said = process.communicate(timeout=HANG_SECONDS)
    assert process.returncode == 0, said
    assert json.loads(rest.splitlines()[-1])["end_of_stream"]
    found = [read_chunk(record.value or b"") for record in chunk_records(topic)]
    assert found[-1].end_of_stream
    assert [chunk.sequence for chunk in found] == list(range(len(found)))
    assert len(found) < 100  # of 150 in the whole film


def test_a_publisher_waits_for_the_broker_and_loses_nothing(
    own_broker: Broker, topic_prefix: str, film: Path, long_film: Path
) -> None:
    topic = Topic(own_broker.servers, topic_prefix)
    with start(topic, "publish", str(film), "--stream", "cam", "--realtime", "--json") as process:
        assert process.stdout is not None
        process.stdout.readline()
        own_broker.kill()
        own_broker.start()
        _, said = process.communicate(timeout=HANG_SECONDS)
    assert process.returncode == 0, said
    found = [read_chunk(record.value or b"") for record in chunk_records(topic)]
    assert [chunk.sequence for chunk in found] == list(range(6))
    with start(topic, "publish", str(long_film), "--stream", "other", "--realtime", "--json") as process:
        assert process.stdout is not None
        process.stdout.readline()
        own_broker.kill()
        process.terminate()  # while nobody takes the end of the stream
        _, said = process.communicate(timeout=HANG_SECONDS)  # half the delivery timeout
    assert process.returncode == 1
    line = said.splitlines()[-1]
    assert line.startswith("kinodex: error: Kafka is not available: "), said
    assert "not delivered within 10 s of the stop" in line
    assert "Traceback" not in said
    assert "default/other: " in said
    topic.close()


def test_makes_the_topics_and_says_what_is_there(kafka: str, topic_prefix: str) -> None:
    variables = {
        "KINODEX_KAFKA_TOPIC_PREFIX": topic_prefix, "KINODEX_KAFKA_PARTITION_COUNT": "3", "KINODEX_KAFKA_SERVERS": "",
        "KINODEX_KAFKA_BOOTSTRAP_TIMEOUT_SECONDS": "60",
    }  # fmt: skip

    def run(*arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*COMMAND, *arguments], env=os.environ | variables | more, capture_output=True, text=True,
            timeout=HANG_SECONDS, check=False,
        )  # fmt: skip

    topics = partial(run, "topics")
    retention = partial(run, "retention", "--kafka", kafka)
    first = topics("--kafka", kafka, "--json")
    assert first.returncode == 0, first.stderr
    kinds = ("chunks", "sources", "segments", "deletions", "settings", "checkpoints", "deadletter", "events")
    names = [f"{topic_prefix}.{kind}" for kind in kinds]
    assert [json.loads(line) for line in first.stdout.splitlines()] == [
        {"name": name, "state": "created", "differences": []} for name in names
    ]
    again = topics("--kafka", kafka)
    assert again.returncode == 0
    assert [line.split() for line in again.stdout.splitlines()] == [[name, "exists"] for name in names]
    other = topics("--kafka", kafka, KINODEX_KAFKA_PARTITION_COUNT="4")
    assert other.returncode == 1
    assert other.stdout.count("differs  it has 3 partitions, not 4") == 3
    grown = topics("--grow", "4", "--kafka", kafka)
    assert grown.returncode == 0, grown.stderr
    assert [line.split()[1] for line in grown.stdout.splitlines()] == ["grown"] * 3
    assert "go on where they began" in grown.stderr
    shrunk = topics("--grow", "3", "--kafka", kafka)
    assert (shrunk.returncode, "has 4 partitions" in shrunk.stderr) == (2, True)
    assert topics("--kafka", kafka, KINODEX_KAFKA_PARTITION_COUNT="4").returncode == 0
    assert (retention().stdout, retention("cams=7d", "*=1d,5GiB").stdout) == (
        "everything is kept\n", "cams=7d\n*=1d,5GiB\n",
    )  # fmt: skip
    assert json.loads(retention("--json").stdout) == {"limits": ["cams=7d", "*=1d,5GiB"]}
    assert (retention("cams=7y").returncode, retention("--forever").stdout) == (2, "everything is kept\n")
    nowhere = topics()
    assert nowhere.returncode == 2
    assert "no Kafka broker" in nowhere.stderr
