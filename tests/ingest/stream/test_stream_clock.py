"""StreamClock gives separately decoded chunks the media time of their stream."""

import numpy as np
import pytest

from ingest.stream.stream_clock import StreamClock
from ingest.values import SAMPLE_RATE_HZ, AudioBlock, Decoded, DecodeSummary, Frame, MediaInfo

MEDIA = MediaInfo(
    container="mpegts", duration_seconds=None, video_codec="h264", audio_codec="aac", width=1, height=1,
    rotation_degrees=0, frame_rate_fps=25.0,
)  # fmt: skip
ZERO = 1000  # the container's time at zero of the chunks' media time


def frame(source: float, epoch: int = 0) -> Frame:
    pixels = np.zeros((1, 1, 3), np.uint8)
    return Frame(epoch=epoch, pts_seconds=source - ZERO, pixels=pixels, thumbnail=b"jpeg")


def sound(source: float, seconds: float, first: int = 0) -> AudioBlock:
    """Make sound whose samples count up, so that a test can identify them."""
    samples = (first + np.arange(round(seconds * SAMPLE_RATE_HZ))).astype(np.float32)
    return AudioBlock(epoch=0, start_seconds=source - ZERO, samples=samples)


def chunk(start: float, end: float, *items: Frame | AudioBlock, pictures_end: float | None = None) -> list[Decoded]:
    summary = DecodeSummary(
        duration_seconds=end - ZERO, epoch_count=1, frame_count=1, error_count=0, truncated=False,
        zero_seconds=float(ZERO), start_seconds=start, pictures_end_seconds=(pictures_end or end) - ZERO,
    )  # fmt: skip
    return [MEDIA, *items, summary]


def test_media_time_begins_with_the_first_picture_and_goes_on() -> None:
    clock = StreamClock("fast")
    [first] = clock.place(chunk(1005.4, 1007.4, frame(1005.4), frame(1007.0)))
    [second] = clock.place(chunk(1007.4, 1009.4, frame(1008.0), frame(1009.0)))
    assert [one.pts_seconds for one in first.frames] == pytest.approx([0.0, 1.6])
    assert [one.pts_seconds for one in second.frames] == pytest.approx([2.6, 3.6])
    assert (first.opens_epoch, second.opens_epoch) == (True, False)
    assert second.end_seconds == pytest.approx(4.0)


def test_a_second_picture_of_one_second_is_dropped() -> None:
    clock = StreamClock("fast")
    clock.place(chunk(1005.0, 1006.7, frame(1005.0), frame(1006.6)))
    [placed] = clock.place(chunk(1006.7, 1008.7, frame(1006.9), frame(1008.0)))
    assert [one.pts_seconds for one in placed.frames] == pytest.approx([3.0])


def test_sound_that_overlaps_is_dropped_and_a_small_hole_is_filled() -> None:
    clock = StreamClock("fast")
    [first] = clock.place(chunk(1005.0, 1007.0, frame(1005.0), sound(1005.0, 2.0)))
    [second] = clock.place(chunk(1007.0, 1009.0, frame(1007.0), sound(1006.9, 2.1, first=30_400)))
    [third] = clock.place(chunk(1009.0, 1011.0, frame(1009.0), sound(1009.005, 1.0)))
    joined = np.concatenate([one.samples for placed in (first, second) for one in placed.sounds])
    assert np.array_equal(joined, np.arange(64_000, dtype=np.float32))
    assert second.sounds[0].start_seconds == pytest.approx(2.0)
    assert third.sounds[0].start_seconds == pytest.approx(4.0)
    assert not third.sounds[0].samples[:80].any()
    assert len(third.sounds[0].samples) == 80 + SAMPLE_RATE_HZ


def test_sound_before_the_first_picture_of_all_is_cut() -> None:
    [placed] = StreamClock("fast").place(chunk(1005.0, 1007.0, sound(1004.5, 2.0), frame(1005.0)))
    assert placed.sounds[0].start_seconds == 0.0
    assert placed.sounds[0].samples[0] == 8000


@pytest.mark.parametrize(
    ("start", "opens"), [(1006.2, False), (1005.9, True), (1016.9, False), (1017.1, True), (3.0, True)]
)
def test_an_epoch_opens_where_time_goes_back_or_is_missing(start: float, opens: bool) -> None:
    clock = StreamClock("fast")
    clock.place(chunk(1005.0, 1007.0, frame(1005.0)))
    [placed] = clock.place([*chunk(start, start + 2, frame(max(start, ZERO)))])
    assert placed.opens_epoch is opens
    assert placed.epoch == int(opens)
    assert placed.start_seconds >= 1.2
    if opens:
        assert placed.epoch_start_seconds == pytest.approx(2.0), "media time goes on"


def test_a_closed_clock_opens_an_epoch_and_an_interrupted_one_does_not() -> None:
    clock = StreamClock("fast")
    clock.place(chunk(1005.0, 1007.0, frame(1005.0)))
    resumed = StreamClock("fast", clock.state)
    for one in (resumed, clock):
        one.place(chunk(1007.0, 1009.0, frame(1007.0)))
    assert resumed.state == clock.state
    clock.close()
    assert clock.place(chunk(1009.0, 1011.0, frame(1009.0)))[0].epoch == 1


def test_pictures_that_end_before_sound_are_not_complete_until_its_end() -> None:
    [placed] = StreamClock("fast").place(chunk(1005.0, 1007.4, frame(1005.0), sound(1005.0, 2.4), pictures_end=1007.0))
    assert (placed.whole_seconds, placed.end_seconds) == pytest.approx((2.0, 2.4))


def test_a_break_inside_a_chunk_opens_an_epoch_too() -> None:
    placed = StreamClock("fast").place(chunk(1005.0, 1009.0, frame(1005.0), frame(1007.5, epoch=1)))
    assert [one.epoch for one in placed] == [0, 1]
