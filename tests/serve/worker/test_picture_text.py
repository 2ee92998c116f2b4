"""Lines of text, cut to the part of a segment that no earlier one has."""

import numpy as np
import pytest

from ingest.values import Frame
from serve.worker.picture_text import EncodedLine, lines_in
from support.sample_live import write_line
from support.worker_fakes import PIXELS, open_slides, slide_at
from temporal.values import TimeSpan


@pytest.mark.parametrize(
    ("line", "part", "expected"),
    [
        ((3.0, 9.0), (0.0, 16.0), (3.0, 9.0)),
        ((3.0, 20.0), (0.0, 16.0), (3.0, 16.0)),
        ((3.0, 20.0), (16.0, 24.0), (16.0, 20.0)),
        ((3.0, 16.0), (16.0, 24.0), None),
        ((24.0, 30.0), (16.0, 24.0), None),
        ((0.0, 0.0), (0.0, 0.0), (0.0, 0.0)),
        ((16.0, 16.0), (16.0, 24.0), (16.0, 16.0)),
        ((16.0, 16.0), (0.0, 16.0), None),
    ],
)
def test_a_line_stands_in_each_part_whose_time_it_shares(
    line: tuple[float, float], part: tuple[float, float], expected: tuple[float, float] | None
) -> None:
    one = EncodedLine(line=write_line("Way out", *line), vector=np.ones(2, np.float32))
    found = lines_in([one], 0, TimeSpan(start_seconds=part[0], end_seconds=part[1]))
    assert [(each.line.start_seconds, each.line.end_seconds) for each in found] == (
        [] if expected is None else [expected]
    )
    assert lines_in([one], 1, TimeSpan(start_seconds=part[0], end_seconds=part[1])) == ()


def test_text_is_known_while_it_stands_and_forgotten_behind_the_open_segment() -> None:
    def frames(first: int, end: int) -> list[Frame]:
        return [
            Frame(epoch=0, pts_seconds=float(at), pixels=PIXELS, thumbnail=b"", reading=slide_at(at + 12))
            for at in range(first, end)
        ]

    text = open_slides()
    [line] = text.push(frames(0, 8), 8.0, (0, 0.0))
    assert (line.line.text, line.line.start_seconds, line.line.end_seconds) == ("slide 1", 0.0, 8.0)
    both = text.push(frames(8, 20), 20.0, (0, 0.0))
    assert [(each.line.text, each.line.end_seconds) for each in both] == [("slide 1", 12.0), ("slide 2", 20.0)]
    [second] = text.finish(21.0, (0, 16.0))
    assert (second.line.text, second.line.end_seconds) == ("slide 2", 21.0)
    assert len(second.vector) == 2
