"""The gRPC interceptor around every method of the server: authentication, limits, deadlines, logs, metrics, spans, and
the translation of errors to gRPC statuses.

Every method is handed to gRPC as one that reads a stream. gRPC reads the request of any other method before it calls
us: then a caller without a token could make the server take in large requests. Here a call is authenticated and
admitted by its headers alone, and its request is read afterwards.
"""

import asyncio
import contextlib
import contextvars
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from uuid import uuid4

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from encoders.batching import ASKER
from serve.api.revocation import RunningCalls
from serve.api.shares import RateLimit, Shares
from serve.api.status import code_of, reason_of, status_of
from serve.api.strangers import OpenCalls
from serve.api.tokens import ANYBODY, Credential, LinkedToken, Principal, TokenStore
from serve.config import ServerConfig
from serve.errors import (
    CallTooLong,
    DataDirectoryBusy,
    DiskFull,
    Overloaded,
    RequestInvalid,
    ServerNotReady,
    SpoolFull,
    Unauthenticated,
)
from serve.observe.audit import Act, AuditLog, Subject
from serve.observe.logs import REQUEST_ID
from serve.observe.metrics import ServerMetrics
from serve.observe.tracing import Spans, no_spans

logger = logging.getLogger(__name__)

HEALTH = "grpc.health.v1.Health/"  # open to load balancers, which have no token; it says nothing of videos
OUR_METHODS = "kinodex."  # and no health checks, no reflection
UPLOAD = "kinodex.v1.LibraryService/UploadVideo"  # lasts as long as its bytes take; it has a stall limit of its own
QUESTIONS = tuple(
    f"kinodex.v1.SearchService/{name}" for name in ("SearchVideos", "SearchMoments", "GetSimilarityCurve")
)
PLAIN_ID = re.compile(r"[\x21-\x7e]{1,128}")  # request ids of callers that are safe in a log line
BUSY_RETRY_SECONDS = 1.0  # when to come back to a server that loads
FULL_RETRY_SECONDS = 30.0  # when to come back to a full disk: about the time until a short video is indexed
CHANGE_RETRY_SECONDS = 5.0  # when to come back after a lock timeout: large deletes hold the lock for seconds
ABORT_SECONDS = 5.0  # time to send an error: a caller that reads nothing would hold the call for ever


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A running call."""

    method: str  # kinodex.v1.SearchService/SearchMoments
    request_id: str
    principal: Principal
    caller: str = ""  # whose shares it counts in: a token's name, or a client certificate's; empty: nobody is known
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


def current_caller() -> str:
    """Return whose shares the call that this code serves counts in; empty: nobody is known."""
    call = CURRENT.get()
    return "" if call is None else call.caller


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
        share = config.max_caller_share

        def shares(what: str, limit: str) -> Shares:
            return Shares(what, limit, getattr(config, limit), share, on_change=self._measure)

        # Watches have their own limit: they last for hours and cost next to nothing.
        self.shares = {
            "calls": shares("calls", "max_concurrent_calls"),
            "watches": shares("watches", "max_watches"),
            "uploads": shares("uploads", "max_uploads"),
        }
        self.questions = RateLimit("questions", "max_questions_per_second", config.max_questions_per_second)
        self.running = None if tokens is None else RunningCalls(tokens)
        self._open_calls = OpenCalls()

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        """Return the method's handler, wrapped. For an unknown method there is none, and gRPC refuses the call."""
        handler = await continuation(details)
        if handler is None:
            return None
        method = details.method.lstrip("/")
        pairs = dict(details.invocation_metadata or ())
        metadata = {key: value for key, value in pairs.items() if isinstance(value, str)}
        # Requests are parsed here and not by gRPC, which would report a damaged request in its own words.
        codecs = (None, handler.response_serializer)
        if method.startswith(HEALTH) and self._is_stranger(metadata):
            check = self._wrap_open(handler.unary_stream or handler.unary_unary, is_watch=handler.response_streaming)
            if handler.response_streaming:
                return grpc.stream_stream_rpc_method_handler(check, *codecs)
            return grpc.stream_unary_rpc_method_handler(check, *codecs)
        if handler.response_streaming:
            behaviour = handler.stream_stream or handler.unary_stream
            call = self._wrap_stream(behaviour, handler, method, metadata)
            return grpc.stream_stream_rpc_method_handler(call, *codecs)
        answer = self._wrap_unary(handler.stream_unary or handler.unary_unary, handler, method, metadata)
        return grpc.stream_unary_rpc_method_handler(answer, *codecs)

    def _wrap_open(self, behaviour: Any, *, is_watch: bool) -> Any:
        """Wrap a health check of a stranger. It is not logged: load balancers send several a second."""

        async def run(_: Any, context: Any) -> Any:
            try:
                with self._open_calls.admit(context.peer(), is_watch=is_watch):
                    return await behaviour(await self._open_calls.read(context), context)
            except (Overloaded, RequestInvalid) as error:
                await _abort(context, error, "")

        return run

    def _wrap_unary(self, behaviour: Any, handler: Any, method: str, metadata: dict[str, str]) -> Any:
        kind = _kind_of(method)

        async def answer(context: Any) -> Any:
            return await behaviour(await _read_requests(handler, context), context)

        async def run(_: Any, context: Any) -> Any:
            async with self._account(method, metadata, context, kind) as request_id:
                response = await self._run_with_deadline(answer, method, context)
                current_subject().note_response(response)
                # Sent late on purpose: a client repeats a call only if no part of a response arrived. An error carries
                # the id in its details (RequestInfo).
                await context.send_initial_metadata((("x-request-id", request_id),))
                return response

        return run

    def _wrap_stream(self, behaviour: Any, handler: Any, method: str, metadata: dict[str, str]) -> Any:
        """Wrap a watch, reflection, or a health watch of a caller with a token.

        It writes the responses itself. With a generator, gRPC would write them, and a call that is ended while its
        caller reads nothing could not report why.
        """

        async def run(_: Any, context: Any) -> None:
            async with self._account(method, metadata, context, "watches") as request_id:
                if method.startswith(HEALTH):  # writes its responses itself
                    await behaviour(await self._open_calls.read(context), context)
                    return
                request = await self._run_with_deadline(lambda context: _read_requests(handler, context), "", context)
                is_begun = False
                async with contextlib.aclosing(behaviour(request, context)) as responses:
                    async for response in responses:
                        if not is_begun:
                            await context.send_initial_metadata((("x-request-id", request_id),))
                            self._record(context.peer(), "BEGUN")
                        is_begun = True
                        await context.write(response)

        return run

    @contextlib.asynccontextmanager
    async def _account(self, method: str, metadata: dict[str, str], context: Any, kind: str) -> AsyncIterator[str]:
        """Admit a call, and report its outcome to the caller, the metrics and the log. Yields its request id."""
        request_id = metadata.get("x-request-id", "")
        if not PLAIN_ID.fullmatch(request_id):
            request_id = uuid4().hex
        started, code, error, peer = time.perf_counter(), "OK", None, context.peer()
        REQUEST_ID.set(request_id)  # each call runs in a context of its own
        CURRENT.set(Call(method=method, request_id=request_id, principal=ANYBODY))
        try:
            principal, caller = self._identify(metadata, context)
            CURRENT.set(Call(method=method, request_id=request_id, principal=principal, caller=caller))
            ASKER.set(principal.scope)
            with self.shares[kind].hold(caller):
                if method in QUESTIONS:
                    self.questions.take(caller)
                if not self.is_ready() and method.startswith(OUR_METHODS):
                    raise ServerNotReady("loading or stopping", BUSY_RETRY_SECONDS)
                async with self._until_revoked(_credential_of(metadata, context), principal):
                    with self.spans(method, metadata, request_id):
                        yield request_id
        except asyncio.CancelledError:
            remaining = context.time_remaining()
            code = "DEADLINE_EXCEEDED" if remaining is not None and remaining <= 0 else "CANCELLED"
            raise
        except grpc.aio.InternalError:  # a response could not be sent: the caller is gone
            code = "CANCELLED"
            raise
        except grpc.aio.AbortError:  # a health check of an unknown service
            code = "NOT_FOUND"
            raise
        except Exception as caught:
            error = caught
            if isinstance(caught, DataDirectoryBusy):  # its message names a folder and a process
                error = ServerNotReady("waiting for another process's change", CHANGE_RETRY_SECONDS)
            elif isinstance(caught, DiskFull):
                logger.error("a change failed: the disk is full method=%s", method)
                error = SpoolFull(FULL_RETRY_SECONDS)
            code = code_of(error)
            if code == "INTERNAL":
                logger.exception("call failed method=%s", method)
            await _abort(context, error, request_id)
        finally:
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

    @contextlib.contextmanager
    def hold_place(self, method: str, metadata: Mapping[str, str], context: Any) -> Iterator[None]:
        """Hold a place of a call whose request is still to arrive, for a wire that reads it before the call begins.

        Raises:
            Unauthenticated: If the caller has no valid token.
            Overloaded: If there is no place for the caller.
        """
        _, caller = self._identify(metadata, context)
        with self.shares[_kind_of(method)].hold(caller):
            yield

    def _identify(self, metadata: Mapping[str, str], context: Any) -> tuple[Principal, str]:
        """Return who calls, and whose shares the call counts in."""
        principal = self._authenticate(_credential_of(metadata, context))
        return principal, principal.name or _certificate_name(context)

    def _record(self, peer: str, outcome: str, reason: str = "") -> None:
        """Write the current call to the audit log, unless it asks for the server's health."""
        call = CURRENT.get()
        if self.audit is not None and call is not None and not call.method.startswith(HEALTH):
            self.audit.record(
                Act(
                    method=call.method,
                    caller=call.principal.name or (f"certificate:{call.caller}" if call.caller else ""),
                    peer=peer,
                    request_id=call.request_id,
                    outcome=outcome,
                    reason=reason,
                    subject=call.subject,
                )
            )

    def _until_revoked(
        self, credential: Credential, principal: Principal
    ) -> contextlib.AbstractAsyncContextManager[None]:
        if self.running is None:
            return contextlib.nullcontext()
        return self.running.until_revoked(credential, principal)

    @property
    def call_count(self) -> int:
        """Calls in progress."""
        return sum(shares.count for shares in self.shares.values())

    def _measure(self) -> None:
        self.metrics.calls_in_flight.set(self.call_count)

    async def _run_with_deadline(self, work: Callable[[Any], Awaitable[Any]], method: str, context: Any) -> Any:
        """Run the method, for at most max_call_seconds if the caller sets no deadline."""
        if method == UPLOAD or context.time_remaining() is not None:
            return await work(context)
        try:
            async with asyncio.timeout(self.config.max_call_seconds):
                return await work(context)
        except TimeoutError as error:
            raise CallTooLong(self.config.max_call_seconds) from error

    def _authenticate(self, credential: Credential) -> Principal:
        return ANYBODY if self.tokens is None else self.tokens.authenticate(credential)

    def _is_stranger(self, metadata: dict[str, str]) -> bool:
        """Whether a caller has no valid token."""
        try:
            return self._authenticate(metadata.get("authorization")) is ANYBODY
        except Unauthenticated:
            return True


def _kind_of(method: str) -> str:
    """Return which shares a call that gives one response counts in."""
    return "uploads" if method == UPLOAD else "calls"


async def _abort(context: Any, error: Exception, request_id: str) -> None:
    """Report an error to the caller, and end the call.

    Raises:
        AbortError: Always, unless the caller reads nothing.
        CancelledError: If the caller reads nothing: gRPC has the status then, and sends it if the caller reads on.
    """
    try:
        async with asyncio.timeout(ABORT_SECONDS):
            await context.abort_with_status(rpc_status.to_status(status_of(error, request_id)))
    except TimeoutError:
        raise asyncio.CancelledError from None


def _credential_of(metadata: Mapping[str, str], context: Any) -> Credential:
    """Return what a call is authenticated by: the token of a signed link, which only HTTP has, or the metadata."""
    linked: LinkedToken | None = getattr(context, "linked", None)
    return linked or metadata.get("authorization")


def _certificate_name(context: Any) -> str:
    """Return the name in the caller's certificate; empty without one."""
    return next((name.decode("utf-8", "replace") for name in context.peer_identities() or ()), "")


async def _read_requests(handler: Any, context: Any) -> Any:
    """Return the request of a call, or the iterator of its requests.

    Raises:
        RequestInvalid: If there is none, or if the bytes are not a message of this method.
    """
    if handler.request_streaming:
        return _RequestStream(context, handler.request_deserializer)
    content = await context.read()
    if content is grpc.aio.EOF:
        raise RequestInvalid([("request", "is missing")])
    return _parse(content, handler.request_deserializer)


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


class _RequestStream:
    """The requests of a call that sends a stream, parsed as they come; raises as _parse() does."""

    def __init__(self, context: Any, read: Deserialize) -> None:
        self.context, self.read = context, read

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        content = await self.context.read()
        if content is grpc.aio.EOF:
            raise StopAsyncIteration
        return _parse(content, self.read)
