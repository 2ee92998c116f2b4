"""Streams whose open part cannot be read again."""

from dataclasses import replace

import pytest

from kinodex.v1 import stream_pb2
from serve.codec.records import Gap, SegmentRecord
from serve.worker.lost_chunks import ChunkLog, end_stream, find_lost, is_foreign, without_offsets
from support.sample_live import live_segment

LOG = ChunkLog(topic_id="new", beginning=100, end=200)


def checkpoint(**changes: object) -> stream_pb2.Checkpoint:
    fields: dict[str, object] = {
        "record_offset": 90, "session": 1, "next_sequence": 4, "placed_sequence": 7, "epoch": 0, "topic_id": "new",
        "end_seconds": 20.0,
    }  # fmt: skip
    return stream_pb2.Checkpoint(**fields | changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "is_lost"),
    [
        ({}, True),
        ({"record_offset": 100}, False),
        ({"record_offset": 201}, True),  # beyond the end: of another topic
        ({"record_offset": 150, "topic_id": "old"}, True),
        ({"record_offset": 150, "topic_id": ""}, False),  # of an older version
        ({"ended": True}, True),  # at the start of its first epoch
        ({"ended": True, "placed_sequence": 4}, False),  # nothing is open
    ],
)
def test_finds_streams_whose_open_chunks_are_gone(changes: dict[str, object], is_lost: bool) -> None:
    assert find_lost({b"k": checkpoint(**changes)}, LOG) == ([b"k"] if is_lost else [])


def test_offsets_of_an_earlier_topic_do_not_count() -> None:
    old = checkpoint(topic_id="old", reset_offset=50)
    assert is_foreign(old, LOG)
    moved = without_offsets(old, LOG)
    assert (moved.record_offset, moved.reset_offset, moved.topic_id) == (0, 0, "new")
    assert (moved.session, moved.next_sequence) == (1, 4)


def make_record(index: int, revision: int, *, is_final: bool = False) -> SegmentRecord:
    return replace(live_segment(index, is_final=is_final), revision=revision)


def published() -> list[SegmentRecord]:
    return [
        make_record(0, 17, is_final=True),
        make_record(1, 3),
        make_record(1, 9),
        make_record(2, 2),
        make_record(1, 5),
    ]


def test_open_segments_become_final_as_readers_hold_them() -> None:
    records, ended = end_stream(checkpoint(), published(), LOG)
    assert [(one.segment.index, one.revision, one.is_final, one.is_last) for one in records] == [
        (1, 10, True, False), (2, 3, True, True)
    ]  # fmt: skip
    end_seconds = records[-1].segment.span.end_seconds
    assert records[-1].gaps == (Gap(at_seconds=end_seconds, first_sequence=4, chunk_count=3, reason="EXPIRED"),)
    assert records[-1].watermark_seconds == end_seconds
    assert (ended.ended, ended.epoch, ended.end_seconds) == (True, 0, end_seconds)
    assert (ended.next_sequence, ended.placed_sequence, ended.record_offset) == (7, 7, 100)
    assert (ended.segment_epoch, ended.segment_index) == (1, 0)
    assert find_lost({b"k": ended}, LOG) == []


def test_ending_a_stream_again_changes_nothing() -> None:
    records, ended = end_stream(checkpoint(), published(), LOG)
    again, ended_again = end_stream(checkpoint(), [*published(), *records], LOG)
    assert again == []
    assert ended_again.end_seconds == ended.end_seconds


def test_gaps_that_no_segment_tells_are_told_too() -> None:
    message = checkpoint()
    message.gaps.add(first_sequence=2, chunk_count=1, reason="MISSING")
    records, ended = end_stream(message, published(), LOG)
    assert [gap.reason for gap in records[-1].gaps] == ["MISSING", "EXPIRED"]
    assert not ended.gaps
    told = published()
    told[2] = replace(told[2], gaps=(Gap(at_seconds=0.0, first_sequence=2, chunk_count=1, reason="MISSING"),))
    records, _ = end_stream(message, told, LOG)
    assert [gap.reason for gap in records[-1].gaps] == ["EXPIRED"]
