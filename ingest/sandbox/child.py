"""The decoding child process: `python -P -m ingest.sandbox.child SOCKET MEMORY PARENT [stills]`, started by pool.py.

It loads all its modules, lowers its limits, confines itself (ingest.sandbox.confinement), then decodes one input after
another. Each input comes as an open file. The limit on descriptors leaves room for this file only.
"""

import contextlib
import gc
import importlib
import io
import math
import os
import pkgutil
import resource
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import BinaryIO, cast

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.video.frame import VideoFrame

from ingest.clip.cut import cut
from ingest.config import DecodeConfig
from ingest.errors import IngestError, LimitExceeded
from ingest.media.decode import decode
from ingest.media.picture import PictureMaker
from ingest.sandbox import protocol
from ingest.sandbox.confinement import confine, end_with
from ingest.sandbox.system_calls import SOCKET
from ingest.subtitles.encoding import load_codecs
from ingest.subtitles.text_file import SUFFIXES, read_subtitle_file
from ingest.values import Cut, Decoded, SoundTrack

DESCRIPTORS = 5  # limit on open descriptors: 0 to 4
NICENESS = 5  # decoding yields to the server's answers
TINY_SUBTITLES = (  # SubRip, LRC and ASS
    b"1\n00:00:01,000 --> 00:00:02,000\none\n\n[00:03.00]two\n\nDialogue: 0,0:00:01.00,0:00:02.00,,,0,0,0,,three\n"
)
BEATS_PER_STALL = 4  # beat messages within max_stall_seconds


class DescriptorFile(io.RawIOBase):
    """A file given by its descriptor. It has its own position and does not move the parent's."""

    def __init__(self, descriptor: int, size_bytes: int | None) -> None:
        """Take the descriptor and the size; None: it is a pipe, which allows no seeking."""
        self._descriptor, self._size = descriptor, size_bytes
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._size is not None

    def read(self, size: int = -1) -> bytes:
        if self._size is None:
            return os.read(self._descriptor, size)
        data = os.pread(self._descriptor, size, self._position)
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        base = (0, self._position, self._size or 0)[whence]
        if base + offset < 0:
            raise ValueError(f"seek to {base + offset}")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position


def main(descriptor: int, max_memory_bytes: int, parent: int, *, decodes_stills: bool) -> None:
    """Serve requests until the parent closes the connection.

    Args:
        descriptor: Of the socket.
        max_memory_bytes: Upper bound of what a request may set.
        parent: Number of the parent process.
        decodes_stills: Whether still pictures may be among the inputs.
    """
    end_with(parent)
    if descriptor != SOCKET:
        os.dup2(descriptor, SOCKET)
        os.close(descriptor)
    connection = socket.socket(fileno=SOCKET)
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    av.logging.set_level(None)
    _warm_up(decodes_stills)
    with open(os.devnull, "wb") as nothing:  # messages of libraries may quote the input; they must not reach a terminal
        os.dup2(nothing.fileno(), sys.stderr.fileno())
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, DESCRIPTORS)
    _limit(resource.RLIMIT_DATA, max_memory_bytes)
    os.chdir("/")
    os.environ.clear()
    missing = confine(parent)
    connection.sendall(protocol.serialize(protocol.Message(kind="ready", fields={"missing": missing})))
    while True:
        request, file = protocol.receive_request(connection)
        try:
            _serve(connection, request, file)
        finally:
            os.close(file)
        gc.collect()  # a large picture in a cycle of objects would stay in memory


def _serve(connection: socket.socket, request: protocol.Message, descriptor: int) -> None:
    config = DecodeConfig(**request.fields["config"])
    _limit(resource.RLIMIT_DATA, config.max_memory_bytes, soft=True)
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = used.ru_utime + used.ru_stime + request.fields["max_cpu_seconds"]
    _limit(resource.RLIMIT_CPU, math.ceil(seconds), soft=True)  # SIGXCPU ends this process
    period, last = config.max_stall_seconds / BEATS_PER_STALL, time.monotonic()
    beat = protocol.serialize(protocol.Message(kind="beat"))

    def on_progress() -> None:
        nonlocal last
        if time.monotonic() - last >= period:
            last = time.monotonic()
            connection.sendall(beat)

    file = cast(BinaryIO, DescriptorFile(descriptor, request.fields["size_bytes"]))
    try:
        if "cut" in request.fields:
            _cut(connection, request, file, config, on_progress)
        else:
            _decode(connection, request, file, config, on_progress)
    except IngestError as error:
        fields = {"type": type(error).__name__, "reason": error.reason, "remedy": error.remedy}
        if isinstance(error, LimitExceeded):
            fields["limit"] = error.limit
        connection.sendall(protocol.serialize(protocol.Message(kind="error", fields=fields)))
    except Exception as error:  # a bug, perhaps found by a hostile file: the parent logs it and replaces this process
        fields = {"type": "internal", "reason": traceback.format_exc(limit=-3)[-protocol.MAX_REASON_CHARS :]}
        connection.sendall(protocol.serialize(protocol.Message(kind="error", fields=fields)))
        raise SystemExit(1) from error


def _decode(
    connection: socket.socket,
    request: protocol.Message,
    file: BinaryIO,
    config: DecodeConfig,
    on_progress: Callable[[], None],
) -> None:
    def choose_sound(tracks: Sequence[SoundTrack]) -> int:
        for track in tracks:
            connection.sendall(protocol.serialize(protocol.to_message(track)))
        connection.sendall(protocol.serialize(protocol.Message(kind="choose")))
        return int(protocol.receive(connection, max_payload_bytes=0).fields["place"])

    choose = choose_sound if request.fields["offers_sound"] else None
    named = request.fields["subtitle_file"]
    items: Iterable[Decoded] = (
        decode(file, uri="", config=config, on_progress=on_progress, choose_sound=choose)
        if named is None
        else [read_subtitle_file(file.read, **named)]
    )
    for item in items:
        connection.sendall(protocol.serialize(protocol.to_message(item)))


def _cut(
    connection: socket.socket,
    request: protocol.Message,
    file: BinaryIO,
    config: DecodeConfig,
    on_progress: Callable[[], None],
) -> None:
    def send(position: int, data: bytes) -> None:
        connection.sendall(protocol.serialize(protocol.to_piece_message(position, data)))

    fields = dict(request.fields["cut"])
    size = fields.pop("size")
    wanted = Cut(**fields, size=None if size is None else tuple(size))
    clip = cut(file, wanted, send, uri="", config=config, on_progress=on_progress)
    connection.sendall(protocol.serialize(protocol.to_clip_message(clip)))


def _limit(kind: int, value: int, *, soft: bool = False) -> None:
    """Lower a limit for good; or with `soft`, until the next request sets it."""
    hard = resource.getrlimit(kind)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    with contextlib.suppress(OSError, ValueError):  # macOS refuses some limits
        resource.setrlimit(kind, (value, hard if soft else value))


def _warm_up(decodes_stills: bool) -> None:
    """Use everything that loads modules or tables at first use: later, no file can be opened."""
    if decodes_stills:
        importlib.import_module("ingest.media.still.photo")
    for module in pkgutil.walk_packages(av.__path__, "av."):
        if module.name not in ("av.__main__", "av.datasets"):  # a command, and a downloader
            importlib.import_module(module.name)
    for name in ("rgba", "yuv420p10le"):
        PictureMaker(DecodeConfig(reading_px=64)).make(VideoFrame(64, 64, name), Fraction(1))
    for media in (b"", _tiny_video()):
        with contextlib.suppress(IngestError):
            list(decode(io.BytesIO(media), uri="", config=DecodeConfig(read_subtitles=True)))
    load_codecs()
    for suffix in SUFFIXES:
        read_subtitle_file(io.BytesIO(TINY_SUBTITLES).read, suffix=suffix, name="", language=None, kind="full")


def _tiny_video() -> bytes:
    """Return a Matroska file of one grey picture and a tenth of a second of stereo silence."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        video = container.add_stream("mjpeg", rate=10, width=16, height=16, pix_fmt="yuvj420p")
        audio = container.add_stream("pcm_s16le", rate=48_000, layout="stereo")
        container.mux(video.encode(VideoFrame(16, 16, "yuvj420p")))
        silence = AudioFrame.from_ndarray(np.zeros((1, 9600), dtype=np.int16), format="s16", layout="stereo")
        silence.sample_rate = 48_000
        container.mux(audio.encode(silence))
    return file.getvalue()


if __name__ == "__main__":
    # The parent closes its end of the socket when it is done, and the kernel when it dies.
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), decodes_stills="stills" in sys.argv[4:])
