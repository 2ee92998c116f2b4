"""Makes HEIF files by hand: pictures in tiles, turned, cropped and with the pictures that phones put beside them."""

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.frame import VideoFrame
from PIL import Image

KINDS = {"libx265": (b"hvc1", b"hvcC"), "libsvtav1": (b"av01", b"av1C")}  # of an item, and of its headers
OPTIONS = {
    "libx265": {"x265-params": "log-level=none:colormatrix=smpte170m:range=full", "crf": "8"},
    "libsvtav1": {"crf": "8", "svtav1-params": "lp=1"},
}


def box(kind: bytes, *parts: bytes) -> bytes:
    return struct.pack(">I4s", 8 + sum(map(len, parts)), kind) + b"".join(parts)


def full_box(kind: bytes, version: int, flags: int, *parts: bytes) -> bytes:
    return box(kind, struct.pack(">I", version << 24 | flags), *parts)


def irot(quarters: int) -> bytes:
    """A turn counterclockwise."""
    return box(b"irot", bytes([quarters]))


def imir(mode: int) -> bytes:
    """A mirror: 0 exchanges top and bottom, 1 left and right."""
    return box(b"imir", bytes([mode]))


def ispe(width: int, height: int) -> bytes:
    return full_box(b"ispe", 0, 0, struct.pack(">II", width, height))


def clap(width: int, height: int, right: Fraction, down: Fraction) -> bytes:
    """A crop: its size, and the offset of its centre."""
    numbers = (width, 1, height, 1, right.numerator, right.denominator, down.numerator, down.denominator)
    return box(b"clap", struct.pack(">IIIIiIiI", *numbers))


def nclx(primaries: int, transfer: int, matrix: int, *, is_full_range: bool) -> bytes:
    return box(b"colr", b"nclx", struct.pack(">HHHB", primaries, transfer, matrix, is_full_range << 7))


def prof(profile: bytes) -> bytes:
    """An ICC profile."""
    return box(b"colr", b"prof", profile)


@dataclass(frozen=True)
class Item:
    """An item of a HEIF file. `sources` are the indices of the items that it is made of."""

    kind: bytes
    data: bytes = b""
    properties: Sequence[bytes] = ()
    sources: Sequence[int] = ()
    relation: bytes = b"dimg"
    is_hidden: bool = False
    is_inside: bool = False  # in the structure's `idat` box


@dataclass
class HeifFile:
    """The items of a file; ids are their indices and one."""

    items: list[Item] = field(default_factory=list)
    primary: int = 0
    brand: bytes = b"heic"

    def add(self, item: Item) -> int:
        self.items.append(item)
        return len(self.items) - 1

    def encode(self) -> bytes:
        head = box(b"ftyp", self.brand, bytes(4), b"mif1", self.brand)
        size = len(head + self._meta(0))
        data = b"".join(item.data for item in self.items if not item.is_inside)
        return head + self._meta(size + 8) + box(b"mdat", data)

    def _meta(self, position: int) -> bytes:
        places, inside, entries, references, owned = b"", b"", b"", b"", b""
        properties: list[bytes] = []
        for number, item in enumerate(self.items, 1):
            at = len(inside) if item.is_inside else position
            places += struct.pack(">HHHHII", number, item.is_inside, 0, 1, at, len(item.data))
            inside += item.data if item.is_inside else b""
            position += 0 if item.is_inside else len(item.data)
            entries += full_box(b"infe", 2, item.is_hidden, struct.pack(">HH4s", number, 0, item.kind), b"\0")
            ids = [source + 1 for source in item.sources]
            if ids:
                references += box(item.relation, struct.pack(f">HH{len(ids)}H", number, len(ids), *ids))
            for each in item.properties:
                if each not in properties:
                    properties.append(each)
            indices = [0x8000 | properties.index(each) + 1 for each in item.properties]
            owned += struct.pack(f">HB{len(indices)}H", number, len(indices), *indices)
        count = len(self.items)
        return full_box(
            b"meta",
            0,
            0,
            full_box(b"hdlr", 0, 0, bytes(4), b"pict", bytes(13)),
            full_box(b"pitm", 0, 0, struct.pack(">H", self.primary + 1)),
            full_box(b"iloc", 1, 0, b"\x44\0", struct.pack(">H", count), places),
            full_box(b"iinf", 0, 0, struct.pack(">H", count), entries),
            full_box(b"iref", 0, 0, references),
            box(b"iprp", box(b"ipco", *properties), full_box(b"ipma", 0, 1, struct.pack(">I", count), owned)),
            box(b"idat", inside) if inside else b"",
        )


def code_picture(picture: Image.Image | VideoFrame, codec: str = "libx265", pix_fmt: str = "yuv420p") -> Item:
    """Return a coded picture as an item."""
    frame = picture if isinstance(picture, VideoFrame) else VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")
    return _code(frame.reformat(format=pix_fmt, dst_color_range=2), codec, pix_fmt)


def _code(frame: VideoFrame, codec: str, pix_fmt: str) -> Item:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=1, options=OPTIONS[codec])
        stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, pix_fmt
        stream.codec_context.color_range = 2
        frame.pts = 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            packet.pts = packet.dts = 0
            container.mux(packet)
    with av.open(io.BytesIO(file.getvalue())) as container:
        headers = container.streams.video[0].codec_context.extradata
        data = b"".join(bytes(packet) for packet in container.demux(video=0))
    kind, header_kind = KINDS[codec]
    assert headers
    return Item(kind, data, (box(header_kind, headers), ispe(frame.width, frame.height)))


def add_grid(
    file: HeifFile,
    picture: Image.Image,
    tile: tuple[int, int] = (64, 64),
    *,
    codec: str = "libx265",
    pix_fmt: str = "yuv420p",
    properties: Sequence[bytes] = (),
    is_hidden: bool = False,
    **options: Any,
) -> int:
    """Add a picture in tiles, padded at its right and lower edge; return the index of the grid."""
    columns, rows = -(-picture.width // tile[0]), -(-picture.height // tile[1])
    tiles = []
    for number in range(rows * columns):
        row, column = divmod(number, columns)
        left, top = column * tile[0], row * tile[1]
        coded = code_picture(picture.crop((left, top, left + tile[0], top + tile[1])), codec, pix_fmt)
        tiles.append(file.add(Item(coded.kind, coded.data, coded.properties, is_hidden=True)))
    return file.add(
        Item(
            b"grid",
            struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, *picture.size),
            (ispe(*picture.size), *properties),
            tiles,
            is_hidden=is_hidden,
            **options,
        )
    )


def encode_grid(picture: Image.Image, tile: tuple[int, int] = (64, 64), **options: Any) -> bytes:
    """Return a file with a picture in tiles."""
    file = HeifFile(brand=b"avif" if options.get("codec") == "libsvtav1" else b"heic")
    file.primary = add_grid(file, picture, tile, **options)
    return file.encode()


def encode_single(picture: Image.Image, *properties: bytes, codec: str = "libx265", pix_fmt: str = "yuv420p") -> bytes:
    """Return a file with a picture in one piece."""
    coded = code_picture(picture, codec, pix_fmt)
    item = Item(coded.kind, coded.data, (*coded.properties, *properties))
    return HeifFile([item], brand=b"avif" if codec == "libsvtav1" else b"heic").encode()
