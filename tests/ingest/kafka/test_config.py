"""KafkaConfig checks its values."""

from typing import Any

import pytest

from ingest.config import KafkaConfig

USER = {"sasl_mechanism": "PLAIN", "sasl_username": "alice", "sasl_password": "secret"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"servers": ("broker",)}, "servers must be host:port, got 'broker'"),
        ({"servers": ("broker:0",)}, "servers must be host:port"),
        ({"servers": (":9092",)}, "servers must be host:port"),
        ({"topic_prefix": "a b"}, "topic_prefix must be letters"),
        ({"topic_prefix": ""}, "topic_prefix must be letters"),
        ({"security_protocol": "TLS"}, "security_protocol must be PLAINTEXT"),
        ({"security_protocol": "SASL_SSL", **USER, "sasl_mechanism": "GSSAPI"}, "sasl_mechanism must be PLAIN"),
        (
            {"security_protocol": "SASL_SSL"},
            "sasl_mechanism, sasl_username and sasl_password or sasl_password_file must",
        ),
        ({"security_protocol": "SASL_SSL", **USER, "sasl_password_file": "p"}, "must be given, not both"),
        ({"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER"}, "sasl_token_file, and no user name"),
        ({"security_protocol": "SASL_SSL", **USER, "sasl_token_file": "t"}, "must be given with OAUTHBEARER only"),
        ({"sasl_password_file": "p"}, "must be given with SASL_PLAINTEXT or SASL_SSL only"),
        ({"security_protocol": "SSL", **USER}, "must be given with SASL_PLAINTEXT or SASL_SSL only"),
        ({"tls_ca": "ca.pem"}, "must be given with SSL or SASL_SSL only"),
        ({"security_protocol": "SSL", "tls_key": "key.pem"}, "tls_certificate and tls_key must be given together"),
        ({"partition_count": 0}, "partition_count must be > 0, got 0"),
        ({"replication_factor": 0}, "replication_factor must be >= 1, or -1, got 0"),
        ({"session_timeout_seconds": 0.0}, "session_timeout_seconds must be > 0"),
        ({"delivery_timeout_seconds": -1.0}, "delivery_timeout_seconds must be > 0"),
        ({"bootstrap_timeout_seconds": 0.0}, "bootstrap_timeout_seconds must be > 0"),
    ],
)
def test_refuses_invalid_settings(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KafkaConfig(**given)


def test_accepts_valid_settings() -> None:
    assert KafkaConfig(servers=("[::1]:9092", "broker.example:9093")).topic_prefix == "kinodex"
    assert KafkaConfig(security_protocol="SASL_SSL", **USER, tls_certificate="a", tls_key="b", tls_ca="c").is_tls  # type: ignore[arg-type]


def test_repr_hides_the_password() -> None:
    assert "secret" not in repr(KafkaConfig(security_protocol="SASL_SSL", **USER))  # type: ignore[arg-type]
