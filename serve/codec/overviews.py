"""What a server lists of itself <-> kinodex.v1: collections."""

from kinodex.v1 import library_service_pb2 as library
from serve.codec.fields import duration_message, duration_value, escape_surrogates
from serve.codec.violations import Violations
from serve.overview import CollectionSummary

DEFAULT_COLLECTION_COUNT, MAX_COLLECTION_COUNT = 100, 1_000  # on a page


def collection_listing(request: library.ListCollectionsRequest) -> int:
    """Read the size of a page of collections; raises RequestInvalid."""
    violations = Violations()
    page_size = violations.read_page_size(request.page_size, DEFAULT_COLLECTION_COUNT, MAX_COLLECTION_COUNT)
    violations.check()
    return page_size


def collection_message(summary: CollectionSummary) -> library.Collection:
    return library.Collection(
        collection=escape_surrogates(summary.collection),
        video_count=summary.video_count,
        live_count=summary.live_count,
        processing_count=summary.processing_count,
        failed_count=summary.failed_count,
        duration=duration_message(summary.duration_seconds),
        live_size_bytes=summary.live_size_bytes,
    )


def collection_value(message: library.Collection) -> CollectionSummary:
    return CollectionSummary(
        collection=message.collection,
        video_count=message.video_count,
        live_count=message.live_count,
        processing_count=message.processing_count,
        failed_count=message.failed_count,
        duration_seconds=duration_value(message.duration),
        live_size_bytes=message.live_size_bytes,
    )
