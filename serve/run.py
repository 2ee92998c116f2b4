"""One indexing run: inputs -> decoded in child processes -> encoded in batches across videos -> the catalog.

Threads decode (each waits on a child process), one thread encodes and writes. A video's rows become visible in one
transaction, when all of them are there; whatever ends this process before that leaves the library as it was.
"""

import contextlib
import logging
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from encoders.values import FrameEmbeddings, Utterance
from encoders.whisper import SpeechStream, SpeechWindow, Transcriber
from ingest.errors import IngestError
from ingest.sandbox import DecodePool
from ingest.source import open_source, video_id_of
from ingest.values import AudioBlock, Decoded, DecodeSummary, Frame, MediaInfo
from serve.catalog import Catalog, NewVideo
from serve.encoders import Encoders, decode_config
from serve.settings import Settings
from serve.values import IndexOutcome, IndexProgress
from temporal.window import segments, windows

logger = logging.getLogger(__name__)

QUEUE_COUNT = 64  # decoded items in flight between all children and the encoder: about 10 MB of pictures
POLL_SECONDS = 0.2  # how soon a decoding thread notices that the run is over


@dataclass(slots=True, eq=False)
class Job:
    """One input on its way to the catalog. After it is queued, only the encoding thread touches it."""

    uri: str
    video_id: str
    content_sha256: str
    row: int = -1
    media: MediaInfo | None = None
    summary: DecodeSummary | None = None  # there: decoding is over
    speech: SpeechStream | None = None
    pending_count: int = 0  # frames and speech windows that wait for their batch
    error: IngestError | None = None  # there: it failed
    frames: list[FrameEmbeddings] = field(default_factory=list)  # without pictures: about 2 KB a frame
    utterances: list[Utterance] = field(default_factory=list)
    twins: list[str] = field(default_factory=list)  # other inputs with the same bytes


@dataclass(frozen=True, slots=True)
class Event:
    """What a decoding thread tells the encoding thread about one input."""

    uri: str
    job: Job | None  # None: there is none, because the input failed early or is in the library already
    payload: "Opened | Decoded | IngestError | IndexOutcome | Twin"


@dataclass(frozen=True, slots=True)
class Opened:
    """The input's bytes are here and decoding begins."""


@dataclass(frozen=True, slots=True)
class Twin:
    """The input has the same bytes as the job's."""


class RunStopped(Exception):
    """Ends a decoding thread when nobody waits for what it decodes any more."""


class Run:
    """One indexing run over a list of inputs."""

    def __init__(
        self,
        catalog: Catalog,
        encoders: Encoders,
        transcriber: Transcriber | None,
        directory: Path,
        settings: Settings,
        collection: str,
        progress: IndexProgress,
    ) -> None:
        self.catalog, self.encoders, self.transcriber = catalog, encoders, transcriber
        self.directory, self.settings, self.collection, self.progress = directory, settings, collection, progress
        self.fingerprint = encoders.space.fingerprint
        self.known = {video.video_id for video in catalog.videos(collection=collection)}
        self.claims: dict[str, Job] = {}  # jobs of this run by video id; guarded by `lock`
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.events: queue.Queue[Event | Exception | None] = queue.Queue(QUEUE_COUNT)  # None: a thread has ended
        self.frames: list[tuple[Job, Frame]] = []  # the open visual batch, across videos
        self.windows: list[tuple[Job, SpeechWindow]] = []  # the open speech batch, across videos

    def over(self, uris: Sequence[str]) -> Iterator[IndexOutcome]:
        """Index these; see `index`."""
        remaining: queue.SimpleQueue[str] = queue.SimpleQueue()
        for uri in uris:
            remaining.put(uri)
        worker_count = min(self.settings.workers, len(uris))
        with DecodePool(decode_config(self.settings, self.encoders), workers=worker_count) as pool:
            threads = [
                threading.Thread(target=self.decode_all, args=(remaining, pool), name=f"decode-{n}", daemon=True)
                for n in range(worker_count)
            ]
            for thread in threads:
                thread.start()
            try:
                yield from self.encode_all(worker_count)
            finally:
                self.stopping.set()
                pool.close()
                for thread in threads:
                    thread.join()
                for job in self.claims.values():
                    if job.error is None and job.row >= 0:
                        self.catalog.abandon(job.row)

    # ---- decoding threads ----

    def decode_all(self, remaining: "queue.SimpleQueue[str]", pool: DecodePool) -> None:
        """Decode inputs until none remain, telling the encoding thread what comes out."""
        try:
            while not self.stopping.is_set():
                try:
                    uri = remaining.get_nowait()
                except queue.Empty:
                    break
                self.decode_one(uri, pool)
            self.tell(None)
        except RunStopped:
            pass
        except Exception as error:  # a bug: the encoding thread raises it where the caller sees it
            with contextlib.suppress(RunStopped):
                self.tell(error)

    def decode_one(self, uri: str, pool: DecodePool) -> None:
        job: Job | None = None
        try:
            with open_source(uri, self.settings.source, spool=self.directory / "spool") as source:
                video_id = video_id_of(source.content_sha256)
                with self.lock:
                    claimed = self.claims.get(video_id)
                    if claimed is None and video_id not in self.known:
                        job = Job(uri=source.uri, video_id=video_id, content_sha256=source.content_sha256)
                        self.claims[video_id] = job
                if claimed is not None:
                    self.tell(Event(uri, claimed, Twin()))
                elif job is None:
                    known = IndexOutcome(video_id=video_id, uri=source.uri, status="unchanged")
                    self.tell(Event(uri, None, known))
                else:
                    self.tell(Event(uri, job, Opened()))
                    for decoded in pool.decode(source.file, uri=uri):
                        self.tell(Event(uri, job, decoded))
        except IngestError as error:
            self.tell(Event(uri, job, error))

    def tell(self, event: Event | Exception | None) -> None:
        """Queue an event; a full queue makes this thread, and so its child process, wait."""
        while not self.stopping.is_set():
            try:
                return self.events.put(event, timeout=POLL_SECONDS)
            except queue.Full:
                continue
        raise RunStopped

    # ---- encoding thread ----

    def encode_all(self, worker_count: int) -> Iterator[IndexOutcome]:
        """Take what the decoding threads tell until all of them have ended."""
        while worker_count:
            event = self.events.get()
            if event is None:
                worker_count -= 1
            elif isinstance(event, Exception):
                raise event
            else:
                yield from self.take(event)
        self.flush_frames()
        self.flush_windows()
        yield from self.finish_ready()

    def take(self, event: Event) -> Iterator[IndexOutcome]:
        job, payload = event.job, event.payload
        if isinstance(payload, IndexOutcome):
            yield self.describe(payload)
        elif isinstance(payload, IngestError):
            yield from self.fail(event.uri, job, payload)
        elif isinstance(payload, Twin):
            assert job is not None
            job.twins.append(event.uri)
            if job.error is not None or job.video_id not in self.claims:
                yield from self.resolve_twins(job)
        elif job is not None and job.error is None:
            self.take_decoded(job, payload)
            yield from self.finish_ready()

    def take_decoded(self, job: Job, payload: "Decoded | Opened") -> None:
        match payload:
            case Opened():
                self.progress.started(job.uri)
                job.row = self.catalog.begin(
                    NewVideo(
                        video_id=job.video_id,
                        collection=self.collection,
                        uri=job.uri,
                        content_sha256=job.content_sha256,
                        fingerprint=self.fingerprint,
                    )
                )
            case MediaInfo():
                job.media = payload
                if payload.audio_codec is not None and self.transcriber is not None:
                    job.speech = self.transcriber.open_stream()
            case Frame():
                job.pending_count += 1
                self.frames.append((job, payload))
                if len(self.frames) >= self.settings.visual.batch_count:
                    self.flush_frames()
                self.advance(job, payload.pts_seconds)
            case AudioBlock():
                if job.speech is not None:
                    self.add_windows(job, job.speech.push(payload))
                self.advance(job, payload.end_seconds)
            case DecodeSummary():
                if job.speech is not None:
                    self.add_windows(job, job.speech.finish())
                job.summary = payload

    def advance(self, job: Job, seconds: float) -> None:
        duration = job.media.duration_seconds if job.media is not None else None
        self.progress.advanced(job.uri, seconds, duration)

    def add_windows(self, job: Job, found: Sequence[SpeechWindow]) -> None:
        job.pending_count += len(found)
        self.windows += [(job, window) for window in found]
        if len(self.windows) >= self.settings.speech.batch_count:
            self.flush_windows()

    def flush_frames(self) -> None:
        """Encode the open visual batch and write its rows."""
        batch = [(job, frame) for job, frame in self.frames if job.error is None]
        self.frames = []
        if not batch:
            return
        if self.encoders.visual is not None:
            vectors = self.encoders.visual.encode_frames(np.stack([frame.pixels for _, frame in batch]))
        else:
            vectors = np.zeros((len(batch), 0), np.float32)
        for job in dict.fromkeys(job for job, _ in batch):
            mine = [n for n, (owner, _) in enumerate(batch) if owner is job]
            embeddings = FrameEmbeddings(
                epochs=np.array([batch[n][1].epoch for n in mine], np.int32),
                pts_seconds=np.array([batch[n][1].pts_seconds for n in mine], np.float64),
                vectors=vectors[mine],
            )
            self.catalog.add_frames(job.row, embeddings, [batch[n][1].thumbnail for n in mine])
            job.frames.append(embeddings)
            job.pending_count -= len(mine)

    def flush_windows(self) -> None:
        """Transcribe the open speech batch."""
        batch = [(job, window) for job, window in self.windows if job.error is None]
        self.windows = []
        if not batch or self.transcriber is None:
            return
        for (job, _), found in zip(batch, self.transcriber.transcribe([window for _, window in batch]), strict=True):
            job.utterances += found
            job.pending_count -= 1

    def finish_ready(self) -> Iterator[IndexOutcome]:
        """Make visible every video of which all batches are back."""
        ready = [job for job in self.claims.values() if job.summary is not None and not job.pending_count]
        for job in ready:
            outcome = self.finish(job)
            with self.lock:
                del self.claims[job.video_id]
                self.known.add(job.video_id)
            yield outcome
            yield from self.resolve_twins(job)

    def finish(self, job: Job) -> IndexOutcome:
        assert job.media is not None
        assert job.summary is not None
        embeddings = joined(job.frames)
        utterances = sorted(job.utterances, key=lambda utterance: utterance.start_seconds)
        self.catalog.add_utterances(
            job.row, utterances, self.encoders.sentence.encode([utterance.text for utterance in utterances])
        )
        duration = job.summary.duration_seconds
        spans = windows(embeddings, utterances, duration_seconds=duration, config=self.settings.window)
        found = segments(job.video_id, spans, embeddings)
        self.catalog.add_segments(job.row, found)
        warnings = warnings_of(job.summary)
        self.catalog.finish(job.row, media=job.media, duration_seconds=duration, warnings=warnings)
        self.progress.finished(job.uri)
        return IndexOutcome(
            video_id=job.video_id,
            uri=job.uri,
            status="indexed",
            duration_seconds=duration,
            frames=len(embeddings.pts_seconds),
            segments=len(found),
            utterances=len(utterances),
            warnings=warnings,
        )

    def fail(self, uri: str, job: Job | None, error: IngestError) -> Iterator[IndexOutcome]:
        if job is not None:
            job.error = error
            self.catalog.abandon(job.row)
        self.progress.finished(uri)
        yield IndexOutcome(
            video_id=job.video_id if job is not None else None, uri=uri, status="failed", error=str(error)
        )
        if job is not None:
            yield from self.resolve_twins(job)

    def resolve_twins(self, job: Job) -> Iterator[IndexOutcome]:
        """Say of the inputs with the same bytes what became of the one that was decoded."""
        for uri in job.twins:
            if job.error is not None:
                yield IndexOutcome(video_id=job.video_id, uri=uri, status="failed", error=str(job.error))
            else:
                yield self.describe(IndexOutcome(video_id=job.video_id, uri=uri, status="unchanged"))
        job.twins = []

    def describe(self, outcome: IndexOutcome) -> IndexOutcome:
        """Fill in what the library knows about an input that was in it already, and where its file is now."""
        assert outcome.video_id is not None
        video = self.catalog.video(outcome.video_id, self.collection)
        if video.uri != outcome.uri and not Path(video.uri).exists():
            self.catalog.set_uri(video.row, outcome.uri)
        return replace(
            outcome,
            duration_seconds=video.duration_seconds,
            frames=video.frame_count,
            segments=video.segment_count,
            utterances=video.utterance_count,
            warnings=video.warnings,
        )


def joined(parts: Sequence[FrameEmbeddings]) -> FrameEmbeddings:
    """Put batches of one video's embeddings, in order, into one value."""
    if not parts:
        return FrameEmbeddings(
            epochs=np.zeros(0, np.int32), pts_seconds=np.zeros(0), vectors=np.zeros((0, 0), np.float32)
        )
    return FrameEmbeddings(
        epochs=np.concatenate([part.epochs for part in parts]),
        pts_seconds=np.concatenate([part.pts_seconds for part in parts]),
        vectors=np.concatenate([part.vectors for part in parts]),
    )


def warnings_of(summary: DecodeSummary) -> tuple[str, ...]:
    """Say in words what was wrong with media that decoded all the same."""
    found = []
    if summary.truncated:
        found.append("it ends before its header says; what is there was indexed")
    if summary.error_count:
        found.append(f"{summary.error_count} damaged packets were skipped")
    if summary.epoch_count > 1:
        found.append(f"its timestamps break {summary.epoch_count - 1} times")
    return tuple(found)
