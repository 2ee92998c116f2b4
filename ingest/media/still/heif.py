"""Reads the structure of HEIF still pictures, HEIC and AVIF: which coded tiles make the picture, and how it is shown.

FFmpeg reads the tiles of such a file too, but PyAV does not expose how they are joined: it shows one tile as the
picture. Phones store every photo in tiles.

Source: ISO/IEC 23008-12 (HEIF), and ISO/IEC 14496-12 for the boxes.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from ingest.errors import DecodeError
from ingest.media.container import MediaFile
from ingest.media.orientation import Orientation

BRANDS = (b"heic", b"heix", b"heim", b"heis", b"avif", b"mif1", b"mif2", b"miaf")
# Type of a coded item -> the FFmpeg decoder, and the property with its headers.
CODECS = {
    b"hvc1": ("hevc", b"hvcC"),
    b"av01": ("libdav1d", b"av1C"),
    b"avc1": ("h264", b"avcC"),
    b"jpeg": ("mjpeg", b""),
}
MAX_BOX_COUNT = 10_000  # in one box, or at the top level of a file; a photo has one for each tile
MAX_META_BYTES = 4 << 20  # of the box with the structure; a photo of 1000 tiles has 100 KB
MAX_EXTENT_COUNT = 100_000  # pieces of all items; phones store each item in one
MAX_DERIVATION_COUNT = 4  # pictures that are made of one another; phones have one grid
REMEDY = "convert it to JPEG"


Property = tuple[bytes, bytes]  # type and content


@dataclass(frozen=True, slots=True)
class Crop:
    """The part of a picture that is shown."""

    width: Fraction
    height: Fraction
    right: Fraction  # offset of its centre from the picture's centre
    down: Fraction


@dataclass(frozen=True, slots=True)
class Colours:
    """Tags for the colours, as FFmpeg's numbers."""

    primaries: int
    transfer: int
    matrix: int
    is_full_range: bool


@dataclass(frozen=True, slots=True)
class Place:
    """Where the bytes of an item lie: in the file, or in the structure's own `idat` box."""

    extents: tuple[tuple[int, int], ...]  # offset and length; length 0: to the end
    inside: bytes | None = None  # the `idat` box, for an item in it

    @property
    def byte_count(self) -> int:
        return sum(length for _, length in self.extents)

    def read(self, file: MediaFile) -> bytes:
        """Return the item's bytes, or as many of them as there are."""
        end = left = len(self.inside) if self.inside is not None else file.seek(0, 2)
        parts = []
        for offset, length in self.extents:
            length = max(0, min(length or end, end - offset, left))  # no more in all than there is
            left -= length
            if self.inside is not None:
                parts.append(self.inside[offset : offset + length])
            elif length:
                file.seek(offset)
                parts.append(file.read(length))
        return b"".join(parts)


@dataclass(frozen=True, slots=True)
class Tile:
    """A coded picture."""

    codec: str  # FFmpeg's decoder
    headers: bytes  # for the decoder
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class HeifPicture:
    """The primary picture of a file: tiles in rows, cropped to a size, then turned.

    EXIF data is not heeded, as HEIF demands: the file's own transformations say how the picture is shown.
    """

    tiles: tuple[Tile, ...]  # row by row
    column_count: int
    is_grid: bool
    size: tuple[int, int]  # width and height before crop and turn; of a single tile, as claimed
    crop: Crop | None  # before the turn; None: nothing is cut off
    turn: Orientation
    pixel_aspect: Fraction
    colours: Colours | None


def read_heif(file: MediaFile, uri: str) -> HeifPicture | None:
    """Read the primary picture of a HEIF file; None if the file is none, or holds a sequence, which FFmpeg reads.

    Raises:
        DecodeError: If its structure is damaged, or of a kind that is not decoded.
    """
    if not file.seekable():
        return None
    file.seek(0)
    head = file.read(64)
    brands = head[8 : int.from_bytes(head[:4], "big")] if head[4:8] == b"ftyp" else b""
    if not any(brands[at : at + 4] in BRANDS for at in (0, *range(8, len(brands), 4))):  # after the first: its version
        return None
    meta = _find_meta(file)
    if meta is None:
        return None
    try:
        return _Structure(meta, file, uri).primary()
    except (struct.error, IndexError, KeyError, ZeroDivisionError) as error:
        raise DecodeError(uri, "the structure of the HEIF picture is damaged") from error


def _find_meta(file: MediaFile) -> bytes | None:
    """Return the content of the `meta` box at the top level; None without it, or with a `moov` box of a sequence."""
    meta, position = None, 0
    end = file.seek(0, 2)
    for _ in range(MAX_BOX_COUNT):
        file.seek(position)
        head = file.read(16)
        if len(head) < 8:
            break
        length, start = int.from_bytes(head[:4], "big"), 8
        if length == 1:
            length, start = int.from_bytes(head[8:16], "big"), 16
        elif length == 0:
            length = end - position
        if head[4:8] == b"moov":
            return None
        if head[4:8] == b"ftyp" and meta is not None:  # the film of a motion photo, behind it
            break
        if head[4:8] == b"meta" and meta is None and start <= length <= MAX_META_BYTES:
            file.seek(position + start)
            meta = file.read(length - start)
        if length < 8:
            break
        position += length
    return meta


def _boxes(data: bytes, position: int = 0) -> Iterator[tuple[bytes, bytes]]:
    """Yield the type and the content of each box in `data`."""
    for _ in range(MAX_BOX_COUNT):
        if position + 8 > len(data):
            return
        length, kind = struct.unpack_from(">I4s", data, position)
        start = 8
        if length == 1:
            (length,), start = struct.unpack_from(">Q", data, position + 8), 16
        elif length == 0:
            length = len(data) - position
        if length < start:
            raise IndexError(f"a box of {length} bytes")
        yield kind, data[position + start : position + length]
        position += length


class _Numbers:
    """Reads big-endian numbers from the content of a box, which may begin with a version and flags."""

    def __init__(self, data: bytes, *, is_full: bool = True) -> None:
        self._data, self._position = data, 0
        self.version = self.flags = 0
        if is_full:
            self.version, self.flags = self.take(1), self.take(3)

    def take(self, size: int, *, signed: bool = False) -> int:
        """Return the number in the next `size` bytes; 0 if there are none to take."""
        return int.from_bytes(self.take_bytes(size), "big", signed=signed)

    def take_bytes(self, size: int) -> bytes:
        part = self._data[self._position : self._position + size]
        if len(part) < size:
            raise IndexError("a box ends early")
        self._position += size
        return part

    @property
    def rest(self) -> bytes:
        return self._data[self._position :]


class _Structure:
    """The items of a `meta` box, and what it says about them."""

    def __init__(self, meta: bytes, file: MediaFile, uri: str) -> None:
        self._file, self._uri = file, uri
        boxes = dict(_boxes(_Numbers(meta).rest))
        primary = _Numbers(boxes[b"pitm"])
        self._primary = primary.take(4 if primary.version else 2)
        self._types = _read_types(boxes[b"iinf"])
        self._places = _read_places(boxes[b"iloc"], boxes.get(b"idat", b""))
        self._sources = _read_sources(boxes.get(b"iref", bytes(4)))
        self._properties = _read_properties(boxes[b"iprp"])

    def primary(self) -> HeifPicture:
        """Return the primary picture.

        Raises:
            DecodeError: If it is of a kind that is not decoded.
        """
        item, properties = self._primary, list(self._properties.get(self._primary, ()))
        for _ in range(MAX_DERIVATION_COUNT):
            if self._types[item] != b"iden":  # another picture, turned or cropped anew
                break
            item = self._sources[item][0]
            properties = [*self._properties.get(item, ()), *properties]
        tiles: tuple[int, ...] = (item,)
        column_count, size = 1, _read_size(self._properties.get(item, ()))
        if self._types[item] == b"grid":
            tiles = self._sources[item]
            column_count, size = self._read_grid(item, len(tiles))
        return HeifPicture(
            tiles=tuple(self._read_tile(tile) for tile in tiles),
            column_count=column_count,
            is_grid=self._types[item] == b"grid",
            size=size,
            crop=_read_crop(properties),
            turn=_read_turn(properties),
            pixel_aspect=_read_pixel_aspect(properties),
            colours=_read_colours([*properties, *self._properties.get(tiles[0], ())]),
        )

    def _read_grid(self, item: int, tile_count: int) -> tuple[int, tuple[int, int]]:
        """Return the number of columns of a grid, and its width and height."""
        data = _Numbers(self._places[item].read(self._file), is_full=False)
        _, flags, rows, columns = (data.take(1) for _ in range(4))
        width, height = (data.take(4 if flags & 1 else 2) for _ in range(2))
        if tile_count != (rows + 1) * (columns + 1) or not width or not height:
            raise DecodeError(self._uri, f"a HEIF grid of {width}x{height} pixels with {tile_count} tiles")
        return columns + 1, (width, height)

    def _read_tile(self, item: int) -> Tile:
        kind = self._types[item]
        if kind not in CODECS:
            name = kind.decode("ascii", "replace")
            raise DecodeError(self._uri, f"a HEIF picture of the kind {name!r}, which is not decoded", REMEDY)
        codec, header = CODECS[kind]
        headers = next((data for name, data in self._properties.get(item, ()) if name == header), b"")
        return Tile(codec, headers, self._places[item])


def _read_types(data: bytes) -> dict[int, bytes]:
    """Return the type of each item by its id."""
    numbers, types = _Numbers(data), {}
    numbers.take(4 if numbers.version else 2)
    for kind, content in _boxes(numbers.rest):
        entry = _Numbers(content)
        if kind == b"infe" and entry.version >= 2:
            item = entry.take(2 if entry.version == 2 else 4)
            entry.take(2)
            types[item] = entry.take_bytes(4)
    return types


def _read_places(data: bytes, inside: bytes) -> dict[int, Place]:
    """Return where the bytes of each item lie, by its id. Items in other files or in other items are left out."""
    numbers, places = _Numbers(data), {}
    sizes = numbers.take(2)
    offset_size, length_size, base_size, index_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15, sizes & 15
    extent_count = 0
    for _ in range(numbers.take(4 if numbers.version == 2 else 2)):
        item = numbers.take(4 if numbers.version == 2 else 2)
        method = numbers.take(2) & 15 if numbers.version else 0
        is_elsewhere = bool(numbers.take(2))
        base, extents, count = numbers.take(base_size), list[tuple[int, int]](), numbers.take(2)
        extent_count += count
        if extent_count > MAX_EXTENT_COUNT:
            raise IndexError("too many extents")
        for _ in range(count):
            numbers.take(index_size if numbers.version else 0)
            offset = base + numbers.take(offset_size)
            extents.append((offset, numbers.take(length_size)))
        if method < 2 and not is_elsewhere:
            places[item] = Place(tuple(extents), inside if method else None)
    return places


def _read_sources(data: bytes) -> dict[int, tuple[int, ...]]:
    """Return the items of which each derived item is made, by its id."""
    references, sources = _Numbers(data), {}
    size = 4 if references.version else 2
    for kind, content in _boxes(references.rest):
        if kind == b"dimg":
            numbers = _Numbers(content, is_full=False)
            item, count = numbers.take(size), numbers.take(2)
            sources[item] = tuple(numbers.take(size) for _ in range(count))
    return sources


def _read_properties(data: bytes) -> dict[int, list[Property]]:
    """Return the properties of each item by its id, in order."""
    boxes = list(_boxes(data))
    all_of_file = [each for kind, content in boxes if kind == b"ipco" for each in _boxes(content)]
    properties: dict[int, list[Property]] = {}
    for content in (content for kind, content in boxes if kind == b"ipma"):
        numbers = _Numbers(content)
        size = 2 if numbers.flags & 1 else 1
        for _ in range(numbers.take(4)):
            item = numbers.take(4 if numbers.version else 2)
            indices = [numbers.take(size) & (0x7FFF if size == 2 else 0x7F) for _ in range(numbers.take(1))]
            properties.setdefault(item, []).extend(all_of_file[index - 1] for index in indices if index)
    return properties


def _read_size(properties: Sequence[Property]) -> tuple[int, int]:
    for kind, content in properties:
        if kind == b"ispe":
            width, height = struct.unpack_from(">II", content, 4)
            return width, height
    return 0, 0


def _read_turn(properties: Sequence[Property]) -> Orientation:
    turn = Orientation()
    for kind, content in properties:
        if kind == b"irot":
            turn = turn.then(Orientation.counterclockwise(content[0] & 3))
        elif kind == b"imir":
            is_sideways = bool(content[0] & 1)
            turn = turn.then(Orientation(flips_columns=is_sideways, flips_rows=not is_sideways))
    return turn


def _read_crop(properties: Sequence[Property]) -> Crop | None:
    for kind, content in properties:
        if kind == b"clap":
            numbers = _Numbers(content, is_full=False)
            return Crop(*(Fraction(numbers.take(4, signed=True), numbers.take(4)) for _ in range(4)))
    return None


def _read_pixel_aspect(properties: Sequence[Property]) -> Fraction:
    for kind, content in properties:
        if kind == b"pasp":
            return Fraction(*struct.unpack_from(">II", content))
    return Fraction(1)


def _read_colours(properties: Sequence[Property]) -> Colours | None:
    for kind, content in properties:
        if kind == b"colr" and content[:4] == b"nclx":
            primaries, transfer, matrix, flags = struct.unpack_from(">HHHB", content, 4)
            return Colours(primaries, transfer, matrix, bool(flags & 0x80))
    return None
