"""What decoding yields. Times are media time: seconds from the first picture, or from the first sound without one."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 16_000  # what Whisper and silero-vad were trained on


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaInfo:
    """What the container claims, before anything is decoded. Any of it may be absent or a lie."""

    container: str  # FFmpeg's demuxer name, e.g. "mov,mp4,m4a,3gp,3g2,mj2"
    duration_seconds: float | None
    video_codec: str | None  # None: no moving pictures (cover art does not count)
    audio_codec: str | None
    width: int | None  # as displayed: after rotation and pixel aspect ratio
    height: int | None
    rotation_degrees: int  # 0, 90, 180 or 270, clockwise, already applied to every frame
    frame_rate_fps: float | None  # average, as the container says


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One sampled picture."""

    epoch: int  # counts up at each break of the timestamps (design §3)
    pts_seconds: float  # the frame's true presentation time, in media time; strictly increasing
    pixels: NDArray[np.uint8]  # (H, W, 3) RGB at the encoder's input size
    thumbnail: bytes  # JPEG of the whole picture, shorter side DecodeConfig.thumbnail_px

    def __post_init__(self) -> None:
        if self.pixels.ndim != 3 or self.pixels.shape[2] != 3 or self.pixels.dtype != np.uint8:
            raise ValueError(f"pixels must be uint8 (H, W, 3), got {self.pixels.dtype} {self.pixels.shape}")
        if self.pts_seconds < 0:
            raise ValueError(f"pts_seconds must be >= 0, got {self.pts_seconds}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioBlock:
    """Consecutive audio samples, mono, 16 kHz. Blocks come in order; a jump of start_seconds is silence."""

    epoch: int
    start_seconds: float
    samples: NDArray[np.float32]  # (N,), -1..1

    def __post_init__(self) -> None:
        if self.samples.ndim != 1 or self.samples.dtype != np.float32:
            raise ValueError(f"samples must be float32 (N,), got {self.samples.dtype} {self.samples.shape}")

    @property
    def end_seconds(self) -> float:
        return self.start_seconds + len(self.samples) / SAMPLE_RATE_HZ


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeSummary:
    """What was really there, known at the end."""

    duration_seconds: float  # media time at which the last picture or sound ends
    epoch_count: int
    frame_count: int  # sampled frames
    error_count: int  # packets or frames that did not decode and were skipped
    truncated: bool  # the bytes end before what the container announced


Decoded = MediaInfo | Frame | AudioBlock | DecodeSummary
