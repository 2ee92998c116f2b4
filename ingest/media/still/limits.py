"""Limits of pictures: bytes of a file that is held in memory, and pixels."""

from ingest.errors import DecodeError, LimitExceeded
from ingest.media.container import MediaFile

MAX_BYTES = 256 << 20  # of a file that a library holds in memory; photos of 200 megapixels have up to 80 MB


def read_whole(file: MediaFile, uri: str, kind: str) -> bytes:
    """Return the bytes of a picture of a kind, such as "a HEIF picture".

    Raises:
        DecodeError: If it has more than MAX_BYTES.
    """
    file.seek(0)
    data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise DecodeError(uri, f"{kind} of more than {MAX_BYTES >> 20} MiB")
    return data


def check_pixels(uri: str, size: tuple[int, int], most: int) -> None:
    """Raise LimitExceeded if a picture of a width and height has more than `most` pixels."""
    width, height = size
    if width * height > most:
        raise LimitExceeded(uri, "max_pixels", f"a picture of {width}x{height} pixels, at most {most} are decoded")
