"""The contenders of benchmarks/sampling.py. Each takes the path of a file and returns its count of 224 x 224 pictures.

Each of the other libraries is used as its documentation advises for a picture a second, with one thread like ours. A
library that can scale gets the size of the pictures.
"""

import importlib.util
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import av

from ingest.config import DecodeConfig, SamplingPolicy
from ingest.media.decode import decode
from ingest.sandbox.pool import DecodePool
from ingest.values import Decoded, Frame

INPUT_PX = 224
REFERENCE = "ffmpeg fps=1"
POLICIES: tuple[SamplingPolicy, ...] = ("exact", "fast", "keyframes")
PEERS = {"torchcodec": "torchcodec", "decord2": "decord", "OpenCV": "cv2"}  # name of the library: its module


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A way to get one picture a second."""

    name: str
    run: Callable[[Path], int]
    is_judged: bool = (
        False  # whether a target is about it; it is measured in every repeat, and other contenders only in the first
    )
    is_peer: bool = False  # whether it is measured on 1080p H.264 only, the subject of the targets


def count_frames(items: Iterable[Decoded]) -> int:
    return sum(isinstance(item, Frame) for item in items)


def ours(sampling: SamplingPolicy) -> Callable[[Path], int]:
    config = DecodeConfig(sampling=sampling, input_width=INPUT_PX, input_height=INPUT_PX)

    def run(path: Path) -> int:
        with path.open("rb", buffering=0) as file:
            return count_frames(decode(file, uri=path.name, config=config))

    return run


def ours_in_child(pool: DecodePool, sampling: SamplingPolicy) -> Callable[[Path], int]:
    config = DecodeConfig(sampling=sampling, input_width=INPUT_PX, input_height=INPUT_PX)

    def run(path: Path) -> int:
        with path.open("rb", buffering=0) as file:
            return count_frames(pool.decode(file, uri=path.name, config=config))

    return run


def ffmpeg(*options: str, filters: str = "fps=1,") -> Callable[[Path], int]:
    fit = f"scale={INPUT_PX}:{INPUT_PX}:force_original_aspect_ratio=increase,crop={INPUT_PX}:{INPUT_PX}"

    def run(path: Path) -> int:
        command = ["ffmpeg", "-nostdin", "-loglevel", "error", *options, "-i", str(path), "-an"]
        command += ["-vf", filters + fit, "-fps_mode", "passthrough"]
        command += ["-pix_fmt", "rgb24", "-f", "rawvideo", "pipe:1"]
        count, size = 0, INPUT_PX * INPUT_PX * 3
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            while process.stdout.read(size):
                count += 1
        return count

    return run


def naive_pyav(path: Path) -> int:
    """Decode every frame, convert the first one of each second."""
    count, begin = 0, None
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            if frame.time is None:
                continue
            begin = frame.time if begin is None else begin
            if frame.time - begin >= count:
                frame.reformat(width=INPUT_PX, height=INPUT_PX, format="rgb24").to_ndarray()
                count += 1
    return count


def opencv(path: Path) -> int:
    """Decode every frame, convert the first one of each second."""
    import cv2

    cv2.setNumThreads(1)
    capture, count = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1]), 0
    while capture.grab():
        if capture.get(cv2.CAP_PROP_POS_MSEC) >= count * 1000:
            _, picture = capture.retrieve()
            cv2.cvtColor(cv2.resize(picture, (INPUT_PX, INPUT_PX)), cv2.COLOR_BGR2RGB)
            count += 1
    return count


def decord(path: Path) -> int:
    """Ask for frames by index; the library seeks to keyframes by itself."""
    import decord

    reader = decord.VideoReader(str(path), num_threads=1, width=INPUT_PX, height=INPUT_PX)
    rate = reader.get_avg_fps()
    indices = [round(second * rate) for second in range(ceil(len(reader) / rate))]
    return int(reader.get_batch([index for index in indices if index < len(reader)]).shape[0])


def torchcodec(path: Path) -> int:
    """Ask for frames by time; the library seeks to keyframes by itself, and scales the frames."""
    import torch
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import CenterCrop, Resize

    torch.set_num_threads(1)
    with av.open(str(path)) as container:  # reads the size, since torchcodec takes its transforms when it opens a file
        context = container.streams.video[0].codec_context
        scale = INPUT_PX / min(context.width, context.height)
        size = max(INPUT_PX, int(context.height * scale)), max(INPUT_PX, int(context.width * scale))
    fit: list[Any] = [Resize(size), CenterCrop((INPUT_PX, INPUT_PX))]
    decoder = VideoDecoder(str(path), num_ffmpeg_threads=1, transforms=fit)
    begin, end = decoder.metadata.begin_stream_seconds, decoder.metadata.end_stream_seconds
    return len(decoder.get_frames_played_at([begin + second for second in range(ceil(end - begin))]).data)


def missing_peers() -> list[str]:
    return [name for name, module in PEERS.items() if importlib.util.find_spec(module) is None]


@contextmanager
def contenders() -> Iterator[list[Contender]]:
    """Return the contenders of this machine. If ffmpeg is installed, it is the reference and comes first."""
    table: list[Contender] = []
    if shutil.which("ffmpeg"):
        table.append(Contender(name=REFERENCE, run=ffmpeg(), is_judged=True))
        # One thread, as ours: more threads cost some CPU time.
        table.append(Contender(name=f"{REFERENCE}, one thread", run=ffmpeg("-threads", "1")))
        table.append(Contender(name="ffmpeg keyframes", run=ffmpeg("-skip_frame", "nokey", filters="")))
    table.append(Contender(name="PyAV, every frame", run=naive_pyav))
    peers = {"torchcodec": torchcodec, "decord2": decord, "OpenCV": opencv}
    for name in sorted(peers.keys() - set(missing_peers())):
        table.append(Contender(name=name, run=peers[name], is_peer=True))
    table += [Contender(name=f"ours, {policy}", run=ours(policy), is_judged=True) for policy in POLICIES]
    with DecodePool(DecodeConfig(), workers=1) as pool:
        if Path("/proc/self/stat").exists():  # the CPU time of the child is read from there
            table.append(Contender(name="ours, fast, in the child process", run=ours_in_child(pool, "fast")))
        yield table
