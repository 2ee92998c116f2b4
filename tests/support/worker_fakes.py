"""Fakes for tests of a worker's streams and partitions: effects without threads, broker or clock, and made-up media.

A picture a second and speech in ten seconds of fifteen, both told apart by their times.
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from encoders.config import SpeechConfig
from encoders.speech.speech_stream import SpeechStream
from encoders.values import Box, ReadLine, Utterance
from ingest.errors import IngestError
from ingest.kafka import Delivery
from ingest.values import SAMPLE_RATE_HZ, AudioBlock, Decoded, DecodeSummary, Frame, MediaInfo
from serve.codec.records import SegmentRecord
from serve.worker.effects import Effects, ReceivedChunk
from serve.worker.picture_text import PictureText
from serve.worker.stream import StreamConfig
from serve.worker.video_flow import Step, TrackedSpeech, VideoFlow
from serve.worker.whole_file import FileWork
from temporal.config import WindowConfig
from temporal.fusion.fusion import MeanPooling

MEDIA = MediaInfo(
    container="mpegts", duration_seconds=None, video_codec="h264", audio_codec="aac", width=1, height=1,
    rotation_degrees=0, frame_rate_fps=25.0,
)  # fmt: skip
PIXELS = np.zeros((1, 1, 3), np.uint8)
PREROLL_SECONDS = 0.1  # sound that the chunk before has too


class LoudnessNet:
    """Takes loud sound for speech, in place of silero's network."""

    def __call__(self, frames: torch.Tensor, state: object) -> tuple[torch.Tensor, object]:
        return (frames.abs().mean(dim=1) > 0.05).float(), state


class LoudnessTranscriber:
    """Opens streams that take loud sound for speech; their words are its times."""

    def open_stream(self, language: str | None = None) -> SpeechStream:
        stream = SpeechStream(SpeechConfig(), language)
        stream._net = LoudnessNet()  # type: ignore[assignment]
        return stream


def words_of(speech: TrackedSpeech) -> list[Utterance]:
    return [
        Utterance(
            epoch=speech.window.epoch, start_seconds=start, end_seconds=end, text=f"from {start:.3f}", words=(),
            language="en", avg_logprob=0.0, no_speech_prob=0.0,
        )
        for start, end in speech.window.speech.tolist()
    ]  # fmt: skip


def decode_chunk_alone(start: float, seconds: float) -> list[Decoded]:
    """Return what decoding a chunk alone yields: a picture a second, and ten seconds in fifteen that are loud."""
    end, zero = start + seconds, math.floor(start) - 16
    times = sorted({max(float(tick), start) for tick in range(math.ceil(start - 0.5), math.ceil(end))})
    begin = round((start - PREROLL_SECONDS) * SAMPLE_RATE_HZ)
    count = np.arange(begin, round(end * SAMPLE_RATE_HZ))
    samples = (0.5 * np.sin(count * 0.05) * ((count // SAMPLE_RATE_HZ // 5) % 3 != 0)).astype(np.float32)
    return [
        MEDIA,
        *(
            Frame(epoch=0, pts_seconds=at - zero, pixels=PIXELS, thumbnail=f"{at}".encode(), reading=slide_at(at))
            for at in times
            if at < end
        ),
        AudioBlock(epoch=0, start_seconds=begin / SAMPLE_RATE_HZ - zero, samples=samples),
        DecodeSummary(
            duration_seconds=end - zero, epoch_count=1, frame_count=1, error_count=0, truncated=False,
            zero_seconds=float(zero), start_seconds=start, pictures_end_seconds=end - zero,
        ),
    ]  # fmt: skip


def slide_at(seconds: float) -> NDArray[np.uint8]:
    """Return the picture to read text from: every twelve seconds another one, whose pixels tell its number."""
    return np.full((1, 1, 3), 12 * (int(seconds // 12) % 21), np.uint8)


class SlideReader:
    """Reads "slide 9" in the picture of number 9, and nothing in every third."""

    def open_video(self) -> "SlideReader":
        return self

    def read(self, pixels: NDArray[np.uint8]) -> list[ReadLine]:
        number = int(pixels[0, 0, 0]) // 12
        box = Box(left=0.1, top=0.2, right=0.6, bottom=0.3)
        return [ReadLine(text=f"slide {number}", box=box, confidence=0.9)] if number % 3 else []


def open_slides() -> PictureText:
    return PictureText(SlideReader(), lambda texts: np.ones((len(texts), 2), np.float32))  # type: ignore[arg-type]


def stream_config(**changes: Any) -> StreamConfig:
    defaults: dict[str, Any] = {
        "transcriber": LoudnessTranscriber(), "window": WindowConfig(), "pooling": MeanPooling(), "sampling": "fast",
        "fingerprint": "f", "idle_seconds": 60.0, "shed_seconds": 0.0, "max_session_lead_seconds": 300.0,
        "open_text": None,
    }  # fmt: skip
    return StreamConfig(**defaults | changes)


class FakeDelivery(Delivery):
    """A record that a broker acknowledges when the test says so."""

    def __init__(self, topic: str, key: bytes, value: bytes | None) -> None:
        super().__init__((), topic, None)
        self.topic, self.key, self.value = topic, key, value
        self.is_acknowledged = False
        self.failure: IngestError | None = None

    @property
    def is_done(self) -> bool:
        return self.is_acknowledged or self.failure is not None

    @property
    def error(self) -> IngestError | None:
        return self.failure


class FakeEffects(Effects):
    """Work waits in lists until the test does it; records wait for their acknowledgement."""

    def __init__(self, content: dict[tuple[int, int], list[Decoded] | IngestError] | None = None) -> None:
        self.content = content or {}  # by (session, sequence); all else has nothing in it
        self.decoding: list[Callable[[], None]] = []
        self.encoding: list[Callable[[], None]] = []  # pictures and speech
        self.files: list[tuple[FileWork, Callable[[], None]]] = []
        self._unread: deque[tuple[VideoFlow, Step, Callable[[], None]]] = deque()
        self.segments: list[SegmentRecord] = []
        self.deliveries: list[FakeDelivery] = []
        self.counts: Counter[str] = Counter()
        self.now = self.wall = 1000.0

    def decode(self, received: ReceivedChunk, on_done: Callable[[list[Decoded] | IngestError], None]) -> None:
        self.decoding.append(partial(on_done, self.content.get((received.chunk.session, received.chunk.sequence), [])))

    def decode_file(self, work: FileWork, on_change: Callable[[], None]) -> None:
        self.files.append((work, on_change))

    def encode(self, step: Step, on_done: Callable[[], None], *, is_live: bool) -> None:
        def finish() -> None:
            step.vectors = np.array([[math.cos(f.pts_seconds), math.sin(f.pts_seconds)] for f in step.frames])
            on_done()

        self.encoding.append(finish)

    def read_text(self, flow: VideoFlow, step: Step, on_done: Callable[[], None], *, is_live: bool) -> None:
        self._unread.append((flow, step, on_done))
        self.encoding.append(self._read_next)  # whichever of these is done first reads the oldest step

    def _read_next(self) -> None:
        flow, step, on_done = self._unread.popleft()
        assert flow.text is not None
        if step.placed is None:
            step.lines = flow.text.finish(step.end_seconds, step.needed)
        else:
            step.lines = flow.text.push(step.frames, step.end_seconds, step.needed)
        step.is_reading = False
        on_done()

    def transcribe(
        self, flow: VideoFlow, speech: list[TrackedSpeech], on_done: Callable[[], None], *, is_live: bool
    ) -> None:
        def finish(window: TrackedSpeech) -> None:
            utterances = words_of(window)
            flow.add_words(window, utterances, np.ones((len(utterances), 2), np.float32))
            on_done()

        self.encoding += [partial(finish, window) for window in speech]

    def send_segment(self, record: SegmentRecord, data: bytes) -> Delivery:
        self.segments.append(record)
        return self._send("segments", record.key, data)

    def send_tombstone(self, flow: VideoFlow, key: bytes) -> Delivery:
        return self._send("segments", key, None)

    def send_dead_letter(self, key: bytes, data: bytes) -> Delivery:
        return self._send("deadletter", key, data)

    def send_chunk(self, partition: int, key: bytes, data: bytes | None) -> Delivery:
        return self._send(f"chunks/{partition}", key, data)

    def send_checkpoint(self, partition: int, key: bytes, data: bytes) -> Delivery:
        return self._send("checkpoints", key, data)

    def count(self, outcome: str) -> None:
        self.counts[outcome] += 1

    def broker_seconds(self) -> float:
        return self.wall

    def monotonic_seconds(self) -> float:
        return self.now

    def _send(self, topic: str, key: bytes, value: bytes | None) -> FakeDelivery:
        self.deliveries.append(FakeDelivery(topic, key, value))
        return self.deliveries[-1]

    # ---- what the test does

    def finish(self, work: list[Callable[[], None]]) -> None:
        """Do waiting work, the oldest first, and what follows from it."""
        while work:
            work.pop(0)()

    def finish_all(self) -> None:
        while self.decoding or self.encoding:
            self.finish(self.decoding)
            self.finish(self.encoding)

    def acknowledge(self, *topics: str) -> None:
        """Acknowledge all records of some topics; of all topics if none is named."""
        for delivery in self.deliveries:
            delivery.is_acknowledged |= not topics or delivery.topic in topics

    def deliveries_to(self, topic: str) -> Sequence[FakeDelivery]:
        return [delivery for delivery in self.deliveries if delivery.topic == topic]
