"""Mutated media of all kinds yield frames or a typed error, within the limits, and the pool still works."""

import io
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from ingest.config import DecodeConfig, SamplingPolicy
from ingest.errors import DecodeError, LimitExceeded
from ingest.sandbox.pool import DecodePool
from ingest.values import DecodeSummary, Frame
from support.media import Sound, Track, encode_media, times
from support.waiting import HANG_SECONDS

SEED = 20240607
MUTATIONS_EACH = 32
CONFIG = DecodeConfig(
    input_width=32,
    input_height=32,
    max_stall_seconds=HANG_SECONDS / 2,
    max_wall_seconds=HANG_SECONDS / 2,
    max_memory_bytes=1 << 30,
)
SHORT = times(36, 12)  # three seconds
WITH_B = {"bf": "2", "b": "500k"}
QUIET = {"x265-params": "log-level=none"}
REALTIME = {"deadline": "realtime", "cpu-used": "8"}
AAC, OPUS, MP2 = Sound(seconds=3), Sound(codec="libopus", seconds=3), Sound(codec="mp2", seconds=3)
KINDS: dict[str, tuple[str, Track | None, Sound | None]] = {
    "h264-mp4": ("mp4", Track(times=SHORT, gop=12), AAC),
    "h264-mkv": ("matroska", Track(times=SHORT, gop=12), AAC),
    "h264-ts": ("mpegts", Track(times=SHORT, gop=12), AAC),
    "h264-flv": ("flv", Track(times=SHORT, gop=12), AAC),
    "hevc-mp4": ("mp4", Track(codec="libx265", times=SHORT, gop=12, options=QUIET), AAC),
    "hevc-ts": ("mpegts", Track(codec="libx265", times=SHORT, gop=12, options=QUIET), None),
    "vp8-webm": ("webm", Track(codec="libvpx", times=SHORT, gop=12, options=REALTIME), OPUS),
    "vp9-webm": ("webm", Track(codec="libvpx-vp9", times=SHORT, gop=12, options=REALTIME), OPUS),
    "av1-mp4": ("mp4", Track(codec="libsvtav1", times=SHORT, gop=12, options={"preset": "11"}), None),
    "mpeg2-ps": ("mpeg", Track(codec="mpeg2video", times=times(72), gop=12, options=WITH_B), MP2),
    "mpeg4-avi": ("avi", Track(codec="mpeg4", times=SHORT, gop=12, options=WITH_B), MP2),
    "mjpeg-mov": ("mov", Track(codec="mjpeg", pix_fmt="yuvj420p", times=SHORT), AAC),
    "prores-mov": ("mov", Track(codec="prores_ks", pix_fmt="yuv422p10le", times=SHORT), None),
    "wmv2-wmv": ("asf", Track(codec="wmv2", times=SHORT, gop=12), Sound(codec="wmav2", seconds=3)),
    "gif": ("gif", Track(codec="gif", pix_fmt="rgb8", times=SHORT), None),
    "mp3": ("mp3", None, Sound(codec="libmp3lame", seconds=3)),
    "ogg": ("ogg", None, OPUS),
}
POLICIES: tuple[SamplingPolicy, ...] = ("fast", "exact", "keyframes")


def mutate(media: bytes, chance: random.Random) -> bytes:
    """Return the media with bits flipped, a stretch overwritten, repeated or removed, or its end cut off."""
    data = bytearray(media)
    for _ in range(chance.randint(1, 3)):
        start = min(len(data) - 1, int(chance.random() ** 2 * len(data)))  # more often in the headers
        length = chance.randint(1, 200)
        match chance.randrange(6):
            case 0 | 1:
                for _ in range(chance.randint(1, 40)):
                    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            case 2:
                data[start : start + length] = chance.randbytes(min(length, len(data) - start))
            case 3:
                data[start : start + length] = chance.choice([b"\x00", b"\xff"]) * min(length, len(data) - start)
            case 4:
                data[start:start] = data[start : start + length]
            case 5:
                end = start + length if chance.random() < 0.5 else len(data)
                del data[max(1, start) : end]
        if len(data) < 2:
            break
    return bytes(data)


@pytest.mark.slow
def test_mutated_media_end_in_frames_or_a_typed_error() -> None:
    chance = random.Random(SEED)
    whole = {
        name: encode_media(format=format, video=video, sounds=[sound] if sound else [])
        for name, (format, video, sound) in KINDS.items()
    }
    cases = [
        (name, POLICIES[index % 3], mutate(media, chance))
        for name, media in whole.items()
        for index in range(MUTATIONS_EACH)
    ]
    assert len(cases) >= 500

    def decode(case: tuple[str, SamplingPolicy, bytes]) -> str:
        name, policy, media = case
        config = DecodeConfig(**{field: getattr(CONFIG, field) for field in CONFIG.__slots__} | {"sampling": policy})
        begin, last = time.monotonic(), -1.0
        try:
            for item in pool.decode(io.BytesIO(media), uri=name, config=config):
                if isinstance(item, Frame):
                    assert item.pts_seconds > last
                    last = item.pts_seconds
            assert isinstance(item, DecodeSummary)
            return "decoded"
        except (DecodeError, LimitExceeded) as error:
            return type(error).__name__
        finally:
            assert time.monotonic() - begin < HANG_SECONDS

    with DecodePool(CONFIG, workers=2) as pool, ThreadPoolExecutor(2) as threads:
        outcomes = Counter(threads.map(decode, cases))
        for name, media in whole.items():  # the pool still works
            assert isinstance(list(pool.decode(io.BytesIO(media), uri=name))[-1], DecodeSummary)
    assert outcomes["decoded"] > len(cases) // 3
    assert outcomes["DecoderTimeout"] == 0, outcomes
    assert outcomes["DecoderCrashed"] <= len(cases) // 50, outcomes
