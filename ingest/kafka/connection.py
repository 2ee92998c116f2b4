"""How clients of kafka-python are made and ended, and what their errors are called here."""

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from kafka.errors import KafkaError, KafkaTimeoutError
from kafka.net.compat import KafkaNetClient
from kafka.net.inet import KafkaNetSocket

from ingest.config import KafkaConfig
from ingest.errors import BrokerUnavailable

Client = TypeVar("Client")

# After an outage a client finds the broker again within this; kafka-python would take half a minute.
MAX_RECONNECT_SECONDS = 2.0
METADATA_SECONDS = 60.0  # how soon partitions that were added are seen
PROBE_SECONDS = 2.0


_connect_socket = KafkaNetSocket.sock_connect


async def _connect_socket_or_close(
    self: Any, net: Any, sock: socket.socket, address: Any, timeout_at: Any = None
) -> Any:
    """Close the socket of a connection that does not come about: kafka-python leaves that to the garbage collector,
    and an outage would cost a socket every two seconds."""
    try:
        return await _connect_socket(self, net, sock, address, timeout_at=timeout_at)
    except BaseException:
        sock.close()
        raise


KafkaNetSocket.sock_connect = _connect_socket_or_close


def client_options(config: KafkaConfig) -> dict[str, Any]:
    """Return what every client of kafka-python is told: where the brokers are, and who we are."""
    options: dict[str, Any] = {
        "bootstrap_servers": list(config.servers),
        "bootstrap_timeout_ms": milliseconds(config.bootstrap_timeout_seconds),
        "client_id": "kinodex",
        "reconnect_backoff_max_ms": milliseconds(MAX_RECONNECT_SECONDS),
        "metadata_max_age_ms": milliseconds(METADATA_SECONDS),
        "security_protocol": config.security_protocol,
    }
    if config.is_tls:
        options["ssl_context"] = tls_context(config)
    if config.sasl_mechanism:
        options["sasl_mechanism"] = config.sasl_mechanism
        options["sasl_plain_username"] = config.sasl_username
        options["sasl_plain_password"] = config.sasl_password
    return options


def tls_context(config: KafkaConfig) -> ssl.SSLContext:
    """Return whom to trust, and how to prove who we are.

    Raises:
        BrokerUnavailable: If a file cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=config.tls_ca or None)
        if config.tls_certificate:
            context.load_cert_chain(config.tls_certificate, config.tls_key or None)
    except OSError as e:  # SSLError is one
        raise BrokerUnavailable(config.servers, f"the files of kafka.tls_* cannot be used: {e}") from e
    return context


def connect(config: KafkaConfig, make: Callable[..., Client], **options: Any) -> Client:
    """Make a client of kafka-python; it has met a broker when this returns.

    Raises:
        BrokerUnavailable: If none answers in time, or none lets us in.
    """
    if not config.servers:
        raise BrokerUnavailable((), "no broker is named")
    begun: list[KafkaNetClient] = []

    def begin(**settings: Any) -> KafkaNetClient:
        begun.append(KafkaNetClient(**settings))
        return begun[0]

    try:
        return make(**client_options(config), **options, kafka_client=begin)
    except (KafkaError, OSError) as e:
        reason = why(config, begun, e)
        for client in begun:  # its constructor has failed, so nobody else can end its thread
            client._manager._net.stop()
            client.close()
        raise BrokerUnavailable(config.servers, reason) from e


def why(config: KafkaConfig, begun: "list[KafkaNetClient]", error: Exception) -> str:
    """Say in a line why no connection came about: kafka-python says only that time ran out."""
    for client in begun:
        for failure in client._manager._auth_failures.values():
            return one_line(failure)
    if not isinstance(error, KafkaTimeoutError):
        return one_line(error)
    for server in config.servers:
        host, _, port = server.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_SECONDS).close()
        except OSError as e:
            said = e.strerror or str(e)
            return said if len(config.servers) == 1 else f"{said} ({server})"
    return f"no answer within {config.bootstrap_timeout_seconds:g} s"


@contextmanager
def translated(config: KafkaConfig) -> Iterator[None]:
    """Call kafka-python's errors by our name."""
    try:
        yield
    except KafkaError as e:
        raise BrokerUnavailable(config.servers, one_line(e)) from e


def no_topic(config: KafkaConfig, topic: str) -> BrokerUnavailable:
    return BrokerUnavailable(config.servers, f"there is no topic {topic}", "`kinodex topics` makes the topics")


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def milliseconds(seconds: float) -> int:
    return max(0, round(1000 * seconds))
