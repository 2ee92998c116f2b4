"""Makes clients of kafka-python, and turns kafka-python's errors into BrokerUnavailable."""

import re
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from kafka.errors import AuthorizationError, KafkaError, KafkaTimeoutError, SaslAuthenticationFailedError
from kafka.net.sasl.oauth import AbstractTokenProvider

from ingest.config import KafkaConfig
from ingest.errors import BrokerUnavailable
from ingest.kafka.batches import repair_batches
from ingest.kafka.repairs import NetClient, repair_connections

Client = TypeVar("Client")

repair_connections()
repair_batches()

# Longest pause between two attempts to connect; kafka-python's default of 30 s would prolong each outage.
MAX_RECONNECT_SECONDS = 2.0
METADATA_SECONDS = 10.0  # how often metadata is read again; partitions that were added are seen after at most this
CLOSE_SECONDS = 10.0  # default bound of closing a client
SECRET_FILES = "see the settings kafka.sasl_password_file and kafka.sasl_token_file"
MAX_REASON_CHARS = 300  # of kafka-python's error texts, some of which contain whole requests

# A part of a failed connection's error, its meaning, and the settings to look at. One cause can have several errors:
# the clue that says most comes first.
CLUES = (
    ("SaslAuthenticationFailed", "the broker refuses the user", "kafka.sasl_*"),
    ("UnsupportedSaslMechanism", "the broker does not know this way to log in", "kafka.sasl_mechanism"),
    ("IllegalSaslState", "the broker knows no users here", "kafka.servers and kafka.security_protocol"),
    ("CERTIFICATE_VERIFY_FAILED", "the broker's certificate is not trusted", "kafka.servers and kafka.tls_ca"),
    ("ALERT", "the broker does not accept our certificate", "kafka.tls_certificate and kafka.tls_key"),
    ("SSL", "the broker does not speak TLS here", "kafka.servers and kafka.security_protocol"),
    ("InvalidReceive", "the server does not speak this protocol", "kafka.servers and kafka.security_protocol"),
    ("socket disconnected", "the broker hangs up on us", "kafka.servers, kafka.security_protocol and kafka.sasl_*"),
    ("DNS", "no such host", "kafka.servers"),
    ("ECONNREFUSED", "Connection refused", "kafka.servers"),
    ("UNREACH", "no way to the host", "kafka.servers"),
)


def connect(config: KafkaConfig, make: Callable[..., Client], **options: Any) -> tuple[Client, NetClient]:
    """Connect a client of kafka-python, of the class `make` and these options; return it and its network client.

    Raises:
        BrokerUnavailable: If no broker answers in time, or none accepts us.
    """
    if not config.servers:
        raise BrokerUnavailable((), "no broker is named")
    opened: list[NetClient] = []

    def open_net_client(**settings: Any) -> NetClient:
        opened.append(NetClient(**settings))
        return opened[-1]

    try:
        client = make(**client_options(config), **options, kafka_client=open_net_client)
    except (KafkaError, OSError) as e:
        error = explain_failure(config, [f for net_client in opened for f in net_client.manager.failures or ()], e)
        for net_client in opened:  # the failed constructor leaves its thread behind
            net_client.stop()
        raise error from e
    (net_client,) = opened
    net_client.manager.failures = None
    return client, net_client


def client_options(config: KafkaConfig) -> dict[str, Any]:
    """Return the options that all clients of kafka-python share: where the brokers are, and who we are."""
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
    if config.sasl_mechanism == "OAUTHBEARER":
        read_secret_file(
            config, config.sasl_token_file
        )  # a missing file is an error now, and not at the first connection
        options |= {"sasl_mechanism": config.sasl_mechanism, "sasl_oauth_token_provider": TokenFile(config)}
    elif config.sasl_mechanism:
        options["sasl_mechanism"] = config.sasl_mechanism
        options["sasl_plain_username"] = config.sasl_username
        options["sasl_plain_password"] = config.sasl_password or read_secret_file(config, config.sasl_password_file)
    return options


class TokenFile(AbstractTokenProvider):  # type: ignore[misc]  # kafka-python has no types
    """Gives kafka-python the token of OAUTHBEARER, which another program renews in a file."""

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config

    def token(self) -> str:
        """Return the token for a new connection.

        Raises:
            SaslAuthenticationFailedError: If the file cannot be used; kafka-python then tries again.
        """
        try:
            return read_secret_file(self._config, self._config.sasl_token_file)
        except BrokerUnavailable as e:
            raise SaslAuthenticationFailedError(str(e)) from e


def read_secret_file(config: KafkaConfig, path: str) -> str:
    """Return the text of a file with a password or a token, without white space around it.

    Raises:
        BrokerUnavailable: If the file cannot be read, or is empty.
    """
    try:
        secret = Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as e:
        reason = getattr(e, "strerror", None) or "not UTF-8"
        raise BrokerUnavailable(config.servers, f"{path} cannot be read: {reason}", SECRET_FILES) from e
    if not secret:
        raise BrokerUnavailable(config.servers, f"{path} is empty", SECRET_FILES)
    return secret


def tls_context(config: KafkaConfig) -> ssl.SSLContext:
    """Return which certificates we trust, and the one that we show.

    Raises:
        BrokerUnavailable: If a file cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=config.tls_ca or None)
        if config.tls_certificate:
            context.load_cert_chain(config.tls_certificate, config.tls_key or None)
    except OSError as e:  # SSLError is one
        raise BrokerUnavailable(
            config.servers,
            f"the TLS files cannot be used: {e.strerror or e}",
            "see the settings kafka.tls_ca, kafka.tls_certificate and kafka.tls_key",
        ) from e
    return context


def explain_failure(config: KafkaConfig, failures: Sequence[BaseException], error: Exception) -> BrokerUnavailable:
    """Say why a constructor failed with `error` and its connections with `failures`, and which settings to look at."""
    if not isinstance(error, KafkaTimeoutError):
        return BrokerUnavailable(config.servers, to_line(error))
    texts = [f"{type(failure).__name__} {to_line(failure)}" for failure in failures]
    for clue, reason, settings in CLUES:
        for text in texts:
            if clue in text:
                detail = re.search(r"(?:verify failed|Authentication failed\w*): ([^(]+)", text)
                reason = f"{reason} ({detail[1].strip()})" if detail else reason
                return BrokerUnavailable(config.servers, reason, f"see the settings {settings}")
    return BrokerUnavailable(config.servers, f"no answer within {config.bootstrap_timeout_seconds:g} s")


@contextmanager
def translate_errors(config: KafkaConfig) -> Iterator[None]:
    """Raise BrokerUnavailable for an error of kafka-python."""
    try:
        yield
    except KafkaError as e:
        raise broker_unavailable(config.servers, e) from e


def broker_unavailable(servers: Sequence[str], error: BaseException, subject: str = "") -> BrokerUnavailable:
    """Turn an error of kafka-python, about `subject`, into ours, and say where to look."""
    reason = f"{subject}: {to_line(error)}" if subject else to_line(error)
    if isinstance(error, AuthorizationError):
        return BrokerUnavailable(servers, reason, "the broker's access control does not allow it to this user")
    return BrokerUnavailable(servers, reason)


def topic_missing(config: KafkaConfig, topic: str) -> BrokerUnavailable:
    return BrokerUnavailable(config.servers, f"there is no topic {topic}", "`kinodex topics` makes the topics")


def to_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:MAX_REASON_CHARS] or type(error).__name__


def milliseconds(seconds: float) -> int:
    return max(0, round(1000 * seconds))
