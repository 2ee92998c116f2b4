"""Vectors of one video, in one piece or in several: what a question does with them, it does to each piece."""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

import faiss as typed_faiss
import numpy as np
from numpy.typing import NDArray

faiss: Any = typed_faiss  # its own annotations miss half of what its C++ side gives


def half_index(width: int) -> Any:
    """Return an empty FAISS index that holds float16 and compares by inner product."""
    index = faiss.IndexScalarQuantizer(width, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    index.is_trained = True  # there is nothing to learn for float16
    return index


class Halves:
    """Vectors (N, D) as float16, as the catalog holds those of frames. They never change, and may be shared.

    FAISS holds them, since NumPy takes ten times as long to make them float32 as FAISS to compare them as they are.
    """

    def __init__(self, parts: Sequence[NDArray[np.float16]]) -> None:
        """Take (n, D) each, which together are the N."""
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

    def products(self, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return float32 (N,): of each with a vector."""
        scores, places = self._index.search(vector[None], self._count)  # all of them, the best first
        found = np.empty(self._count, np.float32)
        found[places[0]] = scores[0]
        return found

    def floats(self, first: int = 0, last: int | None = None) -> NDArray[np.float32]:
        """Return float32 (n, D): a stretch of them, or all."""
        count = min(self._count if last is None else last, self._count) - first
        if count <= 0:
            return np.empty((0, self._width), np.float32)
        return np.asarray(self._index.reconstruct_n(first, count))

    def take(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return float32 (n, D): those at some places."""
        return np.asarray(self._index.reconstruct_batch(places))


class JoinedHalves:
    """Vectors (N, D) in order of time."""

    def __init__(self, pieces: Iterable[Halves]) -> None:
        self.pieces = tuple(piece for piece in pieces if len(piece))
        self.starts = list(accumulate(map(len, self.pieces), initial=0))  # P + 1

    def __len__(self) -> int:
        return self.starts[-1]

    @property
    def nbytes(self) -> int:
        return sum(piece.nbytes for piece in self.pieces)

    def products(self, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return float32 (N,): of each with a vector."""
        if len(self.pieces) == 1:
            return self.pieces[0].products(vector)
        return np.concatenate([np.empty(0, np.float32), *(piece.products(vector) for piece in self.pieces)])

    def sum(self, wanted: slice) -> NDArray[np.float32]:
        """Return float32 (D,): the sum of a stretch, which holds one at least."""
        parts = []
        for start, piece in zip(self.starts, self.pieces, strict=False):
            part = piece.floats(max(0, wanted.start - start), max(0, wanted.stop - start))
            if len(part):
                parts.append(part.sum(axis=0))
        return np.asarray(parts[0] if len(parts) == 1 else np.sum(parts, axis=0))

    def take(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return float32 (n, D): those at some places, which ascend."""
        parts = np.split(places, np.searchsorted(places, self.starts[1:-1]))
        found = [
            piece.take(part - start)
            for piece, part, start in zip(self.pieces, parts, self.starts, strict=False)
            if len(part)
        ]
        return found[0] if len(found) == 1 else np.concatenate(found)
