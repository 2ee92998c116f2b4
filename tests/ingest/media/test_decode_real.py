"""The development videos: times and sizes against their manifest, and against a plain pass of PyAV."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest

from ingest.config import DecodeConfig
from ingest.errors import DecodeError
from ingest.sandbox.pool import DecodePool
from ingest.values import AudioBlock, Decoded, DecodeSummary, Frame, MediaInfo

pytestmark = pytest.mark.slow

# Special files, according to the notes of the manifest.
NO_INDEX = "CarND-Vehicle-Detection__project_cut_result.mp4"
ENDS_EARLY_SECONDS = {"media__ssasample.mkv": 30.1, "simpl__video.webm": 13.9}
ABSURD_DURATION = "media__sample_with_vobsub_434e7e.mkv"
# Files whose pictures have another size or aspect than the manifest, which holds the first stream's coded size.
OTHER_SIZE = {"torchcodec__nasa_13013.mp4"}
CONFIG = DecodeConfig(input_width=64, input_height=64)


def manifest(shared: Path) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads((shared / "videos" / "manifest.json").read_text())
    return entries


@pytest.fixture(scope="module")
def items_by_file(shared: Path) -> dict[str, list[Decoded]]:
    """The items of all files, by name; frames without pixels, to save memory."""
    items: dict[str, list[Decoded]] = {}
    with DecodePool(CONFIG, workers=1) as pool:
        for entry in manifest(shared):
            if entry["file"] != NO_INDEX:
                with (shared / "videos" / "files" / entry["file"]).open("rb") as file:
                    items[entry["file"]] = list(pool.decode(file, uri=entry["file"]))
    return items


def seconds_of(items: list[Decoded]) -> list[float]:
    return [item.pts_seconds for item in items if isinstance(item, Frame)]


def summary_of(items: list[Decoded]) -> DecodeSummary:
    assert isinstance(items[-1], DecodeSummary)
    return items[-1]


def test_every_file_has_the_duration_its_manifest_says(shared: Path, items_by_file: dict[str, list[Decoded]]) -> None:
    for entry in manifest(shared):
        name = entry["file"]
        if name in (NO_INDEX, ABSURD_DURATION) or entry["duration_s"] is None:
            continue
        expected = ENDS_EARLY_SECONDS.get(name, entry["duration_s"])
        assert summary_of(items_by_file[name]).duration_seconds == pytest.approx(expected, abs=0.25), name
        assert summary_of(items_by_file[name]).truncated == (name in ENDS_EARLY_SECONDS), name
    assert summary_of(items_by_file[ABSURD_DURATION]).duration_seconds < 2


def test_every_file_has_one_epoch_and_pictures_that_grow_in_time(items_by_file: dict[str, list[Decoded]]) -> None:
    for name, items in items_by_file.items():
        assert summary_of(items).epoch_count == 1, name
        seconds = seconds_of(items)
        assert all(a < b for a, b in pairwise(seconds)), name
        ticks = [int(second + 0.5) for second in seconds]
        assert len(set(ticks)) == len(ticks), name


def test_every_file_has_the_streams_its_manifest_says(shared: Path, items_by_file: dict[str, list[Decoded]]) -> None:
    for entry in manifest(shared):
        name = entry["file"]
        if name == NO_INDEX:
            continue
        info = items_by_file[name][0]
        assert isinstance(info, MediaInfo)
        assert (info.video_codec is None) == (entry["vcodec"] is None), name
        assert bool(seconds_of(items_by_file[name])) == (entry["vcodec"] is not None), name
        has_sound = any(isinstance(item, AudioBlock) for item in items_by_file[name])
        assert has_sound == bool(entry["acodec"]), name
        if entry["height"] is not None and name not in OTHER_SIZE:
            turned = info.rotation_degrees % 180 == 90
            assert (info.width if turned else info.height) == entry["height"], name
            assert info.rotation_degrees == -entry["rotation"] % 360, name


def test_every_time_is_one_of_a_plain_pass(shared: Path, items_by_file: dict[str, list[Decoded]]) -> None:
    names = ["DVR-Scan__traffic_camera_vfr.mp4", "mediaelement__grampa-laughing.flv", "moviepy__no_duration.webm"]
    names += ["web-platform-tests__big-buck-bunny-240p.ogv", "xuggle-xuggler__testfile_mpeg1video_mp2audio.mpg"]
    names += ["xuggle-xuggler__testfile_wmv3_wmav2_bad_audio_timestamps.wmv", "mp4parser__foreman-hevc-384.mp4"]
    for name in names:
        with av.open(str(shared / "videos" / "files" / name)) as container:
            packets = (packet for packet in container.demux(video=0) if packet.size or packet.pts is None)
            frames = (frame for packet in packets for frame in packet.decode())
            plain = [frame.time for frame in frames if frame.time is not None]
        summary = summary_of(items_by_file[name])
        for second in seconds_of(items_by_file[name]):
            assert min(abs(time - summary.zero_seconds - second) for time in plain) < 0.001, name


def test_an_unfinished_mp4_says_what_happened(shared: Path) -> None:
    path = shared / "videos" / "files" / NO_INDEX
    with DecodePool(CONFIG, workers=1) as pool, path.open("rb") as file, pytest.raises(DecodeError) as caught:
        list(pool.decode(file, uri=NO_INDEX))
    assert caught.value.reason == "no moov box: the mp4 was never finished"


def test_the_policies_agree_on_duration_and_sound(shared: Path) -> None:
    with DecodePool(CONFIG, workers=1) as pool:
        for name in ("torchcodec__nasa_13013.mp4", "decord__flipping_a_pancake.mkv", "wcag__spacetime.flv"):
            durations = set()
            for policy in ("exact", "fast", "keyframes"):
                with (shared / "videos" / "files" / name).open("rb") as file:
                    items = list(pool.decode(file, uri=name, config=replace(CONFIG, sampling=policy)))
                blocks = [item for item in items if isinstance(item, AudioBlock)]
                durations.add((summary_of(items).duration_seconds, sum(len(block.samples) for block in blocks)))
            assert len(durations) == 1, name
