"""PictureText: the lines of text in the pictures of one video that a worker indexes, as far as they are known."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoders.values import TextLine
from encoders.writing.reader import TextReader
from encoders.writing.text_track import TextTrack
from ingest.media.changes import ChangeDetector
from ingest.values import Frame
from temporal.values import TimeSpan


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedLine:
    """A line of text, and the vector of its words."""

    line: TextLine
    vector: NDArray[np.float32]  # (E,), unit length; E is 0 without a sentence encoder


class PictureText:
    """Reads the pictures of one video. One thread at a time calls it, in order of time.

    What was read before is not in checkpoints: a worker that continues a stream reads its pictures anew.
    """

    def __init__(self, reader: TextReader, encode: Callable[[Sequence[str]], NDArray[np.float32]]) -> None:
        """Take the reader, and the sentence encoder: N texts -> float32 (N, E)."""
        self._track = TextTrack(reader.open_video().read)
        self._encode, self._changes = encode, ChangeDetector()
        self._vectors: dict[str, NDArray[np.float32]] = {}  # of the lines returned last

    def push(self, frames: Sequence[Frame], end_seconds: float, needed: tuple[int, float]) -> tuple[EncodedLine, ...]:
        """Take the next pictures; return the lines so far, of which those that still stand end at `end_seconds`.

        Args:
            needed: Epoch and media time: lines that ended before are dropped.
        """
        for frame in frames:
            self._track.push(frame.epoch, frame.pts_seconds, self._changed(frame.reading))
        self._track.forget(*needed)
        return self._encoded(self._track.lines(end_seconds))

    def finish(self, end_seconds: float, needed: tuple[int, float]) -> tuple[EncodedLine, ...]:
        """End the epoch: read the picture that waits, and return the lines so far; see push()."""
        self._track.forget(*needed)
        return self._encoded(self._track.finish(end_seconds))

    def _changed(self, reading: NDArray[np.uint8] | None) -> NDArray[np.uint8] | None:
        """Return a picture if it differs from the last that did: the decoder knows no chunk before its own."""
        if reading is None or not self._changes.notice(Image.fromarray(reading).reduce(2)):
            return None
        return reading

    def _encoded(self, lines: Sequence[TextLine]) -> tuple[EncodedLine, ...]:
        texts = list(dict.fromkeys(line.text for line in lines))
        new = [text for text in texts if text not in self._vectors]
        known = self._vectors | dict(zip(new, self._encode(new), strict=True))
        self._vectors = {text: known[text] for text in texts}
        return tuple(EncodedLine(line=line, vector=known[line.text]) for line in lines)


def lines_in(lines: Sequence[EncodedLine], epoch: int, span: TimeSpan) -> tuple[EncodedLine, ...]:
    """Return the part of each line that stands in a span: a line of two segments is two, one in each.

    A line without length, such as that of a photo, stands where it begins.
    """
    cut = []
    for one in lines:
        start, end = one.line.start_seconds, one.line.end_seconds
        stands = end > span.start_seconds or (start == end and start >= span.start_seconds)
        if one.line.epoch == epoch and stands and start < max(span.end_seconds, span.start_seconds + 1e-6):
            start = max(start, span.start_seconds)
            line = replace(one.line, start_seconds=start, end_seconds=max(start, min(end, span.end_seconds)))
            cut.append(replace(one, line=line))
    return tuple(cut)
