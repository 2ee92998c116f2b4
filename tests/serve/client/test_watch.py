"""A call that watches goes on after the server was away or busy, and says so once."""

from collections.abc import Iterator

import grpc
import pytest

from kinodex.v1 import moderation_service_pb2 as moderation
from serve.client.watch import MAX_WAIT_SECONDS, keep_watching
from serve.errors import ServerFailed


class Broken(grpc.RpcError):
    def __init__(self, code: str, retry_after_seconds: float | None = None) -> None:
        self.failed = ServerFailed(f"it is {code}", code, "", retry_after_seconds)


def read_failure(error: grpc.RpcError) -> ServerFailed:
    assert isinstance(error, Broken)
    return error.failed


class Call:
    """Brings responses with these tokens, then breaks."""

    def __init__(self, tokens: str, error: Broken | None) -> None:
        self.tokens, self.error, self.is_cancelled = tokens, error, False

    def __iter__(self) -> Iterator[moderation.WatchEventsResponse]:
        yield from (moderation.WatchEventsResponse(resume_token=token) for token in self.tokens)
        if self.error is not None:
            raise self.error

    def cancel(self) -> None:
        self.is_cancelled = True


class Watched:
    """What comes of some calls, one after the other; an odd last one ends it."""

    def __init__(self, *calls: Call) -> None:
        self.calls, self.begun_at = [*calls, Call("", Broken("DONE"))], list[str]()
        self.waited, self.told = list[float](), list[str]()

        def call(token: str) -> Call:
            self.begun_at.append(token)
            return self.calls[len(self.begun_at) - 1]

        found = keep_watching(call, "0", read_failure, lambda failed: self.told.append(str(failed)), self.waited.append)
        self.came = ""
        with pytest.raises(ServerFailed, match="it is DONE"):
            self.take(found)

    def take(self, found: Iterator[moderation.WatchEventsResponse]) -> None:
        for response in found:
            self.came += response.resume_token


def test_goes_on_behind_the_last_token() -> None:
    watched = Watched(Call("ab", Broken("UNAVAILABLE")), Call("c", None))
    assert (watched.came, watched.begun_at) == ("abc", ["0", "b", "c"])
    assert all(call.is_cancelled for call in watched.calls)


def test_says_once_until_it_answers_that_it_waits() -> None:
    away = [Call("", Broken("UNAVAILABLE")) for _ in range(8)]
    watched = Watched(*away, Call("a", Broken("UNAVAILABLE")), Call("", Broken("UNAVAILABLE")))
    assert watched.told == ["it is UNAVAILABLE"] * 2
    assert watched.waited == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, MAX_WAIT_SECONDS, MAX_WAIT_SECONDS, 0.2, 0.4]


def test_comes_back_to_a_busy_server_when_it_says() -> None:
    watched = Watched(Call("a", Broken("RESOURCE_EXHAUSTED", 1.5)), Call("b", None))
    assert (watched.came, watched.begun_at, watched.waited) == ("ab", ["0", "a", "b"], [1.5, 0.2])
    assert watched.told == ["it is RESOURCE_EXHAUSTED"]


def test_ends_with_what_waiting_does_not_mend() -> None:
    watched = Watched(Call("a", Broken("DONE")))
    assert (watched.came, watched.told, watched.waited) == ("a", [], [])
