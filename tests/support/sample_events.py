"""Events that nobody had to find, written straight into a catalog."""

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
    """Write as many events of a video, one every ten seconds from the first one's start on."""
    log, found = EventLog(catalog), []
    with catalog.editing() as edit:
        for n in range(count):
            start = like.start_seconds + 10.0 * n
            name = f"{like.collection}-{like.video_id}-{like.policy_id}-{start:g}"
            event = replace(like, event_id=name, start_seconds=start, end_seconds=start + 2)
            found.append(log.record(edit, row, event))
    return found


def event(n: int) -> Event:
    return Event(
        event_id=f"event{n}", state=EventState.OPENED, channel="visual", label="Fire", parents=("Hazards",),
        confidence=0.75, collection="default", video_id="a", epoch=0, start_seconds=1.5 * n, end_seconds=1.5 * n + 1,
        policy_id="fire", policy_version="1", fingerprint="f", action="", recorded_time=1_700_000_000.25,
    )  # fmt: skip


def add(log: EventLog, *numbers: int) -> None:
    rows = log.catalog.rows("SELECT row FROM videos")
    row = rows[0][0] if rows else put(log.catalog, "a")
    with log.catalog.editing() as edit:
        for n in numbers:
            log.record(edit, row, event(n))


def at_once(seconds: float) -> bool:
    return False
