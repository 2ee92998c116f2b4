"""Windows of speech: where they begin and end, and that only the sound decides."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from encoders.config import SpeechConfig
from encoders.speech import silero, speech_stream
from encoders.speech.speech_stream import SpeechStream, SpeechWindow
from ingest.values import SAMPLE_RATE_HZ, AudioBlock
from support.marks import first_quick
from support.speech import GOLDEN, push_all, read_sound


class LoudnessNet:
    """A detector whose word is exact: loud is speech."""

    def __call__(self, frames: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        return (frames[:, speech_stream.CONTEXT_SAMPLES :].abs().amax(dim=1) > 0.1).float(), state


@pytest.fixture
def loudness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speech_stream, "load_detector", LoudnessNet)


def sound(*parts: tuple[float, float]) -> NDArray[np.float32]:
    """Noise from (seconds, amplitude) parts; the same for the same parts."""
    rng = np.random.default_rng(0)
    return np.concatenate(
        [amplitude * rng.choice([-1.0, 1.0], round(seconds * SAMPLE_RATE_HZ)) for seconds, amplitude in parts]
    ).astype(np.float32)


def spans(windows: Sequence[SpeechWindow]) -> list[tuple[float, float]]:
    return [(window.start_seconds, window.end_seconds) for window in windows]


def test_detector_agrees_with_the_package_frame_by_frame() -> None:
    samples = read_sound(GOLDEN / "speech.ogg")[: 8 * SAMPLE_RATE_HZ]
    samples = samples[: len(samples) // speech_stream.FRAME_SAMPLES * speech_stream.FRAME_SAMPLES]
    with pytest.warns(FutureWarning):
        reference = torch.jit.load(silero.detector_path())
    expected = [reference(torch.from_numpy(frame), SAMPLE_RATE_HZ).item() for frame in samples.reshape(-1, 512)]
    framed = torch.from_numpy(np.concatenate([np.zeros(speech_stream.CONTEXT_SAMPLES, np.float32), samples]))
    state = (torch.zeros(1, 128), torch.zeros(1, 128))
    got, _ = silero.load_detector()(framed.unfold(0, 576, 512), state)
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-4)


def test_loading_the_detector_leaves_the_thread_count_alone() -> None:
    before = torch.get_num_threads()
    silero.load_detector.cache_clear()
    silero.load_detector()
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("block_seconds", first_quick([0.37, 0.0213, 0.1, 10.0, 60.0], 2))
def test_block_size_does_not_change_windows(block_seconds: float) -> None:
    samples = read_sound(GOLDEN / "speech.ogg")
    expected = push_all(SpeechStream(SpeechConfig()), samples, block_seconds=1.0)
    got = push_all(SpeechStream(SpeechConfig()), samples, block_seconds=block_seconds)
    assert len(got) == len(expected) == 2
    for a, b in zip(got, expected, strict=True):
        assert (a.run_start_seconds, a.start_seconds) == (b.run_start_seconds, b.start_seconds)
        np.testing.assert_array_equal(a.samples, b.samples)
        np.testing.assert_array_equal(a.speech, b.speech)


@pytest.mark.parametrize("noise", [0.0, 0.001, 0.05])
def test_hears_no_speech_in_silence_and_noise(noise: float) -> None:
    samples = (noise * np.random.default_rng(0).standard_normal(20 * SAMPLE_RATE_HZ)).astype(np.float32)
    assert push_all(SpeechStream(SpeechConfig()), samples) == []


@pytest.mark.usefixtures("loudness")
class TestWindows:
    def test_pads_speech_and_keeps_its_samples(self) -> None:
        samples = sound((2, 0), (3, 0.5), (6, 0))
        [window] = push_all(SpeechStream(SpeechConfig()), samples)
        assert window.start_seconds == pytest.approx(2 - speech_stream.PAD_SECONDS, abs=0.04)
        assert window.end_seconds == pytest.approx(5 + speech_stream.PAD_SECONDS, abs=0.04)
        np.testing.assert_allclose(window.speech, [[2, 5]], atol=0.04)
        first = round(window.start_seconds * SAMPLE_RATE_HZ)
        np.testing.assert_array_equal(window.samples, samples[first : first + len(window.samples)])

    def test_keeps_short_pauses_inside_a_window_and_begins_anew_after_long_ones(self) -> None:
        pause = speech_stream.MAX_PAUSE_SECONDS
        samples = sound((1, 0.5), (pause - 1, 0), (1, 0.5), (pause + 1, 0), (1, 0.5))
        windows = push_all(SpeechStream(SpeechConfig()), samples)
        assert [len(window.speech) for window in windows] == [2, 1]

    def test_hands_out_a_window_once_the_pause_is_long_enough(self) -> None:
        stream = SpeechStream(SpeechConfig())
        batch_seconds = speech_stream.BATCH_FRAMES * speech_stream.FRAME_SAMPLES / SAMPLE_RATE_HZ
        samples = sound((1, 0.5), (speech_stream.MAX_PAUSE_SECONDS + batch_seconds, 0))
        assert len(stream.push(AudioBlock(epoch=0, start_seconds=0.0, samples=samples))) == 1
        assert stream.finish() == []

    def test_cuts_a_full_window_at_its_longest_late_pause(self) -> None:
        samples = sound((18, 0.5), (1.5, 0), (3, 0.5), (0.5, 0), (20, 0.5))
        windows = push_all(SpeechStream(SpeechConfig()), samples)
        assert spans(windows)[0][1] == pytest.approx(18 + speech_stream.PAD_SECONDS, abs=0.04)
        assert all(len(window.samples) <= 30 * SAMPLE_RATE_HZ for window in windows)

    def test_cuts_unbroken_speech_at_its_quietest_point_and_loses_nothing(self) -> None:
        samples = sound((24, 0.5), (0.2, 0.2), (50, 0.5))
        windows = push_all(SpeechStream(SpeechConfig()), samples)
        assert spans(windows)[0][1] == pytest.approx(24.1, abs=0.06)
        assert all(len(window.samples) <= 30 * SAMPLE_RATE_HZ for window in windows)
        np.testing.assert_array_equal(np.concatenate([window.samples for window in windows]), samples)

    def test_windows_never_overlap_and_respect_a_shorter_maximum(self) -> None:
        parts = [(0.3 + i % 7 * 0.9, 0.5 * (i % 2)) for i in range(60)]
        windows = push_all(SpeechStream(SpeechConfig(max_window_seconds=10)), sound(*parts), block_seconds=0.7)
        edges = [edge for span in spans(windows) for edge in span]
        assert edges == sorted(edges)
        assert all(len(window.samples) <= 10 * SAMPLE_RATE_HZ for window in windows)

    def test_closes_the_window_at_a_new_epoch(self) -> None:
        stream = SpeechStream(SpeechConfig())
        samples = sound((2, 0.5))
        assert stream.push(AudioBlock(epoch=0, start_seconds=0.0, samples=samples)) == []
        [first] = stream.push(AudioBlock(epoch=1, start_seconds=2.0, samples=samples))
        [second] = stream.finish()
        assert (first.epoch, second.epoch) == (0, 1)
        assert first.end_seconds <= second.start_seconds == 2.0

    @pytest.mark.parametrize("gap_seconds", [0.5, 3.0, 100.0])
    def test_takes_a_jump_for_silence(self, gap_seconds: float) -> None:
        stream = SpeechStream(SpeechConfig())
        samples = sound((2, 0.5))
        windows = stream.push(AudioBlock(epoch=0, start_seconds=5.0, samples=samples))
        windows += stream.push(AudioBlock(epoch=0, start_seconds=7.0 + gap_seconds, samples=samples))
        windows += stream.finish()
        speech = np.concatenate([window.speech for window in windows])
        np.testing.assert_allclose(speech, [[5, 7], [7 + gap_seconds, 9 + gap_seconds]], atol=0.04)

    def test_drops_audio_it_has_already_heard(self) -> None:
        stream = SpeechStream(SpeechConfig())
        samples = sound((4, 0.5))
        stream.push(AudioBlock(epoch=0, start_seconds=0.0, samples=samples))
        stream.push(AudioBlock(epoch=0, start_seconds=2.0, samples=samples))
        [window] = stream.finish()
        assert window.end_seconds == pytest.approx(6.0)

    def test_memory_stays_flat_in_endless_speech_and_endless_silence(self) -> None:
        stream = SpeechStream(SpeechConfig())
        for i, amplitude in enumerate([0.5] * 120 + [0.0] * 120):
            stream.push(AudioBlock(epoch=0, start_seconds=float(i), samples=sound((1, amplitude))))
            assert len(stream._buffer) <= 32 * SAMPLE_RATE_HZ

    def test_says_since_when_audio_is_still_needed(self) -> None:
        stream = SpeechStream(SpeechConfig())
        assert stream.open_since_seconds is None
        stream.push(AudioBlock(epoch=0, start_seconds=0.0, samples=sound((10, 0), (5, 0.5))))
        assert stream.open_since_seconds == pytest.approx(10 - speech_stream.PAD_SECONDS, abs=0.04)

    def test_a_run_ends_with_its_window(self) -> None:
        stream = SpeechStream(SpeechConfig())
        windows = stream.push(AudioBlock(epoch=0, start_seconds=100.0, samples=sound((94, 0.5), (5, 0))))
        assert len(windows) == 5
        assert windows[0].run_start_seconds == 100.0
        for window, following in pairwise(windows):
            assert window.end_seconds == following.run_start_seconds == following.start_seconds
        begin = stream.run_start_seconds
        assert begin == pytest.approx(194 + speech_stream.MAX_PAUSE_SECONDS - speech_stream.PAD_SECONDS, abs=0.07)

    def test_long_silence_moves_the_run_on(self) -> None:
        stream, before = SpeechStream(SpeechConfig()), 0.0
        for second in range(120):
            assert stream.push(AudioBlock(epoch=0, start_seconds=float(second), samples=sound((1, 0)))) == []
            begin = stream.run_start_seconds
            assert begin is not None
            assert max(before, second - 8.5) <= begin <= second + 1
            before = begin

    @pytest.mark.parametrize("frames", range(-12, 4))
    def test_speech_beside_the_start_of_a_run_keeps_its_pad(self, frames: int) -> None:
        quiet_seconds = ((speech_stream.QUIET_RUN_FRAMES + frames) * speech_stream.FRAME_SAMPLES + 100) / SAMPLE_RATE_HZ
        [window] = push_all(SpeechStream(SpeechConfig()), sound((quiet_seconds, 0), (2, 0.5)))
        assert window.start_seconds == pytest.approx(quiet_seconds - speech_stream.PAD_SECONDS, abs=0.04)
        assert window.end_seconds == pytest.approx(quiet_seconds + 2)
