"""What a question needs of every video it finds, and no question changes: it is worked out when a file is indexed.

How the pictures change says where shots end; what captions of anything score on a video says how high a score must be
to mean something. Both take longer than all else that a question does with a video.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoders.calibration import FILE as CALIBRATION_FILE
from encoders.calibration import Calibration, read_calibrations
from encoders.caption_bank import BANK
from encoders.clip import VisualEncoder
from encoders.values import FrameEmbeddings
from serve.catalog.rows import Generic, StoredTraits
from serve.errors import DataDirectoryInvalid
from serve.search.pooling import Pool, pool, softmax_mean_of_pools
from temporal.moments.shots import change_strengths


class Captions:
    """Captions of anything, as one encoder sees them: what the scores of a question are compared with."""

    def __init__(self, encoder: VisualEncoder, calibration: Calibration) -> None:
        self._encoder, self._calibration = encoder, calibration
        self.temperatures = sorted({calibration.video_temperature, calibration.moment_temperature})
        told = json.dumps([BANK, calibration.bank_share, self.temperatures])
        self.key = hashlib.sha256(told.encode()).hexdigest()[:16]  # scores of one encoder under one key may be compared

    @cached_property
    def bank(self) -> NDArray[np.float32]:
        """(K, D)."""
        return self._encoder.encode_texts(BANK)

    @cached_property
    def direction(self) -> NDArray[np.float32]:
        """(D,): what captions have in common."""
        return np.asarray(self.bank.mean(axis=0))

    @cached_property
    def bias(self) -> NDArray[np.float32]:
        """(D,): as much of it as is taken out of every question."""
        return np.asarray(self._calibration.bank_share * self.direction, np.float32)

    @cached_property
    def _specific(self) -> NDArray[np.float32]:
        return np.ascontiguousarray((self.bank - self.bias).T)  # (D, K)

    def pool(self, vectors: NDArray[np.float32]) -> dict[float, Pool]:
        """Pool what the captions score on frames (F, D), one at least, at each temperature."""
        scores = vectors @ self._specific
        return {temperature: pool(scores, temperature) for temperature in self.temperatures}

    def statistics(self, pools: Sequence[Mapping[float, Pool]]) -> Generic:
        """Return what they score on a video, of the pools of its parts."""
        scores = {
            each: softmax_mean_of_pools([one[each] for one in pools], each) for each in self.temperatures
        }  # (K,) each
        return {each: (float(found.mean()), float(found.std())) for each, found in scores.items()}


def compute_file_traits(embeddings: FrameEmbeddings, captions: Captions | None) -> StoredTraits:
    """Work out the traits of a file from all its frames; None: nothing could see them."""
    # As they are read again, so that it makes no difference when this is done.
    vectors = embeddings.vectors.astype(np.float16).astype(np.float32)
    stored = FrameEmbeddings(epochs=embeddings.epochs, pts_seconds=embeddings.pts_seconds, vectors=vectors)
    if captions is None or not len(vectors):
        return StoredTraits(change_strengths=change_strengths(stored), captions="", generic={})
    return StoredTraits(
        change_strengths=change_strengths(stored),
        captions=captions.key,
        generic=captions.statistics([captions.pool(vectors)]),
    )


def captions_of(directory: Path, encoder: VisualEncoder | None) -> Captions | None:
    """Return the captions as a library's visual encoder sees them; None: it has none.

    Raises:
        DataDirectoryInvalid: If the library's calibration is damaged.
    """
    return None if encoder is None else Captions(encoder, calibration_in(directory, encoder))


def calibration_in(directory: Path, encoder: VisualEncoder) -> Calibration:
    """Return what `kinodex calibrate` measured here for this encoder, else the encoder's own.

    Raises:
        DataDirectoryInvalid: If the file is damaged.
    """
    try:
        return read_calibrations(directory / CALIBRATION_FILE).get(encoder.fingerprint, encoder.calibration)
    except (ValueError, OSError) as error:
        raise DataDirectoryInvalid(str(directory), str(error)) from error
