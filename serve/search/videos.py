"""SearchableVideos: the videos of the catalog that answers may name, refreshed by what changed; for the engine."""

from collections import defaultdict
from collections.abc import Collection

from serve.catalog.catalog import Catalog
from serve.values import Video


class SearchableVideos:
    """The videos of one encoder space. The dicts are replaced, never changed: other threads may still read the old."""

    def __init__(self, fingerprint: str) -> None:
        self._fingerprint = fingerprint
        self.state: tuple[str, int] | None = None  # identity and generation of the catalog; None: not read yet
        self.by_row: dict[int, Video] = {}  # in the order of their URIs
        self.by_id: dict[str, list[Video]] = {}
        self.are_all = True  # False: the catalog has videos of other encoders, too

    def refresh(self, catalog: Catalog) -> tuple[Collection[int], Collection[Video]]:
        """Read what changed since the last call; return the rows of deleted videos, and the new videos.

        Call it within a snapshot.
        """
        state = (catalog.identity(), catalog.generation())
        before = self.by_row
        if not self._apply_changes(catalog, state):
            ready = catalog.changed_rows(self._fingerprint)
            self.by_row = {video.row: video for video in catalog.videos() if video.row in ready}
            by_id: dict[str, list[Video]] = defaultdict(list)
            for video in self.by_row.values():
                by_id[video.video_id].append(video)
            self.by_id = dict(by_id)
        if self.state != state:
            self.are_all = catalog.video_count() == len(self.by_row)
        self.state = state
        return before.keys() - self.by_row.keys(), [self.by_row[row] for row in self.by_row.keys() - before.keys()]

    def _apply_changes(self, catalog: Catalog, state: tuple[str, int]) -> bool:
        """Replace the videos that changed; return False if other changes need a full read: new, deleted, reordered."""
        if self.state is None or self.state[0] != state[0] or self.state[1] > state[1]:
            return False
        since = self.state[1]
        rows = catalog.changed_rows(self._fingerprint, since)
        if not rows.keys() <= self.by_row.keys() or catalog.ready_count(self._fingerprint) != len(self.by_row):
            return False
        changed = {video.row: video for video in catalog.changed_videos(since) if video.row in rows}
        if any(self.by_row[row].uri != video.uri for row, video in changed.items()):  # changes the order
            return False
        self.by_row = {**self.by_row, **changed}
        names = {video.video_id for video in changed.values()}
        self.by_id = {
            name: [self.by_row[video.row] for video in videos] if name in names else videos
            for name, videos in self.by_id.items()
        }
        return True
