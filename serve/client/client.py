"""The Python client of a kinodex server.

    from kinodex import Client, ClientConfig, Query

    with Client("localhost:8970", ClientConfig()) as client:
        video = client.wait(client.ingest("https://example.org/talk.mp4").video_id)
        answer = client.moments(Query(text="when does she mention Paris?"))

Every failure of the connection or the server is a serve.errors.ServerFailed.
"""

import hashlib
import itertools
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import grpc

from encoders.values import Utterance
from kinodex.v1 import library_service_pb2 as library
from kinodex.v1 import moderation_service_pb2 as moderation
from serve.background import Backoff
from serve.client.channel import (
    ATTEMPT_COUNT,
    FIRST_BACKOFF_SECONDS,
    MAX_BACKOFF_SECONDS,
    failure,
)
from serve.client.connection import LIST_PAGE_SIZE, PageResponse, Request
from serve.client.overview_calls import OverviewCalls
from serve.client.watch import WatchCall, keep_watching
from serve.codec.events import event_filter_message, event_value, write_review_request
from serve.codec.fields import (
    duration_message,
    duration_value,
    escape_surrogates,
    metadata_message,
    timestamp_message,
)
from serve.codec.messages import (
    moment_change_value,
    moments_answer,
    moments_request,
    search_answer,
    search_request,
    video_value,
    watch_request,
)
from serve.codec.outlines import outline_value
from serve.codec.utterances import speaker_values, utterance_value
from serve.errors import ServerFailed
from serve.event import Event, EventFilter, ReviewState
from serve.text import printable
from serve.values import Answer, MomentChange, Query, Speaker, Thresholds, VideoState, VideoStatus
from temporal.values import Outline

PAGE_SIZE = 100  # answers on a page; the API allows no more
BLOCK_BYTES = 256 << 10  # of each message of an upload: fills a fast network, and is far below gRPC's 4 MiB
POLL_SECONDS = 0.5  # between two looks at a video that is being indexed


class Client(OverviewCalls):
    """A connection to one server; threads may share it. Use it as a context manager, or close() it.

    A call is repeated for about three seconds while the server cannot be reached. Calls that change something carry a
    request id, so that the server makes each change once. An empty `collection` means any that has the video.
    """

    # ---- questions ----

    def search(self, query: Query) -> Answer:
        """Return the videos that answer, best first, at most `query.limit`.

        Raises:
            ServerFailed: As all methods do.
            RequestInvalid: If no request can carry the query: a picture above 8 MiB, say.
        """

        return self._ask(self._search.SearchVideos, search_request, search_answer, query)

    def moments(self, query: Query) -> Answer:
        """Return the moments that answer, best first, at most `query.limit`; raises as search()."""
        return self._ask(self._search.SearchMoments, moments_request, moments_answer, query)

    def watch_moments(self, query: Query, thresholds: Thresholds | None = None) -> Iterator[MomentChange]:
        """Yield the changes of matching moments in live videos, from now on, without end; raises as search().

        Uses the query's filter, text, picture and example. Changes before the call, or between two calls, are lost.
        """
        request = watch_request(query, thresholds or Thresholds())
        responses = self._search.WatchMoments(request, metadata=self._headers())
        try:
            for response in responses:
                if response.HasField("moment"):
                    yield self._read(partial(moment_change_value, response))
        except grpc.RpcError as error:
            raise failure(error, self._address, None) from error
        finally:
            responses.cancel()

    # ---- videos in and out ----

    def ingest(
        self,
        uri: str,
        *,
        collection: str = "default",
        video_id: str = "",
        metadata: Mapping[str, str] | None = None,
        recorded_time: float | None = None,
        request_id: str | None = None,
    ) -> VideoStatus:
        """Have the server fetch and index a video; wait() returns once it is indexed.

        Args:
            uri: http: or https:, or file: on the server's own machine, if its settings allow this.
            collection: The collection to add it to.
            video_id: Its id; empty: derived from collection and URI.
            metadata: Keys and values for filters.
            recorded_time: Start of the recording, seconds since 1970.
            request_id: The id of an earlier call that you repeat; None: a new id.
        """
        request = library.IngestVideoRequest(
            uri=escape_surrogates(uri),
            collection=escape_surrogates(collection),
            video_id=escape_surrogates(video_id),
            metadata=metadata_message(metadata or {}),
            start_time=timestamp_message(recorded_time),
            request_id=request_id or str(uuid.uuid4()),
        )
        return self._call(self._library.IngestVideo, request, lambda response: video_value(response.video))

    def upload(
        self,
        path: Path | str,
        *,
        collection: str = "default",
        video_id: str = "",
        metadata: Mapping[str, str] | None = None,
        recorded_time: float | None = None,
        on_sent: Callable[[int], None] | None = None,
    ) -> VideoStatus:
        """Send a video file to be indexed; wait() returns once it is. The file is read twice, first for its SHA-256.

        Args:
            collection, metadata, recorded_time: As for ingest().
            video_id: Its id; empty: the first digits of the content's SHA-256.
            on_sent: Called from another thread with the number of bytes sent; begins anew when the upload is repeated.
        Raises:
            OSError: If the file cannot be read.
        """
        path = Path(path)
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            size_bytes = file.tell()
        header = library.UploadHeader(
            filename=printable(path.name),
            size_bytes=size_bytes,
            sha256=sha256,
            collection=escape_surrogates(collection),
            video_id=escape_surrogates(video_id),
            metadata=metadata_message(metadata or {}),
            start_time=timestamp_message(recorded_time),
            request_id=str(uuid.uuid4()),
        )
        backoff = Backoff(FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS)
        for _ in range(1, ATTEMPT_COUNT):
            try:
                return self._send(path, header, on_sent)
            except ServerFailed as error:
                if error.code != "UNAVAILABLE":
                    raise
            time.sleep(backoff.next_seconds())
        return self._send(path, header, on_sent)

    def _send(self, path: Path, header: library.UploadHeader, on_sent: Callable[[int], None] | None) -> VideoStatus:
        file_errors: list[Exception] = []

        def messages() -> Iterator[library.UploadVideoRequest]:
            # gRPC runs this in a thread of its own, and hides its errors.
            try:
                yield library.UploadVideoRequest(header=header)
                with path.open("rb") as file:
                    sent_bytes = 0
                    while block := file.read(BLOCK_BYTES):
                        yield library.UploadVideoRequest(data=block)
                        sent_bytes += len(block)
                        if on_sent is not None:
                            on_sent(sent_bytes)
            except Exception as error:
                file_errors.append(error)
                raise

        try:
            response = self._library.UploadVideo(messages(), metadata=self._headers())
        except grpc.RpcError as error:
            if file_errors:
                raise file_errors[0] from error
            raise failure(error, self._address, None) from error
        return self._read(lambda: video_value(response.video))

    def delete(self, video_id: str, collection: str = "") -> None:
        """Delete a video and everything derived from it. Takes the whole id."""
        request = library.DeleteVideoRequest(
            video_id=escape_surrogates(video_id), collection=escape_surrogates(collection), request_id=str(uuid.uuid4())
        )
        self._call(self._library.DeleteVideo, request, lambda _: None)

    # ---- videos in the library ----

    def video(self, video_id: str, collection: str = "") -> VideoStatus:
        """Return the status of a video, by its id or an unambiguous beginning of it."""
        request = library.GetVideoRequest(
            video_id=escape_surrogates(video_id), collection=escape_surrogates(collection)
        )
        return self._call(self._library.GetVideo, request, lambda response: video_value(response.video))

    def videos(self, collection: str = "") -> Iterator[VideoStatus]:
        """Yield the videos of a collection, or of all that the token may read, by URI. Requests pages as it goes."""
        pages = self._pages(
            self._library.ListVideos,
            lambda token: library.ListVideosRequest(
                collection=escape_surrogates(collection), page_size=LIST_PAGE_SIZE, page_token=token
            ),
            lambda page: list(map(video_value, page.videos)),
        )
        return itertools.chain.from_iterable(pages)

    def wait(
        self,
        video_id: str,
        collection: str = "",
        timeout_seconds: float = 3600.0,
        poll_seconds: float = POLL_SECONDS,
    ) -> VideoStatus:
        """Return a video once it is READY or FAILED.

        Raises:
            ServerFailed: With code DEADLINE_EXCEEDED if the video is neither after `timeout_seconds`.
        """
        deadline = time.monotonic() + timeout_seconds
        while (video := self.video(video_id, collection)).state is VideoState.PROCESSING:
            if time.monotonic() + poll_seconds > deadline:
                raise ServerFailed(
                    f"video {video_id} is not indexed after {timeout_seconds:g} s: indexing continues",
                    "DEADLINE_EXCEEDED",
                )
            time.sleep(poll_seconds)
        return video

    def transcript(self, video_id: str, collection: str = "") -> list[Utterance]:
        """Return the utterances of a video, in order: of epoch 0 and without probabilities, which are not sent."""
        request = library.GetTranscriptRequest(
            video_id=escape_surrogates(video_id), collection=escape_surrogates(collection)
        )
        return self._call(
            self._library.GetTranscript, request, lambda transcript: list(map(utterance_value, transcript.utterances))
        )

    def speakers(self, video_id: str, collection: str = "") -> list[Speaker]:
        """Return the speakers of a video, by number; none: they are not told apart."""
        request = library.GetTranscriptRequest(
            video_id=escape_surrogates(video_id), collection=escape_surrogates(collection)
        )
        return self._call(self._library.GetTranscript, request, speaker_values)

    def name_speaker(self, video_id: str, number: int, name: str, collection: str = "") -> list[Speaker]:
        """Give a speaker of a video a name, an empty one to take it away; return all speakers of the video."""
        request = library.NameSpeakerRequest(
            video_id=escape_surrogates(video_id),
            collection=escape_surrogates(collection),
            speaker=number,
            name=escape_surrogates(name),
        )
        return self._call(self._library.NameSpeaker, request, speaker_values)

    def outline(self, video_id: str, collection: str = "", highlight_count: int = 0) -> Outline:
        """Return the chapters of a video, and as many of its most telling moments."""
        request = library.GetChaptersRequest(
            video_id=escape_surrogates(video_id),
            collection=escape_surrogates(collection),
            highlight_count=highlight_count,
        )
        return self._call(self._library.GetChapters, request, outline_value)

    def frame(self, video_id: str, at_seconds: float, collection: str = "") -> tuple[float, bytes]:
        """Return the stored picture nearest to a time: the picture's time in seconds, and a JPEG.

        Raises:
            ServerFailed: With reason FRAME_NOT_FOUND for a video without pictures.
        """
        request = library.GetFrameRequest(
            video_id=escape_surrogates(video_id),
            offset=duration_message(at_seconds),
            collection=escape_surrogates(collection),
        )
        return self._call(self._library.GetFrame, request, lambda frame: (duration_value(frame.offset), frame.jpeg))

    # ---- moderation events ----

    def events(self, wanted: EventFilter | None = None) -> Iterator[Event]:
        """Yield the events as they are now, by collection, video and time. Requests pages as it goes."""
        message = event_filter_message(wanted or EventFilter())
        pages = self._pages(
            self._moderation.ListEvents,
            lambda token: moderation.ListEventsRequest(filter=message, page_size=LIST_PAGE_SIZE, page_token=token),
            lambda response: list(map(event_value, response.events)),
        )
        return itertools.chain.from_iterable(pages)

    def review_event(self, event_id: str, state: ReviewState, note: str = "") -> Event:
        """Store what a person judges of an event, in place of an earlier judgement; return the event.

        Args:
            state: PENDING takes an earlier judgement back.
            note: At most 1000 characters; none with PENDING.
        """
        request = write_review_request(event_id, state, note)
        return self._call(self._moderation.ReviewEvent, request, lambda response: event_value(response.event))

    def watch_events(
        self,
        wanted: EventFilter | None = None,
        *,
        resume_token: str = "",
        from_start: bool = False,
        on_wait: Callable[[ServerFailed], None] = lambda failed: None,
    ) -> Iterator[tuple[Event, str]]:
        """Yield every change of events, without end, each with the token that resumes behind it.

        While the server is down it waits, and afterwards resumes without a loss.

        Args:
            wanted: Which events; None: all.
            resume_token: Where to resume; empty: from now on.
            from_start: Without a token: begin with all known events.
            on_wait: Called with the reason when the server fails; once until it answers again.
        """
        message = event_filter_message(wanted or EventFilter())

        def call(token: str) -> WatchCall:
            request = moderation.WatchEventsRequest(filter=message, resume_token=token, from_start=from_start)
            return self._moderation.WatchEvents(request, metadata=self._headers())

        for response in keep_watching(call, resume_token, lambda error: failure(error, self._address, None), on_wait):
            if response.HasField("event"):
                yield self._read(partial(event_value, response.event)), response.resume_token

    # ---- calls ----

    def _ask(
        self,
        method: "grpc.UnaryUnaryMultiCallable[Request, PageResponse]",
        write: Callable[..., Request],
        read: Callable[[PageResponse], Answer],
        query: Query,
    ) -> Answer:
        """Request pages of an answer until there are `query.limit` videos or moments."""
        page_size = min(query.limit, PAGE_SIZE)
        pages = self._pages(method, lambda token: write(query, page_size=page_size, page_token=token), read)
        answer = next(pages)
        while max(len(answer.videos), len(answer.moments)) < query.limit and (page := next(pages, None)) is not None:
            answer = replace(answer, videos=answer.videos + page.videos, moments=answer.moments + page.moments)
        return replace(answer, videos=answer.videos[: query.limit], moments=answer.moments[: query.limit])
