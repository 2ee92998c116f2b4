"""ServerService: the gRPC methods that show what the server is doing: live streams, jobs and its state."""

import time
from collections.abc import Callable
from typing import Any

from kinodex.v1 import server_service_pb2 as server_pb2
from kinodex.v1 import server_service_pb2_grpc
from serve.api.access import Access
from serve.api.interceptor import current_caller, current_principal, current_subject
from serve.api.pages import PageSigner, binding, fit_page
from serve.api.services.retries import request_key
from serve.api.tokens import Principal
from serve.api.workers import Workers
from serve.catalog.catalog import Catalog
from serve.codec.overviews import (
    job_message,
    job_reference,
    page_request,
    server_info_message,
    stream_message,
)
from serve.codec.requests import VideoReference
from serve.codec.rows import write_rows
from serve.errors import JobNotFound, PermissionDenied, VideoAmbiguous
from serve.indexing.job import Job
from serve.indexing.job_list import job_status, list_jobs
from serve.indexing.jobs import JobQueue
from serve.live.stream_list import list_streams
from serve.overview import JobStatus, ServerInfo, StreamStatus


class ServerService(server_service_pb2_grpc.ServerServiceServicer):
    """Shows the live streams and the jobs of the collections that the caller may read, and ends jobs."""

    def __init__(
        self,
        catalog: Catalog,
        changes: JobQueue,
        access: Access,
        workers: Workers,
        change_workers: Workers,
        signer: PageSigner,
        is_behind: Callable[[], bool],
    ) -> None:
        """Take the parts: those of LibraryService, and whether live videos may be older than those on Kafka.

        `info` is set when the whole server is made: what GetServerInfo returns.
        """
        self.info: Callable[[], ServerInfo]
        self.catalog, self.changes, self.access, self.signer = catalog, changes, access, signer
        self.workers, self.change_workers, self._is_behind = workers, change_workers, is_behind
        self.jobs = JobQueue(catalog)

    async def ListStreams(self, request: server_pb2.ListStreamsRequest, context: Any) -> server_pb2.ListStreamsResponse:
        wanted, principal = page_request(request), current_principal()
        bound_to = binding(principal.scope, "ListStreams", request)
        after = ("", "")
        if request.page_token:
            collection, stream_id = self.signer.verify(request.page_token, binding=bound_to)["after"]
            after = (collection, stream_id)

        def work(check: Callable[[], None]) -> list[StreamStatus]:
            return list_streams(
                self.catalog,
                self.access.readable_collections(principal, wanted.collections),
                include_ended=request.include_ended,
                after=after,
                limit=wanted.page_size + 1,
                now=time.time(),
            )

        streams = await self.workers.run(work)

        def write(count: int) -> server_pb2.ListStreamsResponse:
            page, token = streams[:count], ""
            if len(streams) > len(page):
                token = self.signer.sign({"after": (page[-1].collection, page[-1].stream_id)}, binding=bound_to)
            return server_pb2.ListStreamsResponse(
                streams=write_rows(stream_message, page), next_page_token=token, live_is_behind=self._is_behind()
            )

        return fit_page(write, wanted.page_size)

    async def ListJobs(self, request: server_pb2.ListJobsRequest, context: Any) -> server_pb2.ListJobsResponse:
        wanted, principal, caller = page_request(request), current_principal(), current_caller()
        bound_to = binding(principal.scope, "ListJobs", request)
        after = int(self.signer.verify(request.page_token, binding=bound_to)["after"]) if request.page_token else 0

        def work(check: Callable[[], None]) -> list[tuple[int, JobStatus]]:
            readable = self.access.readable_collections(principal, wanted.collections)
            limit = wanted.page_size + 1
            return list_jobs(self.catalog, readable, caller=caller, own=request.own, after=after, limit=limit)

        jobs = await self.workers.run(work)

        def write(count: int) -> server_pb2.ListJobsResponse:
            page, token = jobs[:count], ""
            if len(jobs) > len(page):
                token = self.signer.sign({"after": page[-1][0]}, binding=bound_to)
            written = write_rows(job_message, [job for _, job in page])
            return server_pb2.ListJobsResponse(jobs=written, next_page_token=token)

        return fit_page(write, wanted.page_size)

    async def GetJob(self, request: server_pb2.GetJobRequest, context: Any) -> server_pb2.GetJobResponse:
        reference, principal, caller = job_reference(request), current_principal(), current_caller()

        def work(check: Callable[[], None]) -> JobStatus:
            return job_status(self._find(reference, principal), caller)

        return server_pb2.GetJobResponse(job=job_message(await self.workers.run(work)))

    async def CancelJob(self, request: server_pb2.CancelJobRequest, context: Any) -> server_pb2.CancelJobResponse:
        reference, principal = job_reference(request), current_principal()

        def work(check: Callable[[], None]) -> None:
            key = request_key(principal, "CancelJob", request, request)
            if key is not None and self.jobs.answer(key) is not None:
                return
            job = self._find(reference, principal)
            current_subject().add(collection=job.collection)
            self.access.require_writable(principal, job.collection)
            self.changes.cancel(job.collection, job.video_id, key)

        await self.change_workers.run(work)
        return server_pb2.CancelJobResponse()

    async def GetServerInfo(
        self, request: server_pb2.GetServerInfoRequest, context: Any
    ) -> server_pb2.GetServerInfoResponse:
        principal = current_principal()
        if principal.collections is not None or not principal.can_write:
            raise PermissionDenied("see the state of the server: that takes a token for all collections that may write")
        return server_info_message(await self.change_workers.run(lambda check: self.info()))

    def _find(self, reference: VideoReference, principal: Principal) -> Job:
        """Return the job of a video, among those that the caller may read.

        Raises:
            JobNotFound: If there is none.
            VideoAmbiguous: If several collections have one.
        """
        named = None if reference.collection is None else (reference.collection,)
        collections = self.access.readable_collections(principal, named)
        jobs = self.jobs.jobs(collections=collections, video_id=reference.video_id)
        if not jobs:
            raise JobNotFound(reference.video_id)
        if len(jobs) > 1:
            raise VideoAmbiguous(reference.video_id, sorted(job.collection for job in jobs))
        return jobs[0]
