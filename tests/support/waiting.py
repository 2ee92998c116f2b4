"""Waits for effects of other threads and processes. Their bound only ends a hang, so a slow machine fails no test."""

import time
from collections.abc import Callable
from typing import TypeVar

HANG_SECONDS = 300.0  # bound of every wait; below pytest's own timeout, whose report says less
MAX_PAUSE_SECONDS = 0.1  # longest pause between two looks; some looks read whole topics

Result = TypeVar("Result")


def wait_until(look: Callable[[], Result]) -> Result:
    """Call `look` until its result is true, and return that result."""
    end, pause = time.monotonic() + HANG_SECONDS, 0.005
    while not (result := look()):
        assert time.monotonic() < end, f"the condition did not hold within {HANG_SECONDS:g} s"
        time.sleep(pause)
        pause = min(2 * pause, MAX_PAUSE_SECONDS)
    return result
