"""The videos of benchmarks/sampling.py: real videos without sound, unchanged and with other keyframes."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.frame import PictureType

ROOT = Path(__file__).resolve().parents[1]
# Real videos beside the checkout. 1080p H.264, the subject of the targets: unchanged, and encoded again.
FULL_HD_FILES = ("Emu__test_video.mp4", "MiniCPM-o__demo_video.mp4")
# A video for each other common codec and size.
OTHER_FILES = (
    "VideoLLaMA2__00003491.mp4",
    "hls.js__demo_video_560-566_concat.ts",
    "sam2__05_default_juggle.mp4",
    "simpl__video.webm",
    "simpl__av1-2018-06_550.webm",
)
GOPS_SECONDS = (0.5, 1.0, 2.0)  # low-latency HLS; cameras; HLS and DASH. Uploaded files have 5 s and more


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A video without sound, ready to be measured."""

    path: Path
    name: str
    codec: str
    height: int
    about: str
    duration_seconds: float
    gop_seconds: float  # mean distance of keyframes

    @property
    def is_full_hd_h264(self) -> bool:
        return self.codec == "h264" and self.height == 1080


def described(path: Path, name: str) -> Subject:
    """Read the properties of a file with a single video stream."""
    times, keyframe_count = [], 0
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        for packet in container.demux(stream):
            if packet.pts is not None and packet.time_base is not None:
                times.append(float(packet.pts * packet.time_base))
                keyframe_count += packet.is_keyframe
        context, codec = stream.codec_context, stream.codec_context.codec.canonical_name
        rate = float(stream.average_rate or 0)
        duration_seconds = max(times) - min(times) + 1 / max(rate, 1.0)
        gop_seconds = duration_seconds / max(keyframe_count, 1)
        about = f"{codec} {context.width}x{context.height}, {rate:.0f} fps, keyframe every {gop_seconds:.1f} s"
        return Subject(
            path=path,
            name=name,
            codec=codec,
            height=context.height,
            about=about,
            duration_seconds=duration_seconds,
            gop_seconds=gop_seconds,
        )


def without_sound(path: Path, folder: Path, seconds: float) -> Subject:
    """Remux only the video stream of a file, up to its first seconds."""
    target = folder / path.name
    with av.open(str(path)) as source, av.open(str(target), "w") as sink:
        stream = source.streams.video[0]
        copy = sink.add_stream_from_template(stream, opaque=True)
        begin: Fraction | None = None
        for packet in source.demux(stream):
            if packet.dts is None or packet.time_base is None:
                continue
            at = packet.dts * packet.time_base
            begin = at if begin is None else begin
            if at - begin >= seconds:
                break
            packet.stream = copy
            sink.mux(packet)
    return described(target, path.name)


def encoded_anew(path: Path, folder: Path, gops_seconds: Sequence[float], seconds: float) -> list[Subject]:
    """Encode the first seconds of a video with x264, as live encoders and packagers do.

    Keyframes have a fixed distance. Everything else is x264's default, B-frames included.
    """
    targets = [folder / f"{path.stem}-{gop:g}s.mp4" for gop in gops_seconds]
    with ExitStack() as stack:
        source = stack.enter_context(av.open(str(path)))
        stream = source.streams.video[0]
        stream.thread_type = "AUTO"
        rate, encoders = stream.average_rate or Fraction(25), []
        for target, gop in zip(targets, gops_seconds, strict=True):
            sink = stack.enter_context(av.open(str(target), "w"))
            encoder = sink.add_stream("libx264", rate=rate)
            encoder.width, encoder.height, encoder.pix_fmt = stream.width, stream.height, "yuv420p"
            count = str(round(gop * rate))
            encoder.options = {"preset": "veryfast", "g": count, "keyint_min": count, "sc_threshold": "0"}
            encoders.append((sink, encoder))
        for index, frame in enumerate(source.decode(stream)):
            if index >= seconds * rate:
                break
            frame.pts, frame.time_base = index, 1 / rate
            frame.pict_type = PictureType.NONE  # otherwise its old keyframes would stay keyframes
            for sink, encoder in encoders:
                sink.mux(encoder.encode(frame))
        for sink, encoder in encoders:
            sink.mux(encoder.encode())
    return [described(target, f"{path.name} encoded anew") for target in targets]


def synthetic(path: Path, *, seconds: int = 20, width: int = 1920, height: int = 1080) -> Path:
    """Make an H.264 video of drifting noise, which costs time in every frame, with a keyframe every 250 frames."""
    rng, rate = np.random.default_rng(0), 30
    noise = rng.integers(0, 256, (height // 8, width // 8 + seconds * rate // 4, 3), np.uint8)
    texture = noise.repeat(8, axis=0).repeat(8, axis=1)
    with av.open(str(path), "w") as sink:
        stream = sink.add_stream("libx264", rate=Fraction(rate))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "veryfast", "g": "250"}
        for index in range(seconds * rate):
            picture = np.ascontiguousarray(texture[:, index * 2 : index * 2 + width])
            sink.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        sink.mux(stream.encode())
    return path


def subjects(given: Sequence[Path], folder: Path, *, seconds: float, is_quick: bool) -> list[Subject]:
    """Prepare the videos: the given files, or the real videos beside the checkout, or a video of noise."""
    made, silent = folder / "made", folder / "silent"
    made.mkdir()
    silent.mkdir()
    shared = ROOT.parent / "shared" / "videos" / "files"
    names = FULL_HD_FILES[:1] if is_quick else (*FULL_HD_FILES, *OTHER_FILES)
    files = list(given) or [shared / name for name in names if (shared / name).exists()]
    as_they_are = [without_sound(file, silent, seconds) for file in files or [synthetic(made / "synthetic.mp4")]]
    found: list[Subject] = []
    for subject in as_they_are:
        if subject.is_full_hd_h264:
            found += encoded_anew(subject.path, made, GOPS_SECONDS, seconds)
        found.append(subject)
    return found
