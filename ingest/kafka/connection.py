"""How clients of kafka-python are made and ended, and what their errors are called here."""

import re
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from kafka.errors import AuthorizationError, KafkaError, KafkaTimeoutError
from kafka.net.compat import KafkaNetClient

from ingest.config import KafkaConfig
from ingest.errors import BrokerUnavailable
from ingest.kafka.repairs import note_failures, repair_connections

Client = TypeVar("Client")

repair_connections()

# After an outage a client finds the broker again within this; kafka-python would take half a minute.
MAX_RECONNECT_SECONDS = 2.0
METADATA_SECONDS = 60.0  # how soon partitions that were added are seen

# What a failed connection's error says, what that means, and the settings to look at; the most telling first, since
# one cause has several errors.
CLUES = (
    ("SaslAuthenticationFailed", "the broker refuses the user", "kafka.sasl_username and kafka.sasl_password"),
    ("UnsupportedSaslMechanism", "the broker does not know this way to log in", "kafka.sasl_mechanism"),
    ("IllegalSaslState", "the broker knows no users here", "kafka.servers and kafka.security_protocol"),
    ("CERTIFICATE_VERIFY_FAILED", "the broker's certificate is not to be trusted", "kafka.servers and kafka.tls_ca"),
    ("ALERT", "the broker does not take our certificate", "kafka.tls_certificate and kafka.tls_key"),
    ("SSL", "the broker does not speak TLS here", "kafka.servers and kafka.security_protocol"),
    ("InvalidReceive", "what answers does not speak this protocol", "kafka.servers and kafka.security_protocol"),
    ("socket disconnected", "the broker hangs up on us", "kafka.servers, kafka.security_protocol and kafka.sasl_*"),
    ("DNS", "no such host", "kafka.servers"),
    ("ECONNREFUSED", "Connection refused", "kafka.servers"),
    ("UNREACH", "no way to the host", "kafka.servers"),
)


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
        said = e.strerror or str(e)
        raise BrokerUnavailable(
            config.servers,
            f"the files of TLS cannot be used: {said}",
            "see the settings kafka.tls_ca, kafka.tls_certificate and kafka.tls_key",
        ) from e
    return context


def connect(config: KafkaConfig, make: Callable[..., Client], **options: Any) -> Client:
    """Make a client of kafka-python; it has met a broker when this returns.

    Raises:
        BrokerUnavailable: If none answers in time, or none lets us in.
    """
    if not config.servers:
        raise BrokerUnavailable((), "no broker is named")
    begun: list[KafkaNetClient] = []
    failures: list[BaseException] = []

    def begin(**settings: Any) -> KafkaNetClient:
        begun.append(KafkaNetClient(**settings))
        note_failures(begun[0], failures)
        return begun[0]

    try:
        made = make(**client_options(config), **options, kafka_client=begin)
    except (KafkaError, OSError) as e:
        reason = unavailable(config, failures, e)
        for client in begun:  # its constructor has failed, so nobody else can end its thread
            client._manager._net.stop()
            client.close()
        raise reason from e
    for client in begun:
        del client._manager.get_connection  # nobody asks any more why connections fail
    return made


def unavailable(config: KafkaConfig, failures: Sequence[BaseException], error: Exception) -> BrokerUnavailable:
    """Say why no connection came about, and where to look."""
    if not isinstance(error, KafkaTimeoutError):
        return BrokerUnavailable(config.servers, one_line(error))
    said = [f"{type(failure).__name__} {one_line(failure)}" for failure in failures]
    for clue, reason, settings in CLUES:
        for text in said:
            if clue in text:
                detail = re.search(r"(?:verify failed|Authentication failed\w*): ([^(]+)", text)
                reason = f"{reason} ({detail[1].strip()})" if detail else reason
                return BrokerUnavailable(config.servers, reason, f"see the settings {settings}")
    return BrokerUnavailable(config.servers, f"no answer within {config.bootstrap_timeout_seconds:g} s")


@contextmanager
def translated(config: KafkaConfig) -> Iterator[None]:
    """Call kafka-python's errors by our name."""
    try:
        yield
    except KafkaError as e:
        raise as_ours(config.servers, e) from e


def as_ours(servers: Sequence[str], error: BaseException, what: str = "") -> BrokerUnavailable:
    """Call an error of kafka-python by our name, and say where to look."""
    reason = f"{what}: {one_line(error)}" if what else one_line(error)
    if isinstance(error, AuthorizationError):
        return BrokerUnavailable(servers, reason, "the broker's access control does not allow it to this user")
    return BrokerUnavailable(servers, reason)


def no_topic(config: KafkaConfig, topic: str) -> BrokerUnavailable:
    return BrokerUnavailable(config.servers, f"there is no topic {topic}", "`kinodex topics` makes the topics")


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def milliseconds(seconds: float) -> int:
    return max(0, round(1000 * seconds))
