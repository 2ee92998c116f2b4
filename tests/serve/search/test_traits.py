"""What no question changes in a file: worked out when it is indexed, and the same as what would be worked out later."""

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
from serve.search.video_rows import FrameBlock
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
def test_the_catalog_keeps_what_its_frames_would_give(catalog: Catalog, epochs: tuple[int, ...]) -> None:
    embeddings = with_epochs(frames(9, width=4), *epochs)
    captions = CaptionBank(ColourEncoder(), CALIBRATION)
    row = catalog.begin(new_video("a"))
    catalog.add_frames(row, embeddings, [b""] * 9)
    catalog.add_traits(row, compute_file_traits(embeddings, captions))
    catalog.finish(row, media=MEDIA, duration_seconds=9.0, warnings=())
    kept, stored = catalog.traits(row), catalog.stored_frames(row)
    assert kept is not None
    again = FrameBlock.of(stored).embeddings()
    assert kept.caption_scores == captions.statistics([captions.pool(again.vectors)])
    assert kept.captions == captions.key
    np.testing.assert_array_equal(kept.change_strengths, picture_changes(again).strengths)
    assert len(kept.change_strengths) == 9 - len(set(epochs))
    catalog.delete("a")
    with pytest.raises(VideoNotFound):
        catalog.traits(row)


def test_a_video_without_pictures_has_none(catalog: Catalog) -> None:
    row = catalog.begin(new_video("a"))
    assert catalog.traits(row) is None
    catalog.add_traits(row, compute_file_traits(frames(0), CaptionBank(ColourEncoder(), CALIBRATION)))
    blind = catalog.begin(new_video("b"))
    catalog.add_traits(blind, compute_file_traits(frames(5, width=0), None))
    for one in (row, blind):
        kept = catalog.traits(one)
        assert kept is not None
        assert (kept.captions, kept.caption_scores, len(kept.change_strengths)) == ("", {}, 0)


def test_captions_are_known_by_all_that_their_scores_depend_on() -> None:
    given = CaptionBank(ColourEncoder(), CALIBRATION)
    assert given.key == CaptionBank(ColourEncoder(), replace(CALIBRATION, templates=("a {}",))).key
    for changed in ({"bank_share": 0.25}, {"video_temperature": 0.2}, {"moment_temperature": 0.01}):
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


def counted(directory: Path) -> list[tuple[str, int]]:
    """Return the captions of each video's traits, and how many numbers say how its pictures change."""
    with Library.open(directory, SETTINGS) as library:
        kept = [library.catalog.traits(video.row) for video in library.videos()]
    return [("none", 0) if one is None else (one.captions, len(one.change_strengths)) for one in kept]


def forget(directory: Path) -> None:
    """Make a library as it was before there were any."""
    connection = sqlite3.connect(directory / "catalog.sqlite")
    connection.execute("DELETE FROM video_traits")
    connection.commit()
    connection.close()


def calibrate(directory: Path) -> None:
    write_calibration(directory / FILE, ColourEncoder.fingerprint, replace(CALIBRATION, bank_share=0.25))


@pytest.mark.parametrize("change", [lambda directory: None, calibrate])
def test_answers_are_the_same_without_them(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    """Also where the library was calibrated after it was indexed: what is kept is of other captions then."""
    kept, lacking = (shutil.copytree(data, tmp_path / name) for name in ("kept", "lacking"))
    forget(lacking)
    for directory in (kept, lacking):
        change(directory)
    assert answers(kept, monkeypatch) == answers(lacking, monkeypatch)


def test_questions_do_not_work_out_what_is_kept(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = answers(data, monkeypatch)
    monkeypatch.delattr(CaptionBank, "pool")
    monkeypatch.delattr("serve.search.visual.picture_changes")
    assert answers(data, monkeypatch) == before


def test_a_reindexed_library_has_them_of_its_own_calibration(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fakes(monkeypatch)
    library = shutil.copytree(data, tmp_path / "data")
    first = caption_bank_of(library, ColourEncoder())
    assert first is not None
    assert counted(library) == [(first.key, 14), (first.key, 6)]
    forget(library)
    assert counted(library) == [("none", 0)] * 2
    calibrate(library)
    list(reindex(library, SETTINGS, progress=SilentProgress()))
    calibrated = caption_bank_of(library, ColourEncoder())
    assert calibrated is not None
    assert calibrated.key != first.key
    assert counted(library) == [(calibrated.key, 14), (calibrated.key, 6)]
