"""Moderator: keeps the events of a catalog up to its videos and its policies, in a server and in `kinodex rescore`.

No event is lost or recorded twice, whenever the process is killed: one transaction writes the changes of events and how
far the video was scored. Changes that were not written are found again, equal to the first time.
"""

import json
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from serve.background import Background
from serve.catalog.catalog import Catalog
from serve.catalog.events import EventLog
from serve.catalog.final_utterances import FinalUtterances
from serve.errors import DataDirectoryBusy, DataDirectoryInvalid, IndexUnavailable
from serve.event import Event
from serve.moderation.active_policies import ActivePolicies
from serve.moderation.policies import Policies
from serve.moderation.video_scorer import Rulebook, VideoScorer
from serve.search.engine import Engine
from serve.values import Video

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 1.0  # between two looks at the policies and the videos, unless wake() says that videos changed
RETRY_SECONDS = 60.0  # before a video that could not be scored is tried again, as the cause may have passed
WRITE_SECONDS = 10.0  # between two notes of how far a live video is scored, while it has no changes of events
TEMPORARY_ERRORS = (DataDirectoryBusy, DataDirectoryInvalid, IndexUnavailable)


@dataclass(slots=True, kw_only=True)
class _ScoredVideo:
    """State of one video after the moderator scored it."""

    version: tuple[object, ...]  # of the video and of its rulebook
    scorer: VideoScorer | None = None  # None: not held in memory; the catalog has its state
    turn: int = 0  # how often the state in the catalog was written: another process that writes it raises this, too
    written_at: float = 0.0  # by the monotonic clock


@dataclass(frozen=True, slots=True, kw_only=True)
class _FailedVideo:
    """A video that could not be scored."""

    video_id: str
    version: tuple[object, ...]  # as of _ScoredVideo
    reason: str
    retry_at: float  # by the monotonic clock; a video that changes is tried earlier


class Moderator(Background):
    """Scores videos that changed, or whose policies changed: score_due_videos() once, start() in a thread."""

    def __init__(
        self,
        engine: Engine,
        editor: Catalog,
        policies: ActivePolicies,
        *,
        on_events: Callable[[list[Event]], None] = lambda events: None,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        """Take the videos, the catalog and the policies.

        Args:
            editor: Open for small changes (or for writing).
            on_events: Called with the changes that were written, in the thread that wrote them.
        """
        super().__init__(
            "moderator",
            self.score_due_videos,
            pause_seconds=PAUSE_SECONDS,
            expected=TEMPORARY_ERRORS,
            on_error=self._forget,
        )
        self.engine, self.editor, self.policies, self.on_events = engine, editor, policies, on_events
        self.log = EventLog(editor)
        self.failed: dict[int, _FailedVideo] = {}  # by row of the catalog
        self._scored: dict[int, _ScoredVideo] = {}  # by row of the catalog
        self._books: dict[str, Rulebook] = {}  # by collection
        self._retry_seconds = retry_seconds
        self._is_begun = False
        self._settled_state: tuple[str, int] | None = None  # of the catalog when all videos were scored last

    def _forget(self, error: Exception) -> None:
        """Read the state of all videos from the catalog again after a bug."""
        if not isinstance(error, TEMPORARY_ERRORS):
            self._scored.clear()

    def score_due_videos(self, on_video: Callable[[int, int], None] = lambda done, total: None) -> int:
        """Score all videos that are due; return their number. `on_video` gets the numbers of those done, and of all."""
        if self.policies.refresh() or not self._is_begun:
            self._is_begun, self._settled_state = True, None
            self._books = {}
            self._load_scored()
        if self.policies.policies is None and (
            not self.policies.is_removed or not self.editor.select("SELECT 1 FROM screenings LIMIT 1")
        ):
            return 0  # the policies are unknown, or there is no event to withdraw
        state = self.engine.state
        if state == self._settled_state and state is not None:
            return 0
        due = list(self._due_videos())
        for done, (video, version) in enumerate(due):
            if self.is_stopping:
                break
            on_video(done, len(due))
            try:
                self.score(video, version)
                self.failed.pop(video.row, None)
            except (DataDirectoryBusy, DataDirectoryInvalid):  # no other video can be scored then
                raise
            except Exception as error:  # a bug, or a damaged video: the other videos are scored
                self._note_failed(video, version, error)
        on_video(len(due), len(due))
        is_settled = not self.failed and not any(True for _ in self._due_videos())
        self._settled_state = state if is_settled else None
        return len(due)

    def _due_videos(self) -> Iterator[tuple[Video, tuple[object, ...]]]:
        """Yield the videos that changed since they were scored, or whose policies changed, with their versions."""
        videos = self.engine.videos
        for noted in (self._scored, self.failed):
            for row in noted.keys() - videos.keys():
                del noted[row]
        for row, video in videos.items():
            version = (video.version, self._book_of(video.collection).digest)
            scored, failed = self._scored.get(row), self.failed.get(row)
            if scored is not None and scored.version == version:
                continue
            if failed is None or failed.version != version or time.monotonic() >= failed.retry_at:
                yield video, version

    def _note_failed(self, video: Video, version: tuple[object, ...], error: Exception) -> None:
        """Note that a video could not be scored; log it once for each version."""
        before = self.failed.get(video.row)
        if before is None or before.version != version:
            logger.error("video not scored video=%s/%s", video.collection, video.video_id, exc_info=error)
        self._scored.pop(video.row, None)
        self.failed[video.row] = _FailedVideo(
            video_id=video.video_id, version=version, reason=f"{type(error).__name__}: {error}",
            retry_at=time.monotonic() + self._retry_seconds,
        )  # fmt: skip

    def _book_of(self, collection: str) -> Rulebook:
        if collection not in self._books:
            policies = self.policies.policies or Policies(version="", policies=())
            self._books[collection] = Rulebook(policies, collection, self.engine.visual, self.engine.fingerprint)
        return self._books[collection]

    def _load_scored(self) -> None:
        """Load the list of files that are scored to their end: a start need not read their rows again."""
        self._scored = {
            row: _ScoredVideo(version=(0, digest))
            for row, digest in self.editor.select(
                "SELECT video_row, digest FROM screenings JOIN videos ON row = video_row"
                " WHERE NOT live AND json_extract(screenings.state, '$.is_over')"
            )
        }

    def score(self, video: Video, version: tuple[object, ...]) -> None:
        """Score a video from where it was left, and write the changes of its events."""
        book, row = self._book_of(video.collection), video.row
        scored = self._scored.setdefault(row, _ScoredVideo(version=()))
        if scored.scorer is None or scored.scorer.book is not book:
            scored.scorer, scored.turn = self._load_scorer(row, book)
        is_new = scored.scorer is None
        scorer = scored.scorer or VideoScorer(book)
        scored.scorer, scored.version = None, ()  # until all its changes are written
        findings = []
        with self.engine.snapshot():
            current = self.engine.videos.get(row)
            if current is None:
                self._scored.pop(row, None)
                return
            video = current
            frames = None
            if self.engine.visual is not None:
                frames = self.engine.visual.frames.get(row, video.version)
            if frames is not None:  # in the snapshot, which their vectors are read from
                findings += list(scorer.add_frames(frames))
            final = FinalUtterances(self.engine.catalog)
            utterances = final.after(video, scorer.speech.after)
            lines = final.lines_after(video, scorer.text.after) if book.written_finder else []
        until_seconds = video.duration_seconds if video.watermark_seconds is None else video.watermark_seconds
        findings += list(scorer.add_words(scorer.speech, utterances, until_seconds))
        findings += list(scorer.add_words(scorer.text, lines, until_seconds))
        if not video.is_growing:
            findings += list(scorer.finish(video.duration_seconds))
        events = scorer.events(video, findings)
        if not events and not is_new and video.is_growing and time.monotonic() - scored.written_at < WRITE_SECONDS:
            scored.version, scored.scorer = version, scorer
            return
        first_seconds = float(frames.pts_seconds[0]) if frames is not None and len(frames.pts_seconds) else 0.0
        written = self._write(video, scorer, scored.turn, events, first_seconds if is_new else None)
        if written is None:  # another process scored it meanwhile: the next time begins with the state it wrote
            self._scored.pop(row, None)
            return
        scored.version, scored.turn, scored.written_at = version, scored.turn + 1, time.monotonic()
        scored.scorer = scorer if video.is_live else None
        if written:
            self.on_events(written)

    def _load_scorer(self, row: int, book: Rulebook) -> tuple[VideoScorer | None, int]:
        """Return the scorer of a video as the catalog holds it, None if other policies scored it; and its turn."""
        rows = self.editor.select("SELECT turn, digest, state FROM screenings WHERE video_row = ?", row)
        if not rows:
            return None, 0
        ((turn, digest, state),) = rows
        return (VideoScorer(book, json.loads(state)) if digest == book.digest else None), turn

    def _write(
        self, video: Video, scorer: VideoScorer, turn: int, events: list[Event], first_seconds: float | None
    ) -> list[Event] | None:
        """Write changes of events, and how far the video is scored, in one transaction.

        Args:
            turn: The turn of the video when its scorer was loaded.
            first_seconds: Time of the first frame, if the video was scored anew from there; None: scoring resumed.
        Returns:
            The changes as written. None: another process wrote first, or the video is gone, and nothing is written.
        """
        with self.editor.editing() as edit:
            is_ready = edit.execute("SELECT 1 FROM videos WHERE row = ? AND state = 'READY'", (video.row,)).fetchone()
            stored = edit.execute("SELECT turn FROM screenings WHERE video_row = ?", (video.row,)).fetchone()
            if is_ready is None or (turn if stored is None else stored[0]) != turn:
                return None
            if first_seconds is not None:
                events = self._replace_events(edit, video.row, events, first_seconds)
            written = [self.log.record(edit, video.row, event) for event in events]
            edit.execute(
                "INSERT OR REPLACE INTO screenings VALUES (?, ?, ?, ?)",
                (video.row, turn + 1, scorer.book.digest, json.dumps(scorer.state())),
            )
        return written

    def _replace_events(
        self, edit: sqlite3.Connection, row: int, events: list[Event], first_seconds: float
    ) -> list[Event]:
        """Withdraw the events of other policies that are not found any more; return the changes that are new."""
        before = {event.event_id: event for event in self.log.events_of(row)}
        latest = {event.event_id: event for event in events}
        for event_id, event in before.items():
            # An event in the pruned part of a video stays: that part cannot be scored again.
            if event_id not in latest and event.end_seconds > first_seconds:
                self.log.withdraw(edit, event_id)
        new = [event for event in events if event.event_id not in before]
        changed = [event for name, event in latest.items() if name in before and not event.is_same(before[name])]
        return new + changed


@dataclass(frozen=True, slots=True, kw_only=True)
class RescoreReport:
    """Result of `kinodex rescore`. The command prints the fields as JSON under their names."""

    version: str  # of the policies
    video_count: int  # videos that were due and are scored now
    change_count: int
    event_count: int  # all events of the library
    failed: dict[str, str]  # ids of the videos that could not be scored, with the reasons


def rescore_library(
    engine: Engine, directory: Path, policies: ActivePolicies, on_video: Callable[[int, int], None]
) -> RescoreReport:
    """Score a library once by the active policies; `on_video` is as of Moderator.score_due_videos.

    Raises:
        DataDirectoryInvalid: If the catalog cannot be written to.
    """
    with Catalog.open_editor(directory) as editor:
        log = EventLog(editor)
        before = log.last_sequence()
        engine.refresh()
        moderator = Moderator(engine, editor, policies)
        video_count = moderator.score_due_videos(on_video)
        return RescoreReport(
            version=policies.policies.version if policies.policies is not None else "",
            video_count=video_count - len(moderator.failed),
            change_count=log.last_sequence() - before,
            event_count=log.count(),
            failed={video.video_id: video.reason for video in moderator.failed.values()},
        )
