"""Recognises video and audio files by their first bytes, for files whose suffix tells nothing.

Only containers that begin with a clear mark are known; the demuxers allowed in ingest/media/container.py read all of
them. Raw streams of sound and damaged beginnings are not recognised: such files need a known suffix, or are named.
"""

HEAD_BYTES = 8192  # enough for five packets of a transport stream behind a recorder's header of 3,760 bytes

_MARKS = (  # at the first byte
    b"FLV\x01",
    b"OggS",
    b"fLaC",
    b"ID3",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c",  # ASF: wmv, wma, dvr-ms
    b"\xb7\xd8\x00\x20\x37\x49\xda\x11\xa6\x4e\x00\x07\xe9\x5e\xad\x8d",  # WTV
    b"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02",  # MXF
    b"\x00\x00\x00\x00\x01\xbc",  # GXF
    b"nut/multimedia container\x00",
    b"DKIF",  # IVF
    b"DHAV",
    b"DAHUA",
    b"IMKH",  # a program stream behind a header of Hikvision's recorders
    b".RMF",
    b".ra\xfd",
    b"YUV4MPEG2",
    b"\x00\x00\x01\xb3",  # MPEG-1 or 2 video without a container
    b"caff",
    b"wvpk",
    b"MAC ",  # Monkey's Audio
    b"TTA1",
    b"tBaK",
    b"MPCK",
    b"MP+",
    b"#!AMR",
    b".snd",
    b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00",  # Wave64
    b"DTSHDHDR",
    b"\x7f\xfe\x80\x01",  # DTS
    b"BBCD",  # Dirac
    *(b"BIK" + version for version in (b"b", b"f", b"g", b"h", b"i", b"k")),  # videos of games: Bink, Smacker, RoQ
    b"KB2",
    b"SMK2",
    b"SMK4",
    b"\x84\x10\xff\xff\xff\xff",
)
_RIFF_KINDS = (b"AVI ", b"AVIX", b"AMV ", b"CDXA", b"WAVE", b"QLCM", b"XWMA")
_FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")  # of MP4 and QuickTime
_SEQUENCE_BRANDS = (b"avis", b"msf1", b"hevc", b"hevx")  # moving pictures of HEIF
_STILL_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"mif1", b"mif2", b"miaf", b"avif", b"crx ", b"jpx "))
_PICTURE_MARKS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\x00", b"MM\x00*")
PICTURE_FORMATS = "JPEG, PNG, WebP, HEIC, AVIF, GIF or TIFF"  # those that is_picture knows
_PACKET_BYTES = (188, 192, 204)  # of transport streams: plain, with a time code, with error correction
_PACKET_COUNT = 5  # valid packets in a row; by chance, one file in millions has them
_TEXT_BYTES = bytes([*b"\t\n\v\f\r\x1b", *range(0x20, 0x100)])


def is_media(head: bytes, size_bytes: int) -> bool:
    """Whether a file is video or audio: never a still picture, a playlist or text.

    Args:
        head: Its first HEAD_BYTES bytes, or all if it has fewer.
        size_bytes: The size of the whole file.
    """
    return (
        head.startswith(_MARKS)
        or _is_riff(head)
        or _is_mp4(head, size_bytes)
        or (head.startswith(b"\x1a\x45\xdf\xa3") and (b"matroska" in head[:256] or b"webm" in head[:256]))
        or (head.startswith(b"FORM") and head[8:12] in (b"AIFF", b"AIFC"))
        or (head.startswith(b"\x89PNG") and 0 < head.find(b"acTL") < head.find(b"IDAT"))
        or _is_program_stream(head)
        or _is_annex_b(head)
        or (not is_text(head) and _is_transport_stream(head))
    )


def is_picture(head: bytes) -> bool:
    """Whether a file that begins with `head` is one of PICTURE_FORMATS, still or animated."""
    heif_brands = {*_STILL_BRANDS, *_SEQUENCE_BRANDS} - {b"crx ", b"jpx "}
    is_heif = head[4:8] == b"ftyp" and not heif_brands.isdisjoint(_read_brands(head))
    return is_heif or head.startswith(_PICTURE_MARKS) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def is_text(head: bytes) -> bool:
    """Whether the beginning of a file is plain text, in any encoding that extends ASCII, or UTF-16; or empty."""
    return head.startswith((b"\xff\xfe", b"\xfe\xff")) or not head.translate(None, _TEXT_BYTES)


def _is_riff(head: bytes) -> bool:
    kind = head[8:12]
    if kind == b"WEBP" and head[:4] == b"RIFF":
        return head[12:16] == b"VP8X" and len(head) > 20 and bool(head[20] & 0x02)  # only if animated
    return head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and kind in _RIFF_KINDS


def _is_mp4(head: bytes, size_bytes: int) -> bool:
    if len(head) < 12 or head[4:8] not in _FIRST_BOXES:
        return False
    length = int.from_bytes(head[:4], "big")
    if length > max(size_bytes, 0x01000000) and head[4:8] != b"mdat":  # four letters of a text, or another format
        return False
    if head[4:8] == b"ftyp" and head[8:12] not in _SEQUENCE_BRANDS:
        return _STILL_BRANDS.isdisjoint(_read_brands(head))
    return True


def _read_brands(head: bytes) -> set[bytes]:
    """Return the brands of a file that begins with an "ftyp" box: the major one, and behind its version the others."""
    return {head[at : at + 4] for at in (8, *range(16, min(int.from_bytes(head[:4], "big"), len(head)), 4))}


def _is_program_stream(head: bytes) -> bool:
    """Whether it begins with a pack header of MPEG-1 or MPEG-2."""
    return head[:4] == b"\x00\x00\x01\xba" and len(head) > 4 and (head[4] >> 6 == 1 or head[4] >> 4 == 2)


def _is_annex_b(head: bytes) -> bool:
    """Whether it begins with the parameter sets of H.264 or H.265 without a container."""
    start = 4 if head[:4] == b"\x00\x00\x00\x01" else 3 if head[:3] == b"\x00\x00\x01" else 0
    if not start or head.find(b"\x00\x00\x01", start) < 0:  # a second unit must follow
        return False
    first, second = head[start], head[start + 1]
    if first in (0x27, 0x47, 0x67):  # H.264: parameter set, then its profile
        return second in (44, 66, 77, 88, 100, 110, 118, 122, 128, 244)
    if first == 0x09:  # H.264: access unit delimiter
        return second & 0x1F == 0x10
    return first in (0x40, 0x42, 0x46) and second == 0x01  # H.265: parameter sets, access unit delimiter


def _is_transport_stream(head: bytes) -> bool:
    """Whether valid packets with sync bytes fill the end of the head. A recorder's own header may precede them."""
    for length in _PACKET_BYTES:
        last = head.rfind(b"G", 0, len(head) - 3)
        while last >= max(0, len(head) - 3 - length):
            at = last
            while at >= 0 and _is_packet(head, at):
                at -= length
            if (last - at) // length >= _PACKET_COUNT:
                return True
            last = head.rfind(b"G", 0, last)
    return False


def _is_packet(head: bytes, at: int) -> bool:
    """Whether a packet of a transport stream begins there: sync byte, no error, not empty."""
    return head[at] == 0x47 and not head[at + 1] & 0x80 and head[at + 3] & 0x30 != 0
