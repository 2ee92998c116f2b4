"""Rows of live videos in memory, and indexes, equal those of the catalog, however the videos change."""

import random
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from serve.catalog.catalog import Catalog, Kind
from serve.catalog.rows import words_of
from serve.index.faiss_index import VectorIndex
from serve.index.halves import Halves, HalvesOnDemand, JoinedHalves
from serve.live.live_rows import LiveRows
from serve.search.caches import RowCache
from serve.search.pooling import Traits, pool, softmax_mean, softmax_mean_of_pools
from serve.search.video_rows import FrameBlock, FrameReader, Transcript, VideoFrames, read_transcript
from serve.search.videos import SearchableVideos
from support.marks import first_quick
from support.random_streams import Streams, check_index
from support.sample_catalog import FINGERPRINT, WIDTH, put_vectors
from support.sample_live import live_segment
from support.sample_vectors import QUERIES, SMALL_SHARDS, random_vectors

KINDS: tuple[Kind, ...] = ("segments", "utterances")


@pytest.fixture
def live(catalog: Catalog) -> LiveRows:
    return LiveRows(catalog, FINGERPRINT)


class Follower:
    """Holds everything that an engine holds in memory of one catalog, and compares it with the catalog."""

    def __init__(self, catalog: Catalog, *, seals_in_background: bool = False, **sizes: int) -> None:
        self.catalog = catalog
        self.known = SearchableVideos(FINGERPRINT)
        self.frames = FrameReader(catalog, 1 << 30)
        self.said: RowCache[int, Transcript] = RowCache(partial(read_transcript, catalog), len, 1 << 30)
        self.indexes = {
            kind: VectorIndex(catalog.directory, kind, FINGERPRINT, seals_in_background=seals_in_background, **sizes)
            for kind in KINDS
        }

    def check(self) -> None:
        with self.catalog.snapshot():
            self.known.refresh(self.catalog)
            assert list(self.known.by_row.values()) == self.catalog.videos()
            assert {id(one) for found in self.known.by_id.values() for one in found} == set(
                map(id, self.known.by_row.values())
            )
            for video in self.known.by_row.values():
                self.check_video(video.row, video.version)
            for kind, index in self.indexes.items():
                index.refresh(self.catalog)
                check_index(index, self.catalog, kind)

    def check_video(self, row: int, version: int) -> None:
        frames, stored = self.frames.get(row, version), self.catalog.frames(row)
        assert np.array_equal(frames.pts_seconds, stored.pts_seconds)
        assert np.array_equal(frames.epochs, stored.epochs)
        if len(stored.vectors):
            assert np.array_equal(frames.vectors.take(np.arange(len(frames))), stored.vectors)
        said, heard = self.said.get(row, version), self.catalog.utterances(row, with_words=False)
        assert said.utterances == heard
        places = self.catalog.locate("utterances", self.catalog.row_ids("utterances", row)[0].tolist())
        assert places == [(row, position) for position in said.positions.tolist()]
        rows = self.catalog.utterances_at(places)
        assert [replace(one.utterance, words=words_of(one.words)) for one in rows] == self.catalog.utterances(row)
        assert np.array_equal([one.vector for one in rows], self.catalog.utterance_vectors(row)) or not heard
        for n, (before, after) in enumerate(self.catalog.utterances_around(places, 2)):
            assert [one.position for one in before] == [one.position for one in rows[max(0, n - 2) : n]]
            assert [one.position for one in after] == [one.position for one in rows[n + 1 : n + 3]]


@pytest.mark.slow
@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("seed", first_quick(range(6)))
def test_follows_live_videos_through_everything(catalog: Catalog, live: LiveRows, seed: int) -> None:
    choice = random.Random(seed)
    streams, follower = Streams(live, choice), Follower(catalog, **SMALL_SHARDS)
    for step in range(60):
        for _ in range(choice.choice([1, 1, 4])):
            streams.step()
        if choice.random() < 0.1:
            put_vectors(catalog, f"file{choice.randrange(4)}", random_vectors(choice.randrange(1, 30), step))
        if choice.random() < 0.05 and catalog.videos(video_ids=["file1"]):
            catalog.delete("file1")
        follower.check()
        if step % 13 == 0:
            follower.indexes["segments"].save()
            another = VectorIndex(catalog.directory, "segments", FINGERPRINT, **SMALL_SHARDS)
            another.refresh(catalog)
            check_index(another, catalog, "segments")
        if step == 30:
            # A new index begins with the files.
            follower.indexes["segments"] = VectorIndex(catalog.directory, "segments", FINGERPRINT, **SMALL_SHARDS)


@pytest.mark.slow
@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("seed", first_quick(range(4)))
def test_a_tail_is_sealed_in_the_background_while_videos_change(
    catalog: Catalog, reader: Catalog, live: LiveRows, seed: int
) -> None:
    choice = random.Random(seed)
    streams, follower = Streams(live, choice), Follower(reader, seals_in_background=True, **SMALL_SHARDS)
    live.apply([live_segment(0)], {})
    follower.check()
    sealed_count = 0
    for n in range(60):
        for _ in range(choice.choice([1, 4])):
            streams.step()
        if choice.random() < 0.2:
            put_vectors(catalog, f"file{n % 4}", random_vectors(choice.randrange(1, 30), n))
        follower.check()
        sealer = follower.indexes["segments"]._sealer
        if sealer is not None and choice.random() < 0.5:
            sealer.join()
            sealed_count += 1
    assert sealed_count
    for index in follower.indexes.values():
        index.close()


@pytest.mark.usefixtures("small_blocks")
def test_a_change_reads_only_what_changed(catalog: Catalog, live: LiveRows, monkeypatch: pytest.MonkeyPatch) -> None:
    live.apply([live_segment(n) for n in range(40)], {})
    follower = Follower(catalog)
    follower.check()
    (video,) = catalog.videos()
    before = follower.frames.get(video.row, video.version)
    vectors = before.vectors.take(np.arange(len(before)))
    read: list[int] = []
    honest = Catalog.vectors_by_id

    def note(self: Catalog, kind: Kind, ids: list[int]) -> object:
        read.append(len(ids))
        return honest(self, kind, ids)

    monkeypatch.setattr(Catalog, "vectors_by_id", note)
    live.apply([live_segment(40)], {})
    index = follower.indexes["segments"]
    index.refresh(catalog)
    assert read == [1]
    (video,) = catalog.videos()
    after = follower.frames.get(video.row, video.version)
    assert len(after) == len(before) + 8
    shared = [block for block in after.blocks if after.blocks[block] is before.blocks.get(block)]
    assert len(shared) == len(before.blocks) == len(after.blocks) - 1
    assert np.array_equal(before.vectors.take(np.arange(len(before))), vectors)  # unchanged


def test_files_of_an_index_are_not_trusted_about_live_rows(catalog: Catalog, live: LiveRows, tmp_path: Path) -> None:
    live.apply([live_segment(n) for n in range(30)], {})
    catalog.close()
    copy = (tmp_path / "catalog.sqlite").read_bytes()
    with Catalog.open_writer(tmp_path) as future:
        LiveRows(future, FINGERPRINT).apply([live_segment(n) for n in range(30, 80)], {})
        index = VectorIndex(tmp_path, "segments", FINGERPRINT, **SMALL_SHARDS)
        index.refresh(future)
        index.save()
    (tmp_path / "catalog.sqlite").write_bytes(copy)
    with Catalog.open_writer(tmp_path) as past:
        # Other segments, with the ids that those had.
        LiveRows(past, FINGERPRINT).apply([live_segment(n, epoch=1, epoch_start=500.0) for n in range(20)], {})
        again = VectorIndex(tmp_path, "segments", FINGERPRINT, **SMALL_SHARDS)
        again.refresh(past)
        check_index(again, past, "segments")


def test_frames_out_of_order_are_left_out() -> None:
    def block(*seconds: float) -> FrameBlock:
        halves = Halves([np.arange(len(seconds) * WIDTH, dtype=np.float16).reshape(-1, WIDTH)])
        return FrameBlock(
            epochs=np.zeros(len(seconds), np.int32),
            pts_seconds=np.array(seconds, np.float64),
            vectors=HalvesOnDemand(len(seconds), WIDTH, lambda: halves),
            traits=Traits(),
        )

    whole = VideoFrames(1, {0: block(0, 1, 2), 1: block(2, 3, 3, 4)})
    assert whole.pts_seconds.tolist() == [0, 1, 2, 3, 4]
    assert len(whole) == 5
    assert whole.vectors.take(np.arange(5))[:, 0].tolist() == [0, WIDTH, 2 * WIDTH, WIDTH, 3 * WIDTH]
    right = {0: block(0, 1, 2), 1: block(3, 4)}
    assert VideoFrames(1, right).blocks is right
    assert len(VideoFrames(1, {})) == 0


@pytest.mark.slow
def test_a_cache_that_is_too_small_keeps_a_part_of_the_blocks(
    live: LiveRows, catalog: Catalog, caplog: pytest.LogCaptureFixture
) -> None:
    """Each question reads all blocks in turn: a cache of the most recently used would keep none for the next one."""
    count = 64 * 8  # eight blocks
    live.apply([live_segment(index, is_last=index == count - 1) for index in range(count)], {})
    [video] = catalog.videos()
    whole = catalog.frames(video.row)
    size = whole.vectors.nbytes // 2  # as float16
    reader = FrameReader(catalog, size)
    expected = whole.vectors @ QUERIES[0][: whole.vectors.shape[1]]

    def ask() -> int:
        before = reader.size_read_again
        frames = reader.get(video.row, video.version)
        assert np.allclose(frames.vectors.dot(QUERIES[0]), expected, atol=1e-3)
        return reader.size_read_again - before

    assert ask() == 0
    read = [ask() for _ in range(4)]
    assert reader.vectors.size <= reader.vectors.max_size < size
    assert all(0 < each <= size // 4 for each in read), "what has no room is read again, and nothing else"
    for _ in range(4):
        ask()
    assert [record.getMessage().split(",")[0] for record in caplog.records] == ["frame cache too small"]
    reader.discard([video.row])
    assert reader.size == 0


def test_joined_halves_equal_one_array() -> None:
    halves = random_vectors(50, 1).astype(np.float16)
    vectors = halves.astype(np.float32)
    joined = JoinedHalves(map(Halves, ([halves[:7]], [], [halves[7:7]], [halves[7:20], halves[20:30]], [halves[30:]])))
    assert (len(joined), joined.nbytes) == (50, halves.nbytes)
    assert np.allclose(joined.dot(QUERIES[0]), vectors @ QUERIES[0], atol=1e-6)
    for places in ([0, 6, 7, 29, 30, 49], [8, 9], [49], range(50)):
        assert np.array_equal(joined.take(np.array(places)), vectors[places])
    for wanted in (slice(0, 50), slice(3, 5), slice(6, 31), slice(29, 30)):
        assert np.allclose(joined.sum(wanted), vectors[wanted].sum(axis=0), atol=1e-5)
    assert len(JoinedHalves([]).dot(QUERIES[0])) == 0


def test_halves_may_be_empty() -> None:
    for shape in ((0, 0), (0, 8), (3, 0)):
        assert Halves([np.empty(shape, np.float16)]).to_float32().shape == shape


def test_pools_of_parts_give_the_softmax_mean_of_all() -> None:
    scores = random_vectors(60, 3) @ QUERIES.T
    for temperature in (0.01, 0.2):
        parts = [pool(part, temperature) for part in np.split(scores, [5, 6, 40])]
        assert np.allclose(softmax_mean_of_pools(parts, temperature), softmax_mean(scores, temperature), atol=1e-5)
