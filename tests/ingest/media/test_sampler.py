"""The planner drops packets that no tick needs; the selector selects one picture for each tick."""

import io
import itertools
import random
from fractions import Fraction
from math import ceil
from types import SimpleNamespace
from typing import Any, cast

import pytest
from av.packet import Packet
from av.video.frame import VideoFrame

from ingest.config import DecodeConfig, SamplingPolicy
from ingest.media.decode import decode
from ingest.media.sampler import PlannedPacket, Planner, Selector, tick_of
from ingest.media.timeline import Timeline
from ingest.values import Frame
from support.media import Track, encode_media, read_number

# A packet as (presentation time in frames, is it a keyframe), in decoding order, at 10 fps.
Packets = list[tuple[int, bool]]


def in_order(count: int, gop: int) -> Packets:
    return [(i, i % gop == 0) for i in range(count)]


def with_b_frames(count: int, gop: int, *, is_open: bool = False) -> Packets:
    """I0 P3 B1 B2 P6 B4 B5 …; in an open group, pictures shown before a keyframe are coded after it."""
    order: Packets = [(0, True)]
    for anchor in range(3, count, 3):
        is_key = anchor % gop == 0
        order += [(anchor, is_key), (anchor - 2, False), (anchor - 1, False)]
        if is_key and not is_open:  # closed: the two pictures shown before it are coded before it
            order[-3:] = [(anchor - 1, False), (anchor - 2, False), (anchor, True)]
    return order


def plan(packets: Packets, policy: SamplingPolicy, *, is_broken: bool = False) -> list[PlannedPacket]:
    planner = Planner(policy, tick=0, after=Fraction(-1), is_broken=is_broken)
    planned: list[PlannedPacket] = []
    for position, (shown, is_key) in enumerate(packets):
        pts = Fraction(shown, 10)
        horizon = Fraction(min(number for number, _ in packets[position:]), 10)
        planned += planner.push(Packet(1), pts=pts, horizon=horizon, is_key=is_key)
    end = Fraction(max(number for number, _ in packets) + 1, 10)
    return planned + planner.finish(end)


def list_needed(planned: list[PlannedPacket]) -> list[int]:
    return [int(step.pts * 10) for step in planned if step.needed]


def list_sent(planned: list[PlannedPacket]) -> list[int]:
    return [int(step.pts * 10) for step in planned]


def test_fast_sends_a_keyframe_alone_where_each_tick_has_one() -> None:
    planned = plan(in_order(50, 10), "fast")
    assert list_sent(planned) == [0, 10, 20, 30, 40]
    assert [step.restart for step in planned] == [False, True, True, True, True]


def test_fast_decodes_only_as_far_as_a_tick_needs() -> None:
    planned = plan(in_order(60, 30), "fast")
    assert list_needed(planned) == [0, 5, 15, 30, 35, 45]
    assert list_sent(planned) == [*range(16), *range(30, 46)]
    assert [int(step.pts * 10) for step in planned if step.restart] == [30]


def test_fast_prefers_a_keyframe_later_in_the_window() -> None:
    assert list_needed(plan(in_order(38, 13), "fast")) == [0, 13, 15, 26]


def test_exact_takes_the_latest_picture_not_after_the_tick() -> None:
    packets = [(0, True), (4, False), (9, False), (11, False), (20, False), (29, False)]
    assert list_needed(plan(packets, "exact")) == [0, 9, 20]


def test_exact_drops_the_rest_of_a_group_after_its_last_tick() -> None:
    planned = plan(in_order(60, 15), "exact")
    assert list_needed(planned) == [0, 10, 20, 30, 40, 50]
    assert list_sent(planned) == [*range(11), *range(15, 21), 30, *range(30 + 1, 41), *range(45, 51)]


def test_a_leading_picture_is_decoded_from_the_group_before() -> None:
    packets = with_b_frames(40, 12, is_open=True)
    for policy in ("exact", "fast"):
        planned = plan(packets, policy)
        for begin in (i for i, step in enumerate(planned) if step.restart):
            key = planned[begin].pts
            targets = [step.pts for step in planned[begin:] if step.needed]
            assert not targets or targets[0] >= key


@pytest.mark.parametrize("policy", ["exact", "fast"])
@pytest.mark.parametrize("gop", [1, 6, 12, 30, 300])
@pytest.mark.parametrize("is_open", [False, True])
def test_each_target_comes_with_everything_since_its_keyframe(policy: SamplingPolicy, gop: int, is_open: bool) -> None:
    packets = in_order(60, 1) if gop == 1 else with_b_frames(61, gop, is_open=is_open)
    planned = plan(packets, policy)
    order = [number for number, _ in packets]
    assert [n for n in order if n in set(list_sent(planned))] == list_sent(planned)  # decoding order is kept
    previous = -1
    for step in planned:
        at = order.index(int(step.pts * 10))
        if step.restart:
            assert packets[at][1]
        else:
            assert at == previous + 1  # no hole without a restart
        previous = at


def test_keyframes_sends_nothing_else_and_one_a_tick() -> None:
    assert list_sent(plan(in_order(50, 4), "keyframes")) == [0, 8, 16, 28, 36, 48]
    assert list_sent(plan(in_order(50, 17), "keyframes")) == [0, 17, 34]


def test_a_stream_without_keyframe_marks_is_decoded_whole() -> None:
    packets = [(i, False) for i in range(30)]
    assert list_sent(plan(packets, "fast")) == list(range(16))


def test_after_a_break_nothing_is_sent_before_a_keyframe() -> None:
    packets = [(3, False), (4, False), (5, True), *((number, False) for number in range(6, 15))]
    assert list_sent(plan(packets, "fast", is_broken=True))[0] == 5


@pytest.mark.parametrize("policy", ["exact", "fast"])
def test_no_tick_is_passed_over_for_a_picture_that_is_coded_late(policy: SamplingPolicy) -> None:
    packets = [(0, True), (64, False), (52, False), (93, False), (78, False)]
    assert {52, 78} <= set(list_needed(plan(packets, policy)))


def test_exact_decodes_what_may_stand_until_the_next_tick() -> None:
    packets = [(0, True), (12, False), (4, False), (8, False), (35, False)]
    assert list_needed(plan(packets, "exact")) == [0, 12, 8]


def test_the_planner_holds_back_a_bounded_count_of_packets() -> None:
    planner = Planner("fast", tick=0, after=Fraction(-1), is_broken=False)
    planned: list[PlannedPacket] = []
    for i in range(10_000):  # constant decoding times: no picture is ever certain
        planned += planner.push(Packet(1), pts=Fraction(i, 1000), horizon=Fraction(0), is_key=i == 0)
    assert len(planned) > 5000


def select(policy: SamplingPolicy, frames: list[tuple[float, bool]], end: float) -> list[float]:
    selector = Selector(policy, keeps_first=True)
    seconds: list[float] = []
    for pts, is_key in frames:
        frame = cast(VideoFrame, SimpleNamespace(key_frame=is_key))
        picture = selector.offer(frame, Fraction(pts), None)
        seconds += [float(picture.pts)] if picture else []
    picture = selector.finish(Fraction(end))
    return seconds + ([float(picture.pts)] if picture else [])


@pytest.mark.parametrize(
    ("policy", "times", "end", "expected"),
    [
        ("exact", [0, 0.5, 0.9, 1.1, 2.0, 2.5], 3.0, [0, 0.9, 2.0]),
        ("exact", [0, 5.5, 5.7], 6.0, [0]),
        ("exact", [0, 5.5, 5.7], 6.5, [0, 5.7]),
        ("exact", [0], 0, [0]),
        ("exact", [0, 0.9, 7.2, 8.0], 8.1, [0, 0.9, 8.0]),
        ("fast", [0, 0.4, 0.6, 1.4, 1.6, 2.6], 3.0, [0, 0.6, 1.6]),
        ("fast", [0, 0.4, 0.6, 1.4, 1.6, 2.6], 3.1, [0, 0.6, 1.6, 2.6]),
        ("fast", [0, 5.4, 9.0], 10.0, [0, 5.4, 9.0]),
        ("fast", [0], 0, [0]),
    ],
)
def test_selects_one_picture_for_each_tick(
    policy: SamplingPolicy, times: list[float], end: float, expected: list[float]
) -> None:
    assert select(policy, [(time, False) for time in times], end) == pytest.approx(expected)


def test_fast_without_a_plan_prefers_a_keyframe() -> None:
    frames = [(0.0, True), (0.5, False), (1.2, True), (1.4, True), (1.6, False), (2.3, False)]
    assert select("fast", frames, 3.0) == [0.0, 1.2, 1.6]


def test_keyframes_keeps_only_marked_pictures_after_the_first() -> None:
    frames = [(0.0, False), (0.5, True), (1.0, False), (2.0, True), (2.2, True)]
    assert select("keyframes", frames, 3.0) == [0.0, 0.5, 2.0]


@pytest.mark.parametrize(("pts", "tick"), [("0", 0), ("49/100", 0), ("1/2", 1), ("149/100", 1), ("3/2", 2)])
def test_a_tick_s_window_is_half_open(pts: str, tick: int) -> None:
    assert tick_of(Fraction(pts)) == tick


class Placement:
    """A timeline that takes floats."""

    def __init__(self, *, keeps_gaps: bool = False, declared_end: int | None = None) -> None:
        end = Fraction(declared_end) if declared_end is not None else None
        self.timeline = Timeline("media", keeps_gaps=keeps_gaps, declared_end=end)

    def put(self, stream: int, dts: float | None, pts: float | None = None, duration: float = 0.04) -> Any:
        def exact(value: float | None) -> Fraction | None:
            return Fraction(value).limit_denominator(1000) if value is not None else None

        shown = pts if pts is not None else dts
        epoch = self.timeline.place(stream, dts=exact(dts), pts=exact(shown), duration=exact(duration))
        if epoch is not None and epoch.origin is None:
            epoch.origin = exact(shown)
        return epoch


def test_reordered_pictures_are_no_step_backward() -> None:
    placed = Placement()
    for dts, pts in [(0, 2), (1, 9), (2, 5), (3, 3), (4, 4), (5, 7)]:
        assert placed.put(0, dts, pts).index == 0


@pytest.mark.parametrize(("to", "index"), [(9.1, 0), (8.9, 1), (19.9, 0), (20.2, 1), (36_000, 1), (-5, 1)])
def test_an_epoch_of_a_stream_opens_at_a_step_back_of_a_second_or_a_gap_of_ten(to: float, index: int) -> None:
    placed = Placement()
    for k in range(11):
        placed.put(0, k, duration=0.1)
    assert placed.put(0, to).index == index


@pytest.mark.parametrize(
    ("declared_end", "to", "index"),
    [
        (None, 8.9, 1), (None, 9.1, 0), (None, 3600, 0), (None, 3700, 1),
        (100, 8.9, 1), (100, 101, 0), (100, 103, 1), (36_000, 36_000, 0), (5, 3600, 0),
    ],
)  # fmt: skip
def test_an_epoch_of_a_file_opens_at_a_step_back_or_past_its_end(
    declared_end: int | None, to: float, index: int
) -> None:
    placed = Placement(keeps_gaps=True, declared_end=declared_end)
    for k in range(11):
        placed.put(0, k, duration=0.1)
    assert placed.put(0, to).index == index


def test_media_time_goes_on_where_the_epoch_before_ended() -> None:
    placed = Placement()
    placed.put(0, 100, duration=1)
    placed.put(0, 101, duration=1)
    second = placed.put(0, 50, duration=1)
    assert second.base == 2
    assert second.to_media(Fraction(51)) == 3


def test_streams_that_meet_a_break_one_after_the_other_share_an_epoch() -> None:
    placed = Placement()
    for stream in (0, 1):
        placed.put(stream, 0, duration=5)
        placed.put(stream, 4.5, duration=0.5)
    assert [placed.put(*at).index for at in ((0, 5000), (1, 4.9), (0, 5000.1), (1, 4999.9), (1, 5000.0))] == [
        1,
        0,
        1,
        1,
        1,
    ]


def test_one_stream_that_goes_on_bridges_the_gap_of_another() -> None:
    placed = Placement()
    placed.put(0, 0)
    for k in range(30):
        placed.put(1, k, duration=1)
    assert placed.put(0, 30).index == 0


def test_a_declared_duration_is_believed_up_to_a_minute() -> None:
    believed, absurd = Placement(), Placement()
    believed.put(0, 0, duration=45)
    assert believed.put(0, 45).index == 0
    absurd.put(0, 0, duration=3600)
    assert absurd.put(0, 3600).index == 1
    slides = Placement(keeps_gaps=True, declared_end=7200)
    slides.put(0, 0, duration=3600)
    assert slides.put(0, 3600, duration=3600).end == 7200


def test_a_decoding_time_that_is_missing_is_no_break() -> None:
    placed = Placement()
    assert [placed.put(0, *at).index for at in ((None, 0), (None, 3), (0, 0.04), (0.04, 0.5), (0.5, 9.5))] == [0] * 5


@pytest.mark.parametrize(
    ("seed", "options"), [(0, {"bf": "1"}), (1, {"bf": "3"}), (2, {"x264-params": "b-pyramid=none:bframes=8"})]
)
@pytest.mark.parametrize("gop", [10, 250])
def test_exact_keeps_what_is_shown_at_each_tick_of_a_jumpy_stream(seed: int, options: dict[str, str], gop: int) -> None:
    planned = random.Random(seed).choices([Fraction(n, 100) for n in (4, 4, 4, 10, 33, 90, 150)], k=79)
    times = [Fraction(0), *itertools.accumulate(planned)]
    times.append(Fraction(ceil(times[-1]) + 1))
    media = encode_media(
        format="mp4", video=Track(times=times, gop=gop, options={"preset": "ultrafast", "b-adapt": "0"} | options)
    )
    items = decode(io.BytesIO(media), uri="test", config=DecodeConfig(sampling="exact", resize="squash"))
    shown = [max(i for i, time in enumerate(times) if time <= tick) for tick in range(int(times[-1]) + 1)]
    assert [read_number(item.pixels) for item in items if isinstance(item, Frame)] == list(dict.fromkeys(shown))
