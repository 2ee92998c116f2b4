"""Decodes photos and animated WebP that FFmpeg does not decode, and refuses raw photos by name.

It loads libheif and Pillow's formats. So decode.py imports it only for files that may be such (`kinds.may_be_still`).
"""

from collections.abc import Callable, Iterator

from ingest.config import DecodeConfig
from ingest.media.container import MediaFile
from ingest.media.still.header import read_header
from ingest.media.still.heif import decode_heif, find_heif_codec
from ingest.media.still.raw import refuse_raw
from ingest.media.still.webp import decode_webp, is_animated_webp
from ingest.values import Decoded

__all__ = ["decode_photo", "read_header"]


def decode_photo(
    file: MediaFile, *, uri: str, config: DecodeConfig, on_progress: Callable[[], None]
) -> Iterator[Decoded] | None:
    """Return the items of a file, as decode() yields them; None if FFmpeg decodes it.

    Raises:
        DecodeError: If it is a photo of a format that is not decoded.
    """
    refuse_raw(file, uri)
    codec = find_heif_codec(file)
    if codec is not None:
        return decode_heif(file, codec, uri=uri, config=config, on_progress=on_progress)
    if is_animated_webp(file):
        return decode_webp(file, uri=uri, config=config, on_progress=on_progress)
    return None
