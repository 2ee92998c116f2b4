"""What a file lacks is said once, when it is indexed, and stored with it: on files made here, by real decoding."""

import io
import re
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest

from encoders.values import Utterance
from ingest.config import DecodeConfig
from serve.catalog.catalog import Catalog
from serve.indexing.pipeline import index
from serve.settings import Settings
from support.fakes import SilentProgress, ToneTranscriber, ToneWindow, use_fakes, write_scenes
from support.media import Sound, Track, encode_media, times

SETTINGS = Settings(workers=2, decode=DecodeConfig())
TONE_WITHOUT_WORDS_HZ = 1320


class HalfDeafTranscriber(ToneTranscriber):
    """Understands no tone of one pitch."""

    def transcribe(self, windows: Sequence[ToneWindow]) -> list[list[Utterance]]:
        heard = super().transcribe(windows)
        return [[one for one in said if not one.text.startswith("Tokyo")] for said in heard]


def film(seconds: int = 10, format: str = "matroska") -> bytes:
    return encode_media(
        format=format, video=Track(times=times(24 * seconds), options={"bf": "0"}), sounds=[Sound(seconds=seconds)]
    )


def replace_packets(media: bytes, kind: str) -> bytes:
    """Return a film with noise in place of every packet of one kind of track."""
    noise = np.random.default_rng(0)
    target = io.BytesIO()
    with av.open(io.BytesIO(media)) as source, av.open(target, "w", format="matroska") as copy:
        streams = {stream.index: copy.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is None:
                continue
            if packet.stream.type == kind:
                data = noise.integers(0, 256, packet.size, np.uint8).tobytes()
                fake = av.Packet(data)
                fake.pts, fake.dts, fake.time_base, fake.duration = (
                    packet.pts, packet.dts, packet.time_base, packet.duration
                )  # fmt: skip
                fake.is_keyframe = packet.is_keyframe
                fake.stream = streams[packet.stream.index]
                copy.mux(fake)
            else:
                packet.stream = streams[packet.stream.index]
                copy.mux(packet)
    return target.getvalue()


def scramble(media: bytes, first: float, last: float) -> bytes:
    """Return a transport stream with noise in the payload of the packets of a part."""
    noise, scrambled = np.random.default_rng(0), bytearray(media)
    count = len(media) // 188
    for n in range(int(count * first), int(count * last)):
        scrambled[n * 188 + 40 : (n + 1) * 188] = noise.integers(0, 256, 148, np.uint8).tobytes()
    return bytes(scrambled)


@pytest.fixture(autouse=True)
def encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)
    monkeypatch.setattr("encoders.speech.whisper.Transcriber.load", lambda config: HalfDeafTranscriber())


@pytest.mark.slow
def test_each_fault_is_said_once_and_stored(tmp_path: Path) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    whole, stream = film(), film(format="mpegts")
    files = {
        "whole.mkv": whole,
        "cut.mkv": whole[: len(whole) * 6 // 10],
        "damaged.ts": scramble(stream, 0.4, 0.6),
        "joined.ts": stream + stream,
        "bare.h264": encode_media(format="h264", video=Track(times=times(100, 10))),
        "stated.m2v": encode_media(format="mpeg2video", video=Track(codec="mpeg2video", times=times(240))),
        "strange_pictures.mkv": whole.replace(b"V_MPEG4/ISO/AVC", b"V_MPEG9/XYZ/ABC"),
        "strange_sound.mkv": whole.replace(b"A_AAC", b"A_XYZ"),
        "no_pictures.mkv": replace_packets(whole, "video"),
        "no_sound.mkv": replace_packets(whole, "audio"),
    }
    for name, media in files.items():
        (folder / name).write_bytes(media)
    write_scenes(folder / "silent.mp4", [("red", 8)], tones=[(0, 0.0)])
    strange = [(TONE_WITHOUT_WORDS_HZ, float(second)) for second in range(7)]
    write_scenes(folder / "strange.mp4", [("red", 12)], tones=strange)
    write_scenes(folder / "half.mp4", [("red", 12)], tones=[*strange, (440, 8.0), (440, 10.0)])
    paths = sorted(map(str, folder.iterdir()))
    outcomes = list(index(paths, tmp_path / "data", SETTINGS, progress=SilentProgress()))
    warnings = {Path(outcome.uri).name: outcome.warnings for outcome in outcomes}
    assert {outcome.error for outcome in outcomes} == {None}
    patterns = {
        "whole.mkv": [],
        "cut.mkv": [r"it is cut off at 0:06 of 0:10"],
        "damaged.ts": [r"damaged at 0:0[3-6].*: \d+ packets were skipped"],
        "joined.ts": [r"its timestamps jump at 0:10: times run on without the jumps"],
        "bare.h264": [r"it has no timestamps: its times assume 25 pictures a second"],
        "stated.m2v": [],
        "strange_pictures.mkv": [r"there is no decoder for its pictures: only its sound is indexed"],
        "strange_sound.mkv": [r"there is no decoder for its sound: only its pictures are indexed"],
        "no_pictures.mkv": [r"damaged .*", r"its pictures \(h264\) are missing or damaged: only its sound is indexed"],
        "no_sound.mkv": [r"damaged .*", r"its sound \(aac\) is missing or damaged: only its pictures are indexed"],
        "silent.mp4": [r"its sound is silent"],
        "strange.mp4": [r"no word was understood in 7 s of speech: speech.model is tone; a larger one .*"],
        "half.mp4": [r"words were understood in only 2 s of 9 s of speech: .*"],
    }
    for name, expected in patterns.items():
        assert len(warnings[name]) == len(expected), (name, warnings[name])
        for warning, pattern in zip(warnings[name], expected, strict=True):
            assert re.fullmatch(pattern, warning), (name, warning)
    with Catalog.open_reader(tmp_path / "data") as catalog:
        assert {Path(video.uri).name: video.warnings for video in catalog.videos()} == warnings
    again = index(paths, tmp_path / "data", SETTINGS, progress=SilentProgress())
    assert {Path(outcome.uri).name: outcome.warnings for outcome in again} == warnings  # of unchanged files, too
