"""SpeechStream: finds speech in the audio of one video and packs it into windows for Whisper.

The result does not depend on how the audio is cut into blocks. At most one window of audio is in memory. The audio is
processed in independent runs, so a stream can be resumed with the samples from the start of a run.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from encoders.config import SpeechConfig
from encoders.speech.silero import CONTEXT_SAMPLES, FRAME_SAMPLES, load_detector
from encoders.threads import one_core
from ingest.values import SAMPLE_RATE_HZ, AudioBlock

HYSTERESIS = 0.15  # silero's value: speech ends when its probability falls this far below the threshold
MIN_SILENCE_SECONDS = 0.3  # a shorter dip belongs to speech: plosives, a breath
MIN_SPEECH_SECONDS = 0.1  # anything shorter is a click; a short "no" takes 0.15 s
PAD_SECONDS = 0.3  # added around a window: the detector is late at soft onsets and early at fading ends
MAX_PAUSE_SECONDS = 4.0  # slow readers pause for 3 s in a sentence, and Whisper errs less with the whole sentence
MAX_JITTER_SECONDS = 0.02  # containers round timestamps to milliseconds, and AAC frames are 20 ms
MAX_FILL_SECONDS = 1.0  # a shorter gap is filled with zeros; a longer gap ends the run
QUIET_SECONDS = 0.1  # unbroken speech is cut at the interval of this length with the least energy
BATCH_FRAMES = 32  # frames (1 s) in a call of the network; fixed, as it affects rounding; 16 cost twice as much
QUIET_RUN_FRAMES = 8 * BATCH_FRAMES  # a new run begins after 8 s without speech; whole batches waste no work
PUSH_SAMPLES = 30 * SAMPLE_RATE_HZ  # processed at a time; bounds memory when a whole film is one block


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SpeechWindow:
    """Up to 30 s of one stream that contain speech, with the pauses between."""

    epoch: int
    run_start_seconds: float  # media time of the start of the run that contains it
    start_seconds: float  # media time of the first sample
    samples: NDArray[np.float32]  # (N,), 16 kHz mono, -1..1
    speech: NDArray[np.float64]  # (S, 2), media time: the spans of speech in order, without padding
    stream: "SpeechStream" = field(repr=False)  # holds the language of the video

    @property
    def end_seconds(self) -> float:
        return self.start_seconds + len(self.samples) / SAMPLE_RATE_HZ


class SpeechStream:
    """Turns the audio of one video into windows of speech.

    A run is a sequence of samples without a gap that gives at most one window. The next run begins after the window, or
    after QUIET_RUN_FRAMES of silence; samples buffered from there on are processed again. The samples of a run decide
    where the next run begins, and only the samples of a run decide its window. So a stream can be resumed at any
    run_start_seconds: a new stream that gets the same samples from there on (its first block, empty or not, begins
    exactly there) finds the same windows, to the last bit.

    Positions inside a run are integers: samples since the first sample of the run.

    Args:
        config: Settings of the detector and the windows.
        language: The language of a resumed stream, where it is known.
    """

    def __init__(self, config: SpeechConfig, language: str | None = None) -> None:
        self.language = language  # ISO 639-1, once the transcriber is sure of it
        self._net = load_detector()
        self._config = config
        self._max_samples = round(config.max_window_seconds * SAMPLE_RATE_HZ)
        self._epoch = 0
        self._anchor_seconds: float | None = None  # media time of the run's first sample; None before the first block
        self._windows: list[SpeechWindow] = []  # complete, not yet returned
        self._begin_run(0, None)

    @property
    def epoch(self) -> int:
        """The epoch of the last block; 0 before the first."""
        return self._epoch

    @property
    def run_start_seconds(self) -> float | None:
        """Media time of the start of the current run, where the stream can be resumed; None before the first block."""
        return self._anchor_seconds

    @property
    def open_since_seconds(self) -> float | None:
        """Media time of the first audio that a later window may need; None before the first block."""
        if self._anchor_seconds is None:
            return None
        return self._seconds(self._window_start() if self._is_open else self._keep_from())

    def push(self, block: AudioBlock) -> list[SpeechWindow]:
        """Add the next audio, and return the windows that are now complete, in order of time.

        A gap counts as silence. A new epoch, or a gap over MAX_FILL_SECONDS, ends the open window. Audio that overlaps
        earlier audio is dropped.
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
            self._process(samples[begin : begin + PUSH_SAMPLES])
        return self._take_windows()

    def finish(self) -> list[SpeechWindow]:
        """End the stream, and return the windows that were open."""
        self._end_run()
        self._anchor_seconds = None
        return self._take_windows()

    def _take_windows(self) -> list[SpeechWindow]:
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
        self._judged = 0  # position up to which the detector has judged
        self._spans: list[tuple[int, int]] = []  # finished spans of speech in the open window, [start, end)
        self._onset: int | None = None  # start of the current speech
        self._quiet_since: int | None = None  # possible end of the current speech

    def _restart(self, position: int) -> None:
        """End the run at a position, begin the next run there, and process the buffered samples after it again."""
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

    def _process(self, samples: NDArray[np.float32]) -> None:
        self._buffer = np.concatenate([self._buffer, samples])
        self._received += len(samples)
        while self._received - self._judged >= BATCH_FRAMES * FRAME_SAMPLES:
            self._judge()

    def _judge(self) -> None:
        """Judge the next batch of frames, padded with silence at the end of a run; stop where a new run begins."""
        first = self._judged - self._buffer_start
        samples = self._buffer[max(0, first - CONTEXT_SAMPLES) : first + BATCH_FRAMES * FRAME_SAMPLES]
        begin = CONTEXT_SAMPLES - min(first, CONTEXT_SAMPLES)  # the first frame of a run has no context
        framed = np.zeros(CONTEXT_SAMPLES + BATCH_FRAMES * FRAME_SAMPLES, dtype=np.float32)
        framed[begin : begin + len(samples)] = samples
        frames = torch.from_numpy(framed).unfold(0, CONTEXT_SAMPLES + FRAME_SAMPLES, FRAME_SAMPLES)
        with one_core(), torch.inference_mode():
            probabilities, self._state = self._net(frames, self._state)
        for probability in probabilities.tolist():
            next_run = self._step(probability)
            if next_run is not None:
                self._restart(next_run)
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
        """Return the earliest start of the next window, given that there is no speech now."""
        return max(self._judged - round(PAD_SECONDS * SAMPLE_RATE_HZ), 0)

    def _window_start(self) -> int:
        first = self._spans[0][0] if self._spans else self._onset
        assert first is not None
        return max(first - round(PAD_SECONDS * SAMPLE_RATE_HZ), 0)

    def _step(self, probability: float) -> int | None:
        """Apply the probability of the next frame; return the start of the next run if this run ends here."""
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
        """Emit a part of the full window: up to its longest pause, or up to the quietest point if it has no pause.

        Return the end of that window, where the next run begins.
        """
        assert self._onset is not None
        if self._spans:
            onsets = [start for start, _ in self._spans[1:]] + [self._onset]
            pauses = [onset - end for (_, end), onset in zip(self._spans, onsets, strict=True)]
            # A pause in the later half gives a longer window, and Whisper is better with more context.
            middle = self._window_start() + self._max_samples // 2
            late = [i for i, (_, end) in enumerate(self._spans) if end >= middle] or list(range(len(pauses)))
            return self._emit(max(late, key=lambda i: pauses[i]) + 1)
        window_start = self._window_start()
        cut = self._quietest(window_start + self._max_samples * 2 // 3, window_start + self._max_samples)
        self._spans.append((self._onset, cut))
        self._onset = cut
        return self._emit(1)

    def _quietest(self, begin: int, end: int) -> int:
        """Return the middle of the QUIET_SECONDS with the least energy in [begin, end)."""
        end = min(end, self._judged)
        samples = self._buffer[begin - self._buffer_start : end - self._buffer_start].astype(np.float64)
        width = round(QUIET_SECONDS * SAMPLE_RATE_HZ)
        total = np.concatenate([[0.0], np.cumsum(samples**2)])
        energy = total[width:] - total[:-width]
        return begin + int(np.argmin(energy)) + width // 2

    def _emit(self, count: int) -> int:
        """Make a window of the first `count` spans of the open window, and return its end."""
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
