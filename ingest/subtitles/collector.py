"""Collector: takes subtitles in any order, refuses wrong times, and joins what repeats."""

import math
from dataclasses import dataclass, field

from ingest.subtitles.limits import MAX_COUNT, MAX_SECONDS, MAX_TEXT_CHARS, OPEN_SECONDS
from ingest.subtitles.plain_text import plain_lines
from ingest.values import Subtitle

JOIN_SECONDS = 0.1  # between a subtitle and its repetition: a fade is cut into many subtitles of one text


@dataclass(slots=True)
class Collector:
    """The subtitles of one track."""

    refused_count: int = 0  # with wrong times
    is_cut: bool = False  # more than MAX_COUNT came
    _found: list[tuple[float, float | None, list[str]]] = field(default_factory=list)

    def add(self, start_seconds: float, end_seconds: float | None, text: str) -> None:
        """Take one subtitle.

        Args:
            end_seconds: None: it is not stored.
            text: As ASS has it: tags in braces, "\\N" between lines.
        """
        if len(self._found) >= MAX_COUNT:
            self.is_cut = True
            return
        lines = plain_lines(text)
        if not lines:
            return
        end = end_seconds if end_seconds is not None else start_seconds + OPEN_SECONDS
        is_right = math.isfinite(start_seconds) and math.isfinite(end) and 0 < end - start_seconds <= MAX_SECONDS
        if not is_right or end <= 0:
            self.refused_count += 1
            return
        self._found.append((max(0.0, start_seconds), end_seconds, lines))

    def finish(self) -> tuple[Subtitle, ...]:
        """Return the subtitles in order of their starts.

        A text that is shown again at once is one subtitle. Captions that roll up repeat the lines before: each line
        counts when it comes first.
        """
        found = sorted(self._found, key=lambda one: one[0])
        kept: list[tuple[float, float, str]] = []
        last: dict[str, tuple[int, float]] = {}  # text -> its place in `kept`, and when it was last shown
        rolling: list[str] = []  # lines of the subtitle before
        rolling_end = -math.inf
        for place, (start, end, lines) in enumerate(found):
            if end is None:
                following = next((other[0] for other in found[place + 1 :] if other[0] > start), math.inf)
                end = min(start + OPEN_SECONDS, following)
            new = _new_lines(rolling, lines) if start <= rolling_end + JOIN_SECONDS else lines
            rolling, rolling_end = lines, end
            text = " ".join(new)[:MAX_TEXT_CHARS]
            before = last.get(text or " ".join(lines)[:MAX_TEXT_CHARS])
            if before is not None and start <= before[1] + JOIN_SECONDS:
                index = before[0]
                first, shown_until, same = kept[index]
                kept[index] = (first, max(shown_until, end), same)
                last[same] = (index, max(before[1], end))
            elif text:
                last[text] = (len(kept), end)
                kept.append((start, end, text))
        return tuple(Subtitle(start, end, text) for start, end, text in kept)


def _new_lines(before: list[str], lines: list[str]) -> list[str]:
    """Return the lines without those at the start that end the subtitle before."""
    for count in range(min(len(before), len(lines)), 0, -1):
        if before[-count:] == lines[:count]:
            return lines[count:]
    return lines
