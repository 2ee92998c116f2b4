"""How many cores each thread computes with."""

import threading
from collections.abc import Iterator

import pytest
import torch

from encoders.threads import LEAST_SHARE, MAX_LANE_COUNT, Lanes, one_core
from support.waiting import HANG_SECONDS


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
    lanes = Lanes("cpu")
    assert lanes.count == min(core_count, MAX_LANE_COUNT)
    at_once = threading.Barrier(lanes.count)

    def work(share: range) -> tuple[list[int], int]:
        at_once.wait(timeout=HANG_SECONDS)
        return list(share), torch.get_num_threads()

    done = lanes.map(work, range(LEAST_SHARE * lanes.count + 3))
    assert [each for share, _ in done for each in share] == list(range(LEAST_SHARE * lanes.count + 3))
    assert [cores for _, cores in done] == [core_count // lanes.count] * lanes.count
    assert torch.get_num_threads() == core_count


@pytest.mark.parametrize(("device", "item_count"), [("cpu", 0), ("cpu", 2 * LEAST_SHARE - 1), ("cuda", 100)])
def test_little_work_and_that_of_another_device_is_not_shared_out(device: str, item_count: int) -> None:
    here = threading.get_ident()
    assert Lanes(device).map(lambda share: (len(share), threading.get_ident()), range(item_count)) == [
        (item_count, here)
    ]


def test_a_failure_in_a_lane_is_raised(core_count: int) -> None:
    def work(share: range) -> float:
        return 1 / share[0]

    with pytest.raises(ZeroDivisionError):
        Lanes("cpu").map(work, range(40))
