"""Positions of the rows of live videos, the blocks they form, and which blocks changed.

A file's segments and utterances are numbered from 0. A segment of a live video is numbered by its epoch and index, an
utterance by the segment that introduces it and its place there. So the numbers have gaps, are in order of time, and
none changes when an earlier segment is revised or the oldest segments are pruned.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve.catalog.reader import CatalogReader, Kind

INDEX_BITS = 28  # segments of an epoch: 68 years at one in 8 seconds
UTTERANCE_BITS = 12  # utterances that one segment introduces
EPOCH_BITS = 63 - INDEX_BITS - UTTERANCE_BITS  # SQLite's integers have 64 bits, with the sign
BLOCK_BITS = 6  # 64 segments, 512 s: about 1 MiB of frame vectors, read again when one of its segments changes

MOST_UTTERANCES = 1 << UTTERANCE_BITS


def segment_position(epoch: int, index: int) -> int:
    """Return a segment's position in its video.

    Raises:
        ValueError: If either is out of range.
    """
    if not (0 <= epoch < 1 << EPOCH_BITS and 0 <= index < 1 << INDEX_BITS):
        raise ValueError(f"epoch must be in [0, 2^{EPOCH_BITS}) and index in [0, 2^{INDEX_BITS}), got {epoch}, {index}")
    return (epoch << INDEX_BITS) + index


def epoch_of(position: int) -> int:
    """Return the epoch of a segment's position."""
    return position >> INDEX_BITS


def epoch_range(epoch: int) -> tuple[int, int]:
    """Return the first and the last position that a segment of an epoch can have."""
    return epoch << INDEX_BITS, ((epoch + 1) << INDEX_BITS) - 1


def utterance_position(segment: int, place: int) -> int:
    """Return the position of an utterance: of the segment that introduces it, at a place from 0 on."""
    return (segment << UTTERANCE_BITS) + place


def block_of(segment: int) -> int:
    """Return the block that a segment's position is in. Blocks are in order of time, and none crosses epochs."""
    return segment >> BLOCK_BITS


def blocks_of(kind: Kind, positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the block of each position of segments or of utterances."""
    return positions >> (BLOCK_BITS if kind == "segments" else BLOCK_BITS + UTTERANCE_BITS)


def block_range(kind: Kind, block: int) -> tuple[int, int]:
    """Return the first and the last position that a segment or an utterance of a block can have."""
    bits = BLOCK_BITS if kind == "segments" else BLOCK_BITS + UTTERANCE_BITS
    return block << bits, ((block + 1) << bits) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockChanges:
    """Blocks of a live video to read again."""

    first_block: int  # the blocks before it are deleted
    changed: tuple[int, ...]  # new, changed, or empty by now


def block_changes(catalog: CatalogReader, row: int, since: int) -> BlockChanges:
    """Return what changed in a live video after a generation (-1: all of it)."""
    ((first,),) = catalog.select("SELECT min(position) FROM segments WHERE video_row = ?", row)
    changed = catalog.select("SELECT block FROM live_blocks WHERE video_row = ? AND generation > ?", row, since)
    return BlockChanges(
        first_block=0 if first is None else block_of(first), changed=tuple(sorted(block for (block,) in changed))
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveIds:
    """The rows of one kind of a live video, or of a block of it, in order of time."""

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    stamps: NDArray[np.float64]  # added_time: tells a row from another of its id in a catalog restored from a copy


def live_ids(catalog: CatalogReader, kind: Kind, row: int, block: int | None = None) -> LiveIds:
    """Return the rows of one block of a live video; None: of all its blocks."""
    places = (0, (1 << 63) - 1) if block is None else block_range(kind, block)
    rows = catalog.select(
        f"SELECT id, position, added_time FROM {kind} INDEXED BY {kind}_added WHERE video_row = ?"
        " AND position BETWEEN ? AND ? AND added_time IS NOT NULL ORDER BY position", row, *places,
    )  # fmt: skip
    return LiveIds(
        ids=np.array([key for key, _, _ in rows], np.int64),
        positions=np.array([position for _, position, _ in rows], np.int64),
        stamps=np.array([added for _, _, added in rows], np.float64),
    )
