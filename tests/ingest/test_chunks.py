"""Chunks of a stream that are decoded separately: joined, they equal the stream."""

import io
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest

from ingest.config import SamplingPolicy
from ingest.errors import LimitExceeded
from ingest.values import SAMPLE_RATE_HZ, Chunk
from support.joined import decode_chunk, join_frames, join_sound, nearest_tick, source_frames, source_sound, summary_of
from support.marks import first_quick
from support.media import Sound, Track, beep_times, encode_media, read_number, times

pytestmark = pytest.mark.slow

TWELVE = times(288)  # twelve seconds at 24 fps
ALTREF = {"auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "realtime", "cpu-used": "8"}
CLOSED_HEVC = {"x265-params": "log-level=none:open-gop=0"}
CLOSED_MPEG2 = {"bf": "2", "b": "2M", "flags": "+cgop", "sc_threshold": "1000000000"}
POLICIES: tuple[SamplingPolicy, ...] = ("exact", "fast", "keyframes")
# name: format, options of the muxer, track
STREAMS: dict[str, tuple[str, Track]] = {
    "h264-ts": ("mpegts", Track(times=TWELVE, gop=31)),
    "h264-ts-short-groups": ("mpegts", Track(times=TWELVE, gop=7)),
    "hevc-ts": (
        "mpegts",
        Track(codec="libx265", times=TWELVE, gop=50, options=CLOSED_HEVC),
    ),
    "mpeg2-ts": (
        "mpegts",
        Track(
            codec="mpeg2video",
            times=TWELVE,
            gop=12,
            options=CLOSED_MPEG2,
        ),
    ),
    "vp9-mkv": ("matroska", Track(codec="libvpx-vp9", times=TWELVE, gop=40, options=ALTREF)),
    "h264-mkv-2-fps": ("matroska", Track(times=times(24, 2), gop=3, options={"bf": "0"})),
}


def cut(media: bytes, format: str, *, start: Fraction | int = 0, seconds: float = 2) -> list[bytes]:
    """Remux into chunks that begin at a keyframe and last `seconds` or a little longer, with all times shifted.

    An eighth of a second of sound of before is in front of each but the first.
    """
    with av.open(io.BytesIO(media)) as source:
        has_video = bool(source.streams.video)
        packets = [packet for packet in source.demux() if packet.size]
        pieces: list[list[Any]] = [[]]
        began: Fraction | None = None
        for packet in packets:
            now = packet.pts * packet.time_base
            may_cut = packet.is_keyframe and (packet.stream.type == "video" or not has_video)
            began = now if began is None else began
            if may_cut and now >= began + seconds:
                sound = [p for p in pieces[-1] if p.stream.type == "audio"]
                pieces.append([p for p in sound if p.pts * p.time_base > now - Fraction(1, 8)] if has_video else [])
                began = now
            pieces[-1].append(packet)
        for packet in packets:
            packet.pts += round(start / packet.time_base)
            packet.dts = packet.dts + round(start / packet.time_base) if packet.dts is not None else packet.pts
        return [_mux(source, piece, format) for piece in pieces]


def _mux(source: Any, packets: list[Any], format: str) -> bytes:
    file = io.BytesIO()
    options = {"avoid_negative_ts": "disabled"} | ({"mpegts_copyts": "1"} if format == "mpegts" else {})
    with av.open(file, "w", format=format, options=options) as target:
        streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in packets:
            stream, pts, dts, base, duration = packet.stream, packet.pts, packet.dts, packet.time_base, packet.duration
            packet.stream = streams[stream.index]
            target.mux(packet)
            packet.stream, packet.time_base = stream, base  # it may also stand before the next chunk
            packet.pts, packet.dts, packet.duration = pts, dts, duration
    return file.getvalue()


# -0.3, and times just before MPEG-TS wraps around, decode to a little below zero. Matroska has no times below zero.
STARTS = [0, Fraction(47), Fraction(900_017, 10), Fraction(-3, 10), Fraction(954_430, 10)]


CASES = [
    pytest.param(name, start, marks=[] if start == 47 and name in ("h264-ts", "h264-mkv-2-fps") else [pytest.mark.slow])
    for name in STREAMS
    for start in STARTS
    if start >= 0 or STREAMS[name][0] == "mpegts"
]


@pytest.mark.parametrize(("name", "start"), CASES)
def test_chunks_give_the_pictures_of_the_whole_file(name: str, start: Fraction) -> None:
    format, track = STREAMS[name]
    media = encode_media(format=format, video=track)
    (whole,) = cut(media, format, start=start, seconds=1000)
    pieces = cut(media, format, start=start)
    assert len(pieces) >= 4
    for sampling in POLICIES:
        expected = {
            nearest_tick(seconds, sampling): seconds
            for seconds, _ in source_frames(decode_chunk(whole, sampling=sampling))
        }
        frames = join_frames(pieces, sampling)
        begin = source_frames(decode_chunk(whole, sampling="fast"))[0][0]
        shown_at = {number: begin + float(track.times[number]) for number in range(len(track.times))}
        for seconds, frame in frames.values():
            assert shown_at[read_number(frame.pixels)] == pytest.approx(seconds, abs=0.002), "the picture of its time"
        if sampling != "keyframes":
            assert sorted(frames) == list(range(min(frames), max(frames) + 1)), "one a second"
        assert set(frames) >= set(expected)
        assert len(set(frames) - set(expected)) <= 1, "the last tick may lie after the end of the whole"
        if sampling == "exact":
            got = [frames[number][0] for number in expected]
            assert got == pytest.approx(list(expected.values()), abs=1e-6)


def test_the_zero_is_a_whole_second_before_the_first_picture() -> None:
    media = encode_media(format="mpegts", video=Track(times=TWELVE, gop=24))
    for piece in cut(media, "mpegts", start=Fraction(1007, 10)):
        summary = summary_of(decode_chunk(piece))
        assert summary.zero_seconds == int(summary.start_seconds) - 16
        assert 16 <= summary.start_seconds - summary.zero_seconds < 17
        assert summary.duration_seconds == pytest.approx(summary.start_seconds - summary.zero_seconds + 2, abs=0.1)


def test_on_the_media_clock_the_zero_is_the_first_picture() -> None:
    media = encode_media(format="mpegts", video=Track(times=TWELVE, gop=24))
    (whole,) = cut(media, "mpegts", start=100, seconds=1000)
    summary = summary_of(decode_chunk(whole, clock="media"))
    assert summary.zero_seconds == summary.start_seconds == pytest.approx(100.083, abs=0.001)


def test_a_chunk_shorter_than_a_second_gives_the_picture_of_a_tick_inside() -> None:
    media = encode_media(format="mpegts", video=Track(times=times(96), gop=12, options={"bf": "0"}))
    pieces = cut(media, "mpegts", start=Fraction(1, 4), seconds=0.5)
    assert len(pieces) >= 6
    for sampling in POLICIES:
        assert len(join_frames(pieces, sampling)) in (4, 5)  # four seconds, and five windows around a tick
    assert sum(len(source_frames(decode_chunk(piece, sampling="exact"))) for piece in pieces) == 4


@pytest.mark.parametrize("format", ["mpegts", "matroska"])
@pytest.mark.parametrize("sampling", POLICIES)
def test_chunks_of_one_picture_each_give_it(format: str, sampling: SamplingPolicy) -> None:
    media = encode_media(format=format, video=Track(times=times(6, Fraction(1, 2), start=Fraction(3, 5)), gop=1))
    pieces = cut(media, format)
    assert len(pieces) == 6
    assert [len(source_frames(decode_chunk(piece, sampling=sampling))) for piece in pieces] == [1] * 6


def test_the_limit_on_duration_applies_to_each_chunk() -> None:
    media = encode_media(format="mpegts", video=Track(times=TWELVE, gop=24), sounds=[Sound(seconds=12.0)])
    for piece in cut(media, "mpegts", start=90_000):
        assert source_frames(decode_chunk(piece, max_duration_seconds=3))
        with pytest.raises(LimitExceeded, match="max_duration_seconds"):
            decode_chunk(piece, max_duration_seconds=1.5)


@pytest.mark.parametrize("decode_video", [True, False])
def test_sound_before_the_first_picture_is_kept(decode_video: bool) -> None:
    track = Track(times=times(48, start=5), gop=24, options={"bf": "0"})
    media = encode_media(format="mpegts", video=track, sounds=[Sound(seconds=7.0)])
    items = decode_chunk(media, decode_video=decode_video)
    sound = source_sound(items)
    first = summary_of(items).start_seconds
    assert first == pytest.approx(sound[0][0] + 5, abs=0.05)
    assert sum(len(samples) for _, samples in sound) == pytest.approx(7.0 * SAMPLE_RATE_HZ, abs=0.05 * SAMPLE_RATE_HZ)


def test_without_a_picture_the_first_sound_sets_the_zero() -> None:
    (piece,) = cut(encode_media(format="mpegts", sounds=[Sound(seconds=3.0)]), "mpegts", start=500, seconds=1000)
    summary = summary_of(decode_chunk(piece))
    assert summary.start_seconds == pytest.approx(500, abs=0.05)
    assert summary.zero_seconds == int(np.floor(summary.start_seconds)) - 16


@pytest.mark.parametrize("codec", first_quick(["aac", "libmp3lame", "mp2"]))
def test_chunks_give_the_sound_of_the_whole_file(codec: str) -> None:
    media = encode_media(format="mpegts", video=Track(times=TWELVE, gop=48), sounds=[Sound(codec=codec, seconds=12.0)])
    (whole,) = cut(media, "mpegts", seconds=1000)
    pieces = cut(media, "mpegts")
    assert len(pieces) >= 5
    expected_begin, expected = join_sound([whole])
    begin, sound = join_sound(pieces)
    assert begin == pytest.approx(expected_begin)
    assert len(sound) == pytest.approx(len(expected), abs=16)
    count = min(len(sound), len(expected))
    assert (
        np.max(np.abs(sound[:count] - expected[:count])) < 0.1
    )  # a 1 kHz beep that is half a sample late differs by this much
    beeps, expected_beeps = (beep_times(samples, SAMPLE_RATE_HZ, begin) for samples in (sound, expected))
    assert beeps == pytest.approx(expected_beeps, abs=0.001)


GOOD: dict[str, Any] = {"collection": "yard", "stream_id": "gate", "session": 1, "sequence": 0, "media": b"x"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"collection": ""}, "collection must"),
        ({"stream_id": "a/b"}, "stream_id must"),
        ({"stream_id": "a\nb"}, "stream_id must"),
        ({"session": -1}, "session must"),
        ({"sequence": 1 << 63}, "sequence must"),
        ({"uri": "https://example.org/a.ts"}, "got both"),
        ({"media": b""}, "must be the end"),
        ({"start_time": float("nan")}, "start_time must"),
    ],
)
def test_a_chunk_checks_itself(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Chunk(**(GOOD | wrong))


def test_the_end_of_a_stream_needs_no_media() -> None:
    assert Chunk(**(GOOD | {"media": b"", "end_of_stream": True})).media == b""
