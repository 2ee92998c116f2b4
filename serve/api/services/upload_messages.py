"""UploadMessages: the messages of one UploadVideo call: its header, then the bytes that go to the spool."""

import asyncio
import time
from collections.abc import AsyncIterator

from kinodex.v1 import library_service_pb2 as library_pb2
from serve.api.workers import run_to_end
from serve.errors import RequestInvalid, UploadStalled
from serve.indexing.uploads import Upload, UploadPace
from serve.observe.metrics import ServerMetrics

MAX_BLOCK_BYTES = 1 << 20  # in each message of an upload, as the proto says
# gRPC ends the message stream of a cancelled or broken call like that of a complete call, and cancels the task a moment
# later. Without this wait, half a file would count as all of it.
CANCEL_SECONDS = 0.05


class UploadMessages:
    """The messages of one upload."""

    def __init__(
        self,
        messages: AsyncIterator[library_pb2.UploadVideoRequest],
        max_stall_seconds: float,
        metrics: ServerMetrics,
    ) -> None:
        self._messages, self._max_stall_seconds, self._metrics = messages, max_stall_seconds, metrics

    async def read_header(self) -> library_pb2.UploadHeader:
        """Return the first message.

        Raises:
            RequestInvalid: If it is not a header.
            UploadStalled: If it does not come in time.
        """
        first = await self._next_message("the upload")
        if first is None or first.WhichOneof("content") != "header":
            raise RequestInvalid([("header", "is required, and comes first")])
        return first.header

    async def write_to(self, upload: Upload, filename: str) -> None:
        """Write the bytes of all other messages to the spool.

        Raises:
            RequestInvalid: If a message is something else, or too large.
            UploadStalled: If a message does not come in time, or the messages come too slowly.
        """
        pace = UploadPace(filename, self._max_stall_seconds)
        while (message := await self._next_message(filename, pace)) is not None:
            if message.WhichOneof("content") != "data":
                raise RequestInvalid([("data", "is required in every message after the first")])
            if len(message.data) > MAX_BLOCK_BYTES:
                raise RequestInvalid([("data", f"must be at most {MAX_BLOCK_BYTES} bytes")])
            await run_to_end(asyncio.to_thread(upload.write, message.data))
            self._metrics.uploaded_bytes.inc(len(message.data))
        await asyncio.sleep(CANCEL_SECONDS)

    async def _next_message(
        self, filename: str, pace: UploadPace | None = None
    ) -> library_pb2.UploadVideoRequest | None:
        """Return the next message; None at the end."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._max_stall_seconds):
                message = await anext(self._messages, None)
        except TimeoutError as error:
            raise UploadStalled(filename, self._max_stall_seconds) from error
        if pace is not None and message is not None:
            pace.note(time.monotonic() - started, len(message.data))
        return message
