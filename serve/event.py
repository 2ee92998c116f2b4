"""A moderation event, and which are asked for."""

import hashlib
import json
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

from serve.values import MatchedWord


class EventState(StrEnum):
    """What became of an event."""

    OPENED = "OPENED"
    UPDATED = "UPDATED"
    CLOSED = "CLOSED"
    WITHDRAWN = "WITHDRAWN"  # its video was deleted, or other policies do not find it


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something a policy looks or listens for, as it is known in one revision."""

    event_id: str
    state: EventState
    channel: Literal["visual", "speech"]  # how it was noticed
    label: str
    parents: tuple[str, ...]  # what the label is a kind of, the broadest first
    confidence: float  # 0..1, the highest so far
    collection: str
    video_id: str
    epoch: int
    start_seconds: float
    end_seconds: float  # so far, until it is closed
    policy_id: str
    policy_version: str
    fingerprint: str  # of the encoders
    action: str
    recorded_time: float | None = None  # when it began by the wall clock, seconds since 1970; None: not known
    best_frame_seconds: float | None = None  # the picture that shows it best; None: it was heard
    matched_words: tuple[MatchedWord, ...] = ()  # what gave it away, if it was heard
    revision: int = 0

    def is_same(self, other: "Event") -> bool:
        """Whether another revision says the same; the clock of a live video is told better and better."""
        return self == replace(other, revision=self.revision, recorded_time=self.recorded_time)


def event_id(policy_id: str, collection: str, video_id: str, epoch: int, channel: str, start_seconds: float) -> str:
    """Return the id of an event: the same for the same, whoever finds it and however often."""
    content = json.dumps([policy_id, collection, video_id, epoch, channel, round(1000 * start_seconds)])
    return hashlib.sha256(content.encode()).hexdigest()[:24]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Which events are asked for: those that meet every condition."""

    collections: tuple[str, ...] | None = None  # None: every one
    video_ids: tuple[str, ...] = ()  # none: every one, as in the next ones
    policy_ids: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()  # theirs, or one of their parents
    min_confidence: float = 0.0

    def admits(self, event: Event) -> bool:
        """Whether an event is asked for."""
        return (
            (self.collections is None or event.collection in self.collections)
            and (not self.video_ids or event.video_id in self.video_ids)
            and (not self.policy_ids or event.policy_id in self.policy_ids)
            and (not self.labels or not {event.label, *event.parents}.isdisjoint(self.labels))
            and event.confidence >= self.min_confidence
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EventChange:
    """A revision of an event, and its place among all changes."""

    sequence: int
    event: Event
