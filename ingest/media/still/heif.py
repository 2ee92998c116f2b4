"""Decodes HEIF still pictures: HEIC by libheif, AVIF by Pillow. FFmpeg shows one of their tiles as the picture."""

import io
from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from itertools import islice, takewhile
from typing import Any, Literal

import av
import numpy as np
import pi_heif
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from PIL import AvifImagePlugin, ExifTags

from ingest.config import DecodeConfig
from ingest.errors import DecodeError, IngestError
from ingest.media.container import MediaFile, open_container, read_boxes
from ingest.media.orientation import Orientation
from ingest.media.picture import PictureMaker
from ingest.media.profile import ColourProfile
from ingest.media.still.kinds import BRANDS, HEAD_BYTES, read_brands
from ingest.media.still.limits import check_pixels, read_whole
from ingest.values import Decoded, DecodeSummary, MediaInfo

SHOWN_SECONDS = 1.0  # FFmpeg's frame rate of HEIF pictures is one a second
FORMATS = {(1, 3): "rgb24", (1, 4): "rgba", (2, 3): "rgb48le", (2, 4): "rgba64le"}  # bytes a sample, and channels
REMEDY = "convert it to JPEG"

HeifCodec = Literal["hevc", "av1"]

# One thread, and only the picture itself: neither its thumbnails nor its depth map.
pi_heif.options.DECODE_THREADS = AvifImagePlugin.DEFAULT_MAX_THREADS = 1
pi_heif.options.THUMBNAILS = pi_heif.options.DEPTH_IMAGES = pi_heif.options.AUX_IMAGES = False


def find_heif_codec(file: MediaFile) -> HeifCodec | None:
    """Return the codec of a HEIF still picture; None for other files, and for sequences, which FFmpeg reads."""
    if not file.seekable():
        return None
    file.seek(0)
    head = file.read(HEAD_BYTES)
    found = read_brands(head) if head[4:8] == b"ftyp" else set()
    # Behind a second "ftyp" lies the film of a motion photo.
    boxes = takewhile(lambda kind: kind != b"ftyp", islice(read_boxes(file), 1, None))
    if found.isdisjoint(BRANDS) or b"moov" in boxes:
        return None
    return "av1" if b"avif" in found else "hevc"


def decode_heif(
    file: MediaFile, codec: HeifCodec, *, uri: str, config: DecodeConfig, on_progress: Callable[[], None]
) -> Iterator[Decoded]:
    """Yield MediaInfo, one Frame at 0 s, and DecodeSummary.

    EXIF data is not heeded, as HEIF demands: the file's own transformations say how the picture is shown.

    Raises:
        DecodeError: If the picture is damaged, or of a kind that the library does not decode.
        LimitExceeded: If it is larger than max_still_pixels.
    """
    data = read_whole(file, uri, "a HEIF picture")
    on_progress()
    try:
        frame, turn, profile = (_decode_heic if codec == "hevc" else _decode_avif)(data, uri, config)
    except ImportError as error:
        raise DecodeError(uri, "this installation has no libheif", "install pi-heif's wheel") from error
    except (ValueError, EOFError, SyntaxError, RuntimeError, OSError) as error:
        reason = str(error).strip()
        if reason.startswith("Memory allocation error: Unspecified"):  # by libheif
            raise MemoryError(reason) from error
        if not AvifImagePlugin.SUPPORTED and codec == "av1":
            raise DecodeError(uri, "this installation's Pillow has no AVIF", "install Pillow's wheel") from error
        raise DecodeError(uri, f"the HEIF picture does not decode: {reason}", REMEDY) from error
    on_progress()
    width, height = (frame.height, frame.width) if turn.is_transposed else (frame.width, frame.height)
    yield MediaInfo(
        container="heif",
        duration_seconds=None,
        video_codec=codec,
        audio_codec=None,
        width=width,
        height=height,
        rotation_degrees=turn.degrees,
        frame_rate_fps=None,
    )
    if config.decode_video:
        yield PictureMaker(config, ColourProfile.read(profile)).make(frame, Fraction(1), turn).to_frame(0, 0.0)
    yield DecodeSummary(
        duration_seconds=SHOWN_SECONDS,
        epoch_count=1,
        frame_count=int(config.decode_video),
        error_count=0,
        truncated=False,
        pictures_end_seconds=SHOWN_SECONDS if config.decode_video else 0.0,
    )


def _decode_heic(data: bytes, uri: str, config: DecodeConfig) -> tuple[VideoFrame, Orientation, bytes | None]:
    """Return the primary picture, which libheif has turned and cropped, and its ICC profile."""
    picture = next((one for one in pi_heif.open_heif(data, convert_hdr_to_8bit=False) if one.info["primary"]), None)
    if picture is None:
        raise DecodeError(uri, "a HEIF picture of a kind that libheif does not decode", REMEDY)
    check_pixels(uri, picture.size, config.max_still_pixels)
    pixels = np.array(picture)  # a copy: libheif's own memory ends with the picture
    check_pixels(uri, picture.size, config.max_still_pixels)  # of a file that claimed another size
    if picture.premultiplied_alpha:  # transparent parts lie on black as they are
        pixels = pixels[..., :-1]
    frame = _to_frame(pixels)
    colours = picture.info.get("nclx_profile")
    if colours is not None:
        frame.color_primaries, frame.color_trc = colours["color_primaries"], colours["transfer_characteristics"]
    return frame, Orientation(), picture.info.get("icc_profile")


def _decode_avif(data: bytes, uri: str, config: DecodeConfig) -> tuple[VideoFrame, Orientation, bytes | None]:
    """Return the primary picture, how to turn it, and its ICC profile."""
    picture = AvifImagePlugin.AvifImageFile(io.BytesIO(data))
    check_pixels(uri, picture.size, config.max_still_pixels)
    # Pillow puts the file's own transformations into the EXIF data.
    turn = Orientation.from_exif(picture.getexif().get(ExifTags.Base.Orientation))
    frame = _to_frame(np.asarray(picture))
    # Pillow does not tell the colours of high dynamic range.
    with (
        suppress(av.error.FFmpegError, IngestError),
        open_container(MediaFile(io.BytesIO(data), lambda: None), uri, config) as container,
    ):
        context = container.streams.video[0].codec_context
        frame.color_primaries, frame.color_trc = context.color_primaries, context.color_trc
    return frame, turn, picture.info.get("icc_profile")


def _to_frame(pixels: NDArray[Any]) -> VideoFrame:
    """Return (H, W) or (H, W, C) pixels, grey or RGB with or without alpha, as a frame that shares their memory."""
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.shape[2] < 3:
        pixels = pixels[..., [0, 0, 0, *range(1, pixels.shape[2])]]
    name = FORMATS[pixels.itemsize, pixels.shape[2]]
    return VideoFrame.from_numpy_buffer(np.ascontiguousarray(pixels), name)
