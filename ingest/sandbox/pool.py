"""A pool of child processes that decode untrusted bytes: a crash, hang or bomb fails one input, never the caller."""

import contextlib
import io
import logging
import os
import queue
import signal
import site
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import BinaryIO

from ingest.config import DecodeConfig
from ingest.errors import DecodeError, DecoderCrashed, DecoderTimeout, LimitExceeded
from ingest.media.still.kinds import HEAD_BYTES, may_be_still
from ingest.sandbox import protocol
from ingest.values import (
    MAX_SOUND_TRACKS,
    ChooseSound,
    Decoded,
    DecodeSummary,
    Frame,
    MediaInfo,
    SoundTrack,
    SubtitleKind,
    SubtitleTrack,
)

logger = logging.getLogger(__name__)

START_SECONDS = 60.0  # bound of a child's start; loading its libraries takes a second on an idle machine
CPU_GRACE_SECONDS = 60.0  # of processor time beyond max_wall_seconds, so that the watchdog acts first
# Variables by which Python and the loader of libraries find what a child imports.
LOADER_VARIABLES = ("PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH")
SUBTITLE_CPU_SECONDS = 20.0  # of processor time to read a subtitle file; one of 8 MiB takes some seconds
MAX_SUBTITLE_TRACKS = 1000  # of one input: more than any max_streams that somebody sets
EXIT_SECONDS = 10.0  # bound of waiting until the kernel has ended a killed child


class DecodePool:
    """Decodes in child processes. Several threads may use it.

    Args:
        workers: How many inputs are decoded at once; further ones wait for a free child.
    """

    def __init__(self, config: DecodeConfig, *, workers: int) -> None:
        if workers <= 0:
            raise ValueError(f"workers must be > 0, got {workers}")
        self._config = config
        self._idle: queue.LifoQueue[_Child | None] = queue.LifoQueue()  # None: a slot whose child is not started
        for _ in range(workers):
            self._idle.put(None)
        self._lock = threading.Lock()
        self._children: set[_Child] = set()
        self._is_closed = False
        # Linux ends a child when the *thread* that started it ends, so one lasting thread starts them all.
        self._starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode-starter")

    def decode(
        self,
        file: BinaryIO | int,
        *,
        uri: str,
        config: DecodeConfig | None = None,
        choose_sound: ChooseSound | None = None,
        max_cpu_seconds: float | None = None,
        subtitle_file: Mapping[str, str | None] | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> Iterator[Decoded]:
        """Decode one input from its first byte, in a child. Work begins when the first item is requested.

        Closing the iterator early stops the work. A slow consumer makes the child wait.

        Args:
            file: A file object or descriptor, open for reading. The caller closes it afterwards.
            uri: The input's name in errors.
            config: Replaces the pool's config; a max_memory_bytes above the pool's means the pool's.
            choose_sound: Called, before the first item, where several sound tracks decode, with what is heard of them
                in order of rank; returns the place of the one to hear. None: the first is heard.
            max_cpu_seconds: Bound of the processor time, in whole seconds, which a loaded machine does not use up
                sooner. None: somewhat more than max_wall_seconds.
            subtitle_file: The input is a subtitle file; see read_subtitles().
            check: Called some times a second while the caller waits; what it raises stops the work.
        Returns:
            MediaInfo, then SubtitleTracks if the config asks for them, then Frame and AudioBlock roughly in order of
            time, then DecodeSummary. Of a subtitle file, one SubtitleTrack.
        Raises:
            DecodeError: If the bytes are not media that decodes.
            DecoderCrashed: If the child died.
            DecoderTimeout: If the child made no progress for max_stall_seconds, or was busy for max_wall_seconds or for
                max_cpu_seconds.
            LimitExceeded: If the input exceeds a limit of the config.
        """
        config = config or self._config
        if max_cpu_seconds is None:
            max_cpu_seconds = config.max_wall_seconds + CPU_GRACE_SECONDS
        child = self._take_slot(check)
        is_reusable = False
        try:
            if self._is_closed:
                raise RuntimeError("the decode pool is closed")
            with _open_descriptor(file) as descriptor:
                is_still = may_be_still(_read_head(descriptor))
                if child is None or not child.is_alive() or (is_still and not child.decodes_stills):
                    self._forget(child)
                    child = self._start(uri, is_still)
                for item in child.decode(
                    descriptor, uri, config, choose_sound, max_cpu_seconds, check, subtitle_file=subtitle_file
                ):
                    is_reusable = isinstance(item, DecodeSummary) or subtitle_file is not None
                    yield item
        except (DecoderCrashed, DecoderTimeout) as error:
            logger.warning("decoder replaced uri=%s reason=%s", uri, error.reason)
            raise
        except DecodeError:
            is_reusable = True
            raise
        except LimitExceeded as error:
            is_reusable = error.limit != "max_memory_bytes"  # libraries may be inconsistent after it
            raise
        finally:
            if not is_reusable or self._is_closed:
                self._forget(child)
                child = None
            self._idle.put(child)

    def read_subtitles(
        self,
        file: BinaryIO | int,
        *,
        suffix: str,
        name: str,
        language: str | None,
        kind: SubtitleKind,
        check: Callable[[], None] = lambda: None,
    ) -> SubtitleTrack:
        """Read a subtitle file in a child, as its text is untrusted too; see ingest.subtitles.text_file.

        Raises:
            DecoderCrashed: If the child died.
            DecoderTimeout: If the child was busy for too long.
        """
        named = {"suffix": suffix, "name": "", "language": language, "kind": kind}
        (track,) = self.decode(file, uri=name, max_cpu_seconds=SUBTITLE_CPU_SECONDS, subtitle_file=named, check=check)
        assert isinstance(track, SubtitleTrack)  # the child's items are checked
        return replace(track, name=name)

    def missing_walls(self) -> dict[str, str]:
        """Start a child; return which walls around it this machine lacks, and why (ingest.sandbox.confinement).

        Raises:
            DecoderCrashed: If the child does not start.
        """
        child = self._start("", False)
        self._forget(child)
        return child.missing_walls

    def close(self) -> None:
        """End all children. Running decodes fail with DecoderCrashed."""
        self._is_closed = True
        with self._lock:
            children = list(self._children)
        for child in children:
            self._forget(child)
        self._starter.shutdown(wait=True)

    def __enter__(self) -> "DecodePool":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _take_slot(self, check: Callable[[], None]) -> "_Child | None":
        """Wait for a child that is idle, or for a slot whose child is not started."""
        while True:
            try:
                return self._idle.get(timeout=protocol.CHECK_SECONDS)
            except queue.Empty:
                check()

    def _start(self, uri: str, decodes_stills: bool) -> "_Child":
        child: _Child = self._starter.submit(_Child, decodes_stills, self._config.max_memory_bytes).result()
        with self._lock:
            self._children.add(child)
        child.wait_ready(uri)
        return child

    def _forget(self, child: "_Child | None") -> None:
        if child is None:
            return
        with self._lock:
            self._children.discard(child)
        child.kill()


class _Child:
    """A child process and our end of its socket.

    Args:
        decodes_stills: Whether it loads the libraries for still pictures. Later, it can open no file.
        max_memory_bytes: Upper bound of what an input may set.
    """

    def __init__(self, decodes_stills: bool, max_memory_bytes: int) -> None:
        self.decodes_stills = decodes_stills
        self.missing_walls: dict[str, str] = {}  # of ingest.sandbox.confinement, and why they are missing
        self._connection, theirs = socket.socketpair()
        with theirs:
            arguments = ["-P", "-m", "ingest.sandbox.child", str(theirs.fileno())]
            arguments += [str(max_memory_bytes), str(os.getpid())]
            arguments += ["stills"] if decodes_stills else []
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,  # read if the start fails; a started child redirects it to /dev/null
                env=_make_environment(),
                start_new_session=True,  # Ctrl-C goes to the parent only
            )

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def wait_ready(self, uri: str) -> None:
        try:
            message = protocol.receive(self._connection, max_payload_bytes=0, deadline=time.monotonic() + START_SECONDS)
        except (EOFError, OSError, protocol.MalformedMessage) as error:
            self._process.kill()
            assert self._process.stderr is not None
            logger.error("decoder not started trace=%s", self._process.stderr.read().decode(errors="replace"))
            raise DecoderCrashed(uri, f"the decoder process did not start ({self._exit_status()})") from error
        missing = message.fields.get("missing")
        if message.kind != "ready" or not isinstance(missing, dict):
            raise DecoderCrashed(uri, "the decoder process did not start (it sent something else)")
        self.missing_walls = missing
        assert self._process.stderr is not None
        self._process.stderr.close()

    def decode(
        self,
        descriptor: int,
        uri: str,
        config: DecodeConfig,
        choose_sound: ChooseSound | None,
        max_cpu_seconds: float,
        check: Callable[[], None],
        *,
        subtitle_file: Mapping[str, str | None] | None = None,
    ) -> Iterator[Decoded]:
        """Send one input to the child; yield its items, checked."""
        offers_sound = choose_sound is not None
        fields = {
            "config": asdict(config),
            "offers_sound": offers_sound,
            "max_cpu_seconds": max_cpu_seconds,
            "size_bytes": _size_of(descriptor),
            "subtitle_file": subtitle_file,
        }
        request = protocol.serialize(protocol.Message(kind="request", fields=fields))
        checker, tracks = _OrderChecker(is_subtitle_file=subtitle_file is not None), list[SoundTrack]()
        waited_seconds = 0.0
        max_payload = protocol.max_payload_bytes(config)
        try:
            self._connection.settimeout(config.max_stall_seconds)
            sent = socket.send_fds(self._connection, [request], [descriptor])
            self._connection.sendall(request[sent:])
            while True:
                begin = time.monotonic()
                left = config.max_wall_seconds - waited_seconds
                deadline = begin + min(config.max_stall_seconds, left)
                message = protocol.receive(
                    self._connection, max_payload_bytes=max_payload, deadline=deadline, check=check
                )
                waited_seconds += time.monotonic() - begin
                if message.kind == "beat":
                    continue
                if message.kind == "error":
                    raise _to_error(message, uri)
                if message.kind == "choose":
                    self._answer(tracks, choose_sound)
                    continue
                item = protocol.from_message(message, config)
                if isinstance(item, SoundTrack):
                    checker.check_track(len(tracks))
                    tracks.append(item)
                    continue
                checker.check(item)
                yield item
                if isinstance(item, DecodeSummary) or subtitle_file is not None:
                    return
        except TimeoutError as error:
            if waited_seconds + config.max_stall_seconds > config.max_wall_seconds:
                reason = f"not decoded within max_wall_seconds = {config.max_wall_seconds:g}"
            else:
                reason = f"no progress for max_stall_seconds = {config.max_stall_seconds:g}"
            raise DecoderTimeout(uri, reason) from error
        except (EOFError, OSError) as error:
            status = self._exit_status()
            if status == f"signal {signal.SIGXCPU}":
                reason = f"not decoded within {max_cpu_seconds:g} seconds of processor time"
                raise DecoderTimeout(uri, reason) from error
            raise DecoderCrashed(uri, f"the decoder process died ({status})") from error
        except protocol.MalformedMessage as error:
            raise DecoderCrashed(uri, f"the decoder process sent {error}") from error

    def _answer(self, tracks: list[SoundTrack], choose_sound: ChooseSound | None) -> None:
        """Tell the child which sound track to decode."""
        if choose_sound is None or not tracks:
            raise protocol.MalformedMessage("a question that nobody answers")
        chosen = protocol.Message(kind="chosen", fields={"place": choose_sound(tracks)})
        tracks.clear()
        self._connection.sendall(protocol.serialize(chosen))

    def _exit_status(self) -> str:
        try:
            code = self._process.wait(timeout=EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            return "still running"
        return f"signal {-code}" if code < 0 else f"exit status {code}"

    def kill(self) -> None:
        """End the process. May be called twice, and while another thread waits for a message."""
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in the kernel on a dead disk; it dies later
            self._process.wait(timeout=EXIT_SECONDS)
        self._connection.close()
        if self._process.stderr is not None:
            self._process.stderr.close()


class _OrderChecker:
    """Checks that items come in the order that DecodePool.decode() promises."""

    def __init__(self, *, is_subtitle_file: bool) -> None:
        self._is_subtitle_file = is_subtitle_file
        self._has_info = self._has_media = False
        self._subtitle_count = 0
        self._pts_seconds = -1.0

    def check_track(self, count: int) -> None:
        """Check that a sound track may come after `count` others."""
        if self._has_info or count >= MAX_SOUND_TRACKS:
            raise protocol.MalformedMessage("sound tracks too late, or too many")

    def check(self, item: Decoded) -> None:
        if self._is_subtitle_file:
            if not isinstance(item, SubtitleTrack):
                raise protocol.MalformedMessage("something else than subtitles")
            return
        if isinstance(item, MediaInfo) == self._has_info:
            raise protocol.MalformedMessage("media information twice, or not first")
        self._has_info = True
        if isinstance(item, SubtitleTrack):
            self._subtitle_count += 1
            if self._has_media or self._subtitle_count > MAX_SUBTITLE_TRACKS:
                raise protocol.MalformedMessage("subtitles too late, or too many")
        else:
            self._has_media |= not isinstance(item, MediaInfo)
        if isinstance(item, Frame):
            if item.pts_seconds <= self._pts_seconds:
                raise protocol.MalformedMessage("frames out of order")
            self._pts_seconds = item.pts_seconds


def _to_error(message: protocol.Message, uri: str) -> DecodeError | LimitExceeded:
    reason, limit = str(message.fields.get("reason")), message.fields.get("limit")
    if message.fields.get("type") == "internal":
        logger.error("decoder failed uri=%s trace=%s", uri, reason)
        return DecoderCrashed(uri, f"the decoder failed ({reason.splitlines()[-1]})")
    if message.fields.get("type") == "LimitExceeded":
        return LimitExceeded(uri, str(limit), reason)
    return DecodeError(uri, reason, str(message.fields.get("remedy") or ""))


def _make_environment() -> dict[str, str]:
    """Return what a child needs to find its modules and libraries, and nothing else of this process's environment."""
    kept = {name: os.environ[name] for name in LOADER_VARIABLES if name in os.environ}
    if site.ENABLE_USER_SITE:
        kept["PYTHONUSERBASE"] = site.getuserbase()
    # One thread for NumPy: the memory of idle threads counts towards max_memory_bytes.
    return kept | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def _size_of(descriptor: int) -> int | None:
    """Return the bytes of a file; None for a pipe."""
    status = os.fstat(descriptor)
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _read_head(descriptor: int) -> bytes:
    try:
        return os.pread(descriptor, HEAD_BYTES, 0)
    except OSError:  # a pipe, whose bytes the child alone reads
        return b""


@contextlib.contextmanager
def _open_descriptor(file: BinaryIO | int) -> Iterator[int]:
    """Yield a descriptor of a file. Bytes that exist only in memory are copied to an unlinked temporary file."""
    if isinstance(file, int):
        yield file
        return
    try:
        descriptor = file.fileno()
    except (AttributeError, io.UnsupportedOperation):
        with tempfile.TemporaryFile() as copy:
            file.seek(0)
            while data := file.read(1 << 20):
                copy.write(data)
            copy.flush()
            yield copy.fileno()
    else:
        yield descriptor
