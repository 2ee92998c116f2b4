"""PendingTombstones and DeletionPublisher: how a server's deletions of live videos reach Kafka."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from ingest.config import KafkaConfig
from ingest.errors import BrokerUnavailable
from ingest.kafka import Delivery, PartitionId, Producer, Topics
from serve.codec.records import deletion_bytes, segment_key, video_key
from serve.live.live_rows import LiveRows, SegmentKey

logger = logging.getLogger(__name__)

# Tombstones that wait at a time: bounds memory. More are left out: the next server that reads the whole topic finds the
# deleted segments again.
MAX_TOMBSTONES = 100_000
FLUSH_SECONDS = 5.0  # for tombstones on their way when the server stops


def has_read_to(ends: Mapping[PartitionId, int], positions: Mapping[PartitionId, int]) -> bool:
    """Return whether the positions have reached the end offsets in every partition."""
    return all(positions.get(partition_id, 0) >= end for partition_id, end in ends.items())


class PendingTombstones:
    """Segments that were removed here and still stand in Kafka, until it is safe to send their tombstones.

    A tombstone removes every earlier record of its key, also one that is not dead: a file that was deleted and indexed
    again has segments of the same ids. So each tombstone waits until everything was read that Kafka held when the
    removal was noted. It is not sent if a record of its key appeared by then.
    """

    def __init__(
        self,
        send: Callable[[SegmentKey], None],
        take_undelivered: Callable[[], Iterable[SegmentKey]] = tuple,
        *,
        max_count: int = MAX_TOMBSTONES,
    ) -> None:
        """Begin without tombstones.

        Args:
            send: Begins to send a tombstone. If it raises, that tombstone and the rest stay here.
            take_undelivered: Returns the tombstones that were sent and lost, each once.
            max_count: Further tombstones are left out.
        """
        self._send, self._take_undelivered, self._max_count = send, take_undelivered, max_count
        self._lock = threading.Lock()
        self._new: dict[bytes, SegmentKey] = {}  # by the key of their records
        self._waiting: dict[bytes, SegmentKey] = {}
        self._goal: Mapping[PartitionId, int] = {}  # offsets to read up to before _waiting is sent

    def __len__(self) -> int:
        return len(self._new) + len(self._waiting)

    def add(self, segments: Iterable[SegmentKey]) -> None:
        """Note segments that were removed here."""
        with self._lock:
            for segment in segments:
                if len(self) < self._max_count:
                    self._new[segment_key(segment.collection, segment.segment_id)] = segment

    def cancel(self, keys: Iterable[bytes]) -> None:
        """Drop the tombstones of keys of which Kafka has a later record: another tombstone, or a new segment."""
        with self._lock:
            for key in keys:
                self._new.pop(key, None)
                self._waiting.pop(key, None)

    def send_due(self, positions: Mapping[PartitionId, int], ends: Mapping[PartitionId, int]) -> int:
        """Send the tombstones that have waited long enough; return their count.

        Args:
            positions: The offsets up to which every record was read and its key passed to cancel().
            ends: The end offsets of now.
        """
        self.add(self._take_undelivered())
        sent_count = 0
        with self._lock:
            for _ in range(2):  # the waiting ones; then the new ones too, if nothing is left to read
                if not has_read_to(self._goal, positions):
                    break
                for key in list(self._waiting):
                    self._send(self._waiting[key])
                    del self._waiting[key]
                    sent_count += 1
                self._waiting, self._new, self._goal = self._new, {}, ends
        return sent_count


class DeletionPublisher:
    """Sends deletions and tombstones to Kafka. May be used from any thread; connects at the first use."""

    def __init__(self, config: KafkaConfig) -> None:
        self._config, self._topics = config, Topics(config.topic_prefix)
        self._lock = threading.Lock()
        self._producer: Producer | None = None
        self._sent: list[tuple[SegmentKey, Delivery]] = []

    def delete(self, rows: LiveRows, collection: str, video_id: str, seconds: float) -> None:
        """Delete a live video: first in Kafka, so every server learns of it, then here, then its segments in Kafka.

        Raises:
            BrokerUnavailable: If Kafka does not acknowledge the deletion within this many seconds. Then nothing is
                changed, unless only Kafka's answer was lost: in that case the deletion arrives through its topic, as on
                other servers.
        """
        at = self.publish_deletion(collection, video_id, seconds)
        for segment_id in rows.delete(collection, video_id, at):
            # At once: every earlier record of these keys belongs to the deleted video.
            self.send_tombstone(SegmentKey(collection, video_id, segment_id))

    def publish_deletion(self, collection: str, video_id: str, seconds: float) -> float:
        """Publish that a video is deleted; return when the broker appended the record, in seconds since 1970.

        Raises:
            BrokerUnavailable: If the broker did not append it in time.
        """
        end = time.monotonic() + seconds
        producer = self._connected_producer(seconds)
        key = video_key(collection, video_id)
        delivery = producer.send(self._topics.deletions, key, deletion_bytes(collection, video_id))
        delivery.wait(max(0.0, end - time.monotonic()))
        at = delivery.append_seconds
        if at is None:
            self._drop(producer)  # so that the deletion is not delivered later, when nobody expects it
            raise delivery.error or BrokerUnavailable(
                self._config.servers, f"the deletion of {video_id} was not taken within {seconds:.1f} s"
            )
        return at

    def send_tombstone(self, segment: SegmentKey) -> None:
        """Begin to send a tombstone.

        Raises:
            BrokerUnavailable: If there is no broker.
        """
        producer = self._connected_producer(self._config.bootstrap_timeout_seconds)
        topic = self._topics.segments
        partition = producer.partition_of(topic, video_key(segment.collection, segment.video_id))
        delivery = producer.send(topic, segment_key(segment.collection, segment.segment_id), None, partition=partition)
        with self._lock:
            self._sent.append((segment, delivery))

    def take_undelivered(self) -> list[SegmentKey]:
        """Return the segments whose tombstones were lost since the last call."""
        with self._lock:
            sent, self._sent = self._sent, []
            self._sent = [(segment, delivery) for segment, delivery in sent if not delivery.is_done]
        return [segment for segment, delivery in sent if delivery.is_done and delivery.error is not None]

    def close(self) -> None:
        """Flush records on their way, for a few seconds at most, and disconnect."""
        with self._lock:
            producer, self._producer = self._producer, None
        if producer is not None:
            producer.close(FLUSH_SECONDS)

    def _connected_producer(self, seconds: float) -> Producer:
        with self._lock:
            if self._producer is None:
                self._producer = Producer(replace(self._config, bootstrap_timeout_seconds=seconds))
            return self._producer

    def _drop(self, producer: Producer) -> None:
        with self._lock:
            if self._producer is producer:
                self._producer = None
        producer.close(0)
