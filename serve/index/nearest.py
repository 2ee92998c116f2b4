"""The protocol of an index of nearest rows, and what its two implementations (FAISS and Milvus) share."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from serve.catalog.catalog import Catalog

Nearest = tuple[NDArray[np.int64], NDArray[np.float32]]  # ids and scores, both (Q, n); padded with -1 and -inf
# Ids, scores and rows of the videos, all (Q, n); padded with -1, -inf and -1.
NearestWithVideos = tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]


class NearestIndex(Protocol):
    """Nearest rows by inner product, of one kind of row and one encoder space.

    serve.index.faiss_index.VectorIndex describes the methods for both implementations.
    """

    def __len__(self) -> int: ...

    def refresh(self, catalog: Catalog) -> None: ...

    def search(self, vectors: NDArray[np.float32], k: int, *, rows: Sequence[int] | None = None) -> Nearest: ...

    def videos(self, vector: NDArray[np.float32], k: int, *, rows: Sequence[int] | None = None) -> list[int]: ...

    def close(self) -> None: ...


def check_query(vectors: NDArray[np.float32], k: int) -> None:
    """Check the arguments of a search.

    Raises:
        ValueError: If the vectors are not (Q, D), or k is less than 1.
    """
    if vectors.ndim != 2:
        raise ValueError(f"vectors must be (Q, D), got {vectors.shape}")
    if k < 1:
        raise ValueError(f"k must be >= 1, got {k}")


def merge_nearest(parts: Sequence[NearestWithVideos], query_count: int, k: int) -> NearestWithVideos:
    """Return the k best rows of several searches, best first; equal scores by id."""
    padding = np.full((query_count, k), -1, np.int64)
    ids = np.concatenate([padding, *(each for each, _, _ in parts)], axis=1)
    scores = np.concatenate([np.full((query_count, k), -np.inf, np.float32), *(each for _, each, _ in parts)], axis=1)
    videos = np.concatenate([padding, *(each for _, _, each in parts)], axis=1)
    best = np.lexsort((ids, -scores), axis=1)[:, :k]
    return (
        np.take_along_axis(ids, best, axis=1), np.take_along_axis(scores, best, axis=1),
        np.take_along_axis(videos, best, axis=1),
    )  # fmt: skip


def distinct_videos(videos: NDArray[np.int64]) -> list[int]:
    """Return rows of videos in their order, each once, without the padding of -1."""
    return [row for row in dict.fromkeys(videos.tolist()) if row >= 0]
