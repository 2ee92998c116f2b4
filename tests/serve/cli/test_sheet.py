"""The contact sheet: any answer can be drawn, and the pictures are in it."""

import re

import numpy as np
import pytest
from PIL import Image, ImageDraw

from serve.cli import sheet as sheets
from serve.cli.sheet import MAX_CELLS, PICTURE_WIDTH, Cell, draw_sheet
from serve.values import MatchedWord, Verdict
from support.marks import first_quick
from support.sample_answers import jpeg, moment

WORDS = tuple(MatchedWord(text=text, start_seconds=1.0, end_seconds=2.0) for text in ("paris", "Париж", "巴黎"))


def share_of_blue(picture: Image.Image) -> float:
    """The share of pixels that are about the blue of sample_answers.jpeg()."""
    pixels = np.asarray(picture, dtype=np.int16)
    return float((np.abs(pixels - (0x33, 0x66, 0xCC)).max(axis=2) < 12).mean())


def test_each_answer_has_its_picture() -> None:
    one = draw_sheet("q", [Cell(moment=moment(), picture=jpeg())])
    four = draw_sheet("q", [Cell(moment=moment(), picture=jpeg())] * 4)
    assert four.width == one.width  # two columns each
    assert share_of_blue(four) * four.height == pytest.approx(4 * share_of_blue(one) * one.height, rel=0.01)


def test_a_portrait_picture_keeps_its_shape() -> None:
    sheet = draw_sheet("q", [Cell(moment=moment(), picture=jpeg(180, 320))])
    pixels = np.asarray(sheet, dtype=np.int16)
    columns = (np.abs(pixels - (0x33, 0x66, 0xCC)).max(axis=2) < 12).any(axis=0)
    assert 0 < columns.sum() < PICTURE_WIDTH / 2


@pytest.mark.parametrize(
    ("picture", "said", "uri"),
    [
        (None, "Sound only.", "podcast.mp3"),
        (b"no jpeg", "", "silent.mp4"),
        (jpeg(), "Я люблю Париж весной. " * 30, "подкаст.mp4"),
        (jpeg(), "我喜欢巴黎的春天" * 60, "巴黎.mp4"),
        (jpeg(), "مرحبا بالعالم שלום", "\udcff\x1b[0m.mp4"),
        (jpeg(), "x" * 5000, "y" * 255),
        (jpeg(1, 1), "\n\t ", "/"),
    ],
)
@pytest.mark.parametrize("verdict", first_quick(Verdict))
def test_unusual_answers_are_drawn(picture: bytes | None, said: str, uri: str, verdict: Verdict) -> None:
    odd = moment(transcript=said, uri=uri, verdict=verdict, matched_words=WORDS)
    sheet = draw_sheet("a question " * 50, [Cell(moment=odd, picture=picture)])
    assert sheet.mode == "RGB"
    assert sheet.getcolors(1) is None


def test_cells_of_several_questions_show_theirs() -> None:
    plain, asked, other = (
        draw_sheet("q", [Cell(moment=moment(), picture=jpeg(), question=question)], "2 of 3").tobytes()
        for question in ("", "a red bus", "a blue bus" * 50)
    )
    assert len({plain, asked, other}) == 3


def test_an_empty_answer_gives_a_sheet() -> None:
    assert draw_sheet("q", []).getcolors(1) is None


@pytest.mark.slow
def test_a_long_answer_is_cut_to_a_size_that_can_be_drawn() -> None:
    cells = [Cell(moment=moment(), picture=None)]
    assert draw_sheet("q", cells * (MAX_CELLS + 50)).size == draw_sheet("q", cells * MAX_CELLS).size


@pytest.mark.parametrize("text", ["שלום עולם ושלום לכולם", "مرحبا بالعالم كله"])
def test_words_from_right_to_left_are_drawn_in_one_piece(text: str) -> None:
    """Drawn in parts from the left, the words of a line would change their places."""

    def drawn(pattern: re.Pattern[str] | None) -> bytes:
        picture = Image.new("RGB", (400, 40))
        sheets._draw_transcript_line(ImageDraw.Draw(picture), (4, 4), text, pattern)
        return picture.tobytes()

    whole = drawn(None)
    assert drawn(re.compile(text.split()[0])) == whole
    assert len(set(whole)) > 2
    font = sheets._font(text, sheets.TEXT_SIZE)
    assert not any(sheets._lacks_letter(font, letter) for letter in text)


def test_a_letter_that_no_font_has_is_drawn_as_a_sign_for_it() -> None:
    cell = Cell(moment=moment(transcript="\U00012000\U00012001 cuneiform", uri="a.mp4"), picture=None)
    assert len(set(draw_sheet("\U00012000", [cell]).tobytes())) > 2
