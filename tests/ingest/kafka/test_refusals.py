"""A record that the broker refuses fails alone; all records around it are delivered once and in order."""

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from ingest.config import KafkaConfig
from ingest.errors import BrokerUnavailable, RecordTooLarge
from ingest.kafka import PartitionReader, Producer, Topics, create_topics
from support.broker import Broker
from support.kafka_members import config_for
from support.waiting import HANG_SECONDS, wait_until

pytestmark = pytest.mark.kafka
TOO_LARGE = bytes(2 << 20)  # the topic of sources accepts one MiB


@pytest.fixture
def config(kafka: str, topic_prefix: str) -> KafkaConfig:
    config = KafkaConfig(
        servers=(kafka,), topic_prefix=topic_prefix, partition_count=3, bootstrap_timeout_seconds=HANG_SECONDS
    )
    create_topics(config)
    return config


@pytest.fixture
def producer(config: KafkaConfig) -> Iterator[Producer]:
    producer = Producer(config)
    yield producer
    producer.close(5.0)


def read(config: KafkaConfig, topic: str, partition: int) -> list[bytes | None]:
    with PartitionReader(config) as reader:
        return [record.value for record in reader.read_to_end(topic, partition)]


@pytest.mark.parametrize("sent_before", [0, 3])
def test_a_record_that_is_refused_fails_alone(config: KafkaConfig, producer: Producer, sent_before: int) -> None:
    sources = Topics(config.topic_prefix).sources
    before = [producer.send(sources, b"k", b"before %d" % n, partition=0) for n in range(sent_before)]
    assert producer.flush(HANG_SECONDS)
    refused = producer.send(sources, b"k", TOO_LARGE, partition=0)
    assert refused.wait(HANG_SECONDS)
    assert isinstance(refused.error, RecordTooLarge)
    after = [producer.send(sources, b"k", b"after %d" % n, partition=0) for n in range(3)]
    elsewhere = producer.send(sources, b"k", b"elsewhere", partition=1)
    assert producer.flush(HANG_SECONDS)
    assert [each.error for each in (*before, *after, elsewhere)] == [None] * (sent_before + 4)
    assert read(config, sources, 0) == [
        each % n for each, count in ((b"before %d", sent_before), (b"after %d", 3)) for n in range(count)
    ]
    assert read(config, sources, 1) == [b"elsewhere"]


def test_among_many_records_only_those_refused_are_missing(config: KafkaConfig, producer: Producer) -> None:
    sources, chance = Topics(config.topic_prefix).sources, random.Random(5)
    sent = []
    for n in range(300):
        is_refused = chance.random() < 0.03
        value = TOO_LARGE if is_refused else b"%d" % n
        sent.append((n % 3, value, producer.send(sources, b"k", value, partition=n % 3)))
    assert producer.flush(HANG_SECONDS)
    assert {value is TOO_LARGE for _, value, delivery in sent if delivery.error is not None} == {True}
    assert {value is TOO_LARGE for _, value, delivery in sent if delivery.error is None} == {False}
    for partition in range(3):
        wanted = [value for at, value, _ in sent if at == partition and value is not TOO_LARGE]
        assert read(config, sources, partition) == wanted


def test_after_an_outage_that_was_too_long_the_producer_goes_on(own_broker: Broker, topic_prefix: str) -> None:
    config = config_for(own_broker.servers, topic_prefix)
    create_topics(config)
    producer, topics = Producer(replace(config, delivery_timeout_seconds=8.0)), Topics(topic_prefix)
    chunks = topics.chunks

    def can_send() -> bool:
        delivery = producer.send(topics.sources, b"k", b"v", partition=0)
        return delivery.wait(HANG_SECONDS) and delivery.error is None

    assert producer.send(chunks, b"k", b"before", partition=0).wait(HANG_SECONDS)
    own_broker.kill()
    given_up = [producer.send(chunks, b"k", b"in vain", partition=n) for n in (0, 0, 1)]
    assert all(delivery.wait(HANG_SECONDS) for delivery in given_up)
    assert {type(delivery.error) for delivery in given_up} == {BrokerUnavailable}
    own_broker.start()
    wait_until(can_send)
    after = [producer.send(chunks, b"k", b"after %d" % n, partition=n % 2) for n in range(4)]
    assert all(delivery.wait(HANG_SECONDS) for delivery in after)
    assert [delivery.error for delivery in after] == [None] * 4
    assert [value for value in read(config, chunks, 0) if value != b"in vain"] == [b"before", b"after 0", b"after 2"]
    producer.close(5.0)
