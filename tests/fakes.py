"""Exact encoders without weights: red finds red, a tone is a word. They live in the tests, never in the product."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from encoders.values import Utterance, Word
from ingest.values import SAMPLE_RATE_HZ, AudioBlock

COLOURS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0)}
TONES_HZ = {440: "Paris is lovely.", 880: "London is foggy.", 1320: "Tokyo never sleeps."}


class ColourEncoder:
    """Embeds a picture as its mean colour and a text as the colours it names."""

    name = "colour"
    fingerprint = "c0104"
    width = 4
    input_width = 32
    input_height = 32
    resize = "squash"

    def encode_frames(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        mean = pixels.reshape(len(pixels), -1, 3).mean(axis=1) / 255
        return unit(np.concatenate([mean, np.full((len(mean), 1), 0.2)], axis=1))

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows = []
        for text in texts:
            named = [COLOURS[word] for word in text.lower().split() if word in COLOURS]
            rows.append([*(np.mean(named, axis=0) if named else (0, 0, 0)), 0.2])
        return unit(np.array(rows))


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ToneWindow:
    """A run of sound that is not silent."""

    epoch: int
    start_seconds: float
    samples: NDArray[np.float32]


@dataclass(slots=True)
class ToneStream:
    """Collects sound; every second that is loud enough is a window of its own."""

    blocks: list[AudioBlock] = field(default_factory=list)

    def push(self, block: AudioBlock) -> list[ToneWindow]:
        self.blocks.append(block)
        return []

    def finish(self) -> list[ToneWindow]:
        found = []
        for block in self.blocks:
            for n in range(0, len(block.samples) - SAMPLE_RATE_HZ // 2, SAMPLE_RATE_HZ):
                part = block.samples[n : n + SAMPLE_RATE_HZ]
                if np.abs(part).max() > 0.05:
                    at = block.start_seconds + n / SAMPLE_RATE_HZ
                    found.append(ToneWindow(epoch=block.epoch, start_seconds=at, samples=part))
        return found


class ToneTranscriber:
    """Hears a sentence in each second of a pure tone."""

    name = "tone"
    fingerprint = "70e"

    def open_stream(self) -> ToneStream:
        return ToneStream()

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
