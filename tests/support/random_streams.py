"""Live streams that change at random, and an index held against the catalog after each change."""

import random

import numpy as np

from serve.catalog.catalog import Catalog, Kind
from serve.config import Limit, Retention
from serve.index.faiss_index import VectorIndex
from serve.live.live_rows import DeletionRecord, LiveRows, Tombstone
from support.sample_catalog import FINGERPRINT
from support.sample_live import STARTED, live_segment
from support.sample_vectors import QUERIES, brute_force


class Streams:
    """Three cameras whose segments are added, revised, pruned and deleted at random."""

    def __init__(self, live: LiveRows, choice: random.Random) -> None:
        self.live, self.choice = live, choice
        self.next = {video_id: [0, 0, 0.0] for video_id in ("a", "b", "c")}  # epoch, index, epoch start

    def step(self) -> None:
        video_id = self.choice.choice(list(self.next))
        epoch, index, start = self.next[video_id]
        known = {"video_id": video_id, "epoch": int(epoch), "epoch_start": start}
        match self.choice.randrange(12):
            case 0:
                self.live.apply(
                    [Tombstone(segment_id=f"{video_id}/{int(epoch)}/{self.choice.randrange(8)}", collection="default")],
                    {},
                )
            case 1:
                at = STARTED + start + 8 * index * self.choice.random()
                self.live.apply([DeletionRecord(collection="default", video_id=video_id, append_time=at)], {})
            case 2:
                self.live.prune(Retention(limits={"*": Limit(age_seconds=100)}), STARTED + start + 8 * index + 60, 5)
            case 3 if index:
                self.next[video_id] = [epoch + 1, 0, start + 8 * index + 16]
            case 4:
                self.live.delete("default", video_id, STARTED)
            case _:
                late = max(0, int(index) - self.choice.randrange(6))
                segments = [live_segment(late, texts=["what", "was"][: self.choice.randrange(3)], **known)]  # type: ignore[arg-type]
                segments += [live_segment(int(index) + n, is_final=False, **known) for n in range(3)]  # type: ignore[arg-type]
                self.live.apply(segments, {})
                self.next[video_id][1] = index + 2


def check_index(index: VectorIndex, catalog: Catalog, kind: Kind) -> None:
    expected = sum(len(catalog.row_ids(kind, row)[0]) for row in catalog.changed_rows(FINGERPRINT))
    assert len(index) == expected
    if not expected:
        return
    ids, scores = index.search(QUERIES, 12)
    if kind == "segments":
        true_ids, true_scores = brute_force(catalog, QUERIES, 12)
        assert np.array_equal(ids, true_ids)
        assert np.allclose(scores, true_scores, atol=5e-4)  # FAISS rounds to float16 otherwise where it is a tie
    catalog.locate(kind, [int(key) for key in ids.ravel() if key >= 0])  # none is gone
