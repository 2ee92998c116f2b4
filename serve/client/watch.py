"""keep_watching(): a WatchEvents call that survives failures of the server, for Client.watch_events()."""

import time
from collections.abc import Callable, Iterator
from typing import Protocol

import grpc

from kinodex.v1 import moderation_service_pb2 as moderation
from serve.background import Backoff
from serve.client.channel import FIRST_BACKOFF_SECONDS
from serve.errors import ServerFailed

MAX_WAIT_SECONDS = 10.0  # between two attempts while the server is down, unless it says when to come back


class WatchCall(Protocol):
    """A running WatchEvents call of gRPC."""

    def __iter__(self) -> Iterator[moderation.WatchEventsResponse]: ...

    def cancel(self) -> object: ...


def keep_watching(
    call: Callable[[str], WatchCall],
    resume_token: str,
    read_failure: Callable[[grpc.RpcError], ServerFailed],
    on_wait: Callable[[ServerFailed], None],
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[moderation.WatchEventsResponse]:
    """Yield the responses of one call after the other, without end. Each call resumes behind the last response.

    Args:
        call: Begins a call behind a resume token.
        on_wait: Called with the reason when the server fails; once until it answers again.
    Raises:
        ServerFailed: For a failure that waiting does not mend.
    """
    backoff, is_reported = Backoff(FIRST_BACKOFF_SECONDS, MAX_WAIT_SECONDS), False
    while True:
        responses = call(resume_token)
        retry_after_seconds = 0.0
        try:
            for response in responses:
                resume_token, is_reported = response.resume_token, False
                backoff.reset()
                yield response
        except grpc.RpcError as error:
            failed = read_failure(error)
            if failed.code != "UNAVAILABLE" and failed.retry_after_seconds is None:
                raise failed from error
            if not is_reported:
                on_wait(failed)
                is_reported = True
            retry_after_seconds = failed.retry_after_seconds or 0.0
        finally:
            responses.cancel()
        sleep(max(retry_after_seconds, backoff.next_seconds()))
