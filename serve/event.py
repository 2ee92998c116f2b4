"""Moderation events, their changes, and filters for them."""

import hashlib
import json
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

from serve.values import MatchedWord


class EventState(StrEnum):
    """State of an event after its last change."""

    OPENED = "OPENED"
    UPDATED = "UPDATED"
    CLOSED = "CLOSED"
    WITHDRAWN = "WITHDRAWN"  # its video was deleted, or the present policies do not find it


class ReviewState(StrEnum):
    """What a person judges of an event."""

    PENDING = "PENDING"  # nothing yet; never stored
    APPROVED = "APPROVED"  # it is what its policy looks for
    DISMISSED = "DISMISSED"  # it is not, or it needs nothing done


@dataclass(frozen=True, slots=True, kw_only=True)
class EventReview:
    """A person's judgement of an event."""

    state: ReviewState
    note: str = ""
    reviewer: str = ""  # the name of a token or a certificate; empty: not known
    review_time: float = 0.0  # seconds since 1970


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One revision of an event: a span of a video that a policy flags."""

    event_id: str
    state: EventState
    channel: Literal["visual", "speech", "text"]  # what showed it: pictures, words that are said, or text in pictures
    label: str
    parents: tuple[str, ...]  # broader labels, the broadest first
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
    recorded_time: float | None = None  # time of day at its start, seconds since 1970; None: not known
    best_frame_seconds: float | None = None  # the frame that shows it best; None: of the other channels
    matched_words: tuple[MatchedWord, ...] = ()  # words that the policy matched, said or written
    revision: int = 0
    review: EventReview | None = None  # None: nobody has judged it

    def is_same(self, other: "Event") -> bool:
        """Whether the policies say the same in another revision, apart from the recorded time, which live videos keep
        refining."""
        return self == replace(other, revision=self.revision, recorded_time=self.recorded_time, review=self.review)


def review_state(event: Event) -> ReviewState:
    """Return what was judged of an event."""
    return ReviewState.PENDING if event.review is None else event.review.state


def event_id(policy_id: str, collection: str, video_id: str, epoch: int, channel: str, start_seconds: float) -> str:
    """Return the id of an event: every server and every run finds the same id for the same event."""
    content = json.dumps([policy_id, collection, video_id, epoch, channel, round(1000 * start_seconds)])
    return hashlib.sha256(content.encode()).hexdigest()[:24]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Which events a caller asks for: those that meet every condition."""

    collections: tuple[str, ...] | None = None  # None: every collection
    video_ids: tuple[str, ...] = ()  # empty: every video; as in the next two fields
    policy_ids: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()  # an event's label or one of its parents
    min_confidence: float = 0.0
    review_states: tuple[ReviewState, ...] = ()  # empty: any

    def admits(self, event: Event) -> bool:
        """Whether an event meets every condition."""
        return (
            (self.collections is None or event.collection in self.collections)
            and (not self.video_ids or event.video_id in self.video_ids)
            and (not self.policy_ids or event.policy_id in self.policy_ids)
            and (not self.labels or not {event.label, *event.parents}.isdisjoint(self.labels))
            and event.confidence >= self.min_confidence
            and (not self.review_states or review_state(event) in self.review_states)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EventChange:
    """A revision of an event, and its sequence number among all changes."""

    sequence: int
    event: Event
