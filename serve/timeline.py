"""Values over the time of one video: its storyboard. Times are media time in seconds, spans half-open."""

from dataclasses import dataclass

from temporal.values import TimeSpan


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoStoryboard:
    """The times of pictures that show a part of a video."""

    span: TimeSpan  # the part
    picture_seconds: tuple[float, ...]  # ascending; the first may be earlier than the part
    shot_seconds: tuple[float, ...] = ()  # where shots begin inside the part, ascending; none for a live stream
