"""OpenBatches: pictures and windows of speech of a run that wait for a full batch."""

from collections.abc import Sequence

import numpy as np

from encoders.speech.voices import load_voices
from encoders.speech.whisper import SpeechWindow, Transcriber
from encoders.values import FrameEmbeddings
from ingest.values import Frame
from serve.catalog.catalog import Catalog
from serve.encoder_set import Encoders
from serve.indexing.work import VideoWork
from serve.settings import Settings


class OpenBatches:
    """One batch of pictures and one of windows of speech, across the videos of an indexing run.

    Unlike encoders.batching.Batcher, which encodes whatever waits in a thread of its own, it waits for full batches and
    encodes them in the caller's thread, one after the other. Files can wait, and small batches cost more: a window of
    speech takes Whisper tiny.en 1.6 s of CPU time alone, 1.1 s in a batch of 2 and 0.9 s in batches of 4 and 8.
    """

    def __init__(
        self, catalog: Catalog, encoders: Encoders, transcriber: Transcriber | None, settings: Settings
    ) -> None:
        self._catalog, self._encoders, self._transcriber = catalog, encoders, transcriber
        self._max_frame_count, self._max_speech_count = settings.visual.batch_count, settings.speech.batch_count
        self._voices = load_voices() if transcriber is not None and settings.speech.speakers else None
        self._frames: list[tuple[VideoWork, Frame]] = []
        self._speech: list[tuple[VideoWork, SpeechWindow]] = []

    def add_frame(self, work: VideoWork, frame: Frame) -> None:
        """Take a picture; encode its batch if that is full now."""
        work.item_count += 1
        work.pending_count += 1
        self._frames.append((work, frame))
        if len(self._frames) >= self._max_frame_count:
            self._encode_frames()

    def add_speech(self, work: VideoWork, windows: Sequence[SpeechWindow]) -> None:
        """Take windows of speech; transcribe their batch if that is full now."""
        work.item_count += len(windows)
        work.pending_count += len(windows)
        self._speech += [(work, window) for window in windows]
        if len(self._speech) >= self._max_speech_count:
            self._transcribe()

    def encode(self) -> None:
        self._encode_frames()
        self._transcribe()

    def _encode_frames(self) -> None:
        """Encode the pictures, and store them in the catalog."""
        batch = [(work, frame) for work, frame in self._frames if not work.is_over]
        self._frames = []
        if not batch:
            return
        vectors = self._encoders.encode_frames([frame for _, frame in batch])
        for work in dict.fromkeys(work for work, _ in batch):
            rows = [n for n, (owner, _) in enumerate(batch) if owner is work]
            frames = [batch[n][1] for n in rows]
            embeddings = FrameEmbeddings(
                epochs=np.array([frame.epoch for frame in frames], np.int32),
                pts_seconds=np.array([frame.pts_seconds for frame in frames], np.float64),
                vectors=vectors[rows],
            )
            self._catalog.add_frames(work.row, embeddings, [frame.thumbnail for frame in frames])
            work.frames.append(embeddings)
            work.pending_count -= len(rows)

    def _transcribe(self) -> None:
        batch = [(work, window) for work, window in self._speech if not work.is_over]
        self._speech = []
        if not batch or self._transcriber is None:
            return
        transcribed = self._transcriber.transcribe([window for _, window in batch])
        for (work, window), utterances in zip(batch, transcribed, strict=True):
            work.utterances += utterances
            if self._voices is not None:
                work.voices.append(self._voices.encode(window, utterances))
            work.facts.take_words(window.speech, utterances)
            work.pending_count -= 1
