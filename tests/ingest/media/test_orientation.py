"""Pictures are turned once, as EXIF or the container says; what PyAV cannot name of a frame is passed over."""

import gc
import io
import struct
import zlib
from pathlib import Path

import av
import pytest
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame

from ingest.config import DecodeConfig
from ingest.media.decode import decode
from ingest.media.orientation import Orientation
from ingest.stream.chunker import cut_chunks
from ingest.values import Frame, MediaInfo
from support.photos import (
    corners,
    draw_quarters,
    encode_picture,
    encode_time_lapse,
    exif_of,
    insert_chunk,
    insert_segments,
    tiff_of,
    turn_by_exif,
)

QUARTERS = draw_quarters()
ORIENTATIONS = range(1, 9)
FORMATS = {"JPEG": {"quality": 95}, "PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}, "AVIF": {}}


def photo(orientation: int, format: str = "JPEG") -> bytes:
    return encode_picture(QUARTERS, format, exif=exif_of(orientation), **FORMATS[format])


def decoded(media: bytes, **settings: object) -> tuple[MediaInfo, list[Frame]]:
    config = DecodeConfig(resize="squash", **settings)  # type: ignore[arg-type]
    items = list(decode(io.BytesIO(media), uri="test", config=config))
    assert isinstance(items[0], MediaInfo)
    return items[0], [item for item in items if isinstance(item, Frame)]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("format", FORMATS)
def test_a_photo_is_turned_as_it_says(format: str, orientation: int) -> None:
    right = turn_by_exif(QUARTERS, orientation)
    info, (frame,) = decoded(photo(orientation, format))
    assert corners(frame.pixels) == corners(right)
    assert (info.width, info.height) == right.size


@pytest.mark.parametrize("format", FORMATS)
def test_exif_without_an_orientation_changes_nothing(format: str) -> None:
    plain = encode_picture(QUARTERS, format, **FORMATS[format])
    assert decoded(photo(0, format))[1][0].thumbnail == decoded(plain)[1][0].thumbnail


EXIF = b"Exif\0\0"
XMP = b"http://ns.adobe.com/xap/1.0/\0<x/>"
LOOP = b"II*\0" + struct.pack("<IHHHIII", 8, 1, 0x8769, 4, 1, 8, 8)  # directories that are one another
FAR = b"II*\0\xff\xff\xff\x7f"  # a directory outside of the data
MANY = b"II*\0" + struct.pack("<IHHHIII", 8, 1, 0x9999, 7, 0xFFFFFFFF, 8, 0)  # 4 billion bytes of one tag
JUNK = bytes(range(7, 90))


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_data_has_either_byte_order(order: str) -> None:
    exif, right = tiff_of(6, order), corners(turn_by_exif(QUARTERS, 6))
    plain = encode_picture(QUARTERS, "JPEG"), encode_picture(QUARTERS, "PNG")
    webp = [encode_picture(QUARTERS, "WEBP", lossless=True, exif=data) for data in (exif, EXIF + exif)]
    for media in (
        insert_segments(plain[0], EXIF + exif),
        insert_segments(plain[0], XMP, EXIF + exif),
        insert_chunk(plain[1], b"eXIf", exif),
        insert_chunk(plain[1], b"eXIf", exif, is_last=True),
        insert_chunk(plain[1], b"eXIf", EXIF + exif),  # as in JPEG, which some programs write
        *webp,
    ):
        assert corners(decoded(media)[1][0].pixels) == right


@pytest.mark.parametrize("exif", [*map(tiff_of, (0, 9, 65535)), b"", JUNK, LOOP, FAR, MANY, tiff_of(6)[:14]])
def test_damaged_exif_data_leaves_the_picture(exif: bytes) -> None:
    jpeg, png = encode_picture(QUARTERS, "JPEG"), encode_picture(QUARTERS, "PNG")
    webp = encode_picture(QUARTERS, "WEBP", lossless=True, exif=exif or JUNK)
    media = [insert_segments(jpeg, EXIF + exif), insert_segments(jpeg, XMP, exif), webp]
    for damaged in (*media, insert_chunk(png, b"eXIf", exif), insert_chunk(png, b"eXIf", EXIF + exif)):
        info, (frame,) = decoded(damaged)
        assert corners(frame.pixels) == corners(QUARTERS)
        assert (info.width, info.height) == QUARTERS.size


@pytest.mark.parametrize("format", ["matroska", "mov", "avi"])
def test_each_photo_of_a_time_lapse_is_turned_by_itself(format: str) -> None:
    orientations = [0, *ORIENTATIONS, 3, 2, 0]  # 2 and 3 have the same rotation
    _, frames = decoded(encode_time_lapse([photo(each) for each in orientations], format))
    right = [turn_by_exif(QUARTERS, each or 1) for each in orientations]
    assert [corners(frame.pixels) for frame in frames] == [corners(each) for each in right]


def test_a_container_turns_photos_that_do_not_say_how_they_lie() -> None:
    _, (first, second) = decoded(encode_time_lapse([photo(0), photo(6)], "mov", counterclockwise=90))
    assert corners(first.pixels) == corners(turn_by_exif(QUARTERS, 8))
    assert corners(second.pixels) == corners(turn_by_exif(QUARTERS, 6))  # not by both


@pytest.mark.parametrize("format", ["matroska", "mov", "avi"])
def test_a_time_lapse_of_photos_is_published(format: str, tmp_path: Path) -> None:
    path = tmp_path / "lapse"
    path.write_bytes(encode_time_lapse([photo(6)] * 4, format))
    chunks = [
        chunk for chunk in cut_chunks(str(path), collection="c", stream_id="s", session=1) if not chunk.end_of_stream
    ]
    frames = [frame for chunk in chunks for frame in decoded(chunk.media, clock="source")[1]]
    assert [corners(frame.pixels) for frame in frames] == [corners(turn_by_exif(QUARTERS, 6))] * 4


def test_side_data_that_pyav_cannot_name_gets_a_name() -> None:
    assert Type(6) is Type.DISPLAYMATRIX
    assert Type(4711).name == "UNKNOWN_4711"
    assert Type(4711).value == 4711


def test_reading_the_orientation_keeps_no_frame() -> None:
    with av.open(io.BytesIO(photo(6))) as container:
        frame = next(container.decode(video=0))
    assert isinstance(frame, VideoFrame)
    before = len(gc.get_referrers(frame))
    gc.disable()  # a cycle would be there until it is collected
    try:
        assert Orientation.from_frame(frame).degrees == 90
        assert len(gc.get_referrers(frame)) == before
    finally:
        gc.enable()


def test_the_base_view_of_spatial_video_is_decoded(shared: Path) -> None:
    media = (shared / "cases/spatial-mvhevc/stereo_spatial.mp4").read_bytes()
    info, frames = decoded(media, sampling="exact")
    assert (info.width, info.height, len(frames)) == (160, 120, 1)


def with_profile(picture: bytes, profile: bytes = b"sRGB") -> bytes:
    """Return a PNG file with a colour profile, as screenshots have one."""
    return insert_chunk(picture, b"iCCP", b"Display\0\0" + zlib.compress(profile * 100))


@pytest.mark.parametrize("orientation", [0, 2, 4, 6])
def test_a_png_with_a_colour_profile_is_decoded(orientation: int) -> None:
    _, (frame,) = decoded(with_profile(photo(orientation, "PNG")))
    gc.collect()
    assert corners(frame.pixels) == corners(turn_by_exif(QUARTERS, orientation or 1))


@pytest.mark.parametrize("format", ["mov", "avi"])
def test_a_film_of_pngs_with_colour_profiles_is_decoded(format: str) -> None:
    picture = with_profile(encode_picture(QUARTERS, "PNG"))
    _, frames = decoded(encode_time_lapse([picture] * 3, format, codec="png"))
    gc.collect()
    assert [corners(frame.pixels) for frame in frames] == [corners(QUARTERS)] * 3


def test_an_animated_png_with_a_colour_profile_is_decoded() -> None:
    others = [QUARTERS.rotate(180), QUARTERS]
    options = {"save_all": True, "append_images": others, "duration": 1000, "icc_profile": b"Display"}
    _, frames = decoded(encode_picture(QUARTERS, "PNG", **options))
    gc.collect()
    assert [corners(frame.pixels) for frame in frames] == [corners(one) for one in (QUARTERS, *others)]
