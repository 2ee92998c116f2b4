"""Moderation events and their filters <-> kinodex.v1, for the ModerationService, the client and the event sinks."""

from kinodex.v1 import moderation_service_pb2, stream_pb2
from serve.codec.fields import (
    channel_message,
    channel_value,
    duration_field,
    duration_message,
    matched_word_messages,
    matched_word_values,
    span_message,
    span_value,
    timestamp_field,
    timestamp_message,
)
from serve.codec.violations import Violations
from serve.event import Event, EventFilter, EventState

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
    )


def event_value(message: stream_pb2.Event) -> Event:
    """Read an event.

    Raises:
        ValueError: For a state or a channel that only a newer program knows.
    """
    start, end = span_value(message.span)
    return Event(
        event_id=message.event_id,
        state=EventState(stream_pb2.Event.State.Name(message.state).removeprefix("STATE_")),
        channel="speech" if channel_value(message.channel) == "speech" else "visual",
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
    )


def event_filter(violations: Violations, message: moderation_service_pb2.EventFilter) -> EventFilter:
    """Read a filter of events; add what is wrong with it to `violations`."""
    violations.check_share("filter.min_confidence", message.min_confidence)
    names = {
        name: violations.read_names(f"filter.{name}", list(getattr(message, name)), MAX_NAME_COUNT, MAX_NAME_CHARS)
        for name in ("collections", "video_ids", "policy_ids", "labels")
    }
    return EventFilter(
        collections=names["collections"] or None,
        video_ids=names["video_ids"],
        policy_ids=names["policy_ids"],
        labels=names["labels"],
        min_confidence=message.min_confidence,
    )


def event_filter_message(wanted: EventFilter) -> moderation_service_pb2.EventFilter:
    return moderation_service_pb2.EventFilter(
        collections=wanted.collections or (),
        video_ids=wanted.video_ids,
        policy_ids=wanted.policy_ids,
        labels=wanted.labels,
        min_confidence=wanted.min_confidence,
    )
