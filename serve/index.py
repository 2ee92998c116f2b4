"""Nearest vectors among the segments, or the utterances, of all videos: FAISS over what the catalog holds.

The index is a cache. refresh() makes its content that of the catalog, whatever it was before; save() leaves a file
from which the next process starts quicker, or, where that file is missing, torn, altered, of other encoders or of
another catalog, does not start from it.

New rows go to an exact flat `tail`. When that passes EXACT_ROW_COUNT, it is sealed into an IVF shard, together with
the shards that are no larger (so sizes double, and a row is sealed a few times at most). Rows of deleted videos leave
at once in memory; a shard that lost more than a third is dissolved: what is left of it goes through the tail again.

On disk: DIR/index/KIND.json names the shard files; a shard file is named by its SHA-256, and never changed.
"""

import json
import logging
import os
import re
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serve.catalog import Catalog, Kind
from serve.shard import LARGEST_SHARD_ROW_COUNT, Shard, empty_tail, read_file, seal, write_file

logger = logging.getLogger(__name__)

FORMAT = 1  # of the files; those of another are not read
INDEX_FOLDER = "index"
# Rows up to here are compared exactly, so that a library of some hundred hours misses nothing: 50,000 x 512 float32 are
# 100 MB, and took 0.1 s a query on 2 cores with five times the jobs they can run.
EXACT_ROW_COUNT = 50_000
LARGEST_DEAD_SHARE = 1 / 3  # of a sealed shard: beyond it the lists are too short for their number


class VectorIndex:
    """FAISS inner product over one kind of row of one encoder space. Threads may share it, and take turns."""

    def __init__(self, directory: Path, kind: Kind, fingerprint: str) -> None:
        """Make an empty index; refresh() fills it.

        Args:
            directory: The data directory.
            kind: Which rows.
            fingerprint: EncoderSpace.fingerprint of the rows to hold; others are left out.
        """
        self.kind, self.fingerprint = kind, fingerprint
        self._folder = directory / INDEX_FOLDER
        self._turn = threading.RLock()
        self._catalog_state: tuple[str, int] | None = None  # identity and generation of the last refresh
        self._held: dict[int, float] = {}  # video row -> its indexed_time
        self._tail: Shard | None = None  # None: no vector seen yet, so no width
        self._sealed: list[Shard] = []

    def __len__(self) -> int:
        """Return how many vectors it holds."""
        return sum(shard.live_count for shard in self._shards())

    def refresh(self, catalog: Catalog) -> None:
        """Bring the index to the catalog's generation.

        Args:
            catalog: Of the same data directory.
        Raises:
            DataDirectoryInvalid: If the catalog is damaged.
        """
        with self._turn, catalog.snapshot():
            before, state = self._catalog_state, (catalog.identity(), catalog.generation())
            if state == before:
                return
            self._catalog_state = None  # until all is done: after a failure half-way the next call begins anew
            if before is None or before[0] != state[0]:
                self._load(state[0])
            wanted = catalog.ready_rows(self.fingerprint)
            self._remove({row for row, at in self._held.items() if wanted.get(row) != at})
            self._compact(catalog)
            missing = sorted(wanted.keys() - self._held.keys())
            self._held.update((row, wanted[row]) for row in missing)
            self._append(catalog, missing)
            if self._tail is not None and self._tail.live_count > EXACT_ROW_COUNT:
                self._seal(catalog)
            self._catalog_state = state

    def search(
        self, vectors: NDArray[np.float32], k: int, *, rows: Sequence[int] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Find the nearest by inner product, best first; equal ones by id.

        Args:
            vectors: float32 (Q, D), unit length.
            k: The most per query.
            rows: Only what belongs to these videos; the answer is exact then. None: all.
        Returns:
            Ids int64 (Q, k), for Catalog.locate(), and scores float32 (Q, k); -1 and -inf where there are no more.
        """
        if vectors.ndim != 2:
            raise ValueError(f"vectors must be (Q, D), got {vectors.shape}")
        if k < 1:
            raise ValueError(f"k must be >= 1, got {k}")
        queries = np.ascontiguousarray(vectors, np.float32)
        ids = [np.full((len(queries), k), -1, np.int64)]
        scores = [np.full((len(queries), k), -np.inf, np.float32)]
        with self._turn:
            chosen = None if rows is None or self._held.keys() <= set(rows) else np.unique(np.array(rows, np.int64))
            for shard in self._shards() if len(queries) else []:
                if shard.width != queries.shape[1]:
                    raise ValueError(f"vectors must be {shard.width} wide, got {queries.shape[1]}")
                found_ids, found_scores = shard.search(queries, k, chosen)
                ids.append(found_ids)
                scores.append(found_scores)
        all_ids, all_scores = np.concatenate(ids, axis=1), np.concatenate(scores, axis=1)
        best = np.lexsort((all_ids, -all_scores), axis=1)[:, :k]
        return np.take_along_axis(all_ids, best, axis=1), np.take_along_axis(all_scores, best, axis=1)

    # ---- growing and shrinking

    def _shards(self) -> list[Shard]:
        return [*self._sealed, *([] if self._tail is None else [self._tail])]

    def _remove(self, rows: set[int]) -> None:
        for shard in self._shards() if rows else []:
            shard.remove(rows)
        for row in rows:
            del self._held[row]

    def _append(self, catalog: Catalog, rows: Iterable[int]) -> None:
        """Add videos' rows to the tail, sealing it whenever it is as large as a shard may be."""
        ids, vectors, owners, count = [], [], [], 0 if self._tail is None else self._tail.live_count
        for row in rows:
            row_ids, row_vectors = catalog.row_ids(self.kind, row)
            if not len(row_ids):
                continue
            ids.append(row_ids)
            vectors.append(row_vectors)
            owners.append(np.full(len(row_ids), row, np.int64))
            count += len(row_ids)
            if count >= LARGEST_SHARD_ROW_COUNT:
                self._extend_tail(np.concatenate(ids), np.concatenate(vectors), np.concatenate(owners))
                self._seal(catalog)
                ids, vectors, owners, count = [], [], [], 0
        if ids:
            self._extend_tail(np.concatenate(ids), np.concatenate(vectors), np.concatenate(owners))

    def _extend_tail(self, ids: NDArray[np.int64], vectors: NDArray[np.float32], owners: NDArray[np.int64]) -> None:
        if self._tail is None:
            self._tail = empty_tail(vectors.shape[1])
        self._tail.add(ids, vectors, owners, np.array([self._held[int(row)] for row in owners]))

    def _seal(self, catalog: Catalog) -> None:
        """Make the tail, and the shards that are no larger than it, one sealed shard."""
        assert self._tail is not None  # callers looked
        while smaller := [
            shard
            for shard in self._sealed
            if shard.live_count <= self._tail.live_count
            and shard.live_count + self._tail.live_count < LARGEST_SHARD_ROW_COUNT
        ]:
            self._dissolve(catalog, smaller[0])
        logger.info("index sealing kind=%s rows=%d", self.kind, self._tail.live_count)
        self._sealed.append(seal(self._tail))
        self._tail = None

    def _compact(self, catalog: Catalog) -> None:
        for shard in list(self._sealed):
            if len(shard.ids) - shard.live_count > LARGEST_DEAD_SHARE * len(shard.ids):
                self._dissolve(catalog, shard)

    def _dissolve(self, catalog: Catalog, shard: Shard) -> None:
        self._sealed.remove(shard)
        self._append(catalog, sorted(shard.videos()))

    # ---- the cache on disk

    def save(self) -> None:
        """Write what refresh() made, for the next process. A failure costs that process time, and is only logged."""
        with self._turn:
            if self._catalog_state is None:
                raise ValueError("refresh() the index before saving it")
            try:
                self._folder.mkdir(exist_ok=True)
                shards = [shard for shard in self._shards() if shard.live_count]
                for shard in shards:
                    if shard.name is None or not (self._folder / shard.name).exists():
                        shard.name = write_file(self._folder, self.kind, shard)
                self._write_manifest([str(shard.name) for shard in shards], self._catalog_state[0])
            except OSError as error:
                logger.warning("index not saved kind=%s folder=%s reason=%s", self.kind, self._folder, error)

    def _write_manifest(self, names: list[str], identity: str) -> None:
        text = json.dumps(
            {"format": FORMAT, "catalog": identity, "fingerprint": self.fingerprint, "shards": names}, indent=1
        )
        temporary = self._folder / f"writing-{self.kind}-{os.getpid()}"
        temporary.write_text(text)
        os.replace(temporary, self._folder / f"{self.kind}.json")
        for path in [*self._folder.glob(f"{self.kind}-*.shard"), *self._folder.glob("writing-*")]:
            if path.name not in names:  # no longer named, or left by a writer that died
                path.unlink(missing_ok=True)

    def _load(self, identity: str) -> None:
        """Become what the files hold, of which anything may be missing or wrong: refresh() brings the rest."""
        self._held, self._tail, self._sealed = {}, None, []
        for name in self._names(identity):
            try:
                shard = read_file(self._folder / name)
                videos = shard.videos()
                if videos.keys() & self._held.keys() or (self._tail is not None and not shard.is_sealed):
                    raise ValueError("it repeats another shard")
            except (OSError, ValueError, RuntimeError) as error:  # FAISS's own are RuntimeErrors
                logger.warning("index file not used, rebuilding name=%s reason=%s", name, error)
                continue
            self._held.update(videos)
            if shard.is_sealed:
                self._sealed.append(shard)
            else:
                self._tail = shard

    def _names(self, identity: str) -> list[str]:
        try:
            manifest = json.loads((self._folder / f"{self.kind}.json").read_bytes())
            said = (manifest["format"], manifest["catalog"], manifest["fingerprint"])
            names = [str(name) for name in manifest["shards"]]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            logger.warning("index manifest not used, rebuilding kind=%s reason=%r", self.kind, error)
            return []
        if said != (FORMAT, identity, self.fingerprint):
            logger.info("index of other rows, rebuilding kind=%s", self.kind)
            return []
        return [name for name in names if re.fullmatch(rf"{self.kind}-[0-9a-f]{{64}}\.shard", name)]
