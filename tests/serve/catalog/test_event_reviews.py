"""What people judge of moderation events, in the catalog."""

from dataclasses import replace

import pytest

from serve.catalog.catalog import Catalog
from serve.catalog.events import EventLog, prune_events
from serve.errors import EventNotFound, PermissionDenied
from serve.event import Event, EventFilter, EventReview, EventState, ReviewState
from support.sample_catalog import put
from support.sample_events import FIRE, put_events

GOOD = EventReview(state=ReviewState.APPROVED, note="a real one", reviewer="anna", review_time=1_700_000_000.5)
TAKEN_BACK = EventReview(state=ReviewState.PENDING, reviewer="anna")


def allow(collection: str) -> None:
    pass


@pytest.fixture
def event(catalog: Catalog) -> Event:
    """The second of three events of a video."""
    return put_events(catalog, put(catalog, "a"), 3)[1]


def changes_of(log: EventLog, event: Event) -> list[tuple[EventState, int, EventReview | None]]:
    changes = (change.event for change in log.changes(0, 100))
    return [(each.state, each.revision, each.review) for each in changes if each.event_id == event.event_id]


def test_a_review_is_a_change_of_its_event(catalog: Catalog, event: Event) -> None:
    log = EventLog(catalog)
    assert log.review(event.event_id, GOOD, allow) == (replace(event, review=GOOD, revision=1), True)
    bad = replace(GOOD, state=ReviewState.DISMISSED, note="")
    assert log.review(event.event_id, bad, allow)[0].review == bad
    assert log.review(event.event_id, TAKEN_BACK, allow)[0].review is None
    assert changes_of(log, event) == [
        (EventState.CLOSED, 0, None),
        (EventState.CLOSED, 1, GOOD),
        (EventState.CLOSED, 2, bad),
        (EventState.CLOSED, 3, None),
    ]


def test_the_same_review_again_changes_nothing(catalog: Catalog, event: Event) -> None:
    log = EventLog(catalog)
    assert log.review(event.event_id, TAKEN_BACK, allow) == (event, False)
    log.review(event.event_id, GOOD, allow)
    assert log.review(event.event_id, replace(GOOD, review_time=2e9), allow)[1] is False
    assert log.review(event.event_id, replace(GOOD, reviewer="ben"), allow)[1] is True


def test_an_event_that_goes_on_keeps_its_review(catalog: Catalog) -> None:
    log = EventLog(catalog)
    (opened,) = put_events(catalog, row := put(catalog, "a"), 1, replace(FIRE, state=EventState.OPENED))
    assert log.review(opened.event_id, GOOD, allow)[0].state is EventState.UPDATED
    with catalog.editing() as edit:
        closed = log.record(edit, row, replace(opened, state=EventState.CLOSED, end_seconds=9.0))
    assert (closed.review, closed.revision) == (GOOD, 2)
    assert log.events_of(row) == [closed]
    assert opened.is_same(replace(opened, review=GOOD))


def test_an_event_that_is_found_anew_has_its_review_again(catalog: Catalog, event: Event) -> None:
    log = EventLog(catalog)
    log.review(event.event_id, GOOD, allow)
    with catalog.editing() as edit:
        log.withdraw(edit, event.event_id)
    assert changes_of(log, event) == [(EventState.WITHDRAWN, 2, None)]  # the note went with it
    with pytest.raises(EventNotFound):
        log.review(event.event_id, GOOD, allow)
    with catalog.editing() as edit:
        row = catalog.videos()[0].row
        assert log.record(edit, row, event).review == GOOD


def test_a_review_goes_with_the_video_and_with_the_pruned_part(catalog: Catalog, event: Event) -> None:
    log = EventLog(catalog)
    log.review(event.event_id, GOOD, allow)
    with catalog.editing() as edit:
        prune_events(edit, catalog.videos()[0].row, 15.0, withdraws=False)
    assert catalog.select("SELECT * FROM event_reviews") == []
    (other,) = put_events(catalog, put(catalog, "b"), 1, replace(FIRE, video_id="b"))
    log.review(other.event_id, GOOD, allow)
    catalog.delete("b")
    assert catalog.select("SELECT * FROM event_reviews") == []


def test_who_may_not_change_the_collection_changes_nothing(catalog: Catalog, event: Event) -> None:
    log = EventLog(catalog)

    def refuse(collection: str) -> None:
        raise PermissionDenied(f"change collection {collection}")

    with pytest.raises(PermissionDenied, match="default"):
        log.review(event.event_id, GOOD, refuse)
    with pytest.raises(EventNotFound, match="no event nothing"):
        log.review("nothing", GOOD, refuse)
    assert changes_of(log, event) == [(EventState.CLOSED, 0, None)]


def test_events_are_filtered_by_what_was_judged(catalog: Catalog, event: Event) -> None:
    log = EventLog(catalog)
    log.review(event.event_id, GOOD, allow)
    for states, count in (
        ((), 3),
        ((ReviewState.APPROVED,), 1),
        ((ReviewState.PENDING,), 2),
        ((ReviewState.DISMISSED,), 0),
        ((ReviewState.PENDING, ReviewState.APPROVED), 3),
    ):
        wanted = EventFilter(review_states=states)
        found = log.page(wanted, None, 100)
        assert len(found) == count
        assert all(wanted.admits(each) for each in found)
