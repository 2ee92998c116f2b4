"""Decodes one audio track and resamples it to 16 kHz mono float32, with true times."""

from __future__ import annotations  # av's Packet is generic for type checkers only

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.layout import AudioLayout
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.packet import Packet
from numpy.typing import NDArray

from ingest.media.channels import Downmix
from ingest.media.damage import Damage, decode_packet
from ingest.media.timeline import Epoch
from ingest.values import SAMPLE_RATE_HZ

BLOCK_SECONDS = 5  # length of one AudioBlock: few messages, little delay
RESAMPLED_SAMPLES = SAMPLE_RATE_HZ  # that the resampler gives at a time; small pieces cost more than resampling them
JUMP_SECONDS = 0.05  # a timestamp off by more starts a new run; less is rounding
# Raw AAC has no timestamps. FFmpeg counts frames, each as long as the first, but the sample rate may change.
UNTIMED_FORMATS = frozenset({"aac", "loas"})
# libswresample's weights for mixing to stereo. They sum to one, so that equal channels do not clip. The centre, which
# carries the speech of films, gets half of 5.1's sum; FFmpeg's default gives it a third.
MIX = {"rematrix_maxval": "1.0", "center_mix_level": "1.414", "surround_mix_level": "0.354"}


# PyAV frees the list of channels of a layout that FFmpeg has no name for twice, with the frame and with its layout, and
# the process ends. So these layouts are never freed: 10 MB an hour of such sound, which is rare.
_KEPT_LAYOUTS: list[AudioLayout] = []


def keep_layouts(frames: list[AudioFrame]) -> list[AudioFrame]:
    """Make decoded frames safe to be freed."""
    _KEPT_LAYOUTS.extend(frame.layout for frame in frames if "(" in frame.layout.name)
    return frames


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """Consecutive samples that begin at a source time."""

    epoch: Epoch
    start: Fraction
    samples: NDArray[np.float32]  # (N,), -1..1


class AudioTrack:
    """Decodes and resamples packets. Within a run, a stretch without a jump, times are counted in samples."""

    def __init__(self, stream: AudioStream, damage: Damage) -> None:
        self._stream, self._damage = stream, damage
        self._context = stream.codec_context
        self._context.thread_count = 1  # audio decoders do not gain from more
        self._base_seconds = float(stream.time_base or 0)  # PyAV computes the time base at each access
        self._resampler: AudioResampler | None = None
        self._setup: tuple[str, str, int] | None = None  # format, layout and rate of the resampler's input
        self._epoch: Epoch | None = None
        self._start = Fraction(0)  # source time of the first sample in _parts
        self._run_start = Fraction(0)  # source time of the run's first frame
        self._run_start_seconds = 0.0
        self._run_count, self._rate_hz = 0, SAMPLE_RATE_HZ  # decoded samples of the run, and their rate
        self.is_untimed = stream.container.format.name in UNTIMED_FORMATS
        self._frame_seconds = Fraction(0)  # length of the last decoded frame
        self._lost_seconds = Fraction(0)  # length of frames that did not decode and are not in the run; if untimed
        self._first_time: Fraction | None = None  # timestamp of the epoch's first frame
        self._heard_seconds = Fraction(0)  # length of the epoch's runs that have ended
        self._downmix = Downmix()
        self.frame_count = 0  # decoded frames
        self._parts: list[NDArray[np.float32]] = []  # (1, N) or (2, N)
        self._count = 0  # samples in _parts

    @property
    def next_time(self) -> Fraction:
        """Source time of the next packet, counted in samples: the true one of a format without timestamps."""
        return self._expected + self._lost_seconds

    @property
    def _expected(self) -> Fraction:
        """Source time of the next decoded frame, by counting."""
        return self._run_start + Fraction(self._run_count, self._rate_hz)

    def feed(self, packet: Packet[AudioStream], epoch: Epoch) -> Iterator[Sound]:
        if self._epoch is not None and epoch is not self._epoch:
            yield from self.finish()
            self._context.flush_buffers()
        if epoch is not self._epoch:
            self._epoch, self._first_time = epoch, None
            self._start_run(self._expected, self._rate_hz)
            self._heard_seconds = Fraction(0)
        for frame in self._decode(packet, epoch):
            yield from self._take(frame, epoch)

    def follow(self, stream: AudioStream) -> Iterator[Sound]:
        """Go on with another stream; yield the rest of the one before."""
        yield from self.finish()
        self._stream, self._context = stream, stream.codec_context
        self._base_seconds = float(stream.time_base or 0)
        self._context.thread_count = 1

    def finish(self) -> Iterator[Sound]:
        """Yield the rest of the epoch."""
        if self._epoch is not None:
            for frame in self._decode(None, self._epoch):
                yield from self._take(frame, self._epoch)
            yield from self._end_run()
            self._epoch = None

    def _decode(self, packet: Packet[AudioStream] | None, epoch: Epoch) -> list[AudioFrame]:
        try:
            return keep_layouts(decode_packet(self._context, packet))
        except av.error.FFmpegError as error:
            if isinstance(error, MemoryError):
                raise
            if not isinstance(error, EOFError):
                self._note_damage(epoch, packet)
                self._lost_seconds += self._frame_seconds if self.is_untimed else 0
            return []

    def _note_damage(self, epoch: Epoch, packet: Packet[AudioStream] | None) -> None:
        base = self._stream.time_base
        if self.is_untimed:
            self._damage.note(epoch, self.next_time, self._frame_seconds)
        elif packet is None or packet.pts is None or base is None:
            self._damage.note()
        else:
            self._damage.note(epoch, packet.pts * base, packet.duration * base if packet.duration else None)

    def _take(self, frame: AudioFrame, epoch: Epoch) -> Iterator[Sound]:
        if frame.samples <= 0 or frame.sample_rate <= 0:
            return
        self.frame_count += 1
        setup = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._resampler is None or setup != self._setup or self._has_jump(frame):
            yield from self._end_run()
            layout = "mono" if frame.layout.nb_channels == 1 else "stereo"
            self._resampler = AudioResampler("fltp", layout, SAMPLE_RATE_HZ, RESAMPLED_SAMPLES, options=MIX)
            self._setup = setup
            begin = self._time_of(frame)
            if begin is not None:
                self._start, self._lost_seconds = begin, Fraction(0)
            self._start_run(begin if begin is not None else self._expected, frame.sample_rate)
            if self._first_time is None:
                self._first_time = self._run_start
        if epoch.first_sound is None:
            epoch.first_sound = self._expected
        if self.is_untimed:
            self._frame_seconds = Fraction(frame.samples, frame.sample_rate)
        self._run_count += frame.samples
        frame.pts = None  # the run counts samples; the resampler must not stretch to a stray timestamp
        try:
            self._store(self._resampler.resample(frame))
        except (av.error.FFmpegError, ValueError):
            self._damage.note(epoch, self._expected)
        while self._count >= BLOCK_SECONDS * SAMPLE_RATE_HZ:
            yield self._pop_sound(epoch)

    def _start_run(self, start: Fraction, rate_hz: int) -> None:
        self._heard_seconds += Fraction(self._run_count, self._rate_hz)
        self._run_start, self._run_start_seconds = start, float(start)
        self._run_count, self._rate_hz = 0, rate_hz

    def _has_jump(self, frame: AudioFrame) -> bool:
        """Whether a frame begins elsewhere than where the sound before it ends. Floats, as exact arithmetic is slow."""
        if self.is_untimed:
            return self._lost_seconds > JUMP_SECONDS
        if frame.pts is None or not self._base_seconds:
            return False
        expected = self._run_start_seconds + self._run_count / self._rate_hz
        return abs(frame.pts * self._base_seconds - expected) > JUMP_SECONDS and self._time_of(frame) is not None

    def _time_of(self, frame: AudioFrame) -> Fraction | None:
        """Return the source time at which a frame begins; None if it has no timestamp, or a wrong one.

        Timestamps that advance by less than half of the sound are wrong, as with a wrong scale in AVI: samples count
        then. Others may overlap.
        """
        if self.is_untimed:
            return self.next_time
        base = self._stream.time_base
        if frame.pts is None or not base:
            return None
        begin = frame.pts * base
        heard = self._heard_seconds + Fraction(self._run_count, self._rate_hz)
        is_dense = self._first_time is not None and begin - self._first_time < heard / 2
        return None if is_dense else begin

    def _store(self, frames: list[AudioFrame]) -> None:
        for frame in frames:
            if frame is None:  # an idle resampler returns None at its end
                continue
            samples: NDArray[Any] = frame.to_ndarray()
            self._parts.append(samples)
            self._count += samples.shape[1]

    def _end_run(self) -> Iterator[Sound]:
        if self._resampler is not None:
            try:
                self._store(self._resampler.resample(None))
            except av.error.FFmpegError:
                self._damage.note()
            self._resampler = None
        if self._count and self._epoch is not None:
            yield self._pop_sound(self._epoch)
        self._parts, self._count = [], 0

    def _pop_sound(self, epoch: Epoch) -> Sound:
        channels = np.concatenate(self._parts, axis=1)
        # Float formats can hold any number; AudioBlock promises -1..1. Comparisons with NaN are false.
        if not (channels.min() >= -1.0 and channels.max() <= 1.0):
            channels = np.clip(np.nan_to_num(channels), -1.0, 1.0)
        samples = channels[0] if len(channels) == 1 else self._downmix.mix(channels)
        sound = Sound(epoch=epoch, start=self._start, samples=samples)
        self._start += Fraction(len(samples), SAMPLE_RATE_HZ)
        self._parts, self._count = [], 0
        return sound
