"""HEIF pictures, HEIC and AVIF, come out whole, turned and cropped as a viewer shows them."""

import contextlib
import io
import os
import random
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ingest.config import STILL_FACTOR, DecodeConfig
from ingest.errors import DecodeError, IngestError, LimitExceeded
from ingest.media.decode import decode
from ingest.sandbox.pool import DecodePool
from ingest.stream.chunker import cut_chunks
from ingest.values import DecodeSummary, Frame, MediaInfo
from support.heif import (
    HeifFile,
    Item,
    add_grid,
    box,
    clap,
    code_picture,
    encode_grid,
    encode_single,
    full_box,
    imir,
    irot,
    ispe,
    nclx,
)
from support.media import Track, encode_media, times
from support.photos import BLUE, GREEN, RED, WHITE, corners, draw_quarters, encode_picture, exif_of

QUARTERS = draw_quarters(160, 96)
CODECS = ["libx265", "libsvtav1"]
BRANDS = {"libx265": b"heic", "libsvtav1": b"avif"}
AUXILIARY = full_box(b"auxC", 0, 0, b"urn:mpeg:mpegB:cicp:systems:auxiliary:depth\0")


def show(media: bytes, **settings: object) -> tuple[MediaInfo, Frame, DecodeSummary]:
    config = DecodeConfig(resize="squash", **settings)  # type: ignore[arg-type]
    info, frame, summary = decode(io.BytesIO(media), uri="test", config=config)
    assert isinstance(info, MediaInfo)
    assert isinstance(frame, Frame)
    assert isinstance(summary, DecodeSummary)
    return info, frame, summary


def error_of(media: bytes, **settings: object) -> IngestError:
    with pytest.raises(IngestError) as caught:
        show(media, **settings)
    return caught.value


def plain(picture: Image.Image) -> np.ndarray:
    """Return the pixels of a picture that was never compressed."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return show(file.getvalue())[1].pixels.astype(int)


def photo(width: int, height: int) -> Image.Image:
    """Return a smooth coloured picture, each of whose places looks different."""
    small = np.random.default_rng(5).integers(0, 255, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def is_like(pixels: np.ndarray, right: np.ndarray) -> bool:
    return float(np.abs(pixels.astype(int) - right).mean()) < 3


@pytest.mark.slow
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le"])
@pytest.mark.parametrize(
    ("codec", "size"),
    # AVIF forbids grids of odd sizes.
    [
        *(("libx265", size) for size in [(192, 128), (151, 93), (64, 64), (130, 65)]),
        *(("libsvtav1", size) for size in [(192, 128), (150, 94), (64, 64)]),
    ],
)
def test_the_tiles_of_a_grid_are_put_together(size: tuple[int, int], codec: str, pix_fmt: str) -> None:
    picture = photo(*size)
    info, frame, summary = show(encode_grid(picture, codec=codec, pix_fmt=pix_fmt))
    assert is_like(frame.pixels, plain(picture))
    assert (info.width, info.height, info.container) == (*size, "heif")
    assert info.video_codec == {"libx265": "hevc", "libsvtav1": "av1"}[codec]
    assert (summary.frame_count, summary.error_count, summary.truncated) == (1, 0, False)
    with Image.open(io.BytesIO(frame.thumbnail)) as thumbnail:
        assert thumbnail.size == size


@pytest.mark.parametrize("pix_fmt", ["yuv444p", "yuv422p", "gray"])
def test_grids_of_other_formats_are_put_together(pix_fmt: str) -> None:
    picture = photo(151, 93)
    right = plain(picture.convert("L").convert("RGB") if pix_fmt == "gray" else picture)
    assert is_like(show(encode_grid(picture, pix_fmt=pix_fmt))[1].pixels, right)


@pytest.mark.slow
def test_a_photo_of_more_tiles_than_a_video_may_have_streams_is_one() -> None:
    picture = photo(64 * 9, 64 * 9)
    assert is_like(show(encode_grid(picture))[1].pixels, plain(picture))


@pytest.mark.parametrize("is_inside", [False, True])
def test_the_grid_may_lie_with_its_tiles_or_in_the_structure(is_inside: bool) -> None:
    assert corners(show(encode_grid(QUARTERS, is_inside=is_inside))[1].pixels) == [RED, GREEN, BLUE, WHITE]


@pytest.mark.parametrize("encode", [encode_grid, lambda picture, properties: encode_single(picture, *properties)])
@pytest.mark.parametrize("mode", [None, 0, 1])
@pytest.mark.parametrize("quarters", range(4))
def test_pictures_are_turned_then_mirrored(quarters: int, mode: int | None, encode: Callable[..., bytes]) -> None:
    right = np.rot90(np.asarray(QUARTERS), quarters)
    right = right if mode is None else np.flip(right, mode)
    info, frame, _ = show(encode(QUARTERS, properties=[irot(quarters), *([] if mode is None else [imir(mode)])]))
    assert corners(frame.pixels) == corners(right)
    assert (info.width, info.height) == (right.shape[1], right.shape[0])


def test_mirrors_and_turns_follow_their_order() -> None:
    media = encode_single(QUARTERS, imir(1), irot(1))
    assert corners(show(media)[1].pixels) == corners(np.rot90(np.flip(np.asarray(QUARTERS), 1)))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("properties", [[], [irot(1)]])
def test_the_orientation_in_exif_does_not_count(codec: str, properties: list[bytes]) -> None:
    file = HeifFile(brand=BRANDS[codec])
    file.primary = add_grid(file, QUARTERS, codec=codec, properties=properties)
    file.add(Item(b"Exif", struct.pack(">I", 6) + exif_of(6).tobytes(), (), [file.primary], b"cdsc"))
    right = np.rot90(np.asarray(QUARTERS), len(properties))
    assert corners(show(file.encode())[1].pixels) == corners(right)


def test_a_picture_is_cropped_before_it_is_turned() -> None:
    picture = photo(160, 96)
    for right, down, part in [(0, 0, (30, 18, 130, 78)), (20, -10, (50, 8, 150, 68)), (-30, 18, (0, 36, 100, 96))]:
        crop = clap(100, 60, Fraction(right), Fraction(down))
        for encode in (encode_single(picture, crop, irot(1)), encode_grid(picture, properties=[crop, irot(1)])):
            info, frame, _ = show(encode)
            assert (info.width, info.height) == (60, 100)
            assert is_like(frame.pixels, plain(picture.crop(part).transpose(Image.Transpose.ROTATE_90)))


def test_an_odd_size_is_a_crop_of_an_even_one() -> None:
    info, frame, _ = show(encode_single(photo(160, 96), clap(159, 95, Fraction(-1, 2), Fraction(-1, 2))))
    assert (info.width, info.height) == (159, 95)
    assert is_like(frame.pixels, plain(photo(160, 96).crop((0, 0, 159, 95))))


def test_a_picture_may_be_another_one_turned() -> None:
    file = HeifFile()
    grid = add_grid(file, QUARTERS, properties=[irot(1)], is_hidden=True)
    file.primary = file.add(Item(b"iden", properties=[ispe(96, 160), irot(2)], sources=[grid]))
    assert corners(show(file.encode())[1].pixels) == corners(np.rot90(np.asarray(QUARTERS), 3))


@pytest.mark.slow
@pytest.mark.parametrize("is_first", [False, True])
@pytest.mark.parametrize("codec", CODECS)
def test_the_primary_picture_is_shown_and_no_other(codec: str, is_first: bool) -> None:
    file = HeifFile(brand=BRANDS[codec])
    if not is_first:
        add_grid(file, Image.new("RGB", (256, 256), GREEN), codec=codec)
    file.primary = add_grid(file, QUARTERS, codec=codec)
    # A thumbnail; a depth map, which may be in tiles too.
    for relation, size, properties in [(b"thmb", 64, ()), (b"auxl", 512, (AUXILIARY,))]:
        coded = code_picture(Image.new("RGB", (size, size), BLUE), codec)
        file.add(Item(coded.kind, coded.data, (*coded.properties, *properties), [file.primary], relation))
    if is_first:
        add_grid(file, Image.new("RGB", (256, 256), GREEN), codec=codec)
    assert corners(show(file.encode())[1].pixels) == [RED, GREEN, BLUE, WHITE]


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [lambda film: film, lambda film: box(b"mpvd", film), lambda film: b"Photo" + film])
@pytest.mark.parametrize("encode", [encode_grid, encode_single])
def test_the_film_behind_a_motion_photo_is_passed_over(
    encode: Callable[..., bytes], wrap: Callable[[bytes], bytes]
) -> None:
    film = encode_media(format="mp4", video=Track(times=times(10, 25)))
    info, frame, _ = show(encode(QUARTERS) + wrap(film))
    assert info.container == "heif"
    assert corners(frame.pixels) == [RED, GREEN, BLUE, WHITE]


def test_colours_are_those_that_the_file_names() -> None:
    picture = Image.new("RGB", (64, 64), RED)
    coded = code_picture(picture)
    for tags, is_right in [(nclx(1, 13, 6, is_full_range=True), True), (nclx(1, 13, 1, is_full_range=True), False)]:
        media = HeifFile([Item(coded.kind, coded.data, (*coded.properties, tags))]).encode()
        assert is_like(show(media)[1].pixels, np.asarray(RED)) == is_right


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(("transfer", "level"), [(16, 214), (18, 214)])
def test_high_dynamic_range_is_mapped(transfer: int, level: int, codec: str) -> None:
    grey = {16: 0.5807, 18: 0.75}[transfer]  # a page's white: 203 nits of PQ, 75 % of HLG
    picture = Image.new("RGB", (128, 128), (round(grey * 255),) * 3)
    tags = nclx(9, transfer, 9, is_full_range=True)
    media = encode_single(picture, tags, codec=codec, pix_fmt="yuv420p10le")
    rounding = 6 if codec == "libx265" else 12  # Pillow decodes AVIF to 8 bits
    assert show(media)[1].pixels[100, 100].tolist() == pytest.approx([level] * 3, abs=rounding)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_parts_lie_on_black(mode: str) -> None:
    picture = QUARTERS.convert(mode)
    picture.putalpha(Image.new("L", picture.size, 128))
    pixels = show(encode_picture(picture, "AVIF", quality=95))[1].pixels
    assert is_like(pixels, np.asarray(QUARTERS.convert(mode[:-1]).convert("RGB").resize((224, 224))) * 0.5)


@pytest.mark.parametrize("codec", CODECS)
def test_large_pictures_are_refused_before_they_are_decoded(codec: str) -> None:
    for media in (encode_grid(QUARTERS, codec=codec), encode_single(QUARTERS, codec=codec)):
        error = error_of(media, max_pixels=160 * 96 // STILL_FACTOR - 1)
        assert isinstance(error, LimitExceeded)
        assert error.limit == "max_pixels"
        assert "160x96" in str(error)
        show(media, max_pixels=160 * 96 // STILL_FACTOR)


def test_no_picture_is_larger_than_it_claims() -> None:
    for codec in CODECS:
        with contextlib.suppress(DecodeError):  # some versions of libheif cut the picture, others refuse it
            info, _, _ = show(encode_single(QUARTERS, codec=codec).replace(ispe(160, 96), ispe(16, 16)))
            assert (info.width, info.height) == (16, 16)


def test_grids_that_make_no_picture_are_refused() -> None:
    good = encode_grid(QUARTERS)
    geometry = struct.pack(">BBBBHH", 0, 0, 1, 2, 160, 96)
    for wrong in [(0, 2, 160, 96), (1, 2, 1600, 96), (1, 2, 64, 96), (1, 2, 160, 0), (255, 255, 160, 96)]:
        media = good.replace(geometry, struct.pack(">BBBBHH", 0, 0, *wrong))
        assert isinstance(error_of(media), DecodeError)
    file = HeifFile()
    tiles = [file.add(code_picture(Image.new("RGB", size))) for size in [(64, 64), (80, 64)]]
    file.primary = file.add(Item(b"grid", struct.pack(">BBBBHH", 0, 0, 0, 1, 128, 64), sources=tiles))
    assert "different sizes" in error_of(file.encode()).reason


@pytest.mark.parametrize("kind", [b"iovl", b"unci", b"tmap", b"grid"])
def test_kinds_that_are_not_decoded_are_refused(kind: bytes) -> None:
    file = HeifFile()
    tile = file.add(Item(kind, b"\0" * 8))
    file.primary = file.add(Item(b"grid", struct.pack(">BBBBHH", 0, 0, 0, 0, 64, 64), sources=[tile]))
    error = error_of(file.encode())
    assert isinstance(error, DecodeError)
    assert "libheif" in error.reason
    assert "JPEG" in error.remedy


def test_a_damaged_tile_leaves_the_others() -> None:
    file = HeifFile()
    file.primary = add_grid(file, draw_quarters(128, 128))
    file.items[1] = Item(b"hvc1", bytes(40), file.items[1].properties, is_hidden=True)
    red, _, blue, white = corners(show(file.encode())[1].pixels)
    assert (red, blue, white) == (RED, BLUE, WHITE)


@pytest.mark.parametrize("codec", CODECS)
def test_a_file_that_is_cut_off_is_an_error(codec: str) -> None:
    media = encode_grid(QUARTERS, codec=codec)
    for end in range(40, len(media) - 4, len(media) // 20):
        assert isinstance(error_of(media[:end]), DecodeError)


@pytest.mark.slow
@pytest.mark.parametrize("codec", CODECS)
def test_no_damage_of_the_structure_is_a_bug(codec: str) -> None:
    crop = clap(9, 9, Fraction(0), Fraction(1))
    media, rng = encode_grid(QUARTERS, codec=codec, properties=[irot(1), crop]), random.Random(3)
    end = media.index(b"mdat")
    for number in range(500):
        damaged = bytearray(media[: rng.randrange(1, end)] if number % 5 == 0 else media)
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(min(end, len(damaged)))
            damaged[place] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        with contextlib.suppress(IngestError):
            list(decode(io.BytesIO(damaged), uri="test", config=DecodeConfig(max_pixels=1 << 20)))


@pytest.mark.slow
def test_a_child_process_decodes_them(tmp_path: Path) -> None:
    path = tmp_path / "photo.heic"
    with DecodePool(DecodeConfig(resize="squash"), workers=1) as pool:
        for codec in CODECS:
            path.write_bytes(encode_grid(QUARTERS, codec=codec))
            with path.open("rb") as file:
                frame = next(item for item in pool.decode(file, uri=path.name) if isinstance(item, Frame))
            assert corners(frame.pixels) == [RED, GREEN, BLUE, WHITE]


def test_one_tile_is_never_taken_for_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "photo.heic"
    path.write_bytes(encode_grid(QUARTERS))
    with pytest.raises(DecodeError, match="tiles"):
        list(cut_chunks(str(path), collection="c", stream_id="s", session=1))
    reader, writer = os.pipe()
    with open(reader, "rb", buffering=0) as source, open(writer, "wb") as target:
        target.write(path.read_bytes())
        target.close()
        with pytest.raises(DecodeError):
            list(decode(source, uri="test", config=DecodeConfig()))


def test_the_case_from_the_field_is_whole(shared: Path) -> None:
    case = shared / "cases/heic-grid"
    _, frame, _ = show((case / "grid.heic").read_bytes())
    assert is_like(frame.pixels, show((case / "same.png").read_bytes())[1].pixels.astype(int))


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise ImportError("libheif.so.1: cannot open shared object file")

    monkeypatch.setattr("pi_heif.open_heif", fail)
    monkeypatch.setattr("PIL.AvifImagePlugin.SUPPORTED", False)
    for codec, name in [("libx265", "no libheif"), ("libsvtav1", "no AVIF")]:
        error = error_of(encode_single(QUARTERS, codec=codec))
        assert isinstance(error, DecodeError)
        assert name in error.reason
        assert "install" in error.remedy
