"""Recognises photos that are not decoded, and refuses them by name: raw data of cameras, and JPEG XL."""

from typing import Literal

from ingest.errors import DecodeError
from ingest.media.container import MediaFile

# How files begin -> their format. FFmpeg takes some of them for TIFF, and would show a preview or raw samples.
SIGNATURES = (
    (b"FUJIFILMCCD-RAW", "RAF"),
    (b"IIRO", "ORF"),
    (b"IIRS", "ORF"),
    (b"IIU\0", "RW2"),
    (b"II*\0\x10\0\0\0CR", "CR2"),
    (b"\0\0\0\x18ftypcrx ", "CR3"),
)
JPEG_XL = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")
DNG_VERSION = 0xC612  # a tag of TIFF that only DNG has
MAX_TAG_COUNT = 1000  # of one TIFF directory; photos have some 60
REMEDY = "export it as JPEG"


def refuse_raw(file: MediaFile, uri: str) -> None:
    """Refuse a photo of a format that is not decoded.

    Raises:
        DecodeError: If the file is one; it names the format.
    """
    if not file.seekable():
        return
    file.seek(0)
    head = file.read(16)
    name = next((name for signature, name in SIGNATURES if head.startswith(signature)), None)
    if name is None and _is_dng(head, file):
        name = "DNG"
    if name is not None:
        raise DecodeError(uri, f"a raw photo ({name}), which is not decoded", REMEDY)
    if head.startswith(JPEG_XL):
        raise DecodeError(uri, "a JPEG XL picture, which is not decoded", REMEDY)


def _is_dng(head: bytes, file: MediaFile) -> bool:
    """Whether the first directory of a TIFF file says that it is DNG."""
    order: Literal["little", "big"]
    if head.startswith(b"II*\0"):
        order = "little"
    elif head.startswith(b"MM\0*"):
        order = "big"
    else:
        return False
    file.seek(int.from_bytes(head[4:8], order))
    count = int.from_bytes(file.read(2), order)
    tags = file.read(12 * min(count, MAX_TAG_COUNT))  # of 12 bytes each, the first two of which are its number
    return any(int.from_bytes(tags[at : at + 2], order) == DNG_VERSION for at in range(0, len(tags), 12))
