"""IndexRun: decodes inputs in child processes, encodes them in batches across videos, and writes them to the catalog.

Decoding threads each wait on a child process; one encoding thread, the caller's, encodes and writes. The rows of a
video become visible in one transaction, after its last row was written; a process that ends earlier leaves the library
as it was.
"""

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sized
from dataclasses import replace
from functools import partial
from pathlib import Path

from encoders.speech.sound_choice import choose_sound
from encoders.speech.whisper import Transcriber
from encoders.values import WordSource
from encoders.writing.reader import load_reader
from encoders.writing.text_track import TextTrack
from ingest.errors import IngestError, SourceUnavailable
from ingest.sandbox.pool import DecodePool
from ingest.source.redaction import redact_uri
from ingest.source.sidecars import digest_of
from ingest.source.source import display_uri, has_changed, open_source, video_id_of
from ingest.values import AudioBlock, Decoded, DecodeSummary, Frame, MediaInfo, SubtitleTrack
from serve.catalog.catalog import Catalog, NewVideo
from serve.encoder_set import Encoders, reading_config
from serve.indexing.batches import OpenBatches
from serve.indexing.library_writer import LibraryWriter
from serve.indexing.spoken import choose_subtitles, library_languages, sidecars_of, spoken_words, windows_to_hear
from serve.indexing.subtitles import read_sidecar
from serve.indexing.work import (
    AlreadyIndexed,
    Beside,
    DecodeEvent,
    Duplicate,
    Input,
    Opened,
    Result,
    RunStopped,
    VideoWork,
    WorkCancelled,
    Written,
)
from serve.search.traits import CaptionBank
from serve.settings import Settings
from serve.values import IndexOutcome, IndexProgress
from serve.video_warnings import FileFacts

QUEUE_COUNT = 64  # decoded items between all children and the encoding thread: about 10 MB of pictures
POLL_SECONDS = 0.2  # the longest that a decoding thread takes to notice the end of the run
# How long an open batch waits for more, so that the last video of a quiet server does not wait for the next one.
IDLE_SECONDS = 0.5
# How long a decoded video waits at most for batches that others fill, while these others keep the queue busy: a film of
# seconds must not wait for the end of one of hours.
PATIENCE_SECONDS = 5.0
REPORT_SECONDS = 0.5  # between two reports of the jobs' progress: each is a write to the disk

Report = Callable[[Mapping[int, float]], Collection[int]]  # shares done by job id -> ids of jobs that were cancelled


class IndexRun:
    """One indexing run over a list of inputs, or over inputs that come as long as it runs."""

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
        captions: CaptionBank | None,
    ) -> None:
        """Take all that indexing needs.

        Args:
            captions: As the visual encoder sees them; None without one.
            report: Called every REPORT_SECONDS with the progress of the jobs; None where inputs belong to no jobs.
        Raises:
            EncoderError: If the reader of text or the voice encoder cannot be had.
        """
        self._catalog, self._encoders, self._transcriber = catalog, encoders, transcriber
        self._directory, self._settings, self._progress, self._report = directory, settings, progress, report
        self._captions, self._fingerprint = captions, encoders.space.fingerprint
        self._choose_sound = partial(choose_sound, transcriber) if transcriber is not None else None
        self._reader = load_reader(settings.text)
        self._batches = OpenBatches(catalog, encoders, transcriber, settings)
        self._writer = LibraryWriter(catalog, encoders, transcriber, settings, captions)  # guarded by `_lock`
        self._claims: dict[tuple[str, str, int | None], VideoWork] = {}  # guarded by `_lock`, as the next
        self._open: set[VideoWork] = set()  # taken, and its result not yet dealt with by the caller
        self._lock = threading.Lock()
        self._taking = threading.Lock()  # of the inputs: one thread at a time waits for the next
        self._events: queue.Queue[DecodeEvent | Exception | None] = queue.Queue(QUEUE_COUNT)  # None: a thread ended
        self._reported_at = 0.0
        self._decoded_at: float | None = None  # since when a decoded video waits for a batch, on the monotonic clock
        self.stopping = threading.Event()  # set by anyone: no further input is taken, and the decoding threads end

    @property
    def is_idle(self) -> bool:
        """Whether the caller has dealt with the results of all inputs taken so far."""
        with self._lock:
            return not self._open

    def index(self, inputs: Iterable[Input], *, extra_count: int = 0) -> Generator[Result]:
        """Index inputs, as many at a time as the settings say and `extra_count` more; yield one result each, as they
        finish.

        The caller closes the generator: that abandons what is not finished. `inputs` may wait for its next input, and
        then ends when `stopping` is set.
        """
        worker_count = self._settings.workers + extra_count
        if isinstance(inputs, Sized):
            worker_count = min(worker_count, len(inputs))
        if not worker_count:
            return
        remaining = iter(inputs)
        with DecodePool(reading_config(self._settings, self._encoders), workers=worker_count) as pool:
            threads = [
                threading.Thread(target=self._decode_all, args=(remaining, pool), name=f"decode-{n}", daemon=True)
                for n in range(worker_count)
            ]
            for thread in threads:
                thread.start()
            try:
                for work in self._encode_all(worker_count):
                    yield Result(input=work.input, outcome=work.outcome, error=work.error)
                    with self._lock:
                        self._open.discard(work)
                with self._lock:
                    self._writer.settle()
            finally:
                self.stopping.set()
                pool.close()
                for thread in threads:
                    thread.join()
                for work in self._claims.values():
                    if not work.is_over and work.row >= 0:
                        self._catalog.abandon(work.row)

    # ---- decoding threads ----

    def _decode_all(self, remaining: Iterator[Input], pool: DecodePool) -> None:
        try:
            while not self.stopping.is_set():
                work = self._take_next(remaining)
                if work is None:
                    break
                with contextlib.suppress(WorkCancelled):
                    self._decode(work, pool)
            self._put(None)
        except RunStopped:
            pass
        except Exception as error:  # a bug: the encoding thread raises it in its caller
            with contextlib.suppress(RunStopped):
                self._put(error)

    def _take_next(self, remaining: Iterator[Input]) -> VideoWork | None:
        with self._taking:
            taken = next(remaining, None)
            if taken is None:
                return None
            uri = redact_uri(taken.stored_uri or taken.uri)
            facts = FileFacts(
                expects_pictures=self._settings.decode.decode_video,
                finds_only_english=self._settings.sentence.knows_only_english,
            )
            work = VideoWork(input=taken, uri=uri, name=display_uri(uri), facts=facts)
            with self._lock:
                self._open.add(work)
        return work

    def _decode(self, work: VideoWork, pool: DecodePool) -> None:
        def check(*_: object) -> None:
            if self.stopping.is_set():
                raise RunStopped
            if work.is_over:
                raise WorkCancelled

        try:
            spool = self._directory / "spool"
            with open_source(
                work.input.uri, self._settings.source, spool=spool, progress=check, may_grow=work.input.may_grow
            ) as source:
                opened_as = os.fstat(source.file.fileno())
                if not work.input.may_change and work.input.content_sha256 != source.content_sha256:
                    raise SourceUnavailable(work.name, "its content has changed", "upload it again")
                work.uri = work.input.stored_uri or source.uri
                work.content_sha256 = source.content_sha256
                work.video_id = work.input.video_id or video_id_of(source.content_sha256)
                work.facts.is_being_written = source.is_being_written
                sidecars = sidecars_of(work, self._settings)
                work.beside = digest_of(sidecars, self._settings.source)
                payload = self._claim(work)
                self._put(DecodeEvent(work, payload))
                if isinstance(payload, Opened):
                    for sidecar in sidecars:
                        track = read_sidecar(pool, sidecar, self._settings.source, check)
                        self._put(DecodeEvent(work, Beside(track)))
                    for decoded in pool.decode(source.file, uri=work.name, choose_sound=self._choose_sound):
                        check()
                        if isinstance(decoded, DecodeSummary) and has_changed(
                            opened_as, os.fstat(source.file.fileno())
                        ):
                            self._put(DecodeEvent(work, Written()))
                        self._put(DecodeEvent(work, decoded))
        except IngestError as error:
            self._put(DecodeEvent(work, error))

    def _claim(self, work: VideoWork) -> Opened | AlreadyIndexed | Duplicate:
        """Return whether an input's bytes are to be decoded, or why not."""
        with self._lock:
            if work.is_over:
                raise WorkCancelled
            other = self._claims.get(work.claim)
            if other is not None:
                return Duplicate(other)
            row = self._writer.find(work)
            if row is not None:
                return AlreadyIndexed(row)
            self._claims[work.claim] = work
            return Opened()

    def _put(self, event: DecodeEvent | Exception | None) -> None:
        """Queue an event. A full queue makes this thread wait, and so its child process.

        Raises:
            RunStopped: If the run is over.
        """
        while not self.stopping.is_set():
            try:
                return self._events.put(event, timeout=POLL_SECONDS)
            except queue.Full:
                continue
        raise RunStopped

    # ---- encoding thread: its generators yield work that is over ----

    def _encode_all(self, worker_count: int) -> Iterator[VideoWork]:
        """Handle the events of the decoding threads until all of these have ended."""
        while worker_count:
            try:
                event = self._events.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                yield from self._encode_open_batches(min_wait_seconds=0)
            else:
                yield from self._encode_open_batches(min_wait_seconds=PATIENCE_SECONDS)
                if isinstance(event, Exception):
                    raise event
                if event is None:
                    worker_count -= 1
                else:
                    yield from self._handle(event)
            yield from self._report_progress()
        self._batches.encode()
        yield from self._finish_ready()

    def _encode_open_batches(self, *, min_wait_seconds: float) -> Iterator[VideoWork]:
        """Encode batches that are not full, if a decoded video has waited for them for some time; finish it.

        A half-full batch costs nearly as much as a full one: only if it is all that a video waits for.
        """
        with self._lock:
            decoded = [work for work in self._claims.values() if work.facts.summary is not None and not work.is_over]
        if not decoded:
            self._decoded_at = None
            return
        now = time.monotonic()
        if self._decoded_at is None:
            self._decoded_at = now
        if now - self._decoded_at >= min_wait_seconds:
            self._decoded_at = None
            self._batches.encode()
            yield from self._finish_ready()

    def _handle(self, event: DecodeEvent) -> Iterator[VideoWork]:
        work, payload = event.work, event.payload
        if work.is_over:  # cancelled, and its decoding thread has not noticed yet
            return
        match payload:
            case AlreadyIndexed():
                yield self._finish_unchanged(work, payload.row)
            case Duplicate():
                payload.other.duplicates.append(work)
                if payload.other.is_over:
                    yield from self._finish_duplicates(payload.other)
            case IngestError():
                yield from self._fail(work, payload)
            case _:
                self._handle_decoded(work, payload)
                yield from self._finish_ready()

    def _handle_decoded(self, work: VideoWork, payload: "Decoded | Opened | Beside | Written") -> None:
        if not isinstance(payload, Opened | Beside | Written):
            work.facts.take(payload)
        if isinstance(payload, Frame | AudioBlock | DecodeSummary) and not work.has_chosen:
            choose_subtitles(work, self._settings, self._transcriber)
        match payload:
            case Opened():
                self._progress.start(work.uri)
                work.row = self._catalog.begin(
                    NewVideo(
                        video_id=work.video_id, collection=work.input.collection, uri=work.uri,
                        content_sha256=work.content_sha256, fingerprint=self._fingerprint,
                        metadata=work.input.metadata, recorded_time=work.input.recorded_time,
                    )
                )  # fmt: skip
            case MediaInfo():
                if payload.audio_codec is not None and self._transcriber is not None:
                    work.speech = self._transcriber.open_stream()
            case Beside():
                work.tracks.append((payload.track, WordSource.SIDECAR))
            case SubtitleTrack():
                work.tracks.append((payload, WordSource.TRACK))
            case Frame():
                self._batches.add_frame(work, payload)
                if self._reader is not None:
                    work.text = work.text or TextTrack(self._reader.open_video().read)
                    work.text.push(payload.epoch, payload.pts_seconds, payload.reading)
                self._note_decoded(work, payload.pts_seconds)
            case AudioBlock():
                if work.speech is not None:
                    self._batches.add_speech(work, windows_to_hear(work, work.speech.push(payload)))
                self._note_decoded(work, payload.end_seconds)
            case Written():
                work.facts.is_being_written = True
            case DecodeSummary():
                if work.speech is not None:
                    self._batches.add_speech(work, windows_to_hear(work, work.speech.finish()))

    def _note_decoded(self, work: VideoWork, seconds: float) -> None:
        duration = work.facts.media.duration_seconds if work.facts.media is not None else None
        if duration:
            work.decoded_share = min(1.0, seconds / duration)
        self._progress.advance(work.uri, seconds, duration)

    def _report_progress(self) -> Iterator[VideoWork]:
        """Report the progress of the jobs if it is time to; abandon and yield those that were cancelled."""
        if self._report is None or time.monotonic() - self._reported_at < REPORT_SECONDS:
            return
        with self._lock:
            works = {work.input.job_id: work for work in self._open}
        shares = {job_id: work.update_reported_share() for job_id, work in works.items() if job_id is not None}
        cancelled = self._report(shares)
        self._reported_at = time.monotonic()
        for job_id in cancelled:
            if not works[job_id].is_over:
                self._abandon(works[job_id])
                yield works[job_id]

    def _abandon(self, work: VideoWork) -> None:
        """Remove the rows of a video that will not be finished."""
        if work.row >= 0:
            self._catalog.abandon(work.row)
        self._close(work)

    def _close(self, work: VideoWork) -> None:
        work.is_over = True
        work.frames, work.utterances, work.voices, work.speech, work.text = [], [], [], None, None
        work.tracks, work.subtitles = [], None
        self._progress.finish(work.uri)
        with self._lock:
            # A failed input keeps its claim: its duplicates fail as it did, without being decoded. Jobs have none.
            if self._claims.get(work.claim) is work and (work.error is None or work.input.job_id is not None):
                del self._claims[work.claim]

    def _finish_ready(self) -> Iterator[VideoWork]:
        """Finish every video that is decoded and encoded."""
        with self._lock:
            claimed = list(self._claims.values())
        for work in claimed:
            if work.facts.summary is not None and not work.pending_count and not work.is_over:
                work.outcome = self._finish(work)
                self._close(work)
                yield work
                yield from self._finish_duplicates(work)

    def _finish(self, work: VideoWork) -> IndexOutcome | None:
        """Write the rest of a video's rows and make it visible; return None if its job was cancelled."""
        with self._lock:
            self._writer.find_import(work)
        utterances = spoken_words(work, library_languages(self._settings, self._transcriber))
        sentences = self._encoders.sentence.encode([utterance.text for utterance in utterances])
        summary = work.facts.summary
        assert summary is not None
        pictures_end = summary.pictures_end_seconds or summary.duration_seconds
        lines = work.text.finish(pictures_end) if work.text is not None else []
        written = self._encoders.sentence.encode([line.text for line in lines])
        with self._lock:
            return self._writer.finish(work, utterances, sentences, lines, written)

    def _fail(self, work: VideoWork, error: IngestError) -> Iterator[VideoWork]:
        work.error = error
        self._abandon(work)
        # The caller's name for the input: the bytes of an upload lie in a file that the caller does not know.
        remedy = (
            "it is still being written: index it again when it is complete"
            if work.facts.is_being_written
            else error.remedy
        )
        message = f"{error.reason}: {work.name}" + (f" ({remedy})" if remedy else "")
        uri = redact_uri(work.input.stored_uri or work.input.uri)
        work.outcome = IndexOutcome(video_id=work.video_id or None, uri=uri, status="failed", error=message)
        yield work
        yield from self._finish_duplicates(work)

    def _finish_unchanged(self, work: VideoWork, row: int) -> VideoWork:
        """End an input whose bytes are in the library already."""
        work.outcome = self._writer.finish_unchanged(work, row)
        self._close(work)
        return work

    def _finish_duplicates(self, other: VideoWork) -> Iterator[VideoWork]:
        """End the inputs with the same bytes as the input that was decoded."""
        duplicates, other.duplicates = other.duplicates, []
        for work in duplicates:
            if other.outcome is not None and other.outcome.status == "failed":
                work.outcome = replace(other.outcome, uri=redact_uri(work.input.uri))
                work.error = other.error
            else:
                with self._lock:
                    work.outcome = self._writer.finish_duplicate(work, other.row)
            self._close(work)
            yield work
