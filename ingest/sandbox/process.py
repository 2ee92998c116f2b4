"""One child process that decodes untrusted bytes, and our end of its socket."""

import contextlib
import logging
import os
import signal
import site
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import asdict
from typing import Any, TypeVar

from ingest.config import DecodeConfig
from ingest.errors import DecodeError, DecoderCrashed, DecoderTimeout, IngestError, LimitExceeded, SpanOutside
from ingest.sandbox import protocol
from ingest.values import (
    MAX_SOUND_TRACKS,
    ChooseSound,
    Clip,
    Decoded,
    DecodeSummary,
    Frame,
    MediaInfo,
    SoundTrack,
    SubtitleTrack,
)

logger = logging.getLogger(__name__)

START_SECONDS = 60.0  # bound of a child's start; loading its libraries takes a second on an idle machine
CPU_GRACE_SECONDS = 60.0  # of processor time beyond max_wall_seconds, so that the watchdog acts first
# Variables by which Python and the loader of libraries find what a child imports.
LOADER_VARIABLES = ("PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH")
MAX_SUBTITLE_TRACKS = 1000  # of one input: more than any max_streams that somebody sets
EXIT_SECONDS = 10.0  # bound of waiting until the kernel has ended a killed child

T = TypeVar("T")


class ChildProcess:
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
    ) -> Generator[Decoded]:
        """Send one input to the child; yield its items, checked."""
        checker, tracks = _OrderChecker(is_subtitle_file=subtitle_file is not None), list[SoundTrack]()

        def convert(message: protocol.Message) -> Decoded | None:
            if message.kind == "choose":
                self._answer(tracks, choose_sound)
                return None
            item = protocol.from_message(message, config)
            if isinstance(item, SoundTrack):
                checker.check_track(len(tracks))
                tracks.append(item)
                return None
            checker.check(item)
            return item

        fields = {"offers_sound": choose_sound is not None, "subtitle_file": subtitle_file}
        max_payload = protocol.max_payload_bytes(config)
        items: Generator[Decoded] = self._ask(
            descriptor, uri, fields, config, max_payload, max_cpu_seconds, check, convert
        )
        with closing(items):
            for item in items:
                yield item
                if isinstance(item, DecodeSummary) or subtitle_file is not None:
                    return

    def cut(
        self,
        descriptor: int,
        uri: str,
        config: DecodeConfig,
        fields: Mapping[str, Any],
        write: Callable[[int, bytes], None],
        check: Callable[[], None],
    ) -> Clip:
        """Send one input to the child; pass on the pieces of the clip that it makes of it.

        Args:
            fields: Of the request: what to make of the input.
            write: Takes the position of a piece in the clip, and its bytes.
        """
        seconds = config.max_wall_seconds + CPU_GRACE_SECONDS
        most, convert = protocol.PIECE_BYTES, protocol.to_piece_or_clip
        items: Generator[tuple[int, bytes] | Clip] = self._ask(
            descriptor, uri, fields, config, most, seconds, check, convert
        )
        with closing(items):
            for item in items:
                if isinstance(item, Clip):
                    return item
                write(*item)
        raise AssertionError("the messages end with an error")

    def _ask(
        self,
        descriptor: int,
        uri: str,
        fields: Mapping[str, Any],
        config: DecodeConfig,
        max_payload: int,
        max_cpu_seconds: float,
        check: Callable[[], None],
        convert: Callable[[protocol.Message], T | None],
    ) -> Generator[T]:
        """Send a request with one input; yield what `convert` makes of the child's messages, but not None.

        Raises:
            IngestError: As DecodePool.decode().
        """
        request = protocol.serialize(
            protocol.Message(
                kind="request",
                fields={
                    "config": asdict(config),
                    "max_cpu_seconds": max_cpu_seconds,
                    "size_bytes": _size_of(descriptor),
                    **fields,
                },
            )
        )
        waited_seconds = 0.0
        objection: BaseException | None = None  # of `check`; it may be an OSError, and is no fault of the child

        def check_here() -> None:
            nonlocal objection
            try:
                check()
            except BaseException as error:
                objection = error
                raise

        try:
            self._connection.settimeout(config.max_stall_seconds)
            sent = socket.send_fds(self._connection, [request], [descriptor])
            self._connection.sendall(request[sent:])
            while True:
                begin = time.monotonic()
                left = config.max_wall_seconds - waited_seconds
                deadline = begin + min(config.max_stall_seconds, left)
                message = protocol.receive(
                    self._connection, max_payload_bytes=max_payload, deadline=deadline, check=check_here
                )
                waited_seconds += time.monotonic() - begin
                if message.kind == "error":
                    raise _to_error(message, uri)
                item = convert(message) if message.kind != "beat" else None
                if item is not None:
                    yield item
        except TimeoutError as error:
            if error is objection:
                raise
            if waited_seconds + config.max_stall_seconds > config.max_wall_seconds:
                reason = f"not decoded within max_wall_seconds = {config.max_wall_seconds:g}"
            else:
                reason = f"no progress for max_stall_seconds = {config.max_stall_seconds:g}"
            raise DecoderTimeout(uri, reason) from error
        except (EOFError, OSError) as error:
            if error is objection:
                raise
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


def _to_error(message: protocol.Message, uri: str) -> IngestError:
    reason, limit = str(message.fields.get("reason")), message.fields.get("limit")
    if message.fields.get("type") == "internal":
        logger.error("decoder failed uri=%s trace=%s", uri, reason)
        return DecoderCrashed(uri, f"the decoder failed ({reason.splitlines()[-1]})")
    if message.fields.get("type") == "LimitExceeded":
        return LimitExceeded(uri, str(limit), reason)
    if message.fields.get("type") == "SpanOutside":
        return SpanOutside(uri, reason)
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
