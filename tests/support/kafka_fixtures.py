"""Brokers for all tests marked `kafka`: that of $KAFKA_BOOTSTRAP_SERVERS, else one for the session."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.broker import Broker, BrokerMissing


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The bootstrap servers of a broker that all tests of a session share; each test creates its own topics."""
    given = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    if given:
        yield given
    else:
        broker = new_broker(tmp_path_factory.mktemp("kafka"))
        broker.start()
        yield broker.servers
        broker.kill()  # its data is not needed any more, so it need not stop in order


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    """A running broker for one test, which may kill and start it again."""
    broker = new_broker(tmp_path / "kafka")
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def topic_prefix() -> str:
    """A prefix that no other test's topics or groups have."""
    return f"test-{uuid.uuid4().hex[:12]}"


def new_broker(folder: Path, **options: object) -> Broker:
    """Make a broker; if it is not possible, skip the test, or fail it if $KINODEX_REQUIRE names kafka."""
    try:
        return Broker(folder, **options)  # type: ignore[arg-type]
    except BrokerMissing as error:
        if "kafka" in os.environ.get("KINODEX_REQUIRE", "").split(","):
            pytest.fail(str(error))
        pytest.skip(str(error))
