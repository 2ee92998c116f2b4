"""Tells files that may be still pictures by their first bytes, without loading the libraries that decode them."""

MARKS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II", b"MM", b"BM", b"FUJIFILM", b"\xff\x0a", b"\0\0\0\x0cJXL ")
BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"avif", b"mif1", b"mif2", b"miaf"))  # of HEIF
RAW_BRAND = b"crx "  # of CR3
HEAD_BYTES = 64  # of a file; the brands of photos end before


def may_be_still(head: bytes) -> bool:
    """Whether a file that begins with `head` may be a photo, or a picture that FFmpeg does not decode.

    Args:
        head: Its first HEAD_BYTES bytes, or all if it has fewer.
    """
    if head.startswith(MARKS) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return True
    return head[4:8] == b"ftyp" and not (BRANDS | {RAW_BRAND}).isdisjoint(read_brands(head))


def read_brands(head: bytes) -> set[bytes]:
    """Return the brands of an MP4 or HEIF file."""
    brands = head[8 : int.from_bytes(head[:4], "big")]
    return {brands[at : at + 4] for at in (0, *range(8, len(brands), 4))}  # after the first: its version
