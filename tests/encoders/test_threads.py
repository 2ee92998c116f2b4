"""How many cores each thread computes with."""

import threading
from collections.abc import Iterator

import pytest
import torch

from encoders.threads import MAX_LANE_COUNT, Lanes, one_core


@pytest.fixture(params=[1, 2, 9])
def core_count(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_one_core_is_for_this_thread_and_for_now(core_count: int) -> None:
    others: list[int] = []
    with one_core():
        assert torch.get_num_threads() == 1
        thread = threading.Thread(target=lambda: others.append(torch.get_num_threads()))
        thread.start()
        thread.join()
    assert (torch.get_num_threads(), others) == (core_count, [core_count])


def test_lanes_share_the_cores(core_count: int) -> None:
    lanes = Lanes()
    assert lanes.count == min(core_count, MAX_LANE_COUNT)
    at_once = threading.Barrier(lanes.count)

    def work(number: int) -> tuple[int, int]:
        at_once.wait(timeout=10)
        return number, torch.get_num_threads()

    assert lanes.map(work, range(lanes.count)) == [(n, core_count // lanes.count) for n in range(lanes.count)]
    assert torch.get_num_threads() == core_count


def test_a_failure_in_a_lane_is_raised(core_count: int) -> None:
    def work(number: int) -> float:
        return 1 / number

    with pytest.raises(ZeroDivisionError):
        Lanes().map(work, [1, 0, 1])
