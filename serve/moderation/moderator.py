"""Keeps the events of a catalog up to its videos and to the policies, for a server and for `kinodex rescore`.

Why an event is neither lost nor told twice, whenever the process is killed: what is found in a video, and how far it
was looked at, are written in one transaction. What was not written is found again, the same.
"""

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from serve.catalog.catalog import Catalog
from serve.catalog.events import EventLog
from serve.catalog.final_utterances import FinalUtterances
from serve.errors import DataDirectoryBusy, DataDirectoryInvalid, IndexUnavailable
from serve.event import Event
from serve.moderation.policies import Policies
from serve.moderation.policy_file import ActivePolicies
from serve.moderation.video import Rulebook, VideoScorer
from serve.search.engine import Engine
from serve.values import Video

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0  # between two looks at the policies, and at the catalog if nobody says that it changed
RETRY_SECONDS = 60.0  # until a video that could not be scored is tried again: what was wrong may have passed
KEEP_SECONDS = 10.0  # where nothing is found, how far a live video was looked at is written this often


@dataclass(slots=True, kw_only=True)
class _Known:
    """What is known of one video without asking."""

    version: tuple[object, ...]  # of the video, and its rulebook, when it was last looked at
    scorer: VideoScorer | None = None  # None: it is over, and not kept in memory
    turn: int = 0
    kept_at: float = 0.0  # by the monotonic clock


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failed:
    """A video that could not be scored."""

    video_id: str
    version: tuple[object, ...]  # as of _Known
    reason: str
    retry_at: float  # by the monotonic clock; before, if it changes


class Moderator:
    """Scores what is not scored yet. bring_up() does it once; start() again and again, in a thread."""

    def __init__(
        self,
        engine: Engine,
        editor: Catalog,
        policies: ActivePolicies,
        *,
        on_events: Callable[[list[Event]], None] = lambda events: None,
    ) -> None:
        """Take what is to be brought together.

        Args:
            editor: Open for small changes (or for writing).
            on_events: Told of what was written, by the thread that wrote it.
        """
        self.engine, self.editor, self.policies, self.on_events = engine, editor, policies, on_events
        self.log = EventLog(editor)
        self.books: dict[str, Rulebook] = {}  # by collection
        self.known: dict[int, _Known] = {}  # by row
        self.failed: dict[int, _Failed] = {}  # by row: those that could not be scored
        self.stopping, self.woken = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.run, name="moderator", daemon=True)
        self.trouble = ""
        self.is_begun = False
        self.settled_state: tuple[str, int] | None = None  # of the catalog, when all was scored

    # ---- the thread

    def start(self) -> None:
        """Begin."""
        self.thread.start()

    def wake(self) -> None:
        """Look at once: something changed."""
        self.woken.set()

    def stop(self) -> None:
        """End, after the video under way. May be called twice."""
        self.stopping.set()
        self.woken.set()
        if self.thread.is_alive():
            self.thread.join()

    def run(self) -> None:
        """Score what changes, until stop()."""
        while not self.stopping.is_set():
            try:
                self.bring_up()
                self.trouble = ""
            except (DataDirectoryBusy, DataDirectoryInvalid, IndexUnavailable) as error:  # they may come back
                if self.trouble != str(error):
                    self.trouble = str(error)
                    logger.error("events wait reason=%s", error)
            except Exception:  # a bug: answers go on, and the log says that events do not
                logger.exception("moderation failed")
                self.known.clear()
                self.stopping.wait(LOOK_SECONDS)
            self.woken.wait(LOOK_SECONDS)
            self.woken.clear()

    # ---- what is to be done

    def bring_up(self, on_video: Callable[[int, int], None] = lambda done, total: None) -> int:
        """Score all that is not scored by the policies in force; return how many videos changed.

        Args:
            on_video: Told how many videos are done, and how many there are to do.
        """
        if self.policies.refresh() or not self.is_begun:
            self.is_begun, self.settled_state = True, None
            self.books = {}
            self._recall()
        if self.policies.policies is None and (
            not self.policies.is_taken_away or not self.editor.rows("SELECT 1 FROM screenings LIMIT 1")
        ):
            return 0  # nobody knows what is to hold, or there is nothing to withdraw
        state = self.engine.state
        if state == self.settled_state and state is not None:
            return 0
        due = list(self.due())
        for done, (video, version) in enumerate(due):
            if self.stopping.is_set():
                break
            on_video(done, len(due))
            try:
                self.score(video, version)
                self.failed.pop(video.row, None)
            except (DataDirectoryBusy, DataDirectoryInvalid):  # no video can be scored then
                raise
            except Exception as error:  # a bug, or a damaged video: the others are scored
                self._note_failed(video, version, error)
        on_video(len(due), len(due))
        self.settled_state = state if not self.failed and not any(True for _ in self.due()) else None
        return len(due)

    def due(self) -> Iterator[tuple[Video, tuple[object, ...]]]:
        """Yield the videos that changed since they were scored, or whose policies did."""
        videos = self.engine.videos
        for noted in (self.known, self.failed):
            for row in noted.keys() - videos.keys():
                del noted[row]
        for row, video in videos.items():
            version = (video.version, self.book(video.collection).digest)
            known, failed = self.known.get(row), self.failed.get(row)
            if known is not None and known.version == version:
                continue
            if failed is None or failed.version != version or time.monotonic() >= failed.retry_at:
                yield video, version

    def _note_failed(self, video: Video, version: tuple[object, ...], error: Exception) -> None:
        """Note that a video could not be scored; the log tells it once of the video as it is."""
        before = self.failed.get(video.row)
        if before is None or before.version != version:
            logger.error("video not scored video=%s/%s", video.collection, video.video_id, exc_info=error)
        self.known.pop(video.row, None)
        self.failed[video.row] = _Failed(
            video_id=video.video_id, version=version, reason=f"{type(error).__name__}: {error}",
            retry_at=time.monotonic() + RETRY_SECONDS,
        )  # fmt: skip

    def book(self, collection: str) -> Rulebook:
        """Return what holds for a collection."""
        if collection not in self.books:
            policies = self.policies.policies or Policies(version="", policies=())
            self.books[collection] = Rulebook(policies, collection, self.engine.visual, self.engine.fingerprint)
        return self.books[collection]

    def _recall(self) -> None:
        """Learn which files are scored to their end already, so that a start does not read them all."""
        self.known = {
            row: _Known(version=(0, digest))
            for row, digest in self.editor.rows(
                "SELECT video_row, digest FROM screenings JOIN videos ON row = video_row"
                " WHERE NOT live AND json_extract(screenings.state, '$.is_over')"
            )
        }

    # ---- one video

    def score(self, video: Video, version: tuple[object, ...]) -> None:
        """Follow a video from where it was left, and write what is found."""
        book, row = self.book(video.collection), video.row
        known = self.known.setdefault(row, _Known(version=()))
        if known.scorer is None or known.scorer.book is not book:
            known.scorer, known.turn = self._kept(row, book)
        is_new = known.scorer is None
        scorer = known.scorer or VideoScorer(book)
        known.scorer, known.version = None, ()  # until all that it found is written
        found = []
        with self.engine.snapshot():
            current = self.engine.videos.get(row)
            if current is None:
                self.known.pop(row, None)
                return
            video = current
            frames = None
            if self.engine.visual is not None:
                frames = self.engine.visual.frames.get(row, video.version)
            utterances = FinalUtterances(self.engine.catalog).after(video, scorer.words_after)
        if frames is not None:
            found += list(scorer.add_frames(frames))
        until = video.duration_seconds if video.watermark_seconds is None else video.watermark_seconds
        found += list(scorer.add_utterances(utterances, until))
        if not video.is_growing:
            found += list(scorer.finish(video.duration_seconds))
        events = scorer.events(video, found)
        first_seconds = float(frames.pts_seconds[0]) if frames is not None and len(frames.pts_seconds) else 0.0
        is_kept = video.is_growing and time.monotonic() - known.kept_at < KEEP_SECONDS
        if not events and not is_new and is_kept:
            known.version, known.scorer = version, scorer
            return
        written = self._write(video, scorer, known.turn, events, first_seconds if is_new else None)
        if written is None:  # somebody else scored it meanwhile: from what they left, next time
            self.known.pop(row, None)
            return
        known.version, known.turn, known.kept_at = version, known.turn + 1, time.monotonic()
        known.scorer = scorer if video.is_live else None
        if written:
            self.on_events(written)

    def _kept(self, row: int, book: Rulebook) -> tuple[VideoScorer | None, int]:
        """Return where a video was left by these policies, None if it was not; and the turn of its row."""
        found = self.editor.rows("SELECT turn, digest, state FROM screenings WHERE video_row = ?", row)
        if not found:
            return None, 0
        ((turn, digest, state),) = found
        return (VideoScorer(book, json.loads(state)) if digest == book.digest else None), turn

    def _write(
        self, video: Video, scorer: VideoScorer, turn: int, events: list[Event], anew_from: float | None
    ) -> list[Event] | None:
        """Write events, and how far the video was looked at; return what changed. None: another process did so first.

        Args:
            anew_from: The video was scored from this time on, where it begins by now; None: from where it was left.
        """
        with self.editor.editing() as edit:
            there = edit.execute("SELECT 1 FROM videos WHERE row = ? AND state = 'READY'", (video.row,)).fetchone()
            stored = edit.execute("SELECT turn FROM screenings WHERE video_row = ?", (video.row,)).fetchone()
            if there is None or (turn if stored is None else stored[0]) != turn:
                return None
            if anew_from is not None:
                events = self._replaced(edit, video.row, events, anew_from)
            written = [self.log.record(edit, video.row, event) for event in events]
            edit.execute(
                "INSERT OR REPLACE INTO screenings VALUES (?, ?, ?, ?)",
                (video.row, turn + 1, scorer.book.digest, json.dumps(scorer.state())),
            )
        return written

    def _replaced(self, edit: sqlite3.Connection, row: int, events: list[Event], first_seconds: float) -> list[Event]:
        """Withdraw what other policies found and these do not; return what is new of what these find."""
        before = {event.event_id: event for event in self.log.of_video(row)}
        last = {event.event_id: event for event in events}
        for name, event in before.items():
            if name not in last and event.end_seconds > first_seconds:  # what is pruned cannot be looked at again
                self.log.withdraw(edit, name)
        fresh = [event for event in events if event.event_id not in before]
        changed = [event for name, event in last.items() if name in before and not event.is_same(before[name])]
        return fresh + changed


@dataclass(frozen=True, slots=True, kw_only=True)
class RescoreReport:
    """What became of a library that was scored once."""

    version: str  # of the policies
    video_count: int  # that had to be scored, and were
    change_count: int
    event_count: int  # in all, by now
    failed: dict[str, str]  # the videos that could not be scored, and why


def rescore_library(
    engine: Engine, directory: Path, policies: ActivePolicies, on_video: Callable[[int, int], None]
) -> RescoreReport:
    """Score a library once by the policies in force.

    Args:
        on_video: As of Moderator.bring_up.
    Raises:
        DataDirectoryInvalid: If the catalog cannot be written to.
    """
    with Catalog.open_editor(directory) as editor:
        log = EventLog(editor)
        before = log.last_sequence()
        engine.refresh()
        moderator = Moderator(engine, editor, policies)
        video_count = moderator.bring_up(on_video)
        return RescoreReport(
            version=policies.policies.version if policies.policies is not None else "",
            video_count=video_count - len(moderator.failed),
            change_count=log.last_sequence() - before,
            event_count=log.count(),
            failed={one.video_id: one.reason for one in moderator.failed.values()},
        )
