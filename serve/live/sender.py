"""RecordSender: what a server, or `kinodex delete`, sends to Kafka about live videos."""

import logging
import threading
import time
from dataclasses import replace

from ingest.config import KafkaConfig
from ingest.errors import BrokerUnavailable
from ingest.kafka import Delivery, Producer, Topics
from serve.codec.records import deletion_bytes, segment_key, video_key
from serve.live.broker_clock import PROBE_KEY
from serve.live.live_rows import LiveRows, SegmentKey

logger = logging.getLogger(__name__)

RESET_SECONDS = 2.0  # for the record that lets sessions begin anew; the deletion stands without it
FLUSH_SECONDS = 5.0  # for records on their way when the server stops


class RecordSender:
    """Sends deletions, tombstones, dead letters and probes of the clock, from any thread. Connects at the first use."""

    def __init__(self, config: KafkaConfig) -> None:
        self._config, self._topics = config, Topics(config.topic_prefix)
        self._lock = threading.Lock()
        self._producer: Producer | None = None

    def delete(self, rows: LiveRows, collection: str, video_id: str, seconds: float) -> list[SegmentKey]:
        """Delete a live video: first in Kafka, so every server learns of it, then here.

        Returns:
            Its segments, of which Kafka needs tombstones.
        Raises:
            BrokerUnavailable: If Kafka does not acknowledge the deletion within this many seconds. Then nothing is
                changed, unless only Kafka's answer was lost: in that case the deletion arrives through its topic, as on
                other servers.
        """
        at = self.publish_deletion(collection, video_id, seconds)
        self._reset_sessions(collection, video_id)
        return [SegmentKey(collection, video_id, segment_id) for segment_id in rows.delete(collection, video_id, at)]

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

    def _reset_sessions(self, collection: str, stream_id: str) -> None:
        """Let a deleted stream's sessions begin anew: its publisher may have had a clock ahead."""
        producer = self._connected_producer(self._config.bootstrap_timeout_seconds)
        delivery = producer.send(self._topics.chunks, video_key(collection, stream_id), None)
        if not delivery.wait(RESET_SECONDS) or delivery.error is not None:
            reason = delivery.error or "no answer in time"
            logger.warning("sessions not reset stream=%s/%s reason=%s", collection, stream_id, reason)

    def send_segment(self, segment: SegmentKey, value: bytes | None) -> Delivery:
        """Begin to send the record of a segment; None is a tombstone.

        Raises:
            BrokerUnavailable: If there is no broker.
        """
        producer = self._connected_producer(self._config.bootstrap_timeout_seconds)
        topic = self._topics.segments
        partition = producer.partition_of(topic, video_key(segment.collection, segment.video_id))
        return producer.send(topic, segment_key(segment.collection, segment.segment_id), value, partition=partition)

    def send_dead_letter(self, key: bytes, value: bytes) -> None:
        """Begin to send a dead letter. Nothing waits for it: a server that reads the topic anew sends it again.

        Raises:
            BrokerUnavailable: If there is no broker.
        """
        producer = self._connected_producer(self._config.bootstrap_timeout_seconds)
        producer.send(self._topics.deadletter, key, value)

    def send_probe(self) -> Delivery:
        """Begin to send a record without meaning, whose append time is the broker's time of now.

        Raises:
            BrokerUnavailable: If there is no broker.
        """
        producer = self._connected_producer(self._config.bootstrap_timeout_seconds)
        return producer.send(self._topics.settings, PROBE_KEY, None)

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
