"""Media are recognised by their first bytes, and nothing else is taken for media."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ingest.source.signatures import HEAD_BYTES, is_media, is_picture, is_text
from support.heif import encode_grid, encode_single
from support.media import Sound, Track, encode_media, times
from support.photos import draw_quarters


def video(format: str, codec: str, options: dict[str, str] | None = None, **track: Any) -> bytes:
    return encode_media(format=format, options=options, video=Track(codec=codec, times=times(12, 25), **track))


def sound(format: str, codec: str) -> bytes:
    return encode_media(format=format, sounds=[Sound(codec=codec, seconds=0.5)])


def picture(format: str, count: int = 1) -> bytes:
    file = io.BytesIO()
    pictures = [Image.new("RGB", (64, 64), colour) for colour in ("red", "green", "blue")[:count]]
    pictures[0].save(file, format, **({"save_all": True, "append_images": pictures[1:]} if count > 1 else {}))
    return file.getvalue()


def recognises(data: bytes) -> bool:
    return is_media(data[:HEAD_BYTES], len(data))


@pytest.mark.parametrize(
    ("format", "codec"),
    [
        ("mp4", "libx264"),
        ("mov", "mpeg4"),
        ("matroska", "libx264"),
        ("webm", "libvpx"),
        ("avi", "mpeg4"),
        ("mpegts", "libx264"),
        ("vob", "mpeg2video"),
        ("mpeg", "mpeg1video"),
        ("flv", "flv1"),
        ("asf", "wmv2"),
        ("ogg", "libvpx"),
        ("nut", "mpeg4"),
        ("ivf", "libvpx"),
        ("h264", "libx264"),
        ("hevc", "libx265"),
        ("mpeg2video", "mpeg2video"),
        ("yuv4mpegpipe", "rawvideo"),
    ],
)
def test_recognises_video(format: str, codec: str) -> None:
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    assert recognises(video(format, codec, gop=12, **({"options": options} if options else {})))


@pytest.mark.parametrize("format", ["wav", "w64", "aiff", "au", "caf", "rm", "flac", "ipod", "matroska", "mpegts"])
def test_recognises_sound(format: str) -> None:
    codecs = {"flac": "flac", "ipod": "aac", "matroska": "aac", "mpegts": "aac", "rm": "ac3", "w64": "pcm_s16le"}
    codec = codecs.get(format, "pcm_s16le" if format == "wav" else "pcm_s16be")
    assert recognises(sound(format, codec))


def test_recognises_transport_streams_of_recorders() -> None:
    random = np.random.default_rng(0)
    plain = video("mpegts", "mpeg2video", picture=lambda _: random.integers(0, 255, (96, 160, 3), dtype=np.uint8))
    packets = [plain[at : at + 188] for at in range(0, len(plain), 188)]
    assert len(packets) > 60
    assert recognises(b"TFrc" + bytes(3756) + plain)  # behind a recorder's own header
    assert recognises(plain[100:])  # begins within a packet
    assert recognises(b"".join(b"\0\0\0\x01" + packet for packet in packets))  # with time codes, as on Blu-ray
    assert recognises(b"".join(packet + bytes(16) for packet in packets))  # with error correction
    assert recognises(b"IMKH" + bytes(36) + video("vob", "mpeg2video"))


@pytest.mark.parametrize("format", ["WEBP", "PNG"])
def test_recognises_moving_pictures_only(format: str) -> None:
    assert recognises(picture(format, count=3))
    assert not recognises(picture(format))


def ftyp(*brands: bytes) -> bytes:
    body = b"ftyp" + brands[0] + bytes(4) + b"".join(brands[1:])
    return (len(body) + 4).to_bytes(4, "big") + body + bytes(1000)


@pytest.mark.parametrize(
    ("brands", "is_moving"),
    [
        ((b"heic", b"mif1", b"heic"), False),  # photographs of phones
        ((b"mif1", b"heic", b"miaf"), False),
        ((b"avif", b"mif1", b"miaf"), False),
        ((b"crx ", b"isom"), False),  # raw photographs
        ((b"avis", b"avif", b"mif1", b"msf1"), True),
        ((b"qt  ", b"qt  "), True),
        ((b"isom", b"iso2", b"avc1", b"mp41"), True),
    ],
)
def test_tells_moving_from_still_pictures_by_brand(brands: tuple[bytes, ...], is_moving: bool) -> None:
    assert recognises(ftyp(*brands)) == is_moving


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"G",
        bytes(9000),
        bytes(range(256)) * 40,
        np.random.default_rng(0).bytes(9000),
        b"GATTACA" * 2000,  # sync bytes of a transport stream at every distance
        (b"G" + b"x" * 187) * 50,
        b"I'm free, as everybody is.\n",
        b"Time to skip the rest of it.",
        b"\0\0\1\0\1\0\x20\x20" + bytes(3000),  # an icon
        b"\0\1\0\0\0\x0f" + bytes(3000),  # a font
        b"PK\3\4" + bytes(3000),
        b"\x7fELF" + bytes(3000),
        b"#EXTM3U\n#EXTINF:2,\na.ts\n",
        b"RIFF\x10\0\0\0sfbk" + bytes(3000),
        *(picture(format) for format in ("JPEG", "GIF", "TIFF", "BMP", "ICO")),
    ],
    ids=lambda data: repr(data[:12]),
)
def test_takes_nothing_else_for_media(data: bytes) -> None:
    assert not recognises(data)


def test_tells_text_from_media() -> None:
    for text in ("", "plain\n", "für\x1b[1m\r\n\f"):
        for encoding in ("utf-8", "latin-1", "utf-16"):
            assert is_text(text.encode(encoding))
    for data in (video("mpegts", "mpeg2video"), b"YUV4MPEG2 W1 H1\nFRAME\n\0", bytes(10)):
        assert not is_text(data)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF"])
def test_pictures_are_recognised(format: str) -> None:
    assert is_picture(picture(format)[:HEAD_BYTES])
    assert format == "JPEG" or is_picture(picture(format, 3)[:HEAD_BYTES])


def test_heic_is_a_picture_in_tiles_or_not() -> None:
    for data in (encode_grid(draw_quarters()), encode_single(draw_quarters())):
        assert is_picture(data[:HEAD_BYTES])
        assert not recognises(data)


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xd8", b"RIFF\0\0\0\0WAVEfmt ", b"<svg/>", b"#EXTM3U\n", b"\0\0\0\x18ftypcrx \0\0\0\1crx isom"],
)
def test_other_bytes_are_no_picture(data: bytes) -> None:
    assert not is_picture(data)


@pytest.mark.parametrize(("format", "codec"), [("mp4", "libx264"), ("mov", "mpeg4"), ("webm", "libvpx")])
def test_a_video_is_no_picture(format: str, codec: str) -> None:
    assert not is_picture(video(format, codec)[:HEAD_BYTES])
