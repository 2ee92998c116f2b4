"""A broker for the tests marked `kafka`, wherever they are: $KAFKA_BOOTSTRAP_SERVERS, else one of the session's own.

This folder must not become a package (no __init__.py): as one it would stand before the library named kafka.
"""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.broker import Broker, BrokerMissing


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The bootstrap servers of a broker that all tests of a session share; each makes topics of its own there."""
    given = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    if given:
        yield given
    else:
        broker = new_broker(tmp_path_factory.mktemp("kafka"))
        broker.start()
        yield broker.servers
        broker.kill()  # nothing of it is wanted any more, so there is nothing to wait for


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker of the test's own, running, to be killed and started again."""
    broker = new_broker(tmp_path / "kafka")
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def topic_prefix() -> str:
    """A name that no other test's topics, nor groups, begin with."""
    return f"test-{uuid.uuid4().hex[:12]}"


def new_broker(folder: Path, **options: object) -> Broker:
    """Make a broker, or skip; where $KINODEX_REQUIRE names kafka, fail."""
    try:
        return Broker(folder, **options)  # type: ignore[arg-type]
    except BrokerMissing as error:
        if "kafka" in os.environ.get("KINODEX_REQUIRE", "").split(","):
            pytest.fail(str(error))
        pytest.skip(str(error))
