"""Traits of a file: computed when it is indexed, and equal to traits computed later."""

import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from encoders.calibration import FILE, write_calibration
from encoders.values import FrameEmbeddings
from serve.catalog.catalog import Catalog
from serve.errors import VideoNotFound
from serve.indexing.pipeline import index, reindex
from serve.search.library import Library
from serve.search.traits import CaptionBank, caption_bank_of, compute_file_traits
from serve.settings import Settings
from serve.values import Answer, Query
from support.fakes import CALIBRATION, ColourEncoder, SilentProgress, use_fakes, write_scenes
from support.sample_catalog import MEDIA, frames, new_video
from temporal.moments.shots import picture_changes

SETTINGS = Settings(workers=2)
QUESTIONS = ("something red", "blue or green", "a yellow thing", "red, then blue")


def with_epochs(embeddings: FrameEmbeddings, *epochs: int) -> FrameEmbeddings:
    return replace(embeddings, epochs=np.array(epochs, np.int32))


@pytest.mark.parametrize("epochs", [(0,) * 9, (0, 0, 0, 1, 1, 1, 1, 2, 2)])
def test_stored_traits_are_those_of_the_stored_frames(catalog: Catalog, epochs: tuple[int, ...]) -> None:
    embeddings = with_epochs(frames(9, width=4), *epochs)
    captions = CaptionBank(ColourEncoder(), CALIBRATION)
    row = catalog.begin(new_video("a"))
    catalog.add_frames(row, embeddings, [b""] * 9)
    catalog.add_traits(row, compute_file_traits(embeddings, captions))
    catalog.finish(row, media=MEDIA, duration_seconds=9.0, warnings=())
    traits, again = catalog.traits(row), catalog.frames(row)
    assert traits is not None
    assert traits.caption_scores == captions.statistics([captions.pool(again.vectors)])
    assert traits.captions == captions.key
    np.testing.assert_array_equal(traits.change_strengths, picture_changes(again).strengths)
    assert len(traits.change_strengths) == 9 - len(set(epochs))
    catalog.delete("a")
    with pytest.raises(VideoNotFound):
        catalog.traits(row)


def test_a_video_without_frames_has_empty_traits(catalog: Catalog) -> None:
    row = catalog.begin(new_video("a"))
    assert catalog.traits(row) is None
    catalog.add_traits(row, compute_file_traits(frames(0), CaptionBank(ColourEncoder(), CALIBRATION)))
    blind = catalog.begin(new_video("b"))
    catalog.add_traits(blind, compute_file_traits(frames(5, width=0), None))
    for one in (row, blind):
        traits = catalog.traits(one)
        assert traits is not None
        assert (traits.captions, traits.caption_scores, len(traits.change_strengths)) == ("", None, 0)


def test_the_key_of_captions_covers_all_that_their_scores_depend_on() -> None:
    given = CaptionBank(ColourEncoder(), CALIBRATION)
    for unread in ({"templates": ("a {}",)}, {"video_temperature": 0.2}):
        assert given.key == CaptionBank(ColourEncoder(), replace(CALIBRATION, **unread)).key
    for changed in ({"bank_share": 0.25}, {"moment_temperature": 0.01}):
        assert given.key != CaptionBank(ColourEncoder(), replace(CALIBRATION, **changed)).key


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    (folder / "films").mkdir()
    write_scenes(folder / "films" / "one.mp4", [("blue", 6), ("red", 5), ("green", 4)])
    write_scenes(folder / "films" / "two.mp4", [("yellow", 4), ("blue", 3)])
    with pytest.MonkeyPatch.context() as patch:
        use_fakes(patch)
        list(index([str(folder / "films")], folder / "data", SETTINGS, progress=SilentProgress()))
    return folder / "data"


def answers(directory: Path, monkeypatch: pytest.MonkeyPatch) -> list[Answer]:
    use_fakes(monkeypatch)
    with Library.open(directory, SETTINGS) as library:
        return [library.search(Query(text=text)) for text in QUESTIONS]


def traits_by_video(directory: Path) -> list[tuple[str, int]]:
    """Return the key of the captions and the number of change strengths of each video's traits."""
    with Library.open(directory, SETTINGS) as library:
        traits = [library.catalog.traits(video.row) for video in library.videos()]
    return [("none", 0) if each is None else (each.captions, len(each.change_strengths)) for each in traits]


def delete_traits(directory: Path) -> None:
    """Make a library like one of an older program, without traits."""
    connection = sqlite3.connect(directory / "catalog.sqlite")
    connection.execute("DELETE FROM video_traits")
    connection.commit()
    connection.close()


def calibrate(directory: Path) -> None:
    write_calibration(directory / FILE, ColourEncoder.fingerprint, replace(CALIBRATION, bank_share=0.25))


@pytest.mark.slow
@pytest.mark.parametrize("change", [lambda directory: None, calibrate])
def test_answers_are_the_same_without_stored_traits(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    """Also of a library calibrated after it was indexed: its stored traits are of another key."""
    complete, lacking = (shutil.copytree(data, tmp_path / name) for name in ("complete", "lacking"))
    delete_traits(lacking)
    for directory in (complete, lacking):
        change(directory)
    assert answers(complete, monkeypatch) == answers(lacking, monkeypatch)


def test_questions_do_not_compute_stored_traits(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = answers(data, monkeypatch)
    monkeypatch.delattr(CaptionBank, "pool")
    monkeypatch.delattr("serve.search.visual.picture_changes")
    assert answers(data, monkeypatch) == before


def test_a_reindexed_library_has_traits_of_its_own_calibration(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fakes(monkeypatch)
    library = shutil.copytree(data, tmp_path / "data")
    first = caption_bank_of(library, ColourEncoder())
    assert first is not None
    assert traits_by_video(library) == [(first.key, 14), (first.key, 6)]
    delete_traits(library)
    assert traits_by_video(library) == [("none", 0)] * 2
    calibrate(library)
    list(reindex(library, SETTINGS, progress=SilentProgress()))
    calibrated = caption_bank_of(library, ColourEncoder())
    assert calibrated is not None
    assert calibrated.key != first.key
    assert traits_by_video(library) == [(calibrated.key, 14), (calibrated.key, 6)]
