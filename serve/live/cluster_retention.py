"""The retention of the whole cluster: a record in the topic of settings, which every server reads."""

import logging

from ingest.config import KafkaConfig
from ingest.errors import BrokerUnavailable
from ingest.kafka import PartitionReader, Producer, Record, Topics
from serve.codec.settings_records import read_retention_limits, retention_bytes
from serve.config import Retention, parse_retention
from serve.errors import RecordInvalid

logger = logging.getLogger(__name__)

RETENTION_KEY = b"retention"  # of the record in the topic of settings


def read_retention(record: Record) -> Retention:
    """Return the retention that a record puts into force. An invalid one is logged, and keeps everything."""
    try:
        retention = parse_retention(_limits(record))
    except (RecordInvalid, ValueError) as error:
        logger.error("retention of the cluster ignored: everything is kept offset=%d reason=%s", record.offset, error)
        return Retention()
    texts = ",".join(_limits(record))
    logger.info("retention of the cluster limits=%s", texts or "none")
    return retention


def load_limits(config: KafkaConfig) -> tuple[str, ...]:
    """Return the limits that are in force for the whole cluster; none: everything is kept.

    Raises:
        BrokerUnavailable: If no broker answers, or there is no topic of settings.
        RecordInvalid: If the record holds no limits.
    """
    topic, latest = Topics(config.topic_prefix).settings, None
    with PartitionReader(config) as reader:
        for partition in reader.partitions_of(topic):
            for record in reader.read_to_end(topic, partition):
                if record.key == RETENTION_KEY:
                    latest = record
    return () if latest is None else _limits(latest)


def store_limits(config: KafkaConfig, limits: tuple[str, ...]) -> None:
    """Put limits into force for the whole cluster, in place of those before; none: everything is kept.

    Raises:
        BrokerUnavailable: If the broker does not take the record in time.
    """
    producer = Producer(config)
    try:
        value = retention_bytes(limits) if limits else None
        delivery = producer.send(Topics(config.topic_prefix).settings, RETENTION_KEY, value)
        if not delivery.wait(config.bootstrap_timeout_seconds) or delivery.error is not None:
            raise delivery.error or BrokerUnavailable(config.servers, "the retention was not taken in time")
    finally:
        producer.close(0)


def _limits(record: Record) -> tuple[str, ...]:
    return () if record.value is None else read_retention_limits(record.value)
