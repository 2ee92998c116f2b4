"""The metrics of event delivery."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from serve.catalog.catalog import Catalog
from serve.catalog.events import EventLog
from serve.config import ServerConfig
from serve.moderation.followers import Followers
from serve.moderation.webhook import DEAD_LETTERS_NAME
from serve.observe.metrics import ServerMetrics
from serve.settings import Settings
from support.sample_catalog import SPACE, put
from support.sample_events import put_events

WEBHOOK = ServerConfig(webhook_url="http://127.0.0.1:1/", webhook_secret="a secret of some bytes")


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog.open_writer(tmp_path) as opened:
        opened.set_space(SPACE)
        yield opened


def test_metrics_show_undelivered_changes_and_dead_letters(catalog: Catalog, tmp_path: Path) -> None:
    metrics = ServerMetrics()
    settings = replace(Settings(), server=WEBHOOK)
    followers = Followers(tmp_path, settings, catalog, metrics, lambda: None)  # no thread is started

    def measured() -> tuple[float | None, float | None]:
        followers.update_metrics(EventLog(catalog))
        untold = metrics.registry.get_sample_value("kinodex_events_untold", {"sink": "webhook"})
        return untold, metrics.registry.get_sample_value("kinodex_webhook_dead_letter_bytes")

    assert measured() == (0, 0)
    put_events(catalog, put(catalog, "a"), 3)
    (tmp_path / DEAD_LETTERS_NAME).write_bytes(b"{}\n")
    assert measured() == (3, 3)
    log = EventLog(catalog)
    log.record_delivery("webhook", 2, None)
    assert measured() == (1, 3)
    log.record_delivery("webhook", log.last_sequence(), None)
    assert measured() == (0, 3)
