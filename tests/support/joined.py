"""Decodes chunks one by one and joins their frames and sound, as a worker does."""

import io
from fractions import Fraction
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingest.config import DecodeConfig, SamplingPolicy
from ingest.media.decode import decode
from ingest.media.sampler import tick_of
from ingest.values import SAMPLE_RATE_HZ, AudioBlock, Decoded, DecodeSummary, Frame


def decode_chunk(media: bytes, **settings: Any) -> list[Decoded]:
    config = DecodeConfig(**({"resize": "squash", "clock": "source"} | settings))
    return list(decode(io.BytesIO(media), uri="test", config=config))


def source_frames(items: list[Decoded]) -> list[tuple[float, Frame]]:
    """Return the frames with their source times."""
    zero = summary_of(items).zero_seconds
    return [(zero + item.pts_seconds, item) for item in items if isinstance(item, Frame)]


def summary_of(items: list[Decoded]) -> DecodeSummary:
    (summary,) = [item for item in items if isinstance(item, DecodeSummary)]
    return summary


def source_sound(items: list[Decoded]) -> list[tuple[float, NDArray[np.float32]]]:
    zero = summary_of(items).zero_seconds
    return [(zero + item.start_seconds, item.samples) for item in items if isinstance(item, AudioBlock)]


def nearest_tick(seconds: float, sampling: SamplingPolicy) -> int:
    return ceil(seconds - 1e-9) if sampling == "exact" else tick_of(Fraction(seconds))


def join_frames(pieces: list[bytes], sampling: SamplingPolicy) -> dict[int, tuple[float, Frame]]:
    """Return the first frame of each tick, with its source time."""
    found: dict[int, tuple[float, Frame]] = {}
    for piece in pieces:
        for seconds, frame in source_frames(decode_chunk(piece, sampling=sampling)):
            found.setdefault(nearest_tick(seconds, sampling), (seconds, frame))
    return found


def join_sound(pieces: list[bytes]) -> tuple[float, NDArray[np.float32]]:
    """Join the sound of all chunks without overlaps; return its source time and its samples."""
    begin: float | None = None
    parts: list[NDArray[np.float32]] = []
    count = 0
    for piece in pieces:
        for seconds, samples in source_sound(decode_chunk(piece)):
            begin = seconds if begin is None else begin
            at = round((seconds - begin) * SAMPLE_RATE_HZ)
            assert at <= count + 2, "the sound has a hole"
            part = samples[max(0, count - at) :]
            parts.append(part)
            count += len(part)
    assert begin is not None
    return begin, np.concatenate(parts)
