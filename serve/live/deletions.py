"""What Kafka is told to forget: videos that were deleted, and the segments of what is gone here."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from ingest.config import KafkaConfig
from ingest.errors import BrokerUnavailable
from ingest.kafka import Delivery, PartitionId, Producer, Topics
from serve.codec.records import deletion_bytes, segment_key, video_key
from serve.live.rows import LiveRows, SegmentKey

logger = logging.getLogger(__name__)

MOST_WAITING = (
    100_000  # beyond, they are left out: the next one who reads all of the topic finds the deleted ones again
)

FLUSH_SECONDS = 5.0  # for tombstones that are under way when all ends


def reaches(positions: Mapping[PartitionId, int], ends: Mapping[PartitionId, int]) -> bool:
    """Whether everything before these ends was read."""
    return all(positions.get(place, 0) >= end for place, end in ends.items())


class Tombstones:
    """Segments that are gone here and are still in Kafka.

    A tombstone ends whatever came under its key before it, also what is not dead: the segments of a file that was
    deleted and indexed anew have the ids they had. So each waits until all has been read that was in Kafka after it was
    known, and is not sent if its key was met again until then.
    """

    def __init__(
        self, send: Callable[[SegmentKey], None], undelivered: Callable[[], Iterable[SegmentKey]] = tuple
    ) -> None:
        """Take what sends one without waiting for it, and what tells of those that did not arrive.

        Whatever `send` raises, those that it has not taken stay.
        """
        self._send, self._undelivered = send, undelivered
        self._turn = threading.Lock()
        self._new: dict[bytes, SegmentKey] = {}  # by the key of their records
        self._waiting: dict[bytes, SegmentKey] = {}
        self._goal: Mapping[PartitionId, int] = {}  # what must be read before _waiting is sent

    def __len__(self) -> int:
        return len(self._new) + len(self._waiting)

    def add(self, found: Iterable[SegmentKey]) -> None:
        """Note segments that are gone here."""
        with self._turn:
            for segment in found:
                if len(self) < MOST_WAITING:
                    self._new[segment_key(segment.collection, segment.segment_id)] = segment

    def met(self, keys: Iterable[bytes]) -> None:
        """Note that Kafka has a later record of these: another tombstone, or what is new."""
        with self._turn:
            for key in keys:
                self._new.pop(key, None)
                self._waiting.pop(key, None)

    def pass_on(self, positions: Mapping[PartitionId, int], ends: Mapping[PartitionId, int]) -> int:
        """Send those that have waited long enough; return how many.

        Args:
            positions: Up to where everything was read, and its keys were given to met().
            ends: What is there now.
        """
        self.add(self._undelivered())
        sent_count = 0
        with self._turn:
            for _ in range(2):  # those that wait already; then the new ones, if nothing is left to be read
                if not reaches(positions, self._goal):
                    break
                for key in list(self._waiting):
                    self._send(self._waiting[key])
                    del self._waiting[key]
                    sent_count += 1
                self._waiting, self._new, self._goal = self._new, {}, ends
        return sent_count


class Forgetter:
    """Writes deletions and tombstones. May be used from any thread; connects when it is first needed."""

    def __init__(self, config: KafkaConfig) -> None:
        self._config, self._topics = config, Topics(config.topic_prefix)
        self._turn = threading.Lock()
        self._producer: Producer | None = None
        self._sent: list[tuple[SegmentKey, Delivery]] = []

    def delete(self, rows: LiveRows, collection: str, video_id: str, seconds: float) -> None:
        """Delete a live video: in Kafka, so that every server hears of it, then here, then its segments in Kafka.

        Raises:
            BrokerUnavailable: If Kafka does not take the deletion in so many seconds. Nothing is changed then, unless
                all that was lost is Kafka's answer: then the deletion comes back by its topic, as to other servers.
        """
        at = self.publish_deletion(collection, video_id, seconds)
        for segment_id in rows.delete(collection, video_id, at):
            # At once: what came under these keys before is made of what the deletion is about.
            self.send_tombstone(SegmentKey(collection, video_id, segment_id))

    def publish_deletion(self, collection: str, video_id: str, seconds: float) -> float:
        """Say that a video is deleted; return when the broker appended that, in seconds since 1970.

        Raises:
            BrokerUnavailable: If it did not in time.
        """
        end = time.monotonic() + seconds
        producer = self._connected(seconds)
        key = video_key(collection, video_id)
        delivery = producer.send(self._topics.deletions, key, deletion_bytes(collection, video_id))
        delivery.wait(max(0.0, end - time.monotonic()))
        at = delivery.append_seconds
        if at is None:
            self._drop(producer)  # so that it is not delivered later, when nobody expects it any more
            raise delivery.error or BrokerUnavailable(
                self._config.servers, f"the deletion of {video_id} was not taken within {seconds:.1f} s"
            )
        return at

    def send_tombstone(self, segment: SegmentKey) -> None:
        """Begin to send a tombstone.

        Raises:
            BrokerUnavailable: If there is no broker.
        """
        producer = self._connected(self._config.bootstrap_timeout_seconds)
        topic = self._topics.segments
        partition = producer.partition_of(topic, video_key(segment.collection, segment.video_id))
        delivery = producer.send(topic, segment_key(segment.collection, segment.segment_id), None, partition=partition)
        with self._turn:
            self._sent.append((segment, delivery))

    def undelivered(self) -> list[SegmentKey]:
        """Return the segments whose tombstones were lost since this was last asked."""
        with self._turn:
            sent, self._sent = self._sent, []
            self._sent = [(segment, delivery) for segment, delivery in sent if not delivery.is_done]
        return [segment for segment, delivery in sent if delivery.is_done and delivery.error is not None]

    def close(self) -> None:
        """Send what is under way, as far as that is quick, and end."""
        with self._turn:
            producer, self._producer = self._producer, None
        if producer is not None:
            producer.close(FLUSH_SECONDS)

    def _connected(self, seconds: float) -> Producer:
        with self._turn:
            if self._producer is None:
                self._producer = Producer(replace(self._config, bootstrap_timeout_seconds=seconds))
            return self._producer

    def _drop(self, producer: Producer) -> None:
        with self._turn:
            if self._producer is producer:
                self._producer = None
        producer.close(0)
