"""SearchService: the gRPC methods that search for videos and moments, page by page, and watch for new moments."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray

from encoders.errors import NoVisualEncoder
from ingest.errors import IngestError, LimitExceeded
from ingest.source.signatures import HEAD_BYTES, PICTURE_FORMATS, is_picture
from kinodex.v1 import search_service_pb2 as search
from kinodex.v1 import search_service_pb2_grpc
from serve.api.access import Access
from serve.api.interceptor import current_caller, current_principal
from serve.api.pages import ExpiringCache, PageSigner, binding, fit_page
from serve.api.services.watch_queue import READ_RETRY_SECONDS, WatchQueue
from serve.api.tokens import Principal
from serve.api.workers import Workers, run_to_end
from serve.catalog.reader import require_single
from serve.codec.messages import moment_change_message, moments_response, search_response
from serve.codec.requests import moments_query, search_query, standing_query
from serve.codec.rows import write_rows
from serve.codec.timelines import curve_message, curve_request
from serve.errors import (
    CallAbandoned,
    PageTokenExpired,
    PageTokenInvalid,
    RequestInvalid,
    ServerNotReady,
    VideoNotFound,
)
from serve.moderation.standing import StandingQuery, Watcher
from serve.search.caches import SingleFlightCache
from serve.search.curves.similarity import trace_similarity
from serve.search.engine import Engine
from serve.search.library import Library
from serve.search.ranking import Ranking
from serve.search.target import intent_of
from serve.values import Answer, Query, Thresholds

CACHED_RANKING_COUNT = 256  # rankings in memory: some 200 KB each for a question with many answers

Response = TypeVar("Response", bound=Message)
Check = Callable[[], None]  # raises CallAbandoned once the call is cancelled
Rank = Callable[[Engine, Query, NDArray[np.uint8] | None, Check], Ranking[Any]]
NextToken = Callable[[int], str]  # start of the next page -> its token; empty: there is no next page


@dataclass(slots=True)
class EngineRanking:
    """A ranking, and the engine whose rows it names."""

    engine: Engine
    ranking: Ranking[Any]
    page_ids: dict[str, str] = field(default_factory=dict)  # in page tokens, by caller


class SearchService(search_service_pb2_grpc.SearchServiceServicer):
    """Answers questions about the collections that the caller may read."""

    def __init__(
        self,
        library: Callable[[], Library],
        watcher: Callable[[], Watcher],
        access: Access,
        workers: Workers,
        picture_workers: Workers,
        signer: PageSigner,
        is_behind: Callable[[], bool] = lambda: False,
    ) -> None:
        """Take the parts; `library` and `watcher` raise ServerNotReady while the server loads.

        Args:
            is_behind: Whether live videos may be older than those on Kafka.
            workers: Threads that answer questions.
            picture_workers: Threads that wait until the pictures of questions are decoded. Text never waits for them.
        """
        self.library, self.watcher, self.access, self.signer = library, watcher, access, signer
        self.workers, self.picture_workers, self._is_behind = workers, picture_workers, is_behind
        self._watches_ended = asyncio.Event()  # replaced when it is set: later watches wait for the next one
        self._paged: ExpiringCache[EngineRanking] = ExpiringCache()  # rankings that page tokens name
        # Rankings by question and state of the library.
        self.rankings: SingleFlightCache[EngineRanking] = SingleFlightCache(CACHED_RANKING_COUNT)

    async def SearchVideos(self, request: search.SearchVideosRequest, context: Any) -> search.SearchVideosResponse:
        query = search_query(request)

        def render(ranked: EngineRanking, start: int, next_token: NextToken) -> search.SearchVideosResponse:
            def write(count: int) -> search.SearchVideosResponse:
                videos, end = ranked.engine.page_of_videos(ranked.ranking, start, count)
                answer = Answer(
                    videos=videos,
                    degraded_channels=ranked.ranking.degraded_channels,
                    is_live_behind=self._is_behind(),
                )
                return search_response(answer, next_token(end))

            return fit_page(write, query.limit)

        return await self._answer(
            "SearchVideos", request, query, lambda engine, *rest: engine.rank_videos(*rest), render
        )

    async def SearchMoments(self, request: search.SearchMomentsRequest, context: Any) -> search.SearchMomentsResponse:
        query = moments_query(request)

        def render(ranked: EngineRanking, start: int, next_token: NextToken) -> search.SearchMomentsResponse:
            def write(count: int) -> search.SearchMomentsResponse:
                moments, end = ranked.engine.page_of_moments(ranked.ranking, start, count)
                answer = Answer(
                    moments=moments,
                    degraded_channels=ranked.ranking.degraded_channels,
                    is_live_behind=self._is_behind(),
                )
                return moments_response(answer, next_token(end))

            return fit_page(write, query.limit)

        return await self._answer(
            "SearchMoments", request, query, lambda engine, *rest: engine.rank_moments(*rest), render
        )

    async def WatchMoments(
        self, request: search.WatchMomentsRequest, context: Any
    ) -> AsyncIterator[search.WatchMomentsResponse]:
        (query, thresholds), principal, library = standing_query(request), current_principal(), self.library()
        ended, queue = self._watches_ended, WatchQueue(context)
        pixels = await self._decode_picture(library, query, principal)
        # At most one. A list, as a call that is cancelled while the thread adds its query gets no return value.
        added: list[tuple[Watcher, StandingQuery]] = []

        def add(check: Check) -> None:
            watcher, standing = self._standing_query(library, query, pixels, thresholds, principal, queue)
            check()
            added.append((watcher, standing))
            watcher.add(standing)
            try:
                check()
            except CallAbandoned:  # cancelled meanwhile, and removed perhaps before it was added
                watcher.remove(standing)
                raise

        try:
            await self.workers.run(add)
            yield search.WatchMomentsResponse()
            while not ended.is_set():
                change, end = asyncio.ensure_future(queue.next()), asyncio.ensure_future(ended.wait())
                try:
                    await asyncio.wait((change, end), return_when=asyncio.FIRST_COMPLETED)
                    if change.done():
                        for response in write_rows(moment_change_message, [change.result()]):
                            yield response
                finally:
                    change.cancel()
                    end.cancel()
        finally:
            queue.close()
            for watcher, standing in added:  # in a thread: removing waits for the watcher's step
                await run_to_end(asyncio.to_thread(watcher.remove, standing))
        raise ServerNotReady("stopping", READ_RETRY_SECONDS)

    async def GetSimilarityCurve(
        self, request: search.GetSimilarityCurveRequest, context: Any
    ) -> search.GetSimilarityCurveResponse:
        (query, span, count), principal, library = curve_request(request), current_principal(), self.library()
        pixels = await self._decode_picture(library, query, principal)

        def work(check: Check) -> search.GetSimilarityCurveResponse:
            narrowed, engine = self._narrow(library, query, principal), library.engine
            collections = narrowed.filter.collections
            [video_id] = narrowed.filter.video_ids
            named = engine.by_id.get(video_id, ())
            video = require_single([v for v in named if collections is None or v.collection in collections], video_id)
            curve = trace_similarity(engine, narrowed, video, span, count, pixels, check)
            return curve_message(dataclasses.replace(curve, is_live_behind=self._is_behind()))

        return await self.workers.run(work)

    def end_watches(self) -> None:
        """End the running WatchMoments calls; new ones may begin. Call it on the event loop."""
        self._watches_ended.set()
        self._watches_ended = asyncio.Event()

    # ---- one page of an answer

    async def _answer(
        self,
        method: str,
        request: Message,
        query: Query,
        rank: Rank,
        render: Callable[[EngineRanking, int, NextToken], Response],
    ) -> Response:
        """Answer a request with one page of a ranking, which `render` writes from a place on."""
        principal, library = current_principal(), self.library()
        token: str = request.page_token  # type: ignore[attr-defined]  # every request with pages has this field
        pixels = None if token else await self._decode_picture(library, query, principal)

        def work(check: Check) -> Response:
            bound_to = binding(principal.scope, method, request)
            if token:
                ranked, start = self._load_ranking(token, bound_to)
            else:
                ranked = self._rank(method, library, self._narrow(library, query, principal), pixels, rank, check)
                start = 0
            return render(ranked, start, lambda end: self._next_token(ranked, end, bound_to))

        return await self.workers.run(work)

    async def _decode_picture(self, library: Library, query: Query, principal: Principal) -> NDArray[np.uint8] | None:
        """Decode a question's picture, if it has one and the caller may read the collections that it names."""
        if not query.image:
            return None
        await self.workers.run(lambda check: self.access.readable_collections(principal, query.filter.collections))
        return await self.picture_workers.run(lambda check: decode_picture(library, query, check))

    def _load_ranking(self, token: str, bound_to: bytes) -> tuple[EngineRanking, int]:
        """Return the ranking that a page token names, and where the page starts in it.

        A ranking stays as it was for the first page, so that no later page repeats or skips an answer. Only videos
        deleted since then are left out.
        """
        payload = self.signer.verify(token, binding=bound_to)
        if payload.keys() != {"ranking", "start"}:
            raise PageTokenInvalid
        return self._paged.get(str(payload["ranking"]), current_caller()), int(payload["start"])

    def _next_token(self, ranked: EngineRanking, end: int, bound_to: bytes) -> str:
        if end >= len(ranked.ranking.entries):
            return ""
        caller = current_caller()
        try:
            self._paged.get(ranked.page_ids.get(caller, ""), caller)
        except PageTokenExpired:
            ranked.page_ids[caller] = self._paged.add(ranked, caller)
        return self.signer.sign({"ranking": ranked.page_ids[caller], "start": end}, binding=bound_to)

    def _rank(
        self,
        method: str,
        library: Library,
        query: Query,
        pixels: NDArray[np.uint8] | None,
        rank: Rank,
        check: Check,
    ) -> EngineRanking:
        """Rank, or return the cached ranking of the same question if the library has not changed since."""

        def work() -> EngineRanking:
            return EngineRanking(library.engine, rank(library.engine, query, pixels, check))

        if query.image:  # large, and seldom asked twice
            return work()
        # The fingerprint too: after a reindex, two engines have the same catalog.
        state = (library.engine.fingerprint, library.engine.state)
        # And the caller: else the time of an answer would tell what others have asked.
        key = (current_principal().scope, method, state, dataclasses.replace(query, limit=1))
        return self.rankings.get(key, work)

    # ---- what the caller may ask

    def _standing_query(
        self,
        library: Library,
        query: Query,
        pixels: NDArray[np.uint8] | None,
        thresholds: Thresholds,
        principal: Principal,
        queue: WatchQueue,
    ) -> tuple[Watcher, StandingQuery]:
        """Make the standing query of a call, and return it with the watcher that is to follow it.

        Raises:
            RequestInvalid: If nothing can answer the query.
        """
        if intent_of(query).is_empty:
            raise RequestInvalid([("query.text", 'has only words such as "the", which no moment answers')])
        watcher = self.watcher()
        library.engine.refresh()
        collections = self.access.readable_collections(principal, query.filter.collections)
        query = dataclasses.replace(query, filter=dataclasses.replace(query.filter, collections=collections))
        example = self._resolve_example(library, query, principal)
        target = library.engine.target_of(example, pixels)
        return watcher, StandingQuery(query=query, target=target, thresholds=thresholds, deliver=queue.put)

    def _narrow(self, library: Library, query: Query, principal: Principal) -> Query:
        """Narrow a question to the collections that the caller may read.

        Raises:
            PermissionDenied, CollectionNotFound, VideoNotFound: If the question names a collection or a video that is
                missing or that the caller may not read.
        """
        library.engine.refresh()
        collections = self.access.readable_collections(principal, query.filter.collections)
        by_id = library.engine.by_id
        for video_id in query.filter.video_ids:
            if not any(collections is None or video.collection in collections for video in by_id.get(video_id, ())):
                raise VideoNotFound(video_id)
        query = dataclasses.replace(query, filter=dataclasses.replace(query.filter, collections=collections))
        return self._resolve_example(library, query, principal)

    def _resolve_example(self, library: Library, query: Query, principal: Principal) -> Query:
        """Fill in the collection of a question's example, among those that the caller may read.

        Raises:
            PermissionDenied, CollectionNotFound, VideoNotFound: If the caller may not read the example.
            VideoAmbiguous: If several collections have a video of this id.
        """
        like = query.like
        if like is None:
            return query
        named = None if like.collection is None else (like.collection,)
        collections = self.access.readable_collections(principal, named)
        videos = [
            video
            for video in library.engine.by_id.get(like.video_id, ())
            if collections is None or video.collection in collections
        ]
        collection = require_single(videos, like.video_id).collection
        return dataclasses.replace(query, like=dataclasses.replace(like, collection=collection))


def decode_picture(library: Library, query: Query, check: Check) -> NDArray[np.uint8] | None:
    """Decode a question's picture: uint8 (H, W, 3) RGB; None without a picture.

    Raises:
        CallAbandoned: As soon as `check` does; the child process that decodes it is ended.
        RequestInvalid: If it is not a picture, or cannot be decoded.
        NoVisualEncoder: If the library has no encoder for pictures.
    """
    # FFmpeg would decode films and other formats too.
    if query.image and not is_picture(query.image[:HEAD_BYTES]):
        raise RequestInvalid([("query.image", f"must be a picture: {PICTURE_FORMATS}")])
    try:
        return library.pixels(query, check)
    except NoVisualEncoder:
        raise
    except LimitExceeded as error:
        raise RequestInvalid([("query.image", f"{error.reason} ({error.limit})")]) from error
    except IngestError as error:
        raise RequestInvalid([("query.image", error.reason)]) from error
