"""Room: whether a collection may take another video by its quota (server.quotas)."""

from serve.catalog.catalog import Catalog
from serve.config import Quotas
from serve.errors import QuotaExceeded

HOUR_SECONDS = 3600.0


class Room:
    """The room that quotas leave in the collections of a catalog."""

    def __init__(self, catalog: Catalog, quotas: Quotas) -> None:
        self.catalog, self.quotas = catalog, quotas

    def require(self, collection: str, video_id: str = "") -> None:
        """Check that a collection may take a new video, or a new version of the video of an id.

        Videos that wait to be indexed count, but their lengths are not known yet: see require_length().

        Raises:
            QuotaExceeded: If not.
        """
        quota = self.quotas.of(collection)
        if quota is None:
            return
        [(count,)] = self.catalog.select(
            "SELECT count(*) FROM"
            " (SELECT video_id FROM videos WHERE collection = ?1 AND state = 'READY' AND video_id != ?2"
            " UNION SELECT video_id FROM jobs WHERE collection = ?1 AND state != 'FAILED' AND video_id != ?2)",
            collection, video_id,
        )  # fmt: skip
        if count >= quota.video_count:
            raise QuotaExceeded(collection, f"{count} of {quota.video_count:g} videos")
        self.require_length(collection, video_id)

    def require_length(self, collection: str, video_id: str) -> None:
        """Check that a collection has fewer hours than it may have, without the video of an id.

        Raises:
            QuotaExceeded: If not.
        """
        quota = self.quotas.of(collection)
        if quota is None:
            return
        [(seconds,)] = self.catalog.select(
            "SELECT coalesce(sum(duration_seconds), 0.0) FROM videos"
            " WHERE collection = ?1 AND state = 'READY' AND video_id != ?2",
            collection, video_id,
        )  # fmt: skip
        if seconds >= quota.length_seconds:
            hours, most = seconds / HOUR_SECONDS, quota.length_seconds / HOUR_SECONDS
            raise QuotaExceeded(collection, f"{hours:.1f} of {most:g} hours")
