"""All containers and codecs yield the right pictures at the right times, with each sampling policy."""

import io
import itertools
from fractions import Fraction
from functools import cache
from math import ceil
from typing import Any

import av
import numpy as np
import pytest
from av.codec import Codec

from ingest.config import DecodeConfig, SamplingPolicy
from ingest.errors import DecodeError, LimitExceeded
from ingest.media.decode import decode
from ingest.values import SAMPLE_RATE_HZ, AudioBlock, Decoded, DecodeSummary, Frame, MediaInfo
from support.marks import first_quick
from support.media import Sound, Track, beep_times, draw_number, encode_media, read_number, times, write_media

POLICIES: tuple[SamplingPolicy, ...] = ("exact", "fast", "keyframes")
BROKEN_ORDER = "open-gop=1:bframes=3:keyint=20:min-keyint=20:scenecut=0:b-adapt=0"
ALTREF = {"auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "realtime", "cpu-used": "8"}
QUIET = {"x265-params": "log-level=none"}
FIVE = times(120)  # five seconds at 24 fps

# name: format, track
MATRIX: dict[str, tuple[str, Track]] = {
    "h264-mp4": ("mp4", Track(times=FIVE, gop=48)),
    "h264-mov": ("mov", Track(times=FIVE, gop=48)),
    "h264-mkv": ("matroska", Track(times=FIVE, gop=48)),
    "h264-ts": ("mpegts", Track(times=FIVE, gop=48)),
    "h264-flv": ("flv", Track(times=FIVE, gop=48)),
    "h264-avi": ("avi", Track(times=FIVE, gop=48, options={"bf": "0"})),
    "h264-avi-b-frames": ("avi", Track(times=FIVE, gop=48)),
    "h264-raw": ("h264", Track(times=times(120, 25), gop=48)),
    "h264-open-gop-mp4": ("mp4", Track(times=FIVE, gop=20, options={"x264-params": BROKEN_ORDER})),
    "h264-open-gop-ts": ("mpegts", Track(times=FIVE, gop=20, options={"x264-params": BROKEN_ORDER})),
    "h264-intra-refresh": ("mp4", Track(times=FIVE, gop=20, options={"x264-params": "intra-refresh=1:keyint=20"})),
    "h264-one-keyframe": ("mp4", Track(times=FIVE, gop=9999, options={"x264-params": "scenecut=0"})),
    "h264-10-bit": ("mp4", Track(times=FIVE, gop=48, pix_fmt="yuv420p10le")),
    "hevc-mp4": ("mp4", Track(codec="libx265", times=FIVE, gop=30, options=QUIET)),
    "hevc-mkv": ("matroska", Track(codec="libx265", times=FIVE, gop=30, options=QUIET)),
    "hevc-ts": ("mpegts", Track(codec="libx265", times=FIVE, gop=30, options=QUIET)),
    "vp8-webm": ("webm", Track(codec="libvpx", times=FIVE, gop=48, options=ALTREF)),
    "vp9-webm": ("webm", Track(codec="libvpx-vp9", times=FIVE, gop=48, options=ALTREF)),
    "vp9-mp4": ("mp4", Track(codec="libvpx-vp9", times=FIVE, gop=48, options=ALTREF)),
    "av1-webm": ("webm", Track(codec="libsvtav1", times=FIVE, gop=48, options={"preset": "11"})),
    "av1-mp4": ("mp4", Track(codec="libsvtav1", times=FIVE, gop=48, options={"preset": "11"})),
    "mpeg2-ts": ("mpegts", Track(codec="mpeg2video", times=FIVE, gop=12, options={"bf": "2", "b": "2M"})),
    "mpeg2-ps": ("mpeg", Track(codec="mpeg2video", times=FIVE, gop=12, options={"bf": "2", "b": "2M"})),
    "mpeg4-mp4": ("mp4", Track(codec="mpeg4", times=FIVE, gop=40, options={"bf": "2", "b": "2M"})),
    "mpeg4-avi": ("avi", Track(codec="mpeg4", times=FIVE, gop=40, options={"b": "2M"})),
    "mpeg4-avi-b-frames": ("avi", Track(codec="mpeg4", times=FIVE, gop=40, options={"bf": "2", "b": "2M"})),
    "mjpeg-avi": ("avi", Track(codec="mjpeg", pix_fmt="yuvj420p", times=FIVE)),
    "mjpeg-mov": ("mov", Track(codec="mjpeg", pix_fmt="yuvj420p", times=FIVE)),
    "prores-mov": ("mov", Track(codec="prores_ks", pix_fmt="yuv422p10le", times=FIVE)),
    "wmv2-wmv": ("asf", Track(codec="wmv2", times=FIVE, gop=40, options={"b": "2M"})),
    "flv1-flv": ("flv", Track(codec="flv", times=FIVE, gop=40, options={"b": "2M"})),
    "ffv1-mkv": ("matroska", Track(codec="ffv1", times=times(50, 10))),
    "gif": ("gif", Track(codec="gif", pix_fmt="rgb8", times=times(50, 10))),
    "1-fps": ("mp4", Track(times=times(8, 1), gop=4)),
    "59.94-fps": ("mp4", Track(times=times(180, Fraction(60000, 1001)), gop=60)),
    "odd-size": ("webm", Track(codec="libvpx-vp9", times=times(50, 10), width=161, height=97, options=ALTREF)),
    "portrait": ("mp4", Track(times=times(50, 10), width=96, height=200)),
}
IRREGULAR = [Fraction(t) for t in ("0", "1/24", "1/2", "3", "31/10", "8", "9", "19/2")]


def run(media: bytes, **settings: Any) -> list[Decoded]:
    """Decode in this process, with squashed pictures, whose numbers can be read."""
    config = DecodeConfig(**({"resize": "squash"} | settings))
    return list(decode(io.BytesIO(media), uri="test", config=config))


def frames_of(items: list[Decoded]) -> list[Frame]:
    return [item for item in items if isinstance(item, Frame)]


def summary_of(items: list[Decoded]) -> DecodeSummary:
    assert isinstance(items[-1], DecodeSummary)
    return items[-1]


def sound_of(items: list[Decoded]) -> tuple[float, list[float]]:
    """Return the end of the sound, and the beginning of each beep."""
    blocks = [item for item in items if isinstance(item, AudioBlock)]
    for before, after in itertools.pairwise(blocks):
        assert after.start_seconds >= before.end_seconds - 1e-4
    whole = np.zeros(round(blocks[-1].end_seconds * SAMPLE_RATE_HZ) + 1, dtype=np.float32)
    for block in blocks:
        start = round(block.start_seconds * SAMPLE_RATE_HZ)
        whole[start : start + len(block.samples)] = block.samples
    return blocks[-1].end_seconds, beep_times(whole, SAMPLE_RATE_HZ)


@cache
def make_media(name: str) -> bytes:
    format, track = MATRIX[name]
    return encode_media(format=format, video=track)


@cache
def keyframes_of(name: str) -> list[Fraction]:
    """Return the times of pictures that the decoder marks as keyframes, from a plain pass of PyAV."""
    with av.open(io.BytesIO(make_media(name))) as container:
        pts = [(frame.time, frame.key_frame) for frame in container.decode(video=0)]
    start = pts[0][0] or 0.0
    return [Fraction(t - start).limit_denominator(100_000) for t, is_key in pts if is_key and t is not None]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", first_quick(MATRIX, 4))
def test_each_picture_is_the_one_of_its_time(name: str, policy: SamplingPolicy) -> None:
    track = MATRIX[name][1]
    if track.codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no encoder {track.codec}")
    items = run(make_media(name), sampling=policy)
    frames = frames_of(items)
    for frame in frames:
        number = read_number(frame.pixels)
        assert number >= 0, "a broken picture"
        assert frame.pts_seconds == pytest.approx(float(track.times[number]), abs=0.002)
    assert all(a.pts_seconds < b.pts_seconds for a, b in itertools.pairwise(frames))
    assert frames[0].pts_seconds == 0.0
    summary = summary_of(items)
    assert (summary.frame_count, summary.epoch_count, summary.error_count) == (len(frames), 1, 0)
    assert not summary.truncated


@pytest.mark.slow
@pytest.mark.parametrize("name", MATRIX)
def test_exact_keeps_the_picture_shown_at_each_tick(name: str) -> None:
    track = MATRIX[name][1]
    numbers = [read_number(frame.pixels) for frame in frames_of(run(make_media(name), sampling="exact"))]
    ticks = range(ceil(track.times[-1]))
    shown = [max(i for i, time in enumerate(track.times) if time <= tick) for tick in ticks]
    assert numbers[: len(shown)] == shown


@pytest.mark.parametrize("name", first_quick(MATRIX, 4))
def test_fast_keeps_one_picture_within_half_a_second_of_each_tick(name: str) -> None:
    track = MATRIX[name][1]
    seconds = [frame.pts_seconds for frame in frames_of(run(make_media(name), sampling="fast"))]
    expected = [t for t in range(ceil(track.times[-1])) if any(abs(time - t) < 0.49 for time in track.times)]
    assert [round(s + 1e-9) if s % 1 != 0.5 else ceil(s) for s in seconds][: len(expected)] == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", ["h264-mp4", "h264-open-gop-mp4", "hevc-mp4", "vp9-webm", "mpeg2-ts", "av1-mp4"])
def test_fast_takes_a_keyframe_where_one_is_near(name: str) -> None:
    seconds = {round(frame.pts_seconds, 2) for frame in frames_of(run(make_media(name), sampling="fast"))}
    near: dict[int, Fraction] = {}
    for key in keyframes_of(name):
        near.setdefault(int(key + Fraction(1, 2)), key)
    assert {round(float(key), 2) for tick, key in near.items() if tick < 5} <= seconds


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["h264-mp4", "h264-ts", "h264-avi", "hevc-mp4", "vp8-webm", "av1-webm", "gif", "mpeg4-mp4"]
)
def test_keyframes_keeps_only_keyframes(name: str) -> None:
    seconds = [frame.pts_seconds for frame in frames_of(run(make_media(name), sampling="keyframes"))]
    keys = [key for key in keyframes_of(name) if key + Fraction(1, 2) < 5]  # the tick of a later one is past the end
    assert seconds == pytest.approx([float(key) for key in keys], abs=0.002)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("format", ["mp4", "matroska", "mpegts"])
def test_variable_frame_rate_keeps_true_times_and_a_gap_yields_no_burst(format: str, policy: SamplingPolicy) -> None:
    items = run(encode_media(format=format, video=Track(times=IRREGULAR)), sampling=policy)
    frames = frames_of(items)
    for frame in frames:
        assert frame.pts_seconds == pytest.approx(float(IRREGULAR[read_number(frame.pixels)]), abs=0.002)
    numbers = [read_number(frame.pixels) for frame in frames]
    if policy == "exact":
        assert numbers[:6] == [0, 2, 3, 4, 5, 6]
    assert len(set(numbers)) == len(numbers)
    assert summary_of(items).epoch_count == 1


@pytest.mark.parametrize("format", ["mp4", "matroska", "mpegts"])
def test_times_count_from_the_first_picture(format: str) -> None:
    track = Track(times=times(72, start=3688))
    items = run(encode_media(format=format, video=track, sounds=[Sound(seconds=2, start_seconds=3689)]))
    assert [read_number(frame.pixels) for frame in frames_of(items)][:3] == [0, 24, 48]
    assert frames_of(items)[0].pts_seconds == 0.0
    assert sound_of(items)[1] == pytest.approx([1.5, 2.5], abs=0.05)
    assert not summary_of(items).truncated


@pytest.mark.parametrize("format", ["mp4", "matroska", "mpegts"])
def test_times_count_from_the_first_sound_if_it_is_earlier(format: str) -> None:
    track = Track(times=times(72, start=3689))
    items = run(encode_media(format=format, video=track, sounds=[Sound(seconds=4, start_seconds=3688)]))
    for frame in frames_of(items):
        assert frame.pts_seconds == pytest.approx(1 + read_number(frame.pixels) / 24, abs=0.05)
    assert [read_number(frame.pixels) for frame in frames_of(items)][:3] == [0, 24, 48]
    end, beeps = sound_of(items)
    assert beeps == pytest.approx([0.5, 1.5, 2.5, 3.5], abs=0.05)
    assert end == pytest.approx(4.0, abs=0.05)
    summary = summary_of(items)
    assert (summary.zero_seconds, summary.start_seconds) == pytest.approx((3688, 3689), abs=0.05)
    assert not summary.truncated


@pytest.mark.parametrize("policy", POLICIES)
def test_negative_start_times_come_out_right(policy: SamplingPolicy) -> None:
    track = Track(times=times(72, start=Fraction(-1, 2)))  # the mp4's edit list hides pictures before zero
    sound = Sound(seconds=4, start_seconds=-1)
    media = encode_media(format="mp4", video=track, sounds=[sound], options={"avoid_negative_ts": "disabled"})
    items = run(media, sampling=policy)
    for frame in frames_of(items):
        assert frame.pts_seconds == pytest.approx(read_number(frame.pixels) / 24 - 0.5, abs=0.002)
    assert sound_of(items)[1] == pytest.approx([0.5, 1.5, 2.5], abs=0.01)


def test_audio_only_counts_from_the_first_sound() -> None:
    items = run(encode_media(format="mp4", sounds=[Sound(seconds=7.5)]))
    info = items[0]
    assert isinstance(info, MediaInfo)
    assert (info.video_codec, info.width, info.audio_codec) == (None, None, "aac")
    end, beeps = sound_of(items)
    assert beeps == pytest.approx([0.5 + k for k in range(7)], abs=0.01)
    assert end == pytest.approx(7.5, abs=0.05)
    assert summary_of(items).duration_seconds == pytest.approx(end)


def test_cover_art_is_no_video() -> None:
    media = encode_media(format="mp3", sounds=[Sound(codec="libmp3lame", seconds=3)], cover=draw_number(5))
    items = run(media)
    assert isinstance(items[0], MediaInfo)
    assert (items[0].video_codec, items[0].width) == (None, None)
    assert not frames_of(items)
    assert sound_of(items)[1] == pytest.approx([0.5, 1.5, 2.5], abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "codec"),
    [
        ("mp4", "aac"),
        ("mp4", "libmp3lame"),
        ("matroska", "libopus"),
        ("mpegts", "mp2"),
        ("ogg", "libopus"),
        ("flac", "flac"),
        ("wav", "pcm_s16le"),
        ("matroska", "eac3"),
        ("asf", "wmav2"),
        ("matroska", "ac3"),
    ],
)
def test_sound_keeps_its_times_in_every_codec(format: str, codec: str) -> None:
    items = run(encode_media(format=format, sounds=[Sound(codec=codec, seconds=12)]))
    _, beeps = sound_of(items)
    assert beeps == pytest.approx([0.5 + k for k in range(12)], abs=0.06)
    blocks = [item for item in items if isinstance(item, AudioBlock)]
    assert all(len(block.samples) <= 10 * SAMPLE_RATE_HZ for block in blocks)


def test_surround_sound_is_mixed_with_the_speech_in_front() -> None:
    loudness: list[float] = []
    for channel in range(6):  # left, right, centre, deep, back left, back right
        sound = Sound(codec="flac", seconds=2, layout="5.1", channel=channel)
        blocks = [item for item in run(encode_media(format="flac", sounds=[sound])) if isinstance(item, AudioBlock)]
        loudness.append(float(np.abs(np.concatenate([block.samples for block in blocks])).max()) / 0.5)
    left, right, centre, deep, back_left, back_right = loudness
    assert centre > 0.45 > left > back_left > 0.05
    assert (left, back_left) == pytest.approx((right, back_right))
    assert deep < 0.02  # the deep channel carries no speech
    assert sum(loudness) == pytest.approx(1.0, abs=0.02)


def test_equal_stereo_channels_do_not_clip() -> None:
    blocks = run(encode_media(format="wav", sounds=[Sound(codec="pcm_f32le", seconds=2, layout="stereo")]))
    loudest = max(float(np.abs(b.samples).max()) for b in blocks if isinstance(b, AudioBlock))
    assert loudest == pytest.approx(0.5, abs=0.02)


def test_the_default_audio_track_is_taken() -> None:
    first = Sound(codec="flac", seconds=2, is_default=False)
    second = Sound(codec="libopus", seconds=2, is_default=True)
    info = run(encode_media(format="matroska", sounds=[first, second]))[0]
    assert isinstance(info, MediaInfo)
    assert info.audio_codec == "opus"


def test_an_audio_track_that_does_not_decode_is_passed_over() -> None:
    sounds = [
        Sound(codec="pcm_s16le", seconds=2, is_default=True),
        Sound(codec="pcm_f32le", seconds=2, is_default=False),
    ]
    media = encode_media(format="matroska", video=Track(times=times(48)), sounds=sounds)
    assert media.count(b"A_PCM/INT/LIT") == 1
    items = run(media.replace(b"A_PCM/INT/LIT", b"A_QUACK/UNKNO"))
    assert sound_of(items)[1] == pytest.approx([0.5, 1.5], abs=0.01)


def test_sound_without_pictures_keeps_the_video_s_zero() -> None:
    sound = Sound(seconds=2, start_seconds=1)
    media = encode_media(format="matroska", video=Track(times=times(72)), sounds=[sound])
    items = run(media, decode_video=False)
    assert not frames_of(items)
    assert sound_of(items)[1] == pytest.approx([1.5, 2.5], abs=0.01)
    assert isinstance(items[0], MediaInfo)
    assert items[0].video_codec == "h264"


def test_an_audio_gap_becomes_a_jump_of_the_start() -> None:
    media = io.BytesIO()
    write_media(
        media, format="matroska", video=Track(times=times(24 * 8)), sounds=[Sound(codec="pcm_s16le", seconds=8)]
    )
    media.seek(0)
    gapped = io.BytesIO()
    with av.open(media) as source, av.open(gapped, "w", format="matroska") as target:
        streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            is_lost = packet.stream.type == "audio" and 2 <= (packet.pts or 0) * packet.time_base < 5
            if packet.size and not is_lost:
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    items = run(gapped.getvalue())
    assert sound_of(items)[1] == pytest.approx([0.5, 1.5, 5.5, 6.5, 7.5], abs=0.03)
    assert summary_of(items).epoch_count == 1


def test_timestamps_that_begin_again_open_an_epoch_with_its_sound() -> None:
    part = encode_media(format="mpegts", video=Track(times=times(48), gop=24), sounds=[Sound(seconds=2)])
    items = run(part * 3, sampling="keyframes")
    frames = frames_of(items)
    assert [(read_number(f.pixels), f.epoch) for f in frames] == [(0, 0), (24, 0), (0, 1), (24, 1), (0, 2), (24, 2)]
    assert [frame.pts_seconds for frame in frames] == pytest.approx([0, 1, 2, 3, 4, 5], abs=0.08)
    _, beeps = sound_of(items)
    assert beeps == pytest.approx([0.5, 1.5, 2.5, 3.5, 4.5, 5.5], abs=0.08)


def test_wrong_keyframe_marks_cost_time_but_no_picture() -> None:
    source = io.BytesIO(make_media("h264-one-keyframe"))
    marked = io.BytesIO()
    with av.open(source) as container, av.open(marked, "w", format="matroska") as target:
        stream = target.add_stream_from_template(container.streams.video[0])
        for packet in container.demux(video=0):
            if packet.size:
                packet.is_keyframe = True
                packet.stream = stream
                target.mux(packet)
    for policy in ("exact", "fast"):
        frames = frames_of(run(marked.getvalue(), sampling=policy))
        assert [round(frame.pts_seconds) for frame in frames] == [0, 1, 2, 3, 4]
        for frame in frames:
            assert read_number(frame.pixels) == round(frame.pts_seconds * 24)


def test_a_change_of_resolution_goes_through() -> None:
    in_order = {"bf": "0"}  # else the second part's first timestamps would overlap the first part's last
    small = encode_media(format="mpegts", video=Track(times=times(48), gop=24, options=in_order))
    large = Track(times=times(48, start=2), gop=24, width=320, height=240, options=in_order)
    items = run(small + encode_media(format="mpegts", video=large), sampling="exact")
    assert [read_number(frame.pixels) for frame in frames_of(items)] == [0, 24, 0, 24]
    assert summary_of(items).epoch_count == 1


def test_media_information_is_that_of_the_container() -> None:
    media = encode_media(
        format="mp4", video=Track(times=FIVE, pixel_aspect=Fraction(16, 11)), sounds=[Sound(seconds=5)]
    )
    info = run(media)[0]
    assert isinstance(info, MediaInfo)
    assert info.container == "mov,mp4,m4a,3gp,3g2,mj2"
    assert info.duration_seconds == pytest.approx(5.0, abs=0.05)
    assert (info.video_codec, info.audio_codec) == ("h264", "aac")
    assert (info.width, info.height, info.rotation_degrees) == (233, 96, 0)
    assert info.frame_rate_fps == pytest.approx(24)


def test_a_pipe_is_decoded_without_seeking() -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, offset: int, whence: int = 0) -> int:
            raise io.UnsupportedOperation("seek")

    for name in ("h264-ts", "h264-mkv", "h264-open-gop-ts"):
        items = list(decode(Pipe(make_media(name)), uri="pipe", config=DecodeConfig(resize="squash")))
        frames = frames_of(items)
        assert [round(frame.pts_seconds) for frame in frames] == [0, 1, 2, 3, 4] or len(frames) == 5
        for frame in frames:
            assert frame.pts_seconds == pytest.approx(read_number(frame.pixels) / 24, abs=0.002)


def test_limits_name_the_setting() -> None:
    media = make_media("h264-mp4")
    for settings in ({"max_pixels": 160 * 96 - 1}, {"max_duration_seconds": 3.0}):
        with pytest.raises(LimitExceeded) as caught:
            run(media, **settings)
        assert caught.value.limit == next(iter(settings))
        assert caught.value.uri == "test"
    several = encode_media(format="matroska", video=Track(times=times(24)), sounds=[Sound(seconds=1)] * 3)
    with pytest.raises(LimitExceeded) as caught:
        run(several, max_streams=3)
    assert caught.value.limit == "max_streams"


def test_a_file_without_picture_and_sound_says_so() -> None:
    source = io.BytesIO()
    with av.open(source, "w", format="matroska") as container:
        stream = container.add_stream("ass")
        for second in range(3):
            packet = av.Packet(b"0,0,Default,,0,0,0,,words")
            packet.pts = packet.dts = second * 1000
            packet.duration, packet.time_base, packet.stream = 900, Fraction(1, 1000), stream
            container.mux(packet)
    with pytest.raises(DecodeError, match="no picture or sound inside"):
        run(source.getvalue())


def test_tracks_without_a_decoder_are_named_by_kind() -> None:
    film = encode_media(format="matroska", video=Track(times=times(24)), sounds=[Sound(seconds=1)])
    no_pictures, no_sound = film.replace(b"V_MPEG4/ISO/AVC", b"V_MPEG9/XYZ/ABC"), film.replace(b"A_AAC", b"A_XYZ")
    kinds = [summary_of(run(media)).undecodable_kinds for media in (film, no_pictures, no_sound)]
    assert kinds == [(), ("video",), ("audio",)]
    with pytest.raises(DecodeError, match="there is no decoder for what is inside"):
        run(no_pictures.replace(b"A_AAC", b"A_XYZ"))


def test_an_encrypted_file_is_named_as_such() -> None:
    key = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "0" * 31 + "1", "encryption_kid": "0" * 32}
    film, sounds = Track(times=times(24)), [Sound(seconds=1)]
    bought = encode_media(format="mp4", video=film, sounds=sounds)
    for media in (
        encode_media(format="mp4", video=film, sounds=sounds, options=key),
        bought.replace(b"mp4a\x00", b"drms\x00"),
    ):
        with pytest.raises(DecodeError, match="it is encrypted"):
            run(media)


def test_one_track_with_a_decoder_is_enough() -> None:  # phones store sound a second time, in a format of their own
    film = encode_media(format="matroska", video=Track(times=times(24)), sounds=[Sound(seconds=1), Sound(seconds=1)])
    summary = summary_of(run(film.replace(b"A_AAC", b"A_XYZ", 1)))
    assert summary.undecodable_kinds == summary.partly_decodable_kinds == ()


def test_a_track_without_a_decoder_in_a_language_of_its_own_is_named() -> None:
    sounds = [Sound(seconds=1, tags={"language": language}) for language in ("ger", "eng")]
    film = encode_media(format="matroska", video=Track(times=times(24)), sounds=sounds)
    summary = summary_of(run(film.replace(b"A_AAC", b"A_XYZ", 1)))
    assert (summary.undecodable_kinds, summary.partly_decodable_kinds) == ((), ("audio",))


def test_every_encoder_of_the_matrix_is_here() -> None:
    missing = {track.codec for _, track in MATRIX.values() if track.codec not in av.codecs_available}
    assert not missing
    assert all(Codec(track.codec, "w").is_encoder for _, track in MATRIX.values())
