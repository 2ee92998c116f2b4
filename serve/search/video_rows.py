"""Frames and transcripts of videos in memory: a file is read once, a live video only where it changed.

The vectors of frames are held block by block, apart from their times and traits (FrameReader): they take most of the
memory, so only a part of a large library's vectors stays there, and a question reads the others again.

The rows of a live video are read in blocks of neighbouring segments, and the catalog says when each block last changed
(serve.catalog.live_blocks). So the cost of a change does not grow with the length of the video. The values here never
change: a newer version is another value, which shares the unchanged blocks, so threads that use the older one are not
disturbed. The caches of serve.search.engine and serve.search.visual hold them.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from encoders.values import FrameEmbeddings, Utterance
from serve.catalog.live_blocks import block_changes, block_range
from serve.catalog.reader import CatalogReader
from serve.catalog.rows import FRAME_FIELDS, TIME_FIELDS, UTTERANCE_FIELDS, frame_times_of, frames_of, utterance_of
from serve.index.halves import Halves, HalvesOnDemand, JoinedHalves
from serve.search.caches import RowCache
from serve.search.pooling import Traits

logger = logging.getLogger(__name__)

Part = TypeVar("Part")

# Bytes of a frame without its vector: times, epochs, and the changes of the picture beside it, of the block and of the
# whole video. They have this share of the memory: 1/8, for vectors of 384 and more numbers.
FRAME_BYTES, TIMES_SHARE = 50, 8
LIVE_FRAMES = (
    "FROM segments JOIN frame_blocks ON segment_row = segments.id"
    " WHERE segments.video_row = ? AND position BETWEEN ? AND ? ORDER BY position"
)


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
    vectors: HalvesOnDemand  # (F, D); fetched under the snapshot of the catalog in which the video was read
    traits: Traits

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


class FrameReader:
    """The frames of videos: times and traits in one cache, vectors in another."""

    def __init__(self, catalog: CatalogReader, max_bytes: int) -> None:
        """Make empty caches.

        Args:
            max_bytes: Size of both caches together.
        """
        self._catalog = catalog
        times_bytes = max_bytes // TIMES_SHARE
        self._videos: RowCache[int, VideoFrames] = RowCache(
            self._read_video, lambda frames: FRAME_BYTES * len(frames), times_bytes
        )
        self.vectors: RowCache[tuple[int, int], Halves] = RowCache(
            self._read_vectors, lambda halves: halves.nbytes, max_bytes - times_bytes
        )
        self._has_logged = False

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return self._videos.size + self.vectors.size

    @property
    def size_read_again(self) -> int:
        """Bytes that were read again for want of room."""
        return self._videos.size_read_again + self.vectors.size_read_again

    def get(self, row: int, version: int) -> VideoFrames:
        """Return the frames of a version of a video. Their vectors are read under the snapshot of this call."""
        return self._videos.get(row, version)

    def discard(self, rows: Iterable[int]) -> None:
        """Drop deleted videos."""
        gone = set(rows)
        if gone:
            self._videos.discard(gone.__contains__)
            self.vectors.discard(lambda key: key[0] in gone)

    def _read_video(self, row: int, version: int, before: VideoFrames | None) -> VideoFrames:
        if not version:
            times = frame_times_of(self._catalog.frame_times(row), self._catalog.directory)
            return VideoFrames(0, {0: self._block(row, 0, 0, *times)})

        def read(block: int) -> FrameBlock | None:
            rows = self._catalog.select(f"SELECT {TIME_FIELDS} {LIVE_FRAMES}", row, *block_range("segments", block))
            if not rows:
                return None
            return self._block(row, block, version, *frame_times_of(rows, self._catalog.directory))

        known, since = ({}, -1) if before is None else (before.read_blocks, before.version)
        return VideoFrames(version, refresh_blocks(self._catalog, row, known, since, read))

    def _block(
        self, row: int, block: int, version: int, width: int, epochs: NDArray[np.int32], times: NDArray[np.float64]
    ) -> FrameBlock:
        def fetch() -> Halves:
            halves = self.vectors.get((row, block), version)
            assert len(halves) == len(times), "the snapshot of the catalog is another"
            self._warn_once()
            return halves

        vectors = HalvesOnDemand(len(times), width, fetch)
        return FrameBlock(epochs=epochs, pts_seconds=times, vectors=vectors, traits=Traits())

    def _read_vectors(self, key: tuple[int, int], version: int, before: Halves | None) -> Halves:
        row, block = key
        if not version:
            return Halves(self._catalog.stored_frames(row).vectors)
        rows = self._catalog.select(f"SELECT {FRAME_FIELDS} {LIVE_FRAMES}", row, *block_range("segments", block))
        return Halves(frames_of(rows, self._catalog.directory).vectors)

    def _warn_once(self) -> None:
        if not self._has_logged and self.size_read_again > self.vectors.max_size:
            self._has_logged = True
            logger.warning(
                "frame cache too small, questions read frame vectors again and again frame_cache_bytes=%d"
                " read_again_bytes=%d",
                self._videos.max_size + self.vectors.max_size,
                self.size_read_again,
            )


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
            ordered[number], is_same = _take_frames(block, np.flatnonzero(is_later)), False
        else:
            ordered[number] = block
        last = max(last, times.max(initial=-np.inf))
    return blocks if is_same else ordered


def _take_frames(block: FrameBlock, places: NDArray[np.int64]) -> FrameBlock:
    """Return some frames of a block."""
    whole = block.vectors
    width = whole.nbytes // (2 * len(whole))
    vectors = HalvesOnDemand(len(places), width, lambda: Halves([whole.take(places).astype(np.float16)]))
    return FrameBlock(
        epochs=block.epochs[places], pts_seconds=block.pts_seconds[places], vectors=vectors, traits=Traits()
    )


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
