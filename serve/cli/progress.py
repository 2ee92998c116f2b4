"""Shows the progress of commands: bars on a terminal, lines in a pipe, and the outcomes of an indexing run as JSON."""

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Self

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from serve.cli.failures import INTERRUPTED
from serve.cli.render import outcome_json
from serve.text import clock, plural, printable, title, to_json
from serve.values import IndexOutcome, IndexProgress

SAME_WARNING_COUNT = 5  # files that are named with the same warning
LEFT_OUT_SUFFIX_COUNT = 5  # suffixes that the summary names: the line stays about as long as a terminal is wide
LEFT_OUT_SUFFIX_CHARS = 12  # of one such suffix; behind the last dot of a sentence, there may be a long one
Start = Callable[[IndexProgress], Iterator[IndexOutcome]]  # starts an indexing run


@contextlib.contextmanager
def show_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on standard error if that is a terminal. Yields what moves it: the count done and the count of all."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)


class LineProgress(IndexProgress):
    """Prints notes, warnings and errors only; for pipes and logs."""

    def __init__(self) -> None:
        self.expected_count: int | None = None
        self._warned: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()  # files of folders that are no inputs, by suffix

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None: ...

    def expect(self, count: int) -> None:
        self.expected_count = count

    def leave_out(self, counts: Mapping[str, int]) -> None:
        self.left_out.update(counts)

    def note(self, line: str) -> None:
        click.echo(f"kinodex: {printable(line)}", err=True)

    def complain(self, line: str) -> None:
        """Print the error of an input on standard error."""
        click.echo(line, err=True)

    def warn(self, uri: str, warning: str) -> None:
        """Print a warning of an input on standard error. Of a thousand silent files, only the first few are named."""
        self._warned[warning] += 1
        count = self._warned[warning]
        if count <= SAME_WARNING_COUNT:
            end = " (further files with this warning are only counted)" if count == SAME_WARNING_COUNT else ""
            self._print_warning(f"kinodex: warning: {printable(uri)}: {printable(warning)}{end}")

    def _print_warning(self, line: str) -> None:
        click.echo(line, err=True)

    def count_outcome(self) -> None:
        """Count an outcome. An input that never started, such as a missing file, has an outcome too."""


class LiveProgress(LineProgress):
    """Shows a bar for all inputs, and a bar for each input that is being read; for terminals."""

    def __init__(self) -> None:
        super().__init__()
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[state]}", markup=False, style="cyan"),
            console=Console(stderr=True),
            transient=True,  # only the summary line stays
        )
        self._all = self._bars.add_task("videos", total=None, state="")
        self._tasks: dict[str, tuple[TaskID, float]] = {}  # uri -> its bar, and the time at which it started

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()

    def expect(self, count: int) -> None:
        super().expect(count)
        self._bars.update(self._all, total=count, state=f"0 of {count}")

    def note(self, line: str) -> None:
        self._print(printable(line), "dim")

    def complain(self, line: str) -> None:
        self._print(line, "red")

    def _print_warning(self, line: str) -> None:
        self._print(line, "yellow")

    def _print(self, line: str, style: str) -> None:
        self._bars.console.print(Text(line, style=style), soft_wrap=True)

    def start(self, uri: str) -> None:
        name = Text(title(uri))
        name.truncate(32, overflow="ellipsis")  # leaves the bar and the times their room in 80 columns
        task = self._bars.add_task(name.plain, total=None, state="opening")
        self._tasks[uri] = (task, time.monotonic())

    def advance(self, uri: str, media_seconds: float, duration_seconds: float | None) -> None:
        if uri not in self._tasks:
            return
        task, since = self._tasks[uri]
        state = clock(media_seconds) + (f" of {clock(duration_seconds)}" if duration_seconds else "")
        state += f"  {_speed(media_seconds, time.monotonic() - since)}"
        self._bars.update(task, completed=media_seconds, total=duration_seconds, state=state)

    def finish(self, uri: str) -> None:
        if uri in self._tasks:
            self._bars.remove_task(self._tasks.pop(uri)[0])

    def count_outcome(self) -> None:
        self._bars.advance(self._all)
        done = int(self._bars.tasks[0].completed)
        self._bars.update(self._all, state=f"{done} of {self.expected_count}")


def _speed(media_seconds: float, elapsed_seconds: float) -> str:
    return f"{media_seconds / elapsed_seconds:.1f}x real time" if elapsed_seconds > 0 else ""


def run_with_progress(start: Start, *, as_json: bool) -> int:
    """Run an indexing to its end, and show each outcome when it arrives.

    Args:
        start: Starts the run with the progress to report to; returns its outcomes.
        as_json: Print one JSON object an outcome on standard output, and nothing else there.
    Returns:
        The exit status: 0, 1 if any input failed, 130 if Ctrl-C stopped the run.
    """
    live = not as_json and sys.stdout.isatty() and sys.stderr.isatty()
    progress = LiveProgress() if live else LineProgress()
    outcomes: list[IndexOutcome] = []
    since = time.monotonic()
    try:
        with progress, contextlib.closing(_closable(start(progress))) as run:
            for outcome in run:
                outcomes.append(outcome)
                progress.count_outcome()
                _show_outcome(outcome, progress, as_json=as_json, live=live)
    except KeyboardInterrupt:
        done = str(sum(outcome.status != "failed" for outcome in outcomes))
        of_all = f" of {progress.expected_count}" if progress.expected_count else ""
        click.echo(f"kinodex: stopped: {done}{of_all} indexed; run the same command again to continue", err=True)
        return INTERRUPTED
    if progress.left_out:
        click.echo(f"kinodex: {_left_out_line(progress.left_out)}", err=True)
    if not as_json:
        click.echo(_summary_line(outcomes, progress.left_out.total(), time.monotonic() - since))
    return 1 if any(outcome.status == "failed" for outcome in outcomes) else 0


def _closable(outcomes: Iterator[IndexOutcome]) -> Generator[IndexOutcome]:
    """Yield the outcomes. Closing this generator ends the run at once."""
    yield from outcomes


def _show_outcome(outcome: IndexOutcome, progress: LineProgress, *, as_json: bool, live: bool) -> None:
    if as_json:
        click.echo(to_json(outcome_json(outcome)))
    elif not live and outcome.status != "failed":
        length = clock(outcome.duration_seconds or 0)
        counts = ", ".join(
            (
                plural(outcome.frames, "frame"),
                plural(outcome.segments, "segment"),
                plural(outcome.utterances, "utterance"),
            )
        )
        identity = printable(outcome.video_id or "")
        new = "; new version" if outcome.is_new_version else ""
        click.echo(f"{outcome.status:<9}  {identity}  {length:>7}  {title(outcome.uri)}  ({counts}{new})")
    if outcome.is_new_version and (as_json or live):
        progress.note(f"{title(outcome.uri)} has changed: its new version replaces the old one")
    if outcome.status == "failed":
        reason = printable(outcome.error or "indexing failed without a reason")
        suffix = "" if printable(outcome.uri) in reason else f": {printable(outcome.uri)}"
        progress.complain(f"kinodex: error: {reason}{suffix}")
    if outcome.status == "indexed":  # an unchanged video had its warnings when it was indexed; the summary counts them
        for warning in outcome.warnings:
            progress.warn(outcome.uri, warning)


def _summary_line(outcomes: list[IndexOutcome], left_out_count: int, elapsed_seconds: float) -> str:
    count = {
        status: sum(outcome.status == status for outcome in outcomes) for status in ("indexed", "unchanged", "failed")
    }
    parts = [f"{count[status]} {status}" for status in count if count[status] or status == "indexed"]
    if new_count := sum(outcome.is_new_version for outcome in outcomes):
        parts[0] += f" ({plural(new_count, 'new version')})"
    if warned_count := sum(bool(outcome.warnings) for outcome in outcomes):
        parts.append(f"{warned_count} with warnings")
    if left_out_count:
        parts.append(f"{left_out_count} left out")
    media_seconds = sum(outcome.duration_seconds or 0 for outcome in outcomes if outcome.status == "indexed")
    line = ", ".join(parts)
    if media_seconds:
        speed = _speed(media_seconds, elapsed_seconds)
        line += f": {clock(media_seconds)} of video in {clock(elapsed_seconds)} ({speed})"
    return line


def _left_out_line(left_out: Counter[str]) -> str:
    """Count the files of folders that are neither video nor audio, the most frequent suffixes by name."""
    named = left_out.most_common(LEFT_OUT_SUFFIX_COUNT)
    parts = [f"{count} {printable(suffix)[:LEFT_OUT_SUFFIX_CHARS] or 'without a suffix'}" for suffix, count in named]
    rest_count = left_out.total() - sum(count for _, count in named)
    parts += [f"{rest_count} of other kinds"] if rest_count else []
    return f"{plural(left_out.total(), 'other file')} left out: {', '.join(parts)}"
