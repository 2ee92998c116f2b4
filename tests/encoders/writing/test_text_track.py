"""Which pictures are read, and the lines that stay over them. The exact reader here reads what a table says."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from encoders.values import Box, ReadLine
from encoders.writing.text_track import MAX_PAUSE_SECONDS, MIN_PAUSE_SECONDS, TextTrack

PLACE = Box(left=0.1, top=0.1, right=0.9, bottom=0.2)
BELOW = Box(left=0.1, top=0.5, right=0.9, bottom=0.6)


def line(text: str, box: Box = PLACE, confidence: float = 0.9) -> ReadLine:
    return ReadLine(text=text, box=box, confidence=confidence)


def read_all(
    pictures: Sequence[int | None], shows: Mapping[int, Sequence[ReadLine]], end_seconds: float | None = None
) -> tuple[list[tuple[str, float, float]], list[int]]:
    """Push one picture a second, given by number (None: it looks like the one before); return lines, pictures read."""
    read: list[int] = []

    def reader(pixels: NDArray[np.uint8]) -> Sequence[ReadLine]:
        read.append(int(pixels[0, 0, 0]))
        return shows.get(read[-1], ())

    track = TextTrack(reader)
    for second, number in enumerate(pictures):
        track.push(0, float(second), None if number is None else np.full((1, 1, 3), number, np.uint8))
    lines = track.finish(float(len(pictures)) if end_seconds is None else end_seconds)
    return [(each.text, each.start_seconds, each.end_seconds) for each in lines], read


def test_a_slide_is_read_once_and_stays_until_the_picture_changes() -> None:
    lines, read = read_all([1, *[None] * 9, 2, None, None], {1: [line("Agenda")], 2: [line("Thank you")]})
    assert lines == [("Agenda", 0.0, 10.0), ("Thank you", 10.0, 13.0)]
    assert read == [1, 2]


def test_a_line_that_stays_while_the_picture_changes_is_one_line() -> None:
    news = line("BREAKING NEWS")
    lines, read = read_all(range(1, 11), {n: [news] for n in range(1, 11)})
    assert lines == [("BREAKING NEWS", 0.0, 10.0)]
    assert len(read) <= 10 / MIN_PAUSE_SECONDS + 2


def test_a_line_that_moves_ends_with_its_scene_or_between_two_readings() -> None:
    credits, nothing = [line("Directed by")], []
    pictures = [*range(1, 5), *range(101, 120)]  # a cut at second 4
    shows = {n: credits if n < 100 else nothing for n in range(1, 120)}
    assert read_all(pictures, shows)[0] == [("Directed by", 0.0, 4.0)]
    lines, read = read_all(range(1, 20), {n: credits if n < 4 else nothing for n in range(1, 20)})
    assert read[:2] == [1, 7]
    assert lines == [("Directed by", 0.0, 3.0)]


def test_two_readings_of_one_line_are_one_and_the_surer_text_stays() -> None:
    shows = {1: [line("Cornmunity project", confidence=0.82)], 2: [line("Community project", confidence=0.97)]}
    assert read_all([1, None, None, 2, None, None], shows)[0] == [("Community project", 0.0, 6.0)]


@pytest.mark.parametrize(
    "later",
    [line("Agenda", BELOW), line("Something else"), line("0:03")],
    ids=["elsewhere", "other words", "another number"],
)
def test_other_words_or_another_place_are_another_line(later: ReadLine) -> None:
    first = line("0:02") if later.text == "0:03" else line("Agenda")
    lines, _ = read_all([1, None, None, None, 2, None], {1: [first], 2: [later]})
    assert lines == [(first.text, 0.0, 4.0), (later.text, 4.0, 6.0)]


def test_pictures_that_keep_changing_without_text_are_read_more_and_more_seldom() -> None:
    _, read = read_all([n % 250 for n in range(600)], {})
    assert len(read) <= 600 / MAX_PAUSE_SECONDS + 6


def test_a_slide_after_minutes_of_film_is_read_soon() -> None:
    pictures = [*[n % 250 for n in range(300)], 255, *[None] * 10]
    lines, _ = read_all(pictures, {255: [line("The end")]})
    assert [(text, end) for text, _, end in lines] == [("The end", 311.0)]


def test_a_last_picture_that_stays_is_read_at_the_end() -> None:
    assert read_all([1, 2, None], {2: [line("Fin")]})[0] == [("Fin", 1.0, 3.0)]
    assert read_all([1, 2], {2: [line("Fin")]})[1] == [1]


def test_a_photo_without_length_has_its_lines() -> None:
    assert read_all([1], {1: [line("EXIT")]}, end_seconds=0.0)[0] == [("EXIT", 0.0, 0.0)]


def test_lines_of_two_epochs_are_two() -> None:
    track = TextTrack(lambda pixels: [line("CAMERA 4")])
    pixels = np.zeros((1, 1, 3), np.uint8)
    for epoch, second in ((0, 0.0), (0, 1.0), (1, 10.0), (1, 20.0)):
        track.push(epoch, second, pixels)
    assert [(each.epoch, each.start_seconds) for each in track.finish(21.0)] == [(0, 0.0), (1, 10.0)]


def test_a_clip_without_pictures_has_no_text() -> None:
    assert read_all([], {}) == ([], [])
