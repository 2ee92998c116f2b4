"""Values over the time of one video: storyboards and curves. Times are media time in seconds, spans half-open."""

from dataclasses import dataclass

from serve.values import Moment
from temporal.values import TimeSpan


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoStoryboard:
    """The times of pictures that show a part of a video."""

    span: TimeSpan  # the part
    picture_seconds: tuple[float, ...]  # ascending; the first may be earlier than the part
    shot_seconds: tuple[float, ...] = ()  # where shots begin inside the part, ascending; none for a live stream


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredPart:
    """A part of a video whose words were compared with a question."""

    span: TimeSpan
    score: float  # -1..1: the cosine with the question; higher is closer
    text: str  # the words; untrusted


@dataclass(frozen=True, slots=True, kw_only=True)
class SimilarityCurve:
    """How close one video is to a question along its time, by channel, with the moments found."""

    span: TimeSpan  # the part that is shown
    visual_points: tuple[tuple[float, float], ...] = ()  # (seconds, score) of pictures, ascending; as Moment's scores
    speech_parts: tuple[ScoredPart, ...] = ()  # in order of time
    text_parts: tuple[ScoredPart, ...] = ()  # in order of time
    shot_seconds: tuple[float, ...] = ()  # where shots begin inside the part, ascending
    moments: tuple[Moment, ...] = ()  # best first
    degraded_channels: tuple[str, ...] = ()  # as in Answer, and the next
    is_live_behind: bool = False
