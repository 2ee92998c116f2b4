"""LoadedLibrary: the library that a server answers from at present, and its feed from Kafka.

The services and the life cycle of the server (serve.api.server) share it.
"""

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from encoders.batching import TextVectors
from ingest.errors import BrokerUnavailable
from serve.catalog.catalog import Catalog
from serve.errors import IndexUnavailable, ServerNotReady, VideoIsLive
from serve.moderation.followers import Followers
from serve.observe.metrics import ServerMetrics
from serve.search.library import Library

if TYPE_CHECKING:
    from serve.live.feed import Feed

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0  # when to come back to a server that loads


class LoadedLibrary:
    """The library in memory, or none while the server loads. The server sets it; any thread may use it."""

    def __init__(self, reader: Catalog, followers: Followers) -> None:
        """Begin without a library; `reader` is the catalog, and the followers are woken when the videos change."""
        self._reader, self._followers = reader, followers
        self.library: Library | None = None  # None: loading
        self.feed: Feed | None = None  # None: without Kafka, or not connected yet

    def require(self) -> Library:
        """Return the library.

        Raises:
            ServerNotReady: While it is loading.
        """
        if self.library is None:
            raise ServerNotReady("loading", RETRY_SECONDS)
        return self.library

    def is_behind(self) -> bool:
        """Whether live videos may be older than those on Kafka, because it is away or not read to its end yet."""
        return self.feed is not None and self.feed.is_behind

    def has_other_encoders(self) -> bool:
        """Whether the catalog was reindexed with other encoders than those in memory."""
        space = self._reader.space()
        return self.library is not None and space is not None and space != self.library.encoders.space

    def refresh(self) -> None:
        """Bring the indexes up to the catalog, and have the followers look at the videos."""
        if self.library is not None:
            with suppress(IndexUnavailable):  # logged where it happens; questions retry it and report it
                self.library.engine.refresh()
        self._followers.wake()

    def delete_live(self, collection: str, video_id: str, timeout_seconds: float) -> None:
        """Delete a live video here and on every other server.

        Raises:
            VideoIsLive: If this server is not connected to Kafka.
            BrokerUnavailable: If Kafka does not acknowledge the deletion in time; then nothing is changed.
        """
        if self.feed is None:
            raise VideoIsLive(video_id)
        try:
            self.feed.delete(collection, video_id, timeout_seconds)
        except BrokerUnavailable as error:
            logger.warning("deletion not published reason=%s", error)
            # The caller must not learn the brokers' addresses, or why they do not answer.
            raise BrokerUnavailable(("its brokers",), "nothing is changed", "come back later") from error

    def text_vectors(self) -> dict[str, TextVectors]:
        """Return the caches of encoded texts, by encoder."""
        if self.library is None:
            return {}
        engine = self.library.engine
        visual = {}
        if engine.visual is not None and engine.visual.texts is not engine.sentences:
            visual["visual"] = engine.visual.texts
        return {"sentence": engine.sentences, **visual}

    def measure(self, metrics: ServerMetrics) -> None:
        """Set the gauges of the library's size."""
        if self.library is None:
            return
        engine = self.library.engine
        metrics.videos.set(len(engine.videos))
        metrics.index_rows.labels("segments").set(len(engine.segment_index))
        metrics.index_rows.labels("utterances").set(len(engine.utterance_index))
        if engine.visual is not None:
            metrics.frame_cache_bytes.set(engine.visual.frames.size)
            metrics.frames_read_again_bytes.set(engine.visual.frames.size_read_again)
