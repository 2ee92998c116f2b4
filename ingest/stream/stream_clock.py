"""Converts the times of separately decoded chunks to the media time of their stream.

The items of a chunk carry the container's times. The clock knows at which media time the epoch began, and adds. Two
chunks can both hold a picture of one second, or the same sound, at their common edge: the second copy is dropped. Sound
lies on a grid of 16 kHz samples that begins with the epoch, so its times do not depend on where reading began.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ingest.config import SamplingPolicy
from ingest.media.timeline import BACKWARD_SECONDS, GAP_SECONDS
from ingest.values import SAMPLE_RATE_HZ, AudioBlock, Decoded, DecodeSummary, Frame, MediaInfo

MAX_FILL_SAMPLES = SAMPLE_RATE_HZ  # a hole of up to a second is filled with silence; a longer one stays a hole
NO_TICK = -(1 << 62)  # ClockState.last_tick before the first picture
MAX_LAG_SECONDS = 10.0  # pictures may arrive this much later than sound of the same time, or sound than pictures


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockState:
    """The state of a clock between two chunks."""

    epoch: int = -1  # -1: before the first chunk
    epoch_start_seconds: float = 0.0  # media time
    epoch_source_seconds: float = 0.0  # the container's time at that moment
    end_seconds: float = 0.0  # media time at which the stream so far ends
    source_end_seconds: float = 0.0  # the container's time at that moment
    last_tick: int = NO_TICK  # the last whole second of the container's time that has a picture
    last_pts_seconds: float = -1.0  # media time of the last picture
    audio_end_sample: int = 0  # end of the sound so far, in samples from the beginning of the epoch
    is_closed: bool = False  # the next chunk begins a new epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochPart:
    """New pictures and sound of one chunk that lie in one epoch, in media time."""

    media: MediaInfo
    frames: tuple[Frame, ...]
    sounds: tuple[AudioBlock, ...]
    epoch: int
    epoch_start_seconds: float
    start_seconds: float
    end_seconds: float  # end of pictures and sound
    whole_seconds: float  # no later chunk has a picture before this; sound may end later
    opens_epoch: bool  # whether the epoch begins with this part


class StreamClock:
    """The media time of one stream."""

    def __init__(self, sampling: SamplingPolicy, state: ClockState | None = None) -> None:
        self._sampling = sampling
        self.state = state or ClockState()

    def place(self, items: Sequence[Decoded]) -> list[EpochPart]:
        """Convert one chunk; return one part for each of its epochs, mostly one.

        The chunk was decoded with DecodeConfig.clock = "source".
        """
        media = next(item for item in items if isinstance(item, MediaInfo))
        summary = next(item for item in items if isinstance(item, DecodeSummary))
        timed = [item for item in items if isinstance(item, Frame | AudioBlock)]
        parts = []
        for epoch in sorted({item.epoch for item in timed}):
            epoch_items = [item for item in timed if item.epoch == epoch]
            is_last = epoch == max(item.epoch for item in timed)
            parts.append(self._place_epoch(media, summary, epoch_items, is_first=epoch == 0, is_last=is_last))
        return parts

    def close(self) -> None:
        """Begin a new epoch with the next chunk."""
        self.state = replace(self.state, is_closed=True)

    def _place_epoch(
        self,
        media: MediaInfo,
        summary: DecodeSummary,
        items: "Sequence[Frame | AudioBlock]",
        *,
        is_first: bool,
        is_last: bool,
    ) -> EpochPart:
        zero = summary.zero_seconds
        frames = [item for item in items if isinstance(item, Frame)]
        sounds = [item for item in items if isinstance(item, AudioBlock)]
        ends = [frame.pts_seconds for frame in frames] + [sound.end_seconds for sound in sounds]
        end = zero + (summary.duration_seconds if is_last else max(ends))
        begins = [frame.pts_seconds for frame in frames] or [sound.start_seconds for sound in sounds]
        start = summary.start_seconds if is_first else zero + begins[0]
        opens = self._must_open_epoch(start, is_inside_chunk=not is_first)
        if opens:
            self._open_epoch(start)
        placed_frames = self._place_frames(frames, zero)
        placed_sounds = self._place_sounds(sounds, zero)
        state = self.state
        end_seconds = max(state.end_seconds, self._to_media(end))
        whole_seconds = end_seconds
        if is_last and media.video_codec is not None:
            pictures_end = self._to_media(zero + summary.pictures_end_seconds) if frames else 0.0
            whole_seconds = max(pictures_end, end_seconds - MAX_LAG_SECONDS)
        self.state = replace(
            state, end_seconds=end_seconds, source_end_seconds=max(state.source_end_seconds, end), is_closed=False
        )
        return EpochPart(
            media=media,
            frames=placed_frames,
            sounds=placed_sounds,
            epoch=state.epoch,
            epoch_start_seconds=state.epoch_start_seconds,
            start_seconds=max(state.epoch_start_seconds, self._to_media(start)),
            end_seconds=end_seconds,
            whole_seconds=whole_seconds,
            opens_epoch=opens,
        )

    def _must_open_epoch(self, start: float, *, is_inside_chunk: bool) -> bool:
        state = self.state
        step = start - state.source_end_seconds
        return state.epoch < 0 or state.is_closed or is_inside_chunk or not -BACKWARD_SECONDS <= step <= GAP_SECONDS

    def _open_epoch(self, source_seconds: float) -> None:
        state = self.state
        self.state = ClockState(
            epoch=state.epoch + 1,
            epoch_start_seconds=state.end_seconds,
            epoch_source_seconds=source_seconds,
            end_seconds=state.end_seconds,
            source_end_seconds=source_seconds,
            last_pts_seconds=state.last_pts_seconds,
        )

    def _to_media(self, source_seconds: float) -> float:
        return self.state.epoch_start_seconds + (source_seconds - self.state.epoch_source_seconds)

    def _place_frames(self, frames: Sequence[Frame], zero: float) -> tuple[Frame, ...]:
        placed, state = [], self.state
        last_tick, last_pts = state.last_tick, state.last_pts_seconds
        for frame in frames:
            source = zero + frame.pts_seconds
            tick = math.ceil(source) if self._sampling == "exact" else math.floor(source + 0.5)
            pts = self._to_media(source)
            if tick <= last_tick or pts <= last_pts or pts < state.epoch_start_seconds:
                continue
            last_tick, last_pts = tick, pts
            placed.append(replace(frame, epoch=state.epoch, pts_seconds=pts))
        self.state = replace(state, last_tick=last_tick, last_pts_seconds=last_pts)
        return tuple(placed)

    def _place_sounds(self, sounds: Sequence[AudioBlock], zero: float) -> tuple[AudioBlock, ...]:
        placed, state = [], self.state
        end = state.audio_end_sample
        for sound in sounds:
            begin = round((zero + sound.start_seconds - state.epoch_source_seconds) * SAMPLE_RATE_HZ)
            samples = sound.samples
            if begin < end:
                samples, begin = samples[end - begin :], end
            elif begin - end <= MAX_FILL_SAMPLES and end:
                samples, begin = np.concatenate([np.zeros(begin - end, np.float32), samples]), end
            if not len(samples):
                continue
            end = begin + len(samples)
            start_seconds = state.epoch_start_seconds + begin / SAMPLE_RATE_HZ
            placed.append(AudioBlock(epoch=state.epoch, start_seconds=start_seconds, samples=samples))
        self.state = replace(state, audio_end_sample=end)
        return tuple(placed)
