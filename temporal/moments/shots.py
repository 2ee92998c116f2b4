"""Where the picture changes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoders.values import FrameEmbeddings
from temporal.moments.curve import FLAT, Floats, otsu

CUT_CONTRAST = 3.0  # cuts change the picture this many times more than what is no cut, or there are none
MIN_CUT_CHANGE = 0.15  # 1 - cosine: neighbouring seconds of one shot change less


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Changes:
    """From frame to frame, how much the picture changes; there is none over the border of two epochs."""

    seconds: Floats  # (N,), ascending, strictly between two frames
    strengths: NDArray[np.float32]  # (N,), 1 - cosine
    is_cut: NDArray[np.bool_]  # (N,), whether a shot ends there

    @property
    def cut_seconds(self) -> Floats:
        cuts: Floats = self.seconds[self.is_cut]
        return cuts

    def within(self, start_seconds: float, end_seconds: float) -> "Changes":
        """Return those inside a span, its ends excluded."""
        first = int(np.searchsorted(self.seconds, start_seconds, "right"))
        kept = slice(first, max(first, int(np.searchsorted(self.seconds, end_seconds, "left"))))
        return Changes(seconds=self.seconds[kept], strengths=self.strengths[kept], is_cut=self.is_cut[kept])


NO_CHANGES = Changes(seconds=np.empty(0), strengths=np.empty(0, np.float32), is_cut=np.empty(0, np.bool_))


def picture_changes(embeddings: FrameEmbeddings) -> Changes:
    """Return how the pictures of a video change."""
    return changes_of(embeddings.epochs, embeddings.pts_seconds, change_strengths(embeddings))


def change_strengths(embeddings: FrameEmbeddings) -> NDArray[np.float32]:
    """Return how far each picture is from the one before it in its epoch: float32 (N,), 1 - cosine; none of D = 0."""
    if embeddings.vectors.shape[1] == 0:
        return NO_CHANGES.strengths
    same_epoch = embeddings.epochs[1:] == embeddings.epochs[:-1]
    before, after = embeddings.vectors[:-1][same_epoch], embeddings.vectors[1:][same_epoch]
    strengths: NDArray[np.float32] = (1.0 - np.einsum("fd,fd->f", before, after, dtype=np.float64)).astype(np.float32)
    return strengths


def changes_of(epochs: NDArray[np.int32], pts_seconds: Floats, strengths: NDArray[np.float32]) -> Changes:
    """Place changes, of change_strengths(), at the middle between their frames.

    A cut is over Otsu's threshold on the strengths, so it needs no level of its own for each encoder.
    """
    if not len(strengths):
        return NO_CHANGES
    same_epoch = epochs[1:] == epochs[:-1]
    earlier, later = pts_seconds[:-1][same_epoch], pts_seconds[1:][same_epoch]
    return Changes(
        # A frame held for long was shown until just before the next: the change is within a second of that one.
        seconds=np.maximum((earlier + later) / 2, later - 0.5),
        strengths=strengths,
        is_cut=_are_cuts(strengths.astype(np.float64)),
    )


def joined(parts: Sequence[Changes]) -> Changes:
    """Lay the changes of parts of a video after each other."""
    if len(parts) == 1:
        return parts[0]
    return Changes(
        seconds=np.concatenate([NO_CHANGES.seconds, *(one.seconds for one in parts)]),
        strengths=np.concatenate([NO_CHANGES.strengths, *(one.strengths for one in parts)]),
        is_cut=np.concatenate([NO_CHANGES.is_cut, *(one.is_cut for one in parts)]),
    )


def _are_cuts(strengths: Floats) -> NDArray[np.bool_]:
    is_cut: NDArray[np.bool_] = strengths >= MIN_CUT_CHANGE
    if np.ptp(strengths) > FLAT:
        is_high = strengths > otsu(strengths)
        if strengths[is_high].mean() < CUT_CONTRAST * strengths[~is_high].mean():
            return np.zeros(len(strengths), np.bool_)
        is_cut &= is_high
    return is_cut
