"""VectorIndex: the nearest vectors among the segments, or the utterances, of all videos, by FAISS.

The index is a cache of what the catalog holds. refresh() brings it to the catalog's state, whatever it held before.
save() writes files from which the next process starts faster; files that are missing, torn, altered, of other encoders
or of another catalog are not used.

New rows go to an exact, unsealed shard: the tail. A tail of more than `exact_row_count` rows is sealed
(serve.index.shard), together with the sealed shards that are no larger. So sizes double, and a row is sealed a few
times at most. Removed rows leave the answers at once. A sealed shard that lost more than a third of its rows, and is
not large, is dissolved: its remaining rows go through the tail again.

On disk: DIR/index/KIND.json names the shard files. A shard file is named by its SHA-256 and never changes.
"""

import json
import logging
import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serve.catalog.catalog import Catalog, Kind
from serve.files import make_private_folder, private_opener
from serve.index.changes import NO_IDS, READ_ROW_COUNT, HeldRows, VectorRows, read_rows
from serve.index.nearest import Nearest, NearestWithVideos, check_query, distinct_videos, merge_nearest
from serve.index.sealing import ShardSealer
from serve.index.shard import Shard, ids_and_stamps_of, make_tail, read_shard, seal, write_shard

logger = logging.getLogger(__name__)

FORMAT = 2  # of the files; files of another format are not read
INDEX_FOLDER = "index"
# Rows of the tail, which are compared exactly, so that a library of some hundred hours misses nothing: 50,000 x 512
# float16 are 50 MB, and take 2 ms a query.
EXACT_ROW_COUNT = 50_000
LARGEST_SHARD_ROW_COUNT = 200_000  # bounds the time and the memory of one sealing, and of a save
MAX_DEAD_SHARE = 1 / 3  # removed rows of a sealed shard: with more, too many of the rows compared are gone
# Rows of a shard that is dissolved: reading so many vectors takes some 0.3 s. A larger shard that is pruned from the
# old end stays until it is down to this; its answers stay right.
MAX_DISSOLVED_COUNT = 10_000


class VectorIndex:
    """FAISS inner product over one kind of row of one encoder space. Threads may share it; one works at a time."""

    def __init__(
        self,
        directory: Path,
        kind: Kind,
        fingerprint: str,
        *,
        seals_in_background: bool = False,
        exact_row_count: int = EXACT_ROW_COUNT,
        largest_shard_row_count: int = LARGEST_SHARD_ROW_COUNT,
        read_row_count: int = READ_ROW_COUNT,
    ) -> None:
        """Make an empty index; refresh() fills it.

        Args:
            fingerprint: EncoderSpace.fingerprint of the rows to hold; other rows are left out.
            seals_in_background: Seal a full tail in a thread, so that no refresh() but the first takes seconds. The
                catalog must then be open for reading, and close() must come before the catalog's close().
        """
        self.kind, self.fingerprint, self.seals_in_background = kind, fingerprint, seals_in_background
        self._exact_row_count, self._largest_shard_row_count = exact_row_count, largest_shard_row_count
        self._read_row_count = read_row_count
        self._folder = directory / INDEX_FOLDER
        self._lock = threading.RLock()
        self._held = HeldRows(kind, fingerprint, read_row_count=read_row_count)
        self._tail: Shard | None = None  # None: no row read yet, so the width is unknown
        self._sealed: list[Shard] = []
        self._sealer: ShardSealer | None = None

    def __len__(self) -> int:
        return sum(shard.live_count for shard in self._shards())

    def refresh(self, catalog: Catalog) -> None:
        """Bring the index to the generation of its data directory's catalog.

        Raises:
            DataDirectoryInvalid: If the catalog is damaged.
        """
        with self._lock, catalog.snapshot():
            changes = self._held.find_changes(catalog, self._load, lambda rows: ids_and_stamps_of(rows, self._shards()))
            if changes is None:
                return
            gone_videos, gone_ids = set(changes.gone_videos), changes.gone_ids
            for shard in self._shards():
                shard.remove_videos(gone_videos)
                shard.remove_ids(gone_ids)
            self._compact(catalog)
            for rows in self._held.read_new_rows(catalog, changes):
                self._extend_tail(catalog, rows)
            if self._sealer is not None and self._sealer.is_done:
                self._adopt_shard(self._sealer)
            if self._tail is not None and self._tail.live_count > self._exact_row_count:
                if not self.seals_in_background or changes.is_first:
                    self._seal_tail(catalog)
                elif self._sealer is None:
                    shards = [self._tail, *self._shards_to_merge(self._tail.live_count)]
                    self._sealer = ShardSealer(catalog, self.kind, shards, read_row_count=self._read_row_count)
            self._held.mark_done(changes)

    def search(self, vectors: NDArray[np.float32], k: int, *, rows: Sequence[int] | None = None) -> Nearest:
        """Return the nearest rows by inner product, best first; equal scores by id.

        Args:
            vectors: float32 (Q, D), unit length.
            k: The largest number of rows per query.
            rows: Search only these videos, given by row; the answer is then exact. None: search all.
        Returns:
            Ids int64 (Q, k), for Catalog.locate(), and scores float32 (Q, k), padded with -1 and -inf.
        """
        return self._search(vectors, k, rows)[:2]

    def videos(self, vector: NDArray[np.float32], k: int, *, rows: Sequence[int] | None = None) -> list[int]:
        """Return the videos, by row, that own the k rows nearest to a vector (D,), the nearest first; see search()."""
        return distinct_videos(self._search(vector[None], k, rows)[2][0])

    def _search(self, vectors: NDArray[np.float32], k: int, rows: Sequence[int] | None) -> NearestWithVideos:
        check_query(vectors, k)
        queries = np.ascontiguousarray(vectors, np.float32)
        parts = []
        with self._lock:
            is_all = rows is None or self._held.videos <= set(rows)
            chosen = None if is_all else np.unique(np.array(rows, np.int64))
            for shard in self._shards() if len(queries) else []:
                if shard.width != queries.shape[1]:
                    raise ValueError(f"vectors must be {shard.width} wide, got {queries.shape[1]}")
                parts.append(shard.search(queries, k, chosen))
        return merge_nearest(parts, len(queries), k)

    def close(self) -> None:
        """Stop reading the catalog, so that it can be closed."""
        with self._lock:
            if self._sealer is not None:
                self._sealer.stop_reading()
            self._sealer = None

    def _shards(self) -> list[Shard]:
        return [*self._sealed, *([] if self._tail is None else [self._tail])]

    def _extend_tail(self, catalog: Catalog, rows: VectorRows) -> None:
        """Add rows to the tail; seal it when it reaches the size of the largest shard."""
        if self._tail is None:
            self._tail = make_tail(rows.vectors.shape[1])
        self._tail.add(rows)
        if self._tail.live_count >= self._largest_shard_row_count:
            self._seal_tail(catalog)

    def _seal_tail(self, catalog: Catalog) -> None:
        """Make one sealed shard of the tail and of the sealed shards that are no larger."""
        assert self._tail is not None  # callers checked
        self._sealer = None  # its shard would be out of date
        for shard in self._shards_to_merge(self._tail.live_count):
            self._dissolve(catalog, shard)
        logger.info("index sealing kind=%s rows=%d", self.kind, self._tail.live_count)
        self._sealed.append(seal(self._tail))
        self._tail = None

    def _shards_to_merge(self, count: int) -> list[Shard]:
        """Choose the sealed shards that are sealed again together with a tail of `count` rows."""
        chosen: list[Shard] = []
        while more := [
            shard
            for shard in self._sealed
            if shard not in chosen and shard.live_count <= count
            and shard.live_count + count < self._largest_shard_row_count
        ]:  # fmt: skip
            chosen.append(more[0])
            count += more[0].live_count
        return chosen

    def _adopt_shard(self, sealer: ShardSealer) -> None:
        """Replace the shards, and the rows of the tail, from which a thread made a sealed shard."""
        self._sealer = None
        replaced = [shard for shard in self._sealed if shard in sealer.shards]
        shard = sealer.take_shard([*replaced, *([] if self._tail is None else [self._tail])])
        if shard is not None:
            self._sealed = [*(other for other in self._sealed if other not in replaced), shard]
            if self._tail is not None:
                self._tail.remove_ids(shard.ids)
            logger.info("index sealed kind=%s rows=%d", self.kind, shard.live_count)

    def _compact(self, catalog: Catalog) -> None:
        """Drop empty sealed shards, and dissolve those that lost too many rows."""
        self._sealed = [shard for shard in self._sealed if shard.live_count]
        for shard in list(self._sealed):
            is_thin = len(shard.ids) - shard.live_count > MAX_DEAD_SHARE * len(shard.ids)
            if is_thin and shard.live_count <= MAX_DISSOLVED_COUNT:
                self._dissolve(catalog, shard)

    def _dissolve(self, catalog: Catalog, shard: Shard) -> None:
        """Move the rows of a sealed shard to the tail."""
        self._sealed.remove(shard)
        is_live = shard.owners >= 0
        ids, owners, stamps = shard.ids[is_live], shard.owners[is_live], shard.stamps[is_live]
        for rows in read_rows(catalog, self.kind, ids, owners, stamps, count=self._read_row_count):
            self._extend_tail(catalog, rows)

    def save(self) -> None:
        """Write the index to files for the next process. A failure only costs that process time, so it is logged."""
        with self._lock:
            if self._held.state is None:
                raise ValueError("refresh() the index before saving it")
            try:
                make_private_folder(self._folder)
                shards = [shard for shard in self._shards() if shard.live_count]
                for shard in shards:
                    if shard.name is None or not (self._folder / shard.name).exists():
                        shard.name = write_shard(self._folder, self.kind, shard)
                self._write_manifest([str(shard.name) for shard in shards], self._held.state[0])
            except OSError as error:
                logger.warning("index not saved kind=%s folder=%s reason=%s", self.kind, self._folder, error)

    def _write_manifest(self, names: list[str], identity: str) -> None:
        text = json.dumps(
            {"format": FORMAT, "catalog": identity, "fingerprint": self.fingerprint, "shards": names}, indent=1
        )
        temporary = self._folder / f"writing-{self.kind}-{os.getpid()}"
        with open(temporary, "w", opener=private_opener) as file:
            file.write(text)
        os.replace(temporary, self._folder / f"{self.kind}.json")
        for path in [*self._folder.glob(f"{self.kind}-*.shard"), *self._folder.glob("writing-*")]:
            if path.name not in names:  # replaced, or left behind by a writer that died
                path.unlink(missing_ok=True)

    def _load(self, catalog: Catalog) -> dict[int, float]:
        """Replace the shards by those of the files; return the stamp of each video in them, by row.

        Any file may be missing or wrong: refresh() then reads those rows from the catalog.
        """
        self._tail, self._sealed, self._sealer = None, [], None
        stamps: dict[int, float] = {}
        loaded_ids = NO_IDS
        for name in self._read_manifest(catalog.identity()):
            try:
                shard = read_shard(self._folder / name)
                shard_stamps = shard.video_stamps()
                if np.isin(shard.ids, loaded_ids).any() or (self._tail is not None and not shard.is_sealed):
                    raise ValueError("it repeats another shard")
            except (OSError, ValueError, RuntimeError) as error:  # FAISS raises RuntimeError
                logger.warning("index file not used, rebuilding name=%s reason=%s", name, error)
                continue
            stamps.update(shard_stamps)
            loaded_ids = np.concatenate([loaded_ids, shard.ids[shard.owners >= 0]])
            if shard.is_sealed:
                self._sealed.append(shard)
            else:
                self._tail = shard
        return stamps

    def _read_manifest(self, identity: str) -> list[str]:
        """Return the names of the shard files, or none if the manifest is unusable or of other rows."""
        try:
            manifest = json.loads((self._folder / f"{self.kind}.json").read_bytes())
            source = (manifest["format"], manifest["catalog"], manifest["fingerprint"])
            names = [str(name) for name in manifest["shards"]]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            logger.warning("index manifest not used, rebuilding kind=%s reason=%r", self.kind, error)
            return []
        if source != (FORMAT, identity, self.fingerprint):
            logger.info("index of other rows, rebuilding kind=%s", self.kind)
            return []
        return [name for name in names if re.fullmatch(rf"{self.kind}-[0-9a-f]{{64}}\.shard", name)]
