"""Reads recordings as the encoders take sound."""

import sys
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ingest.values import SAMPLE_RATE_HZ

Sound = NDArray[np.float32]  # (S,), 16 kHz, mono, -1 to 1


def read_sound(path: Path) -> Sound:
    """Return the whole sound of a file."""
    resampler = av.AudioResampler("flt", "mono", SAMPLE_RATE_HZ)
    with av.open(str(path)) as container:
        frames = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
    frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray()[0] for frame in frames]).astype(np.float32)
