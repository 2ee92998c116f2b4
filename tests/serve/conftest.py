"""Fixtures of the catalog's and the index's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from serve.catalog.catalog import Catalog
from serve.index import changes as holding_module
from serve.index import faiss_index as index_module
from support.sample_vectors import FEW, MOST


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
