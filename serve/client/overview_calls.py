"""OverviewCalls: the client's calls about what a server holds and does."""

import itertools
from collections.abc import Iterator

from kinodex.v1 import library_service_pb2 as library
from serve.client.connection import LIST_PAGE_SIZE, Connection
from serve.codec.fields import escape_surrogates, span_message
from serve.codec.overviews import collection_value
from serve.codec.timelines import curve_value, storyboard_value, write_curve_request
from serve.overview import CollectionSummary
from serve.timeline import SimilarityCurve, VideoStoryboard
from serve.values import Query
from temporal.values import TimeSpan


class OverviewCalls(Connection):
    """Calls that list, count and show. Client adds questions and changes."""

    def storyboard(
        self, video_id: str, span: TimeSpan | None = None, picture_count: int = 60, collection: str = ""
    ) -> VideoStoryboard:
        """Return the times of pictures that show a part of a video evenly, for frame().

        Args:
            span: The part; None: the whole video.
            picture_count: The most pictures: 1 to 1000.
        """
        request = library.GetStoryboardRequest(
            video_id=escape_surrogates(video_id),
            collection=escape_surrogates(collection),
            span=None if span is None else span_message(span.start_seconds, span.end_seconds),
            picture_count=picture_count,
        )
        return self._call(self._library.GetStoryboard, request, storyboard_value)

    def similarity_curve(
        self,
        query: Query,
        video_id: str,
        collection: str = "",
        *,
        span: TimeSpan | None = None,
        point_count: int = 500,
    ) -> SimilarityCurve:
        """Return how close a video is to a question along its time, with the moments found. The filter does not count.

        Args:
            video_id: The video's whole id.
            span: The part; None: the whole video.
            point_count: The most points of the visual curve: 1 to 2000.
        Raises:
            RequestInvalid: As Client.search().
        """
        request = write_curve_request(query, video_id, collection, span, point_count)
        return self._call(self._search.GetSimilarityCurve, request, curve_value)

    def collections(self) -> Iterator[CollectionSummary]:
        """Yield the collections that the token may read, by name, with what they hold."""
        pages = self._pages(
            self._library.ListCollections,
            lambda token: library.ListCollectionsRequest(page_size=LIST_PAGE_SIZE, page_token=token),
            lambda page: list(map(collection_value, page.collections)),
        )
        return itertools.chain.from_iterable(pages)
