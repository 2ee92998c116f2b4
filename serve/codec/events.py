"""Moderation events and their filters <-> kinodex.v1, for the ModerationService, the client and the event sinks."""

from typing import Literal

from kinodex.v1 import moderation_service_pb2, moment_pb2, stream_pb2
from serve.codec.fields import (
    channel_message,
    channel_value,
    duration_field,
    duration_message,
    escape_surrogates,
    matched_word_messages,
    matched_word_values,
    span_message,
    span_value,
    timestamp_field,
    timestamp_message,
    timestamp_value,
)
from serve.codec.violations import Violations
from serve.event import Event, EventFilter, EventReview, EventState, ReviewState

MAX_NOTE_CHARS = 1_000  # of a review
MAX_NAME_COUNT = 100  # in each list of a filter
MAX_NAME_CHARS = 512


def event_message(event: Event) -> stream_pb2.Event:
    return stream_pb2.Event(
        event_id=event.event_id,
        state=stream_pb2.Event.State.Value(f"STATE_{event.state}"),
        label=event.label,
        parent_labels=event.parents,
        confidence=event.confidence,
        collection=event.collection,
        video_id=event.video_id,
        epoch=event.epoch,
        span=span_message(event.start_seconds, event.end_seconds),
        start_time=timestamp_message(event.recorded_time),
        best_frame_offset=None if event.best_frame_seconds is None else duration_message(event.best_frame_seconds),
        matched_words=matched_word_messages(event.matched_words),
        policy_id=event.policy_id,
        policy_version=event.policy_version,
        fingerprint=event.fingerprint,
        revision=event.revision,
        action_hint=event.action,
        channel=channel_message(event.channel),
        review=None if event.review is None else _review_message(event.review),
    )


def _review_message(review: EventReview) -> stream_pb2.EventReview:
    return stream_pb2.EventReview(
        state=review_state_message(review.state),
        note=escape_surrogates(review.note),
        reviewer=escape_surrogates(review.reviewer),
        review_time=timestamp_message(review.review_time),
    )


def review_state_message(state: ReviewState) -> stream_pb2.EventReview.State.ValueType:
    return stream_pb2.EventReview.State.Value(f"STATE_{state}")


def event_value(message: stream_pb2.Event) -> Event:
    """Read an event.

    Raises:
        ValueError: For a state or a channel that only a newer program knows.
    """
    start, end = span_value(message.span)
    return Event(
        event_id=message.event_id,
        state=EventState(stream_pb2.Event.State.Name(message.state).removeprefix("STATE_")),
        channel=_channel_value(message.channel),
        label=message.label,
        parents=tuple(message.parent_labels),
        confidence=message.confidence,
        collection=message.collection,
        video_id=message.video_id,
        epoch=message.epoch,
        start_seconds=start,
        end_seconds=end,
        policy_id=message.policy_id,
        policy_version=message.policy_version,
        fingerprint=message.fingerprint,
        action=message.action_hint,
        recorded_time=timestamp_field(message, "start_time"),
        best_frame_seconds=duration_field(message, "best_frame_offset"),
        matched_words=matched_word_values(message.matched_words),
        revision=message.revision,
        review=_review_value(message.review) if message.HasField("review") else None,
    )


def _review_value(message: stream_pb2.EventReview) -> EventReview:
    return EventReview(
        state=ReviewState(stream_pb2.EventReview.State.Name(message.state).removeprefix("STATE_")),
        note=message.note,
        reviewer=message.reviewer,
        review_time=timestamp_value(message.review_time),
    )


def review_request(message: moderation_service_pb2.ReviewEventRequest) -> tuple[str, ReviewState, str]:
    """Read which event is judged, the judgement, and the note.

    Raises:
        RequestInvalid: With all mistakes of the request.
    """
    violations = Violations()
    violations.require_text("event_id", message.event_id, MAX_NAME_CHARS)
    violations.check_length("note", message.note, MAX_NOTE_CHARS)
    state = _read_review_state(violations, "state", message.state)
    if state is ReviewState.PENDING and message.note:
        violations.add("note", "must be empty with STATE_PENDING, which takes a judgement back")
    violations.check()
    return message.event_id, state, message.note


def write_review_request(event_id: str, state: ReviewState, note: str) -> moderation_service_pb2.ReviewEventRequest:
    return moderation_service_pb2.ReviewEventRequest(
        event_id=escape_surrogates(event_id), state=review_state_message(state), note=escape_surrogates(note)
    )


def _read_review_state(
    violations: Violations, path: str, message: stream_pb2.EventReview.State.ValueType
) -> ReviewState:
    """Read a judgement; PENDING after a mistake."""
    state = next((each for each in ReviewState if review_state_message(each) == message), None)
    if state is None:
        violations.add(path, f"must be STATE_PENDING, STATE_APPROVED or STATE_DISMISSED, got {message}")
    return state or ReviewState.PENDING


def event_filter(violations: Violations, message: moderation_service_pb2.EventFilter) -> EventFilter:
    """Read a filter of events; add what is wrong with it to `violations`."""
    violations.check_share("filter.min_confidence", message.min_confidence)
    names = {
        name: violations.read_names(f"filter.{name}", list(getattr(message, name)), MAX_NAME_COUNT, MAX_NAME_CHARS)
        for name in ("collections", "video_ids", "policy_ids", "labels")
    }
    states = tuple(
        _read_review_state(violations, f"filter.review_states[{index}]", state)
        for index, state in enumerate(message.review_states[:MAX_NAME_COUNT])
    )
    return EventFilter(
        collections=names["collections"] or None,
        video_ids=names["video_ids"],
        policy_ids=names["policy_ids"],
        labels=names["labels"],
        min_confidence=message.min_confidence,
        review_states=states,
    )


def event_filter_message(wanted: EventFilter) -> moderation_service_pb2.EventFilter:
    return moderation_service_pb2.EventFilter(
        collections=wanted.collections or (),
        video_ids=wanted.video_ids,
        policy_ids=wanted.policy_ids,
        labels=wanted.labels,
        min_confidence=wanted.min_confidence,
        review_states=map(review_state_message, wanted.review_states),
    )


def _channel_value(message: moment_pb2.Channel.ValueType) -> Literal["visual", "speech", "text"]:
    channel = channel_value(message)
    return "visual" if channel == "all" else channel  # of a sender that knows no channels
