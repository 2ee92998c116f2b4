"""The videos that questions are asked about, as a catalog has them, brought up by what changed."""

from collections import defaultdict
from collections.abc import Collection

from serve.catalog.catalog import Catalog
from serve.values import Video


class SearchableVideos:
    """The videos of one encoder space. What is read here is replaced, never changed: others may still look at it."""

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self.state: tuple[str, int] | None = None  # identity and generation of the catalog they were read from
        self.by_row: dict[int, Video] = {}  # in the order of their URIs
        self.by_id: dict[str, list[Video]] = {}

    def refresh(self, catalog: Catalog) -> tuple[Collection[int], Collection[Video]]:
        """Read what changed since the last time; return the rows that are gone, and the videos that are new.

        Call it inside a snapshot.
        """
        state = (catalog.identity(), catalog.generation())
        before = self.by_row
        if not self._follow(catalog, state):
            ready = catalog.changed_rows(self.fingerprint)
            self.by_row = {video.row: video for video in catalog.videos() if video.row in ready}
            by_id: dict[str, list[Video]] = defaultdict(list)
            for video in self.by_row.values():
                by_id[video.video_id].append(video)
            self.by_id = dict(by_id)
        self.state = state
        return before.keys() - self.by_row.keys(), [self.by_row[row] for row in self.by_row.keys() - before.keys()]

    def _follow(self, catalog: Catalog, state: tuple[str, int]) -> bool:
        """Take over changes of videos that were there and are; False: there are others."""
        if self.state is None or self.state[0] != state[0] or self.state[1] > state[1]:
            return False
        since = self.state[1]
        rows = catalog.changed_rows(self.fingerprint, since)
        if not rows.keys() <= self.by_row.keys() or catalog.ready_count(self.fingerprint) != len(self.by_row):
            return False
        changed = {video.row: video for video in catalog.changed_videos(since) if video.row in rows}
        if any(self.by_row[row].uri != video.uri for row, video in changed.items()):  # another order
            return False
        self.by_row = {**self.by_row, **changed}
        names = {video.video_id for video in changed.values()}
        self.by_id = {
            name: [self.by_row[video.row] for video in found] if name in names else found
            for name, found in self.by_id.items()
        }
        return True
