"""Photos of 50 to 200 megapixels are decoded, and larger ones are refused with their size, within the limits."""

import io
import struct
import zlib

import pytest
from PIL import Image, TiffImagePlugin

from ingest.config import DecodeConfig
from ingest.errors import LimitExceeded
from ingest.media.decode import decode
from ingest.sandbox.pool import DecodePool
from ingest.values import Frame, MediaInfo
from support.heif import HeifFile, Item, code_picture, encode_single, ispe
from support.marks import first_quick
from support.photos import BLUE, GREEN, RED, WHITE, corners, draw_quarters, encode_picture, exif_of

UPRIGHT = [RED, GREEN, BLUE, WHITE]
CONFIG = DecodeConfig(resize="squash")


def decoded(media: bytes, config: DecodeConfig = CONFIG) -> tuple[MediaInfo, Frame]:
    info, frame, _ = decode(io.BytesIO(media), uri="test", config=config)
    assert isinstance(info, MediaInfo)
    assert isinstance(frame, Frame)
    return info, frame


@pytest.mark.parametrize(
    ("format", "options"), first_quick([("JPEG", {}), ("JPEG", {"progressive": True}), ("TIFF", {})])
)
def test_a_photo_of_50_megapixels_is_decoded(format: str, options: dict[str, bool]) -> None:
    info, frame = decoded(encode_picture(draw_quarters(8192, 6144), format, **options))
    assert corners(frame.pixels) == UPRIGHT
    assert (info.width, info.height) == (8192, 6144)


def test_a_photo_of_50_megapixels_with_a_gain_map_is_turned() -> None:
    photo = encode_picture(draw_quarters(8192, 6144), "JPEG", exif=exif_of(3))
    gain_map = encode_picture(Image.new("L", (2048, 1536)), "JPEG")
    assert corners(decoded(photo + gain_map)[1].pixels) == UPRIGHT[::-1]


@pytest.mark.slow
def test_a_photo_of_48_megapixels_in_tiles_is_decoded() -> None:
    file, (width, height), (columns, rows) = HeifFile(), (8064, 6048), (8, 6)
    coded = [code_picture(Image.new("RGB", (1024, 1024), colour)) for colour in UPRIGHT]
    tiles = []
    for number in range(columns * rows):
        row, column = divmod(number, columns)
        each = coded[row * 2 // rows * 2 + column * 2 // columns]
        tiles.append(file.add(Item(each.kind, each.data, each.properties, is_hidden=True)))
    geometry = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width, height)
    file.primary = file.add(Item(b"grid", geometry, (ispe(width, height),), tiles))
    info, frame = decoded(file.encode())
    assert corners(frame.pixels) == UPRIGHT
    assert (info.width, info.height) == (width, height)


@pytest.mark.slow
@pytest.mark.parametrize(("format", "options"), [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {})])
def test_a_photo_of_200_megapixels_is_decoded_by_a_child_process(format: str, options: dict[str, bool]) -> None:
    media = encode_picture(draw_quarters(16320, 12240), format, **options)
    with DecodePool(CONFIG, workers=1) as pool:
        frame = next(item for item in pool.decode(io.BytesIO(media), uri="test") if isinstance(item, Frame))
    assert corners(frame.pixels) == UPRIGHT


def resized(format: str, width: int, height: int) -> bytes:
    """Return a picture of 16x16 pixels whose header claims another size."""
    media = bytearray(encode_picture(Image.new("RGB", (16, 16)), format))
    if format == "PNG":
        media[16:24] = struct.pack(">II", width, height)
        media[29:33] = struct.pack(">I", zlib.crc32(media[12:29]))
    elif format == "JPEG":
        at = media.index(b"\xff\xc0") + 5
        media[at : at + 4] = struct.pack(">HH", height, width)
    elif format == "BMP":
        media[18:26] = struct.pack("<ii", width, height)
    elif format == "AVIF":
        media = bytearray(bytes(media).replace(ispe(16, 16), ispe(width, height)))
    else:
        options = {TiffImagePlugin.IMAGEWIDTH: width, TiffImagePlugin.IMAGELENGTH: height}
        for tag, value in options.items():
            at = media.index(struct.pack("<H", tag), int.from_bytes(media[4:8], "little"))
            media[at : at + 12] = struct.pack("<HHII", tag, 4, 1, value)
    return bytes(media)


@pytest.mark.parametrize("size", [(14_700, 14_700), (20_000, 20_000), (65_500, 65_500)])
@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "BMP"])
def test_the_limit_is_named_for_a_picture_of_any_size(format: str, size: tuple[int, int]) -> None:
    with pytest.raises(LimitExceeded, match=f"a picture of {size[0]}x{size[1]} pixels, at most 213909504") as caught:
        decoded(resized(format, *size))
    assert caught.value.limit == "max_pixels"


def test_the_limit_is_named_for_heif() -> None:
    single = encode_single(draw_quarters()).replace(ispe(160, 96), ispe(20_000, 20_000))
    for media in (single, resized("AVIF", 16_000, 16_000)):
        with pytest.raises(LimitExceeded, match="at most 213909504") as caught:
            decoded(media)
        assert caught.value.limit == "max_pixels"


@pytest.mark.slow
def test_what_a_photo_needs_in_memory_is_bounded() -> None:
    media = encode_picture(draw_quarters(8192, 6144), "PNG", compress_level=1)
    config = DecodeConfig(max_memory_bytes=200 << 20)
    with DecodePool(config, workers=1) as pool, pytest.raises(LimitExceeded) as caught:
        list(pool.decode(io.BytesIO(media), uri="test"))
    assert caught.value.limit == "max_memory_bytes"
