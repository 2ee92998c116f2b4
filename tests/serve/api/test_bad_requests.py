"""Requests that are wrong, sent over the wire to a real server, and what it answers.

`python tests/serve/api/test_bad_requests.py` prints the table for people, with the answers as they come, those of
test_bad_uploads.py and test_hostile_bytes.py included.
"""

import contextlib
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[3]), str(Path(__file__).parents[2])]

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from kinodex.v1 import library_service_pb2 as library_pb2
from kinodex.v1 import moment_pb2
from kinodex.v1 import search_service_pb2 as search_pb2
from serve.api.pages import PageSigner, binding, page_key
from serve.api.tokens import Principal
from serve.errors import CallAbandoned
from support.bad_requests import (
    INVALID,
    NO_VIDEO,
    Bad,
    Outcome,
    World,
    check_refusal,
    example,
    outcome,
    serve_world,
    words,
)
from support.bad_requests import world as world
from support.waiting import HANG_SECONDS

pytestmark = pytest.mark.slow

EVERYBODY = Principal(name="", collections=None, can_write=True)
LAPTOP = Principal(name="laptop", collections=None, can_write=True)
TOKEN_INVALID = ("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID", "page_token: is not the next_page_token of this request")


# ------------------------------------------------------------------ page tokens
def first_page(world: World) -> str:
    """Return the token of a list's second page."""
    token: str = world.list_videos(page_size=1).next_page_token
    assert token
    return token


def altered(world: World) -> Any:
    token = first_page(world)
    at = len(token) // 2
    return world.list_videos(page_token=token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :])


def token_of(
    world: World, payload: dict[str, Any], request: Message, method: str, caller: Principal, key: bytes | None = None
) -> str:
    """Make a page token as the server would, were it asked by somebody else, or were it another one."""
    signer = PageSigner(key or page_key(world.directory))
    return signer.sign(payload, binding=binding(caller.scope, method, request))


def list_token(world: World, caller: Principal, key: bytes | None = None) -> str:
    return token_of(world, {"after": ["", "", ""]}, library_pb2.ListVideosRequest(), "ListVideos", caller, key)


def forgotten(world: World) -> Any:
    request = search_pb2.SearchMomentsRequest(query=words())
    held = {"ranking": "AAAAAAAAAAAAAAAAAAAAAA", "start": 1}  # as after an hour, or a restart
    return world.moments(words(), page_token=token_of(world, held, request, "SearchMoments", EVERYBODY))


# ------------------------------------------------------------------ calls that end early
class Endless:
    """Work for a question that does not end of itself."""

    def __init__(self) -> None:
        self.has_begun, self.was_abandoned = threading.Event(), threading.Event()

    def __call__(self, query: Any, pixels: Any, check: Callable[[], None]) -> Any:
        self.has_begun.set()
        try:
            for _ in range(30_000):
                check()
                time.sleep(0.01)
        except CallAbandoned:
            self.was_abandoned.set()
            raise
        raise AssertionError("nobody stopped it")


@contextlib.contextmanager
def endless(world: World) -> Iterator[Endless]:
    """Make questions last for ever; see to it that the work of this one has stopped."""
    library, work = world.running.server.loaded.library, Endless()
    assert library is not None
    with patch.object(library.engine, "_find_candidates", work):
        yield work
        # On a machine that is overrun the deadline may pass before it begins.
        assert not work.has_begun.is_set() or work.was_abandoned.wait(HANG_SECONDS)


def cancelled(world: World) -> Any:
    with endless(world) as work:
        request = search_pb2.SearchMomentsRequest(query=words())
        call = world.search.SearchMoments.future(request, timeout=HANG_SECONDS)
        assert work.has_begun.wait(HANG_SECONDS)
        call.cancel()
    return Outcome(code=call.code().name)


def late(timeout: float | None) -> Callable[[World], Any]:
    def ask(world: World) -> Any:
        with endless(world):
            call = world.search.SearchVideos.future(search_pb2.SearchVideosRequest(query=words()), timeout=timeout)
            error = call.exception()
        raise error

    return ask


# ------------------------------------------------------------------ the table
REQUESTS: list[Bad] = [
    # ---- questions
    Bad("a search without a query", lambda w: w.videos(), *INVALID, "query: is required"),
    Bad(
        "an empty query",
        lambda w: w.moments(words("")),
        *INVALID,
        "query: needs text, an image or an example (like)",
    ),
    Bad(
        "a query of blanks",
        lambda w: w.moments(words(" \t\n")),
        *INVALID,
        "query: needs text, an image or an example (like)",
    ),
    Bad(
        "a query of 1 MB of text",
        lambda w: w.moments(words("red " * 250_000)),
        *INVALID,
        "query.text: must be at most 2,000 characters, got 1,000,000",
    ),
    Bad(
        "a page of -1 moments",
        lambda w: w.moments(words(), page_size=-1),
        *INVALID,
        "page_size: must not be negative, got -1",
    ),
    Bad(
        "-1 moments of a video",
        lambda w: w.moments(words(), max_moments_per_video=-1),
        *INVALID,
        "max_moments_per_video: must not be negative, got -1",
    ),
    Bad(
        "21 moments with each video",
        lambda w: w.videos(words(), max_moments_per_video=21),
        *INVALID,
        "max_moments_per_video: must be at most 20",
    ),
    Bad(
        "a confidence of 1.5",
        lambda w: w.moments(words(), min_confidence=1.5),
        *INVALID,
        "min_confidence: must be 0 to 1, got 1.5",
    ),
    Bad(
        "an image_weight of 2",
        lambda w: w.moments(words(image_weight=2.0)),
        *INVALID,
        "query.image_weight: must be 0 to 1, got 2",
    ),
    Bad(
        "an image_weight of NaN",
        lambda w: w.moments(words(image_weight=float("nan"))),
        *INVALID,
        "query.image_weight: must be 0 to 1, got nan",
    ),
    Bad(
        "an unknown channel",
        lambda w: w.moments(words(channel=99)),
        *INVALID,
        "query.channel: must be a Channel, got 99",
    ),
    Bad(
        "an unknown video as example",
        lambda w: w.moments(moment_pb2.Query(like=example("nowhere"))),
        *NO_VIDEO,
    ),
    Bad(
        "an example without its span",
        lambda w: w.moments(moment_pb2.Query(like=moment_pb2.MomentReference(video_id=w.film_id))),
        *INVALID,
        "query.like.span: is required",
    ),
    Bad(
        "an example and a picture",
        lambda w: w.moments(moment_pb2.Query(like=example(w.film_id), image=b"\x89PNG")),
        *INVALID,
        "query.like: cannot stand beside an image",
    ),
    Bad(
        "a standing query of a word that asks for nothing",
        lambda w: next(w.search.WatchMoments(search_pb2.WatchMomentsRequest(query=words("the")), timeout=HANG_SECONDS)),
        *INVALID,
        'query.text: has only words such as "the", which no moment answers',
    ),
    # ---- filters
    Bad(
        "an unknown collection",
        lambda w: w.moments(words(), filter=moment_pb2.Filter(collections=["nowhere"])),
        "NOT_FOUND",
        "COLLECTION_NOT_FOUND",
        "no collection nowhere",
    ),
    Bad(
        "an unknown video",
        lambda w: w.moments(words(), filter=moment_pb2.Filter(video_ids=["nowhere"])),
        *NO_VIDEO,
    ),
    Bad(
        "a duration below zero",
        lambda w: w.moments(words(), filter=moment_pb2.Filter(min_duration=Duration(seconds=-1))),
        *INVALID,
        "filter.min_duration: must not be negative, got -1 s",
    ),
    Bad(
        "an invalid Duration",
        lambda w: w.moments(words(), filter=moment_pb2.Filter(min_duration=Duration(seconds=1, nanos=-1))),
        *INVALID,
        "filter.min_duration: is not a valid Duration: seconds 1, nanos -1",
    ),
    Bad(
        "metadata without a condition",
        lambda w: w.moments(words(), filter=moment_pb2.Filter(metadata=[moment_pb2.MetadataFilter(key="topic")])),
        *INVALID,
        "filter.metadata[0]: needs a condition: equals or range",
    ),
    Bad(
        "three mistakes at once",
        lambda w: w.moments(words("", channel=99), page_size=-1),
        *INVALID,
        "query: needs text, an image or an example (like); query.channel: must be a Channel, got 99; "
        "page_size: must not be negative, got -1",
    ),
    # ---- page tokens
    Bad("a text that is not a page token", lambda w: w.list_videos(page_token="2"), *TOKEN_INVALID),
    Bad("a page token, altered", altered, *TOKEN_INVALID),
    Bad("a page token, cut off", lambda w: w.list_videos(page_token=first_page(w)[:-4]), *TOKEN_INVALID),
    Bad("a page token of 100,000 characters", lambda w: w.list_videos(page_token="A" * 100_000), *TOKEN_INVALID),
    Bad(
        "a page token of another request",
        lambda w: w.list_videos(page_token=first_page(w), collection="default"),
        *TOKEN_INVALID,
    ),
    Bad("a page token of another method", lambda w: w.moments(words(), page_token=first_page(w)), *TOKEN_INVALID),
    Bad("a page token of another caller", lambda w: w.list_videos(page_token=list_token(w, LAPTOP)), *TOKEN_INVALID),
    Bad(
        "a page token of another server",
        lambda w: w.list_videos(page_token=list_token(w, EVERYBODY, bytes(32))),
        *TOKEN_INVALID,
    ),
    Bad(
        "an expired page token",
        forgotten,
        "FAILED_PRECONDITION",
        "PAGE_TOKEN_EXPIRED",
        "the page token has expired: ask for the first page again",
    ),
    Bad("GetSimilarityCurve of an unknown video", lambda w: w.curve("nowhere", words()), *NO_VIDEO),
    Bad("GetSimilarityCurve without a question", lambda w: w.curve(w.film_id), *INVALID, "query: is required"),
    Bad(
        "GetSimilarityCurve with 2,001 points",
        lambda w: w.curve(w.film_id, words(), point_count=2001),
        *INVALID,
        "point_count: must be 0 to 2,000, got 2001",
    ),
    # ---- videos
    Bad(
        "a page of -1 videos",
        lambda w: w.list_videos(page_size=-1),
        *INVALID,
        "page_size: must not be negative, got -1",
    ),
    Bad(
        "a list of an unknown collection",
        lambda w: w.list_videos(collection="nowhere"),
        "NOT_FOUND",
        "COLLECTION_NOT_FOUND",
        "no collection nowhere",
    ),
    Bad("a video without its id", lambda w: w.get("GetVideo", ""), *INVALID, "video_id: is required"),
    Bad("GetVideo of an unknown video", lambda w: w.get("GetVideo", "nowhere"), *NO_VIDEO),
    Bad("GetTranscript of an unknown video", lambda w: w.get("GetTranscript", "nowhere"), *NO_VIDEO),
    Bad("GetChapters of an unknown video", lambda w: w.get("GetChapters", "nowhere"), *NO_VIDEO),
    Bad(
        "GetChapters with -1 highlights",
        lambda w: w.get("GetChapters", w.film_id, highlight_count=-1),
        *INVALID,
        "highlight_count: must be 0 to 100, got -1",
    ),
    Bad("GetFrame of an unknown video", lambda w: w.get("GetFrame", "nowhere"), *NO_VIDEO),
    Bad(
        "GetFrame before the beginning",
        lambda w: w.get("GetFrame", w.film_id, offset=Duration(seconds=-1)),
        *INVALID,
        "offset: must not be negative, got -1 s",
    ),
    Bad(
        "GetFrame of a file without pictures",
        lambda w: w.get("GetFrame", w.sound_id),
        "NOT_FOUND",
        "FRAME_NOT_FOUND",
        "video SOUND has no pictures",
    ),
    Bad("GetStoryboard of an unknown video", lambda w: w.get("GetStoryboard", "nowhere"), *NO_VIDEO),
    Bad(
        "GetStoryboard with 1,001 pictures",
        lambda w: w.get("GetStoryboard", w.film_id, picture_count=1001),
        *INVALID,
        "picture_count: must be 0 to 1,000, got 1001",
    ),
    Bad(
        "GetStoryboard of a part that ends before it begins",
        lambda w: w.get("GetStoryboard", w.film_id, span=moment_pb2.TimeSpan(start_offset=Duration(seconds=2))),
        *INVALID,
        "span.end_offset: must not be below the start of its range",
    ),
    Bad(
        "a page of -1 collections",
        lambda w: w.library.ListCollections(library_pb2.ListCollectionsRequest(page_size=-1)),
        *INVALID,
        "page_size: must not be negative, got -1",
    ),
    Bad("NameSpeaker of an unknown video", lambda w: w.get("NameSpeaker", "nowhere", speaker=1), *NO_VIDEO),
    Bad(
        "NameSpeaker of speaker 0",
        lambda w: w.get("NameSpeaker", w.film_id, speaker=0),
        *INVALID,
        "speaker: must be 1 or more, got 0",
    ),
    Bad(
        "NameSpeaker of a speaker that the video does not have",
        lambda w: w.get("NameSpeaker", w.sound_id, speaker=7, name="Ana"),
        "NOT_FOUND",
        "SPEAKER_NOT_FOUND",
        "video SOUND has no speaker 7",
    ),
    Bad("DeleteVideo of an unknown video", lambda w: w.get("DeleteVideo", "nowhere"), *NO_VIDEO),
    # ---- calls
    Bad("a question that is cancelled", cancelled, "CANCELLED"),
    Bad("a question past its own deadline", late(0.3), "DEADLINE_EXCEEDED"),
    Bad("a question past server.max_call_seconds", late(None), "DEADLINE_EXCEEDED", "CALL_TOO_LONG"),
    Bad("an unknown method", lambda w: w.raw("SearchService/SearchEverything", b""), "UNIMPLEMENTED"),
    Bad("an unknown service", lambda w: w.raw("AlertService/ListAlerts", b""), "UNIMPLEMENTED"),
]


@pytest.mark.parametrize("row", REQUESTS, ids=lambda row: row.request)
def test_says_what_is_wrong_and_goes_on(row: Bad, world: World) -> None:
    check_refusal(row, world)


def test_an_internal_error_is_described_only_in_the_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    library = world.running.server.loaded.library
    assert library is not None
    with patch.object(library.engine, "_find_candidates", side_effect=RuntimeError("/secret/path")):
        found = outcome(world, Bad("", lambda w: w.moments(words()), ""))
    assert found == Outcome(code="INTERNAL", reason="INTERNAL", message="internal error")
    (record,) = (each for each in caplog.records if each.exc_info)
    assert "/secret/path" in str(record.exc_info)
    assert world.answers()


# ------------------------------------------------------------------ the table for people
def markdown(world: World) -> Iterator[str]:
    """Render the rows of all three files, with the answers of a real server."""
    from test_bad_uploads import UPLOADS
    from test_hostile_bytes import HOSTILE

    yield "| Request | Code | Reason | Message |"
    yield "|---|---|---|---|"
    for row in [*REQUESTS, *HOSTILE, *UPLOADS]:
        found = outcome(world, row)
        cells = (row.request, found.code, found.reason and f"`{found.reason}`", found.message.replace("|", "\\|"))
        yield f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary, serve_world(Path(temporary)) as started:
        for line in markdown(started):
            print(line, flush=True)
