"""Moderation events that are written straight into a catalog, without scoring."""

from dataclasses import replace

from serve.catalog.catalog import Catalog
from serve.catalog.events import EventLog
from serve.event import Event, EventState
from support.sample_catalog import put

FIRE = Event(
    event_id="", state=EventState.CLOSED, channel="visual", label="Fire", parents=("Hazards",), confidence=0.75,
    collection="default", video_id="a", epoch=0, start_seconds=0.0, end_seconds=2.0, policy_id="fire",
    policy_version="1", fingerprint="f", action="alert",
)  # fmt: skip


def put_events(catalog: Catalog, row: int, count: int, like: Event = FIRE) -> list[Event]:
    """Write events of a video, one every ten seconds from the start of `like` on; return them as recorded."""
    log, events = EventLog(catalog), []
    with catalog.editing() as edit:
        for n in range(count):
            start = like.start_seconds + 10.0 * n
            name = f"{like.collection}-{like.video_id}-{like.policy_id}-{start:g}"
            event = replace(like, event_id=name, start_seconds=start, end_seconds=start + 2)
            events.append(log.record(edit, row, event))
    return events


def event(n: int) -> Event:
    """Return an open event, number n of its video."""
    return Event(
        event_id=f"event{n}", state=EventState.OPENED, channel="visual", label="Fire", parents=("Hazards",),
        confidence=0.75, collection="default", video_id="a", epoch=0, start_seconds=1.5 * n, end_seconds=1.5 * n + 1,
        policy_id="fire", policy_version="1", fingerprint="f", action="", recorded_time=1_700_000_000.25,
    )  # fmt: skip


def add(log: EventLog, *numbers: int) -> None:
    """Record events by their numbers; a number that was recorded before makes another revision."""
    rows = log.catalog.select("SELECT row FROM videos")
    row = rows[0][0] if rows else put(log.catalog, "a")
    with log.catalog.editing() as edit:
        for n in numbers:
            log.record(edit, row, event(n))


def never_stop(seconds: float) -> bool:
    """Be the `wait` of Sink.deliver: no waiting, and the server never stops."""
    return False
