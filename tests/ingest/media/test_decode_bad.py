"""Bytes that are not media, damaged media and hostile media: a typed error, or the part that decodes."""

import io
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingest.config import DecodeConfig
from ingest.errors import DecodeError, IngestError, LimitExceeded
from ingest.media.decode import decode
from ingest.values import AudioBlock, Decoded, DecodeSummary, Frame
from support.marks import first_quick
from support.media import Sound, Track, encode_media, read_number, times, write_media


def run(media: bytes, **settings: Any) -> list[Decoded]:
    config = DecodeConfig(**({"resize": "squash"} | settings))
    return list(decode(io.BytesIO(media), uri="bad", config=config))


def reason_of(media: bytes) -> str:
    with pytest.raises(DecodeError) as caught:
        run(media)
    assert caught.value.uri == "bad"
    return caught.value.reason


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


def test_an_empty_file_says_so() -> None:
    assert reason_of(b"") == "empty file"


@pytest.mark.parametrize("media", [b"Dear all,\nsee you tomorrow.\n" * 50, bytes(5000), b"\x7fELF" + bytes(999), b"x"])
def test_other_files_are_not_media(media: bytes) -> None:
    assert reason_of(media) == "not a media file"


def test_an_mp4_without_its_index_was_never_finished() -> None:
    media = encode_media(format="mp4", video=Track(times=times(48)))
    index = media.index(b"moov") - 4
    assert reason_of(media[:index]) == "no moov box: the mp4 was never finished"
    assert reason_of(media[: index // 2]) == "no moov box: the mp4 was never finished"


@pytest.mark.slow
@pytest.mark.parametrize("format", ["mp4", "matroska", "mpegts", "avi", "flv"])
def test_a_cut_file_decodes_up_to_the_cut(format: str, tmp_path: Path) -> None:
    path = tmp_path / "whole"
    track = Track(times=times(480), gop=24, options={"bf": "0", "crf": "1"})
    options = {"movflags": "faststart"} if format == "mp4" else {}
    write_media(path, format=format, video=track, sounds=[Sound(codec="aac", seconds=20)], options=options)
    media = path.read_bytes()
    items = run(media[: len(media) // 2], sampling="exact")
    frames = [item for item in items if isinstance(item, Frame)]
    assert 6 <= len(frames) <= 13
    summary = items[-1]
    assert isinstance(summary, DecodeSummary)
    first = summary.start_seconds - summary.zero_seconds
    assert first < 0.05  # sound may begin a little earlier, as encoders add some before it
    for frame in frames:
        late = round((frame.pts_seconds - first) * 24) - read_number(frame.pixels)
        assert 0 <= late <= (format == "avi")  # the sound begins earlier, so FFmpeg writes its first picture twice
    assert summary.truncated or format == "mpegts"  # a transport stream announces no length
    assert summary.duration_seconds == pytest.approx(len(frames), abs=1.1)


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{path}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{path}'\n",
        "<?xml version='1.0'?><MPD type='static'><Period><BaseURL>{path}</BaseURL></Period></MPD>",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
        "[InternetShortcut]\nURL={path}\n",
    ],
)
def test_playlists_open_nothing(text: str, tmp_path: Path) -> None:
    target = tmp_path / "other.ts"
    target.write_bytes(encode_media(format="mpegts", video=Track(times=times(48))))
    assert reason_of(text.format(path=target).encode()).startswith("not a media file")


@pytest.mark.parametrize(
    ("text", "kind", "remedy"),
    [
        ("#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:2,\na.ts\n#EXT-X-ENDLIST\n", "a playlist (HLS)", "publish takes it"),
        (
            "\ufeff<?xml version='1.0'?><!-- by x -->\n<MPD type='static'/>",
            "a manifest (DASH)",
            "publish takes it",
        ),
        ("<?xml version='1.0'?><smil><body/></smil>", "a playlist", "the files"),
        ("<ASX version='3.0'>\n<entry/></ASX>", "a playlist", "the files"),
        ("[playlist]\nFile1=a.mp3\n", "a playlist", "the files"),
        ("\n<!DOCTYPE html>\n<html lang=en>", "a web page", "the address of the video"),
        ("PK\3\4" + "\0" * 60, "an archive (ZIP)", "unpack"),
    ],
)
def test_names_files_that_people_take_for_media(text: str, kind: str, remedy: str) -> None:
    with pytest.raises(DecodeError) as caught:
        run(text.encode())
    assert caught.value.reason == f"not a media file but {kind}"
    assert remedy in caught.value.remedy


def test_a_file_s_name_decides_nothing(tmp_path: Path) -> None:
    playlist = tmp_path / "list.m3u8"
    playlist.write_bytes(encode_media(format="mp4", video=Track(times=times(48))))
    with playlist.open("rb") as file:
        items = list(decode(file, uri="x", config=DecodeConfig()))
    assert sum(isinstance(item, Frame) for item in items) == 2


def gif_of(width: int, height: int) -> bytes:
    """Return a GIF header and one tiny picture that claim a canvas of any size."""
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    picture = b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x4c\x01\x00"
    control = b"\x21\xf9\x04\x00\x0a\x00\x00\x00"
    return head + (control + picture) * 4 + b"\x3b"


def png_in_mov(width: int, height: int) -> bytes:
    """Return a QuickTime file whose PNG pictures claim any size."""
    track = Track(
        codec="png", pix_fmt="rgb24", times=times(3, 1), picture=lambda i: np.full((96, 160, 3), i, dtype=np.uint8)
    )
    media = bytearray(encode_media(format="mov", video=track))
    at = media.find(b"IHDR")
    while at >= 0:
        media[at + 4 : at + 12] = struct.pack(">II", width, height)
        media[at + 17 : at + 21] = struct.pack(">I", zlib.crc32(media[at : at + 17]))
        at = media.find(b"IHDR", at + 4)
    return bytes(media)


def mjpeg_in_avi(width: int, height: int) -> bytes:
    """Return an AVI whose JPEG pictures claim any size."""
    media = bytearray(encode_media(format="avi", video=Track(codec="mjpeg", pix_fmt="yuvj420p", times=times(3, 1))))
    at = media.find(b"\xff\xc0")
    while at >= 0:
        media[at + 5 : at + 9] = struct.pack(">HH", height, width)
        at = media.find(b"\xff\xc0", at + 4)
    return bytes(media)


@pytest.mark.parametrize("make", [gif_of, png_in_mov, mjpeg_in_avi])
@pytest.mark.parametrize(("width", "height"), first_quick([(65535, 65535), (12000, 12000), (65535, 700)]))
def test_a_picture_over_the_limit_is_refused_quickly(make: Any, width: int, height: int) -> None:
    media = make(width, height)
    begin = time.process_time()
    with pytest.raises(IngestError) as caught:
        run(media)
    assert isinstance(caught.value, DecodeError | LimitExceeded)
    if isinstance(caught.value, LimitExceeded):
        assert caught.value.limit == "max_pixels"
    assert time.process_time() - begin < 20


def test_declared_dimensions_are_checked_before_decoding() -> None:
    media = encode_media(format="matroska", video=Track(times=times(3, 1), width=320, height=240))
    with pytest.raises(LimitExceeded, match="320x240") as caught:
        run(media, max_pixels=320 * 240 - 1)
    assert caught.value.limit == "max_pixels"


def test_a_damaged_stretch_costs_its_packets_only() -> None:
    track = Track(times=times(480), gop=24, options={"bf": "0", "crf": "1"})
    media = bytearray(encode_media(format="mpegts", video=track))
    third = len(media) // 3
    media[third : third + 20_000] = np.random.default_rng(2).bytes(20_000)
    items = run(bytes(media), sampling="exact")
    frames = [item for item in items if isinstance(item, Frame)]
    assert len(frames) >= 15
    assert frames[-1].pts_seconds > 18
    for frame in frames:
        assert read_number(frame.pixels) == round(frame.pts_seconds * 24)


@pytest.mark.slow
def test_a_file_that_cannot_be_read_on_is_a_decode_error() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 100_000:
                raise OSError(5, "Input/output error")
            return super().read(size)

    media = encode_media(format="mpegts", video=Track(times=times(480), options={"crf": "1"}))
    with pytest.raises(DecodeError, match="reading it failed"):
        list(decode(Broken(media), uri="bad", config=DecodeConfig()))


def test_sound_survives_pictures_that_do_not_decode() -> None:
    media = encode_media(format="matroska", video=Track(times=times(72)), sounds=[Sound(seconds=3)])
    assert media.count(b"V_MPEG4/ISO/AVC") == 1
    items = run(media.replace(b"V_MPEG4/ISO/AVC", b"V_QUACK/UNKNOWN"))
    assert not [item for item in items if isinstance(item, Frame)]
    blocks = [item for item in items if isinstance(item, AudioBlock)]
    assert blocks[0].start_seconds == 0
    assert blocks[-1].end_seconds == pytest.approx(3.0, abs=0.1)


def test_an_absurd_duration_in_the_header_is_not_believed() -> None:
    media = bytearray(encode_media(format="mp4", video=Track(times=times(48))))
    at = media.index(b"mvhd") + 4 + 4 + 8 + 4  # version, two dates, time scale; then the duration
    media[at : at + 4] = (0xFFFFFFF0).to_bytes(4, "big")
    summary = run(bytes(media))[-1]
    assert isinstance(summary, DecodeSummary)
    assert summary.duration_seconds == pytest.approx(2.0, abs=0.01)
