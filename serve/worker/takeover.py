"""Takeover: how a worker takes over streams whose topics changed.

A stream whose open part cannot be read again is ended before its partition is continued. A stream whose key leads to
another partition since partitions were added stays where it began: its records are passed on.
"""

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence

from ingest.errors import BrokerUnavailable
from ingest.kafka import Delivery, PartitionReader, Producer, Topics
from kinodex.v1 import stream_pb2
from serve.codec.records import SegmentRecord, read_segment, segment_key, video_key
from serve.settings import Settings
from serve.worker.effects import Effects
from serve.worker.lost_chunks import ChunkLog, end_stream, find_lost, is_foreign, without_offsets
from serve.worker.outbox import Outbox, is_acknowledged

logger = logging.getLogger(__name__)

HOMES_SECONDS = 5.0  # between two readings of all checkpoints while publishers may not have noticed new partitions
GROWTH_SECONDS = 600.0  # by then every publisher has noticed them: Kafka's own clients need up to 300 s
READ_BACK_SECONDS = 900.0  # before the last checkpoints: a stream's open segments were published no earlier


class Takeover:
    """Compares checkpoints with the chunks that Kafka holds. Used by the worker's thread only."""

    def __init__(self, settings: Settings, reader: PartitionReader, producer: Producer, effects: Effects) -> None:
        self._settings, self._reader, self._producer, self._effects = settings, reader, producer, effects
        self._topics = Topics(settings.kafka.topic_prefix)
        self._homes: dict[bytes, set[int]] = {}  # key of a stream's checkpoint -> partitions that have one
        self._partition_count = 0  # of the topic of chunks when _homes was read
        self._grown_at = self._homes_at = -math.inf  # when another count was noticed, and when _homes was read

    def end_lost(
        self, number: int, checkpoints: Mapping[bytes, stream_pb2.Checkpoint], seconds: float, log: ChunkLog
    ) -> dict[bytes, stream_pb2.Checkpoint]:
        """Return the checkpoints of a partition of chunks, and end its streams that cannot be continued.

        A crash within it does no harm: the next takeover finds what was published.

        Args:
            number: Of the partition.
            checkpoints: The furthest of each stream, by key.
            seconds: Append time of the newest of them, since 1970.
        Raises:
            BrokerUnavailable: If the broker does not answer, or does not take what is sent, in time.
        """
        kept = {key: without_offsets(one, log) if is_foreign(one, log) else one for key, one in checkpoints.items()}
        lost = find_lost(checkpoints, log)
        since_seconds = max(0.0, seconds - self._settings.worker.idle_seconds - READ_BACK_SECONDS)
        outbox = Outbox(self._effects)
        for key in lost:
            checkpoint = checkpoints[key]
            published = self._read_published(checkpoint.collection, checkpoint.stream_id, since_seconds)
            records, kept[key] = end_stream(checkpoint, published, log)
            outbox.publish(records)
            logger.warning(
                "stream ended: its chunks are not in Kafka any more stream=%s/%s partition=%d segments=%d",
                checkpoint.collection, checkpoint.stream_id, number, len(records),
            )  # fmt: skip
        self._deliver(outbox.unacknowledged())
        self._deliver(
            [
                self._effects.send_checkpoint(number, key, kept[key].SerializeToString(deterministic=True))
                for key in lost
            ]
        )
        return kept

    def find_home(self, number: int, key: bytes) -> int | None:
        """Return the partition of chunks in which a stream began before partitions were added.

        Args:
            number: The partition that has a record of the stream and no checkpoint.
            key: Of the record.
        Returns:
            The partition whose checkpoints name the stream; None: it begins in `number`.
        Raises:
            BrokerUnavailable: If the broker does not answer in time.
        """
        now, count = time.monotonic(), self._producer.partition_count(self._topics.chunks)
        if count != self._partition_count:
            self._partition_count, self._grown_at, self._homes_at = count, now, -math.inf
        is_fresh = now - self._homes_at < HOMES_SECONDS or self._homes_at - self._grown_at > GROWTH_SECONDS
        if not is_fresh:
            self._homes_at, self._homes = now, {}
            for partition in self._reader.partitions_of(self._topics.checkpoints):
                for record in self._reader.read_to_end(self._topics.checkpoints, partition):
                    if record.value:
                        self._homes.setdefault(record.key, set()).add(partition)
        others = self._homes.get(b"/".join((self._topics.chunks.encode(), key)), set()) - {number}
        return min(others, default=None)

    def _read_published(self, collection: str, stream_id: str, since_seconds: float) -> Iterator[SegmentRecord]:
        """Read back the segments of a video that were published since a time, in seconds since 1970."""
        partition = self._producer.partition_of(self._topics.segments, video_key(collection, stream_id))
        prefix = segment_key(collection, f"{stream_id}/")
        for record in self._reader.read_to_end(self._topics.segments, partition, since_seconds=since_seconds):
            if record.value and record.key.startswith(prefix) and not record.unreadable:
                yield read_segment(record.value)

    def _deliver(self, deliveries: Sequence[Delivery]) -> None:
        """Wait until the broker has some records.

        Raises:
            BrokerUnavailable: If it does not take one, or not in time.
        """
        deadline = time.monotonic() + self._settings.kafka.bootstrap_timeout_seconds
        for delivery in deliveries:
            delivery.wait(max(0.0, deadline - time.monotonic()))
            if not is_acknowledged(delivery):
                raise BrokerUnavailable(self._settings.kafka.servers, "records were not taken in time")
