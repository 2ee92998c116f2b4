"""Topics, producers and readers of partitions, on a real broker."""

import time
from dataclasses import replace

import pytest
from kafka import KafkaAdminClient, TopicPartition

from ingest.config import KafkaConfig
from ingest.errors import BrokerUnavailable, OffsetRegression, RecordTooLarge
from ingest.kafka import PartitionReader, Producer, Record, Topics, create_topics, describe_topics
from support.kafka_members import config_for, connect, fill
from support.waiting import HANG_SECONDS, wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.usefixtures("quiet", "no_thread_left")]


# ------------------------------------------------------------------ topics
def test_creates_missing_topics_and_reports_existing_ones(kafka: str, topic_prefix: str) -> None:
    config = config_for(kafka, topic_prefix)
    assert {one.state for one in describe_topics(config)} == {"missing"}
    assert {one.state for one in create_topics(config)} == {"created"}
    assert {one.state for one in create_topics(config)} == {"exists"}
    assert [one.name.removeprefix(topic_prefix) for one in describe_topics(config)] == [
        ".chunks", ".sources", ".segments", ".deletions", ".settings", ".checkpoints", ".deadletter", ".events"
    ]  # fmt: skip


def test_reports_the_differences_of_a_topic_and_does_not_change_it(kafka: str, topic_prefix: str) -> None:
    config = config_for(kafka, topic_prefix)
    with KafkaAdminClient(bootstrap_servers=[kafka]) as admin:
        name = Topics(topic_prefix).segments
        admin.create_topics({name: {"num_partitions": 3, "configs": {"max.message.bytes": "20000000"}}})
        wait_until(lambda: describe_topics(config)[2].state == "differs")
    outcome = next(one for one in create_topics(config) if one.name == name)
    assert (outcome.state, outcome.differences) == (
        "differs",
        (
            "cleanup.policy is delete, not compact",
            "message.timestamp.type is CreateTime, not LogAppendTime",
        ),
    )


# ------------------------------------------------------------------ writing
def test_a_delivery_says_when_and_where_the_broker_appended(config: KafkaConfig, topics: Topics) -> None:
    producer = Producer(config)
    before = time.time()
    sent = [producer.send(topics.segments, b"key", b"value"), producer.send(topics.segments, b"key", None)]
    assert all(one.wait(HANG_SECONDS) for one in sent)
    assert before - 1 < (sent[0].append_seconds or 0) < time.time() + 1
    partition = producer.partition_of(topics.segments, b"key")
    producer.close()
    with PartitionReader(config) as reader:
        found = list(reader.read_to_end(topics.segments, partition))
    assert [(one.key, one.value) for one in found] == [(b"key", b"value"), (b"key", None)]
    assert [(one.offset, one.append_seconds) for one in found] == [(one.offset, one.append_seconds) for one in sent]


def test_the_partition_may_be_given(config: KafkaConfig, topics: Topics, producer: Producer) -> None:
    assert producer.send(topics.segments, b"key", b"a", partition=0).wait(HANG_SECONDS)
    assert producer.send(topics.segments, b"key", b"b", partition=1).wait(HANG_SECONDS)
    with PartitionReader(config) as reader:
        assert [one.value for one in reader.read_to_end(topics.segments, 0)] == [b"a"]
        assert [one.value for one in reader.read_to_end(topics.segments, 1)] == [b"b"]


def test_keys_go_where_kafkas_own_clients_send_them(topics: Topics, producer: Producer) -> None:
    # org.apache.kafka.clients.producer.internals.BuiltInPartitioner: murmur2("21") = -973932308, of 2 partitions.
    assert producer.partition_of(topics.chunks, b"21") == (-973932308 & 0x7FFFFFFF) % 2
    assert producer.partition_of(topics.chunks, b"abc") == (479470107 & 0x7FFFFFFF) % 2


def test_refuses_a_record_over_the_limit_at_once(topics: Topics, producer: Producer) -> None:
    sent = producer.send(topics.chunks, b"key", bytes(9 << 20))
    assert sent.is_done
    assert isinstance(sent.error, RecordTooLarge)
    assert sent.append_seconds is None


def test_says_when_the_broker_finds_a_record_too_large(topics: Topics, producer: Producer) -> None:
    sent = producer.send(topics.events, b"key", bytes(8 << 20))  # the broker's default is 1 MiB
    assert sent.wait(HANG_SECONDS)
    assert isinstance(sent.error, RecordTooLarge)
    assert producer.send(topics.events, b"key", b"small").wait(HANG_SECONDS)


def test_a_missing_topic_is_an_error_in_time(config: KafkaConfig, topic_prefix: str) -> None:
    producer = connect(lambda: Producer(replace(config, bootstrap_timeout_seconds=1)))
    sent = producer.send(f"{topic_prefix}.nope", b"key", b"value")
    assert isinstance(sent.error, BrokerUnavailable)
    assert "there is no topic" in str(sent.error)
    with pytest.raises(BrokerUnavailable):
        producer.partition_of(f"{topic_prefix}.nope", b"key")
    producer.close()


# ------------------------------------------------------------------ reading partitions
def test_reads_on_from_an_offset(config: KafkaConfig, topics: Topics, producer: Producer) -> None:
    fill(producer, topics.chunks, 10, partition=0)
    fill(producer, topics.chunks, 3, partition=1)
    with PartitionReader(config) as reader:
        assert reader.partitions_of(topics.chunks) == [0, 1]
        places = [(topics.chunks, 0), (topics.chunks, 1)]
        assert reader.end_offsets(places) == {places[0]: 10, places[1]: 3}
        reader.assign([(*places[0], 7), (*places[1], None)])
        found: list[Record] = []
        wait_until(lambda: found.extend(reader.poll(0.2, max_records=2)) or len(found) >= 6)
        assert sorted((one.partition, one.offset) for one in found) == [(0, 7), (0, 8), (0, 9), (1, 0), (1, 1), (1, 2)]
        assert reader.positions() == {places[0]: 10, places[1]: 3}


def test_deleted_records_are_skipped(
    config: KafkaConfig, topics: Topics, producer: Producer, admin: KafkaAdminClient
) -> None:
    fill(producer, topics.chunks, 10, partition=0)
    with PartitionReader(config) as reader:
        reader.assign([(topics.chunks, 0, 0)])
        admin.delete_records({TopicPartition(topics.chunks, 0): 4})
        assert reader.beginning_offsets([(topics.chunks, 0)]) == {(topics.chunks, 0): 4}
        found: list[Record] = []
        wait_until(lambda: found.extend(reader.poll(0.2)) or len(found) >= 6)
        assert [one.offset for one in found] == [4, 5, 6, 7, 8, 9]
        reader.assign([(topics.chunks, 0, 2)])
        assert reader.positions() == {(topics.chunks, 0): 4}


def test_an_offset_beyond_the_end_is_an_error(config: KafkaConfig, topics: Topics, producer: Producer) -> None:
    fill(producer, topics.chunks, 3, partition=0)
    with PartitionReader(config) as reader:
        reader.assign([(topics.chunks, 0, 3)])  # the end itself is valid
        assert reader.poll(0.1) == []
        with pytest.raises(OffsetRegression) as caught:
            reader.assign([(topics.chunks, 0, 4)])
    error = caught.value
    assert (error.topic, error.partition, error.wanted, error.end) == (topics.chunks, 0, 4, 3)


def test_a_topic_recreated_while_it_is_read_is_an_error(
    config: KafkaConfig, topics: Topics, producer: Producer, admin: KafkaAdminClient
) -> None:
    fill(producer, topics.chunks, 5, partition=0)
    with PartitionReader(config) as reader:
        reader.assign([(topics.chunks, 0, 5)])
        reader.poll(0.2)
        admin.delete_topics([topics.chunks])
        wait_until(lambda: describe_topics(config)[0].state == "missing")
        create_topics(config)
        with pytest.raises(OffsetRegression):
            wait_until(lambda: reader.poll(0.2))


def test_reads_a_compacted_partition_to_its_end(config: KafkaConfig, topics: Topics, admin: KafkaAdminClient) -> None:
    name = f"{config.topic_prefix}.compacted"
    settings = {"cleanup.policy": "compact", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.01"}
    admin.create_topics({name: {"num_partitions": 1, "configs": {**settings, "max.compaction.lag.ms": "100"}}})
    admin.wait_for_topics([name])
    producer = Producer(config)
    for n in range(20):
        producer.send(name, b"key", b"%d" % n)
    producer.flush(HANG_SECONDS)
    time.sleep(0.3)
    producer.send(name, b"other", b"last").wait(HANG_SECONDS)
    with PartitionReader(config) as reader:
        found = wait_until(lambda: len(list(reader.read_to_end(name, 0))) < 21 and list(reader.read_to_end(name, 0)))
    producer.close()
    assert isinstance(found, list)
    assert found[-1].value == b"last"
    assert found[-2].value == b"19"


def test_an_empty_partition_has_no_records(config: KafkaConfig, topics: Topics) -> None:
    with PartitionReader(config) as reader:
        assert list(reader.read_to_end(topics.checkpoints, 1)) == []
        with pytest.raises(BrokerUnavailable, match="there is no topic"):
            reader.partitions_of(f"{config.topic_prefix}.nope")


def test_a_server_must_be_named() -> None:
    with pytest.raises(BrokerUnavailable, match="no broker is named"):
        Producer(KafkaConfig())
