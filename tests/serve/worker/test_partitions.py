"""serve.worker.partitions: the commit protocol, dead letters, order, gaps, silence and shedding, without a broker."""

from dataclasses import replace

import pytest

from ingest.errors import BrokerUnavailable, DecodeError, IngestError, SourceNotFound
from ingest.kafka import Record
from ingest.stream.chunk_order import MAX_WAITING_SECONDS
from ingest.values import Chunk, Decoded
from kinodex.v1 import stream_pb2
from serve.codec.records import Source, chunk_bytes, read_segment, source_bytes, video_key
from serve.worker.outbox import Outbox
from serve.worker.partitions import (
    CHECKPOINT_AGE_SECONDS,
    MAX_FILES,
    MAX_UNACKNOWLEDGED,
    ChunkPartition,
    Partition,
    SourcePartition,
)
from serve.worker.stream import StreamConfig, checkpoint_key, latest_checkpoints
from support.worker_fakes import FakeEffects, decode_chunk_alone, stream_config

SECONDS = 2.0  # of one chunk
CONTENT: dict[tuple[int, int], list[Decoded] | IngestError] = {
    (1, n): decode_chunk_alone(n * SECONDS, SECONDS) for n in range(40)
}
SILENT = stream_config(transcriber=None)  # for exact offsets: no words are waited for


def chunk(sequence: int, stream_id: str = "cam", **changes: object) -> Chunk:
    values = {"collection": "c", "stream_id": stream_id, "session": 1, "sequence": sequence, "media": b"x"}
    return Chunk(**values | changes)  # type: ignore[arg-type]


def record(offset: int, of: Chunk | None, *, key: bytes | None = None, value: bytes | None = None) -> Record:
    if of is not None:
        key, value = key or video_key(of.collection, of.stream_id), chunk_bytes(of)
    return Record("chunks", 3, offset, 1000.0 + offset, key or b"", value)


def chunk_partition(
    effects: FakeEffects, *, start: int = 0, config: StreamConfig = SILENT, since: FakeEffects | None = None
) -> ChunkPartition:
    """Open a partition with the checkpoints that were sent to another."""
    sent = [] if since is None else since.deliveries_to("checkpoints")
    records = [Record("checkpoints", 3, n, 1000.0 + n, one.key, one.value) for n, one in enumerate(sent)]
    return ChunkPartition(effects, "chunks", 3, start, *latest_checkpoints(records, "chunks"), config=config)


def take(partition: Partition, effects: FakeEffects, first: int, chunks: list[Chunk]) -> None:
    """Take chunks, the first at an offset, and do all work that follows."""
    for n, one in enumerate(chunks):
        partition.take(record(first + n, one))
    effects.finish_all()


def commit(partition: Partition, effects: FakeEffects) -> int | None:
    """Run a whole commit; return the offset that is committed."""
    assert partition.step_commit(may_begin=True) is None
    for _ in range(3):
        effects.acknowledge()
        if (offset := partition.step_commit(may_begin=False)) is not None or not partition.is_committing:
            return offset
    raise AssertionError("the commit does not end")


def letters(effects: FakeEffects) -> list[stream_pb2.DeadLetter]:
    return [stream_pb2.DeadLetter.FromString(one.value or b"") for one in effects.deliveries_to("deadletter")]


# ------------------------------------------------------------------ the commit protocol
def test_segments_are_acknowledged_before_checkpoints_are_sent_and_these_before_the_commit() -> None:
    effects = FakeEffects(CONTENT)
    partition = chunk_partition(effects)
    take(partition, effects, 0, [chunk(n) for n in range(12)])
    assert effects.segments[-1].segment.segment_id == "cam/0/1"
    assert partition.step_commit(may_begin=False) is None
    assert not partition.is_committing
    assert partition.step_commit(may_begin=True) is None
    assert partition.is_committing
    for _ in range(3):
        assert partition.step_commit(may_begin=True) is None
        assert effects.deliveries_to("checkpoints") == []
    effects.acknowledge("segments")
    for _ in range(3):
        assert partition.step_commit(may_begin=True) is None
        [checkpoint] = effects.deliveries_to("checkpoints")
    assert checkpoint.key == checkpoint_key("chunks", "c", "cam")
    effects.acknowledge("checkpoints")
    position = partition.step_commit(may_begin=True)
    assert position == partition.committed
    assert not partition.is_committing


def test_the_position_waits_for_the_open_window_and_moves_past_it_when_it_is_final() -> None:
    effects = FakeEffects(CONTENT)
    partition = chunk_partition(effects)
    take(partition, effects, 0, [chunk(n) for n in range(3)])
    assert commit(partition, effects) is None  # 6 s: the first window is open
    take(partition, effects, 3, [chunk(n) for n in range(3, 20)])
    assert commit(partition, effects) == 12  # of 40 s, with windows of 16 s every 8 s, that from 24 s on is open
    take(partition, effects, 20, [chunk(20, media=b"", end_of_stream=True)])
    assert commit(partition, effects) == 21


def test_work_under_way_is_not_committed() -> None:
    effects = FakeEffects(CONTENT)
    partition = chunk_partition(effects)
    for n in range(12):
        partition.take(record(n, chunk(n)))
    assert commit(partition, effects) is None  # nothing is decoded
    effects.finish(effects.decoding)
    assert commit(partition, effects) is None  # nothing is encoded
    effects.finish(effects.encoding)
    assert commit(partition, effects) == 4


def test_a_record_sent_while_a_commit_is_under_way_belongs_to_the_next_one() -> None:
    effects = FakeEffects(CONTENT)
    partition = chunk_partition(effects)
    take(partition, effects, 0, [chunk(n) for n in range(10)])
    partition.step_commit(may_begin=True)
    effects.acknowledge()
    take(partition, effects, 10, [chunk(n) for n in range(10, 20)])  # not acknowledged
    partition.step_commit(may_begin=True)
    effects.acknowledge("checkpoints")
    assert partition.step_commit(may_begin=True) == 4
    partition.step_commit(may_begin=True)
    assert partition.is_committing
    assert partition.step_commit(may_begin=True) is None
    effects.acknowledge()
    partition.step_commit(may_begin=True)
    effects.acknowledge()
    assert partition.step_commit(may_begin=True) == 12


def test_nothing_new_begins_no_commit() -> None:
    effects = FakeEffects(CONTENT)
    partition = chunk_partition(effects)
    take(partition, effects, 0, [chunk(n) for n in range(10)])
    assert commit(partition, effects) == 4
    partition.step_commit(may_begin=True)
    assert not partition.is_committing
    assert len(effects.deliveries_to("checkpoints")) == 1


def test_a_record_that_is_lost_for_good_ends_the_worker() -> None:
    effects = FakeEffects(CONTENT)
    partition = chunk_partition(effects)
    take(partition, effects, 0, [chunk(n) for n in range(10)])
    effects.deliveries[0].failure = BrokerUnavailable((), "away")
    with pytest.raises(BrokerUnavailable, match="away"):
        partition.step_commit(may_begin=True)


def test_one_open_stream_holds_the_position_of_all() -> None:
    effects = FakeEffects(CONTENT)
    partition = chunk_partition(effects)
    take(partition, effects, 0, [chunk(0, "slow")])
    take(partition, effects, 1, [chunk(n, "fast") for n in range(20)])
    assert commit(partition, effects) is None
    assert len(effects.deliveries_to("checkpoints")) == 2
    take(partition, effects, 21, [chunk(1, "slow", media=b"", end_of_stream=True)])
    assert commit(partition, effects) == 13


def test_an_ended_stream_is_reduced_to_its_checkpoint_and_knows_its_old_chunks() -> None:
    effects = FakeEffects(CONTENT)
    partition = chunk_partition(effects)
    take(partition, effects, 0, [chunk(n) for n in range(10)] + [chunk(10, media=b"", end_of_stream=True)])
    assert len(list(partition.open_streams())) == 0
    assert commit(partition, effects) == 11
    assert partition.resume_offset is None
    take(partition, effects, 11, [chunk(5)])
    assert effects.counts == {"taken": 11, "duplicate": 1}
    assert commit(partition, effects) == 12


# ------------------------------------------------------------------ another worker
@pytest.mark.parametrize(
    ("acknowledged", "is_committed"),
    [((), False), (("segments",), False), (("segments", "checkpoints"), False), (("segments", "checkpoints"), True)],
)
def test_a_worker_that_continues_makes_the_same_segments(acknowledged: tuple[str, ...], is_committed: bool) -> None:
    calm = FakeEffects(CONTENT)
    take(chunk_partition(calm), calm, 0, [chunk(n) for n in range(40)])
    effects = FakeEffects(CONTENT)
    partition = chunk_partition(effects)
    take(partition, effects, 0, [chunk(n) for n in range(22)])
    position = None
    for _ in range(3):
        if acknowledged:
            effects.acknowledge(*acknowledged)
        position = partition.step_commit(may_begin=True) or position
    assert (position is None) == ("checkpoints" not in acknowledged)
    start = position or 0 if is_committed else 0  # else killed before the commit
    partition.give_up()
    other = FakeEffects(CONTENT)
    since = effects if "checkpoints" in acknowledged else None
    partition = chunk_partition(other, start=start, since=since)
    assert partition.resume_offset == (16 if since else None)
    take(partition, other, start, [chunk(n) for n in range(start, 40)])

    def final(*of: FakeEffects) -> dict[str, int]:
        return {one.segment.segment_id: one.revision for each in of for one in each.segments if one.is_final}

    assert final(effects, other) == final(calm)
    assert len(final(calm)) == 8


def test_results_for_a_partition_given_up_are_dropped() -> None:
    effects = FakeEffects(CONTENT | {(1, 3): DecodeError("chunk", "noise")})
    partition = chunk_partition(effects)
    take(partition, effects, 0, [chunk(n) for n in range(3)])
    sent_count = len(effects.deliveries)
    for n in range(3, 12):
        partition.take(record(n, chunk(n)))
    partition.give_up()
    effects.finish_all()
    assert len(effects.deliveries) == sent_count


# ------------------------------------------------------------------ dead letters
@pytest.mark.parametrize(
    ("key", "value"),
    [(b"c/cam", b"\xff\xff no protobuf"), (b"c/cam", b""), (b"another", chunk_bytes(chunk(0)))],
)
def test_a_record_that_is_no_chunk_is_a_dead_letter_and_is_committed(key: bytes, value: bytes) -> None:
    effects = FakeEffects()
    partition = chunk_partition(effects)
    partition.take(record(7, None, key=key, value=value))
    [letter] = letters(effects)
    assert (letter.topic, letter.partition, letter.record_offset) == ("chunks", 3, 7)
    assert (letter.key, letter.value, letter.reason) == (key, value, "RECORD_INVALID")
    assert effects.counts == {"RECORD_INVALID": 1}
    partition.step_commit(may_begin=True)
    assert partition.step_commit(may_begin=True) is None  # the broker does not have the letter yet
    effects.acknowledge()
    assert partition.step_commit(may_begin=True) == 8


@pytest.mark.parametrize("is_chunks", [True, False])
def test_an_unreadable_batch_is_one_dead_letter_and_is_committed(is_chunks: bool) -> None:
    effects = FakeEffects(CONTENT)
    partition: Partition = chunk_partition(effects) if is_chunks else SourcePartition(effects, "sources", 3, 0)
    partition.take(Record(partition.topic, 3, 8, 1000.0, b"", b"a batch", unreadable="no codec", first_offset=2))
    assert commit(partition, effects) == 9
    [letter] = letters(effects)
    assert (letter.topic, letter.record_offset, letter.last_record_offset) == (partition.topic, 2, 8)
    assert (letter.value, letter.reason, letter.message) == (
        b"a batch", "BATCH_UNREADABLE", "offsets 2 to 8: no codec",
    )  # fmt: skip
    assert effects.deliveries_to("deadletter")[0].key == f"{partition.topic}/3/2".encode()


def test_checkpoints_that_cannot_be_read_are_skipped(caplog: pytest.LogCaptureFixture) -> None:
    good = stream_pb2.Checkpoint(topic="chunks", stream_id="cam", session=4)
    records = [
        Record("checkpoints", 3, 0, 1000.0, b"k", good.SerializeToString()),
        Record("checkpoints", 3, 1, 1001.0, b"k", b"\xff\xff"),
        Record("checkpoints", 3, 9, 1002.0, b"", b"a batch", unreadable="no codec", first_offset=2),
    ]
    assert latest_checkpoints(records, "chunks") == ({b"k": good}, 1000.0)
    assert caplog.text.count("checkpoint skipped topic=checkpoints partition=3") == 2


def test_a_chunk_that_does_not_decode_is_a_dead_letter_and_a_gap() -> None:
    effects = FakeEffects(CONTENT | {(1, 4): DecodeError("chunk", "noise")})
    partition = chunk_partition(effects)
    take(partition, effects, 0, [chunk(n) for n in range(9)] + [chunk(9, media=b"", end_of_stream=True)])
    [letter] = letters(effects)
    assert (letter.record_offset, letter.reason, letter.message) == (4, "DECODE_ERROR", "noise (chunk 4)")
    assert letter.value == chunk_bytes(chunk(4))
    gaps = {gap for one in effects.segments if one.is_final for gap in one.gaps}
    assert [(gap.first_sequence, gap.chunk_count, gap.reason) for gap in gaps] == [(4, 1, "DECODE_ERROR")]
    assert commit(partition, effects) == 10


def test_a_segment_too_large_for_a_record_is_sent_without_its_largest_part() -> None:
    effects = FakeEffects(CONTENT)
    partition = chunk_partition(effects)
    take(partition, effects, 0, [chunk(n) for n in range(9)])
    outbox, records = Outbox(effects, max_value_bytes=100), [one for one in effects.segments if one.is_final]
    effects.deliveries.clear()
    assert outbox.publish(records) == [one.key for one in records]
    [delivery] = effects.deliveries_to("segments")
    segment = read_segment(delivery.value or b"")
    assert (len(records[0].thumbnails), len(segment.thumbnails)) == (16, 0)
    assert len(segment.frames.pts_seconds) == 16
    outbox.refuse(record(7, None, key=b"k", value=b"x" * 200), "RECORD_INVALID", "not a chunk")
    [letter] = letters(effects)
    assert (letter.value, letter.message) == (b"", "not a chunk; too large to be kept here")


# ------------------------------------------------------------------ order, gaps, silence, shedding
def test_each_chunk_counts_once_in_any_order() -> None:
    calm, effects = FakeEffects(CONTENT), FakeEffects(CONTENT)
    take(chunk_partition(calm), calm, 0, [chunk(n) for n in range(20)])
    partition = chunk_partition(effects)
    order = [1, 0, 0, 3, 2, 1, 6, 5, 4, *range(7, 20), 4]
    take(partition, effects, 0, [chunk(n) for n in order])
    take(partition, effects, len(order), [replace(chunk(3), session=0)])
    assert effects.counts == {"taken": 20, "duplicate": 3, "stale": 1, "SESSION_STALE": 1}
    assert {one.segment.segment_id: one.frames.pts_seconds.tolist() for one in effects.segments} == {
        one.segment.segment_id: one.frames.pts_seconds.tolist() for one in calm.segments
    }


# ------------------------------------------------------------------ sessions
def test_a_session_in_the_future_is_a_dead_letter_and_later_ones_are_taken() -> None:
    effects = FakeEffects(CONTENT)
    partition = chunk_partition(effects)
    append_ms = 1_000_000
    at_the_bound = append_ms + 300_000 + 1000
    take(partition, effects, 1, [replace(chunk(0), session=at_the_bound)])
    take(partition, effects, 2, [replace(chunk(0), session=at_the_bound + 5001)])
    take(partition, effects, 3, [replace(chunk(1), session=at_the_bound)])
    assert effects.counts == {"taken": 2, "SESSION_AHEAD": 1}
    [letter] = letters(effects)
    assert (letter.reason, letter.record_offset) == ("SESSION_AHEAD", 2)
    assert letter.message == (
        "session 1306001 of c/cam lies 304 s ahead of the brokers' clock: set the publisher's clock"
        " (worker.max_session_lead_seconds)"
    )


def reset(offset: int, stream_id: str = "cam") -> Record:
    return Record("chunks", 3, offset, 1000.0 + offset, video_key("c", stream_id), None)


@pytest.mark.parametrize("is_ended", [True, False])
@pytest.mark.parametrize("is_restarted", [True, False])
def test_a_stale_session_is_a_dead_letter_until_sessions_begin_anew(is_ended: bool, is_restarted: bool) -> None:
    content = CONTENT | {(9000, n): CONTENT[1, n] for n in range(3)}
    effects = FakeEffects(content)
    partition = chunk_partition(effects)
    take(partition, effects, 0, [replace(chunk(n), session=9000) for n in range(3)])
    if is_ended:
        take(partition, effects, 3, [replace(chunk(3), session=9000, media=b"", end_of_stream=True)])
    commit(partition, effects)
    take(partition, effects, 4, [chunk(0), chunk(1)])
    assert [(one.reason, one.record_offset) for one in letters(effects)] == [
        ("SESSION_STALE", 4), ("SESSION_STALE", 5),
    ]  # fmt: skip
    assert letters(effects)[0].message.startswith("chunk 0 of session 1, after session 9000 of c/cam: ")
    partition.take(reset(6))
    partition.take(reset(7, "unknown"))
    commit(partition, effects)
    if is_restarted:
        again = FakeEffects(content)
        start = partition.committed
        partition, effects = chunk_partition(again, start=start, since=effects), again
        assert start == (8 if is_ended else 0)
        if not is_ended:  # all is read again
            take(partition, effects, 0, [replace(chunk(n), session=9000) for n in range(3)])
            take(partition, effects, 4, [chunk(0), chunk(1)])
            partition.take(reset(6))
    before = effects.counts["taken"]
    take(partition, effects, 8, [chunk(0), chunk(1), replace(chunk(2), session=9000), chunk(2)])
    assert effects.counts["taken"] - before == 3  # the other session is higher, and waits for its first chunks


def test_records_that_were_taken_before_a_restart_are_not_stale() -> None:
    effects = FakeEffects(CONTENT)
    partition = chunk_partition(effects)
    end = {"media": b"", "end_of_stream": True}
    take(partition, effects, 0, [chunk(0), replace(chunk(1), **end)])
    partition.take(reset(2))
    take(partition, effects, 3, [replace(chunk(0), session=0), replace(chunk(1), session=0, **end)])
    commit(partition, effects)
    assert len(effects.deliveries_to("checkpoints")) > 0
    again = FakeEffects(CONTENT)
    partition = chunk_partition(again, since=effects)
    take(partition, again, 0, [chunk(0), replace(chunk(1), **end)])
    partition.take(reset(2))
    take(partition, again, 3, [replace(chunk(0), session=0), replace(chunk(1), session=0, **end)])
    assert letters(again) == []
    assert again.segments == []
    assert again.counts == {"reset": 1, "duplicate": 4}


@pytest.mark.parametrize("is_restarted", [True, False])
def test_a_session_goes_on_when_its_video_is_deleted(is_restarted: bool) -> None:
    effects = FakeEffects(CONTENT)
    partition = chunk_partition(effects)
    take(partition, effects, 0, [chunk(n) for n in range(20)])
    partition.take(reset(20))
    if is_restarted:
        take(partition, effects, 21, [chunk(20)])
        commit(partition, effects)
        again = FakeEffects(CONTENT)
        partition, effects, start = chunk_partition(again, start=partition.committed, since=effects), again, 0
        start = partition.resume_offset or 0
        assert 0 < start < 20
        take(partition, effects, start, [chunk(n) for n in range(start, 20)])
        partition.take(reset(20))
    take(partition, effects, 21, [chunk(n) for n in range(20, 30)])
    take(partition, effects, 31, [replace(chunk(0), session=0, media=b"", end_of_stream=True)])
    assert [gap for one in effects.segments for gap in one.gaps] == []
    assert letters(effects) == []
    assert effects.counts["taken"] == 31 - (start if is_restarted else 0)
    assert max(one.segment.epoch for one in effects.segments) == 0


def test_chunks_behind_one_that_is_not_decoded_are_held() -> None:
    effects = FakeEffects(CONTENT)
    partition = chunk_partition(effects)
    for n in range(4):
        partition.take(record(n, chunk(n)))
    first = effects.decoding.pop(0)
    effects.finish(effects.decoding)
    assert partition.held_count == 3
    assert effects.encoding == []
    first()
    assert partition.held_count == 0
    assert len(effects.encoding) == 4


def test_missing_chunks_are_a_gap_once_nothing_came_for_long() -> None:
    effects = FakeEffects(CONTENT)
    partition = chunk_partition(effects)
    take(partition, effects, 0, [chunk(n) for n in (0, 1, 4, 5)])
    effects.now += MAX_WAITING_SECONDS + 1
    partition.close_idle(read_since=effects.now - 1)  # the broker was away: that was no silence
    assert len(effects.encoding) == 0
    partition.close_idle(read_since=0.0)
    effects.finish_all()
    take(partition, effects, 4, [chunk(6, media=b"", end_of_stream=True)])
    gaps = {gap for one in effects.segments if one.is_final for gap in one.gaps}
    assert [(gap.first_sequence, gap.chunk_count, gap.reason) for gap in gaps] == [(2, 2, "MISSING")]


def test_a_silent_stream_is_ended() -> None:
    effects = FakeEffects(CONTENT)
    partition = chunk_partition(effects)
    take(partition, effects, 0, [chunk(n) for n in range(3)])
    effects.now += 59
    partition.close_idle(read_since=0.0)
    assert [one.is_final for one in effects.segments] == [False] * len(effects.segments)
    effects.now += 2
    partition.close_idle(read_since=0.0)
    assert effects.segments[-1].is_final
    assert effects.segments[-1].is_last
    assert commit(partition, effects) == 3


def test_late_chunks_are_shed_except_the_end_and_those_that_were_taken_before() -> None:
    effects, config = FakeEffects(CONTENT), stream_config(transcriber=None, shed_seconds=5.0)
    partition = chunk_partition(effects, config=config)
    effects.wall = 1010.0  # the chunk of offset n was appended at 1000 + n
    take(partition, effects, 0, [chunk(n) for n in range(9)])
    effects.wall = 2000.0
    take(partition, effects, 9, [chunk(9, media=b"", end_of_stream=True)])
    assert effects.counts == {"shed": 5, "taken": 5}
    assert letters(effects) == []
    gaps = {gap for one in effects.segments if one.is_final for gap in one.gaps}
    assert [(gap.first_sequence, gap.chunk_count, gap.reason) for gap in gaps] == [(0, 5, "SHED")]

    other = FakeEffects(CONTENT)
    partition = ChunkPartition(other, "chunks", 3, 0, {}, 1004.0, config=config)
    other.wall = 2000.0
    take(partition, other, 0, [chunk(n) for n in range(9)])
    assert CHECKPOINT_AGE_SECONDS == 3.0
    assert other.counts == {"taken": 8, "shed": 1}  # appended at 1000 to 1007; then at 1008


# ------------------------------------------------------------------ whole files
def source_record(offset: int, name: str = "film") -> Record:
    value = source_bytes(Source(collection="films", video_id=name, uri=f"file:///{name}.mp4"))
    return Record("sources", 0, offset, 1000.0, b"k", value)


def test_a_source_that_is_none_or_cannot_be_opened_is_a_dead_letter() -> None:
    effects = FakeEffects()
    partition = SourcePartition(effects, "sources", 0, 5)
    partition.take(Record("sources", 0, 5, 1000.0, b"k", b"\xff"))
    partition.take(source_record(6))
    partition.take(source_record(7))
    assert effects.counts == {"RECORD_INVALID": 1, "taken": 2}
    assert commit(partition, effects) == 6  # the files are under way
    [(work, on_change), _] = effects.files
    work.failure = SourceNotFound("file:///film.mp4", "no such file")
    on_change()
    on_change()  # changes nothing more
    assert [letter.reason for letter in letters(effects)] == ["RECORD_INVALID", "SOURCE_NOT_FOUND"]
    assert commit(partition, effects) == 7
    partition.give_up()
    assert effects.files[1][0].is_cancelled


def test_a_partition_of_files_is_full_of_a_few() -> None:
    effects = FakeEffects()
    partition = SourcePartition(effects, "sources", 0, 0)
    for n in range(MAX_FILES):
        assert not partition.is_full
        partition.take(source_record(n))
    assert partition.is_full


def test_files_wait_for_a_broker_that_is_behind() -> None:
    effects = FakeEffects()
    partition = SourcePartition(effects, "sources", 0, 0)
    for n in range(MAX_UNACKNOWLEDGED):
        partition.take(Record("sources", 0, n, 1000.0, b"k", b"\xff"))
    partition.take(source_record(MAX_UNACKNOWLEDGED))
    [(work, _)] = effects.files
    allowed: list[bool] = []
    work.resume_decoding = lambda: allowed.append(True)  # type: ignore[method-assign]
    partition.step_commit(may_begin=False)
    assert allowed == []
    effects.acknowledge()
    partition.step_commit(may_begin=False)
    assert allowed == [True]
