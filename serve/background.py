"""Background: a thread that repeats a piece of work beside a server's calls. Backoff: growing waits between tries."""

import logging
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)

# Bound of Background.stop(); a server that ends waits this long for each of its threads, and then closes what they use.
# Longer than a transaction waits for another process (BUSY_TIMEOUT_SECONDS in serve.catalog.sqlite, 30 s).
STOP_SECONDS = 40.0


class Stopped(Exception):
    """Raised by the work of a Background to end its thread."""


class Backoff:
    """Seconds to wait before the next try. They double with each failure, up to a bound."""

    def __init__(self, first_seconds: float, last_seconds: float) -> None:
        self._first_seconds, self._last_seconds = first_seconds, last_seconds
        self._next_seconds = first_seconds

    def next_seconds(self) -> float:
        """Return how long to wait now, and double what the next call returns."""
        seconds = self._next_seconds
        self._next_seconds = min(self._last_seconds, 2 * seconds)
        return seconds

    def reset(self) -> None:
        """Begin again with the shortest wait, after a success."""
        self._next_seconds = self._first_seconds


class Background:
    """A daemon thread that repeats `work` between start() and stop(), with a pause after each time.

    An exception of `work` does not end the thread. It is logged once until it changes or `work` succeeds: as a line
    if its class is among `expected`, with traceback otherwise. Only Stopped ends the thread.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], object],
        *,
        pause_seconds: float,
        expected: tuple[type[Exception], ...] = (),
        backoff: Backoff | None = None,
        on_error: Callable[[Exception], object] = lambda error: None,
        stop_seconds: float = STOP_SECONDS,
    ) -> None:
        """Take the work; start() begins it.

        Args:
            name: Names the thread, also in log lines.
            pause_seconds: Between two times, unless wake() cuts it short.
            expected: Exceptions that pass by themselves, e.g. of a broker that is away.
            backoff: Waits after an exception, which wake() does not cut short. None: the same pause as after success.
            on_error: Called in the thread with every exception of `work`, after it was logged.
            stop_seconds: The longest that stop() waits for the thread.
        """
        self._name, self._work, self._pause_seconds = name, work, pause_seconds
        self._expected, self._backoff, self._on_error = expected, backoff, on_error
        self._stop_seconds = stop_seconds
        self._stopping, self._woken = threading.Event(), threading.Event()
        self._problem = ""  # the exception logged last; empty: `work` succeeded since
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def is_stopping(self) -> bool:
        """Whether stop() was called: long work asks this between two steps."""
        return self._stopping.is_set()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Cut the pause short, as there is work now."""
        self._woken.set()

    def wait(self, seconds: float) -> bool:
        """Wait within the work, at most until stop(); return whether stop() was called."""
        return self._stopping.wait(seconds)

    def stop(self) -> None:
        """End the thread after the work under way; log an error if that takes too long. May be called twice."""
        self._stopping.set()
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join(self._stop_seconds)
        if self._thread.is_alive():
            logger.error("%s did not end in time seconds=%g", self._name, self._stop_seconds)

    def note_success(self) -> bool:
        """Reset the backoff, and log the next exception again; return whether an exception came before.

        Done whenever `work` returns; work that goes on for long calls it itself.
        """
        had_problem, self._problem = bool(self._problem), ""
        if self._backoff is not None:
            self._backoff.reset()
        return had_problem

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._work()
            except Stopped:
                return
            except Exception as error:
                self._note_error(error)
                if self._backoff is not None:
                    self._stopping.wait(self._backoff.next_seconds())
                    continue
            else:
                self.note_success()
            self._woken.wait(self._pause_seconds)
            self._woken.clear()

    def _note_error(self, error: Exception) -> None:
        problem = repr(error)
        if problem != self._problem:
            self._problem = problem
            if isinstance(error, self._expected):
                logger.error("%s waits reason=%s", self._name, error)
            else:
                logger.exception("%s failed", self._name)
        self._on_error(error)
