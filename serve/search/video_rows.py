"""Rows of videos in memory: of a file read once, of a live video read again only where they changed.

A live video's rows are kept in blocks of neighbouring segments, and the catalog says when each block last changed
(serve.catalog.live_blocks). So what a change costs does not grow with the length of the video. What is kept never
changes: a newer version is another value, which shares the blocks that are the same, and whoever is still at work on
the older one is not disturbed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from encoders.values import FrameEmbeddings, Utterance
from serve.catalog.live_blocks import block_changes, block_range
from serve.catalog.reader import CatalogReader
from serve.catalog.rows import FRAME_FIELDS, UTTERANCE_FIELDS, StoredFrames, frames_of, utterance_of
from serve.index.halves import Halves, JoinedHalves
from serve.search.pooling import Traits

Part = TypeVar("Part")


# ---- which blocks changed


def follow(
    catalog: CatalogReader, row: int, before: Mapping[int, Part], since: int, read: Callable[[int], Part | None]
) -> dict[int, Part]:
    """Bring the blocks of a live video up to the catalog, in order.

    Args:
        before: What is known, by block.
        since: The version it is of; -1: nothing is known.
        read: Reads one block; None: nothing of this kind is in it.
    """
    changes = block_changes(catalog, row, since)
    parts = {block: part for block, part in before.items() if block >= changes.first_block}
    for block in changes.changed:
        part = read(block) if block >= changes.first_block else None
        if part is None:
            parts.pop(block, None)
        else:
            parts[block] = part
    return dict(sorted(parts.items()))


# ---- frames


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrameBlock:
    """Frames of neighbouring segments, or all of a file's."""

    epochs: NDArray[np.int32]  # (F,)
    pts_seconds: NDArray[np.float64]  # (F,)
    vectors: Halves  # (F, D)
    traits: Traits

    @classmethod
    def of(cls, stored: StoredFrames) -> "FrameBlock":
        return cls(
            epochs=stored.epochs, pts_seconds=stored.pts_seconds, vectors=Halves(stored.vectors), traits=Traits()
        )

    def embeddings(self) -> FrameEmbeddings:
        """Return them as they were embedded: of another size, so not to be kept."""
        return FrameEmbeddings(epochs=self.epochs, pts_seconds=self.pts_seconds, vectors=self.vectors.to_float32())


class VideoFrames:
    """All frames of one version of a video."""

    def __init__(self, version: int, blocks: Mapping[int, FrameBlock]) -> None:
        self.version = version
        self.as_read = blocks  # for the next version
        self.blocks = in_order(blocks)
        self.traits = Traits()  # of all of it
        frames = list(self.blocks.values())
        self.vectors = JoinedHalves(each.vectors for each in frames)
        if len(frames) == 1:
            self.epochs, self.pts_seconds = frames[0].epochs, frames[0].pts_seconds
        else:
            self.epochs = np.concatenate([np.empty(0, np.int32), *(each.epochs for each in frames)])
            self.pts_seconds = np.concatenate([np.empty(0), *(each.pts_seconds for each in frames)])

    def __len__(self) -> int:
        """Return how many have a vector."""
        return len(self.vectors)

    @property
    def nbytes(self) -> int:
        return self.vectors.nbytes + self.pts_seconds.nbytes + self.epochs.nbytes


def read_frames(catalog: CatalogReader, row: int, version: int, before: VideoFrames | None) -> VideoFrames:
    """Read the frames of a version of a video; for RowCache."""
    if not version:
        return VideoFrames(0, {0: FrameBlock.of(catalog.stored_frames(row))})

    def read(block: int) -> FrameBlock | None:
        found = catalog.select(
            f"SELECT {FRAME_FIELDS} FROM segments JOIN frame_blocks ON segment_row = segments.id"
            " WHERE segments.video_row = ? AND position BETWEEN ? AND ? ORDER BY position", row,
            *block_range("segments", block),
        )  # fmt: skip
        return FrameBlock.of(frames_of(found, catalog.directory)) if found else None

    known, since = ({}, -1) if before is None else (before.as_read, before.version)
    return VideoFrames(version, follow(catalog, row, known, since, read))


def in_order(blocks: Mapping[int, FrameBlock]) -> Mapping[int, FrameBlock]:
    """Leave out frames that are not later than those before.

    Segments share no picture, so there are none; one that was sent wrong must not take the answers with it.
    """
    last = -np.inf
    kept: dict[int, FrameBlock] = {}
    is_same = True
    for number, block in blocks.items():
        times = block.pts_seconds
        if len(times) and (times[0] <= last or (np.diff(times) <= 0).any()):
            is_later = times > np.maximum.accumulate(np.concatenate([[last], times[:-1]]))
            vectors = block.vectors.take(np.flatnonzero(is_later)).astype(np.float16)
            later = StoredFrames(epochs=block.epochs[is_later], pts_seconds=times[is_later], vectors=[vectors])
            kept[number], is_same = FrameBlock.of(later), False
        else:
            kept[number] = block
        last = max(last, times.max(initial=-np.inf))
    return blocks if is_same else kept


# ---- what was said


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TranscriptBlock:
    """Utterances of neighbouring segments, or all of a file's."""

    utterances: Sequence[Utterance]  # without their words
    positions: NDArray[np.int64]  # of Catalog.locate()


class Transcript:
    """All utterances of one version of a video, in order of time, without their words."""

    def __init__(self, version: int, blocks: Mapping[int, TranscriptBlock]) -> None:
        self.version, self.blocks = version, blocks
        self.utterances = [one for block in blocks.values() for one in block.utterances]
        self.positions = np.concatenate([np.empty(0, np.int64), *(block.positions for block in blocks.values())])

    def __len__(self) -> int:
        return len(self.utterances)


def read_transcript(catalog: CatalogReader, row: int, version: int, before: Transcript | None) -> Transcript:
    """Read the utterances of a version of a video; for RowCache."""
    if not version:
        found = catalog.utterances(row, with_words=False)
        return Transcript(0, {0: TranscriptBlock(utterances=found, positions=np.arange(len(found)))})

    def read(block: int) -> TranscriptBlock | None:
        found = catalog.select(
            f"SELECT position, {UTTERANCE_FIELDS} FROM utterances WHERE video_row = ? AND position BETWEEN ? AND ?"
            " ORDER BY position", row, *block_range("utterances", block),
        )  # fmt: skip
        if not found:
            return None
        return TranscriptBlock(
            utterances=[utterance_of(fields[1:]) for fields in found],
            positions=np.array([fields[0] for fields in found], np.int64),
        )

    known, since = ({}, -1) if before is None else (before.blocks, before.version)
    return Transcript(version, follow(catalog, row, known, since, read))
