"""OverviewCalls: the client's calls about what a server holds and does."""

import itertools
import uuid
from collections.abc import Iterator

from kinodex.v1 import library_service_pb2 as library
from kinodex.v1 import server_service_pb2 as server
from serve.client.connection import LIST_PAGE_SIZE, Connection
from serve.codec.fields import escape_surrogates, span_message
from serve.codec.overviews import collection_value, job_value, server_info_value, stream_value
from serve.codec.timelines import curve_value, storyboard_value, write_curve_request
from serve.overview import CollectionSummary, JobStatus, ServerInfo, StreamStatus
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

    def streams(self, collection: str = "", *, include_ended: bool = False) -> Iterator[StreamStatus]:
        """Yield the live streams of a collection, or of all that the token may read, by collection and id."""
        pages = self._pages(
            self._server.ListStreams,
            lambda token: server.ListStreamsRequest(
                collection=escape_surrogates(collection),
                include_ended=include_ended,
                page_size=LIST_PAGE_SIZE,
                page_token=token,
            ),
            lambda page: list(map(stream_value, page.streams)),
        )
        return itertools.chain.from_iterable(pages)

    def jobs(self, collection: str = "", *, own: bool = False) -> Iterator[JobStatus]:
        """Yield the jobs to index videos, the oldest first: those that wait, run, or failed lately.

        Args:
            collection: Only of this collection; empty: of all that the token may read.
            own: Whether to leave out what others asked for.
        """
        pages = self._pages(
            self._server.ListJobs,
            lambda token: server.ListJobsRequest(
                collection=escape_surrogates(collection), own=own, page_size=LIST_PAGE_SIZE, page_token=token
            ),
            lambda page: list(map(job_value, page.jobs)),
        )
        return itertools.chain.from_iterable(pages)

    def job(self, video_id: str, collection: str = "") -> JobStatus:
        """Return the job of a video. Takes the whole id.

        Raises:
            ServerFailed: With reason JOB_NOT_FOUND if there is none.
        """
        request = server.GetJobRequest(video_id=escape_surrogates(video_id), collection=escape_surrogates(collection))
        return self._call(self._server.GetJob, request, lambda response: job_value(response.job))

    def cancel_job(self, video_id: str, collection: str = "") -> None:
        """End the job of a video, or forget one that failed. A READY version of the video stays. Raises as job()."""
        request = server.CancelJobRequest(
            video_id=escape_surrogates(video_id), collection=escape_surrogates(collection), request_id=str(uuid.uuid4())
        )
        self._call(self._server.CancelJob, request, lambda _: None)

    def server_info(self) -> ServerInfo:
        """Return the state of the server. With tokens, it takes one for all collections that may write."""
        return self._call(self._server.GetServerInfo, server.GetServerInfoRequest(), server_info_value)
