"""The events of a catalog, listed: in order, a page at a time, and without reading what is not asked for."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from serve.catalog import events
from serve.catalog.catalog import Catalog
from serve.catalog.events import EventLog, event_place
from serve.event import Event, EventFilter
from support.sample_catalog import SPACE, put
from support.sample_events import FIRE, put_events

FILTERS = (
    EventFilter(),
    EventFilter(collections=("b", "a", "gone")),
    EventFilter(collections=()),
    EventFilter(video_ids=("v2", "v0", "gone")),
    EventFilter(collections=("b",), video_ids=("v1",)),
    EventFilter(policy_ids=("flood",)),
    EventFilter(labels=("Fire",)),
    EventFilter(labels=("Water", "none")),
    EventFilter(labels=("none",)),
    EventFilter(min_confidence=0.75),
    EventFilter(min_confidence=0.8, labels=("Hazards",), collections=("c",), video_ids=("v0",)),
)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EventLog]:
    """Three videos of one name each in three collections, with events of two policies."""
    with Catalog.open_writer(tmp_path_factory.mktemp("data")) as catalog:
        catalog.set_space(SPACE)
        flood = replace(
            FIRE, policy_id="flood", label="Flood", parents=("Hazards", "Water"), confidence=0.9, start_seconds=5.0
        )
        for collection, video_id in product("cab", ("v1", "v0", "v2")):
            row = put(catalog, video_id, collection=collection)
            for like in (FIRE, flood):
                put_events(catalog, row, 9, replace(like, collection=collection, video_id=video_id))
        yield EventLog(catalog)


def everything(log: EventLog) -> list[Event]:
    return sorted(
        (events.decode_event(body) for (body,) in log.catalog.select("SELECT body FROM events")), key=event_place
    )


@pytest.mark.parametrize("wanted", FILTERS, ids=str)
def test_pages_hold_what_a_filter_admits(log: EventLog, wanted: EventFilter) -> None:
    small_reads = EventLog(log.catalog, read_count=7)
    found, after = [], None
    while page := small_reads.page(wanted, after, 4):
        found += page
        after = event_place(page[-1])
    assert found == [event for event in everything(log) if wanted.admits(event)]
    assert bool(found) == (wanted not in (FILTERS[2], FILTERS[8]))


def test_a_video_is_listed_without_reading_the_others(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def rows(sql: str, *parameters: Any) -> list[Any]:
        found = type(log.catalog).select(log.catalog, sql, *parameters)
        read.append(len(found))
        return found

    monkeypatch.setattr(log.catalog, "select", rows)
    assert len(log.page(EventFilter(video_ids=("v1",), collections=("c",)), None, 100)) == 18
    assert sum(read) <= 18 + 3  # and where the video is


def test_a_caller_that_went_ends_the_search(log: EventLog) -> None:
    looks = iter(range(3))

    def check() -> None:
        if next(looks, None) is None:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        EventLog(log.catalog, read_count=10).page(EventFilter(labels=("none",)), None, 100, check)
