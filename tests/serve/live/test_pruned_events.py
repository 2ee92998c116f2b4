"""Events of a live video whose oldest segments are removed, by retention or by a deletion."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from serve.catalog.catalog import Catalog
from serve.catalog.events import EventLog
from serve.config import Limit, Retention
from serve.event import EventFilter, EventState
from serve.live.live_rows import DeletionRecord, LiveRows, Tombstone
from support.sample_catalog import FINGERPRINT, SPACE
from support.sample_events import FIRE, put_events
from support.sample_live import STARTED, live_segment

DAY = Retention(limits={"default": Limit(age_seconds=100.0)})


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveRows]:
    """A camera of 48 seconds, with events at 0, 10, 20 and 30 of two seconds each, and one that began at 5."""
    with Catalog.open_writer(tmp_path) as catalog:
        catalog.set_space(SPACE)
        rows = LiveRows(catalog, FINGERPRINT, clock=lambda: STARTED)
        rows.apply([live_segment(n, appended=STARTED + 8 * n) for n in range(5)], {})
        ((row,),) = catalog.select("SELECT row FROM videos")
        put_events(catalog, row, 4, replace(FIRE, video_id="cam"))
        put_events(catalog, row, 1, replace(FIRE, video_id="cam", state=EventState.OPENED, start_seconds=5.0))
        yield rows


def listed(live: LiveRows) -> list[float]:
    return [event.start_seconds for event in EventLog(live.catalog).page(EventFilter(), None, 100)]


def changed(live: LiveRows) -> list[tuple[float, str]]:
    changes = EventLog(live.catalog).changes(0, 100)
    return [(one.event.start_seconds, one.event.state.value) for one in changes]


CLOSED = [(0.0, "CLOSED"), (10.0, "CLOSED"), (20.0, "CLOSED"), (30.0, "CLOSED"), (5.0, "OPENED")]


def test_events_go_quietly_with_what_is_kept_no_longer(live: LiveRows) -> None:
    live.prune(DAY, STARTED + 113, 10)  # it begins at 16 by now
    assert listed(live) == [5.0, 20.0, 30.0]  # one that may go on stays
    assert changed(live) == CLOSED[2:]
    live.prune(DAY, STARTED + 1000, 10)
    assert live.catalog.videos() == []
    assert (listed(live), changed(live)) == ([], [])
    assert EventLog(live.catalog).last_sequence() >= len(CLOSED)  # who reads on from a change finds the later ones


def test_events_go_as_quietly_by_the_tombstones_of_another_server(live: LiveRows) -> None:
    tombstones = [Tombstone(segment_id=f"cam/0/{n}", collection="default") for n in range(5)]
    live.apply(tombstones[:2], {})
    assert listed(live) == [5.0, 20.0, 30.0]
    live.apply(tombstones[2:], {})
    assert (listed(live), changed(live)) == ([], [])


@pytest.mark.parametrize("is_deletion_first", [True, False])
def test_events_of_what_was_deleted_are_withdrawn(live: LiveRows, is_deletion_first: bool) -> None:
    changes = [
        DeletionRecord(collection="default", video_id="cam", append_time=STARTED + 500),
        *(Tombstone(segment_id=f"cam/0/{n}", collection="default") for n in range(5)),
    ]
    live.apply(changes if is_deletion_first else changes[::-1], {})
    assert listed(live) == []
    assert sorted(changed(live)) == [(start, "WITHDRAWN") for start in (0.0, 5.0, 10.0, 20.0, 30.0)]


def test_events_of_the_deleted_part_of_a_stream_that_goes_on_are_withdrawn(live: LiveRows) -> None:
    live.apply([DeletionRecord(collection="default", video_id="cam", append_time=STARTED + 12)], {})
    assert listed(live) == [5.0, 20.0, 30.0]
    assert sorted(changed(live)) == sorted([*CLOSED[2:], (0.0, "WITHDRAWN"), (10.0, "WITHDRAWN")])
