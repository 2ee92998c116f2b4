"""Makes small media whose pictures and sounds encode their own time, so that a test can check both."""

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.packet import Packet
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from support.real_time import leave_real_time

BITS = 10  # of the number in a picture: two rows of five cells
TIME_BASE = Fraction(1, 90_000)  # fine enough for every frame rate used here
RATE_HZ = 48_000
BEEP_HZ = 1000.0
NO_DISPOSITION = av.stream.Disposition(0)
BEEP_SECONDS = 0.1  # at each half second: 0.5, 1.5, 2.5, …


@dataclass(frozen=True, kw_only=True)
class Track:
    """A video track to make.

    Attributes:
        times: Presentation time of each picture, in seconds.
        picture: Makes the picture of an index: uint8 (H, W, 3) RGB, or a VideoFrame to encode as it is.
        rotation_degrees: Counterclockwise, as in FFmpeg's display matrix.
    """

    codec: str = "libx264"
    times: Sequence[Fraction]
    width: int = 160
    height: int = 96
    pix_fmt: str = "yuv420p"
    gop: int = 24
    options: dict[str, str] = field(default_factory=dict)
    picture: Callable[[int], NDArray[np.uint8] | VideoFrame] | None = None
    pixel_aspect: Fraction | None = None
    rotation_degrees: int = 0
    is_default: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Sound:
    """An audio track to make: silence with a beep at each half second."""

    codec: str = "aac"
    seconds: float
    start_seconds: float = 0.0
    layout: str = "mono"
    channel: int | None = None  # the only channel that beeps; None: all
    rate_hz: int = RATE_HZ
    is_default: bool | None = None
    loudness: float = 1.0  # 0: silence
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Captions:
    """A subtitle track to make.

    Attributes:
        lines: Start and end in seconds, and text, as the codec has it; bytes are stored as they are.
    """

    codec: str = "subrip"
    lines: Sequence[tuple[float, float, str | bytes]]
    language: str = "eng"
    title: str = ""
    disposition: av.stream.Disposition = NO_DISPOSITION


def times(count: int, fps: Fraction | int = 24, start: Fraction | int = 0) -> list[Fraction]:
    """Return the times of `count` pictures at a constant rate."""
    return [start + Fraction(i) / fps for i in range(count)]


def draw_number(index: int, width: int = 160, height: int = 96) -> NDArray[np.uint8]:
    """Draw a picture that encodes its index: a 5x2 grid of bits, white for 1, black for 0."""
    picture = np.zeros((height, width, 3), dtype=np.uint8)
    for bit in range(BITS):
        row, column = divmod(bit, 5)
        if index >> bit & 1:
            rows = slice(row * height // 2, (row + 1) * height // 2)
            picture[rows, column * width // 5 : (column + 1) * width // 5] = 255
    return picture


def read_number(pixels: NDArray[np.uint8]) -> int:
    """Read the index from a picture of any size; -1 if a cell is neither black nor white."""
    height, width = pixels.shape[:2]
    number = 0
    for bit in range(BITS):
        row, column = divmod(bit, 5)
        top, left = row * height // 2, column * width // 5
        cell = pixels[top + height // 8 : top + height * 3 // 8, left + width // 20 : left + width * 3 // 20]
        level = float(cell.mean())
        if 80 < level < 175:
            return -1
        number |= (level > 127) << bit
    return number


def beeps(seconds: float, rate_hz: int = RATE_HZ, start_seconds: float = 0.0) -> NDArray[np.float32]:
    """Return float32 (N,): silence with a beep at each half second."""
    t = start_seconds + np.arange(round(seconds * rate_hz)) / rate_hz
    phase = (t - 0.5) % 1.0
    return np.where(phase < BEEP_SECONDS, 0.5 * np.sin(2 * np.pi * BEEP_HZ * phase), 0.0).astype(np.float32)


def beep_times(samples: NDArray[np.float32], rate_hz: int, start_seconds: float = 0.0) -> list[float]:
    """Return the beginnings of beeps, where the sound rises after 50 ms of quiet."""
    is_loud = np.abs(samples) > 0.08
    quiet = round(0.05 * rate_hz)
    edges: list[float] = []
    last = -quiet
    for i in np.flatnonzero(is_loud):
        if i - last >= quiet:
            edges.append(start_seconds + i / rate_hz)
        last = i
    return edges


def write_media(
    target: Path | BinaryIO,
    *,
    format: str,
    video: Track | None = None,
    more_videos: Sequence[Track] = (),
    sounds: Sequence[Sound] = (),
    captions: Sequence[Captions] = (),
    cover: NDArray[np.uint8] | None = None,
    options: dict[str, str] | None = None,
) -> None:
    """Write one media file, its packets interleaved by time."""
    name = str(target) if isinstance(target, Path) else target
    with av.open(name, "w", format=format, options=options or {}) as container:
        packets: list[Any] = []
        if video is not None:
            packets += _video_packets(container, video)
        for track in more_videos:
            packets += _video_packets(container, track)
        for sound in sounds:
            packets += _sound_packets(container, sound)
        for subtitles in captions:
            packets += _caption_packets(container, subtitles)
        if cover is not None:
            packets += _cover_packets(container, cover)
        leave_real_time()
        packets.sort(key=lambda p: p.dts * p.time_base if p.dts is not None else Fraction(0))
        container.mux(packets)


def encode_media(**arguments: Any) -> bytes:
    """Return one media file as bytes; takes the arguments of write_media()."""
    file = io.BytesIO()
    write_media(file, **arguments)
    return file.getvalue()


def _video_packets(container: Any, track: Track) -> list[Any]:
    os.environ["SVT_LOG"] = "0"  # SVT-AV1 writes its settings to the terminal otherwise
    gaps = [b - a for a, b in zip(track.times, track.times[1:], strict=False)]
    rate = Fraction(1 / min(gaps)).limit_denominator(1001) if gaps else Fraction(25)
    stream = container.add_stream(track.codec, rate=rate, options=track.options)
    stream.width, stream.height, stream.pix_fmt = track.width, track.height, track.pix_fmt
    context = stream.codec_context
    context.gop_size = track.gop
    exact = all(time * rate == int(time * rate) for time in track.times)
    base = 1 / rate if exact else TIME_BASE
    context.time_base = base
    if track.pixel_aspect is not None:
        context.sample_aspect_ratio = track.pixel_aspect
    if track.is_default is not None:
        stream.disposition = av.stream.Disposition.default if track.is_default else av.stream.Disposition(0)
    if track.rotation_degrees:
        stream.set_display_rotation(track.rotation_degrees)
    make = track.picture or (lambda index: draw_number(index, track.width, track.height))
    packets: list[Any] = []
    for index, time in enumerate(track.times):
        picture = make(index)
        frame = picture if isinstance(picture, VideoFrame) else VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = round(time / base), base
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def _sound_packets(container: Any, sound: Sound) -> list[Any]:
    stream = container.add_stream(sound.codec, rate=sound.rate_hz, layout=sound.layout)
    stream.codec_context.bit_rate = 128_000  # some encoders have no default
    if sound.is_default is not None:
        stream.disposition = av.stream.Disposition.default if sound.is_default else av.stream.Disposition(0)
    stream.metadata.update(sound.tags)
    mono = sound.loudness * beeps(sound.seconds, sound.rate_hz)
    channels = av.AudioLayout(sound.layout).nb_channels
    samples = np.zeros((channels, len(mono)), dtype=np.float32)
    samples[slice(None) if sound.channel is None else sound.channel] = mono
    frame = AudioFrame.from_ndarray(samples, format="fltp", layout=sound.layout)
    frame.sample_rate = sound.rate_hz
    frame_size = (
        stream.codec_context.frame_size or 1024
    )  # PCM accepts any size; real files do not have packets of minutes
    resampler = av.AudioResampler(stream.format, stream.layout, stream.rate, frame_size=frame_size)
    packets: list[Any] = []
    position = round(sound.start_seconds * sound.rate_hz)
    for part in [*resampler.resample(frame), *resampler.resample(None)]:
        if part is None:
            continue
        part.pts, part.time_base = position, Fraction(1, sound.rate_hz)
        position += part.samples
        packets += stream.encode(part)
    return packets + stream.encode(None)


def _caption_packets(container: Any, captions: Captions) -> list[Any]:
    stream = container.add_stream(captions.codec)
    stream.time_base = Fraction(1, 1000)
    stream.codec_context.subtitle_header = b"[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\n\n[Events]\n"
    stream.metadata.update({"language": captions.language, "title": captions.title})
    stream.disposition = captions.disposition
    packets = []
    for number, (start, end, text) in enumerate(captions.lines):
        data = text.encode() if isinstance(text, str) else text
        if captions.codec == "mov_text":
            data = len(data).to_bytes(2, "big") + data
        elif captions.codec == "ass":
            data = f"{number},0,Default,,0,0,0,,".encode() + data
        packet = Packet(data)
        packet.stream, packet.time_base = stream, stream.time_base
        packet.pts = packet.dts = round(start * 1000)
        packet.duration = round((end - start) * 1000)
        packets.append(packet)
    return packets


def _cover_packets(container: Any, cover: NDArray[np.uint8]) -> list[Any]:
    stream = container.add_stream("mjpeg", rate=25)
    stream.width, stream.height, stream.pix_fmt = cover.shape[1], cover.shape[0], "yuvj420p"
    stream.disposition = av.stream.Disposition.attached_pic
    frame = VideoFrame.from_ndarray(cover, format="rgb24")
    frame.pts, frame.time_base = 0, Fraction(1, 25)
    return [*stream.encode(frame), *stream.encode(None)]
