"""The Python client of a kinodex server.

    from kinodex import Client, ClientConfig, Query

    with Client("localhost:8970", ClientConfig()) as client:
        video = client.wait(client.ingest("https://example.org/talk.mp4").video_id)
        answer = client.moments(Query(text="when does she mention Paris?"))

Everything that goes wrong on the way or on the server is serve.errors.ServerFailed.
"""

import hashlib
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

import grpc

from encoders.values import Utterance
from kinodex.v1 import library_service_pb2 as library
from kinodex.v1 import moderation_service_pb2 as moderation
from kinodex.v1.library_service_pb2_grpc import LibraryServiceStub
from kinodex.v1.moderation_service_pb2_grpc import ModerationServiceStub
from kinodex.v1.search_service_pb2_grpc import SearchServiceStub
from serve.client.channel import (
    ATTEMPT_COUNT,
    BACKOFF_GROWTH,
    FIRST_BACKOFF_SECONDS,
    MAX_BACKOFF_SECONDS,
    failure,
    open_channel,
    read_address,
)
from serve.client.resuming import Responses, going_on
from serve.codec.events import event_filter_message, event_value
from serve.codec.fields import duration_message, duration_value, escape_surrogates, metadata_message, timestamp_message
from serve.codec.messages import (
    moment_change_value,
    moments_answer,
    moments_request,
    search_answer,
    search_request,
    video_value,
    watch_request,
)
from serve.codec.utterances import read_utterance
from serve.config import ClientConfig
from serve.errors import ServerFailed
from serve.event import Event, EventFilter
from serve.text import printable
from serve.values import Answer, MomentChange, Query, Thresholds, VideoState, VideoStatus

PAGE_SIZE = 100  # the API's most, for answers
LIST_PAGE_SIZE = 1000  # the API's most, for videos
BLOCK_BYTES = 256 << 10  # of an upload: large enough to fill a fast network, small against gRPC's 4 MiB
POLL_SECONDS = 0.5  # between two looks at a video that is being indexed

Request = TypeVar("Request")
Response = TypeVar("Response")
Value = TypeVar("Value")


class Client:
    """A connection to one server; threads may share it. Use it as a context manager, or close() it.

    Calls are repeated while the server cannot be reached, for about three seconds; what changes something carries a
    request id, so that the server does it once. Wherever a collection is asked for, empty is the one that has the
    video.
    """

    def __init__(self, address: str, config: ClientConfig | None = None) -> None:
        """Prepare to call a server; nothing is sent yet.

        Args:
            address: HOST:PORT (TLS as the config says), grpc://HOST:PORT (plain), grpcs://HOST:PORT (TLS) or unix:PATH.
            config: How to reach it; None: the defaults.
        Raises:
            SettingsError: For what is no address, for a token that would go to another machine in plain text, or for
                a certificate's file that cannot be read.
        """
        self._config = config or ClientConfig()
        self._address = read_address(address, self._config)
        self._channel = open_channel(self._address, self._config)
        self._search, self._library = SearchServiceStub(self._channel), LibraryServiceStub(self._channel)
        self._moderation = ModerationServiceStub(self._channel)

    def close(self) -> None:
        """Hang up."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # ---- questions ----

    def search(self, query: Query) -> Answer:
        """Return the videos that answer, best first, at most `query.limit`.

        Raises:
            ServerFailed: As all methods do.
            RequestInvalid: If no request can carry the query: a picture above 8 MiB, say.
        """

        def ask(token: str) -> tuple[Answer, str]:
            request = search_request(query, page_size=min(query.limit, PAGE_SIZE), page_token=token)
            return self._call(
                self._search.SearchVideos, request, lambda page: (search_answer(page), page.next_page_token)
            )

        return _paged(ask, query.limit)

    def moments(self, query: Query) -> Answer:
        """Return the moments that answer, best first, at most `query.limit`; raises as search()."""

        def ask(token: str) -> tuple[Answer, str]:
            request = moments_request(query, page_size=min(query.limit, PAGE_SIZE), page_token=token)
            return self._call(
                self._search.SearchMoments, request, lambda page: (moments_answer(page), page.next_page_token)
            )

        return _paged(ask, query.limit)

    def watch_moments(self, query: Query, thresholds: Thresholds | None = None) -> Iterator[MomentChange]:
        """Yield what happens to moments of live videos, from now on, without end; raises as search().

        The query's filter, text, picture and example count; nothing is known of what came while nobody watched.
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
        """Let the server fetch and index a video; see wait().

        Args:
            uri: http:, https:, or file: of the server's own, where it allows them.
            collection: Where to put it.
            video_id: Its name; empty: derived from collection and URI.
            metadata: Anything to filter by later.
            recorded_time: When its recording began, seconds since 1970.
            request_id: Of an earlier call that may have arrived; None: a new one.
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
        """Send a video file to be indexed; see wait(). Read twice: its SHA-256 goes first.

        Args:
            path: The file.
            collection: Where to put it.
            video_id: Its name; empty: the start of its content's SHA-256.
            metadata: Anything to filter by later.
            recorded_time: When its recording began, seconds since 1970.
            on_sent: Called, from another thread, with the bytes that are sent; starts again if the upload has to.
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
        for attempt in range(1, ATTEMPT_COUNT):
            try:
                return self._send(path, header, on_sent)
            except ServerFailed as error:
                if error.code != "UNAVAILABLE":
                    raise
            time.sleep(min(FIRST_BACKOFF_SECONDS * BACKOFF_GROWTH ** (attempt - 1), MAX_BACKOFF_SECONDS))
        return self._send(path, header, on_sent)

    def _send(self, path: Path, header: library.UploadHeader, on_sent: Callable[[int], None] | None) -> VideoStatus:
        broken: list[Exception] = []

        def messages() -> Iterator[library.UploadVideoRequest]:
            # gRPC runs this in a thread of its own, and would hide its errors.
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
                broken.append(error)
                raise

        try:
            response = self._library.UploadVideo(messages(), metadata=self._headers())
        except grpc.RpcError as error:
            if broken:
                raise broken[0] from error
            raise failure(error, self._address, None) from error
        return self._read(lambda: video_value(response.video))

    def delete(self, video_id: str, collection: str = "") -> None:
        """Forget a video and everything derived from it. Takes the whole id."""
        request = library.DeleteVideoRequest(
            video_id=escape_surrogates(video_id), collection=escape_surrogates(collection), request_id=str(uuid.uuid4())
        )
        self._call(self._library.DeleteVideo, request, lambda _: None)

    # ---- what is there ----

    def video(self, video_id: str, collection: str = "") -> VideoStatus:
        """Tell of a video, by its id or an unambiguous start of it."""
        request = library.GetVideoRequest(
            video_id=escape_surrogates(video_id), collection=escape_surrogates(collection)
        )
        return self._call(self._library.GetVideo, request, lambda response: video_value(response.video))

    def videos(self, collection: str = "") -> Iterator[VideoStatus]:
        """Yield the videos of a collection, or of all that may be read, by URI; asks as it goes."""
        token, is_last = "", False
        while not is_last:
            request = library.ListVideosRequest(
                collection=escape_surrogates(collection), page_size=LIST_PAGE_SIZE, page_token=token
            )
            videos, token = self._call(
                self._library.ListVideos,
                request,
                lambda page: (list(map(video_value, page.videos)), page.next_page_token),
            )
            yield from videos
            is_last = not token

    def wait(
        self,
        video_id: str,
        collection: str = "",
        timeout_seconds: float = 3600.0,
        poll_seconds: float = POLL_SECONDS,
    ) -> VideoStatus:
        """Return a video once it is READY or FAILED.

        Raises:
            ServerFailed: Also if it is neither after `timeout_seconds`; code DEADLINE_EXCEEDED.
        """
        deadline = time.monotonic() + timeout_seconds
        while (video := self.video(video_id, collection)).state is VideoState.PROCESSING:
            if time.monotonic() + poll_seconds > deadline:
                raise ServerFailed(
                    f"video {video_id} is not indexed after {timeout_seconds:g} s: it goes on", "DEADLINE_EXCEEDED"
                )
            time.sleep(poll_seconds)
        return video

    def transcript(self, video_id: str, collection: str = "") -> list[Utterance]:
        """Return what is said in a video, in order. See read_utterance() for the values that are not sent."""
        request = library.GetTranscriptRequest(
            video_id=escape_surrogates(video_id), collection=escape_surrogates(collection)
        )
        return self._call(
            self._library.GetTranscript, request, lambda response: list(map(read_utterance, response.utterances))
        )

    def frame(self, video_id: str, at_seconds: float, collection: str = "") -> tuple[float, bytes]:
        """Return the stored picture nearest to a time: its own time and a JPEG.

        Raises:
            ServerFailed: With reason FRAME_NOT_FOUND for a video without pictures.
        """
        request = library.GetFrameRequest(
            video_id=escape_surrogates(video_id),
            offset=duration_message(at_seconds),
            collection=escape_surrogates(collection),
        )
        return self._call(
            self._library.GetFrame, request, lambda response: (duration_value(response.offset), response.jpeg)
        )

    # ---- moderation events ----

    def events(self, wanted: EventFilter | None = None) -> Iterator[Event]:
        """Yield events as they are now, by collection, video and time; asks as it goes."""
        token, is_last = "", False
        while not is_last:
            request = moderation.ListEventsRequest(
                filter=event_filter_message(wanted or EventFilter()), page_size=LIST_PAGE_SIZE, page_token=token
            )
            events, token = self._call(
                self._moderation.ListEvents,
                request,
                lambda page: (list(map(event_value, page.events)), page.next_page_token),
            )
            yield from events
            is_last = not token

    def watch_events(
        self,
        wanted: EventFilter | None = None,
        *,
        resume_token: str = "",
        from_start: bool = False,
        on_wait: Callable[[ServerFailed], None] = lambda failed: None,
    ) -> Iterator[tuple[Event, str]]:
        """Yield every change of events as it comes, without end, each with the token that goes on behind it.

        Waits, and misses nothing, while the server is away.

        Args:
            wanted: Which events.
            resume_token: Where to go on; empty: from now on.
            from_start: Without a token: begin with all that is known.
            on_wait: Told why the server is waited for, once until it answers again.
        """
        held = event_filter_message(wanted or EventFilter())

        def call(token: str) -> Responses:
            request = moderation.WatchEventsRequest(filter=held, resume_token=token, from_start=from_start)
            return self._moderation.WatchEvents(request, metadata=self._headers())

        for response in going_on(call, resume_token, lambda error: failure(error, self._address, None), on_wait):
            if response.HasField("event"):
                yield self._read(partial(event_value, response.event)), response.resume_token

    # ---- one call ----

    def _call(
        self,
        method: "grpc.UnaryUnaryMultiCallable[Request, Response]",  # generic in its stubs only
        request: Request,
        read: Callable[[Response], Value],
    ) -> Value:
        timeout = self._config.timeout_seconds
        try:
            response = method(request, timeout=timeout, metadata=self._headers())
        except grpc.RpcError as error:
            raise failure(error, self._address, timeout) from error
        return self._read(lambda: read(response))

    def _read(self, read: Callable[[], Value]) -> Value:
        try:
            return read()
        except ValueError as error:
            raise ServerFailed(
                f"the server at {self._address.text} answers what this program does not know, update it: {error}",
                "INTERNAL",
            ) from error

    def _headers(self) -> tuple[tuple[str, str], ...]:
        """Make one call's metadata; gRPC's own retries send the same."""
        headers = (("x-request-id", uuid.uuid4().hex),)  # in the server's log, to find one call by
        return (*headers, ("authorization", f"Bearer {self._config.token}")) if self._config.token else headers


def _paged(ask: Callable[[str], tuple[Answer, str]], limit: int) -> Answer:
    """Ask for pages until there are `limit` answers, or no more."""
    answer, token = ask("")
    while token and max(len(answer.videos), len(answer.moments)) < limit:
        more, token = ask(token)
        answer = replace(answer, videos=answer.videos + more.videos, moments=answer.moments + more.moments)
    return replace(answer, videos=answer.videos[:limit], moments=answer.moments[:limit])
