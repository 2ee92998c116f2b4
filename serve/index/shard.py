"""Shard: a part of a vector index, as FAISS indexes and row ids, in memory and as one file.

serve.index.faiss_index.VectorIndex has several sealed shards and one exact shard, its tail. All hold vectors as
float16, the type in which the catalog stores those of frames. A sealed shard also has a quantised copy (product
quantisation, 4 bits for every two numbers). A search compares all rows of the copy first, then the best of them
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

from serve.index.changes import VectorRows
from serve.index.halves import half_index
from serve.index.nearest import NearestWithVideos

faiss: Any = typed_faiss  # FAISS's own annotations lack half of its C++ interface

# Why a quantised copy of all rows, and neither IVF nor HNSW: a text is far from all pictures (cosine 0.3), so the IVF
# lists nearest to a text do not hold the rows nearest to it. Measured with 60 texts among 200,000 segments of 384
# numbers, on one thread (benchmarks/growth.py; FAISS 1.15): recall of the exact first 10 and first 512, time a query,
# size, and time to build.
#   quantised copy, float16       1.00 and 0.97 in 1.4 ms; 864 bytes a row; built in 3 s
#   IVF, 32 of 1,000 lists        0.62 and 0.42 in 0.6 ms; 1,552 bytes a row; built in 4 s
#   IVF, 256 lists                0.97 and 0.87 in 4.4 ms
#   HNSW, M = 24, efSearch 512    0.95 and 0.82 in 1.2 ms; 1,744 bytes a row; built in 50 s
#   float16 alone                 1.00 and 1.00 in 7.0 ms; 768 bytes a row
# A quantised copy also does not age: it has no lists that new rows outgrow.
NUMBERS_PER_CODE, BITS_PER_CODE = 2, 4  # FAISS's fast scan compares 32 rows at once with these
# Rows of a sealed shard compared exactly: at least this many, or this many times the rows asked for.
REFINED_COUNT, REFINED_SHARE = 1024, 3
TRAINING_ROW_COUNT = 50_000  # rows of a shard that train the quantiser: far more than its 16 codes need
ADDED_ROW_COUNT = 20_000  # rows quantised, or copied to a GPU, at once: bounds the float32 copy to 30 MB


@dataclass(kw_only=True, eq=False)
class Shard:
    """A part of the index: N rows, some of which may be removed."""

    vectors: Any  # faiss.IndexScalarQuantizer, float16, N rows
    ids: NDArray[np.int64]  # (N,)
    owners: NDArray[np.int64]  # (N,), the row of the video of each id; -1: removed
    stamps: NDArray[np.float64]  # (N,), indexed_time of the file; for a live video, added_time of the row itself
    quantised: Any = None  # faiss.IndexPQFastScan of the same rows; None: not sealed
    name: str | None = None  # of its file; None: not saved
    refined_count: int = REFINED_COUNT
    live_count: int = field(init=False)

    def __post_init__(self) -> None:
        self.live_count = int((self.owners >= 0).sum())

    @property
    def width(self) -> int:
        return int(self.vectors.d)

    @property
    def is_sealed(self) -> bool:
        return self.quantised is not None

    def video_stamps(self) -> dict[int, float]:
        """Return the stamp of a row of each video in the shard, by row of the video."""
        rows, first = np.unique(self.owners, return_index=True)
        return {int(row): float(self.stamps[at]) for row, at in zip(rows, first, strict=True) if row >= 0}

    def remove_videos(self, rows: set[int]) -> None:
        self._remove(np.isin(self.owners, list(rows)))

    def remove_ids(self, ids: NDArray[np.int64]) -> None:
        """Remove single rows; ids that are not in the shard are ignored."""
        self._remove(np.isin(self.ids, ids) & (self.owners >= 0))

    def _remove(self, gone: NDArray[np.bool_]) -> None:
        if not gone.any():
            return
        if self.is_sealed:  # the file stays unchanged: HeldRows finds these rows gone again after it is loaded
            self.owners[gone] = -1
        else:
            self.vectors.remove_ids(_make_selector(gone))
            self.ids, self.owners, self.stamps = self.ids[~gone], self.owners[~gone], self.stamps[~gone]
            self.name = None
        self.live_count = int((self.owners >= 0).sum())

    def add(self, rows: VectorRows) -> None:
        """Append rows to a tail."""
        self.vectors.add(rows.vectors)
        self.ids = np.concatenate([self.ids, rows.ids])
        self.owners = np.concatenate([self.owners, rows.owners])
        self.stamps = np.concatenate([self.stamps, rows.stamps])
        self.live_count += len(rows.ids)
        self.name = None

    def search(self, vectors: NDArray[np.float32], k: int, rows: NDArray[np.int64] | None) -> NearestWithVideos:
        """Return ids, scores and owners, (Q, <= k), best first, of some videos (None: of all).

        The answer is exact in a tail, and among some videos.
        """
        is_wanted = self.owners >= 0 if rows is None else np.isin(self.owners, rows)
        count = self.live_count if rows is None else int(is_wanted.sum())
        k = min(k, count)
        if k == 0:
            no_rows = np.empty((len(vectors), 0), np.int64)
            return no_rows, np.empty((len(vectors), 0), np.float32), no_rows
        if self.is_sealed and rows is None:
            nearest = self._search_refined(vectors, k)
            if nearest is not None:
                return nearest
        selector = None if count == len(self.ids) else _make_selector(is_wanted)
        scores, positions = self.vectors.search(vectors, k, params=faiss.SearchParameters(sel=selector))
        return self.ids[positions], scores, self.owners[positions]

    def _search_refined(self, vectors: NDArray[np.float32], k: int) -> NearestWithVideos | None:
        """Search all videos by the quantised copy, or on a GPU; return None if too many of the best were removed."""
        count = min(max(self.refined_count, REFINED_SHARE * k), len(self.ids))
        index = self._refining_index if self._gpu_index is None else self._gpu_index[1]
        scores, positions = index.search(vectors, count)
        is_gone = self.owners[positions] < 0
        scores[is_gone | (positions < 0)] = -np.inf
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        scores, positions = np.take_along_axis(scores, order, axis=1), np.take_along_axis(positions, order, axis=1)
        return None if np.isneginf(scores).any() else (self.ids[positions], scores, self.owners[positions])

    @cached_property
    def _refining_index(self) -> Any:
        """A faiss.IndexRefine: compares the best rows of the quantised copy exactly."""
        return faiss.IndexRefine(self.quantised, self.vectors)

    @cached_property
    def _gpu_index(self) -> Any:
        """GPU resources, and an exact index of the vectors that needs them; None without a GPU."""
        if faiss.get_num_gpus() == 0:
            return None
        resources, config = faiss.StandardGpuResources(), faiss.GpuIndexFlatConfig()
        config.useFloat16 = True
        index = faiss.GpuIndexFlatIP(resources, self.width, config)
        for first in range(0, len(self.ids), ADDED_ROW_COUNT):
            index.add(self.vectors.reconstruct_n(first, min(ADDED_ROW_COUNT, len(self.ids) - first)))
        return resources, index


def _make_selector(is_chosen: NDArray[np.bool_]) -> Any:
    """Return a FAISS selector of some rows of an index."""
    return faiss.IDSelectorBitmap(np.packbits(is_chosen, bitorder="little"))


def ids_and_stamps_of(
    rows: Sequence[int], shards: Sequence[Shard]
) -> dict[int, tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Return the ids and stamps that some shards hold of each of some videos, by row of the video."""
    if not rows:
        return {}
    owners = np.concatenate([shard.owners for shard in shards])
    chosen = np.flatnonzero(np.isin(owners, list(rows)))
    chosen = chosen[np.argsort(owners[chosen], kind="stable")]
    ids = np.concatenate([shard.ids for shard in shards])[chosen]
    stamps = np.concatenate([shard.stamps for shard in shards])[chosen]
    videos, first = np.unique(owners[chosen], return_index=True)
    return dict(
        zip(videos.tolist(), zip(np.split(ids, first[1:]), np.split(stamps, first[1:]), strict=True), strict=True)
    )


def make_tail(width: int) -> Shard:
    """Return an exact shard without rows, for vectors of `width` numbers."""
    no_ids = np.empty(0, np.int64)
    return Shard(vectors=half_index(width), ids=no_ids, owners=no_ids, stamps=np.empty(0))


def seal(tail: Shard) -> Shard:
    """Return the rows of a tail as a sealed shard, which takes over its vectors: the tail must not be used again."""
    count, width = len(tail.ids), tail.width
    codes = width // NUMBERS_PER_CODE if width % NUMBERS_PER_CODE == 0 else width
    quantised = faiss.IndexPQFastScan(width, codes, BITS_PER_CODE, faiss.METRIC_INNER_PRODUCT)
    quantised.pq.cp.min_points_per_centroid = 1  # else FAISS warns about shards as small as those of tests
    chosen = np.linspace(0, count - 1, max(min(count, TRAINING_ROW_COUNT), 1 << BITS_PER_CODE)).astype(np.int64)
    quantised.train(tail.vectors.reconstruct_batch(chosen))
    for first in range(0, count, ADDED_ROW_COUNT):
        quantised.add(tail.vectors.reconstruct_n(first, min(ADDED_ROW_COUNT, count - first)))
    return Shard(vectors=tail.vectors, quantised=quantised, ids=tail.ids, owners=tail.owners, stamps=tail.stamps)


def write_shard(folder: Path, prefix: str, shard: Shard) -> str:
    """Write a shard to a file in `folder`; return the file's name: `prefix` and the SHA-256 of the content.

    Raises:
        OSError: If the disk is full or not writable.
    """
    with tempfile.NamedTemporaryFile(dir=folder, prefix="writing-", delete=False) as file:
        try:
            quantised = np.empty(0, np.uint8) if shard.quantised is None else faiss.serialize_index(shard.quantised)
            for array in (shard.ids, shard.owners, shard.stamps, faiss.serialize_index(shard.vectors), quantised):
                np.save(file, array, allow_pickle=False)
            file.flush()
            file.seek(0)
            name = f"{prefix}-{hashlib.file_digest(file, 'sha256').hexdigest()}.shard"
            # No fsync: after a power cut, a torn file does not match the hash in its name and is not read.
            os.replace(file.name, folder / name)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    return name


def read_shard(path: Path) -> Shard:
    """Read a file of write_shard(). The hash is checked before FAISS parses the bytes: FAISS may crash on others.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If the content does not match the hash in the file's name.
    """
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != path.stem.rpartition("-")[2]:
        raise ValueError("its SHA-256 does not match its name")
    file = io.BytesIO(content)
    ids, owners, stamps, vectors, quantised = (np.load(file, allow_pickle=False) for _ in range(5))
    return Shard(
        vectors=faiss.deserialize_index(vectors),
        quantised=faiss.deserialize_index(quantised) if len(quantised) else None,
        ids=ids, owners=owners, stamps=stamps, name=path.name,
    )  # fmt: skip
