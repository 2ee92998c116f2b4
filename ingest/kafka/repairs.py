"""What kafka-python 3.0 does that would lose records or hang, and what is done instead. Each has its test."""

import socket
import ssl
import time
from typing import Any

from kafka import KafkaProducer
from kafka.errors import BrokerResponseError
from kafka.net.compat import KafkaNetClient
from kafka.net.inet import KafkaNetSocket
from kafka.net.transport import KafkaSSLTransport, KafkaTCPTransport

HANDSHAKE_SECONDS = 5.0  # of TLS: two round trips and some arithmetic


def repair_connections() -> None:
    """Have connections that do not come about end, and the sockets of all that end closed.

    kafka-python waits for a TLS handshake without a bound, and leaves failed sockets to the garbage collector: an
    outage costs one every two seconds. It does so too where a request is not sent yet when a client is closed.
    """
    KafkaNetSocket.sock_connect = _connect
    KafkaSSLTransport.handshake = _handshake
    KafkaTCPTransport.close = _close


_connect_unrepaired = KafkaNetSocket.sock_connect


async def _connect(self: Any, net: Any, sock: socket.socket, address: Any, timeout_at: float | None = None) -> Any:
    try:
        return await _connect_unrepaired(self, net, sock, address, timeout_at=timeout_at)
    except BaseException:
        sock.close()
        raise


def _close(self: Any) -> None:
    self._write_buffer.clear()  # nobody waits for the answer any more
    _close_unrepaired(self)


_close_unrepaired = KafkaTCPTransport.close


async def _handshake(self: Any) -> None:
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


def note_failures(client: KafkaNetClient, failures: list[BaseException]) -> None:
    """Keep why connections fail: kafka-python only logs it, tries again, and says in the end that time ran out."""
    get_connection = client._manager.get_connection

    def get_noted(*arguments: Any, **options: Any) -> Any:
        connection = get_connection(*arguments, **options)
        connection.init_future.add_errback(failures.append)
        connection.close_future.add_errback(failures.append)
        return connection

    client._manager.get_connection = get_noted


def let_refusals_pass(producer: KafkaProducer) -> None:
    """Let a record that the broker refuses fail alone, as with Kafka's own client.

    kafka-python takes any refusal (a record too large for the topic, a topic that we may not write to) for the end of a
    producer that numbers its records: all others that wait fail with that error, and all that come later.
    """
    manager = producer._transaction_manager
    classify = manager.classify_batch_error

    def classify_batch_error(error: Exception, batch: Any, log_start_offset: int = -1) -> str:
        found: str = classify(error, batch, log_start_offset=log_start_offset)
        if found != manager.ERROR_CLASS_FATAL or not isinstance(error, BrokerResponseError):
            return found
        if type(error) in manager._FATAL_ERRORS or not manager.producer_id_and_epoch.match(batch):
            return found
        if batch.attempts > 0:  # the broker may have taken it before: only new numbers are safe
            return str(manager.ERROR_CLASS_NEEDS_EPOCH_BUMP)
        # It was not appended, and no other of its partition is under way: its numbers are those of the next.
        manager.set_sequence_number(batch.topic_partition, batch.records.base_sequence)
        return str(manager.ERROR_CLASS_RETRIABLE)  # which, from here, only means that nothing else happens

    manager.classify_batch_error = classify_batch_error
