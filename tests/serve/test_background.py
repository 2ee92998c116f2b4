"""Background threads: what they repeat, how they are woken and stopped, what they log of errors."""

import logging
import threading
from collections.abc import Callable

import pytest

from serve.background import STOP_SECONDS, Background, Backoff, Stopped
from serve.catalog.sqlite import BUSY_TIMEOUT_SECONDS
from support.waiting import HANG_SECONDS

FOREVER_SECONDS = 1000.0


class Steps:
    """Work that does one given step after the other, and then stops its thread."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        self.steps, self.count, self.done = list(steps), 0, threading.Event()

    def __call__(self) -> None:
        if not self.steps:
            self.done.set()
            raise Stopped
        self.count += 1
        self.steps.pop(0)()


def fail(error: Exception) -> Callable[[], object]:
    def step() -> None:
        raise error

    return step


def succeed() -> None:
    pass


def run_to_end(work: Steps, **options: object) -> None:
    background = Background("counter", work, pause_seconds=0.0, **options)  # type: ignore[arg-type]
    background.start()
    assert work.done.wait(HANG_SECONDS)
    background.stop()
    assert not background.is_alive


def test_backoff_doubles_up_to_its_bound_and_begins_again() -> None:
    backoff = Backoff(1.0, 5.0)
    assert [backoff.next_seconds() for _ in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    backoff.reset()
    assert backoff.next_seconds() == 1.0


def test_repeats_its_work_until_the_work_ends_the_thread() -> None:
    work = Steps(succeed, succeed, succeed)
    run_to_end(work)
    assert work.count == 3


def test_wake_cuts_the_pause_short() -> None:
    begun, again = threading.Event(), threading.Event()
    work = Steps(begun.set, again.set)
    background = Background("counter", work, pause_seconds=FOREVER_SECONDS)
    background.start()
    assert begun.wait(HANG_SECONDS)
    background.wake()
    assert again.wait(HANG_SECONDS)
    background.stop()


def test_stop_ends_a_pause_a_wait_and_a_backoff() -> None:
    begun = threading.Event()
    in_pause = Background("counter", begun.set, pause_seconds=FOREVER_SECONDS)
    in_pause.start()
    assert begun.wait(HANG_SECONDS)
    in_pause.stop()
    assert not in_pause.is_alive

    waits: list[bool] = []
    begun.clear()

    def wait() -> None:
        begun.set()
        waits.append(in_wait.wait(FOREVER_SECONDS))

    in_wait = Background("counter", wait, pause_seconds=0.0)
    in_wait.start()
    assert begun.wait(HANG_SECONDS)
    in_wait.stop()
    assert not in_wait.is_alive
    assert waits == [True]
    assert in_wait.is_stopping

    failed = threading.Event()
    in_backoff = Background(
        "counter", fail(OSError("no disk")), pause_seconds=0.0, backoff=Backoff(FOREVER_SECONDS, FOREVER_SECONDS),
        on_error=lambda error: failed.set(),
    )  # fmt: skip
    in_backoff.start()
    assert failed.wait(HANG_SECONDS)
    in_backoff.stop()
    assert not in_backoff.is_alive


def test_stop_gives_up_on_work_that_hangs(caplog: pytest.LogCaptureFixture) -> None:
    begun, released = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        released.wait(HANG_SECONDS)

    background = Background("counter", hang, pause_seconds=0.0, stop_seconds=0.01)
    background.start()
    assert begun.wait(HANG_SECONDS)
    background.stop()
    assert background.is_alive
    assert [record.getMessage() for record in caplog.records] == ["counter did not end in time seconds=0.01"]
    released.set()
    background._thread.join(HANG_SECONDS)
    background.stop()
    assert not background.is_alive


def test_stop_waits_longer_than_a_transaction_waits_for_another_process() -> None:
    assert STOP_SECONDS > BUSY_TIMEOUT_SECONDS  # after stop() the caller closes the catalog


def test_stop_before_start_does_nothing() -> None:
    background = Background("counter", succeed, pause_seconds=0.0)
    background.stop()
    assert not background.is_alive


def test_an_error_ends_neither_the_thread_nor_later_work_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    errors: list[str] = []
    away = OSError("away")
    work = Steps(*map(fail, (away, away, OSError("far away"), KeyError("bug"), KeyError("bug"))), succeed, fail(away))
    run_to_end(work, expected=(OSError,), on_error=lambda error: errors.append(str(error)))
    assert work.count == 7
    assert errors == ["away", "away", "far away", "'bug'", "'bug'", "away"]
    assert [(record.levelno, record.getMessage(), bool(record.exc_info)) for record in caplog.records] == [
        (logging.ERROR, "counter waits reason=away", False),
        (logging.ERROR, "counter waits reason=far away", False),
        (logging.ERROR, "counter failed", True),
        (logging.ERROR, "counter waits reason=away", False),
    ]


def test_success_resets_the_backoff() -> None:
    backoff = Backoff(0.001, 10.0)
    run_to_end(Steps(fail(OSError()), fail(OSError()), succeed), backoff=backoff)
    assert backoff.next_seconds() == 0.001


def test_long_work_can_note_a_success_itself(caplog: pytest.LogCaptureFixture) -> None:
    had_problem: list[bool] = []

    def connect_and_lose() -> None:
        had_problem.append(background.note_success())
        if len(had_problem) == 3:
            done.set()
            raise Stopped
        raise OSError("lost")

    done = threading.Event()
    background = Background("counter", connect_and_lose, pause_seconds=0.0, expected=(OSError,))
    background.start()
    assert done.wait(HANG_SECONDS)
    background.stop()
    assert had_problem == [False, True, True]
    assert len(caplog.records) == 2
