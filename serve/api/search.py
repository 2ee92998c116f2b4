"""SearchService: questions over gRPC."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from encoders.errors import NoVisualEncoder
from ingest.errors import IngestError
from kinodex.v1 import search_service_pb2 as search
from kinodex.v1 import search_service_pb2_grpc
from serve.api.access import Access
from serve.api.interceptor import current_principal
from serve.api.pages import ExpiringCache, PageSigner, binding
from serve.api.tokens import Principal
from serve.api.watch_queue import READ_RETRY_SECONDS, Unread
from serve.api.workers import Workers, run_to_end
from serve.catalog.reader import only
from serve.codec.messages import moment_change_message, moments_response, search_response
from serve.codec.requests import moments_query, search_query, standing_query
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
from serve.search.engine import Engine
from serve.search.library import Library
from serve.search.ranking import RankedMoment, RankedVideo, Ranking
from serve.values import Answer, Query

Check = Callable[[], None]


WORKED_OUT_COUNT = 256  # rankings that stay in memory: some 200 KB each where a question has many answers


@dataclass(slots=True)
class Kept:
    """A ranking, and the engine whose rows it names."""

    engine: Engine
    ranking: Ranking[Any]
    name: str = ""  # by which page tokens know it; empty: none does


class SearchService(search_service_pb2_grpc.SearchServiceServicer):
    """Answers questions about what the caller may read."""

    def __init__(
        self,
        library: Callable[[], Library],
        watcher: Callable[[], Watcher],
        access: Access,
        workers: Workers,
        signer: PageSigner,
    ) -> None:
        """Take what answers: `library` and `watcher` raise ServerNotReady while there is none."""
        self.library, self.watcher, self.access, self.workers, self.signer = library, watcher, access, workers, signer
        self.ended = asyncio.Event()  # set when those who watch are to end
        self.kept: ExpiringCache[Kept] = ExpiringCache()  # by name: those that are paged through
        # By question and state of the library.
        self.worked_out: SingleFlightCache[Kept] = SingleFlightCache(WORKED_OUT_COUNT)

    async def SearchVideos(self, request: search.SearchVideosRequest, context: Any) -> search.SearchVideosResponse:
        query, principal = search_query(request), current_principal()

        def work(check: Check) -> search.SearchVideosResponse:
            def rank(library: Library, query: Query) -> Ranking[RankedVideo]:
                return library.engine.rank_videos(query, picture_of(library, query), check)

            kept, start, page = self.page("SearchVideos", request, query, principal, rank)
            videos, end = kept.engine.page_of_videos(kept.ranking, start, query.limit)
            answer = Answer(videos=videos, degraded_channels=kept.ranking.degraded_channels)
            return search_response(answer, page(end))

        response: search.SearchVideosResponse = await self.workers.run(work)
        return response

    async def SearchMoments(self, request: search.SearchMomentsRequest, context: Any) -> search.SearchMomentsResponse:
        query, principal = moments_query(request), current_principal()

        def work(check: Check) -> search.SearchMomentsResponse:
            def rank(library: Library, query: Query) -> Ranking[RankedMoment]:
                return library.engine.rank_moments(query, picture_of(library, query), check)

            kept, start, page = self.page("SearchMoments", request, query, principal, rank)
            moments, end = kept.engine.page_of_moments(kept.ranking, start, query.limit)
            answer = Answer(moments=moments, degraded_channels=kept.ranking.degraded_channels)
            return moments_response(answer, page(end))

        response: search.SearchMomentsResponse = await self.workers.run(work)
        return response

    async def WatchMoments(
        self, request: search.WatchMomentsRequest, context: Any
    ) -> AsyncIterator[search.WatchMomentsResponse]:
        (query, thresholds), principal = standing_query(request), current_principal()
        ended, unread = self.ended, Unread(context)
        begun: list[tuple[Watcher, StandingQuery]] = []  # at most one

        def begin(check: Check) -> None:
            library, watcher = self.library(), self.watcher()
            library.engine.refresh()
            collections = self.access.readable(principal, query.filter.collections)
            narrowed = dataclasses.replace(query, filter=dataclasses.replace(query.filter, collections=collections))
            target = library.engine.target_of(self.example_of(library, narrowed, principal), picture_of(library, query))
            check()
            asked = StandingQuery(query=narrowed, target=target, thresholds=thresholds, tell=unread.tell)
            begun.append((watcher, asked))
            watcher.add(asked)
            try:
                check()
            except CallAbandoned:  # meanwhile: whoever waited may have looked before the query was there
                watcher.remove(asked)
                raise

        try:
            await self.workers.run(begin)
            yield search.WatchMomentsResponse()
            while not ended.is_set():
                next_one, end = asyncio.ensure_future(unread.next()), asyncio.ensure_future(ended.wait())
                try:
                    await asyncio.wait((next_one, end), return_when=asyncio.FIRST_COMPLETED)
                    if next_one.done():
                        yield moment_change_message(next_one.result())
                finally:
                    next_one.cancel()
                    end.cancel()
        finally:
            unread.close()
            for watcher, asked in begun:  # waits for whoever follows the videos just now, so not on the loop
                await run_to_end(asyncio.to_thread(watcher.remove, asked))
        raise ServerNotReady("stopping", READ_RETRY_SECONDS)

    def end_watches(self) -> None:
        """End the calls that watch; new ones may come. On the event loop."""
        self.ended.set()
        self.ended = asyncio.Event()

    def page(
        self,
        method: str,
        request: Message,
        query: Query,
        principal: Principal,
        rank: Callable[[Library, Query], Ranking[Any]],
    ) -> tuple[Kept, int, Callable[[int], str]]:
        """Find what a request pages through: a new ranking, or the one its token names.

        A ranking stays as it was when its first page was asked for, so that no later page repeats or skips anything;
        only what was deleted since is passed over.

        Returns:
            The ranking, where the page starts in it, and what makes the token of the page that starts later.
        """
        library, bound_to = self.library(), binding(principal.scope, method, request)
        token: str = request.page_token  # type: ignore[attr-defined]  # every request that pages has one
        if token:
            held = self.signer.verify(token, binding=bound_to)
            if held.keys() != {"ranking", "start"}:
                raise PageTokenInvalid
            kept, start = self.kept.get(str(held["ranking"])), int(held["start"])
        else:
            kept, start = self.ranked(method, library, self.readable(library, query, principal), rank), 0

        def next_page(end: int) -> str:
            if end >= len(kept.ranking.entries):
                return ""
            try:
                self.kept.get(kept.name)
            except PageTokenExpired:
                kept.name = self.kept.add(kept)
            return self.signer.sign({"ranking": kept.name, "start": end}, binding=bound_to)

        return kept, start, next_page

    def ranked(
        self, method: str, library: Library, query: Query, rank: Callable[[Library, Query], Ranking[Any]]
    ) -> Kept:
        """Rank, unless the same was asked since the library last changed."""

        def work() -> Kept:
            return Kept(library.engine, rank(library, query))

        if query.image:  # large, and seldom the same twice
            return work()
        state = (library.engine.fingerprint, library.engine.state)  # after a reindex, two engines know one catalog
        return self.worked_out.get((method, state, dataclasses.replace(query, limit=1)), work)

    def readable(self, library: Library, query: Query, principal: Principal) -> Query:
        """Narrow a question to what the caller may read; what it names must be there.

        Raises:
            PermissionDenied, CollectionNotFound, VideoNotFound: For what it names and may not have.
        """
        library.engine.refresh()
        asked = query.filter
        collections = self.access.readable(principal, asked.collections)
        by_id = library.engine.by_id
        for video_id in asked.video_ids:
            if not any(collections is None or one.collection in collections for one in by_id.get(video_id, ())):
                raise VideoNotFound(video_id)
        query = dataclasses.replace(query, filter=dataclasses.replace(asked, collections=collections))
        return self.example_of(library, query, principal)

    def example_of(self, library: Library, query: Query, principal: Principal) -> Query:
        """Say in which collection a question's example is, which the caller must be able to read.

        Raises:
            PermissionDenied, CollectionNotFound, VideoNotFound: If it cannot.
        """
        like = query.like
        if like is None:
            return query
        within = self.access.readable(principal, None if like.collection is None else (like.collection,))
        known = library.engine.by_id.get(like.video_id, ())
        found = [one for one in known if within is None or one.collection in within]
        return dataclasses.replace(
            query, like=dataclasses.replace(like, collection=only(found, like.video_id).collection)
        )


def is_picture(content: bytes) -> bool:
    """Whether bytes begin as JPEG, PNG or WebP do, so that films and whatever else decodes are no pictures."""
    is_webp = content[:4] == b"RIFF" and content[8:12] == b"WEBP"
    return is_webp or content.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"))


def picture_of(library: Library, query: Query) -> Any:
    """Decode a question's picture; what is wrong with it is wrong with the request."""
    if query.image and not is_picture(query.image):
        raise RequestInvalid([("query.image", "must be a JPEG, PNG or WebP picture")])
    try:
        return library.pixels(query)
    except NoVisualEncoder:
        raise
    except IngestError as error:
        raise RequestInvalid([("query.image", error.reason)]) from error
