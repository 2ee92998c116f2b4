"""Compressed topics and transactions on a real broker."""

from collections.abc import Callable

import pytest
from kafka import KafkaAdminClient, KafkaProducer

from ingest.config import KafkaConfig
from ingest.kafka import PartitionReader, Producer, Topics, compression
from support.kafka_members import Member
from support.waiting import HANG_SECONDS, wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.usefixtures("quiet", "no_thread_left")]
CODECS = ("gzip", "snappy", "lz4", "zstd")
MEDIA = b"a chunk of media " * 5000


def test_reads_what_producers_and_brokers_compress(
    config: KafkaConfig, topics: Topics, producer: Producer, admin: KafkaAdminClient, member: Callable[..., Member]
) -> None:
    names = [f"{config.topic_prefix}.{codec}" for codec in CODECS]
    admin.create_topics(
        {
            name: {"num_partitions": 1, "configs": {"compression.type": codec}}
            for name, codec in zip(names, CODECS, strict=True)
        }
    )
    admin.wait_for_topics(names)
    for codec in CODECS:
        client = KafkaProducer(bootstrap_servers=list(config.servers), compression_type=codec)
        client.send(topics.chunks, key=b"client", value=MEDIA + codec.encode(), partition=0)
        client.close()
    for name in names:  # the broker compresses these: Java's own forms of the codecs
        assert producer.send(name, b"broker", MEDIA).wait(HANG_SECONDS)
    with PartitionReader(config) as reader:
        found = [one.value for one in reader.read_to_end(topics.chunks, 0)]
        assert found == [MEDIA + codec.encode() for codec in CODECS]
        assert [one.value for name in names for one in reader.read_to_end(name, 0)] == [MEDIA] * len(CODECS)
    one = member()
    wait_until(lambda: one.poll() or len(one.records) == len(CODECS))
    assert one.values() == found


def test_a_batch_that_unpacks_to_too_much_is_one_record_and_the_next_ones_come(
    config: KafkaConfig, topics: Topics, member: Callable[..., Member], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compression, "MAX_UNPACKED_BYTES", 2 << 20)
    client = KafkaProducer(bootstrap_servers=list(config.servers), compression_type="zstd", max_request_size=8 << 20)
    for value in (b"before", bytes(4 << 20), b"after"):
        client.send(topics.chunks, key=b"k", value=value, partition=0).get(HANG_SECONDS)
    client.close()
    one = member()
    wait_until(lambda: one.poll() or len(one.records) == 3)
    with PartitionReader(config) as reader:
        assert list(reader.read_to_end(topics.chunks, 0)) == one.records
    bad = one.records[1]
    assert (bad.first_offset, bad.offset, bad.unreadable) == (1, 1, "it unpacks to over 2 MiB")
    assert [len(one.value or b"") < 5000 for one in one.records] == [True] * 3
    assert bad.is_broker_time


def test_records_of_an_aborted_transaction_do_not_exist(
    config: KafkaConfig, topics: Topics, member: Callable[..., Member]
) -> None:
    client = KafkaProducer(bootstrap_servers=list(config.servers), transactional_id=f"{config.topic_prefix}-publisher")
    client.init_transactions()
    for value, finish in (
        (b"a", client.commit_transaction), (b"aborted", client.abort_transaction), (b"b", client.commit_transaction),
    ):  # fmt: skip
        client.begin_transaction()
        client.send(topics.chunks, key=b"k", value=value, partition=0)
        client.flush(HANG_SECONDS)
        finish()
    client.close()
    one = member()
    with PartitionReader(config) as reader:
        assert [each.value for each in reader.read_to_end(topics.chunks, 0)] == [b"a", b"b"]
    wait_until(lambda: one.poll() or len(one.records) >= 2)
    wait_until(lambda: one.poll() or one.consumer.lag().get((topics.chunks, 0)) == 0)  # the markers are passed too
    assert one.values() == [b"a", b"b"]
