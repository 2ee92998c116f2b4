"""Encodes the pictures of a clip anew: H.264, upright, with square pixels, in BT.709."""

from __future__ import annotations  # av's Packet is generic for type checkers only

from collections import deque
from fractions import Fraction
from typing import Any, cast

import av
import numpy as np
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from av.video.stream import VideoStream

from ingest.clip.plan import ClipPlan
from ingest.clip.source import MediaPacket, lacks_pts
from ingest.config import DecodeConfig
from ingest.media import tonemap
from ingest.media.damage import decode_packet
from ingest.media.info import read_pixel_aspect
from ingest.media.orientation import Orientation
from ingest.media.picture import HD_HEIGHT, SCALING, UNSPECIFIED, display_size, has_alpha, render_rgb
from ingest.media.still.limits import check_pixels

# Visually nearly lossless, at some four times the speed of x264's default preset.
ENCODER_OPTIONS = {"preset": "veryfast", "crf": "20", "threads": "2"}
TICK = Fraction(1, 90_000)  # of the clip's pictures
KEYFRAME_COUNT = 60  # pictures from keyframe to keyframe, at most: players seek within two seconds or so
BT709 = 1  # AVCOL_SPC_BT709, _PRI_ and _TRC_ have the same number
DEFAULT_RATE = Fraction(25)  # of a track that does not say; it steers the encoder only
MAX_RATE = 240  # of a track that says more, its header is wrong


class EncodedPictures:
    """The track of pictures of a clip, each encoded at the time at which the source shows it.

    Args:
        stream: The source's track; None: a black picture.
        size: Displayed size (width, height).
        is_part: Whether it becomes a part of a montage, whose parts must agree: padded with black to the size, and
            encoded with the same parameters.
    """

    def __init__(
        self,
        target: OutputContainer,
        stream: VideoStream | None,
        start: Fraction,
        end: Fraction,
        plan: ClipPlan,
        config: DecodeConfig,
        size: tuple[int, int],
        *,
        is_part: bool,
        uri: str,
    ) -> None:
        self._stream, self._start, self._end, self._key = stream, start, end, plan.key
        self._config, self._is_part, self._uri = config, is_part, uri
        self._size = max(2, size[0] // 2 * 2), max(2, size[1] // 2 * 2)  # 4:2:0 has even sides
        self._has_begun = plan.key is None
        rate = Fraction(30)  # the parts of a montage must agree
        if not is_part and stream is not None:
            rate = stream.average_rate or stream.guessed_rate or DEFAULT_RATE
        options = ENCODER_OPTIONS | ({"bf": "0"} if is_part else {})
        self._out = target.add_stream("libx264", rate=rate if 0 < rate <= MAX_RATE else DEFAULT_RATE, options=options)
        self._target = target
        self._context: Any = self._out.codec_context
        self._context.time_base = self._out.time_base = TICK
        self._context.pix_fmt, self._context.gop_size = "yuv420p", KEYFRAME_COUNT
        self._scaler, self._packer = VideoReformatter(), VideoReformatter()
        self._held: tuple[VideoFrame, Fraction] | None = None  # waits for the time at which the next one begins
        self._durations: dict[int, int] = {}  # pts -> duration, of pictures in the encoder
        self._context.width, self._context.height = self._size
        self._context.color_range, self._context.colorspace = 1, BT709  # AVCOL_RANGE_MPEG
        self._context.color_primaries = self._context.color_trc = BT709
        self._fed: deque[Fraction] = deque()  # decoding times of packets whose pictures are not decoded yet
        self._lacks_pts = False
        self._shift = Fraction(0)
        self._last = Fraction(-1)
        self.is_done = False
        self.picture_count = 0
        if stream is not None:
            self._prepare(stream)

    @property
    def stream(self) -> Stream:
        """The track in the clip."""
        return cast(Stream, self._out)

    def _prepare(self, stream: VideoStream) -> None:
        check_pixels(self._uri, (stream.width, stream.height), self._config.max_pixels)
        stream.codec_context.thread_type = "AUTO"
        stream.codec_context.thread_count = 1
        self._lacks_pts = lacks_pts(stream)

    def feed(self, each: MediaPacket) -> None:
        """Take the track's next packet in the order of the file."""
        self._has_begun |= each.packet.is_keyframe and each.pts == self._key
        if not self._has_begun or self.is_done:
            return
        if self._lacks_pts and each.dts is not None:
            self._fed.append(each.dts)
        ticks = each.packet.pts if each.packet.pts is not None else each.packet.dts
        self._shift = each.pts - (ticks or 0) * each.packet.time_base  # from the source's times to media time
        self._decode(each.packet)

    def finish(self, until: Fraction) -> None:
        """Encode what is left; the last picture is shown until a media time. A part without any is black."""
        if self._stream is not None and not self.is_done:
            self._decode(None)
        if self._held is None and self._is_part and not self.picture_count:
            black = VideoFrame.from_ndarray(np.zeros((self._size[1], self._size[0], 3), np.uint8), "rgb24")
            self._held = (black, self._start)
        self._release(self._end if self._is_part else until)
        self._mux(self._out.encode(None) if self._context.is_open else [])

    def _decode(self, packet: Packet[Stream] | None) -> None:
        assert self._stream is not None
        try:
            frames = decode_packet(self._stream.codec_context, cast("Packet[VideoStream] | None", packet))
        except av.error.FFmpegError as error:
            if isinstance(error, MemoryError):
                raise
            return  # a damaged packet: the picture before it stands
        for frame in frames:
            if not frame.is_corrupt and not self.is_done:
                self._take(frame)

    def _take(self, frame: VideoFrame) -> None:
        check_pixels(self._uri, (frame.width, frame.height), self._config.max_pixels)
        shown = self._time_of(frame)
        if shown <= self._last:
            return
        self._last = shown
        if shown >= self._end:
            self.is_done = True
            return
        if shown > self._start:
            self._release(shown)
        self._held = (frame, max(shown, self._start))

    def _time_of(self, frame: VideoFrame) -> Fraction:
        """Return the media time of a decoded picture."""
        base = frame.time_base or TICK
        ticks = frame.pts if frame.pts is not None else frame.dts
        if self._lacks_pts:
            return self._fed.popleft() if self._fed else self._last + TICK
        return ticks * base + self._shift if ticks is not None else self._last + TICK

    def _release(self, until: Fraction) -> None:
        """Encode the picture that waits; it is shown until a media time."""
        if self._held is None:
            return
        (frame, shown), self._held = self._held, None
        picture = self._make(frame)
        picture.pts, picture.time_base = round((shown - self._start) / TICK), TICK
        self._durations[picture.pts] = max(1, round((until - shown) / TICK))
        picture.pict_type = 0  # the encoder chooses; the source's keyframes are not its
        self.picture_count += 1
        self._mux(self._out.encode(picture))

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            packet.duration = self._durations.pop(packet.pts, packet.duration or 0)
            self._target.mux(packet)

    def _make(self, frame: VideoFrame) -> VideoFrame:
        """Return a picture as it is displayed, at the clip's size."""
        turn = Orientation.from_frame(frame)
        aspect = read_pixel_aspect(self._stream) if self._stream is not None else Fraction(1)
        width, height = display_size(frame.width, frame.height, aspect)
        if turn.is_transposed:
            width, height = height, width
        most, size = self._size, self._size
        if self._is_part:
            ratio = min(most[0] / width, most[1] / height)
            size = _fit(width * ratio, most[0]), _fit(height * ratio, most[1])
        is_plain = turn == Orientation() and not tonemap.needs_tonemap(frame) and not has_alpha(frame)
        if is_plain and size == most:
            options: dict[str, Any] = {}
            if frame.colorspace == UNSPECIFIED and not frame.format.is_rgb:
                options["src_colorspace"] = Colorspace.ITU709 if frame.height >= HD_HEIGHT else Colorspace.ITU601
            return _to_yuv(self._scaler, frame, size, options)
        pixels = render_rgb(frame, size, turn, self._scaler, None)
        if size != most:
            canvas = np.zeros((most[1], most[0], 3), dtype=np.uint8)
            left, top = (most[0] - size[0]) // 2, (most[1] - size[1]) // 2
            canvas[top : top + size[1], left : left + size[0]] = pixels
            pixels = canvas
        return _to_yuv(self._packer, VideoFrame.from_ndarray(pixels, "rgb24"), most, {})


def _fit(length: float, most: int) -> int:
    """Return an even length in pixels, at least 2."""
    return min(most, max(2, round(length / 2) * 2))


def _to_yuv(scaler: VideoReformatter, frame: VideoFrame, size: tuple[int, int], options: dict[str, Any]) -> VideoFrame:
    """Scale a picture to 8-bit 4:2:0 in BT.709."""
    width, height = size
    colours: dict[str, Any] = {"dst_colorspace": Colorspace.ITU709, "dst_color_range": ColorRange.MPEG}
    colours |= {"interpolation": SCALING, "threads": 1}
    try:
        return scaler.reformat(frame, width, height, "yuv420p", **colours, **options)
    except av.error.FFmpegError:  # libswscale does not know the matrix (ICtCp, reserved numbers): use the usual one
        options = {"src_colorspace": Colorspace.ITU709}
        return scaler.reformat(frame, width, height, "yuv420p", **colours, **options)
