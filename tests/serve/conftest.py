"""Fixtures of the catalog's and the index's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sample_vectors import FEW, MOST

from serve import holding as holding_module
from serve import index as index_module
from serve.catalog import Catalog


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog.open_writer(tmp_path) as opened:
        yield opened


@pytest.fixture
def reader(catalog: Catalog, tmp_path: Path) -> Iterator[Catalog]:
    with Catalog.open_reader(tmp_path) as opened:
        yield opened


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding_module, "READ_ROW_COUNT", FEW)
    monkeypatch.setattr(index_module, "EXACT_ROW_COUNT", FEW)
    monkeypatch.setattr(index_module, "LARGEST_SHARD_ROW_COUNT", MOST)
