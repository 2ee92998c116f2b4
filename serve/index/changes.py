"""Which of a catalog's rows an index holds, and what it has to do to hold those that the catalog has now.

A file's rows come and go together, and its indexed_time tells them from those of another. Of a live video only the
blocks that changed are looked at (serve.search.video_rows), so what a change costs does not grow with the video's
length.
"""

from collections.abc import Callable, Iterator, KeysView, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from serve.catalog.catalog import Catalog, Kind
from serve.catalog.live_blocks import LiveIds, block_changes, blocks_of, live_ids
from serve.catalog.reader import RowState

READ_ROW_COUNT = 10_000  # vectors read at once: some 20 MB
NO_IDS = np.empty(0, np.int64)
Stored = tuple[NDArray[np.int64], NDArray[np.float64]]  # ids and stamps of a live video's rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Rows of one kind with their vectors."""

    ids: NDArray[np.int64]  # (N,)
    vectors: NDArray[np.float32]  # (N, D)
    owners: NDArray[np.int64]  # (N,), the row of each one's video
    stamps: NDArray[np.float64]  # (N,), that video's indexed_time; of a live one, the row's own added_time


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What an index has to take out, and then to put in."""

    state: tuple[str, int]  # of the catalog: identity and generation
    is_first: bool  # nothing was known before
    gone_videos: frozenset[int]
    new_files: tuple[int, ...]
    # Rows of live videos, the new ones with a vector or without; a list has an array for each video or block.
    gone: list[NDArray[np.int64]] = field(default_factory=list)
    ids: list[NDArray[np.int64]] = field(default_factory=list)
    owners: list[NDArray[np.int64]] = field(default_factory=list)
    stamps: list[NDArray[np.float64]] = field(default_factory=list)

    @property
    def gone_ids(self) -> NDArray[np.int64]:
        return np.concatenate([NO_IDS, *self.gone])

    def add(self, row: int, there: LiveIds, is_new: NDArray[np.bool_]) -> None:
        self.ids.append(there.ids[is_new])
        self.owners.append(np.full(int(is_new.sum()), row, np.int64))
        self.stamps.append(there.stamps[is_new])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Followed:
    """What is known of a live video."""

    version: int
    blocks: dict[int, NDArray[np.int64]]  # ids of its rows, with a vector or without


class HeldRows:
    """What one index holds of one kind of row of one encoder space."""

    def __init__(self, kind: Kind, fingerprint: str) -> None:
        self.kind, self.fingerprint = kind, fingerprint
        self.state: tuple[str, int] | None = None  # of the catalog when it was last the same; None: not known
        self._stamps: dict[int, float] = {}  # video row -> its indexed_time
        self._followed: dict[int, _Followed] = {}  # by row of a live video

    @property
    def videos(self) -> KeysView[int]:
        """The rows of the videos that are held."""
        return self._stamps.keys()

    def compare(
        self,
        catalog: Catalog,
        load: Callable[[Catalog], Mapping[int, float]],
        stored: Callable[[Sequence[int]], Mapping[int, Stored]],
    ) -> Changes | None:
        """Tell what is to be done; None: nothing. Call it inside a snapshot, and settle() when it is done.

        Until then nothing counts as known: after a failure half-way the next call begins anew.

        Args:
            load: Called where nothing is known: returns the videos, by row, that the index has, each with a stamp.
            stored: Returns what the index has of some live videos that load() told of.
        """
        before, state = self.state, (catalog.identity(), catalog.generation())
        if state == before:
            return None
        self.state = None
        if before is None or before[0] != state[0] or before[1] > state[1]:
            self._stamps, self._followed = dict(load(catalog)), {}
            before = None
        changed = catalog.changed_rows(self.fingerprint, -1 if before is None else before[1])
        gone: frozenset[int] = frozenset()
        if before is None or catalog.ready_count(self.fingerprint) != len(self._stamps.keys() | changed.keys()):
            changed = catalog.changed_rows(self.fingerprint)
            gone = frozenset(row for row, at in self._stamps.items() if not _is_there(changed.get(row), at))
            for row in gone:
                del self._stamps[row]
                self._followed.pop(row, None)
        missing = sorted(row for row, there in changed.items() if not there.is_live and row not in self._stamps)
        changes = Changes(state=state, is_first=before is None, gone_videos=gone, new_files=tuple(missing))
        self._follow(catalog, {row: there for row, there in changed.items() if there.is_live}, changes, stored)
        self._stamps.update((row, there.indexed_time) for row, there in changed.items())
        return changes

    def settle(self, changes: Changes) -> None:
        """Note that the index has done what it was told."""
        self.state = changes.state

    def new_rows(self, catalog: Catalog, changes: Changes) -> Iterator[Rows]:
        """Read what is to be put in, some READ_ROW_COUNT rows at a time."""
        yield from rows_of_files(catalog, self.kind, self._files(changes))
        if changes.ids:
            ids, owners = np.concatenate(changes.ids), np.concatenate(changes.owners)
            yield from rows_by_id(catalog, self.kind, ids, owners, np.concatenate(changes.stamps))

    def _files(self, changes: Changes) -> dict[int, float]:
        """Return the new files that are not gone again, each with its indexed_time."""
        return {row: self._stamps[row] for row in changes.new_files if row in self._stamps}

    def holds(self, rows: Sequence[tuple[int, int, float]]) -> NDArray[np.bool_]:
        """Tell of each row, by its id, its video's row and its stamp, whether it is held."""
        is_held = np.array([self._stamps.get(video) == stamp for _, video, stamp in rows], np.bool_)
        for video in {video for _, video, _ in rows} & self._followed.keys():
            ids = np.concatenate([NO_IDS, *self._followed[video].blocks.values()])
            mine = [n for n, (_, owner, _) in enumerate(rows) if owner == video]
            is_held[mine] = np.isin([rows[n][0] for n in mine], ids)
        return is_held

    # ---- live videos

    def _follow(
        self,
        catalog: Catalog,
        rows: Mapping[int, RowState],
        changes: Changes,
        stored: Callable[[Sequence[int]], Mapping[int, Stored]],
    ) -> None:
        """Note what is gone of live videos, and what is new of them."""
        loaded = stored([row for row in rows if row in self._stamps and row not in self._followed])
        for row, there in rows.items():
            known = self._followed.get(row)
            if known is None:
                blocks = self._compare(catalog, row, changes, *loaded.get(row, (NO_IDS, np.empty(0))))
            else:
                blocks = self._look_at_changes(catalog, row, changes, known)
            self._followed[row] = _Followed(version=there.version, blocks=blocks)

    def _compare(
        self,
        catalog: Catalog,
        row: int,
        changes: Changes,
        held_ids: NDArray[np.int64],
        held_stamps: NDArray[np.float64],
    ) -> dict[int, NDArray[np.int64]]:
        """Compare a live video's rows with what the index has of it; return its ids by block."""
        there = live_ids(catalog, self.kind, row)
        stamps = dict(zip(there.ids.tolist(), there.stamps.tolist(), strict=True))
        is_right = [stamps.get(key) == at for key, at in zip(held_ids.tolist(), held_stamps.tolist(), strict=True)]
        right = held_ids[np.array(is_right, np.bool_)]
        changes.gone.append(np.setdiff1d(held_ids, right))
        changes.add(row, there, ~np.isin(there.ids, right))
        blocks, first = np.unique(blocks_of(self.kind, there.positions), return_index=True)
        return dict(zip(blocks.tolist(), np.split(there.ids, first[1:]), strict=True)) if len(blocks) else {}

    def _look_at_changes(
        self, catalog: Catalog, row: int, changes: Changes, known: _Followed
    ) -> dict[int, NDArray[np.int64]]:
        """Compare the blocks of a live video that changed; return its ids by block."""
        found = block_changes(catalog, row, known.version)
        blocks = known.blocks
        passed = [block for block in blocks if block < found.first_block]
        changes.gone.extend(blocks.pop(block) for block in passed)
        for block in found.changed:
            if block >= found.first_block:
                there, before = live_ids(catalog, self.kind, row, block), blocks.get(block, NO_IDS)
                changes.gone.append(np.setdiff1d(before, there.ids))
                changes.add(row, there, ~np.isin(there.ids, before))
                blocks[block] = there.ids
        return blocks


def rows_of_files(catalog: Catalog, kind: Kind, stamps: Mapping[int, float]) -> Iterator[Rows]:
    """Read all rows of some files, by row with their indexed_time, some READ_ROW_COUNT at a time."""
    read: list[Rows] = []
    count = 0
    for row, stamp in stamps.items():
        ids, vectors = catalog.row_ids(kind, row)
        if len(ids):
            owners = np.full(len(ids), row, np.int64)
            read.append(Rows(ids=ids, vectors=vectors, owners=owners, stamps=np.full(len(ids), stamp)))
            count += len(ids)
        if count >= READ_ROW_COUNT:
            yield _joined(read)
            read, count = [], 0
    if read:
        yield _joined(read)


def rows_by_id(
    catalog: Catalog, kind: Kind, ids: NDArray[np.int64], owners: NDArray[np.int64], stamps: NDArray[np.float64]
) -> Iterator[Rows]:
    """Read single rows, those that have a vector, READ_ROW_COUNT at a time."""
    order = np.argsort(ids)
    for first in range(0, len(ids), READ_ROW_COUNT):
        some = order[first : first + READ_ROW_COUNT]
        found, vectors = catalog.vectors_by_id(kind, ids[some].tolist())
        if len(found):
            at = some[np.searchsorted(ids[some], found)]
            yield Rows(ids=found, vectors=vectors, owners=owners[at], stamps=stamps[at])


def _joined(read: Sequence[Rows]) -> Rows:
    return Rows(
        ids=np.concatenate([one.ids for one in read]),
        vectors=np.concatenate([one.vectors for one in read]),
        owners=np.concatenate([one.owners for one in read]),
        stamps=np.concatenate([one.stamps for one in read]),
    )


def _is_there(state: RowState | None, stamp: float) -> bool:
    """Whether a video that is held is the catalog's; of a live one its rows tell."""
    return state is not None and (state.is_live or state.indexed_time == stamp)
