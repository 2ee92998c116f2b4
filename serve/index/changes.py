"""HeldRows: which of a catalog's rows an index holds. IndexChanges: what the index must do to match the catalog.

Both indexes use them. The rows of a file are added and removed together; the file's indexed_time identifies them. A
live video is compared only in the blocks that changed (serve.catalog.live_blocks), so the cost of a change does not
grow with the video's length.
"""

from collections.abc import Callable, Iterator, KeysView, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from serve.catalog.catalog import Catalog, Kind
from serve.catalog.live_blocks import LiveIds, block_changes, blocks_of, live_ids
from serve.catalog.reader import RowState

READ_ROW_COUNT = 10_000  # vectors read from the catalog at once: some 20 MB
NO_IDS = np.empty(0, np.int64)
IdsAndStamps = tuple[NDArray[np.int64], NDArray[np.float64]]  # of the rows of a live video


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorRows:
    """Rows of one kind with their vectors."""

    ids: NDArray[np.int64]  # (N,)
    vectors: NDArray[np.float32]  # (N, D)
    owners: NDArray[np.int64]  # (N,), the row of the video of each
    stamps: NDArray[np.float64]  # (N,), indexed_time of the file; for a live video, added_time of the row itself


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexChanges:
    """The rows that an index must remove first, and the rows that it must then add."""

    state: tuple[str, int]  # identity and generation of the catalog after these changes
    is_first: bool  # nothing was known before: `load` was called
    gone_videos: frozenset[int]
    new_files: tuple[int, ...]
    # Rows of live videos, new rows both with and without a vector. Each list has an array per video or block.
    gone: list[NDArray[np.int64]] = field(default_factory=list)
    ids: list[NDArray[np.int64]] = field(default_factory=list)
    owners: list[NDArray[np.int64]] = field(default_factory=list)
    stamps: list[NDArray[np.float64]] = field(default_factory=list)

    @property
    def gone_ids(self) -> NDArray[np.int64]:
        return np.concatenate([NO_IDS, *self.gone])

    def add(self, row: int, stored: LiveIds, is_new: NDArray[np.bool_]) -> None:
        """Add the new rows among the stored rows of a live video."""
        self.ids.append(stored.ids[is_new])
        self.owners.append(np.full(int(is_new.sum()), row, np.int64))
        self.stamps.append(stored.stamps[is_new])


@dataclass(frozen=True, slots=True, kw_only=True)
class _LiveVideo:
    """The rows that an index holds of a live video."""

    version: int
    blocks: dict[int, NDArray[np.int64]]  # ids by block, of rows with and without a vector


class HeldRows:
    """The rows that one index holds: one kind of row of one encoder space."""

    def __init__(self, kind: Kind, fingerprint: str, *, read_row_count: int = READ_ROW_COUNT) -> None:
        self.kind, self.fingerprint, self._read_row_count = kind, fingerprint, read_row_count
        # Of the catalog, when the index last matched it. None: unknown, so the next comparison begins with `load`.
        self.state: tuple[str, int] | None = None
        self._stamps: dict[int, float] = {}  # indexed_time by row of a video
        self._live: dict[int, _LiveVideo] = {}  # by row of a live video

    @property
    def videos(self) -> KeysView[int]:
        """The rows of the videos that the index holds."""
        return self._stamps.keys()

    def find_changes(
        self,
        catalog: Catalog,
        load: Callable[[Catalog], Mapping[int, float]],
        load_live: Callable[[Sequence[int]], Mapping[int, IdsAndStamps]],
    ) -> IndexChanges | None:
        """Compare the index with the catalog, inside a snapshot; return None if they match.

        The caller applies the changes, then calls mark_done(). If it fails before that, the next call starts from
        `load` again.

        Args:
            load: Returns the stamp of each video in the index, by row. Called only where nothing is known.
            load_live: Returns the rows that the index has of some live videos among those of `load`, by row.
        """
        before, state = self.state, (catalog.identity(), catalog.generation())
        if state == before:
            return None
        self.state = None
        if before is None or before[0] != state[0] or before[1] > state[1]:
            self._stamps, self._live = dict(load(catalog)), {}
            before = None
        changed = catalog.changed_rows(self.fingerprint, -1 if before is None else before[1])
        gone: frozenset[int] = frozenset()
        if before is None or catalog.ready_count(self.fingerprint) != len(self._stamps.keys() | changed.keys()):
            changed = catalog.changed_rows(self.fingerprint)
            gone = frozenset(row for row, stamp in self._stamps.items() if not _is_current(changed.get(row), stamp))
            for row in gone:
                del self._stamps[row]
                self._live.pop(row, None)
        missing = sorted(row for row, now in changed.items() if not now.is_live and row not in self._stamps)
        changes = IndexChanges(state=state, is_first=before is None, gone_videos=gone, new_files=tuple(missing))
        self._compare_live(catalog, {row: now for row, now in changed.items() if now.is_live}, changes, load_live)
        self._stamps.update((row, now.indexed_time) for row, now in changed.items())
        return changes

    def mark_done(self, changes: IndexChanges) -> None:
        """Note that the index has applied the changes."""
        self.state = changes.state

    def read_new_rows(self, catalog: Catalog, changes: IndexChanges) -> Iterator[VectorRows]:
        """Read the rows to add, in parts of about `read_row_count`. New files that are gone by now are left out."""
        files = {row: self._stamps[row] for row in changes.new_files if row in self._stamps}
        yield from _read_files(catalog, self.kind, files, self._read_row_count)
        if changes.ids:
            ids, owners = np.concatenate(changes.ids), np.concatenate(changes.owners)
            stamps = np.concatenate(changes.stamps)
            yield from read_rows(catalog, self.kind, ids, owners, stamps, count=self._read_row_count)

    def are_held(self, rows: Sequence[tuple[int, int, float]]) -> NDArray[np.bool_]:
        """Return bool (N,): whether the index holds each row, given as its id, its video's row and its stamp."""
        is_held = np.array([self._stamps.get(video) == stamp for _, video, stamp in rows], np.bool_)
        for video in {video for _, video, _ in rows} & self._live.keys():
            ids = np.concatenate([NO_IDS, *self._live[video].blocks.values()])
            of_video = [n for n, (_, owner, _) in enumerate(rows) if owner == video]
            is_held[of_video] = np.isin([rows[n][0] for n in of_video], ids)
        return is_held

    def _compare_live(
        self,
        catalog: Catalog,
        rows: Mapping[int, RowState],
        changes: IndexChanges,
        load_live: Callable[[Sequence[int]], Mapping[int, IdsAndStamps]],
    ) -> None:
        """Add the changes of some live videos."""
        loaded = load_live([row for row in rows if row in self._stamps and row not in self._live])
        for row, now in rows.items():
            known = self._live.get(row)
            if known is None:
                blocks = self._compare_video(catalog, row, changes, *loaded.get(row, (NO_IDS, np.empty(0))))
            else:
                blocks = self._compare_blocks(catalog, row, changes, known)
            self._live[row] = _LiveVideo(version=now.version, blocks=blocks)

    def _compare_video(
        self,
        catalog: Catalog,
        row: int,
        changes: IndexChanges,
        held_ids: NDArray[np.int64],
        held_stamps: NDArray[np.float64],
    ) -> dict[int, NDArray[np.int64]]:
        """Compare all rows of a live video with those in the index; return the catalog's ids by block."""
        stored = live_ids(catalog, self.kind, row)
        stamps = dict(zip(stored.ids.tolist(), stored.stamps.tolist(), strict=True))
        is_right = [stamps.get(key) == at for key, at in zip(held_ids.tolist(), held_stamps.tolist(), strict=True)]
        right = held_ids[np.array(is_right, np.bool_)]
        changes.gone.append(np.setdiff1d(held_ids, right))
        changes.add(row, stored, ~np.isin(stored.ids, right))
        blocks, first = np.unique(blocks_of(self.kind, stored.positions), return_index=True)
        return dict(zip(blocks.tolist(), np.split(stored.ids, first[1:]), strict=True)) if len(blocks) else {}

    def _compare_blocks(
        self, catalog: Catalog, row: int, changes: IndexChanges, known: _LiveVideo
    ) -> dict[int, NDArray[np.int64]]:
        """Compare the blocks of a live video that changed; return the catalog's ids by block."""
        since = block_changes(catalog, row, known.version)
        blocks = known.blocks
        pruned = [block for block in blocks if block < since.first_block]
        changes.gone.extend(blocks.pop(block) for block in pruned)
        for block in since.changed:
            if block >= since.first_block:
                stored, before = live_ids(catalog, self.kind, row, block), blocks.get(block, NO_IDS)
                changes.gone.append(np.setdiff1d(before, stored.ids))
                changes.add(row, stored, ~np.isin(stored.ids, before))
                blocks[block] = stored.ids
        return blocks


def read_rows(
    catalog: Catalog,
    kind: Kind,
    ids: NDArray[np.int64],
    owners: NDArray[np.int64],
    stamps: NDArray[np.float64],
    *,
    count: int = READ_ROW_COUNT,
) -> Iterator[VectorRows]:
    """Read single rows by id, `count` at a time. Rows without a vector, or no longer there, are left out."""
    order = np.argsort(ids)
    for first in range(0, len(ids), count):
        some = order[first : first + count]
        found_ids, vectors = catalog.vectors_by_id(kind, ids[some].tolist())
        if len(found_ids):
            at = some[np.searchsorted(ids[some], found_ids)]
            yield VectorRows(ids=found_ids, vectors=vectors, owners=owners[at], stamps=stamps[at])


def _read_files(catalog: Catalog, kind: Kind, stamps: Mapping[int, float], count: int) -> Iterator[VectorRows]:
    """Read all rows of some files, given by row with their indexed_time, in parts of at least `count` but the last."""
    parts: list[VectorRows] = []
    read_count = 0
    for row, stamp in stamps.items():
        ids, vectors = catalog.row_ids(kind, row)
        if len(ids):
            owners = np.full(len(ids), row, np.int64)
            parts.append(VectorRows(ids=ids, vectors=vectors, owners=owners, stamps=np.full(len(ids), stamp)))
            read_count += len(ids)
        if read_count >= count:
            yield _join(parts)
            parts, read_count = [], 0
    if parts:
        yield _join(parts)


def _join(parts: Sequence[VectorRows]) -> VectorRows:
    return VectorRows(
        ids=np.concatenate([part.ids for part in parts]),
        vectors=np.concatenate([part.vectors for part in parts]),
        owners=np.concatenate([part.owners for part in parts]),
        stamps=np.concatenate([part.stamps for part in parts]),
    )


def _is_current(state: RowState | None, stamp: float) -> bool:
    """Whether the catalog still has a video that is held. A live video is compared row by row instead."""
    return state is not None and (state.is_live or state.indexed_time == stamp)
