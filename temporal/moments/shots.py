"""Changes of the picture from frame to frame, and the cuts among them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoders.values import FrameEmbeddings
from temporal.moments.curve import FLAT_RANGE, Floats, otsu

CUT_CONTRAST = 3.0  # a video has cuts only if they change the picture this many times more than other frames do
MIN_CUT_CHANGE = 0.15  # 1 - cosine; neighbouring seconds of one shot differ less


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Changes:
    """Changes of the picture between neighbouring frames of an epoch."""

    seconds: Floats  # (N,), ascending, strictly between two frames
    strengths: NDArray[np.float32]  # (N,), 1 - cosine
    is_cut: NDArray[np.bool_]  # (N,), True where a shot ends

    @property
    def cut_seconds(self) -> Floats:
        cuts: Floats = self.seconds[self.is_cut]
        return cuts

    def within(self, start_seconds: float, end_seconds: float) -> "Changes":
        """Return the changes inside a span, without its ends."""
        first = int(np.searchsorted(self.seconds, start_seconds, "right"))
        inside = slice(first, max(first, int(np.searchsorted(self.seconds, end_seconds, "left"))))
        return Changes(seconds=self.seconds[inside], strengths=self.strengths[inside], is_cut=self.is_cut[inside])


NO_CHANGES = Changes(seconds=np.empty(0), strengths=np.empty(0, np.float32), is_cut=np.empty(0, np.bool_))


def picture_changes(embeddings: FrameEmbeddings) -> Changes:
    """Return the changes of the pictures of a video."""
    return changes_of(embeddings.epochs, embeddings.pts_seconds, change_strengths(embeddings))


def change_strengths(embeddings: FrameEmbeddings) -> NDArray[np.float32]:
    """Return the distance of each picture from the picture before it in its epoch: float32 (N,), 1 - cosine.

    Without a visual encoder (D = 0) the result is empty.
    """
    if embeddings.vectors.shape[1] == 0:
        return NO_CHANGES.strengths
    same_epoch = embeddings.epochs[1:] == embeddings.epochs[:-1]
    before, after = embeddings.vectors[:-1][same_epoch], embeddings.vectors[1:][same_epoch]
    strengths: NDArray[np.float32] = (1.0 - np.einsum("fd,fd->f", before, after, dtype=np.float64)).astype(np.float32)
    return strengths


def changes_of(epochs: NDArray[np.int32], pts_seconds: Floats, strengths: NDArray[np.float32]) -> Changes:
    """Place the changes of change_strengths() in time, in the middle between their frames, and find cuts.

    A cut is above Otsu's threshold of the strengths, which needs no tuning for each encoder.
    """
    if not len(strengths):
        return NO_CHANGES
    same_epoch = epochs[1:] == epochs[:-1]
    earlier, later = pts_seconds[:-1][same_epoch], pts_seconds[1:][same_epoch]
    return Changes(
        # A frame that lasts long is shown until just before the next, so the change is within a second of the next.
        seconds=np.maximum((earlier + later) / 2, later - 0.5),
        strengths=strengths,
        is_cut=_are_cuts(strengths.astype(np.float64)),
    )


def join_changes(parts: Sequence[Changes]) -> Changes:
    """Concatenate the changes of consecutive parts of a video."""
    if len(parts) == 1:
        return parts[0]
    return Changes(
        seconds=np.concatenate([NO_CHANGES.seconds, *(part.seconds for part in parts)]),
        strengths=np.concatenate([NO_CHANGES.strengths, *(part.strengths for part in parts)]),
        is_cut=np.concatenate([NO_CHANGES.is_cut, *(part.is_cut for part in parts)]),
    )


def _are_cuts(strengths: Floats) -> NDArray[np.bool_]:
    is_cut: NDArray[np.bool_] = strengths >= MIN_CUT_CHANGE
    if np.ptp(strengths) > FLAT_RANGE:
        is_high = strengths > otsu(strengths)
        if strengths[is_high].mean() < CUT_CONTRAST * strengths[~is_high].mean():
            return np.zeros(len(strengths), np.bool_)
        is_cut &= is_high
    return is_cut
