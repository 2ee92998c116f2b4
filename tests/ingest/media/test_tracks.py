"""The choice of tracks: pictures that move, and sound that the caller chooses by what is heard of it."""

import io
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from ingest.config import DecodeConfig
from ingest.media.decode import decode
from ingest.sandbox.pool import DecodePool
from ingest.values import AudioBlock, Decoded, DecodeSummary, Frame, MediaInfo, SoundTrack
from support.media import Sound, Track, draw_number, encode_media, times

MOVING = Track(times=times(42, 10), width=80, height=48)
STILL = Track(times=[Fraction(0)], width=320, height=192)
CONFIG = DecodeConfig(resize="squash", input_width=64, input_height=64)


def run(media: bytes, **arguments: Any) -> list[Decoded]:
    return list(decode(io.BytesIO(media), uri="test", config=CONFIG, **arguments))


def size_of(items: list[Decoded]) -> tuple[int | None, int | None]:
    assert isinstance(items[0], MediaInfo)
    return items[0].width, items[0].height


@pytest.mark.parametrize("format", ["mp4", "mov", "matroska", "mpegts", "avi", "nut"])
@pytest.mark.parametrize("is_moving_first", [True, False])
def test_the_moving_track_is_taken(format: str, is_moving_first: bool) -> None:
    tracks = [MOVING, STILL] if is_moving_first else [STILL, MOVING]
    items = run(encode_media(format=format, video=tracks[0], more_videos=tracks[1:]))
    assert size_of(items) == (80, 48)
    assert sum(isinstance(item, Frame) for item in items) == 5


@pytest.mark.slow
@pytest.mark.parametrize("format", ["mp4", "matroska"])
@pytest.mark.parametrize(
    "other",
    [
        Track(times=[Fraction(0)], width=320, height=192, is_default=True),
        Track(codec="mjpeg", pix_fmt="yuvj420p", times=[Fraction(0)], width=320, height=192, is_default=True),
        Track(times=times(3, 1), width=320, height=192, is_default=True),  # a burst beside it
        Track(codec="mjpeg", pix_fmt="yuvj420p", times=times(2, Fraction(1, 2)), width=320, height=192),  # thumbnails
        Track(times=[Fraction(3)], width=320, height=192, is_default=True),
    ],
    ids=["still", "jpeg", "burst", "thumbnails", "late still"],
)
def test_a_track_that_hardly_moves_is_passed_over_even_if_it_is_the_default(format: str, other: Track) -> None:
    for tracks in ([MOVING, other], [other, MOVING]):
        items = run(encode_media(format=format, video=tracks[0], more_videos=tracks[1:]))
        assert size_of(items) == (80, 48)


@pytest.mark.parametrize("format", ["mp4", "matroska"])
def test_of_tracks_that_move_the_default_is_taken_then_the_larger(format: str) -> None:
    small, large = (
        Track(times=times(40, fps), width=width, height=48, is_default=True) for fps, width in ((20, 80), (10, 160))
    )
    assert size_of(run(encode_media(format=format, video=small, more_videos=[large]))) == (160, 48)
    first = Track(times=times(40, 10), width=80, height=48, is_default=True)
    second = Track(times=times(40, 10), width=160, height=48, is_default=False)
    assert size_of(run(encode_media(format=format, video=second, more_videos=[first]))) == (80, 48)


def test_a_single_picture_under_sound_is_still_taken() -> None:
    items = run(encode_media(format="matroska", video=STILL, sounds=[Sound(codec="flac", seconds=3)]))
    assert size_of(items) == (320, 192)
    assert sum(isinstance(item, Frame) for item in items) == 1


def test_flagged_cover_art_beside_a_video_is_passed_over() -> None:
    media = encode_media(format="mp4", video=MOVING, cover=draw_number(3, 320, 192), sounds=[Sound(seconds=4)])
    assert size_of(run(media)) == (80, 48)


class Chooser:
    """Takes the track in one place; remembers what it was asked."""

    def __init__(self, place: int = 0) -> None:
        self.place = place
        self.asked: list[list[SoundTrack]] = []

    def __call__(self, tracks: Sequence[SoundTrack]) -> int:
        self.asked.append(list(tracks))
        return self.place


def three_sounds(seconds: float = 4) -> list[Sound]:
    return [
        Sound(codec="flac", seconds=seconds, is_default=False, tags={"language": "ger"}),
        Sound(codec="pcm_s16le", seconds=seconds, is_default=True, loudness=0),
        Sound(codec="libopus", seconds=seconds, is_default=False, tags={"title": "Director's Commentary"}),
    ]


def test_the_caller_chooses_by_what_is_heard_of_each_track() -> None:
    media = encode_media(format="matroska", video=MOVING, sounds=three_sounds())
    chooser = Chooser(place=2)
    items = run(media, choose_sound=chooser)
    assert isinstance(items[0], MediaInfo)
    assert items[0].audio_codec == "opus"
    [tracks] = chooser.asked
    assert [(track.index, track.rank, track.language) for track in tracks] == [
        (2, 2, None),
        (1, 1, "ger"),
        (3, 0, None),
    ]
    assert len(tracks[0].samples) == 0
    assert np.abs(tracks[1].samples).max() > 0.4


@pytest.mark.slow
def test_a_child_asks_its_parent() -> None:
    media = encode_media(format="matroska", video=MOVING, sounds=three_sounds())
    with DecodePool(CONFIG, workers=1) as pool:
        for place, codec in enumerate(["pcm_s16le", "flac", "opus"]):
            chooser = Chooser(place)
            items = list(pool.decode(io.BytesIO(media), uri="test", choose_sound=chooser))
            assert isinstance(items[0], MediaInfo)
            assert items[0].audio_codec == codec
            assert [track.language for track in chooser.asked[0]] == [None, "ger", None]
        items = list(pool.decode(io.BytesIO(media), uri="test"))
        assert isinstance(items[0], MediaInfo)
        assert items[0].audio_codec == "pcm_s16le"  # without a caller, the default


def test_nothing_is_asked_where_one_track_decodes() -> None:
    chooser = Chooser(place=7)
    run(encode_media(format="mp4", video=MOVING, sounds=[Sound(seconds=4)]), choose_sound=chooser)
    media = encode_media(format="matroska", video=MOVING, sounds=three_sounds()[:2])
    items = run(media.replace(b"A_PCM/INT/LIT", b"A_QUACK/UNKNO"), choose_sound=chooser)
    assert not chooser.asked
    assert isinstance(items[0], MediaInfo)
    assert items[0].audio_codec == "flac"


@pytest.mark.slow
def test_sound_is_heard_until_there_is_something_to_hear() -> None:
    late = [Sound(codec="flac", seconds=400, loudness=0, rate_hz=8000), Sound(codec="flac", seconds=400, rate_hz=8000)]
    chooser = Chooser()
    run(encode_media(format="matroska", sounds=late), choose_sound=chooser)
    silent, heard = chooser.asked[0]
    assert len(silent.samples) == 0
    assert 150 < len(heard.samples) / 16_000 < 200


def test_two_passes_decode_the_same_track() -> None:
    video = Track(times=times(120, 24), gop=12, options={"x264-params": "keyint=12:open-gop=1:bframes=3"})
    media = encode_media(format="matroska", video=video, sounds=three_sounds())
    chooser = Chooser(place=1)
    items = run(media, choose_sound=chooser)
    assert len(chooser.asked) == 1
    blocks = [item for item in items if isinstance(item, AudioBlock)]
    assert np.abs(np.concatenate([block.samples for block in blocks])).max() > 0.4
    assert isinstance(items[-1], DecodeSummary)


def test_the_pictures_of_an_animated_avif_are_its_track_s() -> None:
    if not features.check("avif"):
        pytest.skip("this Pillow writes no AVIF")
    first, *others = (Image.new("RGB", (64, 64), colour) for colour in ("red", "green", "blue"))
    file = io.BytesIO()  # its first picture is also an item of its own, which FFmpeg shows as a track
    first.save(file, "AVIF", save_all=True, append_images=others, duration=1000)
    items = run(file.getvalue())
    assert [item.pts_seconds for item in items if isinstance(item, Frame)] == [0, 1, 2]
