"""Writes records, each at most once and in order within its partition, also while brokers restart."""

import logging
from collections.abc import Collection
from contextlib import suppress

from kafka import KafkaProducer
from kafka.errors import KafkaError, KafkaTimeoutError, MessageSizeTooLargeError, RecordListTooLargeError
from kafka.partitioner import murmur2
from kafka.producer.future import FutureRecordMetadata

from ingest.config import KafkaConfig
from ingest.errors import IngestError, RecordTooLarge
from ingest.kafka import repairs
from ingest.kafka.connection import CLOSE_SECONDS, broker_unavailable, connect, milliseconds, to_line, translate_errors
from ingest.kafka.record import MAX_RECORD_BYTES, PartitionId
from ingest.kafka.topics import Topics

logger = logging.getLogger(__name__)

REQUEST_SECONDS = 30.0  # longest wait for the answer to a request; kafka-python then connects again


class Delivery:
    """A record on its way to the broker. Any thread may read it."""

    __slots__ = ("_future", "_refusal", "_servers", "_subject")

    def __init__(
        self,
        servers: tuple[str, ...],
        subject: str,
        future: FutureRecordMetadata | None,
        refusal: Exception | None = None,
    ) -> None:
        """Take the record's topic and key as `subject`, and the error of a record that is not sent as `refusal`."""
        self._servers, self._subject, self._future, self._refusal = servers, subject, future, refusal

    @property
    def is_done(self) -> bool:
        """Whether the broker has stored the record, or never will."""
        return self._future is None or bool(self._future.is_done)

    @property
    def error(self) -> IngestError | None:
        """Why the broker will never store it: RecordTooLarge, or BrokerUnavailable after the delivery timeout."""
        error = self._refusal if self._future is None else self._future.exception
        if error is None:
            return None
        if isinstance(error, MessageSizeTooLargeError | RecordListTooLargeError):
            return RecordTooLarge(self._subject, to_line(error))
        return broker_unavailable(self._servers, error, f"{self._subject} was not delivered")

    @property
    def append_seconds(self) -> float | None:
        """When the broker appended it, in seconds since 1970; None while it has not."""
        if self._future is None or not self._future.succeeded():
            return None
        return float(self._future.value.timestamp) / 1000

    @property
    def offset(self) -> int | None:
        """At which offset the broker appended it; None while it has not."""
        if self._future is None or not self._future.succeeded():
            return None
        return int(self._future.value.offset)

    @property
    def place(self) -> tuple[PartitionId, int] | None:
        """In which partition and at which offset the broker appended it; None while it has not."""
        if self._future is None or not self._future.succeeded():
            return None
        return (self._future.value.topic, int(self._future.value.partition)), int(self._future.value.offset)

    def wait(self, timeout_seconds: float) -> bool:
        """Wait until is_done, at most so long; return is_done."""
        if self._future is not None and not self._future.is_done:
            with suppress(KafkaError):  # `error` reports it
                self._future.get(timeout_seconds)
        return self.is_done


class Producer:
    """Sends records in the background. Any thread may use it."""

    def __init__(self, config: KafkaConfig) -> None:
        """Connect.

        Raises:
            BrokerUnavailable: If no broker answers in time.
        """
        self._config = config
        request_seconds = min(REQUEST_SECONDS, config.delivery_timeout_seconds)
        self._producer, self._net_client = connect(
            config,
            KafkaProducer,
            acks="all",
            enable_idempotence=True,
            max_request_size=MAX_RECORD_BYTES,
            request_timeout_ms=milliseconds(request_seconds),
            delivery_timeout_ms=milliseconds(config.delivery_timeout_seconds),
            max_block_ms=milliseconds(config.bootstrap_timeout_seconds),
            allow_auto_create_topics=False,
        )
        repairs.fail_refused_records_alone(self._producer)
        topics = list(Topics(config.topic_prefix).configs())
        repairs.load_topics(self._producer, self._net_client, topics, config.bootstrap_timeout_seconds)

    def send(self, topic: str, key: bytes, value: bytes | None, *, partition: int | None = None) -> Delivery:
        """Begin to send a record. Blocks only for an unknown topic or partition, for bootstrap_timeout_seconds at most.

        Args:
            value: None for a tombstone.
            partition: None to let the key decide, as every client of Kafka does.
        """
        subject = f"{topic} {key.decode(errors='replace')}"
        if partition is not None and self._is_missing(topic, partition):
            repairs.refresh_metadata(self._net_client, self._config.bootstrap_timeout_seconds)
            if self._is_missing(topic, partition):
                return Delivery(self._config.servers, subject, None, KafkaError(f"there is no partition {partition}"))
        try:
            future = self._producer.send(topic, key=key, value=value, partition=partition)
        except KafkaError as e:
            if isinstance(e, KafkaTimeoutError):
                e = KafkaTimeoutError(f"there is no topic {topic}, or no broker (`kinodex topics` makes the topics)")
            return Delivery(self._config.servers, subject, None, e)
        return Delivery(self._config.servers, subject, future)

    def _is_missing(self, topic: str, partition: int) -> bool:
        """Return whether a topic is known without this partition. Of an unknown topic, sending tells why."""
        known = self._known_partitions(topic)
        return bool(known) and partition not in known

    def _known_partitions(self, topic: str) -> Collection[int]:
        return self._net_client.cluster.partitions_for_topic(topic) or ()

    def flush(self, timeout_seconds: float) -> bool:
        """Wait until all deliveries so far are done, at most so long; return whether they are."""
        try:
            self._producer.flush(timeout_seconds)
        except KafkaTimeoutError:
            return False
        return True

    def partition_of(self, topic: str, key: bytes) -> int:
        """Return the partition that holds a key's records.

        Raises:
            BrokerUnavailable: If no broker says how many partitions the topic has.
        """
        with translate_errors(self._config):
            partitions = sorted(self._producer.partitions_for(topic))
        return int(partitions[(murmur2(key) & 0x7FFFFFFF) % len(partitions)])

    def partition_count(self, topic: str) -> int:
        """Return how many partitions a topic has, as far as it is known: new ones are noticed after some seconds."""
        return len(self._known_partitions(topic))

    def close(self, timeout_seconds: float = CLOSE_SECONDS) -> None:
        """Send waiting records, at most so long, and end. Records that are left fail."""
        try:
            self._producer.close(timeout_seconds)
        except KafkaTimeoutError:  # of its flush
            logger.warning("records left unsent servers=%s", ",".join(self._config.servers))
            repairs.force_close(self._producer)
