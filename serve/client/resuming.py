"""How a call that watches goes on after whatever happened to it."""

import time
from collections.abc import Callable, Iterator
from typing import Protocol

import grpc

from kinodex.v1 import moderation_service_pb2 as moderation
from serve.client.channel import BACKOFF_GROWTH, FIRST_BACKOFF_SECONDS
from serve.errors import ServerFailed

MAX_WAIT_SECONDS = 10.0  # between two attempts while the server is away, unless it says when to come back


class Responses(Protocol):
    """A call, as gRPC gives it."""

    def __iter__(self) -> Iterator[moderation.WatchEventsResponse]: ...

    def cancel(self) -> object: ...


def going_on(
    call: Callable[[str], Responses],
    resume_token: str,
    read_failure: Callable[[grpc.RpcError], ServerFailed],
    on_wait: Callable[[ServerFailed], None],
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[moderation.WatchEventsResponse]:
    """Yield what calls bring, each begun behind what the one before it brought, without end.

    Args:
        call: Begins one behind a token.
        on_wait: Told why the server is waited for, once until it answers again.
    Raises:
        ServerFailed: For what waiting does not mend.
    """
    wait_seconds, is_told = FIRST_BACKOFF_SECONDS, False
    while True:
        responses = call(resume_token)
        least_seconds = 0.0
        try:
            for response in responses:
                resume_token, wait_seconds, is_told = response.resume_token, FIRST_BACKOFF_SECONDS, False
                yield response
        except grpc.RpcError as error:
            failed = read_failure(error)
            if failed.code != "UNAVAILABLE" and failed.retry_after_seconds is None:
                raise failed from error
            if not is_told:
                on_wait(failed)
                is_told = True
            least_seconds = failed.retry_after_seconds or 0.0
        finally:
            responses.cancel()
        sleep(max(least_seconds, wait_seconds))
        wait_seconds = min(wait_seconds * BACKOFF_GROWTH, MAX_WAIT_SECONDS)
