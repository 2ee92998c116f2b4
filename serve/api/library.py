"""LibraryService: taking videos in, telling of them, forgetting them, over gRPC."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from google.protobuf.message import Message

from ingest.config import SourceConfig
from ingest.source.source import check_policy, display_uri, video_id_of
from kinodex.v1 import library_service_pb2 as library_pb2
from kinodex.v1 import library_service_pb2_grpc
from serve.api.access import Access
from serve.api.interceptor import current_principal
from serve.api.pages import PageSigner, binding
from serve.api.tokens import Principal
from serve.api.workers import Workers, run_to_end
from serve.catalog.catalog import Catalog
from serve.catalog.reader import require_single
from serve.catalog.rows import uri_bytes
from serve.codec.fields import duration_message
from serve.codec.messages import ready_status, video_message
from serve.codec.requests import (
    Placement,
    UploadInfo,
    VideoReference,
    ingest_placement,
    upload_info,
    video_listing,
    video_reference,
)
from serve.codec.utterances import fill_utterance
from serve.errors import FrameNotFound, RequestInvalid, UploadStalled, VideoAmbiguous, VideoNotFound, VideoNotReady
from serve.indexing.jobs import JobQueue, NewJob, RequestKey
from serve.indexing.uploads import Spool, Upload, upload_uri
from serve.observe.metrics import ServerMetrics
from serve.values import Video, VideoStatus

MAX_BLOCK_BYTES = 1 << 20  # of one message of an upload, as the proto says
# gRPC ends the messages of a call that was cancelled, or whose connection broke, as it does those of a whole one, and
# tells of the cancellation a moment later. Without waiting for that, half a file would be taken for all of it.
CANCEL_SECONDS = 0.05
# How long Kafka may take to acknowledge a deletion; of a call's own deadline a part, so that the answer still arrives.
DELETE_SECONDS = 10.0
DELETE_SHARE = 0.8


class LibraryService(library_service_pb2_grpc.LibraryServiceServicer):
    """Tells of, and changes, what the caller may."""

    def __init__(
        self,
        catalog: Catalog,
        changes: JobQueue,
        access: Access,
        spool: Spool,
        workers: Workers,
        signer: PageSigner,
        sources: SourceConfig,
        *,
        max_stall_seconds: float,
        on_submit: Callable[[], None],
        delete_live: Callable[[str, str, float], None],
        on_delete: Callable[[], None],
        metrics: ServerMetrics,
    ) -> None:
        """Take a catalog for reading and the queue for changes.

        Args:
            max_stall_seconds: Of an upload, without a message.
            on_submit: Says that there is a new job.
            delete_live: Deletes a live video, by collection and id, here and wherever it is; within so many seconds.
            on_delete: Makes answers forget what is gone.
        """
        self.catalog, self.access, self.spool, self.workers = catalog, access, spool, workers
        self.signer, self.sources, self.max_stall_seconds = signer, sources, max_stall_seconds
        self.on_submit, self.delete_live, self.on_delete, self.metrics = on_submit, delete_live, on_delete, metrics
        self.jobs = JobQueue(catalog)
        self.changes = changes

    # ---- taking in

    async def IngestVideo(
        self, request: library_pb2.IngestVideoRequest, context: Any
    ) -> library_pb2.IngestVideoResponse:
        placement, principal = ingest_placement(request), current_principal()

        def work(check: Callable[[], None]) -> VideoStatus:
            self.access.require_writable(principal, placement.collection)
            check_policy(request.uri, self.sources)
            named = placement.video_id or derived_id(placement.collection, request.uri)
            job = NewJob(
                collection=placement.collection,
                video_id=named,
                uri=request.uri,
                display_uri=display_uri(request.uri),
                metadata=placement.metadata,
                recorded_time=placement.recorded_time,
            )
            return self.submit(job, request_key(principal, "IngestVideo", placement, request))

        return library_pb2.IngestVideoResponse(video=video_message(await self.workers.run(work)))

    async def UploadVideo(
        self, request_iterator: AsyncIterator[library_pb2.UploadVideoRequest], context: Any
    ) -> library_pb2.UploadVideoResponse:
        principal = current_principal()
        first = await self.next_message(request_iterator, "the upload")
        if first is None or first.WhichOneof("content") != "header":
            raise RequestInvalid([("header", "is required, and comes first")])
        announced = upload_info(first.header)
        placement = announced.placement
        key = request_key(principal, "UploadVideo", placement, first.header)

        def admit(check: Callable[[], None]) -> VideoStatus | None:
            self.access.require_writable(principal, placement.collection)
            answer = None if key is None else self.jobs.answer(key)
            return None if answer is None else self.status(*answer)

        status: VideoStatus | None = await self.workers.run(admit)
        if status is None:
            status = await self.receive(request_iterator, announced, key)
        return library_pb2.UploadVideoResponse(video=video_message(status))

    async def receive(
        self,
        request_iterator: AsyncIterator[library_pb2.UploadVideoRequest],
        announced: UploadInfo,
        key: RequestKey | None,
    ) -> VideoStatus:
        """Spool an upload's bytes and queue it."""
        with self.spool.receive(announced.filename, size_bytes=announced.size_bytes or None) as upload:
            while (message := await self.next_message(request_iterator, announced.filename)) is not None:
                if message.WhichOneof("content") != "data":
                    raise RequestInvalid([("data", "is required in every message after the first")])
                if len(message.data) > MAX_BLOCK_BYTES:
                    raise RequestInvalid([("data", f"must be at most {MAX_BLOCK_BYTES} bytes")])
                await run_to_end(asyncio.to_thread(upload.write, message.data))
                self.metrics.uploaded_bytes.inc(len(message.data))
            await asyncio.sleep(CANCEL_SECONDS)
            return await run_to_end(asyncio.to_thread(self.queue_upload, upload, announced, key))

    def queue_upload(self, upload: Upload, announced: UploadInfo, key: RequestKey | None) -> VideoStatus:
        spooled = upload.finish(size_bytes=announced.size_bytes or None, sha256=announced.sha256 or None)
        placement = announced.placement
        video_id = placement.video_id or video_id_of(spooled.content_sha256)
        there = self.catalog.videos(collection=placement.collection, video_ids=(video_id,))
        is_known = bool(there) and there[0].content_sha256 == spooled.content_sha256
        if is_known and self.jobs.job(placement.collection, video_id) is None:
            self.spool.remove(spooled.name)
            return ready_status(there[0])
        uri = upload_uri(announced.filename)
        job = NewJob(
            collection=placement.collection,
            video_id=video_id,
            uri=uri,
            display_uri=uri,
            spool_name=spooled.name,
            metadata=placement.metadata,
            recorded_time=placement.recorded_time,
        )
        return self.submit(job, key)

    async def next_message(
        self, messages: AsyncIterator[library_pb2.UploadVideoRequest], filename: str
    ) -> library_pb2.UploadVideoRequest | None:
        """Return the next message of an upload; None: it has ended."""
        try:
            async with asyncio.timeout(self.max_stall_seconds):
                return await anext(messages, None)
        except TimeoutError as error:
            raise UploadStalled(filename, self.max_stall_seconds) from error

    # ---- telling

    async def GetVideo(self, request: library_pb2.GetVideoRequest, context: Any) -> library_pb2.GetVideoResponse:
        reference, principal = video_reference(request), current_principal()

        def work(check: Callable[[], None]) -> VideoStatus:
            return self.find(reference, principal)

        return library_pb2.GetVideoResponse(video=video_message(await self.workers.run(work)))

    async def ListVideos(self, request: library_pb2.ListVideosRequest, context: Any) -> library_pb2.ListVideosResponse:
        wanted, principal = video_listing(request), current_principal()
        bound_to = binding(principal.scope, "ListVideos", request)
        after: tuple[str, str, str] | None = None
        if request.page_token:
            uri, collection, video_id = self.signer.verify(request.page_token, binding=bound_to)["after"]
            after = (uri, collection, video_id)

        def work(check: Callable[[], None]) -> list[VideoStatus]:
            collections = self.readable(principal, wanted.collection)
            count = wanted.page_size + 1  # one more tells whether there is a next page
            with self.catalog.snapshot():
                ready = self.catalog.page_of_videos(collections=collections, after=after, limit=count)
                jobs = self.jobs.jobs(collections=collections, after=after, limit=count)
            found = [ready_status(video) for video in ready] + [job.status() for job in jobs]
            return sorted(found, key=order_of)[:count]

        found: list[VideoStatus] = await self.workers.run(work)
        page = found[: wanted.page_size]
        token = self.signer.sign({"after": place_of(page[-1])}, binding=bound_to) if len(found) > len(page) else ""
        return library_pb2.ListVideosResponse(videos=[video_message(one) for one in page], next_page_token=token)

    async def GetTranscript(
        self, request: library_pb2.GetTranscriptRequest, context: Any
    ) -> library_pb2.GetTranscriptResponse:
        reference, principal = video_reference(request), current_principal()

        def work(check: Callable[[], None]) -> library_pb2.GetTranscriptResponse:
            utterances = self.catalog.utterances(self.ready(reference, principal).row)
            return library_pb2.GetTranscriptResponse(
                utterances=[fill_utterance(library_pb2.Utterance(), one) for one in utterances]
            )

        response: library_pb2.GetTranscriptResponse = await self.workers.run(work)
        return response

    async def GetFrame(self, request: library_pb2.GetFrameRequest, context: Any) -> library_pb2.GetFrameResponse:
        reference, principal = video_reference(request), current_principal()
        at_seconds = request.offset.ToNanoseconds() / 1e9

        def work(check: Callable[[], None]) -> library_pb2.GetFrameResponse:
            video = self.ready(reference, principal)
            frame = self.catalog.thumbnail(video.row, at_seconds)
            if frame is None:
                raise FrameNotFound(video.video_id)
            return library_pb2.GetFrameResponse(jpeg=frame[1], offset=duration_message(frame[0]))

        response: library_pb2.GetFrameResponse = await self.workers.run(work)
        return response

    # ---- forgetting

    async def DeleteVideo(
        self, request: library_pb2.DeleteVideoRequest, context: Any
    ) -> library_pb2.DeleteVideoResponse:
        reference, principal = video_reference(request), current_principal()
        remaining = context.time_remaining()
        seconds = DELETE_SECONDS if remaining is None else min(DELETE_SECONDS, DELETE_SHARE * remaining)

        def work(check: Callable[[], None]) -> None:
            key = request_key(principal, "DeleteVideo", request, request)
            if key is not None and self.jobs.answer(key) is not None:
                return
            readable = self.readable(principal, reference.collection)
            collection = self.owner(reference.video_id, readable)
            if collection is None:
                raise VideoNotFound(reference.video_id)
            self.access.require_writable(principal, collection)
            there = self.catalog.videos(collection=collection, video_ids=(reference.video_id,))
            if any(video.is_live for video in there):
                self.delete_live(collection, reference.video_id, seconds)
                self.changes.cancel(collection, reference.video_id, key)
            else:
                self.changes.delete(reference.video_id, collection, key)
            self.on_delete()

        await self.workers.run(work)
        return library_pb2.DeleteVideoResponse()

    # ---- finding

    def readable(self, principal: Principal, collection: str | None) -> tuple[str, ...] | None:
        """Return the collections that a call may read which names one, or None: all that the caller may."""
        return self.access.readable_collections(principal, None if collection is None else (collection,))

    def submit(self, job: NewJob, key: RequestKey | None) -> VideoStatus:
        """Queue a job, or find what a repeated request was answered with."""
        answer = self.changes.submit(job, key)
        self.on_submit()
        return self.status(*answer)

    def status(self, collection: str, video_id: str) -> VideoStatus:
        """Tell how far one video is, as it was submitted or is by now.

        Raises:
            VideoNotFound: If it was deleted meanwhile.
        """
        with self.catalog.snapshot():
            if (job := self.jobs.job(collection, video_id)) is not None:
                return job.status()
            videos = self.catalog.videos(collection=collection, video_ids=(video_id,))
            return ready_status(require_single(videos, video_id))

    def find(self, reference: VideoReference, principal: Principal) -> VideoStatus:
        """Find a video in any state; READY ones also by the beginning of their id."""
        readable = self.readable(principal, reference.collection)
        with self.catalog.snapshot():
            collection = self.owner(reference.video_id, readable)
            if collection is not None:
                return self.status(collection, reference.video_id)
            return ready_status(self.ready(reference, principal))

    def owner(self, video_id: str, readable: tuple[str, ...] | None) -> str | None:
        """Return which of these collections has a video of exactly this id, in any state; None: none of them.

        Raises:
            VideoAmbiguous: If several have.
        """
        ready = self.catalog.videos(video_ids=(video_id,))
        owners = {video.collection for video in ready if readable is None or video.collection in readable}
        owners |= {job.collection for job in self.jobs.jobs(collections=readable, video_id=video_id)}
        if len(owners) > 1:
            raise VideoAmbiguous(video_id, sorted(owners))
        return next(iter(owners), None)

    def ready(self, reference: VideoReference, principal: Principal) -> Video:
        """Find a READY video by its id or an unambiguous beginning of it, among those the caller may read.

        Raises:
            VideoNotFound: If there is none; the same for what the caller may not read.
            VideoAmbiguous: If there are several.
            VideoNotReady: If it is on its way in, or failed.
        """
        readable = self.readable(principal, reference.collection)
        found = self.catalog.videos_named(reference.video_id, readable)
        for job in () if found else self.jobs.jobs(collections=readable, video_id=reference.video_id):
            raise VideoNotReady(job.video_id, job.status().state.value)
        return require_single(found, reference.video_id)


def derived_id(collection: str, uri: str) -> str:
    """Name a video whose bytes nobody has seen yet: 64 bits of a hash, the same each time it is asked for."""
    return hashlib.sha256(f"{collection}\n{uri}".encode()).hexdigest()[:16]


def place_of(status: VideoStatus) -> tuple[str, str, str]:
    """Return a video's place in a list."""
    return status.uri, status.collection, status.video_id


def order_of(status: VideoStatus) -> tuple[bytes, str, str]:
    """Return what orders a list as the catalog does: by a URI's bytes, which may be no UTF-8."""
    return uri_bytes(status.uri), status.collection, status.video_id


def request_key(
    principal: Principal, method: str, placement: "Placement | library_pb2.DeleteVideoRequest", request: Message
) -> RequestKey | None:
    """Return what tells a repeated request from another; None: the caller gave it no id."""
    if not placement.request_id:
        return None
    digest = hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()
    return RequestKey(principal=principal.name, request_id=placement.request_id, method=method, digest=digest)
