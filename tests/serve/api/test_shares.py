"""What callers hold together and alone, how often they ask, and whose turn it is."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from serve.api import workers as workers_module
from serve.api.shares import BURST_SECONDS, RateLimit, Shares, share_of
from serve.api.workers import Workers
from serve.errors import Overloaded
from support.waiting import HANG_SECONDS


def test_a_caller_holds_its_share_and_all_hold_the_total() -> None:
    changes: list[int] = []
    shares = Shares("calls", "max_calls", 4, 0.5, on_change=lambda: changes.append(shares.count))
    with ExitStack() as stack:
        for caller in ("ann", "ann", "bob"):
            stack.enter_context(shares.hold(caller))
        with pytest.raises(Overloaded, match="too many calls at once \\(max_caller_share\\)"), shares.hold("ann"):
            pass
        stack.enter_context(shares.hold(""))
        with pytest.raises(Overloaded, match="max_calls"), shares.hold("bob"):
            pass
    assert (shares.count, shares.held, changes) == (0, {}, [1, 2, 3, 4, 3, 2, 1, 0])


def test_callers_without_a_name_have_no_share() -> None:
    shares = Shares("calls", "max_calls", 4, 0.25)
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(shares.hold(""))
        with pytest.raises(Overloaded, match="max_calls"), shares.hold(""):
            pass


def test_a_share_is_at_least_one() -> None:
    assert [share_of(total, 0.25) for total in (1, 3, 4, 1000)] == [1, 1, 1, 250]


def test_questions_come_in_bursts_and_then_at_their_rate() -> None:
    now = 100.0
    limit = RateLimit("questions", "max_questions_per_second", 2.0, clock=lambda: now)
    for _ in range(int(2 * BURST_SECONDS) + 1):
        limit.take("ann")
    with pytest.raises(Overloaded, match="max_questions_per_second") as caught:
        limit.take("ann")
    assert caught.value.retry_after_seconds == pytest.approx(0.5)
    limit.take("bob")
    now += caught.value.retry_after_seconds
    limit.take("ann")
    with pytest.raises(Overloaded):
        limit.take("ann")
    for _ in range(100):
        limit.take("")


async def take_turns(
    monkeypatch: pytest.MonkeyPatch, callers: list[str], *, max_waiting_count: int = 100, share: float = 1.0
) -> tuple[list[str], list[str]]:
    """Let callers use one thread, all while it is busy; return them in the order of their work, and the refused."""
    caller, order, refused, go_on = "", list[str](), list[str](), threading.Event()
    monkeypatch.setattr(workers_module, "current_caller", lambda: caller)
    workers = Workers("test", 1, max_waiting_count, lambda count: None, limit="max_test", share=share)
    busy = asyncio.create_task(workers.run(lambda check: go_on.wait(HANG_SECONDS)))
    await asyncio.sleep(0)

    def work_of(name: str) -> Callable[[Callable[[], None]], None]:
        return lambda check: order.append(name)

    async def use(name: str) -> None:
        try:
            await workers.run(work_of(name))
        except Overloaded as error:
            refused.append(f"{name} {error.limit}")

    tasks = []
    for caller in callers:
        tasks.append(asyncio.create_task(use(caller)))
        await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(busy, *tasks)
    assert workers.call_count in (0, 1)  # the last thread is given back a moment later
    await asyncio.to_thread(workers.close)
    return order, refused


def test_callers_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    order, _ = asyncio.run(take_turns(monkeypatch, ["ann", "ann", "ann", "ann", "bob", "bob", "cay"]))
    assert order == ["ann", "bob", "cay", "ann", "bob", "ann", "ann"]


def test_a_caller_waits_with_its_share_only(monkeypatch: pytest.MonkeyPatch) -> None:
    callers = ["ann", "ann", "ann", "bob", "", "", ""]
    order, refused = asyncio.run(take_turns(monkeypatch, callers, max_waiting_count=5, share=0.4))
    assert sorted(order) == ["", "", "ann", "ann", "bob"]
    assert refused == ["ann max_caller_share", " max_test"]


def test_a_call_that_is_cancelled_while_it_waits_leaves_the_queue() -> None:
    async def run() -> None:
        go_on = threading.Event()
        workers = Workers("test", 1, 5, lambda count: None, limit="max_test")
        busy = asyncio.create_task(workers.run(lambda check: go_on.wait(HANG_SECONDS)))
        await asyncio.sleep(0)
        waiting = [asyncio.create_task(workers.run(lambda check: 7)) for _ in range(3)]
        await asyncio.sleep(0)
        assert workers.waiting_count == 3
        waiting[1].cancel()
        await asyncio.sleep(0)
        assert workers.waiting_count == 2
        go_on.set()
        assert await busy
        assert [await task for task in (waiting[0], waiting[2])] == [7, 7]
        assert await workers.run(lambda check: 8) == 8
        await asyncio.to_thread(workers.close)

    asyncio.run(run())
