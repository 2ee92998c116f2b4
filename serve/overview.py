"""Values that a server lists of itself: the collections it holds."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionSummary:
    """A collection, and what it holds."""

    collection: str
    video_count: int = 0  # READY videos, live ones included
    live_count: int = 0  # live streams that go on, among them
    processing_count: int = 0  # videos that wait or are being indexed
    failed_count: int = 0  # videos whose indexing failed lately
    duration_seconds: float = 0.0  # of all READY videos
    live_size_bytes: int = 0  # stored of live streams: pictures, vectors and words
