"""Fixtures of the catalog's and the index's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from serve.catalog import live_blocks
from serve.catalog.catalog import Catalog


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog.open_writer(tmp_path) as opened:
        yield opened


@pytest.fixture
def reader(catalog: Catalog, tmp_path: Path) -> Iterator[Catalog]:
    with Catalog.open_reader(tmp_path) as opened:
        yield opened


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of four segments, so that short streams have several."""
    monkeypatch.setattr(live_blocks, "BLOCK_BITS", 2)
