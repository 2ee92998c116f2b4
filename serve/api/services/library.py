"""LibraryService: the gRPC methods that add, list, show and delete videos."""

import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

from ingest.config import SourceConfig
from ingest.source.source import check_policy, display_uri
from kinodex.v1 import library_service_pb2 as library_pb2
from kinodex.v1 import library_service_pb2_grpc
from serve.api.access import Access
from serve.api.interceptor import current_caller, current_principal, current_subject
from serve.api.pages import PageSigner, binding, fit_page
from serve.api.services.retries import request_key
from serve.api.services.upload_messages import UploadMessages
from serve.api.tokens import Principal
from serve.api.workers import Workers, run_to_end
from serve.catalog.catalog import Catalog
from serve.catalog.chapters import read_outline
from serve.catalog.collection_counts import count_collections
from serve.catalog.entries import free_id, video_at
from serve.catalog.reader import require_single
from serve.catalog.rows import uri_bytes
from serve.catalog.speech.speakers import read_speakers
from serve.catalog.storyboard import read_storyboard
from serve.codec.fields import duration_message
from serve.codec.messages import ready_status, video_message
from serve.codec.outlines import outline_message
from serve.codec.overviews import collection_listing, collection_message
from serve.codec.requests import (
    UploadInfo,
    VideoReference,
    ingest_placement,
    upload_info,
    video_listing,
    video_reference,
)
from serve.codec.rows import write_rows, write_single
from serve.codec.timelines import storyboard_message, storyboard_request
from serve.codec.utterances import speaker_message, utterance_message
from serve.errors import (
    FrameNotFound,
    PermissionDenied,
    VideoAmbiguous,
    VideoNotFound,
    VideoNotReady,
)
from serve.indexing.job import NewJob, QueueLimits, RequestKey
from serve.indexing.jobs import JobQueue
from serve.indexing.uploads import Spool, Upload, upload_uri
from serve.observe.metrics import ServerMetrics
from serve.overview import CollectionSummary
from serve.values import Video, VideoStatus

DELETE_SECONDS = 10.0  # how long Kafka may take to acknowledge a deletion
DELETE_SHARE = 0.8  # of the call's own deadline, at most, so that the answer still arrives in time


class LibraryService(library_service_pb2_grpc.LibraryServiceServicer):
    """Shows and changes the videos of the collections that the caller may read and change."""

    def __init__(
        self,
        catalog: Catalog,
        changes: JobQueue,
        access: Access,
        spool: Spool,
        workers: Workers,
        change_workers: Workers,
        signer: PageSigner,
        sources: SourceConfig,
        *,
        max_stall_seconds: float,
        limits: QueueLimits,
        on_submit: Callable[[], None],
        delete_live: Callable[[str, str, float], None],
        on_delete: Callable[[], None],
        metrics: ServerMetrics,
    ) -> None:
        """Take the parts.

        Args:
            catalog: Open for reading.
            changes: The job queue of a catalog that is open for changes.
            workers: Threads for calls that only read. They never wait for a change.
            change_workers: Threads for calls that change the catalog. They may wait for other processes' changes.
            max_stall_seconds: How long an upload may pause between two messages, or be slow.
            limits: Of the queue.
            on_submit: Called when there is a new job.
            delete_live: Deletes a live video here and on every other server: (collection, id, timeout in seconds).
            on_delete: Called after a deletion; removes the video from the indexes.
        """
        self.catalog, self.access, self.spool = catalog, access, spool
        self.workers, self.change_workers = workers, change_workers
        self.signer, self.sources, self.max_stall_seconds = signer, sources, max_stall_seconds
        self.limits = limits
        self.on_submit, self.delete_live, self.on_delete, self.metrics = on_submit, delete_live, on_delete, metrics
        self.jobs = JobQueue(catalog)
        self.changes = changes

    async def IngestVideo(
        self, request: library_pb2.IngestVideoRequest, context: Any
    ) -> library_pb2.IngestVideoResponse:
        placement, principal = ingest_placement(request), current_principal()
        current_subject().add(collection=placement.collection)

        def work(check: Callable[[], None]) -> VideoStatus:
            self.access.require_writable(principal, placement.collection)
            check_policy(request.uri, self.sources)
            job = NewJob(
                collection=placement.collection,
                video_id=placement.video_id or self._make_id(placement.collection, request.uri),
                uri=request.uri,
                display_uri=display_uri(request.uri),
                metadata=placement.metadata,
                recorded_time=placement.recorded_time,
                caller=current_caller(),
            )
            key = request_key(principal, "IngestVideo", placement, request)
            if key is not None and job.uri != job.display_uri:
                key = replace(key, digest=self.signer.digest(key.digest))
            return self._submit(job, key)

        return library_pb2.IngestVideoResponse(video=write_single(video_message, await self.change_workers.run(work)))

    async def UploadVideo(
        self, request_iterator: AsyncIterator[library_pb2.UploadVideoRequest], context: Any
    ) -> library_pb2.UploadVideoResponse:
        principal = current_principal()
        if not principal.can_write:  # before anything of the upload is read
            raise PermissionDenied("upload videos")
        messages = UploadMessages(request_iterator, self.max_stall_seconds, self.metrics)
        header = await messages.read_header()
        info = upload_info(header)
        placement = info.placement
        current_subject().add(collection=placement.collection)
        key = request_key(principal, "UploadVideo", placement, header)

        def find_answer(check: Callable[[], None]) -> VideoStatus | None:
            """Return the answer to an earlier call with the same request id."""
            self.access.require_writable(principal, placement.collection)
            answer = None if key is None else self.jobs.answer(key)
            if answer is not None:
                return self._status(*answer)
            self.changes.room.require(placement.collection, placement.video_id or "")  # before the bytes come
            self.jobs.check_room(current_caller(), self.limits)
            return None

        status = await self.workers.run(find_answer)
        if status is None:
            size_bytes = info.size_bytes or None
            with self.spool.receive(info.filename, size_bytes=size_bytes, caller=current_caller()) as upload:
                await messages.write_to(upload, info.filename)
                status = await run_to_end(self.change_workers.run(lambda check: self._queue_upload(upload, info, key)))
        return library_pb2.UploadVideoResponse(video=write_single(video_message, status))

    def _queue_upload(self, upload: Upload, info: UploadInfo, key: RequestKey | None) -> VideoStatus:
        spooled = upload.finish(size_bytes=info.size_bytes or None, sha256=info.sha256 or None)
        placement = info.placement
        video_id = placement.video_id or free_id(
            self.catalog, placement.collection, upload_uri(info.filename), spooled.content_sha256
        )
        ready = self.catalog.videos(collection=placement.collection, video_ids=(video_id,))
        is_indexed = bool(ready) and ready[0].content_sha256 == spooled.content_sha256
        if is_indexed and self.jobs.job(placement.collection, video_id) is None:
            self.spool.remove(spooled.name)
            return ready_status(ready[0])
        uri = upload_uri(info.filename)
        job = NewJob(
            collection=placement.collection,
            video_id=video_id,
            uri=uri,
            display_uri=uri,
            spool_name=spooled.name,
            metadata=placement.metadata,
            recorded_time=placement.recorded_time,
            caller=current_caller(),
            size_bytes=spooled.size_bytes,
        )
        return self._submit(job, key)

    async def GetVideo(self, request: library_pb2.GetVideoRequest, context: Any) -> library_pb2.GetVideoResponse:
        reference, principal = video_reference(request), current_principal()

        def work(check: Callable[[], None]) -> VideoStatus:
            return self._find(reference, principal)

        return library_pb2.GetVideoResponse(video=write_single(video_message, await self.workers.run(work)))

    async def ListVideos(self, request: library_pb2.ListVideosRequest, context: Any) -> library_pb2.ListVideosResponse:
        listing, principal = video_listing(request), current_principal()
        bound_to = binding(principal.scope, "ListVideos", request)
        after: tuple[str, str, str] | None = None
        if request.page_token:
            uri, collection, video_id = self.signer.verify(request.page_token, binding=bound_to)["after"]
            after = (uri, collection, video_id)

        def work(check: Callable[[], None]) -> list[VideoStatus]:
            collections = self._readable_collections(principal, listing.collection)
            count = listing.page_size + 1  # the last one shows only whether there is a next page
            with self.catalog.snapshot():
                ready = self.catalog.page_of_videos(collections=collections, after=after, limit=count)
                jobs = self.jobs.jobs(collections=collections, after=after, limit=count)
            statuses = [ready_status(video) for video in ready] + [job.status() for job in jobs]
            return sorted(statuses, key=sort_key)[:count]

        statuses = await self.workers.run(work)

        def write(count: int) -> library_pb2.ListVideosResponse:
            page, token = statuses[:count], ""
            if len(statuses) > len(page):
                last = page[-1]
                token = self.signer.sign({"after": (last.uri, last.collection, last.video_id)}, binding=bound_to)
            return library_pb2.ListVideosResponse(videos=write_rows(video_message, page), next_page_token=token)

        return fit_page(write, listing.page_size)

    async def GetTranscript(
        self, request: library_pb2.GetTranscriptRequest, context: Any
    ) -> library_pb2.GetTranscriptResponse:
        reference, principal = video_reference(request), current_principal()

        def work(check: Callable[[], None]) -> library_pb2.GetTranscriptResponse:
            with self.catalog.snapshot():
                row = self._ready_video(reference, principal).row
                utterances, speakers = self.catalog.utterances(row), read_speakers(self.catalog, row)
            return library_pb2.GetTranscriptResponse(
                utterances=map(utterance_message, utterances), speakers=map(speaker_message, speakers)
            )

        return await self.workers.run(work)

    async def NameSpeaker(
        self, request: library_pb2.NameSpeakerRequest, context: Any
    ) -> library_pb2.NameSpeakerResponse:
        reference, principal = video_reference(request), current_principal()

        def work(check: Callable[[], None]) -> library_pb2.NameSpeakerResponse:
            video = self._ready_video(reference, principal)
            current_subject().add(collection=video.collection, name=video.video_id)
            self.access.require_writable(principal, video.collection)
            self.changes.catalog.name_speaker(video, request.speaker, request.name.strip())
            speakers = read_speakers(self.catalog, video.row)
            return library_pb2.NameSpeakerResponse(speakers=map(speaker_message, speakers))

        return await self.change_workers.run(work)

    async def GetChapters(
        self, request: library_pb2.GetChaptersRequest, context: Any
    ) -> library_pb2.GetChaptersResponse:
        reference, principal = video_reference(request), current_principal()

        def work(check: Callable[[], None]) -> library_pb2.GetChaptersResponse:
            video = self._ready_video(reference, principal)
            return outline_message(read_outline(self.catalog, video, request.highlight_count))

        return await self.workers.run(work)

    async def GetFrame(self, request: library_pb2.GetFrameRequest, context: Any) -> library_pb2.GetFrameResponse:
        reference, principal = video_reference(request), current_principal()
        at_seconds = request.offset.ToNanoseconds() / 1e9

        def work(check: Callable[[], None]) -> library_pb2.GetFrameResponse:
            video = self._ready_video(reference, principal)
            frame = self.catalog.thumbnail(video.row, at_seconds)
            if frame is None:
                raise FrameNotFound(video.video_id)
            return library_pb2.GetFrameResponse(jpeg=frame[1], offset=duration_message(frame[0]))

        return await self.workers.run(work)

    async def GetStoryboard(
        self, request: library_pb2.GetStoryboardRequest, context: Any
    ) -> library_pb2.GetStoryboardResponse:
        (reference, span, count), principal = storyboard_request(request), current_principal()

        def work(check: Callable[[], None]) -> library_pb2.GetStoryboardResponse:
            return storyboard_message(
                read_storyboard(self.catalog, self._ready_video(reference, principal), span, count)
            )

        return await self.workers.run(work)

    async def ListCollections(
        self, request: library_pb2.ListCollectionsRequest, context: Any
    ) -> library_pb2.ListCollectionsResponse:
        page_size, principal = collection_listing(request), current_principal()
        bound_to = binding(principal.scope, "ListCollections", request)
        after = str(self.signer.verify(request.page_token, binding=bound_to)["after"]) if request.page_token else ""

        def work(check: Callable[[], None]) -> list[CollectionSummary]:
            readable = self._readable_collections(principal, None)
            return count_collections(self.catalog, readable, after=after, limit=page_size + 1)

        summaries = await self.workers.run(work)

        def write(count: int) -> library_pb2.ListCollectionsResponse:
            page, token = summaries[:count], ""
            if len(summaries) > len(page):
                token = self.signer.sign({"after": page[-1].collection}, binding=bound_to)
            return library_pb2.ListCollectionsResponse(
                collections=write_rows(collection_message, page), next_page_token=token
            )

        return fit_page(write, page_size)

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
            readable = self._readable_collections(principal, reference.collection)
            collection = self._collection_of(reference.video_id, readable)
            if collection is None:
                raise VideoNotFound(reference.video_id)
            current_subject().add(collection=collection)
            self.access.require_writable(principal, collection)
            ready = self.catalog.videos(collection=collection, video_ids=(reference.video_id,))
            if any(video.is_live for video in ready):
                self.delete_live(collection, reference.video_id, seconds)
                self.changes.cancel(collection, reference.video_id, key)
            else:
                self.changes.delete(reference.video_id, collection, key)
            self.on_delete()

        await self.change_workers.run(work)
        return library_pb2.DeleteVideoResponse()

    def _readable_collections(self, principal: Principal, collection: str | None) -> tuple[str, ...] | None:
        """Return the collections that a call may read, which names one or none; see Access.readable_collections()."""
        return self.access.readable_collections(principal, None if collection is None else (collection,))

    def _make_id(self, collection: str, uri: str) -> str:
        """Return the id of the video at a URI, of which the job makes a new version; else one derived from the URI."""
        video = video_at(self.catalog, collection, display_uri(uri))
        if video is not None:
            return video.video_id
        video_id = make_video_id(collection, uri)
        return video_id if uri == display_uri(uri) else self.signer.digest(video_id)[: len(video_id)]

    def _submit(self, job: NewJob, key: RequestKey | None) -> VideoStatus:
        """Queue a job, or find the job of the earlier call that this one repeats; return the video's status."""
        answer = self.changes.submit(job, key, self.limits)
        self.on_submit()
        return self._status(*answer)

    def _status(self, collection: str, video_id: str) -> VideoStatus:
        """Return the present status of a submitted video.

        Raises:
            VideoNotFound: If it was deleted meanwhile.
        """
        with self.catalog.snapshot():
            if (job := self.jobs.job(collection, video_id)) is not None:
                return job.status()
            videos = self.catalog.videos(collection=collection, video_ids=(video_id,))
            return ready_status(require_single(videos, video_id))

    def _find(self, reference: VideoReference, principal: Principal) -> VideoStatus:
        """Return the status of a video in any state. A READY video is found by the beginning of its id too."""
        readable = self._readable_collections(principal, reference.collection)
        with self.catalog.snapshot():
            collection = self._collection_of(reference.video_id, readable)
            if collection is not None:
                return self._status(collection, reference.video_id)
            return ready_status(self._ready_video(reference, principal))

    def _collection_of(self, video_id: str, readable: tuple[str, ...] | None) -> str | None:
        """Return the readable collection that has a video of exactly this id, in any state; None if there is none.

        Raises:
            VideoAmbiguous: If several collections have such a video.
        """
        collections = {video.collection for video in self.catalog.videos_named(video_id, readable, is_whole=True)}
        collections |= {job.collection for job in self.jobs.jobs(collections=readable, video_id=video_id)}
        if len(collections) > 1:
            raise VideoAmbiguous(video_id, sorted(collections))
        return next(iter(collections), None)

    async def find_video(self, video_id: str, collection: str) -> Video:
        """Return a READY video that the caller may read; errors are those of GetFrame. Empty: the only collection."""
        reference, principal = VideoReference(video_id=video_id, collection=collection or None), current_principal()
        return await self.workers.run(lambda check: self._ready_video(reference, principal))

    def _ready_video(self, reference: VideoReference, principal: Principal) -> Video:
        """Return a READY video by its id or an unambiguous beginning of it, among those that the caller may read.

        Raises:
            VideoNotFound: If there is no such video, or the caller may not read it.
            VideoAmbiguous: If there are several.
            VideoNotReady: If the video is not indexed yet, or failed.
        """
        readable = self._readable_collections(principal, reference.collection)
        videos = self.catalog.videos_named(reference.video_id, readable)
        for job in () if videos else self.jobs.jobs(collections=readable, video_id=reference.video_id):
            raise VideoNotReady(job.video_id, job.status().state.value)
        return require_single(videos, reference.video_id)


def make_video_id(collection: str, uri: str) -> str:
    """Derive an id from a URI that is not fetched yet: 64 bits of a hash, the same for each call."""
    return hashlib.sha256(f"{collection}\n{uri}".encode()).hexdigest()[:16]


def sort_key(status: VideoStatus) -> tuple[bytes, str, str]:
    """Return the key that sorts a list as the catalog does: by a URI's bytes, which may not be UTF-8."""
    return uri_bytes(status.uri), status.collection, status.video_id
