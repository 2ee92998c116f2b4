"""Where a picture that sampling chose does not decode, another of its second is taken."""

import functools
import io
import random
import struct
import zlib
from fractions import Fraction

import pytest
from av.packet import Packet

from ingest.config import DecodeConfig, SamplingPolicy
from ingest.errors import DecodeError, LimitExceeded
from ingest.media.decode import decode
from ingest.media.history import MAX_HISTORY_BYTES, MAX_HISTORY_COUNT, PacketHistory
from ingest.media.sampler import tick_of
from ingest.values import DecodeSummary, Frame
from support.damage import break_end, damage_packets, lose_transport_packets, random_change
from support.media import Track, encode_media, read_number, times

EIGHT = times(96, 12)  # eight seconds
WITH_B = {"preset": "ultrafast", "bf": "3", "b-adapt": "0"}
OPEN = "open-gop=1:bframes=3:b-adapt=0:keyint=18:min-keyint=18:scenecut=0"
OPEN_HEVC = "log-level=none:open-gop=1:keyint=18:min-keyint=18:bframes=3"
REALTIME = {"deadline": "realtime", "cpu-used": "8"}
KINDS: dict[str, tuple[str, Track]] = {
    "h264": ("mp4", Track(times=EIGHT, gop=12, options={"preset": "ultrafast", "bf": "0"})),
    "h264-b": ("mp4", Track(times=EIGHT, gop=30, options=WITH_B)),
    "h264-open": ("mp4", Track(times=EIGHT, gop=18, options={"x264-params": OPEN})),
    "h264-one-keyframe": ("matroska", Track(times=EIGHT, gop=999, options=WITH_B)),
    "h264-ts": ("mpegts", Track(times=EIGHT, gop=12, options=WITH_B)),
    "hevc": ("mp4", Track(codec="libx265", times=EIGHT, gop=18, options={"x265-params": "log-level=none"})),
    "hevc-open": ("mp4", Track(codec="libx265", times=EIGHT, gop=18, options={"x265-params": OPEN_HEVC})),
    "mpeg4": ("avi", Track(codec="mpeg4", times=EIGHT, gop=12)),
    "mpeg4-b": ("mp4", Track(codec="mpeg4", times=EIGHT, gop=12, options={"bf": "2"})),
    "vp8": ("webm", Track(codec="libvpx", times=EIGHT, gop=18, options=REALTIME)),
    "vp9": ("webm", Track(codec="libvpx-vp9", times=EIGHT, gop=18, options=REALTIME)),
    "mpeg2-ts": (
        "mpegts",
        Track(codec="mpeg2video", times=times(192, 24), gop=12, options={"bf": "2", "b": "500k"}),
    ),
    "mjpeg": ("mov", Track(codec="mjpeg", pix_fmt="yuvj420p", times=EIGHT)),
}


@functools.cache
def make(kind: str) -> bytes:
    format, track = KINDS[kind]
    return encode_media(format=format, video=track)


def run(media: bytes, policy: SamplingPolicy) -> tuple[list[Frame], DecodeSummary]:
    items = list(decode(io.BytesIO(media), uri="damaged", config=DecodeConfig(sampling=policy, resize="squash")))
    assert isinstance(items[-1], DecodeSummary)
    return [item for item in items if isinstance(item, Frame)], items[-1]


def seconds_of(frames: list[Frame]) -> list[float]:
    return [round(frame.pts_seconds, 3) for frame in frames]


def break_keyframes(kind: str, *numbers: int) -> bytes:
    """Return the media with some of its packets broken; none given: all that hold a picture of a whole second."""

    def change(number: int, content: bytes, is_key: bool) -> bytes:
        is_broken = number in numbers if numbers else is_key and number % 12 == 0 and number > 0
        if not is_broken:
            return content
        return bytes(len(content)) if kind == "mjpeg" else break_end(content)  # FFmpeg takes any end of a JPEG

    return damage_packets(make(kind), KINDS[kind][0], change)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_fast_yields_what_exact_yields_within_half_a_second(kind: str) -> None:
    missing = count = 0
    for seed in range(12):
        chance = random.Random(f"{kind} {seed}")
        if kind.endswith("-ts") and seed % 2:
            media = lose_transport_packets(make(kind), 0.02, chance)
        else:
            media = damage_packets(make(kind), KINDS[kind][0], random_change(chance))
        try:
            exact, _ = run(media, "exact")
        except (DecodeError, LimitExceeded) as error:
            with pytest.raises(type(error)):
                run(media, "fast")
            continue
        fast, summary = run(media, "fast")
        ticks = [tick_of(Fraction(frame.pts_seconds)) for frame in fast]
        assert ticks == sorted(set(ticks))
        wanted = {tick_of(Fraction(frame.pts_seconds)) for frame in exact}
        count += len(wanted)
        missing += sum(tick < summary.duration_seconds and tick not in ticks for tick in wanted)
    # Where packets are missing, a decoder may yield pictures out of order of time; the late ones are then left out.
    assert missing <= count / 50


@pytest.mark.parametrize("kind", ["h264", "h264-ts", "mpeg4", "mjpeg"])
def test_damaged_keyframes_cost_no_second(kind: str) -> None:
    media = break_keyframes(kind)
    for policy in ("fast", "exact"):
        frames, summary = run(media, policy)
        assert len({tick_of(Fraction(frame.pts_seconds)) for frame in frames}) >= 7
        assert summary.error_count >= 5 or kind == "mjpeg"  # FFmpeg passes over them without a word


def test_the_picture_before_a_damaged_keyframe_is_shown() -> None:
    frames, summary = run(break_keyframes("h264", 36), "exact")
    assert seconds_of(frames)[:5] == [0, 1, 2, 2.917, 4]
    assert read_number(frames[3].pixels) == 35
    assert (summary.error_count, summary.damaged) == (1, ((3.0, pytest.approx(3.083, abs=0.01)),))


def test_sampling_goes_back_to_keyframes_after_the_damage() -> None:
    frames, summary = run(break_keyframes("h264", 36), "fast")
    assert seconds_of(frames) == [0, 1, 2, 2.5, 4, 5, 6, 7]
    assert summary.error_count == 1  # though the damaged keyframe was decoded twice
    for frame in frames:
        assert read_number(frame.pixels) == round(frame.pts_seconds * 12)


def test_keyframes_leaves_out_a_damaged_keyframe() -> None:
    frames, summary = run(break_keyframes("h264", 36), "keyframes")
    assert seconds_of(frames) == [0, 1, 2, 4, 5, 6, 7]
    assert summary.error_count == 1


def test_keyframes_takes_the_next_keyframe_of_the_same_second() -> None:
    media = encode_media(
        format="mp4", video=Track(times=EIGHT, gop=4, options={"bf": "0", "x264-params": "scenecut=0"})
    )
    damaged = damage_packets(media, "mp4", lambda number, content, _: break_end(content) if number == 32 else content)
    assert seconds_of(run(media, "keyframes")[0])[:5] == [0, 0.667, 1.667, 2.667, 3.667]
    assert seconds_of(run(damaged, "keyframes")[0])[:5] == [0, 0.667, 1.667, 3.0, 3.667]


@pytest.mark.slow
def test_a_damaged_header_that_claims_a_huge_picture_costs_that_picture() -> None:
    def claim(number: int, content: bytes, _: bool) -> bytes:
        at = content.index(b"IHDR")
        changed = content[: at + 4] + struct.pack(">II", 12_000, 12_000) + content[at + 12 : at + 17]
        return changed + struct.pack(">I", zlib.crc32(changed[at:])) + content[at + 21 :] if number == 2 else content

    media = encode_media(format="mov", video=Track(codec="png", pix_fmt="rgb24", times=times(5, 1)))
    frames, summary = run(damage_packets(media, "mov", claim), "fast")
    assert seconds_of(frames) == [0, 1, 3, 4]
    assert summary.damaged == ((2.0, 3.0),)


def test_the_history_begins_at_the_last_good_keyframe() -> None:
    history = PacketHistory()
    for number in range(30):
        packet: Packet = Packet(10)  # type: ignore[type-arg]
        packet.pts = number
        history.push(packet, number % 12 == 0)
    assert not history.begin_at(13)
    assert len(history) == 30
    assert history.begin_at(12)
    assert [packet.pts for packet in history.packets()] == list(range(12, 30))
    assert [packet.pts for packet in history.packets(after=packet)] == []


def test_the_history_is_bounded() -> None:
    history = PacketHistory()
    for number in range(MAX_HISTORY_COUNT + 5):
        history.push(Packet(1), number == 0)
    assert len(history) == MAX_HISTORY_COUNT
    assert not history.is_whole
    large = PacketHistory()
    for number in range(5):
        large.push(Packet(MAX_HISTORY_BYTES // 3), number == 0)
    assert len(large) == 3
