"""serve.worker.stream: in whatever order results come and wherever a worker dies, the final segments are the same."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from ingest.errors import DecodeError, IngestError
from ingest.kafka import Record
from ingest.stream.chunk_order import Arrival
from ingest.values import Chunk, Decoded
from kinodex.v1 import stream_pb2
from serve.codec.records import SegmentRecord
from serve.worker.effects import ReceivedChunk
from serve.worker.outbox import Outbox
from serve.worker.stream import LiveStream
from serve.worker.video_flow import MAX_GAPS
from support.marks import first_quick
from support.worker_fakes import FakeEffects, decode_chunk_alone, open_slides, stream_config

NOISE = DecodeError("chunk", "noise")


@dataclass(frozen=True)
class Log:
    """A partition: the records of one stream as they were appended, and what each chunk holds."""

    chunks: Sequence[Chunk | None]  # None: a record that lets sessions begin anew
    content: dict[tuple[int, int], list[Decoded] | IngestError]

    def received(self, offset: int) -> ReceivedChunk | None:
        chunk = self.chunks[offset]
        if chunk is None:
            return None
        record = Record(topic="t", partition=0, offset=offset, append_seconds=2.0 * offset, key=b"k", value=b"")
        return ReceivedChunk(chunk=chunk, record=record)


def make_log(
    seed: int,
    *,
    reset_at: int | None = None,
    lost: Sequence[int] = (),
    noise: Sequence[int] = (),
    sessions: Sequence[int] = (60,),
    numbers: Sequence[int] = range(9),
) -> Log:
    """Make a log of sessions with so many chunks, and these numbers. Where numbers fall, sessions begin anew."""
    rng, at = random.Random(seed), 100.3
    content: dict[tuple[int, int], list[Decoded] | IngestError] = {}
    chunks: list[Chunk | None] = []
    for place, (session, count) in enumerate(zip(numbers, sessions, strict=False)):
        mine = []
        if place and session < numbers[place - 1]:
            chunks.append(None)
        for n in range(count):
            at = 5.7 if n == reset_at else at
            seconds = rng.choice([2.0, 2.0, 2.0, 1.0, 1.7, 3.3])
            content[session, n] = NOISE if n in noise else decode_chunk_alone(at, seconds)
            is_end = n == count - 1 and place == len(sessions) - 1
            mine.append(
                Chunk(collection="c", stream_id="v", session=session, sequence=n, media=b"x", start_time=1000 + at,
                      end_of_stream=is_end)
            )  # fmt: skip
            at += seconds
        order = [mine[n] for n in sorted(range(count), key=lambda n: n + rng.uniform(0, 3)) if n not in lost]
        for n in rng.sample(range(len(order)), len(order) // 10):
            order.insert(n + rng.randrange(1, 4), order[n])
        chunks += order
    return Log(chunks, content)


class Run:
    """A worker of one stream that does things in any order, and may die."""

    def __init__(self, log: Log, seed: int, *, decodes_late: bool = False, has_text: bool = False) -> None:
        self.log, self.rng, self.decodes_late = log, random.Random(seed), decodes_late
        self.config = stream_config(open_text=open_slides if has_text else None)
        self.checkpoint: stream_pb2.Checkpoint | None = None
        self.published: dict[str, SegmentRecord] = {}
        self.revisions: list[tuple[str, int]] = []
        self.read_again_count = 0
        self.begin()

    def begin(self) -> None:
        self.effects = FakeEffects(self.log.content)
        self.stream = LiveStream(
            "c", "v", config=self.config, effects=self.effects, outbox=Outbox(self.effects),
            checkpoint=self.checkpoint,
        )  # fmt: skip
        self.offset = self.checkpoint.record_offset if self.checkpoint is not None else 0

    def die(self) -> None:
        before = self.offset
        self.begin()
        self.read_again_count = max(self.read_again_count, before - self.offset)

    def go(self, kills: Sequence[int] = ()) -> dict[str, SegmentRecord]:
        step = 0
        while self.offset < len(self.log.chunks) or self.effects.decoding or self.effects.encoding:
            step += 1
            if step in kills:
                self.die()
            waiting = [work for work in (self.effects.decoding, self.effects.encoding) if work]
            if self.offset < len(self.log.chunks) and (not waiting or self.rng.random() < 0.6):
                self.read()
            else:
                work = self.rng.choice(waiting)
                work.pop(self.rng.randrange(len(work)))()
            self.keep()
            if self.rng.random() < 0.3:
                data = self.stream.checkpoint("t").SerializeToString()
                self.checkpoint = stream_pb2.Checkpoint.FromString(data)
        return self.published

    def read(self) -> Arrival | None:
        received, arrival = self.log.received(self.offset), None
        if received is None:
            self.stream.reset_sessions(self.offset)
        else:
            arrival = self.stream.push(received)
        self.offset += 1
        if not self.decodes_late:
            self.effects.finish(self.effects.decoding)
        return arrival

    def encode(self) -> None:
        """Encode all that waits, the newest first."""
        while self.effects.encoding:
            self.effects.encoding.pop()()
        self.keep()

    def keep(self) -> None:
        """Keep the highest revision of each segment, as a consumer does."""
        records, self.effects.segments = self.effects.segments, []
        for record in records:
            self.revisions.append((record.segment.segment_id, record.revision))
            before = self.published.get(record.segment.segment_id)
            if before is None or before.revision < record.revision:
                self.published[record.segment.segment_id] = record


def assert_same(one: dict[str, SegmentRecord], other: dict[str, SegmentRecord]) -> None:
    assert one.keys() == other.keys()
    for a, b in zip((one[key] for key in sorted(one)), (other[key] for key in sorted(other)), strict=True):
        assert a.is_final
        assert b.is_final
        assert a.revision == b.revision
        for name in ("thumbnails", "is_last", "continued_count", "source_append_time"):
            assert getattr(a, name) == getattr(b, name), name
        assert [replace(gap, at_seconds=round(gap.at_seconds, 6)) for gap in a.gaps] == [
            replace(gap, at_seconds=round(gap.at_seconds, 6)) for gap in b.gaps
        ]
        assert [said.text for said in a.utterances] == [said.text for said in b.utterances]
        assert a.segment.span.end_seconds == pytest.approx(b.segment.span.end_seconds)
        assert a.recorded_time == pytest.approx(b.recorded_time)
        np.testing.assert_allclose(a.frames.pts_seconds, b.frames.pts_seconds)


LOGS = {
    "plain": {},
    "reset": {"reset_at": 30},
    "lost": {"lost": (20, 21, 40)},
    "sessions": {"sessions": (25, 30)},
    "sessions anew": {"sessions": (25, 20, 10), "numbers": (9000, 5, 3)},
    "sessions anew after gaps": {"sessions": (25, 30), "numbers": (9000, 5), "lost": (0, 1, 9)},
    "late": {"lost": (0, 1), "sessions": (25, 30)},
    "noise": {"noise": (0, 1, *range(20, 29), 40), "lost": (24, 25), "sessions": (30, 50)},
    "all": {"reset_at": 12, "lost": (9, 20), "sessions": (25, 30)},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", LOGS)
@pytest.mark.parametrize("seed", first_quick(range(3)))
def test_the_same_segments_however_often_the_worker_dies(kind: str, seed: int) -> None:
    log = make_log(seed, **LOGS[kind])  # type: ignore[arg-type]
    expected = Run(log, seed=1).go()
    assert sum(len(record.utterances) for record in expected.values()) > 10
    assert_same(expected, Run(log, seed=2).go())
    assert_same(expected, Run(log, seed=3, decodes_late=True).go())
    kills = random.Random(seed).sample(range(10, 250), 8)
    assert_same(expected, Run(log, seed=seed + 5).go(kills))
    assert_same(expected, Run(log, seed=seed + 6, decodes_late=True).go(kills))


@pytest.mark.slow
def test_a_checkpoint_reads_only_the_open_windows_again() -> None:
    run = Run(make_log(4, sessions=(200,)), seed=1)
    run.go(kills=range(50, 500, 50))
    assert 0 < run.read_again_count < 40, "at most some 48 s: 16 of a window, 30 of speech, chunks of 2 s"
    ended = run.stream.checkpoint("t")
    assert ended.ended
    assert ended.record_offset == len(run.log.chunks)


def test_lines_of_text_are_in_the_segments_in_whose_new_part_they_stand() -> None:
    run = Run(make_log(1), seed=1, has_text=True)
    published = run.go()
    records = sorted(published.values(), key=lambda record: record.segment.index)
    zero = 100.3 - records[0].frames.pts_seconds[0]  # the time of make_log() at media time 0
    shown = {int(at + zero) // 12 for record in records for at in record.frames.pts_seconds}
    read: dict[str, list[float]] = {}
    for record in records:
        span = record.segment.span
        first = span.start_seconds + (8 if record.segment.index else 0)
        assert len(record.lines) == len(record.line_vectors)
        for line in record.lines:
            assert first <= line.start_seconds < line.end_seconds <= span.end_seconds
            read.setdefault(line.text, []).append(line.end_seconds - line.start_seconds)
    assert set(read) == {f"slide {number % 21}" for number in shown if number % 3}
    whole = [sum(parts) for parts in list(read.values())[1:-1]]
    assert min(whole) > 6
    assert max(whole) < 13
    assert 1 < max(map(len, read.values())) <= 3


@pytest.mark.slow
def test_text_changes_no_revision_and_a_killed_worker_reads_it_again() -> None:
    log = make_log(2, reset_at=20)
    expected = Run(log, seed=1).go()
    run = Run(log, seed=4, has_text=True)
    assert_same(expected, run.go(kills=(40, 90, 140)))
    assert sum(len(record.lines) for record in run.published.values()) > 10


def test_revisions_grow_until_the_final_one() -> None:
    run = Run(make_log(5), seed=3)
    run.go()
    for key in run.published:
        mine = [revision for one, revision in run.revisions if one == key]
        assert mine == sorted(set(mine))
        assert mine[-1] == run.published[key].revision


def test_gaps_epochs_and_the_end_are_published() -> None:
    found = Run(make_log(0, reset_at=30, lost=(20, 21)), seed=1).go()
    [gap] = [gap for record in found.values() for gap in record.gaps]
    assert (gap.first_sequence, gap.chunk_count, gap.reason) == (20, 2, "MISSING")
    assert {record.segment.epoch for record in found.values()} == {0, 1}
    newest = max(found.values(), key=lambda record: record.segment.span.end_seconds)
    assert [record for record in found.values() if record.is_last] == [newest]


def test_a_gap_before_the_first_chunk_is_published_with_the_next_epoch() -> None:
    found = Run(make_log(0, lost=(0, 1), sessions=(20, 20)), seed=1).go()
    told = {name: [(gap.first_sequence, gap.chunk_count) for gap in one.gaps] for name, one in found.items()}
    assert {name: gaps for name, gaps in told.items() if gaps} == {"v/0/0": [(0, 2)], "v/1/0": [(0, 2)]}


@pytest.mark.parametrize("ending", ["an end", "silence"])
def test_a_session_of_nothing_ends_the_one_before(ending: str) -> None:
    run = Run(make_log(0, sessions=(20, 1)), seed=1)
    if ending == "silence":
        run.log.chunks[-1] = replace(run.log.chunks[-1], end_of_stream=False)  # type: ignore[index]
    run.log.content[1, 0] = []
    while run.offset < len(run.log.chunks):
        run.read()
    if ending == "silence":
        assert not run.stream.is_over
        assert run.stream.end_epoch()
    run.encode()
    assert run.stream.is_over
    assert not run.stream.end_epoch()
    assert all(record.is_final for record in run.published.values())
    assert [record.segment.epoch for record in run.published.values() if record.is_last] == [0]


def test_many_chunks_that_do_not_decode_are_one_gap() -> None:
    run = Run(make_log(0, noise=range(5, 1000), sessions=(1010,)), seed=1)
    most = 0
    while run.offset < len(run.log.chunks):
        run.read()
        run.encode()
        if run.offset % 100 == 0:
            most = max(most, run.stream.checkpoint("t").ByteSize())
    assert most < 1000
    gaps = [gap for record in run.published.values() for gap in record.gaps]
    assert [(gap.first_sequence, gap.chunk_count) for gap in gaps] == [(5, 995)]


@pytest.mark.slow
def test_gaps_of_all_kinds_have_a_bound() -> None:
    run = Run(make_log(0, noise=range(5, 1000, 2), lost=range(6, 1000, 2), sessions=(1010,)), seed=1)
    gaps = [gap for record in run.go().values() for gap in record.gaps]
    assert len(gaps) == MAX_GAPS
    assert sum(gap.chunk_count for gap in gaps) == 995


def test_a_chunk_that_does_not_decode_is_a_gap_and_the_stream_goes_on() -> None:
    run = Run(make_log(0, sessions=(10,)), seed=1)
    run.log.content[0, 4] = NOISE
    gaps = [gap for record in run.go().values() for gap in record.gaps]
    assert [(gap.first_sequence, gap.chunk_count, gap.reason) for gap in gaps] == [(4, 1, "DECODE_ERROR")]


def test_an_idle_stream_is_ended_and_what_comes_later_is_a_new_epoch() -> None:
    log = make_log(0, sessions=(20,))
    run = Run(log, seed=1)
    while run.offset < 12:
        run.read()
    run.encode()
    assert run.stream.end_epoch()
    run.encode()
    assert all(record.is_final for record in run.published.values())
    assert run.stream.is_over
    assert not run.stream.end_epoch()
    run.checkpoint = run.stream.checkpoint("t")
    assert run.checkpoint.record_offset == 12
    run.go(kills=[1])
    assert {record.segment.epoch for record in run.published.values()} == {0, 1}
    assert all(record.is_final for record in run.published.values())
