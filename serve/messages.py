"""What the API answers: serve.values -> kinodex.v1 messages for the service, and back for the client.

Each `x_message` has its `x_value`. A round trip loses nothing but what the protos do not carry: times are rounded to
the nanosecond, and an utterance's own probabilities and epoch stay behind.
"""

import math
import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import get_args

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from encoders.values import Utterance, Word
from kinodex.v1 import library_service_pb2, moment_pb2, search_service_pb2
from serve.values import (
    Answer,
    Channel,
    MatchedWord,
    Moment,
    Verdict,
    Video,
    VideoAnswer,
    VideoState,
    VideoStatus,
)

NANOSECONDS = 10**9  # of a second
# What `sendable` makes of a surrogate, which is what Python makes of a file name's byte that is no UTF-8.
ESCAPED_SURROGATE = re.compile(r"\\u(d[89a-f][0-9a-f]{2})")


# ------------------------------------------------------------------ text and times
def sendable(text: str) -> str:
    r"""Write what no message can carry, the bytes of a file name that is no UTF-8, as escapes such as \udcff."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def as_named(uri: str) -> str:
    r"""Undo `sendable`, so that the file's name is its own bytes again. A name that holds a real \udcff is misread."""
    return ESCAPED_SURROGATE.sub(lambda found: chr(int(found[1], 16)), uri)


def nanoseconds(seconds: float) -> int:
    """Round to whole nanoseconds, exactly: by way of a float product, two roundings could disagree by one."""
    return round(Fraction(float(seconds)) * NANOSECONDS)


def duration_message(seconds: float) -> Duration:
    message = Duration()
    message.FromNanoseconds(nanoseconds(seconds))
    return message


def duration_value(message: Duration) -> float:
    return (message.seconds * NANOSECONDS + message.nanos) / NANOSECONDS


def timestamp_message(seconds: float | None) -> Timestamp | None:
    """Write seconds since 1970; None stays unset."""
    if seconds is None:
        return None
    message = Timestamp()
    message.FromNanoseconds(nanoseconds(seconds))
    return message


def timestamp_value(message: Timestamp) -> float:
    return (message.seconds * NANOSECONDS + message.nanos) / NANOSECONDS


def span_message(start_seconds: float, end_seconds: float) -> moment_pb2.TimeSpan:
    return moment_pb2.TimeSpan(start_offset=duration_message(start_seconds), end_offset=duration_message(end_seconds))


def metadata_message(metadata: Mapping[str, str]) -> dict[str, str]:
    return {sendable(key): sendable(value) for key, value in metadata.items()}


# ------------------------------------------------------------------ enums: ours are the protos', without the prefix
def channel_message(channel: str) -> moment_pb2.Channel.ValueType:
    return moment_pb2.Channel.Value(f"CHANNEL_{channel.upper()}")


def channel_value(message: moment_pb2.Channel.ValueType) -> Channel:
    """Read a channel; unset is all.

    Raises:
        ValueError: For a number that names none.
    """
    name = moment_pb2.Channel.Name(message).removeprefix("CHANNEL_").lower()
    return next((channel for channel in get_args(Channel) if channel == name), "all")


def _verdict_message(verdict: Verdict) -> moment_pb2.Verdict.ValueType:
    return moment_pb2.Verdict.Value(f"VERDICT_{verdict}")


def _verdict_value(message: moment_pb2.Verdict.ValueType) -> Verdict:
    return Verdict(moment_pb2.Verdict.Name(message).removeprefix("VERDICT_"))


# ------------------------------------------------------------------ answers
def moment_message(moment: Moment) -> moment_pb2.Moment:
    best = moment.best_frame_seconds
    return moment_pb2.Moment(
        video_id=sendable(moment.video_id),
        uri=sendable(moment.uri),
        collection=sendable(moment.collection),
        span=span_message(moment.start_seconds, moment.end_seconds),
        start_time=timestamp_message(moment.recorded_time),
        score=moment.score,
        confidence=moment.confidence,
        verdict=_verdict_message(moment.verdict),
        visual_score=moment.visual_score,
        speech_score=moment.speech_score,
        transcript=sendable(moment.transcript),
        matched_words=[
            moment_pb2.MatchedWord(text=sendable(word.text), span=span_message(word.start_seconds, word.end_seconds))
            for word in moment.matched_words
        ],
        best_frame_offset=None if best is None else duration_message(best),
        final=moment.final,
    )


def moment_value(message: moment_pb2.Moment) -> Moment:
    """Read a moment.

    Raises:
        ValueError: For a verdict that only a newer program knows.
    """
    return Moment(
        video_id=message.video_id,
        uri=as_named(message.uri),
        collection=message.collection,
        start_seconds=duration_value(message.span.start_offset),
        end_seconds=duration_value(message.span.end_offset),
        recorded_time=timestamp_value(message.start_time) if message.HasField("start_time") else None,
        score=message.score,
        confidence=message.confidence,
        verdict=_verdict_value(message.verdict),
        visual_score=message.visual_score if message.HasField("visual_score") else None,
        speech_score=message.speech_score if message.HasField("speech_score") else None,
        transcript=message.transcript,
        matched_words=tuple(
            MatchedWord(
                text=word.text,
                start_seconds=duration_value(word.span.start_offset),
                end_seconds=duration_value(word.span.end_offset),
            )
            for word in message.matched_words
        ),
        best_frame_seconds=(
            duration_value(message.best_frame_offset) if message.HasField("best_frame_offset") else None
        ),
        final=message.final,
    )


def _match_message(video: VideoAnswer) -> search_service_pb2.VideoMatch:
    return search_service_pb2.VideoMatch(
        video_id=sendable(video.video_id),
        uri=sendable(video.uri),
        collection=sendable(video.collection),
        score=video.score,
        confidence=video.confidence,
        verdict=_verdict_message(video.verdict),
        moments=map(moment_message, video.moments),
    )


def _match_value(message: search_service_pb2.VideoMatch) -> VideoAnswer:
    return VideoAnswer(
        video_id=message.video_id,
        uri=as_named(message.uri),
        collection=message.collection,
        score=message.score,
        confidence=message.confidence,
        verdict=_verdict_value(message.verdict),
        moments=tuple(map(moment_value, message.moments)),
    )


def search_response(answer: Answer, next_page_token: str = "") -> search_service_pb2.SearchVideosResponse:
    """Write one page of a search."""
    return search_service_pb2.SearchVideosResponse(
        videos=map(_match_message, answer.videos),
        next_page_token=next_page_token,
        degraded_channels=map(channel_message, answer.degraded_channels),
    )


def search_answer(message: search_service_pb2.SearchVideosResponse) -> Answer:
    """Read one page of a search. Raises ValueError as moment_value does."""
    return Answer(
        videos=tuple(map(_match_value, message.videos)), degraded_channels=_degraded(message.degraded_channels)
    )


def moments_response(answer: Answer, next_page_token: str = "") -> search_service_pb2.SearchMomentsResponse:
    """Write one page of moments."""
    return search_service_pb2.SearchMomentsResponse(
        moments=map(moment_message, answer.moments),
        next_page_token=next_page_token,
        degraded_channels=map(channel_message, answer.degraded_channels),
    )


def moments_answer(message: search_service_pb2.SearchMomentsResponse) -> Answer:
    """Read one page of moments. Raises ValueError as moment_value does."""
    return Answer(
        moments=tuple(map(moment_value, message.moments)), degraded_channels=_degraded(message.degraded_channels)
    )


def _degraded(channels: Iterable[moment_pb2.Channel.ValueType]) -> tuple[str, ...]:
    return tuple(map(channel_value, channels))


# ------------------------------------------------------------------ videos
def ready_status(video: Video) -> VideoStatus:
    """Tell of a video that is indexed."""
    return VideoStatus(
        video_id=video.video_id,
        collection=video.collection,
        uri=video.uri,
        state=VideoState.READY,
        progress=1.0,
        metadata=video.metadata,
        duration_seconds=video.duration_seconds,
        frame_count=video.frame_count,
        utterance_count=video.utterance_count,
        indexed_time=video.indexed_time,
        recorded_time=video.recorded_time,
        warnings=video.warnings,
        content_sha256=video.content_sha256,
    )


def video_message(video: VideoStatus) -> library_service_pb2.Video:
    failure = None
    if video.failure_reason or video.failure_message:
        failure = library_service_pb2.Failure(reason=video.failure_reason, message=sendable(video.failure_message))
    return library_service_pb2.Video(
        video_id=sendable(video.video_id),
        collection=sendable(video.collection),
        uri=sendable(video.uri),
        metadata=metadata_message(video.metadata),
        state=library_service_pb2.Video.State.Value(f"STATE_{video.state}"),
        progress=video.progress,
        failure=failure,
        duration=None if video.duration_seconds is None else duration_message(video.duration_seconds),
        frame_count=video.frame_count,
        utterance_count=video.utterance_count,
        index_time=timestamp_message(video.indexed_time),
        start_time=timestamp_message(video.recorded_time),
        warnings=map(sendable, video.warnings),
        content_sha256=video.content_sha256,
    )


def video_value(message: library_service_pb2.Video) -> VideoStatus:
    """Read a video.

    Raises:
        ValueError: For a state that only a newer program knows.
    """
    return VideoStatus(
        video_id=message.video_id,
        collection=message.collection,
        uri=as_named(message.uri),
        state=VideoState(library_service_pb2.Video.State.Name(message.state).removeprefix("STATE_")),
        progress=message.progress,
        failure_reason=message.failure.reason,
        failure_message=message.failure.message,
        metadata=dict(message.metadata),
        duration_seconds=duration_value(message.duration) if message.HasField("duration") else None,
        frame_count=message.frame_count,
        utterance_count=message.utterance_count,
        indexed_time=timestamp_value(message.index_time) if message.HasField("index_time") else None,
        recorded_time=timestamp_value(message.start_time) if message.HasField("start_time") else None,
        warnings=tuple(message.warnings),
        content_sha256=message.content_sha256,
    )


def utterance_message(utterance: Utterance) -> library_service_pb2.Utterance:
    return library_service_pb2.Utterance(
        text=sendable(utterance.text),
        span=span_message(utterance.start_seconds, utterance.end_seconds),
        language=utterance.language,
        words=[
            library_service_pb2.Word(
                text=sendable(word.text),
                span=span_message(word.start_seconds, word.end_seconds),
                probability=word.probability,
            )
            for word in utterance.words
        ],
    )


def utterance_value(message: library_service_pb2.Utterance) -> Utterance:
    """Read an utterance: of epoch 0, its log-probability and probability of no speech NaN, as they are not sent."""
    return Utterance(
        epoch=0,
        start_seconds=duration_value(message.span.start_offset),
        end_seconds=duration_value(message.span.end_offset),
        text=message.text,
        words=tuple(
            Word(
                text=word.text,
                start_seconds=duration_value(word.span.start_offset),
                end_seconds=duration_value(word.span.end_offset),
                probability=word.probability,
            )
            for word in message.words
        ),
        language=message.language,
        avg_logprob=math.nan,
        no_speech_prob=math.nan,
    )
