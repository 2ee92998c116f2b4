"""Moderation events in the catalog: what holds, and every change there was, in order.

A change is written in the transaction that notes how far its video is scored, so none is lost, and none is there twice.
Its sequence number is what a reader goes on from: serve.api.moderation for clients, serve.moderation.delivery for
Kafka and the
webhook.
"""

import json
import math
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from itertools import islice
from typing import Any

from serve.catalog.catalog import Catalog
from serve.event import Event, EventChange, EventFilter, EventState
from serve.values import MatchedWord

EventPlace = tuple[str, str, float, str]  # of an event among all: collection, video, start, id


class EventLog:
    """The events of a catalog."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog

    # ---- as part of a transaction

    def record(self, edit: sqlite3.Connection, row: int, event: Event) -> Event:
        """Write the next revision of an event of a video; return it."""
        (last,) = edit.execute(
            "SELECT max(revision) FROM event_changes WHERE event_id = ?", (event.event_id,)
        ).fetchone()
        event = replace(event, revision=0 if last is None else last + 1)
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
        """Take an event back; a trigger writes that down."""
        edit.execute("DELETE FROM events WHERE event_id = ?", (event_id,))

    # ---- what holds

    def events_of(self, row: int) -> list[Event]:
        """Return the events of a video, in order of time."""
        found = self.catalog.select("SELECT body FROM events WHERE video_row = ? ORDER BY start_seconds, event_id", row)
        return [decode_event(body) for (body,) in found]

    def page(
        self, wanted: EventFilter, after: EventPlace | None, limit: int, check: Callable[[], None] = lambda: None
    ) -> list[Event]:
        """Return the events behind a place that are asked for, by collection, video and time; at most so many.

        Args:
            check: Called now and then; what it raises ends the search.
        """
        return list(islice(self._wanted(wanted, after, check), limit))

    def _wanted(self, wanted: EventFilter, after: EventPlace | None, check: Callable[[], None]) -> Iterator[Event]:
        for run in self._runs(wanted):
            if after is None or run > after[: len(run)]:
                yield from self._in_run(run, FIRST_PLACE, wanted, check)
            elif run == after[: len(run)]:
                yield from self._in_run(run, after, wanted, check)

    def _runs(self, wanted: EventFilter) -> list[tuple[str, ...]]:
        """Return how the places of all that may be asked for begin, in order: each is one piece of the index."""
        if wanted.video_ids:
            found = self.catalog.select(
                "SELECT DISTINCT collection, video_id FROM videos WHERE state = 'READY'"
                " AND video_id IN (SELECT value FROM json_each(?)) ORDER BY collection, video_id",
                json.dumps(wanted.video_ids),
            )
            return [run for run in found if wanted.collections is None or run[0] in wanted.collections]
        return [()] if wanted.collections is None else [(name,) for name in sorted(set(wanted.collections))]

    def _in_run(
        self, run: tuple[str, ...], after: EventPlace, wanted: EventFilter, check: Callable[[], None]
    ) -> Iterator[Event]:
        """Yield what is asked for of one run, READ_COUNT looked at at once: others of the catalog wait meanwhile."""
        rest = PLACE_COLUMNS[len(run) :]
        columns, behind = ", ".join(rest), after[len(run) :]
        held = "".join(f"{name} = ? AND " for name in PLACE_COLUMNS[: len(run)])
        sql = (
            f"SELECT {columns}, iif({ADMITTED}, body, NULL) FROM events"
            f" WHERE {held}({columns}) > ({', '.join('?' * len(rest))}) ORDER BY {columns} LIMIT ?"
        )
        conditions = (wanted.min_confidence, *(json.dumps(names) for names in (wanted.policy_ids, wanted.labels)))
        while True:
            check()
            rows = self.catalog.select(sql, *conditions, *run, *behind, READ_COUNT)
            yield from (event for row in rows if row[-1] is not None and wanted.admits(event := decode_event(row[-1])))
            if len(rows) < READ_COUNT:
                return
            behind = rows[-1][:-1]

    def count(self) -> int:
        """Return how many events there are."""
        ((found,),) = self.catalog.select("SELECT count(*) FROM events")
        return int(found)

    # ---- what changed

    def last_sequence(self) -> int:
        """Return the sequence number of the last change; 0: there was none."""
        ((last,),) = self.catalog.select(
            "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'event_changes'"
        )
        return int(last)

    def changes(self, after: int, limit: int) -> list[EventChange]:
        """Return the changes behind a sequence number, in order, at most so many."""
        found = self.catalog.select(
            "SELECT sequence, body FROM event_changes WHERE sequence > ? ORDER BY sequence LIMIT ?", after, limit
        )
        return [EventChange(sequence=sequence, event=decode_event(body)) for sequence, body in found]

    # ---- who was told

    def delivery_of(self, sink: str) -> tuple[int, Any]:
        """Return up to which change a sink was told, and what it keeps; 0 and None for a new one."""
        found = self.catalog.select("SELECT sequence, state FROM event_sinks WHERE name = ?", sink)
        return (int(found[0][0]), json.loads(found[0][1])) if found else (0, None)

    def pending_count(self, sink: str) -> int:
        """Return how many changes a sink is still to be told, at most: gaps, where events were pruned, count too."""
        ((last,),) = self.catalog.select("SELECT coalesce(max(sequence), 0) FROM event_changes")
        return max(0, int(last) - self.delivery_of(sink)[0])

    def record_delivery(self, sink: str, sequence: int, state: Any) -> None:
        """Note that a sink was told everything up to a change."""
        with self.catalog.editing() as edit:
            edit.execute("INSERT OR REPLACE INTO event_sinks VALUES (?, ?, ?)", (sink, sequence, json.dumps(state)))


def prune_events(edit: sqlite3.Connection, row: int, before_seconds: float, *, withdraws: bool) -> None:
    """Let a video's events go with the part of it that they are of.

    An event that may go on stays: its next revision is counted from its last one.

    Args:
        before_seconds: Where the video begins by now; infinite: nothing is left of it, and all of its events go.
        withdraws: Whether they are withdrawn; else what was told of them goes, too, and nobody is told more.
    """
    found = edit.execute(
        "SELECT event_id FROM events WHERE (collection, video_id) = (SELECT collection, video_id FROM videos"
        " WHERE row = ?1) AND video_row = ?1 AND start_seconds < ?2"
        " AND (state = 'CLOSED' AND json_extract(body, '$.end_seconds') <= ?2 OR ?2 = ?3)",
        (row, before_seconds, math.inf),
    ).fetchall()
    edit.executemany("DELETE FROM events WHERE event_id = ?", found)
    if not withdraws:
        edit.executemany("DELETE FROM event_changes WHERE event_id = ?", found)  # with what the trigger wrote


READ_COUNT = 500  # events read at once, of which a filter may leave out many
PLACE_COLUMNS = ("collection", "video_id", "start_seconds", "event_id")  # in this order there is an index
FIRST_PLACE: EventPlace = ("", "", -1.0, "")
# Where a filter names no policy or no label, any will do; a label may be one of the parents.
ADMITTED = """confidence >= ?1
    AND (?2 = '[]' OR policy_id IN (SELECT value FROM json_each(?2)))
    AND (?3 = '[]' OR label IN (SELECT value FROM json_each(?3)) OR EXISTS (
        SELECT 1 FROM json_each(body, '$.parents') WHERE value IN (SELECT value FROM json_each(?3))))"""


def event_place(event: Event) -> EventPlace:
    """Return where an event stands in page()."""
    return event.collection, event.video_id, event.start_seconds, event.event_id


def encode_event(event: Event) -> str:
    """Write an event as the catalog holds it."""
    return json.dumps(asdict(event))


def decode_event(body: str) -> Event:
    """Read an event of the catalog."""
    values = json.loads(body)
    words = tuple(MatchedWord(**word) for word in values.pop("matched_words"))
    state, parents = EventState(values.pop("state")), tuple(values.pop("parents"))
    return Event(**values, state=state, parents=parents, matched_words=words)
