"""Feeds a catalog from Kafka in a process of its own: feed_child.py DIR SERVERS PREFIX STATEMENT_COUNT.

Ends when it has read everything that was there; dies of kill -9 at the given statement of SQL, if it gets there.
"""

import os
import signal
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from prometheus_client import CollectorRegistry

from ingest.config import KafkaConfig
from serve.catalog.catalog import Catalog
from serve.config import ServerConfig
from serve.live.feed import Feed
from serve.observe.metrics import LiveMetrics
from serve.settings import Settings
from support.hand_made import FINGERPRINT, SPACE
from support.waiting import HANG_SECONDS

if __name__ == "__main__":
    directory, servers, prefix, statement_count = sys.argv[1:]
    remaining = int(statement_count)

    def count(statement: str) -> None:
        global remaining
        remaining -= 1
        if remaining == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    with Catalog.open_writer(Path(directory)) as catalog:
        catalog.set_space(SPACE)
    settings = Settings(
        kafka=KafkaConfig(servers=(servers,), topic_prefix=prefix), server=ServerConfig(retention=("old=1h",))
    )
    ended, errors = threading.Event(), []

    def end(error: Exception) -> None:
        errors.append(error)
        ended.set()

    feed = Feed(
        Path(directory),
        settings,
        FINGERPRINT,
        LiveMetrics(CollectorRegistry()),
        on_change=lambda: None,
        on_caught_up=ended.set,
        on_away=lambda: None,
        on_end=end,
    )
    feed.catalog._connection.set_trace_callback(count)
    feed.start()
    ended.wait(HANG_SECONDS)
    feed.stop()
    sys.exit(1 if errors else 0)
