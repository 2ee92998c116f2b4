"""PNG files whose chunks unpack to a thousand times their size: none of it fills memory, and good files decode."""

import io
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ingest.config import DecodeConfig
from ingest.errors import DecodeError, LimitExceeded
from ingest.media.decode import decode
from ingest.media.still import png
from ingest.media.still.png import SIGNATURE
from ingest.sandbox.pool import DecodePool
from ingest.values import Frame, MediaInfo
from support.photos import (
    BLUE,
    GREEN,
    RED,
    WHITE,
    corners,
    draw_quarters,
    encode_picture,
    encode_scans,
    encode_time_lapse,
    insert_chunk,
    pack_zeros,
)

CONFIG = DecodeConfig(resize="squash")
MAX_PEAK_BYTES = 256 << 20  # of memory in which a small picture is decoded: half of a bomb
PHOTO = encode_picture(draw_quarters(), "PNG")
BOMB = pack_zeros(512)
TEXTS = {
    "zTXt": (b"zTXt", b"a\0\0" + BOMB),
    "iTXt": (b"iTXt", b"a\0\1\0\0\0" + BOMB),
    "iCCP": (b"iCCP", b"a\0\0" + BOMB),
}


def frames(media: bytes, config: DecodeConfig = CONFIG) -> Sequence[Frame]:
    with DecodePool(config, workers=1) as pool:
        found = [item for item in pool.decode(io.BytesIO(media), uri="test") if isinstance(item, Frame)]
        if sys.platform == "linux":
            (child,) = pool._children
            status = Path(f"/proc/{child._process.pid}/status").read_text().split()
            assert int(status[status.index("VmHWM:") + 1]) << 10 < MAX_PEAK_BYTES
        return found


@pytest.mark.slow
@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("place", ["first", "last", "behind the word IDAT"])
def test_compressed_texts_are_not_unpacked(name: str, place: str) -> None:
    media = insert_chunk(PHOTO, *TEXTS[name], is_last=place == "last")
    if place == "behind the word IDAT":
        media = insert_chunk(media, b"tEXt", b"a\0IDAT")
    [frame] = frames(media)
    assert corners(frame.pixels) == [RED, GREEN, BLUE, WHITE]


def test_compressed_texts_in_a_film_are_not_unpacked() -> None:
    # The first is small: FFmpeg decodes it while it looks for streams.
    film = encode_time_lapse([PHOTO, insert_chunk(PHOTO, *TEXTS["zTXt"]), PHOTO], "mov", codec="png")
    assert [corners(frame.pixels) for frame in frames(film)] == [[RED, GREEN, BLUE, WHITE]] * 3


def idat(media: bytes) -> int:
    return media.index(b"IDAT") - 4


def test_rows_without_end_are_refused() -> None:
    at = idat(PHOTO)
    media = insert_chunk(PHOTO[:at] + PHOTO[-12:], b"IDAT", BOMB)
    with pytest.raises(DecodeError, match="a PNG whose data unpack to over 128 MiB, its rows to less"):
        list(decode(io.BytesIO(media), uri="test", config=CONFIG))


def test_rows_without_end_in_an_animation_are_refused() -> None:
    pictures = [Image.new("RGB", (16, 16), colour) for colour in (RED, GREEN)]
    media = encode_picture(pictures[0], "PNG", save_all=True, append_images=pictures[1:])
    assert len([item for item in decode(io.BytesIO(media), uri="test", config=CONFIG) if isinstance(item, Frame)])
    at = media.index(b"fdAT") - 4
    media = insert_chunk(media[:at] + media[-12:], b"fdAT", struct.pack(">I", 2) + BOMB, is_last=True)
    with pytest.raises(DecodeError, match="a PNG whose data unpack to over"):
        list(decode(io.BytesIO(media), uri="test", config=CONFIG))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"compress_level": 0}, {"compress_level": 9}])
def test_a_large_picture_of_one_colour_is_not_a_bomb(options: dict[str, int]) -> None:
    # Its data unpack to more than MAX_EXCESS_BYTES, all of it rows.
    media = encode_picture(Image.new("L", (13_000, 13_000)), "PNG", **options)
    info, frame, _ = decode(io.BytesIO(media), uri="test", config=DecodeConfig(resize="squash"))
    assert isinstance(info, MediaInfo)
    assert isinstance(frame, Frame)
    assert not np.any(frame.pixels)


def test_chunks_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(png, "MAX_PNG_CHUNKS", 1000)
    media = PHOTO[:33] + insert_chunk(SIGNATURE + bytes(25), b"teXt", b"")[33:45] * 1000 + PHOTO[33:]
    with pytest.raises(DecodeError, match="a PNG of more than 1,000 chunks"):
        list(decode(io.BytesIO(media), uri="test", config=CONFIG))


@pytest.mark.slow
def test_processor_time_is_limited() -> None:
    media = encode_scans(2048, 2048, 100_000)
    with DecodePool(CONFIG, workers=1) as pool:
        with pytest.raises(DecodeError, match="not decoded within 1 seconds of processor time"):
            list(pool.decode(io.BytesIO(media), uri="test", max_cpu_seconds=1))
        assert list(pool.decode(io.BytesIO(PHOTO), uri="test"))
        with pytest.raises(LimitExceeded):
            list(pool.decode(io.BytesIO(PHOTO), uri="test", config=DecodeConfig(max_pixels=1)))
