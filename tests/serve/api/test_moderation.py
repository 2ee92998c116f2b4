"""Callers of the ModerationService: what is found is listed, and told once, in order, through restarts."""

import asyncio
import itertools
import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner

from kinodex.v1 import moderation_service_pb2 as moderation
from kinodex.v1 import stream_pb2
from kinodex.v1.moderation_service_pb2_grpc import ModerationServiceStub
from serve.api.build import build_server
from serve.cli.main import cli
from serve.client.client import Client
from serve.codec.events import event_value
from serve.config import ServerConfig
from serve.errors import ServerFailed, SettingsError
from serve.event import Event, EventFilter, EventState, ReviewState
from serve.indexing.pipeline import delete, index
from serve.moderation.moderator import Moderator
from serve.settings import Settings
from serve.text import time_span
from serve.values import Video
from support.fakes import SilentProgress, use_fakes, write_scenes
from support.running import Running, read_refusal, running
from support.waiting import HANG_SECONDS, wait_until
from support.webhook_receiver import Receiver
from support.webhook_receiver import receiver as receiver

pytestmark = pytest.mark.slow
SETTINGS = Settings(workers=1)
RED = {"id": "red", "label": "Red", "parents": ["Colours"], "shows": ["red"], "min_seconds": 1, "cooldown_seconds": 0,
       "action": "look"}  # fmt: skip
BLUE = {"id": "blue", "label": "Blue", "parents": ["Colours"], "shows": ["blue"], "unlike": ["green"],
        "says": ["/pari./"], "leave": 0.2, "collections": ["default"]}  # fmt: skip


@pytest.fixture(autouse=True)
def exact_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    add(tmp_path / "data", "first", [("green", 2), ("red", 3), ("blue", 4), ("green", 3)])
    add(tmp_path / "data", "second", [("red", 4), ("green", 3)], collection="other")
    write(tmp_path / "data" / "policies.yaml", RED, BLUE)
    return tmp_path / "data"


def write(path: Path, *policies: dict[str, object], version: str = "1") -> Path:
    path.write_text(json.dumps({"version": version, "policies": policies}))
    return path


def add(data: Path, name: str, scenes: list[tuple[str, int]], collection: str = "default") -> str:
    film = write_scenes(data.parent / f"{name}.mp4", scenes)
    (outcome,) = index([str(film)], data, SETTINGS, collection=collection, progress=SilentProgress())
    assert outcome.video_id is not None
    return outcome.video_id


@pytest.fixture
def server(data: Path) -> Iterator[Running]:
    with running(data, SETTINGS) as started:
        yield started


@pytest.fixture
def stub(server: Running) -> Iterator[ModerationServiceStub]:
    with grpc.insecure_channel(server.address) as channel:
        yield ModerationServiceStub(channel)


class Watch:
    """A call that watches, and what came."""

    def __init__(self, stub: ModerationServiceStub, **request: object) -> None:
        self.call = stub.WatchEvents(moderation.WatchEventsRequest(**request), timeout=HANG_SECONDS)  # type: ignore[arg-type]
        self.responses = iter(self.call)
        self.first = next(self.responses)

    def take(self, count: int) -> list[moderation.WatchEventsResponse]:
        """Return the next responses with an event; a slow server sends others between them."""
        return list(itertools.islice((one for one in self.responses if one.HasField("event")), count))


def told(responses: list[moderation.WatchEventsResponse]) -> list[tuple[str, str, int]]:
    return [
        (one.event.policy_id, stream_pb2.Event.State.Name(one.event.state).removeprefix("STATE_"), one.event.revision)
        for one in responses
    ]


ALL = [("red", "OPENED", 0), ("red", "CLOSED", 1), ("blue", "OPENED", 0), ("blue", "CLOSED", 1)]
OTHER = [("red", "OPENED", 0), ("red", "CLOSED", 1)]


# ---- reviews


def test_a_review_comes_to_lists_watches_and_the_webhook(data: Path, receiver: Receiver) -> None:
    def posted() -> list[dict[str, Any]]:
        bodies = [json.loads(body) for _, body in receiver.requests]
        return [body for body in bodies if body.get("review")]

    webhook = {"webhook_url": receiver.url, "webhook_secret": "a secret of some bytes"}
    with running(data, SETTINGS, **webhook) as server, Client(server.address) as client:
        wait_until(lambda: len(list(client.events())) == 3)
        red, *others = client.events()
        with grpc.insecure_channel(server.address) as channel:
            watch = Watch(ModerationServiceStub(channel))
            reviewed = client.review_event(red.event_id, ReviewState.DISMISSED, "a fire engine")
            assert client.review_event(red.event_id, ReviewState.DISMISSED, "a fire engine") == reviewed
            [seen] = watch.take(1)
            watch.call.cancel()
        review = reviewed.review
        assert review is not None
        assert (review.state, review.note, review.reviewer) == (ReviewState.DISMISSED, "a fire engine", "")
        assert abs(review.review_time - time.time()) < HANG_SECONDS
        assert (reviewed.state, reviewed.revision) == (EventState.CLOSED, red.revision + 1)
        assert event_value(seen.event) == reviewed
        assert list(client.events(EventFilter(review_states=(ReviewState.DISMISSED,)))) == [reviewed]
        assert list(client.events(EventFilter(review_states=(ReviewState.PENDING,)))) == others
        wait_until(posted)
        [body] = posted()
        assert (body["eventId"], body["review"]["state"]) == (red.event_id, "STATE_DISMISSED")
        with pytest.raises(ServerFailed) as caught:
            client.review_event("nothing", ReviewState.APPROVED)
        assert (caught.value.code, caught.value.reason) == ("NOT_FOUND", "EVENT_NOT_FOUND")
        done = CliRunner().invoke(cli, ["events", "review", red.event_id, "--undo", "--server", server.address])
        assert done.exit_code == 0
        assert [event.review for event in client.events()] == [None] * 3


def test_all_mistakes_of_a_review_come_at_once(stub: ModerationServiceStub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.ReviewEvent(moderation.ReviewEventRequest(state=9, note="x" * 1001))  # type: ignore[arg-type]
    said = caught.value.details() or ""
    for mistake in ("event_id: is required", "state: must be", "note: must be at most 1,000 characters, got 1,001"):
        assert mistake in said
    with pytest.raises(grpc.RpcError) as caught:
        stub.ListEvents(moderation.ListEventsRequest(filter=moderation.EventFilter(review_states=[7])))  # type: ignore[list-item]
    assert "filter.review_states[0]" in (caught.value.details() or "")


# ---- lists


def test_lists_the_policies_in_force(stub: ModerationServiceStub, data: Path) -> None:
    wait_until(lambda: len(stub.ListPolicies(moderation.ListPoliciesRequest()).policies) > 0)
    found = stub.ListPolicies(moderation.ListPoliciesRequest())
    assert [(one.policy_id, one.label, list(one.parent_labels)) for one in found.policies] == [
        ("red", "Red", ["Colours"]), ("blue", "Blue", ["Colours"]),
    ]  # fmt: skip
    blue = found.policies[1]
    assert (list(blue.shows), list(blue.unlike), list(blue.patterns)) == (["blue"], ["green"], ["pari."])
    assert (blue.enter_confidence, blue.leave_confidence, blue.min_duration.seconds) == (0.7, 0.2, 2)
    assert (found.version, found.refused) == ("1", "")
    assert blue.visual_state == moderation.Policy.VISUAL_STATE_ON
    assert blue.visual_note == "colour was never measured on these prompts"

    write(data / "policies.yaml", {**RED, "enter": 0.4}, version="2")  # below its leave
    wait_until(lambda: stub.ListPolicies(moderation.ListPoliciesRequest()).refused)
    found = stub.ListPolicies(moderation.ListPoliciesRequest())
    assert found.refused == "line 1: policies[0].leave: 0.5 is above enter = 0.4"
    assert (found.version, len(found.policies)) == ("1", 2)


def test_lists_events_in_pages(server: Running, stub: ModerationServiceStub) -> None:
    Watch(stub, from_start=True).take(6)
    events, token = [], ""
    for _ in range(3):
        page = stub.ListEvents(moderation.ListEventsRequest(page_size=1, page_token=token))
        events += page.events
        token = page.next_page_token
    assert not token
    assert [(one.collection, one.label, one.span.start_offset.seconds) for one in events] == [
        ("default", "Red", 2), ("default", "Blue", 5), ("other", "Red", 0),
    ]  # fmt: skip
    assert events[0].action_hint == "look"
    assert 2 <= events[0].best_frame_offset.seconds < 5
    with Client(server.address) as client:
        assert [one.label for one in client.events()] == ["Red", "Blue", "Red"]
        assert [one.label for one in client.events(EventFilter(labels=("Blue",)))] == ["Blue"]
        assert len(list(client.events(EventFilter(labels=("Colours",), collections=("other",))))) == 1
        assert list(client.events(EventFilter(policy_ids=("none",)))) == []
        assert list(client.events(EventFilter(video_ids=("none",)))) == []


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"page_size": -1}, ("INVALID_ARGUMENT", "REQUEST_INVALID")),
        ({"page_token": "x"}, ("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID")),
        ({"filter": {"min_confidence": 2.0}}, ("INVALID_ARGUMENT", "REQUEST_INVALID")),
        ({"filter": {"labels": [""]}}, ("INVALID_ARGUMENT", "REQUEST_INVALID")),
        ({"filter": {"collections": ["nowhere"]}}, ("NOT_FOUND", "COLLECTION_NOT_FOUND")),
    ],
)
def test_refuses_bad_lists(stub: ModerationServiceStub, request_: dict[str, object], expected: tuple[str, str]) -> None:
    with pytest.raises(grpc.RpcError) as error:
        stub.ListEvents(moderation.ListEventsRequest(**request_))  # type: ignore[arg-type]
    assert read_refusal(error.value) == expected


# ---- watching


def test_tells_what_is_there_and_what_comes(stub: ModerationServiceStub, data: Path) -> None:
    watch = Watch(stub, from_start=True)
    assert not watch.first.HasField("event")
    assert sorted(told(watch.take(6))) == sorted(ALL + OTHER)
    later = Watch(stub, filter=moderation.EventFilter(labels=["Red"]))
    add(data, "third", [("red", 2), ("blue", 3)])
    assert sorted(told(watch.take(4))) == sorted(ALL)
    assert told(later.take(2)) == OTHER
    later.call.cancel()


def test_goes_on_where_it_was_left_through_a_restart(data: Path) -> None:
    with running(data, SETTINGS) as server:
        channel = grpc.insecure_channel(server.address)
        all_of_them = Watch(ModerationServiceStub(channel), from_start=True).take(6)
        left = all_of_them[2].resume_token
    channel.close()
    add(data, "third", [("red", 2), ("green", 3)])

    with running(data, SETTINGS) as server, grpc.insecure_channel(server.address) as channel:
        rest = Watch(ModerationServiceStub(channel), resume_token=left).take(5)

    assert told(rest) == [*told(all_of_them[3:]), *OTHER]


def test_our_client_misses_nothing_while_the_server_is_away(data: Path) -> None:
    found: list[Event] = []
    with running(data, SETTINGS) as server:
        port = server.server.port
        client = Client(f"127.0.0.1:{port}")

        def watch() -> None:
            for event, _ in client.watch_events(from_start=True):
                found.append(event)
                if len(found) == 8:
                    return

        thread = threading.Thread(target=watch)
        thread.start()
        wait_until(lambda: len(found) == 6)
    add(data, "third", [("red", 2), ("green", 3)])
    with running(data, SETTINGS, listen=f"127.0.0.1:{port}"):
        thread.join(HANG_SECONDS)
    client.close()

    assert len(found) == 8
    assert len({(one.event_id, one.revision) for one in found}) == 8


def test_a_stop_ends_all_watches_at_once(data: Path) -> None:
    with running(data, SETTINGS, drain_seconds=2 * HANG_SECONDS) as server:
        channel = grpc.insecure_channel(server.address)
        watch = Watch(ModerationServiceStub(channel))
        started = time.monotonic()
    assert time.monotonic() - started < HANG_SECONDS
    with channel, pytest.raises(grpc.RpcError) as error:
        list(watch.responses)  # events that came before
    assert read_refusal(error.value) == ("UNAVAILABLE", "SERVER_NOT_READY")


def test_the_watch_of_a_caller_that_disconnects_ends(server: Running) -> None:
    for _ in range(5):
        with grpc.insecure_channel(server.address) as channel:
            Watch(ModerationServiceStub(channel))
    wait_until(lambda: server.server.metrics.calls_in_flight._value.get() == 0)


def test_watches_do_not_count_as_concurrent_calls(data: Path) -> None:
    limits = {"max_concurrent_calls": 1, "max_watches": 2}
    with running(data, SETTINGS, **limits) as server, grpc.insecure_channel(server.address) as channel:
        stub = ModerationServiceStub(channel)
        first, _ = Watch(stub), Watch(stub)
        with pytest.raises(grpc.RpcError) as error:
            Watch(stub)
        assert read_refusal(error.value) == ("RESOURCE_EXHAUSTED", "OVERLOADED")
        stub.ListPolicies(moderation.ListPoliciesRequest())
        first.call.cancel()
        wait_until(lambda: server.server.metrics.calls_in_flight._value.get() == 1)
        Watch(stub)


def test_a_token_is_good_for_its_own_question_and_library(stub: ModerationServiceStub, tmp_path: Path) -> None:
    token = Watch(stub).first.resume_token
    for request, expected in (
        ({"resume_token": token, "filter": {"labels": ["Red"]}}, ("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID")),
        ({"resume_token": "x" + token}, ("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID")),
    ):
        with pytest.raises(grpc.RpcError) as error:
            Watch(stub, **request)
        assert read_refusal(error.value) == expected


def test_a_resume_token_of_a_deleted_library_is_expired(data: Path) -> None:
    with running(data, SETTINGS) as server, grpc.insecure_channel(server.address) as channel:
        token = Watch(ModerationServiceStub(channel)).first.resume_token
    for path in data.glob("catalog.sqlite*"):
        path.unlink()
    with running(data, SETTINGS) as server, grpc.insecure_channel(server.address) as channel:
        with pytest.raises(grpc.RpcError) as error:
            Watch(ModerationServiceStub(channel), resume_token=token)
        assert read_refusal(error.value) == ("FAILED_PRECONDITION", "RESUME_TOKEN_EXPIRED")


def test_a_caller_sees_its_own_collections(data: Path) -> None:
    result = CliRunner().invoke(cli, ["token", "add", "--data", str(data), "reader", "--collection", "other"])
    assert result.exit_code == 0, result.output
    token = result.stdout.strip()
    with running(data, SETTINGS) as server, grpc.insecure_channel(server.address) as channel:
        stub, metadata = ModerationServiceStub(channel), (("authorization", f"Bearer {token}"),)
        responses = stub.WatchEvents(
            moderation.WatchEventsRequest(from_start=True), metadata=metadata, timeout=HANG_SECONDS
        )
        assert {next(responses).event.collection for _ in range(3)} == {"", "other"}
        with pytest.raises(grpc.RpcError) as error:
            stub.ListEvents(
                moderation.ListEventsRequest(filter={"collections": ["default"]}),
                metadata=metadata,  # type: ignore[arg-type]
            )
        assert read_refusal(error.value) == ("PERMISSION_DENIED", "PERMISSION_DENIED")
        with pytest.raises(grpc.RpcError) as error:
            next(stub.WatchEvents(moderation.WatchEventsRequest()))
        assert read_refusal(error.value) == ("UNAUTHENTICATED", "UNAUTHENTICATED")


def test_a_caller_sees_the_policies_of_its_own_collections(data: Path) -> None:
    write(data / "policies.yaml", RED, BLUE, {**BLUE, "id": "both", "collections": ["default", "other"]})
    result = CliRunner().invoke(cli, ["token", "add", "--data", str(data), "reader", "--collection", "other"])
    metadata = (("authorization", f"Bearer {result.stdout.strip()}"),)
    with running(data, SETTINGS) as server, grpc.insecure_channel(server.address) as channel:

        def asked() -> moderation.ListPoliciesResponse:
            return ModerationServiceStub(channel).ListPolicies(moderation.ListPoliciesRequest(), metadata=metadata)  # type: ignore[arg-type]

        wait_until(lambda: len(asked().policies) > 0)
        found = [(one.policy_id, list(one.collections)) for one in asked().policies]
        assert found == [("red", []), ("both", ["other"])]
        write(data / "policies.yaml", BLUE, BLUE)
        wait_until(lambda: bool(asked().refused))
        assert asked().refused == "line 1: policies[1].id"  # not which
        (data / "policies.yaml").write_text("")
        wait_until(lambda: "line" not in asked().refused)
        assert asked().refused == "the file"


def test_a_webhook_receives_every_event(data: Path, receiver: Receiver) -> None:
    webhook = {"webhook_url": receiver.url, "webhook_secret": "a secret of some bytes"}
    with running(data, SETTINGS, **webhook):
        wait_until(lambda: len(receiver.requests) == 6)
    add(data, "third", [("red", 2), ("green", 3)])
    with running(data, SETTINGS, **webhook):
        wait_until(lambda: len(receiver.requests) == 8)
    ids = [headers["webhook-id"] for headers, _ in receiver.requests]
    assert len(set(ids)) == 8


def test_a_webhook_that_is_set_up_wrong_ends_the_start(data: Path) -> None:
    with pytest.raises(ValueError, match="must be set together"):
        ServerConfig(webhook_url="https://example.org/")
    wrong = ServerConfig(listen="127.0.0.1:0", webhook_url="example.org", webhook_secret="a secret of some bytes")

    async def build() -> None:
        build_server(data, replace(SETTINGS, server=wrong))

    with pytest.raises(SettingsError, match="must be http"):
        asyncio.run(build())


def test_a_deleted_video_is_withdrawn(stub: ModerationServiceStub, data: Path) -> None:
    watch = Watch(stub, from_start=True)
    watch.take(6)
    gone = add(data, "third", [("red", 2), ("green", 3)])
    watch.take(2)
    delete(data, [gone])
    assert told(watch.take(1)) == [("red", "WITHDRAWN", 2)]


# ---- the command


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli, [*map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_rescore_lets_policies_hold_and_says_what_came_of_it(data: Path, tmp_path: Path) -> None:
    assert run("rescore", "--data", data) == (0, "2 videos scored by version 1: 6 changes, 3 events in all\n", "")
    mine = write(tmp_path / "mine.yaml", RED, version="2")
    assert run("rescore", mine, "--data", data, "--json")[1] == (
        '{"version": "2", "video_count": 2, "change_count": 3, "event_count": 2, "failed": {}}\n'
    )
    code, out, _ = run("events", "--data", data, "--collection", "default")
    assert (code, out.split()) == (
        0,
        ["closed", "1.00", time_span(2, 5), out.split()[3], "Colours", ">", "Red", "(look)"],
    )
    found = [json.loads(line) for line in run("events", "--data", data, "--json")[1].splitlines()]
    assert [(one["collection"], one["state"]) for one in found] == [("default", "CLOSED"), ("other", "CLOSED")]


def test_rescore_beside_a_server_says_that_that_one_was_faster(stub: ModerationServiceStub, data: Path) -> None:
    Watch(stub, from_start=True).take(6)
    code, out, _ = run("rescore", "--data", data)
    assert (code, out.splitlines()) == (0, [
        "nothing to score: every video is already scored by these policies",
        "0 videos scored by version 1: 0 changes, 3 events in all",
    ])  # fmt: skip


def test_rescore_names_what_it_could_not_score(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def score(moderator: Moderator, video: Video, version: tuple[object, ...]) -> None:
        if video.collection == "other":
            raise ValueError("a damaged video")
        works(moderator, video, version)

    works = Moderator.score
    monkeypatch.setattr(Moderator, "score", score)
    code, out, error = run("rescore", "--data", data)
    assert (code, out) == (1, "1 video scored by version 1: 4 changes, 2 events in all\n")
    reason = r"\w{16} \(ValueError: a damaged video\); all other videos are scored"
    assert re.fullmatch(rf"kinodex: error: not scored: {reason}\n", error)


def test_rescore_refuses_a_bad_file_and_keeps_what_holds(data: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("version: 1\npolicies:\n  - id: a\n    label: A\n    shows: []\n")
    code, _, error = run("rescore", bad, "--data", data)
    assert code == 1
    assert f"cannot use policies {bad}, line 5: policies[0].shows: must not be empty" in error
    assert '"version": "1"' in (data / "policies.yaml").read_text()


def test_rescore_needs_policies_and_a_library(data: Path, tmp_path: Path) -> None:
    (data / "policies.yaml").unlink()
    code, _, error = run("rescore", "--data", data)
    assert (code, "the library has no policies" in error) == (2, True)
    code, _, error = run("rescore", "--data", tmp_path / "none")
    assert (code, "no library in" in error) == (1, True)
    assert not (tmp_path / "none").exists()


def test_events_of_a_server_are_listed_and_followed(server: Running, stub: ModerationServiceStub, data: Path) -> None:
    Watch(stub, from_start=True).take(6)
    assert run("events", "--server", server.address, "--label", "Blue", "--json")[1].count('"blue"') == 1
    assert run("events", "--follow")[0] == 2
    assert run("events", "--server", server.address, "--data", data)[0] == 2


def test_states_have_the_names_of_the_protos() -> None:
    names = {name.removeprefix("STATE_") for name in stream_pb2.Event.State.DESCRIPTOR.values_by_name}
    assert names - {"UNSPECIFIED"} == {state.value for state in EventState}
