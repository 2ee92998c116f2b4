"""Servers fed by a real Kafka: what is appended is found, what is deleted is gone, what is lost is made anew."""

import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from ingest.kafka import Producer, Record, create_topics
from kinodex.v1 import library_service_pb2
from kinodex.v1.library_service_pb2_grpc import LibraryServiceStub
from serve.api.services import library
from serve.catalog.catalog import Catalog
from serve.client.client import Client
from serve.codec.records import segment_bytes
from serve.errors import ServerFailed, VideoIsLive
from serve.indexing.pipeline import delete, index, reindex
from serve.live import feed, pruner
from serve.live import materialiser as materialising
from serve.live.cluster_retention import load_limits, store_limits
from serve.live.sender import RecordSender
from serve.settings import Settings
from serve.values import Query
from support import SUPPORT
from support.broker import Broker
from support.fakes import SilentProgress, use_fakes, write_scenes
from support.hand_made import FINGERPRINT, stream
from support.running import Running, is_ready, metrics_of, running
from support.sample_live import rows_of
from support.segment_source import Worker, now
from support.segment_source import worker as worker
from support.waiting import HANG_SECONDS, wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.slow]
FEED_CHILD = SUPPORT / "feed_child.py"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)
    monkeypatch.setattr(materialising, "MEASURE_SECONDS", 0.05)
    monkeypatch.setattr(pruner, "PRUNE_SECONDS", 0.05)
    monkeypatch.setattr(feed, "PARTITION_SECONDS", 0.2)
    monkeypatch.setattr(library, "DELETE_SECONDS", 2.0)


@contextmanager
def asked(data: Path, worker: Worker, **config: Any) -> Iterator[tuple[Running, Client]]:
    with (
        running(data, worker.settings, metrics_listen="127.0.0.1:0", **config) as server,
        Client(server.address) as client,
    ):
        yield server, client


def found(client: Client, text: str) -> list[tuple[str, bool]]:
    """Return the videos of the moments that match a question, and whether each is final."""
    answer = client.moments(Query(text=text, min_confidence=0.5))
    return sorted({(one.video_id, one.final) for one in answer.moments})


def test_a_provisional_moment_is_found_and_becomes_final(worker: Worker, tmp_path: Path) -> None:
    with asked(tmp_path / "data", worker) as (server, client):
        start = now() - 20
        worker.publish(stream("cam", ["red"] * 10, {3.0: "Paris is lovely."}, appended=start))
        wait_until(lambda: found(client, "red") == [("cam", False)])
        assert found(client, "when does the speaker mention Paris?") == [("cam", False)]
        worker.publish(stream("cam", ["red"] * 20, {3.0: "Paris is lovely."}, appended=start, is_ended=True))
        wait_until(lambda: client.video("cam").frame_count == 20)
        assert found(client, "red") == [("cam", True)]
        [video] = client.videos()
        assert (video.collection, video.frame_count, video.utterance_count) == ("cams", 20, 1)
        assert client.transcript("cam")[0].text == "Paris is lovely."
        assert client.frame("cam", 15.2)[1] == b"cam at 15"
        wait_until(lambda: metrics_of(server).get('kinodex_chunk_to_searchable_seconds_count{final="true"}', 0) >= 1)
        wait_until(lambda: lags(server) == [0.0] * 9)
        values = metrics_of(server)
        assert values["kinodex_broker_up"] == 1
        assert values[f'kinodex_kafka_records_total{{outcome="applied",topic="{worker.topics.segments}"}}'] >= 3


def is_behind(client: Client) -> bool:
    return client.moments(Query(text="red")).is_live_behind


def lags(server: Running) -> list[float]:
    return [value for name, value in metrics_of(server).items() if name.startswith("kinodex_kafka_lag")]


def test_nothing_is_answered_before_all_that_was_there_is_read(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.publish(stream("cam", ["red"] * 200, appended=now() - 300))
    sender = RecordSender(worker.config)
    sender.publish_deletion("cams", "cam", HANG_SECONDS)
    sender.close()
    seen: list[bool] = []
    take = materialising.Materialiser._apply

    def slow(self: materialising.Materialiser, batch: Sequence[Record]) -> None:
        seen.append(is_serving(server))
        take(self, batch)

    monkeypatch.setattr(materialising.Materialiser, "_apply", slow)
    with running(tmp_path / "data", worker.settings, warm=False) as server:
        server.call(server.server.warm_up())
        assert is_serving(server)
        assert seen
        assert not any(seen)
        with Client(server.address) as client:
            assert found(client, "red") == []
            assert list(client.videos()) == []


def is_serving(server: Running) -> bool:
    with grpc.insecure_channel(server.address) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def test_a_deletion_reaches_every_server_and_stays(worker: Worker, tmp_path: Path) -> None:
    films = [stream(name, ["red"] * 30, {3.0: "Paris is lovely."}, appended=now() - 60) for name in ("cam", "other")]
    with asked(tmp_path / "a", worker) as (server, a), asked(tmp_path / "b", worker) as (other, b):
        for film in films:
            worker.publish(film)
        both = [("cam", False), ("other", False)]
        wait_until(lambda: found(a, "red") == found(b, "red") == both)
        a.delete("cam")
        assert found(a, "red") == [("other", False)]  # at once
        wait_until(lambda: found(b, "red") == [("other", False)])
        worker.publish(films[0])  # a worker that was killed makes it anew
        worker.publish(stream("third", ["blue"] * 5, appended=now()))
        wait_until(lambda: found(a, "blue") == found(b, "blue") == [("third", False)])
        assert found(a, "red") == found(b, "red") == [("other", False)]
        wait_until(lambda: all(has_sent_tombstones(each, worker, len(films[0])) for each in (server, other)))
        assert worker.tombstones() == {one.key.decode() for one in films[0]}
        assert metrics_of(server)["kinodex_live_deletions_total"] == 1
        with pytest.raises(ServerFailed, match="no video"):
            a.delete("cam")
        # The stream goes on: what is appended from now on is a new beginning.
        worker.publish([replace(one, source_append_time=now() + 1) for one in films[0][-1:]])
        wait_until(lambda: found(a, "red") == found(b, "red") == both)
    with asked(tmp_path / "rebuilt", worker) as (_, c):
        assert found(c, "red") == both
        assert c.video("cam").frame_count == 6


def has_sent_tombstones(server: Running, worker: Worker, dead_count: int) -> bool:
    """Return whether a server has read so many dead segments, and none of its tombstones is still to come."""
    dead = f'kinodex_kafka_records_total{{outcome="dead",topic="{worker.topics.segments}"}}'
    live = server.server.loaded.feed
    assert live is not None
    return metrics_of(server).get(dead) == dead_count and not len(live._tombstones)


def test_a_request_that_deletes_may_come_twice(worker: Worker, tmp_path: Path) -> None:
    with running(tmp_path / "data", worker.settings) as server, grpc.insecure_channel(server.address) as channel:
        worker.publish(stream("cam", ["red"] * 30, appended=now() - 60))
        stub = LibraryServiceStub(channel)
        request = library_service_pb2.DeleteVideoRequest(video_id="cam", request_id="once")
        wait_until(lambda: answers(lambda: stub.GetVideo(library_service_pb2.GetVideoRequest(video_id="cam"))))
        for _ in range(2):
            stub.DeleteVideo(request)
    assert len(worker.read_topic(worker.topics.deletions)) == 1


def answers(call: Callable[[], object]) -> bool:
    try:
        call()
    except grpc.RpcError:
        return False
    return True


def test_a_lost_data_directory_is_made_anew(worker: Worker, tmp_path: Path) -> None:
    for count in range(4, 60, 4):
        for name in ("a", "b", "c", "d"):
            worker.publish(stream(name, ["red", "blue"] * (count // 2), {3.0: "Paris is lovely."}, appended=now() - 60))
    with asked(tmp_path / "first", worker), asked(tmp_path / "second", worker):
        pass
    with Catalog.open_reader(tmp_path / "first") as first, Catalog.open_reader(tmp_path / "second") as second:
        assert len(rows_of(first)) == 4
        assert rows_of(first) == rows_of(second)


def test_partitions_that_are_added_are_read(worker: Worker, tmp_path: Path) -> None:
    from kafka.admin import KafkaAdminClient, NewPartitions

    with asked(tmp_path / "data", worker) as (_, client):
        admin = KafkaAdminClient(bootstrap_servers=list(worker.config.servers))
        admin.create_partitions({worker.topics.segments: NewPartitions(total_count=6)})
        admin.close()
        record = stream("cam", ["red"] * 5, appended=now())[0]
        producer = Producer(worker.config)  # one that knows of them
        sent = producer.send(worker.topics.segments, record.key, segment_bytes(record), partition=5)
        assert sent.wait(HANG_SECONDS)
        assert sent.error is None
        producer.close(5)
        wait_until(lambda: found(client, "red") == [("cam", False)])


def test_expired_segments_are_removed_here_and_with_the_clusters_retention_in_kafka(
    worker: Worker, tmp_path: Path
) -> None:
    worker.publish(stream("cam", ["red"] * 100 + ["blue"] * 20, appended=now() - 7200))
    worker.publish(stream("other", ["red"] * 40, collection="kept", appended=now() - 7200))
    with asked(tmp_path / "data", worker, retention=("cams=1d",)) as (_, client):
        assert client.video("cam").frame_count == 120
    with asked(tmp_path / "data", worker, retention=("cams=119m",)) as (server, client):
        wait_until(lambda: client.video("cam").frame_count < 70)
        assert client.video("other").frame_count == 40
        assert metrics_of(server)["kinodex_pruned_segments_total"] >= 7
        assert metrics_of(server)["kinodex_prune_seconds_count"] >= 1
    assert worker.tombstones() == set()  # that server's copy alone
    with asked(tmp_path / "rebuilt", worker) as (_, client):
        assert client.video("cam").frame_count == 120
        store_limits(worker.config, ("cams=119m",))
        assert load_limits(worker.config) == ("cams=119m",)
        wait_until(lambda: client.video("cam").frame_count < 70)
        wait_until(lambda: len(worker.tombstones()) >= 7)
    gone = worker.tombstones()
    store_limits(worker.config, ())
    with asked(tmp_path / "again", worker) as (_, client):
        assert client.video("cam").frame_count == 120 - 8 - 8 * len(gone)


@pytest.mark.parametrize("seed", range(2))
def test_a_reader_that_is_killed_again_and_again_ends_where_an_undisturbed_one_does(
    worker: Worker, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    appended = now() - 60
    said = {3.0: "Paris is lovely.", 14.5: "London is foggy.", 31.0: "Tokyo never sleeps."}

    def publish_more() -> None:
        for name in ("a", "b", "c"):
            count = rng.randrange(1, 60)
            worker.publish(stream(name, (["red", "blue"] * 30)[:count], said, appended=appended, is_ended=count > 50))

    for _ in range(8):
        publish_more()
    sender, kill_count = RecordSender(worker.config), 0
    while kill_count < 6:
        kill_count += run_child(tmp_path / "killed", worker, rng.randrange(1, 300)) == -signal.SIGKILL
        publish_more()
        if kill_count == 3:
            sender.publish_deletion("cams", "c", HANG_SECONDS)
    sender.close()
    assert run_child(tmp_path / "killed", worker, 10**9) == 0
    assert run_child(tmp_path / "undisturbed", worker, 10**9) == 0
    with (
        Catalog.open_reader(tmp_path / "killed") as killed,
        Catalog.open_reader(tmp_path / "undisturbed") as undisturbed,
    ):
        assert [row[:2] for row in rows_of(killed)] == [("cams", "a"), ("cams", "b")]
        assert rows_of(killed) == rows_of(undisturbed)
        assert killed.document_frequencies(["Paris"]) == undisturbed.document_frequencies(["Paris"])


def run_child(data: Path, worker: Worker, statement_count: int) -> int:
    servers, prefix = worker.config.servers[0], worker.config.topic_prefix
    command = [sys.executable, str(FEED_CHILD), str(data), servers, prefix, str(statement_count)]
    return subprocess.run(command, check=False, timeout=HANG_SECONDS).returncode


# ---- a broker that goes away


@pytest.fixture
def own(own_broker: Broker, topic_prefix: str) -> Iterator[Worker]:
    made = Worker(own_broker.servers, topic_prefix, partition_count=1)
    yield made
    made.producer.close(0)


def test_answers_go_on_while_the_broker_is_away(
    own: Worker, own_broker: Broker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own.publish(stream("cam", ["red"] * 10, appended=now() - 60))
    with asked(tmp_path / "data", own) as (server, client):
        assert found(client, "red") == [("cam", False)]
        own_broker.kill()
        wait_until(lambda: metrics_of(server)["kinodex_broker_up"] == 0)
        assert found(client, "red") == [("cam", False)]
        assert is_behind(client)
        assert is_serving(server)
        request = library_service_pb2.DeleteVideoRequest(video_id="cam")
        with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
            LibraryServiceStub(channel).DeleteVideo(request, timeout=HANG_SECONDS)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        status = rpc_status.from_call(caught.value)
        assert status is not None
        assert b"BROKER_UNAVAILABLE" in status.details[0].value
        assert own.config.servers[0] not in str(status)
        assert found(client, "red") == [("cam", False)]
        own_broker.start()
        wait_until(lambda: metrics_of(server)["kinodex_broker_up"] == 1)
        own.publish(stream("cam", ["red"] * 10 + ["blue"] * 10, appended=now() - 60))
        wait_until(lambda: found(client, "blue") != [])
        assert not is_behind(client)
        client.delete("cam")
        assert list(client.videos()) == []
        assert len([one for one in caplog.messages if one.startswith("live feed waits")]) <= 3
    assert len(own.read_topic(own.topics.deletions)) == 1  # the one that was refused has not come later


def test_a_server_waits_for_the_broker_before_it_answers(
    own: Worker, own_broker: Broker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own.publish(stream("cam", ["red"] * 10, appended=now() - 60))
    own_broker.stop()
    with running(tmp_path / "data", own.settings, warm=False) as server, Client(server.address) as client:
        warming = server.loop.call_soon_threadsafe(
            lambda: setattr(server.server, "warming", server.loop.create_task(server.server.warm_up()))
        )
        wait_until(lambda: "live feed waits" in caplog.text)
        assert not is_serving(server)
        own_broker.start()
        wait_until(lambda: is_serving(server))
        assert found(client, "red") == [("cam", False)]
        del warming


def test_a_server_that_starts_while_the_broker_is_away_answers_from_what_it_has(
    own: Worker, own_broker: Broker, tmp_path: Path
) -> None:
    own.publish(stream("cam", ["red"] * 10, appended=now() - 60))
    with asked(tmp_path / "data", own) as (_, client):
        assert not is_behind(client)
    own_broker.stop()
    with asked(tmp_path / "data", own) as (server, client):
        assert is_serving(server)
        assert found(client, "red") == [("cam", False)]
        assert is_behind(client)
        assert client.search(Query(text="red")).is_live_behind
        own_broker.start()
        wait_until(lambda: not is_behind(client))
        own.publish(stream("cam", ["red"] * 10 + ["blue"] * 10, appended=now() - 60))
        wait_until(lambda: found(client, "blue") != [])


def test_a_topic_that_was_made_anew_is_read_anew_and_files_stay(own: Worker, tmp_path: Path) -> None:
    from kafka.admin import KafkaAdminClient

    def make_anew() -> None:
        with KafkaAdminClient(bootstrap_servers=list(own.config.servers)) as admin:
            admin.delete_topics([own.topics.segments])
            wait_until(lambda: any(one.state == "created" for one in create_topics(own.config)))

    film = write_scenes(tmp_path / "film.mp4", [("blue", 6)])
    list(index([str(film)], tmp_path / "data", Settings(workers=2), progress=SilentProgress()))
    own.publish(stream("old", ["red"] * 10, appended=now() - 60))
    with asked(tmp_path / "data", own) as (_, client):
        assert found(client, "red") == [("old", False)]
    make_anew()  # while the server is away
    own.publish(stream("new", ["red"] * 60, appended=now() - 60))  # more records than before
    with asked(tmp_path / "data", own) as (_, client):
        assert {name for name, _ in found(client, "red")} == {"new"}
        assert len(found(client, "blue")) == 1
        make_anew()  # while it runs
        own.publish(stream("newest", ["red"] * 60, appended=now() - 60))
        wait_until(lambda: {name for name, _ in found(client, "red")} == {"newest"})
        assert len(found(client, "blue")) == 1


def test_new_encoders_of_a_reindexed_library_take_the_segments_of_their_own(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = write_scenes(tmp_path / "film.mp4", [("blue", 6)])
    list(index([str(film)], tmp_path / "data", Settings(workers=2), progress=SilentProgress()))
    red = stream("cam", ["red"] * 10, appended=now() - 60)
    worker.publish(red)
    with asked(tmp_path / "data", worker) as (server, client):
        assert found(client, "red") == [("cam", False)]
        monkeypatch.setattr("support.fakes.ColourEncoder.fingerprint", "another")
        list(reindex(tmp_path / "data", worker.settings, progress=SilentProgress()))
        assert found(client, "red") == []
        wait_until(lambda: is_ready(client) and visual_fingerprint(server) == "another")
        space = server.server.loaded.require().encoders.space
        worker.publish([replace(one, fingerprint=space.fingerprint) for one in red])
        wait_until(lambda: found(client, "red") == [("cam", False)])


def visual_fingerprint(server: Running) -> str:
    library = server.server.loaded.library
    return "" if library is None else library.encoders.space.visual_fingerprint


# ---- without a server


def test_a_live_video_is_not_deleted_behind_kafkas_back(worker: Worker, tmp_path: Path) -> None:
    worker.publish(stream("cam", ["red"] * 30, appended=now() - 60))
    with asked(tmp_path / "data", worker):
        pass
    with pytest.raises(VideoIsLive, match="--kafka"):
        delete(tmp_path / "data", ["cam"])
    with running(tmp_path / "data") as server, Client(server.address) as client:
        with pytest.raises(ServerFailed, match="comes from Kafka"):
            client.delete("cam")
        assert is_ready(client)
        assert client.video("cam").frame_count == 30
    assert [video.video_id for video in delete(tmp_path / "data", ["cam"], kafka=worker.config)] == ["cam"]
    assert len(worker.tombstones()) == 3
    # Its sessions begin anew, also if a publisher with a clock ahead sent it.
    assert [(one.key, one.value) for one in worker.read_topic(worker.topics.chunks)] == [(b"cams/cam", None)]
    with asked(tmp_path / "data", worker) as (_, client), asked(tmp_path / "other", worker) as (_, other):
        assert list(client.videos()) == list(other.videos()) == []


def test_files_and_streams_live_side_by_side(worker: Worker, tmp_path: Path) -> None:
    film = write_scenes(tmp_path / "film.mp4", [("blue", 6)], tones=[(880, 2.0)])
    [outcome] = index([str(film)], tmp_path / "data", Settings(workers=2), progress=SilentProgress())
    with Catalog.open_reader(tmp_path / "data") as catalog:
        space = catalog.space()
        assert space is not None
        assert space.fingerprint == FINGERPRINT
    with asked(tmp_path / "data", worker) as (_, client):
        worker.publish(stream("cam", ["red"] * 10, appended=now() - 60))
        wait_until(lambda: found(client, "red") == [("cam", False)])
        assert outcome.video_id is not None
        assert found(client, "blue") == [(outcome.video_id, True)]
        client.delete(outcome.video_id)  # a file is this server's own
        assert found(client, "blue") == []
    assert worker.read_topic(worker.topics.deletions) == []
