"""The file that a clip is muxed into, sent away piece by piece."""

from __future__ import annotations

import io
from collections.abc import Callable
from fractions import Fraction

from ingest.clip.boxes import find_moov, trim_edit_lists

PIECE_BYTES = 1 << 20  # of one piece, at most; ingest.sandbox.protocol takes no larger one
HEAD_BYTES = 256  # of the file that are kept: the headers of the boxes before the media data are shorter

SendPiece = Callable[[int, bytes], None]  # position in the file, bytes


class ClipFile(io.RawIOBase):
    """A file that can be written anywhere and not read. Call `finish` after the container is closed.

    Args:
        send: Takes the pieces of the file. A later one may replace what an earlier one wrote.
    """

    def __init__(self, send: SendPiece) -> None:
        self._send = send
        self._position = self._begin = self.size_bytes = 0
        self._pending = bytearray()  # written at `_begin`, and not sent yet
        self._head = bytearray(HEAD_BYTES)
        self._tail: int | None = None  # from here on, nothing is sent before `finish`

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = (0, self._position, self.size_bytes)[whence] + offset
        return self._position

    def write(self, data: bytes) -> int:  # type: ignore[override]  # PyAV writes bytes
        place, end = self._position - self._begin, self._position + len(data)
        if 0 <= place <= len(self._pending):
            self._pending[place : place + len(data)] = data
        elif self._tail is not None:  # the size of the media data, written last
            self._send(self._position, bytes(data))
        else:
            self._flush()
            self._begin, self._pending = self._position, bytearray(data)
        if self._position < HEAD_BYTES:
            kept = data[: HEAD_BYTES - self._position]
            self._head[self._position : self._position + len(kept)] = kept
        self._position = end
        self.size_bytes = max(self.size_bytes, end)
        if self._tail is None and len(self._pending) >= PIECE_BYTES:
            self._flush()
        return len(data)

    def keep_tail(self) -> None:
        """Keep what is written from now on: the container is about to be closed, and writes its movie box."""
        self._flush()
        self._begin = self._tail = self.size_bytes

    def finish(self, length: Fraction) -> None:
        """End the tracks after `length` seconds, and send the rest."""
        moov = find_moov(self._head, self.size_bytes) - self._begin
        box = self._pending[moov:]
        trim_edit_lists(box, length)
        self._pending[moov:] = box
        self._flush()

    def _flush(self) -> None:
        view = memoryview(bytes(self._pending))
        for place in range(0, len(view), PIECE_BYTES):
            self._send(self._begin + place, bytes(view[place : place + PIECE_BYTES]))
        self._begin += len(self._pending)
        self._pending = bytearray()
