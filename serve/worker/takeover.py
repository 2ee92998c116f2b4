"""Takeover: ends the streams of a partition whose open part cannot be read again, before a worker continues it."""

import logging
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

READ_BACK_SECONDS = 900.0  # before the last checkpoints: a stream's open segments were published no earlier


class Takeover:
    """Compares checkpoints with the chunks that Kafka holds. Used by the worker's thread only."""

    def __init__(self, settings: Settings, reader: PartitionReader, producer: Producer, effects: Effects) -> None:
        self._settings, self._reader, self._producer, self._effects = settings, reader, producer, effects
        self._topic = Topics(settings.kafka.topic_prefix).segments

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

    def _read_published(self, collection: str, stream_id: str, since_seconds: float) -> Iterator[SegmentRecord]:
        """Read back the segments of a video that were published since a time, in seconds since 1970."""
        partition = self._producer.partition_of(self._topic, video_key(collection, stream_id))
        prefix = segment_key(collection, f"{stream_id}/")
        for record in self._reader.read_to_end(self._topic, partition, since_seconds=since_seconds):
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
