"""Members of a group on a real broker: assignments, commits, dead members and outages."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from ingest.config import KafkaConfig
from ingest.errors import BrokerUnavailable
from ingest.kafka import GroupConsumer, PartitionId, PartitionReader, Producer, Record, Topics, create_topics
from support import SUPPORT
from support.broker import Broker
from support.kafka_members import Member, config_for, connect, fill
from support.waiting import HANG_SECONDS, wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.usefixtures("quiet", "no_thread_left")]

MEMBER = SUPPORT / "group_member.py"


def test_continues_where_the_group_has_committed(
    topics: Topics, producer: Producer, member: Callable[..., Member]
) -> None:
    fill(producer, topics.chunks, 20, partition=0)
    first = member()
    wait_until(lambda: first.poll(max_records=5) and len(first.records) >= 20)
    assert first.events == [("assigned", [(topics.chunks, 0), (topics.chunks, 1)])]
    assert first.consumer.committed_offset(topics.chunks, 0) is None
    first.consumer.commit({(topics.chunks, 0): 12})
    wait_until(lambda: first.poll(0.05) or first.consumer.committed_offset(topics.chunks, 0) == 12)
    first.at_revoke = lambda partitions: None
    first.consumer.close()
    assert first.partitions_of("revoked") == [(topics.chunks, 0), (topics.chunks, 1)]
    second = member()
    wait_until(lambda: second.poll() and len(second.records) >= 8)
    assert second.values() == [b"%d" % n for n in range(12, 20)]


def test_revoked_partitions_can_still_be_committed(
    topics: Topics, producer: Producer, member: Callable[..., Member]
) -> None:
    fill(producer, topics.chunks, 4, partition=0)
    one = member()
    wait_until(lambda: one.poll() and len(one.records) >= 4)
    done: list[bool] = []
    one.at_revoke = lambda partitions: done.append(one.consumer.commit_now({(topics.chunks, 0): 3}, HANG_SECONDS))
    one.consumer.close()
    assert done == [True]
    assert member().consumer.committed_offset(topics.chunks, 0) == 3


def test_passes_records_of_eight_mebibytes(topics: Topics, producer: Producer, member: Callable[..., Member]) -> None:
    for n in range(4):
        producer.send(topics.chunks, b"%d" % n, bytes([n]) * (8 << 20), partition=n % 2)
    assert producer.flush(HANG_SECONDS)
    one = member()
    wait_until(lambda: one.poll(0.5) and len(one.records) >= 4)
    assert sorted((record.key, len(record.value or b"")) for record in one.records) == [
        (b"%d" % n, 8 << 20) for n in range(4)
    ]


def test_pauses_seeks_and_reports_lag_and_position(
    topics: Topics, producer: Producer, member: Callable[..., Member]
) -> None:
    fill(producer, topics.chunks, 10, partition=0)
    one = member()
    zero = (topics.chunks, 0)
    wait_until(lambda: one.poll(max_records=4))
    assert one.consumer.lag()[zero] == 6
    one.consumer.pause([zero, (topics.chunks, 9)])  # a partition that is not ours is ignored
    assert [one.poll(0.1) for _ in range(3)] == [[], [], []]
    one.consumer.seek(*zero, 2)
    assert one.consumer.position(*zero) == 2
    one.consumer.resume([zero])
    wait_until(lambda: one.poll() and len(one.records) >= 12)
    assert [record.offset for record in one.records] == [0, 1, 2, 3, 2, 3, 4, 5, 6, 7, 8, 9]
    wait_until(lambda: one.poll(0.05) or one.consumer.lag().get((topics.chunks, 1)) == 0)
    assert one.consumer.lag() == {zero: 0, (topics.chunks, 1): 0}


def test_a_callback_may_seek_before_the_first_record(config: KafkaConfig, topics: Topics, producer: Producer) -> None:
    fill(producer, topics.chunks, 10, partition=0)

    def begin(partitions: list[PartitionId]) -> None:
        assert consumer.position(topics.chunks, 0) == 0
        consumer.seek(topics.chunks, 0, 6)

    consumer = GroupConsumer(
        config,
        [topics.chunks],
        group=f"{config.topic_prefix}-g",
        on_assigned=begin,
        on_revoked=lambda partitions: None,
        on_lost=lambda partitions: None,
    )
    found: list[Record] = []
    wait_until(lambda: found.extend(consumer.poll(0.0)) or len(found) >= 4)  # also without waiting
    consumer.close()
    assert [one.offset for one in found] == [6, 7, 8, 9]


def test_poll_raises_the_error_of_a_callback(config: KafkaConfig, topics: Topics) -> None:
    def fail(partitions: list[PartitionId]) -> None:
        raise LookupError("mine")

    consumer = GroupConsumer(
        config, [topics.chunks], group=f"{config.topic_prefix}-g", on_assigned=fail, on_revoked=print, on_lost=print
    )
    with pytest.raises(LookupError, match="mine"):
        wait_until(lambda: consumer.poll(0.2))
    assert consumer.poll(0.1) == []
    consumer.close()


def test_a_second_member_takes_half_without_touching_the_rest(
    topics: Topics, producer: Producer, member: Callable[..., Member]
) -> None:
    fill(producer, topics.chunks, 10, partition=0)
    fill(producer, topics.chunks, 10, partition=1, start=10)
    first = member()
    wait_until(lambda: first.poll() and len(first.records) >= 20)
    first.at_revoke = lambda partitions: assert_true(
        first.consumer.commit_now(dict.fromkeys(partitions, 10), HANG_SECONDS)
    )
    first.consumer.pause([(topics.chunks, 0), (topics.chunks, 1)])
    second = member()
    wait_until(lambda: first.poll(0.05) or second.poll(0.05) or second.partitions_of("assigned"))
    moved = second.partitions_of("assigned")
    assert first.partitions_of("revoked") == moved
    assert len(moved) == 1
    assert first.partitions_of("lost") == []
    assert first.events[0][0] == "assigned"
    assert [partitions for event, partitions in first.events[1:] if event == "assigned" and partitions] == []
    kept = first.consumer.assignment()
    assert first.consumer.position(*kept[0]) == 10
    fill(producer, topics.chunks, 5, partition=0, start=20)
    fill(producer, topics.chunks, 5, partition=1, start=20)
    wait_until(lambda: first.poll(0.05) or (second.poll(0.05) and len(second.records) >= 5))
    assert len(first.records) == 20  # still paused
    first.consumer.resume(kept)
    wait_until(lambda: first.poll() and len(first.records) >= 25)
    assert second.values() == [b"%d" % n for n in range(20, 25)]


def assert_true(value: object) -> None:
    assert value


# ------------------------------------------------------------------ members that die
class Other:
    """A member of the group in its own process, and the lines that it prints."""

    def __init__(self, config: KafkaConfig) -> None:
        command = [sys.executable, str(MEMBER), config.servers[0], config.topic_prefix, f"{config.topic_prefix}-g"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        self.thread = threading.Thread(target=self.read)
        self.thread.start()

    def read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.lines.append(line.strip())

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.thread.join()


@pytest.fixture
def other(config: KafkaConfig) -> Iterator[Other]:
    """A member that has both partitions of the chunks and gets no more callbacks."""
    made = Other(config)
    try:
        wait_until(lambda: made.lines[-2:] == ["assigned 0 1", "steady"])
        made.lines.clear()
        yield made
    finally:
        made.end()


def test_partitions_of_a_dead_member_move(member: Callable[..., Member], other: Other) -> None:
    other.process.kill()
    one = member()
    wait_until(lambda: one.poll() or len(one.partitions_of("assigned")) >= 2)


def test_a_member_that_slept_past_its_session_loses_its_partitions(member: Callable[..., Member], other: Other) -> None:
    other.process.send_signal(signal.SIGSTOP)
    one = member()
    wait_until(lambda: one.poll() or len(one.partitions_of("assigned")) >= 2)
    other.process.send_signal(signal.SIGCONT)
    wait_until(lambda: one.poll() or other.lines)
    assert other.lines[0] == "lost 0 1"
    wait_until(lambda: one.poll() or other.lines[1:])  # it has joined again and shares
    assert other.lines[1] in ("assigned 0", "assigned 1")


# ------------------------------------------------------------------ a broker that goes away
def test_nothing_is_lost_or_doubled_while_the_broker_is_away(own_broker: Broker, topic_prefix: str) -> None:
    config = replace(config_for(own_broker.servers, topic_prefix), session_timeout_seconds=HANG_SECONDS)
    create_topics(config)
    topics, producer = Topics(topic_prefix), Producer(config)
    one = Member(config, [topics.chunks])
    reader = PartitionReader(config)
    reader.assign([(topics.chunks, 0, None)])
    seen: list[Record] = []
    sent = []
    for part, stop in enumerate((own_broker.stop, own_broker.kill)):
        sent += [producer.send(topics.chunks, b"k", b"%d" % n, partition=0) for n in range(40 * part, 40 * part + 20)]
        wait_until(lambda part=part: one.poll() and len(one.records) >= 40 * part + 20)
        stop()
        sent += [
            producer.send(topics.chunks, b"k", b"%d" % n, partition=0) for n in range(40 * part + 20, 40 * part + 40)
        ]
        sent.append(producer.send(topics.segments, b"k", b"first" if part == 0 else b"second"))  # record of its topic
        one.consumer.commit({(topics.chunks, 0): 40 * part + 20})  # fails and is repeated
        assert one.poll(0.2) == []
        assert reader.poll(0.2) is not None
        assert not sent[-1].is_done
        own_broker.start()
        wait_until(lambda part=part: one.poll() and len(one.records) >= 40 * part + 40)
        wait_until(
            lambda part=part: one.poll(0.05) or one.consumer.committed_offset(topics.chunks, 0) == 40 * part + 20
        )
    assert producer.flush(HANG_SECONDS)
    assert {delivery.error for delivery in sent} == {None}
    assert one.values() == [b"%d" % n for n in range(80)]
    wait_until(lambda: seen.extend(reader.poll(0.2)) or len(seen) >= 80)
    assert [record.value for record in seen] == one.values()
    assert one.partitions_of("lost") == []
    one.consumer.close()
    reader.close()
    producer.close()


def test_no_call_waits_for_ever_while_the_broker_is_away(own_broker: Broker, topic_prefix: str) -> None:
    create_topics(config_for(own_broker.servers, topic_prefix))
    config = replace(
        config_for(own_broker.servers, topic_prefix), delivery_timeout_seconds=10, bootstrap_timeout_seconds=1
    )
    topics, producer = Topics(topic_prefix), connect(lambda: Producer(config))
    reader, one = connect(lambda: PartitionReader(config)), connect(lambda: Member(config, [topics.chunks]))
    wait_until(lambda: one.poll() or one.partitions_of("assigned"))
    fill(producer, topics.chunks, 1)
    own_broker.kill()
    started = time.monotonic()
    sent = producer.send(topics.chunks, b"k", b"v")
    assert not producer.flush(0.5)
    for question in (
        lambda: reader.end_offsets([(topics.chunks, 0)]),
        lambda: reader.partitions_of(topics.chunks),
        lambda: reader.assign([(topics.chunks, 0, 0)]),
        lambda: one.consumer.committed_offset(topics.chunks, 0),
    ):
        with pytest.raises(BrokerUnavailable):
            question()
    assert not one.consumer.commit_now({(topics.chunks, 0): 1}, 0.5)
    assert sent.wait(HANG_SECONDS)
    assert isinstance(sent.error, BrokerUnavailable)
    reader.close()
    one.consumer.close()
    producer.close(1)
    assert time.monotonic() - started < HANG_SECONDS
