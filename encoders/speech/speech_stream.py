"""Who speaks when: silero's voice activity detection over a stream, and speech packed into Whisper's windows.

Nothing here depends on how the audio was cut into blocks, and at most one window of audio is kept. The audio is heard
in runs that know nothing of each other, so that a stream can be taken up again with the samples from a run's start on.
"""

import importlib.util
import warnings
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from encoders.config import SpeechConfig
from encoders.errors import WeightsInvalid, WeightsNotFound
from encoders.threads import one_core
from ingest.values import SAMPLE_RATE_HZ, AudioBlock

FRAME_SAMPLES = 512  # what silero judges at a time at 16 kHz: 32 ms
CONTEXT_SAMPLES = 64  # of the frame before, that silero sees too
HYSTERESIS = 0.15  # silero's own: speech goes on until its probability falls this far under the threshold
MIN_SILENCE_SECONDS = 0.3  # a shorter dip is inside speech: plosives, a breath
MIN_SPEECH_SECONDS = 0.1  # shorter is a click; a short "no" takes 0.15 s
PAD_SECONDS = 0.3  # around a window: the detector is late at soft onsets and early at fading ends
MAX_PAUSE_SECONDS = 4.0  # slow readers pause for 3 s inside a sentence, and Whisper errs less with the whole of it
MAX_JITTER_SECONDS = 0.02  # containers round timestamps to milliseconds, and AAC frames are 20 ms
MAX_FILL_SECONDS = 1.0  # a gap up to this becomes zeros inside the run; a longer one ends it
QUIET_SECONDS = 0.1  # energy is averaged over this much to find where an unbroken speech may be cut
SILERO_NAMES = {  # our names of the tensors: silero's
    "stft.weight": "stft.forward_basis_buffer",
    **{f"conv{i + 1}.{part}": f"encoder.{i}.reparam_conv.{part}" for i in range(4) for part in ("weight", "bias")},
    **{f"rnn.{part}_l0": f"decoder.rnn.{part}" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")},
    **{f"out.{part}": f"decoder.decoder.2.{part}" for part in ("weight", "bias")},
}
BATCH_FRAMES = 32  # 1 s, judged in one call; always as many, since the rounding depends on it; 16 cost twice as much
QUIET_RUN_FRAMES = 8 * BATCH_FRAMES  # 8 s without speech, and a new run begins; whole batches, so that none is wasted
PUSH_SAMPLES = 30 * SAMPLE_RATE_HZ  # taken at a time: bounds memory when a whole film comes as one block


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SpeechWindow:
    """Up to 30 s of one stream in which somebody speaks, pauses included."""

    epoch: int
    run_start_seconds: float  # media time at which the run began that it was found in
    start_seconds: float  # media time of the first sample
    samples: NDArray[np.float32]  # (N,), 16 kHz mono, -1..1
    speech: NDArray[np.float64]  # (S, 2), media time: where speech was heard, in order, without padding
    stream: "SpeechStream" = field(repr=False)  # which remembers the language

    @property
    def end_seconds(self) -> float:
        return self.start_seconds + len(self.samples) / SAMPLE_RATE_HZ


class SileroNet(nn.Module):
    """silero-vad's 16 kHz network, many frames a call.

    The package ships this network as TorchScript that takes one frame a call and keeps one stream's state inside the
    module; run frame by frame it costs ten times more than run over a block, and importing the package sets torch's
    thread count to 1. So its weights are read into a plain module. (The safetensors there are an older version's.)
    Source: https://github.com/snakers4/silero-vad; a test compares the two frame by frame.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stft = nn.Conv1d(1, 258, kernel_size=256, stride=128, bias=False)
        self.conv1 = nn.Conv1d(129, 128, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, kernel_size=3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, kernel_size=3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, kernel_size=3, padding=1)
        self.rnn = nn.LSTM(128, 128)
        self.out = nn.Conv1d(128, 1, kernel_size=1)

    def forward(self, frames: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Judge consecutive frames: float32 (F, CONTEXT + FRAME) -> probabilities (F,) and the state after them."""
        x = nn.functional.pad(frames[:, None], (0, 64), mode="reflect")
        x = self.stft(x)  # (F, 258, 4): real and imaginary parts
        x = torch.hypot(x[:, :129], x[:, 129:])  # sqrt() goes through MKL, which has threads of its own
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = torch.relu(conv(x))
        hidden, state = self.rnn(x.squeeze(-1), state)  # (F, 128)
        return torch.sigmoid(self.out(torch.relu(hidden)[..., None])).reshape(-1), state


def detector_path() -> Path:
    """Find silero's weights without importing its package: see SileroNet."""
    spec = importlib.util.find_spec("silero_vad")
    if spec is None or spec.origin is None:
        raise WeightsNotFound("silero-vad", "install silero-vad 6 or later")
    return Path(spec.origin).parent / "data" / "silero_vad.jit"


@cache  # 1.2 MB, read-only, shared by all streams
def load_detector() -> SileroNet:
    """Load silero's weights from its package.

    Raises:
        WeightsNotFound: If the package is not installed.
        WeightsInvalid: If the file is not silero's 16 kHz network.
    """
    path = detector_path()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch deprecates TorchScript; nothing else reads this file
            shipped = torch.jit.load(path, map_location="cpu").state_dict()  # type: ignore[no-untyped-call]
        net = SileroNet()
        net.load_state_dict({ours: shipped[f"_model.{theirs}"] for ours, theirs in SILERO_NAMES.items()})
    except (RuntimeError, ValueError, KeyError) as error:
        raise WeightsInvalid(str(path), f"not silero-vad's network ({str(error).splitlines()[0]})") from error
    return net.eval().requires_grad_(False)


class SpeechStream:
    """Turns the audio of one video into windows of speech.

    A run is samples without a gap, from which at most one window comes: after it, and after QUIET_RUN_FRAMES of
    silence, the next run begins, and what is buffered from there on is listened to again. Where it begins depends on
    the samples of the run before, and what is found in it on its own samples and nothing else. So a new stream that
    is pushed the same samples from any run_start_seconds on (the first block, empty or not, begins exactly there)
    finds the windows that this one finds from that run on, to the last bit.

    Inside a run positions are integers: samples since the run's first.

    Args:
        config: Of the detector and the windows.
        language: What the stream is known to speak, if it is taken up again.
    """

    def __init__(self, config: SpeechConfig, language: str | None = None) -> None:
        self.language = language  # ISO 639-1, once the transcriber is sure of it
        self._net = load_detector()
        self._config = config
        self._max_samples = round(config.max_window_seconds * SAMPLE_RATE_HZ)
        self._epoch = 0
        self._anchor_seconds: float | None = None  # media time of the run's first sample; None before the first block
        self._windows: list[SpeechWindow] = []  # complete, not yet handed out
        self._begin_run(0, None)

    @property
    def epoch(self) -> int:
        """The epoch of the last block; 0 before the first."""
        return self._epoch

    @property
    def run_start_seconds(self) -> float | None:
        """Media time at which the current run begins: where to take up the stream again; None if nothing was pushed."""
        return self._anchor_seconds

    @property
    def open_since_seconds(self) -> float | None:
        """Media time of the first audio that a window still to come may need; None if nothing was pushed."""
        if self._anchor_seconds is None:
            return None
        return self._seconds(self._window_start() if self._is_open else self._keep_from())

    def push(self, block: AudioBlock) -> list[SpeechWindow]:
        """Take the next audio, return the windows that are now complete, in order of time.

        A jump of start_seconds is silence; a new epoch, or a jump over MAX_FILL_SECONDS, ends the open window.
        Audio that overlaps what was pushed before is dropped.
        """
        if self._anchor_seconds is None or block.epoch != self._epoch:
            self._end_run()
            self._begin_run(block.epoch, block.start_seconds)
        gap_seconds = block.start_seconds - self._seconds(self._received)
        samples = block.samples
        if gap_seconds > MAX_FILL_SECONDS:
            self._end_run()
            self._begin_run(block.epoch, block.start_seconds)
        elif gap_seconds > MAX_JITTER_SECONDS:
            silence = np.zeros(round(gap_seconds * SAMPLE_RATE_HZ), dtype=np.float32)
            samples = np.concatenate([silence, samples])
        elif gap_seconds < -MAX_JITTER_SECONDS:
            samples = samples[round(-gap_seconds * SAMPLE_RATE_HZ) :]
        for begin in range(0, len(samples), PUSH_SAMPLES):
            self._listen(samples[begin : begin + PUSH_SAMPLES])
        return self._hand_out()

    def finish(self) -> list[SpeechWindow]:
        """End the stream, return the windows that were open."""
        self._end_run()
        self._anchor_seconds = None
        return self._hand_out()

    def _hand_out(self) -> list[SpeechWindow]:
        windows, self._windows = self._windows, []
        return windows

    def _seconds(self, position: int) -> float:
        assert self._anchor_seconds is not None
        return self._anchor_seconds + position / SAMPLE_RATE_HZ

    # --- one run of samples ---

    def _begin_run(self, epoch: int, anchor_seconds: float | None) -> None:
        self._epoch, self._anchor_seconds = epoch, anchor_seconds
        self._state = (torch.zeros(1, 128), torch.zeros(1, 128))
        self._buffer = np.zeros(0, dtype=np.float32)  # samples [_buffer_start, _received)
        self._buffer_start = 0
        self._received = 0
        self._judged = 0  # all before it went through the detector
        self._spans: list[tuple[int, int]] = []  # finished speech of the open window, [start, end) samples
        self._onset: int | None = None  # start of the speech going on
        self._quiet_since: int | None = None  # where it may have ended

    def _restart(self, position: int) -> None:
        """End the run at a position, begin the next one there, and listen to what follows as if it came now."""
        buffer = self._buffer[position - self._buffer_start :]
        self._begin_run(self._epoch, self._seconds(position))
        self._buffer, self._received = buffer, len(buffer)

    def _end_run(self) -> None:
        if self._anchor_seconds is None:
            return
        while self._judged < self._received:
            self._judge()
        self._end_speech(min(self._quiet_since or self._received, self._received))
        if self._spans:
            self._emit(len(self._spans))

    def _listen(self, samples: NDArray[np.float32]) -> None:
        self._buffer = np.concatenate([self._buffer, samples])
        self._received += len(samples)
        while self._received - self._judged >= BATCH_FRAMES * FRAME_SAMPLES:
            self._judge()

    def _judge(self) -> None:
        """Have the detector judge the next batch, the last one filled up with silence; until a new run begins."""
        first = self._judged - self._buffer_start
        heard = self._buffer[max(0, first - CONTEXT_SAMPLES) : first + BATCH_FRAMES * FRAME_SAMPLES]
        begin = CONTEXT_SAMPLES - min(first, CONTEXT_SAMPLES)  # a run begins without the frame before
        framed = np.zeros(CONTEXT_SAMPLES + BATCH_FRAMES * FRAME_SAMPLES, dtype=np.float32)
        framed[begin : begin + len(heard)] = heard
        frames = torch.from_numpy(framed).unfold(0, CONTEXT_SAMPLES + FRAME_SAMPLES, FRAME_SAMPLES)
        with one_core(), torch.inference_mode():
            probabilities, self._state = self._net(frames, self._state)
        for probability in probabilities.tolist():
            following = self._step(probability)
            if following is not None:
                self._restart(following)
                return
            if self._judged >= self._received:
                break
        keep_from = self._window_start() if self._is_open else self._keep_from()
        self._buffer = self._buffer[max(0, keep_from - self._buffer_start) :]
        self._buffer_start = max(self._buffer_start, keep_from)

    @property
    def _is_open(self) -> bool:
        return bool(self._spans) or self._onset is not None

    def _keep_from(self) -> int:
        """Where the next window may begin at the earliest, if nobody speaks now."""
        return max(self._judged - round(PAD_SECONDS * SAMPLE_RATE_HZ), 0)

    def _window_start(self) -> int:
        first = self._spans[0][0] if self._spans else self._onset
        assert first is not None
        return max(first - round(PAD_SECONDS * SAMPLE_RATE_HZ), 0)

    def _step(self, probability: float) -> int | None:
        """Take the detector's word on the next frame; return where the next run begins, if this one is at its end."""
        start, end = self._judged, self._judged + FRAME_SAMPLES
        self._judged = end
        if probability >= self._config.vad_threshold:
            self._onset = start if self._onset is None else self._onset
            self._quiet_since = None
        elif self._onset is not None and probability < self._config.vad_threshold - HYSTERESIS:
            self._quiet_since = start if self._quiet_since is None else self._quiet_since
            if end - self._quiet_since >= MIN_SILENCE_SECONDS * SAMPLE_RATE_HZ:
                self._end_speech(self._quiet_since)
        if self._onset is not None:
            if (self._quiet_since or end) + PAD_SECONDS * SAMPLE_RATE_HZ - self._window_start() > self._max_samples:
                return self._make_room()
        elif self._spans:
            if end - self._spans[-1][1] > MAX_PAUSE_SECONDS * SAMPLE_RATE_HZ:
                self._emit(len(self._spans))
                return self._keep_from()
        elif end >= QUIET_RUN_FRAMES * FRAME_SAMPLES:
            return self._keep_from()
        return None

    def _end_speech(self, end: int) -> None:
        if self._onset is not None and end - self._onset >= MIN_SPEECH_SECONDS * SAMPLE_RATE_HZ:
            self._spans.append((self._onset, end))
        self._onset = self._quiet_since = None

    def _make_room(self) -> int:
        """Emit a part of the full window: up to its longest pause, or, without one, up to the quietest point.

        Returns:
            Where that window ends and the next run begins.
        """
        assert self._onset is not None
        if self._spans:
            onsets = [start for start, _ in self._spans[1:]] + [self._onset]
            pauses = [onset - end for (_, end), onset in zip(self._spans, onsets, strict=True)]
            # A pause in the later half leaves the longer window; Whisper is better with more context.
            middle = self._window_start() + self._max_samples // 2
            late = [i for i, (_, end) in enumerate(self._spans) if end >= middle] or list(range(len(pauses)))
            return self._emit(max(late, key=lambda i: pauses[i]) + 1)
        window_start = self._window_start()
        cut = self._quietest(window_start + self._max_samples * 2 // 3, window_start + self._max_samples)
        self._spans.append((self._onset, cut))
        self._onset = cut
        return self._emit(1)

    def _quietest(self, begin: int, end: int) -> int:
        """Find the middle of the QUIET_SECONDS with least energy in [begin, end)."""
        end = min(end, self._judged)
        samples = self._buffer[begin - self._buffer_start : end - self._buffer_start].astype(np.float64)
        width = round(QUIET_SECONDS * SAMPLE_RATE_HZ)
        total = np.concatenate([[0.0], np.cumsum(samples**2)])
        energy = total[width:] - total[:-width]
        return begin + int(np.argmin(energy)) + width // 2

    def _emit(self, count: int) -> int:
        """Hand out the first spans of the open window as a window, and return where it ends."""
        spans, start = self._spans[:count], self._window_start()
        following = self._spans[count][0] if count < len(self._spans) else self._onset
        end = min(spans[-1][1] + round(PAD_SECONDS * SAMPLE_RATE_HZ), self._received)
        if following is not None:
            end = min(end, max(spans[-1][1], following))
        speech = np.array([[self._seconds(a), self._seconds(b)] for a, b in spans], dtype=np.float64)
        self._windows.append(
            SpeechWindow(
                epoch=self._epoch,
                run_start_seconds=self._seconds(0),
                start_seconds=self._seconds(start),
                samples=self._buffer[start - self._buffer_start : end - self._buffer_start].copy(),
                speech=speech,
                stream=self,
            )
        )
        return end
