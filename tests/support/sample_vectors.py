"""Vectors in a catalog, and the exact answer to compare an index with."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from serve.catalog.catalog import Catalog
from serve.index.faiss_index import VectorIndex
from support.sample_catalog import FINGERPRINT, WIDTH, put_vectors, unit

FEW, MOST = 40, 300  # rows compared exactly, rows of the largest shard: so small that tests seal
SMALL_SHARDS = {"exact_row_count": FEW, "largest_shard_row_count": MOST, "read_row_count": FEW}  # of a VectorIndex


def random_vectors(count: int, seed: int) -> NDArray[np.float32]:
    return unit(np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32))


QUERIES = random_vectors(7, seed=1000)


def fill(catalog: Catalog, count: int, *, first: int = 0, rows_each: int = 10) -> list[int]:
    return [put_vectors(catalog, f"video{n}", random_vectors(rows_each, n)) for n in range(first, first + count)]


def fresh_index(catalog: Catalog, **sizes: int) -> VectorIndex:
    index = VectorIndex(catalog.directory, "segments", FINGERPRINT, **sizes)
    index.refresh(catalog)
    return index


def brute_force(
    catalog: Catalog, queries: NDArray[np.float32], k: int, rows: Sequence[int] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    ids, vectors = [np.empty(0, np.int64)], [np.empty((0, queries.shape[1]), np.float32)]
    for row in catalog.changed_rows(FINGERPRINT):
        some_ids, some_vectors = catalog.row_ids("segments", row)
        if len(some_ids) and (rows is None or row in rows):
            ids.append(some_ids)
            vectors.append(some_vectors)
    all_ids = np.concatenate(ids)
    scores = queries @ np.concatenate(vectors).astype(np.float16).astype(np.float32).T  # as the index holds them
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    missing = max(0, k - best.shape[1])
    return (
        np.pad(all_ids[best], ((0, 0), (0, missing)), constant_values=-1),
        np.pad(np.take_along_axis(scores, best, 1), ((0, 0), (0, missing)), constant_values=-np.inf),
    )


def check_equal(index: VectorIndex, catalog: Catalog, k: int = 12, rows: Sequence[int] | None = None) -> None:
    ids, scores = index.search(QUERIES, k, rows=rows)
    true_ids, true_scores = brute_force(catalog, QUERIES, k, rows)
    assert np.array_equal(ids, true_ids)
    assert np.allclose(scores, true_scores, atol=5e-4)  # FAISS rounds to float16 otherwise where it is a tie
    assert (ids.dtype, scores.dtype) == (np.int64, np.float32)
    owners = [row for row, _ in catalog.locate("segments", [int(key) for key in ids[0] if key >= 0])]
    assert index.videos(QUERIES[0], k, rows=rows) == list(dict.fromkeys(owners))
