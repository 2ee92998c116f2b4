"""Frames and transcripts of videos in memory: a file is read once, a live video only where it changed.

The rows of a live video are read in blocks of neighbouring segments, and the catalog says when each block last changed
(serve.catalog.live_blocks). So the cost of a change does not grow with the length of the video. The values here never
change: a newer version is another value, which shares the unchanged blocks, so threads that use the older one are not
disturbed. The caches of serve.search.engine and serve.search.visual hold them.
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


def refresh_blocks(
    catalog: CatalogReader, row: int, before: Mapping[int, Part], since: int, read: Callable[[int], Part | None]
) -> dict[int, Part]:
    """Return the present blocks of a live video in order; read only those that changed.

    Args:
        before: The blocks of an older version, by number.
        since: That version; -1: none.
        read: Reads one block; returns None if the block has no rows of this kind.
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrameBlock:
    """Frames of neighbouring segments of a live video, or all frames of a file."""

    epochs: NDArray[np.int32]  # (F,)
    pts_seconds: NDArray[np.float64]  # (F,)
    vectors: Halves  # (F, D)
    traits: Traits

    @classmethod
    def of(cls, stored: StoredFrames) -> "FrameBlock":
        """Make a block of frames as the catalog returns them."""
        return cls(
            epochs=stored.epochs, pts_seconds=stored.pts_seconds, vectors=Halves(stored.vectors), traits=Traits()
        )

    def embeddings(self) -> FrameEmbeddings:
        """Return the frames as float32, which takes twice the memory: do not keep them."""
        return FrameEmbeddings(epochs=self.epochs, pts_seconds=self.pts_seconds, vectors=self.vectors.to_float32())


class VideoFrames:
    """All frames of one version of a video."""

    def __init__(self, version: int, blocks: Mapping[int, FrameBlock]) -> None:
        self.version = version
        self.read_blocks = blocks  # before drop_unordered_frames(), for the next version
        self.blocks = drop_unordered_frames(blocks)
        self.traits = Traits()  # of the whole video
        frames = list(self.blocks.values())
        self.vectors = JoinedHalves(each.vectors for each in frames)
        if len(frames) == 1:
            self.epochs, self.pts_seconds = frames[0].epochs, frames[0].pts_seconds
        else:
            self.epochs = np.concatenate([np.empty(0, np.int32), *(each.epochs for each in frames)])
            self.pts_seconds = np.concatenate([np.empty(0), *(each.pts_seconds for each in frames)])

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def nbytes(self) -> int:
        return self.vectors.nbytes + self.pts_seconds.nbytes + self.epochs.nbytes


def read_frames(catalog: CatalogReader, row: int, version: int, before: VideoFrames | None) -> VideoFrames:
    """Read the frames of a version of a video; for RowCache."""
    if not version:
        return VideoFrames(0, {0: FrameBlock.of(catalog.stored_frames(row))})

    def read(block: int) -> FrameBlock | None:
        rows = catalog.select(
            f"SELECT {FRAME_FIELDS} FROM segments JOIN frame_blocks ON segment_row = segments.id"
            " WHERE segments.video_row = ? AND position BETWEEN ? AND ? ORDER BY position", row,
            *block_range("segments", block),
        )  # fmt: skip
        return FrameBlock.of(frames_of(rows, catalog.directory)) if rows else None

    known, since = ({}, -1) if before is None else (before.read_blocks, before.version)
    return VideoFrames(version, refresh_blocks(catalog, row, known, since, read))


def drop_unordered_frames(blocks: Mapping[int, FrameBlock]) -> Mapping[int, FrameBlock]:
    """Leave out frames that are not later than all before them; return `blocks` itself if there are none.

    Segments share no frame, so a worker never sends such frames. A single wrong segment must not break all answers.
    """
    last = -np.inf
    ordered: dict[int, FrameBlock] = {}
    is_same = True
    for number, block in blocks.items():
        times = block.pts_seconds
        if len(times) and (times[0] <= last or (np.diff(times) <= 0).any()):
            is_later = times > np.maximum.accumulate(np.concatenate([[last], times[:-1]]))
            vectors = block.vectors.take(np.flatnonzero(is_later)).astype(np.float16)
            later = StoredFrames(epochs=block.epochs[is_later], pts_seconds=times[is_later], vectors=[vectors])
            ordered[number], is_same = FrameBlock.of(later), False
        else:
            ordered[number] = block
        last = max(last, times.max(initial=-np.inf))
    return blocks if is_same else ordered


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TranscriptBlock:
    """Utterances of neighbouring segments of a live video, or all utterances of a file."""

    utterances: Sequence[Utterance]  # without their words
    positions: NDArray[np.int64]  # in the video, see Catalog.locate()


class Transcript:
    """All utterances of one version of a video, in order of time, without their words."""

    def __init__(self, version: int, blocks: Mapping[int, TranscriptBlock]) -> None:
        self.version, self.blocks = version, blocks
        self.utterances = [each for block in blocks.values() for each in block.utterances]
        self.positions = np.concatenate([np.empty(0, np.int64), *(block.positions for block in blocks.values())])

    def __len__(self) -> int:
        return len(self.utterances)


def read_transcript(catalog: CatalogReader, row: int, version: int, before: Transcript | None) -> Transcript:
    """Read the utterances of a version of a video; for RowCache."""
    if not version:
        utterances = catalog.utterances(row, with_words=False)
        return Transcript(0, {0: TranscriptBlock(utterances=utterances, positions=np.arange(len(utterances)))})

    def read(block: int) -> TranscriptBlock | None:
        rows = catalog.select(
            f"SELECT position, {UTTERANCE_FIELDS} FROM utterances WHERE video_row = ? AND position BETWEEN ? AND ?"
            " ORDER BY position", row, *block_range("utterances", block),
        )  # fmt: skip
        if not rows:
            return None
        return TranscriptBlock(
            utterances=[utterance_of(fields[1:]) for fields in rows],
            positions=np.array([fields[0] for fields in rows], np.int64),
        )

    known, since = ({}, -1) if before is None else (before.blocks, before.version)
    return Transcript(version, refresh_blocks(catalog, row, known, since, read))
