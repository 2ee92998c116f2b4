"""Reads the packets of the chosen tracks, and follows a track whose stream ends, or whose codec changes, in mid-file.

PyAV gives the streams that were there when the file was opened, and FFmpeg opens only the first seconds. In MPEG-TS,
MPEG-PS and FLV a stream may begin anywhere: a recorder changes its PIDs, recordings are joined, sound begins late. So
where a track falls silent, or does not decode any more, the bytes from there on are scanned for others of its kind, and
a second demuxer is opened where one begins. Files without such a place pay nothing.
"""

from __future__ import annotations  # av's Packet is generic for type checkers only

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from fractions import Fraction

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Stream

from ingest.config import DecodeConfig
from ingest.errors import IngestError
from ingest.media.container import MediaFile, open_container
from ingest.media.tracks.choice import is_readable, rank_of
from ingest.media.tracks.scan import SCANNED, Kind

MAX_READ_ERROR_COUNT = 100  # damaged places of one container that are skipped
MAX_STREAM_COUNT = 100  # streams of one file that are read; an evening of television has some thirty breaks
QUIET_SECONDS = 2  # a track without packets for so long may have ended; multiplexers keep tracks within one second
QUIET_BYTES = 64 << 10  # the same in bytes, for as long as the file has shown no longer gap in its track
GAP_GROWTH = 1.5  # a gap is looked into if it is longer by this factor than those before, so few are
LOOK_BYTES = 256 << 10  # of a quiet track that are looked at together
SEEN_BYTES = 2 << 20  # a stream with packets in these bytes before a track's end ran beside it and does not follow it
DEAF_ERROR_COUNT = 3  # packets that do not decode may be of another codec
LONGEST_BAD_BYTES = 16 << 20  # in which a change of codec is looked for


class Track:
    """A track of one kind: the streams that follow one another in it."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.number = -1  # of its stream, among all streams that are read
        self.before: int | None = None  # number of the stream whose times it goes on with
        self.stream: Stream | None = None
        self.base: Fraction | None = None  # seconds of one tick of the stream; PyAV computes it at each access
        self.reader: _Reader | None = None
        self.first = self.position = -1  # of its stream's first and last packet in the file; -1: there was none
        self.seconds: float | None = None  # decoding time of the last
        self.looked = 0  # position up to which nothing was found that follows
        self.unreadable: set[int] = set()  # keys of streams that would follow, and cannot be read
        self.longest_gap = QUIET_BYTES  # between two of its packets
        self.good_position = -1  # of the last packet with which anything decoded
        self._error_count = 0  # packets since then that did not
        self._listened = -LOOK_BYTES  # position at which another codec was looked for
        self._duration: tuple[int, Fraction | None] = (0, None)  # of the last packet, in ticks and in seconds

    def begin(self, stream: Stream, reader: _Reader, number: int, position: int) -> None:
        """Go on with a stream whose packets after a position are read."""
        self.stream, self.base, self.reader, self.number = stream, stream.time_base, reader, number
        self.first = self.position = self.good_position = position
        self.seconds, self._duration = None, (0, None)
        self.looked = self._error_count = 0

    def to_seconds(self, ticks: int | None) -> Fraction | None:
        """Convert a timestamp of the stream to exact seconds."""
        if ticks is None or self.base is None:
            return None
        return Fraction(ticks * self.base.numerator, self.base.denominator)  # faster than a product of the two

    def duration_of(self, packet: Packet[Stream]) -> Fraction | None:
        """Return how long a packet lasts, if that is known: for equal packets, the same object."""
        ticks = packet.duration or 0
        if ticks != self._duration[0]:
            self._duration = (ticks, self.to_seconds(ticks) if ticks else None)
        return self._duration[1]

    def note(self, *, has_decoded: bool, has_failed: bool) -> None:
        """Say what became of the last packet."""
        if has_decoded:
            self.good_position, self._error_count = self.position, 0
        else:
            self._error_count += has_failed

    def becomes_deaf(self) -> bool:
        """Whether its packets do not decode any more. In a long damaged part, it says so ever less often."""
        if self._error_count < DEAF_ERROR_COUNT:
            return False
        bad_bytes = self.position - self.good_position
        if self.position - self._listened < max(LOOK_BYTES, bad_bytes // 4):
            return False
        self._listened = self.position
        return True


class _Reader:
    """A demuxer, and the packet that it gives next."""

    def __init__(self, container: InputContainer, offset: int, on_error: Callable[[], None]) -> None:
        self.container, self._offset, self._on_error = container, offset, on_error
        self.streams: list[Stream] = []
        self.position = 0  # of the next packet in the file; if it has none, that of the one before it in its stream
        self._positions: dict[int, int] = {}  # index of a stream -> position of its last packet
        self.packet: Packet[Stream] | None = None  # the next; None: it has ended
        self._packets: Iterator[Packet[Stream]] = iter(())

    def start(self) -> None:
        """Read the first packet of `streams`, which stay the same from now on."""
        for stream in self.container.streams:
            if stream not in self.streams:
                stream.discard = Discard.all  # spares the demuxer reading it
        self._packets = self.packets()
        self.advance()

    def advance(self) -> None:
        self.packet = packet = next(self._packets, None)
        if packet is not None:
            if packet.pos is not None and packet.pos >= 0:
                self._positions[packet.stream.index] = packet.pos + self._offset
            self.position = self._positions.get(packet.stream.index, self.position)

    def packets(self) -> Iterator[Packet[Stream]]:
        """Read packets of `streams`; skip damaged places."""
        for _ in range(MAX_READ_ERROR_COUNT):
            try:
                for packet in self.container.demux(self.streams):
                    if packet.size:  # an empty packet repeats a picture, or marks the end
                        yield packet
                return
            except av.error.FFmpegError as error:
                if isinstance(error, MemoryError):
                    raise
                self._on_error()
            except IndexError:  # raised by PyAV at the end of a file in which a stream appeared after opening
                return


class PacketReader:
    """Reads one input from its beginning to its end.

    Args:
        container: Of the whole file.
        on_error: Called at each damaged place.
    """

    def __init__(
        self,
        container: InputContainer,
        file: MediaFile,
        uri: str,
        config: DecodeConfig,
        *,
        on_error: Callable[[], None],
    ) -> None:
        self._uri, self._config, self._on_error = uri, config, on_error
        self._file = file.view()  # scanning must not move the container's position
        self._format = container.format.name
        self._scanned = SCANNED.get(self._format) if file.seekable() else None
        self._main = _Reader(container, 0, on_error)
        self._tracks: list[Track] = []
        self._opened = ExitStack()  # the other containers
        self._stream_count = 0
        self.unfollowed_count = 0  # streams that begin where a track ends, and cannot be read

    def __enter__(self) -> PacketReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self._opened.close()

    def add(self, kind: Kind, stream: Stream | None) -> Stream | None:
        """Read a stream of the container, or without one the first of its kind that begins later; return it."""
        track = Track(kind)
        if stream is not None:
            self._main.streams.append(stream)
            track.begin(stream, self._main, self._next_number(), -1)
        elif self._scanned is None or not self._follow(track, self._size()):
            return None
        self._tracks.append(track)
        return track.stream

    def read(self) -> Iterator[tuple[Track, Packet[Stream]]]:
        """Yield packets of all tracks in the order of the file. The caller notes in the track what becomes of each."""
        if self._scanned is None:
            by_index = {track.stream.index: track for track in self._tracks if track.stream is not None}
            for packet in self._main.packets():
                yield by_index[packet.stream.index], packet
            return
        self._main.start()
        while True:
            readers = {track.reader for track in self._tracks if track.reader is not None and track.reader.packet}
            reader = min(readers, key=lambda reader: reader.position, default=None)
            position = reader.position if reader is not None else self._size()
            if any(self._has_moved(track, position, reader is None) for track in self._tracks):
                continue
            if reader is None or reader.packet is None:
                return
            packet = reader.packet
            reader.advance()
            track = next((track for track in self._tracks if track.stream is packet.stream), None)
            if track is not None and position > track.first:
                track.longest_gap = max(track.longest_gap, position - track.position)
                track.position = position
                if packet.dts is not None and track.base is not None:
                    track.seconds = packet.dts * track.base.numerator / track.base.denominator
                yield track, packet

    def _has_moved(self, track: Track, position: int, is_end: bool) -> bool:
        """Whether a track goes on with another stream now; the file is read up to a position."""
        if track.becomes_deaf() and self._follow_change(track):
            return True
        if position - track.position <= QUIET_BYTES and not is_end:
            return False
        return self._is_overdue(track, position, is_end) and self._follow(track, position)

    def _is_overdue(self, track: Track, position: int, is_end: bool) -> bool:
        """Whether to look for what follows a track."""
        unseen, gap = position - max(track.position, track.looked), position - track.position
        if is_end:
            return unseen > 0 and (unseen <= SEEN_BYTES or gap > track.longest_gap)
        if gap > GAP_GROWTH * track.longest_gap:
            return unseen >= LOOK_BYTES or track.looked <= track.position
        newest = max((t.seconds for t in self._tracks if t.seconds is not None), default=None)
        is_quiet = newest is not None and track.seconds is not None and newest - track.seconds >= QUIET_SECONDS
        return is_quiet and unseen >= LOOK_BYTES

    def _follow(self, track: Track, end: int) -> bool:
        """Look for another stream of a track's kind behind its last packet; go on with it if there is one."""
        assert self._scanned is not None
        own = track.stream.id if track.stream is not None and self._scanned.has_neighbours else None
        passed: set[int] | None = None
        for piece in self._scanned.scan(self._file, max(track.position, track.looked, 0), end):
            if piece.kind != track.kind or piece.position <= track.position or piece.key == own:
                continue
            if passed is None:
                passed = self._running_keys(track) | track.unreadable
            if piece.key in passed:
                continue
            if self._open(track, piece.position, passed, key=piece.key):
                return True
            passed.add(piece.key)
            track.unreadable.add(piece.key)
        track.looked = max(track.looked, end)
        return False

    def _follow_change(self, track: Track) -> bool:
        """Go on with the other codec of a track that does not decode any more, if its codec has changed."""
        assert self._scanned is not None
        begin = max(0, track.good_position - LOOK_BYTES, track.position - LONGEST_BAD_BYTES)
        changes = list(self._scanned.find_changes(self._file, begin, track.position))
        return bool(changes) and self._open(track, changes[-1], set(), before=track.stream)

    def _running_keys(self, track: Track) -> set[int]:
        """Return the keys of the track's own stream, and of streams of its kind that run beside it."""
        assert self._scanned is not None
        keys, end = set[int](), track.position
        if end >= 0:
            keys = self._keys(track.kind, end, end + 1)
        if self._scanned.has_neighbours and track.stream is not None:
            length = min(SEEN_BYTES, end - max(track.first, 0))
            keys |= {track.stream.id} | self._keys(track.kind, end - length, end - length // 4)
        return keys

    def _keys(self, kind: Kind, begin: int, end: int) -> set[int]:
        assert self._scanned is not None
        return {piece.key for piece in self._scanned.scan(self._file, begin, end) if piece.kind == kind}

    def _open(
        self, track: Track, position: int, passed: set[int], *, key: int | None = None, before: Stream | None = None
    ) -> bool:
        """Go on with a stream that begins at a position; say whether that was possible.

        Args:
            passed: Keys of streams that are not to be taken.
            key: Of the stream.
            before: Take only another codec than that of this stream.
        """
        assert self._scanned is not None
        number = self._next_number()
        if number >= MAX_STREAM_COUNT:
            self.unfollowed_count += 1
            return False
        view = self._file.view(self._scanned.anchor(self._file, position), self._scanned.header)
        try:
            container = open_container(view, self._uri, self._config, self._format)
        except IngestError:
            return False
        stream = self._choose(container, track, passed, key)
        if stream is None or (before is not None and stream.codec_context.name == before.codec_context.name):
            self.unfollowed_count += any(s.id == key and s.type == track.kind for s in container.streams)
            container.close()
            return False
        self._opened.enter_context(container)
        reader = _Reader(container, view.offset, self._on_error)
        reader.streams = [stream]
        reader.start()
        # The times of packets of another codec mean nothing.
        track.before = track.number if track.stream is not None and before is None else None
        track.begin(stream, reader, number, position - 1)
        return True

    def _choose(self, container: InputContainer, track: Track, passed: set[int], key: int | None) -> Stream | None:
        """Return the stream that follows: in the same language, or the first by rank; None if none can be read."""
        assert self._scanned is not None
        streams = [s for s in container.streams if s.type == track.kind and is_readable(s)]
        if self._scanned.has_neighbours:
            streams = [s for s in streams if s.id not in passed]
            if key is not None and all(s.id != key for s in streams):
                return None
        language = track.stream.language if track.stream is not None else None
        return max(streams, key=lambda s: (s.language == language, rank_of(s), -s.index), default=None)

    def _next_number(self) -> int:
        self._stream_count += 1
        return self._stream_count - 1

    def _size(self) -> int:
        return self._file.view().seek(0, 2)
