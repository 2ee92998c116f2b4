"""Traits of a video: figures that the visual channel needs of every video it scores, and that no question changes.

They are computed when a file is indexed: together they take longer than everything else that a question does with a
video. The changes between pictures tell where shots end. The scores of captions of anything on a video tell how high a
question's score must be to mean something.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoders.calibration import FILE as CALIBRATION_FILE
from encoders.calibration import Calibration, read_calibrations
from encoders.caption_bank import BANK
from encoders.clip import VisualEncoder
from encoders.values import FrameEmbeddings
from serve.catalog.rows import CaptionScores, StoredTraits
from serve.errors import DataDirectoryInvalid
from serve.search.pooling import Pool, pool, softmax_mean_of_pools
from temporal.moments.shots import change_strengths


class CaptionBank:
    """Captions of anything (encoders.caption_bank) as vectors of one encoder; a question is compared with them."""

    def __init__(self, encoder: VisualEncoder, calibration: Calibration) -> None:
        self._encoder, self._calibration = encoder, calibration
        settings = json.dumps([BANK, calibration.bank_share, calibration.moment_temperature])
        self.key = hashlib.sha256(settings.encode()).hexdigest()[:16]  # of one encoder, scores of equal keys compare

    @cached_property
    def vectors(self) -> NDArray[np.float32]:
        """The vectors of the captions, (K, D)."""
        return self._encoder.encode_texts(BANK)

    @cached_property
    def direction(self) -> NDArray[np.float32]:
        """The mean of the captions, (D,): what all texts have in common."""
        return np.asarray(self.vectors.mean(axis=0))

    @cached_property
    def bias(self) -> NDArray[np.float32]:
        """The share of `direction` that is subtracted from every question, (D,)."""
        return np.asarray(self._calibration.bank_share * self.direction, np.float32)

    @cached_property
    def unbiased(self) -> NDArray[np.float32]:
        """The captions without the bias, (D, K)."""
        return np.ascontiguousarray((self.vectors - self.bias).T)

    def pool(self, vectors: NDArray[np.float32]) -> Pool:
        """Pool the captions' scores on frames (F, D), F at least 1, as those of a question about a moment."""
        return pool(vectors @ self.unbiased, self._calibration.moment_temperature)

    def statistics(self, pools: Sequence[Pool]) -> CaptionScores:
        """Return the mean and spread of the captions' scores on a video, from the pools of its parts."""
        scores = softmax_mean_of_pools(pools, self._calibration.moment_temperature)  # (K,)
        return float(scores.mean()), float(scores.std())


def compute_file_traits(embeddings: FrameEmbeddings, captions: CaptionBank | None) -> StoredTraits:
    """Compute the traits of a file from all its frames. A library without a visual encoder has no captions."""
    # Rounded as the catalog stores them: so a question that computes traits later gets the same.
    vectors = embeddings.vectors.astype(np.float16).astype(np.float32)
    stored = FrameEmbeddings(epochs=embeddings.epochs, pts_seconds=embeddings.pts_seconds, vectors=vectors)
    if captions is None or not len(vectors):
        return StoredTraits(change_strengths=change_strengths(stored), captions="", caption_scores=None)
    return StoredTraits(
        change_strengths=change_strengths(stored),
        captions=captions.key,
        caption_scores=captions.statistics([captions.pool(vectors)]),
    )


def caption_bank_of(directory: Path, encoder: VisualEncoder | None) -> CaptionBank | None:
    """Return the captions in the space of a library's visual encoder; None if it has none.

    Raises:
        DataDirectoryInvalid: If the library's calibration is damaged.
    """
    return None if encoder is None else CaptionBank(encoder, calibration_in(directory, encoder))


def calibration_in(directory: Path, encoder: VisualEncoder) -> Calibration:
    """Return the calibration that `kinodex calibrate` measured here for this encoder, else the encoder's own.

    Raises:
        DataDirectoryInvalid: If the file is damaged.
    """
    try:
        return read_calibrations(directory / CALIBRATION_FILE).get(encoder.fingerprint, encoder.calibration)
    except (ValueError, OSError) as error:
        raise DataDirectoryInvalid(str(directory), str(error)) from error
