"""Server: the life cycle of the gRPC server over one data directory, from start to a graceful end.

serve.api.build makes it. Beside the calls there run:
- the refresher, which looks for changes of the catalog by any process, and brings the indexes up to them;
- the supervisor of the process that indexes queued videos (serve.indexing.job_worker), so that answers need not wait;
- the followers (serve.moderation.followers), which score new frames and words by policies and standing queries, and
  deliver the events;
- with Kafka, the feed (serve.live.feed), which brings the catalog up to the topics.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import grpc
from grpc_health.v1 import health, health_pb2

from encoders.errors import EncoderError
from kinodex.v1 import library_service_pb2, moderation_service_pb2, search_service_pb2, server_service_pb2
from serve.api.interceptor import CallInterceptor
from serve.api.loaded_library import LoadedLibrary
from serve.api.services.library import LibraryService
from serve.api.services.moderation import ModerationService
from serve.api.services.search import SearchService
from serve.api.services.server import ServerService
from serve.api.warming import warm_library
from serve.api.workers import run_to_end
from serve.catalog.catalog import Catalog
from serve.catalog.sqlite import WriterLock
from serve.errors import DataDirectoryBusy, ServeError
from serve.indexing.supervisor import Supervisor
from serve.moderation.followers import Followers
from serve.observe.audit import AuditLog
from serve.observe.metrics import ServerMetrics
from serve.observe.metrics_endpoint import serve_metrics
from serve.search.library import Library
from serve.settings import Settings
from serve.values import Video

logger = logging.getLogger(__name__)

REFRESH_SECONDS = 0.5  # between two looks at the catalog; a refresh here spares the next question the wait
BUSY_SECONDS = 1.0  # between two tries to open a new data directory that another process is filling
DESCRIPTORS = tuple(
    module.DESCRIPTOR.services_by_name[name]
    for module, name in (
        (search_service_pb2, "SearchService"),
        (library_service_pb2, "LibraryService"),
        (moderation_service_pb2, "ModerationService"),
        (server_service_pb2, "ServerService"),
    )
)
SERVICES = tuple(descriptor.full_name for descriptor in DESCRIPTORS)


class HttpWire(Protocol):
    """The HTTP server beside the gRPC server; serve.console has it."""

    async def start(self) -> None:
        """Answer."""

    async def stop(self, drain_seconds: float) -> None:
        """Accept nothing new, give running calls `drain_seconds` to end, and end."""


@dataclass(eq=False, kw_only=True)
class Server:
    """One server. start() makes it answer health checks, warm_up() questions, stop() ends it.

    Made on the event loop that it runs on, by build_server().
    """

    directory: Path
    lock: WriterLock  # of the one server of the data directory
    settings: Settings
    metrics: ServerMetrics
    reader: Catalog
    editor: Catalog
    loaded: LoadedLibrary
    supervisor: Supervisor
    followers: Followers
    interceptor: CallInterceptor
    search_service: SearchService
    library_service: LibraryService
    moderation_service: ModerationService
    server_service: ServerService
    health: health.aio.HealthServicer
    grpc: grpc.aio.Server
    port: int
    audit: AuditLog | None
    end_spans: Callable[[], None]
    http: HttpWire | None = None  # set before start()

    def __post_init__(self) -> None:
        self.config = self.settings.server
        self.is_stopping = False
        # Set when the server cannot go on; run_server() ends it then.
        self.failure: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self.metrics_address = ""
        self._close_metrics: Callable[[], None] = lambda: None
        self._refresher: asyncio.Task[None] | None = None
        self._token_watcher: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """The address for clients: HOST:PORT with the real port, or unix:PATH."""
        if self.config.listen.startswith("unix"):
            return self.config.listen
        return f"{self.config.listen.rpartition(':')[0]}:{self.port}"

    @property
    def servicers(self) -> dict[Any, Any]:
        """What answers the calls of each service, by the descriptors of SERVICES."""
        answering = (self.search_service, self.library_service, self.moderation_service, self.server_service)
        return dict(zip(DESCRIPTORS, answering, strict=True))

    async def start(self) -> None:
        """Answer health checks with NOT_SERVING, and refuse all other calls with UNAVAILABLE."""
        await self._set_health(is_serving=False)
        if self.config.metrics_listen:
            self.metrics_address, self._close_metrics = serve_metrics(
                self.metrics.registry, self.config.metrics_listen, self.config
            )
        await self.grpc.start()
        if self.http is not None:
            await self.http.start()
        if self.interceptor.running is not None:
            watching = self.interceptor.running.watch_tokens()
            self._token_watcher = asyncio.create_task(watching, name="token watcher")

    async def warm_up(self) -> None:
        """Load the encoders and the indexes, then answer all calls.

        Raises:
            ServeError, EncoderError: If the library cannot be used.
        """
        await asyncio.to_thread(self.library_service.spool.clean, self.library_service.jobs.spool_names)
        await asyncio.to_thread(self.library_service.changes.remove_secrets)
        await self._load()
        self.supervisor.start()
        self.followers.start()
        self._refresher = asyncio.create_task(self._keep_fresh(), name="refresher")

    async def _load(self) -> None:
        """Load the library, in the place of one with other encoders perhaps, and answer from it."""
        self.search_service.end_watches()
        await asyncio.to_thread(self.followers.unfollow)
        while True:
            try:
                library = await asyncio.to_thread(warm_library, self.directory, self.settings)
                break
            except DataDirectoryBusy:  # another process is filling a new directory
                await asyncio.sleep(BUSY_SECONDS)
        try:
            await self._catch_up(library)
        except BaseException:
            library.close()
            raise
        library.engine.on_new_video = self._measure_freshness
        self.followers.follow(library.engine)
        self.loaded.library = library
        self._measure()
        await self._set_health(is_serving=True)
        logger.info("serving address=%s videos=%d", self.address, len(library.engine.videos))

    async def _catch_up(self, library: Library) -> None:
        """With Kafka: start the feed, and wait until the catalog has everything that the topics hold now.

        No question is answered before. Otherwise a caller could take half of a library for all of it, or find a video
        that was deleted while this server was down. If Kafka is away, a library that was fed before answers from what
        it has, and each answer says so (live_is_behind).
        """
        if not self.settings.kafka.servers:
            return
        from serve.live.feed import Feed  # imports kafka

        if self.loaded.feed is not None:
            await asyncio.to_thread(self.loaded.feed.stop)
        loop, may_answer = asyncio.get_running_loop(), asyncio.Event()
        feed = self.loaded.feed = Feed(
            self.directory,
            self.settings,
            library.encoders.space.fingerprint,
            self.metrics.live,
            on_change=self.loaded.refresh,
            on_caught_up=lambda: loop.call_soon_threadsafe(may_answer.set),
            on_away=lambda: feed.has_read() and loop.call_soon_threadsafe(may_answer.set),
            on_end=lambda error: loop.call_soon_threadsafe(self._fail, error),
        )
        feed.start()
        waiting = asyncio.create_task(may_answer.wait())
        try:
            await wait_for_first(waiting, self.failure)
        finally:
            waiting.cancel()
        if self.failure.done():
            raise self.failure.result()
        if feed.is_behind:
            logger.warning("Kafka is away: answers are without what it holds beyond this library")
        await run_to_end(asyncio.to_thread(library.engine.refresh))

    def _fail(self, error: Exception) -> None:
        if not self.failure.done():
            self.failure.set_result(error)

    async def _keep_fresh(self) -> None:
        """Bring the indexes up to the catalog, again and again; load the library anew after a reindex.

        When it is cancelled, it first waits for the refresh that runs in a thread: stop() closes the catalog next.
        """
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            try:
                if self.loaded.library is None or await run_to_end(asyncio.to_thread(self.loaded.has_other_encoders)):
                    if self.loaded.library is not None:
                        logger.info("the library was reindexed: loading its encoders")
                        self.loaded.library = None
                        await self._set_health(is_serving=False)
                    await self._load()
                else:
                    await run_to_end(asyncio.to_thread(self.loaded.refresh))
                    self._measure()
            except (ServeError, EncoderError) as error:  # a disk may come back; answers go on with what is in memory
                logger.error("refresh failed reason=%s", error)

    async def _set_health(self, *, is_serving: bool) -> None:
        status = health_pb2.HealthCheckResponse.SERVING if is_serving else health_pb2.HealthCheckResponse.NOT_SERVING
        self.metrics.is_ready.set(is_serving)
        for service in ("", *SERVICES):
            await self.health.set(service, status)

    def _measure_freshness(self, video: Video) -> None:
        self.metrics.freshness_seconds.observe(max(0.0, time.time() - video.indexed_time))

    def _measure(self) -> None:
        """Set the gauges: jobs, uploads, events and the library's size."""
        for state, count in self.library_service.jobs.counts().items():
            self.metrics.jobs.labels(state.value).set(count)
        self.metrics.spool_bytes.set(self.library_service.spool.used_bytes())
        self.followers.update_metrics(self.moderation_service.log)
        self.loaded.measure(self.metrics)

    async def stop(self) -> None:
        """Refuse new calls, give running calls drain_seconds to end, then end everything. May be called twice."""
        if self.is_stopping:
            return
        self.is_stopping = True
        await self.health.enter_graceful_shutdown()
        self.metrics.is_ready.set(0)
        self.moderation_service.stop()
        self.search_service.end_watches()
        logger.info("stopping drain_seconds=%g", self.config.drain_seconds)
        draining = [self.grpc.stop(self.config.drain_seconds)]
        if self.http is not None:
            draining.append(self.http.stop(self.config.drain_seconds))
        await asyncio.gather(*draining)
        for task in (self._refresher, self._token_watcher):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        await asyncio.to_thread(self.supervisor.stop)
        if self.loaded.feed is not None:
            await asyncio.to_thread(self.loaded.feed.stop)
        await asyncio.to_thread(self.followers.stop)
        search, library = self.search_service, self.library_service
        for workers in (search.workers, search.picture_workers, library.workers, library.change_workers):
            await asyncio.to_thread(workers.close)
        if self.loaded.library is not None:
            self.loaded.library.close()
        self.reader.close()
        self.editor.close()
        if self.audit is not None:  # late: cancelled calls are still recorded
            await asyncio.to_thread(self.audit.close)
        self.lock.release()
        self._close_metrics()
        self.end_spans()
        logger.info("stopped")


async def wait_for_first(*futures: asyncio.Future[Any]) -> None:
    """Wait until one of the futures is done. Cancels none of them."""
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
