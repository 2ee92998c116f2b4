"""One indexing run: inputs -> decoded in child processes -> encoded in batches across videos -> the catalog.

Threads decode (each waits on a child process), one thread encodes and writes. A video's rows become visible in one
transaction, when all of them are there; whatever ends this process before that leaves the library as it was.
"""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import replace
from pathlib import Path

import numpy as np

from encoders.speech.whisper import SpeechWindow, Transcriber
from encoders.values import FrameEmbeddings
from ingest.errors import IngestError, SourceUnavailable
from ingest.media.sandbox import DecodePool
from ingest.source.source import display_uri, open_source, video_id_of
from ingest.values import AudioBlock, Decoded, DecodeSummary, Frame, MediaInfo
from serve.catalog.catalog import Catalog, NewVideo
from serve.encoder_set import Encoders, decode_config
from serve.indexing.work import (
    Event,
    Input,
    Known,
    Opened,
    Result,
    RunStopped,
    Twin,
    Work,
    WorkCancelled,
    joined,
    warnings_of,
)
from serve.search.traits import Captions, compute_file_traits
from serve.settings import Settings
from serve.values import IndexOutcome, IndexProgress
from temporal.window import cut_video

logger = logging.getLogger(__name__)

QUEUE_COUNT = 64  # decoded items in flight between all children and the encoder: about 10 MB of pictures
POLL_SECONDS = 0.2  # how soon a decoding thread notices that the run is over
# How long an open batch waits for more, so that the last video of a quiet server does not wait for the next one.
IDLE_SECONDS = 0.5
REPORT_SECONDS = 0.5  # between two reports of how far jobs are: each is a write to the disk

Report = Callable[[Mapping[int, float]], Collection[int]]  # shares done by job id -> jobs nobody wants any more


class Run:
    """One indexing run over inputs that are there, or that come."""

    def __init__(
        self,
        catalog: Catalog,
        encoders: Encoders,
        transcriber: Transcriber | None,
        directory: Path,
        settings: Settings,
        progress: IndexProgress,
        report: Report | None = None,
        *,
        captions: Captions | None,
    ) -> None:
        """Take all that indexing needs.

        Args:
            captions: As the visual encoder sees them; None without one.
            report: Told every moment how far jobs are; None where inputs are no jobs.
        """
        self.catalog, self.encoders, self.transcriber = catalog, encoders, transcriber
        self.directory, self.settings, self.progress, self.report = directory, settings, progress, report
        self.captions, self.fingerprint = captions, encoders.space.fingerprint
        self.claims: dict[tuple[str, str, int | None], Work] = {}  # guarded by `lock`, as the next
        self.open_work: set[Work] = set()  # taken, and its result not yet dealt with
        self.lock = threading.Lock()
        self.taking = threading.Lock()  # of the inputs: one thread at a time waits for the next
        self.stopping = threading.Event()
        self.events: queue.Queue[Event | Exception | None] = queue.Queue(QUEUE_COUNT)  # None: a thread has ended
        self.frames: list[tuple[Work, Frame]] = []  # the open visual batch, across videos
        self.windows: list[tuple[Work, SpeechWindow]] = []  # the open speech batch, across videos
        self.reported_at = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether every input taken so far is dealt with."""
        with self.lock:
            return not self.open_work

    def over(self, inputs: Iterable[Input]) -> Generator[Result]:
        """Index these, as many at a time as the settings say; yield one result an input, as they finish. Close it.

        Args:
            inputs: May wait for its next one, and then ends when `stopping` is set.
        """
        worker_count = self.settings.workers
        if isinstance(inputs, Sized):
            worker_count = min(worker_count, len(inputs))
        if not worker_count:
            return
        remaining = iter(inputs)
        with DecodePool(decode_config(self.settings, self.encoders), workers=worker_count) as pool:
            threads = [
                threading.Thread(target=self.decode_all, args=(remaining, pool), name=f"decode-{n}", daemon=True)
                for n in range(worker_count)
            ]
            for thread in threads:
                thread.start()
            try:
                for work in self.encode_all(worker_count):
                    yield Result(input=work.input, outcome=work.outcome, error=work.error)
                    with self.lock:
                        self.open_work.discard(work)
            finally:
                self.stopping.set()
                pool.close()
                for thread in threads:
                    thread.join()
                for work in self.claims.values():
                    if not work.is_over and work.row >= 0:
                        self.catalog.abandon(work.row)

    # ---- decoding threads ----

    def decode_all(self, remaining: Iterator[Input], pool: DecodePool) -> None:
        """Decode inputs until none remain, telling the encoding thread what comes out."""
        try:
            while not self.stopping.is_set():
                work = self.take_next(remaining)
                if work is None:
                    break
                with contextlib.suppress(WorkCancelled):
                    self.decode_one(work, pool)
            self.tell(None)
        except RunStopped:
            pass
        except Exception as error:  # a bug: the encoding thread raises it where the caller sees it
            with contextlib.suppress(RunStopped):
                self.tell(error)

    def take_next(self, remaining: Iterator[Input]) -> Work | None:
        with self.taking:
            taken = next(remaining, None)
            if taken is None:
                return None
            uri = taken.stored_uri or taken.uri
            work = Work(input=taken, uri=uri, name=display_uri(uri))
            with self.lock:
                self.open_work.add(work)
        return work

    def decode_one(self, work: Work, pool: DecodePool) -> None:
        def check(*_: object) -> None:
            if self.stopping.is_set():
                raise RunStopped
            if work.is_over:
                raise WorkCancelled

        given = work.input
        try:
            with open_source(given.uri, self.settings.source, spool=self.directory / "spool", progress=check) as source:
                if given.content_sha256 not in (None, source.content_sha256):
                    raise SourceUnavailable(work.name, "it holds other bytes now", "put the first ones back")
                work.uri = given.stored_uri or source.uri
                work.content_sha256 = source.content_sha256
                work.video_id = given.video_id or video_id_of(source.content_sha256)
                found = self.claim(work)
                self.tell(Event(work, found))
                if isinstance(found, Opened):
                    for decoded in pool.decode(source.file, uri=work.name):
                        check()
                        self.tell(Event(work, decoded))
        except IngestError as error:
            self.tell(Event(work, error))

    def claim(self, work: Work) -> Opened | Known | Twin:
        """Find out whether an input's bytes are to be decoded."""
        with self.lock:
            if work.is_over:
                raise WorkCancelled
            other = self.claims.get(work.claim)
            if other is not None:
                return Twin(other)
            row = self.catalog.find_indexed(work.input.collection, work.video_id, work.content_sha256, self.fingerprint)
            if row is not None:
                return Known(row)
            self.claims[work.claim] = work
            return Opened()

    def tell(self, event: Event | Exception | None) -> None:
        """Queue an event; a full queue makes this thread, and so its child process, wait."""
        while not self.stopping.is_set():
            try:
                return self.events.put(event, timeout=POLL_SECONDS)
            except queue.Full:
                continue
        raise RunStopped

    # ---- encoding thread: its generators yield work that is over ----

    def encode_all(self, worker_count: int) -> Iterator[Work]:
        """Take what the decoding threads tell until all of them have ended."""
        while worker_count:
            try:
                event = self.events.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                # A half-full batch costs nearly what a full one does: only where a video waits for nothing else.
                if any(work.summary is not None for work in self.claims.values()):
                    yield from self.flush()
            else:
                if isinstance(event, Exception):
                    raise event
                if event is None:
                    worker_count -= 1
                else:
                    yield from self.take(event)
            yield from self.give_up_unwanted()
        yield from self.flush()

    def flush(self) -> Iterator[Work]:
        """Encode the open batches as they are."""
        self.flush_frames()
        self.flush_windows()
        yield from self.finish_ready()

    def take(self, event: Event) -> Iterator[Work]:
        work, payload = event.work, event.payload
        if work.is_over:  # cancelled: what was decoded before its thread noticed
            return
        match payload:
            case Known():
                yield self.keep(work, payload.row)
            case Twin():
                payload.other.twins.append(work)
                if payload.other.is_over:
                    yield from self.resolve_twins(payload.other)
            case IngestError():
                yield from self.fail(work, payload)
            case _:
                self.take_decoded(work, payload)
                yield from self.finish_ready()

    def take_decoded(self, work: Work, payload: "Decoded | Opened") -> None:
        match payload:
            case Opened():
                self.progress.start(work.uri)
                work.row = self.catalog.begin(
                    NewVideo(
                        video_id=work.video_id,
                        collection=work.input.collection,
                        uri=work.uri,
                        content_sha256=work.content_sha256,
                        fingerprint=self.fingerprint,
                        metadata=work.input.metadata,
                        recorded_time=work.input.recorded_time,
                    )
                )
            case MediaInfo():
                work.media = payload
                if payload.audio_codec is not None and self.transcriber is not None:
                    work.speech = self.transcriber.open_stream()
            case Frame():
                work.item_count += 1
                work.pending_count += 1
                self.frames.append((work, payload))
                if len(self.frames) >= self.settings.visual.batch_count:
                    self.flush_frames()
                self.advance(work, payload.pts_seconds)
            case AudioBlock():
                if work.speech is not None:
                    self.add_windows(work, work.speech.push(payload))
                self.advance(work, payload.end_seconds)
            case DecodeSummary():
                if work.speech is not None:
                    self.add_windows(work, work.speech.finish())
                work.summary = payload

    def advance(self, work: Work, seconds: float) -> None:
        duration = work.media.duration_seconds if work.media is not None else None
        if duration:
            work.decoded_share = min(1.0, seconds / duration)
        self.progress.advance(work.uri, seconds, duration)

    def give_up_unwanted(self) -> Iterator[Work]:
        """Say how far the jobs are, and give up those that were cancelled."""
        if self.report is None or time.monotonic() - self.reported_at < REPORT_SECONDS:
            return
        with self.lock:
            works = {work.input.job_id: work for work in self.open_work}
        unwanted = self.report({job_id: work.report_share() for job_id, work in works.items() if job_id is not None})
        self.reported_at = time.monotonic()
        for job_id in unwanted:
            if not works[job_id].is_over:
                self.give_up(works[job_id])
                yield works[job_id]

    def give_up(self, work: Work) -> None:
        """Take back what is there of a video that will not be finished."""
        if work.row >= 0:
            self.catalog.abandon(work.row)
        self.end(work)

    def end(self, work: Work) -> None:
        work.is_over = True
        work.frames, work.utterances, work.speech = [], [], None
        self.progress.finish(work.uri)
        with self.lock:
            # A failed one stays: its twins fail as it did, without being decoded. Of a job there are none.
            if self.claims.get(work.claim) is work and (work.error is None or work.input.job_id is not None):
                del self.claims[work.claim]

    def add_windows(self, work: Work, found: Sequence[SpeechWindow]) -> None:
        work.item_count += len(found)
        work.pending_count += len(found)
        self.windows += [(work, window) for window in found]
        if len(self.windows) >= self.settings.speech.batch_count:
            self.flush_windows()

    def flush_frames(self) -> None:
        """Encode the open visual batch and write its rows."""
        batch = [(work, frame) for work, frame in self.frames if not work.is_over]
        self.frames = []
        if not batch:
            return
        if self.encoders.visual is not None:
            vectors = self.encoders.visual.encode_frames(np.stack([frame.pixels for _, frame in batch]))
        else:
            vectors = np.zeros((len(batch), 0), np.float32)
        for work in dict.fromkeys(work for work, _ in batch):
            mine = [n for n, (owner, _) in enumerate(batch) if owner is work]
            embeddings = FrameEmbeddings(
                epochs=np.array([batch[n][1].epoch for n in mine], np.int32),
                pts_seconds=np.array([batch[n][1].pts_seconds for n in mine], np.float64),
                vectors=vectors[mine],
            )
            self.catalog.add_frames(work.row, embeddings, [batch[n][1].thumbnail for n in mine])
            work.frames.append(embeddings)
            work.pending_count -= len(mine)

    def flush_windows(self) -> None:
        """Transcribe the open speech batch."""
        batch = [(work, window) for work, window in self.windows if not work.is_over]
        self.windows = []
        if not batch or self.transcriber is None:
            return
        for (work, _), found in zip(batch, self.transcriber.transcribe([window for _, window in batch]), strict=True):
            work.utterances += found
            work.pending_count -= 1

    def finish_ready(self) -> Iterator[Work]:
        """Make visible every video of which all batches are back."""
        with self.lock:
            claimed = list(self.claims.values())
        for work in claimed:
            if work.summary is not None and not work.pending_count and not work.is_over:
                work.outcome = self.finish(work)
                self.end(work)
                yield work
                yield from self.resolve_twins(work)

    def finish(self, work: Work) -> IndexOutcome | None:
        """Make a video visible; None if its job was cancelled meanwhile."""
        assert work.media is not None
        assert work.summary is not None
        embeddings = joined(work.frames)
        utterances = sorted(work.utterances, key=lambda utterance: utterance.start_seconds)
        sentences = self.encoders.sentence.encode([utterance.text for utterance in utterances])
        self.catalog.add_utterances(work.row, utterances, sentences)
        duration = work.summary.duration_seconds
        cut = cut_video(
            work.video_id, embeddings, utterances, sentences,
            duration_seconds=duration, config=self.settings.window, pooling=self.encoders.pooling,
        )  # fmt: skip
        found = [one.segment for one in cut]
        self.catalog.add_segments(work.row, found)
        self.catalog.add_traits(work.row, compute_file_traits(embeddings, self.captions))
        warnings = warnings_of(work.summary)
        is_visible = self.catalog.finish(
            work.row, media=work.media, duration_seconds=duration, warnings=warnings, job_id=work.input.job_id
        )
        if not is_visible:
            return None
        return IndexOutcome(
            video_id=work.video_id,
            uri=work.uri,
            status="indexed",
            duration_seconds=duration,
            frames=len(embeddings.pts_seconds),
            segments=len(found),
            utterances=len(utterances),
            warnings=warnings,
        )

    def fail(self, work: Work, error: IngestError) -> Iterator[Work]:
        work.error = error
        self.give_up(work)
        # Named as the caller knows it: an upload's bytes lie in a file of ours.
        message = f"{error.reason}: {work.name}" + (f" ({error.remedy})" if error.remedy else "")
        work.outcome = IndexOutcome(
            video_id=work.video_id or None,
            uri=work.input.stored_uri or work.input.uri,
            status="failed",
            error=message,
        )
        yield work
        yield from self.resolve_twins(work)

    def keep(self, work: Work, row: int) -> Work:
        """End an input whose bytes are in the library already."""
        given = work.input
        if given.job_id is None or self.catalog.finish_unchanged(
            row, metadata=given.metadata, recorded_time=given.recorded_time, job_id=given.job_id
        ):
            work.outcome = self.describe(work)
        self.end(work)
        return work

    def resolve_twins(self, other: Work) -> Iterator[Work]:
        """Say of the inputs with the same bytes what became of the one that was decoded."""
        twins, other.twins = other.twins, []
        for work in twins:
            if other.outcome is not None and other.outcome.status == "failed":
                work.outcome = replace(other.outcome, uri=work.input.uri)
                work.error = other.error
            else:
                work.outcome = self.describe(work)
            self.end(work)
            yield work

    def describe(self, work: Work) -> IndexOutcome:
        """Say what the library knows about an input that was in it already, and note where its file is now."""
        unchanged = IndexOutcome(video_id=work.video_id, uri=work.uri, status="unchanged")
        found = self.catalog.videos(collection=work.input.collection, video_ids=(work.video_id,))
        if not found:  # deleted meanwhile
            return unchanged
        (video,) = found
        is_file = work.input.stored_uri is None  # an upload's bytes are gone when this is over
        if video.uri != work.uri and is_file and not Path(video.uri).exists():
            self.catalog.set_uri(video.row, work.uri)
        return replace(
            unchanged,
            duration_seconds=video.duration_seconds,
            frames=video.frame_count,
            segments=video.segment_count,
            utterances=video.utterance_count,
            warnings=video.warnings,
        )
