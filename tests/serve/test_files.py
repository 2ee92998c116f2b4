"""Files of a data directory are for their owner only, and files of settings never make a reader wait."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve.api.build import prepare_catalog
from serve.api.tokens import create_token, utc_now
from serve.catalog.catalog import Catalog
from serve.files import make_library_private, read_regular_file
from serve.indexing.pipeline import index
from serve.settings import Settings
from support.fakes import SilentProgress, use_fakes, write_scenes
from support.sample_catalog import put_version


@pytest.fixture(autouse=True)
def permissive() -> Iterator[None]:
    """Take the usual umask, under which others may read what is made."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def open_to_others(directory: Path) -> set[str]:
    """Return the files and folders of a data directory, itself included, on which others have any right."""
    paths = [directory, *directory.rglob("*")]
    return {str(path.relative_to(directory)) for path in paths if path.stat().st_mode & 0o077}


def test_a_library_is_for_its_owner_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)
    data, film = tmp_path / "parent" / "data", write_scenes(tmp_path / "film.mp4", [("red", 3)], tones=[(440, 1.0)])
    outcomes = list(index([str(film)], data, Settings(workers=1), progress=SilentProgress()))
    assert [outcome.status for outcome in outcomes] == ["indexed"]
    with Catalog.open_reader(data) as reader, Catalog.open_writer(data) as catalog:  # with -wal and -shm
        put_version(catalog, "abc", 1)
        assert reader.video("abc")
        assert {path.name for path in data.glob("catalog.sqlite*")} == {
            "catalog.sqlite", "catalog.sqlite-shm", "catalog.sqlite-wal"
        }  # fmt: skip
        assert list(data.glob("index/*.shard"))
        assert open_to_others(data) == set()


def test_a_tokens_file_makes_a_private_folder(tmp_path: Path) -> None:
    path = tmp_path / "data" / "tokens.json"
    create_token(path, "ann", collections=None, can_write=False, expire_time=None, now=utc_now())
    assert open_to_others(path.parent) == set()


@pytest.mark.parametrize("open_", [lambda path: Catalog.open_writer(path).close(), prepare_catalog])
def test_a_library_of_an_older_program_is_closed_to_others(open_: object, tmp_path: Path) -> None:
    data = tmp_path / "data"
    Catalog.open_writer(data).close()
    for name in ("index", "uploads"):
        (data / name).mkdir()
    (data / "webhook-deadletters.jsonl").touch()
    for path in [data, *data.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    (data / "kinodex.toml").touch()  # somebody's own
    open_(data)  # type: ignore[operator]
    assert open_to_others(data) == {"kinodex.toml"}


def test_a_folder_with_other_things_stays_open(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "film.mp4").touch()
    Catalog.open_writer(project).close()
    (project / "catalog.sqlite").chmod(0o644)
    make_library_private(project)
    assert open_to_others(project) == {".", "film.mp4"}


def test_reads_a_regular_file_only(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"words")
    assert read_regular_file(path, 5)[0] == b"words"
    with pytest.raises(OSError, match="larger than"):
        read_regular_file(path, 4)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "fifo")
    for other in (tmp_path / "fifo", tmp_path / "link", Path("/dev/zero"), tmp_path):
        with pytest.raises(OSError, match="not a regular file"):
            read_regular_file(other, 5)
