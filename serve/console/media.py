"""Videos over HTTP: /media/VIDEO is the file of a video, with ranges; /clips/VIDEO.mp4?start=&end= a part of it.

Only bytes that were indexed are served: a file has to have the content that the catalog knows. So who may read a video
may play it, and a file that was put in its place is read by nobody.
"""

import asyncio
import mimetypes
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, BinaryIO

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from ingest.values import Cut
from kinodex.v1 import library_service_pb2
from serve.api.services.library import LibraryService
from serve.api.workers import Workers
from serve.clips.maker import ClipMaker
from serve.console.calls import CallFailed, Calls
from serve.console.links import Links
from serve.console.pictures import linked_exchange, number
from serve.console.replies import error_reply, failure_reply

MEDIA = "kinodex.http/GetMedia"  # names in logs and metrics
CLIP = "kinodex.http/GetClip"
BLOCK_BYTES = 256 << 10  # read and sent at a time
SUFFIX = ".mp4"


class MediaRoutes:
    """The pages of media."""

    def __init__(
        self, calls: Calls, library: LibraryService, links: Links, maker: ClipMaker, clip_workers: Workers
    ) -> None:
        self.calls, self.library, self.links, self.maker, self.clip_workers = calls, library, links, maker, clip_workers

    def routes(self) -> list[Route]:
        return [
            Route("/media/{video_id:path}", self.media, methods=["GET", "HEAD"]),
            Route("/clips/{name:path}", self.clip, methods=["GET"]),
        ]

    async def media(self, request: Request) -> Response:
        """Return the file of a video, or the part of it that the header Range names."""
        stack = ExitStack()

        async def behaviour(message: library_service_pb2.GetVideoRequest, context: Any) -> tuple[BinaryIO, str, str]:
            video = await self.library.find_video(message.video_id, message.collection)

            def work(check: Callable[[], None]) -> BinaryIO:
                return stack.enter_context(self.maker.open_media(video, check))

            return await self.library.workers.run(work), video.uri, video.content_sha256

        try:
            file, uri, content_sha256 = await self._run(MEDIA, behaviour, request, request.path_params["video_id"])
        except CallFailed as failed:
            stack.close()
            return failure_reply(failed)
        size = os.fstat(file.fileno()).st_size
        headers = {
            "accept-ranges": "bytes",
            "cache-control": "private, no-cache",
            "content-type": media_type(uri),
            "etag": f'"{content_sha256[:32]}"',
        }
        span = read_range(request, size, headers["etag"])
        if span is None:
            stack.close()
            return Response(status_code=416, headers=headers | {"content-range": f"bytes */{size}"})
        start, end = span
        is_part = (start, end) != (0, size)
        if is_part:
            headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
        headers["content-length"] = str(end - start)
        status = 206 if is_part else 200
        if request.method == "HEAD":
            stack.close()
            return Response(status_code=status, headers=headers)
        return FilePart(file, start, end, stack, status_code=status, headers=headers)

    async def clip(self, request: Request) -> Response:
        """Return a part of a video as MP4: copied, or encoded anew with `exact=1`."""
        name = request.path_params["name"]
        if not name.endswith(SUFFIX):
            return error_reply("not_found", f"a clip's address ends in {SUFFIX}")
        try:
            wanted = Cut(
                start_seconds=number(request, "start", 0.0),
                end_seconds=number(request, "end", 0.0),
                is_exact=request.query_params.get("exact", "0") not in ("", "0"),
            )
        except ValueError as error:
            return error_reply("invalid_argument", str(error))
        file = tempfile.TemporaryFile(dir=self.maker.spool)  # noqa: SIM115 - the response closes it
        stack = ExitStack()
        stack.callback(file.close)

        async def behaviour(message: library_service_pb2.GetVideoRequest, context: Any) -> None:
            video = await self.library.find_video(message.video_id, message.collection)
            await self.clip_workers.run(lambda check: self.maker.make(video, wanted, file, check=check))

        try:
            await self._run(CLIP, behaviour, request, name.removesuffix(SUFFIX))
        except CallFailed as failed:
            stack.close()
            return failure_reply(failed)
        size = os.fstat(file.fileno()).st_size
        headers = {"cache-control": "private, no-store", "content-length": str(size), "content-type": "video/mp4"}
        return FilePart(file, 0, size, stack, headers=headers)

    async def _run(self, name: str, behaviour: Any, request: Request, video_id: str) -> Any:
        message = library_service_pb2.GetVideoRequest(
            video_id=video_id, collection=request.query_params.get("collection", "")
        )
        return await self.calls.run(name, behaviour, message, linked_exchange(request, self.links))


def media_type(uri: str) -> str:
    """Return the type of a file by its name: a video or a sound, and never a page or a script."""
    guessed = mimetypes.guess_type(uri)[0] or ""
    return guessed if guessed.startswith(("video/", "audio/")) else "application/octet-stream"


def read_range(request: Request, size: int, etag: str) -> tuple[int, int] | None:
    """Return the bytes that a request is about, [start, end); None if it names none that are there.

    Several ranges, and one that is malformed, are ignored, as RFC 9110 allows: the answer is the whole file.
    """
    header = request.headers.get("range", "")
    if request.headers.get("if-range", etag) != etag or not header.startswith("bytes=") or "," in header:
        return 0, size
    first, dash, last = header.removeprefix("bytes=").strip().partition("-")
    if not dash or not all(part == "" or (part.isascii() and part.isdigit()) for part in (first, last)):
        return 0, size
    if first == "":
        if last == "":
            return 0, size
        return (max(0, size - int(last)), size) if int(last) and size else None
    start, end = int(first), min(size, int(last) + 1) if last else size
    return (start, end) if start < end else None


class FilePart(StreamingResponse):
    """A part of a file, which is closed at the end."""

    def __init__(self, file: BinaryIO, start: int, end: int, stack: ExitStack, **options: Any) -> None:
        """Take the bytes [start, end) of a file; closing `stack` closes it."""
        super().__init__((), **options)
        self.file, self.start, self.end, self.stack = file, start, end, stack

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        with self.stack:
            await super().__call__(scope, receive, send)

    async def stream_response(self, send: Any) -> None:
        """Send the headers and the bytes.

        The last block says that it is the last. An empty one after it, as Starlette sends, would come when the client,
        which counts, has sent its next request already.
        """
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        start, descriptor = self.start, self.file.fileno()
        while start < self.end:
            block = await asyncio.to_thread(os.pread, descriptor, min(BLOCK_BYTES, self.end - start), start)
            if not block:
                return  # it became shorter: the connection ends before content-length, which clients notice
            start += len(block)
            await send({"type": "http.response.body", "body": block, "more_body": start < self.end})
