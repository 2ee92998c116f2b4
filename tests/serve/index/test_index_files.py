"""The index's files: used if they are whole and of this catalog, else the index is built again."""

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from serve.catalog.catalog import Catalog
from support.marks import first_quick
from support.sample_catalog import FINGERPRINT, put_vectors
from support.sample_vectors import SMALL_SHARDS, check_equal, fill, fresh_index, random_vectors


def files(catalog: Catalog) -> list[Path]:
    return sorted((catalog.directory / "index").glob("segments*"))


def test_loads_what_was_saved_without_reading_vectors_again(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(catalog, 12)
    fresh_index(catalog, **SMALL_SHARDS).save()
    read: list[int] = []
    honest = Catalog.row_ids
    monkeypatch.setattr(Catalog, "row_ids", lambda self, kind, row: read.append(row) or honest(self, kind, row))  # type: ignore[func-returns-value]
    index = fresh_index(catalog, **SMALL_SHARDS)
    assert read == []
    (new,) = fill(catalog, 1, first=12)
    index.refresh(catalog)
    assert read == [new]
    monkeypatch.undo()
    check_equal(index, catalog)


def test_saving_again_writes_only_what_changed_and_removes_what_is_not_named(catalog: Catalog) -> None:
    fill(catalog, 12)
    index = fresh_index(catalog, **SMALL_SHARDS)
    index.save()
    before = {path.name: path.stat().st_mtime_ns for path in files(catalog) if path.suffix == ".shard"}
    (catalog.directory / "index" / "writing-dead").write_text("left by a writer that died")
    fill(catalog, 1, first=12)
    catalog.delete("video0")
    index.refresh(catalog)
    index.save()
    after = {path.name: path.stat().st_mtime_ns for path in files(catalog) if path.suffix == ".shard"}
    assert before.items() <= after.items()
    assert len(after) == len(before) + 1
    assert not (catalog.directory / "index" / "writing-dead").exists()
    check_equal(fresh_index(catalog, **SMALL_SHARDS), catalog)
    shutil.rmtree(catalog.directory / "index")
    index.save()
    check_equal(fresh_index(catalog, **SMALL_SHARDS), catalog)


def spoil(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
        return
    if how == "flipped":
        content[len(content) // 2] ^= 0x10
    elif how == "flipped at the end":
        content[-20] ^= 0x01
    elif how == "torn":
        del content[len(content) // 3 :]
    elif how == "empty":
        content.clear()
    elif how == "longer":
        content += bytes(100)
    elif how == "zeros":
        content[:] = bytes(len(content))
    path.write_bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["gone", "flipped", "flipped at the end", "torn", "empty", "longer", "zeros"])
@pytest.mark.parametrize("which", first_quick([0, 1, 2]))
def test_a_spoilt_file_is_never_trusted(catalog: Catalog, how: str, which: int) -> None:
    fill(catalog, 6)
    index = fresh_index(catalog, **SMALL_SHARDS)
    fill(catalog, 2, first=6)
    index.refresh(catalog)
    index.save()
    assert len(files(catalog)) == 3  # a sealed shard, the tail, the manifest
    spoil(files(catalog)[which], how)
    again = fresh_index(catalog, **SMALL_SHARDS)
    check_equal(again, catalog)
    again.save()
    check_equal(fresh_index(catalog, **SMALL_SHARDS), catalog)


def test_a_flipped_bit_of_the_manifest_is_harmless(catalog: Catalog, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    fill(catalog, 6)
    fresh_index(catalog, **SMALL_SHARDS).save()
    manifest = catalog.directory / "index" / "segments.json"
    whole = manifest.read_bytes()
    for at in range(0, len(whole), 11):
        manifest.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        check_equal(fresh_index(catalog, **SMALL_SHARDS), catalog)


@pytest.mark.parametrize(
    "text",
    ["[]", "{}", "null", '{"shards": 5}', '{"format": 1, "catalog": "", "fingerprint": ""}', "\ud800", "[" * 9999],
)
def test_a_manifest_of_another_shape_is_not_used(catalog: Catalog, text: str) -> None:
    fill(catalog, 2)
    fresh_index(catalog).save()
    (catalog.directory / "index" / "segments.json").write_bytes(text.encode(errors="surrogatepass"))
    check_equal(fresh_index(catalog), catalog)


def test_a_manifest_reaches_no_file_outside_its_folder_and_no_shard_twice(catalog: Catalog) -> None:
    fill(catalog, 2)
    index = fresh_index(catalog)
    index.save()
    path = catalog.directory / "index" / "segments.json"
    manifest = json.loads(path.read_text())
    (name,) = manifest["shards"]
    manifest["shards"] = [f"../index/{name}", "/etc/passwd", name, name]
    path.write_text(json.dumps(manifest))
    check_equal(fresh_index(catalog), catalog)


@pytest.mark.parametrize("key", ["catalog", "fingerprint", "format"])
def test_files_of_another_catalog_space_or_format_are_not_used(catalog: Catalog, key: str) -> None:
    fill(catalog, 2)
    fresh_index(catalog).save()
    path = catalog.directory / "index" / "segments.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {key: "other"}))
    index = fresh_index(catalog)
    assert index._tail is not None
    assert index._tail.name is None  # not from a file
    check_equal(index, catalog)


def test_a_catalog_put_back_from_a_copy_does_not_meet_files_of_its_future(catalog: Catalog, tmp_path: Path) -> None:
    fill(catalog, 2)
    catalog.close()
    copy = (tmp_path / "catalog.sqlite").read_bytes()
    with Catalog.open_writer(tmp_path) as future:
        put_vectors(future, "future", random_vectors(10, 90))
        fresh_index(future).save()
    (tmp_path / "catalog.sqlite").write_bytes(copy)
    with Catalog.open_writer(tmp_path) as past:
        put_vectors(past, "other", random_vectors(10, 91))  # has the row and the ids that "future" had
        check_equal(fresh_index(past), past)


def test_an_index_that_cannot_be_saved_is_logged_and_no_failure(
    catalog: Catalog, caplog: pytest.LogCaptureFixture
) -> None:
    fill(catalog, 2)
    index = fresh_index(catalog)
    (catalog.directory / "index").write_text("in the way")
    index.save()
    assert "index not saved" in caplog.text
    check_equal(fresh_index(catalog), catalog)


def test_a_refresh_that_fails_half_way_is_made_good_by_the_next(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(catalog, 3)
    index = fresh_index(catalog)
    fill(catalog, 3, first=3)
    honest = Catalog.row_ids
    with monkeypatch.context() as patched:
        patched.setattr(Catalog, "row_ids", lambda self, kind, row: 1 / 0 if row == 5 else honest(self, kind, row))
        with pytest.raises(ZeroDivisionError):
            index.refresh(catalog)
    index.refresh(catalog)
    check_equal(index, catalog)


@pytest.mark.slow
def test_a_process_killed_while_saving_leaves_files_that_are_right_or_not_used(catalog: Catalog) -> None:
    put_vectors(catalog, "video0", random_vectors(5000, 0))
    code = (
        "import sys; from pathlib import Path; from serve.catalog.catalog import Catalog\n"
        "from serve.index.faiss_index import VectorIndex\n"
        "catalog = Catalog.open_reader(Path(sys.argv[1]))\n"
        f"index = VectorIndex(Path(sys.argv[1]), 'segments', '{FINGERPRINT}')\n"
        "index.refresh(catalog); print('ready', flush=True)\n"
        "while True:\n    index._tail.name = None; index.save()\n"
    )
    for n in range(6):
        command = [sys.executable, "-c", code, str(catalog.directory)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            try:
                process.wait(timeout=0.003 * n)
            except subprocess.TimeoutExpired:
                process.kill()
        check_equal(fresh_index(catalog), catalog)
