"""RapidOCR on pictures of our own making."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from encoders.config import TextConfig
from encoders.errors import WeightsInvalid, WeightsNotFound
from encoders.writing.reader import (
    DETECTOR,
    RECOGNISER,
    TextReader,
    VideoReader,
    describe_reader,
    find_models,
    load_reader,
)


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
    first, second = reader.open_video().read(
        draw([("Quarterly report", 40, 40), ("Revenue grew by 12 percent", 200, 28)])
    )
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
    assert reader.open_video().read(draw([], size)) == []


@pytest.mark.slow
def test_refuses_a_picture_that_is_too_large() -> None:
    reader = load_reader(TextConfig(model="auto"))
    assert reader is not None
    with pytest.raises(ValueError, match="at most 640 wide and high, got 641x16"):
        reader.open_video().read(draw([], (641, 16)))


def test_a_library_without_a_reader_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_reader(TextConfig(model="none")) is None
    assert describe_reader(TextConfig(model="none")) == "text in pictures is not read: text.model = none"
    assert describe_reader(TextConfig()) == "text in pictures: RapidOCR"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert find_models(TextConfig()) is None
    assert describe_reader(TextConfig()) == "text in pictures is not read: pip install 'kinodex[text]'"


class CountingReader:
    """Finds the same two boxes in each picture, and counts the boxes that it reads."""

    corners = np.array([[[8, 8], [56, 8], [56, 20], [8, 20]], [[8, 40], [56, 40], [56, 52], [8, 52]]], np.float32)

    def __init__(self) -> None:
        self.read_count = 0

    def find_boxes(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.corners if pixels.any() else self.corners[:0]

    def read_boxes(self, pixels: NDArray[np.uint8], corners: NDArray[np.float32]) -> list[tuple[str, float]]:
        self.read_count += len(corners)
        return [(f"level {pixels[int(each[0, 1]), 8, 0]}", 0.9) for each in corners]


def test_a_box_is_read_again_only_if_its_pixels_change() -> None:
    counting = CountingReader()
    video = VideoReader(counting)  # type: ignore[arg-type]
    picture = np.full((64, 64, 3), 100, np.uint8)
    assert [line.text for line in video.read(picture)] == ["level 100", "level 100"]
    noisy = picture + 5
    assert [line.text for line in video.read(noisy)] == ["level 100", "level 100"]
    assert counting.read_count == 2
    letter = noisy.copy()
    letter[40:52, 8:12] += 20  # a letter of the second line
    assert [line.text for line in video.read(letter)] == ["level 100", "level 125"]
    assert counting.read_count == 3
    video.read(letter + 8)  # compared with the picture that it was read from: 13 in the first line, 8 in the second
    assert counting.read_count == 4
    assert video.read(np.zeros((64, 64, 3), np.uint8)) == []
    video.read(letter)
    assert counting.read_count == 6


def test_what_was_read_unsurely_is_not_read_again_and_no_line() -> None:
    counting = CountingReader()
    counting.read_boxes = lambda pixels, corners: [("~", 0.99), ("blur", 0.5)][: len(corners)]  # type: ignore[method-assign]
    assert VideoReader(counting).read(np.full((64, 64, 3), 9, np.uint8)) == []  # type: ignore[arg-type]


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
