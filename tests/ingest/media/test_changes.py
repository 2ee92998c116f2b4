"""Which pictures are offered to be read: those that differ from the last one that did."""

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ingest.config import DecodeConfig
from ingest.media.changes import ChangeDetector
from ingest.media.decode import decode
from ingest.values import Frame
from support.media import Track, encode_media, times


def picture(text: str = "", noise: int = 0, seed: int = 0) -> Image.Image:
    """A grey thumbnail with a small line of text, and noise of at most `noise` of 255."""
    image = Image.new("RGB", (320, 180), (90, 90, 90))
    ImageDraw.Draw(image).text((20, 150), text, "white", ImageFont.load_default(8))
    pixels = np.asarray(image, np.int16) + np.random.default_rng(seed).integers(-noise, noise + 1, (180, 320, 1))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def test_a_small_line_of_text_is_a_change_and_noise_is_none() -> None:
    changes = ChangeDetector()
    assert changes.notice(picture())
    assert not changes.notice(picture(noise=8, seed=1))
    assert changes.notice(picture("a caption", noise=8, seed=2))
    assert not changes.notice(picture("a caption", noise=8, seed=3))
    assert changes.notice(picture("other words", noise=8, seed=4))


def test_a_slow_fade_is_a_change_in_the_end() -> None:
    changes = ChangeDetector()
    noticed = [changes.notice(Image.new("L", (64, 48), level)) for level in range(0, 60, 4)]
    assert noticed[0]
    assert 3 <= sum(noticed[1:]) <= 6


def test_a_picture_of_another_size_is_a_change() -> None:
    changes = ChangeDetector()
    assert [changes.notice(Image.new("L", (width, 45), 0)) for width in (63, 64, 80, 80)] == [True, False, True, False]


@pytest.mark.parametrize(("reading_px", "size"), [(0, None), (96, (48, 96, 3)), (640, (160, 320, 3))])
def test_decoding_makes_a_picture_to_read_only_where_it_is_asked_for_and_differs(
    reading_px: int, size: tuple[int, int, int] | None
) -> None:
    def draw(number: int) -> NDArray[np.uint8]:
        return np.full((160, 320, 3), 200 if number < 48 else 20, np.uint8)

    media = encode_media(format="mp4", video=Track(times=times(96), width=320, height=160, picture=draw))
    config = DecodeConfig(reading_px=reading_px)
    frames = [each for each in decode(io.BytesIO(media), uri="", config=config) if isinstance(each, Frame)]
    assert len(frames) == 4
    made = [None if each.reading is None else each.reading.shape for each in frames]
    assert made == [size, None, size, None]


def test_the_size_to_read_must_not_be_negative() -> None:
    with pytest.raises(ValueError, match="reading_px must be >= 0, got -1"):
        DecodeConfig(reading_px=-1)
