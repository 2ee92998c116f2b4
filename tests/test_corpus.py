"""benchmarks/corpus.py: the comparison with ffprobe, on lines as ffprobe prints them."""

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def differ(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("corpus_difference")


@pytest.fixture
def truths(differ: Any) -> Any:
    return importlib.import_module("corpus_truth")


def pictures(times: Iterable[float | str], index: int = 0) -> list[str]:
    return [f"frame|media_type=video|stream_index={index}|pts_time={time}|duration_time=0.1" for time in times]


def sound(begin: float, count: int, index: int = 1) -> list[str]:
    return [f"frame|media_type=audio|stream_index={index}|pts_time={begin + i}|nb_samples=8000" for i in range(count)]


STREAMS = [
    "stream|index=0|codec_name=h264|codec_type=video|disposition:attached_pic=0",
    "stream|index=1|codec_name=aac|codec_type=audio|sample_rate=8000|disposition:attached_pic=0",
    "format|format_name=mov,mp4|duration=5.000000",
]
TENTHS = [round(i / 10, 1) for i in range(50)]
CLIP = [*pictures(TENTHS), *sound(0, 5), *STREAMS]


def classes(differ: Any, truth: Any, *, is_exact: bool = False, **ours: Any) -> list[tuple[str, str]]:
    """Return figure and class of each difference between ffprobe's lines and our five seconds."""
    given = {"pictures": [0.0, 1.0, 2.0, 3.0, 4.0], "sound": [(0.0, 5.0)], "duration_seconds": 5.0, **ours}
    return [(one.figure, one.reason) for one in differ.differences(truth, differ.Decoded(**given), is_exact=is_exact)]


def test_reads_tracks_times_and_lengths(truths: Any) -> None:
    truth = truths.read_truth(CLIP)
    (video,), (audio,) = truth.videos(), truth.sounds()
    assert (truth.demuxer, truth.declared_seconds) == ("mov,mp4", 5.0)
    assert (video.codec, video.begin, video.end, video.frame_count) == ("h264", 0.0, 5.0, 50)
    assert (audio.codec, audio.sound_seconds, audio.end) == ("aac", 5.0, 5.0)


def test_cover_art_is_no_video(truths: Any) -> None:
    cover = STREAMS[0].replace("pic=0", "pic=1")
    assert truths.read_truth([*pictures([0.0]), cover]).videos() == []


def test_tracks_in_succession_are_one(truths: Any) -> None:
    second = STREAMS[0].replace("index=0", "index=2")
    (joined,) = truths.read_truth([*pictures([0, 1]), *pictures([2, 3], 2), STREAMS[0], second]).videos()
    assert joined.times == [0, 1, 2, 3]
    assert len(truths.read_truth([*pictures([0, 3]), *pictures([0, 3], 2), STREAMS[0], second]).videos()) == 2


@pytest.mark.parametrize(
    ("is_exact", "pictures"), [(False, [0.0, 0.6, 2.4, 3.0, 3.5]), (True, [0.0, 1.0, 2.0, 3.0, 4.0])]
)
def test_finds_no_difference_where_there_is_none(
    differ: Any, truths: Any, is_exact: bool, pictures: list[float]
) -> None:
    assert classes(differ, truths.read_truth(CLIP), is_exact=is_exact, pictures=pictures) == []


@pytest.mark.parametrize(
    ("ours", "figures"),
    [
        ({"pictures": [0.0, 1.0, 2.0, 4.0]}, ["pictures"]),
        ({"pictures": [0.0, 1.0, 2.0, 3.05, 4.0]}, ["times"]),
        ({"pictures": [0.04, 1.04, 2.04, 3.04, 4.04]}, ["zero"]),
        ({"sound": [(0.0, 3.0)]}, ["sound"]),
        ({"sound": [(2.0, 7.0)]}, ["sound"]),
        ({"duration_seconds": 9.0}, ["duration"]),
        ({"pictures": []}, ["pictures"]),
        ({"error": "not a media file"}, ["reading"]),
    ],
)
def test_names_the_figure_that_differs(differ: Any, truths: Any, ours: dict[str, Any], figures: list[str]) -> None:
    assert classes(differ, truths.read_truth(CLIP), **ours) == [(figure, "") for figure in figures]


def test_explains_differences_by_class(differ: Any, truths: Any) -> None:
    short = {"pictures": [0.0, 1.0, 2.0, 3.0], "sound": [(0.0, 4.0)], "duration_seconds": 4.0}
    damaged, readable = truths.read_truth(CLIP), truths.read_truth(CLIP)
    damaged.complaints = ["error while decoding"]
    figures = ("pictures", "sound", "duration")
    assert classes(differ, damaged, error_count=1, **short) == [(figure, "damaged") for figure in figures]
    assert classes(differ, readable, is_truncated=True, **short) == [(figure, "truncated") for figure in figures]
    assert classes(differ, readable, error="too large", limit="max_pixels") == [("reading", "over a limit")]
    assert classes(differ, truths.read_truth([])) == [("reading", "ffprobe cannot read it")]
    back = truths.read_truth([*pictures([*TENTHS, *TENTHS]), *sound(0, 5), *STREAMS])
    assert classes(differ, back, duration_seconds=10.0) == [("duration", "times jump")]


def test_damage_does_not_explain_a_lack_of_most_pictures(differ: Any, truths: Any) -> None:
    truth = truths.read_truth(CLIP)
    truth.complaints = ["error while decoding"]
    assert classes(differ, truth, error_count=9, pictures=[0.0]) == [("pictures", "")]


def test_both_refusing_a_file_is_no_difference(differ: Any, truths: Any) -> None:
    assert classes(differ, truths.read_truth([]), error="not a media file") == []
