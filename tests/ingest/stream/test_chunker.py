"""cut_chunks() cuts a source into chunks that decode alone and, joined, equal the source."""

import io
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from ingest.config import PublishConfig
from ingest.stream.chunker import ChunkHooks, cut_chunks
from ingest.values import SAMPLE_RATE_HZ
from support.chunked import EVEN, MEDIA, NINE, make_source, media_of, publish
from support.joined import decode_chunk, join_frames, join_sound, source_frames, source_sound, summary_of
from support.marks import first_quick
from support.media import Sound, Track, beep_times, encode_media, read_number, times, write_media

pytestmark = pytest.mark.slow


class FakeTime:
    """A clock that only sleep() advances."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds

    def hooks(self, **more: Any) -> ChunkHooks:
        hooks = ChunkHooks(now=lambda: 1e9 + self.seconds, monotonic=lambda: self.seconds, sleep=self.sleep)
        return replace(hooks, **more)


@pytest.fixture(autouse=True)
def quiet() -> None:
    av.logging.set_level(None)


QUICK = ("h264-mp4", "tiny")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in MEDIA])
def test_chunks_give_the_pictures_and_the_sound_of_the_source(name: str, tmp_path: Path) -> None:
    source, track = make_source(tmp_path, name)
    found = publish(source)
    assert len(found) >= 3
    assert {chunk.media_type for chunk in found} == {MEDIA[name][3]}
    media = media_of(found)
    for piece in media:
        assert summary_of(decode_chunk(piece)).error_count == 0
    frames = join_frames(media, "exact")
    zero = summary_of(decode_chunk(media[0])).start_seconds
    slack = 0.045 if "avi" in name else 0.002  # FFmpeg writes the first picture of an AVI twice
    for seconds, frame in frames.values():
        number = read_number(np.rot90(frame.pixels, -1) if track.rotation_degrees else frame.pixels)
        assert seconds - zero == pytest.approx(float(track.times[number]), abs=slack), "the picture of its time"
    assert sorted(frames) == list(range(min(frames), max(frames) + 1))
    assert len(frames) in (9, 10)
    assert len(join_frames(media, "fast")) in (9, 10)
    if MEDIA[name][2] is None:
        return
    begin, sound = join_sound(media)
    whole = decode_chunk(Path(source).read_bytes())
    start, expected = source_sound(whole)[0][0], np.concatenate([samples for _, samples in source_sound(whole)])
    got, wanted = beep_times(sound, SAMPLE_RATE_HZ, begin - zero), beep_times(expected, SAMPLE_RATE_HZ)
    shift = start - summary_of(whole).start_seconds
    assert got == pytest.approx([beep + shift for beep in wanted], abs=0.045)


# Matroska rounds to a millisecond, in a source or in a chunk: 16 samples at 16 kHz
@pytest.mark.parametrize(
    ("format", "codec", "lag_count"),
    first_quick(
        [
            ("mpegts", "aac", 1),
            ("mp4", "aac", 1),
            ("mpegts", "libmp3lame", 1),
            ("mpegts", "ac3", 1),
            ("matroska", "aac", 16),
            ("mp4", "libopus", 16),
            ("mov", "pcm_s16le", 16),
        ]
    ),
)
def test_the_sound_of_chunks_is_that_of_one_decoding(format: str, codec: str, lag_count: int, tmp_path: Path) -> None:
    """Uses a chirp, which reveals clicks, holes and shifts at the edges of chunks."""
    source = tmp_path / f"source.{format}"
    rate = 48_000
    with av.open(str(source), "w", format=format) as target:
        stream = target.add_stream(codec, rate=rate, layout="mono")
        stream.bit_rate = 128_000
        t = np.arange(9 * rate) / rate
        chirp = (0.5 * np.sin(2 * np.pi * (150 * t + 20 * t * t))).astype(np.float32)[None]
        frame = av.AudioFrame.from_ndarray(chirp, format="fltp", layout="mono")
        frame.sample_rate = rate
        size = stream.codec_context.frame_size or 1024
        for part in av.AudioResampler(stream.format, "mono", rate, frame_size=size).resample(frame):
            target.mux(stream.encode(part))
        target.mux(stream.encode(None))
    media = media_of(publish(str(source)))
    assert len(media) >= 4
    begin, sound = join_sound(media)
    whole_begin, expected = join_sound([source.read_bytes()])
    shift = round(begin - whole_begin)  # AAC begins a little below zero
    offset = round((begin - shift - whole_begin) * SAMPLE_RATE_HZ)
    blocks = range(1600, min(len(sound), len(expected) - offset) - 3200, 160)
    assert len(blocks) > 850
    differences = [
        min(float(np.max(np.abs(sound[i : i + 160] - expected[i + lag : i + lag + 160]))) for lag in lags)
        for i in blocks
        for lags in [range(offset - lag_count, offset + lag_count + 1)]
    ]
    # A sample is off by up to 0.1. Where a chunk's times are rounded, ten milliseconds mix sound of two shifts.
    assert sum(difference > 0.06 for difference in differences) <= (2 * len(media) if lag_count > 1 else 0)


def test_times_go_on_over_chunks_and_beyond_26_hours(tmp_path: Path) -> None:
    source = tmp_path / "source.mkv"
    write_media(
        source, format="matroska", video=Track(times=times(144, start=95_000), gop=48, options={"bf": "0"} | EVEN)
    )
    media = media_of(publish(str(source)))
    starts = [summary_of(decode_chunk(piece)).start_seconds for piece in media]
    assert starts == pytest.approx([95_000, 95_002, 95_004])


def test_a_chunk_ends_at_the_first_keyframe_after_its_time(tmp_path: Path) -> None:
    source = tmp_path / "source.mp4"
    write_media(source, format="mp4", video=Track(times=NINE, gop=24, options={"x264-params": "scenecut=0"}))
    starts = [summary_of(decode_chunk(piece)).start_seconds for piece in media_of(publish(str(source)))]
    assert starts == pytest.approx([0, 2, 4, 6, 8])
    longer = publish(str(source), config=PublishConfig(chunk_seconds=2.5))
    assert [summary_of(decode_chunk(chunk.media)).start_seconds for chunk in longer] == pytest.approx([0, 3, 6])


def test_a_group_longer_than_ten_seconds_makes_a_chunk_as_long(tmp_path: Path) -> None:
    source, notes = tmp_path / "source.mp4", list[str]()
    track = Track(times=times(300, 10), gop=125, options={"x264-params": "scenecut=0"})
    write_media(source, format="mp4", video=track, sounds=[Sound(seconds=30.0)])
    found = publish(str(source), hooks=ChunkHooks(notes=notes.append))
    assert len(found) == 3
    assert len(notes) == 1
    assert "over 10 s apart" in notes[0]
    assert len(join_frames(media_of(found), "exact")) == 30


def test_a_long_group_after_a_short_one_is_not_added_to_it(tmp_path: Path) -> None:
    source = tmp_path / "source.mkv"
    options = {"x264-params": "scenecut=0:bframes=0", "forced-idr": "1"}

    def picture(index: int) -> av.VideoFrame:
        frame = av.VideoFrame(64, 64, "yuv420p")
        frame.pict_type = av.video.frame.PictureType.I if index in (0, 10, 105) else av.video.frame.PictureType.NONE
        return frame

    write_media(source, format="matroska", video=Track(times=times(150, 10), gop=999, options=options, picture=picture))
    starts = [summary_of(decode_chunk(piece)).start_seconds for piece in media_of(publish(str(source)))]
    assert starts == pytest.approx([0, 1, 10.5])


def noise(index: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    random = np.random.default_rng(index)
    return random.integers(0, 255, (96, 160, 3), dtype=np.uint8)


def test_chunks_of_many_bytes_end_at_an_earlier_keyframe(tmp_path: Path) -> None:
    source = tmp_path / "source.mkv"
    track = Track(codec="mjpeg", pix_fmt="yuvj420p", times=times(96), picture=noise, options={"qmin": "2", "qmax": "2"})
    write_media(source, format="matroska", video=track)
    assert len(publish(str(source))) in (2, 3)
    limit = 300_000
    found = publish(str(source), config=PublishConfig(max_chunk_bytes=limit))
    assert max(len(chunk.media) for chunk in found) <= limit
    assert len(found) > 3
    assert sum(len(source_frames(decode_chunk(piece, sampling="exact"))) for piece in media_of(found)) == 4


def test_a_group_of_too_many_bytes_loses_its_pictures_and_keeps_its_sound(tmp_path: Path) -> None:
    source, notes = tmp_path / "source.mp4", list[str]()
    track = Track(
        times=NINE,
        gop=72,
        options={"x264-params": "scenecut=0", "crf": "18"},
        picture=lambda index: noise(index) if 72 <= index < 144 else np.zeros((96, 160, 3), np.uint8),
    )
    write_media(source, format="mp4", video=track, sounds=[Sound(seconds=9.0)])
    config = PublishConfig(max_chunk_bytes=400_000)
    found = publish(str(source), config=config, hooks=ChunkHooks(notes=notes.append))
    assert any("max_chunk_bytes; 1 so far" in note for note in notes)
    assert any("pictures before a keyframe are left out" in note for note in notes)
    begin, sound = join_sound(media_of(found))
    assert begin + len(sound) / SAMPLE_RATE_HZ == pytest.approx(9.0, abs=0.1)
    seconds = [seconds for seconds, _ in join_frames(media_of(found), "exact").values()]
    assert not [s for s in seconds if 3 < s < 6]
    assert len(seconds) >= 6


@pytest.mark.parametrize(
    ("suffix", "codec"), [("m4a", "aac"), ("ogg", "libopus"), ("wav", "pcm_s16le"), ("mp3", "mp3")]
)
def test_sound_alone_is_cut_by_time(suffix: str, codec: str, tmp_path: Path) -> None:
    source = tmp_path / f"source.{suffix}"
    format = {"m4a": "ipod"}.get(suffix, suffix)
    write_media(source, format=format, sounds=[Sound(codec=codec, seconds=9.0)])
    found = publish(str(source))
    assert len(found) in (4, 5)
    begin, sound = join_sound(media_of(found))
    assert len(sound) == pytest.approx(9 * SAMPLE_RATE_HZ, abs=0.06 * SAMPLE_RATE_HZ)
    beeps = beep_times(sound, SAMPLE_RATE_HZ, begin)
    assert np.diff(beeps) == pytest.approx(np.ones(8), abs=0.002)


def test_raw_aac_whose_sample_rate_changes_keeps_its_times(tmp_path: Path) -> None:
    source = tmp_path / "source.aac"
    parts = [Sound(codec="aac", seconds=6.0), Sound(codec="aac", seconds=6.0, rate_hz=44_100, layout="stereo")]
    source.write_bytes(b"".join(encode_media(format="adts", sounds=[part]) for part in parts))
    begin, sound = join_sound(media_of(publish(str(source))))
    assert len(sound) == pytest.approx(12 * SAMPLE_RATE_HZ, abs=0.1 * SAMPLE_RATE_HZ)
    assert beep_times(sound, SAMPLE_RATE_HZ, begin) == pytest.approx([n + 0.5 for n in range(12)], abs=0.1)


def with_jump(path: Path, *, forward: int = 0, second_start: int = 0, drop: int = 0) -> str:
    """Write MPEG-TS of two parts; the second has its own times and lacks its first `drop` packets."""
    parts = []
    for number in range(2):
        file = io.BytesIO()
        start = forward if number else second_start
        track = Track(times=times(96, start=start), gop=48, options={"bf": "0", "x264-params": "scenecut=0"})
        write_media(file, format="mpegts", video=track, sounds=[Sound(seconds=4.0, start_seconds=start)])
        parts.append(file.getvalue())
    if drop:
        parts[1] = parts[1][: 188 * 4] + parts[1][188 * drop :]
    path.write_bytes(b"".join(parts))
    return str(path)


@pytest.mark.parametrize(("first", "second"), [(100, 0), (0, 60)], ids=["backward", "a gap"])
def test_a_jump_of_the_times_ends_a_chunk(first: int, second: int, tmp_path: Path) -> None:
    notes: list[str] = []
    source = with_jump(tmp_path / "source.ts", second_start=first, forward=second)
    found = publish(source, hooks=ChunkHooks(notes=notes.append))
    summaries = [summary_of(decode_chunk(piece)) for piece in media_of(found)]
    assert [summary.epoch_count for summary in summaries] == [1] * len(found)
    starts = [summary.start_seconds for summary in summaries]
    assert starts == pytest.approx([first, first + 2, second, second + 2], abs=0.1)
    assert any("jump" in note for note in notes)


def test_pictures_between_a_jump_and_the_next_keyframe_are_left_out(tmp_path: Path) -> None:
    notes: list[str] = []
    source = with_jump(tmp_path / "source.ts", forward=60, drop=12)
    found = publish(source, hooks=ChunkHooks(notes=notes.append))
    assert any("pictures before a keyframe are left out" in note for note in notes)
    for piece in media_of(found):
        assert summary_of(decode_chunk(piece)).error_count == 0


def test_chunks_of_a_file_are_dated_from_its_recording(tmp_path: Path) -> None:
    source, _ = make_source(tmp_path, "h264-mp4")
    assert {chunk.start_time for chunk in publish(source)} == {None}
    found = list(cut_chunks(source, collection="c", stream_id="s", session=0, recorded_time=1e9))
    assert [chunk.start_time for chunk in found[:-1]] == pytest.approx([1e9 + 2 * i for i in range(len(found) - 1)])


def test_in_real_time_a_chunk_comes_when_it_has_been_played(tmp_path: Path) -> None:
    source, _ = make_source(tmp_path, "h264-mp4")
    clock = FakeTime()
    come = []
    config = PublishConfig(realtime=True)
    for chunk in cut_chunks(source, collection="c", stream_id="s", session=0, config=config, hooks=clock.hooks()):
        come.append((clock.seconds, chunk.start_time))
    seconds, dated = zip(*come[:-1], strict=True)
    assert seconds == pytest.approx([2, 4, 6, 8, 9], abs=0.2)
    assert dated == pytest.approx([1e9, 1e9 + 2, 1e9 + 4, 1e9 + 6, 1e9 + 8], abs=0.01)
    assert max(clock.slept) <= 0.5


def test_a_stop_gives_the_open_chunk_and_the_end(tmp_path: Path) -> None:
    source, _ = make_source(tmp_path, "h264-mp4")
    stop = threading.Event()
    found = []
    for chunk in cut_chunks(source, collection="c", stream_id="s", session=0, stop=stop):
        found.append(chunk)
        stop.set()
    assert [bool(chunk.media) for chunk in found] == [True, True, False]
    assert found[-1].end_of_stream
    assert len(source_frames(decode_chunk(found[1].media))) >= 0  # it decodes


def test_progress_reports_seconds_chunks_and_bytes(tmp_path: Path) -> None:
    source, _ = make_source(tmp_path, "h264-mp4")
    told: list[tuple[float, int, int]] = []
    found = publish(source, hooks=ChunkHooks(progress=lambda *numbers: told.append(numbers)))
    assert [count for _, count, _ in told] == list(range(1, len(found) + 1))
    assert told[-1][2] == sum(len(chunk.media) for chunk in found)
    assert told[-1][0] == pytest.approx(9, abs=0.1)
    assert told == sorted(told)


def test_the_best_of_several_tracks_is_sent_and_subtitles_are_not(tmp_path: Path) -> None:
    source = tmp_path / "source.mkv"
    sounds = [Sound(codec="aac", seconds=4.0, is_default=False), Sound(codec="libopus", seconds=4.0, is_default=True)]
    write_media(source, format="matroska", video=Track(times=times(96), gop=48), sounds=sounds)
    with av.open(io.BytesIO(publish(str(source))[0].media)) as container:
        assert [stream.codec_context.codec.canonical_name for stream in container.streams] == ["h264", "opus"]


def test_of_a_file_the_moving_pictures_and_a_track_that_is_not_silent_are_sent(tmp_path: Path) -> None:
    still = Track(times=times(1), width=320, height=192, is_default=True)
    moving = Track(times=times(60, 10), width=80, height=48, gop=20)
    sounds = [Sound(seconds=6, loudness=0), Sound(seconds=6)]
    write_media(tmp_path / "film.mov", format="mov", video=still, more_videos=[moving], sounds=sounds)
    chunks = media_of(publish(str(tmp_path / "film.mov")))
    assert len(join_frames(chunks, "fast")) == 6
    begin, samples = join_sound(chunks)
    assert beep_times(samples, SAMPLE_RATE_HZ, begin) == pytest.approx([n + 0.5 for n in range(6)], abs=0.02)
