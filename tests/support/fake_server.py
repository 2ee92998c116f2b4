"""A gRPC server whose answers a test sets, and which records the requests that it gets."""

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from kinodex.v1 import library_service_pb2, search_service_pb2
from kinodex.v1.library_service_pb2_grpc import LibraryServiceServicer, add_LibraryServiceServicer_to_server
from kinodex.v1.search_service_pb2_grpc import SearchServiceServicer, add_SearchServiceServicer_to_server

Answer = Message | Callable[[Any], Message] | Status | grpc.StatusCode
METHODS = [
    method
    for module in (search_service_pb2, library_service_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]


@dataclass
class FakeServer:
    """Answers each call of a method with the next of its answers; the last answer repeats."""

    answers: dict[str, list[Answer]] = field(default_factory=dict)
    requests: dict[str, list[Any]] = field(
        default_factory=lambda: defaultdict(list)
    )  # for an upload, the list of its messages
    headers: list[dict[str, str | bytes]] = field(default_factory=list)
    address: str = ""

    def answer(self, name: str, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests[name].append(request)
        self.headers.append(dict(context.invocation_metadata()))
        planned = self.answers[name]
        answer = planned.pop(0) if len(planned) > 1 else planned[0]
        if isinstance(answer, Status):
            context.abort_with_status(rpc_status.to_status(answer))
        if isinstance(answer, grpc.StatusCode):
            context.abort(answer, f"no reason but {answer.name}")
        return answer if isinstance(answer, Message) else answer(request)  # type: ignore[operator]


def servicers(fake: FakeServer) -> tuple[SearchServiceServicer, LibraryServiceServicer]:
    """Make servicers that forward every call to the fake."""

    def unary(name: str) -> Callable[..., Any]:
        return lambda self, request, context: fake.answer(name, request, context)

    def streaming(name: str) -> Callable[..., Any]:
        return lambda self, requests, context: fake.answer(name, list(requests), context)

    methods = {method.name: (streaming if method.client_streaming else unary)(method.name) for method in METHODS}
    return type("Search", (SearchServiceServicer,), methods)(), type("Library", (LibraryServiceServicer,), methods)()


@contextlib.contextmanager
def serving(
    answers: dict[str, list[Answer]], credentials: grpc.ServerCredentials | None = None
) -> Iterator[FakeServer]:
    """Serve on a free port of 127.0.0.1."""
    fake = FakeServer(answers=answers)
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    search, library = servicers(fake)
    add_SearchServiceServicer_to_server(search, server)
    add_LibraryServiceServicer_to_server(library, server)
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    fake.address = f"127.0.0.1:{port}"
    server.start()
    try:
        yield fake
    finally:
        server.stop(None).wait()


def make_refusal(code: int, message: str, reason: str, *violations: tuple[str, str]) -> Status:
    """Make a status as a kinodex server sends it."""
    details = [AnyMessage(), AnyMessage()]
    details[0].Pack(ErrorInfo(reason=reason, domain="kinodex"))
    details[1].Pack(
        BadRequest(
            field_violations=[
                BadRequest.FieldViolation(field=path, description=problem) for path, problem in violations
            ]
        )
    )
    return Status(code=code, message=message, details=details if violations else details[:1])
