"""`kinodex serve`: the gRPC server over one data directory, from start to a graceful end.

What runs beside the calls:
- the refresher looks for changes of the catalog, by whatever process, and brings the indexes up to them;
- the ingest worker, a process of its own (serve.indexing.job_worker), indexes what is queued, so that answers do not
wait for it;
- the followers (serve.moderation.followers) score what is new by policies and standing queries, and tell who wants to
know;
- with Kafka, the materialiser (serve.live.materialiser) brings the catalog up to the topics.
"""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from encoders.batching import TextVectors
from encoders.errors import EncoderError
from ingest.errors import BrokerUnavailable
from kinodex.v1 import (
    library_service_pb2,
    library_service_pb2_grpc,
    moderation_service_pb2,
    moderation_service_pb2_grpc,
    search_service_pb2,
    search_service_pb2_grpc,
)
from serve.api.access import Access
from serve.api.cache_counts import CacheCounts
from serve.api.interceptor import CallInterceptor
from serve.api.library import LibraryService
from serve.api.moderation import ModerationService
from serve.api.pages import PageSigner, page_key
from serve.api.reflection import described_files
from serve.api.search import SearchService
from serve.api.tls import check_exposure, server_credentials
from serve.api.tokens import open_tokens
from serve.api.warming import prepare, warm_library
from serve.api.workers import Workers, run_to_end
from serve.catalog.catalog import Catalog
from serve.catalog.events import EventLog
from serve.errors import DataDirectoryBusy, IndexUnavailable, ServeError, ServerNotReady, SettingsError, VideoIsLive
from serve.indexing.jobs import JobQueue
from serve.indexing.supervisor import Supervisor
from serve.indexing.uploads import FOLDER_NAME, Spool
from serve.moderation.followers import Followers
from serve.observe.metrics import ServerMetrics
from serve.observe.tracing import no_spans, open_spans
from serve.search.library import Library
from serve.settings import Settings
from serve.values import Video

if TYPE_CHECKING:
    from serve.live.feed import Feed

logger = logging.getLogger(__name__)

REFRESH_SECONDS = 0.5  # how often the catalog is looked at: what another process indexed is found within two seconds
BUSY_SECONDS = 1.0  # how often a new data directory that another process is filling is tried again
WRITING_WORKERS = 4  # calls of the LibraryService at the same time: short reads and writes of the catalog
SERVICES = tuple(
    module.DESCRIPTOR.services_by_name[name].full_name
    for module, name in (
        (search_service_pb2, "SearchService"),
        (library_service_pb2, "LibraryService"),
        (moderation_service_pb2, "ModerationService"),
    )
)


class Server:
    """One server. start() makes it answer health checks, warm_up() questions, stop() ends it."""

    def __init__(
        self,
        directory: Path,
        settings: Settings,
        config_file: Path | None = None,
        *,
        ingest_command: Sequence[str] | None = None,
    ) -> None:
        """Check everything that can be checked before anything is loaded.

        Args:
            config_file: Where the settings come from, for the ingest worker.
            ingest_command: What to run as that, instead of serve.indexing.job_worker.
        Raises:
            SettingsError: If it would listen unprotected, or a certificate or the tokens cannot be used.
            DataDirectoryInvalid: If the catalog is damaged or of another version.
        """
        self.directory, self.settings, self.config = directory, settings, settings.server
        self.tokens = open_tokens(directory, self.config)
        check_exposure(self.config, has_tokens=self.tokens is not None)
        credentials = server_credentials(self.config)
        prepare(directory)
        self.metrics = ServerMetrics()
        self.library: Library | None = None  # None: not warm
        self.is_stopping = False
        spans, self.end_spans = open_spans() if self.config.traces else (no_spans, lambda: None)
        self.query_workers = Workers(
            "questions",
            self.config.query_workers or os.cpu_count() or 1,
            self.config.max_waiting_queries,
            self.metrics.queries_waiting.set,
        )
        most_waiting = self.config.max_concurrent_calls + self.config.max_watches
        self.call_workers = Workers("calls", WRITING_WORKERS, most_waiting, lambda count: None)
        self.reader, self.editor = Catalog.open_reader(directory), Catalog.open_editor(directory)
        self.spool = Spool(
            directory / FOLDER_NAME,
            max_upload_bytes=self.config.max_upload_bytes,
            max_spool_bytes=self.config.max_spool_bytes,
        )
        self.grpc = grpc.aio.server(
            interceptors=[
                CallInterceptor(self.config, self.tokens, self.metrics, lambda: self.library is not None, spans)
            ],
            options=[
                ("grpc.max_receive_message_length", self.config.max_message_bytes),
                ("grpc.so_reuseport", 0),  # a second server on the port is an error, not a lottery
                # Clients may ping as often as they usually do, also between calls: gRPC's own default hangs up on them.
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
                ("grpc.keepalive_permit_without_calls", 1),
            ],
        )
        changes = JobQueue(self.editor)
        self.supervisor = Supervisor(changes, config=config_file, command=ingest_command)
        access, signer = Access(self.reader), PageSigner(page_key(directory))
        self.library_service = LibraryService(
            self.reader,
            changes,
            access,
            self.spool,
            self.call_workers,
            signer,
            settings.source,
            max_stall_seconds=self.config.max_upload_stall_seconds,
            on_submit=self.supervisor.wake,
            delete_live=self.delete_live,
            on_delete=self.refresh,
            metrics=self.metrics,
        )
        self.health = health.aio.HealthServicer()
        self.followers = Followers(directory, settings, self.editor, self.metrics, self.tell_watchers)
        self.search_service = SearchService(
            self.ready_library, self.followers.ready_watcher, access, self.query_workers, signer
        )
        self.metrics.registry.register(CacheCounts(self.text_vectors, self.search_service.rankings))
        search_service_pb2_grpc.add_SearchServiceServicer_to_server(self.search_service, self.grpc)
        library_service_pb2_grpc.add_LibraryServiceServicer_to_server(self.library_service, self.grpc)
        self.moderation_service = ModerationService(
            EventLog(self.reader), lambda: self.followers.policies, access, self.call_workers, signer
        )
        moderation_service_pb2_grpc.add_ModerationServiceServicer_to_server(self.moderation_service, self.grpc)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.grpc)
        reflection.enable_server_reflection(
            [*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME], self.grpc, pool=described_files()
        )
        self.port = self.listen(credentials)
        self.loop: asyncio.AbstractEventLoop | None = None  # None: not started
        self.tasks: list[asyncio.Task[None]] = []
        self.feed: Feed | None = None  # None: without Kafka, or not begun
        self.failure: asyncio.Future[Exception] | None = None  # of what this server cannot go on without
        self.metrics_address = ""
        self.close_metrics: Callable[[], None] = lambda: None

    def listen(self, credentials: grpc.ServerCredentials | None) -> int:
        try:
            if credentials is None:
                return int(self.grpc.add_insecure_port(self.config.listen))
            return int(self.grpc.add_secure_port(self.config.listen, credentials))
        except RuntimeError as error:
            raise SettingsError(f"cannot listen on {self.config.listen}: the address is in use or not ours") from error

    @property
    def address(self) -> str:
        """Where it listens: HOST:PORT with the port it got."""
        if self.config.listen.startswith("unix"):
            return self.config.listen
        return f"{self.config.listen.rpartition(':')[0]}:{self.port}"

    # ---- from start to end

    async def start(self) -> None:
        """Answer health checks, with NOT_SERVING, and refuse all else with UNAVAILABLE."""
        self.loop = asyncio.get_running_loop()
        self.failure = self.loop.create_future()
        await self.tell_health(is_serving=False)
        if self.config.metrics_listen:
            self.metrics_address, self.close_metrics = self.metrics.serve(self.config.metrics_listen)
        await self.grpc.start()

    async def warm_up(self) -> None:
        """Load the encoders and the indexes, then answer.

        Raises:
            ServeError, EncoderError: If the library cannot be used.
            OffsetRegression: If a topic is not the one that was read before.
        """
        await asyncio.to_thread(self.spool.clean, self.library_service.jobs.spool_names)
        await self.load()
        self.supervisor.start()
        self.followers.start()
        self.tasks = [asyncio.create_task(self.keep_fresh(), name="refresher")]

    async def load(self) -> None:
        self.search_service.end_watches()
        await asyncio.to_thread(self.followers.unfollow)  # with the encoders before
        while True:
            try:
                library = await asyncio.to_thread(warm_library, self.directory, self.settings)
                break
            except DataDirectoryBusy:  # a new directory, which another process is filling
                await asyncio.sleep(BUSY_SECONDS)
        try:
            await self.catch_up(library)
        except BaseException:
            library.close()
            raise
        library.engine.on_new_video = self.note_freshness
        self.followers.follow(library.engine)
        self.library = library
        self.measure()
        await self.tell_health(is_serving=True)
        logger.info("serving address=%s videos=%d", self.address, len(library.engine.videos))

    async def catch_up(self, library: Library) -> None:
        """With Kafka: wait until the catalog has all that the topics have now, and keep it so.

        Until then nothing is answered, so that no half of a library is taken for all of it, and nothing is found that
        was deleted while this server was away.
        """
        if not self.settings.kafka.servers:
            return
        from serve.live.feed import Feed  # imports kafka

        if self.feed is not None:
            await asyncio.to_thread(self.feed.stop)
        loop, caught_up, failure = asyncio.get_running_loop(), asyncio.Event(), self.failure
        assert failure is not None  # start() comes first
        self.feed = Feed(
            self.directory,
            self.settings,
            library.encoders.space.fingerprint,
            self.metrics.live,
            on_change=self.refresh,
            on_caught_up=lambda: loop.call_soon_threadsafe(caught_up.set),
            on_end=lambda error: loop.call_soon_threadsafe(self.fail, error),
        )
        self.feed.start()
        waiting = asyncio.create_task(caught_up.wait())
        try:
            await first_of(waiting, failure)
        finally:
            waiting.cancel()
        if failure.done():
            raise failure.result()
        await run_to_end(asyncio.to_thread(library.engine.refresh))

    def tell_watchers(self) -> None:
        """Wake the calls that watch events; from any thread."""
        if self.loop is not None:
            self.loop.call_soon_threadsafe(self.moderation_service.news.tell)

    def fail(self, error: Exception) -> None:
        """Note that this server cannot go on; serve() ends it."""
        if self.failure is not None and not self.failure.done():
            self.failure.set_result(error)

    async def stop(self) -> None:
        """Refuse new calls, let those under way end within drain_seconds, end everything. May be called twice."""
        if self.is_stopping:
            return
        self.is_stopping = True
        await self.health.enter_graceful_shutdown()
        self.metrics.is_ready.set(0)
        self.moderation_service.stop()
        self.search_service.end_watches()
        logger.info("stopping drain_seconds=%g", self.config.drain_seconds)
        await self.grpc.stop(self.config.drain_seconds)
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await asyncio.to_thread(self.supervisor.stop)
        if self.feed is not None:
            await asyncio.to_thread(self.feed.stop)
        await asyncio.to_thread(self.followers.stop)
        for workers in (self.query_workers, self.call_workers):
            await asyncio.to_thread(workers.close)
        if self.library is not None:
            self.library.close()
        self.reader.close()
        self.editor.close()
        self.close_metrics()
        self.end_spans()
        logger.info("stopped")

    async def tell_health(self, *, is_serving: bool) -> None:
        status = health_pb2.HealthCheckResponse.SERVING if is_serving else health_pb2.HealthCheckResponse.NOT_SERVING
        self.metrics.is_ready.set(is_serving)
        for service in ("", *SERVICES):
            await self.health.set(service, status)

    # ---- beside the calls

    def ready_library(self) -> Library:
        """Return what answers questions.

        Raises:
            ServerNotReady: While it is loading.
        """
        if self.library is None:
            raise ServerNotReady("loading", BUSY_SECONDS)
        return self.library

    async def keep_fresh(self) -> None:
        """Bring answers up to the catalog, again and again; load everything anew when the encoders were changed.

        Cancelled, it ends with the reading that is under way: what is read from is closed next.
        """
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            try:
                if self.library is None or await run_to_end(asyncio.to_thread(self.has_other_encoders)):
                    if self.library is not None:
                        logger.info("the library was reindexed: loading its encoders")
                        self.library = None
                        await self.tell_health(is_serving=False)
                    await self.load()
                else:
                    await run_to_end(asyncio.to_thread(self.refresh))
                    self.measure()
            except (ServeError, EncoderError) as error:  # the disk may come back: what was there is answered meanwhile
                logger.error("refresh failed reason=%s", error)

    def refresh(self) -> None:
        if self.library is not None:
            with suppress(IndexUnavailable):  # whoever asks is told, and it is tried again; the log has it
                self.library.engine.refresh()
        self.followers.wake()

    def delete_live(self, collection: str, video_id: str, seconds: float) -> None:
        """Delete a live video here and on every other server.

        Raises:
            VideoIsLive: If this server is not connected to Kafka.
            BrokerUnavailable: If Kafka does not take the deletion in so many seconds; nothing is changed then.
        """
        if self.feed is None:
            raise VideoIsLive(video_id)
        try:
            self.feed.delete(collection, video_id, seconds)
        except BrokerUnavailable as error:
            logger.warning("deletion not published reason=%s", error)
            # Where the brokers are, and why they do not answer, is not the caller's to know.
            raise BrokerUnavailable(("its brokers",), "nothing is changed", "come back later") from error

    def note_freshness(self, video: Video) -> None:
        self.metrics.freshness_seconds.observe(max(0.0, time.time() - video.indexed_time))

    def has_other_encoders(self) -> bool:
        space = self.reader.space()
        return self.library is not None and space is not None and space != self.library.encoders.space

    def measure(self) -> None:
        """Tell the metrics how large everything is."""
        for state, count in self.library_service.jobs.counts().items():
            self.metrics.jobs.labels(state.value).set(count)
        self.metrics.spool_bytes.set(self.spool.used_bytes())
        self.followers.update_metrics(self.moderation_service.log)
        if self.library is None:
            return
        engine = self.library.engine
        self.metrics.videos.set(len(engine.videos))
        self.metrics.index_rows.labels("segments").set(len(engine.segment_index))
        self.metrics.index_rows.labels("utterances").set(len(engine.utterance_index))
        if engine.visual is not None:
            self.metrics.frame_cache_bytes.set(engine.visual.frames.size)

    def text_vectors(self) -> dict[str, TextVectors]:
        if self.library is None:
            return {}
        engine = self.library.engine
        visual = {}
        if engine.visual is not None and engine.visual.texts is not engine.sentences:
            visual["visual"] = engine.visual.texts
        return {"sentence": engine.sentences, **visual}


async def first_of(*awaited: asyncio.Future[Any]) -> None:
    """Wait until one of them is done; none is cancelled."""
    await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)


async def serve(
    directory: Path,
    settings: Settings,
    config_file: Path | None,
    announce: Callable[[str], None],
    *,
    ingest_command: Sequence[str] | None = None,
) -> None:
    """Run a server until SIGTERM or SIGINT; `announce` is told the address as soon as it listens; see Server."""
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    server = Server(directory, settings, config_file, ingest_command=ingest_command)
    await server.start()
    announce(server.address)
    warming = asyncio.create_task(server.warm_up())
    ending = asyncio.create_task(stopping.wait())
    assert server.failure is not None  # it has started
    try:
        await first_of(warming, ending)
        if warming.done():
            warming.result()
        await first_of(ending, server.failure)
        if server.failure.done():
            raise server.failure.result()
    finally:
        for task in (warming, ending):
            task.cancel()
        await asyncio.gather(warming, ending, return_exceptions=True)
        await server.stop()
