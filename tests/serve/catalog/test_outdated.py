"""Catalogs of older programs, which no migration brings forward."""

import sqlite3
from pathlib import Path

import pytest

from serve.catalog import schema
from serve.catalog.catalog import Catalog
from serve.catalog.outdated import COPY_NAME, rebuild_outdated, remove_copy
from serve.errors import DataDirectoryBusy, DataDirectoryInvalid, DataDirectoryOutdated
from serve.video_warnings import OUTDATED
from support.sample_catalog import check, write_outdated

VERSIONS = range(1, schema.FIRST_VERSION)


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "film.mp4"
    path.write_bytes(b"a film")
    return path


@pytest.mark.parametrize("version", VERSIONS)
def test_an_outdated_catalog_is_refused_in_one_line_that_names_reindex(
    film: Path, tmp_path: Path, version: int
) -> None:
    write_outdated(tmp_path, version, {"abc": film})
    for open_ in (Catalog.open_reader, Catalog.open_editor, Catalog.open_writer):
        with pytest.raises(
            DataDirectoryOutdated, match=rf"version {version},.* version {schema.VERSION}: run `kinodex reindex`"
        ) as e:
            open_(tmp_path)
        assert "\n" not in str(e.value)
        assert isinstance(e.value, DataDirectoryInvalid)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_rebuilt_catalog_lists_the_same_videos_and_forgets_live_ones(
    film: Path, tmp_path: Path, version: int
) -> None:
    write_outdated(tmp_path, version, {"abc": film})
    rebuild_outdated(tmp_path)
    with Catalog.open_editor(tmp_path) as catalog:
        (video,) = catalog.videos()
        assert (video.video_id, video.collection, video.uri, video.duration_seconds) == (
            "abc", "films", str(film), 12.5
        )  # fmt: skip
        assert (video.metadata, video.recorded_time) == (({"camera": "7"}, 5.0) if version >= 2 else ({}, None))
        assert (video.frame_count, video.warnings) == (0, (OUTDATED.text,))
        assert catalog.find_indexed("films", "abc", video.content_sha256, "old") is None  # so that it can be indexed
        assert (catalog.space(), catalog.generation(), len(catalog.identity())) == (None, 0, 32)
        assert len(catalog.select("SELECT * FROM deletions")) == (version >= 3)
        assert catalog.select("PRAGMA integrity_check") == [("ok",)]
        catalog.delete("abc")
        assert check(catalog) == {}
    with sqlite3.connect(tmp_path / COPY_NAME) as copy:
        assert ("abc",) in copy.execute("SELECT video_id FROM videos").fetchall()
    copy.close()
    remove_copy(tmp_path)
    assert not (tmp_path / COPY_NAME).exists()


def test_a_rebuilding_that_fails_leaves_the_outdated_catalog(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_outdated(tmp_path, 5, {"abc": film})
    with monkeypatch.context() as patched:
        patched.setattr(schema, "TABLES", f"{schema.TABLES}no SQL at all;")
        with pytest.raises(DataDirectoryInvalid):
            rebuild_outdated(tmp_path)
    with pytest.raises(DataDirectoryOutdated):
        Catalog.open_reader(tmp_path)
    rebuild_outdated(tmp_path)
    with Catalog.open_reader(tmp_path) as catalog:
        assert [video.video_id for video in catalog.videos()] == ["abc"]


def test_a_catalog_that_another_process_writes_is_not_rebuilt(tmp_path: Path) -> None:
    with Catalog.open_writer(tmp_path), pytest.raises(DataDirectoryBusy):
        rebuild_outdated(tmp_path)
