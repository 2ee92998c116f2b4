"""Tracks that begin late, end, or change their streams or codecs in mid-file are followed: MPEG-TS, MPEG-PS, FLV."""

import io
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from ingest.config import DecodeConfig
from ingest.media.decode import decode
from ingest.media.tracks import packets
from ingest.values import SAMPLE_RATE_HZ, AudioBlock, Decoded, DecodeSummary, Frame, MediaInfo
from support.joined import decode_chunk
from support.media import Sound, Track, beep_times, encode_media, read_number, times

PARTS_SECONDS = 6
FLV_HEADER_BYTES = 13
Part = Callable[..., bytes]


def transport(
    start: int = 0, *, pid: int = 0x100, seconds: int = PARTS_SECONDS, video: str | None = "libx264",
    audio: str | None = "aac", **options: str,
) -> bytes:  # fmt: skip
    """Return a recording whose clock begins at a second; the sound has the PID after the pictures'."""
    return encode_media(
        format="mpegts",
        options={"mpegts_start_pid": str(pid)} | options,
        video=Track(codec=video, times=times(10 * seconds, 10, start=start), gop=10) if video else None,
        sounds=[Sound(codec=audio, seconds=seconds, start_seconds=start)] if audio else [],
    )


def program(
    start: int = 0,
    *,
    video: bool = True,
    audio: str | None = "mp2",
    seconds: int = PARTS_SECONDS,
    is_large: bool = False,
) -> bytes:
    def draw_noise(index: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        return np.random.default_rng(index).integers(0, 256, (480, 640, 3), np.uint8)

    rate = {"b": "12M", "maxrate": "15M", "bufsize": "8M"}
    size: dict[str, Any] = {"width": 640, "height": 480, "picture": draw_noise, "options": rate} if is_large else {}
    pictures = times(25 * seconds, 25, start=start)
    return encode_media(
        format="vob",
        video=Track(codec="mpeg2video", times=pictures, gop=12, **size) if video else None,
        sounds=[Sound(codec=audio, seconds=seconds, start_seconds=start)] if audio else [],
    )


def flash(start: int = 0, *, video: bool = True, audio: str | None = "aac", seconds: int = PARTS_SECONDS) -> bytes:
    """Return an FLV file, its header and its metadata only if it begins at zero."""
    media = encode_media(
        format="flv",
        video=Track(codec="flv", times=times(10 * seconds, 10), options={"b": "8M"}) if video else None,
        sounds=[Sound(codec=audio, seconds=seconds, rate_hz=44_100)] if audio else [],
    )
    return media if start == 0 else delay(media, start)


def delay(media: bytes, seconds: int) -> bytes:
    """Return the tags of an FLV file with later times, without its header."""
    tags, position = bytearray(), FLV_HEADER_BYTES
    while position + 11 <= len(media):
        length = int.from_bytes(media[position + 1 : position + 4], "big")
        time = int.from_bytes(media[position + 4 : position + 7], "big") | media[position + 7] << 24
        time += 1000 * seconds
        if media[position] in (8, 9):  # sound, pictures
            tags += media[position : position + 4] + (time & 0xFFFFFF).to_bytes(3, "big") + bytes([time >> 24])
            tags += media[position + 8 : position + 15 + length]
        position += 15 + length
    return bytes(tags)


def run(media: bytes, **settings: Any) -> list[Decoded]:
    config = DecodeConfig(**({"resize": "squash"} | settings))
    return list(decode(io.BytesIO(media), uri="test", config=config))


def summary_of(items: list[Decoded]) -> DecodeSummary:
    assert isinstance(items[-1], DecodeSummary)
    return items[-1]


def beeps_of(items: list[Decoded]) -> list[float]:
    blocks = [item for item in items if isinstance(item, AudioBlock)]
    whole = np.zeros(round(max((block.end_seconds for block in blocks), default=0) * SAMPLE_RATE_HZ) + 1, np.float32)
    for block in blocks:
        begin = round(block.start_seconds * SAMPLE_RATE_HZ)
        whole[begin : begin + len(block.samples)] = block.samples
    return beep_times(whole, SAMPLE_RATE_HZ)


def check(items: list[Decoded], *, frames: int, beeps: list[float], epochs: int = 1, errors: int = 0) -> None:
    """Check a picture a second, each beep within the rounding of a join, and no damage."""
    seconds = [item.pts_seconds for item in items if isinstance(item, Frame)]
    assert len(seconds) == pytest.approx(frames, abs=1)
    assert max(b - a for a, b in pairwise(seconds)) < 2
    assert beeps_of(items) == pytest.approx(beeps, abs=0.6)
    summary = summary_of(items)
    assert summary.epoch_count == epochs
    assert summary.error_count <= errors
    assert summary.unfollowed_count == 0


def every_second(begin: int, end: int) -> list[float]:
    return [second + 0.5 for second in range(begin, end)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "pids", [(0x100, 0x200), (0x100, 0x200, 0x100), (0x100, 0x200, 0x300, 0x200)], ids=["AB", "ABA", "ABCB"]
)
@pytest.mark.parametrize("sampling", ["fast", "exact", "keyframes"])
def test_a_transport_stream_whose_pids_change_is_read_to_its_end(pids: tuple[int, ...], sampling: str) -> None:
    media = b"".join(transport(n * PARTS_SECONDS, pid=pid) for n, pid in enumerate(pids))
    seconds = len(pids) * PARTS_SECONDS
    items = run(media, sampling=sampling)
    check(items, frames=seconds, beeps=every_second(0, seconds))
    numbers = [read_number(item.pixels) for item in items if isinstance(item, Frame)]
    assert -1 not in numbers


@pytest.mark.slow
def test_changes_far_from_the_beginning_and_the_end_are_found() -> None:
    media = b"".join(transport(40 * n, pid=pid, seconds=40) for n, pid in enumerate((0x100, 0x200, 0x300)))
    check(run(media), frames=120, beeps=every_second(0, 120))


@pytest.mark.slow
@pytest.mark.parametrize(
    "join",
    [
        transport(6, pid=0x200, mpegts_pmt_start_pid="0x1100", mpegts_service_id="2"),
        bytes(77) + transport(6, pid=0x200),  # out of step
        transport(6, pid=0x200, mpegts_m2ts_mode="1"),
    ],
    ids=["another program", "bytes between", "packets of 192 bytes"],
)
def test_joined_transport_streams_are_read_to_the_end(join: bytes) -> None:
    check(run(transport() + join), frames=12, beeps=every_second(0, 12))


@pytest.mark.slow
def test_packets_of_192_bytes_are_followed() -> None:
    media = transport(mpegts_m2ts_mode="1") + transport(6, pid=0x300, mpegts_m2ts_mode="1")
    check(run(media), frames=12, beeps=every_second(0, 12))


@pytest.mark.slow
def test_a_clock_that_begins_anew_opens_an_epoch() -> None:
    media = transport() + transport(pid=0x200) + transport(6)
    check(run(media), frames=18, beeps=every_second(0, 18), epochs=2)


@pytest.mark.parametrize("audio", ["mp2", "ac3"])
def test_a_change_of_the_sound_s_codec_is_followed(audio: str) -> None:
    check(run(transport() + transport(6, audio=audio)), frames=12, beeps=every_second(0, 12), errors=5)


@pytest.mark.slow
@pytest.mark.parametrize("video", ["mpeg2video", "libx265"])
def test_a_change_of_the_pictures_codec_is_followed(video: str) -> None:
    items = run(transport() + transport(6, video=video))
    assert len([item for item in items if isinstance(item, Frame)]) >= 11
    assert beeps_of(items) == pytest.approx(every_second(0, 12), abs=0.6)
    assert summary_of(items).epoch_count == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("media", "first"),
    [
        (transport(audio=None) + transport(6), 6),
        (transport(audio=None, seconds=30) + transport(30) + transport(36, audio=None, seconds=30), 30),
        (transport(audio=None, seconds=30) + transport(30, pid=0x200) + transport(36, audio=None, seconds=30), 30),
        (program(audio=None, seconds=8, is_large=True) + program(8, audio="ac3"), 8),
        (flash(audio=None, seconds=100) + flash(100), 100),
    ],
    ids=["ts", "ts-middle", "ts-other-pids", "ps", "flv"],
)
def test_sound_that_begins_late_is_heard(media: bytes, first: int) -> None:
    items = run(media)
    assert isinstance(items[0], MediaInfo)
    assert items[0].audio_codec is not None
    assert beeps_of(items) == pytest.approx(every_second(first, first + PARTS_SECONDS), abs=0.6)
    seconds = [item.pts_seconds for item in items if isinstance(item, Frame)]
    assert max(b - a for a, b in pairwise(seconds)) < 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "media",
    [
        transport(video=None, pid=0x180, seconds=30) + transport(30, pid=0x200),
        program(video=False) + program(6),
        flash(video=False, seconds=100) + flash(100),
    ],
    ids=["ts", "ps", "flv"],
)
def test_pictures_that_begin_late_are_seen(media: bytes) -> None:
    items = run(media)
    seconds = [item.pts_seconds for item in items if isinstance(item, Frame)]
    assert len(seconds) == pytest.approx(PARTS_SECONDS, abs=1)
    assert seconds[-1] > summary_of(items).duration_seconds - 1.5
    assert len(beeps_of(items)) == pytest.approx(round(summary_of(items).duration_seconds), abs=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("media", "seconds"),
    [
        (program() + program(6, audio="ac3"), 12),
        (program(audio="ac3") + program(6), 12),
        (flash() + flash(6, audio="libmp3lame"), 12),
        (flash() + flash(6, audio="libmp3lame") + flash(12), 18),
    ],
    ids=["ps mp2 ac3", "ps ac3 mp2", "flv aac mp3", "flv aac mp3 aac"],
)
def test_sound_of_another_kind_goes_on(media: bytes, seconds: int) -> None:
    check(run(media), frames=seconds, beeps=every_second(0, seconds))


@pytest.mark.slow
def test_sound_of_another_kind_after_a_long_pause_and_a_jump_of_the_times_has_its_place() -> None:
    media = program() + program(audio=None, seconds=8, is_large=True) + program(8, audio="ac3")
    check(run(media), frames=20, beeps=[*every_second(0, 6), *every_second(14, 20)], epochs=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sounds", "beeps"),
    [
        ([Sound(seconds=10), Sound(seconds=30)], 10),  # the other language goes on
        ([Sound(seconds=30), Sound(seconds=20, start_seconds=10)], 30),
        ([Sound(seconds=20), Sound(seconds=20, start_seconds=10)], 20),
    ],
)
def test_a_track_beside_another_does_not_follow_it(sounds: list[Sound], beeps: int) -> None:
    media = encode_media(format="mpegts", video=Track(times=times(300, 10), gop=10), sounds=sounds)
    assert beeps_of(run(media)) == pytest.approx(every_second(0, beeps), abs=0.6)


def checksum(table: bytes) -> bytes:
    """Return the CRC-32 of MPEG."""
    value = 0xFFFFFFFF
    for byte in table:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ 0x04C11DB7 if value & 0x80000000 else value << 1) & 0xFFFFFFFF
    return value.to_bytes(4, "big")


def name_ac4(media: bytes) -> bytes:
    """Return a transport stream whose program table says that its AC-3 sound is AC-4, which has no decoder."""
    begin = media.rfind(b"\x02\xb0", 0, media.index(b"AC-3"))
    table = media[begin : begin + 3 + media[begin + 2]]
    assert table[-4:] == checksum(table[:-4])
    renamed = table[:-4].replace(b"AC-3", b"AC-4").replace(b"\x81\xe2\x01", b"\x06\xe2\x01")
    return media.replace(table, renamed + checksum(renamed))


def test_what_follows_and_has_no_decoder_is_counted() -> None:
    items = run(transport() + name_ac4(transport(6, pid=0x200, audio="ac3")))
    assert summary_of(items).unfollowed_count == 1
    assert beeps_of(items) == pytest.approx(every_second(0, 6), abs=0.6)
    assert len([item for item in items if isinstance(item, Frame)]) == pytest.approx(12, abs=1)


def test_a_chunk_whose_pids_change_is_followed() -> None:
    items = decode_chunk(transport(seconds=2) + transport(2, pid=0x200, seconds=2))
    assert len([item for item in items if isinstance(item, Frame)]) == pytest.approx(4, abs=1)
    assert len(beeps_of(items)) == 4


@pytest.mark.slow
def test_a_clean_file_is_not_scanned(monkeypatch: pytest.MonkeyPatch) -> None:
    scanned: list[int] = []

    def count(file: object, begin: int, end: int) -> Any:
        scanned.append(end - begin)
        return iter(())

    replaced = {name: replace(one, scan=count, find_changes=count) for name, one in packets.SCANNED.items()}
    monkeypatch.setattr(packets, "SCANNED", replaced)
    media = transport(seconds=60)
    check(run(media), frames=60, beeps=every_second(0, 60))
    assert sum(scanned) < len(media) / 20
