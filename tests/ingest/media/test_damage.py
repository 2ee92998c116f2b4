"""What does not decode is counted, and named with its place."""

import random
from fractions import Fraction
from itertools import pairwise

import pytest

from ingest.media.damage import MERGE_SECONDS, Damage
from ingest.media.timeline import Timeline
from ingest.values import MAX_DAMAGED_COUNT, DecodeSummary


def new_epoch(origin: int | None = 100):  # type: ignore[no-untyped-def]
    timeline = Timeline("media", keeps_gaps=True)
    epoch = timeline.place(0, dts=Fraction(100), pts=Fraction(100), duration=None)
    assert epoch is not None
    if origin is not None:
        epoch.set_origin(Fraction(origin))
    return epoch


def summarize(damaged: tuple[tuple[float, float], ...]) -> DecodeSummary:
    return DecodeSummary(
        duration_seconds=1.0, epoch_count=1, frame_count=1, error_count=1, truncated=False, damaged=damaged
    )


def test_near_damage_is_one_part_and_far_damage_another() -> None:
    damage, epoch = Damage(), new_epoch()
    for second in (103, 101, 102, 110):
        damage.note(epoch, Fraction(second), Fraction(1, 2))
    damage.note()
    assert damage.spans() == ((1.0, 3.5), (10.0, 10.5))
    assert damage.count == 5


def test_damage_before_media_time_is_known_waits_for_it() -> None:
    damage, epoch = Damage(), new_epoch(origin=None)
    damage.note(epoch, Fraction(101), Fraction(1))
    epoch.set_origin(Fraction(100))
    assert damage.spans() == ((1.0, 2.0),)


def test_damage_before_media_time_zero_has_no_place() -> None:
    damage, epoch = Damage(), new_epoch()
    damage.note(epoch, Fraction(98), Fraction(1))
    damage.note(epoch, Fraction(99), Fraction(2))
    assert damage.spans() == ((0.0, 1.0),)


def test_many_parts_are_joined_into_a_few() -> None:
    chance = random.Random(3)
    damage, epoch = Damage(), new_epoch()
    seconds = [Fraction(chance.randrange(100, 90_000)) for _ in range(1000)]
    for second in seconds:
        damage.note(epoch, second)
    spans = damage.spans()
    summarize(spans)
    assert len(spans) == MAX_DAMAGED_COUNT
    assert all(after[0] - before[1] > MERGE_SECONDS for before, after in pairwise(spans))
    assert all(any(start <= second - 100 < end for start, end in spans) for second in seconds)


@pytest.mark.parametrize(
    "damaged",
    [((1.0, 1.0),), ((2.0, 1.0),), ((0.0, 2.0), (1.0, 3.0)), tuple((2.0 * i, 2.0 * i + 1) for i in range(21))],
)
def test_a_summary_refuses_parts_out_of_order(damaged: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(ValueError, match="damaged"):
        summarize(damaged)
