"""TextTrack: which pictures of one video are read, and the lines that stay from picture to picture.

Reading a picture costs as much as decoding minutes of video, so only pictures that differ from the last one are offered
(ingest.media.changes). A picture that then stays, such as a slide, is read soon. While every picture differs, as a
camera's do, one is read now and then: the more seldom, the longer no new text was found.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoders.values import ReadLine, TextLine

Read = Callable[[NDArray[np.uint8]], Sequence[ReadLine]]

STILL_PAUSE_SECONDS = 3.0  # between two pictures that are read, if the second stays: at most twenty a minute
MIN_PAUSE_SECONDS = 6.0  # the same while the pictures keep changing
MAX_PAUSE_SECONDS = 48.0  # the longest pause, after a picture without text, while the pictures keep changing
COARSE_PX = 32  # sides of the blocks of a picture whose mean grey is compared to find cuts
CUT_DIFFERENCE = 25.0  # mean difference of the blocks, of 255, from a second before; cameras that pan make up to 20
SAME_TEXT_RATIO = 0.8  # of the letters of two readings of one line; a small or moving line is read a little differently
SAME_PLACE_IOU = 0.3  # of the boxes of two readings of one line: cameras shake


@dataclass(slots=True)
class _Picture:
    epoch: int
    pts_seconds: float
    pixels: NDArray[np.uint8]


class TextTrack:
    """The text of one video. Pictures come in order of time."""

    def __init__(self, read: Read) -> None:
        """Take the function that reads one picture: uint8 (H, W, 3) RGB."""
        self._read = read
        self._waiting: _Picture | None = None  # the latest picture that differs and was not read
        self._epoch = 0
        self._stays = False  # the last picture looked like the one before it
        self._pause_seconds = MIN_PAUSE_SECONDS
        self._read_at: float | None = None  # time of the last picture that was read
        self._changed_at: float | None = None  # time of the first picture that differs from that one
        self._cut_at: float | None = None  # time of the first picture after it that begins another scene
        self._was_still = False  # it stayed before anything differed
        self._last_grey: NDArray[np.float32] | None = None  # of the last picture that differs, coarse
        self._open: list[TextLine] = []  # lines of the last picture that was read
        self._lines: list[TextLine] = []  # lines that are over
        self.read_count = 0  # pictures read

    def push(self, epoch: int, pts_seconds: float, pixels: NDArray[np.uint8] | None) -> None:
        """Take a sampled picture, None if it looks like the one before; read one if it is time to."""
        self._stays = pixels is None
        if epoch != self._epoch:
            if self._waiting is not None:
                self._read_waiting()
            self._epoch, self._read_at = epoch, None  # the first picture of an epoch is read at once
        if pixels is None:
            self._was_still = self._was_still or self._changed_at is None
        else:
            if self._is_cut(pixels) and self._cut_at is None:
                self._cut_at = pts_seconds
            self._changed_at = pts_seconds if self._changed_at is None else self._changed_at
            self._waiting = _Picture(epoch, pts_seconds, pixels)
        if self._waiting is None:
            return
        pause = STILL_PAUSE_SECONDS if pixels is None else self._pause_seconds  # a picture that stays waits least
        if self._read_at is None or pts_seconds - self._read_at >= pause:
            self._read_waiting()

    def finish(self, end_seconds: float) -> list[TextLine]:
        """Return all lines in order of time; the video ends at `end_seconds`.

        The last picture is read if it waits, unless pictures kept changing and the one before had no text.
        """
        if self._waiting is not None and (self._stays or self._open or self._pause_seconds == MIN_PAUSE_SECONDS):
            self._read_waiting()
        self._lines, self._open = self.lines(end_seconds), []
        return list(self._lines)

    def lines(self, end_seconds: float) -> list[TextLine]:
        """Return all lines so far, in order of time.

        Those of the last picture that was read end at `end_seconds`, unless it stayed and then differed, or another
        scene began.
        """
        lines = [*self._lines, *self._closed(self._open, end_seconds)]
        return sorted(lines, key=lambda line: (line.epoch, line.start_seconds, line.box.top, line.box.left))

    def forget(self, epoch: int, seconds: float) -> None:
        """Drop the lines that ended before a media time of an epoch."""
        self._lines = [line for line in self._lines if (line.epoch, line.end_seconds) >= (epoch, seconds)]

    def _read_waiting(self) -> None:
        picture, self._waiting = self._waiting, None
        assert picture is not None
        found = list(self._read(picture.pixels))
        self.read_count += 1
        at, gone = picture.pts_seconds, list(self._open)
        lines = []
        for line in found:
            before = next((each for each in gone if is_same_line(each, line) and each.epoch == picture.epoch), None)
            if before is not None:
                gone.remove(before)
                better = line if line.confidence > before.confidence else before
                lines.append(replace(before, text=better.text, box=line.box, confidence=better.confidence))
            else:
                lines.append(
                    TextLine(
                        epoch=picture.epoch,
                        start_seconds=at,
                        end_seconds=at,
                        text=line.text,
                        box=line.box,
                        confidence=line.confidence,
                    )
                )
        has_news = any(line.start_seconds == at for line in lines)
        self._pause_seconds = MIN_PAUSE_SECONDS if has_news else min(2 * self._pause_seconds, MAX_PAUSE_SECONDS)
        # What is gone from pictures that keep changing went at a cut, else somewhere between the two that were read.
        self._lines += self._closed(gone, at if self._read_at is None else (self._read_at + at) / 2)
        self._open, self._read_at, self._changed_at, self._cut_at = lines, at, None, None
        self._was_still = self._stays

    def _closed(self, lines: Sequence[TextLine], end_seconds: float) -> list[TextLine]:
        """Return lines that end where a picture that stayed first differed, else at a cut, else at `end_seconds`."""
        end = self._changed_at if self._was_still else self._cut_at
        end = end_seconds if end is None else end
        return [replace(line, end_seconds=max(line.start_seconds, end)) for line in lines]

    def _is_cut(self, pixels: NDArray[np.uint8]) -> bool:
        """Whether a picture begins another scene than the one before it."""
        grey = np.asarray(Image.fromarray(pixels).convert("L").reduce(COARSE_PX), np.float32)
        last, self._last_grey = self._last_grey, grey
        return last is None or last.shape != grey.shape or bool(np.abs(grey - last).mean() > CUT_DIFFERENCE)


def is_same_line(line: TextLine, other: ReadLine | TextLine) -> bool:
    """Whether two readings show the same words in the same place."""
    if line.box.iou(other.box) < SAME_PLACE_IOU:
        return False
    a, b = (" ".join(text.casefold().split()) for text in (line.text, other.text))
    if a == b:
        return True
    if [c for c in a if c.isdigit()] != [c for c in b if c.isdigit()]:
        return False  # a clock or a score that goes on
    return SequenceMatcher(None, a, b, autojunk=False).ratio() >= SAME_TEXT_RATIO
