"""Which blocks of a live video changed, and the rows they hold."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve.catalog.blocks import BLOCK_BITS, UTTERANCE_BITS, block_of, block_range
from serve.catalog.reader import CatalogReader, Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockChanges:
    """What to read again of a live video."""

    first_block: int  # those before are gone
    changed: tuple[int, ...]  # new, changed, or empty by now


def block_changes(catalog: CatalogReader, row: int, since: int) -> BlockChanges:
    """Tell what of a live video changed after a generation (-1: all of it)."""
    ((first,),) = catalog.rows("SELECT min(position) FROM segments WHERE video_row = ?", row)
    changed = catalog.rows("SELECT block FROM live_blocks WHERE video_row = ? AND generation > ?", row, since)
    return BlockChanges(
        first_block=0 if first is None else block_of(first), changed=tuple(sorted(block for (block,) in changed))
    )


def positions_of(kind: Kind, block: int) -> tuple[int, int]:
    """Return the first and the last position that a row of a block can have."""
    first, last = block_range(block)
    if kind == "segments":
        return first, last
    return first << UTTERANCE_BITS, ((last + 1) << UTTERANCE_BITS) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveIds:
    """The rows of one kind of a live video, or of a block of it, in order of time."""

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    stamps: NDArray[np.float64]  # when each was added: tells it from one of the same id in a catalog put back


def live_ids(catalog: CatalogReader, kind: Kind, row: int, block: int | None = None) -> LiveIds:
    """Return what rows there are of a live video; None: in all its blocks."""
    places = (0, (1 << 63) - 1) if block is None else positions_of(kind, block)
    found = catalog.rows(
        f"SELECT id, position, added_time FROM {kind} INDEXED BY {kind}_added WHERE video_row = ?"
        " AND position BETWEEN ? AND ? AND added_time IS NOT NULL ORDER BY position", row, *places,
    )  # fmt: skip
    return LiveIds(
        ids=np.array([one[0] for one in found], np.int64),
        positions=np.array([one[1] for one in found], np.int64),
        stamps=np.array([one[2] for one in found], np.float64),
    )


def blocks_of(kind: Kind, positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the block of each position of a kind of row."""
    return positions >> (BLOCK_BITS if kind == "segments" else BLOCK_BITS + UTTERANCE_BITS)
