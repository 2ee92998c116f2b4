"""HeldRows finds exactly the rows that an index must remove and add to hold what the catalog holds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from serve.catalog.catalog import Catalog, Kind
from serve.catalog.live_blocks import LiveIds
from serve.config import Limit, Retention
from serve.index import changes as changes_module
from serve.index.changes import HeldRows, IdsAndStamps, IndexChanges, read_rows
from serve.live.live_rows import LiveRows, Tombstone
from support.sample_catalog import FINGERPRINT, put, put_vectors
from support.sample_live import STARTED, live_segment
from support.sample_vectors import fill, random_vectors


class RowIndex:
    """An index that holds only the video and the stamp of each row, and refuses a wrong change."""

    def __init__(self, kind: Kind = "segments", read_row_count: int = 10_000) -> None:
        self.held = HeldRows(kind, FINGERPRINT, read_row_count=read_row_count)
        self.rows: dict[int, tuple[int, float]] = {}
        self.load_count = 0

    def find_changes(self, catalog: Catalog) -> IndexChanges | None:
        with catalog.snapshot():
            return self.held.find_changes(catalog, self._load, self._load_live)

    def apply(self, catalog: Catalog, changes: IndexChanges) -> None:
        gone = set(changes.gone_ids.tolist())
        self.rows = {
            key: (owner, stamp)
            for key, (owner, stamp) in self.rows.items()
            if owner not in changes.gone_videos and key not in gone
        }
        for part in self.held.read_new_rows(catalog, changes):
            assert not self.rows.keys() & set(part.ids.tolist())  # nothing is added twice
            self.rows |= dict(
                zip(part.ids.tolist(), zip(part.owners.tolist(), part.stamps.tolist(), strict=True), strict=True)
            )
        self.held.mark_done(changes)

    def refresh(self, catalog: Catalog) -> IndexChanges:
        changes = self.find_changes(catalog)
        assert changes is not None
        self.apply(catalog, changes)
        self.check(catalog)
        return changes

    def check(self, catalog: Catalog) -> None:
        videos = catalog.changed_rows(FINGERPRINT)
        expected = {row: set(catalog.row_ids(self.held.kind, row)[0].tolist()) for row in videos}
        assert self.held.videos == videos.keys()
        assert {key: owner for key, (owner, _) in self.rows.items()} == {
            key: row for row, keys in expected.items() for key in keys
        }
        rows = [(key, owner, stamp) for key, (owner, stamp) in self.rows.items()]
        assert self.held.are_held(rows).all()
        assert not self.held.are_held([(10**9, 10**9, 1.0)]).any()

    def _load(self, catalog: Catalog) -> Mapping[int, float]:
        self.load_count += 1
        return dict(self.rows.values())

    def _load_live(self, rows: Sequence[int]) -> Mapping[int, IdsAndStamps]:
        return {
            row: (
                np.array([key for key, (owner, _) in self.rows.items() if owner == row], np.int64),
                np.array([stamp for owner, stamp in self.rows.values() if owner == row]),
            )
            for row in rows
        }


@pytest.fixture
def live(catalog: Catalog) -> LiveRows:
    return LiveRows(catalog, FINGERPRINT)


# ---- files


def test_the_first_comparison_adds_all_rows_of_the_encoder_space_and_kind(catalog: Catalog) -> None:
    rows = fill(catalog, 3)
    put_vectors(catalog, "other", random_vectors(4, 50), fingerprint="other")
    put(catalog, "spoken", "one", "two")
    index = RowIndex()
    changes = index.refresh(catalog)
    assert changes.is_first
    assert set(rows) < set(changes.new_files)
    assert (changes.gone_videos, changes.gone_ids.tolist()) == (frozenset(), [])
    assert len(index.rows) == 30
    utterances = RowIndex("utterances")
    utterances.refresh(catalog)
    assert len(utterances.rows) == 2


def test_an_unchanged_catalog_has_no_changes(catalog: Catalog) -> None:
    fill(catalog, 2)
    index = RowIndex()
    index.refresh(catalog)
    assert index.find_changes(catalog) is None
    assert index.load_count == 1


def test_later_comparisons_name_only_what_changed(catalog: Catalog) -> None:
    rows = fill(catalog, 3)
    index = RowIndex()
    index.refresh(catalog)
    (new,) = fill(catalog, 1, first=3)
    changes = index.refresh(catalog)
    assert (changes.is_first, changes.new_files, changes.gone_videos) == (False, (new,), frozenset())
    catalog.delete("video1")
    changes = index.refresh(catalog)
    assert (changes.new_files, changes.gone_videos) == ((), {rows[1]})
    (replaced,) = fill(catalog, 1)
    changes = index.refresh(catalog)
    assert (changes.new_files, changes.gone_videos) == ((replaced,), {rows[0]})
    assert index.load_count == 1


def test_a_change_that_was_not_applied_is_found_again_from_the_rows_that_are_there(catalog: Catalog) -> None:
    fill(catalog, 2)
    index = RowIndex()
    index.refresh(catalog)
    (new,) = fill(catalog, 1, first=2)
    assert index.find_changes(catalog) is not None  # the caller fails before mark_done()
    changes = index.refresh(catalog)
    assert changes.is_first
    assert changes.new_files == (new,)
    assert index.load_count == 2


def test_loaded_rows_with_another_stamp_are_replaced(catalog: Catalog) -> None:
    wrong, right = fill(catalog, 2)
    index = RowIndex()
    ids, _ = catalog.row_ids("segments", right)
    index.rows = {int(key): (right, catalog.changed_rows(FINGERPRINT)[right].indexed_time) for key in ids}
    index.rows |= {500: (wrong, 1.0), 501: (999, 2.0)}
    changes = index.refresh(catalog)
    assert (changes.gone_videos, changes.new_files) == ({wrong, 999}, (wrong,))


def test_another_catalog_or_an_older_copy_is_compared_from_the_start(catalog: Catalog, tmp_path: Path) -> None:
    fill(catalog, 2)
    catalog.close()
    copy = (tmp_path / "catalog.sqlite").read_bytes()
    index = RowIndex()
    with Catalog.open_writer(tmp_path) as newer:
        put_vectors(newer, "newer", random_vectors(3, 9))
        index.refresh(newer)
    (tmp_path / "catalog.sqlite").write_bytes(copy)
    with Catalog.open_writer(tmp_path) as older:
        assert index.refresh(older).is_first
    with Catalog.open_writer(tmp_path / "other") as other:
        put_vectors(other, "other", random_vectors(3, 9))
        assert index.refresh(other).is_first
    assert index.load_count == 3


def test_rows_are_read_in_parts_and_those_without_a_vector_left_out(catalog: Catalog) -> None:
    fill(catalog, 5, rows_each=4)
    index = RowIndex(read_row_count=6)
    changes = index.find_changes(catalog)
    assert changes is not None
    assert [len(part.ids) for part in index.held.read_new_rows(catalog, changes)] == [8, 8, 4]
    row = changes.new_files[0]
    ids, vectors = catalog.row_ids("segments", row)
    wanted = np.array([*ids[::-1], 10**6])  # in any order; the last is not there
    parts = list(read_rows(catalog, "segments", wanted, np.full(5, row), np.arange(5.0), count=3))
    assert np.concatenate([part.ids for part in parts]).tolist() == ids.tolist()
    assert np.array_equal(np.concatenate([part.vectors for part in parts]), vectors)
    assert np.concatenate([part.stamps for part in parts]).tolist() == [3.0, 2.0, 1.0, 0.0]


def test_a_new_file_that_is_gone_before_it_is_read_is_left_out(catalog: Catalog) -> None:
    index = RowIndex()
    fill(catalog, 2)
    first = index.find_changes(catalog)
    assert first is not None
    index.held.mark_done(first)  # pending, as in MilvusIndex while Milvus is away
    catalog.delete("video0")
    second = index.find_changes(catalog)
    assert second is not None
    index.apply(catalog, first)
    index.apply(catalog, second)
    index.check(catalog)


# ---- live videos


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kind", ["segments", "utterances"])
def test_a_live_video_is_compared_block_by_block(
    catalog: Catalog, live: LiveRows, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    live.apply([live_segment(n) for n in range(12)], {})  # three blocks
    index = RowIndex(kind)
    index.refresh(catalog)
    compared: list[int | None] = []
    honest = changes_module.live_ids

    def note(catalog: Catalog, kind: Kind, row: int, block: int | None = None) -> LiveIds:
        compared.append(block)
        return honest(catalog, kind, row, block)

    monkeypatch.setattr(changes_module, "live_ids", note)
    before = set(index.rows)
    live.apply([live_segment(12)], {})
    changes = index.refresh(catalog)
    assert set(np.concatenate(changes.ids).tolist()) == index.rows.keys() - before
    assert (changes.gone_ids.tolist(), changes.new_files, changes.gone_videos) == ([], (), frozenset())
    assert compared == [3]
    before = set(index.rows)
    live.apply([Tombstone(segment_id="cam/0/5", collection="default")], {})
    changes = index.refresh(catalog)
    assert set(changes.gone_ids.tolist()) == before - index.rows.keys()
    assert len(changes.gone_ids) == 1
    assert compared == [3, 1]


@pytest.mark.usefixtures("small_blocks")
def test_blocks_of_the_old_end_are_removed_when_a_live_video_is_pruned(catalog: Catalog, live: LiveRows) -> None:
    live.apply([live_segment(n) for n in range(20)], {})
    index = RowIndex()
    index.refresh(catalog)
    live.prune(Retention(limits={"*": Limit(age_seconds=50)}), STARTED + 8 * 20, 1000)
    changes = index.refresh(catalog)
    assert len(changes.gone_ids) == 20 - len(index.rows) > 10
    live.delete("default", "cam", STARTED)
    changes = index.refresh(catalog)
    assert len(changes.gone_videos) == 1
    assert index.rows == {}


def test_loaded_rows_of_a_live_video_are_checked_by_their_stamps(catalog: Catalog, live: LiveRows) -> None:
    live.apply([live_segment(n) for n in range(10)], {})
    index = RowIndex()
    index.refresh(catalog)
    rows = dict(index.rows)
    (wrong, right), owner = sorted(rows)[:2], rows[min(rows)][0]
    again = RowIndex()
    again.rows = {wrong: (owner, 1.0), right: rows[right], 500: (owner, 1.0)}
    changes = again.refresh(catalog)
    assert changes.gone_ids.tolist() == [wrong, 500]
    assert sorted(np.concatenate(changes.ids).tolist()) == sorted(rows.keys() - {right})
    assert again.rows == rows
