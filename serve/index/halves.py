"""Halves: float16 vectors, held by FAISS. JoinedHalves: the vectors of one video, in one or several Halves.

Shards hold their vectors the same way; serve.search.video_rows holds the frames of videos in JoinedHalves.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Any

import faiss as typed_faiss
import numpy as np
from numpy.typing import NDArray

faiss: Any = typed_faiss  # FAISS's own annotations lack half of its C++ interface


def half_index(width: int) -> Any:
    """Return an empty FAISS index that holds float16 and compares by inner product."""
    index = faiss.IndexScalarQuantizer(width, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    index.is_trained = True  # float16 needs no training
    return index


class Halves:
    """Vectors (N, D) as float16, the type in which the catalog stores those of frames. Immutable, so threads share it.

    FAISS holds them: NumPy takes ten times as long to make them float32 as FAISS takes to compare them as float16.
    """

    def __init__(self, parts: Sequence[NDArray[np.float16]]) -> None:
        """Copy the vectors: arrays (n, D), concatenated to (N, D)."""
        self._count, self._width = sum(map(len, parts)), parts[0].shape[1] if parts else 0
        self.nbytes = 2 * self._count * self._width
        self._index = half_index(self._width)
        self._index.codes.resize(self.nbytes)
        if self.nbytes:
            codes = faiss.rev_swig_ptr(self._index.codes.data(), self.nbytes).view(np.float16)
            np.concatenate([part.reshape(-1) for part in parts], out=codes)
        self._index.ntotal = self._count

    def __len__(self) -> int:
        return int(self._count)

    def dot(self, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return float32 (N,): the inner products with a vector (D,)."""
        scores, positions = self._index.search(vector[None], self._count)  # all rows, best first
        products = np.empty(self._count, np.float32)
        products[positions[0]] = scores[0]
        return products

    def to_float32(self, first: int = 0, last: int | None = None) -> NDArray[np.float32]:
        """Return float32 (n, D): the rows [first, last), by default all."""
        count = min(self._count if last is None else last, self._count) - first
        if count <= 0:
            return np.empty((0, self._width), np.float32)
        return np.asarray(self._index.reconstruct_n(first, count))

    def take(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return float32 (n, D): the rows at some positions."""
        return np.asarray(self._index.reconstruct_batch(positions))


class HalvesOnDemand:
    """Vectors (N, D) as Halves that are fetched for each use: from a cache, or from the catalog.

    Args:
        count: N.
        width: D.
        fetch: Returns the vectors, always the same.
    """

    def __init__(self, count: int, width: int, fetch: Callable[[], Halves]) -> None:
        self._count, self.nbytes, self.fetch = count, 2 * count * width, fetch

    def __len__(self) -> int:
        return self._count

    def dot(self, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.fetch().dot(vector)

    def to_float32(self, first: int = 0, last: int | None = None) -> NDArray[np.float32]:
        return self.fetch().to_float32(first, last)

    def take(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.fetch().take(positions)


class JoinedHalves:
    """Vectors (N, D) in order of time, joined from several Halves without copying them."""

    def __init__(self, parts: Iterable[Halves | HalvesOnDemand]) -> None:
        self._parts = tuple(part for part in parts if len(part))
        self._starts = list(accumulate(map(len, self._parts), initial=0))  # of the parts, then N

    def __len__(self) -> int:
        return self._starts[-1]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self._parts)

    def dot(self, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return float32 (N,): the inner products with a vector (D,)."""
        if len(self._parts) == 1:
            return self._parts[0].dot(vector)
        return np.concatenate([np.empty(0, np.float32), *(part.dot(vector) for part in self._parts)])

    def sum(self, rows: slice) -> NDArray[np.float32]:
        """Return float32 (D,): the sum of consecutive rows, at least one."""
        sums = []
        for start, part in zip(self._starts, self._parts, strict=False):
            first, last = max(0, rows.start - start), min(rows.stop - start, len(part))
            if first < last:
                sums.append(part.to_float32(first, last).sum(axis=0))
        return np.asarray(sums[0] if len(sums) == 1 else np.sum(sums, axis=0))

    def take(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return float32 (n, D): the rows at some positions, which must ascend."""
        groups = np.split(positions, np.searchsorted(positions, self._starts[1:-1]))
        vectors = [
            part.take(group - start)
            for part, group, start in zip(self._parts, groups, self._starts, strict=False)
            if len(group)
        ]
        return vectors[0] if len(vectors) == 1 else np.concatenate(vectors)
