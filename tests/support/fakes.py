"""Exact encoders without weights: red finds red, a tone is a word. They live in the tests, never in the product."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from encoders.calibration import Calibration, Scale, weigh_own
from encoders.values import Utterance, Word
from ingest.values import SAMPLE_RATE_HZ, AudioBlock

COLOURS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0)}
TONES_HZ = {440: "Paris is lovely.", 880: "London is foggy.", 1320: "Tokyo never sleeps."}


CALIBRATION = Calibration(
    templates=("{}",),
    bank_share=0.5,
    video_temperature=0.1,
    moment_temperature=0.02,
    video=weigh_own(half_at=1.6, slope=2.5),
    moment=weigh_own(half_at=1.6, slope=2.5),
    picture=Scale(no_match_below=0.8, match_above=0.9),
)


class ColourEncoder:
    """Embeds a picture as its mean colour and a text as the colours it names."""

    name = "colour"
    fingerprint = "c0104"
    width = 4
    input_width = 32
    input_height = 32
    resize = "squash"
    calibration = CALIBRATION
    sentence = None

    def encode_frames(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        mean = pixels.reshape(len(pixels), -1, 3).mean(axis=1) / 255
        return unit(np.concatenate([mean, np.full((len(mean), 1), 0.2)], axis=1))

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows = []
        for text in texts:
            named = [COLOURS[word] for word in text.lower().split() if word in COLOURS]
            rows.append([*(np.mean(named, axis=0) if named else (0, 0, 0)), 0.2])
        return unit(np.array(rows).reshape(-1, self.width))


class WordSumEncoder:
    """Embeds a sentence as the sum of its words, each a fixed random direction."""

    name = "words"
    fingerprint = "3024d5"
    width = 256

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if not texts:
            return np.zeros((0, self.width), np.float32)
        return unit(np.stack([sum(map(self.direction, bare(text) or ["nothing"])) for text in texts]))

    def direction(self, word: str) -> NDArray[np.float64]:
        return np.random.default_rng(zlib.crc32(word.encode())).standard_normal(self.width)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ToneWindow:
    """A second of sound that is not silent."""

    epoch: int
    run_start_seconds: float
    start_seconds: float
    samples: NDArray[np.float32]
    stream: "ToneStream"

    @property
    def end_seconds(self) -> float:
        return self.start_seconds + len(self.samples) / SAMPLE_RATE_HZ

    @property
    def speech(self) -> NDArray[np.float64]:
        return np.array([[self.start_seconds, self.end_seconds]])


@dataclass(slots=True, eq=False)
class ToneStream:
    """Cuts sound into seconds, each a run of its own; one that is loud enough is a window."""

    language: str | None = None
    epoch: int = 0
    run_start_seconds: float | None = None  # None: nothing was pushed
    samples: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))  # of the second going on

    @property
    def open_since_seconds(self) -> float | None:
        return self.run_start_seconds

    def push(self, block: AudioBlock) -> list[ToneWindow]:
        found: list[ToneWindow] = []
        if self.run_start_seconds is not None:
            gap = round((block.start_seconds - self.run_start_seconds) * SAMPLE_RATE_HZ) - len(self.samples)
            if block.epoch != self.epoch or not 0 <= gap <= SAMPLE_RATE_HZ:
                found = self.finish()
            else:
                self.samples = np.concatenate([self.samples, np.zeros(gap, np.float32)])
        if self.run_start_seconds is None:
            self.epoch, self.run_start_seconds = block.epoch, block.start_seconds
        self.samples = np.concatenate([self.samples, block.samples])
        while len(self.samples) >= SAMPLE_RATE_HZ:
            found += self._cut()
        return found

    def finish(self) -> list[ToneWindow]:
        found = self._cut() if len(self.samples) >= SAMPLE_RATE_HZ // 2 else []
        self.run_start_seconds, self.samples = None, np.zeros(0, np.float32)
        return found

    def _cut(self) -> list[ToneWindow]:
        start = self.run_start_seconds
        assert start is not None
        part, self.samples = self.samples[:SAMPLE_RATE_HZ], self.samples[SAMPLE_RATE_HZ:]
        self.run_start_seconds = start + len(part) / SAMPLE_RATE_HZ
        if np.sqrt((part**2).mean()) <= 0.1:
            return []
        return [ToneWindow(epoch=self.epoch, run_start_seconds=start, start_seconds=start, samples=part, stream=self)]


class ToneTranscriber:
    """Hears a sentence in each second of a pure tone."""

    name = "tone"
    fingerprint = "70e"
    is_multilingual = True
    language = None
    languages: tuple[str, ...] = ()

    def open_stream(self, language: str | None = None) -> ToneStream:
        return ToneStream(language)

    def transcribe(self, windows: Sequence[ToneWindow]) -> list[list[Utterance]]:
        return [[self.utterance(window)] for window in windows]

    def utterance(self, window: ToneWindow) -> Utterance:
        spectrum = np.abs(np.fft.rfft(window.samples))
        hz = float(spectrum.argmax()) * SAMPLE_RATE_HZ / len(window.samples)
        text = TONES_HZ[min(TONES_HZ, key=lambda tone: abs(tone - hz))]
        words, length = text.split(), len(window.samples) / SAMPLE_RATE_HZ / len(text.split())
        start = window.start_seconds
        return Utterance(
            epoch=window.epoch,
            start_seconds=start,
            end_seconds=start + length * len(words),
            text=text,
            words=tuple(
                Word(text=word, start_seconds=start + n * length, end_seconds=start + (n + 1) * length, probability=1.0)
                for n, word in enumerate(words)
            ),
            language="en",
            avg_logprob=0.0,
            no_speech_prob=0.0,
        )


def bare(text: str) -> list[str]:
    return [word.strip(".,?!\"'").lower() for word in text.split() if word.strip(".,?!\"'")]


def unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def write_scenes(
    path: Path, scenes: Sequence[tuple[str, int]], tones: Sequence[tuple[int, float]] = (), salt: int = 0
) -> Path:
    """Write a small mp4 of plain colours, and tones that ToneTranscriber hears as sentences.

    Args:
        scenes: (colour name, seconds) one after the other, at 5 pictures a second.
        tones: (Hz, start second), each one second long; without any, the file has no sound.
        salt: Changes the bytes and nothing else that a test looks at.
    """
    with av.open(str(path), "w") as container:
        container.metadata["comment"] = str(salt)
        video = container.add_stream("libx264", rate=5, options={"g": "5", "preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="mono") if tones else None
        for colour, seconds in scenes:
            picture = np.broadcast_to(np.array(COLOURS[colour], np.uint8) * 255, (48, 64, 3))
            for _ in range(5 * seconds):
                container.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(video.encode(None))
        if sound is not None:
            total = sum(seconds for _, seconds in scenes)
            samples = np.zeros(total * SAMPLE_RATE_HZ, np.float32)
            for hz, start in tones:
                at = round(start * SAMPLE_RATE_HZ)
                samples[at : at + SAMPLE_RATE_HZ] = 0.5 * np.sin(
                    2 * np.pi * hz * np.arange(SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
                )
            frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
            frame.sample_rate = SAMPLE_RATE_HZ
            container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
    return path


class SilentProgress:
    """Watches an indexing run and keeps only its notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.left_out: Mapping[str, int] = {}

    def expect(self, count: int) -> None: ...

    def leave_out(self, counts: Mapping[str, int]) -> None:
        self.left_out = counts

    def note(self, line: str) -> None:
        self.notes.append(line)

    def start(self, uri: str) -> None: ...

    def advance(self, uri: str, media_seconds: float, duration_seconds: float | None) -> None: ...

    def finish(self, uri: str) -> None: ...


def use_fakes(monkeypatch: pytest.MonkeyPatch, *, visual: bool = True) -> None:
    """Make the library and the pipeline load these encoders instead of real ones, and take new files for complete."""
    monkeypatch.setattr("ingest.source.source.REST_SECONDS", 0.0)
    monkeypatch.setattr("serve.encoder_set.SentenceEncoder.load", lambda config: WordSumEncoder())
    monkeypatch.setattr(
        "serve.encoder_set.load_visual",
        lambda config, sentence, remembered=None: (ColourEncoder() if visual else None, "a test's encoder"),
    )
    monkeypatch.setattr("encoders.speech.whisper.Transcriber.load", lambda config: ToneTranscriber())
    for user in ("indexing.run", "indexing.job_worker", "worker.worker"):
        monkeypatch.setattr(f"serve.{user}.load_reader", lambda config: None)  # no text is read
