"""WorkerThreads: the thread pools of one worker, for decoding, encoding and transcribing, and its Kafka producer.

Results come back as callbacks in a queue, which the worker's thread runs. So one thread owns the state of all streams.
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
from functools import partial
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from encoders.batching import Batcher, Value
from encoders.speech.sound_choice import choose_sound
from encoders.speech.whisper import Transcriber
from encoders.values import Utterance
from ingest.config import SourceConfig
from ingest.errors import BrokerUnavailable, IngestError, SourceUnavailable
from ingest.kafka import Delivery, Producer, Topics
from ingest.sandbox.pool import DecodePool
from ingest.source.source import SourceFile, check_policy, open_source, video_id_of
from ingest.values import Decoded, Frame
from serve.codec.records import SegmentRecord, video_key
from serve.encoder_set import Encoders, reading_config
from serve.observe.worker_metrics import WorkerMetrics
from serve.settings import Settings
from serve.video_warnings import FileFacts
from serve.worker.broker_time import BrokerTime
from serve.worker.effects import Effects, ReceivedChunk
from serve.worker.picture_text import EncodedLine, PictureText
from serve.worker.video_flow import Step, TrackedSpeech, VideoFlow
from serve.worker.whole_file import FileCancelled, FileCutter, FileWork

TIME_KEY = b"clock"  # of the record without meaning whose append time is the brokers' time
FILE_THREADS = 1  # whole files decoded at a time, besides the chunks
RETRY_SECONDS = (1.0, 2.0, 4.0)  # between attempts to open a URI whose server fails
# Of one chunk, which is held in memory as a whole. A chunk is ten seconds long, but a publisher that must not transcode
# makes chunks as long as the groups of pictures of its source.
MAX_CHUNK_SECONDS = 300.0
MAX_CHUNK_BYTES = 1 << 30  # of a chunk that is fetched by URI
MAX_CHUNK_FETCH_SECONDS = 60.0  # a slow server must not hold up its stream for longer
TranscribedSpeech = tuple[list[Utterance], NDArray[np.float32]]  # utterances, and their vectors: float32 (U, D)
Callback = Callable[[], None]


class WorkerThreads(Effects):
    """Implements Effects for one worker. All public methods are called by the worker's thread."""

    def __init__(
        self,
        settings: Settings,
        encoders: Encoders,
        transcriber: Transcriber | None,
        producer: Producer,
        metrics: WorkerMetrics,
        spool: Path,
        open_text: Callable[[], PictureText] | None,
    ) -> None:
        """Start the threads; downloads go to the folder `spool`. `open_text` is as of StreamConfig."""
        self._open_text = open_text
        self._settings, self._encoders, self._transcriber = settings, encoders, transcriber
        self._choose_sound = partial(choose_sound, transcriber) if transcriber is not None else None
        self._metrics, self._producer, self._spool = metrics, producer, spool
        self._topics = Topics(settings.kafka.topic_prefix)
        self._broker_time = BrokerTime()
        self._callbacks: queue.SimpleQueue[Callback] = queue.SimpleQueue()
        # Work for streams only: whole files have bounds of their own.
        self.in_flight_count = 0  # chunks being decoded, and steps being encoded
        self.speech_count = 0  # windows of speech being transcribed
        self._closing = threading.Event()
        file_config = reading_config(settings, encoders)
        self._pool = DecodePool(file_config, workers=settings.workers + FILE_THREADS)
        seconds = min(MAX_CHUNK_SECONDS, file_config.max_duration_seconds)
        self._chunk_config = replace(file_config, clock="source", max_duration_seconds=seconds)
        self._chunk_source = replace(
            settings.source,
            max_bytes=min(MAX_CHUNK_BYTES, settings.source.max_bytes),
            max_fetch_seconds=min(MAX_CHUNK_FETCH_SECONDS, settings.source.max_fetch_seconds),
        )
        self._chunk_threads = ThreadPoolExecutor(settings.workers, thread_name_prefix="chunk")
        self._text_threads = ThreadPoolExecutor(1, thread_name_prefix="text")  # one: keeps the order of the pictures
        self._file_threads = ThreadPoolExecutor(FILE_THREADS, thread_name_prefix="file")
        self._frames: Batcher[Frame, NDArray[np.float32]] = Batcher(
            self._encode_frames,
            max_count=settings.visual.batch_count,
            name="pictures",
            on_batch=self._batch_observer("encode", settings.visual.batch_count),
            is_even=True,
        )
        self._speech: Batcher[TrackedSpeech, TranscribedSpeech] = Batcher(
            self._transcribe_speech,
            max_count=settings.speech.batch_count,
            name="words",
            on_batch=self._batch_observer("transcribe", settings.speech.batch_count),
        )

    def close(self) -> None:
        """End the threads; work under way is dropped."""
        self._closing.set()
        self._pool.close()
        for threads in (self._chunk_threads, self._file_threads, self._text_threads):
            threads.shutdown(wait=True, cancel_futures=True)
        self._frames.close()
        self._speech.close()

    @property
    def has_callbacks(self) -> bool:
        """Whether results wait for run_callbacks()."""
        return not self._callbacks.empty()

    def run_callbacks(self) -> None:
        """Run the callbacks of all work that is done. A bug that another thread met is raised here."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._callbacks.get_nowait()()

    # ---- decoding and encoding

    def decode(self, received: ReceivedChunk, on_done: Callable[[list[Decoded] | IngestError], None]) -> None:
        self.in_flight_count += 1

        def finish(result: list[Decoded] | IngestError) -> None:
            self.in_flight_count -= 1
            on_done(result)

        self._submit(self._chunk_threads, lambda: partial(finish, self._decode_chunk(received)), on_failure=finish)

    def decode_file(self, work: FileWork, on_change: Callback) -> None:
        def decode() -> Callback:
            self._decode_file(work, on_change)
            return on_change

        def fail(error: IngestError) -> None:
            work.failure = error
            on_change()

        self._submit(self._file_threads, decode, on_failure=fail)

    def encode(self, step: Step, on_done: Callback, *, is_live: bool) -> None:
        self.in_flight_count += is_live

        def finish(vectors: Sequence[NDArray[np.float32]] | Exception) -> None:
            self.in_flight_count -= is_live
            step.vectors = np.stack(values_or_raise(vectors))
            on_done()

        self._frames.submit(step.frames, lambda vectors: self._callbacks.put(partial(finish, vectors)))

    def read_text(self, flow: VideoFlow, step: Step, on_done: Callback, *, is_live: bool) -> None:
        self.in_flight_count += is_live

        def finish(lines: tuple[EncodedLine, ...]) -> None:
            self.in_flight_count -= is_live
            step.lines, step.is_reading = lines, False
            on_done()

        def read() -> Callback:
            assert flow.text is not None
            begin = time.monotonic()
            if step.placed is None:
                lines = flow.text.finish(step.end_seconds, step.needed)
            else:
                lines = flow.text.push(step.frames, step.end_seconds, step.needed)
            self._metrics.stage_seconds.labels("read").observe(time.monotonic() - begin)
            return partial(finish, lines)

        self._submit(self._text_threads, read, on_failure=raise_error)

    def transcribe(self, flow: VideoFlow, speech: list[TrackedSpeech], on_done: Callback, *, is_live: bool) -> None:
        self.speech_count += is_live * len(speech)

        def finish(results: Sequence[TranscribedSpeech] | Exception) -> None:
            self.speech_count -= is_live * len(speech)
            for window, (utterances, vectors) in zip(speech, values_or_raise(results), strict=True):
                flow.add_words(window, utterances, vectors)
            on_done()

        self._speech.submit(speech, lambda results: self._callbacks.put(partial(finish, results)))

    # ---- the broker, metrics and clocks

    def send_segment(self, record: SegmentRecord, data: bytes) -> Delivery:
        self._metrics.segments.labels("final" if record.is_final else "provisional").inc()
        if not record.uri:  # a stream: a file's record may have waited in Kafka for long
            self._metrics.publish_latency_seconds.observe(max(0.0, self.broker_seconds() - record.newest_append_time))
        return self._send_to_segments(record.collection, record.video_id, record.key, data)

    def send_tombstone(self, flow: VideoFlow, key: bytes) -> Delivery:
        return self._send_to_segments(flow.collection, flow.video_id, key, None)

    def send_chunk(self, partition: int, key: bytes, data: bytes | None) -> Delivery:
        return self._producer.send(self._topics.chunks, key, data, partition=partition)

    def send_dead_letter(self, key: bytes, data: bytes) -> Delivery:
        return self._producer.send(self._topics.deadletter, key, data)

    def send_checkpoint(self, partition: int, key: bytes, data: bytes | None) -> Delivery:
        delivery = self._producer.send(self._topics.checkpoints, key, data, partition=partition)
        self._broker_time.measure(delivery)
        return delivery

    def count(self, outcome: str) -> None:
        self._metrics.records.labels(outcome).inc()

    def ask_time(self, timeout_seconds: float) -> None:
        """Measure the brokers' time by a record without meaning among the checkpoints.

        Raises:
            BrokerUnavailable: If the broker does not append it in time.
        """
        delivery = self.send_checkpoint(0, TIME_KEY, None)
        if not delivery.wait(timeout_seconds) or delivery.error is not None:
            servers = self._settings.kafka.servers
            raise delivery.error or BrokerUnavailable(servers, f"no answer within {timeout_seconds:g} s")
        self.broker_seconds()

    def broker_seconds(self) -> float:
        return self._broker_time.seconds()

    def monotonic_seconds(self) -> float:
        return time.monotonic()

    def _send_to_segments(self, collection: str, video_id: str, key: bytes, data: bytes | None) -> Delivery:
        topic = self._topics.segments
        partition = self._producer.partition_of(topic, video_key(collection, video_id))
        return self._producer.send(topic, key, data, partition=partition)

    # ---- other threads

    def _submit(
        self, threads: ThreadPoolExecutor, work: Callable[[], Callback], *, on_failure: Callable[[IngestError], None]
    ) -> None:
        """Run `work` in a pool, and queue the callback that it returns."""

        def run() -> None:
            try:
                callback = work()
            except FileCancelled:  # the worker ends, or the partition was given up
                return
            except IngestError as error:
                callback = partial(on_failure, error)
            except Exception as error:  # a bug: raised in the worker's thread, which ends the process
                callback = partial(raise_error, error)
            self._callbacks.put(callback)

        threads.submit(run)

    def _decode_chunk(self, received: ReceivedChunk) -> list[Decoded]:
        begin, chunk = time.monotonic(), received.chunk
        if chunk.uri:
            with self._open_uri(chunk.uri, self._chunk_source) as opened:
                items = list(self._pool.decode(opened.file, uri=opened.uri, config=self._chunk_config))
        else:
            name = f"{chunk.collection}/{chunk.stream_id} chunk {chunk.sequence}"
            items = list(self._pool.decode(io.BytesIO(chunk.media), uri=name, config=self._chunk_config))
        self._metrics.stage_seconds.labels("decode").observe(time.monotonic() - begin)
        return items

    def _decode_file(self, work: FileWork, on_change: Callback) -> None:
        source, cutter = work.source, FileCutter()
        facts = FileFacts(
            expects_pictures=self._settings.decode.decode_video,
            finds_only_english=self._settings.sentence.knows_only_english,
        )
        with self._open_uri(source.uri, self._settings.source, work) as opened:
            work.name = opened.uri
            work.flow = VideoFlow(
                source.collection,
                source.video_id or video_id_of(opened.content_sha256),
                transcriber=self._transcriber,
                window=self._settings.window,
                pooling=self._encoders.pooling,
                fingerprint=self._encoders.space.fingerprint,
                uri=opened.uri,
                metadata=source.metadata,
                facts=facts,
                text=None if self._open_text is None else self._open_text(),
            )
            for item in self._pool.decode(opened.file, uri=work.name, choose_sound=self._choose_sound):
                facts.take(item)
                for placed in cutter.push(item):
                    work.put(placed)
                    self._callbacks.put(on_change)
        work.put(None)

    @contextlib.contextmanager
    def _open_uri(self, uri: str, config: SourceConfig, work: FileWork | None = None) -> Iterator[SourceFile]:
        """Open the URI of a record if the source policy allows it. Retry while its server fails."""

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
        return list(self._encoders.encode_frames(frames))

    def _transcribe_speech(self, speech: Sequence[TrackedSpeech]) -> list[TranscribedSpeech]:
        assert self._transcriber is not None
        transcripts = self._transcriber.transcribe([one.window for one in speech])
        encode = self._encoders.sentence.encode
        return [(utterances, encode([utterance.text for utterance in utterances])) for utterances in transcripts]

    def _batch_observer(self, stage: str, max_count: int) -> Callable[[int, float], None]:
        def observe(count: int, seconds: float) -> None:
            self._metrics.batch_fill.labels(stage).observe(min(1.0, count / max_count))
            self._metrics.stage_seconds.labels(stage).observe(seconds)

        return observe


def values_or_raise(values: Sequence[Value] | Exception) -> Sequence[Value]:
    """Return the values of a batch, or raise the error that it met."""
    if isinstance(values, Exception):
        raise values
    return values


def raise_error(error: Exception) -> NoReturn:
    """Raise in the worker's thread a bug that another thread met: the process ends, and another takes over."""
    raise error
