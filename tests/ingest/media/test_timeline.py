"""The times of a file are those of its container: gaps, late tracks, jumps and damaged timestamps."""

import io
import itertools
from collections.abc import Callable
from fractions import Fraction
from math import floor
from typing import Any

import av
import pytest

from ingest.config import DecodeConfig, SamplingPolicy
from ingest.media.decode import decode
from ingest.values import AudioBlock, Decoded, DecodeSummary, Frame
from support.media import Sound, Track, encode_media, read_number, times

POLICIES: tuple[SamplingPolicy, ...] = ("exact", "fast", "keyframes")
IN_ORDER = {"bf": "0"}
HOUR = 3600
LONG = Sound(codec="mp2", seconds=600, rate_hz=16_000)  # quickly made

Edit = Callable[[Any, Fraction], Any]


def run(media: bytes | io.BytesIO, **settings: Any) -> list[Decoded]:
    file = io.BytesIO(media) if isinstance(media, bytes) else media
    return list(decode(file, uri="test", config=DecodeConfig(**({"resize": "squash"} | settings))))


def seconds_of(items: list[Decoded]) -> list[float]:
    return [item.pts_seconds for item in items if isinstance(item, Frame)]


def ticks_of(items: list[Decoded], until: float) -> list[int]:
    """Return the ticks of the pictures before a time: a sound that is a little longer than they can add one."""
    return [floor(at + 0.5) for at in seconds_of(items) if at < until]


def heard_of(items: list[Decoded]) -> list[tuple[float, float]]:
    """Return the stretches of sound without a gap of a tenth of a second."""
    spans: list[tuple[float, float]] = []
    for block in (item for item in items if isinstance(item, AudioBlock)):
        start = spans.pop()[0] if spans and block.start_seconds - spans[-1][1] < 0.1 else block.start_seconds
        spans.append((start, block.end_seconds))
    return spans


def summary_of(items: list[Decoded]) -> DecodeSummary:
    assert isinstance(items[-1], DecodeSummary)
    return items[-1]


def rewrite(media: bytes, edit: Edit, *, format: str, options: dict[str, str] | None = None) -> bytes:
    """Copy media; `edit` changes a packet, given its time, or returns False to drop it."""
    target = io.BytesIO()
    with av.open(io.BytesIO(media)) as source, av.open(target, "w", format=format, options=options or {}) as copy:
        streams = {stream.index: copy.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            assert packet.time_base is not None
            if packet.size and edit(packet, (packet.dts or 0) * packet.time_base) is not False:
                packet.stream = streams[packet.stream.index]
                copy.mux(packet)
    return target.getvalue()


# ---- gaps


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["exact", "fast"])
@pytest.mark.parametrize("format", ["mp4", "matroska", "flv", "mpegts", "nut"])
def test_a_gap_of_pictures_stays_a_gap(format: str, policy: SamplingPolicy) -> None:
    track = Track(times=times(96) + times(96, start=28), gop=9999, options=IN_ORDER | {"x264-params": "scenecut=0"})
    items = run(encode_media(format=format, video=track), sampling=policy)
    for frame in items:
        if isinstance(frame, Frame):
            assert frame.pts_seconds == pytest.approx(float(track.times[read_number(frame.pixels)]), abs=0.002)
    assert ticks_of(items, 31.4) == [0, 1, 2, 3, 4, 28, 29, 30, 31]
    assert summary_of(items).epoch_count == 1
    assert summary_of(items).duration_seconds == pytest.approx(32, abs=0.1)


@pytest.mark.parametrize("policy", ["exact", "fast"])
@pytest.mark.parametrize("format", ["mp4", "matroska", "flv", "mpegts"])
@pytest.mark.parametrize("step", [15, 90, 1000])
def test_slides_keep_their_times(format: str, policy: SamplingPolicy, step: int) -> None:
    track = Track(times=[Fraction(step * n) for n in range(4)], gop=9999, options=IN_ORDER)
    items = run(encode_media(format=format, video=track), sampling=policy)
    assert seconds_of(items) == pytest.approx([step * n for n in range(4)], abs=0.01)
    assert summary_of(items).epoch_count == 1


@pytest.mark.slow
@pytest.mark.parametrize("format", ["mp4", "matroska", "flv", "mpegts"])
def test_slides_beside_sound_that_goes_on_keep_their_times(format: str) -> None:
    track = Track(times=[Fraction(20 * n) for n in range(4)], options=IN_ORDER)
    items = run(encode_media(format=format, video=track, sounds=[Sound(seconds=61)]))
    assert seconds_of(items) == pytest.approx([0, 20, 40, 60], abs=0.05)
    assert heard_of(items) == [pytest.approx((0, 61), abs=0.1)]
    assert summary_of(items).epoch_count == 1


@pytest.mark.slow
def test_one_picture_stands_through_ten_minutes_of_sound() -> None:
    for format in ("mp4", "matroska", "mpegts"):
        media = encode_media(format=format, video=Track(times=[Fraction(0)]), sounds=[LONG])
        items = run(media)
        assert seconds_of(items) == pytest.approx([0], abs=0.05)
        assert heard_of(items) == [pytest.approx((0, 600), abs=0.1)]
        assert (summary_of(items).epoch_count, summary_of(items).frame_count) == (1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["mp4", "matroska", "mpegts"])
def test_sound_after_a_pause_keeps_its_times(format: str) -> None:
    media = encode_media(format="matroska", video=Track(times=times(48)), sounds=[Sound(codec="mp2", seconds=40)])
    kept = rewrite(media, lambda packet, at: packet.stream.type == "video" or not 5 <= at < 30, format="matroska")
    media = rewrite(kept, lambda packet, at: True, format=format)
    items = run(media)
    assert heard_of(items) == [pytest.approx((0, 5), abs=0.1), pytest.approx((30, 40), abs=0.1)]
    assert sum(len(item.samples) for item in items if isinstance(item, AudioBlock)) < 16 * 16_000
    assert summary_of(items).epoch_count == 1


@pytest.mark.parametrize("format", ["mp4", "matroska"])
def test_a_gap_of_ten_hours_stays_a_gap_where_the_file_declares_it(format: str) -> None:
    track = Track(times=times(48) + times(48, start=10 * HOUR), gop=24)
    items = run(encode_media(format=format, video=track), sampling="keyframes")
    assert seconds_of(items) == pytest.approx([0, 1, 10 * HOUR, 10 * HOUR + 1], abs=0.003)
    assert summary_of(items).epoch_count == 1
    assert summary_of(items).duration_seconds == pytest.approx(10 * HOUR + 2, abs=0.1)


@pytest.mark.parametrize(("format", "options"), [("mpegts", {}), ("matroska", {"live": "1"})])
def test_a_gap_of_ten_hours_opens_an_epoch_where_no_duration_is_declared(format: str, options: dict[str, str]) -> None:
    track = Track(times=times(48) + times(48, start=10 * HOUR), gop=24)
    items = run(encode_media(format=format, video=track, options=options), sampling="keyframes")
    assert seconds_of(items) == pytest.approx([0, 1, 2, 3], abs=0.003)
    assert summary_of(items).epoch_count == 2


# ---- tracks that begin late


@pytest.mark.slow
@pytest.mark.parametrize("format", ["mp4", "matroska", "mpegts", "flv", "nut"])
@pytest.mark.parametrize("late", [3, 20])
def test_sound_before_the_first_picture_is_kept(format: str, late: int) -> None:
    track = Track(times=times(72, start=late), gop=24)
    items = run(encode_media(format=format, video=track, sounds=[Sound(seconds=late + 3)]))
    assert seconds_of(items)[0] == pytest.approx(late, abs=0.05)
    assert ticks_of(items, late + 2.4) == [late, late + 1, late + 2]
    assert heard_of(items) == [pytest.approx((0, late + 3), abs=0.1)]


@pytest.mark.slow
@pytest.mark.parametrize("format", ["mp4", "matroska", "mpegts", "flv", "nut"])
def test_sound_that_begins_late_keeps_its_time(format: str) -> None:
    track = Track(times=times(24 * 26), gop=24)
    items = run(encode_media(format=format, video=track, sounds=[Sound(seconds=5, start_seconds=20)]))
    assert ticks_of(items, 25.4) == list(range(26))
    assert heard_of(items) == [pytest.approx((20, 25), abs=0.1)]


@pytest.mark.slow
def test_pictures_that_come_after_many_minutes_hold_no_sound_in_memory() -> None:
    for format in ("mp4", "matroska", "mpegts"):
        media = encode_media(format=format, video=Track(times=times(24, start=590)), sounds=[LONG])
        items = decode(io.BytesIO(media), uri="test", config=DecodeConfig())
        file_order = [type(item) for item in itertools.islice(items, 20)]
        assert file_order.count(AudioBlock) > 10
        assert seconds_of(list(items))[0] == pytest.approx(590, abs=0.05)


def test_a_single_picture_that_comes_late_is_kept() -> None:
    media = encode_media(format="matroska", video=Track(times=[Fraction(20)]), sounds=[Sound(seconds=20)])
    for policy in POLICIES:
        assert seconds_of(run(media, sampling=policy)) == pytest.approx([20], abs=0.05)


def test_damaged_pictures_at_the_start_move_no_time() -> None:
    track = Track(times=times(20, 4), gop=1, options=IN_ORDER)
    media = bytearray(encode_media(format="matroska", video=track))
    with av.open(io.BytesIO(media)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0)]
    for packet in packets[:7]:
        at = media.index(packet)
        media[at + 4 : at + len(packet)] = bytes(len(packet) - 4)
    items = run(bytes(media))
    for frame in items:
        if isinstance(frame, Frame):
            assert frame.pts_seconds == pytest.approx(read_number(frame.pixels) / 4, abs=0.002)
    assert seconds_of(items)[0] == pytest.approx(1.75)
    assert (summary_of(items).zero_seconds, summary_of(items).start_seconds) == (0.0, 1.75)
    assert summary_of(items).duration_seconds == pytest.approx(5.0)


# ---- jumps and damage


Times = Callable[[str, int, int], int]  # of kind, number of the packet, and ticks; returns its ticks


def retime_ts(media: bytes, change: Times) -> bytes:
    """Change the times of each PES packet of a transport stream, in ticks of 1/90000 s."""
    data, counts = bytearray(media), {"video": 0, "audio": 0}
    for start in range(0, len(data), 188):
        if not data[start + 1] & 0x40:
            continue
        at = start + 4 + (1 + data[start + 4] if data[start + 3] & 0x20 else 0)
        if data[at : at + 3] != b"\0\0\1" or not data[at + 7] & 0x80:
            continue
        kind = "video" if data[at + 3] & 0xF0 == 0xE0 else "audio"
        for field in range(at + 9, at + 9 + (10 if data[at + 7] & 0x40 else 5), 5):
            head, a, b, c, d = data[field : field + 5]
            ticks = (head >> 1 & 7) << 30 | a << 22 | (b >> 1) << 15 | c << 7 | d >> 1
            ticks = change(kind, counts[kind], ticks) % (1 << 33)
            data[field] = head & 0xF0 | (ticks >> 29 & 0xE) | 1
            data[field + 1 : field + 5] = bytes(
                (ticks >> 22 & 255, (ticks >> 14 & 0xFE) | 1, ticks >> 7 & 255, (ticks << 1 & 0xFE) | 1)
            )
        counts[kind] += 1
    return bytes(data)


def retime_flv(media: bytes, change: Times) -> bytes:
    """Change the times of each tag of an FLV file, in milliseconds."""
    data, counts, at = bytearray(media), {"video": 0, "audio": 0}, 13
    while at + 11 <= len(data):
        size = int.from_bytes(data[at + 1 : at + 4], "big")
        if data[at] in (8, 9):
            kind = "video" if data[at] == 9 else "audio"
            ticks = change(kind, counts[kind], int.from_bytes(data[at + 4 : at + 7], "big") | data[at + 7] << 24)
            data[at + 4 : at + 8] = (ticks & 0xFFFFFF).to_bytes(3, "big") + bytes([ticks >> 24 & 255])
            counts[kind] += 1
        at += size + 15
    return bytes(data)


RETIMED = {"mpegts": (retime_ts, 90_000, "mp2"), "flv": (retime_flv, 1000, "libmp3lame")}


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["exact", "fast"])
@pytest.mark.parametrize("format", RETIMED)
@pytest.mark.parametrize("wild", ["video", "audio"])
@pytest.mark.parametrize("shift", [-HOUR, 100, HOUR, 15 * HOUR])
def test_one_wild_timestamp_moves_no_other(format: str, wild: str, shift: int, policy: SamplingPolicy) -> None:
    retime, rate, codec = RETIMED[format]
    track = Track(times=times(240, start=2 * HOUR), gop=24, options=IN_ORDER)
    sound = Sound(codec=codec, seconds=10, start_seconds=2 * HOUR)
    media = encode_media(format=format, video=track, sounds=[sound])
    items = run(
        retime(media, lambda kind, n, ticks: ticks + (shift * rate if (kind, n) == (wild, 100) else 0)),
        sampling=policy,
    )
    assert ticks_of(items, 9.4) == list(range(10))
    heard = heard_of(items)
    assert (heard[0][0], heard[-1][1]) == pytest.approx((0, 10), abs=0.1)
    summary = summary_of(items)
    assert (summary.epoch_count, summary.mended_count) == (1, 1)
    assert summary.duration_seconds == pytest.approx(10, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("format", RETIMED)
def test_a_wild_stretch_opens_epochs_and_makes_no_long_video(format: str) -> None:
    retime, rate, codec = RETIMED[format]
    track = Track(times=times(240), gop=24, options=IN_ORDER)
    media = encode_media(format=format, video=track, sounds=[Sound(codec=codec, seconds=10)])

    def change(kind: str, number: int, ticks: int) -> int:
        return ticks + (15 * HOUR * rate if 4 * rate <= ticks < 5 * rate else 0)

    items = run(retime(media, change))
    assert summary_of(items).epoch_count == 3
    assert summary_of(items).duration_seconds == pytest.approx(10, abs=1.5)


@pytest.mark.slow
@pytest.mark.parametrize("format", RETIMED)
@pytest.mark.parametrize("at", [15, 20, 30])
def test_a_stretch_whose_times_are_too_early_moves_nothing_after_it(format: str, at: int) -> None:
    retime, rate, codec = RETIMED[format]
    track = Track(times=times(24 * 40), gop=24, options=IN_ORDER)
    media = encode_media(format=format, video=track, sounds=[Sound(codec=codec, seconds=40)])
    moved = retime(media, lambda kind, number, ticks: ticks - (at * rate if at <= ticks / rate < at + 2 else 0))
    items = run(moved)
    for frame in items:
        if isinstance(frame, Frame) and not at - 1 < frame.pts_seconds < at + 3:
            assert frame.pts_seconds == pytest.approx(read_number(frame.pixels) / 24, abs=0.5)
    assert summary_of(items).epoch_count == 3
    assert summary_of(items).duration_seconds == pytest.approx(40, abs=0.6)


def test_times_of_a_transport_stream_that_wrap_go_on() -> None:
    track = Track(times=times(240), gop=24)
    media = encode_media(format="mpegts", video=track, sounds=[Sound(codec="mp2", seconds=10)])
    items = run(retime_ts(media, lambda kind, number, ticks: ticks - 5 * 90_000 - round(1.4 * 90_000)))
    assert ticks_of(items, 9.4) == list(range(10))
    assert heard_of(items) == [pytest.approx((0, 10), abs=0.1)]
    assert summary_of(items).epoch_count == 1


def test_a_file_joined_of_two_has_the_second_after_the_first() -> None:
    early = encode_media(format="mpegts", video=Track(times=times(48), gop=24), sounds=[Sound(seconds=2)])
    late = encode_media(
        format="mpegts", video=Track(times=times(48, start=HOUR * 5), gop=24),
        sounds=[Sound(seconds=2, start_seconds=HOUR * 5)],
    )  # fmt: skip
    for media in (early + late, late + early):
        items = run(media)
        assert ticks_of(items, 3.4) == [0, 1, 2, 3]
        assert summary_of(items).epoch_count == 2
