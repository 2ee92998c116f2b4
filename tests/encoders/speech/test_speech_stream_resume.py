"""A stream of speech taken up again at any run's start finds what the undisturbed one finds, to the last bit."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from encoders.config import SpeechConfig
from encoders.speech import speech_stream
from encoders.speech.speech_stream import SpeechStream, SpeechWindow
from ingest.values import SAMPLE_RATE_HZ, AudioBlock
from support.speech import GOLDEN, read_sound

Sound = NDArray[np.float32]
Start = tuple[int, float]  # epoch, media time
FRAME_SECONDS = speech_stream.FRAME_SAMPLES / SAMPLE_RATE_HZ
# What a run may hold: quiet, a window that begins at its end, the pause after it, and the batch that is not full yet.
MAX_RUN_SECONDS = (
    (speech_stream.QUIET_RUN_FRAMES + speech_stream.BATCH_FRAMES) * FRAME_SECONDS + 30 + speech_stream.MAX_PAUSE_SECONDS
)


class MoodyNet:
    """A detector that hears loudness, later or sooner as the run's length has it: a run that knows of another shows."""

    def __call__(self, frames: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        mood = torch.sin((state[0][0, 0] + torch.arange(len(frames))) / 2)
        loud = frames[:, speech_stream.CONTEXT_SAMPLES :].abs().amax(dim=1)
        context = frames[:, : speech_stream.CONTEXT_SAMPLES].abs().amax(dim=1)
        probabilities = (loud > 0.05).float() * (0.4 + 0.35 * mood + 0.2 * (context > 0.05))
        return probabilities, (state[0] + len(frames), state[1])


@pytest.fixture
def moody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speech_stream, "load_detector", MoodyNet)


def run_of(window: SpeechWindow) -> Start:
    return window.epoch, window.run_start_seconds


def run_through(stream: SpeechStream, blocks: Sequence[AudioBlock]) -> tuple[list[SpeechWindow], list[Start]]:
    """Push blocks and finish: all windows, and all run starts seen on the way, in order."""
    windows: list[SpeechWindow] = []
    starts: list[Start] = []
    for block in blocks:
        windows += stream.push(block)
        assert stream.run_start_seconds is not None
        start = (stream.epoch, stream.run_start_seconds)
        assert stream.epoch == block.epoch
        assert block.end_seconds - stream.run_start_seconds < MAX_RUN_SECONDS
        assert stream.open_since_seconds is not None
        assert stream.run_start_seconds <= stream.open_since_seconds
        starts.append(start)
    windows += stream.finish()
    return windows, sorted({*starts, *map(run_of, windows)})


def cut(blocks: Sequence[AudioBlock], start: Start, rng: np.random.Generator) -> list[AudioBlock]:
    """What is pushed to take a stream up again at a start: the blocks from there on, cut anew."""
    epoch, seconds = start
    first = AudioBlock(epoch=epoch, start_seconds=seconds, samples=np.zeros(0, np.float32))  # it may begin in a gap
    after = [first]
    for block in blocks:
        if block.epoch < epoch or (block.epoch == epoch and block.end_seconds <= seconds):
            continue
        begin = max(0, round((seconds - block.start_seconds) * SAMPLE_RATE_HZ)) if block.epoch == epoch else 0
        while begin < len(block.samples):
            end = begin + int(rng.integers(1, 3 * SAMPLE_RATE_HZ))
            at = block.start_seconds + begin / SAMPLE_RATE_HZ
            after.append(AudioBlock(epoch=block.epoch, start_seconds=at, samples=block.samples[begin:end]))
            begin = end
    return after


def assert_same(got: Sequence[SpeechWindow], expected: Sequence[SpeechWindow]) -> None:
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert (a.epoch, a.run_start_seconds, a.start_seconds) == (b.epoch, b.run_start_seconds, b.start_seconds)
        np.testing.assert_array_equal(a.samples, b.samples)
        np.testing.assert_array_equal(a.speech, b.speech)


def assert_resumes_anywhere(
    blocks: Sequence[AudioBlock], config: SpeechConfig, rng: np.random.Generator
) -> list[Start]:
    """Check a stream that is taken up again at each of its run starts; return them."""
    windows, starts = run_through(SpeechStream(config), blocks)
    runs = [run_of(window) for window in windows]
    assert runs == sorted(set(runs))  # at most one window a run
    for start in starts:
        again, _ = run_through(SpeechStream(config), cut(blocks, start, rng))
        assert_same(again, [window for window in windows if run_of(window) >= start])
    return starts


def conversation(sentences: Sequence[Sound], count: int, rng: np.random.Generator) -> list[AudioBlock]:
    """Sentences after pauses of all kinds, cut into blocks of odd sizes, with jumps of the clock and new epochs."""
    blocks: list[AudioBlock] = []
    epoch, base, position = 0, float(rng.uniform(0, 5000)), 0
    for _ in range(count):
        pause = rng.choice([rng.uniform(0, 0.6), rng.uniform(0.6, 5), rng.uniform(5, 20)], p=[0.5, 0.3, 0.2])
        sentence = sentences[rng.integers(len(sentences))]
        samples = np.concatenate([np.zeros(round(pause * SAMPLE_RATE_HZ), np.float32), sentence])
        samples += (0.0003 * rng.standard_normal(len(samples))).astype(np.float32)
        for piece in np.split(samples, np.sort(rng.integers(0, len(samples), len(samples) // 4000))):
            at = base + position / SAMPLE_RATE_HZ
            blocks.append(AudioBlock(epoch=epoch, start_seconds=at, samples=piece))
            position += len(piece)
        event = rng.random()
        if event < 0.1:
            epoch, base, position = epoch + 1, float(rng.uniform(0, 5000)), 0
        elif event < 0.3:  # from a gap that is filled to one that ends the run
            position += int(rng.choice([0.05, 0.4, 0.99, 1.01, 30])) * SAMPLE_RATE_HZ + int(rng.integers(800, 15000))
    return blocks


def noises(rng: np.random.Generator) -> list[Sound]:
    """Loud stretches, of which some are clicks and some longer than a window."""
    lengths = [0.05, 0.15, 0.8, 2.0, 5.0, 11.0, 47.0]
    return [(0.5 * rng.choice([-1.0, 1.0], round(n * SAMPLE_RATE_HZ))).astype(np.float32) for n in lengths]


def spoken(path: Path) -> list[Sound]:
    """What is said in a recording, without the pauses."""
    block = AudioBlock(epoch=0, start_seconds=0.0, samples=read_sound(path))
    stream = SpeechStream(SpeechConfig())
    windows = stream.push(block) + stream.finish()
    edges = np.concatenate([window.speech for window in windows]) * SAMPLE_RATE_HZ
    return [block.samples[round(begin) : round(end)] for begin, end in edges]


@pytest.mark.usefixtures("moody")
class TestRuns:
    @pytest.mark.slow
    @pytest.mark.parametrize("max_window_seconds", [8.0, 30.0])
    @pytest.mark.parametrize("seed", range(8))
    def test_resumes_at_every_run_start(self, seed: int, max_window_seconds: float) -> None:
        rng = np.random.default_rng(seed)
        config = SpeechConfig(max_window_seconds=max_window_seconds)
        starts = assert_resumes_anywhere(conversation(noises(rng), 12, rng), config, rng)
        assert len(starts) > 3

    def test_resumes_where_timestamps_jitter(self) -> None:
        rng = np.random.default_rng(0)
        pieces = [piece for part in noises(rng) for piece in (part, np.zeros(len(part) + 9000, np.float32))]
        samples = np.concatenate(pieces)
        edges = np.arange(0, len(samples), 4999)
        jitter = rng.uniform(-0.9, 0.9, len(edges)) * speech_stream.MAX_JITTER_SECONDS * (edges > 0)
        blocks = [
            AudioBlock(epoch=0, start_seconds=a / SAMPLE_RATE_HZ + late, samples=samples[a : a + 4999])
            for a, late in zip(edges.tolist(), jitter.tolist(), strict=True)
        ]
        windows, starts = run_through(SpeechStream(SpeechConfig()), blocks)
        assert len(starts) > 5
        for start in starts:
            position = round(start[1] * SAMPLE_RATE_HZ)
            index, begin = divmod(position, 4999)
            first = AudioBlock(epoch=0, start_seconds=start[1], samples=blocks[index].samples[begin:])
            again, _ = run_through(SpeechStream(SpeechConfig()), [first, *blocks[index + 1 :]])
            assert_same(again, [window for window in windows if window.run_start_seconds >= start[1]])

    @pytest.mark.slow
    def test_runs_begin_on_the_grid_of_the_samples(self) -> None:
        rng = np.random.default_rng(1)
        blocks = conversation(noises(rng), 60, rng)
        base = {block.epoch: block.start_seconds for block in reversed(blocks)}
        _, starts = run_through(SpeechStream(SpeechConfig()), blocks)
        positions = [(seconds - base[epoch]) * SAMPLE_RATE_HZ for epoch, seconds in starts]
        np.testing.assert_allclose(positions, np.round(positions), atol=1e-3)

    def test_says_nothing_before_the_first_block(self) -> None:
        stream = SpeechStream(SpeechConfig())
        assert (stream.run_start_seconds, stream.epoch, stream.language) == (None, 0, None)
        assert SpeechStream(SpeechConfig(), language="de").language == "de"


@pytest.mark.slow
def test_resumes_in_real_speech() -> None:
    rng = np.random.default_rng(0)
    starts = assert_resumes_anywhere(conversation(spoken(GOLDEN / "speech.ogg"), 20, rng), SpeechConfig(), rng)
    assert len(starts) > 5


@pytest.mark.slow
@pytest.mark.timeout(900)  # takes five minutes on two loaded cores
@pytest.mark.parametrize("max_window_seconds", [30.0, 6.0])
@pytest.mark.parametrize("seed", range(2))
def test_resumes_in_recordings(seed: int, max_window_seconds: float, shared: Path) -> None:
    folder = shared / "videos" / "speech"
    rng = np.random.default_rng(seed)
    sounds = [read_sound(folder / entry["file"]) for entry in json.loads((folder / "speech.json").read_text())]
    config = SpeechConfig(max_window_seconds=max_window_seconds)
    assert len(assert_resumes_anywhere(conversation(sounds, 12, rng), config, rng)) > 10


@pytest.mark.slow
def test_resumes_in_unbroken_speech(shared: Path) -> None:
    parts = spoken(shared / "videos" / "speech" / "gentle__lucier.mp3")
    samples = np.concatenate([part[: -SAMPLE_RATE_HZ // 10] for part in parts] * 2)
    blocks = [
        AudioBlock(epoch=0, start_seconds=7.0 + begin / SAMPLE_RATE_HZ, samples=samples[begin : begin + 1777])
        for begin in range(0, len(samples), 1777)
    ]
    starts = assert_resumes_anywhere(blocks, SpeechConfig(), np.random.default_rng(0))
    windows, _ = run_through(SpeechStream(SpeechConfig()), blocks)
    assert len(starts) >= len(windows) >= 5
    heard = sum(len(window.samples) for window in windows)
    assert heard > 0.98 * len(samples)  # nothing is lost where a run begins amid speech


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.0, 0.001])
def test_a_run_that_begins_beside_a_sentence_hears_all_of_it(noise: float, shared: Path) -> None:
    sentence = read_sound(shared / "videos" / "speech" / "speechbrain__spk1_snt1.wav")
    begins = []
    for quiet_seconds in np.arange(7.4, 9.0, 0.1):
        quiet = np.zeros(round(quiet_seconds * SAMPLE_RATE_HZ), np.float32)
        samples = np.concatenate([quiet, sentence, quiet])
        samples += (noise * np.random.default_rng(0).standard_normal(len(samples))).astype(np.float32)
        stream = SpeechStream(SpeechConfig())
        [window] = stream.push(AudioBlock(epoch=0, start_seconds=0.0, samples=samples)) + stream.finish()
        begins.append(window.start_seconds - quiet_seconds)
        assert window.end_seconds > quiet_seconds + len(sentence) / SAMPLE_RATE_HZ - 0.1
    assert max(begins) < 0  # of 16 cuts none takes the first sound away
