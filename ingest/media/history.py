"""Keeps the recent packets of a video track, so that a damaged stretch can be decoded once more."""

from __future__ import annotations  # av's Packet is generic for type checkers only

from collections import deque

from av.packet import Packet
from av.video.stream import VideoStream

# A minute at 60 fps, and a group of pictures of 10 s at 13 Mbit/s or of 2 s at 64 Mbit/s: most files. Of others, a
# damaged stretch is decoded only from the damage on.
MAX_HISTORY_COUNT = 4096
MAX_HISTORY_BYTES = 16 << 20


class PacketHistory:
    """The packets since the last keyframe that decoded, in decoding order. Past its bounds it forgets the oldest."""

    def __init__(self) -> None:
        self._entries: deque[tuple[Packet[VideoStream], bool]] = deque()  # a packet, and whether it is a keyframe
        self._byte_count = 0
        self.is_whole = True  # whether nothing was forgotten

    def __len__(self) -> int:
        return len(self._entries)

    def push(self, packet: Packet[VideoStream], is_key: bool) -> None:
        self._entries.append((packet, is_key))
        self._byte_count += packet.size
        while len(self._entries) > MAX_HISTORY_COUNT or self._byte_count > MAX_HISTORY_BYTES:
            self._forget_first()
            self.is_whole = False

    @property
    def begins_with_key(self) -> bool:
        return bool(self._entries) and self._entries[0][1]

    def begin_at(self, pts: int | None) -> bool:
        """Forget the packets before a keyframe, given by its timestamp; return whether it is here."""
        if not any(is_key and packet.pts == pts for packet, is_key in self._entries):
            return False
        while self._entries[0][0].pts != pts or not self._entries[0][1]:
            self._forget_first()
        self.is_whole = True
        return True

    def packets(self, after: Packet[VideoStream] | None = None) -> list[Packet[VideoStream]]:
        """Return all packets, or those after one of them."""
        packets = [packet for packet, _ in self._entries]
        begin = next((i + 1 for i in reversed(range(len(packets))) if packets[i] is after), 0)
        return packets[begin:]

    def _forget_first(self) -> None:
        packet, _ = self._entries.popleft()
        self._byte_count -= packet.size
