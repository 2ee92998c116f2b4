"""The gRPC interceptor around every method of the server: authentication, limits, deadlines, logs, metrics, spans, and
the translation of errors to gRPC statuses."""

import asyncio
import contextlib
import contextvars
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Self
from uuid import uuid4

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from encoders.batching import ASKER
from serve.api.status import code_of, reason_of, status_of
from serve.api.tokens import ANYBODY, Principal, TokenStore
from serve.config import ServerConfig
from serve.errors import CallTooLong, DataDirectoryBusy, Overloaded, RequestInvalid, ServerNotReady, Unauthenticated
from serve.observe.audit import Act, AuditLog, Subject
from serve.observe.logs import REQUEST_ID
from serve.observe.metrics import ServerMetrics
from serve.observe.tracing import Spans, no_spans

logger = logging.getLogger(__name__)

OPEN_SERVICES = ("grpc.health.v1.Health",)  # open to load balancers, which have no token; it says nothing of videos
OUR_PACKAGE = "kinodex.v1."
UPLOAD = "kinodex.v1.LibraryService/UploadVideo"  # lasts as long as its bytes take; it has a stall limit of its own
PLAIN_ID = re.compile(r"[\x21-\x7e]{1,128}")  # request ids of callers that are safe in a log line
BUSY_RETRY_SECONDS = 1.0  # when to come back to a server that loads, or has too many calls
CHANGE_RETRY_SECONDS = 5.0  # when to come back after a lock timeout: large deletes hold the lock for seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A running call."""

    method: str  # kinodex.v1.SearchService/SearchMoments
    request_id: str
    principal: Principal
    subject: Subject = field(default_factory=Subject)  # for the audit log


CURRENT: contextvars.ContextVar[Call | None] = contextvars.ContextVar("call", default=None)


def current_principal() -> Principal:
    """Return the caller of the call that this code serves."""
    call = CURRENT.get()
    if call is None:
        raise Unauthenticated
    return call.principal


def current_subject() -> Subject:
    """Return what the current call is about, for the audit log; one that nobody reads outside of calls."""
    call = CURRENT.get()
    return Subject() if call is None else call.subject


Method = Callable[[Any, Any], Awaitable[Any]]  # (request, context) -> response
StreamMethod = Callable[[Any, Any], AsyncIterator[Any]]  # (request, context) -> responses
Deserialize = Callable[[bytes], Any]


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every method of the server."""

    def __init__(
        self,
        config: ServerConfig,
        tokens: TokenStore | None,
        metrics: ServerMetrics,
        is_ready: Callable[[], bool],
        spans: Spans = no_spans,
        audit: AuditLog | None = None,
    ) -> None:
        self.audit = audit
        self.config, self.tokens, self.metrics, self.is_ready, self.spans = config, tokens, metrics, is_ready, spans
        # Greatest and present number of running calls, by kind. Watches have their own limit: they last for hours and
        # cost next to nothing.
        self.limits = {"calls": config.max_concurrent_calls, "watches": config.max_watches}
        self.counts = dict.fromkeys(self.limits, 0)

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        """Return the method's handler, wrapped. For an unknown method there is none, and gRPC refuses the call."""
        handler = await continuation(details)
        method = details.method.lstrip("/")
        if handler is None or method.startswith(OPEN_SERVICES):
            return handler
        pairs = dict(details.invocation_metadata or ())
        metadata = {key: value for key, value in pairs.items() if isinstance(value, str)}
        # Requests are parsed here and not by gRPC, which would parse them before the caller is authenticated, and
        # report a damaged request in its own words.
        read, codecs = handler.request_deserializer, (None, handler.response_serializer)
        if handler.response_streaming and method.startswith(OUR_PACKAGE):  # a watch: one request, endless responses
            watch = self._wrap_watch(_parse_request(handler.unary_stream, read), method, metadata)
            return grpc.unary_stream_rpc_method_handler(watch, *codecs)
        if handler.response_streaming:  # reflection, which gRPC's own code answers
            reflect = self._authenticate_only(_parse_requests(handler.stream_stream, read), metadata)
            return grpc.stream_stream_rpc_method_handler(reflect, *codecs)
        if handler.request_streaming:
            upload = self._wrap_unary(_parse_requests(handler.stream_unary, read), method, metadata)
            return grpc.stream_unary_rpc_method_handler(upload, *codecs)
        answer = self._wrap_unary(_parse_request(handler.unary_unary, read), method, metadata)
        return grpc.unary_unary_rpc_method_handler(answer, *codecs)

    def _authenticate_only(self, behaviour: StreamMethod, metadata: dict[str, str]) -> StreamMethod:
        async def run(requests: Any, context: Any) -> AsyncIterator[Any]:
            try:
                self._authenticate(metadata)
                async for response in behaviour(requests, context):
                    yield response
            except (Unauthenticated, RequestInvalid) as error:
                await context.abort_with_status(rpc_status.to_status(status_of(error, "")))

        return run

    def _wrap_unary(self, behaviour: Method, method: str, metadata: dict[str, str]) -> Method:
        async def run(request: Any, context: Any) -> Any:
            async with self._account(method, metadata, context) as request_id:
                response = await self._run_with_deadline(behaviour, method, request, context)
                current_subject().note_response(response)
                # Sent late on purpose: a client repeats a call only if no part of a response arrived. An error carries
                # the id in its details (RequestInfo).
                await context.send_initial_metadata((("x-request-id", request_id),))
                return response

        return run

    def _wrap_watch(self, behaviour: Any, method: str, metadata: dict[str, str]) -> StreamMethod:
        async def run(request: Any, context: Any) -> AsyncIterator[Any]:
            async with self._account(method, metadata, context, kind="watches") as request_id:
                is_begun = False
                async with contextlib.aclosing(behaviour(request, context)) as responses:
                    async for response in responses:
                        if not is_begun:
                            await context.send_initial_metadata((("x-request-id", request_id),))
                            self._record(context.peer(), "BEGUN")
                        is_begun = True
                        yield response

        return run

    @contextlib.asynccontextmanager
    async def _account(
        self, method: str, metadata: dict[str, str], context: Any, *, kind: str = "calls"
    ) -> AsyncIterator[str]:
        """Admit a call, and report its outcome to the caller, the metrics and the log. Yields its request id."""
        request_id = metadata.get("x-request-id", "")
        if not PLAIN_ID.fullmatch(request_id):
            request_id = uuid4().hex
        started, code, error, peer = time.perf_counter(), "OK", None, context.peer()
        self._count(kind, 1)
        REQUEST_ID.set(request_id)  # each call runs in a context of its own
        CURRENT.set(Call(method=method, request_id=request_id, principal=ANYBODY))
        try:
            CURRENT.set(Call(method=method, request_id=request_id, principal=self._authenticate(metadata)))
            ASKER.set(current_principal().scope)
            if self.counts[kind] > self.limits[kind]:
                raise Overloaded(kind, BUSY_RETRY_SECONDS)
            if not self.is_ready() and method.startswith(OUR_PACKAGE):
                raise ServerNotReady("loading or stopping", BUSY_RETRY_SECONDS)
            with self.spans(method, metadata, request_id):
                yield request_id
        except GeneratorExit:  # the caller reads no more; gRPC has freed the call, and its context must not be used
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
            self._record(peer, code, reason_of(error) if error else "")
            logger.info(
                "call done method=%s code=%s reason=%s milliseconds=%.1f caller=%s peer=%s",
                method, code, reason_of(error) if error else "-", seconds * 1000,
                (call.principal.name if call else "") or "-", peer,
            )  # fmt: skip

    def _record(self, peer: str, outcome: str, reason: str = "") -> None:
        """Write the current call to the audit log."""
        call = CURRENT.get()
        if self.audit is not None and call is not None:
            self.audit.record(
                Act(
                    method=call.method,
                    caller=call.principal.name,
                    peer=peer,
                    request_id=call.request_id,
                    outcome=outcome,
                    reason=reason,
                    subject=call.subject,
                )
            )

    def _count(self, kind: str, change: int) -> None:
        self.counts[kind] += change
        self.metrics.calls_in_flight.set(sum(self.counts.values()))

    async def _run_with_deadline(self, behaviour: Method, method: str, request: Any, context: Any) -> Any:
        """Run the method, for at most max_call_seconds if the caller sets no deadline."""
        if method == UPLOAD or context.time_remaining() is not None:
            return await behaviour(request, context)
        try:
            async with asyncio.timeout(self.config.max_call_seconds):
                return await behaviour(request, context)
        except TimeoutError as error:
            raise CallTooLong(self.config.max_call_seconds) from error

    def _authenticate(self, metadata: dict[str, str]) -> Principal:
        if self.tokens is None:
            return ANYBODY
        return self.tokens.authenticate(metadata.get("authorization"))


def _parse(content: bytes, read: Deserialize) -> Any:
    """Parse a request.

    Raises:
        RequestInvalid: If the bytes are not a message of this method.
    """
    try:
        message = read(content)
    except DecodeError as error:
        raise RequestInvalid([("request", "is not a message of this method")]) from error
    current_subject().note_request(message)
    return message


def _parse_request(behaviour: Any, read: Deserialize) -> Any:
    """Make a method take its request as bytes."""
    return lambda content, context: behaviour(_parse(content, read), context)


class _RequestStream:
    """The requests of a call that sends a stream, parsed as they come; raises as _parse() does."""

    def __init__(self, contents: AsyncIterator[bytes], read: Deserialize) -> None:
        self.contents, self.read = contents, read

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        return _parse(await anext(self.contents), self.read)


def _parse_requests(behaviour: Any, read: Deserialize) -> Any:
    """Make a method that reads a stream of requests take them as bytes."""
    return lambda contents, context: behaviour(_RequestStream(contents, read), context)
