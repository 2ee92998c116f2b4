"""Hostile bytes, sent over the wire to a real server: pictures that are none, huge messages, no messages at all."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kinodex.v1 import moment_pb2
from support.bad_requests import (
    INVALID,
    MAX_MESSAGE_BYTES,
    REFUSED,
    Bad,
    World,
    check_refusal,
    outcome,
)
from support.bad_requests import world as world
from support.heif import encode_grid, encode_single, ispe
from support.photos import draw_quarters, encode_picture, exif_of

pytestmark = pytest.mark.slow


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def packed(byte_count: int) -> bytes:
    """Compress zeros, without having them all at once."""
    press, block = zlib.compressobj(9), bytes(1 << 20)
    content = [press.compress(block) for _ in range(byte_count >> 20)]
    return b"".join([*content, press.compress(block[: byte_count % (1 << 20)]), press.flush()])


def png(width: int, height: int, content: bytes | None = None) -> bytes:
    """Write a PNG of one bit a pixel, black unless it is given its compressed rows."""
    size = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    content = packed(height * (1 + (width + 7) // 8)) if content is None else content
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(png_chunk, (b"IHDR", b"IDAT", b"IEND"), (size, content, b"")))


def picture(content: bytes) -> Callable[[World], Any]:
    return lambda world: world.moments(moment_pb2.Query(image=content))


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
NO_PICTURE = "query.image: must be a picture: JPEG, PNG, WebP, HEIC, AVIF, GIF or TIFF"
PLAYLIST = b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"


def film_as_picture(world: World) -> Any:
    film = next(Path(one.uri) for one in world.list_videos().videos if one.video_id == world.film_id)
    return world.moments(moment_pb2.Query(image=film.read_bytes()))


HOSTILE: list[Bad] = [
    # ---- pictures
    Bad(
        "a picture that is text",
        picture(b"not a picture, but words"),
        *INVALID,
        NO_PICTURE,
    ),
    Bad("a picture that is SVG", picture(SVG), *INVALID, NO_PICTURE),
    Bad("a picture that is a playlist", picture(PLAYLIST), *INVALID, NO_PICTURE),
    Bad("a picture that is a video", film_as_picture, *INVALID, NO_PICTURE),
    Bad("a picture of no bytes", picture(b""), *INVALID, "query: needs text, an image or an example (like)"),
    Bad(
        "a picture that is damaged",
        picture(png(64, 64)[:8] + b"no chunk at all"),
        *INVALID,
        "query.image: no picture or sound in it decodes",
    ),
    Bad(
        "a picture of 400 megapixels, in 49 KB",
        picture(png(20_000, 20_000)),
        *INVALID,
        "query.image: a picture of 20000x20000 pixels, at most 213909504 are decoded (max_pixels)",
    ),
    Bad("a picture above 8 MiB", picture(bytes((8 << 20) + 1)), *INVALID, "query.image: must be at most 8 MiB"),
    Bad(
        "a photo of a camera's raw data (DNG)",
        picture(struct.pack("<2sHIHHHIII", b"II", 42, 8, 1, 0xC612, 1, 4, 0x0401, 0)),
        *INVALID,
        "query.image: a raw photo (DNG), which is not decoded",
    ),
    Bad(
        "a photo of 400 megapixels (HEIC)",
        picture(encode_single(draw_quarters()).replace(ispe(160, 96), ispe(20_000, 20_000))),
        *INVALID,
        "query.image: a picture of 20000x20000 pixels, at most 213909504 are decoded (max_pixels)",
    ),
    # ---- messages
    Bad(
        "a message above max_message_bytes",
        lambda w: w.raw("SearchService/SearchMoments", bytes(MAX_MESSAGE_BYTES + 1)),
        "RESOURCE_EXHAUSTED",
    ),
    Bad(
        "bytes that are not a message",
        lambda w: w.raw("SearchService/SearchMoments", b"\xff\xff\xff"),
        "INVALID_ARGUMENT",
        "REQUEST_INVALID",
        "request: is not a message of this method",
    ),
    Bad(
        "text that is not UTF-8",
        lambda w: w.raw("LibraryService/GetVideo", b"\x0a\x02\xff\xff"),
        "INVALID_ARGUMENT",
        "REQUEST_INVALID",
        "request: is not a message of this method",
    ),
]


@pytest.mark.parametrize("row", HOSTILE, ids=lambda row: row.request)
def test_refuses_hostile_bytes_and_goes_on(row: Bad, world: World) -> None:
    check_refusal(row, world)


@pytest.mark.parametrize(
    "content", [png(64, 64)[:60], png(8, 8, packed(64 << 20))], ids=["cut off", "with 64 MB too many in its data"]
)
def test_a_picture_that_still_decodes_is_one(content: bytes, world: World) -> None:
    assert outcome(world, Bad("", picture(content), "")).code == "OK"
    assert world.answers()


@pytest.mark.parametrize(
    "content",
    [
        encode_grid(draw_quarters()),
        encode_grid(draw_quarters(), codec="libsvtav1"),
        encode_single(draw_quarters()),
        encode_picture(draw_quarters(8192, 6144), "JPEG", exif=exif_of(6)),
        encode_picture(draw_quarters(), "JPEG") + b"a film of two seconds",
        encode_picture(draw_quarters(), "WEBP", save_all=True, append_images=[draw_quarters()]),
        encode_picture(draw_quarters(), "GIF"),
        encode_picture(draw_quarters(), "TIFF"),
    ],
    ids=[
        "HEIC in tiles",
        "AVIF in tiles",
        "HEIC",
        "JPEG of 50 megapixels",
        "motion photo",
        "animated WebP",
        "GIF",
        "TIFF",
    ],
)
def test_photos_of_phones_are_questions(content: bytes, world: World) -> None:
    assert outcome(world, Bad("", picture(content), "")).code == "OK"


@pytest.mark.parametrize(
    ("send", "code", "reason"),
    [
        (lambda w: w.ingest("ftp://" + "%" * 8000), *REFUSED),
        (lambda w: w.get("GetVideo", "\N{GRINNING FACE}" * 512), "NOT_FOUND", "VIDEO_NOT_FOUND"),
        (lambda w: w.ingest("", metadata={f"{n:02}" + "%" * 62: 2000 * "a" for n in range(64)}), *INVALID),
    ],
    ids=["a URI", "an id", "twenty keys"],
)
def test_what_is_long_is_told_as_well(send: Callable[[World], Any], code: str, reason: str, world: World) -> None:
    found = outcome(world, Bad("", send, ""))
    assert (found.code, found.reason) == (code, reason)
