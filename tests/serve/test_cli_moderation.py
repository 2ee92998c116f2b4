"""`kinodex events` on what a catalog holds, without any encoder."""

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sample_catalog import SPACE, put
from sample_events import FIRE, put_events

from serve.catalog import Catalog
from serve.cli import cli


@pytest.fixture
def data(tmp_path: Path) -> Path:
    with Catalog.open_writer(tmp_path) as catalog:
        catalog.set_space(SPACE)
        put_events(catalog, put(catalog, "a"), 2)
    return tmp_path


def events(data: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["events", "--data", str(data), *arguments])


def test_nothing_of_an_event_moves_the_cursor(data: Path) -> None:
    with Catalog.open_writer(data) as catalog:
        foul = replace(FIRE, label="Fi\x1b[2Jre", parents=("Haz\rards",), action="al\aert", start_seconds=50.0)
        put_events(catalog, put(catalog, "b"), 1, foul)
    shown = events(data).stdout
    assert shown.count("Hazards > Fire  (alert)\n") == 2
    assert shown.replace("\n", "").isprintable()
