"""PendingTombstones: when a server's tombstones are safe to send, and what follows if one is late."""

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from ingest.kafka import Delivery, PartitionId, Record
from serve.codec.records import segment_key
from serve.live.live_rows import SegmentKey

# Tombstones that wait at a time: bounds memory. More are left out: the next server that reads the whole topic finds the
# deleted segments again.
MAX_TOMBSTONES = 100_000


def has_read_to(ends: Mapping[PartitionId, int], positions: Mapping[PartitionId, int]) -> bool:
    """Return whether the positions have reached the end offsets in every partition."""
    return all(positions.get(partition_id, 0) >= end for partition_id, end in ends.items())


@dataclass(slots=True, eq=False)
class _Sent:
    """A record that was sent, until the reader has passed it."""

    segment: SegmentKey
    value: bytes | None  # None: a tombstone
    delivery: Delivery
    # Records of the same key that were read since. A segment that is dead counts as a tombstone: its value is None.
    seen: list[tuple[int, bytes | None]] = field(default_factory=list)  # offset, value

    def hidden_value(self, offset: int) -> bytes | None:
        """Return the live record that this one, at `offset`, took the place of unknowingly; None if there is none."""
        if any(value is not None for at, value in self.seen if at > offset):
            return None  # a later record counts
        value = next((value for at, value in reversed(self.seen) if at < offset), None)
        return None if value == self.value else value


class PendingTombstones:
    """Segments that were removed here and still stand in Kafka, until their tombstones are sent and read back.

    A tombstone removes every earlier record of its key, also one that is not dead: a file that was deleted and indexed
    again has segments of the same ids. Two rules protect such a record:
    1. A tombstone waits until everything was read that Kafka held when the removal was noted. It is not sent if a
       record of its key appeared by then.
    2. A live record can still come between the last read and the tombstone. So each tombstone is read back. If the
       reader meets a live record right before it, that record is sent again.
    """

    def __init__(
        self, send: Callable[[SegmentKey, bytes | None], Delivery], *, max_count: int = MAX_TOMBSTONES
    ) -> None:
        """Begin without tombstones.

        Args:
            send: Begins to send a segment's record; None is a tombstone. If it raises, that record and the rest stay.
            max_count: Further tombstones are left out.
        """
        self._send, self._max_count = send, max_count
        self._lock = threading.Lock()
        self._new: dict[bytes, SegmentKey] = {}  # by the key of their records
        self._waiting: dict[bytes, SegmentKey] = {}
        self._goal: Mapping[PartitionId, int] = {}  # offsets to read up to before _waiting is sent
        self._sent: dict[bytes, _Sent] = {}

    def __len__(self) -> int:
        return len(self._new) + len(self._waiting) + len(self._sent)

    def clear(self) -> None:
        """Forget all of them: the topic was made anew, and holds none of these segments."""
        with self._lock:
            self._new, self._waiting, self._goal, self._sent = {}, {}, {}, {}

    def add(self, segments: Iterable[SegmentKey]) -> None:
        """Note segments that were removed here."""
        with self._lock:
            for segment in segments:
                if len(self) < self._max_count:
                    self._new[segment_key(segment.collection, segment.segment_id)] = segment

    def note_read(self, key: bytes, record: Record, *, is_live: bool) -> None:
        """Drop the tombstone of a key of which Kafka has a later record: another tombstone, or a new segment.

        Args:
            is_live: Whether the record is a segment that is not dead.
        """
        with self._lock:
            self._new.pop(key, None)
            self._waiting.pop(key, None)
            if key in self._sent:
                self._sent[key].seen.append((record.offset, record.value if is_live else None))

    def send_due(self, positions: Mapping[PartitionId, int], ends: Mapping[PartitionId, int]) -> int:
        """Send the tombstones that have waited long enough; return their count.

        Args:
            positions: The offsets up to which every record was read and passed to note_read().
            ends: The end offsets of now.
        """
        sent_count = 0
        with self._lock:
            self._settle_sent(positions)
            for _ in range(2):  # the waiting ones; then the new ones too, if nothing is left to read
                if not has_read_to(self._goal, positions):
                    break
                for key in [key for key in self._waiting if key not in self._sent]:
                    self._begin(key, self._waiting[key], None)
                    del self._waiting[key]
                    sent_count += 1
                if not self._waiting:
                    self._waiting, self._new, self._goal = self._new, {}, ends
        return sent_count

    def _begin(self, key: bytes, segment: SegmentKey, value: bytes | None) -> None:
        self._sent[key] = _Sent(segment, value, self._send(segment, value))

    def _settle_sent(self, positions: Mapping[PartitionId, int]) -> None:
        """Forget sent records that reading has returned. Send lost ones again, and live ones that tombstones hide."""
        for key, sent in list(self._sent.items()):
            place = sent.delivery.place
            if not sent.delivery.is_done or (place is not None and positions.get(place[0], 0) <= place[1]):
                continue
            if place is not None:
                hidden = sent.hidden_value(place[1])
                if hidden is not None:
                    self._begin(key, sent.segment, hidden)
                else:
                    del self._sent[key]
            elif any(value is not None for _, value in sent.seen):
                del self._sent[key]  # the lost tombstone is not wanted any more; a lost segment has a later record
            elif sent.value is None:
                del self._sent[key]
                self._new[key] = sent.segment
            else:
                self._begin(key, sent.segment, sent.value)
