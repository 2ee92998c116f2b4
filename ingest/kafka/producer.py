"""Writes records, each at most once and in order within its partition, through broker restarts."""

import logging
import threading
from contextlib import suppress

from kafka import KafkaProducer
from kafka.errors import (
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
)
from kafka.partitioner import murmur2
from kafka.producer.future import FutureRecordMetadata

from ingest.config import KafkaConfig
from ingest.errors import IngestError, RecordTooLarge
from ingest.kafka.connection import as_ours, connect, milliseconds, one_line, translated
from ingest.kafka.record import MAX_RECORD_BYTES
from ingest.kafka.repairs import let_refusals_pass
from ingest.kafka.topics import Topics

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 10.0
STOP_SECONDS = 5.0  # for the thread of a producer that is given up
REQUEST_SECONDS = 30.0  # after which a broker that has taken a request and is silent is given up


class Delivery:
    """A record on its way to the broker. May be looked at from any thread."""

    __slots__ = ("_future", "_refused", "_servers", "_what")

    def __init__(
        self, servers: tuple[str, ...], what: str, future: FutureRecordMetadata | None, refused: Exception | None = None
    ) -> None:
        self._servers, self._what, self._future, self._refused = servers, what, future, refused

    @property
    def is_done(self) -> bool:
        """Whether the broker has it for good, or never will."""
        return self._future is None or bool(self._future.is_done)

    @property
    def error(self) -> IngestError | None:
        """Why the broker will never have it: RecordTooLarge, or BrokerUnavailable after the delivery timeout."""
        found = self._refused if self._future is None else self._future.exception
        if found is None:
            return None
        if isinstance(found, MessageSizeTooLargeError | RecordListTooLargeError):
            return RecordTooLarge(self._what, one_line(found))
        return as_ours(self._servers, found, f"{self._what} was not delivered")

    @property
    def append_seconds(self) -> float | None:
        """When the broker appended it (seconds since 1970); None: it has not."""
        if self._future is None or not self._future.succeeded():
            return None
        return float(self._future.value.timestamp) / 1000

    @property
    def offset(self) -> int | None:
        """Where the broker appended it; None: it has not."""
        if self._future is None or not self._future.succeeded():
            return None
        return int(self._future.value.offset)

    def wait(self, timeout_seconds: float) -> bool:
        """Wait until is_done; whether it is."""
        if self._future is not None and not self._future.is_done:
            with suppress(KafkaError):  # `error` says it
                self._future.get(timeout_seconds)
        return self.is_done


class Producer:
    """Sends records, in the background. May be used from any thread."""

    def __init__(self, config: KafkaConfig) -> None:
        """Connect.

        Raises:
            BrokerUnavailable: If no broker answers in time.
        """
        self._config = config
        request_seconds = min(REQUEST_SECONDS, config.delivery_timeout_seconds)
        self._producer = connect(
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
        let_refusals_pass(self._producer)
        self._meet_topics()

    def send(self, topic: str, key: bytes, value: bytes | None, *, partition: int | None = None) -> Delivery:
        """Begin to send a record. Waits only for a topic that it does not know yet, and no longer than for a broker.

        Args:
            value: None: a tombstone.
            partition: None: the key decides, as with every client of Kafka.
        """
        what = f"{topic} {key.decode(errors='replace')}"
        try:
            future = self._producer.send(topic, key=key, value=value, partition=partition)
        except KafkaError as e:
            if isinstance(e, KafkaTimeoutError) and self._producer._metadata.partitions_for_topic(topic) is None:
                e = KafkaTimeoutError(f"there is no topic {topic}, or no broker (`kinodex topics` makes the topics)")
            return Delivery(self._config.servers, what, None, e)
        return Delivery(self._config.servers, what, future)

    def _meet_topics(self) -> None:
        """Learn where our topics are, so that the first record of one waits in the background if the broker is away."""
        cluster, learnt = self._producer._metadata, threading.Event()
        names = list(Topics(self._config.topic_prefix).configs())
        for name in names:
            self._producer._sender.add_topic(name)
        for _ in range(2):  # the first answer may be to what was asked before
            learnt.clear()
            cluster.request_update().add_both(lambda _: learnt.set())
            self._producer._sender.wakeup()
            learnt.wait(self._config.bootstrap_timeout_seconds)
            if all(cluster.partitions_for_topic(name) for name in names):
                return
        for name in names:
            if not cluster.partitions_for_topic(name):
                cluster._topics.discard(name)  # else the broker is asked for it again and again

    def flush(self, timeout_seconds: float) -> bool:
        """Wait until everything sent so far is done; whether it is."""
        try:
            self._producer.flush(timeout_seconds)
        except KafkaTimeoutError:
            return False
        return True

    def partition_of(self, topic: str, key: bytes) -> int:
        """Return the partition that a key's records are in.

        Raises:
            BrokerUnavailable: If no broker says how many partitions the topic has.
        """
        with translated(self._config):
            partitions = sorted(self._producer.partitions_for(topic))
        return int(partitions[(murmur2(key) & 0x7FFFFFFF) % len(partitions)])

    def close(self, timeout_seconds: float = CLOSE_SECONDS) -> None:
        """Send what is waiting, as far as that is possible in time, and end. What is left has failed."""
        try:
            self._producer.close(timeout_seconds)
        except KafkaTimeoutError:  # of its flush
            logger.warning("records left unsent servers=%s", ",".join(self._config.servers))
            self._producer._sender.force_close()  # without it, closing would wait for these records again, and fail
            self._producer._sender.join(STOP_SECONDS)
            with suppress(KafkaTimeoutError):
                self._producer.close(0)
            self._producer._closed = True
