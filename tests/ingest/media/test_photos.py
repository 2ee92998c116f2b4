"""Photos as phones and programs store them come out as a viewer shows them; other formats are refused by name."""

import io
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from ingest.config import STILL_FACTOR, DecodeConfig, SamplingPolicy
from ingest.errors import DecodeError, LimitExceeded
from ingest.media.decode import decode
from ingest.sandbox.pool import DecodePool
from ingest.values import DecodeSummary, Frame, MediaInfo
from support.media import Track, encode_media, times
from support.photos import (
    BLUE,
    GREEN,
    RED,
    WHITE,
    corners,
    draw_quarters,
    encode_picture,
    exif_of,
    tiff_of,
    turn_by_exif,
)

QUARTERS = draw_quarters(320, 192)
UPRIGHT = [RED, GREEN, BLUE, WHITE]
TURNED = corners(turn_by_exif(QUARTERS, 6))
ANIMATIONS = {"GIF": {}, "PNG": {}, "WEBP": {"lossless": True}, "AVIF": {"quality": 90}}


def jpeg(**options: Any) -> bytes:
    return encode_picture(QUARTERS, "JPEG", **({"quality": 95} | options))


def exif_with_thumbnail() -> bytes:
    """Return EXIF data with the orientation 6, and a small picture of another colour."""
    thumbnail = encode_picture(Image.new("RGB", (160, 96), BLUE), "JPEG")
    first = struct.pack("<HHHIII", 1, 0x112, 3, 1, 6, 26)
    at = 8 + len(first) + 30
    second = struct.pack("<HHHIIHHIII", 2, 0x201, 4, 1, at, 0x202, 4, 1, len(thumbnail), 0)
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + first + second + thumbnail


def with_multi_picture_format() -> bytes:
    file = io.BytesIO()
    gain_map = Image.new("RGB", (80, 48), BLUE)
    QUARTERS.save(file, "MPO", save_all=True, append_images=[gain_map], quality=95, exif=exif_of(6))
    return file.getvalue()


def film() -> bytes:
    return encode_media(format="mp4", video=Track(times=times(50, 25)))


def decoded(media: bytes, **settings: Any) -> list[MediaInfo | Frame | DecodeSummary]:
    config = DecodeConfig(**({"resize": "squash"} | settings))
    return list(decode(io.BytesIO(media), uri="test", config=config))  # type: ignore[arg-type]


PHOTOS: dict[str, Callable[[], bytes]] = {
    "with a thumbnail": lambda: jpeg(exif=exif_with_thumbnail()),
    "with pictures behind it (MPF)": with_multi_picture_format,
    "with a gain map behind it": lambda: jpeg(exif=exif_of(6)) + encode_picture(Image.new("L", (80, 48)), "JPEG"),
    "with a film behind it": lambda: jpeg(exif=exif_of(6)) + film(),
    "with a gain map and a film behind it": lambda: (
        jpeg(exif=exif_of(6)) + encode_picture(Image.new("L", (80, 48)), "JPEG") + film()
    ),
    "with a maker's data behind it": lambda: jpeg(exif=exif_of(6)) + b"SEFH" + b"\xff\xd8\xff\xe0" * 99 + b"SEFT",
    "progressive": lambda: jpeg(exif=exif_of(6), progressive=True),
    "progressive, of full colour": lambda: jpeg(exif=exif_of(6), progressive=True, subsampling=0),
    "in CMYK": lambda: encode_picture(QUARTERS.convert("CMYK"), "JPEG", quality=95, exif=exif_of(6)),
    "with restart markers": lambda: jpeg(exif=exif_of(6), restart_marker_rows=1),
    "with a colour profile": lambda: jpeg(exif=exif_of(6), icc_profile=b"profile" * 20_000),
}


@pytest.mark.parametrize("sampling", ["fast", "exact", "keyframes"])
@pytest.mark.parametrize("name", PHOTOS)
def test_a_jpeg_is_one_picture(name: str, sampling: SamplingPolicy) -> None:
    info, frame, summary = decoded(PHOTOS[name](), sampling=sampling)
    assert isinstance(info, MediaInfo)
    assert isinstance(frame, Frame)
    assert isinstance(summary, DecodeSummary)
    assert corners(frame.pixels) == TURNED
    assert (info.width, info.height) == (192, 320)
    assert (summary.error_count, summary.truncated) == (0, False)


@pytest.mark.parametrize(
    ("mode", "format"),
    [("I;16", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("LA", "PNG"), ("L", "JPEG"), ("RGBA", "WEBP"), ("RGB", "BMP")],
)
def test_pictures_of_all_modes_are_shown(mode: str, format: str) -> None:
    grey = QUARTERS.convert("L")
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    else:
        picture = QUARTERS.quantize(8) if mode == "P" else QUARTERS.convert(mode)
    _, frame, _ = decoded(encode_picture(picture, format))
    assert isinstance(frame, Frame)
    right = np.asarray(grey if mode in ("I;16", "L", "LA") else QUARTERS.convert("RGB").resize((224, 224)))
    levels = [int(level) for level in np.asarray(Image.fromarray(right).convert("L").resize((224, 224)))[56::112, 56]]
    shown = [int(level) for level in np.asarray(Image.fromarray(frame.pixels).convert("L"))[56::112, 56]]
    assert shown == pytest.approx(levels, abs=3)


@pytest.mark.parametrize("format", ANIMATIONS)
def test_an_animation_begins_with_its_first_picture(format: str) -> None:
    later = [Image.new("RGB", QUARTERS.size, colour) for colour in (BLUE, RED)]
    media = encode_picture(QUARTERS, format, save_all=True, append_images=later, duration=1000, **ANIMATIONS[format])
    frames = [item for item in decoded(media) if isinstance(item, Frame)]
    assert corners(frames[0].pixels) == UPRIGHT


def test_an_animated_png_with_a_long_colour_profile_is_a_video() -> None:
    profile = np.random.default_rng(0).bytes(20_000)  # FFmpeg alone looks for the animation in 2 KB
    pictures = [Image.new("RGB", (64, 48), colour) for colour in (RED, GREEN, BLUE)]
    media = encode_picture(
        pictures[0], "PNG", save_all=True, append_images=pictures[1:], duration=1000, icc_profile=profile
    )
    shown = [corners(item.pixels)[0] for item in decoded(media) if isinstance(item, Frame)]
    assert shown == [RED, GREEN, BLUE]


def test_an_animated_avif_is_a_video() -> None:
    colours = [RED, GREEN, BLUE]
    pictures = [Image.new("RGB", (64, 48), colour) for colour in colours]
    media = encode_picture(pictures[0], "AVIF", save_all=True, append_images=pictures[1:], duration=1000, quality=90)
    shown = [corners(item.pixels)[0] for item in decoded(media) if isinstance(item, Frame)]
    assert shown == colours


@pytest.mark.parametrize("sampling", ["fast", "exact", "keyframes"])
def test_an_animated_webp_is_a_video(sampling: SamplingPolicy) -> None:
    pictures = [Image.new("RGB", (64, 48), colour) for colour in (RED, GREEN, BLUE, WHITE)]
    media = encode_picture(
        pictures[0], "WEBP", save_all=True, append_images=pictures[1:], duration=[1000, 250, 750, 3000], lossless=True
    )
    info, *frames, summary = decoded(media, sampling=sampling)
    assert isinstance(info, MediaInfo)
    assert isinstance(summary, DecodeSummary)
    assert (info.container, info.width, info.height) == ("webp", 64, 48)
    shown = [(item.pts_seconds, corners(item.pixels)[0]) for item in frames if isinstance(item, Frame)]
    assert shown == [(0.0, RED), (1.0, GREEN), (2.0, WHITE)]
    assert (summary.duration_seconds, summary.pictures_end_seconds, summary.frame_count) == (5.0, 5.0, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_animated_webp_is_turned_as_it_says(orientation: int) -> None:
    later = [Image.new("RGB", QUARTERS.size, BLUE)]
    media = encode_picture(
        QUARTERS, "WEBP", save_all=True, append_images=later, lossless=True, exif=exif_of(orientation).tobytes()
    )
    right = turn_by_exif(QUARTERS, orientation)
    info, frame, *_ = decoded(media)
    assert isinstance(info, MediaInfo)
    assert isinstance(frame, Frame)
    assert corners(frame.pixels) == corners(right)
    assert (info.width, info.height) == right.size


def test_a_damaged_animated_webp_shows_what_is_there() -> None:
    rng = np.random.default_rng(2)
    pictures = [Image.fromarray(rng.integers(0, 255, (48, 64, 3), np.uint8)) for _ in range(4)]
    media = encode_picture(pictures[0], "WEBP", save_all=True, append_images=pictures[1:], duration=1000)
    for end in range(0, len(media), 97):
        try:
            items = decoded(media[:end])
        except DecodeError:
            continue
        assert isinstance(items[1], Frame)
    damaged = bytearray(media)
    damaged[media.rindex(b"VP8 ") + 20 :] = bytes(len(media) - media.rindex(b"VP8 ") - 20)
    summary = decoded(bytes(damaged))[-1]
    assert isinstance(summary, DecodeSummary)
    assert 0 < summary.frame_count <= 4


def test_an_animated_webp_keeps_the_limits() -> None:
    picture = Image.new("RGB", (64, 48), RED)
    media = encode_picture(picture, "WEBP", save_all=True, append_images=[Image.new("RGB", (64, 48))], duration=60_000)
    for settings, limit in [
        ({"max_pixels": 3000}, "max_pixels"),
        ({"max_duration_seconds": 90.0}, "max_duration_seconds"),
    ]:
        with pytest.raises(LimitExceeded) as caught:
            decoded(media, **settings)
        assert caught.value.limit == limit


def test_a_child_process_decodes_an_animated_webp() -> None:
    media = encode_picture(
        QUARTERS, "WEBP", save_all=True, append_images=[Image.new("RGB", QUARTERS.size)], exif=tiff_of(6)
    )
    with DecodePool(DecodeConfig(resize="squash"), workers=1) as pool:
        frame = next(item for item in pool.decode(io.BytesIO(media), uri="test") if isinstance(item, Frame))
    assert corners(frame.pixels) == TURNED


def dng(order: str) -> bytes:
    directory = TiffImagePlugin.ImageFileDirectory_v2(ifh=b"MM\0*\0\0\0\0" if order == "big" else b"II*\0\0\0\0\0")
    directory[0xC612] = bytes([1, 4, 0, 0])
    directory.tagtype[0xC612] = 1
    file = io.BytesIO()
    QUARTERS.save(file, "TIFF", tiffinfo=directory, big_tiff=False)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (dng("little"), "DNG"),
        (struct.pack(">2sHIHHHIII", b"MM", 42, 8, 1, 0xC612, 1, 4, 0x01040000, 0), "DNG"),
        (b"II*\0\x10\0\0\0CR\x02\0" + bytes(99), "CR2"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(99), "CR3"),
        (b"FUJIFILMCCD-RAW 0201" + bytes(99), "RAF"),
        (b"IIRO\x08\0\0\0" + bytes(99), "ORF"),
        (b"IIU\0\x08\0\0\0" + bytes(99), "RW2"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(99), "JPEG XL"),
        (b"\xff\x0a" + bytes(99), "JPEG XL"),
    ],
)
def test_what_is_not_decoded_is_refused_by_name(content: bytes, name: str) -> None:
    with pytest.raises(DecodeError, match=name) as caught:
        decoded(content)
    assert "JPEG" in caught.value.remedy


def test_a_plain_tiff_is_no_raw_photo() -> None:
    _, frame, _ = decoded(encode_picture(QUARTERS, "TIFF", exif=exif_of(6)))
    assert isinstance(frame, Frame)
    assert corners(frame.pixels) == TURNED


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP"])
def test_a_photo_above_the_limit_is_refused_with_its_size(format: str) -> None:
    media = encode_picture(QUARTERS, format)
    most = 320 * 192 // STILL_FACTOR
    assert isinstance(decoded(media, max_pixels=most)[1], Frame)
    with pytest.raises(LimitExceeded, match="320x192") as caught:
        decoded(media, max_pixels=most - 1)
    assert caught.value.limit == "max_pixels"
