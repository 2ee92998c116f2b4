"""Fixtures for the tests in this folder: a broker with our topics, and clients that are closed after the test."""

import logging
import threading
from collections.abc import Callable, Iterator

import pytest
from kafka import KafkaAdminClient

from ingest.config import KafkaConfig
from ingest.kafka import Producer, Topics, create_topics
from support.kafka_members import Member, config_for
from support.waiting import wait_until


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Keep kafka-python's log out of the reports of failures."""
    caplog.set_level(logging.CRITICAL, "kafka")


@pytest.fixture
def no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    wait_until(lambda: before.issuperset(threading.enumerate()))


@pytest.fixture
def config(kafka: str, topic_prefix: str) -> KafkaConfig:
    """A broker with our topics, of two partitions each."""
    config = config_for(kafka, topic_prefix)
    create_topics(config)
    return config


@pytest.fixture
def topics(config: KafkaConfig) -> Topics:
    return Topics(config.topic_prefix)


@pytest.fixture
def producer(config: KafkaConfig) -> Iterator[Producer]:
    producer = Producer(config)
    yield producer
    producer.close()


@pytest.fixture
def admin(config: KafkaConfig) -> Iterator[KafkaAdminClient]:
    with KafkaAdminClient(bootstrap_servers=list(config.servers)) as client:
        yield client


@pytest.fixture
def member(config: KafkaConfig, topics: Topics) -> Iterator[Callable[..., Member]]:
    """A function that makes members of a group that reads chunks."""
    members: list[Member] = []

    def make(group: str = "g", names: list[str] | None = None) -> Member:
        members.append(Member(config, names or [topics.chunks], group))
        return members[-1]

    yield make
    for each in members:
        each.consumer.close()
