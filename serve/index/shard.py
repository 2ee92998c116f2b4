"""A part of a vector index: FAISS and the ids it answers with, in memory and as one file.

Vectors are held as float16, as the catalog holds those of frames. A sealed shard has a rough copy of them besides
(product quantisation, 4 bits for each two numbers), which is compared first and whole; the best of that are compared
exactly.
"""

import hashlib
import io
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import faiss as typed_faiss
import numpy as np
from numpy.typing import NDArray

from serve.index.halves import half_index
from serve.index.nearest import NearestWithVideos

faiss: Any = typed_faiss  # its own annotations miss half of what its C++ side gives

# Why a rough copy of all rows, and neither IVF nor HNSW: a text is far from all pictures (cosine 0.3), so the lists of
# an IVF that are nearest to it do not hold what is nearest to it. With 60 texts among 200,000 segments of 384 numbers,
# one thread (benchmarks/growth.py; FAISS 1.15), the exact first 10 and first 512 that are found:
#   rough copy, float16           1.00 and 0.97 in 1.4 ms; 864 bytes a row; made in 3 s
#   IVF, 32 of 1,000 lists        0.62 and 0.42 in 0.6 ms; 1,552 bytes a row; made in 4 s
#   IVF, 256 lists                0.97 and 0.87 in 4.4 ms
#   HNSW, M = 24, 512 looked at   0.95 and 0.82 in 1.2 ms; 1,744 bytes a row; made in 50 s
#   float16 alone                 all of them in 7.0 ms; 768 bytes a row
# And it does not age: there are no lists to outgrow.
NUMBERS_PER_CODE, BITS_PER_CODE = 2, 4  # what FAISS's fast scan compares 32 rows of at once
REFINED_COUNT, REFINED_SHARE = 1024, 3  # rows compared exactly: so many, or this times the rows asked for
TRAINING_ROW_COUNT = 50_000  # of a shard: far more than 16 codes each need
ADDED_ROW_COUNT = 20_000  # rows coded at once: 30 MB
# Rows of the largest shard: bounds the time and the memory of one sealing, and of a save.
LARGEST_SHARD_ROW_COUNT = 200_000


@dataclass(kw_only=True, eq=False)
class Shard:
    """A part of the index, and whose rows it was made of, those removed since included."""

    vectors: Any  # faiss.IndexScalarQuantizer, float16, N rows
    ids: NDArray[np.int64]  # (N,)
    owners: NDArray[np.int64]  # (N,), the video's row of each id; -1: removed
    stamps: NDArray[np.float64]  # (N,), that video's indexed_time; of a live one, the row's own added_time
    rough: Any = None  # faiss.IndexPQFastScan of the same rows; None: not sealed
    name: str | None = None  # of its file; None: not saved
    live_count: int = field(init=False)

    def __post_init__(self) -> None:
        self.live_count = int((self.owners >= 0).sum())

    @property
    def width(self) -> int:
        return int(self.vectors.d)

    @property
    def is_sealed(self) -> bool:
        return self.rough is not None

    def videos(self) -> dict[int, float]:
        """Return the rows of the videos in it, each with a stamp."""
        rows, first = np.unique(self.owners, return_index=True)
        return {int(row): float(self.stamps[at]) for row, at in zip(rows, first, strict=True) if row >= 0}

    def remove(self, rows: set[int]) -> None:
        """Remove all of some videos."""
        self._remove(np.isin(self.owners, list(rows)))

    def remove_ids(self, ids: NDArray[np.int64]) -> None:
        """Remove single rows of videos; those that are not in it are passed over."""
        self._remove(np.isin(self.ids, ids) & (self.owners >= 0))

    def _remove(self, gone: NDArray[np.bool_]) -> None:
        if not gone.any():
            return
        if self.is_sealed:  # its file stays as it is; whoever loads it removes these again
            self.owners[gone] = -1
        else:
            self.vectors.remove_ids(bitmap(gone))
            self.ids, self.owners, self.stamps = self.ids[~gone], self.owners[~gone], self.stamps[~gone]
            self.name = None
        self.live_count = int((self.owners >= 0).sum())

    def add(
        self,
        ids: NDArray[np.int64],
        vectors: NDArray[np.float32],
        owners: NDArray[np.int64],
        stamps: NDArray[np.float64],
    ) -> None:
        """Append rows to a tail."""
        self.vectors.add(vectors)
        self.ids = np.concatenate([self.ids, ids])
        self.owners = np.concatenate([self.owners, owners])
        self.stamps = np.concatenate([self.stamps, stamps])
        self.live_count += len(ids)
        self.name = None

    def search(self, vectors: NDArray[np.float32], k: int, rows: NDArray[np.int64] | None) -> NearestWithVideos:
        """Return ids, scores and owners, (Q, <= k), best first, among those of some videos or (None) among all.

        Among some videos, and in a tail, nothing is missed.
        """
        is_wanted = self.owners >= 0 if rows is None else np.isin(self.owners, rows)
        count = self.live_count if rows is None else int(is_wanted.sum())
        k = min(k, count)
        if k == 0:
            nothing = np.empty((len(vectors), 0), np.int64)
            return nothing, np.empty((len(vectors), 0), np.float32), nothing
        if self.is_sealed and rows is None:
            found = self._best(vectors, k)
            if found is not None:
                return found
        selector = None if count == len(self.ids) else bitmap(is_wanted)
        scores, places = self.vectors.search(vectors, k, params=faiss.SearchParameters(sel=selector))
        return self.ids[places], scores, self.owners[places]

    def _best(self, vectors: NDArray[np.float32], k: int) -> NearestWithVideos | None:
        """As search() among all, by the rough copy, or on a GPU; None: too many of the best were removed."""
        count = min(max(REFINED_COUNT, REFINED_SHARE * k), len(self.ids))
        index = self.refined if self.on_gpu is None else self.on_gpu[1]
        scores, places = index.search(vectors, count)
        is_gone = self.owners[places] < 0
        scores[is_gone | (places < 0)] = -np.inf
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        scores, places = np.take_along_axis(scores, order, axis=1), np.take_along_axis(places, order, axis=1)
        return None if np.isneginf(scores).any() else (self.ids[places], scores, self.owners[places])

    @cached_property
    def refined(self) -> Any:
        """A faiss.IndexRefine: what the rough copy finds, compared exactly."""
        return faiss.IndexRefine(self.rough, self.vectors)

    @cached_property
    def on_gpu(self) -> Any:
        """Its vectors on a GPU, where all are compared, behind what that needs; None: there is no GPU."""
        if faiss.get_num_gpus() == 0:
            return None
        resources, config = faiss.StandardGpuResources(), faiss.GpuIndexFlatConfig()
        config.useFloat16 = True
        index = faiss.GpuIndexFlatIP(resources, self.width, config)
        for first in range(0, len(self.ids), ADDED_ROW_COUNT):
            index.add(self.vectors.reconstruct_n(first, min(ADDED_ROW_COUNT, len(self.ids) - first)))
        return resources, index


def bitmap(is_chosen: NDArray[np.bool_]) -> Any:
    """Return what lets FAISS look at some rows alone."""
    return faiss.IDSelectorBitmap(np.packbits(is_chosen, bitorder="little"))


def held_by_row(
    shards: Sequence[Shard], rows: Sequence[int]
) -> dict[int, tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Return the ids and stamps that shards hold of some videos, by row."""
    if not rows:
        return {}
    owners = np.concatenate([shard.owners for shard in shards])
    chosen = np.flatnonzero(np.isin(owners, list(rows)))
    chosen = chosen[np.argsort(owners[chosen], kind="stable")]
    ids = np.concatenate([shard.ids for shard in shards])[chosen]
    stamps = np.concatenate([shard.stamps for shard in shards])[chosen]
    found, first = np.unique(owners[chosen], return_index=True)
    return dict(
        zip(found.tolist(), zip(np.split(ids, first[1:]), np.split(stamps, first[1:]), strict=True), strict=True)
    )


def make_tail(width: int) -> Shard:
    """Return an exact shard without rows, for vectors of `width` numbers."""
    nothing = np.empty(0, np.int64)
    return Shard(vectors=half_index(width), ids=nothing, owners=nothing, stamps=np.empty(0))


def seal(tail: Shard) -> Shard:
    """Return the tail's rows as a sealed shard; the tail is not to be used any more."""
    count, width = len(tail.ids), tail.width
    codes = width // NUMBERS_PER_CODE if width % NUMBERS_PER_CODE == 0 else width
    rough = faiss.IndexPQFastScan(width, codes, BITS_PER_CODE, faiss.METRIC_INNER_PRODUCT)
    rough.pq.cp.min_points_per_centroid = 1  # or it warns of shards as small as tests have
    chosen = np.linspace(0, count - 1, max(min(count, TRAINING_ROW_COUNT), 1 << BITS_PER_CODE)).astype(np.int64)
    rough.train(tail.vectors.reconstruct_batch(chosen))
    for first in range(0, count, ADDED_ROW_COUNT):
        rough.add(tail.vectors.reconstruct_n(first, min(ADDED_ROW_COUNT, count - first)))
    return Shard(vectors=tail.vectors, rough=rough, ids=tail.ids, owners=tail.owners, stamps=tail.stamps)


def write_file(folder: Path, prefix: str, shard: Shard) -> str:
    """Write a shard to `folder`; return the file's name, which is `prefix` and the SHA-256 of its content.

    Raises:
        OSError: If the disk is full or may not be written.
    """
    with tempfile.NamedTemporaryFile(dir=folder, prefix="writing-", delete=False) as file:
        try:
            rough = np.empty(0, np.uint8) if shard.rough is None else faiss.serialize_index(shard.rough)
            for array in (shard.ids, shard.owners, shard.stamps, faiss.serialize_index(shard.vectors), rough):
                np.save(file, array, allow_pickle=False)
            file.flush()
            file.seek(0)
            name = f"{prefix}-{hashlib.file_digest(file, 'sha256').hexdigest()}.shard"
            # No fsync: what a power cut tears is not what its name says, and is not read.
            os.replace(file.name, folder / name)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    return name


def read_file(path: Path) -> Shard:
    """Read what write_file() wrote. FAISS sees the bytes only when they are those: it may crash on others.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not what its name says.
    """
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != path.stem.rpartition("-")[2]:
        raise ValueError("its SHA-256 is not that of its name")
    file = io.BytesIO(content)
    ids, owners, stamps, vectors, rough = (np.load(file, allow_pickle=False) for _ in range(5))
    return Shard(
        vectors=faiss.deserialize_index(vectors), rough=faiss.deserialize_index(rough) if len(rough) else None, ids=ids,
        owners=owners, stamps=stamps, name=path.name,
    )  # fmt: skip
