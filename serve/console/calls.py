"""The services of the protos over HTTP: Connect (JSON or protobuf) and gRPC-Web.

Each call goes through the interceptor of the gRPC server to the same servicers, in this process. So there is one chain
of authentication, limits, deadlines, logs, metrics and errors for both wires, and no second hop. HttpContext stands for
gRPC's ServicerContext there. connectrpc knows the protocols; the endpoints are made of the protos' descriptors.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc
from connectrpc.code import Code
from connectrpc.codec import Codec
from connectrpc.errors import ConnectError, ErrorDetail
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from connectrpc.request import RequestContext
from connectrpc.server import ConnectASGIApplication, Endpoint
from google.protobuf import json_format
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import code_pb2, status_pb2
from protobuf.wkt import Any as AnyMessage

from serve.api.interceptor import CallInterceptor
from serve.api.status import shorten
from serve.api.tokens import LinkedToken
from serve.errors import RequestInvalid

PROBLEM_BYTES = 256  # of the parser's words on a request that is no JSON; they may repeat the request
DETAILS_KEY = "grpc-status-details-bin"  # of the trailer that holds a google.rpc.Status


class CallFailed(Exception):
    """A call ended with this status."""

    def __init__(self, status: status_pb2.Status) -> None:
        super().__init__(status.message)
        self.status = status


@dataclass(slots=True, kw_only=True)
class Exchange:
    """One HTTP request, and how its caller is reached."""

    metadata: Mapping[str, str]  # its headers
    peer: str  # as gRPC writes it: ipv4:127.0.0.1:50000
    certificate_names: tuple[bytes, ...] = ()
    linked: LinkedToken | None = None  # of a signed link, which stands for a token
    place: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)  # held while the request arrives
    is_arriving: bool = False  # whether a place is held

    def hold(self, place: contextlib.AbstractContextManager[None]) -> None:
        """Hold a place until the request has arrived."""
        self.place.enter_context(place)
        self.is_arriving = True

    def release(self) -> None:
        """Give the place back, for the interceptor to take it at once."""
        self.is_arriving = False
        self.place.close()


EXCHANGE: ContextVar[Exchange] = ContextVar("exchange")


class HttpContext:
    """What the interceptor and the servicers use of gRPC's ServicerContext."""

    def __init__(
        self,
        exchange: Exchange,
        requests: AsyncIterator[Any],
        *,
        time_remaining: Callable[[], float | None] = lambda: None,
        set_header: Callable[[str, str], None] = lambda name, value: None,
        write: Callable[[Any], Awaitable[None]] | None = None,
    ) -> None:
        self._exchange, self._requests = exchange, requests
        self._set_header, self._write = set_header, write
        self.time_remaining = time_remaining

    def peer(self) -> str:
        return self._exchange.peer

    @property
    def linked(self) -> LinkedToken | None:
        return self._exchange.linked

    def peer_identities(self) -> tuple[bytes, ...]:
        return self._exchange.certificate_names

    async def read(self) -> Any:
        return await anext(self._requests, grpc.aio.EOF)

    async def write(self, response: Any) -> None:
        assert self._write is not None, "only calls that answer with a stream write"
        await self._write(response)

    async def send_initial_metadata(self, pairs: tuple[tuple[str, str], ...]) -> None:
        for name, value in pairs:
            self._set_header(name, value)

    async def abort_with_status(self, status: grpc.Status) -> None:
        """End the call.

        Raises:
            CallFailed: Always.
        """
        raise CallFailed(status_pb2.Status.FromString(dict(status.trailing_metadata)[DETAILS_KEY]))


@dataclass(frozen=True, slots=True)
class CallDetails:
    """What the interceptor reads of gRPC's HandlerCallDetails."""

    method: str
    invocation_metadata: tuple[tuple[str, str], ...]


Parse = Callable[[], Message]  # parses a request that has arrived


def _parse(parse: Parse) -> Message:
    return parse()


class Calls:
    """The methods of the servicers, to be called over HTTP. Lives on the server's event loop."""

    def __init__(self, interceptor: CallInterceptor, services: Mapping[Any, Any]) -> None:
        """Take the servicers by the descriptors of their services."""
        self.interceptor = interceptor
        self._methods: dict[str, tuple[MethodDescriptor, Any]] = {}
        for service, servicer in services.items():
            for method in service.methods:
                behaviour = getattr(servicer, method.name)
                make = (
                    grpc.stream_unary_rpc_method_handler
                    if method.client_streaming
                    else grpc.unary_stream_rpc_method_handler
                    if method.server_streaming
                    else grpc.unary_unary_rpc_method_handler
                )
                handler: Any = make(behaviour, request_deserializer=_parse)  # type: ignore[arg-type]
                self._methods[f"{service.full_name}/{method.name}"] = method, handler

    async def handler(self, method: str, exchange: Exchange) -> Any:
        """Return a method's handler, as the interceptor wraps it for this exchange."""

        async def find(details: Any) -> Any:
            return self._methods[method][1]

        details = CallDetails(method, tuple(exchange.metadata.items()))
        return await self.interceptor.intercept_service(find, details)  # type: ignore[arg-type]

    async def call(self, method: str, request: Message, exchange: Exchange) -> Any:
        """Call a method that takes a request and gives a response, for pages that are no calls of the API.

        Raises:
            CallFailed: If the interceptor or the method refuses.
        """
        handler = await self.handler(method, exchange)
        return await handler.stream_unary(None, HttpContext(exchange, _once(lambda: request)))

    async def run(self, name: str, behaviour: Any, request: Message, exchange: Exchange) -> Any:
        """Run a method that only HTTP has, as call() does one of the API. `name` is that of logs and metrics.

        Raises:
            CallFailed: If the interceptor or the method refuses.
        """

        results: list[Any] = []

        async def answer(message: Any, context: Any) -> Message:
            results.append(await behaviour(message, context))
            return request  # the interceptor takes messages alone

        async def find(details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(answer, request_deserializer=_parse)  # type: ignore[arg-type]

        details = CallDetails(name, tuple(exchange.metadata.items()))
        handler: Any = await self.interceptor.intercept_service(find, details)  # type: ignore[arg-type]
        await handler.stream_unary(None, HttpContext(exchange, _once(lambda: request)))
        return results[0]

    # ------------------------------------------------------------------ Connect and gRPC-Web
    def application(self, max_message_bytes: int) -> Any:
        """Return the ASGI application of all methods."""
        endpoints = {f"/{name}": self._endpoint(name, method) for name, (method, _) in self._methods.items()}
        return _Application(
            service=None,
            endpoints=lambda _: endpoints,
            interceptors=[_Admission(self)],
            read_max_bytes=max_message_bytes,
            codecs=[_ProtoCodec(), _JsonCodec()],
        )

    def _endpoint(self, name: str, method: MethodDescriptor) -> Any:
        kind = (
            StreamType.CLIENT_STREAM
            if method.client_streaming
            else StreamType.SERVER_STREAM
            if method.server_streaming
            else StreamType.UNARY
        )
        info: MethodInfo[Any, Any] = MethodInfo(
            name=method.name,
            service_name=name.partition("/")[0],
            input=GetMessageClass(method.input_type),
            output=GetMessageClass(method.output_type),
            idempotency_level=IdempotencyLevel.UNKNOWN,
            stream_type=kind,
        )
        if kind is StreamType.CLIENT_STREAM:
            return Endpoint.client_stream(method=info, function=partial(self._answer, name))
        if kind is StreamType.SERVER_STREAM:
            return Endpoint.server_stream(method=info, function=partial(self._stream, name))
        return Endpoint.unary(method=info, function=lambda parse, ctx: self._answer(name, _once(parse), ctx))

    async def _answer(self, name: str, requests: AsyncIterator[Parse], ctx: RequestContext[Any, Any]) -> Any:
        exchange = EXCHANGE.get()
        handler = await self.handler(name, exchange)
        exchange.release()
        with _connect_errors():
            return await handler.stream_unary(None, _context(exchange, requests, ctx))

    async def _stream(self, name: str, parse: Parse, ctx: RequestContext[Any, Any]) -> AsyncIterator[Any]:
        """Yield what the handler writes. It runs in a task, and waits until each response is taken."""
        exchange = EXCHANGE.get()
        handler = await self.handler(name, exchange)
        responses: asyncio.Queue[Any] = asyncio.Queue(maxsize=1)
        context = _context(exchange, _once(parse), ctx, responses.put)
        exchange.release()
        running = asyncio.create_task(handler.stream_stream(None, context))
        taking = asyncio.create_task(responses.get())
        try:
            while True:
                await asyncio.wait((taking, running), return_when=asyncio.FIRST_COMPLETED)
                if not taking.done():
                    taking.cancel()
                    await asyncio.wait((taking,))
                    break
                yield taking.result()
                taking = asyncio.create_task(responses.get())
            while not responses.empty():
                yield responses.get_nowait()
            with _connect_errors():
                await running
        finally:
            running.cancel()
            taking.cancel()
            await asyncio.gather(running, taking, return_exceptions=True)


class _Application(ConnectASGIApplication[None]):
    @property
    def path(self) -> str:
        return "/"


class _Admission:
    """Refuses a caller before the body of its request is read, as the interceptor would refuse it afterwards.

    Otherwise callers without a token could make the server take in large requests. An admitted caller holds a place
    while its request arrives.
    """

    def __init__(self, calls: Calls) -> None:
        self.calls = calls

    async def on_start(self, ctx: RequestContext[Any, Any]) -> None:
        exchange, method = EXCHANGE.get(), f"{ctx.method.service_name}/{ctx.method.name}"
        context = _context(exchange, _none(), ctx)
        try:
            exchange.hold(self.calls.interceptor.hold_place(method, exchange.metadata, context))
        except Exception:  # the interceptor meets it again, and counts, logs and reports it
            handler = await self.calls.handler(method, exchange)
            with _connect_errors():
                await (handler.stream_unary or handler.stream_stream)(None, context)
            raise

    async def on_end(self, token: None, ctx: RequestContext[Any, Any], error: Exception | None, /) -> None:
        """Do nothing more."""


def _context(
    exchange: Exchange,
    requests: AsyncIterator[Any],
    ctx: RequestContext[Any, Any],
    write: Callable[[Any], Awaitable[None]] | None = None,
) -> HttpContext:
    def time_remaining() -> float | None:
        return None if ctx.timeout_ms is None else ctx.timeout_ms / 1000

    def set_header(name: str, value: str) -> None:
        ctx.response_headers[name] = value

    return HttpContext(exchange, requests, time_remaining=time_remaining, set_header=set_header, write=write)


async def _once(item: Any) -> AsyncIterator[Any]:
    yield item


async def _none() -> AsyncIterator[Any]:
    return
    yield


@contextlib.contextmanager
def _connect_errors() -> Any:
    """Turn CallFailed into the ConnectError that says the same."""
    try:
        yield
    except CallFailed as failed:
        status = failed.status
        details = [ErrorDetail(AnyMessage(type_url=each.type_url, value=each.value)) for each in status.details]
        raise ConnectError(connect_code(status.code), status.message, details) from failed


def connect_code(number: int) -> Code:
    """Return Connect's code of a google.rpc.Code; the two spell one of them differently."""
    name = code_pb2.Code.Name(number)
    return Code[{"CANCELLED": "CANCELED"}.get(name, name)]


# ------------------------------------------------------------------ messages
class _ProtoCodec(Codec[Any, Any]):
    """Protobuf. Requests are parsed later, by the interceptor, which reports a damaged one."""

    def name(self) -> str:
        return "proto"

    def encode(self, message: Message) -> bytes:
        return message.SerializeToString()

    def decode(self, data: bytes | bytearray, message_class: Any) -> Any:
        return lambda: message_class.FromString(bytes(data))


class _JsonCodec(Codec[Any, Any]):
    """The JSON of protobuf. Requests are parsed later, by the interceptor, which reports a damaged one."""

    def name(self) -> str:
        return "json"

    def encode(self, message: Message) -> bytes:
        content = json_format.MessageToDict(message)
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()

    def decode(self, data: bytes | bytearray, message_class: Any) -> Any:
        return partial(parse_json, bytes(data), message_class)


def parse_json(content: bytes, message_class: Any) -> Any:
    """Parse a request.

    Raises:
        RequestInvalid: If it is not JSON, or is not of this message: an unknown field is most likely a typing error.
    """
    try:
        return json_format.Parse(content or b"{}", message_class())
    except (json_format.ParseError, UnicodeError, RecursionError, ValueError) as error:
        problem = shorten(str(error), PROBLEM_BYTES) or type(error).__name__
        name = message_class.DESCRIPTOR.full_name
        raise RequestInvalid([("request", f"is not JSON of {name}: {problem}")]) from error
