"""What every call goes through: who makes it, may it go on, what came of it. Here errors become answers."""

import asyncio
import contextlib
import contextvars
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self, TypeVar
from uuid import uuid4

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from serve.api.status import code_of, reason_of, status_of
from serve.api.tokens import ANYBODY, Principal, TokenStore
from serve.config import ServerConfig
from serve.errors import (
    CallAbandoned,
    CallTooLong,
    DataDirectoryBusy,
    Overloaded,
    RequestInvalid,
    ServerNotReady,
    Unauthenticated,
)
from serve.observe.logs import REQUEST_ID
from serve.observe.metrics import ServerMetrics
from serve.observe.tracing import Spans, no_spans

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

OPEN_SERVICES = ("grpc.health.v1.Health",)  # asked by load balancers, which have no token; tells nothing of videos
OUR_PACKAGE = "kinodex.v1."
UPLOAD = "kinodex.v1.LibraryService/UploadVideo"  # takes as long as its bytes do: watched by its own stall limit
PLAIN_ID = re.compile(r"[\x21-\x7e]{1,128}")
BUSY_RETRY_SECONDS = 1.0
CHANGE_RETRY_SECONDS = 5.0  # a change that holds others up is a large delete: it takes seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call under way."""

    method: str  # kinodex.v1.SearchService/SearchMoments
    request_id: str
    principal: Principal


CURRENT: contextvars.ContextVar[Call | None] = contextvars.ContextVar("call", default=None)


def current_principal() -> Principal:
    """Say who makes the call that is under way here."""
    call = CURRENT.get()
    if call is None:
        raise Unauthenticated
    return call.principal


Behaviour = Callable[[Any, Any], Awaitable[Any]]


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every method of the server."""

    def __init__(
        self,
        config: ServerConfig,
        tokens: TokenStore | None,
        metrics: ServerMetrics,
        is_ready: Callable[[], bool],
        spans: Spans = no_spans,
    ) -> None:
        self.config, self.tokens, self.metrics, self.is_ready, self.spans = config, tokens, metrics, is_ready, spans
        # By kind: how many may be under way, and are. Watches stand for long, each for itself costs next to nothing.
        self.limits = {"calls": config.max_concurrent_calls, "watches": config.max_watches}
        self.counts = dict.fromkeys(self.limits, 0)

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        """Give the method's handler back, wrapped; an unknown method is gRPC's to refuse."""
        handler = await continuation(details)
        method = details.method.lstrip("/")
        if handler is None or method.startswith(OPEN_SERVICES):
            return handler
        given = dict(details.invocation_metadata or ())
        metadata = {key: value for key, value in given.items() if isinstance(value, str)}
        # gRPC would read requests before it knows whose they are, and tell of one that it cannot read in its own words.
        codecs = (None, handler.response_serializer)
        read = Messages if handler.request_streaming else message_of
        if handler.response_streaming and method.startswith(OUR_PACKAGE):  # watching: one request, answers without end
            behaviour = read_by(handler.unary_stream, read, handler.request_deserializer)
            return grpc.unary_stream_rpc_method_handler(self.watched(behaviour, method, metadata), *codecs)
        if handler.response_streaming:  # reflection: answered by gRPC's own code, to callers with a token
            behaviour = self.admitted(read_by(handler.stream_stream, read, handler.request_deserializer), metadata)
            return grpc.stream_stream_rpc_method_handler(behaviour, *codecs)
        answer = read_by(handler.stream_unary or handler.unary_unary, read, handler.request_deserializer)
        make = (
            grpc.stream_unary_rpc_method_handler if handler.request_streaming else grpc.unary_unary_rpc_method_handler
        )
        return make(self.wrapped(answer, method, metadata), *codecs)

    def admitted(self, behaviour: Any, metadata: dict[str, str]) -> Any:
        async def run(requests: Any, context: Any) -> AsyncIterator[Any]:
            try:
                self.authenticated(metadata)
                async for response in behaviour(requests, context):
                    yield response
            except (Unauthenticated, RequestInvalid) as error:
                await context.abort_with_status(rpc_status.to_status(status_of(error, "")))

        return run

    def wrapped(self, behaviour: Behaviour, method: str, metadata: dict[str, str]) -> Behaviour:
        async def run(request: Any, context: Any) -> Any:
            async with self.accounted(method, metadata, context) as request_id:
                response = await self.limited(behaviour, method, request, context)
                # Not before: a client repeats a call only of which nothing has come back. An error has its own place
                # for the id (RequestInfo).
                await context.send_initial_metadata((("x-request-id", request_id),))
                return response

        return run

    def watched(self, behaviour: Any, method: str, metadata: dict[str, str]) -> Any:
        async def run(request: Any, context: Any) -> AsyncIterator[Any]:
            async with self.accounted(method, metadata, context, kind="watches") as request_id:
                is_begun = False
                async with contextlib.aclosing(behaviour(request, context)) as responses:
                    async for response in responses:
                        if not is_begun:
                            await context.send_initial_metadata((("x-request-id", request_id),))
                        is_begun = True
                        yield response

        return run

    @contextlib.asynccontextmanager
    async def accounted(
        self, method: str, metadata: dict[str, str], context: Any, *, kind: str = "calls"
    ) -> AsyncIterator[str]:
        """Let a call begin, and tell what came of it: to the caller, the metrics and the log. Gives its request id."""
        request_id = metadata.get("x-request-id", "")
        if not PLAIN_ID.fullmatch(request_id):
            request_id = uuid4().hex
        started, code, error, peer = time.perf_counter(), "OK", None, context.peer()
        self._count(kind, 1)
        REQUEST_ID.set(request_id)  # each call runs in a context of its own
        CURRENT.set(Call(method=method, request_id=request_id, principal=ANYBODY))
        try:
            CURRENT.set(Call(method=method, request_id=request_id, principal=self.authenticated(metadata)))
            if self.counts[kind] > self.limits[kind]:
                raise Overloaded(kind, BUSY_RETRY_SECONDS)
            if not self.is_ready() and method.startswith(OUR_PACKAGE):
                raise ServerNotReady("loading or stopping", BUSY_RETRY_SECONDS)
            with self.spans(method, metadata, request_id):
                yield request_id
        except GeneratorExit:  # nobody reads on; gRPC has let go of the call, and its context must not be asked
            code = "CANCELLED"
            raise
        except asyncio.CancelledError:
            remaining = context.time_remaining()
            code = "DEADLINE_EXCEEDED" if remaining is not None and remaining <= 0 else "CANCELLED"
            raise
        except Exception as caught:
            error = caught
            if isinstance(caught, DataDirectoryBusy):  # its message names a folder and a process
                error = ServerNotReady("waiting for another process's change", CHANGE_RETRY_SECONDS)
            code = code_of(error)
            if code == "INTERNAL":
                logger.exception("call failed method=%s", method)
            await context.abort_with_status(rpc_status.to_status(status_of(error, request_id)))
        finally:
            self._count(kind, -1)
            self.metrics.calls.labels(method, code).inc()
            seconds = time.perf_counter() - started
            self.metrics.call_seconds.labels(method).observe(seconds)
            call = CURRENT.get()
            logger.info(
                "call done method=%s code=%s reason=%s milliseconds=%.1f caller=%s peer=%s",
                method, code, reason_of(error) if error else "-", seconds * 1000,
                (call.principal.name if call else "") or "-", peer,
            )  # fmt: skip

    def _count(self, kind: str, change: int) -> None:
        self.counts[kind] += change
        self.metrics.calls_in_flight.set(sum(self.counts.values()))

    async def limited(self, behaviour: Behaviour, method: str, request: Any, context: Any) -> Any:
        """Run the method, for a bounded time where the caller sets no deadline."""
        if method == UPLOAD or context.time_remaining() is not None:
            return await behaviour(request, context)
        try:
            async with asyncio.timeout(self.config.max_call_seconds):
                return await behaviour(request, context)
        except TimeoutError as error:
            raise CallTooLong(self.config.max_call_seconds) from error

    def authenticated(self, metadata: dict[str, str]) -> Principal:
        if self.tokens is None:
            return ANYBODY
        return self.tokens.authenticate(metadata.get("authorization"))


Read = Callable[[bytes], Any]


def message_of(content: bytes, read: Read) -> Any:
    """Read a request.

    Raises:
        RequestInvalid: If it is none of this method.
    """
    try:
        return read(content)
    except DecodeError as error:
        raise RequestInvalid([("request", "is no message of this method")]) from error


class Messages:
    """The messages of a call as they come; raises as message_of()."""

    def __init__(self, contents: AsyncIterator[bytes], read: Read) -> None:
        self.contents, self.read = contents, read

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        return message_of(await anext(self.contents), self.read)


def read_by(behaviour: Any, reader: Callable[[Any, Read], Any], read: Read) -> Any:
    """Give a method its request as a message, or as the messages that come."""
    return lambda request, context: behaviour(reader(request, read), context)


class Workers:
    """Threads that do what calls ask for; a call that is abandoned stops its work at the next check."""

    def __init__(self, name: str, count: int, max_waiting_count: int, on_waiting: Callable[[int], None]) -> None:
        self.name, self.count, self.max_waiting_count, self.on_waiting = name, count, max_waiting_count, on_waiting
        self.pool = ThreadPoolExecutor(count, thread_name_prefix=name)
        self.taken_count = 0

    async def run(self, work: Callable[[Callable[[], None]], Any]) -> Any:
        """Run `work(check)` in a thread; `check()` raises CallAbandoned once nobody waits.

        Raises:
            Overloaded: If too many wait already.
        """
        if self.taken_count >= self.count + self.max_waiting_count:
            raise Overloaded(self.name, BUSY_RETRY_SECONDS)
        is_abandoned = False

        def check() -> None:
            if is_abandoned:
                raise CallAbandoned("the call was cancelled")

        self.taken_count += 1
        self.on_waiting(max(0, self.taken_count - self.count))
        context = contextvars.copy_context()
        try:
            return await asyncio.get_running_loop().run_in_executor(self.pool, context.run, work, check)
        finally:
            is_abandoned = True
            self.taken_count -= 1
            self.on_waiting(max(0, self.taken_count - self.count))

    def close(self) -> None:
        """Wait for what is being done."""
        self.pool.shutdown(wait=True, cancel_futures=True)


async def to_the_end(work: Awaitable[Result]) -> Result:
    """Wait for a thread's work also when its caller is cancelled: what it uses must not be taken away under it."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        raise
