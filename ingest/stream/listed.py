"""Leaves out what an HLS playlist lists again after a new connection: it was published by the connection before."""

from __future__ import annotations  # av's Packet is generic for type checkers only

from contextlib import suppress
from fractions import Fraction

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream

HLS = "hls"  # FFmpeg's name of the format
# FFmpeg joins a live playlist three segments before its end, so the first packet of a connection lies at most this long
# before the published ones. A packet with an earlier time belongs to a broadcast that has begun anew.
JOIN_SECONDS = 60
WRAP_SECONDS = Fraction(1 << 33, 90_000)  # MPEG-TS counts times modulo this
# How long before the last published packet the reading of an ended playlist begins: FFmpeg seeks to a keyframe.
SEEK_MARGIN_SECONDS = 20


class ListedAgain:
    """The times that were published, by kind of track, over all connections to one source."""

    def __init__(self) -> None:
        self._newest: dict[str, Fraction] = {}  # decoding time of the last packet
        self._published: dict[str, Fraction] = {}  # those of the connections before; without kinds that have passed it
        self._window_seconds = JOIN_SECONDS

    def begin(self, container: InputContainer) -> None:
        """Begin a connection. An ended playlist is read from shortly before the published end."""
        self._published = dict(self._newest) if container.format.name == HLS else {}
        self._window_seconds = JOIN_SECONDS
        if self._published and container.duration:
            self._window_seconds = max(JOIN_SECONDS, container.duration // av.time_base)
            seconds = min(self._published.values()) - SEEK_MARGIN_SECONDS
            with suppress(av.error.FFmpegError):  # it is read from its beginning
                container.seek(max(0, int(seconds * av.time_base)))

    def is_repeated(self, packet: Packet[Stream]) -> bool:
        """Whether a packet was published by a connection before; otherwise it counts as published now."""
        if packet.dts is None:
            return False
        kind, dts = packet.stream.type, packet.dts * packet.time_base
        if kind in self._published:
            if (self._published[kind] - dts) % WRAP_SECONDS <= self._window_seconds:
                return True
            del self._published[kind]
        self._newest[kind] = dts
        return False
