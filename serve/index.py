"""Nearest vectors among the segments, or the utterances, of all videos: FAISS over what the catalog holds.

The index is a cache. refresh() makes its content that of the catalog, whatever it was before; save() leaves a file
from which the next process starts quicker, or, where that file is missing, torn, altered, of other encoders or of
another catalog, does not start from it.

New rows go to an exact flat `tail`. When that passes EXACT_ROW_COUNT, it is sealed (serve.shard), together with
the shards that are no larger (so sizes double, and a row is sealed a few times at most). Rows that are gone leave at
once in memory; a shard that lost more than a third, and is not large, is dissolved: what is left of it goes through
the tail again.

Of a live video only the blocks that changed are looked at (serve.following), so what a change costs does not grow with
the video's length.

On disk: DIR/index/KIND.json names the shard files; a shard file is named by its SHA-256, and never changed.
"""

import json
import logging
import os
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serve.catalog import Catalog, Kind
from serve.following import LiveIds, block_changes, blocks_of, live_ids
from serve.reading import RowState
from serve.sealing import READ_ROW_COUNT, Sealing
from serve.shard import LARGEST_SHARD_ROW_COUNT, Shard, empty_tail, held_by_row, read_file, seal, write_file

logger = logging.getLogger(__name__)

FORMAT = 2  # of the files; those of another are not read
INDEX_FOLDER = "index"
# Rows up to here are compared exactly, so that a library of some hundred hours misses nothing: 50,000 x 512 float16 are
# 50 MB, and take 2 ms a query.
EXACT_ROW_COUNT = 50_000
NO_IDS = np.empty(0, np.int64)
LARGEST_DEAD_SHARE = 1 / 3  # of a sealed shard: beyond it too much of what is compared is gone
# Rows of a shard that is dissolved: reading so many vectors takes some 0.3 s. A larger one that is pruned from the old
# end stays until it is down to this; it is no less right for that.
MOST_DISSOLVED_COUNT = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Followed:
    """What is known of a live video."""

    version: int
    blocks: dict[int, NDArray[np.int64]]  # ids of its rows, with a vector or without


@dataclass(slots=True, kw_only=True)
class _Difference:
    """Rows of live videos that came and that went."""

    ids: list[NDArray[np.int64]] = field(default_factory=list)
    owners: list[NDArray[np.int64]] = field(default_factory=list)
    stamps: list[NDArray[np.float64]] = field(default_factory=list)
    gone: list[NDArray[np.int64]] = field(default_factory=list)

    def add(self, row: int, there: LiveIds, is_new: NDArray[np.bool_]) -> None:
        self.ids.append(there.ids[is_new])
        self.owners.append(np.full(int(is_new.sum()), row, np.int64))
        self.stamps.append(there.stamps[is_new])


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
        self._catalog_state: tuple[str, int] | None = None  # identity and generation of the last refresh
        self._held: dict[int, float] = {}  # video row -> its indexed_time
        self._followed: dict[int, _Followed] = {}  # by row of a live video
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
            before, state = self._catalog_state, (catalog.identity(), catalog.generation())
            if state == before:
                return
            self._catalog_state = None  # until all is done: after a failure half-way the next call begins anew
            if before is None or before[0] != state[0] or before[1] > state[1]:
                self._load(state[0])
                before = None
            changed = catalog.changed_rows(self.fingerprint, -1 if before is None else before[1])
            if before is None or catalog.ready_count(self.fingerprint) != len(self._held.keys() | changed.keys()):
                changed = catalog.changed_rows(self.fingerprint)
                self._remove({row for row, at in self._held.items() if not _is_there(changed.get(row), at)})
            missing = [row for row, there in changed.items() if not there.is_live and row not in self._held]
            difference = self._follow(catalog, {row: there for row, there in changed.items() if there.is_live})
            self._held.update((row, there.indexed_time) for row, there in changed.items())
            self._compact(catalog)
            self._append(catalog, sorted(missing))
            if difference.ids:
                ids, owners = np.concatenate(difference.ids), np.concatenate(difference.owners)
                self._append_ids(catalog, ids, owners, np.concatenate(difference.stamps))
            if self._sealing is not None and self._sealing.is_over:
                self._adopt(self._sealing)
            if self._tail is not None and self._tail.live_count > EXACT_ROW_COUNT:
                if not self.seals_aside or before is None:
                    self._seal(catalog)
                elif self._sealing is None:
                    self._sealing = Sealing(catalog, self.kind, [self._tail, *self._smaller(self._tail.live_count)])
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

    def close(self) -> None:
        """Read nothing more of the catalog."""
        with self._turn:
            if self._sealing is not None:
                self._sealing.stop_reading()
            self._sealing = None

    # ---- growing and shrinking

    def _shards(self) -> list[Shard]:
        return [*self._sealed, *([] if self._tail is None else [self._tail])]

    def _remove(self, rows: set[int]) -> None:
        for shard in self._shards() if rows else []:
            shard.remove(rows)
        for row in rows:
            del self._held[row]
            self._followed.pop(row, None)

    def _follow(self, catalog: Catalog, rows: Mapping[int, RowState]) -> _Difference:
        """Take out what is gone of live videos, and tell what is new of them."""
        difference = _Difference()
        loaded = [row for row in rows if row in self._held and row not in self._followed]
        from_files = held_by_row(self._shards(), loaded)
        for row, there in rows.items():
            known = self._followed.get(row)
            if known is None:
                blocks = self._compare(catalog, row, difference, *from_files.get(row, (NO_IDS, np.empty(0))))
            else:
                blocks = self._look_at_changes(catalog, row, difference, known)
            self._followed[row] = _Followed(version=there.version, blocks=blocks)
        gone = np.concatenate(difference.gone) if difference.gone else NO_IDS
        for shard in self._shards() if len(gone) else []:
            shard.remove_ids(gone)
        return difference

    def _compare(
        self,
        catalog: Catalog,
        row: int,
        difference: _Difference,
        held_ids: NDArray[np.int64],
        held_stamps: NDArray[np.float64],
    ) -> dict[int, NDArray[np.int64]]:
        """Compare a live video's rows with what the files hold of it; return its ids by block."""
        there = live_ids(catalog, self.kind, row)
        stamps = dict(zip(there.ids.tolist(), there.stamps.tolist(), strict=True))
        is_right = [stamps.get(key) == at for key, at in zip(held_ids.tolist(), held_stamps.tolist(), strict=True)]
        right = held_ids[np.array(is_right, np.bool_)]
        difference.gone.append(np.setdiff1d(held_ids, right))
        difference.add(row, there, ~np.isin(there.ids, right))
        blocks, first = np.unique(blocks_of(self.kind, there.positions), return_index=True)
        return dict(zip(blocks.tolist(), np.split(there.ids, first[1:]), strict=True)) if len(blocks) else {}

    def _look_at_changes(
        self, catalog: Catalog, row: int, difference: _Difference, known: _Followed
    ) -> dict[int, NDArray[np.int64]]:
        """Compare the blocks of a live video that changed; return its ids by block."""
        changes = block_changes(catalog, row, known.version)
        blocks = known.blocks
        passed = [block for block in blocks if block < changes.first_block]
        difference.gone += [blocks.pop(block) for block in passed]
        for block in changes.changed:
            if block >= changes.first_block:
                there, before = live_ids(catalog, self.kind, row, block), blocks.get(block, NO_IDS)
                difference.gone.append(np.setdiff1d(before, there.ids))
                difference.add(row, there, ~np.isin(there.ids, before))
                blocks[block] = there.ids
        return blocks

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
                self._extend_tail_with_files(ids, vectors, owners)
                self._seal(catalog)
                ids, vectors, owners, count = [], [], [], 0
        if ids:
            self._extend_tail_with_files(ids, vectors, owners)

    def _extend_tail_with_files(
        self, ids: list[NDArray[np.int64]], vectors: list[NDArray[np.float32]], owners: list[NDArray[np.int64]]
    ) -> None:
        rows = np.concatenate(owners)
        stamps = np.array([self._held[int(row)] for row in rows])
        self._extend_tail(np.concatenate(ids), np.concatenate(vectors), rows, stamps)

    def _append_ids(
        self, catalog: Catalog, ids: NDArray[np.int64], owners: NDArray[np.int64], stamps: NDArray[np.float64]
    ) -> None:
        """Add single rows to the tail, those that have a vector, sealing it as _append() does."""
        order = np.argsort(ids)
        for first in range(0, len(ids), READ_ROW_COUNT):
            some = order[first : first + READ_ROW_COUNT]
            found, vectors = catalog.vectors_by_id(self.kind, ids[some].tolist())
            if len(found):
                at = some[np.searchsorted(ids[some], found)]
                self._extend_tail(found, vectors, owners[at], stamps[at])
            if self._tail is not None and self._tail.live_count >= LARGEST_SHARD_ROW_COUNT:
                self._seal(catalog)

    def _extend_tail(
        self,
        ids: NDArray[np.int64],
        vectors: NDArray[np.float32],
        owners: NDArray[np.int64],
        stamps: NDArray[np.float64],
    ) -> None:
        if self._tail is None:
            self._tail = empty_tail(vectors.shape[1])
        self._tail.add(ids, vectors, owners, stamps)

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
        self._append_ids(catalog, shard.ids[left], shard.owners[left], shard.stamps[left])

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
        self._held, self._followed, self._tail, self._sealed, self._sealing = {}, {}, None, [], None
        known = NO_IDS
        for name in self._names(identity):
            try:
                shard = read_file(self._folder / name)
                videos = shard.videos()
                if np.isin(shard.ids, known).any() or (self._tail is not None and not shard.is_sealed):
                    raise ValueError("it repeats another shard")
            except (OSError, ValueError, RuntimeError) as error:  # FAISS's own are RuntimeErrors
                logger.warning("index file not used, rebuilding name=%s reason=%s", name, error)
                continue
            self._held.update(videos)
            known = np.concatenate([known, shard.ids[shard.owners >= 0]])
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


def _is_there(state: RowState | None, stamp: float) -> bool:
    """Whether a video that is held is the catalog's; of a live one its rows tell."""
    return state is not None and (state.is_live or state.indexed_time == stamp)
