"""A row that no message can carry is left out and logged; its neighbours are not."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from serve.codec.events import event_message
from serve.codec.messages import moment_change_message, moments_response, search_response, video_message
from serve.codec.rows import write_rows
from serve.values import Answer, MomentChange, VideoState, VideoStatus
from support.sample_answers import moment, video_answer
from support.sample_events import event
from temporal.values import ChangeKind

YEAR_10000 = 253_402_300_800.0
POISONED = moment(video_id="poisoned", collection="c", recorded_time=YEAR_10000)
GOOD = moment(video_id="good", recorded_time=1000.0)


def test_a_page_goes_on_past_a_moment_of_the_year_10000(caplog: pytest.LogCaptureFixture) -> None:
    page = moments_response(Answer(moments=(POISONED, GOOD)), "next")
    assert [each.video_id for each in page.moments] == ["good"]
    assert page.next_page_token == "next"
    assert caplog.messages == [
        "row left out kind=Moment collection=c video_id=poisoned"
        " reason=a time must lie in the years 1 to 9999, got 2.53402e+11 s since 1970"
    ]


def test_a_page_of_videos_goes_on_past_a_moment_of_the_year_10000() -> None:
    page = search_response(Answer(videos=(video_answer(POISONED), video_answer(GOOD, POISONED))))
    assert [[each.video_id for each in video.moments] for video in page.videos] == [[], ["good"]]


def video(video_id: str, recorded_time: float) -> VideoStatus:
    return VideoStatus(video_id=video_id, collection="c", uri="", state=VideoState.READY, recorded_time=recorded_time)


@pytest.mark.parametrize("time", [YEAR_10000, 1e300, math.inf, math.nan, -62_135_596_801.0])
@pytest.mark.parametrize(
    ("write", "make"),
    [
        (event_message, lambda time: replace(event(1), recorded_time=time)),
        (video_message, lambda time: video("v", time)),
        (
            moment_change_message,
            lambda time: MomentChange(moment_id="m", kind=ChangeKind.OPENED, moment=replace(GOOD, recorded_time=time)),
        ),
    ],
)
def test_no_row_of_an_impossible_time_is_written(
    write: Callable[[Any], Any], make: Callable[[float], Any], time: float, caplog: pytest.LogCaptureFixture
) -> None:
    rows: Sequence[Any] = [make(time), make(1000.0), make(time)]
    assert list(write_rows(write, rows)) == [write(make(1000.0))]
    assert len(caplog.messages) == 2
