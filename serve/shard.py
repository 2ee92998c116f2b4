"""A part of a vector index: FAISS and the ids it answers with, in memory and as one file."""

import hashlib
import io
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss as typed_faiss
import numpy as np
from numpy.typing import NDArray

faiss: Any = typed_faiss  # its own annotations miss half of what its C++ side gives

# Why IVF and not HNSW, measured on 2 busy cores with 200,000 vectors of 4,000 random clusters (FAISS 1.15, 2026-11):
# IVF of 1,024 lists was trained and filled in 31 s, and finds recall@10 0.9995 at 32 probes in 1.2 ms a query
# (D = 384; exact: 103 ms); HNSW (M = 24, efConstruction = 80) had not taken in 100,000 of them after 90 s.
# IVF also forgets rows in place, and is exact among chosen rows by looking into all lists (4 ms for 10,000 of them).
# 256 lists reach only 0.97 at 32 probes, in 6 ms: short lists, many of them.
ROWS_PER_LIST = 200
PROBE_COUNT = 32
# Rows of the largest shard: bounds the time of one sealing (k-means grows with rows x lists) and the memory of a save.
LARGEST_SHARD_ROW_COUNT = 200_000
TRAINING_ROWS_PER_LIST = 40  # FAISS warns below 39
TRAINING_ITERATION_COUNT = 8  # of k-means: later ones no longer move the lists


@dataclass(slots=True, kw_only=True, eq=False)
class Shard:
    """A part of the index, and whose rows it was made of, those removed since included."""

    index: Any  # faiss.IndexIDMap over IndexFlatIP (the tail), or faiss.IndexIVFFlat
    ids: NDArray[np.int64]  # (N,)
    owners: NDArray[np.int64]  # (N,), the video's row of each id; -1: removed
    stamps: NDArray[np.float64]  # (N,), that video's indexed_time; of a live one, the row's own added_time
    name: str | None = None  # of its file; None: not saved
    on_gpu: Any = None  # its copy there and what that needs, made when first searched

    @property
    def live_count(self) -> int:
        return int(self.index.ntotal)

    @property
    def width(self) -> int:
        return int(self.index.d)

    @property
    def is_sealed(self) -> bool:
        return isinstance(self.index, faiss.IndexIVF)

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
        self.index.remove_ids(faiss.IDSelectorBatch(self.ids[gone]))
        self.on_gpu = None
        if self.is_sealed:  # its file stays as it is; whoever loads it removes these again
            self.owners[gone] = -1
        else:
            self.ids, self.owners, self.stamps = self.ids[~gone], self.owners[~gone], self.stamps[~gone]
            self.name = None

    def add(
        self,
        ids: NDArray[np.int64],
        vectors: NDArray[np.float32],
        owners: NDArray[np.int64],
        stamps: NDArray[np.float64],
    ) -> None:
        """Append rows to a tail."""
        self.index.add_with_ids(vectors, ids)
        self.ids = np.concatenate([self.ids, ids])
        self.owners = np.concatenate([self.owners, owners])
        self.stamps = np.concatenate([self.stamps, stamps])
        self.name = None

    def search(
        self, vectors: NDArray[np.float32], k: int, rows: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return ids and scores, (Q, <= k) both, best first, among those of some videos or (None) among all."""
        among = self.ids if rows is None else self.ids[np.isin(self.owners, rows)]
        k = min(k, self.live_count, len(among))
        if k == 0:
            return np.empty((len(vectors), 0), np.int64), np.empty((len(vectors), 0), np.float32)
        selector = None if rows is None else faiss.IDSelectorBatch(among)
        if not self.is_sealed:
            scores, ids = self.index.search(vectors, k, params=faiss.SearchParameters(sel=selector))
        elif rows is None and faiss.get_num_gpus() > 0:
            if self.on_gpu is None:
                resources = faiss.StandardGpuResources()
                self.on_gpu = (resources, faiss.index_cpu_to_gpu(resources, 0, self.index))
            scores, ids = self.on_gpu[1].search(vectors, k)
        else:
            # The wanted few may lie in any list, and only they are compared: looking into all lists is quick then.
            probes = PROBE_COUNT if rows is None else self.index.nlist
            scores, ids = self.index.search(vectors, k, params=faiss.SearchParametersIVF(nprobe=probes, sel=selector))
        return ids, np.where(ids < 0, np.float32(-np.inf), scores)


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


def empty_tail(width: int) -> Shard:
    """Return an exact shard without rows, for vectors of `width` numbers."""
    index = faiss.IndexIDMap(faiss.IndexFlatIP(width))  # not IDMap2, whose way back is made anew with each removal
    return Shard(index=index, ids=np.empty(0, np.int64), owners=np.empty(0, np.int64), stamps=np.empty(0))


def seal(tail: Shard) -> Shard:
    """Return the tail's rows as an IVF shard."""
    flat = faiss.downcast_index(tail.index.index)
    vectors = faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d).reshape(flat.ntotal, flat.d)
    list_count = max(1, len(vectors) // ROWS_PER_LIST)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(flat.d), flat.d, list_count, faiss.METRIC_INNER_PRODUCT)
    index.cp.niter, index.cp.max_points_per_centroid = TRAINING_ITERATION_COUNT, TRAINING_ROWS_PER_LIST
    index.nprobe = PROBE_COUNT  # for the copy on a GPU, which takes no search parameters
    index.train(vectors)
    index.add_with_ids(vectors, tail.ids)
    return Shard(index=index, ids=tail.ids, owners=tail.owners, stamps=tail.stamps)


def write_file(folder: Path, prefix: str, shard: Shard) -> str:
    """Write a shard to `folder`; return the file's name, which is `prefix` and the SHA-256 of its content.

    Raises:
        OSError: If the disk is full or may not be written.
    """
    with tempfile.NamedTemporaryFile(dir=folder, prefix="writing-", delete=False) as file:
        try:
            for array in (shard.ids, shard.owners, shard.stamps, faiss.serialize_index(shard.index)):
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
    ids, owners, stamps, index_bytes = (np.load(file, allow_pickle=False) for _ in range(4))
    return Shard(index=faiss.deserialize_index(index_bytes), ids=ids, owners=owners, stamps=stamps, name=path.name)
