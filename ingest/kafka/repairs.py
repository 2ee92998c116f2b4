"""Works around faults of kafka-python 3.0.12; no other file uses its private attributes.

Each repair names the fault and the upstream issue. At an upgrade of kafka-python, drop the repairs that it makes
needless: tests/ingest/kafka covers each of them.
"""

import socket
import ssl
import threading
import time
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import BrokerResponseError, KafkaTimeoutError
from kafka.net.compat import KafkaNetClient
from kafka.net.inet import KafkaNetSocket
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector
from kafka.net.transport import KafkaSSLTransport, KafkaTCPTransport
from kafka.record.default_records import DefaultRecordBatch

HANDSHAKE_SECONDS = 5.0  # bound of a TLS handshake: two round trips and some arithmetic
SENDER_STOP_SECONDS = 5.0  # wait for the thread of a producer whose records are given up


def repair_connections() -> None:
    """Replace three methods of kafka-python's network classes; see each replacement."""
    KafkaNetSocket.sock_connect = _connect_or_close
    KafkaSSLTransport.handshake = _handshake_in_time
    KafkaTCPTransport.close = _close_without_flush


_sock_connect, _transport_close = KafkaNetSocket.sock_connect, KafkaTCPTransport.close


async def _connect_or_close(self: Any, net: Any, sock: socket.socket, address: Any, timeout_at: Any = None) -> Any:
    """Close a socket that does not connect.

    Fault: the socket stays open until it is garbage-collected; an outage leaves one every two seconds. No upstream
    issue found.
    """
    try:
        return await _sock_connect(self, net, sock, address, timeout_at=timeout_at)
    except BaseException:
        sock.close()
        raise


async def _handshake_in_time(self: Any) -> None:
    """Bound the time of a TLS handshake, and close the socket if it fails.

    Fault: kafka.net waits without a bound for a server that accepts and says nothing. The client of 2.x had the same
    fault (https://github.com/dpkp/kafka-python/pull/1696); no upstream issue found for 3.x.
    """
    timeout_at = time.monotonic() + HANDSHAKE_SECONDS
    try:
        while True:
            try:
                self._sock.do_handshake()
                return
            except ssl.SSLWantReadError:
                await self._net.wait_read(self._sock, timeout_at=timeout_at)
            except ssl.SSLWantWriteError:
                await self._net.wait_write(self._sock, timeout_at=timeout_at)
    except BaseException:
        self._sock.close()
        raise


def _close_without_flush(self: Any) -> None:
    """Close the socket at once, even if a request is not sent yet: no caller waits for its answer.

    Fault: close() leaves the flush to a task, which a closed client does not run any more. The socket stays open until
    it is garbage-collected. No upstream issue found.
    """
    self._write_buffer.clear()
    _transport_close(self)


class NetClient(KafkaNetClient):  # type: ignore[misc]  # kafka-python has no types
    """kafka-python's network client. Its parts are public here, so that their methods need no private attributes."""

    def __init__(self, **settings: Any) -> None:
        self.net = NetworkSelector(**settings)
        self.manager = _FailureNotingManager(self.net, **settings)
        super().__init__(self.net, self.manager, **settings)

    def stop(self) -> None:
        """End the network thread and all connections, for a client whose constructor failed."""
        self.net.stop()
        self.close()


class _FailureNotingManager(KafkaConnectionManager):  # type: ignore[misc]  # kafka-python has no types
    """Notes why connections fail.

    Fault: kafka-python only logs the reason, tries again, and says in the end that time ran out.
    Upstream: https://github.com/dpkp/kafka-python/issues/2348
    """

    def __init__(self, net: NetworkSelector, **settings: Any) -> None:
        self.failures: list[BaseException] | None = []  # None: no longer noted
        super().__init__(net, **settings)

    def get_connection(self, *arguments: Any, **options: Any) -> Any:
        connection = super().get_connection(*arguments, **options)
        if self.failures is not None:
            connection.init_future.add_errback(self.failures.append)
            connection.close_future.add_errback(self.failures.append)
        return connection


def keep_unfinished_join(consumer: KafkaConsumer) -> None:
    """Let the next poll() finish a join of the group that the last one was too short for.

    Fault: kafka-python discards an answer that arrives between two polls, and joins again, which makes all members join
    again. If new metadata caused the join, it does not join again, and sends no heartbeats.
    Upstream: https://github.com/dpkp/kafka-python/pull/2617 repaired the same race in 2.x; no issue found for 3.x.
    """
    coordinator = consumer._coordinator
    task = coordinator._join_task
    if task is None or not coordinator.rejoining:
        return
    coordinator.request_rejoin()
    if not isinstance(task, _UnfinishedJoin):
        coordinator._join_task = _UnfinishedJoin(task)


class _UnfinishedJoin:
    """A join under way. It does not count as done before a poll() has taken its answer."""

    is_done = False

    def __init__(self, task: Any) -> None:
        self.add_callback, self.add_errback = task.add_callback, task.add_errback


def release_resumed_records(consumer: KafkaConsumer) -> None:
    """Let records come of a partition that was paused and is resumed.

    Fault: kafka-python puts fetched records of a paused partition aside. It takes them up only while it holds no
    records of another partition, and it counts records that are used up as held: the partition stays silent.
    Upstream: came with https://github.com/dpkp/kafka-python/pull/2981; no issue found.
    """
    fetcher = consumer._fetcher
    if not fetcher._next_partition_records:
        fetcher._next_partition_records = None


def batch_bytes(batch: DefaultRecordBatch) -> bytearray:
    """Return a batch that is not unpacked yet as the broker sent it. Unpacking leaves these bytes as they are.

    Fault: a batch that cannot be unpacked is an error without its bytes. No upstream issue found.
    """
    data: bytearray = batch._buffer
    return data


def read_end_and_position(consumer: KafkaConsumer, partition: TopicPartition) -> tuple[int | None, int | None]:
    """Return the end offset and the position of a partition, as far as they are known without asking the broker.

    Fault: KafkaConsumer.position() asks the broker for what it does not know. No upstream issue found.
    """
    state = consumer._subscription.assignment.get(partition)
    if state is None:
        return None, None
    return state.highwater, None if state.position is None else state.position.offset


def seconds_since_fetch(consumer: KafkaConsumer) -> float:
    """Return how long ago a broker last answered a request for records.

    Fault: poll() returns nothing while the broker is away, as it does while there are no records.
    Upstream: https://github.com/dpkp/kafka-python/issues/1474
    """
    return time.monotonic() - float(consumer._fetcher._sensors.fetch_latency._last_record_time) / 1000


def load_topics(producer: KafkaProducer, client: NetClient, topics: list[str], timeout_seconds: float) -> None:
    """Ask for the partitions of topics, so that the first record of each can wait in the background.

    Fault: send() blocks for a topic that it does not know yet, for max_block_ms while the broker is away.
    Upstream: https://github.com/dpkp/kafka-python/issues/1467
    """
    cluster = client.cluster
    for topic in topics:
        producer._sender.add_topic(topic)
    for _ in range(2):  # the first answer may belong to a request made before the topics were added
        refresh_metadata(client, timeout_seconds)
        if all(cluster.partitions_for_topic(topic) for topic in topics):
            return
    for topic in topics:
        if not cluster.partitions_for_topic(topic):
            cluster._topics.discard(topic)  # otherwise the broker is asked for a missing topic again and again


def refresh_metadata(client: NetClient, timeout_seconds: float) -> None:
    """Ask for the partitions of all topics that a client knows, and wait for the answer.

    Fault: send() raises ValueError for a partition that was added since the last answer, up to a minute ago. No
    upstream issue found.
    """
    is_answered = threading.Event()
    client.cluster.request_update().add_both(lambda _: is_answered.set())
    client.wakeup()
    is_answered.wait(timeout_seconds)


def force_close(producer: KafkaProducer) -> None:
    """Close a producer whose close() timed out, and fail the records that it still holds.

    Fault: close() flushes first and raises if that times out. It leaves its thread running, and a second call waits for
    the same records again. Upstream: since https://github.com/dpkp/kafka-python/pull/2537; no issue found.
    """
    producer._sender.force_close()
    producer._sender.join(SENDER_STOP_SECONDS)
    try:
        producer.close(0)
    except KafkaTimeoutError:
        producer._closed = True


def fail_refused_records_alone(producer: KafkaProducer) -> None:
    """Let a record that the broker refuses fail alone, as Kafka's own client does.

    Fault: an idempotent producer treats any refusal as fatal: a record too large for the topic, a topic that it may not
    write to. All waiting and all later records fail with the same error.
    No upstream issue found.
    """
    manager = producer._transaction_manager
    classify = manager.classify_batch_error

    def classify_batch_error(error: Exception, batch: Any, log_start_offset: int = -1) -> str:
        kind: str = classify(error, batch, log_start_offset=log_start_offset)
        if kind != manager.ERROR_CLASS_FATAL or not isinstance(error, BrokerResponseError):
            return kind
        if type(error) in manager._FATAL_ERRORS or not manager.producer_id_and_epoch.match(batch):
            return kind
        if batch.attempts > 0:  # the broker may have appended an earlier attempt: only new numbers are safe
            return str(manager.ERROR_CLASS_NEEDS_EPOCH_BUMP)
        # It was not appended, and no other batch of its partition is under way: the next one reuses its numbers.
        manager.set_sequence_number(batch.topic_partition, batch.records.base_sequence)
        return str(manager.ERROR_CLASS_RETRIABLE)  # the sender then only fails this batch

    manager.classify_batch_error = classify_batch_error
