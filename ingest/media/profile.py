"""Converts pictures from the colours of their ICC profile, such as Display P3 of phones, to sRGB."""

import io
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms


class ColourProfile:
    """An ICC profile of RGB pictures."""

    def __init__(self, transform: ImageCms.ImageCmsTransform) -> None:
        self._transform = transform

    @classmethod
    def read(cls, data: bytes | None) -> Self | None:
        """Read a profile; None without one, or if it is damaged, or for other colours than RGB."""
        if not data:
            return None
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
            if profile.profile.xcolor_space.strip() != "RGB":
                return None
            srgb, intent = ImageCms.createProfile("sRGB"), ImageCms.Intent.RELATIVE_COLORIMETRIC  # as in browsers
            return cls(ImageCms.buildTransform(profile, srgb, "RGB", "RGB", intent))
        except (ImageCms.PyCMSError, OSError, ValueError):
            return None

    def to_srgb(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Convert uint8 (H, W, 3) pixels."""
        picture = ImageCms.applyTransform(Image.fromarray(pixels), self._transform)
        assert picture is not None  # it is None only if it is changed in place
        return np.asarray(picture)
