"""Finds time zero of a file: the earlier of its first picture and its first sound, whichever is stored first."""

from av.audio.stream import AudioStream
from av.video.stream import VideoStream

from ingest.media.jumps import DatedPacket
from ingest.media.timeline import Epoch

# The first picture waits this long for the first sound, and the first sound for the first picture. Containers store
# what is shown at the same time within a second or two.
MAX_START_SECONDS = 10
MAX_HELD_BYTES = 64 << 20  # packets of pictures that wait so: four seconds of 128 Mbit/s, which few cameras exceed


class FileStart:
    """Holds packets of pictures, undecoded, until media time is known."""

    def __init__(self, video: VideoStream | None, audio: AudioStream | None) -> None:
        self._video, self._audio = video, audio
        self._held: list[tuple[DatedPacket, Epoch]] = []
        self._held_bytes = 0

    def hold(self, timed: DatedPacket, epoch: Epoch, *, has_pts: bool) -> bool:
        """Keep a packet of pictures if it must wait; say whether it is kept. `has_pts`: whether its pts is right."""
        packet = timed.packet
        if epoch.first_packet is None and has_pts and not packet.is_discard:
            epoch.first_packet = timed.pts
        if epoch.clock == "source" or epoch.origin is not None or not (self._held or epoch.first_picture is not None):
            return False
        self._held.append((timed, epoch))
        self._held_bytes += packet.size
        return True

    def settle(self, epoch: Epoch) -> None:
        """Fix media time if the first picture and the first sound are known, or the one comes after the other."""
        if epoch.clock == "media" and epoch.origin is None and self._is_known(epoch):
            epoch.settle()

    def release(self, *, is_last: bool = False) -> list[tuple[DatedPacket, Epoch]]:
        """Return the packets that need not wait any more: all of them at the end of the file."""
        if not self._held or (self._held[0][1].origin is None and not is_last):
            return []
        self._held[0][1].settle()
        held, self._held, self._held_bytes = self._held, [], 0
        return held

    def _is_known(self, epoch: Epoch) -> bool:
        missing: VideoStream | AudioStream | None = self._video
        first = epoch.first_sound
        if epoch.first_picture is not None:
            if epoch.first_sound is not None:
                return True
            missing, first = self._audio, epoch.first_picture
        if first is None:
            return False
        if missing is None or epoch.end - first > MAX_START_SECONDS or self._held_bytes > MAX_HELD_BYTES:
            return True
        base, declared = missing.time_base, missing.start_time
        return declared is not None and base is not None and declared * base >= first
