"""What finds the nearest rows: FAISS in this process, or Milvus for a library past one machine."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from serve.catalog.catalog import Catalog

Nearest = tuple[NDArray[np.int64], NDArray[np.float32]]  # ids and scores, (Q, n) both; -1 and -inf: no more
# Ids, scores and the videos' rows, (Q, n) all; -1, -inf and -1: no more.
NearestWithVideos = tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]


class NearestIndex(Protocol):
    """One kind of row of one encoder space, by inner product; serve.index.faiss_index.VectorIndex says what holds for
    both."""

    def __len__(self) -> int: ...

    def refresh(self, catalog: Catalog) -> None: ...

    def search(self, vectors: NDArray[np.float32], k: int, *, rows: Sequence[int] | None = None) -> Nearest: ...

    def videos(self, vector: NDArray[np.float32], k: int, *, rows: Sequence[int] | None = None) -> list[int]: ...

    def close(self) -> None: ...


def check_question(vectors: NDArray[np.float32], k: int) -> None:
    """Make sure that vectors are (Q, D), and at least one row is asked for."""
    if vectors.ndim != 2:
        raise ValueError(f"vectors must be (Q, D), got {vectors.shape}")
    if k < 1:
        raise ValueError(f"k must be >= 1, got {k}")


def best_of(found: Sequence[NearestWithVideos], query_count: int, k: int) -> NearestWithVideos:
    """Return the k best of what was found in several places, best first; equal ones by id."""
    nothing = np.full((query_count, k), -1, np.int64)
    ids = np.concatenate([nothing, *(each for each, _, _ in found)], axis=1)
    scores = np.concatenate([np.full((query_count, k), -np.inf, np.float32), *(each for _, each, _ in found)], axis=1)
    videos = np.concatenate([nothing, *(each for _, _, each in found)], axis=1)
    best = np.lexsort((ids, -scores), axis=1)[:, :k]
    return (
        np.take_along_axis(ids, best, axis=1), np.take_along_axis(scores, best, axis=1),
        np.take_along_axis(videos, best, axis=1),
    )  # fmt: skip


def distinct(videos: NDArray[np.int64]) -> list[int]:
    """Return the rows of videos in their order, each once, without the -1 that stand for no more."""
    return [row for row in dict.fromkeys(videos.tolist()) if row >= 0]
