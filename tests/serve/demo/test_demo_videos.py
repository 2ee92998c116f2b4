"""The videos of the demo match questions.json."""

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

DEMO = Path(__file__).resolve().parents[3] / "serve" / "demo"
TRUTH: dict[str, list[dict[str, Any]]] = json.loads((DEMO / "questions.json").read_text(encoding="utf-8"))
VIDEOS = {video["file"]: video for video in TRUTH["videos"]}
MAX_BYTES = 3_000_000  # of all videos together: every clone of the repository carries them
ONE_FRAME_SECONDS = 1 / 12
JUMP = 15.0  # mean grey levels (0..255) from one frame to the next; the camera movements stay well below


def test_the_videos_stay_small() -> None:
    assert sum(path.stat().st_size for path in (DEMO / "videos").iterdir()) < MAX_BYTES


def test_every_video_is_listed_and_every_listed_video_is_there() -> None:
    assert {path.name for path in (DEMO / "videos").iterdir()} == set(VIDEOS)


@pytest.mark.parametrize("name", VIDEOS)
def test_a_video_has_picture_and_sound_as_long_as_announced(name: str) -> None:
    with av.open(str(DEMO / "videos" / name)) as file:
        picture, sound = file.streams.video[0], file.streams.audio[0]
        assert (picture.codec_context.name, sound.codec_context.name) == ("h264", "aac")
        for stream in (picture, sound):
            assert stream.duration is not None
            assert stream.time_base is not None
            seconds = float(stream.duration * stream.time_base)
            assert seconds == pytest.approx(VIDEOS[name]["duration_seconds"], abs=0.2)


@pytest.mark.parametrize("name", VIDEOS)
def test_the_index_comes_before_the_media(name: str) -> None:
    content = (DEMO / "videos" / name).read_bytes()
    assert 0 < content.find(b"moov") < content.find(b"mdat")


def pictures_at_jumps(name: str) -> tuple[list[float], list[float]]:
    """The times at which the picture changes at once, and the times of the keyframes, in seconds."""
    jumps, keyframes = [], []
    before: NDArray[np.int16] | None = None
    with av.open(str(DEMO / "videos" / name)) as file:
        for frame in file.decode(video=0):
            assert frame.time is not None
            if frame.key_frame:
                keyframes.append(frame.time)
            small = frame.reformat(width=64, height=36, format="gray").to_ndarray().astype(np.int16)
            if before is not None and np.abs(small - before).mean() > JUMP:
                jumps.append(frame.time)
            before = small
    return jumps, keyframes


@pytest.mark.slow
@pytest.mark.parametrize("name", VIDEOS)
def test_the_pictures_are_cut_where_the_scenes_say_and_only_there(name: str) -> None:
    cuts = [scene["start_seconds"] for scene in VIDEOS[name]["scenes"]]
    jumps, keyframes = pictures_at_jumps(name)
    assert jumps == pytest.approx(cuts[1:], abs=ONE_FRAME_SECONDS)
    for cut in cuts:
        assert min(abs(keyframe - cut) for keyframe in keyframes) < ONE_FRAME_SECONDS, cut


@pytest.mark.parametrize("name", VIDEOS)
def test_scenes_follow_each_other_and_lines_lie_inside_them(name: str) -> None:
    video = VIDEOS[name]
    edges = [scene["start_seconds"] for scene in video["scenes"]] + [video["duration_seconds"]]
    assert edges[0] == 0
    assert edges == sorted(edges)
    assert [scene["end_seconds"] for scene in video["scenes"]] == edges[1:]
    for line in video["lines"]:
        assert any(
            scene["start_seconds"] <= line["start_seconds"] < line["end_seconds"] <= scene["end_seconds"]
            for scene in video["scenes"]
        ), line


@pytest.mark.parametrize("question", TRUTH["moments"], ids=lambda question: question["query"])
def test_an_answer_is_a_span_of_its_video(question: dict[str, Any]) -> None:
    assert 0 <= question["start_seconds"] < question["end_seconds"] <= VIDEOS[question["file"]]["duration_seconds"]


def test_both_channels_are_asked_and_some_questions_have_no_answer() -> None:
    channels = [question["channel"] for question in TRUTH["moments"]]
    assert channels.count("speech") >= 4
    assert channels.count("visual") >= 4
    assert {question["channel"] for question in TRUTH["absent"]} == {"speech", "visual"}
