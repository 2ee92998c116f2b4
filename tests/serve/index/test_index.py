"""The index: equal to brute force over the catalog."""

from pathlib import Path

import numpy as np
import pytest

from serve.catalog.catalog import Catalog
from serve.index.faiss_index import VectorIndex
from support.sample_catalog import FINGERPRINT, WIDTH, put, put_vectors, put_version, unit
from support.sample_vectors import (
    FEW,
    MOST,
    QUERIES,
    SMALL_SHARDS,
    brute_force,
    check_equal,
    fill,
    fresh_index,
    random_vectors,
)

# ---- equal to brute force


def test_an_empty_library_answers_that_there_is_nothing(catalog: Catalog) -> None:
    index = fresh_index(catalog)
    ids, scores = index.search(QUERIES, 3)
    assert (ids == -1).all()
    assert np.isneginf(scores).all()
    assert len(index) == 0
    index.save()
    check_equal(fresh_index(catalog), catalog)


@pytest.mark.parametrize("videos", [1, 5, 30])
@pytest.mark.parametrize("sizes", [{}, SMALL_SHARDS])
def test_finds_what_brute_force_finds(catalog: Catalog, videos: int, sizes: dict[str, int]) -> None:
    rows = fill(catalog, videos)
    index = fresh_index(catalog, **sizes)
    assert len(index) == 10 * videos
    check_equal(index, catalog)
    check_equal(index, catalog, k=500)
    for chosen in (rows[:1], rows[::3], [], [999], [*rows, 999]):
        check_equal(index, catalog, rows=chosen)


def test_equal_scores_are_ordered_by_id(catalog: Catalog) -> None:
    for n in range(9):
        put_vectors(catalog, f"same{n}", np.repeat(QUERIES[:1], 10, axis=0))
    ids, _ = fresh_index(catalog, **SMALL_SHARDS).search(QUERIES[:1], 90)
    assert (np.diff(ids[0]) > 0).all()


def test_follows_the_catalog_through_new_replaced_and_deleted_videos(catalog: Catalog) -> None:
    index = VectorIndex(catalog.directory, "segments", FINGERPRINT, **SMALL_SHARDS)
    choice = np.random.default_rng(7)
    for step in range(40):
        video = f"video{choice.integers(25)}"
        if catalog.videos(video_ids=[video]) and choice.random() < 0.4:
            catalog.delete(video)
        else:
            put_vectors(catalog, video, random_vectors(int(choice.integers(0, 30)), step))
        if step % 3 == 0:  # several changes at once
            index.refresh(catalog)
            check_equal(index, catalog)
        if step % 10 == 0:
            index.save()
            check_equal(fresh_index(catalog, **SMALL_SHARDS), catalog)


def test_a_deleted_video_is_gone_from_the_next_answer(catalog: Catalog) -> None:
    rows = fill(catalog, 3)
    index = fresh_index(catalog)
    gone = set(catalog.row_ids("segments", rows[1])[0].tolist())
    catalog.delete("video1")
    index.refresh(catalog)
    assert not gone & set(index.search(QUERIES, 30)[0].ravel().tolist())
    assert len(index) == 20


def test_holds_only_rows_of_its_encoder_space_and_kind(catalog: Catalog) -> None:
    fill(catalog, 2)
    put_vectors(catalog, "other", random_vectors(4, 50), fingerprint="other")
    put(catalog, "spoken", "one", "two", "three")
    assert len(fresh_index(catalog)) == 20
    utterances = VectorIndex(catalog.directory, "utterances", FINGERPRINT)
    utterances.refresh(catalog)
    assert len(utterances) == 3
    ids, scores = utterances.search(np.eye(WIDTH, dtype=np.float32)[2:3], 1)
    assert catalog.locate("utterances", ids[0].tolist())[0][1] == 2
    assert scores[0, 0] == 1.0


def test_starts_anew_for_another_catalog(catalog: Catalog, tmp_path: Path) -> None:
    fill(catalog, 3)
    index = fresh_index(catalog)
    with Catalog.open_writer(tmp_path / "other") as other:
        put_vectors(other, "video0", random_vectors(10, 77))
        index.refresh(other)
        check_equal(index, other)


def test_refuses_queries_of_another_width(catalog: Catalog) -> None:
    fill(catalog, 1)
    index = fresh_index(catalog)
    for vectors, k in ((np.zeros((1, 3), np.float32), 1), (QUERIES[0], 1), (QUERIES, 0)):
        with pytest.raises(ValueError, match=r"vectors must be|k must be"):
            index.search(vectors, k)


# ---- sealing


def test_shards_grow_by_doubling_and_stay_within_their_bound(catalog: Catalog) -> None:
    index = VectorIndex(catalog.directory, "segments", FINGERPRINT, **SMALL_SHARDS)
    for n in range(30):
        fill(catalog, 1, first=n, rows_each=30)
        index.refresh(catalog)
    sizes = [shard.live_count for shard in index._sealed]
    assert max(sizes) <= MOST
    assert len(sizes) <= 8
    assert index._tail is None or index._tail.live_count <= FEW
    check_equal(index, catalog)
    assert [shard.live_count for shard in fresh_index(catalog, **SMALL_SHARDS)._sealed] == [
        MOST,
        MOST,
        MOST,
    ]  # built in one go


def test_a_shard_that_lost_more_than_a_third_is_made_anew(catalog: Catalog) -> None:
    fill(catalog, 30)
    index = fresh_index(catalog, **SMALL_SHARDS)
    (before,) = index._sealed
    for n in range(10):
        catalog.delete(f"video{n}")
    index.refresh(catalog)
    assert index._sealed == [before]
    catalog.delete("video10")
    index.refresh(catalog)
    (after,) = index._sealed
    assert after is not before
    assert len(after.ids) == after.live_count == 190
    check_equal(index, catalog)


@pytest.mark.slow
def test_sealed_shards_find_what_is_nearest_to_a_text_far_from_all(catalog: Catalog) -> None:
    rng = np.random.default_rng(5)
    texts, common = unit(rng.standard_normal((200, 64))), unit(rng.standard_normal(64))
    shown = rng.integers(200, size=20_000)
    vectors = 0.3 * texts[shown] + 0.6 * common + unit(rng.standard_normal((20_000, 64)))
    for n, some in enumerate(np.split(unit(vectors).astype(np.float32), 10)):
        put_vectors(catalog, f"video{n}", some)
    index = fresh_index(catalog, exact_row_count=1000)
    assert index._tail is None
    queries = texts.astype(np.float32)
    for k, least in ((10, 0.99), (512, 0.95)):
        found, _ = index.search(queries, k)
        true, _ = brute_force(catalog, queries, k)
        recall = np.mean([len(set(a) & set(b)) / k for a, b in zip(found.tolist(), true.tolist(), strict=True)])
        assert recall >= least


@pytest.mark.parametrize("left", [3, 50])
def test_when_the_nearest_of_a_sealed_shard_are_gone_the_others_are_found(catalog: Catalog, left: int) -> None:
    near = unit(QUERIES[:1] + 0.1 * random_vectors(100, 1))
    put_vectors(catalog, "near", near)
    fill(catalog, 1, rows_each=left)
    fill(catalog, 10, first=1, rows_each=20)
    index = fresh_index(catalog, exact_row_count=100)
    (shard,) = index._shards()
    assert shard.is_sealed
    shard.refined_count = 16
    catalog.delete("near")
    index.refresh(catalog)
    ids, scores = index.search(QUERIES[:1], 5)
    true_ids, true_scores = brute_force(catalog, QUERIES[:1], 5)
    assert np.array_equal(ids, true_ids)
    assert np.allclose(scores, true_scores, atol=5e-4)


def test_a_version_of_a_video_is_replaced_in_the_index_too(catalog: Catalog) -> None:
    put_version(catalog, "abc", 1)
    index = fresh_index(catalog)
    before = len(index)
    put_version(catalog, "abc", 2)
    index.refresh(catalog)
    assert (before, len(index)) == (3, 4)
    check_equal(index, catalog)
