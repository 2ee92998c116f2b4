"""Decodes animated WebP by Pillow: FFmpeg's decoder knows single pictures only."""

import io
from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np
from av.video.frame import VideoFrame
from PIL import ExifTags, Image, TiffImagePlugin  # noqa: F401  reads EXIF data: the child cannot open files later
from PIL.WebPImagePlugin import WebPImageFile

from ingest.config import DecodeConfig
from ingest.errors import DecodeError, LimitExceeded
from ingest.media.container import MediaFile
from ingest.media.orientation import Orientation
from ingest.media.picture import PictureMaker
from ingest.media.sampler import SelectedPicture, Selector
from ingest.media.still.limits import check_pixels, read_whole
from ingest.values import Decoded, DecodeSummary, Frame, MediaInfo

ANIMATION = 0x02  # flag of the header


def is_animated_webp(file: MediaFile) -> bool:
    """Whether a file is an animated WebP."""
    if not file.seekable():
        return False
    file.seek(0)
    head = file.read(30)
    return head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and len(head) == 30 and bool(head[20] & ANIMATION)


def decode_webp(
    file: MediaFile, *, uri: str, config: DecodeConfig, on_progress: Callable[[], None]
) -> Iterator[Decoded]:
    """Yield MediaInfo, a Frame for each sampled picture, and DecodeSummary.

    Raises:
        DecodeError: If no picture decodes.
        LimitExceeded: If the pictures are larger than max_pixels, or the animation is longer than max_duration_seconds.
    """
    animation = _open(file, uri, config)
    turn = Orientation.from_exif(animation.getexif().get(ExifTags.Base.Orientation))
    width, height = animation.size
    yield MediaInfo(
        container="webp",
        duration_seconds=None,
        video_codec="webp",
        audio_codec=None,
        width=height if turn.is_transposed else width,
        height=width if turn.is_transposed else height,
        rotation_degrees=turn.degrees,
        frame_rate_fps=None,
    )
    maker = PictureMaker(config)
    # Each picture is decoded whole, so that all are keyframes.
    selector = Selector("exact" if config.sampling == "exact" else "fast", keeps_first=True)
    frame_count, end, is_damaged = 0, Fraction(0), False

    def to_frame(selected: SelectedPicture) -> Frame:
        return maker.make(selected.frame, Fraction(1), turn).to_frame(0, float(selected.pts))

    for number in range(getattr(animation, "n_frames", 1) if config.decode_video else 0):
        on_progress()
        start = end
        try:
            animation.seek(number)
            frame = VideoFrame.from_ndarray(np.asarray(animation.convert("RGBA")), format="rgba")
        except (EOFError, OSError, ValueError, SyntaxError) as error:
            if number == 0:
                raise DecodeError(uri, "no picture in it decodes") from error
            is_damaged = True
            break
        end = start + Fraction(animation.info["duration"]) / 1000
        if end > config.max_duration_seconds:
            raise LimitExceeded(uri, "max_duration_seconds", f"longer than {config.max_duration_seconds:g} s")
        selected = selector.offer(frame, start, None)
        if selected is not None:
            frame_count += 1
            yield to_frame(selected)
    selected = selector.finish(end)
    if selected is not None:
        frame_count += 1
        yield to_frame(selected)
    yield DecodeSummary(
        duration_seconds=float(end),
        epoch_count=1,
        frame_count=frame_count,
        error_count=int(is_damaged),
        truncated=is_damaged,
        pictures_end_seconds=float(end),
    )


def _open(file: MediaFile, uri: str, config: DecodeConfig) -> WebPImageFile:
    file.seek(0)
    head = file.read(30)
    width, height = (1 + int.from_bytes(head[at : at + 3], "little") for at in (24, 27))
    check_pixels(uri, (width, height), config.max_pixels)  # before Pillow allocates memory for them
    try:
        return WebPImageFile(io.BytesIO(read_whole(file, uri, "an animated WebP")))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DecodeError(uri, "the animated WebP is damaged") from error
