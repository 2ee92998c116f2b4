"""Where the picture changes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoders.values import FrameEmbeddings
from temporal.curve import FLAT, Floats, otsu

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
    """Return how the pictures of a video change, each change at the middle between its frames.

    A cut is over Otsu's threshold on the strengths, so it needs no level of its own for each encoder.
    """
    same_epoch = embeddings.epochs[1:] == embeddings.epochs[:-1]
    if not same_epoch.any() or embeddings.vectors.shape[1] == 0:
        return NO_CHANGES
    before, after = embeddings.vectors[:-1][same_epoch], embeddings.vectors[1:][same_epoch]
    strengths = 1.0 - np.einsum("fd,fd->f", before, after, dtype=np.float64)
    earlier = embeddings.pts_seconds[:-1][same_epoch]
    later = embeddings.pts_seconds[1:][same_epoch]
    return Changes(
        # A frame held for long was shown until just before the next: the change is within a second of that one.
        seconds=np.maximum((earlier + later) / 2, later - 0.5),
        strengths=strengths.astype(np.float32),
        is_cut=_are_cuts(strengths),
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
