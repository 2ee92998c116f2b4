"""Says what is known of an input before it is decoded to the end: its container, codecs and size."""

from fractions import Fraction

from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ingest.media.container import read_duration
from ingest.media.orientation import Orientation
from ingest.media.picture import display_size
from ingest.values import MediaInfo


def read_info(
    container: InputContainer, video: VideoStream | None, audio: AudioStream | None, frame: VideoFrame | None
) -> MediaInfo:
    """Return what the container, its chosen tracks and the first decoded picture say."""
    width = height = None
    turn = Orientation.from_frame(frame) if frame is not None else Orientation()
    if video is not None:
        coded = (frame.width, frame.height) if frame is not None else (video.width, video.height)
        width, height = display_size(*coded, read_pixel_aspect(video))
        if turn.is_transposed:
            width, height = height, width
    rate = video.average_rate if video is not None else None
    return MediaInfo(
        container=container.format.name,
        duration_seconds=read_duration(container),
        video_codec=video.codec_context.codec.canonical_name if video is not None else None,
        audio_codec=audio.codec_context.codec.canonical_name if audio is not None else None,
        width=width,
        height=height,
        rotation_degrees=turn.degrees,
        frame_rate_fps=float(rate) if rate else None,
        audio_language=audio.language if audio is not None else None,
    )


def read_pixel_aspect(stream: VideoStream) -> Fraction:
    """Return the width of a stored pixel by its height."""
    return stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or Fraction(1)
