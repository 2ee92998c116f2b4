"""ServerReport: what a server tells its operator of itself, for GetServerInfo."""

import importlib.metadata
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from ingest.source.redaction import redact_uris
from serve.api.installation import check_installation
from serve.api.loaded_library import LoadedLibrary
from serve.catalog.events import EventLog
from serve.indexing.job import JobState
from serve.indexing.jobs import JobQueue
from serve.indexing.uploads import Spool
from serve.moderation.followers import Followers
from serve.overview import CheckResult, EncoderInfo, ServerInfo
from serve.search.library import Library
from serve.settings import Settings

CHECK_SECONDS = 3600.0  # how long results of checks are shown again: one starts a process, and they seldom change
FREE_SHARE = 0.05  # of the disk: with less free, a note says so


@dataclass(kw_only=True)
class ServerReport:
    """Makes ServerInfo. Any thread may call it."""

    directory: Path
    settings: Settings
    loaded: LoadedLibrary
    followers: Followers
    jobs: JobQueue
    log: EventLog
    spool: Spool
    waiting_count: Callable[[], int]  # questions that wait for a thread
    call_count: Callable[[], int]  # calls in progress
    started_time: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._checks: tuple[CheckResult, ...] = ()
        self._checked_at = -CHECK_SECONDS  # by the monotonic clock

    def make(self) -> ServerInfo:
        """Return the present state.

        Raises:
            ServerNotReady: While the library is loading.
        """
        library = self.loaded.require()
        engine, space, counts = library.engine, library.encoders.space, self.jobs.counts()
        indexes = {"segments": engine.segment_index, "utterances": engine.utterance_index}
        if engine.line_index is not None:
            indexes["text_lines"] = engine.line_index
        return ServerInfo(
            version=importlib.metadata.version("kinodex"),
            started_time=self.started_time,
            encoders=tuple(
                EncoderInfo(
                    kind=kind, name=redact_uris(getattr(space, kind)), fingerprint=getattr(space, f"{kind}_fingerprint")
                )
                for kind in ("visual", "speech", "sentence")
            ),
            fingerprint=space.fingerprint,
            video_count=len(engine.videos),
            index_rows={kind: len(index) for kind, index in indexes.items()},
            waiting_question_count=self.waiting_count(),
            call_count=self.call_count(),
            queued_job_count=counts[JobState.QUEUED],
            running_job_count=counts[JobState.RUNNING],
            failed_job_count=counts[JobState.FAILED],
            spool_bytes=self.spool.used_bytes(),
            pending_events=self.followers.pending_counts(self.log),
            is_live_behind=self.loaded.is_behind(),
            checks=(*self._installation(), *self._present(library)),
        )

    def _installation(self) -> tuple[CheckResult, ...]:
        """Return the checks that are worth their cost once an hour."""
        with self._lock:
            if time.monotonic() - self._checked_at >= CHECK_SECONDS:
                self._checks = tuple(
                    replace(each, detail=redact_uris(each.detail), remedy=redact_uris(each.remedy))
                    for each in check_installation(self.settings)
                )
                self._checked_at = time.monotonic()
            return self._checks

    def _present(self, library: Library) -> list[CheckResult]:
        """Return the checks of what changes from minute to minute."""
        usage = shutil.disk_usage(self.directory)
        detail = f"{usage.free / 1e9:.1f} GB of {usage.total / 1e9:.1f} GB free"
        is_low = usage.free < FREE_SHARE * usage.total
        remedy = "delete videos, limit live streams (server.retention), or move the library to a larger disk"
        results = (
            [CheckResult(name="disk", state="note", detail=detail, remedy=remedy)]
            if is_low
            else [CheckResult(name="disk", state="ok", detail=detail)]
        )
        if not self.settings.kafka.servers:
            results.append(CheckResult(name="Kafka", state="ok", detail="none, set in the settings: no live streams"))
        elif self.loaded.is_behind():
            detail = "does not answer, or is not read to its end yet: live videos may lack their newest part"
            results.append(CheckResult(name="Kafka", state="note", detail=detail, remedy="run kinodex doctor there"))
        else:
            results.append(CheckResult(name="Kafka", state="ok", detail="read to its end"))
        policies = self.followers.policies
        if policies.mistake is not None:
            detail = f"the newest file is refused: {policies.mistake.where}: {policies.mistake.reason}"
            results.append(CheckResult(name="policies", state="note", detail=detail, remedy="correct the file"))
        elif policies.policies is not None:
            count, version = len(policies.policies.policies), policies.policies.version
            results.append(CheckResult(name="policies", state="ok", detail=f"version {version}: {count} policies"))
        return results
