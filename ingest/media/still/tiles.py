"""Decodes a HEIF still picture: joins its tiles, crops and turns it, and yields it as a video of one picture."""

from collections.abc import Callable, Iterator
from math import ceil
from typing import Any, cast

import av
import numpy as np
from av.codec.codec import UnknownCodecError
from av.codec.context import CodecContext
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from av.video.reformatter import ColorRange
from numpy.typing import NDArray

from ingest.config import DecodeConfig
from ingest.errors import DecodeError, LimitExceeded
from ingest.media.container import MediaFile
from ingest.media.picture import PictureMaker, display_size
from ingest.media.still.heif import Crop, HeifPicture, Tile
from ingest.values import Decoded, DecodeSummary, Frame, MediaInfo

Samples = NDArray[np.uint8] | NDArray[np.uint16]

SHOWN_SECONDS = 1.0  # FFmpeg's frame rate of HEIF pictures is one a second
UNSPECIFIED = 2  # of colour primaries, transfer and matrix
BT601 = 6  # AVCOL_SPC_SMPTE170M, the matrix of pictures that name none, ISO/IEC 23000-22 (MIAF)


def decode_still(
    picture: HeifPicture, file: MediaFile, *, uri: str, config: DecodeConfig, on_progress: Callable[[], None]
) -> Iterator[Decoded]:
    """Yield MediaInfo, one Frame at 0 s, and DecodeSummary.

    Raises:
        DecodeError: If no tile decodes.
        LimitExceeded: If the picture is larger than max_pixels.
    """
    joiner = _Joiner(picture, uri, config)
    for tile in picture.tiles:
        on_progress()
        joiner.add(tile, file)
    frame = joiner.frame()
    width, height = display_size(frame.width, frame.height, picture.pixel_aspect)
    if picture.turn.is_transposed:
        width, height = height, width
    yield MediaInfo(
        container="heif",
        duration_seconds=None,
        video_codec=av.Codec(picture.tiles[0].codec, "r").canonical_name,
        audio_codec=None,
        width=width,
        height=height,
        rotation_degrees=picture.turn.degrees,
        frame_rate_fps=None,
    )
    if config.decode_video:
        pixels, thumbnail = PictureMaker(config).make(frame, picture.pixel_aspect, picture.turn)
        yield Frame(epoch=0, pts_seconds=0.0, pixels=pixels, thumbnail=thumbnail)
    yield DecodeSummary(
        duration_seconds=SHOWN_SECONDS,
        epoch_count=1,
        frame_count=int(config.decode_video),
        error_count=joiner.error_count,
        truncated=joiner.is_truncated,
        pictures_end_seconds=SHOWN_SECONDS if config.decode_video else 0.0,
        damaged=((0.0, SHOWN_SECONDS),) if joiner.error_count else (),
    )


class _Joiner:
    """Decodes tiles one after another, and copies each to its place in the picture."""

    def __init__(self, picture: HeifPicture, uri: str, config: DecodeConfig) -> None:
        self._picture, self._uri, self._config = picture, uri, config
        self._decoder: tuple[Tile, VideoCodecContext] | None = None  # with the tile that it was made for
        self._canvas: VideoFrame | None = None
        self._count = 0
        self.error_count = 0  # tiles that do not decode; they stay black
        self.is_truncated = False  # whether the file ends before the end of a tile
        self._check_pixels(*picture.size)

    def _check_pixels(self, width: int, height: int) -> None:
        if width * height > self._config.max_pixels:
            raise LimitExceeded(
                self._uri,
                "max_pixels",
                f"a picture of {width}x{height} pixels, at most {self._config.max_pixels} are decoded",
            )

    def add(self, tile: Tile, file: MediaFile) -> None:
        """Decode the next tile."""
        row, column = divmod(self._count, self._picture.column_count)
        self._count += 1
        data = tile.place.read(file)
        self.is_truncated |= len(data) < tile.place.byte_count
        frame = self._decode(tile, data)
        if frame is None:
            self.error_count += 1
            return
        if not self._picture.is_grid:
            self._canvas = frame
            return
        if self._canvas is None:
            self._check_grid(frame)
            self._canvas = _black(*self._picture.size, frame)
            self._tile_size = (frame.width, frame.height)
        if (frame.width, frame.height) != self._tile_size or frame.format.name != self._canvas.format.name:
            raise DecodeError(self._uri, "a HEIF grid of tiles that differ in size or format")
        _copy(frame, self._canvas, column * frame.width, row * frame.height)

    def frame(self) -> VideoFrame:
        """Return the picture, joined and cropped, but not turned yet."""
        frame = self._canvas
        if frame is None:
            raise DecodeError(self._uri, "no picture in it decodes")
        if self._picture.crop is not None:
            frame = _crop(frame, self._picture.crop)
        colours = self._picture.colours
        if colours is not None:
            frame.color_primaries, frame.color_trc = colours.primaries, colours.transfer
            frame.colorspace = colours.matrix
            frame.color_range = ColorRange.JPEG if colours.is_full_range else ColorRange.MPEG
        if frame.colorspace == UNSPECIFIED:
            frame.colorspace = BT601
        return frame

    def _decode(self, tile: Tile, data: bytes) -> VideoFrame | None:
        """Return a tile's picture; None if it does not decode."""
        if self._decoder is None or (self._decoder[0].codec, self._decoder[0].headers) != (tile.codec, tile.headers):
            self._decoder = (tile, self._open_decoder(tile))
        context = self._decoder[1]
        try:
            frames = [*context.decode(Packet(data)), *context.decode(None)]
            context.flush_buffers()
        except av.error.FFmpegError as error:
            self._check_pixels(context.width, context.height)  # decoders call this too a lack of memory
            if isinstance(error, MemoryError):
                raise
            self._decoder = None
            return None
        return frames[-1] if frames else None  # of a progressive picture, the finest

    def _open_decoder(self, tile: Tile) -> VideoCodecContext:
        try:
            context = CodecContext.create(tile.codec, "r")
        except UnknownCodecError as error:
            raise DecodeError(self._uri, f"this FFmpeg has no decoder {tile.codec}", "install PyAV's wheel") from error
        assert isinstance(context, VideoCodecContext)
        context.extradata, context.thread_count = tile.headers or None, 1
        context.options = {"max_pixels": str(self._config.max_pixels)}
        return context

    def _check_grid(self, tile: VideoFrame) -> None:
        """Check that the tiles cover the picture, and little more than that."""
        (width, height), columns = self._picture.size, self._picture.column_count
        rows = len(self._picture.tiles) // columns
        if ceil(width / tile.width) != columns or ceil(height / tile.height) != rows:
            raise DecodeError(
                self._uri,
                f"a HEIF grid of {width}x{height} pixels with {columns}x{rows} tiles of {tile.width}x{tile.height}",
            )
        self._check_pixels(columns * tile.width, rows * tile.height)
        if any(
            tile_size % factor
            for tile_size, factor in zip((tile.width, tile.height), _steps(tile.planes[-1], tile), strict=True)
        ):
            raise DecodeError(self._uri, f"a HEIF grid of tiles of {tile.width}x{tile.height}, an odd size")


def _black(width: int, height: int, like: VideoFrame) -> VideoFrame:
    """Return a black picture with the format and colours of another."""
    frame = VideoFrame(width, height, like.format.name)
    for number, plane in enumerate(frame.planes):
        bits = frame.format.components[number].bits
        _samples(plane, frame)[:] = 1 << (bits - 1) if number in (1, 2) and not frame.format.is_rgb else 0
    frame.color_primaries, frame.color_trc = like.color_primaries, like.color_trc
    frame.colorspace, frame.color_range = like.colorspace, like.color_range
    return frame


def _crop(frame: VideoFrame, crop: Crop) -> VideoFrame:
    """Return a part of a picture. Its edge moves to whole samples of colour."""
    width, height = min(frame.width, round(crop.width)), min(frame.height, round(crop.height))
    left = min(max(0, round((frame.width - crop.width) / 2 + crop.right)), frame.width - width)
    top = min(max(0, round((frame.height - crop.height) / 2 + crop.down)), frame.height - height)
    if (width, height) == (frame.width, frame.height):
        return frame
    part = _black(max(1, width), max(1, height), frame)
    across, down = _steps(frame.planes[-1], frame)
    _copy(frame, part, -(left // across * across), -(top // down * down))
    return part


def _copy(source: VideoFrame, target: VideoFrame, x: int, y: int) -> None:
    """Copy what fits of a picture into another of its format, so that its corner comes to (x, y)."""
    for from_plane, to_plane in zip(source.planes, target.planes, strict=True):
        across, down = _steps(from_plane, source)
        old, new = _samples(from_plane, source), _samples(to_plane, target)
        left, top = x // across, y // down
        old = old[max(0, -top) :, max(0, -left) :]
        new = new[max(0, top) :, max(0, left) :]
        height, width = min(old.shape[0], new.shape[0]), min(old.shape[1], new.shape[1])
        new[:height, :width] = old[:height, :width]


def _steps(plane: VideoPlane, frame: VideoFrame) -> tuple[int, int]:
    """Return how many pixels share a sample of a plane, across and down."""
    return ceil(frame.width / plane.width), ceil(frame.height / plane.height)


def _samples(plane: VideoPlane, frame: VideoFrame) -> Samples:
    """Return the samples of a plane, (H, W), in its own memory."""
    kind = np.uint16 if frame.format.components[0].bits > 8 else np.uint8
    rows = np.frombuffer(cast(Any, plane), kind).reshape(plane.height, plane.line_size // kind().itemsize)
    return cast("Samples", rows[:, : plane.width])
