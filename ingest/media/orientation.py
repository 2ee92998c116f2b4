"""How a picture must be turned or mirrored for display, as its container or its EXIF data says."""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from av.sidedata.sidedata import SideDataContainer, Type
from av.video.frame import VideoFrame
from numpy.typing import NDArray


def accept_unknown_side_data() -> None:
    """Make PyAV name side data of frames that its table lacks, instead of failing with all side data of the frame.

    FFmpeg 8 sends EXIF data, 3D reference displays and views of MV-HEVC, whose numbers lie past the end of PyAV's
    table: "ValueError: 31 is not a valid Type". PyAV 18.1 and older, https://github.com/PyAV-Org/PyAV/pull/2392.
    """

    def name_it(table: type[Type], number: int) -> Any:
        unknown: Any = object.__new__(table)
        unknown._name_, unknown._value_ = f"UNKNOWN_{number}", number
        return unknown

    setattr(Type, "_missing_", classmethod(name_it))  # noqa: B010  a hook of Enum, which type checkers take for final


accept_unknown_side_data()


@dataclass(frozen=True, slots=True)
class Orientation:
    """How to turn a picture for display: transpose, then flip."""

    is_transposed: bool = False
    flips_columns: bool = False
    flips_rows: bool = False

    @classmethod
    def from_frame(cls, frame: VideoFrame) -> "Orientation":
        """Read the display matrix: nine 32-bit fixed-point numbers, a b u c d v x y w.

        FFmpeg makes one of the container's rotation, and of the orientation in EXIF data.
        """
        # Not frame.side_data: it puts the frame into a reference cycle that outlives its use.
        data = cast(Any, SideDataContainer)(frame).get("DISPLAYMATRIX")
        matrix = np.frombuffer(bytes(data), dtype="=i4") if data is not None else np.zeros(0, dtype="=i4")
        if matrix.size < 9:
            return cls()
        a, b, _, c, d = (int(value) for value in matrix[:5])
        if abs(a) + abs(d) >= abs(b) + abs(c):
            return cls(False, a < 0, d < 0)
        return cls(True, c < 0, b < 0)

    @classmethod
    def from_exif(cls, number: object) -> "Orientation":
        """Return the orientation that EXIF counts from 1 to 8; for any other number, none."""
        return cls(number in (5, 6, 7, 8), number in (2, 3, 6, 7), number in (3, 4, 7, 8))

    @property
    def degrees(self) -> int:
        """The clockwise rotation, applied after a flip."""
        if self.is_transposed:
            return 90 if self.flips_columns else 270
        return 180 if self.flips_rows else 0

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Turn (H, W, 3) pixels."""
        if self.is_transposed:
            pixels = pixels.swapaxes(0, 1)
        if self.flips_columns:
            pixels = pixels[:, ::-1]
        if self.flips_rows:
            pixels = pixels[::-1]
        return np.ascontiguousarray(pixels)
