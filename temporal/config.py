"""Settings of the stage: how media time is cut into windows, and how curves become moments."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowConfig:
    """The grid of windows. Part of the encoder fingerprint by its name."""

    length_seconds: float = 16.0  # 16 frames at one a second: well under the 32 that fusion attends to
    stride_seconds: float = 8.0  # each second lies in two windows, so no event is always at an edge

    def __post_init__(self) -> None:
        if not 0 < self.stride_seconds <= self.length_seconds:
            raise ValueError(
                f"stride_seconds must be in (0, length_seconds = {self.length_seconds}], got {self.stride_seconds}"
            )

    @property
    def name(self) -> str:
        """Grid and pooling in one short text, e.g. "16s/8s mean"."""
        return f"{self.length_seconds:g}s/{self.stride_seconds:g}s mean"


@dataclass(frozen=True, slots=True, kw_only=True)
class MomentConfig:
    """How a similarity curve is read. All lengths are in seconds and never scaled by the video's duration."""

    smoothing_seconds: tuple[float, ...] = (1.0, 3.0)  # Gaussian sigmas: moments under 10 s, and longer ones
    bridge_seconds: float = 3.0  # a dip this short does not end a moment
    snap_seconds: float = 1.5  # an edge this near a shot cut is the cut; always under half the span
    locality_seconds: float = 300.0  # medians and thresholds look this far around a peak, not further
    tiou_threshold: float = 0.5  # two spans that overlap more are one moment
    containment_share: float = 0.9  # of two nested spans the smaller stays if it has this share of the score
    peak_share: float = 0.1  # of the best frame's height in the score
    max_moments: int = 10  # of one video

    def __post_init__(self) -> None:
        if not self.smoothing_seconds or min(self.smoothing_seconds) <= 0:
            raise ValueError(f"smoothing_seconds must be some positive sigmas, got {self.smoothing_seconds}")
        for name in ("bridge_seconds", "snap_seconds", "peak_share"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        for name in ("tiou_threshold", "containment_share"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in (0, 1], got {getattr(self, name)}")
        if not self.locality_seconds > 0:
            raise ValueError(f"locality_seconds must be > 0, got {self.locality_seconds}")
        if self.max_moments < 1:
            raise ValueError(f"max_moments must be >= 1, got {self.max_moments}")
