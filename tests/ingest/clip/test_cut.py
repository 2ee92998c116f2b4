"""Clips are read back, and compared with their source picture by picture and beep by beep."""

import io
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from av.subtitles.subtitle import AssSubtitle
from numpy.typing import NDArray

from ingest.clip.cut import cut
from ingest.config import DecodeConfig
from ingest.errors import DecodeError, LimitExceeded, SpanOutside
from ingest.media.decode import decode
from ingest.media.orientation import Orientation
from ingest.values import Clip, Cut, DecodeSummary
from support.media import Sound, Track, beep_times, encode_media, read_number, times

RATE_HZ = 48_000
EXACT = {"is_exact": True}


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a player shows of a clip."""

    clip: Clip
    media: bytes
    numbers: list[int]  # of the pictures, as drawn by support.media
    shown: list[float]  # their times
    seconds: float  # the longest track, as the edit lists say
    samples: NDArray[np.float32]  # of the first sound track, from time zero

    @property
    def beeps(self) -> list[float]:
        return beep_times(self.samples, RATE_HZ)


def make_clip(media: bytes, start: float, end: float, **options: Any) -> Seen:
    written = bytearray()

    def send(position: int, data: bytes) -> None:
        written.extend(bytes(max(0, position + len(data) - len(written))))
        written[position : position + len(data)] = data

    wanted = Cut(start_seconds=start, end_seconds=end, **options)
    clip = cut(io.BytesIO(media), wanted, send, uri="a.mp4", config=DecodeConfig())
    assert clip.size_bytes == len(written)
    return play(clip, bytes(written))


def play(clip: Clip, media: bytes) -> Seen:
    numbers, shown, parts = [], [], [np.zeros((1, 0), np.float32)]
    with av.open(io.BytesIO(media)) as container:
        seconds = (container.duration or 0) / 1e6
        if container.streams.video:
            for frame in container.decode(container.streams.video[0]):
                turned = Orientation.from_frame(frame).apply(frame.to_ndarray(format="rgb24"))
                numbers.append(read_number(turned))
                shown.append(float(frame.time or 0))
    with av.open(io.BytesIO(media)) as container:
        if container.streams.audio:
            resampler = av.AudioResampler("fltp", "mono", RATE_HZ)
            begin: float | None = None
            for sound in container.decode(container.streams.audio[0]):
                begin = float(sound.time or 0) if begin is None else begin
                parts += [part.to_ndarray() for part in resampler.resample(sound)]
            parts.insert(0, np.zeros((1, max(0, round((begin or 0) * RATE_HZ))), np.float32))
    samples = np.concatenate(parts, axis=1)[0]
    return Seen(clip=clip, media=media, numbers=numbers, shown=shown, seconds=seconds, samples=samples)


def expected(track: Track, start: float, end: float, zero: float = 0.0) -> tuple[list[int], list[float]]:
    """Return the numbers and the clip's times of the pictures that are shown between two times."""
    media = [float(time) - zero for time in track.times]
    first = max((index for index, time in enumerate(media) if time <= start + 1e-6), default=0)
    chosen = [index for index in range(first, len(media)) if media[index] < end - 1e-6]
    return chosen, [max(0.0, media[index] - start) for index in chosen]


B_FRAMES = Track(times=times(120, 24), options={"bf": "3", "x264-params": "keyint=48:scenecut=0"})
OPEN_GOP = replace(B_FRAMES, options={"bf": "3", "x264-params": "keyint=30:scenecut=0:open-gop=1:b-pyramid=normal"})
SLIDES = replace(B_FRAMES, times=[Fraction(n, 10) for n in (0, 1, 7, 18, 34, 35, 36, 41, 52, 68, 90, 91)], gop=4)
TONE = Sound(seconds=5.0)


@pytest.mark.parametrize("options", [{}, EXACT], ids=["copied", "exact"])
@pytest.mark.parametrize(
    ("format_", "track", "sound", "kinds"),
    [
        pytest.param("mp4", B_FRAMES, TONE, ("copied", "copied"), marks=pytest.mark.slow),
        pytest.param("mp4", OPEN_GOP, TONE, ("copied", "copied"), marks=pytest.mark.slow),
        pytest.param("matroska", OPEN_GOP, TONE, ("copied", "copied"), marks=pytest.mark.slow),
        pytest.param("mpegts", OPEN_GOP, TONE, ("copied", "copied"), marks=pytest.mark.slow),
        pytest.param("flv", B_FRAMES, TONE, ("copied", "copied"), marks=pytest.mark.slow),
        pytest.param("mp4", SLIDES, replace(TONE, seconds=12.0), ("copied", "copied"), marks=pytest.mark.slow),
        pytest.param(
            "mp4", replace(B_FRAMES, codec="libx265", options={}), TONE, ("copied", "copied"), marks=pytest.mark.slow
        ),
        pytest.param(
            "webm",
            replace(B_FRAMES, codec="libvpx-vp9", options={"cpu-used": "8", "deadline": "realtime"}),
            replace(TONE, codec="libopus"),
            ("copied", "copied"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "avi",
            replace(B_FRAMES, codec="mpeg4", options={"bf": "2"}),
            replace(TONE, codec="pcm_s16le"),
            ("encoded", "encoded"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "mpeg", replace(B_FRAMES, codec="mpeg2video", times=times(120, 25), options={"bf": "2"}),
            replace(TONE, codec="mp2"), ("encoded", "encoded"), marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_clip_shows_and_sounds_as_its_source(
    format_: str, track: Track, sound: Sound, kinds: tuple[str, str], options: dict[str, bool]
) -> None:
    media = encode_media(format=format_, video=track, sounds=[sound])
    zero = zero_of(media)
    for start, end in ((0.0, 1.0), (1.03, 3.3), (2.0, 4.0), (3.97, 4.6)):
        seen = make_clip(media, start, end, **options)
        numbers, shown = expected(track, start, end, zero)
        assert seen.numbers == numbers, (start, end)
        np.testing.assert_allclose(seen.shown, shown, atol=0.002)
        beeps = [0.5 + n - zero - start for n in range(12) if start < 0.5 + n - zero < end - 0.02]
        np.testing.assert_allclose([time for time in seen.beeps if time > 0.01], beeps, atol=0.012)
        assert (seen.clip.video, *seen.clip.sounds) == (("encoded", "encoded") if options else kinds)
        assert seen.seconds == pytest.approx(end - start, abs=0.022)  # a block of sound


def zero_of(media: bytes) -> float:
    """Return when media time begins, on the clock on which the first picture is made at 0."""
    items = decode(io.BytesIO(media), uri="a.mp4", config=DecodeConfig())
    summary = next(item for item in items if isinstance(item, DecodeSummary))
    with av.open(io.BytesIO(media)) as container:
        if container.format.name == "avi":  # it stores no presentation times
            return summary.zero_seconds
        return summary.zero_seconds - float(next(container.decode(video=0)).time or 0)


def test_copied_clip_begins_with_the_picture_of_its_start() -> None:
    seen = make_clip(encode_media(format="mp4", video=B_FRAMES), 2.51, 3.01)
    numbers, shown = expected(B_FRAMES, 2.51, 3.01)
    assert (seen.clip.video, seen.numbers) == ("copied", numbers)
    np.testing.assert_allclose(seen.shown, shown, atol=0.001)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, EXACT], ids=["copied", "exact"])
@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_clip_is_turned_as_its_source(degrees: int, options: dict[str, bool]) -> None:
    track = Track(times=times(48), width=96, height=96, rotation_degrees=degrees)
    media = encode_media(format="mp4", video=track)
    with av.open(io.BytesIO(media)) as container:
        frame = list(container.decode(video=0))[36]
    upright = Orientation.from_frame(frame).apply(frame.to_ndarray(format="rgb24"))
    seen = make_clip(media, 1.5, 1.9, **options)
    with av.open(io.BytesIO(seen.media)) as container:
        shown = next(container.decode(video=0))
        assert shown.time == 0
        turned = Orientation.from_frame(shown).apply(shown.to_ndarray(format="rgb24"))
    assert np.abs(turned.astype(int) - upright).mean() < 8
    assert seen.seconds == pytest.approx(0.4, abs=0.002)


@pytest.mark.parametrize("options", [{}, EXACT], ids=["copied", "exact"])
def test_clip_of_sound_alone(options: dict[str, bool]) -> None:
    seen = make_clip(encode_media(format="mp4", sounds=[TONE]), 1.2, 3.7, **options)
    assert (seen.clip.video, seen.numbers) == (None, [])
    np.testing.assert_allclose(seen.beeps, [0.3, 1.3, 2.3], atol=0.012)


def test_clip_of_silent_pictures_ends_with_the_media() -> None:
    seen = make_clip(encode_media(format="mp4", video=Track(times=times(24))), 0.5, 7.0)
    assert (seen.clip.sounds, seen.clip.end_seconds) == ((), 1.0)
    assert seen.numbers == list(range(12, 24))


@pytest.mark.slow
def test_tracks_that_mp4_players_do_not_take_are_encoded() -> None:
    track = Track(codec="libvpx", times=times(72), options={"cpu-used": "8", "deadline": "realtime"})
    media = encode_media(format="webm", video=track, sounds=[Sound(codec="libopus", seconds=3.0)])
    seen = make_clip(media, 1.0, 2.0)
    assert (seen.clip.video, seen.clip.sounds) == ("encoded", ("copied",))
    assert seen.numbers == expected(track, 1.0, 2.0, zero_of(media))[0]


def test_every_sound_track_keeps_its_language() -> None:
    sounds = [replace(TONE, tags={"language": "deu"}), replace(TONE, tags={"language": "eng"})]
    seen = make_clip(encode_media(format="mp4", video=Track(times=times(120)), sounds=sounds), 1.0, 2.0)
    with av.open(io.BytesIO(seen.media)) as container:
        assert [stream.language for stream in container.streams.audio] == ["deu", "eng"]


SUBTITLES = [("before", 0.2, 0.8), ("first {\\b1}bold", 0.9, 1.5), ("second\nline", 1.6, 2.5), ("after", 4.0, 4.5)]


def with_subtitles() -> bytes:
    """Return a Matroska file with pictures and lines of SubRip."""
    file = io.BytesIO()
    video = Track(times=times(120), options={"bf": "0"})
    plain = encode_media(format="matroska", video=video)
    with av.open(io.BytesIO(plain)) as source, av.open(file, "w", format="matroska") as target:
        pictures = target.add_stream_from_template(source.streams.video[0], opaque=True)
        lines = target.add_mux_stream("subrip")
        lines.time_base = Fraction(1, 1000)
        packets = [packet for packet in source.demux(video=0) if packet.size]
        for packet in packets:
            packet.stream = pictures
        for text, start, end in SUBTITLES:
            packet = av.Packet(text.encode())
            packet.stream, packet.time_base = lines, Fraction(1, 1000)
            packet.pts = packet.dts = round(start * 1000)
            packet.duration = round((end - start) * 1000)
            packets.append(packet)
        for packet in sorted(packets, key=lambda each: each.dts * each.time_base):
            target.mux(packet)
    return file.getvalue()


@pytest.mark.parametrize("options", [{}, EXACT], ids=["copied", "exact"])
def test_subtitles_of_text_are_kept(options: dict[str, bool]) -> None:
    seen = make_clip(with_subtitles(), 1.0, 2.0, **options)
    assert seen.clip.subtitle_count == 1
    with av.open(io.BytesIO(seen.media)) as container:
        stream = container.streams.subtitles[0]
        read = []
        for packet in container.demux(stream):
            for rect in packet.decode() if packet.size > 2 else []:
                assert isinstance(rect, AssSubtitle)
                read.append((rect.dialogue.decode(), float(packet.pts * packet.time_base)))
    assert [text for text, _ in read] == ["first bold", "second\nline"]
    np.testing.assert_allclose([time for _, time in read], [0.0, 0.6], atol=0.002)


def test_times_that_jump_are_followed() -> None:
    first = encode_media(format="mpegts", video=Track(times=times(48)), options={"mpegts_copyts": "1"})
    second = encode_media(format="mpegts", video=Track(times=times(48, start=7200)), options={"mpegts_copyts": "1"})
    seen = make_clip(first + second, 1.5, 2.5, has_jumps=True)
    assert seen.numbers == [*range(36, 48), *range(12)]
    np.testing.assert_allclose(seen.shown, [n / 24 for n in range(24)], atol=0.05)


def test_part_of_a_montage_has_the_size_and_the_sound_that_was_asked_for() -> None:
    media = encode_media(format="mp4", video=Track(times=times(48), width=160, height=96))
    seen = make_clip(media, 0.5, 1.5, is_exact=True, size=(128, 128))
    with av.open(io.BytesIO(seen.media)) as container:
        video, sound = container.streams.video[0], container.streams.audio[0]
        assert (video.width, video.height, sound.rate, sound.layout.name) == (128, 128, 48_000, "stereo")
        pixels = next(container.decode(video)).to_ndarray(format="rgb24")
    assert read_number(pixels[26:102]) == 12  # 160x96 becomes 128x76
    assert pixels[:20].max() < 20
    assert len(seen.samples) >= RATE_HZ


@pytest.mark.parametrize(
    ("media", "error", "message"),
    [
        (b"no media at all", DecodeError, "not a media file"),
        (b"\xff\xd8\xff" + bytes(100), DecodeError, "a still picture has no clips"),
        (b"", DecodeError, "empty file"),
    ],
)
def test_bytes_that_are_no_video_are_refused(media: bytes, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_clip(media, 0.0, 1.0)


def test_span_behind_the_end_is_refused() -> None:
    media = encode_media(format="mp4", video=Track(times=times(24)), sounds=[Sound(seconds=1.0)])
    for options in ({}, EXACT):
        with pytest.raises(SpanOutside, match="nothing at 5 s"):
            make_clip(media, 5.0, 6.0, **options)


@pytest.mark.slow
def test_file_cut_short_gives_what_is_there() -> None:
    media = encode_media(format="matroska", video=B_FRAMES, sounds=[TONE])
    for options in ({}, EXACT):
        seen = make_clip(media[: len(media) * 3 // 4], 1.0, 5.0, **options)
        assert seen.numbers[:20] == list(range(24, 44))
        assert 2.0 < seen.clip.end_seconds < 4.9


def test_pictures_larger_than_the_limit_are_not_decoded() -> None:
    media = encode_media(format="mp4", video=Track(times=times(24)))
    with pytest.raises(LimitExceeded, match="max_pixels"):
        cut(
            io.BytesIO(media),
            Cut(start_seconds=0.0, end_seconds=1.0, is_exact=True),
            lambda position, data: None,
            uri="a.mp4",
            config=DecodeConfig(max_pixels=1000),
        )


@pytest.mark.parametrize(
    "wrong", [{"start_seconds": 2.0, "end_seconds": 1.0}, {"start_seconds": -1.0, "end_seconds": 1.0}]
)
def test_span_without_length_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="0 <= start < end"):
        Cut(**wrong)
