"""A broker with listeners for certificates, passwords and both, and with users of limited rights."""

from dataclasses import dataclass
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from support.broker import Broker
from support.kafka_fixtures import new_broker

LISTENERS = {
    "PASSWORD": "SASL_PLAINTEXT",
    "TLS": "SSL",
    "MUTUAL": "SSL",  # asks clients for a certificate
    "MISNAMED": "SSL",  # shows a certificate of another host
    "BOTH": "SASL_SSL",
    "TOKEN": "SASL_PLAINTEXT",  # takes tokens of OAUTHBEARER without a signature
}
USERS = {"alice": "open sesame", "bob": "let me in"}


@dataclass(frozen=True, kw_only=True)
class Secured:
    """The broker, and the folder with the files of its clients.

    These are ca.pem, client.pem with its key.pem, and other.pem, an authority that signed no certificate here.
    """

    broker: Broker
    folder: Path

    def address(self, listener: str) -> str:
        """Return the bootstrap address of one listener."""
        return self.broker.address(listener)


def start_secured(folder: Path) -> Secured:
    """Start the broker. The caller stops `broker`."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    trustme.CA().cert_pem.write_to_path(str(folder / "other.pem"))
    client = ca.issue_cert("client.example")
    client.private_key_pem.write_to_path(str(folder / "key.pem"))
    (folder / "client.pem").write_bytes(b"".join(each.bytes() for each in client.cert_chain_pems))
    for name, hosts in (("broker", ("127.0.0.1", "localhost")), ("misnamed", ("elsewhere.example",))):
        leaf = ca.issue_cert(*hosts)
        key = load_pem_private_key(leaf.private_key_pem.bytes(), None)
        text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())  # the only format that Java reads
        (folder / f"{name}.pem").write_bytes(text + b"".join(each.bytes() for each in leaf.cert_chain_pems))
    known = " ".join(f'user_{name}="{password}"' for name, password in USERS.items())
    properties = {
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
        "listener.name.token.sasl.enabled.mechanisms": "OAUTHBEARER",
        "listener.name.token.oauthbearer.sasl.jaas.config": (
            "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required"
            ' unsecuredLoginStringClaim_sub="broker";'
        ),
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(folder / "broker.pem"),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(folder / "ca.pem"),
        "listener.name.mutual.ssl.client.auth": "required",
        "listener.name.misnamed.ssl.keystore.type": "PEM",
        "listener.name.misnamed.ssl.keystore.location": str(folder / "misnamed.pem"),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS;User:alice",
        "allow.everyone.if.no.acl.found": "true",
    }
    security = "org.apache.kafka.common.security"
    for listener in ("password", "both"):
        prefix = f"listener.name.{listener}"
        properties[f"{prefix}.plain.sasl.jaas.config"] = f"{security}.plain.PlainLoginModule required {known};"
        for mechanism in ("scram-sha-256", "scram-sha-512"):
            properties[f"{prefix}.{mechanism}.sasl.jaas.config"] = f"{security}.scram.ScramLoginModule required;"
    scram = [
        option
        for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512")
        for name, password in USERS.items()
        for option in ("--add-scram", f"{mechanism}=[name={name},password={password}]")
    ]
    broker = new_broker(folder / "kafka", listeners=LISTENERS, properties=properties, format_options=scram)
    broker.start()
    return Secured(broker=broker, folder=folder)
