"""build_server() makes a Server of its parts, and run_server() runs it until a signal, for `kinodex serve`."""

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2_grpc

from kinodex.v1.library_service_pb2_grpc import add_LibraryServiceServicer_to_server
from kinodex.v1.moderation_service_pb2_grpc import add_ModerationServiceServicer_to_server
from kinodex.v1.search_service_pb2_grpc import add_SearchServiceServicer_to_server
from kinodex.v1.server_service_pb2_grpc import add_ServerServiceServicer_to_server
from serve.api.access import Access
from serve.api.cache_counts import CacheCounts
from serve.api.interceptor import CallInterceptor
from serve.api.loaded_library import LoadedLibrary
from serve.api.pages import PageSigner, page_key
from serve.api.reflection import add_reflection
from serve.api.server import SERVICES, HttpWire, Server, wait_for_first
from serve.api.server_info import ServerReport
from serve.api.services.library import LibraryService
from serve.api.services.moderation import EventSignal, ModerationService
from serve.api.services.search import SearchService
from serve.api.services.server import ServerService
from serve.api.shares import share_of
from serve.api.strangers import channel_options, split_connections
from serve.api.tls import check_exposure, server_credentials
from serve.api.tokens import TokenStore, open_tokens
from serve.api.warming import lock_for_serving, prepare_catalog
from serve.api.workers import Workers
from serve.catalog.catalog import Catalog
from serve.catalog.events import EventLog
from serve.catalog.sqlite import WriterLock
from serve.config import ServerConfig, parse_quotas
from serve.errors import SettingsError
from serve.indexing.job import QueueLimits
from serve.indexing.jobs import JobQueue
from serve.indexing.supervisor import Supervisor
from serve.indexing.uploads import FOLDER_NAME, Spool
from serve.moderation.followers import Followers
from serve.observe.audit import AuditLog
from serve.observe.metrics import ServerMetrics
from serve.observe.tracing import no_spans, open_spans
from serve.search.library import PICTURE_WORKERS
from serve.settings import Settings

CALL_WORKER_COUNT = 4  # threads for calls that read or change the catalog, which take milliseconds
MAX_WAITING_PICTURES = 32  # of questions, 8 MiB each at most; the next question with a picture is refused


@dataclass(frozen=True, slots=True)
class Services:
    """The gRPC services of one server."""

    search: SearchService
    library: LibraryService
    moderation: ModerationService
    server: ServerService


def build_server(
    directory: Path, settings: Settings, config_file: Path | None = None, *, ingest_command: Sequence[str] | None = None
) -> Server:
    """Make a server that listens but does not answer yet: see Server. Call it on the event loop that it will run on.

    Everything that can be checked is checked here, before anything is loaded.

    Args:
        config_file: Where the settings come from, for the process that indexes (serve.indexing.job_worker).
        ingest_command: The command of that process; None: the usual one.
    Raises:
        SettingsError: If the server would listen unprotected, or a setting, a certificate or the tokens are unusable.
        DataDirectoryInvalid: If the catalog is damaged, or of another version.
        DataDirectoryBusy: If another server has the data directory.
    """
    tokens = open_tokens(directory, settings.server)
    check_exposure(settings.server, has_tokens=tokens is not None)
    credentials = server_credentials(settings.server)
    lock = lock_for_serving(directory)
    try:
        return _build_locked(directory, settings, lock, tokens, credentials, config_file, ingest_command)
    except BaseException:
        lock.release()
        raise


def _build_locked(
    directory: Path,
    settings: Settings,
    lock: WriterLock,
    tokens: TokenStore | None,
    credentials: grpc.ServerCredentials | None,
    config_file: Path | None,
    ingest_command: Sequence[str] | None,
) -> Server:
    config, metrics = settings.server, ServerMetrics()
    prepare_catalog(directory)
    spans, end_spans = open_spans() if config.traces else (no_spans, lambda: None)
    reader, editor = Catalog.open_reader(directory), Catalog.open_editor(directory)
    new_events = EventSignal()
    followers = Followers(directory, settings, editor, metrics, new_events.notify)
    loaded = LoadedLibrary(reader, followers)
    supervisor = Supervisor(JobQueue(editor), config=config_file, command=ingest_command)
    services = _make_services(directory, settings, metrics, loaded, followers, supervisor, new_events, reader, editor)
    metrics.registry.register(CacheCounts(loaded.text_vectors, services.search.rankings))
    audit = open_audit_log(config, metrics)
    interceptor = CallInterceptor(config, tokens, metrics, lambda: loaded.library is not None, spans, audit)
    services.server.info = ServerReport(
        directory=directory,
        settings=settings,
        loaded=loaded,
        followers=followers,
        jobs=services.library.jobs,
        log=services.moderation.log,
        spool=services.library.spool,
        waiting_count=lambda: services.search.workers.waiting_count,
        call_count=lambda: interceptor.call_count,
    ).make
    grpc_server, health_service = _make_grpc_server(config, interceptor, services)
    return Server(
        directory=directory,
        lock=lock,
        settings=settings,
        metrics=metrics,
        reader=reader,
        editor=editor,
        loaded=loaded,
        supervisor=supervisor,
        followers=followers,
        interceptor=interceptor,
        search_service=services.search,
        library_service=services.library,
        moderation_service=services.moderation,
        server_service=services.server,
        health=health_service,
        grpc=grpc_server,
        port=_listen(grpc_server, config.listen, credentials),
        audit=audit,
        end_spans=end_spans,
    )


def open_audit_log(config: ServerConfig, metrics: ServerMetrics) -> AuditLog | None:
    """Open the audit log of the settings; None: there is none."""
    if not config.audit_log:
        return None
    return AuditLog(
        Path(config.audit_log),
        with_questions=config.audit_questions,
        count=lambda outcome, count: metrics.audit_acts.labels(outcome).inc(count),
    )


def _make_services(
    directory: Path,
    settings: Settings,
    metrics: ServerMetrics,
    loaded: LoadedLibrary,
    followers: Followers,
    supervisor: Supervisor,
    new_events: EventSignal,
    reader: Catalog,
    editor: Catalog,
) -> Services:
    config = settings.server
    query_thread_count = config.query_workers or os.cpu_count() or 1  # questions are bounded by the CPU
    query_workers = Workers(
        "questions",
        query_thread_count,
        config.max_waiting_queries,
        metrics.queries_waiting.set,
        limit="max_waiting_queries",
        share=config.max_caller_share,
    )
    picture_workers = Workers(
        "pictures",
        PICTURE_WORKERS,
        MAX_WAITING_PICTURES,
        lambda count: None,
        limit=f"{MAX_WAITING_PICTURES} waiting",
        share=config.max_caller_share,
    )
    # The interceptor bounds the calls already, so none is refused for want of a thread.
    max_waiting_count = config.max_concurrent_calls + config.max_watches
    call_workers = Workers(
        "calls", CALL_WORKER_COUNT, max_waiting_count, lambda count: None, limit="max_concurrent_calls"
    )
    # Apart from the calls that only read: SQLite has one writer, which may be another process.
    change_workers = Workers(
        "changes", CALL_WORKER_COUNT, max_waiting_count, lambda count: None, limit="max_concurrent_calls"
    )
    share = config.max_caller_share
    spool = Spool(
        directory / FOLDER_NAME,
        max_upload_bytes=config.max_upload_bytes,
        max_spool_bytes=config.max_spool_bytes,
        max_caller_bytes=share_of(config.max_spool_bytes, share),
        waiting_bytes=JobQueue(reader).waiting_bytes,
    )
    access, signer = Access(reader), PageSigner(page_key(directory))
    search_service = SearchService(
        loaded.require, followers.ready_watcher, access, query_workers, picture_workers, signer, loaded.is_behind
    )
    changes = JobQueue(editor, parse_quotas(config.quotas))
    library_service = LibraryService(
        reader,
        changes,
        access,
        spool,
        call_workers,
        change_workers,
        signer,
        settings.source,
        max_stall_seconds=settings.server.max_upload_stall_seconds,
        limits=QueueLimits(total_count=config.max_jobs, caller_count=share_of(config.max_jobs, share)),
        on_submit=supervisor.wake,
        delete_live=loaded.delete_live,
        on_delete=loaded.refresh,
        metrics=metrics,
    )
    moderation_service = ModerationService(
        EventLog(reader),
        lambda: followers.policies,
        new_events,
        access,
        call_workers,
        signer,
        EventLog(editor),
        change_workers,
        followers.announce,
    )
    server_service = ServerService(reader, changes, access, call_workers, change_workers, signer, loaded.is_behind)
    return Services(search_service, library_service, moderation_service, server_service)


def _make_grpc_server(
    config: ServerConfig,
    interceptor: CallInterceptor,
    services: Services,
) -> tuple[grpc.aio.Server, health.aio.HealthServicer]:
    """Make the gRPC server with our services, health checks and reflection."""
    server = grpc.aio.server(
        interceptors=[interceptor],
        options=channel_options(config, split_connections(config)[0]),
    )
    add_SearchServiceServicer_to_server(services.search, server)
    add_LibraryServiceServicer_to_server(services.library, server)
    add_ModerationServiceServicer_to_server(services.moderation, server)
    add_ServerServiceServicer_to_server(services.server, server)
    health_service = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_service, server)
    add_reflection([*SERVICES, health.SERVICE_NAME], server)
    return server, health_service


def _listen(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> int:
    """Bind the address and return the port.

    Raises:
        SettingsError: If the address cannot be bound.
    """
    try:
        if credentials is None:
            return int(server.add_insecure_port(address))
        return int(server.add_secure_port(address, credentials))
    except RuntimeError as error:
        raise SettingsError(f"cannot listen on {address}: the address is in use or not ours") from error


async def run_server(
    directory: Path,
    settings: Settings,
    config_file: Path | None,
    announce: Callable[[str], None],
    *,
    ingest_command: Sequence[str] | None = None,
    open_http: Callable[[Server], HttpWire | None] = lambda server: None,
) -> None:
    """Run a server until SIGTERM or SIGINT, or until it fails. Arguments and errors are those of build_server().

    Args:
        announce: Called with the address once the server listens.
        open_http: Makes the HTTP server beside it; None: there is none.
    Raises:
        ServeError, EncoderError: If the library cannot be used.
    """
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    server = build_server(directory, settings, config_file, ingest_command=ingest_command)
    ending = asyncio.create_task(stopping.wait())
    tasks: list[asyncio.Task[Any]] = [ending]
    try:
        server.http = open_http(server)
        await server.start()
        announce(server.address)
        warming = asyncio.create_task(server.warm_up())
        tasks.append(warming)
        await wait_for_first(warming, ending)
        if warming.done():
            warming.result()
        await wait_for_first(ending, server.failure)
        if server.failure.done():
            raise server.failure.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.stop()
