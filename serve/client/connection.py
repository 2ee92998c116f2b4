"""Connection: one channel to a server, and how every call goes over it. serve.client.client has the calls."""

import uuid
from collections.abc import Callable, Iterator
from typing import Any, Self, TypeVar

import grpc

from kinodex.v1.library_service_pb2_grpc import LibraryServiceStub
from kinodex.v1.moderation_service_pb2_grpc import ModerationServiceStub
from kinodex.v1.search_service_pb2_grpc import SearchServiceStub
from kinodex.v1.server_service_pb2_grpc import ServerServiceStub
from serve.client.channel import failure, open_channel, read_address
from serve.config import ClientConfig
from serve.errors import ServerFailed

LIST_PAGE_SIZE = 1000  # rows on a page of a list; the API allows no more

Request = TypeVar("Request")
Response = TypeVar("Response")
Value = TypeVar("Value")
PageResponse = TypeVar("PageResponse", bound=Any)  # a response with next_page_token


class Connection:
    """A channel to one server; threads may share it."""

    def __init__(self, address: str, config: ClientConfig | None = None) -> None:
        """Prepare to call a server; nothing is sent yet.

        Args:
            address: HOST:PORT (TLS as the config says), grpc://HOST:PORT (plain), grpcs://HOST:PORT (TLS) or unix:PATH.
            config: TLS, token and timeout; None: defaults.
        Raises:
            SettingsError: If the address is wrong, a token would go to another machine in plain text, or a
                certificate's file cannot be read.
        """
        self._config = config or ClientConfig()
        self._address = read_address(address, self._config)
        self._channel = open_channel(self._address, self._config)
        self._search, self._library = SearchServiceStub(self._channel), LibraryServiceStub(self._channel)
        self._moderation, self._server = ModerationServiceStub(self._channel), ServerServiceStub(self._channel)

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _call(
        self,
        method: "grpc.UnaryUnaryMultiCallable[Request, Response]",  # generic in its stubs only
        request: Request,
        read: Callable[[Response], Value],
    ) -> Value:
        timeout = self._config.timeout_seconds
        try:
            response = method(request, timeout=timeout, metadata=self._headers())
        except grpc.RpcError as error:
            raise failure(error, self._address, timeout) from error
        return self._read(lambda: read(response))

    def _pages(
        self,
        method: "grpc.UnaryUnaryMultiCallable[Request, PageResponse]",
        request: Callable[[str], Request],
        read: Callable[[PageResponse], Value],
    ) -> Iterator[Value]:
        """Yield page after page; `request` makes the request for a page token."""
        token, is_last = "", False
        while not is_last:
            page, token = self._call(method, request(token), lambda page: (read(page), page.next_page_token))
            yield page
            is_last = not token

    def _read(self, read: Callable[[], Value]) -> Value:
        try:
            return read()
        except ValueError as error:
            raise ServerFailed(
                f"the server at {self._address.text} answered in a way that needs a newer kinodex: {error}",
                "INTERNAL",
            ) from error

    def _headers(self) -> tuple[tuple[str, str], ...]:
        """Make the metadata of one call; gRPC's own retries send the same."""
        headers = (("x-request-id", uuid.uuid4().hex),)  # finds the call in the server's log
        return (*headers, ("authorization", f"Bearer {self._config.token}")) if self._config.token else headers
