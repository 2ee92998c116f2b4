"""Sound for the speech tests: any file as 16 kHz mono, and cut into blocks."""

from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from encoders.speech.speech_stream import SpeechStream, SpeechWindow
from ingest.values import SAMPLE_RATE_HZ, AudioBlock

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def read_sound(path: Path) -> NDArray[np.float32]:
    """Decode a whole file with PyAV: float32 (N,)."""
    resampler = av.AudioResampler("flt", "mono", SAMPLE_RATE_HZ)
    with av.open(str(path)) as container:
        frames = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
    frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray()[0] for frame in frames]).astype(np.float32)


def push_all(
    stream: SpeechStream, samples: NDArray[np.float32], block_seconds: float = 1.0, start_seconds: float = 0.0
) -> list[SpeechWindow]:
    """Push samples in blocks, then finish."""
    step = round(block_seconds * SAMPLE_RATE_HZ)
    windows = []
    for begin in range(0, len(samples), step):
        block = AudioBlock(
            epoch=0,
            start_seconds=start_seconds + begin / SAMPLE_RATE_HZ,
            samples=samples[begin : begin + step],
        )
        windows += stream.push(block)
    return windows + stream.finish()
