"""Reads the headers of still pictures by Pillow, before FFmpeg decodes them."""

import warnings
from contextlib import suppress
from typing import IO, cast

from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from ingest.config import DecodeConfig
from ingest.media.container import MediaFile
from ingest.media.profile import ColourProfile
from ingest.media.still.limits import check_pixels

READERS = (JpegImageFile, PngImageFile, TiffImageFile, BmpImageFile)  # they read no pixels until asked


def read_header(file: MediaFile, uri: str, config: DecodeConfig) -> ColourProfile | None:
    """Return the colour profile of a still picture, which PyAV cannot read safely; None for other files.

    Raises:
        LimitExceeded: If the picture is too large; FFmpeg takes one of over some 268 megapixels for damaged.
    """
    if not file.seekable():
        return None
    for reader in READERS:
        file.seek(0)
        with warnings.catch_warnings(), suppress(SyntaxError, ValueError, OSError, Image.DecompressionBombError):
            warnings.simplefilter("ignore")  # damaged EXIF data
            picture = reader(cast(IO[bytes], file))
            check_pixels(uri, picture.size, config.max_still_pixels)
            return ColourProfile.read(picture.info.get("icc_profile"))
    return None
