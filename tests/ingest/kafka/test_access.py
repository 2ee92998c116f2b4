"""Logging in to a broker, and the errors that explain a refusal."""

import base64
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType

from ingest.config import KafkaConfig
from ingest.errors import BrokerUnavailable
from ingest.kafka import GroupConsumer, PartitionReader, Producer, Topics, create_topics, describe_topics
from support.secured import USERS, Secured, start_secured
from support.waiting import HANG_SECONDS, wait_until

pytestmark = pytest.mark.kafka
PATIENCE_SECONDS = (1.0, 5.0, 25.0, 125.0)  # a slow machine needs a later one, until a connection has failed
AUTHORIZATION = r"Authorization.* \(the broker's access control does not allow it to this user\)"
# A broker sends its reason and hangs up at once: the client may see only the latter.
HANGS_UP = "the broker hangs up on us"

TLS: dict[str, Any] = {"security_protocol": "SSL", "tls_ca": "ca.pem"}
CERTIFICATE: dict[str, Any] = {**TLS, "tls_certificate": "client.pem", "tls_key": "key.pem"}


def user(name: str, mechanism: str = "PLAIN", password: str | None = None) -> dict[str, Any]:
    password = USERS[name] if password is None else password
    given = {"sasl_username": name, "sasl_password": password, "sasl_mechanism": mechanism}
    return {"security_protocol": "SASL_PLAINTEXT", **given}


def write_token(path: Path, name: str) -> None:
    """Write a token without a signature (RFC 7515), valid for an hour."""
    now = int(time.time())
    parts = ({"alg": "none"}, {"sub": name, "iat": now, "exp": now + 3600})
    texts = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    path.write_text(".".join(texts) + ".\n")


def over_tls(given: dict[str, Any]) -> dict[str, Any]:
    return {**given, "security_protocol": "SASL_SSL", "tls_ca": "ca.pem"}


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    secured = start_secured(tmp_path_factory.mktemp("secured"))
    yield secured
    secured.broker.kill()


@pytest.fixture
def prefix(secured: Secured, topic_prefix: str) -> str:
    create_topics(config_at(secured, "PLAINTEXT", topic_prefix))
    return topic_prefix


def config_at(secured: Secured, listener: str, prefix: str, **given: Any) -> KafkaConfig:
    files = {key: str(secured.folder / value) for key, value in given.items() if key.startswith("tls_") and value}
    return KafkaConfig(
        servers=(secured.address(listener),),
        topic_prefix=prefix,
        partition_count=2,
        bootstrap_timeout_seconds=HANG_SECONDS,
        **{**given, **files},
    )


@pytest.mark.parametrize(
    ("listener", "given"),
    [
        ("PASSWORD", user("alice", "PLAIN")),
        ("PASSWORD", user("alice", "SCRAM-SHA-256")),
        ("PASSWORD", user("alice", "SCRAM-SHA-512")),
        ("BOTH", over_tls(user("alice", "SCRAM-SHA-512"))),
        ("TLS", TLS),
        ("MUTUAL", CERTIFICATE),
    ],
    ids=lambda value: value if isinstance(value, str) else value.get("sasl_mechanism", ""),
)
def test_accepts_valid_credentials(secured: Secured, prefix: str, listener: str, given: dict[str, Any]) -> None:
    config, chunks = config_at(secured, listener, prefix, **given), Topics(prefix).chunks
    assert {outcome.state for outcome in describe_topics(config)} == {"exists"}
    producer = Producer(config)
    delivery = producer.send(chunks, b"k", b"v", partition=0)
    assert (delivery.wait(HANG_SECONDS), delivery.error) == (True, None)
    producer.close(5.0)
    with PartitionReader(config) as reader:
        assert [record.value for record in reader.read_to_end(chunks, 0)] == [b"v"]
    consumer = GroupConsumer(config, [chunks], group=prefix, on_assigned=_ignore, on_revoked=_ignore, on_lost=_ignore)
    assert [record.value for record in wait_until(lambda: consumer.poll(0.1))] == [b"v"]
    consumer.close()


def test_accepts_a_password_and_a_token_in_files(secured: Secured, prefix: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(f"{USERS['alice']}\n")
    password = {**user("alice", password=""), "sasl_password_file": str(secret)}
    token = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "OAUTHBEARER", "sasl_token_file": str(secret)}
    assert describe_topics(config_at(secured, "PASSWORD", prefix, **password))
    write_token(secret, "alice")
    assert {outcome.state for outcome in describe_topics(config_at(secured, "TOKEN", prefix, **token))} == {"exists"}
    for content, problem in (("", "is empty"), (None, "cannot be read: No such file")):
        secret.unlink() if content is None else secret.write_text(content)
        for given in (password, token):
            with pytest.raises(BrokerUnavailable, match=problem):
                describe_topics(config_at(secured, "PASSWORD", prefix, **given))


@pytest.mark.parametrize(
    ("listener", "given", "reason", "settings"),
    [
        ("PASSWORD", user("alice", password="wrong"), f"the broker refuses the user|{HANGS_UP}", "kafka.sasl_"),
        ("PASSWORD", user("alice", "SCRAM-SHA-256", "wrong"), f"the broker refuses the user|{HANGS_UP}", "kafka.sasl_"),
        ("BOTH", over_tls(user("alice", password="wrong")), f"the broker refuses the user|{HANGS_UP}", "kafka.sasl_"),
        ("PASSWORD", {}, HANGS_UP, "kafka.security_protocol"),
        ("TLS", {}, f"the server does not speak this protocol|{HANGS_UP}", "kafka.security_protocol"),
        ("PLAINTEXT", TLS, "the broker does not speak TLS here", "kafka.security_protocol"),
        ("PLAINTEXT", user("alice"), "the broker knows no users here", "kafka.security_protocol"),
        ("BOTH", user("alice"), "", "kafka.security_protocol"),
        ("BOTH", TLS, HANGS_UP, "kafka.sasl_*"),
        ("TLS", {**TLS, "tls_ca": "other.pem"}, r"is not trusted \(unable to get local issuer", "kafka.tls_ca"),
        ("TLS", {**TLS, "tls_ca": ""}, "the broker's certificate is not trusted", "kafka.tls_ca"),
        ("MISNAMED", TLS, "certificate is not valid for '127.0.0.1'", "kafka.servers"),
        ("MUTUAL", TLS, "the broker does not accept our certificate", "kafka.tls_certificate and kafka.tls_key"),
        ("TLS", {**TLS, "tls_ca": "none.pem"}, "the TLS files cannot be used: No such file", "kafka.tls_ca"),
    ],
)  # fmt: skip
def test_refused_credentials_are_explained_in_time(
    secured: Secured, topic_prefix: str, listener: str, given: dict[str, Any], reason: str, settings: str
) -> None:
    said = failure(Producer, config_at(secured, listener, topic_prefix, **given))
    assert said.startswith("Kafka is not available: ")
    assert re.search(reason, said)
    assert settings in said
    assert secured.address(listener) in said
    assert "\n" not in said
    assert "wrong" not in said


def failure(connect: Callable[[KafkaConfig], object], config: KafkaConfig) -> str:
    """Return the text of the error of connecting, which comes in time."""
    for seconds in PATIENCE_SECONDS:
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable) as raised:
            connect(replace(config, bootstrap_timeout_seconds=seconds))
        assert time.monotonic() - began < seconds + HANG_SECONDS
        if "no answer within" not in str(raised.value):
            break
    return str(raised.value)


@pytest.mark.parametrize(
    ("server", "reason"), [("127.0.0.1:1", "Connection refused"), ("no-such-host.invalid:9092", "no such host")]
)
def test_a_missing_broker_is_explained(server: str, reason: str) -> None:
    assert f"{reason}: {server}" in failure(PartitionReader, KafkaConfig(servers=(server,)))


@pytest.mark.parametrize("given", [{}, user("alice"), {"security_protocol": "SSL"}])
def test_a_silent_server_is_given_up(given: dict[str, Any]) -> None:
    began = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(BrokerUnavailable, match=f"no answer within 1 s: {server}"):
            describe_topics(KafkaConfig(servers=(server,), bootstrap_timeout_seconds=1.0, **given))
    assert time.monotonic() - began < HANG_SECONDS


def test_one_broker_that_answers_is_enough(secured: Secured, prefix: str) -> None:
    config = config_at(secured, "PLAINTEXT", prefix)
    assert describe_topics(replace(config, servers=("127.0.0.1:1", "no-such-host.invalid:9092", *config.servers)))


def test_missing_rights_to_a_topic_are_explained(secured: Secured, prefix: str) -> None:
    topics, bob = Topics(prefix), config_at(secured, "PASSWORD", prefix, **user("bob"))
    grant(secured, "User:bob", ACLOperation.DESCRIBE, topics.segments)  # but not WRITE
    grant(secured, "User:alice", ACLOperation.ALL, topics.deletions)  # which excludes all other users
    producer = Producer(bob)
    for topic in (topics.segments, topics.deletions):
        delivery = producer.send(topic, b"k", b"v", partition=0)
        assert delivery.wait(HANG_SECONDS)
        assert isinstance(delivery.error, BrokerUnavailable)
        assert re.search(AUTHORIZATION, str(delivery.error))
        assert topic in str(delivery.error)
    assert producer.send(topics.chunks, b"k", b"v").wait(HANG_SECONDS)
    allowed = producer.send(topics.chunks, b"k", b"v")  # the refused records fail alone
    assert (allowed.wait(HANG_SECONDS), allowed.error) == (True, None)
    producer.close(5.0)
    producer = Producer(config_at(secured, "PASSWORD", prefix, **user("alice")))
    assert producer.send(topics.segments, b"k", b"v", partition=0).wait(HANG_SECONDS)
    producer.close(5.0)
    with PartitionReader(bob) as reader, pytest.raises(BrokerUnavailable, match=AUTHORIZATION):
        list(reader.read_to_end(topics.segments, 0))
    with PartitionReader(bob) as reader, pytest.raises(BrokerUnavailable, match=AUTHORIZATION):
        reader.partitions_of(topics.deletions)
    with pytest.raises(BrokerUnavailable, match=AUTHORIZATION):
        describe_topics(bob)


def test_missing_rights_to_a_group_are_explained(secured: Secured, prefix: str) -> None:
    bob = config_at(secured, "PASSWORD", prefix, **user("bob"))
    grant(secured, "User:alice", ACLOperation.ALL, f"{prefix}-workers", ResourceType.GROUP)
    consumer = GroupConsumer(
        bob,
        [Topics(prefix).chunks],
        group=f"{prefix}-workers",
        on_assigned=_ignore,
        on_revoked=_ignore,
        on_lost=_ignore,
    )
    with pytest.raises(BrokerUnavailable, match=AUTHORIZATION):
        wait_until(lambda: consumer.poll(0.1))
    consumer.close()


def grant(
    secured: Secured, principal: str, operation: ACLOperation, name: str, kind: ResourceType = ResourceType.TOPIC
) -> None:
    """Grant a right to one user. From then on, all users need granted rights to this resource."""
    with KafkaAdminClient(bootstrap_servers=secured.address("PLAINTEXT")) as admin:
        admin.create_acls([ACL(principal, "*", operation, ACLPermissionType.ALLOW, ResourcePattern(kind, name))])


def _ignore(_: object) -> None:
    pass
