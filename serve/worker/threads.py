"""What a worker has done for its partitions by other threads: decoding, encoding, transcribing, sending.

What a thread is done with comes back as a call in `calls`, which the worker's own thread makes, so that the state of
streams belongs to one thread alone.
"""

import contextlib
import io
import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from encoders.batching import Batcher, Value
from encoders.speech.whisper import Transcriber
from encoders.values import Utterance
from ingest.config import SourceConfig
from ingest.errors import IngestError, SourceUnavailable
from ingest.kafka import Delivery, Producer, Topics
from ingest.media.sandbox import DecodePool
from ingest.source.source import OpenedSource, check_policy, open_source, video_id_of
from ingest.values import Decoded, Frame
from serve.codec.records import SegmentRecord, video_key
from serve.encoder_set import Encoders, decode_config
from serve.observe.worker_metrics import WorkerMetrics
from serve.settings import Settings
from serve.worker.stream import Entry
from serve.worker.video_flow import Speech, Step, VideoFlow
from serve.worker.whole_file import FileCancelled, FileWork, Pieces

FILE_THREADS = 1  # whole files decoded at a time, beside the chunks
RETRY_SECONDS = (1.0, 2.0, 4.0)  # between tries at a URI whose other end fails
# Of one chunk, which is held in memory as a whole. It has ten seconds, but a publisher that must not transcode makes it
# as long as its groups of pictures.
MAX_CHUNK_SECONDS = 300.0
MAX_CHUNK_BYTES = 1 << 30  # by URI
MAX_CHUNK_FETCH_SECONDS = 60.0  # a slow server must not hold its stream for longer
Said = tuple[list[Utterance], NDArray[np.float32]]  # utterances, and float32 (U, D)


class Desk:
    """The threads of one worker. All public methods are called by the worker's thread."""

    def __init__(
        self,
        settings: Settings,
        encoders: Encoders,
        transcriber: Transcriber | None,
        producer: Producer,
        metrics: WorkerMetrics,
        spool: Path,
    ) -> None:
        """Start the threads.

        Args:
            spool: A folder for what is downloaded.
        """
        self.settings, self.encoders, self.transcriber = settings, encoders, transcriber
        self.metrics, self.producer, self._spool = metrics, producer, spool
        self.window, self.sampling = settings.window, settings.decode.sampling
        self.fingerprint = encoders.space.fingerprint
        self.idle_seconds, self.shed_seconds = settings.worker.idle_seconds, settings.worker.shed_seconds
        self.topics = Topics(settings.kafka.topic_prefix)
        self.calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        # Of streams; files have bounds of their own.
        self.in_flight_count = 0  # chunks being decoded, and steps being encoded
        self.speech_count = 0  # windows of speech being transcribed
        self._closing = threading.Event()
        file_config = decode_config(settings, encoders)
        self._pool = DecodePool(file_config, workers=settings.workers + FILE_THREADS)
        seconds = min(MAX_CHUNK_SECONDS, file_config.max_duration_seconds)
        self._chunk_config = replace(file_config, clock="source", max_duration_seconds=seconds)
        self._chunk_source = replace(
            settings.source,
            max_bytes=min(MAX_CHUNK_BYTES, settings.source.max_bytes),
            max_fetch_seconds=min(MAX_CHUNK_FETCH_SECONDS, settings.source.max_fetch_seconds),
        )
        self._chunk_threads = ThreadPoolExecutor(settings.workers, thread_name_prefix="chunk")
        self._file_threads = ThreadPoolExecutor(FILE_THREADS, thread_name_prefix="file")
        self._frames: Batcher[Frame, NDArray[np.float32]] = Batcher(
            self._encode_frames,
            max_count=settings.visual.batch_count,
            name="pictures",
            on_batch=self._on_batch("encode", settings.visual.batch_count),
            is_even=True,
        )
        self._speech: Batcher[Speech, Said] = Batcher(
            self._find_words,
            max_count=settings.speech.batch_count,
            name="words",
            on_batch=self._on_batch("transcribe", settings.speech.batch_count),
        )

    def close(self) -> None:
        """End the threads; what is under way is dropped."""
        self._closing.set()
        self._pool.close()
        for threads in (self._chunk_threads, self._file_threads):
            threads.shutdown(wait=True, cancel_futures=True)
        self._frames.close()
        self._speech.close()

    def make_calls(self) -> None:
        """Take what the threads are done with."""
        with contextlib.suppress(queue.Empty):
            while True:
                self.calls.get_nowait()()

    def decode(self, entry: Entry, on_done: Callable[[list[Decoded] | IngestError], None]) -> None:
        """Decode a chunk."""
        self.in_flight_count += 1

        def done(found: list[Decoded] | IngestError) -> None:
            self.in_flight_count -= 1
            on_done(found)

        def work() -> None:
            try:
                found = self._decode_chunk(entry)
            except FileCancelled:
                pass  # the worker ends
            except IngestError as error:
                self.calls.put(lambda error=error: done(error))  # type: ignore[misc]
            except Exception as error:  # a bug: raised where the process ends by it
                self.calls.put(lambda error=error: throw(error))  # type: ignore[misc]
            else:
                self.calls.put(lambda: done(found))

        self._chunk_threads.submit(work)

    def decode_file(self, work: FileWork, on_change: Callable[[], None]) -> None:
        """Decode a whole file, piece by piece; `on_change` is called after each, and at the end."""

        def run() -> None:
            try:
                self._decode_file(work, on_change)
            except FileCancelled:
                pass
            except IngestError as error:
                work.failure = error
                self.calls.put(on_change)
            except Exception as error:
                self.calls.put(lambda error=error: throw(error))  # type: ignore[misc]

        self._file_threads.submit(run)

    def encode(self, step: Step, on_done: Callable[[], None], *, is_live: bool) -> None:
        """Encode a step's pictures."""
        self.in_flight_count += is_live

        def done(vectors: Sequence[NDArray[np.float32]] | Exception) -> None:
            def call() -> None:
                self.in_flight_count -= is_live
                step.vectors = np.stack(given(vectors))
                on_done()

            self.calls.put(call)

        self._frames.submit(step.frames, done)

    def transcribe(self, flow: VideoFlow, speech: list[Speech], on_done: Callable[[], None], *, is_live: bool) -> None:
        """Find the words of windows of speech."""
        self.speech_count += is_live * len(speech)

        def done(found: Sequence[Said] | Exception) -> None:
            def call() -> None:
                self.speech_count -= is_live * len(speech)
                for one, (utterances, vectors) in zip(speech, given(found), strict=True):
                    flow.transcribed(one, utterances, vectors)
                on_done()

            self.calls.put(call)

        self._speech.submit(speech, done)

    def send_segment(self, record: SegmentRecord, data: bytes) -> Delivery:
        """Publish a segment, in the partition of its video."""
        self.metrics.segments.labels("final" if record.is_final else "provisional").inc()
        if not record.uri:  # a stream: a file may have waited for long
            self.metrics.publish_latency_seconds.observe(max(0.0, time.time() - record.newest_append_time))
        topic = self.topics.segments
        partition = self.producer.partition_of(topic, video_key(record.collection, record.video_id))
        return self.producer.send(topic, record.key, data, partition=partition)

    def send_tombstone(self, flow: VideoFlow, key: bytes) -> Delivery:
        """Take a segment back."""
        topic = self.topics.segments
        partition = self.producer.partition_of(topic, video_key(flow.collection, flow.video_id))
        return self.producer.send(topic, key, None, partition=partition)

    def send_dead_letter(self, key: bytes, data: bytes) -> Delivery:
        """Publish a record that cannot be used."""
        return self.producer.send(self.topics.deadletter, key, data)

    def send_checkpoint(self, partition: int, key: bytes, data: bytes) -> Delivery:
        """Publish where a stream goes on."""
        return self.producer.send(self.topics.checkpoints, key, data, partition=partition)

    def count(self, outcome: str) -> None:
        """Count a record by what became of it."""
        self.metrics.records.labels(outcome).inc()

    def append_seconds_now(self) -> float:
        """Return the time as brokers note it: seconds since 1970."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds that only grow."""
        return time.monotonic()

    # ---- other threads

    def _decode_chunk(self, entry: Entry) -> list[Decoded]:
        begin, chunk = time.monotonic(), entry.chunk
        if chunk.uri:
            with self._opened(chunk.uri, self._chunk_source) as opened:
                found = list(self._pool.decode(opened.file, uri=opened.uri, config=self._chunk_config))
        else:
            name = f"{chunk.collection}/{chunk.stream_id} chunk {chunk.sequence}"
            found = list(self._pool.decode(io.BytesIO(chunk.media), uri=name, config=self._chunk_config))
        self.metrics.stage_seconds.labels("decode").observe(time.monotonic() - begin)
        return found

    def _decode_file(self, work: FileWork, on_change: Callable[[], None]) -> None:
        source, pieces = work.source, Pieces()
        with self._opened(source.uri, self.settings.source, work) as opened:
            work.name = opened.uri
            work.flow = VideoFlow(
                source.collection,
                source.video_id or video_id_of(opened.content_sha256),
                transcriber=self.transcriber,
                window=self.window,
                pooling=self.encoders.pooling,
                fingerprint=self.fingerprint,
                uri=opened.uri,
                metadata=source.metadata,
            )
            for item in self._pool.decode(opened.file, uri=work.name):
                for placed in pieces.push(item):
                    work.put(placed)
                    self.calls.put(on_change)
        work.put(None)
        self.calls.put(on_change)

    @contextlib.contextmanager
    def _opened(self, uri: str, config: SourceConfig, work: FileWork | None = None) -> Iterator[OpenedSource]:
        """Open what a record names, which must be a URI the policy allows; try again where the other end fails."""

        def check(*_: object) -> None:
            if self._closing.is_set() or (work is not None and work.is_cancelled):
                raise FileCancelled

        check_policy(uri, config)
        with contextlib.ExitStack() as stack:
            for attempt in itertools.count():
                check()
                try:
                    opened = stack.enter_context(open_source(uri, config, spool=self._spool, progress=check))
                    break
                except SourceUnavailable:
                    if attempt == len(RETRY_SECONDS) or self._closing.wait(RETRY_SECONDS[attempt]):
                        raise
            yield opened

    def _encode_frames(self, frames: Sequence[Frame]) -> list[NDArray[np.float32]]:
        if self.encoders.visual is None:
            return [np.zeros(0, np.float32)] * len(frames)
        return list(self.encoders.visual.encode_frames(np.stack([frame.pixels for frame in frames])))

    def _find_words(self, speech: Sequence[Speech]) -> list[Said]:
        assert self.transcriber is not None
        found = self.transcriber.transcribe([one.window for one in speech])
        return [(said, self.encoders.sentence.encode([one.text for one in said])) for said in found]

    def _on_batch(self, stage: str, max_count: int) -> Callable[[int, float], None]:
        def observe(count: int, seconds: float) -> None:
            self.metrics.batch_fill.labels(stage).observe(min(1.0, count / max_count))
            self.metrics.stage_seconds.labels(stage).observe(seconds)

        return observe


def given(values: Sequence[Value] | Exception) -> Sequence[Value]:
    """Return what a batch gave, or raise what it raised."""
    if isinstance(values, Exception):
        raise values
    return values


def throw(error: Exception) -> NoReturn:
    """Raise in the worker's thread what another one met: a bug, by which the process ends and another takes over."""
    raise error
