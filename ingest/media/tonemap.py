"""Converts high dynamic range and wide gamut to sRGB, on scaled pictures. PyAV's FFmpeg has no zscale for it."""

from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

PQ, HLG = 16, 18  # AVCOL_TRC_SMPTE2084, AVCOL_TRC_ARIB_STD_B67
BT2020 = 9  # AVCOL_PRI_BT2020
WHITE_NITS = 203.0  # diffuse white of HDR video, ITU-R BT.2408
PEAK_NITS = 1000.0  # peak that most HDR video is graded for; brighter light is clipped
KNEE = 0.3  # share of white up to which light stays linear; FFmpeg's default for tonemap=mobius
LEVELS = 4096  # entries of the transfer tables; HDR video has 10 or 12 bits

# Linear BT.2020 RGB to linear BT.709 RGB, ITU-R BT.2087.
TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], dtype=np.float32
)
LUMA = np.array([0.2627, 0.6780, 0.0593], dtype=np.float32)  # BT.2020


class ColorTags(Protocol):
    """A frame's tags for its colours, as FFmpeg's numbers."""

    @property
    def color_trc(self) -> int: ...
    @property
    def color_primaries(self) -> int: ...


def needs_tonemap(frame: ColorTags) -> bool:
    """Whether a picture must go through `to_sdr`."""
    return frame.color_trc in (PQ, HLG) or frame.color_primaries == BT2020


def to_sdr(deep: NDArray[np.uint16], frame: ColorTags) -> NDArray[np.uint8]:
    """Convert uint16 (H, W, 3) RGB, in the transfer and primaries of `frame`, to uint8 sRGB.

    Source: the curves of ITU-R BT.2100, and the Möbius roll-off of FFmpeg's vf_tonemap.
    """
    light = _linear(frame.color_trc)[deep >> 4]  # (H, W, 3), 1.0 = diffuse white
    if frame.color_trc == HLG:  # scene light to display light: system gamma 1.2 at 1000 nits, BT.2100
        luma = np.maximum(light @ LUMA, 1e-6)[..., None]
        light = light * luma**0.2 * (PEAK_NITS / WHITE_NITS)
    if frame.color_primaries == BT2020 or frame.color_trc in (PQ, HLG):
        light = np.maximum(light @ TO_BT709.T, 0.0)
    if frame.color_trc in (PQ, HLG):
        brightest = np.maximum(light.max(axis=-1, keepdims=True), 1e-6)
        light = light * (_roll_off(brightest) / brightest)  # one factor for all three keeps the hue
    index = (np.clip(light, 0.0, 1.0) * (LEVELS - 1) + 0.5).astype(np.uint16)
    pixels: NDArray[np.uint8] = _to_srgb()[index]
    return pixels


def _roll_off(x: NDArray[np.float32]) -> NDArray[np.float32]:
    peak, j = PEAK_NITS / WHITE_NITS, KNEE
    a = -j * j * (peak - 1.0) / (j * j - 2.0 * j + peak)
    b = (j * j - 2.0 * j * peak + peak) / (peak - 1.0)
    x = np.minimum(x, np.float32(peak))
    rolled = (b * b + 2.0 * b * j + j * j) / (b - a) * (x + a) / (x + b)
    return np.where(x <= j, x, rolled).astype(np.float32)


@lru_cache(maxsize=4)
def _linear(transfer: int) -> NDArray[np.float32]:
    """Return the light of each of LEVELS code values: float32 (LEVELS,), 1.0 = diffuse white."""
    v = np.arange(LEVELS, dtype=np.float64) / (LEVELS - 1)
    if transfer == PQ:  # SMPTE ST 2084
        m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
        power = v ** (1 / m2)
        light = 10_000.0 * (np.maximum(power - c1, 0.0) / (c2 - c3 * power)) ** (1 / m1) / WHITE_NITS
    elif transfer == HLG:  # ARIB STD-B67, scene light 0..1
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(v <= 0.5, v * v / 3.0, (np.exp((v - c) / a) + b) / 12.0)
    else:
        light = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    return light.astype(np.float32)


@lru_cache(maxsize=1)
def _to_srgb() -> NDArray[np.uint8]:
    """Return the sRGB code value for each of LEVELS steps of light: uint8 (LEVELS,)."""
    light = np.arange(LEVELS, dtype=np.float64) / (LEVELS - 1)
    code = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.asarray(np.round(code * 255), dtype=np.uint8)
