"""Vectors of one video, in one piece or in several: what a question does with them, it does to each piece."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


class Pieces:
    """Float32 vectors (N, D) in order of time. The pieces never change, and may be shared with another Pieces."""

    def __init__(self, arrays: Iterable[NDArray[np.float32]]) -> None:
        self.arrays = tuple(array for array in arrays if len(array))
        self.starts = np.cumsum([0, *map(len, self.arrays)])  # (P + 1,)

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)

    def products(self, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return float32 (N,): of each with a vector."""
        if len(self.arrays) == 1:
            return np.asarray(self.arrays[0] @ vector)
        if not self.arrays:
            return np.empty(0, np.float32)
        return np.concatenate([array @ vector for array in self.arrays])

    def sum(self, wanted: slice) -> NDArray[np.float32]:
        """Return float32 (D,): the sum of a stretch, which holds one at least."""
        parts = []
        for start, array in zip(self.starts, self.arrays, strict=False):
            part = array[max(0, wanted.start - start) : max(0, wanted.stop - start)]
            if len(part):
                parts.append(part.sum(axis=0))
        return np.asarray(parts[0] if len(parts) == 1 else np.sum(parts, axis=0))

    def take(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return float32 (n, D): those at some places."""
        if len(self.arrays) == 1:
            return np.asarray(self.arrays[0][places])
        pieces = np.searchsorted(self.starts, places, "right") - 1
        return np.array([self.arrays[n][at - self.starts[n]] for n, at in zip(pieces, places, strict=True)])
