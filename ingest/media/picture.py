"""Makes the stored forms of a decoded picture: RGB at the encoder's input size, a small JPEG, and RGB to read from.

libswscale scales the coded picture in one pass. Rotation comes after scaling, when there are few pixels.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin  # noqa: F401  loads the plugin: the child cannot open files later

from ingest.config import DecodeConfig
from ingest.media import tonemap
from ingest.media.changes import ChangeDetector
from ingest.media.orientation import Orientation
from ingest.values import Frame

if TYPE_CHECKING:
    from ingest.media.profile import ColourProfile  # loads LittleCMS, which videos do not need

# Bicubic, as in open_clip's preprocessing. The other flags keep colours exact, also at edges.
SCALING = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND
JPEG_QUALITY = 80  # 8 KB for 320x180; below 70, faces and small text suffer
HD_HEIGHT = 720  # lines from which players assume BT.709 for untagged pictures, and BT.601 below
MAX_ASPECT = 8  # largest ratio of the sides, beyond which a picture is squashed: bounds memory
UNSPECIFIED = 2  # AVCOL_SPC_UNSPECIFIED


@dataclass(frozen=True, slots=True, kw_only=True)
class MadePicture:
    """The stored forms of one picture; the fields are those of ingest.values.Frame."""

    pixels: NDArray[np.uint8]
    thumbnail: bytes
    reading: NDArray[np.uint8] | None

    def to_frame(self, epoch: int, pts_seconds: float) -> Frame:
        """Return the picture as a frame of a time."""
        return Frame(
            epoch=epoch, pts_seconds=pts_seconds, pixels=self.pixels, thumbnail=self.thumbnail, reading=self.reading
        )


class PictureMaker:
    """Makes the stored forms by one config. It reuses its scalers, so only one thread may use it."""

    def __init__(self, config: DecodeConfig, profile: ColourProfile | None = None) -> None:
        self._config, self._profile = config, profile
        self._scaler, self._thumbnail_scaler = VideoReformatter(), VideoReformatter()
        self._reading_scaler, self._changes = VideoReformatter(), ChangeDetector()
        self._field: _FieldFilter | None = None

    def make(self, frame: VideoFrame, pixel_aspect: Fraction, turn: Orientation | None = None) -> MadePicture:
        """Make the stored forms of the next picture of a video.

        `pixel_aspect` is the width of a stored pixel by its height, before rotation. Without `turn`, the frame's own
        display matrix says how it is turned.
        """
        config, turn = self._config, turn if turn is not None else Orientation.from_frame(frame)
        width, height = display_size(frame.width, frame.height, pixel_aspect)
        if turn.is_transposed:
            width, height = height, width
        thumbnail_size = _thumbnail_size(width, height, config.thumbnail_px)
        frame = self._take_one_field(frame)

        size = _scale_size(width, height, config)
        whole = render_rgb(frame, size, turn, self._scaler, self._profile)
        if config.resize != "squash" and min(size) >= min(thumbnail_size):
            small = Image.fromarray(whole).resize(thumbnail_size, Image.Resampling.BICUBIC)
        else:
            small = Image.fromarray(render_rgb(frame, thumbnail_size, turn, self._thumbnail_scaler, self._profile))
        jpeg = io.BytesIO()
        small.save(jpeg, "JPEG", quality=JPEG_QUALITY)
        reading: NDArray[np.uint8] | None = None
        if config.reading_px and self._changes.notice(small):
            size = _reading_size(width, height, config.reading_px)
            reading = np.ascontiguousarray(render_rgb(frame, size, turn, self._reading_scaler, self._profile))
        pixels = _fit(whole, config.input_width, config.input_height)
        return MadePicture(pixels=pixels, thumbnail=jpeg.getvalue(), reading=reading)

    def _take_one_field(self, frame: VideoFrame) -> VideoFrame:
        """Return every second line of an interlaced picture: its two fields show different moments."""
        if not frame.interlaced_frame or frame.height < 4:
            return frame
        if self._field is None or not self._field.fits(frame):
            self._field = _FieldFilter(frame)
        return self._field.top(frame)


class _FieldFilter:
    """libavfilter's `field`: the top field of each picture, without a copy, and with the right chroma lines."""

    def __init__(self, frame: VideoFrame) -> None:
        self._shape = (frame.width, frame.height, frame.format.name)
        self._graph = Graph()
        source = self._graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)
        )
        field, sink = self._graph.add("field", "type=top"), self._graph.add("buffersink")
        source.link_to(field)
        field.link_to(sink)
        self._graph.configure()

    def fits(self, frame: VideoFrame) -> bool:
        return self._shape == (frame.width, frame.height, frame.format.name)

    def top(self, frame: VideoFrame) -> VideoFrame:
        self._graph.push(frame)
        picture = self._graph.pull()
        assert isinstance(picture, VideoFrame)
        return picture


def display_size(width: int, height: int, pixel_aspect: Fraction) -> tuple[int, int]:
    """Return the displayed size before rotation: the width is stretched, the height is kept."""
    if Fraction(1, MAX_ASPECT) <= pixel_aspect <= MAX_ASPECT:
        width = max(1, round(width * pixel_aspect))
    return width, height


def _scale_size(width: int, height: int, config: DecodeConfig) -> tuple[int, int]:
    """Return the size of the whole picture before cropping or padding."""
    if config.resize == "squash":
        return config.input_width, config.input_height
    scale = max if config.resize == "crop" else min
    ratio = scale(config.input_width / width, config.input_height / height)
    if config.resize == "pad":
        return max(1, round(width * ratio)), max(1, round(height * ratio))
    limit = MAX_ASPECT * max(config.input_width, config.input_height)
    # Truncated, not rounded, like torchvision's Resize, which made the encoders' training pictures.
    return (
        min(limit, max(config.input_width, int(width * ratio))),
        min(limit, max(config.input_height, int(height * ratio))),
    )


def _thumbnail_size(width: int, height: int, shorter_px: int) -> tuple[int, int]:
    ratio = min(1.0, shorter_px / min(width, height))
    limit = MAX_ASPECT * shorter_px
    return min(limit, max(1, round(width * ratio))), min(limit, max(1, round(height * ratio)))


def _reading_size(width: int, height: int, longer_px: int) -> tuple[int, int]:
    """Return the size of the picture to read from: never larger than the picture itself."""
    ratio = min(1.0, longer_px / max(width, height))
    return max(1, round(width * ratio)), max(1, round(height * ratio))


def _fit(pixels: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Crop the centre of a larger picture; put a smaller one on black."""
    have_height, have_width = pixels.shape[:2]
    top, left = round((have_height - height) / 2), round((have_width - width) / 2)
    pixels = pixels[max(0, top) : max(0, top) + height, max(0, left) : max(0, left) + width]
    if pixels.shape[:2] == (height, width):
        return np.ascontiguousarray(pixels)
    canvas = np.zeros((height, width, 3), dtype=np.uint8)
    top, left = (height - pixels.shape[0]) // 2, (width - pixels.shape[1]) // 2
    canvas[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return canvas


def render_rgb(
    frame: VideoFrame,
    size: tuple[int, int],
    turn: Orientation,
    scaler: VideoReformatter,
    profile: ColourProfile | None,
) -> NDArray[np.uint8]:
    """Scale a picture to a displayed `size` (width, height): uint8 (H, W, 3), sRGB, alpha over black."""
    width, height = (size[1], size[0]) if turn.is_transposed else size
    if tonemap.needs_tonemap(frame):
        deep = _scale(scaler, frame, width, height, "rgb48le")
        return turn.apply(tonemap.to_sdr(deep, frame))
    if has_alpha(frame):
        rgba = _scale(scaler, frame, width, height, "rgba").astype(np.uint16)
        pixels = (rgba[..., :3] * rgba[..., 3:] // 255).astype(np.uint8)
    else:
        # libswscale writes planes twice as fast as packed RGB, and bit for bit the same; except from packed RGB of 16
        # bits, which it unpacks differently.
        pixels = _scale(scaler, frame, width, height, "rgb24" if frame.format.is_rgb else "gbrp")
    return turn.apply(profile.to_srgb(pixels) if profile is not None else pixels)


def has_alpha(frame: VideoFrame) -> bool:
    # A palette's colours can carry alpha, though the format has no alpha component.
    return frame.format.name == "pal8" or any(part.is_alpha for part in frame.format.components)


def _scale(scaler: VideoReformatter, frame: VideoFrame, width: int, height: int, to: str) -> NDArray[Any]:
    options: dict[str, Any] = {"interpolation": SCALING, "dst_color_range": ColorRange.JPEG, "threads": 1}
    if frame.colorspace == UNSPECIFIED and not frame.format.is_rgb:
        options["src_colorspace"] = Colorspace.ITU709 if frame.height >= HD_HEIGHT else Colorspace.ITU601
    try:
        return scaler.reformat(frame, width, height, to, **options).to_ndarray()
    except av.error.FFmpegError:  # libswscale does not know the matrix (ICtCp, reserved numbers): use the usual one
        options["src_colorspace"] = Colorspace.ITU709
        return scaler.reformat(frame, width, height, to, **options).to_ndarray()
