"""Encodes the sound of a clip anew: AAC, cut to the sample."""

from __future__ import annotations  # av's Packet is generic for type checkers only

from fractions import Fraction
from typing import Any, cast

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream
from numpy.typing import NDArray

from ingest.clip.source import MediaPacket
from ingest.media.audio import keep_layouts
from ingest.media.damage import decode_packet

RATE_HZ = 48_000
BLOCK_SAMPLES = 1024  # of one AAC packet
BIT_RATE = {"mono": 96_000, "stereo": 160_000, "5.1": 384_000}  # by layout: hardly distinguishable from the source
DRIFT_SECONDS = Fraction(1, 20)  # a smaller difference of timestamps and samples is rounding; a larger one is a gap
PREROLL_SECONDS = Fraction(1, 5)  # of sound that is decoded before the start, so that the decoder is in step there


class EncodedSound:
    """One sound track of a clip.

    Args:
        stream: The source's track; None: silence.
        is_padded: Whether silence follows up to the end, and the layout is stereo: the parts of a montage must agree.
    """

    def __init__(
        self,
        target: OutputContainer,
        stream: AudioStream | None,
        start: Fraction,
        end: Fraction,
        *,
        is_padded: bool,
    ) -> None:
        self._target, self._start, self._end, self._is_padded = target, start, end, is_padded
        self._context = stream.codec_context if stream is not None else None
        self._layout = "stereo" if is_padded or stream is None else _layout_of(stream)
        self._out = target.add_stream("aac", rate=RATE_HZ, layout=self._layout)
        self._out.codec_context.bit_rate = BIT_RATE[self._layout]
        self._channels = self._out.codec_context.layout.nb_channels
        self._resampler: AudioResampler | None = None
        self._form: tuple[Any, ...] = ()
        self._next = 0  # sample of the clip that comes next, before those in `_parts` are counted
        self._parts: list[NDArray[np.float32]] = []
        self._count = 0  # samples in `_parts`
        self._sent = 0  # samples given to the encoder
        self._total = round((end - start) * RATE_HZ)
        self.is_done = False
        self.has_decoded = False

    @property
    def stream(self) -> Stream:
        """The track in the clip."""
        return cast(Stream, self._out)

    def feed(self, each: MediaPacket) -> None:
        """Take the track's next packet in the order of the file."""
        if each.pts >= self._end:
            self.is_done = True
        if self.is_done or each.pts + each.duration < self._start - PREROLL_SECONDS or self._context is None:
            return
        ticks = each.packet.pts if each.packet.pts is not None else each.packet.dts
        shift = each.pts - (ticks or 0) * each.packet.time_base
        try:
            frames = keep_layouts(decode_packet(self._context, cast("Packet[AudioStream]", each.packet)))
        except av.error.FFmpegError as error:
            if isinstance(error, MemoryError):
                raise
            return  # a damaged packet: silence
        for frame in frames:
            if frame.samples > 0 and frame.sample_rate > 0:
                pts, base = frame.pts, frame.time_base
                self._take(frame, pts * base + shift if pts is not None and base else None)

    def finish(self, _until: Fraction) -> None:
        """Encode what is left."""
        if self._is_padded and self._next < self._total:
            self._store(np.zeros((self._channels, self._total - self._next), np.float32))
        self._encode(is_last=True)
        self._target.mux(self._out.encode(None))

    def _take(self, frame: AudioFrame, shown: Fraction | None) -> None:
        """Store a decoded frame at its time: silence fills a gap before it, and what overlaps is cut."""
        self.has_decoded = True
        form = (frame.format.name, frame.layout.name, frame.sample_rate)
        if form != self._form or self._resampler is None:
            self._resampler, self._form = AudioResampler("fltp", self._layout, RATE_HZ), form
        frame.pts = None
        try:
            parts = [part.to_ndarray().astype(np.float32) for part in self._resampler.resample(frame)]
        except (av.error.FFmpegError, ValueError):
            return
        samples = np.concatenate(parts, axis=1) if parts else np.zeros((self._channels, 0), np.float32)
        place = self._next if shown is None else round((shown - self._start) * RATE_HZ)
        if abs(place - self._next) > DRIFT_SECONDS * RATE_HZ or not self._next:
            if place > self._next:
                gap = min(place, self._total) - self._next
                self._store(np.zeros((self._channels, gap), np.float32))
            elif place < self._next:
                samples = samples[:, self._next - place :]
        self._store(samples[:, : max(0, self._total - self._next)])
        self._encode(is_last=False)

    def _store(self, samples: NDArray[np.float32]) -> None:
        self._parts.append(samples)
        self._count += samples.shape[1]
        self._next += samples.shape[1]

    def _encode(self, *, is_last: bool) -> None:
        if self._count < BLOCK_SAMPLES and not is_last:
            return
        samples = np.concatenate([*self._parts, np.zeros((self._channels, 0), np.float32)], axis=1)
        whole = self._count if is_last else self._count // BLOCK_SAMPLES * BLOCK_SAMPLES
        for begin in range(0, whole, BLOCK_SAMPLES):
            block = np.ascontiguousarray(samples[:, begin : min(whole, begin + BLOCK_SAMPLES)], dtype=np.float32)
            frame = AudioFrame.from_ndarray(np.clip(block, -1.0, 1.0), format="fltp", layout=self._layout)
            frame.sample_rate, frame.pts, frame.time_base = RATE_HZ, self._sent, Fraction(1, RATE_HZ)
            self._sent += block.shape[1]
            self._target.mux(self._out.encode(frame))
        self._parts = [samples[:, whole:]]
        self._count -= whole


def _layout_of(stream: AudioStream) -> str:
    """Return the layout of the clip's sound: mono, stereo, or 5.1 for more channels."""
    count = stream.codec_context.layout.nb_channels
    return "mono" if count == 1 else "stereo" if count <= 5 else "5.1"
