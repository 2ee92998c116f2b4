"""Indexes of nearest vectors: FAISS in this process, or Milvus for a library that outgrows one machine."""

from pathlib import Path

from serve.catalog.catalog import Kind
from serve.config import IndexConfig
from serve.index.nearest import NearestIndex

__all__ = ["NearestIndex", "open_index"]


def open_index(directory: Path, kind: Kind, fingerprint: str, config: IndexConfig) -> NearestIndex:
    """Make an empty index of the configured implementation; refresh() fills it.

    Raises:
        SettingsError: If Milvus is configured and its client is not installed.
    """
    if config.milvus_uri:
        from serve.index.milvus_index import MilvusIndex

        return MilvusIndex(kind, fingerprint, config)
    from serve.index.faiss_index import VectorIndex

    return VectorIndex(directory, kind, fingerprint, seals_in_background=True)
