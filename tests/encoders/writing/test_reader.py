"""RapidOCR on pictures of our own making."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from encoders.config import TextConfig
from encoders.errors import WeightsInvalid, WeightsNotFound
from encoders.writing.reader import DETECTOR, RECOGNISER, TextReader, load_reader


def draw(lines: list[tuple[str, int, int]], size: tuple[int, int] = (640, 360)) -> NDArray[np.uint8]:
    """Draw black lines on white: text, top and height of the letters in pixels."""
    picture = Image.new("RGB", size, "white")
    for text, top, height in lines:
        ImageDraw.Draw(picture).text((40, top), text, "black", ImageFont.load_default(height))
    return np.asarray(picture)


@pytest.mark.slow
def test_reads_lines_with_their_places() -> None:
    reader = load_reader(TextConfig(model="auto"))
    assert reader is not None
    first, second = reader.read(draw([("Quarterly report", 40, 40), ("Revenue grew by 12 percent", 200, 28)]))
    assert (first.text, second.text) == ("Quarterly report", "Revenue grew by 12 percent")
    assert first.confidence > 0.9
    assert 0.05 < first.box.left < 0.09
    assert 40 / 360 - 0.03 < first.box.top < first.box.bottom < 100 / 360
    assert 0.5 < second.box.top < second.box.bottom < 0.7


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 1), (8, 300), (640, 1), (640, 20), (20, 640)])
def test_reads_nothing_in_an_empty_picture_of_any_shape(size: tuple[int, int]) -> None:
    reader = load_reader(TextConfig(model="auto"))
    assert reader is not None
    assert reader.read(draw([], size)) == []


@pytest.mark.slow
def test_refuses_a_picture_that_is_too_large() -> None:
    reader = load_reader(TextConfig(model="auto"))
    assert reader is not None
    with pytest.raises(ValueError, match="at most 640 wide and high, got 641x16"):
        reader.read(draw([], (641, 16)))


def test_the_default_loads_no_reader() -> None:
    assert load_reader(TextConfig()) is None


def test_missing_weights_are_an_error_and_not_a_download(tmp_path: Path) -> None:
    with pytest.raises(WeightsNotFound, match="install rapidocr again"):
        TextReader(tmp_path)


@pytest.mark.slow
def test_damaged_weights_are_an_error_of_one_line(tmp_path: Path) -> None:
    for name in (DETECTOR, RECOGNISER):
        (tmp_path / name).write_bytes(b"these are no weights")
    with pytest.raises(WeightsInvalid) as raised:
        TextReader(tmp_path)
    assert "\n" not in str(raised.value)


def test_other_models_are_refused() -> None:
    with pytest.raises(ValueError, match="model must be auto or none, got 'tesseract'"):
        TextConfig(model="tesseract")  # type: ignore[arg-type]
