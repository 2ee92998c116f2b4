"""The thread that brings a catalog up to Kafka, over a Kafka in memory."""

import asyncio
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
from ingest.kafka import PartitionId, Record
from serve.api.build import run_server
from serve.catalog.catalog import Catalog
from serve.codec.records import SegmentRecord, deletion_bytes, segment_bytes, segment_key, video_key
from serve.config import ServerConfig, parse_retention
from serve.errors import VideoIsLive
from serve.indexing.pipeline import delete
from serve.live import materialiser as materialising
from serve.live.deletions import PendingTombstones
from serve.live.live_rows import LiveRows, SegmentKey
from serve.live.materialiser import BatchSize, Materialiser
from serve.observe.metrics import LiveMetrics
from serve.settings import Settings
from support.fakes import use_fakes
from support.hand_made import FINGERPRINT, SPACE, stream
from support.sample_live import rows_of
from support.waiting import HANG_SECONDS, wait_until

SEGMENTS, DELETIONS = "t.segments", "t.deletions"
NOW = 1_700_000_000.0


@dataclass
class Topics:
    """Topics in memory, with their readers."""

    logs: dict[PartitionId, list[Record]] = field(default_factory=dict)
    is_up: bool = True
    reads: int = 1000  # the most records of one poll
    poll_count: int = 0
    refusal_count: int = 0  # attempts to read while it was not up
    opened: list[dict[PartitionId, int]] = field(default_factory=list)  # where readers began

    def append(self, topic: str, key: bytes, value: bytes | None, *, partition: int = 0, at: float = NOW) -> None:
        log = self.logs.setdefault((topic, partition), [])
        log.append(Record(topic, partition, len(log), at, key, value))

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
        self.materialiser = Materialiser(
            self.rows,
            topics.open,
            PendingTombstones(self.sent.append),
            segments_topic=SEGMENTS,
            deletions_topic=DELETIONS,
            retention=parse_retention(retention),
            metrics=self.metrics,
            on_change=self.changed,
            on_caught_up=self.caught_up.set,
            on_end=self.end,
            clock=lambda: self.now,
        )

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


def test_a_topic_that_was_made_anew_ends_it(benches: Callable[..., Bench]) -> None:
    topics = Topics()
    topics.put(*PARIS)
    bench = benches(topics)
    assert bench.caught_up.wait(HANG_SECONDS)
    bench.materialiser.stop()
    del topics.logs[SEGMENTS, 0][1:]
    again = benches(topics)
    assert again.ended.wait(HANG_SECONDS)
    assert isinstance(again.error, OffsetRegression)
    assert len(again.segment_ids()) == 2


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


def test_prunes_what_was_kept_long_enough_and_tombstones_it(benches: Callable[..., Bench]) -> None:
    topics = Topics()
    topics.put(*stream("cam", ["red"] * 60, appended=NOW - 60))
    bench = benches(topics, retention=["cams=30s"])
    wait_until(lambda: bench.segment_ids() == ["cam/0/4", "cam/0/5", "cam/0/6"])
    wait_until(lambda: len(bench.sent) == 4)
    assert [segment_id for *_, segment_id in bench.sent] == [f"cam/0/{n}" for n in range(4)]
    assert bench.value("kinodex_pruned_segments_total") == 4


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
    assert delete(tmp_path / "data", ["cam"], is_local=True) == ["cam"]
    topics.put(*PARIS)
    wait_until(lambda: bench.value("kinodex_kafka_records_total", topic=SEGMENTS, outcome="dead") == 2)
    assert bench.segment_ids() == []


def test_a_server_that_kafka_leaves_behind_ends_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class LostFeed:
        def __init__(self, *_: object, **told: Callable[..., object]) -> None:
            self.told = told

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


def test_a_tombstone_waits_until_what_came_meanwhile_was_read() -> None:
    sent: list[SegmentKey] = []
    tombstones = PendingTombstones(sent.append)
    a, b, c = (SegmentKey("cams", "v", f"v/0/{n}") for n in range(3))
    place: PartitionId = ("t", 0)
    tombstones.add([a, b])
    assert tombstones.send_due({place: 5}, {place: 7}) == 0  # two records are not read yet
    tombstones.add([c])
    tombstones.cancel([segment_key(b.collection, b.segment_id)])  # one of the two
    assert tombstones.send_due({place: 6}, {place: 9}) == 0
    assert tombstones.send_due({place: 7}, {place: 9}) == 1
    assert sent == [a]
    assert tombstones.send_due({place: 9}, {place: 9}) == 1
    assert sent == [a, c]
    assert len(tombstones) == 0


def test_a_tombstone_that_cannot_be_sent_stays() -> None:
    def fails(segment: SegmentKey) -> None:
        raise BrokerUnavailable(("nobody:9092",), "no answer")

    tombstones = PendingTombstones(fails)
    tombstones.add([SegmentKey("cams", "v", "v/0/0")])
    with pytest.raises(BrokerUnavailable):
        tombstones.send_due({}, {})
    assert len(tombstones) == 1


def test_too_many_tombstones_are_left_to_the_next_rebuild() -> None:
    tombstones = PendingTombstones(lambda segment: None, max_count=3)
    tombstones.add(SegmentKey("cams", "v", f"v/0/{n}") for n in range(10))
    assert len(tombstones) == 3
