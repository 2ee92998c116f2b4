"""Colours of an ICC profile become sRGB; damaged profiles, and those of other colours than RGB, change nothing."""

import io
from collections.abc import Callable

import pytest
from PIL import Image, ImageCms

from ingest.config import DecodeConfig
from ingest.media.decode import decode
from ingest.sandbox.pool import DecodePool
from ingest.values import Frame
from support.heif import encode_grid, encode_single, prof
from support.photos import BLUE, GREEN, RED, WHITE, corners, draw_quarters, encode_picture

QUARTERS = draw_quarters()
UPRIGHT, EXCHANGED = [RED, GREEN, BLUE, WHITE], [GREEN, RED, BLUE, WHITE]
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# A profile whose first colour is green, and whose second is red.
ODD = SRGB.replace(b"rXYZ", b"xXYZ", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"xXYZ", b"gXYZ", 1)


def in_format(format: str, **options: object) -> Callable[[bytes], bytes]:
    return lambda profile: encode_picture(QUARTERS, format, icc_profile=profile, **options)


ENCODERS = {
    "JPEG": in_format("JPEG", quality=95),
    "PNG": in_format("PNG"),
    "TIFF": in_format("TIFF"),
    "AVIF": in_format("AVIF"),
    "HEIC": lambda profile: encode_single(QUARTERS, prof(profile)),
    "HEIC of 10 bits in tiles": lambda profile: encode_grid(
        QUARTERS, pix_fmt="yuv420p10le", properties=[prof(profile)]
    ),
}


def shown(media: bytes) -> list[tuple[int, ...]]:
    _, frame, _ = decode(io.BytesIO(media), uri="test", config=DecodeConfig(resize="squash"))
    assert isinstance(frame, Frame)
    with Image.open(io.BytesIO(frame.thumbnail)) as thumbnail:
        assert corners(thumbnail.convert("RGB")) == corners(frame.pixels)
    return corners(frame.pixels)


@pytest.mark.parametrize("format", ENCODERS)
def test_colours_are_those_of_the_profile(format: str) -> None:
    assert shown(ENCODERS[format](ODD)) == EXCHANGED
    assert shown(ENCODERS[format](SRGB)) == UPRIGHT


@pytest.mark.parametrize("profile", [b"profile" * 20, ODD[:200], ODD.replace(b"RGB XYZ ", b"CMYKLab ", 1)])
@pytest.mark.parametrize("format", ENCODERS)
def test_a_profile_of_no_use_changes_nothing(format: str, profile: bytes) -> None:
    assert shown(ENCODERS[format](profile)) == UPRIGHT


def test_a_child_process_converts_colours() -> None:
    with DecodePool(DecodeConfig(resize="squash"), workers=1) as pool:
        for encode in ENCODERS.values():
            (frame,) = (item for item in pool.decode(io.BytesIO(encode(ODD)), uri="") if isinstance(item, Frame))
            assert corners(frame.pixels) == EXCHANGED
