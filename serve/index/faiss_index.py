"""Nearest vectors among the segments, or the utterances, of all videos: FAISS over what the catalog holds.

The index is a cache. refresh() makes its content that of the catalog, whatever it was before; save() leaves a file
from which the next process starts quicker, or, where that file is missing, torn, altered, of other encoders or of
another catalog, does not start from it.

New rows go to an exact flat `tail`. When that passes EXACT_ROW_COUNT, it is sealed (serve.index.shard), together with
the shards that are no larger (so sizes double, and a row is sealed a few times at most). Rows that are gone leave at
once in memory; a shard that lost more than a third, and is not large, is dissolved: what is left of it goes through
the tail again.

On disk: DIR/index/KIND.json names the shard files; a shard file is named by its SHA-256, and never changed.
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
from serve.index.changes import NO_IDS, HeldRows, Rows, rows_by_id
from serve.index.nearest import Nearest, NearestWithVideos, best_of, check_question, distinct
from serve.index.sealing import Sealing
from serve.index.shard import LARGEST_SHARD_ROW_COUNT, Shard, held_by_row, make_tail, read_file, seal, write_file

logger = logging.getLogger(__name__)

FORMAT = 2  # of the files; those of another are not read
INDEX_FOLDER = "index"
# Rows up to here are compared exactly, so that a library of some hundred hours misses nothing: 50,000 x 512 float16 are
# 50 MB, and take 2 ms a query.
EXACT_ROW_COUNT = 50_000
LARGEST_DEAD_SHARE = 1 / 3  # of a sealed shard: beyond it too much of what is compared is gone
# Rows of a shard that is dissolved: reading so many vectors takes some 0.3 s. A larger one that is pruned from the old
# end stays until it is down to this; it is no less right for that.
MOST_DISSOLVED_COUNT = 10_000


class VectorIndex:
    """FAISS inner product over one kind of row of one encoder space. Threads may share it, and take turns."""

    def __init__(self, directory: Path, kind: Kind, fingerprint: str, *, seals_aside: bool = False) -> None:
        """Make an empty index; refresh() fills it.

        Args:
            directory: The data directory.
            kind: Which rows.
            fingerprint: EncoderSpace.fingerprint of the rows to hold; others are left out.
            seals_aside: Seal a tail that grew in a thread, so that no refresh() but the first takes seconds. Then the
                catalog must be one for reading, and close() comes before the catalog's.
        """
        self.kind, self.fingerprint, self.seals_aside = kind, fingerprint, seals_aside
        self._folder = directory / INDEX_FOLDER
        self._turn = threading.RLock()
        self._holdings = HeldRows(kind, fingerprint)
        self._tail: Shard | None = None  # None: no vector seen yet, so no width
        self._sealed: list[Shard] = []
        self._sealing: Sealing | None = None

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
            changes = self._holdings.compare(catalog, self._load, lambda rows: held_by_row(self._shards(), rows))
            if changes is None:
                return
            gone_videos, gone_ids = set(changes.gone_videos), changes.gone_ids
            for shard in self._shards():
                shard.remove(gone_videos)
                shard.remove_ids(gone_ids)
            self._compact(catalog)
            for rows in self._holdings.new_rows(catalog, changes):
                self._extend_tail(catalog, rows)
            if self._sealing is not None and self._sealing.is_over:
                self._adopt(self._sealing)
            if self._tail is not None and self._tail.live_count > EXACT_ROW_COUNT:
                if not self.seals_aside or changes.is_first:
                    self._seal(catalog)
                elif self._sealing is None:
                    self._sealing = Sealing(catalog, self.kind, [self._tail, *self._smaller(self._tail.live_count)])
            self._holdings.settle(changes)

    def search(self, vectors: NDArray[np.float32], k: int, *, rows: Sequence[int] | None = None) -> Nearest:
        """Find the nearest by inner product, best first; equal ones by id.

        Args:
            vectors: float32 (Q, D), unit length.
            k: The most per query.
            rows: Only what belongs to these videos; the answer is exact then. None: all.
        Returns:
            Ids int64 (Q, k), for Catalog.locate(), and scores float32 (Q, k); -1 and -inf where there are no more.
        """
        return self._search(vectors, k, rows)[:2]

    def videos(self, vector: NDArray[np.float32], k: int, *, rows: Sequence[int] | None = None) -> list[int]:
        """Return the rows of the videos that the k nearest belong to, the nearest first; arguments as of search().

        Args:
            vector: float32 (D,), unit length.
        """
        return distinct(self._search(vector[None], k, rows)[2][0])

    def _search(self, vectors: NDArray[np.float32], k: int, rows: Sequence[int] | None) -> NearestWithVideos:
        check_question(vectors, k)
        queries = np.ascontiguousarray(vectors, np.float32)
        found = []
        with self._turn:
            is_all = rows is None or self._holdings.videos <= set(rows)
            chosen = None if is_all else np.unique(np.array(rows, np.int64))
            for shard in self._shards() if len(queries) else []:
                if shard.width != queries.shape[1]:
                    raise ValueError(f"vectors must be {shard.width} wide, got {queries.shape[1]}")
                found.append(shard.search(queries, k, chosen))
        return best_of(found, len(queries), k)

    def close(self) -> None:
        """Read nothing more of the catalog."""
        with self._turn:
            if self._sealing is not None:
                self._sealing.stop_reading()
            self._sealing = None

    # ---- growing and shrinking

    def _shards(self) -> list[Shard]:
        return [*self._sealed, *([] if self._tail is None else [self._tail])]

    def _extend_tail(self, catalog: Catalog, rows: Rows) -> None:
        """Add rows to the tail, sealing it whenever it is as large as a shard may be."""
        if self._tail is None:
            self._tail = make_tail(rows.vectors.shape[1])
        self._tail.add(rows.ids, rows.vectors, rows.owners, rows.stamps)
        if self._tail.live_count >= LARGEST_SHARD_ROW_COUNT:
            self._seal(catalog)

    def _seal(self, catalog: Catalog) -> None:
        """Make the tail, and the shards that are no larger than it, one sealed shard."""
        assert self._tail is not None  # callers looked
        self._sealing = None  # what it makes is out of date
        for shard in self._smaller(self._tail.live_count):
            self._dissolve(catalog, shard)
        logger.info("index sealing kind=%s rows=%d", self.kind, self._tail.live_count)
        self._sealed.append(seal(self._tail))
        self._tail = None

    def _smaller(self, count: int) -> list[Shard]:
        """Return the sealed shards that go with so many rows into a new one."""
        chosen: list[Shard] = []
        while more := [
            shard
            for shard in self._sealed
            if shard not in chosen and shard.live_count <= count
            and shard.live_count + count < LARGEST_SHARD_ROW_COUNT
        ]:  # fmt: skip
            chosen.append(more[0])
            count += more[0].live_count
        return chosen

    def _adopt(self, sealing: Sealing) -> None:
        """Take a shard that was sealed aside in place of where its rows are."""
        self._sealing = None
        replaced = [shard for shard in self._sealed if shard in sealing.shards]
        shard = sealing.settle([*replaced, *([] if self._tail is None else [self._tail])])
        if shard is not None:
            self._sealed = [*(one for one in self._sealed if one not in replaced), shard]
            if self._tail is not None:
                self._tail.remove_ids(shard.ids)
            logger.info("index sealed kind=%s rows=%d", self.kind, shard.live_count)

    def _compact(self, catalog: Catalog) -> None:
        self._sealed = [shard for shard in self._sealed if shard.live_count]
        for shard in list(self._sealed):
            is_thin = len(shard.ids) - shard.live_count > LARGEST_DEAD_SHARE * len(shard.ids)
            if is_thin and shard.live_count <= MOST_DISSOLVED_COUNT:
                self._dissolve(catalog, shard)

    def _dissolve(self, catalog: Catalog, shard: Shard) -> None:
        self._sealed.remove(shard)
        left = shard.owners >= 0
        for rows in rows_by_id(catalog, self.kind, shard.ids[left], shard.owners[left], shard.stamps[left]):
            self._extend_tail(catalog, rows)

    # ---- the cache on disk

    def save(self) -> None:
        """Write what refresh() made, for the next process. A failure costs that process time, and is only logged."""
        with self._turn:
            if self._holdings.state is None:
                raise ValueError("refresh() the index before saving it")
            try:
                self._folder.mkdir(exist_ok=True)
                shards = [shard for shard in self._shards() if shard.live_count]
                for shard in shards:
                    if shard.name is None or not (self._folder / shard.name).exists():
                        shard.name = write_file(self._folder, self.kind, shard)
                self._write_manifest([str(shard.name) for shard in shards], self._holdings.state[0])
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

    def _load(self, catalog: Catalog) -> dict[int, float]:
        """Become what the files hold, of which anything may be missing or wrong: refresh() brings the rest."""
        self._tail, self._sealed, self._sealing = None, [], None
        held: dict[int, float] = {}
        known = NO_IDS
        for name in self._names(catalog.identity()):
            try:
                shard = read_file(self._folder / name)
                videos = shard.videos()
                if np.isin(shard.ids, known).any() or (self._tail is not None and not shard.is_sealed):
                    raise ValueError("it repeats another shard")
            except (OSError, ValueError, RuntimeError) as error:  # FAISS's own are RuntimeErrors
                logger.warning("index file not used, rebuilding name=%s reason=%s", name, error)
                continue
            held.update(videos)
            known = np.concatenate([known, shard.ids[shard.owners >= 0]])
            if shard.is_sealed:
                self._sealed.append(shard)
            else:
                self._tail = shard
        return held

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
