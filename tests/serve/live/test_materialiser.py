"""The thread that brings a catalog up to Kafka, over a Kafka in memory."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from ingest.config import KafkaConfig
from ingest.errors import BrokerUnavailable, OffsetRegression
from ingest.kafka import Delivery, PartitionId, Record
from ingest.kafka import Topics as TopicNames
from kinodex.v1 import stream_pb2
from serve.api.build import run_server
from serve.background import Backoff
from serve.catalog.catalog import Catalog
from serve.codec.records import SegmentRecord, deletion_bytes, segment_bytes, segment_key, video_key
from serve.codec.settings_records import retention_bytes
from serve.config import ServerConfig, parse_retention
from serve.errors import VideoIsLive
from serve.indexing.pipeline import delete
from serve.live import broker_clock, pruner
from serve.live import materialiser as materialising
from serve.live.batch_size import BatchSize
from serve.live.broker_clock import BrokerClock
from serve.live.live_rows import LiveRows, SegmentKey
from serve.live.materialiser import Materialiser
from serve.live.pruner import Pruner
from serve.live.tombstones import PendingTombstones
from serve.observe.metrics import LiveMetrics
from serve.settings import Settings
from support.fakes import use_fakes
from support.hand_made import FINGERPRINT, SPACE, stream
from support.sample_catalog import put
from support.sample_live import rows_of
from support.waiting import HANG_SECONDS, wait_until

NAMES = TopicNames("t")
SEGMENTS, DELETIONS = NAMES.segments, NAMES.deletions
NOW = 1_700_000_000.0


@dataclass
class Topics:
    """Topics in memory, with their readers."""

    logs: dict[PartitionId, list[Record]] = field(default_factory=dict)
    is_up: bool = True
    broker_now: float = NOW  # append time of what servers send
    reads: int = 1000  # the most records of one poll
    poll_count: int = 0
    refusal_count: int = 0  # attempts to read while it was not up
    opened: list[dict[PartitionId, int]] = field(default_factory=list)  # where readers began

    def append(self, topic: str, key: bytes, value: bytes | None, *, partition: int = 0, at: float = NOW) -> None:
        log = self.logs.setdefault((topic, partition), [])
        log.append(Record(topic, partition, len(log), at, key, value))

    def delivery(self, topic: str, key: bytes, value: bytes | None) -> Delivery:
        """Append a record as a producer does, at the broker's time of now."""
        self.append(topic, key, value, at=self.broker_now)
        return Appended(((topic, 0), len(self.logs[topic, 0]) - 1), self.broker_now)

    def put(self, *records: SegmentRecord, partition: int = 0) -> None:
        for record in records:
            self.append(SEGMENTS, record.key, segment_bytes(record), partition=partition)

    def delete(self, collection: str, video_id: str, at: float) -> None:
        self.append(DELETIONS, video_key(collection, video_id), deletion_bytes(collection, video_id), at=at)

    @contextmanager
    def open(self, positions: Mapping[PartitionId, int]) -> Iterator["MemoryReader"]:
        self.check()
        self.opened.append(dict(positions))
        for place, offset in positions.items():
            if offset > len(self.logs.get(place, [])):
                raise OffsetRegression(*place, offset, len(self.logs.get(place, [])))
        yield MemoryReader(self, dict(positions))

    def check(self) -> None:
        if not self.is_up:
            self.refusal_count += 1
            raise BrokerUnavailable(("nobody:9092",), "no answer")


class Appended(Delivery):
    """A record that the broker has, or has lost if it has no place."""

    def __init__(self, place: tuple[PartitionId, int] | None, at: float = NOW) -> None:
        super().__init__((), "", None)
        self._place, self._at = place, at

    @property
    def place(self) -> tuple[PartitionId, int] | None:
        return self._place

    @property
    def append_seconds(self) -> float | None:
        return None if self._place is None else self._at


class MemoryReader:
    def __init__(self, topics: Topics, positions: dict[PartitionId, int]) -> None:
        self.topics, self.at = topics, positions

    def poll(self, timeout_seconds: float) -> list[Record]:
        self.topics.check()
        self.topics.poll_count += 1
        found: list[Record] = []
        for place, log in list(self.topics.logs.items()):
            new = log[self.at.get(place, 0) :][: self.topics.reads - len(found)]
            self.at[place] = self.at.get(place, 0) + len(new)
            found += new
        if not found:
            time.sleep(0.001)
        return found

    def ends(self) -> dict[PartitionId, int]:
        self.topics.check()
        return {place: len(log) for place, log in self.topics.logs.items()}

    def positions(self) -> dict[PartitionId, int]:
        return dict(self.at)


class Bench:
    """A materialiser over a catalog and topics in memory."""

    def __init__(self, folder: Path, topics: Topics, *, retention: Sequence[str] = (), now: float = NOW) -> None:
        with Catalog.open_writer(folder) as catalog:
            catalog.set_space(SPACE)
        self.catalog, self.topics, self.now = Catalog.open_editor(folder), topics, now
        self.registry = CollectorRegistry()
        self.metrics = LiveMetrics(self.registry)
        self.sent: list[SegmentKey] = []
        self.caught_up, self.ended = threading.Event(), threading.Event()
        self.error: Exception | None = None
        self.change_count = 0
        self.rows = LiveRows(self.catalog, FINGERPRINT, clock=lambda: self.now)
        tombstones = PendingTombstones(self.send)
        clock = BrokerClock(lambda: topics.delivery(NAMES.settings, b"clock", None))
        self.materialiser = Materialiser(
            self.rows,
            topics.open,
            tombstones,
            send_dead_letter=lambda key, value: topics.append("t.deadletter", key, value),
            pruner=Pruner(
                self.rows,
                parse_retention(retention),
                clock=clock,
                tombstones=tombstones,
                metrics=self.metrics,
                on_change=self.changed,
            ),
            broker_clock=clock,
            topics=NAMES,
            metrics=self.metrics,
            on_change=self.changed,
            on_caught_up=self.caught_up.set,
            on_away=lambda: None,
            on_end=self.end,
            clock=lambda: self.now,
        )

    def send(self, segment: SegmentKey, value: bytes | None) -> Delivery:
        self.sent.append(segment)
        return self.topics.delivery(SEGMENTS, segment_key(segment.collection, segment.segment_id), value)

    def changed(self) -> None:
        self.change_count += 1

    def end(self, error: Exception) -> None:
        self.error = error
        self.ended.set()

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)

    def segment_ids(self) -> list[str]:
        return sorted(one for (one,) in self.catalog.select("SELECT segment_id FROM segments"))


@pytest.fixture
def benches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Bench]]:
    monkeypatch.setattr(materialising, "FIRST_BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr(materialising, "MEASURE_SECONDS", 0.0)
    made: list[Bench] = []

    def make(topics: Topics, name: str = "data", **options: object) -> Bench:
        bench = Bench(tmp_path / name, topics, **options)  # type: ignore[arg-type]
        made.append(bench)
        bench.materialiser.start()
        return bench

    yield make
    for bench in made:
        bench.materialiser.stop()
        bench.catalog.close()


PARIS = stream("cam", ["red"] * 20, {3.0: "Paris is lovely."}, appended=NOW - 20)


def test_takes_over_what_is_there_and_what_comes(benches: Callable[..., Bench]) -> None:
    topics = Topics()
    topics.put(*PARIS)
    bench = benches(topics)
    assert bench.caught_up.wait(HANG_SECONDS)
    assert bench.segment_ids() == ["cam/0/0", "cam/0/1"]
    topics.put(*stream("cam", ["red"] * 30, {3.0: "Paris is lovely."}, appended=NOW - 20))
    wait_until(lambda: bench.segment_ids() == ["cam/0/0", "cam/0/1", "cam/0/2"])
    assert bench.rows.offsets(SEGMENTS) == {0: 5}
    wait_until(lambda: bench.value("kinodex_kafka_lag", topic=SEGMENTS, partition="0") == 0)
    assert bench.value("kinodex_kafka_records_total", topic=SEGMENTS, outcome="applied") == 4
    assert bench.value("kinodex_kafka_records_total", topic=SEGMENTS, outcome="stale") == 1
    assert bench.value("kinodex_broker_up") == 1
    assert bench.value("kinodex_live_videos") == 1


def test_is_not_caught_up_before_it_has_read_all_that_was_there(benches: Callable[..., Bench]) -> None:
    topics = Topics(reads=1)
    topics.put(*PARIS)
    topics.delete("cams", "cam", at=NOW)
    bench = benches(topics)
    assert bench.caught_up.wait(HANG_SECONDS)
    assert bench.segment_ids() == []
    assert bench.change_count == 0  # no search is answered yet


def test_a_new_partition_is_read_from_its_beginning(benches: Callable[..., Bench]) -> None:
    topics = Topics()
    bench = benches(topics)
    assert bench.caught_up.wait(HANG_SECONDS)
    topics.put(*PARIS, partition=3)
    wait_until(lambda: bench.rows.offsets(SEGMENTS) == {3: 2})


def test_goes_on_where_the_catalog_is(benches: Callable[..., Bench]) -> None:
    topics = Topics()
    topics.put(*PARIS)
    bench = benches(topics)
    assert bench.caught_up.wait(HANG_SECONDS)
    bench.materialiser.stop()
    topics.put(*stream("bar", ["blue"] * 4, appended=NOW))
    again = benches(topics)
    assert again.caught_up.wait(HANG_SECONDS)
    assert topics.opened[-1] == {(SEGMENTS, 0): 2}
    assert again.value("kinodex_kafka_records_total", topic=SEGMENTS, outcome="applied") == 1


def test_the_broker_goes_and_comes_back(benches: Callable[..., Bench], caplog: pytest.LogCaptureFixture) -> None:
    topics = Topics()
    bench = benches(topics)
    assert bench.caught_up.wait(HANG_SECONDS)
    topics.is_up = False
    wait_until(lambda: bench.value("kinodex_broker_up") == 0)
    wait_until(lambda: topics.refusal_count > 3)
    topics.put(*PARIS)
    topics.is_up = True
    wait_until(lambda: len(bench.segment_ids()) == 2)
    assert bench.value("kinodex_broker_up") == 1
    assert len([one for one in caplog.messages if one.startswith("live feed waits")]) == 1


def test_a_topic_that_lost_records_is_read_anew(benches: Callable[..., Bench]) -> None:
    topics = Topics()
    topics.put(*PARIS, *stream("gone", ["red"] * 5, {}, appended=NOW - 20))
    topics.delete("default", "other", NOW)
    bench = benches(topics)
    assert bench.caught_up.wait(HANG_SECONDS)
    bench.materialiser.stop()
    with Catalog.open_writer(bench.catalog.directory) as catalog:
        put(catalog, "file")
    del topics.logs[SEGMENTS, 0][1:]
    again = benches(topics)
    assert again.caught_up.wait(HANG_SECONDS)
    assert "cam/0/0" in again.segment_ids()
    assert not {"cam/0/1", "gone/0/0"} & set(again.segment_ids())
    assert again.error is None
    assert {video.video_id for video in again.catalog.videos()} == {"cam", "file"}
    assert [dict(one) for one in topics.opened[-2:]] == [
        {(SEGMENTS, 0): 3, (DELETIONS, 0): 1}, {(DELETIONS, 0): 1}
    ]  # fmt: skip


def test_invalid_records_are_skipped(benches: Callable[..., Bench], caplog: pytest.LogCaptureFixture) -> None:
    topics = Topics()
    for _ in range(3):
        topics.append(SEGMENTS, b"cam/0/0", b"\xff\xff")
        topics.append(SEGMENTS, b"\xff", None)
        topics.append(DELETIONS, b"cams/cam", None)
    topics.put(*PARIS)
    bench = benches(topics)
    assert bench.caught_up.wait(HANG_SECONDS)
    assert len(bench.segment_ids()) == 2
    assert bench.rows.offsets(SEGMENTS) == {0: 8}
    assert bench.rows.offsets(DELETIONS) == {0: 3}
    assert bench.value("kinodex_kafka_records_total", topic=SEGMENTS, outcome="invalid") == 6
    assert len([one for one in caplog.messages if one.startswith("record skipped")]) == 3


def test_an_unreadable_batch_is_a_dead_letter_and_the_partition_continues(
    benches: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    topics = Topics()
    topics.put(*PARIS[:1])
    batch = Record(SEGMENTS, 0, 5, NOW, b"", b"a batch", unreadable="its checksum is wrong", first_offset=1)
    topics.logs[SEGMENTS, 0].append(batch)
    topics.put(*PARIS[1:])
    bench = benches(topics)
    assert bench.caught_up.wait(HANG_SECONDS)
    assert bench.segment_ids() == ["cam/0/0", "cam/0/1"]
    [letter] = topics.logs["t.deadletter", 0]
    found = stream_pb2.DeadLetter.FromString(letter.value or b"")
    assert letter.key == b"t.segments/0/1"
    assert (found.record_offset, found.last_record_offset, found.value) == (1, 5, b"a batch")
    assert (found.reason, found.message) == ("BATCH_UNREADABLE", "offsets 1 to 5: its checksum is wrong")
    assert bench.value("kinodex_kafka_records_total", topic=SEGMENTS, outcome="unreadable") == 1
    assert "batch skipped topic=t.segments partition=0 offsets 1 to 5" in caplog.text


def test_a_reader_that_fails_at_its_first_record_backs_off_and_is_logged_once(
    benches: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    waits: list[float] = []
    next_seconds = Backoff.next_seconds

    def note(self: Backoff) -> float:
        waits.append(next_seconds(self))
        return 0.0

    def fail(self: MemoryReader, timeout: float) -> list[Record]:
        raise BrokerUnavailable(("nobody:9092",), "a record that cannot be fetched")

    monkeypatch.setattr(Backoff, "next_seconds", note)
    monkeypatch.setattr(MemoryReader, "poll", fail)
    benches(Topics())
    wait_until(lambda: len(waits) >= 5)
    assert waits[:5] == [0.01, 0.02, 0.04, 0.08, 0.16]
    assert len([one for one in caplog.messages if one.startswith("live feed waits")]) == 1


def test_segments_of_other_encoders_are_passed_over(
    benches: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    topics = Topics()
    topics.put(*(replace(one, fingerprint="feedfeedfeedfeed") for one in PARIS))
    bench = benches(topics)
    assert bench.caught_up.wait(HANG_SECONDS)
    assert bench.segment_ids() == []
    assert bench.value("kinodex_kafka_records_total", topic=SEGMENTS, outcome="foreign") == 2
    [said] = [one for one in caplog.messages if "feedfeedfeedfeed" in one]
    assert FINGERPRINT in said


def test_dead_segments_are_tombstoned_and_new_ones_are_not(benches: Callable[..., Bench]) -> None:
    old, new = stream("film", ["red"] * 20, appended=NOW - 100), stream("film", ["red"] * 20, appended=NOW - 10)
    other = stream("other", ["blue"] * 10, appended=NOW - 100)
    topics = Topics(reads=1)
    topics.delete("cams", "film", at=NOW - 50)
    topics.delete("cams", "other", at=NOW - 50)
    topics.put(*old, *other, new[0])  # the same name and ids: the file was indexed again
    bench = benches(topics)
    wait_until(lambda: len(bench.sent) == 2)
    assert sorted(bench.sent) == [("cams", "film", "film/0/1"), ("cams", "other", "other/0/0")]
    assert bench.segment_ids() == ["film/0/0"]
    assert bench.value("kinodex_tombstones_total") == 2


def test_the_same_key_dead_and_new_in_one_batch(benches: Callable[..., Bench]) -> None:
    topics = Topics()
    topics.delete("cams", "film", at=NOW - 50)
    topics.put(*stream("film", ["red"] * 5, appended=NOW - 100), *stream("film", ["red"] * 5, appended=NOW - 10))
    bench = benches(topics)
    assert bench.caught_up.wait(HANG_SECONDS)
    seen_count = topics.poll_count
    wait_until(lambda: topics.poll_count > seen_count + 2)
    assert bench.sent == []
    assert bench.segment_ids() == ["film/0/0"]


DAY = 86400.0


def latest_keys(topics: Topics) -> dict[bytes, bytes | None]:
    """Return what compaction leaves of the segments."""
    return {record.key: record.value for (topic, _), log in topics.logs.items() if topic == SEGMENTS for record in log}


def test_a_servers_own_retention_prunes_its_copy_alone_and_logs_it(
    benches: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    topics = Topics()
    topics.put(*stream("cam", ["red"] * 60, appended=NOW - 60))
    bench = benches(topics, retention=["cams=30s"])
    wait_until(lambda: bench.segment_ids() == ["cam/0/4", "cam/0/5", "cam/0/6"])
    wait_until(lambda: "pruned collection=cams" in caplog.text)
    seen_count = topics.poll_count
    wait_until(lambda: topics.poll_count > seen_count + 3)
    assert bench.sent == []
    assert None not in latest_keys(topics).values()
    assert bench.value("kinodex_pruned_segments_total") == 4
    [line] = [one for one in caplog.messages if one.startswith("pruned")]
    assert " videos=1 segments=4 bytes=" in line
    assert line.endswith("reason=age over 30 s set_by=server.retention also_in_kafka=no")


@pytest.mark.parametrize("ahead_seconds", [8 * DAY, -8 * DAY])
def test_a_servers_wrong_clock_prunes_nothing_and_keeps_nothing(
    benches: Callable[..., Bench], ahead_seconds: float
) -> None:
    topics = Topics()
    topics.put(*stream("cam", ["red"] * 60, appended=NOW - 7 * DAY - 40))
    topics.append(NAMES.settings, b"retention", retention_bytes(["cams=7d"]))
    bench = benches(topics, now=NOW + ahead_seconds)
    wait_until(lambda: bench.segment_ids() == ["cam/0/5", "cam/0/6"])  # as with a right clock
    wait_until(lambda: list(latest_keys(topics).values()).count(None) == 5)


def test_the_retention_of_the_cluster_reaches_kafka_and_may_change(
    benches: Callable[..., Bench], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruner, "PRUNE_SECONDS", 0.0)
    caplog.set_level(logging.INFO)
    topics = Topics()
    topics.put(*stream("cam", ["red"] * 60, appended=NOW - 60))
    topics.append(NAMES.settings, b"retention", retention_bytes(["cams=1s"]))  # replaced before it counts
    topics.append(NAMES.settings, b"retention", retention_bytes(["cams=1h"]))
    bench = benches(topics)
    assert bench.caught_up.wait(HANG_SECONDS)
    seen_count = topics.poll_count
    wait_until(lambda: topics.poll_count > seen_count + 3)
    assert len(bench.segment_ids()) == 7
    topics.append(NAMES.settings, b"retention", b"\xff")  # no limits: nothing is over them
    topics.append(NAMES.settings, b"retention", retention_bytes(["cams=30s"]))
    wait_until(lambda: bench.segment_ids() == ["cam/0/4", "cam/0/5", "cam/0/6"])
    wait_until(lambda: list(latest_keys(topics).values()).count(None) == 4)
    assert "set_by=kinodex retention also_in_kafka=yes" in caplog.text
    assert "retention of the cluster ignored" in caplog.text
    topics.append(NAMES.settings, b"retention", None)
    topics.put(*stream("late", ["red"] * 60, appended=NOW - 600))
    wait_until(lambda: len(bench.segment_ids()) == 10)
    seen_count = topics.poll_count
    wait_until(lambda: topics.poll_count > seen_count + 3)
    assert len(bench.segment_ids()) == 10


def test_videos_age_by_the_brokers_clock_when_no_stream_sends(
    benches: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruner, "PRUNE_SECONDS", 0.0)
    monkeypatch.setattr(broker_clock, "PROBE_SECONDS", 0.0)
    topics = Topics()
    topics.put(*stream("cam", ["red"] * 60, appended=NOW))
    bench = benches(topics, retention=["cams=1d"])
    assert bench.caught_up.wait(HANG_SECONDS)
    assert len(bench.segment_ids()) == 7
    topics.broker_now = NOW + DAY + 60
    wait_until(lambda: bench.segment_ids() == [])


def test_times_that_are_not_the_brokers_do_not_count(benches: Callable[..., Bench]) -> None:
    topics = Topics()
    topics.put(*stream("cam", ["red"] * 60, appended=NOW))
    log = topics.logs[SEGMENTS, 0]
    log.append(replace(log[-1], offset=len(log), append_seconds=NOW + 8 * DAY, is_broker_time=False))
    bench = benches(topics, retention=["cams=1d"])
    assert bench.caught_up.wait(HANG_SECONDS)
    seen_count = topics.poll_count
    wait_until(lambda: topics.poll_count > seen_count + 3)
    assert len(bench.segment_ids()) == 7


def test_tells_how_fresh_what_is_found_is(benches: Callable[..., Bench]) -> None:
    topics = Topics()
    topics.put(*PARIS)
    bench = benches(topics)
    assert bench.caught_up.wait(HANG_SECONDS)
    assert (
        bench.value("kinodex_chunk_to_searchable_seconds_count", final="true") is None
    )  # what was there tells nothing
    bench.now = NOW + 12.5
    topics.put(*stream("cam", ["red"] * 30, {3.0: "Paris is lovely."}, appended=NOW - 20)[1:])
    wait_until(lambda: bench.value("kinodex_chunk_to_searchable_seconds_count", final="false") == 1)
    assert bench.value("kinodex_chunk_to_searchable_seconds_sum", final="false") == pytest.approx(2.5)
    assert bench.value("kinodex_watermark_age_seconds") is not None
    assert bench.change_count == 1


def test_any_batches_end_in_the_same_rows(benches: Callable[..., Bench]) -> None:
    topics, kept = Topics(), []
    for count in range(1, 50, 3):
        records = stream("cam", ["red", "blue"] * 30, {3.0: "Paris is lovely.", 30.5: "London."}, appended=NOW)
        topics.put(*stream("cam", (["red", "blue"] * 30)[:count], {3.0: "Paris is lovely."}, appended=NOW))
    topics.put(*records)
    for reads in (1, 7, 1000):
        topics.reads = reads
        bench = benches(topics, f"data{reads}")
        assert bench.caught_up.wait(HANG_SECONDS)
        kept.append(rows_of(bench.catalog))
    assert kept[0] == kept[1] == kept[2]
    assert len(kept[0]) == 1


def test_a_bug_ends_it_loudly(benches: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryReader, "poll", lambda self, timeout: 1 / 0)
    bench = benches(Topics())
    assert bench.ended.wait(HANG_SECONDS)
    assert isinstance(bench.error, ZeroDivisionError)


def test_a_transaction_grows_and_shrinks_with_what_it_takes() -> None:
    size = BatchSize(0.2, max_count=100)
    for _ in range(10):
        size.adapt(size.count, 0.001 * size.count)
    assert size.count == 100
    size.adapt(100, 20.0)
    assert size.count == 1
    size.adapt(0, 20.0)
    assert size.count == 1


def test_a_live_video_is_deleted_by_way_of_kafka_or_knowingly_here_alone(
    benches: Callable[..., Bench], tmp_path: Path
) -> None:
    topics = Topics()
    topics.put(*PARIS)
    bench = benches(topics)
    assert bench.caught_up.wait(HANG_SECONDS)
    with pytest.raises(VideoIsLive, match="--kafka SERVERS"):
        delete(tmp_path / "data", ["cam"], kafka=KafkaConfig())
    assert len(bench.segment_ids()) == 2
    assert [video.video_id for video in delete(tmp_path / "data", ["cam"], is_local=True)] == ["cam"]
    topics.put(*PARIS)
    wait_until(lambda: bench.value("kinodex_kafka_records_total", topic=SEGMENTS, outcome="dead") == 2)
    assert bench.segment_ids() == []


def test_a_server_that_kafka_leaves_behind_ends_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class LostFeed:
        def __init__(self, *_: object, **told: Callable[..., object]) -> None:
            self.told, self.is_behind = told, False

        def start(self) -> None:
            self.told["on_caught_up"]()
            threading.Timer(0.3, self.told["on_end"], [OffsetRegression(SEGMENTS, 0, 7, 3)]).start()

        def stop(self) -> None: ...

    use_fakes(monkeypatch)
    monkeypatch.setattr("serve.live.feed.Feed", LostFeed)
    settings = Settings(
        workers=2, kafka=KafkaConfig(servers=("nobody:9092",)), server=ServerConfig(listen="127.0.0.1:0")
    )
    with pytest.raises(OffsetRegression):
        asyncio.run(run_server(tmp_path / "data", settings, None, lambda address: None))


# ---- tombstones

PLACE: PartitionId = ("t", 0)
KEYS = [SegmentKey("cams", "v", f"v/0/{n}") for n in range(3)]


def read(tombstones: PendingTombstones, segment: SegmentKey, offset: int, value: bytes | None) -> None:
    """Let the tombstones know that the reader has passed a live record, or a tombstone."""
    key = segment_key(segment.collection, segment.segment_id)
    tombstones.note_read(key, Record(*PLACE, offset, NOW, key, value), is_live=value is not None)


class Outgoing:
    """Notes what is sent, and appends it at the offsets of a test."""

    def __init__(self, *offsets: int | None) -> None:
        self.sent: list[tuple[SegmentKey, bytes | None]] = []
        self._offsets = iter(offsets)

    def __call__(self, segment: SegmentKey, value: bytes | None) -> Delivery:
        self.sent.append((segment, value))
        offset = next(self._offsets)
        return Appended(None if offset is None else (PLACE, offset))


def test_a_tombstone_waits_until_what_came_meanwhile_was_read() -> None:
    send = Outgoing(9, 10)
    tombstones = PendingTombstones(send)
    a, b, c = KEYS
    tombstones.add([a, b])
    assert tombstones.send_due({PLACE: 5}, {PLACE: 7}) == 0  # two records are not read yet
    tombstones.add([c])
    read(tombstones, b, 6, b"new")  # one of the two
    assert tombstones.send_due({PLACE: 6}, {PLACE: 9}) == 0
    assert tombstones.send_due({PLACE: 7}, {PLACE: 9}) == 1
    assert send.sent == [(a, None)]
    assert tombstones.send_due({PLACE: 9}, {PLACE: 10}) == 1
    assert send.sent == [(a, None), (c, None)]
    assert len(tombstones) == 2  # until they are read back
    tombstones.send_due({PLACE: 11}, {PLACE: 11})
    assert len(tombstones) == 0


def test_a_segment_that_a_late_tombstone_hides_is_sent_again() -> None:
    send = Outgoing(8, 9, 11)
    tombstones = PendingTombstones(send)
    a, b, _ = KEYS
    tombstones.add([a, b])
    assert tombstones.send_due({PLACE: 7}, {PLACE: 7}) == 2
    # Before the tombstones arrived, a worker had published the first segment anew.
    read(tombstones, a, 7, b"new")
    read(tombstones, a, 8, None)
    read(tombstones, b, 9, None)
    assert tombstones.send_due({PLACE: 10}, {PLACE: 10}) == 0
    assert send.sent[2:] == [(a, b"new")]
    read(tombstones, a, 11, b"new")
    tombstones.send_due({PLACE: 12}, {PLACE: 12})
    assert len(send.sent) == 3
    assert len(tombstones) == 0


@pytest.mark.parametrize(
    ("seen", "again"),
    [
        ([(7, b"new"), (9, b"newer")], None),  # a later revision counts
        ([(7, b"new"), (9, None)], b"new"),  # two servers were late: each looks before its own tombstone
        ([(6, b"new"), (7, None)], None),  # the tombstone before ours hid it, and its sender sends it again
        ([(6, b"new"), (7, b"newer")], b"newer"),
        ([], None),
    ],
)
def test_only_what_our_own_tombstone_hides_is_sent_again(
    seen: list[tuple[int, bytes | None]], again: bytes | None
) -> None:
    send = Outgoing(8, 10)
    tombstones = PendingTombstones(send)
    tombstones.add(KEYS[:1])
    tombstones.send_due({PLACE: 6}, {PLACE: 6})
    for offset, value in sorted([*seen, (8, None)]):
        read(tombstones, KEYS[0], offset, value)
    tombstones.send_due({PLACE: 10}, {PLACE: 10})
    assert [value for _, value in send.sent[1:]] == ([] if again is None else [again])


def test_a_tombstone_that_is_lost_is_sent_again_unless_a_segment_came() -> None:
    send = Outgoing(None, None, 8)
    tombstones = PendingTombstones(send)
    tombstones.add(KEYS[:2])
    tombstones.send_due({PLACE: 6}, {PLACE: 6})
    read(tombstones, KEYS[0], 7, b"new")
    tombstones.send_due({PLACE: 8}, {PLACE: 8})
    assert send.sent[2:] == [(KEYS[1], None)]


def test_a_tombstone_that_cannot_be_sent_stays() -> None:
    def fails(segment: SegmentKey, value: bytes | None) -> Delivery:
        raise BrokerUnavailable(("nobody:9092",), "no answer")

    tombstones = PendingTombstones(fails)
    tombstones.add(KEYS[:1])
    with pytest.raises(BrokerUnavailable):
        tombstones.send_due({}, {})
    assert len(tombstones) == 1


def test_too_many_tombstones_are_left_to_the_next_rebuild() -> None:
    tombstones = PendingTombstones(Outgoing(), max_count=3)
    tombstones.add(SegmentKey("cams", "v", f"v/0/{n}") for n in range(10))
    assert len(tombstones) == 3
