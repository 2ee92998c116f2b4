"""EventLog: the moderation events of a catalog, and every change of them in order.

The transaction that writes a change also writes how far its video is scored, so no change is lost or written twice.
Readers go on from the sequence number of the last change they read: serve.api.services.moderation for clients,
serve.moderation.delivery for Kafka and the webhook.
"""

import json
import math
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from itertools import islice
from typing import Any

from serve.catalog.catalog import Catalog
from serve.errors import EventNotFound
from serve.event import Event, EventChange, EventFilter, EventReview, EventState, ReviewState
from serve.values import MatchedWord

EventPlace = tuple[str, str, float, str]  # in the order of events: collection, video, start in seconds, id

READ_COUNT = 500  # events in one read, of which a filter may leave out many; other readers wait meanwhile
PLACE_COLUMNS = ("collection", "video_id", "start_seconds", "event_id")  # an index has them in this order
FIRST_PLACE: EventPlace = ("", "", -1.0, "")  # before the first event
# What SQL checks of a filter; admits() checks the rest. [] of policies or labels admits any. Parents are labels, too.
FILTER_CONDITION = """confidence >= ?1
    AND (?2 = '[]' OR policy_id IN (SELECT value FROM json_each(?2)))
    AND (?3 = '[]' OR label IN (SELECT value FROM json_each(?3)) OR EXISTS (
        SELECT 1 FROM json_each(body, '$.parents') WHERE value IN (SELECT value FROM json_each(?3))))
    AND (?4 = '[]' OR coalesce(json_extract(body, '$.review.state'), 'PENDING') IN (SELECT value FROM json_each(?4)))"""


class EventLog:
    """The events of a catalog."""

    def __init__(self, catalog: Catalog, read_count: int = READ_COUNT) -> None:
        self.catalog, self._read_count = catalog, read_count

    # ---- writing, as part of a transaction

    def record(self, edit: sqlite3.Connection, row: int, event: Event) -> Event:
        """Write an event of a video as its next revision; return the event with that revision and its review."""
        (last,) = edit.execute(
            "SELECT max(revision) FROM event_changes WHERE event_id = ?", (event.event_id,)
        ).fetchone()
        revision = 0 if last is None else last + 1
        event = replace(event, revision=revision, review=_review_of(edit, event.event_id))
        edit.execute(
            "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET label ="
            " excluded.label, state = excluded.state, confidence = excluded.confidence, revision = excluded.revision,"
            " body = excluded.body",
            (event.event_id, row, event.collection, event.video_id, event.policy_id, event.label, event.state,
             event.confidence, event.start_seconds, event.revision, encode_event(event)),
        )  # fmt: skip
        edit.execute(
            "INSERT INTO event_changes (event_id, collection, revision, body) VALUES (?, ?, ?, ?)",
            (event.event_id, event.collection, event.revision, encode_event(event)),
        )
        return event

    def withdraw(self, edit: sqlite3.Connection, event_id: str) -> None:
        """Delete an event; a trigger of the schema writes the change."""
        edit.execute("DELETE FROM events WHERE event_id = ?", (event_id,))

    # ---- reviews

    def review(self, event_id: str, review: EventReview, may_change: Callable[[str], None]) -> tuple[Event, bool]:
        """Store a person's judgement of an event; return the event, and whether that changed it.

        It is a change of its own: an event that goes on is UPDATED, one that is over stays CLOSED.

        Args:
            review: The judgement; PENDING takes back the one before.
            may_change: Called with the collection of the event; raises if the caller may not change it.
        Raises:
            EventNotFound: If there is no such event.
        """
        with self.catalog.editing() as edit:
            found = edit.execute("SELECT video_row, body FROM events WHERE event_id = ?", (event_id,)).fetchone()
            if found is None:
                raise EventNotFound(event_id)
            row, event = found[0], decode_event(found[1])
            may_change(event.collection)
            new = None if review.state is ReviewState.PENDING else review
            if event.review == (new and replace(new, review_time=event.review.review_time if event.review else 0.0)):
                return event, False
            edit.execute("DELETE FROM event_reviews WHERE event_id = ?", (event_id,))
            if new is not None:
                edit.execute(
                    "INSERT INTO event_reviews VALUES (?, ?, ?, ?, ?, ?)",
                    (event_id, row, new.state, new.note, new.reviewer, new.review_time),
                )
            is_over = event.state is EventState.CLOSED
            return self.record(edit, row, event if is_over else replace(event, state=EventState.UPDATED)), True

    # ---- current events

    def events_of(self, row: int) -> list[Event]:
        """Return the events of a video, in order of time."""
        rows = self.catalog.select("SELECT body FROM events WHERE video_row = ? ORDER BY start_seconds, event_id", row)
        return [decode_event(body) for (body,) in rows]

    def page(
        self, wanted: EventFilter, after: EventPlace | None, limit: int, check: Callable[[], None] = lambda: None
    ) -> list[Event]:
        """Return the first events behind a place that a filter admits, by collection, video and time.

        Args:
            after: Only events behind this place; None: from the first event on.
            check: Called between reads; an error that it raises ends the search.
        """
        return list(islice(self._search(wanted, after, check), limit))

    def _search(self, wanted: EventFilter, after: EventPlace | None, check: Callable[[], None]) -> Iterator[Event]:
        for prefix in self._prefixes(wanted):
            if after is None or prefix > after[: len(prefix)]:
                yield from self._search_prefix(prefix, FIRST_PLACE, wanted, check)
            elif prefix == after[: len(prefix)]:
                yield from self._search_prefix(prefix, after, wanted, check)

    def _prefixes(self, wanted: EventFilter) -> list[tuple[str, ...]]:
        """Return the first columns of all places that a filter may admit, in order: each is a range of the index."""
        if wanted.video_ids:
            names = self.catalog.select(
                "SELECT DISTINCT collection, video_id FROM videos WHERE state = 'READY'"
                " AND video_id IN (SELECT value FROM json_each(?)) ORDER BY collection, video_id",
                json.dumps(wanted.video_ids),
            )
            return [name for name in names if wanted.collections is None or name[0] in wanted.collections]
        return [()] if wanted.collections is None else [(name,) for name in sorted(set(wanted.collections))]

    def _search_prefix(
        self, prefix: tuple[str, ...], after: EventPlace, wanted: EventFilter, check: Callable[[], None]
    ) -> Iterator[Event]:
        """Yield the events of one range of the index that a filter admits; read some events at a time."""
        rest = PLACE_COLUMNS[len(prefix) :]
        columns, behind = ", ".join(rest), after[len(prefix) :]
        fixed = "".join(f"{name} = ? AND " for name in PLACE_COLUMNS[: len(prefix)])
        sql = (
            f"SELECT {columns}, iif({FILTER_CONDITION}, body, NULL) FROM events"
            f" WHERE {fixed}({columns}) > ({', '.join('?' * len(rest))}) ORDER BY {columns} LIMIT ?"
        )
        conditions = (
            wanted.min_confidence,
            *(json.dumps(names) for names in (wanted.policy_ids, wanted.labels, wanted.review_states)),
        )
        while True:
            check()
            rows = self.catalog.select(sql, *conditions, *prefix, *behind, self._read_count)
            yield from (event for row in rows if row[-1] is not None and wanted.admits(event := decode_event(row[-1])))
            if len(rows) < self._read_count:
                return
            behind = rows[-1][:-1]

    def count(self) -> int:
        ((count,),) = self.catalog.select("SELECT count(*) FROM events")
        return int(count)

    # ---- changes

    def last_sequence(self) -> int:
        """Return the sequence number of the last change; 0: there was no change."""
        ((last,),) = self.catalog.select(
            "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'event_changes'"
        )
        return int(last)

    def changes(self, after: int, limit: int) -> list[EventChange]:
        """Return the first changes behind a sequence number, in order, at most `limit`."""
        rows = self.catalog.select(
            "SELECT sequence, body FROM event_changes WHERE sequence > ? ORDER BY sequence LIMIT ?", after, limit
        )
        return [EventChange(sequence=sequence, event=decode_event(body)) for sequence, body in rows]

    # ---- delivery to sinks

    def delivery_of(self, sink: str) -> tuple[int, Any]:
        """Return the sequence number of the last change delivered to a sink, and the sink's own state.

        0 and None for a new sink.
        """
        rows = self.catalog.select("SELECT sequence, state FROM event_sinks WHERE name = ?", sink)
        return (int(rows[0][0]), json.loads(rows[0][1])) if rows else (0, None)

    def pending_count(self, sink: str) -> int:
        """Return the number of changes not delivered to a sink yet, at most: gaps left by pruned events count, too."""
        ((last,),) = self.catalog.select("SELECT coalesce(max(sequence), 0) FROM event_changes")
        return max(0, int(last) - self.delivery_of(sink)[0])

    def record_delivery(self, sink: str, sequence: int, state: Any) -> None:
        """Store that a sink received all changes up to one, and the sink's own state."""
        with self.catalog.editing() as edit:
            edit.execute("INSERT OR REPLACE INTO event_sinks VALUES (?, ?, ?)", (sink, sequence, json.dumps(state)))


def prune_events(edit: sqlite3.Connection, row: int, before_seconds: float, *, withdraws: bool) -> None:
    """Delete the events of the pruned part of a video.

    An open event stays, as its next revision is counted from its last revision.

    Args:
        before_seconds: Where the video begins now; infinite: all of it is pruned, and all events go.
        withdraws: Whether a last change withdraws each event; else its changes are deleted, too.
    """
    event_ids = edit.execute(
        "SELECT event_id FROM events WHERE (collection, video_id) = (SELECT collection, video_id FROM videos"
        " WHERE row = ?1) AND video_row = ?1 AND start_seconds < ?2"
        " AND (state = 'CLOSED' AND json_extract(body, '$.end_seconds') <= ?2 OR ?2 = ?3)",
        (row, before_seconds, math.inf),
    ).fetchall()
    edit.executemany("DELETE FROM events WHERE event_id = ?", event_ids)
    edit.executemany("DELETE FROM event_reviews WHERE event_id = ?", event_ids)
    if not withdraws:
        edit.executemany("DELETE FROM event_changes WHERE event_id = ?", event_ids)  # the trigger's, too


def event_place(event: Event) -> EventPlace:
    """Return the place of an event in page()."""
    return event.collection, event.video_id, event.start_seconds, event.event_id


def encode_event(event: Event) -> str:
    """Return an event as JSON for the catalog."""
    return json.dumps(asdict(event))


def decode_event(body: str) -> Event:
    """Return an event from the catalog's JSON."""
    values = json.loads(body)
    words = tuple(MatchedWord(**word) for word in values.pop("matched_words"))
    state, parents = EventState(values.pop("state")), tuple(values.pop("parents"))
    review = values.pop("review", None)  # events of earlier versions have none
    if review is not None:
        review = EventReview(**{**review, "state": ReviewState(review["state"])})
    return Event(**values, state=state, parents=parents, matched_words=words, review=review)


def _review_of(edit: sqlite3.Connection, event_id: str) -> EventReview | None:
    found = edit.execute(
        "SELECT state, note, reviewer, review_time FROM event_reviews WHERE event_id = ?", (event_id,)
    ).fetchone()
    if found is None:
        return None
    state, note, reviewer, review_time = found
    return EventReview(state=ReviewState(state), note=note, reviewer=reviewer, review_time=review_time)
