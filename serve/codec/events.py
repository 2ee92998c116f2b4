"""Moderation events and policies <-> protobuf."""

from kinodex.v1 import moderation_service_pb2, moment_pb2, stream_pb2
from serve.codec.fields import (
    channel_message,
    channel_value,
    duration_message,
    duration_value,
    sendable,
    span_message,
    timestamp_message,
    timestamp_value,
)
from serve.codec.violations import Violations
from serve.event import Event, EventFilter, EventState
from serve.values import MatchedWord

MAX_NAMES = 100
MAX_NAME_CHARS = 512


def event_message(event: Event) -> stream_pb2.Event:
    """Write an event."""
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
        matched_words=[
            moment_pb2.MatchedWord(text=sendable(word.text), span=span_message(word.start_seconds, word.end_seconds))
            for word in event.matched_words
        ],
        policy_id=event.policy_id,
        policy_version=event.policy_version,
        fingerprint=event.fingerprint,
        revision=event.revision,
        action_hint=event.action,
        channel=channel_message(event.channel),
    )


def event_value(message: stream_pb2.Event) -> Event:
    """Read an event."""
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
        start_seconds=duration_value(message.span.start_offset),
        end_seconds=duration_value(message.span.end_offset),
        policy_id=message.policy_id,
        policy_version=message.policy_version,
        fingerprint=message.fingerprint,
        action=message.action_hint,
        recorded_time=timestamp_value(message.start_time) if message.HasField("start_time") else None,
        best_frame_seconds=(
            duration_value(message.best_frame_offset) if message.HasField("best_frame_offset") else None
        ),
        matched_words=tuple(
            MatchedWord(
                text=word.text,
                start_seconds=duration_value(word.span.start_offset),
                end_seconds=duration_value(word.span.end_offset),
            )
            for word in message.matched_words
        ),
        revision=message.revision,
    )


def event_filter(wrong: Violations, message: moderation_service_pb2.EventFilter) -> EventFilter:
    """Read which events are asked for; what is wrong with it is noted."""
    wrong.share("filter.min_confidence", message.min_confidence)
    names = {
        name: wrong.names(f"filter.{name}", list(getattr(message, name)), MAX_NAMES, MAX_NAME_CHARS)
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
    """Write which events are asked for."""
    return moderation_service_pb2.EventFilter(
        collections=wanted.collections or (),
        video_ids=wanted.video_ids,
        policy_ids=wanted.policy_ids,
        labels=wanted.labels,
        min_confidence=wanted.min_confidence,
    )
