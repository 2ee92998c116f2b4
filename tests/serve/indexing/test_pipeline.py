"""Indexing through real child processes, a real catalog and exact encoders."""

import os
import subprocess
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from ingest.config import DecodeConfig
from serve.catalog.catalog import Catalog
from serve.errors import (
    DataDirectoryBusy,
    DataDirectoryMissing,
    EncoderSpaceMismatch,
    VideoNotFound,
)
from serve.indexing.pipeline import delete, index, reindex
from serve.settings import Settings
from serve.values import IndexOutcome
from support import SUPPORT
from support.fakes import SilentProgress, use_fakes, write_scenes
from support.media import Sound, encode_media
from support.waiting import wait_until

pytestmark = pytest.mark.slow

SETTINGS = Settings(workers=2, decode=DecodeConfig(sampling="exact"))


@pytest.fixture
def films(tmp_path: Path) -> Path:
    folder = tmp_path / "films"
    folder.mkdir()
    write_scenes(folder / "a.mp4", [("red", 6), ("blue", 6)], tones=[(440, 2.0)])
    write_scenes(folder / "b.mp4", [("green", 8)])
    (folder / "broken.mp4").write_bytes(b"this is no video " * 50)
    return folder


@pytest.fixture(autouse=True)
def exact_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)


def run(inputs: list[Path], data: Path, **options: str) -> dict[str, IndexOutcome]:
    outcomes = index([str(path) for path in inputs], data, SETTINGS, progress=SilentProgress(), **options)
    return {Path(outcome.uri).name: outcome for outcome in outcomes}


def content(data: Path) -> list[object]:
    """Everything a library knows, comparable between two of them."""
    with Catalog.open_reader(data) as catalog:
        return [
            (
                video.video_id,
                video.frame_count,
                video.duration_seconds,
                catalog.frames(video.row).pts_seconds.tolist(),
                catalog.frames(video.row).vectors.tobytes(),
                catalog.utterances(video.row),
                catalog.utterance_vectors(video.row).tobytes(),
                [(s.segment_id, s.span, None if s.vector is None else s.vector.tobytes())
                 for s in catalog.segments(video.row)],
            )
            for video in catalog.videos()
        ]  # fmt: skip


def test_the_caller_of_this_process_may_name_files_below_the_working_folder_by_uri(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(films)
    uri, data = (films / "b.mp4").as_uri(), tmp_path / "data"
    outcomes = [*index([uri], data, SETTINGS, progress=SilentProgress())]
    outcomes += reindex(data, SETTINGS, progress=SilentProgress())
    assert [(outcome.uri, outcome.status, outcome.error) for outcome in outcomes] == [(uri, "indexed", None)] * 2


def test_indexes_what_decodes_and_names_what_does_not(films: Path, tmp_path: Path) -> None:
    outcomes = run([films, tmp_path / "missing.mp4"], tmp_path / "data")
    assert {name: outcome.status for name, outcome in outcomes.items()} == {
        "a.mp4": "indexed",
        "b.mp4": "indexed",
        "broken.mp4": "failed",
        "missing.mp4": "failed",
    }
    a = outcomes["a.mp4"]
    assert a.frames in (12, 13)  # the sound may outlast the last picture by an AAC frame
    assert (a.utterances, a.segments) == (1, 1)
    assert a.duration_seconds == pytest.approx(12, abs=0.1)
    assert "broken.mp4" in (outcomes["broken.mp4"].error or "")
    with Catalog.open_reader(tmp_path / "data") as catalog:
        assert [Path(video.uri).name for video in catalog.videos()] == ["a.mp4", "b.mp4"]


def test_sound_without_a_word_has_segments_as_over_kafka(tmp_path: Path) -> None:
    silence = tmp_path / "silence.mka"
    silence.write_bytes(encode_media(format="matroska", sounds=[Sound(seconds=20, loudness=0)]))
    outcome = run([silence], tmp_path / "data")["silence.mka"]
    assert (outcome.utterances, outcome.segments) == (0, 2)
    with Catalog.open_reader(tmp_path / "data") as catalog:
        (video,) = catalog.videos()
        assert [one.span.end_seconds for one in catalog.segments(video.row)] == pytest.approx([16, 20], abs=0.1)


def test_names_of_any_bytes_are_indexed_again_and_deleted(films: Path, tmp_path: Path) -> None:
    names = [b"caf\xe9.mp4", b"two\nlines.mp4", b"100%41 #1?.mp4", b"-dash.MOD", b"x" * 251 + b".mp4"]
    for n, name in enumerate(names):
        path = films / os.fsdecode(name)
        try:
            path.write_bytes((films / "b.mp4").read_bytes() + bytes([0, 0, 0, 9, *b"free", n]))
        except OSError:
            pytest.skip("this file system takes UTF-8 names only")
    (films / "broken.mp4").unlink()
    (films / "letter.ts").write_text("const a: string = 'TypeScript'")
    data = tmp_path / os.fsdecode(b"d\xe9 #1?mode=memory&%41\n")
    progress = SilentProgress()
    indexed = list(index([str(films)], data, SETTINGS, progress=progress))
    assert progress.left_out == {".ts": 1}
    assert {outcome.status for outcome in indexed} == {"indexed"}
    assert {os.fsencode(Path(outcome.uri).name) for outcome in indexed} == {b"a.mp4", b"b.mp4", *names}
    assert {outcome.status for outcome in reindex(data, SETTINGS, progress=SilentProgress())} == {"indexed"}
    with Catalog.open_reader(data) as catalog:
        videos = catalog.videos()
    assert len(videos) == len(names) + 2
    assert all(Path(video.uri).exists() for video in videos)
    assert delete(data, [video.video_id for video in videos])


def test_says_unchanged_for_bytes_it_has(films: Path, tmp_path: Path) -> None:
    first = run([films], tmp_path / "data")
    before = content(tmp_path / "data")
    again = run([films], tmp_path / "data")
    assert again["a.mp4"].status == "unchanged"
    assert again["a.mp4"].frames == first["a.mp4"].frames
    assert content(tmp_path / "data") == before


def test_a_moved_file_is_found_at_its_new_place(films: Path, tmp_path: Path) -> None:
    run([films], tmp_path / "data")
    (films / "a.mp4").rename(films / "moved.mp4")
    assert run([films], tmp_path / "data")["moved.mp4"].status == "unchanged"
    with Catalog.open_reader(tmp_path / "data") as catalog:
        assert {Path(video.uri).name for video in catalog.videos()} == {"moved.mp4", "b.mp4"}


def test_same_bytes_under_two_names_are_one_video(films: Path, tmp_path: Path) -> None:
    (films / "twin.mp4").write_bytes((films / "a.mp4").read_bytes())
    (films / "broken-twin.mp4").write_bytes((films / "broken.mp4").read_bytes())
    outcomes = run([films], tmp_path / "data")
    assert sorted([outcomes["a.mp4"].status, outcomes["twin.mp4"].status]) == ["indexed", "unchanged"]
    assert outcomes["a.mp4"].video_id == outcomes["twin.mp4"].video_id
    assert outcomes["broken-twin.mp4"].status == outcomes["broken.mp4"].status == "failed"


def test_closing_the_run_early_keeps_what_was_finished(films: Path, tmp_path: Path) -> None:
    for salt in range(4):
        write_scenes(films / f"more{salt}.mp4", [("yellow", 5)], salt=salt)
    outcomes = index([str(films)], tmp_path / "data", SETTINGS, progress=SilentProgress())
    done = next(outcome for outcome in outcomes if outcome.status == "indexed")
    outcomes.close()  # type: ignore[attr-defined]
    with Catalog.open_writer(tmp_path / "data") as catalog:
        kept = {video.video_id for video in catalog.videos()}
    assert done.video_id in kept
    assert {o.status for o in run([films], tmp_path / "data").values()} == {"indexed", "unchanged", "failed"}


def test_second_writer_is_refused_and_readers_are_not(films: Path, tmp_path: Path) -> None:
    outcomes = index([str(films)], tmp_path / "data", SETTINGS, progress=SilentProgress())
    next(outcomes)
    with pytest.raises(DataDirectoryBusy):
        run([films], tmp_path / "data")
    with Catalog.open_reader(tmp_path / "data") as catalog:
        catalog.videos()
    assert len(list(outcomes)) == 2


def test_other_encoders_are_refused_until_reindexed(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run([films / "a.mp4"], tmp_path / "data")
    monkeypatch.setattr("support.fakes.WordSumEncoder.fingerprint", "another")
    with pytest.raises(EncoderSpaceMismatch, match="kinodex reindex"):
        run([films / "b.mp4"], tmp_path / "data")
    assert [o.status for o in reindex(tmp_path / "data", SETTINGS, progress=SilentProgress())] == ["indexed"]
    assert run([films / "b.mp4"], tmp_path / "data")["b.mp4"].status == "indexed"
    assert not (tmp_path / "data" / "reindex").exists()


def test_deletes_all_or_nothing(films: Path, tmp_path: Path) -> None:
    outcomes = run([films], tmp_path / "data")
    a = outcomes["a.mp4"].video_id
    assert a is not None
    with pytest.raises(VideoNotFound):
        delete(tmp_path / "data", [a, "0123456789abcdef"])
    assert len(content(tmp_path / "data")) == 2
    assert [video.video_id for video in delete(tmp_path / "data", [a])] == [a]
    assert len(content(tmp_path / "data")) == 1


def test_deletes_while_another_process_indexes(films: Path, tmp_path: Path) -> None:
    a = run([films / "a.mp4"], tmp_path / "data")["a.mp4"].video_id
    assert a is not None
    others = [str(films / name) for name in ("broken.mp4", "b.mp4")]
    outcomes = index(others, tmp_path / "data", SETTINGS, progress=SilentProgress())
    next(outcomes)
    assert [video.video_id for video in delete(tmp_path / "data", [a])] == [a]
    list(outcomes)
    with Catalog.open_reader(tmp_path / "data") as catalog:
        assert [Path(video.uri).name for video in catalog.videos()] == ["b.mp4"]
    assert run([films / "a.mp4"], tmp_path / "data")["a.mp4"].status == "indexed"  # what is gone is not known


def test_without_a_visual_encoder_speech_is_indexed(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fakes(monkeypatch, visual=False)
    assert run([films / "a.mp4"], tmp_path / "data")["a.mp4"].utterances == 1
    with Catalog.open_reader(tmp_path / "data") as catalog:
        [video] = catalog.videos()
        assert catalog.frames(video.row).vectors.shape == (video.frame_count, 0)
        assert catalog.thumbnail(video.row, 3.0) is not None


def test_killed_at_any_point_and_run_again_equals_an_undisturbed_run(films: Path, tmp_path: Path) -> None:
    for salt in range(3):
        write_scenes(films / f"more{salt}.mp4", [("yellow", 20), ("red", 10)], tones=[(880, 7.0)], salt=salt)
    run([films], tmp_path / "undisturbed")
    draw = np.random.default_rng(0)
    child = SUPPORT / "index_child.py"
    pids = []
    for _ in range(8):
        process = subprocess.Popen(["python", child, films, tmp_path / "killed"], stdout=subprocess.DEVNULL)
        pids.append(process.pid)
        try:
            process.wait(timeout=float(draw.uniform(0.3, 4.0)))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with suppress(DataDirectoryMissing), Catalog.open_reader(tmp_path / "killed") as catalog:
            for video in catalog.videos():  # nothing half-visible
                assert len(catalog.frames(video.row).pts_seconds) == video.frame_count > 0
    run([films], tmp_path / "killed")
    assert content(tmp_path / "killed") == content(tmp_path / "undisturbed")
    wait_until(lambda: not list(decoders_of(pids)))


def decoders_of(pids: Collection[int]) -> Iterator[str]:
    """Yield the command lines of decoding processes that one of these processes started; the last word says which."""
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        if "ingest.sandbox.child" in line and int(line.split()[-1]) in pids:
            yield line
