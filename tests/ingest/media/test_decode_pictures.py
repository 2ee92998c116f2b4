"""Decoded pictures have the colours, orientation and shape that a player shows."""

import io
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray
from PIL import Image

from ingest.config import DecodeConfig, ResizePolicy
from ingest.media.decode import decode
from ingest.media.picture import SCALING, PictureMaker
from ingest.values import Frame, MediaInfo
from support.media import Track, encode_media, times
from support.photos import BLACK, BLUE, GREEN, RED, WHITE, Colour, corners

THREE = times(3, 1)


def quarters(width: int = 160, height: int = 96) -> Callable[[int], NDArray[np.uint8]]:
    """Return a picture maker: red and green above, blue and white below."""
    picture = np.zeros((height, width, 3), dtype=np.uint8)
    picture[: height // 2, : width // 2], picture[: height // 2, width // 2 :] = RED, GREEN
    picture[height // 2 :, : width // 2], picture[height // 2 :, width // 2 :] = BLUE, WHITE
    return lambda _: picture


def flat(
    levels: tuple[int, int, int], format: str = "yuv420p", width: int = 160, height: int = 96
) -> Callable[[int], VideoFrame]:
    """Return a maker of frames of one colour, given as coded: Y, U, V."""

    def make(_: int) -> VideoFrame:
        frame = VideoFrame(width, height, format)
        kind = np.uint16 if "10" in format else np.uint8
        for plane, level in zip(frame.planes, levels, strict=True):
            plane.update(np.full(plane.buffer_size // kind().itemsize, level, dtype=kind).tobytes())
        return frame

    return make


def first(track: Track, format: str = "mp4", **settings: Any) -> tuple[MediaInfo, Frame]:
    media = io.BytesIO(encode_media(format=format, video=track))
    items = list(decode(media, uri="test", config=DecodeConfig(**({"resize": "squash"} | settings))))
    info, frame = items[0], next(item for item in items if isinstance(item, Frame))
    assert isinstance(info, MediaInfo)
    return info, frame


def thumbnail(frame: Frame) -> Image.Image:
    return Image.open(io.BytesIO(frame.thumbnail))


@pytest.mark.parametrize(
    ("counterclockwise", "clockwise", "expected"),
    [
        (0, 0, [RED, GREEN, BLUE, WHITE]),
        (90, 270, [GREEN, WHITE, RED, BLUE]),
        (180, 180, [WHITE, BLUE, GREEN, RED]),
        (270, 90, [BLUE, RED, WHITE, GREEN]),
    ],
)
def test_rotation_is_applied(counterclockwise: int, clockwise: int, expected: list[Colour]) -> None:
    info, frame = first(Track(times=THREE, picture=quarters(), rotation_degrees=counterclockwise))
    assert corners(frame.pixels) == expected
    assert corners(thumbnail(frame)) == expected
    assert info.rotation_degrees == clockwise
    assert (info.width, info.height) == ((96, 160) if clockwise % 180 else (160, 96))


def test_a_mirrored_display_matrix_is_applied() -> None:
    media = encode_media(format="mp4", video=Track(times=THREE, picture=quarters(), rotation_degrees=180))
    one, minus = (1 << 16).to_bytes(4, "big"), (-(1 << 16)).to_bytes(4, "big", signed=True)
    turned = minus + bytes(12) + minus  # a b u c d of the matrix that turns by 180 degrees
    assert media.count(turned) == 1
    for matrix, expected in (
        (minus + bytes(12) + one, [GREEN, RED, WHITE, BLUE]),
        (one + bytes(12) + minus, [BLUE, WHITE, RED, GREEN]),
    ):
        items = decode(io.BytesIO(media.replace(turned, matrix)), uri="test", config=DecodeConfig(resize="squash"))
        frame = next(item for item in items if isinstance(item, Frame))
        assert corners(frame.pixels) == expected


@pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
def test_resize_keeps_what_its_policy_says(resize: ResizePolicy) -> None:
    _, frame = first(Track(times=THREE, picture=quarters()), resize=resize, input_width=100, input_height=100)
    assert frame.pixels.shape == (100, 100, 3)
    assert corners(frame.pixels) == [RED, GREEN, BLUE, WHITE]
    assert thumbnail(frame).size == (160, 96)
    bars = int(frame.pixels[:18].max())
    assert (bars == 0) == (resize == "pad")


def test_crop_is_the_centre_at_full_height() -> None:
    def stripes(_: int) -> NDArray[np.uint8]:
        picture = np.zeros((96, 288, 3), dtype=np.uint8)
        picture[:, :96], picture[:, 96:192], picture[:, 192:] = RED, GREEN, BLUE
        return picture

    _, frame = first(Track(times=THREE, picture=stripes, width=288, height=96), resize="crop")
    assert corners(frame.pixels) == [GREEN] * 4


def test_pixel_aspect_ratio_widens_the_picture() -> None:
    track = Track(times=THREE, picture=quarters(704, 576), width=704, height=576, pixel_aspect=Fraction(16, 11))
    info, frame = first(track)
    assert (info.width, info.height) == (1024, 576)
    assert thumbnail(frame).size == (320, 180)


@pytest.mark.parametrize(("width", "height"), [(161, 97), (17, 33), (96, 200), (2, 300), (640, 16)])
def test_odd_and_extreme_sizes_come_out(width: int, height: int) -> None:
    track = Track(times=THREE, picture=quarters(width, height), width=width, height=height, pix_fmt="yuv444p")
    _, frame = first(track, "matroska")
    assert corners(frame.pixels) == [RED, GREEN, BLUE, WHITE]
    assert max(thumbnail(frame).size) <= 8 * 180


@pytest.mark.parametrize(
    ("tags", "levels", "expected"),
    [
        ("colormatrix=bt709", (63, 102, 240), RED),
        ("colormatrix=smpte170m", (81, 90, 240), RED),
        ("colormatrix=bt470bg", (145, 54, 34), GREEN),
        ("colormatrix=bt2020nc", (73, 97, 240), RED),
        ("colormatrix=bt709:fullrange=on", (54, 99, 255), RED),
        ("fullrange=on", (16, 128, 128), (16, 16, 16)),
        ("fullrange=off", (16, 128, 128), BLACK),
        ("fullrange=off", (235, 128, 128), WHITE),
        ("", (81, 90, 240), RED),  # untagged and small: BT.601, as players do
    ],
)
def test_matrix_and_range_are_honoured(tags: str, levels: tuple[int, int, int], expected: Colour) -> None:
    _, frame = first(Track(times=THREE, picture=flat(levels), options={"x264-params": tags}))
    assert frame.pixels[100, 100].tolist() == pytest.approx(expected, abs=2)


def test_untagged_high_definition_is_taken_for_bt709() -> None:
    track = Track(times=THREE, picture=flat((63, 102, 240), width=1280, height=720), width=1280, height=720)
    assert first(track)[1].pixels[100, 100].tolist() == pytest.approx(RED, abs=2)


def test_ten_bits_become_eight() -> None:
    track = Track(times=THREE, pix_fmt="yuv420p10le", picture=flat((502, 512, 512), "yuv420p10le"))
    assert first(track)[1].pixels[100, 100].tolist() == [128, 128, 128]


@pytest.mark.parametrize(
    ("transfer", "level", "expected"),
    [
        ("smpte2084", 64, 0),
        ("smpte2084", 572, 214),  # 203 nits, the white of a page: bright, not grey
        ("smpte2084", 723, 255),  # 1000 nits
        ("arib-std-b67", 721, 214),  # 75 %, HLG's white of a page
        ("arib-std-b67", 940, 255),
    ],
)
def test_high_dynamic_range_is_mapped_to_srgb(transfer: str, level: int, expected: int) -> None:
    tags = f"log-level=none:colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc"
    track = Track(
        times=THREE,
        codec="libx265",
        pix_fmt="yuv420p10le",
        picture=flat((level, 512, 512), "yuv420p10le"),
        options={"x265-params": tags},
    )
    assert first(track)[1].pixels[100, 100].tolist() == pytest.approx([expected] * 3, abs=3)


def test_wide_gamut_colours_keep_their_hue() -> None:
    # BT.2020 red at 203 nits: outside of BT.709, so its nearest is full red.
    tags = "log-level=none:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc"
    track = Track(
        times=THREE,
        codec="libx265",
        pix_fmt="yuv420p10le",
        picture=flat((198, 439, 772), "yuv420p10le"),
        options={"x265-params": tags},
    )
    red, green, blue = (int(value) for value in first(track)[1].pixels[100, 100])
    assert red > 200
    assert max(green, blue) < 60


def test_interlaced_pictures_show_no_comb() -> None:
    def two_moments(_: int) -> NDArray[np.uint8]:
        picture = np.zeros((576, 704, 3), dtype=np.uint8)
        picture[::2, 100:200] = 255  # a bar, which is elsewhere in the other field
        picture[1::2, 400:500] = 255
        return picture

    options = {"flags": "+ildct+ilme", "top": "1", "b": "8M", "alternate_scan": "1"}
    track = Track(codec="mpeg2video", times=times(30, 25), picture=two_moments, width=704, height=576, options=options)
    _, frame = first(track, "mpegts")
    bar, other = frame.pixels[:, 48], frame.pixels[:, 143]
    assert int(bar.min()) > 230
    assert int(other.max()) < 25


@pytest.mark.parametrize(("codec", "format"), [("prores_ks", "yuva444p10le"), ("png", "rgba"), ("qtrle", "argb")])
def test_transparent_pictures_lie_on_black(codec: str, format: str) -> None:
    def half_there(_: int) -> VideoFrame:
        picture = np.zeros((96, 160, 4), dtype=np.uint8)
        picture[..., 0], picture[:, :80, 3] = 255, 255
        return VideoFrame.from_ndarray(picture, format="rgba")

    _, frame = first(Track(codec=codec, pix_fmt=format, times=THREE, picture=half_there), "mov")
    assert corners(frame.pixels) == [RED, BLACK, RED, BLACK]


def test_gif_palettes_become_colours() -> None:
    track = Track(codec="gif", pix_fmt="rgb8", times=times(10, 10), picture=quarters())
    assert corners(first(track, "gif")[1].pixels) == [RED, GREEN, BLUE, WHITE]


def test_the_thumbnail_is_never_enlarged() -> None:
    _, frame = first(Track(times=THREE, picture=quarters(1280, 720), width=1280, height=720), thumbnail_px=90)
    assert thumbnail(frame).size == (160, 90)
    _, frame = first(Track(times=THREE, picture=quarters()), thumbnail_px=500)
    assert thumbnail(frame).size == (160, 96)


def test_scaling_matches_a_bicubic_antialiased_resize() -> None:
    noise = np.random.default_rng(1).integers(0, 255, (36, 64, 3), dtype=np.uint8)
    picture = np.asarray(Image.fromarray(noise).resize((640, 360), Image.Resampling.BICUBIC))
    track = Track(times=THREE, picture=lambda _: picture, width=640, height=360, options={"crf": "1"})
    _, frame = first(track, resize="crop")
    scaled = Image.fromarray(picture).resize((398, 224), Image.Resampling.BICUBIC).crop((87, 0, 311, 224))
    difference = np.abs(frame.pixels.astype(int) - np.asarray(scaled).astype(int))
    assert float(difference.mean()) < 5


@pytest.mark.parametrize("format", ["yuv420p", "yuvj420p", "yuv422p10le", "nv12", "gray", "rgb24", "rgb565le"])
@pytest.mark.parametrize("size", [(320, 180), (64, 48), (33, 250)])
def test_pixels_are_those_of_packed_rgb_to_the_last_bit(format: str, size: tuple[int, int]) -> None:
    frame, rng = VideoFrame(*size, format), np.random.default_rng(0)
    for plane in frame.planes:
        plane.update(rng.integers(0, 256, plane.buffer_size, np.uint8).tobytes())
    frame.colorspace = Colorspace.ITU709
    for width, height in [(224, 224), size]:
        config = DecodeConfig(resize="squash", input_width=width, input_height=height)
        pixels = PictureMaker(config).make(frame, Fraction(1)).pixels
        packed = frame.reformat(width, height, "rgb24", interpolation=SCALING, dst_color_range=ColorRange.JPEG)
        assert np.array_equal(pixels, packed.to_ndarray())
